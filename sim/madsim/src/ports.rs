//! Ports in memory with the shapes of the production ones: one task per slot of the log, one for the index, one per call of PD
//! and the registry; every completion comes after a delay of its own.

use crate::machine::Watched;
use crate::world::World;
use binlog_core::fault::{IoFault, Reject};
use binlog_core::ids::{CommitTs, OpId, SlotId, StreamId, WriteId};
use binlog_core::index::op::IndexOp;
use binlog_core::proto::kvrpcpb::{CheckTxnStatusResponse, KeyError, MvccGetByKeyResponse, MvccInfo, TxnNotFound};
use binlog_core::pump::effect::{Effect, StreamItem};
use binlog_core::pump::input::{GcHeld, Input};
use binlog_core::pump::machine::Class;
use binlog_core::pump::status::PumpStatus;
use binlog_core::time::Tso;
use binlog_core::vlog::op::LogOp;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status::Answerer;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The cluster id of PD.
pub const CLUSTER: u64 = 7;

pub enum Request {
    Write { payload: Bytes, reply: oneshot::Sender<Result<(), Reject>> },
    PullOpen { stream: StreamId, last: CommitTs, credit: u64, items: mpsc::UnboundedSender<Item> },
    PullCredit { stream: StreamId, bytes: u64 },
    PullClosed { stream: StreamId },
}

/// What a stream yields.
#[derive(Debug)]
pub enum Item {
    Binlog { start_ts: i64, commit_ts: CommitTs, payload: [Bytes; 2] },
    End(Result<(), Reject>),
}

/// Calls and streams that wait for the machine.
#[derive(Default)]
pub struct Calls {
    last_write: u64,
    writes: BTreeMap<WriteId, oneshot::Sender<Result<(), Reject>>>,
    streams: BTreeMap<StreamId, mpsc::UnboundedSender<Item>>,
}

pub struct Ports {
    pub world: Arc<World>,
    pub sender: Sender<Input, Request>,
    pub answerer: Answerer<PumpStatus>,
    pub calls: Calls,
    log: BTreeMap<u64, mpsc::UnboundedSender<(OpId, LogOp)>>,
    index: mpsc::UnboundedSender<(OpId, IndexOp)>,
}

impl Ports {
    #[must_use]
    pub fn new(world: Arc<World>, sender: Sender<Input, Request>, answerer: Answerer<PumpStatus>) -> Self {
        let (index, queue) = mpsc::unbounded_channel();
        tokio::spawn(serve_index(world.clone(), sender.clone(), queue));
        Self { world, sender, answerer, calls: Calls::default(), log: BTreeMap::new(), index }
    }

    /// Starts a call whose outcome comes back through [`Sender::run`], as those of PD and the registry do.
    fn call<T: Send + 'static>(
        &self,
        op: OpId,
        work: impl Future<Output = Result<T, IoFault>> + Send + 'static,
        done: impl FnOnce(Result<T, IoFault>) -> Input + Send + 'static,
    ) {
        let world = self.world.clone();
        self.sender.run(work, move |result| {
            world.sends(op);
            done(result)
        });
    }
}

impl driver::Ports<Watched> for Ports {
    type Request = Request;

    fn admit(&mut self, request: Request) -> Option<Input> {
        if matches!(request, Request::Write { .. } | Request::PullOpen { .. }) {
            self.world.with(|s| s.waiting -= 1);
        }
        Some(match request {
            Request::Write { payload, reply } => {
                self.calls.last_write += 1;
                let write = WriteId::new(self.calls.last_write);
                self.calls.writes.insert(write, reply);
                Input::Write { write, cluster_id: CLUSTER, payload }
            }
            // Its closing may have overtaken it.
            Request::PullOpen { items, .. } if items.is_closed() => {
                self.world.count("closing overtook opening");
                return None;
            }
            Request::PullOpen { stream, last, credit, items } => {
                self.calls.streams.insert(stream, items);
                Input::PullOpen { stream, cluster_id: CLUSTER, last, credit }
            }
            Request::PullCredit { stream, bytes } => Input::PullCredit { stream, bytes },
            Request::PullClosed { stream } => {
                self.calls.streams.remove(&stream);
                Input::PullClosed { stream }
            }
        })
    }

    fn execute(&mut self, effect: Effect) -> ControlFlow<u8> {
        let world = self.world.clone();
        match effect {
            Effect::Log { op, request } => {
                let queue = self.log.entry(request.slot().map_or(u64::MAX, SlotId::raw)).or_insert_with(|| {
                    let (queue, requests) = mpsc::unbounded_channel();
                    tokio::spawn(serve_slot(world, self.sender.clone(), requests));
                    queue
                });
                assert!(queue.send((op, request)).is_ok(), "the log port ended before the driver");
            }
            Effect::Index { op, request } => {
                assert!(self.index.send((op, request)).is_ok(), "the index port ended before the driver");
            }
            Effect::GetTso { op } => {
                let work = async move {
                    let lost = world.with(|s| s.rng.percent(5));
                    world.pause(1, if lost { 3_000 } else { 30 }).await;
                    if lost { Err(IoFault::Unavailable("injected time-out of PD".to_owned())) } else { Ok(world.tso()) }
                };
                self.call(op, work, move |result| Input::TsoDone { op, result });
            }
            Effect::PutStatus { op, status } => {
                let work = async move {
                    world.pause(1, 50).await;
                    let way = world.with(|s| s.rng.below(10));
                    if way != 0 {
                        world.with(|s| s.registry = Some(status));
                    }
                    world.pause(1, 50).await;
                    // A time-out before the effect, one after it.
                    if way < 2 {
                        world.count("registry time-out");
                        world.pause(1_000, 3_000).await;
                        return Err(IoFault::Unavailable("injected time-out of the registry".to_owned()));
                    }
                    Ok(())
                };
                self.call(op, work, move |result| Input::StatusDone { op, result });
            }
            Effect::NotifyDrainers { op } => {
                let work = async move {
                    world.pause(1, 200).await;
                    Ok(())
                };
                self.call(op, work, move |result| Input::NotifyDone { op, result });
            }
            Effect::ListDrainers { op } => {
                let work = async move {
                    world.pause(1, 200).await;
                    Ok(Vec::new())
                };
                self.call(op, work, move |result| Input::DrainersDone { op, result });
            }
            // Every transaction of these clients ends with its C or R: TiKV holds no more of it than a rollback needs.
            Effect::MvccByKey { op, key: _ } => {
                let work = async move {
                    world.pause(1, 30).await;
                    Ok(MvccGetByKeyResponse { info: Some(MvccInfo::default()), ..MvccGetByKeyResponse::default() })
                };
                self.call(op, work, move |result| Input::MvccDone { op, result });
            }
            Effect::CheckTxnStatus { op, request } => {
                let work = async move {
                    world.pause(1, 30).await;
                    let txn_not_found = TxnNotFound { start_ts: request.lock_ts, primary_key: request.primary_key };
                    let error = KeyError { txn_not_found: Some(txn_not_found), ..KeyError::default() };
                    Ok(CheckTxnStatusResponse { error: Some(error), ..CheckTxnStatusResponse::default() })
                };
                self.call(op, work, move |result| Input::TxnStatusDone { op, result });
            }
            Effect::GetGcSafePoint { op } => {
                let work = async move {
                    world.pause(1, 30).await;
                    Ok(Tso::ZERO)
                };
                self.call(op, work, move |result| Input::SafePointDone { op, result });
            }
            Effect::HoldGc { op, safe_point, .. } => {
                let work = async move {
                    world.pause(1, 30).await;
                    Ok(GcHeld { accepted: true, smallest: safe_point })
                };
                self.call(op, work, move |result| Input::HoldGcDone { op, result });
            }
            Effect::WriteReply { write, result } => {
                let reply = self.calls.writes.remove(&write).expect("a write is answered once");
                if reply.send(result).is_err() {
                    world.count("answer to a client that gave up");
                }
            }
            Effect::StreamItems { stream, items: batch } => {
                if let Some(items) = self.calls.streams.get(&stream) {
                    for StreamItem { start_ts, commit_ts, payload } in batch {
                        // The consumer is gone: `PullClosed` follows.
                        let _ = items.send(Item::Binlog { start_ts, commit_ts, payload });
                    }
                }
            }
            Effect::StreamEnd { stream, result } => {
                if let Some(items) = self.calls.streams.remove(&stream) {
                    let _ = items.send(Item::End(result));
                }
            }
            Effect::ActionReply { .. } | Effect::BinlogRead { .. } => {}
            Effect::Fault(_) | Effect::Notice { .. } => {}
            Effect::Stopped => return ControlFlow::Break(0),
        }
        ControlFlow::Continue(())
    }

    fn observe(&mut self, machine: &Watched) {
        self.world.assert_no_completion_is_lost();
        self.answerer.answer(|| machine.pump.status());
    }

    fn accepts_requests(&self, machine: &Watched) -> bool {
        machine.pump.ready_for(Class::Write)
    }

    fn tick(&self) -> Input {
        Input::Tick
    }
}

/// The operations of one slot, in order.
async fn serve_slot(
    world: Arc<World>,
    sender: Sender<Input, Request>,
    mut requests: mpsc::UnboundedReceiver<(OpId, LogOp)>,
) {
    while let Some((op, request)) = requests.recv().await {
        world.disk_time().await;
        let result = world.with(|s| s.disk.execute(&request));
        // A process that dies here has written, and nobody knows.
        if world.with(|s| s.rng.percent(30)) {
            world.pause(0, world.disk_ms).await;
        }
        world.sends(op);
        if !matches!(request, LogOp::Sync { .. }) || !world.loses_this() {
            sender.complete(Input::LogDone { op, result });
        }
    }
}

async fn serve_index(
    world: Arc<World>,
    sender: Sender<Input, Request>,
    mut requests: mpsc::UnboundedReceiver<(OpId, IndexOp)>,
) {
    while let Some((op, request)) = requests.recv().await {
        world.pause(0, 5).await;
        let result = world.with(|s| s.kv.execute(request));
        if world.with(|s| s.rng.percent(10)) {
            world.pause(0, 50).await;
        }
        world.sends(op);
        sender.complete(Input::IndexDone { op, result });
    }
}
