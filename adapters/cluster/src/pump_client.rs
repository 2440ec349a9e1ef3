//! Clients of other nodes: pulling from a Pump (spec drainer 2.2), writing to one (tests, the feeder), notifying a Drainer
//! (spec pump 4.4).
//!
//! Decides nothing about reconnecting: a failed stream is over, its owner opens the next one.

use crate::error::{NodeError, chain_of};
use crate::generated::binlog::cistern_client::CisternClient;
use crate::generated::binlog::pump_client::PumpClient as Grpc;
use crate::tls::Security;
use crate::transport::{self, CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Target, UNLIMITED_MESSAGE};
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::{NotifyReq, Pos, PullBinlogReq, WriteBinlogReq};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

/// Payloads (serialised `Binlog`s) of one Pump in rising order of commit timestamp. Ends with `None` when the Pump closes it.
pub struct PullStream {
    payloads: BoxStream<'static, Result<Bytes, NodeError>>,
}

/// Pulls everything above `last` from the Pump at `address` (`host:port`). Returns once connected; whether the Pump accepts the
/// request shows in the first item, which an idle Pump may send late. A host that dies in silence ends the stream with an
/// error after [`transport::KEEP_ALIVE_INTERVAL`] plus [`transport::KEEP_ALIVE_TIMEOUT`].
///
/// # Errors
/// A bad address, or nobody there within [`CONNECT_TIMEOUT`].
pub async fn open(address: &str, cluster_id: ClusterId, last: CommitTs, gzip: bool) -> Result<PullStream, NodeError> {
    open_with(address, cluster_id, last, PullOptions { gzip, ..PullOptions::default() }).await
}

/// How a stream is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Asks the Pump to compress.
    pub gzip: bool,
    pub security: Security,
    /// Keep-alive: interval and time-out.
    pub keep_alive: (Duration, Duration),
}

impl Default for PullOptions {
    fn default() -> Self {
        let keep_alive = (KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT);
        Self { gzip: false, security: Security::plaintext(), keep_alive }
    }
}

/// [`open`] with all options.
///
/// # Errors
/// As [`open`].
pub async fn open_with(
    address: &str,
    cluster_id: ClusterId,
    last: CommitTs,
    options: PullOptions,
) -> Result<PullStream, NodeError> {
    let PullOptions { gzip, security, keep_alive: (interval, silence) } = options;
    let channel = dial(address, transport::stream_endpoint(address, &security, interval, silence)?).await?;
    let mut client = Grpc::new(channel).max_decoding_message_size(UNLIMITED_MESSAGE);
    if gzip {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    client = client.accept_compressed(CompressionEncoding::Gzip);
    let offset = i64::try_from(last.raw()).map_err(|_| NodeError::BadReply {
        address: address.to_owned(),
        what: format!("cannot pull from commit ts {last}: it does not fit into the request"),
    })?;
    let request = PullBinlogReq { cluster_id: cluster_id.raw(), start_from: Some(Pos { suffix: 0, offset }) };
    let address = address.to_owned();
    // Opening is part of the stream: a Go server sends its headers with the first item only.
    let opening = {
        let address = address.clone();
        async move {
            let replies = client.pull_binlogs(request).await.map_err(|s| NodeError::rpc(&address, &s))?;
            Ok::<_, NodeError>(replies.into_inner().map_err(move |s| NodeError::rpc(&address, &s)))
        }
    };
    let payloads = futures::stream::once(opening)
        .try_flatten()
        .map(move |reply| {
            reply?.entity.map(|entity| entity.payload).ok_or_else(|| NodeError::BadReply {
                address: address.clone(),
                what: "an item without entity".to_owned(),
            })
        })
        .boxed();
    Ok(PullStream { payloads })
}

impl Stream for PullStream {
    type Item = Result<Bytes, NodeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().payloads.poll_next_unpin(cx)
    }
}

/// Writes binlogs to one Pump. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct PumpWriter {
    address: String,
    client: Grpc<Channel>,
}

/// What TiDB allows for one write (spec pump, section 0).
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

impl PumpWriter {
    /// # Errors
    /// A bad address, or nobody there within [`CONNECT_TIMEOUT`].
    pub async fn connect(address: &str) -> Result<Self, NodeError> {
        Self::connect_with(address, &Security::plaintext()).await
    }

    /// [`PumpWriter::connect`] with TLS, if `security` has it.
    ///
    /// # Errors
    /// As [`PumpWriter::connect`].
    pub async fn connect_with(address: &str, security: &Security) -> Result<Self, NodeError> {
        let client = Grpc::new(connect(address, security).await?).max_decoding_message_size(UNLIMITED_MESSAGE);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Dials with the first call, and again after each loss, as TiDB's client does: what fails then is an error of a call, with
    /// code UNAVAILABLE.
    ///
    /// # Errors
    /// A bad address.
    pub fn connect_lazy(address: &str, security: &Security) -> Result<Self, NodeError> {
        let channel = transport::endpoint(address, security)?.connect_lazy();
        let client = Grpc::new(channel).max_decoding_message_size(UNLIMITED_MESSAGE);
        Ok(Self { address: address.to_owned(), client })
    }

    /// Writes one serialised `Binlog` within [`WRITE_TIMEOUT`]; `Ok` is the acknowledgement.
    ///
    /// # Errors
    /// The Pump's refusal is [`NodeError::Rpc`] with code UNKNOWN, as is the older form, a reply that carries a text.
    pub async fn write(&self, cluster_id: ClusterId, payload: Bytes) -> Result<(), NodeError> {
        self.write_within(cluster_id, payload, WRITE_TIMEOUT).await
    }

    /// [`PumpWriter::write`] with another time-out, dialling included.
    ///
    /// # Errors
    /// As [`PumpWriter::write`].
    pub async fn write_within(&self, cluster_id: ClusterId, payload: Bytes, limit: Duration) -> Result<(), NodeError> {
        let request = WriteBinlogReq { cluster_id: cluster_id.raw(), payload };
        let mut client = self.client.clone();
        match tokio::time::timeout(limit, client.write_binlog(request)).await {
            Err(_) => Err(timeout(&self.address, limit)),
            Ok(Err(status)) => Err(NodeError::rpc(&self.address, &status)),
            Ok(Ok(reply)) => {
                let message = reply.into_inner().errmsg;
                if message.is_empty() {
                    return Ok(());
                }
                Err(NodeError::Rpc { address: self.address.clone(), code: tonic::Code::Unknown, message })
            }
        }
    }
}

/// All attempts of one Notify (spec pump 4.4).
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(10);
const NOTIFY_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Tells the Drainer at `address` that there is a new Pump; returns once the Drainer knows it.
///
/// # Errors
/// The last failure of four attempts within [`NOTIFY_TIMEOUT`].
pub async fn notify_drainer(address: &str, security: &Security) -> Result<(), NodeError> {
    let deadline = Instant::now() + NOTIFY_TIMEOUT;
    let mut pauses = NOTIFY_PAUSES.into_iter();
    loop {
        let error = match tokio::time::timeout_at(deadline, notify_once(address, security)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e @ NodeError::Address(_))) => return Err(e),
            Ok(Err(e)) => e,
            Err(_) => return Err(timeout(address, NOTIFY_TIMEOUT)),
        };
        match pauses.next() {
            Some(pause) if Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
            _ => return Err(error),
        }
    }
}

async fn notify_once(address: &str, security: &Security) -> Result<(), NodeError> {
    let mut client = CisternClient::new(connect(address, security).await?);
    client.notify(NotifyReq {}).await.map(|_| ()).map_err(|s| NodeError::rpc(address, &s))
}

async fn connect(address: &str, security: &Security) -> Result<Channel, NodeError> {
    dial(address, transport::endpoint(address, security)?).await
}

async fn dial(address: &str, target: Target) -> Result<Channel, NodeError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, target.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(NodeError::Connect { address: address.to_owned(), why: chain_of(&e) }),
        Err(_) => Err(timeout(address, CONNECT_TIMEOUT)),
    }
}

fn timeout(address: &str, limit: Duration) -> NodeError {
    NodeError::Timeout { address: address.to_owned(), millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
}
