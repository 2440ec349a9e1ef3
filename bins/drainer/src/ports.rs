//! The Drainer's ports: each effect is started here, each completion goes back to the inbox.

use crate::sink::SinkQueue;
use crate::source::Sources;
use binlog_cluster::pd::PdClient;
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_cluster::tikv::TikvClient;
use binlog_core::drainer::effect::Effect;
use binlog_core::drainer::input::{Input, ResolveAction};
use binlog_core::drainer::machine::Drainer;
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::ids::CommitTs;
use binlog_core::machine::Machine;
use binlog_core::pump::effect::Level;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use tokio::sync::oneshot;

/// What comes in from outside, with the means to answer.
pub enum Request {
    Notify(oneshot::Sender<Result<(), String>>),
    Resolve { commit_ts: CommitTs, action: ResolveAction, reply: oneshot::Sender<Result<String, String>> },
    Shutdown,
}

/// Calls that wait for the machine's answer.
#[derive(Default)]
pub struct Calls {
    last: u64,
    notifies: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    resolves: BTreeMap<u64, oneshot::Sender<Result<String, String>>>,
}

pub struct Ports {
    pub pd: PdClient,
    pub tikv: TikvClient,
    pub registry: Registry,
    pub sink: SinkQueue,
    pub sources: Sources,
    pub sender: Sender<Input, Request>,
    pub answerer: Answerer<DrainerStatus>,
    pub calls: Calls,
}

impl driver::Ports<Drainer> for Ports {
    type Request = Request;

    fn admit(&mut self, request: Request) -> Option<Input> {
        self.calls.last += 1;
        let call = self.calls.last;
        Some(match request {
            Request::Notify(reply) => {
                self.calls.notifies.insert(call, reply);
                Input::Notify { call }
            }
            Request::Resolve { commit_ts, action, reply } => {
                self.calls.resolves.insert(call, reply);
                Input::Resolve { call, commit_ts, action }
            }
            Request::Shutdown => Input::Shutdown,
        })
    }

    fn execute(&mut self, effect: Effect) -> ControlFlow<u8> {
        match effect {
            Effect::GetTso { op } => {
                let pd = self.pd.clone();
                self.sender.run(async move { pd.tso().await }, move |result| Input::TsoDone { op, result });
            }
            Effect::ListPumps { op } => {
                let registry = self.registry.clone();
                self.sender
                    .run(async move { registry.list_pumps().await }, move |result| Input::PumpsDone { op, result });
            }
            Effect::PutStatus { op, status } => {
                let registry = self.registry.clone();
                self.sender.run(async move { registry.put(NodeKind::Drainer, &status).await }, move |result| {
                    Input::StatusDone { op, result }
                });
            }
            Effect::LoadHistory { op } => {
                let tikv = self.tikv.clone();
                self.sender
                    .run(async move { tikv.history_jobs().await }, move |result| Input::HistoryDone { op, result });
            }
            Effect::FetchJob { op, job_id } => {
                let tikv = self.tikv.clone();
                self.sender
                    .run(async move { tikv.history_job(job_id).await }, move |result| Input::JobDone { op, result });
            }
            Effect::OpenSource { source, pump, addr, last, credit } => {
                tracing::info!(pump = pump.as_str(), addr, last = last.raw(), "pump create pull binlogs client");
                self.sources.open(source, addr, last, credit);
            }
            Effect::SourceCredit { source, bytes } => self.sources.grant(source, bytes),
            Effect::CloseSource { source } => self.sources.close(source),
            Effect::Sink { op, request } => {
                // The task ends only after this queue is dropped.
                let _ = self.sink.send((op, request));
            }
            Effect::NotifyReply { call, result } => {
                if let Some(reply) = self.calls.notifies.remove(&call) {
                    let _ = reply.send(result);
                }
            }
            Effect::ResolveReply { call, result } => {
                if let Some(reply) = self.calls.resolves.remove(&call) {
                    let _ = reply.send(result);
                }
            }
            Effect::Fault(fault) => tracing::error!("{fault}"),
            Effect::Notice { level: Level::Info, text } => tracing::info!("{text}"),
            Effect::Notice { level: Level::Warn, text } => tracing::warn!("{text}"),
            Effect::Stopped { exit_code } => return ControlFlow::Break(exit_code),
        }
        ControlFlow::Continue(())
    }

    fn observe(&mut self, machine: &Drainer) {
        self.answerer.answer(|| machine.status());
    }

    fn accepts_requests(&self, _machine: &Drainer) -> bool {
        true
    }

    fn tick(&self) -> <Drainer as Machine>::Input {
        Input::Tick
    }
}
