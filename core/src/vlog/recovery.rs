//! Recovery of the log (rules 2): finds what is durable, proves or copies the last batch, continues in a new segment.
//!
//! A state machine that is fed with completions, one read under way at a time:
//! list, probe (headers and first block of every slot), candidates (newest segment that begins with a valid batch), behind (no
//! header may follow the end), chain (predecessors down to the first live segment, verified from `flushed_end` on), decide, new
//! segment with the copied batch, and only when that is durable: emit the tail. So a crash at any point leaves the old log as
//! it was: no existing segment is written to, and a slot is reused only if it held nothing.

use super::batch::{self, Fold, place};
use super::decide::{Found, LastBatch, Verdict, decide};
use super::format::{
    BATCH_HEADER, BLOCK, FIRST_BATCH, HeaderCopy, Owner, Seal, SegmentStart, decode_batch_header, decode_header,
    decode_record, to_usize,
};
use super::log::{BatchSeq, IndexClaims, LogEvent, LogOps};
use super::op::{LogOp, LogReply};
use super::read::Place;
use super::record::{Record, RecordKind};
use super::scan::{Batch, Hunt, Need, Scanner, Step};
use super::segment::{Flush, Flushed, Prepared, Preparing, Salts, Target, unexpected, write_failed};
use super::writer::Opened;
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, LogPtr, OpId, SegmentId, SlotId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub(super) struct Recovery {
    owner: Owner,
    salts: Salts,
    claims: IndexClaims,
    before: Before,
    phase: Phase,
    /// The one read under way.
    reading: Option<OpId>,
    /// What it asks for, and how often that failed.
    asked: Option<(Need, u32)>,
    /// Slots not probed yet, with their sizes.
    slots: VecDeque<(SlotId, u64)>,
    /// Sizes of all slots.
    sizes: BTreeMap<SlotId, u64>,
    /// Segments with a valid header.
    segments: BTreeMap<SegmentId, Segment>,
    /// Slots that hold nothing: blank, or prepared and never written to.
    empty: BTreeSet<SlotId>,
    highest_segment: SegmentId,
    highest_slot: SlotId,
    torn: Option<(LogPtr, BatchSeq)>,
    newest: Option<Newest>,
    /// Predecessors of the newest segment, oldest first.
    chain: Vec<Link>,
    new: Option<New>,
}

#[derive(Debug)]
enum Phase {
    List,
    Probe {
        slot: SlotId,
        len: u64,
    },
    /// Segments are tried from the highest down; this one begins with no valid batch, so it may hold none at all.
    HuntEmpty(Hunt),
    Newest(Scanner),
    HuntBehind {
        hunt: Hunt,
    },
    Verify {
        at: usize,
        scanner: Scanner,
        /// Of the next batch; `None` where reading began in the middle.
        seq: Option<BatchSeq>,
    },
    Prepare(Preparing),
    Copy(Flush),
    Emit {
        rest: VecDeque<Link>,
        scanner: Option<Scanner>,
    },
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    slot: SlotId,
    seal: Seal,
    file_len: u64,
    /// From the first batch's first block; the rest of the batch is not verified by that.
    start: Option<SegmentStart>,
}

/// The newest segment that begins with a valid batch, as far as it was scanned.
#[derive(Debug)]
struct Newest {
    segment: Segment,
    start: SegmentStart,
    /// The last valid batch.
    last: Batch,
    first: bool,
    fold: Fold,
    fold_before_last: Fold,
}

/// A range of a segment that counts: from its first batch to `end`.
#[derive(Debug, Clone, Copy)]
struct Link {
    slot: SlotId,
    seal: Seal,
    end: u64,
    first_seq: BatchSeq,
    last_seq: BatchSeq,
}

impl Link {
    /// Reads what lies behind `claim`, where that lies in this segment.
    fn from(&self, claim: LogPtr) -> Scanner {
        let within = claim.segment == self.seal.segment && claim.offset.is_multiple_of(BLOCK);
        let begin = if within { claim.offset.clamp(FIRST_BATCH, self.end) } else { FIRST_BATCH };
        Scanner::new(self.seal, self.slot, begin, self.end)
    }
}

/// The segment with which the log goes on.
#[derive(Debug)]
struct New {
    place: Place,
    start: SegmentStart,
    seq: BatchSeq,
    copied: Vec<Record>,
    placed: Vec<super::log::Placed>,
    fold: Fold,
}

/// What lies before our own log: value logs of the original.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    /// No segment of ours is at or below this.
    pub floor: SegmentId,
    /// The oldest that is there.
    pub first: Option<SegmentId>,
}

/// What a completion led to.
#[derive(Debug)]
pub(super) enum Progress {
    NotMine,
    Going,
    Done(Box<Opened>),
    Failed(Fault),
}

impl Recovery {
    pub fn start(owner: Owner, salts: Salts, claims: IndexClaims, before: Before, ops: &mut LogOps<'_>) -> Self {
        Self {
            owner,
            salts,
            claims,
            before,
            phase: Phase::List,
            reading: Some(ops.push(LogOp::List)),
            asked: None,
            slots: VecDeque::new(),
            sizes: BTreeMap::new(),
            segments: BTreeMap::new(),
            empty: BTreeSet::new(),
            highest_segment: claims.indexed_end.unwrap_or_default().segment.max(before.floor),
            highest_slot: SlotId::ZERO,
            torn: None,
            newest: None,
            chain: Vec::new(),
            new: None,
        }
    }

    pub fn handle(
        &mut self,
        op: OpId,
        result: &Result<LogReply, IoFault>,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> Progress {
        if self.reading == Some(op) {
            self.reading = None;
            return match self.fed(result, events, ops) {
                Ok(progress) => progress,
                Err(fault) => self.fail(fault),
            };
        }
        match &mut self.phase {
            Phase::Prepare(preparing) => match preparing.handle(op, result, ops) {
                Prepared::NotMine => Progress::NotMine,
                Prepared::Going => Progress::Going,
                Prepared::Failed(fault) => self.fail(fault),
                Prepared::Ready => {
                    self.write_first_batch(ops);
                    Progress::Going
                }
            },
            Phase::Copy(flush) => match flush.handle(op, result) {
                Flushed::NotMine => Progress::NotMine,
                Flushed::Written => Progress::Going,
                Flushed::Failed(what) => {
                    let segment = self.new.as_ref().map_or(SegmentId::ZERO, |new| new.place.seal.segment);
                    self.fail(write_failed(segment, what))
                }
                Flushed::Durable => match self.begin_tail(ops, events) {
                    Ok(progress) => progress,
                    Err(fault) => self.fail(fault),
                },
            },
            _ => Progress::NotMine,
        }
    }

    /// GC point and first live segment by the durable records, once they are known.
    pub fn gc(&self) -> Option<(CommitTs, SegmentId)> {
        self.new.as_ref().map(|new| (new.fold.gc, new.fold.first_live))
    }

    /// Segments that reads may go to when recovery failed: their records prove themselves, one by one.
    pub fn readable(&self) -> BTreeMap<SegmentId, Place> {
        let place = |segment: &Segment| Place { slot: segment.slot, seal: segment.seal, end: segment.file_len };
        self.segments.iter().map(|(id, segment)| (*id, place(segment))).collect()
    }

    fn fail(&mut self, fault: Fault) -> Progress {
        self.phase = Phase::Over;
        Progress::Failed(fault)
    }

    fn read(&mut self, need: Need, ops: &mut LogOps<'_>) -> Progress {
        self.asked = Some((need, 0));
        self.reading = Some(ops.push(LogOp::Read { slot: need.slot, offset: need.offset, len: need.len }));
        Progress::Going
    }

    fn fed(
        &mut self,
        result: &Result<LogReply, IoFault>,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> Result<Progress, Fault> {
        if let Phase::List = self.phase {
            let Ok(LogReply::Slots(slots)) = result else {
                return Err(unreadable(SegmentId::ZERO, 0, unexpected("list of the log's files", result)));
            };
            self.slots = slots.iter().copied().collect();
            self.sizes = slots.iter().copied().collect();
            self.highest_slot = slots.iter().map(|(slot, _)| *slot).max().unwrap_or_default();
            return self.next_probe(events, ops);
        }
        let Ok(LogReply::Data(data)) = result else {
            if let Some((need, failures)) = self.asked.filter(|(_, failures)| *failures < READ_RETRIES) {
                // A read that fails says nothing about what was written.
                let progress = self.read(need, ops);
                self.asked = Some((need, failures + 1));
                return Ok(progress);
            }
            let (segment, slot) = self.position();
            let offset = self.asked.map_or(0, |(need, _)| need.offset);
            return Err(unreadable(segment, offset, format!("file {slot}: {}", unexpected("read", result))));
        };
        match &mut self.phase {
            Phase::Probe { slot, len } => {
                let (slot, len) = (*slot, *len);
                self.probed(slot, len, data)?;
                self.next_probe(events, ops)
            }
            Phase::HuntEmpty(hunt) => {
                let (segment, slot) = (hunt.seal.segment, hunt.slot);
                if let Some((at, header)) = hunt.feed(data) {
                    let what =
                        format!("batch {} is here, but the segment does not begin with a valid batch", header.seq.0);
                    return Err(damaged(segment, at, what));
                }
                match hunt.need() {
                    Some(need) => Ok(self.read(need, ops)),
                    None => {
                        self.empty.insert(slot);
                        self.candidate(segment, events, ops)
                    }
                }
            }
            Phase::Newest(scanner) => {
                scanner.feed(data);
                self.scan_newest(events, ops)
            }
            Phase::HuntBehind { hunt } => {
                let segment = hunt.seal.segment;
                if let Some((at, header)) = hunt.feed(data) {
                    let what = format!("batch {} is here, but a batch before it does not verify", header.seq.0);
                    return Err(damaged(segment, at, what));
                }
                match hunt.need() {
                    Some(need) => Ok(self.read(need, ops)),
                    None => self.begin_chain(events, ops),
                }
            }
            Phase::Verify { scanner, .. } => {
                scanner.feed(data);
                self.verify(events, ops)
            }
            Phase::Emit { scanner: Some(scanner), .. } => {
                scanner.feed(data);
                self.emit(events, ops)
            }
            Phase::List | Phase::Prepare(_) | Phase::Copy(_) | Phase::Emit { .. } | Phase::Over => Ok(Progress::Going),
        }
    }

    fn position(&self) -> (SegmentId, SlotId) {
        match &self.phase {
            Phase::Probe { slot, .. } => (SegmentId::ZERO, *slot),
            Phase::HuntEmpty(hunt) | Phase::HuntBehind { hunt } => (hunt.seal.segment, hunt.slot),
            Phase::Newest(scanner) | Phase::Verify { scanner, .. } | Phase::Emit { scanner: Some(scanner), .. } => {
                (scanner.seal.segment, scanner.slot)
            }
            _ => (SegmentId::ZERO, SlotId::ZERO),
        }
    }

    // ---- probe ----

    fn next_probe(&mut self, events: &mut Vec<LogEvent>, ops: &mut LogOps<'_>) -> Result<Progress, Fault> {
        let Some((slot, len)) = self.slots.pop_front() else {
            return self.candidate(SegmentId::MAX, events, ops);
        };
        self.phase = Phase::Probe { slot, len };
        Ok(self.read(Need { slot, offset: 0, len: FIRST_BATCH + BLOCK }, ops))
    }

    fn probed(&mut self, slot: SlotId, file_len: u64, data: &Bytes) -> Result<(), Fault> {
        let mut seal: Option<Seal> = None;
        for at in [0, to_usize(BLOCK)] {
            match decode_header(data.get(at..).unwrap_or_default()) {
                HeaderCopy::None => {}
                HeaderCopy::Unsupported { version, block, segment } => {
                    let what = format!(
                        "file {slot} has format version {version} with blocks of {block} bytes, which this program does not know"
                    );
                    return Err(damaged(segment, 0, what));
                }
                HeaderCopy::Valid { owner, .. } if owner != self.owner => {
                    let what = format!(
                        "file {slot} belongs to another data directory or cluster (cluster id {}, here {})",
                        owner.cluster, self.owner.cluster
                    );
                    return Err(damaged(SegmentId::ZERO, 0, what));
                }
                // Two valid copies differ after a crash while the slot was prepared anew: the higher id is the later one.
                HeaderCopy::Valid { seal: found, .. } => {
                    if seal.is_none_or(|seal| found.segment > seal.segment) {
                        seal = Some(found);
                    }
                }
            }
        }
        let Some(seal) = seal else {
            self.empty.insert(slot);
            return Ok(());
        };
        if seal.segment <= self.before.floor {
            let what = format!(
                "file {slot} claims to be this segment, which is a value log of the original (value/): restore the directory \
                 from a copy"
            );
            return Err(damaged(seal.segment, 0, what));
        }
        self.highest_segment = self.highest_segment.max(seal.segment);
        let start = first_record(seal, data);
        let segment = Segment { slot, seal, file_len, start };
        if let Some(other) = self.segments.insert(seal.segment, segment) {
            let what = format!("files {} and {slot} both claim to be this segment; remove the copy", other.slot);
            return Err(damaged(seal.segment, 0, what));
        }
        Ok(())
    }

    // ---- newest segment ----

    /// Tries the highest segment below `below`.
    fn candidate(
        &mut self,
        below: SegmentId,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> Result<Progress, Fault> {
        let Some((_, segment)) = self.segments.range(..below).next_back() else {
            return self.begin_chain(events, ops);
        };
        self.phase =
            Phase::Newest(Scanner::new(segment.seal, segment.slot, FIRST_BATCH, segment.file_len.max(FIRST_BATCH)));
        self.scan_newest(events, ops)
    }

    fn scan_newest(&mut self, events: &mut Vec<LogEvent>, ops: &mut LogOps<'_>) -> Result<Progress, Fault> {
        loop {
            let Phase::Newest(scanner) = &mut self.phase else { return Ok(Progress::Going) };
            let id = scanner.seal.segment;
            let Some(segment) = self.segments.get(&id).copied() else { return Ok(Progress::Going) };
            let (at, header) = match scanner.step() {
                Step::Need(need) => return Ok(self.read(need, ops)),
                Step::Batch(batch) => {
                    self.found_batch(segment, batch)?;
                    continue;
                }
                Step::Invalid { at, header, .. } => (at, header),
                Step::End => (segment.file_len.max(FIRST_BATCH), None),
            };
            if let Some(newest) = &self.newest {
                if let Some(header) = header
                    && header.seq.0 != newest.last.seq.0 + 1
                {
                    return Err(wrong_sequence(id, at, header.seq, BatchSeq(newest.last.seq.0 + 1)));
                }
                self.phase =
                    Phase::HuntBehind { hunt: Hunt::new(segment.seal, segment.slot, at + BLOCK, segment.file_len) };
            } else {
                if canary::is(Canary::HeaderAsProof) {
                    return Err(damaged(id, at, "the segment has a header, but no batch".to_owned()));
                }
                if let Some(header) = header
                    && self.torn.is_none_or(|(_, seq)| header.seq > seq)
                {
                    self.torn = Some((LogPtr { segment: id, offset: at }, header.seq));
                }
                let hunt = Hunt::new(segment.seal, segment.slot, FIRST_BATCH + BLOCK, segment.file_len);
                self.phase = Phase::HuntEmpty(hunt);
            }
            return match &self.phase {
                Phase::HuntBehind { hunt } => match hunt.need() {
                    Some(need) => Ok(self.read(need, ops)),
                    None => self.begin_chain(events, ops),
                },
                Phase::HuntEmpty(hunt) => match hunt.need() {
                    Some(need) => Ok(self.read(need, ops)),
                    None => {
                        self.empty.insert(segment.slot);
                        self.candidate(id, events, ops)
                    }
                },
                _ => Ok(Progress::Going),
            };
        }
    }

    fn found_batch(&mut self, segment: Segment, batch: Batch) -> Result<(), Fault> {
        let id = segment.seal.segment;
        match &mut self.newest {
            None => {
                let start = batch.records.first().and_then(|(_, record)| SegmentStart::from_record(record));
                let Some(start) = start else {
                    return Err(damaged(id, batch.offset, "segment does not begin with a segment start".to_owned()));
                };
                if batch.seq.0 != start.last_seq.0 + 1 {
                    return Err(wrong_sequence(id, batch.offset, batch.seq, BatchSeq(start.last_seq.0 + 1)));
                }
                let before = Fold { largest_ts: 0, gc: start.gc, first_live: start.first_live };
                let mut fold = before;
                batch.records.iter().for_each(|(_, record)| fold.take(record));
                self.newest = Some(Newest { segment, start, last: batch, first: true, fold, fold_before_last: before });
            }
            Some(newest) => {
                if batch.seq.0 != newest.last.seq.0 + 1 {
                    return Err(wrong_sequence(id, batch.offset, batch.seq, BatchSeq(newest.last.seq.0 + 1)));
                }
                newest.fold_before_last = newest.fold;
                batch.records.iter().for_each(|(_, record)| newest.fold.take(record));
                newest.last = batch;
                newest.first = false;
            }
        }
        Ok(())
    }

    // ---- predecessors ----

    fn begin_chain(&mut self, events: &mut Vec<LogEvent>, ops: &mut LogOps<'_>) -> Result<Progress, Fault> {
        if let Some(newest) = &self.newest {
            let (mut id, mut start) = (newest.segment.seal.segment, newest.start);
            let first_live = newest.fold.first_live;
            while start.previous != SegmentId::ZERO && start.previous >= first_live {
                let named = start.previous;
                let problem = |what: &str| Err(damaged(named, 0, format!("{what} (segment {id} follows it)")));
                if named >= id {
                    return problem("a segment cannot follow itself or a later one");
                }
                let Some(segment) = self.segments.get(&named) else { return problem("segment is missing") };
                let Some(own) = segment.start else { return problem("segment does not begin with a segment start") };
                let end = start.previous_end;
                if end <= FIRST_BATCH || !end.is_multiple_of(BLOCK) || start.last_seq <= own.last_seq {
                    return problem("what the next segment says about its end makes no sense");
                }
                let first_seq = BatchSeq(own.last_seq.0 + 1);
                let (slot, seal) = (segment.slot, segment.seal);
                self.chain.push(Link { slot, seal, end, first_seq, last_seq: start.last_seq });
                (id, start) = (named, own);
            }
            self.chain.reverse();
            self.check_claim(newest)?;
        }
        self.next_link(0, events, ops)
    }

    /// The index must not point into bytes that do not count any more.
    fn check_claim(&self, newest: &Newest) -> Result<(), Fault> {
        let Some(indexed) = self.claims.indexed_end.filter(|end| end.segment < newest.segment.seal.segment) else {
            return Ok(());
        };
        if indexed.segment < newest.fold.first_live || indexed == LogPtr::default() {
            return Ok(());
        }
        let below = self.chain.iter().rev().find(|link| link.seal.segment <= indexed.segment);
        let recovered = below.map_or(LogPtr::default(), |l| LogPtr { segment: l.seal.segment, offset: l.end });
        if indexed > recovered { Err(Fault::LogBehindIndex { indexed, recovered }) } else { Ok(()) }
    }

    fn next_link(
        &mut self,
        mut at: usize,
        events: &mut Vec<LogEvent>,
        ops: &mut LogOps<'_>,
    ) -> Result<Progress, Fault> {
        let flushed = self.claims.flushed_end.unwrap_or_default();
        while let Some(link) = self.chain.get(at).copied() {
            if (LogPtr { segment: link.seal.segment, offset: link.end }) > flushed {
                let scanner = link.from(flushed);
                let seq = (!scanner.began_within()).then_some(link.first_seq);
                self.phase = Phase::Verify { at, scanner, seq };
                return self.verify(events, ops);
            }
            at += 1;
        }
        self.decide(ops, events)
    }

    fn verify(&mut self, events: &mut Vec<LogEvent>, ops: &mut LogOps<'_>) -> Result<Progress, Fault> {
        loop {
            let Phase::Verify { at, scanner, seq } = &mut self.phase else { return Ok(Progress::Going) };
            let id = scanner.seal.segment;
            match scanner.step() {
                Step::Need(need) => return Ok(self.read(need, ops)),
                Step::Batch(batch) => match *seq {
                    Some(expected) if batch.seq != expected => {
                        return Err(wrong_sequence(id, batch.offset, batch.seq, expected));
                    }
                    _ => *seq = Some(BatchSeq(batch.seq.0 + 1)),
                },
                Step::Invalid { at: bad, why, .. } => {
                    if !scanner.restart(bad) {
                        return Err(damaged(id, bad, why.to_owned()));
                    }
                    *seq = self.chain.get(*at).map(|link| link.first_seq);
                }
                Step::End => {
                    let (at, seq) = (*at, *seq);
                    if let (Some(link), Some(seq)) = (self.chain.get(at), seq)
                        && link.last_seq.0 + 1 != seq.0
                    {
                        return Err(wrong_sequence(id, link.end, BatchSeq(seq.0 - 1), link.last_seq));
                    }
                    return self.next_link(at + 1, events, ops);
                }
            }
        }
    }

    // ---- the new segment ----

    fn decide(&mut self, ops: &mut LogOps<'_>, events: &mut Vec<LogEvent>) -> Result<Progress, Fault> {
        let last = self.newest.as_ref().map(|newest| LastBatch {
            start: LogPtr { segment: newest.segment.seal.segment, offset: newest.last.offset },
            end: newest.last.end,
            seq: newest.last.seq,
            first: newest.first,
        });
        let verdict = decide(&Found { last, torn: self.torn, claims: self.claims })?;
        if canary::is(Canary::AppendAfterCut) && verdict == Verdict::Keep {
            return self.append_after_cut(ops, events);
        }
        let id = SegmentId::new(self.highest_segment.raw().saturating_add(1));
        let (start, fold, copied) = match (&self.newest, verdict) {
            (None, _) | (_, Verdict::First) => {
                let first_live = self.before.first.unwrap_or(id);
                let fold = Fold { first_live, ..Fold::default() };
                (SegmentStart { first_live, ..EMPTY }, fold, Vec::new())
            }
            (Some(newest), Verdict::Keep) => {
                (self.after(newest, newest.last.end, newest.last.seq, newest.fold), newest.fold, Vec::new())
            }
            (Some(newest), Verdict::Copy) => {
                let seq = BatchSeq(newest.last.seq.0.saturating_sub(1));
                let fold = newest.fold_before_last;
                (self.after(newest, newest.last.offset, seq, fold), fold, copied(&newest.last))
            }
            (Some(newest), Verdict::CopyAndVoid) => (newest.start, newest.fold_before_last, copied(&newest.last)),
        };
        let fold = copied.iter().fold(Fold { largest_ts: 0, ..fold }, |mut fold, record| {
            fold.take(record);
            fold
        });
        // Only what certainly holds nothing: whether the other segments off the chain are void is certain only when the new
        // start is durable.
        let target = match self.empty.pop_first() {
            Some(slot) => Target::Reuse(slot),
            None => {
                self.highest_slot = SlotId::new(self.highest_slot.raw().saturating_add(1));
                Target::New(self.highest_slot)
            }
        };
        let seal = Seal { segment: id, salt: self.salts.next() };
        let slot = match target {
            Target::New(slot) | Target::Reuse(slot) => slot,
        };
        self.highest_segment = id;
        let seq = BatchSeq(start.last_seq.0 + 1);
        let place = Place { slot, seal, end: FIRST_BATCH };
        self.new = Some(New { place, start, seq, copied, placed: Vec::new(), fold });
        self.phase = Phase::Prepare(Preparing::start(target, seal, self.owner, ops));
        Ok(Progress::Going)
    }

    /// The mutation of that name: no new segment.
    fn append_after_cut(&mut self, ops: &mut LogOps<'_>, events: &mut Vec<LogEvent>) -> Result<Progress, Fault> {
        let Some(newest) = &self.newest else { return Ok(Progress::Going) };
        let Segment { slot, seal, .. } = newest.segment;
        let (end, seq) = (newest.last.end, newest.last.seq);
        let first_seq = BatchSeq(newest.start.last_seq.0 + 1);
        self.chain.push(Link { slot, seal, end, first_seq, last_seq: seq });
        let place = Place { slot, seal, end };
        let (start, fold) = (newest.start, newest.fold);
        self.new = Some(New { place, start, seq, copied: Vec::new(), placed: Vec::new(), fold });
        self.begin_tail(ops, events)
    }

    fn after(&self, newest: &Newest, end: u64, seq: BatchSeq, fold: Fold) -> SegmentStart {
        SegmentStart {
            previous: newest.segment.seal.segment,
            previous_end: end,
            last_seq: seq,
            largest_ts: fold.largest_ts,
            first_live: fold.first_live,
            gc: fold.gc,
        }
    }

    fn write_first_batch(&mut self, ops: &mut LogOps<'_>) {
        let Some(new) = &mut self.new else { return };
        let encoded = batch::encode(new.place.seal, FIRST_BATCH, new.seq, Some(new.start), &new.copied);
        new.place.end = encoded.end;
        new.placed = encoded.placed;
        self.phase = Phase::Copy(Flush::start(new.place.slot, FIRST_BATCH, encoded.parts, ops));
    }

    // ---- tail ----

    /// Everything is durable now: what the index lacks is handed out in log order.
    fn begin_tail(&mut self, ops: &mut LogOps<'_>, events: &mut Vec<LogEvent>) -> Result<Progress, Fault> {
        let indexed = self.claims.indexed_end.unwrap_or_default();
        if let (Some(newest), Some(new)) = (&self.newest, &self.new)
            && new.start.previous == newest.segment.seal.segment
        {
            self.chain.push(Link {
                slot: newest.segment.slot,
                seal: newest.segment.seal,
                end: new.start.previous_end,
                first_seq: BatchSeq(newest.start.last_seq.0 + 1),
                last_seq: new.start.last_seq,
            });
        }
        let lacking = |link: &&Link| LogPtr { segment: link.seal.segment, offset: link.end } > indexed;
        self.phase = Phase::Emit { rest: self.chain.iter().filter(lacking).copied().collect(), scanner: None };
        self.emit(events, ops)
    }

    fn emit(&mut self, events: &mut Vec<LogEvent>, ops: &mut LogOps<'_>) -> Result<Progress, Fault> {
        let indexed = self.claims.indexed_end.unwrap_or_default();
        loop {
            let Phase::Emit { rest, scanner } = &mut self.phase else { return Ok(Progress::Going) };
            let Some(current) = scanner else {
                match rest.pop_front() {
                    Some(link) => *scanner = Some(link.from(indexed)),
                    None => return Ok(self.finish(events)),
                }
                continue;
            };
            let segment = current.seal.segment;
            match current.step() {
                Step::Need(need) => return Ok(self.read(need, ops)),
                Step::End => *scanner = None,
                Step::Invalid { at, why, .. } if !current.restart(at) => {
                    return Err(damaged(segment, at, why.to_owned()));
                }
                Step::Invalid { .. } => {}
                Step::Batch(batch) => {
                    for (offset, record) in batch.records {
                        let ptr = LogPtr { segment, offset };
                        if ptr >= indexed && record.kind != RecordKind::SegmentStart {
                            events.push(LogEvent::Tail { placed: place(ptr, &record), record });
                        }
                    }
                }
            }
        }
    }

    fn finish(&mut self, events: &mut Vec<LogEvent>) -> Progress {
        self.phase = Phase::Over;
        let Some(new) = self.new.take() else { return Progress::Going };
        for (placed, record) in new.placed.iter().zip(new.copied) {
            events.push(LogEvent::Tail { placed: *placed, record });
        }
        let mut segments: BTreeMap<SegmentId, Place> = BTreeMap::new();
        for link in &self.chain {
            segments.insert(link.seal.segment, Place { slot: link.slot, seal: link.seal, end: link.end });
        }
        segments.insert(new.place.seal.segment, new.place);
        let used: BTreeSet<SlotId> = segments.values().map(|place| place.slot).collect();
        let mut free = std::mem::take(&mut self.empty);
        free.extend(self.segments.values().map(|segment| segment.slot).filter(|slot| !used.contains(slot)));
        free.remove(&new.place.slot);
        let end = LogPtr { segment: new.place.seal.segment, offset: new.place.end };
        events.push(LogEvent::Ready { end });
        Progress::Done(Box::new(Opened {
            owner: self.owner,
            salts: self.salts.clone(),
            active: new.place,
            last_seq: new.seq,
            fold: new.fold,
            segments,
            free: free.into_iter().map(|slot| (slot, self.sizes.get(&slot).copied().unwrap_or(0))).collect(),
            highest_segment: self.highest_segment,
            highest_slot: self.highest_slot,
        }))
    }
}

const EMPTY: SegmentStart = SegmentStart {
    previous: SegmentId::ZERO,
    previous_end: 0,
    last_seq: BatchSeq(0),
    largest_ts: 0,
    first_live: SegmentId::ZERO,
    gc: crate::ids::CommitTs::ZERO,
};

/// The `SegmentStart` in the first block of the first batch.
fn first_record(seal: Seal, data: &Bytes) -> Option<SegmentStart> {
    let first = to_usize(FIRST_BATCH);
    decode_batch_header(seal, FIRST_BATCH, data.get(first..)?)?;
    let at = first + BATCH_HEADER;
    let bytes = if at < data.len() { data.slice(at..) } else { return None };
    SegmentStart::from_record(&decode_record(seal, at as u64, &bytes).ok()?)
}

fn copied(last: &Batch) -> Vec<Record> {
    last.records.iter().map(|(_, record)| record.clone()).filter(|r| r.kind != RecordKind::SegmentStart).collect()
}

fn damaged(segment: SegmentId, offset: u64, what: String) -> Fault {
    Fault::LogDamaged { segment, offset, what }
}

fn unreadable(segment: SegmentId, offset: u64, what: String) -> Fault {
    Fault::LogUnreadable { segment, offset, what }
}

/// A read of recovery that fails is repeated this often.
const READ_RETRIES: u32 = 3;

fn wrong_sequence(segment: SegmentId, offset: u64, found: BatchSeq, expected: BatchSeq) -> Fault {
    damaged(segment, offset, format!("batch {} is here where batch {} is expected", found.0, expected.0))
}
