//! The server's side: the handshake of one connection, with what the files hold at that moment, and a clean refusal of peers that
//! do not speak TLS.
//!
//! Keeps true: who is refused is said with the peer's address, at most once per [`SAY_EVERY`] (a misconfigured TiDB tries every
//! second); a peer that connects and says nothing (a health check) is no warning.

use super::Security;
use crate::server::sniff;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A line about refused peers at most this often.
pub const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a refused peer may take to read why.
const LINGER: Duration = Duration::from_secs(1);
/// What is read from it meanwhile, at most.
const LINGER_BYTES: u64 = 64 << 10;
/// First byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
const HTTP1_REFUSAL: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    Client sent an HTTP request to an HTTPS server: this port speaks TLS.\n";
const HTTP2_REFUSAL: &[u8] = b"this port speaks TLS; connect with https and the cluster's CA";

/// The handshakes of one listener.
pub struct Handshakes {
    security: Security,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    last: Option<Instant>,
    /// Refused since then without a line.
    kept: u64,
}

impl Handshakes {
    #[must_use]
    pub fn new(security: Security) -> Self {
        Self { security, said: Mutex::default() }
    }

    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.security.is_tls()
    }

    /// `None`: the peer was refused, and told. The caller limits the time.
    pub async fn accept(&self, mut stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if first != [HANDSHAKE] => {
                self.say(peer, "it does not speak TLS");
                if let Err(e) = refuse_plaintext(&mut stream).await {
                    tracing::debug!("refusing {peer}: {e}");
                }
                return None;
            }
            Ok(_) => {}
        }
        let Some(server) = self.security.configs().await.and_then(|configs| configs.server) else {
            self.say(peer, "this process has no certificate");
            return None;
        };
        match TlsAcceptor::from(server).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(e) => {
                self.say(peer, &reason(&e));
                None
            }
        }
    }

    fn say(&self, peer: SocketAddr, why: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| last.elapsed() < SAY_EVERY) {
            said.kept = said.kept.saturating_add(1);
            tracing::debug!("TLS handshake with {peer} failed: {why}");
            return;
        }
        let others = match said.kept {
            0 => String::new(),
            n => format!(" ({n} others were refused since the last line)"),
        };
        *said = Said { last: Some(Instant::now()), kept: 0 };
        tracing::warn!("TLS handshake with {peer} failed: {why}{others}");
    }
}

/// The refusal of a name in its own words: the library shows the inner error's `Debug` form.
fn reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => other.0.to_string(),
        _ => error.to_string(),
    }
}

/// Says in the peer's own protocol what is wrong, and waits a moment until it has read that.
async fn refuse_plaintext(stream: &mut TcpStream) -> io::Result<()> {
    let (head, is_http2) = sniff(stream).await?;
    if is_http2 {
        stream.write_all(&goaway()).await?;
    } else if head.first().is_some_and(u8::is_ascii_uppercase) {
        stream.write_all(HTTP1_REFUSAL).await?;
    }
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection, and the peer would lose what was written.
    let mut rest = stream.take(LINGER_BYTES);
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Ok(())
}

/// Empty SETTINGS, then GOAWAY with `INADEQUATE_SECURITY` and the reason (RFC 9113, 6.5 and 6.8).
fn goaway() -> Vec<u8> {
    const INADEQUATE_SECURITY: u32 = 0xc;
    let length = u8::try_from(8 + HTTP2_REFUSAL.len()).unwrap_or(u8::MAX);
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    frames.extend(0_u32.to_be_bytes());
    frames.extend(INADEQUATE_SECURITY.to_be_bytes());
    frames.extend(HTTP2_REFUSAL);
    frames
}

// The length of the frame above is one byte.
const _: () = assert!(HTTP2_REFUSAL.len() + 8 <= 255);
