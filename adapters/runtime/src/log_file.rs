//! The file of the log: rotation by size, and files that others move away (spec pump 6.4).
//!
//! * At [`MAX_BYTES`] the file is renamed to `<name>-<local time><extension>` beside it, as the original's is, and a new one begins. Old
//!   files are never deleted.
//! * logrotate may move the file: SIGHUP ends a Pump, so there is no signal for it. Instead the file's identity is looked at
//!   before a line, at most once a second; when the name leads elsewhere, it is opened anew.
//! * A log that cannot be rotated or opened goes on in the file that it has: logging must not stop the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The original's limit.
pub const MAX_BYTES: u64 = 300 << 20;
/// How often the name is looked up.
const LOOK: Duration = Duration::from_secs(1);
/// Names that are tried for one rotation within a millisecond.
const NAMES: u32 = 100;

/// Appends to a file; rotates it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max: u64,
    file: File,
    size: u64,
    looked: Instant,
    look: Duration,
}

impl LogFile {
    /// Creates the file and its directory where they are missing.
    ///
    /// # Errors
    /// With the file's name.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::with_limits(path, MAX_BYTES, LOOK)
    }

    fn with_limits(path: &Path, max: u64, look: Duration) -> Result<Self, String> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|e| format!("log-file: cannot create {}: {e}", parent.display()))?;
        }
        let file = append(path).map_err(|e| format!("log-file: cannot open {}: {e}", path.display()))?;
        let size = file.metadata().map_or(0, |m| m.len());
        Ok(Self { path: path.to_owned(), max, file, size, looked: Instant::now(), look })
    }

    /// Opens the name again if it leads to another file, or to none.
    fn follow(&mut self) {
        if self.looked.elapsed() < self.look {
            return;
        }
        self.looked = Instant::now();
        let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
        let own = self.file.metadata().map(identity).ok();
        if own.is_some() && std::fs::metadata(&self.path).map(identity).ok() != own {
            self.begin();
        }
    }

    fn rotate(&mut self) {
        // Should it fail, the next attempt comes with the next full file, not with each line.
        self.size = 0;
        let names = (0..NAMES).map(|attempt| rotated(&self.path, &timestamp(), attempt));
        // Two rotations within a millisecond must not overwrite one another.
        let Some(to) = names.into_iter().find(|to| !to.exists()) else { return };
        if std::fs::rename(&self.path, &to).is_ok() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        if let Ok(file) = append(&self.path) {
            self.size = file.metadata().map_or(0, |m| m.len());
            self.file = file;
        }
    }
}

impl Write for LogFile {
    /// One call is one line: it is never cut by a rotation.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.follow();
        if self.size > 0 && self.size.saturating_add(line.len() as u64) > self.max {
            self.rotate();
        }
        self.file.write_all(line)?;
        self.size = self.size.saturating_add(line.len() as u64);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn timestamp() -> String {
    chrono::Local::now().format("%Y-%m-%dT%H-%M-%S%.3f").to_string()
}

/// `pump.log` becomes `pump-2019-09-23T09-36-02.466.log`.
fn rotated(path: &Path, timestamp: &str, attempt: u32) -> PathBuf {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    let again = if attempt == 0 { String::new() } else { format!("-{attempt}") };
    path.with_file_name(format!("{}-{timestamp}{again}{extension}", text(path.file_stem())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_is_kept_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/pump.log");
        let mut log = LogFile::with_limits(&path, 20, LOOK).unwrap();
        for n in 0..7 {
            log.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        drop(log);
        // Reopened, it knows its size.
        let mut log = LogFile::with_limits(&path, 20, LOOK).unwrap();
        log.write_all(b"a line that is longer than a file\n").unwrap();
        log.write_all(b"end\n").unwrap();
        let names = names(&dir.path().join("sub"));
        assert_eq!(names.iter().filter(|n| n.starts_with("pump-2") && n.ends_with(".log")).count(), names.len() - 1);
        let mut all: Vec<String> = Vec::new();
        for name in &names {
            let text = std::fs::read_to_string(dir.path().join("sub").join(name)).unwrap();
            assert!(text.len() <= 20 || text.lines().count() == 1, "{name}: {text}");
            assert!(text.ends_with('\n'), "no line is cut: {name}: {text}");
            all.extend(text.lines().map(str::to_owned));
        }
        all.sort();
        assert_eq!(all.len(), 9, "{all:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end\n");
    }

    #[test]
    fn a_file_that_was_moved_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("pump.log"), dir.path().join("pump.log.1"));
        let mut log = LogFile::with_limits(&path, MAX_BYTES, Duration::ZERO).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        log.write_all(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn names_of_old_files() {
        let name = |path: &str, attempt| rotated(Path::new(path), "2019-09-23T09-36-02.466", attempt);
        assert_eq!(name("/l/pump.log", 0), Path::new("/l/pump-2019-09-23T09-36-02.466.log"));
        assert_eq!(name("/l/pump.a.log", 2), Path::new("/l/pump.a-2019-09-23T09-36-02.466-2.log"));
        assert_eq!(name("pump", 0), Path::new("pump-2019-09-23T09-36-02.466"));
    }
}
