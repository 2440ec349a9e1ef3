//! The DDL history: every job that took effect, in the order of schema versions (spec drainer 1.4, 1.6; R17, R18).
//!
//! Called by the tracker at start with the whole history and later with each job that a DDL binlog names. What a job holds
//! beyond its definitions is dropped here, because a cluster's history may be long and each job carries a whole table.

use super::model::{ActionType, DbInfo, Job, SchemaState, TableInfo};
use crate::fault::Fault;
use crate::ids::SchemaVersion;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ids above are TiDB's own tables for running DDL (spec codec 1.4): their rows and jobs never count.
pub const LAST_USER_TABLE: i64 = 281_474_976_709_655;

#[must_use]
pub fn is_system_table(id: i64) -> bool {
    id > LAST_USER_TABLE
}

/// Place of a job: jobs are ordered by schema version; the job id only keeps equal versions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobKey {
    pub version: SchemaVersion,
    pub job: i64,
}

impl JobKey {
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self { version: job.version(), job: job.id }
    }
}

/// The jobs that took effect, by schema version.
#[derive(Debug, Default)]
pub struct History {
    jobs: BTreeMap<JobKey, Arc<Job>>,
}

impl History {
    /// From raw job JSON in any order; the error names the position of the job that does not parse.
    pub fn parse(raw: &[Bytes]) -> Result<Self, Fault> {
        let mut history = Self::default();
        for (position, json) in raw.iter().enumerate() {
            let job = Job::parse(json)
                .map_err(|e| Fault::Schema(format!("job {position} of the DDL history does not parse: {e}")))?;
            history.add(job);
        }
        Ok(history)
    }

    /// Takes the job up if it took effect and is not known yet; gives it back as kept, `None` when it never took effect.
    pub fn add(&mut self, job: Job) -> Option<Arc<Job>> {
        if !took_effect(&job) {
            return None;
        }
        Some(Arc::clone(self.jobs.entry(JobKey::of(&job)).or_insert_with(|| Arc::new(slim(job)))))
    }

    #[must_use]
    pub fn get(&self, key: JobKey) -> Option<&Arc<Job>> {
        self.jobs.get(&key)
    }

    /// In the order of schema versions.
    pub fn iter(&self) -> impl Iterator<Item = (JobKey, &Arc<Job>)> {
        self.jobs.iter().map(|(key, job)| (*key, job))
    }
}

/// Done or synced, with a version, and not about a table of the DDL framework.
#[must_use]
pub fn took_effect(job: &Job) -> bool {
    job.state.took_effect() && job.version() > SchemaVersion::default() && !is_system_table(job.table_id)
}

/// `mysql` exists without a job since TiDB 6.2 (spec drainer 1.6).
#[must_use]
pub fn mysql_schema() -> DbInfo {
    DbInfo {
        id: 1,
        db_name: super::model::CiStr::new("mysql"),
        charset: "utf8mb4".to_owned(),
        collate: "utf8mb4_bin".to_owned(),
        state: SchemaState::PUBLIC,
    }
}

/// The tables that a job RECOVER SCHEMA names in its arguments, wherever the release put them.
#[must_use]
pub fn recovered_tables(args: &serde_json::Value) -> Vec<TableInfo> {
    /// Deep enough for every known form; bounds the recursion.
    const MAX_DEPTH: u32 = 8;
    fn walk(value: &serde_json::Value, depth: u32, found: &mut Vec<TableInfo>) {
        if depth == 0 {
            return;
        }
        match value {
            serde_json::Value::Array(items) => {
                for item in items {
                    walk(item, depth - 1, found);
                }
            }
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    let key = name.to_ascii_lowercase().replace('_', "");
                    if key == "tableinfo" {
                        if let Ok(info) = serde_json::from_value::<TableInfo>(field.clone())
                            && info.id > 0
                        {
                            found.push(info);
                        }
                    } else {
                        walk(field, depth - 1, found);
                    }
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(args, MAX_DEPTH, &mut found);
    found
}

/// Keeps of a job what tracking needs.
fn slim(mut job: Job) -> Job {
    if job.action != ActionType::RECOVER_SCHEMA {
        job.raw_args = serde_json::Value::Null;
    }
    if job.action != ActionType::RENAME_TABLES {
        job.query = String::new();
    }
    job.reorg_meta = serde_json::Value::Null;
    job.multi_schema_info = None;
    job
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(id: i64, version: i64, state: i64, table: i64) -> Bytes {
        Bytes::from(format!(
            r#"{{"id":{id},"type":3,"state":{state},"table_id":{table},"binlog":{{"SchemaVersion":{version},"DBInfo":null,"TableInfo":null,"FinishedTS":1}}}}"#
        ))
    }

    #[test]
    fn jobs_come_in_version_order_and_only_those_that_took_effect() {
        let raw = [
            json(1, 12, 6, 50),
            json(2, 11, 4, 51),
            json(3, 13, 3, 52),                     // rolled back
            json(4, 0, 5, 53),                      // cancelled
            json(5, 14, 6, LAST_USER_TABLE + 1),    // table of the DDL framework
            json(6, 9, 6, 54),
        ];
        let history = History::parse(&raw).unwrap();
        let ids: Vec<_> = history.iter().map(|(key, _)| key.job).collect();
        assert_eq!(ids, [6, 2, 1]);
    }

    #[test]
    fn a_job_that_does_not_parse_is_named_by_position() {
        let error = History::parse(&[json(1, 1, 6, 1), Bytes::from_static(b"{\"id\":")]).unwrap_err();
        assert!(error.to_string().contains("job 1 of the DDL history"), "{error}");
    }
}
