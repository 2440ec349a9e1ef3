//! The mutations of GC (rules 6): the scenarios of `gc` must fail with each of them, or they prove nothing.

use super::gc;
use crate::canary::{self, Canary};
use std::panic::catch_unwind;

/// Whether a scenario fails with this mutation; without it, it passes in its own test.
fn caught(canary: Canary, scenario: fn()) -> bool {
    canary::choose(Some(canary));
    let failed = catch_unwind(scenario).is_err();
    canary::choose(None);
    failed
}

#[test]
fn every_mutation_of_gc_is_caught() {
    let table: [(Canary, fn()); 6] = [
        (Canary::RecycleBeforeGcRecord, gc::a_crash_at_any_step_is_harmless),
        (Canary::FreeBeyondFlushedEnd, gc::what_the_flushed_index_does_not_cover_stays),
        (Canary::ReserveUsedByP, super::writes::space_refuses_prewrites_only),
        (Canary::GcWithoutPartner, gc::a_long_transaction_keeps_its_prewrite),
        (Canary::GcPastConsumer, gc::a_drainer_that_is_not_offline_holds_it_back),
        (Canary::StreamJumpsToG, gc::what_is_old_goes_and_its_slots_are_used_again),
    ];
    let missed: Vec<_> =
        table.into_iter().filter(|(canary, scenario)| !caught(*canary, *scenario)).map(|(canary, _)| canary).collect();
    assert_eq!(missed, []);
}
