//! DDL history jobs, as TiKV's meta keys hold them.

use binlog_core::schema::definitions::Definitions;
use binlog_core::schema::history::{History, JobKey, recovered_tables, took_effect};
use binlog_core::schema::model::Job;
use bytes::Bytes;

/// One job per line: each alone, then all as a history.
pub fn history(bytes: &[u8]) {
    let raw: Vec<Bytes> = bytes.split(|b| *b == b'\n').take(MAX_JOBS).map(Bytes::copy_from_slice).collect();
    let mut definitions = Definitions::default();
    for job in raw.iter().filter_map(|line| Job::parse(line).ok()) {
        let _ = (took_effect(&job), JobKey::of(&job));
        definitions.add(&job);
        let _ = definitions.at(job.table_id, job.version());
    }
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = recovered_tables(&value);
    }
    if let Ok(history) = History::parse(&raw) {
        assert!(history.iter().count() <= raw.len());
    }
}

/// A history is read whole in any case; more lines only cost time.
const MAX_JOBS: usize = 64;
