//! Random numbers: the models' generator, forked by label. Each entity (a node's disk, a transaction, a fault) draws from a
//! stream of its own, so removing one action from a plan does not shift what the others draw.

pub use binlog_sim_models::rng::Rng;

/// Mostly near `from`, sometimes far out towards `to`: latencies.
pub fn skewed(rng: &mut Rng, from: u64, to: u64) -> u64 {
    let shift = rng.below(6);
    from + rng.below((to.saturating_sub(from) >> shift) + 1)
}
