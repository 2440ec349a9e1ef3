//! The log as a part of the Pump: staging, group commit, rotation, recovery, reads (rules 2).
//!
//! Owns nothing on disk: it emits operations of the log-file port and is fed with their completions. Keeps true: what was
//! reported as `Durable` or `Tail` is found by every later recovery; nothing else is ever handed out by a read.
//! The parts: `format` (bytes), `batch`, `scan` (reading in order), `segment` (flush, preparation of a slot), `writer` (staging,
//! group commit, rotation), `recovery` and `decide`, `read`, `scrub`. This file routes between them and keeps the fault state.

use super::format::Owner;
use super::op::{LogOp, LogReply};
pub use super::read::Run;
use super::read::{OriginalPlace, Reads};
use super::record::{Record, RecordKind};
use super::recovery::{Before, Progress, Recovery};
use super::scrub::{Scrub, ScrubCounters};
use super::segment::Salts;
use super::spare::SlotCounters;
use super::v1;
use super::writer::{Outcome, Writer};
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{ClusterId, CommitTs, LogPtr, OpId, OpIds, SegmentId, StartTs};
use bytes::Bytes;
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
    /// Where its first byte lies.
    pub start: LogPtr,
    /// End of the batch: all its records lie below.
    pub end: LogPtr,
    /// The bytes from `start` to `end`, shared with the write.
    pub parts: Vec<Bytes>,
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
    /// Answer to `Log::read_run`; the error names its beginning.
    Run { token: u64, result: Result<Run, Fault> },
    /// The scrub found durable bytes that do not verify, or cannot be read. Nothing else changes: who reads them is told again.
    Rotten(Fault),
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
    config: LogConfig,
    salts: Salts,
    state: State,
    fault: Option<Fault>,
    reads: Reads,
    scrub: Scrub,
    durable_end: LogPtr,
    /// Segments up to this one are the original's files, or were.
    floor: SegmentId,
}

#[derive(Debug)]
enum State {
    Closed,
    Recovering(Box<Recovery>),
    Open(Box<Writer>),
}

impl Log {
    /// `seed` gives the salts; it must differ from one process to the next.
    #[must_use]
    pub fn new(config: LogConfig, seed: u64) -> Self {
        Self {
            config,
            salts: Salts::new(seed),
            state: State::Closed,
            fault: None,
            reads: Reads::default(),
            scrub: Scrub::default(),
            durable_end: LogPtr::default(),
            floor: SegmentId::ZERO,
        }
    }

    /// Files of the original with their lengths, to be read as segments before all of ours, which lie above `floor` (also when
    /// no file is left). Before `recover`.
    pub fn adopt(&mut self, files: impl IntoIterator<Item = (u32, u64)>, floor: SegmentId) {
        assert!(matches!(self.state, State::Closed), "files are adopted before recovery");
        let place = |(number, end)| (v1::segment(number), OriginalPlace { slot: v1::slot(number), end });
        self.reads.originals = files.into_iter().map(place).collect();
        self.floor = floor;
    }

    /// Begins recovery; ends with `LogEvent::Ready` or `LogEvent::ReadOnly`. Called once.
    pub fn recover(&mut self, claims: IndexClaims, ops: &mut LogOps<'_>) {
        assert!(matches!(self.state, State::Closed), "recovery runs once");
        let owner = Owner { node: self.config.node, cluster: self.config.cluster };
        // What the index holds of the original's files says nothing about our own.
        let own = |end: Option<LogPtr>| end.filter(|end| end.segment > self.floor);
        let claims = IndexClaims { indexed_end: own(claims.indexed_end), flushed_end: own(claims.flushed_end) };
        let before = Before { floor: self.floor, first: self.reads.originals.keys().next().copied() };
        self.state = State::Recovering(Box::new(Recovery::start(owner, self.salts.clone(), claims, before, ops)));
    }

    /// Whether records may be staged.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.fault.is_none() && matches!(self.state, State::Open(_))
    }

    /// Why the log takes no more writes.
    #[must_use]
    pub fn read_only(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Adds a record to the last staged batch that has room; returns that batch's number. Only after `Ready`; a payload has at
    /// most [`MAX_PAYLOAD`](super::format::MAX_PAYLOAD) bytes. When the log is read-only the record is dropped and the number
    /// never becomes durable.
    pub fn stage(&mut self, record: Record) -> BatchSeq {
        let State::Open(writer) = &mut self.state else { panic!("a record was staged before the log was ready") };
        let seq = writer.stage(record);
        if self.fault.is_some() {
            writer.drop_staged();
        }
        seq
    }

    /// Bytes staged and not yet sealed.
    #[must_use]
    pub fn staged_bytes(&self) -> usize {
        match &self.state {
            State::Open(writer) => writer.staged_bytes(),
            State::Closed | State::Recovering(_) => 0,
        }
    }

    /// Seals the oldest staged batch and emits its write and its sync, unless a flush is in flight, nothing is staged, or the
    /// next segment has to be made first. Call it again after every completion that `handle` took.
    pub fn seal(&mut self, ops: &mut LogOps<'_>) -> Option<Sealed> {
        match &mut self.state {
            State::Open(writer) if self.fault.is_none() => writer.seal(ops),
            _ => None,
        }
    }

    /// Reads one record (at `ptr`, `len` bytes as in [`Placed::len`]); the answer is `LogEvent::Read` with `token`.
    pub fn read(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        self.reads.start(ptr, len, token, ops);
    }

    /// Reads `len` bytes from `ptr` on, for the records that lie there whole; the answer is `LogEvent::Run` with `token`.
    pub fn read_run(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        self.reads.start_run(ptr, len, token, ops);
    }

    /// Takes the completion of one of the log's operations; `false` if `op` is none of them (or what it belonged to has
    /// failed already).
    pub fn handle(
        &mut self,
        op: OpId,
        result: Result<LogReply, IoFault>,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> bool {
        if self.reads.handle(op, &result, events) || self.scrub.handle(op, &result, events) {
            return true;
        }
        if self.fault.is_some() {
            return false;
        }
        match &mut self.state {
            State::Closed => false,
            State::Recovering(recovery) => match recovery.handle(op, &result, events, ops) {
                Progress::NotMine => false,
                Progress::Going => true,
                Progress::Failed(fault) => {
                    self.reads.segments = recovery.readable();
                    self.fail(fault, events);
                    true
                }
                Progress::Done(mut opened) => {
                    self.reads.segments = std::mem::take(&mut opened.segments);
                    let active = opened.active;
                    self.durable_end = LogPtr { segment: active.seal.segment, offset: active.end };
                    let mut writer = Writer::new(&self.config, *opened, ops);
                    // A crash may have come between the GC record and the removal.
                    let kept = self.reads.originals.split_off(&writer.gc().1);
                    for place in std::mem::replace(&mut self.reads.originals, kept).values() {
                        writer.spare.remove(place.slot, ops);
                    }
                    self.state = State::Open(Box::new(writer));
                    true
                }
            },
            State::Open(writer) => match writer.handle(op, &result, events, ops) {
                Outcome::NotMine => false,
                Outcome::Going => true,
                Outcome::Durable(active) => {
                    self.reads.segments.insert(active.seal.segment, active);
                    self.durable_end = LogPtr { segment: active.seal.segment, offset: active.end };
                    true
                }
                Outcome::Failed(fault) => {
                    self.fail(fault, events);
                    true
                }
            },
        }
    }

    /// End of what is durable.
    #[must_use]
    pub fn durable_end(&self) -> LogPtr {
        self.durable_end
    }

    /// Whether everything up to `end` is durable, as far as this process knows: where the log could not be opened, reads alone
    /// decide what counts.
    #[must_use]
    pub fn is_durable(&self, end: LogPtr) -> bool {
        !matches!(self.state, State::Open(_)) || end <= self.durable_end
    }

    /// GC point and first live segment by the durable records; while recovery goes on, once they are known.
    #[must_use]
    pub fn gc(&self) -> Option<(CommitTs, SegmentId)> {
        match &self.state {
            State::Open(writer) => Some(writer.gc()),
            State::Recovering(recovery) => recovery.gc(),
            State::Closed => None,
        }
    }

    /// The segments that may be read with the ends of what counts in them, oldest first; the last is the one that is written to.
    pub fn segments(&self) -> impl Iterator<Item = LogPtr> + '_ {
        let originals = self.reads.originals.iter().map(|(id, place)| LogPtr { segment: *id, offset: place.end });
        originals.chain(self.reads.segments.iter().map(|(id, place)| LogPtr { segment: *id, offset: place.end }))
    }

    /// Gives the slots of the segments below `below` back for reuse: that they may go is durable in the log ([`Record::gc`], rules 6).
    /// A segment that a read is under way in stays for now, and all behind it: `false`; call it again later. Reads of
    /// freed segments fail from now on. At most `keep` free slots are kept, the files of the others are removed, and those of the
    /// original always.
    pub fn release(&mut self, below: SegmentId, keep: usize, ops: &mut LogOps<'_>) -> bool {
        if !self.is_ready() {
            return true;
        }
        let State::Open(writer) = &mut self.state else { return true };
        let goal = below.min(writer.active().seal.segment);
        let logged = goal <= writer.gc().1 || canary::is(Canary::RecycleBeforeGcRecord);
        assert!(logged, "segments are freed only when that is durable in the log");
        let held = self.reads.lowest_in_use().into_iter().chain(self.scrub.in_use()).min().unwrap_or(SegmentId::MAX);
        let kept = self.reads.segments.split_off(&goal.min(held));
        let freed = std::mem::replace(&mut self.reads.segments, kept);
        let kept = self.reads.originals.split_off(&goal.min(held));
        for place in std::mem::replace(&mut self.reads.originals, kept).values() {
            writer.spare.remove(place.slot, ops);
        }
        for place in freed.values() {
            writer.spare.give(place.slot, place.end);
        }
        if !freed.is_empty() {
            writer.spare.encourage();
        }
        writer.spare.trim(keep, ops);
        writer.prepare_early(ops);
        held >= goal
    }

    /// Whether [`Self::fill`] has something to do; `false` while something waits to be written.
    #[must_use]
    pub fn wants_filling(&self) -> bool {
        matches!(&self.state, State::Open(writer) if self.fault.is_none() && writer.wants_filling())
    }

    /// Writes zeros to a slot ahead of time, the next piece; the owner knows when the disk has nothing better to do (rules 2).
    pub fn fill(&mut self, ops: &mut LogOps<'_>) {
        if !self.wants_filling() {
            return;
        }
        if let State::Open(writer) = &mut self.state {
            writer.fill(ops);
        }
    }

    /// Space is short: gives up a filling, and removes the files of free slots beyond `keep`. What is under way stays for now: call it again.
    pub fn save_space(&mut self, keep: usize, ops: &mut LogOps<'_>) {
        if let State::Open(writer) = &mut self.state
            && self.fault.is_none()
        {
            writer.spare.stop_filling();
            writer.spare.trim(keep, ops);
        }
    }

    /// Reads the next piece of what is durable once more, to see whether it verifies; the owner sets the pace. `false`: all was read,
    /// the next call begins anew. What is found comes as [`LogEvent::Rotten`].
    pub fn scrub(&mut self, ops: &mut LogOps<'_>) -> bool {
        let State::Open(writer) = &self.state else { return false };
        self.scrub.advance(&self.reads.segments, writer.active().seal.segment, ops)
    }

    #[must_use]
    pub fn scrubbed(&self) -> ScrubCounters {
        self.scrub.counters
    }

    /// Bytes on disk that stand ready for the next segments.
    #[must_use]
    pub fn prepared_bytes(&self) -> u64 {
        match &self.state {
            State::Open(writer) => writer.prepared_bytes(),
            State::Closed | State::Recovering(_) => 0,
        }
    }

    /// Free slots, and what became of slots in this life.
    #[must_use]
    pub fn slots(&self) -> (usize, SlotCounters) {
        match &self.state {
            State::Open(writer) => (writer.spare.len(), writer.spare.counters),
            State::Closed | State::Recovering(_) => (0, SlotCounters::default()),
        }
    }

    fn fail(&mut self, fault: Fault, events: &mut Vec<LogEvent>) {
        if let State::Open(writer) = &mut self.state {
            writer.drop_staged();
        }
        events.push(LogEvent::ReadOnly(fault.clone()));
        self.fault = Some(fault);
    }

    /// Asserts the structural invariants.
    pub fn check(&self) {
        if let State::Open(writer) = &self.state {
            writer.check();
            let end = self.reads.segments.get(&self.durable_end.segment).map(|place| place.end);
            assert_eq!(end, Some(self.durable_end.offset), "reads go up to the durable end");
            assert!(self.durable_end.segment <= writer.active().seal.segment, "the durable end is not ahead");
            let mut slots: Vec<_> = self.reads.segments.values().map(|place| place.slot).collect();
            slots.sort_unstable();
            assert!(slots.is_sorted_by(|a, b| a < b), "no slot carries two segments");
            assert!(slots.iter().all(|slot| !writer.spare.holds(*slot)), "no slot in use is free");
            let first = self.reads.segments.keys().next();
            assert!(first.is_none_or(|id| *id > self.floor), "our own segments lie above the original's");
        }
    }
}
