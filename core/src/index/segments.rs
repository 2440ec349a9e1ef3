//! What GC must know of each segment of the log (rules 6): kept in the index in the same change as the records that it sums up, so
//! that it survives restarts and is made again from the log as everything else there. One small entry per segment: memory and
//! the start depend on the number of segments, never on the history.

use super::key;
use super::ledger::Fact;
use super::op::Change;
use super::value::{self, ValueError};
use crate::canary::{self, Canary};
use crate::ids::{CommitTs, SegmentId, StartTs};
use crate::vlog::record::RecordKind;
use std::collections::{BTreeMap, BTreeSet};

/// Sum over the records of one segment that were folded so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Largest timestamp of the commits, verdicts, fakes and GC records in it.
    pub max_commit: CommitTs,
    /// Largest commit_ts of the transactions whose P lies in it.
    pub max_joined: CommitTs,
    /// Smallest start_ts of the transactions whose C lies in it; `MAX` without any.
    pub min_start: StartTs,
}

/// A commit that entered the index: where its two halves lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub prewrite: SegmentId,
    pub commit: SegmentId,
    pub start_ts: StartTs,
    pub commit_ts: CommitTs,
}

#[derive(Debug, Default)]
pub struct Segments {
    facts: BTreeMap<SegmentId, SegmentFacts>,
    dirty: BTreeSet<SegmentId>,
}

impl Segments {
    /// At the start, from the index.
    pub fn load(&mut self, segment: SegmentId, facts: SegmentFacts) {
        self.facts.insert(segment, facts);
    }

    /// A record was folded; `joined`: the commits that it put into the index.
    pub fn fold(&mut self, fact: &Fact, joined: &[Joined]) {
        match fact.kind {
            RecordKind::Commit | RecordKind::VerdictCommit | RecordKind::Fake | RecordKind::Gc => {
                self.of(fact.span.ptr.segment, |own| own.max_commit = own.max_commit.max(fact.commit_ts));
            }
            RecordKind::Prewrite
            | RecordKind::RollbackHint
            | RecordKind::VerdictRollback
            | RecordKind::SegmentStart
            | RecordKind::Unfreeze => {}
        }
        for joined in joined {
            self.of(joined.prewrite, |own| own.max_joined = own.max_joined.max(joined.commit_ts));
            self.of(joined.commit, |own| own.min_start = own.min_start.min(joined.start_ts));
        }
    }

    /// No commit above `gc` is in this segment or needs a P that is. Nothing is said of undecided prewrites. A segment without an
    /// entry holds no record that matters.
    #[must_use]
    pub fn is_below(&self, segment: SegmentId, gc: CommitTs) -> bool {
        let Some(facts) = self.facts.get(&segment) else { return true };
        facts.max_commit <= gc && (facts.max_joined <= gc || canary::is(Canary::GcWithoutPartner))
    }

    /// Below this `start_ts` no P of a commit above `gc` is known.
    #[must_use]
    pub fn starts_below(&self, gc: CommitTs) -> StartTs {
        let above = self.facts.values().filter(|facts| facts.max_commit > gc);
        above.map(|facts| facts.min_start).min().unwrap_or(StartTs::MAX)
    }

    /// Segments that hold a record that matters, or a P of one.
    pub fn ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.facts.keys().copied()
    }

    /// Segments below `first` are gone.
    pub fn forget(&mut self, first: SegmentId) -> Option<Change> {
        let kept = self.facts.split_off(&first);
        let gone = std::mem::replace(&mut self.facts, kept);
        self.dirty = self.dirty.split_off(&first);
        let (from, to) = (key::segment(SegmentId::ZERO), key::segment(first));
        (!gone.is_empty()).then_some(Change::DeleteRange(from, to))
    }

    /// Entries that changed since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let entry = |segment| self.facts.get(&segment).map(|facts| (key::segment(segment), facts.encode()));
        dirty.into_iter().filter_map(entry).map(|(key, value)| Change::Put(key, value)).collect()
    }

    fn of(&mut self, segment: SegmentId, change: impl FnOnce(&mut SegmentFacts)) {
        let facts = self.facts.entry(segment).or_default();
        let before = *facts;
        change(facts);
        if *facts != before {
            self.dirty.insert(segment);
        }
    }
}

impl Default for SegmentFacts {
    fn default() -> Self {
        Self { max_commit: CommitTs::ZERO, max_joined: CommitTs::ZERO, min_start: StartTs::MAX }
    }
}

impl SegmentFacts {
    #[must_use]
    pub fn encode(&self) -> bytes::Bytes {
        value::encode_numbers([self.max_commit.raw(), self.max_joined.raw(), self.min_start.raw()])
    }

    pub fn decode(raw: &[u8]) -> Result<Self, ValueError> {
        let [max_commit, max_joined, min_start] = value::decode_numbers("segment", raw)?;
        Ok(Self {
            max_commit: CommitTs::new(max_commit),
            max_joined: CommitTs::new(max_joined),
            min_start: StartTs::new(min_start),
        })
    }
}

/// What a GC record removes from the index, besides what the owner removes with the segments: commits up to `gc`, and the
/// prewrites below `starts`, the smallest start_ts that something retained may still ask for.
#[must_use]
pub fn deletions(gc: CommitTs, starts: StartTs) -> [Change; 2] {
    let (from, to) = key::commit_range(CommitTs::ZERO, gc);
    [Change::DeleteRange(from, to), Change::DeleteRange(key::start(StartTs::ZERO), key::start(starts))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogPtr;
    use crate::index::value::{Digest, Span};
    use proptest::prelude::*;

    fn fact(kind: RecordKind, segment: u64, start: u64, commit: u64) -> Fact {
        let ptr = LogPtr { segment: SegmentId::new(segment), offset: 0 };
        Fact {
            kind,
            start_ts: StartTs::new(start),
            commit_ts: CommitTs::new(commit),
            span: Span { ptr, len: 1 },
            digest: Digest::default(),
            unknown_fields: false,
            place: None,
            known_commit: None,
        }
    }

    fn commit(segments: &mut Segments, prewrite: u64, own: u64, start: u64, commit: u64) {
        let joined = Joined {
            prewrite: SegmentId::new(prewrite),
            commit: SegmentId::new(own),
            start_ts: StartTs::new(start),
            commit_ts: CommitTs::new(commit),
        };
        segments.fold(&fact(RecordKind::Commit, own, start, commit), &[joined]);
    }

    #[test]
    fn a_long_transaction_holds_the_segment_of_its_prewrite() {
        let mut segments = Segments::default();
        commit(&mut segments, 1, 1, 10, 11);
        commit(&mut segments, 1, 3, 12, 90);
        let below =
            |s: &Segments, gc| (1..=4).map(|id| s.is_below(SegmentId::new(id), CommitTs::new(gc))).collect::<Vec<_>>();
        // Segment 2 holds nothing that matters, 4 is not known.
        assert_eq!(below(&segments, 10), [false, true, false, true]);
        assert_eq!(below(&segments, 89), [false, true, false, true]);
        assert_eq!(below(&segments, 90), [true; 4]);
        assert_eq!(segments.starts_below(CommitTs::new(89)), StartTs::new(12));
        assert_eq!(segments.starts_below(CommitTs::new(90)), StartTs::MAX);
        // A commit that was not inserted still holds its own segment: a log without an index gives it another chance.
        segments.fold(&fact(RecordKind::Commit, 2, 5, 100), &[]);
        assert_eq!(below(&segments, 90), [true, false, true, true]);
    }

    #[test]
    fn what_changed_is_written_once_and_what_is_gone_is_deleted() {
        let mut segments = Segments::default();
        commit(&mut segments, 1, 2, 10, 11);
        let keys = |changes: Vec<Change>| {
            changes
                .into_iter()
                .map(|c| match c {
                    Change::Put(key, _) => key,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(segments.changes()), [key::segment(SegmentId::new(1)), key::segment(SegmentId::new(2))]);
        assert_eq!(segments.changes(), []);
        commit(&mut segments, 2, 2, 12, 11);
        assert_eq!(keys(segments.changes()), [key::segment(SegmentId::new(2))]);
        assert_eq!(segments.forget(SegmentId::new(1)), None);
        let (from, to) = (key::segment(SegmentId::ZERO), key::segment(SegmentId::new(2)));
        assert_eq!(segments.forget(SegmentId::new(2)), Some(Change::DeleteRange(from, to)));
        assert!(segments.is_below(SegmentId::new(1), CommitTs::ZERO));
    }

    proptest! {
        #[test]
        fn facts_round_trip(a: u64, b: u64, c: u64) {
            let facts = SegmentFacts {
                max_commit: CommitTs::new(a), max_joined: CommitTs::new(b), min_start: StartTs::new(c),
            };
            let raw = facts.encode();
            prop_assert_eq!(SegmentFacts::decode(&raw), Ok(facts));
            prop_assert!(SegmentFacts::decode(&raw[1..]).is_err());
        }
    }
}
