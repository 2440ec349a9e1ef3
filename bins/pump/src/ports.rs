//! The Pump's ports: each effect is started here, each completion goes back to the inbox.

use crate::metrics::Measured;
use binlog_cluster::pd::PdClient;
use binlog_cluster::pump_client;
use binlog_cluster::pump_service::{PullItem, PullSender, PumpEvent, WriteReply};
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::fault::IoFault;
use binlog_core::ids::{StreamId, WriteId};
use binlog_core::node::status::NodeState;
use binlog_core::pump::effect::{Effect, Level};
use binlog_core::pump::input::Input;
use binlog_core::pump::machine::{Class, Pump};
use binlog_core::pump::status::PumpStatus;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use binlog_storage::index_store::IndexStore;
use binlog_storage::log_files::LogFiles;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What comes in from outside, with the means to answer.
pub enum Request {
    Event(PumpEvent),
}

/// Calls and streams that wait for the machine.
#[derive(Default)]
pub struct Calls {
    last_write: u64,
    writes: BTreeMap<WriteId, WriteReply>,
    streams: BTreeMap<StreamId, PullSender>,
}

pub struct Ports {
    pub log: LogFiles,
    pub index: IndexStore,
    pub pd: PdClient,
    pub registry: Registry,
    pub sender: Sender<Input, Request>,
    pub answerer: Answerer<PumpStatus>,
    pub calls: Calls,
    pub measured: Arc<Measured>,
}

impl driver::Ports<Pump> for Ports {
    type Request = Request;

    fn admit(&mut self, Request::Event(event): Request) -> Option<Input> {
        Some(match event {
            PumpEvent::Write { cluster_id, payload, reply } => {
                self.calls.last_write += 1;
                let write = WriteId::new(self.calls.last_write);
                self.calls.writes.insert(write, reply);
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
                    result: result.map_err(IoFault::from),
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
            Effect::Fault(fault) => {
                self.measured.fault(&fault);
                tracing::error!("{fault}");
            }
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

/// Every Drainer that the registry shows as exactly online must answer (spec pump 4.4).
async fn notify_drainers(registry: Registry) -> Result<(), IoFault> {
    let drainers = registry.list_drainers().await.map_err(IoFault::from)?;
    let mut failed = Vec::new();
    for drainer in drainers.iter().filter(|d| d.state == NodeState::Online) {
        match pump_client::notify_drainer(&drainer.host, registry.security()).await {
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
