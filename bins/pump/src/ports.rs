//! The Pump's ports: each effect is started here, each completion goes back to the inbox.

use crate::metrics::Measured;
use binlog_cluster::pd::PdClient;
use binlog_cluster::pump_client;
use binlog_cluster::pump_service::{self, PullSender, PumpEvent, WriteReply};
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_cluster::tikv::TikvClient;
use binlog_core::fault::{Fault, IoFault};
use binlog_core::ids::{StartTs, StreamId, WriteId};
use binlog_core::node::status::NodeState;
use binlog_core::proto::kvrpcpb::MvccGetByKeyResponse;
use binlog_core::pump::effect::{Effect, Level};
use binlog_core::pump::input::{Action, GcHeld, Input};
use binlog_core::pump::machine::{Class, Pump};
use binlog_core::pump::status::PumpStatus;
use binlog_core::pump::verdict::Verdict;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use binlog_storage::index_store::IndexStore;
use binlog_storage::log_files::LogFiles;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

/// Exit code when another process claimed the node id: not 0, so that a supervisor says so.
const CLAIMED: u8 = 1;

/// What comes in from outside, with the means to answer.
#[derive(Debug)]
pub enum Request {
    Event(PumpEvent),
    /// `PUT /state`; refused with the state.
    Action {
        action: Action,
        reply: oneshot::Sender<Result<(), NodeState>>,
    },
    /// `GET /debug/binlog`.
    ReadBinlog {
        ts: u64,
        reply: oneshot::Sender<Result<Bytes, String>>,
    },
    /// An operator's; answered as a write is.
    Command {
        command: Command,
        reply: WriteReply,
    },
}

#[derive(Debug)]
pub enum Command {
    Resolve { start_ts: StartTs, verdict: Verdict },
    ReleaseFrozen,
}

/// Where the service hands its events in: straight to the driver.
#[derive(Debug)]
pub struct Outlet(pub Sender<Input, Request>);

impl pump_service::Outlet for Outlet {
    fn try_request(&self, event: PumpEvent) -> Result<(), TrySendError<PumpEvent>> {
        self.0.try_request(Request::Event(event)).map_err(|error| match error {
            TrySendError::Full(Request::Event(event)) => TrySendError::Full(event),
            TrySendError::Closed(Request::Event(event)) => TrySendError::Closed(event),
            TrySendError::Full(other) | TrySendError::Closed(other) => unreachable!("an event went in, not {other:?}"),
        })
    }

    fn request(&self, event: PumpEvent) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { self.0.request(Request::Event(event)).await.is_ok() })
    }

    fn signal(&self, event: PumpEvent) {
        self.0.signal(Request::Event(event));
    }
}

/// Calls and streams that wait for the machine.
#[derive(Default)]
pub struct Calls {
    last_call: u64,
    actions: BTreeMap<u64, oneshot::Sender<Result<(), NodeState>>>,
    look_ups: BTreeMap<u64, oneshot::Sender<Result<Bytes, String>>>,
    writes: Writes,
    streams: BTreeMap<StreamId, PullSender>,
}

impl Calls {
    const fn next(&mut self) -> u64 {
        self.last_call += 1;
        self.last_call
    }
}

/// Calls of WriteBinlog by their number. Answers come nearly in the order of the calls, so a window is enough: no search, and no
/// memory to get for each call.
#[derive(Default)]
struct Writes {
    /// Number of the first in the window; the first call ever has number 1.
    first: u64,
    waiting: VecDeque<Option<WriteReply>>,
}

impl Writes {
    fn insert(&mut self, reply: WriteReply) -> WriteId {
        let number = self.first.saturating_add(self.waiting.len() as u64);
        self.waiting.push_back(Some(reply));
        WriteId::new(number.saturating_add(1))
    }

    fn remove(&mut self, write: WriteId) -> Option<WriteReply> {
        let at = usize::try_from(write.raw().checked_sub(1)?.checked_sub(self.first)?).ok()?;
        let reply = self.waiting.get_mut(at)?.take();
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
        reply
    }
}

pub struct Ports {
    pub log: LogFiles,
    pub index: IndexStore,
    pub pd: PdClient,
    pub tikv: TikvClient,
    pub registry: Registry,
    /// Token in the registry entry that this process replaces.
    pub takes_over: Option<String>,
    pub sender: Sender<Input, Request>,
    pub answerer: Answerer<PumpStatus>,
    pub calls: Calls,
    /// The exit code: not 0 when another process claimed the node id.
    pub code: u8,
    pub measured: Arc<Measured>,
}

impl driver::Ports<Pump> for Ports {
    type Request = Request;

    fn admit(&mut self, request: Request) -> Option<Input> {
        let event = match request {
            Request::Event(event) => event,
            Request::Action { action, reply } => {
                let call = self.calls.next();
                self.calls.actions.insert(call, reply);
                return Some(Input::Action { call, action });
            }
            Request::ReadBinlog { ts, reply } => {
                let call = self.calls.next();
                self.calls.look_ups.insert(call, reply);
                return Some(Input::ReadBinlog { call, ts });
            }
            Request::Command { command, reply } => {
                let write = self.calls.writes.insert(reply);
                return Some(match command {
                    Command::Resolve { start_ts, verdict } => Input::Resolve { write, start_ts, verdict },
                    Command::ReleaseFrozen => Input::ReleaseFrozen { write },
                });
            }
        };
        Some(match event {
            PumpEvent::Write { cluster_id, payload, reply } => {
                let write = self.calls.writes.insert(reply);
                Input::Write { write, cluster_id, payload }
            }
            // Its closing may have overtaken it.
            PumpEvent::PullOpen { items, .. } if items.is_closed() => return None,
            PumpEvent::PullOpen { stream, cluster_id, last, credit, items } => {
                self.calls.streams.insert(stream, items);
                Input::PullOpen { stream, cluster_id, last, credit }
            }
            PumpEvent::PullCredit { stream, bytes } => Input::PullCredit { stream, bytes },
            PumpEvent::PullClosed { stream } => {
                self.calls.streams.remove(&stream);
                Input::PullClosed { stream }
            }
        })
    }

    fn execute(&mut self, effect: Effect) -> ControlFlow<u8> {
        match effect {
            Effect::Log { op, request } => self.log.submit(op, request),
            Effect::Index { op, request } => self.index.submit(op, request),
            Effect::GetTso { op } => {
                let pd = self.pd.clone();
                self.sender.run(async move { pd.tso().await }, move |result| Input::TsoDone { op, result });
            }
            Effect::PutStatus { op, status } => {
                let (registry, over) = (self.registry.clone(), self.takes_over.clone());
                let put = async move { registry.put_own(NodeKind::Pump, &status, over.as_deref()).await };
                self.sender.run(put, move |result| Input::StatusDone { op, result });
            }
            Effect::NotifyDrainers { op } => {
                let registry = self.registry.clone();
                self.sender.run(notify_drainers(registry), move |result| Input::NotifyDone { op, result });
            }
            Effect::ListDrainers { op } => {
                let registry = self.registry.clone();
                self.sender.run(async move { registry.list_drainers().await }, move |result| Input::DrainersDone {
                    op,
                    result,
                });
            }
            Effect::MvccByKey { op, key } => {
                let tikv = self.tikv.clone();
                self.sender.run(async move { tikv.mvcc_by_key(&key).await }, move |result| Input::MvccDone {
                    op,
                    result: result.map(without_values),
                });
            }
            Effect::CheckTxnStatus { op, request } => {
                let tikv = self.tikv.clone();
                self.sender.run(async move { tikv.check_txn_status(request).await }, move |result| {
                    Input::TxnStatusDone { op, result }
                });
            }
            Effect::GetGcSafePoint { op } => {
                let pd = self.pd.clone();
                self.sender
                    .run(async move { pd.gc_safe_point().await }, move |result| Input::SafePointDone { op, result });
            }
            Effect::HoldGc { op, service, ttl_seconds, safe_point } => {
                let pd = self.pd.clone();
                let work = async move { pd.update_service_gc_safe_point(&service, ttl_seconds, safe_point).await };
                self.sender.run(work, move |result| Input::HoldGcDone {
                    op,
                    result: result.map(|held| GcHeld { accepted: held.accepted, smallest: held.min_safe_point }),
                });
            }
            Effect::WriteReply { write, result } => {
                if let Some(reply) = self.calls.writes.remove(write) {
                    // A client that gave up takes no answer.
                    let _ = reply.send(result);
                }
            }
            Effect::StreamItems { stream, items: batch } => {
                if let Some(items) = self.calls.streams.get(&stream) {
                    // The consumer is gone: `PullClosed` follows.
                    let _ = items.send(batch);
                }
            }
            Effect::StreamEnd { stream, result } => {
                if let Some(items) = self.calls.streams.remove(&stream) {
                    items.end(result);
                }
            }
            Effect::ActionReply { call, result } => {
                if let Some(reply) = self.calls.actions.remove(&call) {
                    // Whoever asked may have gone away, here and below.
                    let _ = reply.send(result);
                }
            }
            Effect::BinlogRead { call, result } => {
                if let Some(reply) = self.calls.look_ups.remove(&call) {
                    let _ = reply.send(result);
                }
            }
            Effect::Fault(fault) => {
                if matches!(fault, Fault::Claimed(_)) {
                    self.code = CLAIMED;
                }
                self.measured.fault(&fault);
                tracing::error!("{fault}");
            }
            Effect::Notice { level: Level::Info, text } => tracing::info!("{text}"),
            Effect::Notice { level: Level::Warn, text } => tracing::warn!("{text}"),
            Effect::Stopped => return ControlFlow::Break(self.code),
        }
        ControlFlow::Continue(())
    }

    fn observe(&mut self, machine: &Pump) {
        self.answerer.answer(|| machine.status());
    }

    fn accepts_requests(&self, machine: &Pump) -> bool {
        machine.ready_for(Class::Write)
    }

    fn tick(&self) -> Input {
        Input::Tick
    }
}

/// A key's old values may be large, and say nothing about its transactions.
fn without_values(mut reply: MvccGetByKeyResponse) -> MvccGetByKeyResponse {
    if let Some(info) = &mut reply.info {
        info.values = Vec::new();
        info.writes.iter_mut().for_each(|write| write.short_value = Bytes::new());
    }
    reply
}

/// Every Drainer that the registry shows as exactly online must answer (spec pump 4.4).
async fn notify_drainers(registry: Registry) -> Result<(), IoFault> {
    let drainers = registry.list_drainers().await.map_err(IoFault::from)?;
    let mut failed = Vec::new();
    for drainer in drainers.iter().filter(|d| d.state == NodeState::Online) {
        match pump_client::notify_drainer(&drainer.host, registry.security()).await {
            Ok(()) => tracing::info!(drainer = drainer.node_id, "notified"),
            Err(error) => {
                let last = drainer.update_ts;
                failed.push(format!("{} at {} (updateTS {last}): {error}", drainer.node_id, drainer.host));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(IoFault::Unavailable(format!(
        "fail to notify all living drainer: {}; start it, or set its state to paused or offline if it is gone",
        failed.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_gets_its_own_answer_once_in_any_order() {
        let mut writes = Writes::default();
        let (ids, mut answers): (Vec<_>, Vec<_>) = (0..4)
            .map(|_| {
                let (reply, answer) = tokio::sync::oneshot::channel();
                (writes.insert(reply), answer)
            })
            .unzip();
        for (done, n) in [2, 0, 3, 1].into_iter().enumerate() {
            writes.remove(ids[n]).unwrap().send(Ok(())).unwrap();
            assert!(answers[n].try_recv().unwrap().is_ok());
            assert!(writes.remove(ids[n]).is_none());
            assert_eq!(writes.waiting.len(), [4, 3, 3, 0][done], "what was answered is forgotten");
        }
        let (reply, _answer) = tokio::sync::oneshot::channel();
        assert_eq!(writes.insert(reply), WriteId::new(5));
        for unknown in [0, 4, 6, u64::MAX] {
            assert!(writes.remove(WriteId::new(unknown)).is_none(), "{unknown}");
        }
    }
}
