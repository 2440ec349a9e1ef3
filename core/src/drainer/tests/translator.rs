//! A translator that knows nothing about schemas, but checks that it is called in order and at the right schema.

use crate::drainer::translate::{DdlPlan, Transaction, TranslateConfig};
use crate::drainer::translation::Translate;
use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use crate::schema::model::Job;
use crate::sink::op::{Ddl, Statement};
use bytes::Bytes;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Fake {
    jobs: Vec<Job>,
    last: CommitTs,
    /// Last DDL that took effect, in commit order, and its schema version.
    last_ddl: u64,
    version: SchemaVersion,
    /// The last DDL given by `ddl`.
    current: i64,
    skipped: BTreeSet<i64>,
}

/// What a test transaction says: rows, the last DDL before it, the "table" that it writes (a DDL's timestamp; 0: any).
pub(crate) fn value(rows: u8, last_ddl: u64, table: u64) -> Vec<u8> {
    let mut bytes = vec![rows];
    bytes.extend(last_ddl.to_le_bytes());
    bytes.extend(table.to_le_bytes());
    bytes
}

/// The same of a transaction that knew a schema version.
pub(crate) fn value_at(rows: u8, last_ddl: u64, version: i64) -> Vec<u8> {
    let mut bytes = value(rows, last_ddl, 0);
    bytes.extend(version.to_le_bytes());
    bytes
}

/// Rows of a value with columns that are unknown until its schema version is in the history.
pub(crate) const UNKNOWN: u8 = 3;

/// Rows of a value that the translator refuses.
pub(crate) const BROKEN: u8 = 255;

/// A job of the history: `commit_ts` doubles as its finished timestamp.
pub(crate) fn job(id: u64, commit_ts: u64, state: u8) -> Bytes {
    let version = if state == 3 { 0 } else { id };
    format!(r#"{{"id":{id},"state":{state},"binlog":{{"SchemaVersion":{version},"FinishedTS":{commit_ts}}}}}"#).into()
}

impl Translate for Fake {
    fn create(_: &TranslateConfig) -> Self {
        Self::default()
    }

    fn load_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        self.jobs = jobs.iter().map(|json| Job::parse(json).unwrap()).collect();
        Ok(())
    }

    fn start_at(&mut self, k: CommitTs, version: SchemaVersion, skipped: &BTreeSet<i64>) -> Result<(), Fault> {
        let before = self.jobs.iter().filter(|j| j.state.took_effect() && j.binlog.finished_ts <= k.raw());
        if let Some(last) = before.max_by_key(|j| j.binlog.finished_ts) {
            (self.last_ddl, self.version) = (last.binlog.finished_ts, last.version());
        }
        assert!(version.raw() == 0 || version == self.version, "version {version} stored with checkpoint {k}");
        self.skipped = skipped.clone();
        self.last = k;
        Ok(())
    }

    fn transaction(&mut self, ts: CommitTs, value: &[u8], _safe: bool) -> Result<Transaction, Fault> {
        assert!(ts >= self.last, "{ts} after {}", self.last);
        self.last = ts;
        let rows = value[0];
        if rows == BROKEN {
            return Err(Fault::BadBinlog { commit_ts: ts, what: "broken".into() });
        }
        let needs = u64::from_le_bytes(value[1..9].try_into().unwrap());
        assert_eq!(needs, self.last_ddl, "transaction {ts} is translated with another schema than its own");
        let table = i64::from_le_bytes(value[9..17].try_into().unwrap());
        let rows = if self.skipped.contains(&table) { 0 } else { rows };
        let unknown_columns = rows == UNKNOWN && self.ahead_of_history(value).is_some();
        let what = if unknown_columns { "incomplete" } else { "dml" };
        let statement =
            |i| Statement { sql: format!("{what} {ts} {i}"), params: vec![], affected: Some(1), commit_ts: ts };
        Ok(Transaction {
            statements: (0..rows).map(statement).collect(),
            rows: (u64::from(rows), 0, 0),
            dropped: 0,
            unknown_columns,
        })
    }

    fn ahead_of_history(&self, value: &[u8]) -> Option<SchemaVersion> {
        let version = SchemaVersion::new(i64::from_le_bytes(value.get(17..25)?.try_into().unwrap()));
        (self.jobs.iter().map(Job::version).max() < Some(version)).then_some(version)
    }

    fn learn_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        self.load_history(jobs)
    }

    fn is_setval(query: &[u8], _: &[u8]) -> bool {
        query == b"setval"
    }

    fn ddl(&mut self, ts: CommitTs, json: &[u8], query: &[u8], _: i32) -> Result<DdlPlan, Fault> {
        assert!(ts > self.last, "{ts} after {}", self.last);
        let job = Job::parse(json).unwrap();
        assert_eq!(job.binlog.finished_ts, ts.raw(), "another DDL's job");
        (self.last, self.last_ddl, self.version) = (ts, ts.raw(), job.version());
        self.current = i64::try_from(ts.raw()).unwrap();
        if query == b"skip" {
            return Ok(DdlPlan::Skip("test".into()));
        }
        Ok(DdlPlan::Run(Box::new(Ddl {
            commit_ts: ts,
            database: None,
            sql: String::from_utf8(query.to_vec()).unwrap(),
            touches: vec![],
            rerun: false,
            time_zone: None,
            now: None,
            goal: None,
        })))
    }

    fn last_ddl_creates(&self) -> bool {
        true
    }

    fn skip_last_ddl(&mut self) {
        self.skipped.insert(self.current);
    }

    fn schema_version(&self) -> SchemaVersion {
        self.version
    }

    fn skipped_tables(&self) -> BTreeSet<i64> {
        self.skipped.clone()
    }
}
