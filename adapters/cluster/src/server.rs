//! One TCP port for gRPC and HTTP/1, and a unix socket besides (spec pump 1.1): looks at the first bytes of a connection and serves
//! HTTP/2 (prior knowledge) or HTTP/1 on it; within HTTP/2 the content type decides between the gRPC services and the HTTP router.
//! With TLS the same happens inside, whatever ALPN says; the unix socket is in the clear, its file's mode guards it.
//!
//! Keeps true: a connection that does not say what it is within 10 s is closed; shutting down lets calls that are under way end
//! for at most 10 s.

use crate::tls::Security;
use crate::tls::accept::Handshakes;
use crate::transport::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::unix_socket::SocketListener;
use crate::write_call::{Reply, WriteCalls};
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, Version, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tower::ServiceExt;

/// A client must say within this what it speaks, and an HTTP/1 client must have sent its headers; a connection that is kept alive
/// without a request ends after it.
pub const SNIFF_TIMEOUT: Duration = Duration::from_secs(10);
/// What calls under way get when the server stops; then their connections are cut.
pub const GRACE: Duration = Duration::from_secs(10);
/// Connections at a time; more wait in the kernel's backlog. Well below the usual limit of open files.
const MAX_CONNECTIONS: usize = 4096;
/// Streams of one HTTP/2 connection. A TiDB writes from all its sessions over one connection.
const MAX_STREAMS: u32 = 100_000;
/// Calls that a client may cancel before we have looked at them; more end its connection, and with it all other calls on it. The
/// library's 20 are too few for a TiDB whose sessions are killed together.
const MAX_CANCELLED: usize = 8192;
/// After accept failed (no file descriptors left, for one): trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How an HTTP/2 client begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a node is reached.
pub struct Listeners {
    pub tcp: TcpListener,
    /// For the TCP port only.
    pub security: Security,
    pub unix: Option<SocketListener>,
}

/// Listens on `host:port`; without a host on every address of this machine, as Go understands it.
///
/// # Errors
/// The address is not one of ours, or is taken.
pub async fn listen(addr: &str) -> io::Result<TcpListener> {
    let Some(port) = addr.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) else {
        return TcpListener::bind(addr).await;
    };
    // The first one takes IPv4 too, unless this machine has no IPv6.
    let every = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    TcpListener::bind(every.as_slice()).await
}

/// [`serve_on`] a port without TLS.
pub async fn serve(listener: TcpListener, grpc: impl Into<Grpc>, http: Router, shutdown: impl Future<Output = ()>) {
    serve_on(Listeners { tcp: listener, security: Security::plaintext(), unix: None }, grpc, http, shutdown).await;
}

/// Serves until `shutdown` is ready, then stops accepting and lets what is under way end within [`GRACE`]. Streams without an
/// end (PullBinlogs) must be ended by their owner before or meanwhile.
pub async fn serve_on(listeners: Listeners, grpc: impl Into<Grpc>, http: Router, shutdown: impl Future<Output = ()>) {
    let handshakes = Arc::new(Handshakes::new(listeners.security.clone()));
    let Grpc { routes, writes } = grpc.into();
    let routers = Arc::new(Routers { grpc: routes.prepare().into_axum_router(), writes, http });
    let graceful = GracefulShutdown::new();
    let (cut, cut_all) = tokio::sync::watch::channel(());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listeners, &slots) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (routers, watcher, mut cut_all) = (Arc::clone(&routers), graceful.watcher(), cut_all.clone());
                let handshakes = Arc::clone(&handshakes);
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        served = connection(stream, &handshakes, routers, watcher) => {
                            if let Err(e) = served {
                                tracing::debug!("connection ended: {e}");
                            }
                        }
                        _ = cut_all.changed() => {}
                    }
                    drop(slot);
                });
            }
            Err(e) => {
                tracing::warn!("accept failed: {e}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listeners);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("calls were still under way {} s after the server stopped: cut", GRACE.as_secs());
    }
    drop(cut);
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept(
    listeners: &Listeners,
    slots: &Arc<Semaphore>,
) -> io::Result<(Accepted, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let unix = async {
        match &listeners.unix {
            Some(unix) => unix.accept().await,
            None => std::future::pending().await,
        }
    };
    // Not biased: neither door may starve the other.
    let accepted = tokio::select! {
        tcp = listeners.tcp.accept() => tcp.map(|(stream, peer)| Accepted::Tcp(stream, peer))?,
        unix = unix => unix.map(Accepted::Unix)?,
    };
    Ok((accepted, slot))
}

/// The gRPC services of a node.
pub struct Grpc {
    pub routes: Routes,
    /// Takes plain WriteBinlog calls past the routes.
    pub writes: Option<WriteCalls>,
}

impl From<Routes> for Grpc {
    fn from(routes: Routes) -> Self {
        Self { routes, writes: None }
    }
}

struct Routers {
    grpc: Router,
    writes: Option<WriteCalls>,
    http: Router,
}

async fn connection(
    accepted: Accepted,
    handshakes: &Handshakes,
    routers: Arc<Routers>,
    watcher: Watcher,
) -> Result<(), hyper::Error> {
    match accepted {
        Accepted::Unix(stream) => speak(stream, routers, watcher).await,
        Accepted::Tcp(stream, peer) => {
            let _ = stream.set_nodelay(true);
            if !handshakes.is_tls() {
                return speak(stream, routers, watcher).await;
            }
            match tokio::time::timeout(SNIFF_TIMEOUT, handshakes.accept(stream, peer)).await {
                Ok(Some(stream)) => speak(stream, routers, watcher).await,
                Ok(None) | Err(_) => Ok(()),
            }
        }
    }
}

async fn speak<S>(mut stream: S, routers: Arc<Routers>, watcher: Watcher) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(Ok((head, is_http2))) = tokio::time::timeout(SNIFF_TIMEOUT, sniff(&mut stream)).await else {
        return Ok(());
    };
    let io = TokioIo::new(Sniffed { head, served: 0, stream });
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let writes = routers.writes(&request);
        let routers = Arc::clone(&routers);
        async move {
            if let Some(writes) = writes {
                return Ok(writes.answer(request).await);
            }
            let response = match routers.pick(request.version(), request.headers()) {
                Ok(router) => router.oneshot(request.map(Body::new)).await?,
                Err(code) => {
                    let mut refusal = http::Response::new(Body::empty());
                    *refusal.status_mut() = code;
                    refusal
                }
            };
            Ok::<_, Infallible>(response.map(Reply::Routed))
        }
    });
    if is_http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_CANCELLED);
        watcher.watch(builder.serve_connection(io, service)).await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        // A client may say that it has nothing more to send (`nc` at the end of its input does) and still wait for the answer.
        builder.timer(TokioTimer::new()).header_read_timeout(SNIFF_TIMEOUT).half_close(true);
        watcher.watch(builder.serve_connection(io, service)).await
    }
}

impl Routers {
    /// Who answers a call that needs no router.
    fn writes<B>(&self, request: &Request<B>) -> Option<WriteCalls> {
        let writes = self.writes.as_ref().filter(|_| request.version() == Version::HTTP_2)?;
        let is_grpc = is_grpc(request.headers().get(header::CONTENT_TYPE)?.as_bytes());
        (is_grpc && WriteCalls::takes(request)).then(|| writes.clone())
    }

    /// gRPC is HTTP/2 with one of the two content types that the original accepts.
    fn pick(&self, version: Version, headers: &HeaderMap) -> Result<Router, StatusCode> {
        let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        match content_type {
            own if is_grpc(own) && version == Version::HTTP_2 => Ok(self.grpc.clone()),
            other if other.starts_with(b"application/grpc") => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            _ => Ok(self.http.clone()),
        }
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    matches!(content_type, b"application/grpc" | b"application/grpc+proto")
}

/// A stream whose first bytes were read already.
struct Sniffed<S> {
    head: Vec<u8>,
    /// Bytes of `head` that were handed on.
    served: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Sniffed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.head.get(this.served..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let (now, _) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        this.served += now.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sniffed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Reads until it is clear whether the peer speaks HTTP/2; what was read must be served first.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Vec<u8>, bool)> {
    let mut head = Vec::with_capacity(PREFACE.len());
    loop {
        let mut room = [0; PREFACE.len()];
        let want = PREFACE.len().saturating_sub(head.len());
        let Some(room) = room.get_mut(..want) else { return Ok((head, false)) };
        match stream.read(room).await? {
            0 => return Ok((head, false)),
            n => head.extend(room.iter().take(n)),
        }
        if !PREFACE.starts_with(&head) {
            return Ok((head, false));
        }
        if head.len() == PREFACE.len() {
            return Ok((head, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sniffing() {
        for (sent, http2) in [
            (PREFACE, true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", true),
            (b"GET / HTTP/1.1\r\n\r\n", false),
            (b"PUT /state HTTP/1.1\r\n\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", false),
            (b"PRI", false),
            (b"", false),
        ] {
            // Byte by byte and all at once.
            for step in [1, sent.len().max(1)] {
                let mut stream = PartsReader(sent.chunks(step).map(bytes::Bytes::copy_from_slice).collect());
                let (head, got) = sniff(&mut stream).await.unwrap();
                assert_eq!(got, http2, "{sent:?}");
                assert!(sent.starts_with(&head));
                assert!(head.len() <= PREFACE.len());
            }
        }
    }

    struct PartsReader(std::collections::VecDeque<bytes::Bytes>);

    impl AsyncRead for PartsReader {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if let Some(front) = self.0.front_mut() {
                let part = front.split_to(front.len().min(buf.remaining()));
                buf.put_slice(&part);
                if front.is_empty() {
                    self.0.pop_front();
                }
            }
            std::task::Poll::Ready(Ok(()))
        }
    }
}
