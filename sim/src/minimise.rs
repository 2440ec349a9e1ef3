//! Makes a failing plan smaller while it fails in the same way: drops transactions, actions and nodes, and simplifies settings.

use crate::plan::Plan;
use crate::run::{Options, run, signature};

/// The smallest plan found, and how many runs it took. `None`: the plan does not fail.
#[must_use]
pub fn minimise(plan: &Plan, options: &Options, budget: u32) -> Option<(Plan, u32)> {
    let wanted = signature(run(plan, options).violation.as_ref()?);
    let mut runs = 1;
    let mut best = plan.clone();
    let mut fails = |candidate: &Plan| {
        runs += 1;
        run(candidate, options).violation.is_some_and(|v| signature(&v) == wanted)
    };
    let mut left = budget;
    loop {
        let before = best.clone();
        best.txns = shrink(best.txns.clone(), &mut left, |txns| fails(&Plan { txns, ..best.clone() }));
        best.actions = shrink(best.actions.clone(), &mut left, |actions| fails(&Plan { actions, ..best.clone() }));
        for candidate in simpler(&best) {
            if left > 0 && candidate != best {
                left -= 1;
                if fails(&candidate) {
                    best = candidate;
                }
            }
        }
        if best == before || left == 0 {
            return Some((best, runs));
        }
    }
}

/// Drops pieces of falling size as long as `fails` stays true.
fn shrink<T: Clone>(mut items: Vec<T>, left: &mut u32, mut fails: impl FnMut(Vec<T>) -> bool) -> Vec<T> {
    let mut size = items.len();
    while size > 0 {
        let mut at = 0;
        while at < items.len() && *left > 0 {
            let mut fewer = items.clone();
            fewer.drain(at..(at + size).min(items.len()));
            *left -= 1;
            if fails(fewer.clone()) {
                items = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    // Some go only together: one of them fills what the other one empties.
    let mut first = 0;
    while first < items.len() && items.len() <= PAIRS {
        let mut found = false;
        for second in first + 1..items.len() {
            if *left == 0 {
                return items;
            }
            let mut fewer = items.clone();
            fewer.remove(second);
            fewer.remove(first);
            *left -= 1;
            found = fails(fewer.clone());
            if found {
                items = fewer;
                break;
            }
        }
        first += usize::from(!found);
    }
    items
}

/// Items up to which pairs are tried: some hundred runs.
const PAIRS: usize = 32;

fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut out = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        out.push(plan);
    };
    with(&|p| p.config.rows = 0);
    with(&|p| p.config.drainers = 0);
    with(&|p| p.config.readers = 0);
    with(&|p| p.config.pumps = p.config.pumps.saturating_sub(1).max(1));
    with(&|p| (p.config.dup_percent, p.config.lose_percent) = (0, 0));
    with(&|p| p.config.dup_percent = 0);
    with(&|p| p.config.lose_percent = 0);
    // Small segments that fill by themselves need fewer transactions.
    with(&|p| p.config.segment_bytes = 32 << 10);
    with(&|p| p.config.max_batch_records = 1);
    with(&|p| p.config.fake_ms = 50);
    with(&|p| p.txns.iter_mut().for_each(|t| t.size = 8));
    with(&|p| p.txns.iter_mut().for_each(|t| (t.c_repeat, t.p_again_us) = (0, 0)));
    with(&|p| p.txns.iter_mut().for_each(|t| t.ddl = false));
    out
}
