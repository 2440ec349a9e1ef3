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
use crate::time::Tso;
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
    /// Character set and collation of the database, where the job holds its definition.
    pub schema_charset: Option<(String, String)>,
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

    /// Takes up jobs that were finished since `load`; the view does not move. What is known already is kept.
    pub fn learn(&mut self, raw: &[Bytes]) -> Result<(), Fault> {
        let fresh = History::parse(raw)?;
        for (key, job) in fresh.iter().filter(|(key, _)| self.history.get(*key).is_none()).collect::<Vec<_>>() {
            self.history.add((**job).clone());
            self.definitions.add(job);
            self.pending.insert(key, Arc::clone(job));
            self.epoch += 1;
        }
        Ok(())
    }

    /// Largest schema version of the known jobs.
    #[must_use]
    pub fn known_version(&self) -> SchemaVersion {
        self.history.last_version()
    }

    /// Before a transaction of schema version `version`: applies what it knew and no binlog told.
    pub fn reach(&mut self, version: SchemaVersion, commit_ts: CommitTs) {
        self.catch_up(JobKey { version, job: i64::MAX }, commit_ts);
    }

    fn catch_up(&mut self, upto: JobKey, commit_ts: CommitTs) {
        // `finished_ts` is where the transaction with the binlog began: others may commit before it ends.
        let over = |job: &Job| {
            commit_ts.tso().physical_ms() > Tso::new(job.binlog.finished_ts).physical_ms().saturating_add(FINISHING_MS)
        };
        let due = |job: &Job| job.action != ActionType::MULTI_SCHEMA_CHANGE || over(job);
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
        self.catch_up(
            JobKey { version: SchemaVersion::new(key.version.raw().saturating_sub(1)), job: i64::MAX },
            commit_ts,
        );
        let schema_before = self.view.schema(job.schema_id).map(str::to_owned);
        self.epoch += 1;
        let first_time = self.pending.remove(&key).is_some();
        let effect = if first_time { self.view.apply(&job) } else { self.view.describe(&job) };
        self.version = self.version.max(key.version);
        let schema = schema_before
            .or_else(|| self.view.schema(job.schema_id).map(str::to_owned))
            .or_else(|| job.binlog.db_info.as_ref().map(|db| db.db_name.original.clone()))
            .or_else(|| Some(job.schema_name.clone()).filter(|name| !name.is_empty()));
        let schema_charset = job.binlog.db_info.as_ref().map(|db| (db.charset.clone(), db.collate.clone()));
        Some(Applied { effect, schema, schema_charset })
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

    /// Definitions of the table that are known already and belong to later versions.
    pub fn later_definitions(
        &self,
        table: i64,
        version: SchemaVersion,
    ) -> impl Iterator<Item = (SchemaVersion, &Arc<TableInfo>)> {
        self.definitions.after(table, version)
    }

    /// Version of the last job that the view holds.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.version
    }
}

/// Far longer than the commit of one small transaction.
const FINISHING_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A CREATE TABLE for the multi-schema kind too: only its place matters here.
    fn job(version: i64, action: i64, table: i64, finished: u64) -> Bytes {
        Bytes::from(format!(
            r#"{{"id":{version},"type":{action},"state":6,"schema_id":1,"table_id":{table},"binlog":{{"SchemaVersion":{version},
            "FinishedTS":{finished},"TableInfo":{{"id":{table},"name":{{"O":"t{table}","L":"t{table}"}}}}}}}}"#
        ))
    }

    fn second(n: u64) -> u64 {
        Tso::compose(n * 1000, 0).raw()
    }

    fn tables(tracker: &Tracker) -> Vec<i64> {
        (0..100).filter(|id| tracker.view().table(*id).is_some()).collect()
    }

    fn reach(tracker: &mut Tracker, version: i64, commit_ts: u64) {
        tracker.reach(SchemaVersion::new(version), CommitTs::new(commit_ts));
    }

    #[test]
    fn the_start_is_by_version_else_by_time() {
        let mut tracker = Tracker::load(&[job(1, 3, 11, 10), job(2, 3, 12, 20), job(3, 3, 13, 30)]).unwrap();
        for (checkpoint, version, expected) in
            [(0, 0, vec![]), (25, 0, vec![11, 12]), (25, 1, vec![11]), (5, 3, vec![11, 12, 13]), (0, 2, vec![11, 12])]
        {
            tracker.start_at(CommitTs::new(checkpoint), SchemaVersion::new(version));
            assert_eq!(tables(&tracker), expected, "checkpoint {checkpoint} version {version}");
        }
    }

    #[test]
    fn a_multi_schema_change_waits_for_its_binlog_until_it_has_finished() {
        let mut tracker =
            Tracker::load(&[job(1, 3, 11, 10), job(2, 61, 12, second(20)), job(3, 3, 13, second(30))]).unwrap();
        reach(&mut tracker, 2, second(15));
        assert_eq!(tables(&tracker), [11], "its version is visible before its binlog");
        reach(&mut tracker, 3, second(19));
        assert_eq!(tables(&tracker), [11, 13], "others of that version are not held back");
        reach(&mut tracker, 3, second(21));
        assert_eq!(tables(&tracker), [11, 13], "its transaction may still be committing");
        reach(&mut tracker, 3, second(90));
        assert_eq!(tables(&tracker), [11, 12, 13]);
    }

    #[test]
    fn jobs_learned_later_define_rows_before_they_move_the_view() {
        let mut tracker = Tracker::load(&[job(1, 3, 11, 10)]).unwrap();
        reach(&mut tracker, 1, 11);
        tracker.learn(&[job(1, 3, 11, 10), job(4, 61, 11, 40)]).unwrap();
        assert_eq!(tracker.known_version(), SchemaVersion::new(4));
        let version = |tracker: &Tracker, v| tracker.definition(11, SchemaVersion::new(v)).unwrap().0.raw();
        assert_eq!((version(&tracker, 3), version(&tracker, 4), version(&tracker, 0)), (1, 4, 1));
        assert_eq!(tracker.view().table(11).unwrap().version, SchemaVersion::new(1));
    }

    #[test]
    fn a_job_that_was_applied_before_is_not_applied_again() {
        let raw = job(2, 11, 12, 20); // TRUNCATE of table 12 gives 12 here: only its second application would show
        let mut tracker = Tracker::load(&[job(1, 3, 12, 10), raw.clone(), job(3, 4, 12, 30)]).unwrap();
        reach(&mut tracker, 3, 40);
        assert!(tables(&tracker).is_empty());
        let applied = tracker.apply(CommitTs::new(50), Job::parse(&raw).unwrap()).unwrap();
        assert!(tables(&tracker).is_empty(), "a late binlog of a job that is in the view moves nothing");
        assert!(matches!(applied.effect, Effect::Tables(_)));
    }
}
