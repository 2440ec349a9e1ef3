//! WriteBinlog without detours: the one call that comes thousands of times a second is read from HTTP/2 and answered here, past
//! the routers and tonic's general machinery. On the wire nothing differs (`tests/node.rs` holds both against the same tests).
//!
//! Only plain calls are taken: POST, identity encoding. Everything else, gzip too, goes the general way. Keeps true what
//! `receive_limit` says: an announced length above the limit is refused with the text that TiDB knows, and memory is reserved
//! only for bytes that came, [`TRUSTED_LENGTH`] of them ahead.
//!
//! Called by `server` for each HTTP/2 request.

use crate::pump_service::{PumpHandle, status};
use crate::receive_limit::{PREFIX, TRUSTED_LENGTH, too_large};
use axum::body::Body;
use binlog_core::proto::binlog::WriteBinlogReq;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;

/// The Pump that calls go to, and the largest message that it takes, in bytes.
#[derive(Debug, Clone)]
pub struct WriteCalls {
    pump: PumpHandle,
    limit: usize,
}

const PATH: &str = "/binlog.Pump/WriteBinlog";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");
/// An empty `WriteBinlogResp` with its prefix.
const ACKNOWLEDGED: Bytes = Bytes::from_static(&[0; PREFIX]);

impl WriteCalls {
    /// The same `limit` as for [`PumpHandle::service`].
    #[must_use]
    pub const fn new(pump: PumpHandle, limit: usize) -> Self {
        Self { pump, limit }
    }

    /// Whether this is a call for [`Self::answer`]; its content type was looked at already.
    #[must_use]
    pub fn takes<B>(request: &Request<B>) -> bool {
        let encoding = request.headers().get("grpc-encoding");
        request.uri().path() == PATH
            && request.method() == Method::POST
            && encoding.is_none_or(|name| name.as_bytes() == b"identity")
    }

    /// Reads the message, waits for the Pump's answer.
    pub async fn answer<B>(self, request: Request<B>) -> Response<Reply>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        match self.call(request.into_body()).await {
            Ok(()) => {
                let mut response = Response::new(Reply::Acknowledged(Rest::Message));
                response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
                response
            }
            Err(status) => status.into_http::<Body>().map(Reply::Routed),
        }
    }

    async fn call<B>(&self, body: B) -> Result<(), Status>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let message = read(body, self.limit).await?;
        let WriteBinlogReq { cluster_id, payload } =
            WriteBinlogReq::decode(message).map_err(|error| Status::internal(error.to_string()))?;
        self.pump.write(cluster_id, payload).await.map_err(|reject| status(&reject))
    }
}

/// The body's first message. One that came in a single frame is not copied.
async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut prefix = BytesMut::new();
    // The message so far, and its whole length; known once the prefix is here.
    let mut wanted: Option<(Arriving, usize)> = None;
    while !body.is_end_stream() {
        let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await else { break };
        let frame = frame.map_err(|error| Status::unknown(error.to_string()))?;
        let Ok(mut data) = frame.into_data() else { break };
        if wanted.is_none() {
            let missing = PREFIX.saturating_sub(prefix.len()).min(data.len());
            prefix.extend_from_slice(&data.split_to(missing));
            let Ok([flag, a, b, c, d]) = <[u8; PREFIX]>::try_from(prefix.as_ref()) else { continue };
            check_flag(flag)?;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > limit {
                return Err(too_large(length, limit));
            }
            wanted = Some((Arriving::Nothing, length));
        }
        // What follows the message is read to the end and dropped, as tonic does.
        if let Some((arriving, length)) = &mut wanted {
            arriving.add(data, *length);
        }
    }
    match wanted {
        Some((arriving, length)) if arriving.len() == length => Ok(arriving.freeze()),
        None if prefix.is_empty() => Err(Status::internal("Missing request message.")),
        _ => Err(Status::internal("Unexpected EOF decoding stream.")),
    }
}

fn check_flag(flag: u8) -> Result<(), Status> {
    match flag {
        0 => Ok(()),
        1 => Err(Status::internal(
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        )),
        other => Err(Status::internal(format!(
            "protocol error: received message with invalid compression flag: {other} (valid flags are 0 and 1), while sending \
             request"
        ))),
    }
}

/// A message on its way in.
enum Arriving {
    Nothing,
    /// In one frame so far.
    One(Bytes),
    Several(BytesMut),
}

impl Arriving {
    /// Adds what belongs to a message of `length` bytes.
    fn add(&mut self, mut data: Bytes, length: usize) {
        data.truncate(length.saturating_sub(self.len()));
        if data.is_empty() {
            return;
        }
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut whole = BytesMut::with_capacity(length.min(TRUSTED_LENGTH.max(2 * first.len())));
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&data);
                Self::Several(whole)
            }
            Self::Several(mut whole) => {
                whole.extend_from_slice(&data);
                Self::Several(whole)
            }
        };
    }

    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(data) => data.len(),
            Self::Several(data) => data.len(),
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(data) => data,
            Self::Several(data) => data.freeze(),
        }
    }
}

/// The body of a reply, from here or from a router.
pub enum Reply {
    Acknowledged(Rest),
    Routed(Body),
}

/// What is still to be sent of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Message,
    Trailers,
    Nothing,
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
            Self::Acknowledged(rest) => Poll::Ready(match *rest {
                Rest::Message => {
                    *rest = Rest::Trailers;
                    Some(Ok(Frame::data(ACKNOWLEDGED)))
                }
                Rest::Trailers => {
                    *rest = Rest::Nothing;
                    let mut trailers = HeaderMap::with_capacity(1);
                    trailers.insert("grpc-status", OK);
                    Some(Ok(Frame::trailers(trailers)))
                }
                Rest::Nothing => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Routed(body) => body.is_end_stream(),
            Self::Acknowledged(rest) => *rest == Rest::Nothing,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Routed(body) => body.size_hint(),
            Self::Acknowledged(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body_util::StreamBody;
    use tonic::Code;

    fn read_chunks(chunks: &[&[u8]], limit: usize) -> Result<Bytes, Status> {
        let frames: Vec<_> = chunks.iter().map(|c| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        futures::executor::block_on(read(StreamBody::new(futures::stream::iter(frames).boxed()), limit))
    }

    fn message(length: usize) -> Vec<u8> {
        let mut whole = vec![0];
        whole.extend(u32::try_from(length).unwrap().to_be_bytes());
        whole.extend((0..=250).cycle().take(length));
        whole
    }

    #[test]
    fn a_message_is_read_however_it_is_cut() {
        for length in [0, 1, 100, 40_000, TRUSTED_LENGTH + 1, 3 * TRUSTED_LENGTH] {
            let mut whole = message(length);
            for cut in [1, 3, 5, 6, 1000, 16_384, whole.len()] {
                if whole.len() / cut <= 100_000 {
                    let chunks: Vec<&[u8]> = whole.chunks(cut).collect();
                    assert_eq!(read_chunks(&chunks, length).unwrap(), whole[PREFIX..], "length {length} cut {cut}");
                }
            }
            // A second message is not ours.
            whole.extend_from_slice(&message(7));
            assert_eq!(read_chunks(&[&whole], length).unwrap().len(), length);
        }
    }

    #[test]
    fn what_is_no_message() {
        let whole = message(1001);
        let flagged = |flag: u8| [&[flag][..], &whole[1..]].concat();
        for (chunks, code, text) in [
            (
                vec![&whole[..2], &whole[2..5]],
                Code::ResourceExhausted,
                "received message larger than max (1001 vs. 1000)",
            ),
            (vec![], Code::Internal, "Missing request message."),
            (vec![&whole[..3]], Code::Internal, "Unexpected EOF"),
            (vec![&flagged(1)[..]], Code::Internal, "compressed-flag"),
            (vec![&flagged(9)[..]], Code::Internal, "invalid compression flag: 9"),
        ] {
            let status = read_chunks(&chunks, 1000).unwrap_err();
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().contains(text), "{status:?}");
        }
        let status = read_chunks(&[&whole[..900]], 2000).unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "Unexpected EOF decoding stream."));
    }

    #[test]
    fn only_plain_calls_are_taken() {
        let call = |method: Method, path: &str, encoding: Option<&str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(encoding) = encoding {
                request = request.header("grpc-encoding", encoding);
            }
            WriteCalls::takes(&request.body(()).unwrap())
        };
        assert!(call(Method::POST, "http://pump:8250/binlog.Pump/WriteBinlog", None));
        assert!(call(Method::POST, PATH, Some("identity")));
        assert!(!call(Method::POST, PATH, Some("gzip")));
        assert!(!call(Method::GET, PATH, None));
        assert!(!call(Method::POST, "/binlog.Pump/PullBinlogs", None));
    }
}
