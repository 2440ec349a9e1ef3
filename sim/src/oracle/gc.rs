//! Oracles of GC (G1, G2, rules 6), from the writes that reach the disk: which segments the durable log counts, what lies in them, and
//! whether a GC record, a deletion in the index or another use of a slot takes something that is still needed.

use crate::oracle::log::{C, GC, Name, P, START, VERDICT_C, VERDICT_R};
use binlog_core::ids::{CommitTs, SlotId};
use binlog_core::index::key;
use binlog_core::index::op::Change;
use binlog_core::node::status::{NodeState, NodeStatus};
use std::collections::{BTreeMap, BTreeSet};

type Judged = Result<(), (&'static str, String)>;

/// What one Pump's durable log says about GC, over all lives of its process.
#[derive(Debug, Default)]
pub struct GcWatch {
    /// By a durable record: nothing at or below is promised.
    pub point: u64,
    /// By a durable record: segments below may be used for something else.
    pub first: u64,
    /// Segments that count, with what is durable in them.
    segments: BTreeMap<u64, Segment>,
    /// Which segment the file's header names.
    headers: BTreeMap<SlotId, u64>,
    /// Transactions with a durable C or verdict: commit timestamp, 0 for rolled back.
    decided: BTreeMap<u64, u64>,
    /// Written, not synced yet.
    pending: Option<Pending>,
    /// A GC record that was written and not judged yet.
    fresh: Option<(u64, u64)>,
    /// Those that were judged: recovery may copy the last, synced or not.
    judged: BTreeSet<(u64, u64)>,
    /// Highest stored watermark of any life: a record whose first write failed is written by recovery, when the index may have
    /// lost its latest batches.
    reached: u64,
}

#[derive(Debug, Default)]
struct Segment {
    /// The file that carries it: a header that failed may name it in another.
    slot: Option<SlotId>,
    end: u64,
    /// Offset and name.
    records: Vec<(u64, Name)>,
}

#[derive(Debug)]
struct Pending {
    slot: SlotId,
    segment: u64,
    end: u64,
    records: Vec<(u64, Name)>,
    start: Option<Start>,
    gc: Option<(u64, u64)>,
}

/// The start of a segment, as far as it matters here.
#[derive(Debug, Clone, Copy)]
struct Start {
    previous: u64,
    previous_end: u64,
    gc: (u64, u64),
}

/// G2 with `gc-hold = "age"`: what one life of a Pump knew of the Drainer, and what it said.
#[derive(Debug, Default)]
pub struct Told {
    /// The checkpoint in the last listing; `None`: the registry could not be read, or was not.
    listed: Option<u64>,
    /// Since the last GC record it was said that one is passed.
    passed: bool,
    /// Since the last listing it was said that nobody is known.
    blind: bool,
}

impl Told {
    /// A listing of Drainers came; the worlds have one at most.
    pub fn lists(&mut self, drainers: Option<&[NodeStatus]>) {
        let there = drainers.into_iter().flatten().find(|drainer| drainer.state != NodeState::Offline);
        self.listed = there.map(|drainer| u64::try_from(drainer.max_commit_ts).unwrap_or(0));
        self.blind &= drainers.is_none();
    }

    pub fn says(&mut self, text: &str) {
        if text.contains("deleted now by their age") {
            let blind = text.contains("cannot be read");
            self.blind |= blind;
            self.passed |= !blind;
        }
    }

    /// A GC record moves the point from `before` to `point`; `checkpoint` is what the registry holds of a Drainer that is not offline.
    /// Gives whether one was passed.
    pub fn moves(&mut self, before: u64, point: u64, checkpoint: Option<u64>) -> Result<bool, (&'static str, String)> {
        let said = std::mem::take(&mut self.passed) || (self.listed.is_none() && self.blind);
        let Some(known) = checkpoint.map(|now| self.listed.unwrap_or(now)).filter(|at| (before..point).contains(at))
        else {
            return Ok(false);
        };
        if said {
            Ok(true)
        } else {
            Err(("G2", format!("the GC point {point} passes a Drainer that is at {known}, and nobody was told before")))
        }
    }
}

/// What the world knows at the moment at which a GC record is written.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The GC point must stay below: the stored watermark.
    pub watermark: u64,
    /// PD's time less what is to be kept.
    pub age: u64,
    /// The checkpoint that the downstream holds, where Drainers hold GC.
    pub checkpoint: Option<u64>,
    /// Segment and offset up to which the flushed index goes.
    pub flushed: (u64, u64),
}

impl GcWatch {
    /// The process starts anew.
    pub fn restart(&mut self) {
        self.pending = None;
        self.fresh = None;
    }

    /// The stored watermark as it is now, or was when its process died.
    pub fn reaches(&mut self, watermark: u64) -> u64 {
        self.reached = self.reached.max(watermark);
        self.reached
    }

    /// A header is written: whatever the slot held is gone.
    pub fn header(&mut self, slot: SlotId, segment: u64) -> Judged {
        self.reuses(slot, "gets a new header")?;
        self.headers.insert(slot, segment);
        Ok(())
    }

    /// The slot is filled with zeros or removed.
    pub fn wipes(&mut self, slot: SlotId, how: &str) -> Judged {
        self.reuses(slot, how)?;
        self.headers.remove(&slot);
        Ok(())
    }

    fn reuses(&mut self, slot: SlotId, how: &str) -> Judged {
        let Some(segment) = self.headers.get(&slot).filter(|id| self.carries(slot, **id)) else { return Ok(()) };
        if *segment < self.first {
            self.segments.remove(segment);
        } else {
            let first = self.first;
            return Err((
                "G1",
                format!("slot {slot} {how}, but no durable record frees its segment {segment} ({first})"),
            ));
        }
        Ok(())
    }

    /// Whether this file carries this segment, and it counts.
    fn carries(&self, slot: SlotId, segment: u64) -> bool {
        self.segments.get(&segment).is_some_and(|own| own.slot == Some(slot))
    }

    /// A batch is written.
    pub fn batch<'a>(&mut self, slot: SlotId, end: u64, records: impl Iterator<Item = (u64, Name, &'a [u8])>) {
        let segment = self.headers.get(&slot).copied().unwrap_or(0);
        let mut pending = Pending { slot, segment, end, records: Vec::new(), start: None, gc: None };
        for (offset, name, payload) in records {
            let number =
                |at: usize| payload.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
            match name.0 {
                START => {
                    let gc = (number(40), number(32));
                    pending.start = Some(Start { previous: number(0), previous_end: number(8), gc });
                }
                GC => {
                    pending.gc = Some((name.2, number(0)));
                    self.fresh = pending.gc;
                }
                _ => {}
            }
            pending.records.push((offset, name));
        }
        self.pending = Some(pending);
    }

    /// What was written to this slot is durable.
    pub fn synced(&mut self, slot: SlotId) {
        let Some(pending) = self.pending.take_if(|pending| pending.slot == slot) else { return };
        if let Some(start) = pending.start {
            // What lies behind the predecessor's end, and between the two, does not count.
            self.segments.retain(|id, _| *id <= start.previous);
            if let Some(previous) = self.segments.get_mut(&start.previous) {
                previous.end = start.previous_end;
                previous.records.retain(|(offset, _)| *offset < start.previous_end);
            }
        }
        for (point, first) in pending.gc.into_iter().chain(pending.start.map(|start| start.gc)) {
            self.point = self.point.max(point);
            self.first = self.first.max(first);
        }
        for (_, (kind, start, commit)) in &pending.records {
            match *kind {
                C | VERDICT_C => drop(self.decided.insert(*start, *commit)),
                VERDICT_R => drop(self.decided.insert(*start, 0)),
                _ => {}
            }
        }
        let own = self.segments.entry(pending.segment).or_default();
        own.slot = Some(slot);
        own.end = pending.end;
        own.records.extend(pending.records);
    }

    /// A write or sync failed: what it carried is not durable, whatever a later sync says.
    pub fn failed(&mut self) {
        self.pending = None;
    }

    /// The GC record that was written since the last call: it is to be judged. Not again when recovery copies it.
    pub fn take_fresh(&mut self) -> Option<(u64, u64)> {
        let fresh =
            self.fresh.take().filter(|fresh| !self.judged.contains(fresh) && *fresh != (self.point, self.first))?;
        self.judged.insert(fresh);
        Some(fresh)
    }

    /// G1, G2: this record may be written, and what it frees may go.
    /// `is_indexed`: whether the index has this commit of this start (a late duplicate is not, and needs no prewrite).
    pub fn judges(&self, (point, first): (u64, u64), bounds: &Bounds, is_indexed: impl Fn(u64, u64) -> bool) -> Judged {
        if point < self.point || first < self.first {
            return Err((
                "G1",
                format!("GC goes back from {} to {point}, from segment {} to {first}", self.point, self.first),
            ));
        }
        if point >= bounds.watermark {
            return Err(("G1", format!("the GC point {point} is not below the stored watermark {}", bounds.watermark)));
        }
        // A record that only frees more segments repeats the point.
        if point > self.point && point > bounds.age {
            return Err(("G1", format!("the GC point {point} is younger than what is kept ({})", bounds.age)));
        }
        if let Some(checkpoint) = bounds.checkpoint.filter(|checkpoint| point > self.point && point > *checkpoint) {
            return Err(("G2", format!("the GC point {point} passes the Drainer's checkpoint {checkpoint}")));
        }
        let active = self.segments.last_key_value().map_or(0, |(id, _)| *id);
        let mut prewrites = BTreeSet::new();
        for (id, segment) in self.segments.range(..first) {
            let err = |what: String| Err(("G1", format!("segment {id} is freed at GC point {point}, but {what}")));
            if *id >= active {
                return err("it is the active one".to_owned());
            }
            if (*id, segment.end) > bounds.flushed {
                return err(format!("it ends at {}, the flushed index at {:?}", segment.end, bounds.flushed));
            }
            for (_, (kind, start, commit)) in &segment.records {
                match *kind {
                    C | VERDICT_C if *commit > point => return err(format!("it holds commit {commit}")),
                    P if prewrites.insert(*start) => match self.decided.get(start) {
                        None => return err(format!("the prewrite of start {start} is undecided")),
                        Some(commit) if *commit > point && is_indexed(*commit, *start) => {
                            return err(format!("the prewrite of start {start} belongs to commit {commit}"));
                        }
                        Some(_) => {}
                    },
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// G1: the index deletes commits only below a GC point that is durable in the log.
    pub fn applies(&self, changes: &[Change]) -> Judged {
        let (_, limit) = key::commit_range(CommitTs::ZERO, CommitTs::new(self.point));
        let (from, _) = key::commit_range(CommitTs::ZERO, CommitTs::ZERO);
        for change in changes {
            if let Change::DeleteRange(_, to) = change
                && *to > from
                && to.starts_with(b"commit/")
                && *to > limit
            {
                return Err(("G1", format!("the index deletes commits above the durable GC point {}", self.point)));
            }
        }
        Ok(())
    }

    /// Whether the durable log decided about the transaction, and how long ago: it may be gone with its prewrite. A late duplicate is
    /// not in the index (`is_indexed`), so that nothing holds its start (gc 112).
    #[must_use]
    pub fn may_be_gone(&self, start_ts: u64, is_indexed: impl Fn(u64) -> bool) -> bool {
        let passed = |commit: u64| commit <= self.point || (start_ts <= self.point && !is_indexed(commit));
        self.point > 0 && self.decided.get(&start_ts).is_some_and(|commit| passed(*commit))
    }

    /// Whether this file holds nothing that counts.
    #[must_use]
    pub fn is_spare(&self, slot: SlotId) -> bool {
        self.headers.get(&slot).is_none_or(|id| *id < self.first || !self.carries(slot, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SlotId = SlotId::new(1);
    const B: SlotId = SlotId::new(2);

    fn start(previous: u64, end: u64) -> Vec<u8> {
        [previous, end, 0, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn log() -> GcWatch {
        let mut watch = GcWatch::default();
        watch.header(A, 1).unwrap();
        let first = start(0, 0);
        let records: [(u64, Name, &[u8]); 3] =
            [(0, (START, 0, 0), &first), (9, (P, 10, 0), b""), (10, (P, 12, 0), b"")];
        watch.batch(A, 20, records.into_iter());
        watch.synced(A);
        watch.header(B, 2).unwrap();
        let second = start(1, 20);
        let records: [(u64, Name, &[u8]); 2] = [(0, (START, 0, 0), &second), (9, (C, 10, 11), b"")];
        watch.batch(B, 20, records.into_iter());
        watch.synced(B);
        watch
    }

    #[test]
    fn what_is_needed_may_not_be_freed() {
        let mut watch = log();
        let bounds = Bounds { watermark: 100, age: 50, checkpoint: Some(40), flushed: (2, 0) };
        let fails = |watch: &GcWatch, record, bounds: &Bounds, text: &str| {
            let broken = watch.judges(record, bounds, |_, _| true).unwrap_err();
            assert!(broken.1.contains(text), "{broken:?}");
        };
        assert_eq!(watch.judges((30, 1), &bounds, |_, _| true), Ok(()));
        fails(&watch, (30, 2), &bounds, "start 12 is undecided");
        let records: [(u64, Name, &[u8]); 1] = [(30, (C, 12, 31), b"")];
        watch.batch(B, 40, records.into_iter());
        fails(&watch, (30, 2), &bounds, "start 12 is undecided");
        watch.synced(B);
        fails(&watch, (30, 2), &bounds, "belongs to commit 31");
        assert_eq!(watch.judges((31, 2), &bounds, |_, _| true), Ok(()));
        fails(&watch, (31, 3), &bounds, "it is the active one");
        fails(&watch, (31, 2), &Bounds { flushed: (1, 19), ..bounds }, "flushed index");
        fails(&watch, (41, 1), &bounds, "passes the Drainer's checkpoint");
        fails(&watch, (51, 1), &bounds, "younger");
        fails(&watch, (31, 2), &Bounds { watermark: 31, ..bounds }, "not below the stored watermark");
    }

    #[test]
    fn a_slot_is_free_when_the_record_is_durable() {
        let mut watch = log();
        let record: (u64, Name, &[u8]) = (40, (GC, 0, 11), &2u64.to_le_bytes());
        watch.batch(B, 60, std::iter::once(record));
        assert_eq!(watch.take_fresh(), Some((11, 2)));
        assert!(watch.header(A, 3).is_err() && watch.wipes(A, "is removed").is_err() && !watch.is_spare(A));
        let deletes = |to| [Change::DeleteRange(key::commit(CommitTs::new(1)), key::commit(CommitTs::new(to)))];
        assert!(watch.applies(&deletes(12)).is_err());
        watch.synced(B);
        assert!(watch.applies(&deletes(12)).is_ok() && watch.applies(&deletes(13)).is_err());
        assert!(watch.is_spare(A) && watch.header(A, 3).is_ok());
        assert!(watch.wipes(B, "is removed").is_err());
        assert!(watch.may_be_gone(10, |_| true) && !watch.may_be_gone(12, |_| false));
    }

    #[test]
    fn whoever_is_passed_is_told_before() {
        let mut told = Told::default();
        let drainer = |at: i64| NodeStatus {
            node_id: "d".to_owned(),
            host: String::new(),
            state: NodeState::Paused,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: at,
            update_ts: 0,
            token: None,
        };
        told.lists(Some(&[drainer(20)]));
        assert_eq!(told.moves(0, 20, Some(20)), Ok(false));
        assert!(told.moves(20, 30, Some(40)).is_err(), "what the Pump was shown counts");
        told.says("binlogs are deleted now by their age");
        assert_eq!(told.moves(20, 30, Some(40)), Ok(true));
        assert_eq!(told.moves(30, 40, Some(20)), Ok(false), "it was passed before");
        told.lists(None);
        assert!(told.moves(20, 30, Some(20)).is_err());
        told.says("the registry cannot be read, and binlogs are deleted now by their age");
        assert_eq!([told.moves(20, 30, Some(20)), told.moves(20, 30, Some(20))], [Ok(true), Ok(true)]);
        assert_eq!(told.moves(20, 30, None), Ok(false));
    }
}
