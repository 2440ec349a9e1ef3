//! The light downstream: the contract of the sink port (rules 8) without tables. Transactional, with ambiguous COMMITs,
//! sessions that outlive their connection, DDL whose journal was not finished, and a checkpoint row that an operator sets
//! back. An effect is a timestamp and a digest.

use super::{Done, Way, next_way};
use crate::rng::Rng;
use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{Checkpoint, Opened, SinkError, SinkOp, SinkReply, SinkState};
use std::collections::{BTreeSet, VecDeque};

/// One-line mutations of the port.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mutations {
    /// The timestamps are recorded after the data: a session that still lives is not waited for.
    pub insert_record_last: bool,
    /// The number of deleted records is not compared.
    pub delete_record_unchecked: bool,
    /// Recorded timestamps count although the checkpoint row is not the one we wrote.
    pub stale_generation_trusted: bool,
}

#[derive(Debug, Default)]
pub struct Downstream {
    pub row: Option<Checkpoint>,
    /// Our state, and the row that was written with it.
    state: Option<(SinkState, Checkpoint)>,
    last_generation: u64,
    recorded: BTreeSet<(u64, u64)>,
    pub effects: Vec<Done>,
    /// DDL whose statement ran.
    journal: BTreeSet<u64>,
    limbo: Option<SinkOp>,
    /// The row that the live session read or wrote last.
    seen: Option<Checkpoint>,
    /// Row and number of effects of earlier saves: what an operator may restore.
    dumps: VecDeque<(Checkpoint, usize)>,
    /// How the next operations go.
    pub ways: VecDeque<Way>,
    pub mutations: Mutations,
    /// What the oracles found wrong: name and text.
    pub broken: Option<(&'static str, String)>,
}

impl Downstream {
    pub fn run(&mut self, op: &SinkOp, rng: &mut Rng) -> Result<SinkReply, SinkError> {
        let way = next_way(&mut self.ways, op);
        let waits = match (op, &self.limbo) {
            // Who opens waits for the checkpoint row, which a save holds until its session ends.
            (SinkOp::Open, Some(SinkOp::Save { .. })) => true,
            (SinkOp::Open | SinkOp::Close, _) | (_, None) => false,
            // A COMMIT of the checkpoint holds no lock that a data transaction needs.
            (SinkOp::Apply { .. } | SinkOp::Ddl { .. }, Some(SinkOp::Save { .. })) => rng.percent(30),
            (SinkOp::Apply { .. }, Some(_)) if self.mutations.insert_record_last => false,
            _ => true,
        };
        if waits {
            self.settle(rng.percent(50));
        }
        match way {
            Way::LostBefore => return Err(SinkError::Lost("connection reset".into())),
            Way::Deadlock if matches!(op, SinkOp::Begin { .. }) => {
                return Err(SinkError::Lost("connection reset".into()));
            }
            Way::Deadlock if !matches!(op, SinkOp::Open) => return Err(SinkError::Retry("deadlock".into())),
            Way::Limbo if matches!(op, SinkOp::Apply { .. } | SinkOp::Save { .. }) => {
                self.settle(rng.percent(50));
                self.limbo = Some(op.clone());
                return Err(SinkError::Lost("connection reset while committing".into()));
            }
            Way::HalfDone => {
                if let SinkOp::Ddl { ddl, .. } = op {
                    self.ddl_effect(ddl.commit_ts, &ddl.sql);
                    return Err(SinkError::Lost("connection reset during a DDL".into()));
                }
            }
            Way::LoseSuffix => self.lose_suffix(rng),
            Way::Well | Way::LostAfter | Way::Deadlock | Way::Limbo => {}
        }
        if matches!(op, SinkOp::Save { .. }) && self.seen != self.row {
            return Err(SinkError::Rewind("the checkpoint row is not the one that was read".into()));
        }
        let result = self.commit(op);
        if matches!(op, SinkOp::Open | SinkOp::Begin { .. } | SinkOp::Save { .. }) {
            self.seen.clone_from(&self.row);
        }
        if way == Way::LostAfter { Err(SinkError::Lost("connection reset".into())) } else { result }
    }

    #[must_use]
    pub fn has_limbo(&self) -> bool {
        self.limbo.is_some()
    }

    /// The session without a connection commits, or the server ends it.
    pub fn settle(&mut self, commits: bool) {
        if let Some(op) = self.limbo.take()
            && commits
        {
            let _ = self.commit(&op);
        }
    }

    /// An operator restores a dump: data and checkpoint row of an earlier save; our own tables stay as they are. Not a dump
    /// whose row is the one that was written last beside our state: nothing in the downstream tells that it was restored.
    pub fn restore(&mut self, rng: &mut Rng) -> bool {
        self.settle(false);
        let Some((row, effects)) = self.dumps.get(rng.index(self.dumps.len())).cloned() else { return false };
        let written = self.state.as_ref().map(|(_, row)| row);
        if self.row.as_ref() == Some(&row) || written == Some(&row) {
            return false;
        }
        self.effects.truncate(effects);
        self.dumps.retain(|(_, n)| *n <= effects);
        self.journal = self.effects.iter().map(|e| e.commit_ts).filter(|ts| self.journal.contains(ts)).collect();
        self.row = Some(row);
        true
    }

    fn lose_suffix(&mut self, rng: &mut Rng) {
        self.settle(false);
        let k = self.row.as_ref().map_or(0, |row| row.commit_ts.raw());
        for _ in 0..rng.range(1, 3) {
            if let Some(done) = self.effects.pop_if(|done| done.commit_ts > k) {
                self.recorded.retain(|(_, ts)| *ts != done.commit_ts);
                self.journal.remove(&done.commit_ts);
            }
        }
    }

    fn effect(&mut self, commit_ts: CommitTs, sql: &str) {
        let digest = sql.strip_prefix('v').and_then(|n| n.parse().ok()).unwrap_or(0);
        self.effects.push(Done { commit_ts: commit_ts.raw(), digest });
    }

    fn ddl_effect(&mut self, ts: CommitTs, sql: &str) {
        if self.journal.insert(ts.raw()) {
            self.effect(ts, sql);
        }
    }

    fn commit(&mut self, op: &SinkOp) -> Result<SinkReply, SinkError> {
        match op {
            SinkOp::Open => {
                let trusted = self.mutations.stale_generation_trusted;
                let current = self.state.as_ref().filter(|(_, row)| trusted || Some(row) == self.row.as_ref());
                let state = current.map(|(state, _)| state.clone());
                let generation = state.as_ref().map(|s| s.generation);
                let own = self.recorded.iter().filter(|(g, _)| Some(*g) == generation);
                Ok(SinkReply::Opened(Box::new(Opened {
                    checkpoint: self.row.clone(),
                    recorded: own.map(|(_, ts)| CommitTs::new(*ts)).collect(),
                    state,
                    last_generation: self.last_generation,
                    ..Opened::default()
                })))
            }
            SinkOp::Begin { checkpoint, state } => {
                if state.generation <= self.last_generation {
                    self.fail("C2", format!("generation {} after {}", state.generation, self.last_generation));
                }
                self.last_generation = state.generation;
                self.recorded.retain(|(g, _)| *g == state.generation);
                self.put(checkpoint, state);
                Ok(SinkReply::Done)
            }
            SinkOp::Apply { generation, records, statements } => {
                if records.is_empty() || !records.is_sorted() || !statements.is_sorted_by_key(|s| s.commit_ts) {
                    self.fail("A1", format!("a batch out of order: {records:?}"));
                }
                if records.iter().any(|ts| self.recorded.contains(&(*generation, ts.raw()))) {
                    if !self.mutations.insert_record_last {
                        return Err(SinkError::AlreadyRecorded);
                    }
                    statements.iter().for_each(|s| self.effect(s.commit_ts, &s.sql));
                    return Ok(SinkReply::Done);
                }
                self.recorded.extend(records.iter().map(|ts| (*generation, ts.raw())));
                statements.iter().for_each(|s| self.effect(s.commit_ts, &s.sql));
                Ok(SinkReply::Done)
            }
            SinkOp::Ddl { generation, ddl } => {
                if !self.recorded.insert((*generation, ddl.commit_ts.raw())) {
                    return Err(SinkError::AlreadyRecorded);
                }
                self.ddl_effect(ddl.commit_ts, &ddl.sql);
                Ok(SinkReply::Done)
            }
            SinkOp::Save { checkpoint, state, delete } => {
                let keys: Vec<_> = delete.iter().map(|ts| (state.generation, ts.raw())).collect();
                let missing = keys.iter().any(|key| !self.recorded.contains(key));
                if missing && !self.mutations.delete_record_unchecked {
                    return Err(SinkError::Rewind("deleted fewer recorded timestamps than listed".into()));
                }
                for key in &keys {
                    self.recorded.remove(key);
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
        let fell = self.row.as_ref().is_some_and(|row| row.commit_ts > k);
        if before == Some(state.generation) && fell {
            self.fail("C1", format!("the checkpoint went back to {k}"));
        }
        if checkpoint.consistent
            && let Some(beyond) = self.effects.iter().find(|done| done.commit_ts > k.raw())
        {
            self.fail("C1", format!("consistent at {k}, but {} is applied", beyond.commit_ts));
        }
        self.row = Some(checkpoint.clone());
        self.state = Some((state.clone(), checkpoint.clone()));
        if self.effects.last().is_none_or(|last| last.commit_ts <= k.raw()) {
            if self.dumps.len() == DUMPS {
                self.dumps.pop_front();
            }
            self.dumps.push_back((checkpoint.clone(), self.effects.len()));
        }
    }

    fn fail(&mut self, oracle: &'static str, text: String) {
        self.broken.get_or_insert((oracle, text));
    }
}

/// Earlier saves that can be restored.
const DUMPS: usize = 8;
