//! The newest entries of the index, in memory, so that a stream that keeps up needs no scan (design 3.3).
//!
//! Holds every `commit/…` entry above `from` that was applied to the index, and nothing that was not: it is fed with the very
//! changes of an apply that completed. Entries at or below the watermark are therefore what a scan would return (rules 3, 4:
//! below it the index never changes); a cursor below `from` has to scan. Called by `pull`.

use crate::canary::{self, Canary};
use crate::ids::CommitTs;
use crate::index::value::CommitValue;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

#[derive(Debug)]
pub struct Live {
    limit: usize,
    entries: BTreeMap<CommitTs, CommitValue>,
    /// Complete above this.
    from: CommitTs,
}

impl Live {
    /// Holds up to `limit` entries.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, entries: BTreeMap::new(), from: CommitTs::ZERO }
    }

    /// The start: the index holds entries up to here that were not seen.
    pub fn begin(&mut self, from: CommitTs) {
        self.entries.clear();
        self.from = from;
    }

    /// Entries that are in the index now.
    pub fn applied(&mut self, commits: Vec<(CommitTs, CommitValue)>) {
        for (ts, value) in commits {
            self.insert(ts, value);
        }
    }

    fn insert(&mut self, ts: CommitTs, value: CommitValue) {
        if ts <= self.from {
            return;
        }
        self.entries.insert(ts, value);
        while self.entries.len() > self.limit {
            let Some((oldest, _)) = self.entries.pop_first() else { break };
            if !canary::is(Canary::MemoryHidesGap) {
                self.from = oldest;
            }
        }
    }

    /// Whether all entries above this cursor are here.
    #[must_use]
    pub fn covers(&self, cursor: CommitTs) -> bool {
        cursor >= self.from
    }

    /// Entries with `after < commit_ts <= through`; only for a cursor that is covered.
    pub fn range(&self, after: CommitTs, through: CommitTs) -> impl Iterator<Item = (CommitTs, CommitValue)> + use<'_> {
        assert!(self.covers(after), "entries below {} were asked for, {} are complete", after, self.from);
        let range = (after < through).then(|| self.entries.range((Excluded(after), Included(through))));
        range.into_iter().flatten().map(|(ts, value)| (*ts, *value))
    }

    pub fn check(&self) {
        assert!(self.entries.len() <= self.limit, "entries in memory are limited");
        assert!(self.entries.first_key_value().is_none_or(|(ts, _)| *ts > self.from), "entries lie above `from`");
    }
}
