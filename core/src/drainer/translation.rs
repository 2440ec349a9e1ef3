//! What the Drainer's machine needs of the translator, so that its own tests run without one.

use super::translate::{DdlPlan, Transaction, TranslateConfig, Translator};
use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use crate::sink::sql::Dialect;
use bytes::Bytes;
use std::collections::BTreeSet;

/// See [`Translator`], whose methods these are. Called in commit order only.
pub trait Translate {
    fn create(config: &TranslateConfig) -> Self;
    /// What the downstream is; told after connecting.
    fn set_dialect(&mut self, _dialect: Dialect) {}
    fn load_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault>;
    fn start_at(&mut self, checkpoint: CommitTs, version: SchemaVersion, skipped: &BTreeSet<i64>) -> Result<(), Fault>;
    fn ahead_of_history(&self, _prewrite_value: &[u8]) -> Option<SchemaVersion> {
        None
    }
    /// Schema version of a transaction, where it can be told.
    fn version_of(&self, _prewrite_value: &[u8]) -> Option<SchemaVersion> {
        None
    }
    fn learn_history(&mut self, _jobs: &[Bytes]) -> Result<(), Fault> {
        Ok(())
    }
    /// May be called again for the same transaction, after `learn_history`.
    fn transaction(&mut self, commit_ts: CommitTs, prewrite_value: &[u8], safe: bool) -> Result<Transaction, Fault>;
    fn is_setval(query: &[u8], prewrite_key: &[u8]) -> bool;
    fn ddl(&mut self, commit_ts: CommitTs, job: &[u8], query: &[u8], schema_state: i32) -> Result<DdlPlan, Fault>;
    /// Whether skipping the last DDL drops rows: it creates tables.
    fn last_ddl_creates(&self) -> bool;
    fn skip_last_ddl(&mut self);
    fn schema_version(&self) -> SchemaVersion;
    fn skipped_tables(&self) -> BTreeSet<i64>;
}

impl Translate for Translator {
    fn create(config: &TranslateConfig) -> Self {
        Self::new(config.clone())
    }

    fn set_dialect(&mut self, dialect: Dialect) {
        Self::set_dialect(self, dialect);
    }

    fn load_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        Self::load_history(self, jobs)
    }

    fn start_at(&mut self, checkpoint: CommitTs, version: SchemaVersion, skipped: &BTreeSet<i64>) -> Result<(), Fault> {
        Self::start_at(self, checkpoint, version, skipped)
    }

    fn ahead_of_history(&self, prewrite_value: &[u8]) -> Option<SchemaVersion> {
        Self::ahead_of_history(self, prewrite_value)
    }

    fn version_of(&self, prewrite_value: &[u8]) -> Option<SchemaVersion> {
        Self::version_of(self, prewrite_value)
    }

    fn learn_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        Self::learn_history(self, jobs)
    }

    fn transaction(&mut self, commit_ts: CommitTs, prewrite_value: &[u8], safe: bool) -> Result<Transaction, Fault> {
        Self::transaction(self, commit_ts, prewrite_value, safe)
    }

    fn is_setval(query: &[u8], prewrite_key: &[u8]) -> bool {
        Self::is_setval(query, prewrite_key)
    }

    fn ddl(&mut self, commit_ts: CommitTs, job: &[u8], query: &[u8], schema_state: i32) -> Result<DdlPlan, Fault> {
        Self::ddl(self, commit_ts, job, query, schema_state)
    }

    fn last_ddl_creates(&self) -> bool {
        Self::last_ddl_creates(self)
    }

    fn skip_last_ddl(&mut self) {
        Self::skip_last_ddl(self);
    }

    fn schema_version(&self) -> SchemaVersion {
        Self::schema_version(self)
    }

    fn skipped_tables(&self) -> BTreeSet<i64> {
        Self::skipped_tables(self)
    }
}
