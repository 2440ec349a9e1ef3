//! Model of the downstream as the contract of the sink port describes it: transactional, with ambiguous COMMITs, sessions
//! that outlive their connection, refused statements, and oracles that watch every commit.

use super::Rng;
use crate::ids::CommitTs;
use crate::sink::op::{Checkpoint, Opened, SinkError, SinkOp, SinkReply, SinkState};
use std::collections::{BTreeMap, BTreeSet};

/// What the downstream durably holds.
#[derive(Debug, Default)]
pub(crate) struct Db {
    pub(crate) row: Option<Checkpoint>,
    /// Our state and the row that was written with it.
    pub(crate) state: Option<(SinkState, Checkpoint)>,
    pub(crate) last_generation: u64,
    pub(crate) recorded: BTreeSet<(u64, CommitTs)>,
    /// Every effect of a transaction or DDL, in the order of the commits.
    pub(crate) effects: Vec<CommitTs>,
    /// Recorded without an effect, as an operator decided.
    pub(crate) resolved: Vec<CommitTs>,
    /// DDL that was begun: whether its statement ran.
    journal: BTreeMap<CommitTs, bool>,
    pub(crate) refuse: BTreeSet<CommitTs>,
    /// What must be applied (or resolved) before a checkpoint may pass it.
    pub(crate) expected: BTreeSet<CommitTs>,
    /// Where the first start began.
    pub(crate) begun_at: CommitTs,
    /// A transaction whose session is still alive although its connection is lost; its COMMIT may yet arrive.
    limbo: Option<SinkOp>,
    /// The row that the live session read or wrote last.
    seen: Option<Checkpoint>,
    pub(crate) largest_batch: usize,
}

/// How an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Well,
    LostBefore,
    LostAfter,
    /// The session keeps its locks; whether it commits is decided later.
    Limbo,
    Deadlock,
    /// For a DDL: it ran, but was not recorded.
    HalfDone,
}

impl Db {
    pub(crate) fn run(&mut self, op: &SinkOp, way: Way, rng: &mut Rng) -> Result<SinkReply, SinkError> {
        let conflicts = match (op, &self.limbo) {
            (SinkOp::Open | SinkOp::Close, _) | (_, None) => false,
            // A COMMIT of the checkpoint holds no lock that a data transaction needs.
            (SinkOp::Apply { .. } | SinkOp::Ddl { .. }, Some(SinkOp::Save { .. })) => rng.percent(30),
            _ => true,
        };
        if conflicts || rng.percent(5) {
            self.end_limbo(rng);
        }
        match way {
            Way::LostBefore => return Err(SinkError::Lost("connection reset".into())),
            Way::Deadlock if !matches!(op, SinkOp::Open | SinkOp::Close) => {
                return Err(SinkError::Retry("deadlock".into()));
            }
            Way::Limbo if matches!(op, SinkOp::Apply { .. } | SinkOp::Save { .. }) => {
                self.end_limbo(rng);
                self.limbo = Some(op.clone());
                return Err(SinkError::Lost("connection reset while committing".into()));
            }
            Way::HalfDone => {
                if let SinkOp::Ddl { ddl, .. } = op
                    && !self.refuse.contains(&ddl.commit_ts)
                {
                    self.ddl_effect(ddl.commit_ts);
                    return Err(SinkError::Lost("connection reset during a DDL".into()));
                }
            }
            Way::Well | Way::LostAfter | Way::Deadlock | Way::Limbo => {}
        }
        if matches!(op, SinkOp::Save { .. }) && self.seen != self.row {
            return Err(SinkError::Rewind("the checkpoint row is not the one that was read".into()));
        }
        let result = self.commit(op);
        if matches!(op, SinkOp::Open | SinkOp::Begin { .. } | SinkOp::Save { .. }) {
            self.seen = self.row.clone();
        }
        if way == Way::LostAfter { Err(SinkError::Lost("connection reset".into())) } else { result }
    }

    fn end_limbo(&mut self, rng: &mut Rng) {
        if let Some(op) = self.limbo.take()
            && rng.percent(50)
        {
            let _ = self.commit(&op);
        }
    }

    fn ddl_effect(&mut self, ts: CommitTs) {
        let ran = self.journal.entry(ts).or_insert(false);
        if !*ran {
            *ran = true;
            self.effects.push(ts);
        }
    }

    fn commit(&mut self, op: &SinkOp) -> Result<SinkReply, SinkError> {
        match op {
            SinkOp::Open => {
                let state =
                    self.state.as_ref().filter(|(_, row)| Some(row) == self.row.as_ref()).map(|(s, _)| s.clone());
                let generation = state.as_ref().map(|s| s.generation);
                let own = self.recorded.iter().filter(|(g, _)| Some(*g) == generation);
                Ok(SinkReply::Opened(Box::new(Opened {
                    dialect: Default::default(),
                    checkpoint: self.row.clone(),
                    recorded: own.map(|(_, ts)| *ts).collect(),
                    state,
                    last_generation: self.last_generation,
                    server: String::new(),
                })))
            }
            SinkOp::Begin { checkpoint, state } => {
                assert!(state.generation > self.last_generation, "a generation rises");
                if self.row.is_none() {
                    self.begun_at = checkpoint.commit_ts;
                }
                self.last_generation = state.generation;
                self.recorded.retain(|(g, _)| *g == state.generation);
                self.put(checkpoint, state);
                Ok(SinkReply::Done)
            }
            SinkOp::Apply { generation, records, statements } => {
                assert!(!records.is_empty() && records.is_sorted());
                assert!(statements.is_sorted_by_key(|s| s.commit_ts));
                if records.iter().any(|ts| self.recorded.contains(&(*generation, *ts))) {
                    return Err(SinkError::AlreadyRecorded);
                }
                if let Some(bad) = statements.iter().find(|s| self.refuse.contains(&s.commit_ts)) {
                    let (commit_ts, statement) = (bad.commit_ts, bad.sql.clone());
                    return Err(SinkError::Refused { commit_ts, statement, error: "no such table".into() });
                }
                self.recorded.extend(records.iter().map(|ts| (*generation, *ts)));
                if statements.is_empty() {
                    assert_eq!(records.len(), 1, "a decision of an operator is about one transaction");
                    self.resolved.extend(records);
                } else {
                    let with_rows: BTreeSet<_> = statements.iter().map(|s| s.commit_ts).collect();
                    assert_eq!(with_rows, records.iter().copied().collect(), "rows and their timestamps go together");
                    self.effects.extend(records);
                    self.largest_batch = self.largest_batch.max(records.len());
                }
                Ok(SinkReply::Done)
            }
            SinkOp::Ddl { generation, ddl } => {
                if self.recorded.contains(&(*generation, ddl.commit_ts)) {
                    return Err(SinkError::AlreadyRecorded);
                }
                if self.refuse.contains(&ddl.commit_ts) {
                    let (commit_ts, statement) = (ddl.commit_ts, ddl.sql.clone());
                    return Err(SinkError::Refused { commit_ts, statement, error: "syntax".into() });
                }
                self.ddl_effect(ddl.commit_ts);
                self.recorded.insert((*generation, ddl.commit_ts));
                Ok(SinkReply::Done)
            }
            SinkOp::Save { checkpoint, state, delete } => {
                let keys: Vec<_> = delete.iter().map(|ts| (state.generation, *ts)).collect();
                if keys.iter().any(|key| !self.recorded.contains(key)) {
                    return Err(SinkError::Rewind("deleted fewer recorded timestamps than listed".into()));
                }
                for key in keys {
                    self.recorded.remove(&key);
                }
                self.put(checkpoint, state);
                Ok(SinkReply::Done)
            }
            SinkOp::Close => Ok(SinkReply::Closed),
        }
    }

    fn put(&mut self, checkpoint: &Checkpoint, state: &SinkState) {
        let k = checkpoint.commit_ts;
        let before = self.state.as_ref().filter(|(_, row)| Some(row) == self.row.as_ref()).map(|(s, _)| s.generation);
        if before == Some(state.generation) {
            assert!(self.row.as_ref().is_none_or(|row| row.commit_ts <= k), "the checkpoint went back to {k}");
        }
        for ts in self.expected.range(CommitTs::new(self.begun_at.raw() + 1)..) {
            if *ts > k {
                break;
            }
            let there = self.effects.contains(ts) || self.resolved.contains(ts);
            assert!(there, "checkpoint {k} is ahead of transaction {ts}, which is not applied");
        }
        if checkpoint.consistent {
            let beyond = self.effects.iter().chain(&self.resolved).find(|ts| **ts > k);
            assert_eq!(beyond, None, "consistent, but something above {k} is applied");
        }
        self.row = Some(checkpoint.clone());
        self.state = Some((state.clone(), checkpoint.clone()));
    }
}
