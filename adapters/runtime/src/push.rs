//! Pushing metrics to a Prometheus push gateway (spec pump 7): POST, so that other groups' and names' values stay.
//!
//! A gateway that cannot be reached is said once per outage; the next push comes when its time comes.

use binlog_core::config::push::PushSettings;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

/// One push, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer's text, for the log.
const MAX_ANSWER: usize = 1024;

/// Pushing in the background; dropping it ends it.
#[derive(Debug)]
pub struct Pusher {
    task: JoinHandle<()>,
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pushes what `text` gives, each interval, until the result is dropped. Nothing where there is no gateway.
#[must_use]
pub fn start<F: Future<Output = String> + Send>(
    push: Option<&PushSettings>,
    node_id: &str,
    text: impl Fn() -> F + Send + 'static,
) -> Option<Pusher> {
    let push = push?.clone();
    let path = push.path(node_id);
    tracing::info!(gateway = push.authority, path, interval_ms = push.interval_ms, "metrics are pushed");
    let task = tokio::spawn(async move {
        let every = Duration::from_millis(push.interval_ms.max(1));
        let mut times = interval_at(tokio::time::Instant::now() + every, every);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            times.tick().await;
            let body = text().await;
            let pushed = match timeout(PATIENCE, post(&push.authority, &path, body)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            };
            match &pushed {
                Ok(()) if failed => tracing::info!(gateway = push.authority, "metrics are pushed again"),
                Ok(()) => {}
                Err(error) if !failed => {
                    tracing::warn!(
                        gateway = push.authority,
                        "cannot push metrics, trying again each interval: {error}"
                    );
                }
                Err(_) => {}
            }
            failed = pushed.is_err();
        }
    });
    Some(Pusher { task })
}

async fn post(authority: &str, path: &str, body: String) -> Result<(), String> {
    let stream = TcpStream::connect(authority).await.map_err(|e| format!("cannot connect: {e}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("no HTTP connection: {e}"))?;
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let call = async {
        let answer = sender.send_request(request).await.map_err(|e| format!("the call failed: {e}"))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).trim().to_owned()).unwrap_or_default();
        Err(format!("refused with {status}: {text}"))
    };
    tokio::pin!(connection, call);
    // The connection carries the call out; it ends early when the gateway hangs up.
    tokio::select! {
        result = &mut call => result,
        ended = &mut connection => match ended {
            Ok(()) => call.await,
            Err(error) => Err(format!("the connection broke: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Reads one request to the end of its body, answers with `answer`.
    async fn serve(listener: &TcpListener, answer: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        loop {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "hung up early: {text}");
            text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
            if body.len() == length.parse::<usize>().unwrap() {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        text
    }

    fn settings(listener: &TcpListener, interval_ms: u64) -> PushSettings {
        let authority = listener.local_addr().unwrap().to_string();
        PushSettings { authority, base: String::new(), interval_ms }
    }

    #[tokio::test]
    async fn metrics_are_posted_each_interval_until_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let pusher = start(Some(&settings(&listener, 5)), "host:8250", move || {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            async move { format!("x {n}\n") }
        });
        for (n, answer) in [
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            // An outage does not end it.
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 202 Accepted\r\nConnection: close\r\n\r\n",
        ]
        .into_iter()
        .enumerate()
        {
            let request = serve(&listener, answer).await;
            assert!(request.starts_with("POST /metrics/job/binlog/instance/host%3A8250 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("content-type: text/plain; version=0.0.4"), "{request}");
            assert!(request.ends_with(&format!("\r\n\r\nx {n}\n")), "{request}");
        }
        drop(pusher);
        // It has ended: the text's function is gone with it.
        while Arc::strong_count(&count) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = settings(&listener, 1).authority;
        let answer = "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nfull";
        let (error, _) = tokio::join!(post(&at, "/x", "y 1\n".to_owned()), serve(&listener, answer));
        assert_eq!(error, Err("refused with 500 Internal Server Error: full".to_owned()));
        let (error, _) = tokio::join!(post(&at, "/x", "y 1\n".to_owned()), serve(&listener, ""));
        assert!(error.is_err());
        drop(listener);
        assert!(post(&at, "/x", String::new()).await.unwrap_err().starts_with("cannot connect"));
        assert!(start(None, "n", || async { String::new() }).is_none());
    }
}
