//! The log as a part of the Pump: staging, group commit, rotation, recovery, reads (rules 2).

use super::op::{LogOp, LogReply};
use super::record::{Record, RecordKind};
use crate::fault::{Fault, IoFault};
use crate::ids::{ClusterId, CommitTs, LogPtr, OpId, OpIds, StartTs};
use std::collections::VecDeque;

/// Limits and identity.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Segments rotate at this size; a larger record gets a segment of its own.
    pub segment_bytes: u64,
    /// Uuid of this data directory, in every header.
    pub node: [u8; 16],
    pub cluster: ClusterId,
    /// A batch is sealed at the latest at this many bytes of records.
    pub max_batch_bytes: usize,
    pub max_batch_records: usize,
}

/// What the index claims; read before recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexClaims {
    /// Everything below is indexed.
    pub indexed_end: Option<LogPtr>,
    /// Everything below was flushed: recovery does not verify it again.
    pub flushed_end: Option<LogPtr>,
}

/// Dense number of a batch; rises over the life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchSeq(pub u64);

/// Where a staged record has come to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub ptr: LogPtr,
    /// Bytes of the whole record on disk, header included: what a read of it needs.
    pub len: u32,
    pub kind: RecordKind,
    pub start_ts: StartTs,
    pub commit_ts: CommitTs,
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Sealed {
    pub seq: BatchSeq,
    /// The records that were staged, in order (a `SegmentStart` that the log added itself is not among them).
    pub records: Vec<Placed>,
    /// End of the batch: all its records lie below.
    pub end: LogPtr,
}

/// What the log tells its owner.
#[derive(Debug)]
pub enum LogEvent {
    /// Recovery: a durable record at or above `indexed_end`, in log order.
    Tail { placed: Placed, record: Record },
    /// Recovery is complete, records are accepted; everything below `end` is durable.
    Ready { end: LogPtr },
    /// The batch has reached the operating system.
    Written { seq: BatchSeq },
    /// The batch is durable.
    Durable { seq: BatchSeq, end: LogPtr },
    /// Answer to `Log::read`.
    Read { token: u64, result: Result<Record, Fault> },
    /// The log takes no more writes; reads go on where they can.
    ReadOnly(Fault),
}

/// Where a part pushes its requests; the parent turns them into effects.
pub struct LogOps<'a> {
    pub ids: &'a mut OpIds,
    pub out: &'a mut VecDeque<(OpId, LogOp)>,
}

impl LogOps<'_> {
    pub fn push(&mut self, request: LogOp) -> OpId {
        let op = self.ids.next_id();
        self.out.push_back((op, request));
        op
    }
}

/// The value log of one Pump.
#[derive(Debug)]
pub struct Log {
    #[expect(dead_code)]
    config: LogConfig,
}

impl Log {
    /// `seed` gives the salts.
    #[must_use]
    pub fn new(config: LogConfig, seed: u64) -> Self {
        let _ = seed;
        Self { config }
    }

    /// Begins recovery; ends with `LogEvent::Ready` or `LogEvent::ReadOnly`.
    pub fn recover(&mut self, _claims: IndexClaims, _ops: &mut LogOps<'_>) {}

    /// Whether records may be staged.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Why the log takes no more writes.
    #[must_use]
    pub fn read_only(&self) -> Option<&Fault> {
        None
    }

    /// Adds a record to the batch that will be sealed next; returns that batch's number.
    pub fn stage(&mut self, _record: Record) -> BatchSeq {
        BatchSeq(0)
    }

    /// Bytes staged and not yet sealed.
    #[must_use]
    pub fn staged_bytes(&self) -> usize {
        0
    }

    /// Seals the staged batch and emits its write and its sync, unless a flush is in flight or nothing is staged.
    pub fn seal(&mut self, _ops: &mut LogOps<'_>) -> Option<Sealed> {
        None
    }

    /// Reads one record (at `ptr`, `len` bytes as in [`Placed::len`]); the answer is `LogEvent::Read` with `token`.
    pub fn read(&mut self, _ptr: LogPtr, _len: u32, _token: u64, _ops: &mut LogOps<'_>) {}

    /// Takes the completion of one of the log's operations; `false` if `op` is none of them.
    pub fn handle(
        &mut self,
        _op: OpId,
        _result: Result<LogReply, IoFault>,
        _events: &mut Vec<LogEvent>,
        _ops: &mut LogOps<'_>,
    ) -> bool {
        false
    }

    /// End of what is durable.
    #[must_use]
    pub fn durable_end(&self) -> LogPtr {
        LogPtr::default()
    }

    /// Asserts the structural invariants.
    pub fn check(&self) {}
}
