//! Events and their order: by time, then by the order in which they were scheduled.

use super::client::{Call, Step};
use super::verdict::Ask;
use binlog_core::drainer;
use binlog_core::ids::{CommitTs, OpId};
use binlog_core::index::op::IndexOp;
use binlog_core::node::status::NodeStatus;
use binlog_core::pump;
use binlog_core::sink::op::SinkOp;
use binlog_sim_models::tidb::request::{Reply, Request, Token};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Everything that can happen. `inc` is the life of a process: what belongs to an earlier one is void.
#[derive(Debug)]
pub enum Ev {
    Action(usize),
    ActionEnd(usize),
    Crash {
        node: usize,
        power: bool,
    },
    Heal,
    /// Has everything converged?
    Look,
    PumpStart {
        node: usize,
    },
    PumpInput {
        node: usize,
        inc: u32,
        input: Box<pump::input::Input>,
    },
    PumpTick {
        node: usize,
        inc: u32,
        at: u64,
    },
    /// The first operation in the queue of this slot is carried out.
    LogRun {
        node: usize,
        inc: u32,
        slot: u64,
    },
    /// A flush or a scan that has left the queue of the index.
    IndexAside {
        node: usize,
        inc: u32,
        op: OpId,
        request: Box<IndexOp>,
    },
    IndexRun {
        node: usize,
        inc: u32,
    },
    PumpTso {
        node: usize,
        inc: u32,
        op: OpId,
    },
    PumpPut {
        node: usize,
        inc: u32,
        op: OpId,
        status: Box<NodeStatus>,
    },
    PumpNotify {
        node: usize,
        inc: u32,
        op: OpId,
    },
    PumpListDrainers {
        node: usize,
        inc: u32,
        op: OpId,
    },
    /// The driver measures the free space.
    Measure {
        node: usize,
        inc: u32,
    },
    /// A question about a verdict reaches TiKV or PD.
    PumpAsks {
        node: usize,
        inc: u32,
        ask: Box<Ask>,
    },
    /// Somebody decides about a prewrite that the Pump cannot decide.
    Operator {
        node: usize,
        inc: u32,
        start: u64,
    },
    /// Somebody looks after a Pump that is read-only.
    Supervise {
        node: usize,
        inc: u32,
    },
    TxnBegin {
        txn: usize,
    },
    TxnStep {
        txn: usize,
        step: Step,
    },
    WriteArrives {
        node: usize,
        call: Call,
    },
    WriteAnswer {
        call: Call,
        ok: bool,
    },
    WriteTimeout {
        call: Call,
    },
    /// A request of a TiDB reaches PD or TiKV.
    TidbRequest {
        request: Box<Request>,
    },
    TidbAnswer {
        token: Token,
        reply: Reply,
    },
    TidbTick {
        at: u64,
    },
    TidbRestart {
        server: usize,
    },
    /// What readers and TiKV's GC do now and then.
    TidbSettle,
    PullArrives {
        stream: u64,
    },
    StreamItem {
        stream: u64,
        payload: Bytes,
        commit_ts: CommitTs,
    },
    StreamClosed {
        stream: u64,
        error: String,
    },
    ReaderOpen {
        node: usize,
        inc: u32,
    },
    DrainerStart,
    DrainerInput {
        inc: u32,
        input: Box<drainer::input::Input>,
    },
    DrainerTick {
        inc: u32,
        at: u64,
    },
    DrainerTso {
        inc: u32,
        op: OpId,
    },
    DrainerList {
        inc: u32,
        op: OpId,
    },
    DrainerPut {
        inc: u32,
        op: OpId,
        status: Box<NodeStatus>,
    },
    DrainerJob {
        inc: u32,
        op: OpId,
        job: Option<i64>,
        /// The snapshot, once there is one: a read waits out the locks that it meets.
        snapshot: Option<u64>,
    },
    DrainerNotify {
        call: u64,
    },
    Sink {
        inc: u32,
        op: OpId,
        request: Box<SinkOp>,
    },
    SinkSettle,
}

impl Ev {
    /// A number for the trace hash: what happens, to whom.
    pub fn code(&self) -> u64 {
        let (kind, who) = match self {
            Self::Action(i) => (1, *i as u64),
            Self::ActionEnd(i) => (2, *i as u64),
            Self::Heal => (3, 0),
            Self::Look => (4, 0),
            Self::PumpStart { node } => (5, *node as u64),
            Self::PumpInput { node, .. } => (6, *node as u64),
            Self::PumpTick { node, .. } => (7, *node as u64),
            Self::LogRun { node, slot, .. } => (8, *node as u64 | slot << 8),
            Self::IndexRun { node, .. } => (9, *node as u64),
            Self::IndexAside { op, .. } => (65, op.raw()),
            Self::PumpTso { op, .. } => (10, op.raw()),
            Self::PumpPut { op, .. } => (11, op.raw()),
            Self::PumpNotify { op, .. } => (12, op.raw()),
            Self::PumpListDrainers { op, .. } => (60, op.raw()),
            Self::Measure { node, .. } => (70, *node as u64),
            Self::Supervise { node, .. } => (13, *node as u64),
            Self::TxnBegin { txn } => (14, *txn as u64),
            Self::TxnStep { txn, .. } => (15, *txn as u64),
            Self::WriteArrives { call, .. } => (16, call.number),
            Self::WriteAnswer { call, .. } => (17, call.number),
            Self::WriteTimeout { call } => (18, call.number),
            Self::PullArrives { stream } => (19, *stream),
            Self::StreamItem { commit_ts, .. } => (20, commit_ts.raw()),
            Self::StreamClosed { stream, .. } => (21, *stream),
            Self::ReaderOpen { node, .. } => (22, *node as u64),
            Self::DrainerStart => (23, 0),
            Self::DrainerInput { .. } => (24, 0),
            Self::DrainerTick { .. } => (25, 0),
            Self::DrainerTso { op, .. } => (26, op.raw()),
            Self::DrainerList { op, .. } => (27, op.raw()),
            Self::DrainerPut { op, .. } => (28, op.raw()),
            Self::DrainerJob { op, .. } => (29, op.raw()),
            Self::DrainerNotify { call } => (30, *call),
            Self::Sink { op, .. } => (31, op.raw()),
            Self::SinkSettle => (32, 0),
            Self::TidbRequest { request } => (34, request.token.0),
            Self::TidbAnswer { token, .. } => (35, token.0),
            Self::TidbTick { .. } => (36, 0),
            Self::TidbRestart { server } => (38, *server as u64),
            Self::TidbSettle => (37, 0),
            Self::Crash { node, .. } => (33, *node as u64),
            Self::PumpAsks { node, .. } => (39, *node as u64),
            Self::Operator { start, .. } => (40, *start),
        };
        kind << 56 ^ who
    }
}

/// The heap moves small entries; the events themselves stay where they are until they happen.
#[derive(Debug, Default)]
pub struct Events {
    /// Time, order of scheduling, place.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    places: Vec<Option<Ev>>,
    free: Vec<usize>,
    seq: u64,
}

impl Events {
    pub fn push(&mut self, at: u64, event: Ev) {
        self.seq += 1;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                self.places.len() - 1
            }
        };
        self.heap.push(Reverse((at, self.seq, place)));
    }

    pub fn pop(&mut self) -> Option<(u64, Ev)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.places[place].take().map(|event| (at, event))
    }
}
