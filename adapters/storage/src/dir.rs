//! The data directory (spec pump 3.1): creation with mode 0700, the lock that keeps a second process out, free space.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a data directory cannot be used; the text says what to do.
#[derive(Debug, Error)]
pub enum DirError {
    #[error("pkg/file: file already locked: {0}: another process uses this data directory")]
    Locked(PathBuf),
    #[error("{what} {path}: {error}", path = .path.display())]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{path}: {what}", path = .path.display())]
    Bad { path: PathBuf, what: String },
}

impl DirError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}

/// Creates `path` and every missing parent with mode 0700, and makes each new entry durable.
pub fn create_dir(path: &Path) -> Result<(), DirError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(DirError::io("cannot create directory", path)(error)),
    }
    sync_dir(path).map_err(DirError::io("cannot sync directory", path))?;
    sync_dir(parent).map_err(DirError::io("cannot sync directory", parent))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that holds `path`'s entry.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Replaces a small file so that a crash leaves the old or the new contents; mode 0600.
pub(crate) fn replace_file(path: &Path, contents: &[u8]) -> Result<(), DirError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut file, contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(parent_of(path))
    };
    write().map_err(DirError::io("cannot write", path))
}

/// Exclusive use of a data directory, for as long as it lives.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes `.lock` (mode 0600) in `data_dir` without waiting.
    pub fn take(data_dir: &Path) -> Result<Self, DirError> {
        let path = data_dir.join(".lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(DirError::io("cannot open", &path))?;
        // flock(2), as the original takes it: both refuse each other.
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirError::Locked(path)),
            Err(TryLockError::Error(error)) => Err(DirError::io("cannot lock", &path)(error)),
        }
    }
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for an unprivileged process: `f_bavail * f_frsize` (spec pump 3.8).
    pub available: u64,
    pub capacity: u64,
}

/// Space on the file system that holds `path`.
#[allow(unsafe_code)]
pub fn free_space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero bytes are a valid `statvfs`, a struct of integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `path` is NUL-terminated and `stat` is writable; both outlive the call.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let block = stat.f_frsize;
    Ok(Space { available: stat.f_bavail.saturating_mul(block), capacity: stat.f_blocks.saturating_mul(block) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn one_process_holds_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("a/b");
        create_dir(&data).unwrap();
        create_dir(&data).unwrap();
        assert_eq!((mode(&data), mode(&root.path().join("a"))), (0o700, 0o700));
        let lock = DirLock::take(&data).unwrap();
        assert_eq!(mode(&data.join(".lock")), 0o600);
        let error = DirLock::take(&data).unwrap_err().to_string();
        assert!(error.starts_with("pkg/file: file already locked"), "{error}");
        assert!(error.contains(data.join(".lock").to_str().unwrap()), "{error}");
        drop(lock);
        DirLock::take(&data).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        let error = create_dir(&root.path().join("a/b")).unwrap_err().to_string();
        assert!(error.contains("/a"), "{error}");
    }

    #[test]
    fn space_is_of_the_file_system() {
        let space = free_space(Path::new("/")).unwrap();
        assert!(space.capacity > 0 && space.available <= space.capacity);
        assert!(free_space(Path::new("/no/such/path")).is_err());
    }
}
