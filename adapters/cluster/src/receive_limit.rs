//! What a gRPC server must say about a request that is too large, and when it may believe a length.
//!
//! TiDB recognises an oversize binlog by RESOURCE_EXHAUSTED and `received message larger than max (<got> vs. <limit>)` (spec pump
//! 1.1); tonic answers OUT_OF_RANGE with a text of its own. So this service reads the length prefix of the first message
//! before tonic does. It also holds a large message back until all of it has arrived: tonic reserves the announced length
//! at once, and four bytes from the network must not cost four gigabytes.
//!
//! Compression is answered in kind (spec pump 1.1): a gzip request gets gzip replies, any other identity, whatever the
//! client says it could also read.
//!
//! Wraps the services of a node; used for unary and server-streaming methods (one message per request).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

/// A gRPC service behind a limit for received messages, in bytes.
#[derive(Debug, Clone)]
pub struct ReceiveLimit<S> {
    inner: S,
    limit: usize,
}

impl<S> ReceiveLimit<S> {
    /// `inner` must accept messages up to `limit` itself (`max_decoding_message_size`), and accept and send gzip.
    pub const fn new(inner: S, limit: usize) -> Self {
        Self { inner, limit }
    }
}

/// Flag and length before each message.
pub(crate) const PREFIX: usize = 5;
/// Announced lengths up to this are passed on as they come: what tonic reserves for them is bearable for each open request.
pub(crate) const TRUSTED_LENGTH: usize = 1 << 20;
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

impl<S: NamedService> NamedService for ReceiveLimit<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for ReceiveLimit<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        answer_in_kind(request.headers_mut());
        let limit = self.limit;
        let request = request.map(|body| Body::new(Checked::new(body, limit)));
        let reply = self.inner.call(request);
        Box::pin(async move { Ok(translate(reply.await?, limit)) })
    }
}

fn answer_in_kind(headers: &mut HeaderMap) {
    headers.remove("grpc-accept-encoding");
    if headers.get("grpc-encoding") == Some(&GZIP) {
        headers.insert("grpc-accept-encoding", GZIP);
    }
}

/// A message that outgrew the limit while it was decompressed gets the same status as one that was too long to begin with.
fn translate(reply: Response<Body>, limit: usize) -> Response<Body> {
    match Status::from_header_map(reply.headers()) {
        Some(status)
            if status.code() == Code::ResourceExhausted
                && status.message().starts_with("Error decompressing: size limit") =>
        {
            too_large(limit.saturating_add(1), limit).into_http()
        }
        _ => reply,
    }
}

pub(crate) fn too_large(got: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({got} vs. {limit})"))
}

/// The request's body: refuses an announced length above the limit, holds back a large message until it is whole.
struct Checked {
    inner: Body,
    limit: usize,
    state: State,
}

enum State {
    /// The prefix may come in pieces.
    Prefix {
        held: VecDeque<Frame<Bytes>>,
        bytes: Vec<u8>,
    },
    /// Holding back until `missing` more bytes are here.
    Holding {
        held: VecDeque<Frame<Bytes>>,
        missing: usize,
    },
    /// First what was held back, then whatever comes.
    Passing {
        held: VecDeque<Frame<Bytes>>,
    },
    Failed,
}

impl Checked {
    fn new(inner: Body, limit: usize) -> Self {
        Self { inner, limit, state: State::Prefix { held: VecDeque::new(), bytes: Vec::with_capacity(PREFIX) } }
    }
}

impl HttpBody for Checked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let State::Passing { held } = &mut this.state
                && let Some(frame) = held.pop_front()
            {
                return Poll::Ready(Some(Ok(frame)));
            }
            if matches!(this.state, State::Failed) {
                return Poll::Ready(None);
            }
            let next = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            this.state = match std::mem::replace(&mut this.state, State::Failed) {
                State::Failed => return Poll::Ready(None),
                State::Passing { held } => {
                    this.state = State::Passing { held };
                    return Poll::Ready(next);
                }
                State::Prefix { mut held, mut bytes } => match next {
                    Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                    None => State::Passing { held },
                    Some(Ok(frame)) => {
                        let data = frame.data_ref().cloned().unwrap_or_default();
                        let missing = PREFIX.saturating_sub(bytes.len()).min(data.len());
                        bytes.extend(data.iter().take(missing));
                        held.push_back(frame);
                        match <[u8; PREFIX]>::try_from(bytes.as_slice()) {
                            Err(_) => State::Prefix { held, bytes },
                            Ok([_, a, b, c, d]) => {
                                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                                if length > this.limit {
                                    return Poll::Ready(Some(Err(too_large(length, this.limit))));
                                }
                                if length <= TRUSTED_LENGTH {
                                    State::Passing { held }
                                } else {
                                    State::Holding { held, missing: length.saturating_sub(data.len() - missing) }
                                }
                            }
                        }
                    }
                },
                State::Holding { mut held, missing } => match next {
                    Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                    // Too short: tonic says so.
                    None => State::Passing { held },
                    Some(Ok(frame)) => {
                        let arrived = frame.data_ref().map_or(0, Bytes::len);
                        let over = frame.is_trailers();
                        held.push_back(frame);
                        if over || arrived >= missing {
                            State::Passing { held }
                        } else {
                            State::Holding { held, missing: missing - arrived }
                        }
                    }
                },
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Passing { held } | State::Prefix { held, .. } => held.is_empty() && self.inner.is_end_stream(),
            State::Holding { .. } => false,
            State::Failed => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    /// Feeds `chunks`, returns what came through or the refusal.
    fn through(chunks: Vec<Vec<u8>>, limit: usize) -> Result<Vec<u8>, Status> {
        let frames = futures::stream::iter(chunks.into_iter().map(|c| Ok::<_, Status>(Frame::data(Bytes::from(c)))));
        let body = Checked::new(Body::new(StreamBody::new(frames)), limit);
        let collected = futures::executor::block_on(
            body.into_data_stream().map(|chunk| chunk.map(|c| c.to_vec())).collect::<Vec<_>>(),
        );
        collected.into_iter().collect::<Result<Vec<_>, _>>().map(|chunks| chunks.concat())
    }

    fn message(length: usize) -> Vec<u8> {
        let mut m = vec![0];
        m.extend(u32::try_from(length).unwrap().to_be_bytes());
        m.extend(std::iter::repeat_n(7, length));
        m
    }

    #[test]
    fn messages_pass_unchanged_however_they_are_cut() {
        for length in [0, 1, 100, TRUSTED_LENGTH, TRUSTED_LENGTH + 1, 3 * TRUSTED_LENGTH] {
            let whole = message(length);
            for cut in [1, 3, 5, 6, 1000, whole.len()] {
                if whole.len() / cut > 100_000 {
                    continue;
                }
                let chunks = whole.chunks(cut).map(<[u8]>::to_vec).collect();
                assert_eq!(through(chunks, length).unwrap(), whole, "length {length} cut {cut}");
            }
        }
    }

    #[test]
    fn too_long_is_refused_before_its_bytes_arrive() {
        let prefix = message(1001)[..PREFIX].to_vec();
        let status = through(vec![prefix[..2].to_vec(), prefix[2..].to_vec()], 1000).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("received message larger than max (1001 vs. 1000)"), "{status:?}");
    }

    #[test]
    fn a_message_that_breaks_off_is_left_to_tonic() {
        for length in [100, 2 * TRUSTED_LENGTH] {
            let mut whole = message(length);
            whole.pop();
            assert_eq!(through(vec![whole.clone()], length).unwrap(), whole);
        }
        assert_eq!(through(vec![vec![0, 0]], 10).unwrap(), [0, 0]);
        assert!(through(vec![], 10).unwrap().is_empty());
    }

    #[test]
    fn replies_are_compressed_only_for_those_who_compress() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip,deflate"));
        answer_in_kind(&mut headers);
        assert!(headers.is_empty());
        headers.insert("grpc-encoding", GZIP);
        answer_in_kind(&mut headers);
        assert_eq!(headers.get("grpc-accept-encoding"), Some(&GZIP));
    }
}
