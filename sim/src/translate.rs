//! A translator without schemas: one statement per transaction that names a digest of its value, and DDL by job. What the
//! Drainer does around it (order, exactly once, checkpoints, barriers) is what these worlds are about; rows and schemas are
//! in the worlds of `binlog-sim-models`.

use binlog_core::drainer::translate::{DdlPlan, Transaction, TranslateConfig};
use binlog_core::drainer::translation::Translate;
use binlog_core::fault::Fault;
use binlog_core::ids::{CommitTs, SchemaVersion};
use binlog_core::schema::model::Job;
use binlog_core::sink::op::{Ddl, Statement};
use bytes::Bytes;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct SimTranslate {
    jobs: Vec<Job>,
    last: CommitTs,
    version: SchemaVersion,
    skipped: BTreeSet<i64>,
}

/// What a statement carries instead of rows.
#[must_use]
pub fn digest(value: &[u8]) -> u64 {
    value.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A job of the history.
#[must_use]
pub fn job(id: i64, version: i64, commit_ts: u64) -> Bytes {
    format!(r#"{{"id":{id},"state":6,"binlog":{{"SchemaVersion":{version},"FinishedTS":{commit_ts}}}}}"#).into()
}

impl Translate for SimTranslate {
    fn create(_: &TranslateConfig) -> Self {
        Self::default()
    }

    fn load_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        let parsed: Result<_, _> = jobs.iter().map(|json| Job::parse(json)).collect();
        self.jobs = parsed.map_err(|e| Fault::Schema(e.to_string()))?;
        Ok(())
    }

    fn start_at(&mut self, k: CommitTs, version: SchemaVersion, skipped: &BTreeSet<i64>) -> Result<(), Fault> {
        let before = self.jobs.iter().filter(|j| j.binlog.finished_ts <= k.raw());
        self.version = before.map(Job::version).max().unwrap_or_default();
        assert!(version.raw() == 0 || version == self.version, "version {version} is stored with checkpoint {k}");
        self.skipped.clone_from(skipped);
        self.last = k;
        Ok(())
    }

    fn transaction(&mut self, ts: CommitTs, value: &[u8], _safe: bool) -> Result<Transaction, Fault> {
        assert!(ts > self.last, "M1: {ts} is translated after {}", self.last);
        self.last = ts;
        let sql = format!("v{}", digest(value));
        let statement = Statement { sql, params: Vec::new(), affected: Some(1), commit_ts: ts };
        Ok(Transaction { statements: vec![statement], rows: (1, 0, 0), dropped: 0, unknown_columns: false })
    }

    fn is_setval(_: &[u8], _: &[u8]) -> bool {
        false
    }

    fn ddl(&mut self, ts: CommitTs, json: &[u8], query: &[u8], _: i32) -> Result<DdlPlan, Fault> {
        assert!(ts > self.last, "M1: {ts} is translated after {}", self.last);
        let job = Job::parse(json).map_err(|e| Fault::Schema(e.to_string()))?;
        assert_eq!(job.binlog.finished_ts, ts.raw(), "A4: another DDL's job");
        self.last = ts;
        self.version = self.version.max(job.version());
        let sql = format!("v{}", digest(query));
        let ddl = Ddl {
            commit_ts: ts,
            database: None,
            sql,
            touches: Vec::new(),
            rerun: false,
            time_zone: None,
            now: None,
            goal: None,
        };
        Ok(DdlPlan::Run(Box::new(ddl)))
    }

    fn last_ddl_creates(&self) -> bool {
        false
    }

    fn skip_last_ddl(&mut self) {}

    fn schema_version(&self) -> SchemaVersion {
        self.version
    }

    fn skipped_tables(&self) -> BTreeSet<i64> {
        self.skipped.clone()
    }
}
