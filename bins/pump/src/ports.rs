//! The Pump's ports: each effect is started here, each completion goes back to the inbox.

use binlog_cluster::pd::PdClient;
use binlog_cluster::pump_client;
use binlog_cluster::pump_service::{PullItem, PullSender, PumpEvent, WriteReply};
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_cluster::tikv::TikvClient;
use binlog_core::fault::IoFault;
use binlog_core::ids::{StartTs, StreamId, WriteId};
use binlog_core::node::status::NodeState;
use binlog_core::proto::kvrpcpb::MvccGetByKeyResponse;
use binlog_core::pump::effect::{Effect, Level};
use binlog_core::pump::input::{GcHeld, Input};
use binlog_core::pump::machine::{Class, Pump};
use binlog_core::pump::status::PumpStatus;
use binlog_core::pump::verdict::Verdict;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use binlog_storage::index_store::IndexStore;
use binlog_storage::log_files::LogFiles;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What comes in from outside, with the means to answer.
pub enum Request {
    Event(PumpEvent),
    /// An operator's; answered as a write is.
    Command {
        command: Command,
        reply: WriteReply,
    },
}

pub enum Command {
    Resolve { start_ts: StartTs, verdict: Verdict },
    ReleaseFrozen,
}

/// Calls and streams that wait for the machine.
#[derive(Default)]
pub struct Calls {
    last_write: u64,
    writes: BTreeMap<WriteId, WriteReply>,
    streams: BTreeMap<StreamId, PullSender>,
}

impl Calls {
    fn write(&mut self, reply: WriteReply) -> WriteId {
        self.last_write += 1;
        let write = WriteId::new(self.last_write);
        self.writes.insert(write, reply);
        write
    }
}

pub struct Ports {
    pub log: LogFiles,
    pub index: IndexStore,
    pub pd: PdClient,
    pub tikv: TikvClient,
    pub registry: Registry,
    pub sender: Sender<Input, Request>,
    pub answerer: Answerer<PumpStatus>,
    pub calls: Calls,
}

impl driver::Ports<Pump> for Ports {
    type Request = Request;

    fn admit(&mut self, request: Request) -> Option<Input> {
        let event = match request {
            Request::Event(event) => event,
            Request::Command { command, reply } => {
                let write = self.calls.write(reply);
                return Some(match command {
                    Command::Resolve { start_ts, verdict } => Input::Resolve { write, start_ts, verdict },
                    Command::ReleaseFrozen => Input::ReleaseFrozen { write },
                });
            }
        };
        Some(match event {
            PumpEvent::Write { cluster_id, payload, reply } => {
                let write = self.calls.write(reply);
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
                let registry = self.registry.clone();
                self.sender.run(async move { registry.put(NodeKind::Pump, &status).await }, move |result| {
                    Input::StatusDone { op, result }
                });
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
                if let Some(reply) = self.calls.writes.remove(&write) {
                    // A client that gave up takes no answer.
                    let _ = reply.send(result);
                }
            }
            Effect::StreamItem { stream, start_ts, commit_ts, payload } => {
                if let Some(items) = self.calls.streams.get(&stream) {
                    // The consumer is gone: `PullClosed` follows.
                    let _ = items.send(PullItem { start_ts, commit_ts, payload });
                }
            }
            Effect::StreamEnd { stream, result } => {
                if let Some(items) = self.calls.streams.remove(&stream) {
                    items.end(result);
                }
            }
            Effect::Fault(fault) => tracing::error!("{fault}"),
            Effect::Notice { level: Level::Info, text } => tracing::info!("{text}"),
            Effect::Notice { level: Level::Warn, text } => tracing::warn!("{text}"),
            Effect::Stopped => return ControlFlow::Break(0),
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
        match pump_client::notify_drainer(&drainer.host).await {
            Ok(()) => tracing::info!(drainer = drainer.node_id, "notified"),
            Err(error) => failed.push(format!("{} at {}: {error}", drainer.node_id, drainer.host)),
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
