//! Which start_ts records have named before: nearly every prewrite is the first record of its transaction, and then the index need not
//! be asked about it. Part of the ledger.
//!
//! Exact, never a guess: a start_ts counts as new only above `floor` and when it is not among the remembered ones, and every record
//! that names one passes here in log order, also at recovery. All that is at or below the floor may be in the index. A new index begins
//! with a floor of zero; one that was written before begins with the highest start_ts that it was told of ([`Named::highest`], kept in
//! the index with `indexed_end`), and one that does not say so with the highest of all: then the index is always asked.

use crate::ids::StartTs;
use std::collections::BTreeSet;

#[derive(Debug)]
pub struct Named {
    floor: StartTs,
    /// Named in this life, all above the floor.
    recent: BTreeSet<StartTs>,
}

impl Named {
    /// Records up to `floor` may have been named before.
    #[must_use]
    pub const fn above(floor: StartTs) -> Self {
        Self { floor, recent: BTreeSet::new() }
    }

    /// A record names `start_ts`; whether it is certainly the first that does.
    pub fn is_first(&mut self, start_ts: StartTs) -> bool {
        if start_ts <= self.floor || !self.recent.insert(start_ts) {
            return false;
        }
        if self.recent.len() > REMEMBERED {
            self.floor = self.recent.pop_first().unwrap_or(self.floor);
        }
        true
    }

    /// The highest start_ts that was ever named, or more.
    #[must_use]
    pub fn highest(&self) -> StartTs {
        self.recent.last().copied().unwrap_or(self.floor)
    }
}

impl Default for Named {
    /// Knows nothing: the index is always asked.
    fn default() -> Self {
        Self::above(StartTs::MAX)
    }
}

/// Transactions of some seconds of a busy Pump, a few MB: who begins later than the oldest of them is known, an older one is asked for.
const REMEMBERED: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_knows_nothing_claims_nothing() {
        let mut named = Named::default();
        assert!(!named.is_first(StartTs::new(7)) && !named.is_first(StartTs::MAX));
        assert_eq!(named.highest(), StartTs::MAX);
    }

    proptest! {
        #[test]
        fn only_what_was_never_named_is_first(
            floor in 0u64..50, names in proptest::collection::vec(0u64..100, 0..200),
        ) {
            let (mut named, mut seen) = (Named::above(StartTs::new(floor)), BTreeSet::new());
            for name in names {
                let first = named.is_first(StartTs::new(name));
                prop_assert_eq!(first, name > floor && !seen.contains(&name));
                seen.insert(name);
                let highest = seen.iter().copied().max().unwrap_or(0).max(floor);
                prop_assert_eq!(named.highest(), StartTs::new(highest));
            }
        }
    }

    #[test]
    fn what_is_forgotten_counts_as_named() {
        let mut named = Named::above(StartTs::ZERO);
        let last = REMEMBERED as u64 + 10;
        assert!((1..=last).all(|ts| named.is_first(StartTs::new(ts))));
        assert!((1..=last).all(|ts| !named.is_first(StartTs::new(ts))), "the oldest are below the floor now");
        assert_eq!(named.highest(), StartTs::new(last));
        assert!(named.recent.len() <= REMEMBERED);
    }
}
