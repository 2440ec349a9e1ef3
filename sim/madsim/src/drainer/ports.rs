//! Ports in memory with the shapes of the production ones: one task per source that is aborted when it is closed, one queue
//! for the sink, one task per call of PD, the registry and TiKV.

use super::machine::Watched;
use super::side::World;
use super::upstream::entries;
use binlog_core::drainer::effect::{Effect, SourceId};
use binlog_core::drainer::input::{Input, ResolveAction};
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::fault::IoFault;
use binlog_core::ids::{CommitTs, OpId};
use binlog_core::sink::op::SinkOp;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

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

struct Source {
    granted: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Ports {
    world: Arc<World>,
    sender: Sender<Input, Request>,
    answerer: Answerer<DrainerStatus>,
    pub calls: Calls,
    sources: BTreeMap<SourceId, Source>,
    sink: mpsc::UnboundedSender<(OpId, SinkOp)>,
}

impl Ports {
    #[must_use]
    pub fn new(world: Arc<World>, sender: Sender<Input, Request>, answerer: Answerer<DrainerStatus>) -> Self {
        let (sink, queue) = mpsc::unbounded_channel();
        tokio::spawn(serve_sink(world.clone(), sender.clone(), queue));
        Self { world, sender, answerer, calls: Calls::default(), sources: BTreeMap::new(), sink }
    }

    /// Starts a call that takes `from..=to` milliseconds, fails now and then after a second or more, and comes back through
    /// [`Sender::run`].
    fn call<T: Send + 'static>(
        &self,
        op: OpId,
        (from_ms, to_ms): (u64, u64),
        work: impl FnOnce(&World) -> T + Send + 'static,
        done: impl FnOnce(Result<T, IoFault>) -> Input + Send + 'static,
    ) {
        let world = self.world.clone();
        let on_arrival = world.clone();
        let work = async move {
            world.pause(from_ms, to_ms).await;
            // A time-out before the effect, one after it.
            let way = world.with(|s| s.rng.below(20));
            let outcome = (way != 0).then(|| work(&world));
            world.pause(0, to_ms).await;
            match outcome {
                Some(outcome) if way > 1 => Ok(outcome),
                _ => {
                    world.count("time-out of a call");
                    world.pause(1_000, 3_000).await;
                    Err(IoFault::Unavailable("injected time-out".to_owned()))
                }
            }
        };
        self.sender.run(work, move |result| {
            on_arrival.sends(op);
            done(result)
        });
    }
}

impl driver::Ports<Watched> for Ports {
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
                self.call(op, (1, 15), |world| world.tso(), move |result| Input::TsoDone { op, result });
            }
            Effect::ListPumps { op } => {
                self.call(op, (1, 50), entries, move |result| Input::PumpsDone { op, result });
            }
            Effect::PutStatus { op, status } => {
                let put = |world: &World| world.with(|s| s.entry = Some(status));
                self.call(op, (1, 50), put, move |result| Input::StatusDone { op, result });
            }
            Effect::LoadHistory { op } => {
                let load = |world: &World| world.with(|s| s.jobs.iter().map(|(_, json)| json.clone()).collect());
                self.call(op, (1, 50), load, move |result| Input::HistoryDone { op, result });
            }
            Effect::FetchJob { op, job_id } => {
                let fetch = move |world: &World| {
                    world.with(|s| {
                        // Not in the history yet: a DDL's transaction commits after its binlog is there.
                        let late = s.rng.percent(30);
                        let job = s.jobs.iter().find(|(id, _)| *id == job_id).map(|(_, json)| json.clone());
                        job.filter(|_| !late)
                    })
                };
                self.call(op, (1, 50), fetch, move |result| Input::JobDone { op, result });
            }
            Effect::OpenSource { source, addr, last, credit, .. } => {
                self.sources.retain(|_, source| !source.task.is_finished());
                let (granted, grants) = watch::channel(credit);
                let (world, sender) = (self.world.clone(), self.sender.clone());
                let task = tokio::spawn(async move {
                    let error = pull(&world, source, &addr, last, grants, &sender).await.err();
                    sender.complete(Input::SourceClosed { source, error });
                });
                self.sources.insert(source, Source { granted, task });
            }
            Effect::SourceCredit { source, bytes } => {
                if let Some(source) = self.sources.get(&source) {
                    source.granted.send_modify(|total| *total += bytes);
                }
            }
            Effect::CloseSource { source } => {
                self.world.count("source closed");
                self.sources.remove(&source);
            }
            Effect::Sink { op, request } => {
                assert!(self.sink.send((op, request)).is_ok(), "the sink ended before the driver");
            }
            Effect::NotifyReply { call, result } => {
                let reply = self.calls.notifies.remove(&call).expect("a notification is answered once");
                if reply.send(result).is_err() {
                    self.world.count("answer to a client that gave up");
                }
            }
            Effect::ResolveReply { call, result } => {
                let reply = self.calls.resolves.remove(&call).expect("a command is answered once");
                let _ = reply.send(result);
            }
            Effect::Fault(_) | Effect::Notice { .. } => {}
            Effect::Stopped { exit_code } => return ControlFlow::Break(exit_code),
        }
        ControlFlow::Continue(())
    }

    fn observe(&mut self, machine: &Watched) {
        self.world.assert_no_completion_is_lost();
        self.answerer.answer(|| machine.drainer.status());
    }

    fn accepts_requests(&self, _machine: &Watched) -> bool {
        true
    }

    fn tick(&self) -> Input {
        Input::Tick
    }
}

/// One stream, within the credit that was granted; it breaks now and then.
async fn pull(
    world: &World,
    source: SourceId,
    addr: &str,
    last: CommitTs,
    mut grants: watch::Receiver<u64>,
    sender: &Sender<Input, Request>,
) -> Result<(), String> {
    let pump: usize = addr.strip_prefix("pump-").and_then(|n| n.parse().ok()).expect("an address of ours");
    world.pause(1, 50).await;
    if world.with(|s| s.rng.percent(10)) {
        return Err("injected: connection refused".to_owned());
    }
    let growth = world.with(|s| s.growth.clone());
    let mut at = world.with(|s| s.pumps[pump].items.partition_point(|(ts, _)| *ts <= last.raw()));
    let mut taken = 0;
    loop {
        if grants.wait_for(|granted| *granted > taken).await.is_err() {
            return Ok(());
        }
        let payload = loop {
            let grown = growth.notified();
            if let Some((_, payload)) = world.with(|s| s.pumps[pump].items.get(at).cloned()) {
                break payload;
            }
            grown.await;
        };
        if world.with(|s| s.rng.below(200)) == 0 {
            world.count("stream broken");
            return Err("injected: connection reset".to_owned());
        }
        if world.with(|s| s.rng.percent(10)) {
            world.pause(0, 10).await;
        }
        at += 1;
        taken += payload.len() as u64;
        world.with(|s| s.handed_in += payload.len() as u64);
        sender.complete(Input::SourceItem { source, payload });
    }
}

/// One session: one operation at a time, in order.
async fn serve_sink(
    world: Arc<World>,
    sender: Sender<Input, Request>,
    mut operations: mpsc::UnboundedReceiver<(OpId, SinkOp)>,
) {
    while let Some((op, request)) = operations.recv().await {
        world.disk_time().await;
        let result = world.with(|s| s.run(&request));
        // A process that dies here has committed, and nobody knows.
        if world.with(|s| s.rng.percent(30)) {
            world.pause(0, world.disk_ms).await;
        }
        world.sends(op);
        if !world.loses_this() {
            sender.complete(Input::SinkDone { op, result });
        }
    }
}
