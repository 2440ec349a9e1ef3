//! What a Pump asks of the world. Every request carries an [`OpId`]; exactly one completion of [`super::input::Input`]
//! carries it back. Replies and notices carry none.

use crate::fault::{Fault, Reject};
use crate::ids::{CommitTs, OpId, StreamId, WriteId};
use crate::index::op::IndexOp;
use crate::node::status::{NodeState, NodeStatus};
use crate::proto::kvrpcpb::CheckTxnStatusRequest;
use crate::time::Tso;
use crate::vlog::op::LogOp;
use bytes::Bytes;

#[derive(Debug)]
pub enum Effect {
    /// Value-log operation. The port carries out the operations of one slot in the order in which they were emitted.
    Log { op: OpId, request: LogOp },
    /// Index operation; see [`IndexOp`] for their order.
    Index { op: OpId, request: IndexOp },
    /// Fetch one timestamp from PD.
    GetTso { op: OpId },
    /// Write this node's registry entry, unless it carries another life's token: then nothing is written and the completion is
    /// `IoFault::Claimed` (design 3.5).
    PutStatus { op: OpId, status: NodeStatus },
    /// Call `Cistern.Notify` on every Drainer that is online in the registry.
    NotifyDrainers { op: OpId },
    /// Read the registry entries of all Drainers, linearizably (GC, going offline; spec pump 4.5, rules 6).
    ListDrainers { op: OpId },
    /// Everything TiKV knows about the versions of a raw key (`MvccGetByKey`; rules 1). Their values may be left out.
    MvccByKey { op: OpId, key: Bytes },
    /// The fate of a transaction by its primary key (`KvCheckTxnStatus`; the context is the port's). It may change that fate.
    CheckTxnStatus { op: OpId, request: CheckTxnStatusRequest },
    /// PD's GC safe point, read now.
    GetGcSafePoint { op: OpId },
    /// Ask PD that GC stay at or below `safe_point` on behalf of `service`; a TTL of 0 takes that back.
    HoldGc { op: OpId, service: String, ttl_seconds: i64, safe_point: Tso },
    /// Answer of one WriteBinlog call, or of an operator's command: leaves only after durability (or with the reject).
    WriteReply { write: WriteId, result: Result<(), Reject> },
    /// The next items of a stream, in order; at least one.
    StreamItems { stream: StreamId, items: Vec<StreamItem> },
    /// The stream ends; `Ok` is a clean end.
    StreamEnd { stream: StreamId, result: Result<(), Reject> },
    /// Answer to an operator's action; refused in this state.
    ActionReply { call: u64, result: Result<(), NodeState> },
    /// Answer to a look-up: the payload as it is stored, or why there is none.
    BinlogRead { call: u64, result: Result<Bytes, String> },
    /// Said once per occurrence; the driver logs it at ERROR and counts it.
    Fault(Fault),
    /// A line for the log, without row values.
    Notice { level: Level, text: String },
    /// All is drained and the final state is registered: the process may exit.
    Stopped,
}

/// One item of a stream: `payload` is the serialised Binlog in parts, to be concatenated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamItem {
    pub start_ts: i64,
    pub commit_ts: CommitTs,
    pub payload: [Bytes; 2],
}

impl StreamItem {
    /// What it costs of a stream's credit.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.payload.iter().map(|part| part.len() as u64).sum()
    }
}

/// Level of a [`Effect::Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
}
