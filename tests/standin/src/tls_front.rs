//! TLS before a plain port: ends it here and passes the bytes on. What is behind speaks HTTP/2 in the clear and knows nothing of it.

use anyhow::{Context, Result};
use binlog_cluster::tls::Security;
use binlog_cluster::tls::accept::Handshakes;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// With TLS: the listener to serve on instead of `outer`, and the task that stands before it. Without: `outer` itself.
pub(crate) async fn before(outer: TcpListener, security: &Security) -> Result<(TcpListener, Option<JoinHandle<()>>)> {
    if !security.is_tls() {
        return Ok((outer, None));
    }
    let inner = TcpListener::bind(("127.0.0.1", 0)).await.context("a port behind TLS")?;
    let address = inner.local_addr()?;
    let handshakes = Arc::new(Handshakes::new(security.clone()));
    let task = tokio::spawn(async move {
        // Ends with this task.
        let mut connections = JoinSet::new();
        while let Ok((stream, peer)) = outer.accept().await {
            connections.spawn(pass_on(stream, peer, Arc::clone(&handshakes), address));
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((inner, Some(task)))
}

async fn pass_on(stream: TcpStream, peer: SocketAddr, handshakes: Arc<Handshakes>, inner: SocketAddr) {
    let Some(mut outside) = handshakes.accept(stream, peer).await else { return };
    if let Ok(mut inside) = TcpStream::connect(inner).await {
        let _ = inside.set_nodelay(true);
        // Either side's end ends both.
        let _ = copy_bidirectional(&mut outside, &mut inside).await;
    }
}
