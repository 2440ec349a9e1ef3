//! Fakes on demand (rules 4, design 3.2): while a stream has nothing left to send, a timestamp of PD moves the watermark in
//! memory and goes to the streams, so that an idle Pump does not hold a busy cluster back. Nothing of it is logged: after a restart
//! the watermark may be lower, which cursors survive (such a stream waits). The idle fakes of `idle` are logged besides.
//!
//! The timestamp takes its place when PD's reply is here, as every timestamp does: what was accepted before it must be decided
//! first.

use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use crate::fault::IoFault;
use crate::ids::CommitTs;
use crate::time::{MonoTime, Tso};

#[derive(Debug, Default)]
pub struct Demand {
    asking: bool,
    /// In the queue behind an undecided prewrite: another would not help.
    pending: Option<CommitTs>,
    /// No request before this.
    not_before: MonoTime,
    pub fakes: u64,
}

impl Pump {
    /// Asks for a timestamp as soon as a stream waits and the interval allows; called after every input.
    pub(super) fn advance_demand(&mut self) {
        self.demand.pending = self.demand.pending.filter(|ts| *ts > self.sorter.watermark());
        if self.demand.asking || self.demand.pending.is_some() || !self.wants_demand() {
            return;
        }
        if self.now < self.demand.not_before {
            self.timers.set(Timer::Demand, self.demand.not_before);
            return;
        }
        self.demand.asking = true;
        self.demand.not_before = self.now.plus_millis(self.config.fake_on_demand_ms);
        self.out.tso(Waiting::TsoForDemand);
    }

    pub(super) fn on_demand_tso(&mut self, result: Result<Tso, IoFault>) {
        self.demand.asking = false;
        match result {
            Ok(ts) => {
                let ts = CommitTs::new(ts.raw());
                // A commit with a larger timestamp came in meanwhile: it moves the watermark itself.
                if ts > self.max_ts.max(self.sorter.watermark()) && self.may_move_in_memory() {
                    self.demand.fakes += 1;
                    self.demand.pending = Some(ts);
                    self.sorter.push_unlogged(ts);
                    // A batch on its way was judged by the watermark of when it was sent: that one stays until it is applied.
                    if !self.indexer.is_applying() {
                        self.move_watermark();
                    }
                }
            }
            // Idle fakes say that PD is away.
            Err(_) => self.demand.not_before = self.now.plus_millis(OUTAGE_MS),
        }
    }

    fn wants_demand(&self) -> bool {
        self.config.fake_on_demand_ms > 0 && self.may_move_in_memory() && self.pull.is_waiting(self.sorter.watermark())
    }

    /// Not while read-only: where the log failed during recovery, it holds prewrites and commits that the queue does not know.
    fn may_move_in_memory(&self) -> bool {
        self.may_store_own()
    }
}

/// Between attempts while PD gives no timestamps.
const OUTAGE_MS: u64 = 1000;
