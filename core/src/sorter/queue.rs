//! The waiting queue of rules 4: prewrites and timestamps in the order in which they were accepted, and the watermark W.
//!
//! Every accepted P takes a place and gives it back when it is decided. Every timestamp x that may become W (a commit item, a
//! fake) takes a place too: that place is frontier(x). x passes when it is durable and indexed and every place before it has
//! been given back or has passed; W is the largest x that passed. The owner calls `advance` only when an index batch was
//! applied, so W stands still while a batch is on its way.
//!
//! Besides W there is the *logged* watermark: the largest timestamp that passed and is in the log. Fakes on demand move W in
//! memory only (rules 4); what must survive a restart (the index, GC, going offline) goes by the logged one.
//!
//! Bounded: neighbours that may pass are merged, so the queue holds at most about two entries for each undecided P and each
//! timestamp on its way to the index; the owner refuses prewrites beyond a limit.

use crate::canary::{self, Canary};
use crate::ids::{CommitTs, StartTs};
use crate::time::MonoTime;
use std::collections::BTreeMap;

/// A position in the order of acceptance; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(u64);

impl Place {
    /// The place behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[derive(Debug)]
pub struct Sorter {
    queue: BTreeMap<Place, Entry>,
    next: u64,
    undecided: usize,
    watermark: CommitTs,
    /// The part of W that a restart knows again; never above W.
    logged: CommitTs,
    /// W stays below this (rules 4: a commit that could not be paired, or came too late).
    frozen: Option<CommitTs>,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Prewrite {
        start_ts: StartTs,
        since: MonoTime,
    },
    /// `logged`: the largest logged timestamp in it, zero when none is.
    Mark {
        ts: CommitTs,
        logged: CommitTs,
        ready: bool,
    },
}

impl Sorter {
    #[must_use]
    pub const fn new(watermark: CommitTs, frozen: Option<CommitTs>) -> Self {
        Self { queue: BTreeMap::new(), next: 0, undecided: 0, watermark, logged: watermark, frozen }
    }

    /// A prewrite was accepted now (or, at recovery, loaded in log order).
    pub fn push_prewrite(&mut self, start_ts: StartTs, now: MonoTime) -> Place {
        self.undecided += 1;
        self.push(Entry::Prewrite { start_ts, since: now })
    }

    /// A timestamp was received; it may become W once `pass` was called and everything before it is gone.
    pub fn push_mark(&mut self, ts: CommitTs) -> Place {
        self.push(Entry::Mark { ts, logged: ts, ready: false })
    }

    /// A timestamp was received that is not logged (a fake on demand): nothing of it has to become durable, so it passes as soon
    /// as everything before it is gone.
    pub fn push_unlogged(&mut self, ts: CommitTs) {
        let place = self.push(Entry::Mark { ts, logged: CommitTs::ZERO, ready: false });
        self.pass(place);
    }

    /// The prewrite at this place is decided (or was a repetition). Places that are gone already are ignored.
    pub fn release(&mut self, place: Place) {
        if !matches!(self.queue.get(&place), Some(Entry::Prewrite { .. })) {
            return;
        }
        self.queue.remove(&place);
        self.undecided -= 1;
        let next = self.queue.range(place..).next().map(|(at, _)| *at);
        if let Some(next) = next {
            self.merge_before(next);
        }
    }

    /// The timestamp at this place is durable and indexed, or needs no entry.
    pub fn pass(&mut self, place: Place) {
        let Some(Entry::Mark { ready, .. }) = self.queue.get_mut(&place) else { return };
        *ready = true;
        self.merge_before(place);
        let next = self.queue.range(place..).nth(1).map(|(at, _)| *at);
        if let Some(next) = next {
            self.merge_before(next);
        }
    }

    /// Moves W as far as the queue allows; the new W if it moved.
    pub fn advance(&mut self) -> Option<CommitTs> {
        let before = self.watermark;
        while let Some(first) = self.queue.first_entry() {
            match *first.get() {
                Entry::Mark { ts, logged, ready: true } if self.frozen.is_none_or(|limit| ts < limit) => {
                    first.remove();
                    self.watermark = self.watermark.max(ts);
                    self.logged = self.logged.max(logged);
                }
                Entry::Prewrite { .. } if canary::is(Canary::WatermarkIgnoresWaiting) => {
                    first.remove();
                    self.undecided -= 1;
                }
                Entry::Mark { .. } | Entry::Prewrite { .. } => break,
            }
        }
        (self.watermark > before).then_some(self.watermark)
    }

    /// From now on W stays below `ts`, and where it already is if that is higher.
    pub fn freeze(&mut self, ts: CommitTs) -> CommitTs {
        let limit = ts.max(CommitTs::new(self.watermark.raw().saturating_add(1)));
        let limit = self.frozen.map_or(limit, |old| old.min(limit));
        self.frozen = Some(limit);
        limit
    }

    /// The watermark is free again.
    pub const fn lift(&mut self) {
        self.frozen = None;
    }

    #[must_use]
    pub const fn watermark(&self) -> CommitTs {
        self.watermark
    }

    /// The watermark as far as it is in the log.
    #[must_use]
    pub const fn logged(&self) -> CommitTs {
        self.logged
    }

    #[must_use]
    pub const fn frozen(&self) -> Option<CommitTs> {
        self.frozen
    }

    /// Number of prewrites that hold a place.
    #[must_use]
    pub const fn undecided(&self) -> usize {
        self.undecided
    }

    /// Entries of any kind, for limits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The prewrite that has waited longest, and since when.
    #[must_use]
    pub fn oldest(&self) -> Option<(StartTs, MonoTime)> {
        self.queue.values().find_map(|entry| match entry {
            Entry::Prewrite { start_ts, since } => Some((*start_ts, *since)),
            Entry::Mark { .. } => None,
        })
    }

    /// The first prewrite at or behind `from`; since when it waits never falls along the queue.
    #[must_use]
    pub fn prewrite_from(&self, from: Place) -> Option<(Place, StartTs, MonoTime)> {
        self.queue.range(from..).find_map(|(place, entry)| match entry {
            Entry::Prewrite { start_ts, since } => Some((*place, *start_ts, *since)),
            Entry::Mark { .. } => None,
        })
    }

    /// Asserts the structural invariants; walks the queue.
    pub fn check(&self) {
        let prewrites = self.queue.values().filter(|entry| matches!(entry, Entry::Prewrite { .. })).count();
        assert_eq!(prewrites, self.undecided, "undecided prewrites are counted");
        assert!(self.logged <= self.watermark, "what is logged is part of W");
        assert!(self.frozen.is_none_or(|limit| self.watermark < limit), "W stays below the frozen limit");
        assert!(self.queue.last_key_value().is_none_or(|(place, _)| place.0 < self.next), "places rise");
        let ready = |entry: &Entry| matches!(entry, Entry::Mark { ready: true, .. });
        let pairs = self.queue.values().zip(self.queue.values().skip(1)).filter(|(a, b)| ready(a) && ready(b)).count();
        assert_eq!(pairs, 0, "neighbours that may pass are merged");
    }

    /// A place for a timestamp that is not known yet (a mutation needs it).
    #[cfg(feature = "canary")]
    pub fn reserve(&mut self) -> Place {
        self.next += 1;
        Place(self.next - 1)
    }

    /// Puts a timestamp where a place was reserved.
    #[cfg(feature = "canary")]
    pub fn push_mark_at(&mut self, place: Place, ts: CommitTs) -> Place {
        self.queue.insert(place, Entry::Mark { ts, logged: ts, ready: false });
        place
    }

    fn push(&mut self, entry: Entry) -> Place {
        let place = Place(self.next);
        self.next += 1;
        self.queue.insert(place, entry);
        place
    }

    /// Two timestamps with nothing between them that both may pass act as the larger one at the later place.
    fn merge_before(&mut self, place: Place) {
        let Some(Entry::Mark { ts, logged, ready: true }) = self.queue.get(&place).copied() else { return };
        let Some((before, Entry::Mark { ts: earlier, logged: stored, ready: true })) =
            self.queue.range(..place).next_back()
        else {
            return;
        };
        let (before, ts, logged) = (*before, ts.max(*earlier), logged.max(*stored));
        self.queue.remove(&before);
        self.queue.insert(place, Entry::Mark { ts, logged, ready: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `P1` a prewrite; `C1@2` its commit, indexed at once; `c1@2` accepted but not indexed yet, `+1` indexes it; `R1`; `F9` a
    /// fake; `!9` freezes below 9.
    fn published(script: &str) -> Vec<u64> {
        let mut sorter = Sorter::new(CommitTs::ZERO, None);
        let (mut places, mut marks) = (BTreeMap::new(), BTreeMap::new());
        let mut seen = Vec::new();
        for word in script.split_whitespace() {
            let (verb, rest) = word.split_at(1);
            let mut numbers = rest.split('@').map(|n| n.parse::<u64>().unwrap());
            let id = numbers.next().unwrap();
            let ts = CommitTs::new(numbers.next().unwrap_or(id));
            match verb {
                "P" => {
                    places.insert(id, sorter.push_prewrite(StartTs::new(id), MonoTime::ZERO));
                }
                "C" => {
                    let mark = sorter.push_mark(ts);
                    sorter.release(places[&id]);
                    sorter.pass(mark);
                }
                "c" => {
                    marks.insert(id, sorter.push_mark(ts));
                }
                "+" => {
                    sorter.release(places[&id]);
                    sorter.pass(marks[&id]);
                }
                "R" => sorter.release(places[&id]),
                "F" => {
                    let mark = sorter.push_mark(ts);
                    sorter.pass(mark);
                }
                "!" => {
                    sorter.freeze(ts);
                }
                other => panic!("unknown verb {other}"),
            }
            seen.extend(sorter.advance().map(CommitTs::raw));
            sorter.check();
        }
        seen
    }

    #[test]
    fn table() {
        for (script, want) in [
            // Spec pump 10.
            ("P1 C1@2", vec![2]),
            ("P1 P2 C2@3 C1@10", vec![10]),
            ("P1 C1@3 P2 C2@10", vec![3, 10]),
            ("P1 P2 C1@10 C2@9", vec![10]),
            ("P1 P2 C1@10 C2@9 P20 C20@200", vec![10, 200]),
            // R releases without a timestamp of its own.
            ("P1 P2 C2@5 R1", vec![5]),
            ("P1 R1", vec![]),
            // A fake behind an undecided P waits; one before it passes.
            ("P1 F7 C1@9", vec![9]),
            ("F7 P8 F9", vec![7]),
            // Durable but not indexed: neither its P nor its timestamp passes.
            ("P1 c1@5 F6 +1", vec![6]),
            ("P1 c1@5 P6 +1 C6@8", vec![5, 8]),
            // Never backwards.
            ("F9 F5", vec![9]),
            // Frozen: stops before the limit.
            ("F4 !9 F8 F9 F10", vec![4, 8]),
            ("F9 !5 F10", vec![9]),
        ] {
            assert_eq!(published(script), want, "{script}");
        }
    }

    #[test]
    fn fakes_on_demand_move_only_what_is_in_memory() {
        let at = |sorter: &Sorter| (sorter.watermark().raw(), sorter.logged().raw());
        let mut sorter = Sorter::new(CommitTs::new(3), None);
        assert_eq!(at(&sorter), (3, 3));
        sorter.push_unlogged(CommitTs::new(7));
        let _ = sorter.advance();
        assert_eq!(at(&sorter), (7, 3));
        // Behind an undecided prewrite it waits, merged with its neighbours.
        let p = sorter.push_prewrite(StartTs::new(8), MonoTime::ZERO);
        sorter.push_unlogged(CommitTs::new(9));
        let mark = sorter.push_mark(CommitTs::new(11));
        sorter.push_unlogged(CommitTs::new(12));
        sorter.pass(mark);
        sorter.check();
        let _ = sorter.advance();
        assert_eq!((at(&sorter), sorter.len()), ((7, 3), 2));
        sorter.release(p);
        let _ = sorter.advance();
        sorter.check();
        assert_eq!(at(&sorter), (12, 11));
    }

    #[test]
    fn the_queue_stays_small_behind_one_undecided_prewrite() {
        let mut sorter = Sorter::new(CommitTs::ZERO, None);
        let stuck = sorter.push_prewrite(StartTs::new(1), MonoTime::ZERO);
        for i in 1..10_000u64 {
            let p = sorter.push_prewrite(StartTs::new(i * 10), MonoTime::ZERO);
            let mark = sorter.push_mark(CommitTs::new(i * 10 + 1));
            sorter.release(p);
            sorter.pass(mark);
            assert!(sorter.len() <= 2);
        }
        assert_eq!(sorter.oldest().map(|(start, _)| start), Some(StartTs::new(1)));
        sorter.release(stuck);
        assert_eq!(sorter.advance(), Some(CommitTs::new(99_991)));
        assert!(sorter.is_empty());
    }

    /// The queue without merging: a list.
    fn plain(entries: &[(bool, u64)], done: &[bool]) -> u64 {
        let passed = entries.iter().zip(done).take_while(|(_, done)| **done);
        passed.filter(|((is_mark, _), _)| *is_mark).map(|((_, ts), _)| *ts).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn equals_the_plain_list(entries in proptest::collection::vec((any::<bool>(), 1..1000u64), 1..40),
                                 order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60)) {
            let mut sorter = Sorter::new(CommitTs::ZERO, None);
            let places: Vec<_> = entries.iter().map(|(mark, ts)| if *mark {
                sorter.push_mark(CommitTs::new(*ts))
            } else {
                sorter.push_prewrite(StartTs::new(*ts), MonoTime::ZERO)
            }).collect();
            let mut done = vec![false; entries.len()];
            for index in order {
                let i = index.index(entries.len());
                done[i] = true;
                sorter.release(places[i]);
                sorter.pass(places[i]);
                sorter.check();
                let _ = sorter.advance();
                prop_assert_eq!(sorter.watermark().raw(), plain(&entries, &done));
            }
        }
    }
}
