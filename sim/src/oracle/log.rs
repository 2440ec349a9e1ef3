//! The value log as bytes: an independent reader of format v2. It watches every write (no block twice, one flush in flight,
//! order of fakes), finds acknowledged records in the durable image, and reads the whole chain for D4.

use crate::disk::{PAGE, VirtualDisk};
use crate::oracle::gc::GcWatch;
use binlog_core::ids::SlotId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Kinds of records, as their numbers on disk.
pub const P: u8 = 2;
pub const C: u8 = 3;
pub const FAKE: u8 = 5;
pub const VERDICT_C: u8 = 6;
pub const VERDICT_R: u8 = 7;
/// A hint.
pub const R: u8 = 4;
pub const START: u8 = 1;
pub const GC: u8 = 8;

/// Kind, start_ts, commit_ts.
pub type Name = (u8, u64, u64);

#[derive(Debug, Clone, Copy)]
struct Place {
    slot: SlotId,
    segment: u64,
    at: usize,
}

/// All writes to one Pump's log.
#[derive(Debug, Default)]
pub struct LogView {
    slots: BTreeMap<SlotId, SlotView>,
    /// Where each record's payload was written; looked up only, never iterated.
    places: HashMap<Name, Vec<Place>>,
    largest_commit: u64,
    largest_fake: u64,
    /// A batch that was written and not synced yet.
    unsynced: Option<(SlotId, u64)>,
    pub gc: GcWatch,
    /// Verdicts that were written and not judged yet.
    pub verdicts: Vec<Name>,
}

#[derive(Debug, Default)]
struct SlotView {
    segment: u64,
    written: BTreeSet<usize>,
}

/// One record as it lies in a batch.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    pub name: Name,
    /// Offset of the record's header from the beginning of what was parsed.
    pub at: usize,
    pub payload: &'a [u8],
}

impl LogView {
    /// The process starts anew.
    pub fn restart(&mut self) {
        self.unsynced = None;
        self.gc.restart();
    }

    /// A write is about to be carried out.
    pub fn written(&mut self, slot: SlotId, offset: usize, bytes: &[u8]) -> Result<(), (&'static str, String)> {
        let view = self.slots.entry(slot).or_default();
        if offset == 0 {
            *view = SlotView { segment: header_segment(bytes).unwrap_or(0), written: BTreeSet::new() };
            return self.gc.header(slot, view.segment);
        }
        for page in offset / PAGE..(offset + bytes.len()).div_ceil(PAGE) {
            if !view.written.insert(page) {
                return Err(("D5", format!("block {page} of slot {slot} is written twice in one segment")));
            }
        }
        let segment = view.segment;
        let Some((seq, records)) = batch(bytes) else {
            return Err(("D5", format!("what is written to slot {slot} at {offset} is no batch")));
        };
        if let Some((_, before)) = self.unsynced {
            return Err(("D7", format!("batch {seq} reaches the disk before batch {before} is durable")));
        }
        self.unsynced = Some((slot, seq));
        let whole = offset as u64;
        let end = whole + (bytes.len() as u64).next_multiple_of(PAGE as u64);
        self.gc.batch(slot, end, records.iter().map(|r| (whole + r.at as u64, r.name, r.payload)));
        for record in records {
            let places = self.places.entry(record.name).or_default();
            let is_new = places.is_empty();
            places.push(Place { slot, segment, at: offset + record.at + RECORD });
            let (kind, _, ts) = record.name;
            if matches!(kind, VERDICT_C | VERDICT_R) {
                self.verdicts.push(record.name);
            }
            if kind == FAKE && is_new {
                if ts <= self.largest_commit.max(self.largest_fake) {
                    let (c, f) = (self.largest_commit, self.largest_fake);
                    return Err(("W5", format!("fake {ts} after commit {c} and fake {f}")));
                }
                self.largest_fake = ts;
            } else if kind == C {
                self.largest_commit = self.largest_commit.max(ts);
            }
        }
        Ok(())
    }

    /// A sync of this slot was answered with success.
    pub fn synced(&mut self, slot: SlotId) {
        self.unsynced.take_if(|(own, _)| *own == slot);
        self.gc.synced(slot);
    }

    /// D2: the record with this payload lies in the durable image, under a durable directory entry and header.
    #[must_use]
    pub fn is_durable(&self, disk: &VirtualDisk, name: Name, payload: &[u8]) -> bool {
        self.places.get(&name).is_some_and(|places| {
            places.iter().rev().any(|place| {
                let file = disk.files.get(&place.slot);
                let header = file.and_then(|file| durable_segment(&file.durable));
                header == Some(place.segment) && disk.holds_durably(place.slot, place.at, payload)
            })
        })
    }
}

/// A record of the chain, where it lies.
#[derive(Debug, Clone)]
pub struct Chained {
    pub segment: u64,
    pub offset: u64,
    pub name: Name,
    pub payload: Vec<u8>,
}

/// What counts of a log.
#[derive(Debug)]
pub struct Chain {
    /// In log order.
    pub records: Vec<Chained>,
    /// The GC point and the first segment that GC left, as the records say.
    pub point: u64,
    pub first: u64,
}

/// Every record that counts: from the newest segment along `previous`, down to the first that GC left. `end`: where the log ends now.
pub fn chain(disk: &VirtualDisk, end: (u64, u64)) -> Result<Chain, String> {
    let mut segments = BTreeMap::new();
    for (slot, file) in &disk.files {
        if let Some(segment) = durable_segment(&file.visible)
            && segments.insert(segment, &file.visible).is_some()
        {
            return Err(format!("slot {slot} carries segment {segment}, which another slot has too"));
        }
    }
    let mut pieces = Vec::new();
    let (mut segment, mut until) = end;
    let (mut point, mut first) = (0, 0);
    while segment != 0 && segment >= first {
        let bytes = segments.get(&segment).ok_or_else(|| format!("segment {segment} of the chain is missing"))?;
        let mut records = Vec::new();
        let mut previous = None;
        let mut at = FIRST;
        while (at as u64) < until {
            let parsed = bytes.get(at..).and_then(batch);
            let (_, batch_records) = parsed.ok_or_else(|| format!("no batch in segment {segment} at {at}"))?;
            let mut last = at + BATCH;
            for record in batch_records {
                last = at + record.at + RECORD + record.payload.len();
                if record.name.0 == START && previous.is_none() {
                    previous = Some((u64_at(record.payload, 0), u64_at(record.payload, 8)));
                    first = first.max(u64_at(record.payload, 32));
                    point = point.max(u64_at(record.payload, 40));
                } else {
                    if record.name.0 == GC {
                        point = point.max(record.name.2);
                        first = first.max(u64_at(record.payload, 0));
                    }
                    let offset = (at + record.at) as u64;
                    records.push(Chained { segment, offset, name: record.name, payload: record.payload.to_vec() });
                }
            }
            at = last.div_ceil(PAGE) * PAGE;
        }
        pieces.push(records);
        (segment, until) = previous.ok_or_else(|| format!("segment {segment} has no start"))?;
    }
    Ok(Chain { records: pieces.into_iter().rev().flatten().collect(), point, first })
}

fn header_segment(bytes: &[u8]) -> Option<u64> {
    bytes.starts_with(b"TBVLOG2\0").then(|| u64_at(bytes, 40))
}

/// By either copy of the header, the later one where they differ.
fn durable_segment(bytes: &[u8]) -> Option<u64> {
    let second = bytes.get(PAGE..).and_then(header_segment);
    header_segment(bytes).max(second)
}

/// Sequence and records of the batch at the beginning of `bytes`.
fn batch(bytes: &[u8]) -> Option<(u64, Vec<Raw<'_>>)> {
    if !bytes.starts_with(b"TBB2") || bytes.len() < BATCH {
        return None;
    }
    let end = BATCH + usize::try_from(u64_at(bytes, 20)).ok()?;
    let mut records = Vec::new();
    let mut at = BATCH;
    while at < end {
        let head = bytes.get(at..at + RECORD)?;
        let len = u32::from_le_bytes(head.get(17..21)?.try_into().ok()?) as usize;
        let payload = bytes.get(at + RECORD..at + RECORD + len)?;
        records.push(Raw { name: (head[0], u64_at(head, 1), u64_at(head, 9)), at, payload });
        at += RECORD + len;
    }
    Some((u64_at(bytes, 12), records))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

const FIRST: usize = 2 * PAGE;
const BATCH: usize = 40;
const RECORD: usize = 25;
