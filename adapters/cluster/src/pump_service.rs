//! The gRPC service `binlog.Pump` (spec pump 1.2 to 1.5): turns calls into events for a Pump's driver, and the machine's
//! answers into replies.
//!
//! Decides nothing about binlogs. Keeps true:
//! * a refusal leaves as gRPC UNKNOWN with the reject's text (TiDB gives up at RESOURCE_EXHAUSTED and reconnects at UNAVAILABLE);
//! * a stream never holds more bytes than the credit that was granted: the machine emits only against credit, and
//!   credit comes back as the consumer takes;
//! * every stream that was opened is closed exactly once, whoever ends it.
//!
//! A driver calls [`connect`] (or [`channel`]), serves [`PumpHandle::service`], and maps [`PumpEvent`]s to the machine's inputs.

use crate::generated::binlog::pump_server::{Pump, PumpServer};
use crate::receive_limit::ReceiveLimit;
use binlog_core::fault::Reject;
use binlog_core::ids::{CommitTs, StreamId};
use binlog_core::proto::binlog::{Entity, Meta, Pos, PullBinlogReq, PullBinlogResp, WriteBinlogReq, WriteBinlogResp};
use binlog_core::pump::effect::StreamItem;
use bytes::{BufMut, Bytes, BytesMut};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::vec;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

/// What happened at the service.
#[derive(Debug)]
pub enum PumpEvent {
    /// One WriteBinlog call. A client that gave up is no reason not to write: the reply then goes nowhere.
    Write { cluster_id: u64, payload: Bytes, reply: WriteReply },
    /// One PullBinlogs call: everything above `last`. `credit` bytes may be emitted at once.
    PullOpen { stream: StreamId, cluster_id: u64, last: CommitTs, credit: u64, items: PullSender },
    /// The consumer took items of `bytes` payload bytes.
    PullCredit { stream: StreamId, bytes: u64 },
    /// The stream is over: its consumer went away, or it was ended by the driver. Nothing follows.
    PullClosed { stream: StreamId },
}

/// Answer of one WriteBinlog call; `Ok` is the acknowledgement. Dropped without an answer it says that the Pump is shutting down.
pub type WriteReply = oneshot::Sender<Result<(), Reject>>;

/// The driver's end for one stream. Never blocks: the credit bounds what it holds.
#[derive(Debug)]
pub struct PullSender {
    items: mpsc::UnboundedSender<Result<Vec<PullItem>, Reject>>,
    outstanding: Arc<AtomicU64>,
    credit: u64,
}

/// One item of a stream; the payload's parts are concatenated on the wire.
pub type PullItem = StreamItem;

/// The stream takes no more: its consumer is gone (a [`PumpEvent::PullClosed`] says so too), or its credit was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullGone;

impl PullSender {
    /// Hands items to the stream. It is charged with their payload bytes; the last item may overdraw the credit.
    ///
    /// # Errors
    /// When nobody takes items any more.
    pub fn send(&self, items: Vec<PullItem>) -> Result<(), PullGone> {
        let bytes: u64 = items.iter().map(PullItem::bytes).sum();
        let last = items.last().map_or(0, PullItem::bytes);
        let before = self.outstanding.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes - last);
        if before > self.credit {
            tracing::error!(
                before,
                credit = self.credit,
                "a pull stream was sent more than its credit: the stream is ended"
            );
            let _ = self.items.send(Err(Reject::Busy("stream credit exceeded")));
            return Err(PullGone);
        }
        self.items.send(Ok(items)).map_err(|_| PullGone)
    }

    /// Whether the consumer is gone: such a stream must not be opened any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.items.is_closed()
    }

    /// Ends the stream: `Ok` is a clean end. Dropping the sender is a clean end too.
    pub fn end(self, result: Result<(), Reject>) {
        if let Err(reject) = result {
            let _ = self.items.send(Err(reject));
        }
    }
}

/// Calls that may wait for the driver. TiDB sends one at a time per session; above this callers wait in HTTP/2.
pub const REQUEST_QUEUE: usize = 1024;
/// Bytes that one stream may hold in this process: enough to keep a fast consumer busy, little enough for tens of slow ones.
pub const PULL_CREDIT: u64 = 4 << 20;
/// Taken bytes are reported in steps of this part of the credit, so that small items do not make an event each.
const CREDIT_STEPS: u64 = 8;

/// Is told of each call that ended. Must not block.
pub trait CallObserver: std::fmt::Debug + Send + Sync + 'static {
    /// A WriteBinlog call with a payload of `bytes` was answered. A call that its client gave up is not.
    fn write_ended(&self, bytes: usize, result: &Result<(), Reject>, took: Duration);

    /// A PullBinlogs stream is over.
    fn pull_ended(&self, failed: bool, lived: Duration);
}

/// The service's end; clones are the same Pump.
#[derive(Debug, Clone)]
pub struct PumpHandle {
    shared: Arc<Shared>,
    observer: Option<Arc<dyn CallObserver>>,
}

#[derive(Debug)]
struct Shared {
    outlet: Box<dyn Outlet>,
    next_stream: AtomicU64,
    credit: u64,
}

/// Where a service's events go.
pub trait Outlet: std::fmt::Debug + Send + Sync + 'static {
    /// Hands over one call if there is room for it at once.
    ///
    /// # Errors
    /// Gives it back when there is none, or nobody takes calls any more.
    fn try_request(&self, event: PumpEvent) -> Result<(), TrySendError<PumpEvent>>;

    /// Hands over one call, waits for room. `false`: nobody takes calls any more.
    fn request(&self, event: PumpEvent) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// Credit and closing must never wait (they are reported while polling and dropping). Bounded by construction: per stream
    /// one closing, and one credit for each step of bytes that was emitted against credit.
    fn signal(&self, event: PumpEvent);
}

/// The sending ends of a [`PumpInbox`].
#[derive(Debug)]
struct InboxOutlet {
    requests: mpsc::Sender<PumpEvent>,
    signals: mpsc::UnboundedSender<PumpEvent>,
}

impl Outlet for InboxOutlet {
    fn try_request(&self, event: PumpEvent) -> Result<(), TrySendError<PumpEvent>> {
        self.requests.try_send(event)
    }

    fn request(&self, event: PumpEvent) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { self.requests.send(event).await.is_ok() })
    }

    fn signal(&self, event: PumpEvent) {
        let _ = self.signals.send(event);
    }
}

/// The driver's end.
#[derive(Debug)]
pub struct PumpInbox {
    requests: mpsc::Receiver<PumpEvent>,
    signals: mpsc::UnboundedReceiver<PumpEvent>,
}

/// A service and the inbox of its events, with `credit` bytes for each stream (usually [`PULL_CREDIT`]).
#[must_use]
pub fn channel(credit: u64) -> (PumpHandle, PumpInbox) {
    let (requests, requests_in) = mpsc::channel(REQUEST_QUEUE);
    let (signals, signals_in) = mpsc::unbounded_channel();
    let handle = connect(credit, InboxOutlet { requests, signals });
    (handle, PumpInbox { requests: requests_in, signals: signals_in })
}

/// A service whose events go straight to `outlet`, without an inbox in between.
#[must_use]
pub fn connect(credit: u64, outlet: impl Outlet) -> PumpHandle {
    let shared = Shared { outlet: Box::new(outlet), next_stream: AtomicU64::new(1), credit: credit.max(1) };
    PumpHandle { shared: Arc::new(shared), observer: None }
}

impl PumpInbox {
    /// The next event; signals first, they only free what is held. `None`: the service is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<PumpEvent> {
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = self.signals.recv() => Some(event),
                event = self.requests.recv() => event,
            };
            match event {
                Some(event) if !wanted(&event) => {}
                event => return event,
            }
        }
    }

    /// The next event that is there already. With `take_requests` false only signals are taken, and calls wait.
    pub fn try_recv(&mut self, take_requests: bool) -> Option<PumpEvent> {
        match self.signals.try_recv() {
            Ok(event) => Some(event),
            Err(_) if take_requests => {
                while let Ok(event) = self.requests.try_recv() {
                    if wanted(&event) {
                        return Some(event);
                    }
                }
                None
            }
            Err(_) => None,
        }
    }

    /// The next signal, while the machine is not ready for calls. Cancel safe.
    pub async fn recv_signal(&mut self) -> Option<PumpEvent> {
        self.signals.recv().await
    }

    /// Accepts no more calls; those that wait are still received.
    pub fn close(&mut self) {
        self.requests.close();
    }
}

/// Signals overtake calls: a stream whose consumer left while its opening was queued is reported as closed first, and then
/// must not be opened.
fn wanted(event: &PumpEvent) -> bool {
    !matches!(event, PumpEvent::PullOpen { items, .. } if items.is_closed())
}

impl PumpHandle {
    /// Calls of what comes from here are measured.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn CallObserver>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The tonic service, with `limit` bytes for a received message (default of the configuration:
    /// [`crate::transport::UNLIMITED_MESSAGE`]).
    #[must_use]
    pub fn service(&self, limit: usize) -> ReceiveLimit<PumpServer<Self>> {
        let server = PumpServer::new(self.clone())
            .max_decoding_message_size(limit)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        ReceiveLimit::new(server, limit)
    }

    /// One WriteBinlog call: returns with the acknowledgement.
    pub(crate) async fn write(&self, cluster_id: u64, payload: Bytes) -> Result<(), Reject> {
        let Some(observer) = &self.observer else { return self.hand_in(cluster_id, payload).await };
        let (bytes, begun) = (payload.len(), Instant::now());
        let result = self.hand_in(cluster_id, payload).await;
        observer.write_ended(bytes, &result, begun.elapsed());
        result
    }

    async fn hand_in(&self, cluster_id: u64, payload: Bytes) -> Result<(), Reject> {
        let (reply, answer) = oneshot::channel();
        self.request(PumpEvent::Write { cluster_id, payload, reply }).await?;
        answer.await.unwrap_or(Err(Reject::ShuttingDown))
    }

    async fn request(&self, event: PumpEvent) -> Result<(), Reject> {
        let taken = match self.shared.outlet.try_request(event) {
            Ok(()) => true,
            Err(TrySendError::Full(event)) => self.shared.outlet.request(event).await,
            Err(TrySendError::Closed(_)) => false,
        };
        if taken { Ok(()) } else { Err(Reject::ShuttingDown) }
    }
}

#[tonic::async_trait]
impl Pump for PumpHandle {
    async fn write_binlog(&self, request: Request<WriteBinlogReq>) -> Result<Response<WriteBinlogResp>, Status> {
        let WriteBinlogReq { cluster_id, payload } = request.into_inner();
        match self.write(cluster_id, payload).await {
            Ok(()) => Ok(Response::new(WriteBinlogResp::default())),
            Err(reject) => Err(status(&reject)),
        }
    }

    type PullBinlogsStream = PullStream;

    async fn pull_binlogs(&self, request: Request<PullBinlogReq>) -> Result<Response<PullStream>, Status> {
        let PullBinlogReq { cluster_id, start_from } = request.into_inner();
        let last = last_of(start_from)?;
        let stream = StreamId::new(self.shared.next_stream.fetch_add(1, Ordering::Relaxed));
        let (sender, items) = mpsc::unbounded_channel();
        let outstanding = Arc::new(AtomicU64::new(0));
        let credit = self.shared.credit;
        let event = PumpEvent::PullOpen {
            stream,
            cluster_id,
            last,
            credit,
            items: PullSender { items: sender, outstanding: Arc::clone(&outstanding), credit },
        };
        self.request(event).await.map_err(|reject| status(&reject))?;
        // From here on dropping the stream, at whatever point, reports it as closed.
        Ok(Response::new(PullStream {
            stream,
            items,
            batch: Vec::new().into_iter(),
            outstanding,
            taken: 0,
            shared: Arc::clone(&self.shared),
            over: false,
            failed: false,
            observer: self.observer.clone().map(|observer| (observer, Instant::now())),
        }))
    }
}

/// `suffix` is ignored, a missing position is 0, a negative one is nonsense (spec pump 1.5).
fn last_of(start_from: Option<Pos>) -> Result<CommitTs, Status> {
    let offset = start_from.unwrap_or_default().offset;
    u64::try_from(offset)
        .map(CommitTs::new)
        .map_err(|_| status(&Reject::Undecodable(format!("startFrom.offset is {offset}; a commit ts is not negative"))))
}

/// What the wire sees of a refusal: UNKNOWN and the text.
pub(crate) fn status(reject: &Reject) -> Status {
    Status::unknown(reject.to_string())
}

/// The reply stream of one PullBinlogs call.
#[derive(Debug)]
pub struct PullStream {
    stream: StreamId,
    items: mpsc::UnboundedReceiver<Result<Vec<PullItem>, Reject>>,
    /// What is left of the batch that was received last.
    batch: vec::IntoIter<PullItem>,
    outstanding: Arc<AtomicU64>,
    /// Taken by the consumer and not reported yet.
    taken: u64,
    shared: Arc<Shared>,
    over: bool,
    failed: bool,
    /// And when it began.
    observer: Option<(Arc<dyn CallObserver>, Instant)>,
}

impl PullStream {
    fn report(&mut self) {
        let bytes = std::mem::take(&mut self.taken);
        if bytes > 0 {
            self.outstanding.fetch_sub(bytes, Ordering::AcqRel);
            self.shared.outlet.signal(PumpEvent::PullCredit { stream: self.stream, bytes });
        }
    }
}

impl Stream for PullStream {
    type Item = Result<PullBinlogResp, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        // Being polled means that what was yielded before has been taken. Nothing is held back while the stream is empty:
        // the machine may be waiting for exactly this credit.
        if this.taken >= this.shared.credit / CREDIT_STEPS || (this.batch.len() == 0 && this.items.is_empty()) {
            this.report();
        }
        loop {
            if let Some(item) = this.batch.next() {
                this.taken = this.taken.saturating_add(item.bytes());
                return Poll::Ready(Some(Ok(response(item))));
            }
            match ready!(this.items.poll_recv(cx)) {
                Some(Ok(items)) => this.batch = items.into_iter(),
                Some(Err(reject)) => {
                    this.over = true;
                    this.failed = true;
                    return Poll::Ready(Some(Err(status(&reject))));
                }
                None => {
                    this.over = true;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Drop for PullStream {
    fn drop(&mut self) {
        // Closed first: whoever sees the signal must not see the stream open any more (`PumpInbox::wanted`).
        self.items.close();
        self.shared.outlet.signal(PumpEvent::PullClosed { stream: self.stream });
        if let Some((observer, begun)) = &self.observer {
            observer.pull_ended(self.failed, begun.elapsed());
        }
    }
}

/// Field by field what the original sends: an empty position, no checksum, the timestamps beside the payload.
fn response(item: PullItem) -> PullBinlogResp {
    // Timestamps are int64 on the wire; a real one never reaches the sign bit.
    let commit_ts = i64::try_from(item.commit_ts.raw()).unwrap_or(i64::MAX);
    let [first, second] = item.payload;
    let payload = if second.is_empty() {
        first
    } else if first.is_empty() {
        second
    } else {
        let mut whole = BytesMut::with_capacity(first.len() + second.len());
        whole.put_slice(&first);
        whole.put_slice(&second);
        whole.freeze()
    };
    PullBinlogResp {
        entity: Some(Entity {
            pos: Some(Pos::default()),
            payload,
            checksum: Bytes::new(),
            meta: Some(Meta { start_ts: item.start_ts, commit_ts }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn item(commit_ts: u64, payload: &'static [u8]) -> PullItem {
        PullItem {
            start_ts: 1,
            commit_ts: CommitTs::new(commit_ts),
            payload: [Bytes::from_static(payload), Bytes::new()],
        }
    }

    async fn open(handle: &PumpHandle, inbox: &mut PumpInbox) -> (PullStream, PullSender) {
        let request = PullBinlogReq { cluster_id: 7, start_from: Some(Pos { suffix: 9, offset: 5 }) };
        let stream = handle.pull_binlogs(Request::new(request)).await.unwrap().into_inner();
        match inbox.recv().await.unwrap() {
            PumpEvent::PullOpen { cluster_id: 7, last, items, .. } if last == CommitTs::new(5) => (stream, items),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn credit_comes_back_as_the_consumer_takes() {
        let (handle, mut inbox) = channel(10);
        let (mut stream, items) = open(&handle, &mut inbox).await;
        items.send(vec![item(6, b"123456"), item(7, b"123456")]).unwrap();
        assert!(inbox.try_recv(true).is_none(), "nothing was taken yet");
        stream.next().await.unwrap().unwrap();
        stream.next().await.unwrap().unwrap();
        // The second is taken when the third is asked for.
        assert!(futures::poll!(stream.next()).is_pending());
        let mut credit = 0;
        while let Some(event) = inbox.try_recv(false) {
            match event {
                PumpEvent::PullCredit { bytes, .. } => credit += bytes,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(credit, 12);
        drop(stream);
        assert!(matches!(inbox.try_recv(false), Some(PumpEvent::PullClosed { .. })));
        assert_eq!(items.send(vec![item(8, b"")]), Err(PullGone));
    }

    #[tokio::test]
    async fn more_than_the_credit_ends_the_stream() {
        let (handle, mut inbox) = channel(10);
        let (mut stream, items) = open(&handle, &mut inbox).await;
        items.send(vec![item(6, b"12345678"), item(7, b"12345678")]).unwrap();
        assert_eq!(items.send(vec![item(8, b"1")]), Err(PullGone));
        assert!(stream.next().await.unwrap().is_ok());
        assert!(stream.next().await.unwrap().is_ok());
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::Unknown);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_batch_that_goes_beyond_the_credit_with_more_than_its_last_item_is_refused() {
        let (handle, mut inbox) = channel(10);
        let (mut stream, items) = open(&handle, &mut inbox).await;
        let batch = vec![item(6, b"12345678"), item(7, b"12345678"), item(8, b"1")];
        assert_eq!(items.send(batch), Err(PullGone));
        assert!(stream.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn ends() {
        let (handle, mut inbox) = channel(10);
        let (mut stream, items) = open(&handle, &mut inbox).await;
        items.end(Ok(()));
        assert!(stream.next().await.is_none());
        let (mut stream, items) = open(&handle, &mut inbox).await;
        items.end(Err(Reject::ClusterMismatch { got: 1, own: 2 }));
        let e = stream.next().await.unwrap().unwrap_err();
        assert_eq!((e.code(), e.message()), (tonic::Code::Unknown, "cluster ID are mismatch, 1 vs 2"));
    }

    #[tokio::test]
    async fn a_stream_that_was_left_before_it_was_opened_is_never_opened() {
        let (handle, mut inbox) = channel(10);
        let stream = handle.pull_binlogs(Request::new(PullBinlogReq::default())).await.unwrap().into_inner();
        drop(stream);
        assert!(matches!(inbox.recv().await, Some(PumpEvent::PullClosed { .. })));
        assert!(inbox.try_recv(true).is_none());
    }

    #[test]
    fn positions() {
        assert_eq!(last_of(None).unwrap(), CommitTs::ZERO);
        assert_eq!(last_of(Some(Pos { suffix: 3, offset: 4 })).unwrap(), CommitTs::new(4));
        assert!(last_of(Some(Pos { suffix: 0, offset: -1 })).is_err());
    }

    #[test]
    fn parts_are_joined() {
        let two = PullItem { payload: [Bytes::from_static(b"ab"), Bytes::from_static(b"c")], ..item(9, b"") };
        let entity = response(two).entity.unwrap();
        assert_eq!(entity.payload, "abc");
        assert_eq!(entity.meta, Some(Meta { start_ts: 1, commit_ts: 9 }));
        assert_eq!(entity.pos, Some(Pos::default()));
    }
}
