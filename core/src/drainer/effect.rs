//! What a Drainer asks of the world. Every request carries an [`OpId`]; exactly one completion of [`super::input::Input`]
//! carries it back.

use crate::fault::Fault;
use crate::ids::{CommitTs, NodeId, OpId};
use crate::node::status::NodeStatus;
use crate::pump::effect::Level;
use crate::sink::op::SinkOp;

/// One connection to one Pump; a reconnect is a new source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

#[derive(Debug)]
pub enum Effect {
    /// Fetch one timestamp from PD.
    GetTso { op: OpId },
    /// Read the pumps prefix of the registry linearizably.
    ListPumps { op: OpId },
    /// Write this node's registry entry.
    PutStatus { op: OpId, status: NodeStatus },
    /// Scan the whole DDL history at a fresh snapshot: raw job JSON, any order.
    LoadHistory { op: OpId },
    /// Read one job of the DDL history at a fresh snapshot.
    FetchJob { op: OpId, job_id: i64 },
    /// Start pulling from a Pump: everything above `last`. Items come as `Input::SourceItem`, the end as
    /// `Input::SourceClosed`. `credit`: bytes of payload that may be handed in before more is granted: an item may come
    /// while the balance is above zero, and its length is taken from the balance, which may fall below zero by one item
    /// (so an item larger than all credit still passes).
    OpenSource { source: SourceId, pump: NodeId, addr: String, last: CommitTs, credit: u64 },
    /// Grant `bytes` more.
    SourceCredit { source: SourceId, bytes: u64 },
    /// Stop pulling; nothing more may arrive from it (what is in flight is ignored).
    CloseSource { source: SourceId },
    /// Operation of the sink, see there for order and meaning.
    Sink { op: OpId, request: SinkOp },
    /// Answer to `Input::Notify`: the membership has been confirmed since the call came in.
    NotifyReply { call: u64, result: Result<(), String> },
    /// Answer to `Input::Resolve`.
    ResolveReply { call: u64, result: Result<String, String> },
    /// Said once per occurrence; the driver logs it at ERROR and counts it.
    Fault(Fault),
    /// A line for the log, without row values.
    Notice { level: Level, text: String },
    /// The process should end with this exit code; the final state is registered.
    Stopped { exit_code: u8 },
}
