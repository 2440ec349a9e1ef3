//! The four kinds of failure, never mixed (design 2.1): `Reject` goes on the wire, `IoFault` is data in a completion,
//! `Fault` stops a function of this node, and a panic is our own bug.

use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use thiserror::Error;

/// The caller's fault; the text is what peers match on (spec pump 1.4).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reject {
    #[error("cluster ID are mismatch, {got} vs {own}")]
    ClusterMismatch { got: u64, own: u64 },
    #[error("{0}")]
    Undecodable(String),
    #[error("no online: {0}")]
    NotOnline(&'static str),
    #[error("no available space, available: {available}, StopWriteAtAvailableSpace: {limit}")]
    NoSpace { available: u64, limit: u64 },
    #[error("pump is read-only: {0}")]
    ReadOnly(String),
    #[error("write failed: {0}")]
    WriteFailed(String),
    /// A stream met a record that cannot be read; names segment and offset.
    #[error("read failed: {0}")]
    ReadFailed(String),
    #[error("drainer request a purged binlog TS {last}, this pump keeps binlogs after {gc}")]
    BelowGc { last: CommitTs, gc: CommitTs },
    #[error("pump is busy: {0}; try again")]
    Busy(&'static str),
    #[error("pump is shutting down")]
    ShuttingDown,
    /// An operator's command that cannot be carried out.
    #[error("{0}")]
    Command(String),
}

/// A failed operation of a port: data in a completion.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IoFault {
    #[error("no space left on device: {0}")]
    NoSpace(String),
    #[error("not found: {0}")]
    NotFound(String),
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The registry entry carries another process's token; names who it is.
    #[error("{0}")]
    Claimed(String),
    #[error("{0}")]
    Other(String),
}

/// This node must stop a function. Typed, counted, shown in status; a human must act.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// Durable bytes of the value log do not verify.
    #[error("value log damaged at segment {segment} offset {offset}: {what}")]
    LogDamaged { segment: SegmentId, offset: u64, what: String },
    /// The disk did not give back bytes of the value log; whether they are whole is not known.
    #[error(
        "value log cannot be read at segment {segment} offset {offset}: {what}; this says nothing about what is stored: check the \
         disk, then restart this pump"
    )]
    LogUnreadable { segment: SegmentId, offset: u64, what: String },
    /// A write or sync failed: the segment takes no more writes, the Pump is read-only.
    #[error("write to segment {segment} failed: {what}; this pump is read-only until restarted")]
    WriteFailed { segment: SegmentId, what: String },
    /// The index claims more than the log holds: an older disk image or a lost file.
    #[error(
        "index ends at {indexed} but the value log ends at {recovered}: data that was indexed is missing; look for files of log/ that are \
         gone, and for a disk that is not mounted, before anything else is done"
    )]
    LogBehindIndex { indexed: LogPtr, recovered: LogPtr },
    /// Rules 4: a commit that contradicts what the watermark promised.
    #[error("assumption broken: {what} (start_ts {start_ts}, commit_ts {commit_ts})")]
    AssumptionBroken { what: String, start_ts: StartTs, commit_ts: CommitTs },
    /// Rules 1: neither a client nor TiKV can say any more what became of a prewrite.
    #[error(
        "prewrite with start_ts {start_ts} cannot be decided: {why}; the watermark stays below it until an operator decides: {resolve}"
    )]
    Undecidable { start_ts: StartTs, why: String, resolve: String },
    /// Two different payloads under one identity.
    #[error("two different payloads for start_ts {start_ts}: {what}")]
    PayloadMismatch { start_ts: StartTs, what: String },
    /// Another process registers under this node's id (trap T10).
    #[error(
        "this node id is claimed by another process: {0}; this process stops. Two nodes must not share an id: give one of them another node-id (and data directory)"
    )]
    Claimed(String),
    /// The index port failed.
    #[error("index failed: {0}")]
    Index(String),
    /// Rules 7: an item below the merge position that was not emitted.
    #[error("binlog of pump {pump} with commit_ts {commit_ts} arrived below the merge position {position}")]
    LateItem { pump: String, commit_ts: CommitTs, position: CommitTs },
    /// A binlog that cannot be decoded or translated.
    #[error("binlog with commit_ts {commit_ts} cannot be decoded: {what}")]
    BadBinlog { commit_ts: CommitTs, what: String },
    /// A source ended or went away before what it had promised was received.
    #[error("pump {pump}: {what}")]
    Source { pump: String, what: String },
    /// The downstream's checkpoint contradicts what this process wrote.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The downstream does not let us work, and no retry helps: access denied, an unknown form of the checkpoint.
    #[error("downstream: {0}")]
    Sink(String),
    /// Schema history contradicts the stream.
    #[error("schema: {0}")]
    Schema(String),
}

impl Fault {
    /// Its kind, for counting: `binlog_pump_faults_total{kind}`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::LogUnreadable { .. } => "log_unreadable",
            Self::Undecidable { .. } => "undecidable",
            Self::Claimed(_) => "claimed",
            Self::LogDamaged { .. } => "log_damaged",
            Self::WriteFailed { .. } => "write_failed",
            Self::LogBehindIndex { .. } => "log_behind_index",
            Self::AssumptionBroken { .. } => "assumption_broken",
            Self::PayloadMismatch { .. } => "payload_mismatch",
            Self::Index(_) => "index",
            Self::LateItem { .. } => "late_item",
            Self::BadBinlog { .. } => "bad_binlog",
            Self::Source { .. } => "source",
            Self::Checkpoint(_) => "checkpoint",
            Self::Sink(_) => "sink",
            Self::Schema(_) => "schema",
        }
    }
}
