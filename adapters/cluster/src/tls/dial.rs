//! The client's side: TCP, then TLS with what the files hold at that moment. For gRPC channels, which dial again by themselves.
//!
//! Keeps true: the certificate must be for the host that was dialled (names and IP addresses); a server without ALPN is spoken to in
//! HTTP/2 all the same (the original's Pump and Drainer offer none).

use super::Security;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    security: Security,
}

impl Dialer {
    pub fn new(mut tcp: HttpConnector, security: Security) -> Self {
        tcp.enforce_http(false);
        Self { tcp, security }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.tcp.poll_ready(cx).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, security) = (self.tcp.call(uri.clone()), self.security.clone());
        Box::pin(async move {
            let stream = connecting.await.map_err(io::Error::other)?.into_inner();
            // IPv6 addresses stand in brackets.
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host.clone()).map_err(|_| {
                io::Error::other(format!("TLS: {host:?} is no host name that a certificate can be for"))
            })?;
            let configs = security.configs().await.ok_or_else(|| io::Error::other("TLS is not configured"))?;
            let connected = TlsConnector::from(configs.client).connect(name, stream).await;
            let stream = connected.map_err(|e| io::Error::new(e.kind(), format!("TLS with {host}: {e}")))?;
            Ok(TokioIo::new(stream))
        })
    }
}
