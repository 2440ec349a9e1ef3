//! What happens to a Drainer: items of Pumps, completions of its own effects, commands of operators, time.

use super::effect::SourceId;
use crate::fault::IoFault;
use crate::ids::{CommitTs, OpId};
use crate::node::status::NodeStatus;
use crate::sink::op::{SinkError, SinkReply};
use crate::time::Tso;
use bytes::Bytes;

#[derive(Debug)]
pub enum Input {
    /// Begin; the listener is open already. Handed in once.
    Start,
    TsoDone {
        op: OpId,
        result: Result<Tso, IoFault>,
    },
    /// Every entry under the pumps prefix. An entry that is not valid JSON fails the listing.
    PumpsDone {
        op: OpId,
        result: Result<Vec<NodeStatus>, IoFault>,
    },
    StatusDone {
        op: OpId,
        result: Result<(), IoFault>,
    },
    HistoryDone {
        op: OpId,
        result: Result<Vec<Bytes>, IoFault>,
    },
    /// `None`: not (yet) in the history.
    JobDone {
        op: OpId,
        result: Result<Option<Bytes>, IoFault>,
    },
    /// One message of a stream: the payload of its entity.
    SourceItem {
        source: SourceId,
        payload: Bytes,
    },
    /// The stream ended; the machine reconnects with back-off unless the text says that it never can.
    SourceClosed {
        source: SourceId,
        error: Option<String>,
    },
    SinkDone {
        op: OpId,
        result: Result<SinkReply, SinkError>,
    },
    /// `Cistern.Notify`: answer once the membership was confirmed after this moment.
    Notify {
        call: u64,
    },
    /// `PUT /resolve/{commit_ts}/{action}`.
    Resolve {
        call: u64,
        commit_ts: CommitTs,
        action: ResolveAction,
    },
    /// Stop: finish what is in flight, save the checkpoint as consistent, register as paused, then `Effect::Stopped`.
    Shutdown,
    /// A deadline may have passed.
    Tick,
}

/// What an operator says about a transaction that the downstream refused (design 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveAction {
    /// Do not run it; the schema is tracked. Skipping a CREATE also drops that table's later rows.
    Skip,
    /// Try again as it is.
    Retry,
    /// The operator ran an equivalent by hand: go on as if it had been applied.
    MarkApplied,
}
