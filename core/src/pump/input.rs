//! What happens to a Pump: requests of clients, completions of its own effects, time.

use crate::fault::IoFault;
use crate::ids::{CommitTs, OpId, StreamId, WriteId};
use crate::index::op::IndexReply;
use crate::node::status::NodeStatus;
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
    /// Free bytes on the file system of the data directory, from time to time.
    Space {
        available: u64,
        capacity: u64,
    },
    /// An operator asks for a round of GC now (spec pump 5); whether it began is in the status (`collector.triggered`).
    TriggerGc,
    /// Stop: refuse prewrites, drain, register as paused, then `Effect::Stopped`.
    Shutdown,
    /// A deadline may have passed.
    Tick,
}
