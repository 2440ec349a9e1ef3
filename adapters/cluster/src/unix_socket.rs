//! The unix socket that a node listens on besides its port (`socket`, spec pump 6.2, trap T31).
//!
//! Keeps true: a socket that somebody listens on is never taken away; one that was left behind is; what is no socket is not
//! touched. Only owner and group may connect (mode 0660), from the first moment on. The file goes when the listener does.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

const MODE: u32 = 0o660;
const BACKLOG: u32 = 1024;

/// A listening socket and its file.
pub struct SocketListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: another process may have put its own there since.
    file: (u64, u64),
}

/// Why a path cannot be listened on.
#[derive(Debug, Error)]
pub enum SocketError {
    #[error("socket {path}: another process listens on it; stop it or choose another path")]
    InUse { path: String },
    #[error("socket {path}: it exists and is no socket; remove it or choose another path")]
    NoSocket { path: String },
    #[error("socket {path}: cannot {what}: {why}")]
    Io { path: String, what: &'static str, why: io::Error },
}

impl SocketListener {
    /// Listens on `path`. Replaces a socket that nobody listens on.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub async fn bind(path: &str) -> Result<Self, SocketError> {
        let failed = |what| move |why| SocketError::Io { path: path.to_owned(), what, why };
        remove_stale(path).await?;
        let socket = UnixSocket::new_stream().map_err(failed("create it"))?;
        socket.bind(path).map_err(failed("bind it"))?;
        // Nobody can connect before `listen`: there is no moment with a wider mode.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed("set its mode"))?;
        let file = identity(Path::new(path)).map_err(failed("look at it"))?;
        let listener = socket.listen(BACKLOG).map_err(failed("listen on it"))?;
        Ok(Self { listener, path: path.into(), file })
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for SocketListener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

async fn remove_stale(path: &str) -> Result<(), SocketError> {
    let failed = |what| move |why| SocketError::Io { path: path.to_owned(), what, why };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at it")(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path, "removing a socket that nobody listens on");
            fs::remove_file(path).map_err(failed("remove the stale one"))
        }
        // A full backlog (EAGAIN) is somebody's; without permission we cannot know.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse { path: path.to_owned() }),
        Err(e) => Err(failed("find out whether it is in use")(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_sockets_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pump.sock");
        let text = path.to_str().unwrap();
        // As a process that was killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let ours = SocketListener::bind(text).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let e = SocketListener::bind(text).await.err().unwrap();
        assert!(matches!(e, SocketError::InUse { .. }), "{e}");
        drop(ours);
        assert!(!path.exists(), "the file goes with the listener");

        fs::write(&path, "data").unwrap();
        let e = SocketListener::bind(text).await.err().unwrap();
        assert!(matches!(e, SocketError::NoSocket { .. }), "{e}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
        let e = SocketListener::bind(dir.path().join("no/such").to_str().unwrap()).await.err().unwrap();
        assert!(e.to_string().contains("cannot bind it"), "{e}");
    }
}
