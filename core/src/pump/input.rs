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
    /// An operator asks for a round of GC now (spec pump 5); whether it began is in the status (`collector.triggered`).
    TriggerGc,
    /// An operator's wish (spec pump 5, `PUT /state`); answered by `Effect::ActionReply`.
    Action {
        call: u64,
        action: Action,
    },
    /// The record with this start_ts (a P) or commit_ts is wanted (spec pump 5, `/debug/binlog`); answered by
    /// `Effect::BinlogRead`.
    ReadBinlog {
        call: u64,
        ts: u64,
    },
    /// A signal to stop: refuse prewrites, drain, register as paused, then `Effect::Stopped`. While closing it takes the wish to
    /// go offline back.
    Shutdown,
    /// A deadline may have passed.
    Tick,
}

/// What an operator may ask of a running Pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop, registered as `paused`.
    Pause,
    /// Go offline: serve until every Drainer has everything, then stop, registered as `offline`.
    Close,
    /// Take back a close that is not complete.
    Cancel,
}

impl Action {
    /// As in `PUT /state/{nodeID}/{action}`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pause, Self::Close, Self::Cancel].into_iter().find(|action| action.name() == name)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Close => "close",
            Self::Cancel => "cancel",
        }
    }
}

/// PD's answer about a service safe point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcHeld {
    /// `false`: the smallest point is above what was asked for.
    pub accepted: bool,
    /// The smallest point of all services.
    pub smallest: Tso,
}
