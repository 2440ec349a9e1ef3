//! The transactions between merge and checkpoint, in commit order: which of them are applied, and so how far the applied
//! prefix reaches. Completions may come in any order; the prefix only moves over what is done.

use super::item::Kind;
use super::merge::Merged;
use super::source::PumpKey;
use crate::ids::CommitTs;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// Index of the first entry whose content was not taken yet.
    next: usize,
    /// Everything at or below is applied (or needs no application).
    applied: CommitTs,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    commit_ts: CommitTs,
    /// Taken when it is translated.
    kind: Option<Kind>,
    from: PumpKey,
    bytes: u64,
    done: bool,
}

impl Window {
    pub(super) fn new(applied: CommitTs) -> Self {
        Self { entries: VecDeque::new(), next: 0, applied, bytes: 0 }
    }

    /// The next transaction in commit order.
    pub(super) fn push(&mut self, merged: Merged) {
        let Merged { commit_ts, kind, from, bytes } = merged;
        let last = self.entries.back().map_or(self.applied, |e| e.commit_ts);
        assert!(commit_ts > last, "the merge emitted {commit_ts} after {last}");
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push_back(Entry { commit_ts, kind: Some(kind), from, bytes, done: false });
    }

    /// The first entry that was not taken.
    pub(super) fn peek(&self) -> Option<(CommitTs, &Kind)> {
        let entry = self.entries.get(self.next)?;
        Some((entry.commit_ts, entry.kind.as_ref()?))
    }

    /// Everything before the entry of `peek` is done.
    pub(super) fn peeked_is_first(&self) -> bool {
        self.next == 0
    }

    /// Takes the content of the entry that `peek` shows.
    pub(super) fn take(&mut self) -> Option<(CommitTs, Kind)> {
        let entry = self.entries.get_mut(self.next)?;
        let kind = entry.kind.take()?;
        let commit_ts = entry.commit_ts;
        self.next += 1;
        Some((commit_ts, kind))
    }

    /// A transaction is applied, or needs no application. What leaves at the front gives its bytes to `free`.
    pub(super) fn done(&mut self, commit_ts: CommitTs, mut free: impl FnMut(PumpKey, u64)) {
        if let Ok(at) = self.entries.binary_search_by_key(&commit_ts, |e| e.commit_ts)
            && let Some(entry) = self.entries.get_mut(at)
        {
            entry.done = true;
        }
        while self.entries.front().is_some_and(|e| e.done) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.next = self.next.saturating_sub(1);
            self.applied = entry.commit_ts;
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            free(entry.from, entry.bytes);
        }
    }

    pub(super) fn applied(&self) -> CommitTs {
        self.applied
    }

    /// The first transaction that is not applied.
    pub(super) fn first(&self) -> Option<CommitTs> {
        self.entries.front().map(|e| e.commit_ts)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn check(&self) {
        assert!(self.next <= self.entries.len());
        assert!(self.entries.front().is_none_or(|e| e.commit_ts > self.applied && !e.done));
        assert!(self.entries.iter().take(self.next).all(|e| e.kind.is_none()));
        assert!(self.entries.iter().skip(self.next).all(|e| e.kind.is_some() && !e.done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(ts: &[u64]) -> Window {
        let mut w = Window::new(CommitTs::new(1));
        for &ts in ts {
            let kind = Kind::SetVal;
            w.push(Merged { commit_ts: CommitTs::new(ts), kind, from: PumpKey(1), bytes: ts });
        }
        w
    }

    #[test]
    fn the_prefix_moves_only_over_what_is_done() {
        let mut w = window(&[2, 5, 9, 12]);
        for _ in 0..3 {
            w.take().unwrap();
        }
        let mut freed = Vec::new();
        let mut done = |w: &mut Window, ts| {
            freed.clear();
            w.done(CommitTs::new(ts), |_, bytes| freed.push(bytes));
            w.check();
            (w.applied().raw(), freed.clone())
        };
        assert_eq!(done(&mut w, 5), (1, vec![]));
        assert_eq!(done(&mut w, 7), (1, vec![]), "unknown");
        assert_eq!(done(&mut w, 2), (5, vec![2, 5]));
        assert_eq!(done(&mut w, 9), (9, vec![9]));
        assert!(w.peeked_is_first());
        assert_eq!(w.peek().unwrap().0, CommitTs::new(12));
    }

    #[test]
    #[should_panic(expected = "emitted 4 after 5")]
    fn order_is_checked() {
        window(&[5, 4]);
    }
}
