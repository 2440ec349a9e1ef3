//! What a data directory holds of the original (spec pump 3.1, 3.3): its value logs by number and length, and the three pointers of
//! its index. Nothing in `value/` and `kv/` is written to. Called once by the Pump's main, before the machine starts.

use crate::dir::DirError;
use crate::leveldb;
use crate::log_files::{ORIGINALS, original_name};
use binlog_core::ids::CommitTs;
use binlog_core::pump::original::{Original, OriginalIndex};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Looks for the original's directories; `None`: there is no value log of its own.
pub fn find(data_dir: &Path) -> Result<Option<Original>, DirError> {
    let files = files(&data_dir.join(ORIGINALS))?;
    if files.is_empty() {
        return Ok(None);
    }
    Ok(Some(Original { files, index: index(&data_dir.join("kv")) }))
}

fn files(dir: &Path) -> Result<Vec<(u32, u64)>, DirError> {
    let bad = |error| DirError::io("cannot read the original's value logs in", dir)(error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(bad)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(bad)?;
        let file = entry.file_name();
        let number = file.to_str().and_then(|text| text.strip_suffix(".vlog")).and_then(|text| text.parse().ok());
        // Only names as the original gives them: a copy beside them is not a log.
        if let Some(number) = number.filter(|number| file.to_str() == Some(&original_name(*number))) {
            files.push((number, fs::metadata(entry.path()).map_err(bad)?.len()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn index(dir: &Path) -> Result<OriginalIndex, String> {
    let keys: [&[u8]; 3] = [b"!binlog!gcts", b"!binlog!maxCommitTS", b"!binlog!handlePointer"];
    let values = leveldb::get(dir, &keys)?;
    let [gc, max_commit, handle] = values.as_slice() else { return Err("not every key was answered".to_owned()) };
    let ts = |what: &str, raw: &Option<Vec<u8>>| match raw {
        None => Ok(CommitTs::ZERO),
        Some(raw) => <[u8; 8]>::try_from(raw.as_slice())
            .map(|raw| CommitTs::new(u64::from_le_bytes(raw)))
            .map_err(|_| format!("{what} has {} bytes instead of 8", raw.len())),
    };
    let handle = match handle {
        None => (0, 0),
        Some(raw) => pointer(raw).ok_or_else(|| format!("handlePointer is no pointer: {} bytes", raw.len()))?,
    };
    Ok(OriginalIndex { gc: ts("gcts", gc)?, max_commit: ts("maxCommitTS", max_commit)?, handle })
}

/// File id (u32), offset (i64), little-endian.
fn pointer(raw: &[u8]) -> Option<(u32, u64)> {
    let (file, offset) = raw.split_first_chunk::<4>()?;
    let offset = i64::from_le_bytes(offset.try_into().ok()?);
    Some((u32::from_le_bytes(*file), u64::try_from(offset).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_originals_own_names_count() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(find(root.path()).unwrap(), None);
        let value = root.path().join("value");
        fs::create_dir(&value).unwrap();
        assert_eq!(find(root.path()).unwrap(), None);
        for (name, len) in [
            ("000002.vlog", 5),
            ("000000.vlog", 3),
            ("1000000.vlog", 1),
            ("1.vlog", 9),
            ("000003.vlog.gz", 9),
            ("x.vlog", 9),
        ] {
            fs::write(value.join(name), vec![0; len]).unwrap();
        }
        let found = find(root.path()).unwrap().unwrap();
        assert_eq!(found.files, [(0, 3), (2, 5), (1_000_000, 1)]);
        let why = found.index.unwrap_err();
        assert!(why.contains("CURRENT"), "{why}");
    }

    #[test]
    fn pointers() {
        let raw = [&2_u32.to_le_bytes()[..], &77_i64.to_le_bytes()].concat();
        assert_eq!(pointer(&raw), Some((2, 77)));
        assert_eq!(pointer(&raw[1..]), None);
        assert_eq!(pointer(&[&raw[..], b"x"].concat()), None);
        assert_eq!(pointer(&[&[0; 4][..], &(-1_i64).to_le_bytes()].concat()), None);
    }
}
