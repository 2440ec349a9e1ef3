//! Who a data directory belongs to: the node id in `.node` (spec pump 4.2) and the random identity in `.uuid` that every header
//! of the value log and the registry entry carry (design 3.5).

use crate::dir::{DirError, replace_file};
use binlog_core::ids::NodeId;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The file `.node`.
#[derive(Debug)]
pub struct NodeFile;

impl NodeFile {
    /// The id under which this directory registers: what `.node` says, else `configured`, else `fallback` (host name and
    /// port); the latter two are then written to `.node`, so that a later change of the configuration cannot change the
    /// identity. A configured id that contradicts the file is an error.
    pub fn resolve(data_dir: &Path, configured: Option<&str>, fallback: &str) -> Result<NodeId, DirError> {
        let path = data_dir.join(".node");
        let bad = |what: String| DirError::Bad { path: path.clone(), what };
        let stored = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(DirError::io("cannot read node id from", &path)(error)),
        };
        if let Some(stored) = stored {
            let id = NodeId::parse(&stored).map_err(|what| bad(format!("{what}; correct or delete this file")))?;
            if let Some(configured) = configured.filter(|configured| configured.trim() != stored) {
                return Err(bad(format!(
                    "this directory belongs to node {stored:?} but node-id is {configured:?}: set node-id to {stored:?}, or \
                     delete this file to change the identity"
                )));
            }
            return Ok(id);
        }
        let id = NodeId::parse(configured.unwrap_or(fallback).trim()).map_err(bad)?;
        replace_file(&path, id.as_str().as_bytes())?;
        Ok(id)
    }
}

/// Random identity of a data directory, made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirIdentity {
    pub uuid: [u8; 16],
}

impl DirIdentity {
    /// Reads `.uuid`, or makes it.
    pub fn load(data_dir: &Path) -> Result<Self, DirError> {
        let path = data_dir.join(".uuid");
        match fs::read_to_string(&path) {
            Ok(text) => parse(text.trim()).ok_or_else(|| DirError::Bad {
                path,
                what: "does not hold 32 hexadecimal digits; restore it from a copy of this directory".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A new identity beside an old log would declare everything in it void.
                if data_dir.join("log").exists() {
                    let what =
                        "is missing, but there is a value log beside it; restore it from a copy of this directory";
                    return Err(DirError::Bad { path, what: what.to_owned() });
                }
                let uuid = random().map_err(DirError::io("cannot read", Path::new(RANDOM)))?;
                let identity = Self { uuid };
                replace_file(&path, format!("{}\n", identity.token()).as_bytes())?;
                Ok(identity)
            }
            Err(error) => Err(DirError::io("cannot read", &path)(error)),
        }
    }

    /// The text that the registry entry carries.
    #[must_use]
    pub fn token(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn parse(text: &str) -> Option<DirIdentity> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(DirIdentity { uuid: u128::from_str_radix(text, 16).ok()?.to_be_bytes() })
}

/// Sixteen random bytes, also good as a seed of the log's salts.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    fs::File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

const RANDOM: &str = "/dev/urandom";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_file_table() {
        // stored, configured, result or part of the error, stored afterwards
        for (stored, configured, expected, after) in [
            (None, None, Ok("host:8250"), "host:8250"),
            (None, Some("p1"), Ok("p1"), "p1"),
            (Some(" old \n"), None, Ok("old"), " old \n"),
            (Some("old"), Some("old"), Ok("old"), "old"),
            (Some("old"), Some("new"), Err("belongs to node \"old\" but node-id is \"new\""), "old"),
            (Some("  \n"), Some("p1"), Err("node id is empty"), "  \n"),
            (Some("a/b"), None, Err("not allowed"), "a/b"),
            (None, Some("a b"), Err("not allowed"), ""),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(".node");
            if let Some(stored) = stored {
                fs::write(&path, stored).unwrap();
            }
            let got = NodeFile::resolve(dir.path(), configured, "host:8250");
            match (got, expected) {
                (Ok(id), Ok(expected)) => assert_eq!(id.as_str(), expected),
                (Err(error), Err(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part) && text.contains(".node"), "{text}");
                }
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
            assert_eq!(fs::read_to_string(&path).unwrap_or_default(), after);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".node")).unwrap();
        assert!(NodeFile::resolve(dir.path(), Some("x"), "h").is_err());
    }

    #[test]
    fn identity_is_made_once() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = DirIdentity::load(one.path()).unwrap();
        assert_eq!(DirIdentity::load(one.path()).unwrap(), first);
        assert_ne!(DirIdentity::load(two.path()).unwrap(), first);
        assert_eq!(parse(&first.token()), Some(first));
        fs::write(one.path().join(".uuid"), "+123").unwrap();
        assert!(DirIdentity::load(one.path()).unwrap_err().to_string().contains(".uuid"));
        // A lost identity beside a log is no new directory: a fresh one would make the log void.
        fs::remove_file(one.path().join(".uuid")).unwrap();
        fs::create_dir(one.path().join("log")).unwrap();
        assert!(DirIdentity::load(one.path()).unwrap_err().to_string().contains("value log beside it"));
    }
}
