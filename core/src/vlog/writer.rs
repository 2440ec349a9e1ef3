//! The writing half of an open log (rules 2): staging into numbered batches, group commit with one flush in flight, rotation
//! into a segment that was prepared beforehand. Part of `Log`, which owns the fault state and the reads.

use super::batch::{self, Fold, disk_len, record_len};
use super::format::{BATCH_HEADER, FIRST_BATCH, MAX_PAYLOAD, Owner, RECORD_HEADER, Seal, SegmentStart};
use super::log::{BatchSeq, LogConfig, LogEvent, LogOps, Sealed};
use super::op::LogReply;
use super::read::Place;
use super::record::{Record, RecordKind};
use super::segment::{Flush, Flushed, Prepared, Preparing, Salts, Target, write_failed};
use super::spare::Spare;
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, LogPtr, OpId, SegmentId, SlotId};
use std::collections::{BTreeMap, VecDeque};

/// What recovery hands over.
#[derive(Debug)]
pub(super) struct Opened {
    pub owner: Owner,
    pub salts: Salts,
    pub active: Place,
    pub last_seq: BatchSeq,
    pub fold: Fold,
    pub segments: BTreeMap<SegmentId, Place>,
    /// Slots whose contents are of no use any more, with the bytes of their files.
    pub free: BTreeMap<SlotId, u64>,
    pub highest_segment: SegmentId,
    pub highest_slot: SlotId,
}

#[derive(Debug)]
pub(super) struct Writer {
    owner: Owner,
    salts: Salts,
    segment_bytes: u64,
    max_batch_bytes: usize,
    max_batch_records: usize,
    /// The segment that is written to; `end` is where the next batch goes, all below is durable.
    active: Place,
    /// Last batch that was sealed.
    sealed_seq: BatchSeq,
    fold: Fold,
    /// Batches waiting, oldest first; they carry the numbers behind `sealed_seq`.
    staged: VecDeque<Staged>,
    staged_bytes: usize,
    flight: Option<Flight>,
    next: Next,
    /// Bytes that the file of `next` had before it was prepared.
    next_bytes: u64,
    pub spare: Spare,
    highest_segment: SegmentId,
    highest_slot: SlotId,
}

#[derive(Debug, Default)]
struct Staged {
    records: Vec<Record>,
    bytes: usize,
}

/// The batch that is on its way to the disk.
#[derive(Debug)]
struct Flight {
    flush: Flush,
    seq: BatchSeq,
    end: u64,
    fold: Fold,
}

/// The segment that follows the active one.
#[derive(Debug)]
enum Next {
    None,
    Preparing(Preparing),
    Ready { slot: SlotId, seal: Seal },
}

/// What a completion meant.
#[derive(Debug)]
pub(super) enum Outcome {
    NotMine,
    Going,
    /// The active segment is durable up to its new end.
    Durable(Place),
    Failed(Fault),
}

impl Writer {
    pub fn new(config: &LogConfig, opened: Opened, ops: &mut LogOps<'_>) -> Self {
        let mut writer = Self {
            owner: opened.owner,
            salts: opened.salts,
            segment_bytes: config.segment_bytes,
            max_batch_bytes: config.max_batch_bytes,
            max_batch_records: config.max_batch_records.max(1),
            active: opened.active,
            sealed_seq: opened.last_seq,
            fold: opened.fold,
            staged: VecDeque::new(),
            staged_bytes: 0,
            flight: None,
            next: Next::None,
            next_bytes: 0,
            spare: Spare::new(opened.free),
            highest_segment: opened.highest_segment,
            highest_slot: opened.highest_slot,
        };
        writer.spare.trim(KEEP_AT_START, ops);
        writer.prepare_early(ops);
        writer
    }

    pub fn stage(&mut self, record: Record) -> BatchSeq {
        assert!(record.payload.len() <= MAX_PAYLOAD, "the owner limits payloads to {MAX_PAYLOAD} bytes");
        assert!(record.kind != RecordKind::SegmentStart, "segment starts are the log's own");
        let len = record_len(&record);
        // A batch is no larger than what fits behind a segment's start, so that only a single record can exceed a segment.
        let room = self.segment_bytes.saturating_sub(FIRST_BATCH + disk_len(START_RECORD)).saturating_sub(OVERHEAD);
        let limit = self.max_batch_bytes.min(usize::try_from(room).unwrap_or(usize::MAX));
        let fits = self
            .staged
            .back()
            .is_some_and(|last| last.records.len() < self.max_batch_records && last.bytes.saturating_add(len) <= limit);
        if !fits {
            self.staged.push_back(Staged::default());
        }
        if let Some(last) = self.staged.back_mut() {
            last.bytes += len;
            last.records.push(record);
        }
        self.staged_bytes += len;
        BatchSeq(self.sealed_seq.0 + self.staged.len() as u64)
    }

    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    pub fn gc(&self) -> (CommitTs, SegmentId) {
        (self.fold.gc, self.fold.first_live)
    }

    /// Nothing that is staged will ever be written.
    pub fn drop_staged(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
    }

    /// `None` while a flush is in flight, nothing is staged, or the next segment is not ready yet.
    pub fn seal(&mut self, ops: &mut LogOps<'_>) -> Option<Sealed> {
        if self.flight.is_some() {
            return None;
        }
        let first = self.staged.front()?;
        if canary::is(Canary::AppendInPartialBlock) {
            self.active.end = self.active.end.saturating_sub(super::format::BLOCK).max(FIRST_BATCH);
        }
        let mut start = None;
        if self.active.end.saturating_add(disk_len(first.bytes as u64)) > self.segment_bytes {
            let Next::Ready { slot, seal } = self.next else {
                self.prepare(ops);
                return None;
            };
            start = Some(SegmentStart {
                previous: self.active.seal.segment,
                previous_end: self.active.end,
                last_seq: self.sealed_seq,
                largest_ts: self.fold.largest_ts,
                first_live: self.fold.first_live,
                gc: self.fold.gc,
            });
            self.next = Next::None;
            self.next_bytes = 0;
            self.spare.encourage();
            self.active = Place { slot, seal, end: FIRST_BATCH };
            self.fold.largest_ts = 0;
        }
        let batch = self.staged.pop_front()?;
        self.staged_bytes -= batch.bytes;
        let seq = BatchSeq(self.sealed_seq.0 + 1);
        self.sealed_seq = seq;
        let encoded = batch::encode(self.active.seal, self.active.end, seq, start, &batch.records);
        let (begin, parts) = (self.active.end, encoded.parts.clone());
        let mut fold = self.fold;
        batch.records.iter().for_each(|record| fold.take(record));
        let early = self.staged.front().filter(|_| canary::is(Canary::OverlapNextBatch)).map(|next| {
            let seq = BatchSeq(seq.0 + 1);
            (encoded.end, batch::encode(self.active.seal, encoded.end, seq, None, &next.records).parts)
        });
        let flush = Flush::start_overlapped(self.active.slot, self.active.end, encoded.parts, early, ops);
        self.flight = Some(Flight { flush, seq, end: encoded.end, fold });
        self.prepare_early(ops);
        let at = |offset| LogPtr { segment: self.active.seal.segment, offset };
        Some(Sealed { seq, records: encoded.placed, start: at(begin), end: at(encoded.end), parts })
    }

    pub fn handle(
        &mut self,
        op: OpId,
        result: &Result<LogReply, IoFault>,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> Outcome {
        if let Some(flight) = &mut self.flight {
            match flight.flush.handle(op, result) {
                Flushed::NotMine => {}
                Flushed::Written => {
                    events.push(LogEvent::Written { seq: flight.seq });
                    return Outcome::Going;
                }
                Flushed::Failed(what) => return Outcome::Failed(write_failed(self.active.seal.segment, what)),
                Flushed::Durable => {
                    let end = LogPtr { segment: self.active.seal.segment, offset: flight.end };
                    events.push(LogEvent::Durable { seq: flight.seq, end });
                    self.active.end = flight.end;
                    self.fold = flight.fold;
                    self.flight = None;
                    self.prepare_early(ops);
                    return Outcome::Durable(self.active);
                }
            }
        }
        if self.spare.handle(op, result, self.segment_bytes, ops) {
            self.prepare_early(ops);
            return Outcome::Going;
        }
        let Next::Preparing(preparing) = &mut self.next else { return Outcome::NotMine };
        match preparing.handle(op, result, ops) {
            Prepared::NotMine => Outcome::NotMine,
            Prepared::Going => Outcome::Going,
            Prepared::Failed(fault) => Outcome::Failed(fault),
            Prepared::Ready => {
                self.next = Next::Ready { slot: preparing.slot, seal: preparing.seal };
                Outcome::Going
            }
        }
    }

    /// Ahead of need: when the active segment is three quarters full. Not sooner: a restart has to read a prepared segment whole, to be
    /// sure that it holds nothing.
    pub fn prepare_early(&mut self, ops: &mut LogOps<'_>) {
        let end = self.flight.as_ref().map_or(self.active.end, |flight| flight.end);
        if end > self.segment_bytes / 4 * 3 {
            self.prepare(ops);
        }
        self.spare.keep_one_blank(ops);
    }

    pub fn prepare(&mut self, ops: &mut LogOps<'_>) {
        if !matches!(self.next, Next::None) {
            return;
        }
        let target = match self.spare.take() {
            Some((slot, len)) => {
                self.next_bytes = len;
                Target::Reuse(slot)
            }
            None => {
                self.highest_slot = SlotId::new(self.highest_slot.raw().saturating_add(1));
                Target::New(self.highest_slot)
            }
        };
        self.spare.keep_one_blank(ops);
        self.highest_segment = SegmentId::new(self.highest_segment.raw().saturating_add(1));
        let seal = Seal { segment: self.highest_segment, salt: self.salts.next() };
        self.next = Next::Preparing(Preparing::start(target, seal, self.owner, ops));
    }

    /// Whether a slot should be filled with zeros while nothing is to be written: once the log has shown that it grows, so that a
    /// Pump that stores little never pays for it.
    pub fn wants_filling(&self) -> bool {
        let grows = self.active.end > self.segment_bytes / 4 || self.active.seal.segment > SegmentId::new(1);
        let idle = self.flight.is_none() && self.staged.is_empty();
        idle && grows && self.spare.wants_filling(usize::from(!matches!(self.next, Next::None)))
    }

    pub fn fill(&mut self, ops: &mut LogOps<'_>) {
        self.spare.fill(self.segment_bytes, &mut self.highest_slot, ops);
    }

    /// Bytes of files that stand ready for the next segments.
    pub fn prepared_bytes(&self) -> u64 {
        self.next_bytes.min(self.segment_bytes).saturating_add(self.spare.bytes(self.segment_bytes))
    }

    pub fn active(&self) -> Place {
        self.active
    }

    pub fn check(&self) {
        assert_eq!(self.active.end % super::format::BLOCK, 0, "batches end on block boundaries");
        assert!(self.active.end >= FIRST_BATCH, "batches lie behind the header");
        assert!(self.active.seal.segment <= self.highest_segment, "segment ids rise");
        assert_eq!(self.staged.iter().map(|b| b.bytes).sum::<usize>(), self.staged_bytes, "staged bytes are counted");
        assert!(self.staged.iter().all(|b| !b.records.is_empty()), "no staged batch is empty");
        if let Some(flight) = &self.flight {
            assert_eq!(flight.seq, self.sealed_seq, "only the last sealed batch is in flight");
            assert!(flight.end > self.active.end, "a flush moves the end");
        }
        if let Next::Ready { slot, seal } = self.next {
            assert!(slot != self.active.slot && seal.segment > self.active.seal.segment, "the next segment is another");
            assert!(!self.spare.holds(slot), "the next segment's slot is not free");
        }
        self.spare.check();
    }
}

const START_RECORD: u64 = RECORD_HEADER as u64 + 48;
/// Batch header, and one block that rounding up may cost.
const OVERHEAD: u64 = BATCH_HEADER as u64 + super::format::BLOCK;
/// Free slots kept at a start: what GC freed is found again there, and the owner has not said yet how many it needs.
const KEEP_AT_START: usize = 32;
