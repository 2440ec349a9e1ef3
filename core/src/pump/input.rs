//! What happens to a Pump: requests of clients, completions of its own effects, time.

use super::verdict::Verdict;
use crate::fault::IoFault;
use crate::ids::{CommitTs, OpId, StartTs, StreamId, WriteId};
use crate::index::op::IndexReply;
use crate::node::status::NodeStatus;
use crate::proto::kvrpcpb::{CheckTxnStatusResponse, MvccGetByKeyResponse};
use crate::time::Tso;
use crate::vlog::op::LogReply;
use bytes::Bytes;

#[derive(Debug)]
pub enum Input {
    /// Begin: recover log and index, then register and serve. Handed in once.
    Start,
    /// One WriteBinlog call (spec pump 1.4).
    Write {
        write: WriteId,
        cluster_id: u64,
        payload: Bytes,
    },
    /// A Drainer pulls everything above `last` (spec pump 1.5). `credit`: bytes that may be emitted before more is granted.
    PullOpen {
        stream: StreamId,
        cluster_id: u64,
        last: CommitTs,
        credit: u64,
    },
    /// The stream's consumer took `bytes`.
    PullCredit {
        stream: StreamId,
        bytes: u64,
    },
    /// The stream's consumer went away.
    PullClosed {
        stream: StreamId,
    },
    LogDone {
        op: OpId,
        result: Result<LogReply, IoFault>,
    },
    IndexDone {
        op: OpId,
        result: Result<IndexReply, IoFault>,
    },
    TsoDone {
        op: OpId,
        result: Result<Tso, IoFault>,
    },
    StatusDone {
        op: OpId,
        result: Result<(), IoFault>,
    },
    NotifyDone {
        op: OpId,
        result: Result<(), IoFault>,
    },
    DrainersDone {
        op: OpId,
        result: Result<Vec<NodeStatus>, IoFault>,
    },
    MvccDone {
        op: OpId,
        result: Result<MvccGetByKeyResponse, IoFault>,
    },
    TxnStatusDone {
        op: OpId,
        result: Result<CheckTxnStatusResponse, IoFault>,
    },
    SafePointDone {
        op: OpId,
        result: Result<Tso, IoFault>,
    },
    HoldGcDone {
        op: OpId,
        result: Result<GcHeld, IoFault>,
    },
    /// An operator decides about a prewrite that nobody else can; answered like a write, when it is durable.
    Resolve {
        write: WriteId,
        start_ts: StartTs,
        verdict: Verdict,
    },
    /// An operator gives up the commits that froze the watermark; answered like a write.
    ReleaseFrozen {
        write: WriteId,
    },
    /// Free bytes on the file system of the data directory, from time to time.
    Space {
        available: u64,
        capacity: u64,
    },
    /// Stop: refuse prewrites, drain, register as paused, then `Effect::Stopped`.
    Shutdown,
    /// A deadline may have passed.
    Tick,
}

/// PD's answer about a service safe point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcHeld {
    /// `false`: the smallest point is above what was asked for.
    pub accepted: bool,
    /// The smallest point of all services.
    pub smallest: Tso,
}
