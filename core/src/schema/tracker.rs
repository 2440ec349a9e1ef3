//! Puts history, definitions and view together and decides when a job is applied (design 4.2; spec drainer 1.6, 3.6).
//!
//! * A row is decoded with the definition of its transaction's schema version, whatever has been applied so far.
//! * Names and existence come from the view, which moves only at a DDL's place in commit order.
//! * A job that never shows up as a DDL binlog (binlog was switched on later) is applied before the first transaction that
//!   knew it: schema version V >= the job's version means that the DDL had committed before that transaction did, so its
//!   binlog, had there been one, would have come first. Multi-schema changes are the exception: their last version is
//!   visible before the transaction that carries their binlog (seen in captures), so they also have to have finished.
//!
//! Called by the translator only.

use super::definitions::Definitions;
use super::history::{History, JobKey, took_effect};
use super::model::{ActionType, Job, TableInfo};
use super::view::{Effect, View};
use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub struct Tracker {
    history: History,
    definitions: Definitions,
    view: View,
    /// Known jobs that the view does not hold yet.
    pending: BTreeMap<JobKey, Arc<Job>>,
    /// Largest version that the view holds.
    version: SchemaVersion,
    /// Rises whenever the view may have changed.
    epoch: u64,
}

/// Where a DDL stands once it was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub effect: Effect,
    /// Name of the job's database at the time (before a DROP DATABASE), if known.
    pub schema: Option<String>,
}

impl Tracker {
    /// Takes the whole history (raw job JSON, any order). The position is set by `start_at`.
    pub fn load(raw: &[Bytes]) -> Result<Self, Fault> {
        let history = History::parse(raw)?;
        let mut tracker = Self { history, ..Self::default() };
        for (_, job) in tracker.history.iter() {
            tracker.definitions.add(job);
        }
        tracker.start_at(CommitTs::ZERO, SchemaVersion::default());
        Ok(tracker)
    }

    /// Sets the view to what the downstream has at `checkpoint`: the jobs up to the stored version; without one (an old
    /// checkpoint, or an initial timestamp) those that had finished by then; none at 0.
    pub fn start_at(&mut self, checkpoint: CommitTs, version: SchemaVersion) {
        self.view = View::default();
        self.epoch += 1;
        self.pending.clear();
        self.version = SchemaVersion::default();
        for (key, job) in self.history.iter() {
            let applied = if version > SchemaVersion::default() {
                key.version <= version
            } else {
                checkpoint > CommitTs::ZERO && job.binlog.finished_ts <= checkpoint.raw()
            };
            if applied {
                self.view.apply(job);
                self.version = self.version.max(key.version);
            } else {
                self.pending.insert(key, Arc::clone(job));
            }
        }
        self.version = self.version.max(version);
    }

    /// Before a transaction of schema version `version`: applies what it knew and no binlog told.
    pub fn reach(&mut self, version: SchemaVersion, commit_ts: CommitTs) {
        self.catch_up(JobKey { version, job: i64::MAX }, commit_ts);
    }

    fn catch_up(&mut self, upto: JobKey, commit_ts: CommitTs) {
        let due = |job: &Job| {
            job.action != ActionType::MULTI_SCHEMA_CHANGE || job.binlog.finished_ts < commit_ts.raw()
        };
        let keys: Vec<JobKey> = self.pending.range(..=upto).filter(|(_, job)| due(job)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(job) = self.pending.remove(&key) {
                self.epoch += 1;
                self.view.apply(&job);
                self.version = self.version.max(key.version);
            }
        }
    }

    /// A DDL at its place in commit order. `None`: the job never took effect.
    pub fn apply(&mut self, commit_ts: CommitTs, job: Job) -> Option<Applied> {
        if !took_effect(&job) {
            return None;
        }
        let key = JobKey::of(&job);
        let job = match self.history.get(key) {
            Some(job) => Arc::clone(job),
            None => {
                let job = self.history.add(job)?;
                self.definitions.add(&job);
                self.pending.insert(key, Arc::clone(&job));
                job
            }
        };
        // What lies before it in version order and had no binlog was there when it ran.
        self.catch_up(JobKey { version: SchemaVersion::new(key.version.raw().saturating_sub(1)), job: i64::MAX }, commit_ts);
        let schema_before = self.view.schema(job.schema_id).map(str::to_owned);
        self.epoch += 1;
        let first_time = self.pending.remove(&key).is_some();
        let effect = if first_time { self.view.apply(&job) } else { self.view.describe(&job) };
        self.version = self.version.max(key.version);
        let schema = schema_before
            .or_else(|| self.view.schema(job.schema_id).map(str::to_owned))
            .or_else(|| job.binlog.db_info.as_ref().map(|db| db.db_name.original.clone()))
            .or_else(|| Some(job.schema_name.clone()).filter(|name| !name.is_empty()));
        Some(Applied { effect, schema })
    }

    /// What was derived from the view holds while this does not change.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The definition for a row of a transaction with this schema version.
    #[must_use]
    pub fn definition(&self, table: i64, version: SchemaVersion) -> Option<(SchemaVersion, &Arc<TableInfo>)> {
        self.definitions.at(table, version)
    }

    /// Version of the last job that the view holds.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.version
    }
}
