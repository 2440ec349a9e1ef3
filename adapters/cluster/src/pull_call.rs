//! PullBinlogs with an encoder of its own: an item's parts go straight into the bytes of the reply, which are cut from large buffers.
//! On the wire nothing differs from the general way (a test holds both against each other; `tests/node.rs` runs over this one).
//!
//! Wraps the generated service; every other call goes through. Called by `pump_service`.

use crate::generated::binlog::pump_server::PumpServer;
use crate::pump_service::{PullItem, PullItems, PumpHandle};
use binlog_core::proto::binlog::{Meta, PullBinlogReq};
use bytes::{BufMut, Bytes};
use http::{Request, Response};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, CompressionEncoding, EnabledCompressionEncodings, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic_prost::ProstDecoder;
use tower::Service;

/// The service of a Pump, with PullBinlogs taken out of the generated one.
#[derive(Debug, Clone)]
pub struct PullCalls {
    pump: PumpHandle,
    inner: PumpServer<PumpHandle>,
    /// Largest message received.
    limit: usize,
}

const PATH: &str = "/binlog.Pump/PullBinlogs";

impl PullCalls {
    pub(crate) const fn new(pump: PumpHandle, inner: PumpServer<PumpHandle>, limit: usize) -> Self {
        Self { pump, inner, limit }
    }
}

impl NamedService for PullCalls {
    const NAME: &'static str = PumpServer::<PumpHandle>::NAME;
}

impl Service<Request<Body>> for PullCalls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return self.inner.call(request);
        }
        let (pump, limit) = (self.pump.clone(), self.limit);
        let mut gzip = EnabledCompressionEncodings::default();
        gzip.enable(CompressionEncoding::Gzip);
        Box::pin(async move {
            let grpc = Grpc::new(ItemCodec).apply_compression_config(gzip, gzip);
            Ok(grpc.apply_max_message_size_config(Some(limit), None).server_streaming(Pull(pump), request).await)
        })
    }
}

struct Pull(PumpHandle);

impl ServerStreamingService<PullBinlogReq> for Pull {
    type Response = PullItem;
    type ResponseStream = PullItems;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<PullItems>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<PullBinlogReq>) -> Self::Future {
        let pump = self.0.clone();
        Box::pin(async move { pump.pull(request.into_inner()).await.map(tonic::Response::new) })
    }
}

struct ItemCodec;

impl Codec for ItemCodec {
    type Encode = PullItem;
    type Decode = PullBinlogReq;
    type Encoder = ItemEncoder;
    type Decoder = ProstDecoder<PullBinlogReq>;

    fn encoder(&mut self) -> ItemEncoder {
        ItemEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

struct ItemEncoder;

impl Encoder for ItemEncoder {
    type Item = PullItem;
    type Error = Status;

    fn encode(&mut self, item: PullItem, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let payload: usize = item.payload.iter().map(Bytes::len).sum();
        out.reserve(payload.saturating_add(FRAMING));
        encode(&item, out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

/// Field by field what the original sends: an empty position, no checksum, the timestamps beside the payload.
fn encode(item: &PullItem, out: &mut impl BufMut) {
    let [first, second] = &item.payload;
    let payload = first.len() + second.len();
    let meta = meta_of(item);
    let meta_len = meta.encoded_len();
    // An empty payload is left out, as everything is in proto3 that has its default value.
    let field = if payload == 0 { 0 } else { 1 + encoded_len_varint(payload as u64) + payload };
    let entity = POSITION.len() + field + 1 + encoded_len_varint(meta_len as u64) + meta_len;
    encode_key(ENTITY, WireType::LengthDelimited, out);
    encode_varint(entity as u64, out);
    out.put_slice(&POSITION);
    if payload > 0 {
        encode_key(PAYLOAD, WireType::LengthDelimited, out);
        encode_varint(payload as u64, out);
        out.put_slice(first);
        out.put_slice(second);
    }
    encode_key(META, WireType::LengthDelimited, out);
    encode_varint(meta_len as u64, out);
    meta.encode_raw(out);
}

/// The timestamps beside the payload.
pub fn meta_of(item: &PullItem) -> Meta {
    // Timestamps are int64 on the wire; a real one never reaches the sign bit.
    let commit_ts = i64::try_from(item.commit_ts.raw()).unwrap_or(i64::MAX);
    Meta { start_ts: item.start_ts, commit_ts }
}

/// Field numbers of `PullBinlogResp` and `Entity`.
const ENTITY: u32 = 1;
const PAYLOAD: u32 = 2;
const META: u32 = 4;
/// Field 1 of `Entity`: an empty `Pos`.
const POSITION: [u8; 2] = [0x0a, 0];
/// No item needs more beside its payload.
const FRAMING: usize = 64;
/// Replies are cut from buffers of this size: with the default of 8 KB a buffer grows, and is copied, for every few items.
const BUFFER: usize = 64 << 10;
/// So much is handed to HTTP/2 at once; less than a buffer, so that what follows the last item seldom makes it grow.
const YIELD: usize = 48 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::ids::CommitTs;
    use binlog_core::proto::binlog::{Entity, Pos, PullBinlogResp};
    use bytes::BytesMut;

    /// As the generated code does it.
    fn general(item: &PullItem) -> Vec<u8> {
        let payload = item.payload.concat().into();
        let entity = Entity { pos: Some(Pos::default()), payload, checksum: Bytes::new(), meta: Some(meta_of(item)) };
        PullBinlogResp { entity: Some(entity) }.encode_to_vec()
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_code() {
        let mut lengths: Vec<usize> = (0..300).collect();
        lengths.extend([16_000, 16_384, 100_000, 3 << 20]);
        for len in lengths {
            for (start_ts, commit_ts) in [(0, 0), (1, 2), (470_000_000_000_000_000, 470_000_000_000_000_001), (-1, 7)] {
                for cut in [0, len / 2, len] {
                    let all = Bytes::from((0..=250).cycle().take(len).collect::<Vec<u8>>());
                    let payload = [all.slice(..cut), all.slice(cut..)];
                    let item = PullItem { start_ts, commit_ts: CommitTs::new(commit_ts), payload };
                    let mut bytes = BytesMut::new();
                    encode(&item, &mut bytes);
                    assert!(bytes == general(&item)[..], "{len} bytes, cut at {cut}, {start_ts} {commit_ts}");
                }
            }
        }
    }
}
