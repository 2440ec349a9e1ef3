//! How far the downstream durably is, and when that is written down (rules 8, spec drainer 3.7, 6.5).
//!
//! Keeps true: the checkpoint is never ahead of the applied prefix; the schema version never falls; a save deletes exactly
//! the recorded timestamps at or below it that are believed to be there. Called by [`super::apply::Applier`].

use crate::ids::{CommitTs, SchemaVersion};
use crate::sink::op::{Checkpoint, SinkState};
use crate::time::MonoTime;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Progress {
    /// What the downstream holds for all that is known.
    durable: Checkpoint,
    state: SinkState,
    /// Of the last DDL that was applied, in commit order.
    version: SchemaVersion,
    skipped: BTreeSet<i64>,
    /// Save as soon as the connection is free.
    forced: bool,
    /// Recorded transactions that the applied prefix took since the last save.
    passed: u64,
    last_save: MonoTime,
}

/// A save on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Save {
    pub(super) checkpoint: Checkpoint,
    pub(super) state: SinkState,
    pub(super) delete: Vec<CommitTs>,
}

impl Progress {
    pub(super) fn new(now: MonoTime, durable: Checkpoint, state: SinkState) -> Self {
        Self {
            version: durable.schema_version,
            skipped: state.skipped_tables.clone(),
            durable,
            state,
            forced: false,
            passed: 0,
            last_save: now,
        }
    }

    pub(super) fn durable(&self) -> &Checkpoint {
        &self.durable
    }

    pub(super) fn state(&self) -> &SinkState {
        &self.state
    }

    /// A DDL was applied: the schema is at `version` now, and the rows of `skipped` are dropped.
    pub(super) fn ddl_applied(&mut self, version: SchemaVersion, skipped: BTreeSet<i64>) {
        self.version = self.version.max(version);
        self.skipped = skipped;
        self.forced = true;
    }

    /// A recorded transaction joined the applied prefix.
    pub(super) fn passed(&mut self) {
        self.passed += 1;
    }

    /// Whether a save should go before the next transaction. `pressure`: too much is remembered above the checkpoint.
    pub(super) fn is_due(&self, now: MonoTime, applied: CommitTs, idle: bool, pressure: bool) -> bool {
        let moves = applied > self.durable.commit_ts;
        let forced = self.forced && (moves || self.skipped != self.state.skipped_tables);
        let many = self.passed >= MANY_RECORDS || (pressure && (idle || self.passed >= PRESSED_RECORDS));
        forced || (moves && (many || now >= self.last_save.plus_millis(INTERVAL_MS)))
    }

    pub(super) fn deadline(&self, applied: CommitTs) -> Option<MonoTime> {
        (applied > self.durable.commit_ts).then(|| self.last_save.plus_millis(INTERVAL_MS))
    }

    /// The save that `applied` and the believed `recorded` timestamps ask for.
    pub(super) fn save(&self, applied: CommitTs, recorded: &BTreeSet<CommitTs>, consistent: bool) -> Save {
        assert!(applied >= self.durable.commit_ts, "the applied prefix fell below the checkpoint");
        let checkpoint = Checkpoint {
            consistent,
            commit_ts: applied,
            ts_map: self.durable.ts_map.clone(),
            schema_version: self.version.max(self.durable.schema_version),
        };
        let state = SinkState { skipped_tables: self.skipped.clone(), ..self.state.clone() };
        Save { checkpoint, state, delete: recorded.range(..=applied).copied().collect() }
    }

    /// A save is durable.
    pub(super) fn saved(&mut self, now: MonoTime, save: Save) {
        self.durable = save.checkpoint;
        self.state = save.state;
        self.forced = false;
        self.passed = 0;
        self.last_save = now;
    }

    /// What the downstream holds is what it held before the last save that was sent.
    pub(super) fn is_durable(&self, checkpoint: &Checkpoint, state: &SinkState) -> bool {
        checkpoint.commit_ts == self.durable.commit_ts && *state == self.state
    }
}

impl Save {
    /// What the downstream holds is what this save wrote.
    pub(super) fn is_in(&self, checkpoint: &Checkpoint, state: &SinkState) -> bool {
        checkpoint.commit_ts == self.checkpoint.commit_ts
            && checkpoint.consistent == self.checkpoint.consistent
            && checkpoint.schema_version == self.checkpoint.schema_version
            && *state == self.state
    }
}

/// The original's cadence: what a crash repeats is bounded by the recorded timestamps, not by this.
const INTERVAL_MS: u64 = 3_000;
/// Recorded timestamps that one save deletes, so that it stays a short transaction.
const MANY_RECORDS: u64 = 4_096;
/// Under pressure a save out of turn must still pay for its round trip.
const PRESSED_RECORDS: u64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        let durable =
            Checkpoint { commit_ts: CommitTs::new(10), schema_version: SchemaVersion::new(3), ..Checkpoint::default() };
        Progress::new(MonoTime::ZERO, durable, SinkState { generation: 2, ..SinkState::default() })
    }

    #[test]
    fn cadence() {
        let at = |ms| MonoTime::ZERO.plus_millis(ms);
        let ts = CommitTs::new;
        let mut p = progress();
        assert!(!p.is_due(at(9_000), ts(10), true, true), "nothing moved");
        assert!(!p.is_due(at(2_999), ts(11), true, false));
        assert!(p.is_due(at(3_000), ts(11), false, false));
        assert!(p.is_due(at(0), ts(11), true, true), "pressure, and nothing else to do");
        assert!(!p.is_due(at(0), ts(11), false, true));
        for _ in 0..MANY_RECORDS {
            p.passed();
        }
        assert!(p.is_due(at(0), ts(11), false, false));
        let mut p = progress();
        p.ddl_applied(SchemaVersion::new(2), BTreeSet::from([7]));
        assert!(p.is_due(at(0), ts(10), false, false), "the skipped table must become durable");
        let save = p.save(ts(12), &BTreeSet::from([ts(11), ts(12), ts(13)]), false);
        assert_eq!(save.checkpoint.schema_version, SchemaVersion::new(3), "never lowered");
        assert_eq!(save.delete, [ts(11), ts(12)]);
        assert_eq!(save.state.generation, 2);
        assert!(!p.is_durable(&save.checkpoint, &save.state));
        p.saved(at(1), save.clone());
        assert!(p.is_durable(&save.checkpoint, &save.state) && save.is_in(p.durable(), p.state()));
        assert!(!p.is_due(at(3_000), ts(12), true, true));
    }
}
