//! From a merged binlog to what is sent downstream: schema tracking, filters, rows, SQL. Pure; owned by the Drainer.

use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use crate::sink::op::{Ddl, Statement};
use bytes::Bytes;
use std::collections::BTreeSet;

/// What the configuration says about translation.
#[derive(Debug, Clone, Default)]
pub struct TranslateConfig {
    /// Schemas whose tables are not replicated (spec drainer 3.5.1), as in `ignore-schemas`.
    pub ignore_schemas: Vec<String>,
    /// DDL is tracked but not sent when false.
    pub sync_ddl: bool,
}

/// What a data transaction becomes.
#[derive(Debug, Default)]
pub struct Transaction {
    pub statements: Vec<Statement>,
    /// Upstream rows by kind: inserted, updated, deleted.
    pub rows: (u64, u64, u64),
}

/// What a DDL becomes.
#[derive(Debug)]
pub enum DdlPlan {
    /// Tracked, nothing is sent; why.
    Skip(String),
    Run(Box<Ddl>),
}

/// Translates in commit order.
#[derive(Debug)]
pub struct Translator {
    #[expect(dead_code)]
    config: TranslateConfig,
}

impl Translator {
    #[must_use]
    pub fn new(config: TranslateConfig) -> Self {
        Self { config }
    }

    /// Takes the whole DDL history (raw job JSON, any order).
    pub fn load_history(&mut self, _jobs: &[Bytes]) -> Result<(), Fault> {
        Ok(())
    }

    /// Sets the position: what was applied at or before `checkpoint` is the downstream's schema. `version` is the schema
    /// version stored with the checkpoint (0: unknown). `skipped`: tables whose CREATE an operator skipped.
    pub fn start_at(
        &mut self,
        _checkpoint: CommitTs,
        _version: SchemaVersion,
        _skipped: &BTreeSet<i64>,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// A data transaction. `safe`: DELETE by row identity + INSERT, affected rows unchecked (rules 8, takeover).
    pub fn transaction(
        &mut self,
        _commit_ts: CommitTs,
        _prewrite_value: &[u8],
        _safe: bool,
    ) -> Result<Transaction, Fault> {
        Ok(Transaction::default())
    }

    /// Whether this DDL query is a sequence's pretend DDL, to be dropped before its job is looked up.
    #[must_use]
    pub fn is_setval(_query: &[u8], _prewrite_key: &[u8]) -> bool {
        false
    }

    /// A DDL at its place in commit order: moves the schema. `job` is the history's JSON.
    pub fn ddl(
        &mut self,
        _commit_ts: CommitTs,
        _job: &[u8],
        _query: &[u8],
        _schema_state: i32,
    ) -> Result<DdlPlan, Fault> {
        Ok(DdlPlan::Skip(String::new()))
    }

    /// An operator skipped the DDL at `commit_ts` (the last one that `ddl` returned): rows of tables that it would have
    /// created are dropped from now on.
    pub fn skip_last_ddl(&mut self) {}

    /// For the checkpoint: version of the last DDL applied in commit order.
    #[must_use]
    pub fn schema_version(&self) -> SchemaVersion {
        SchemaVersion::default()
    }

    /// For the checkpoint: ids of tables whose CREATE was skipped.
    #[must_use]
    pub fn skipped_tables(&self) -> BTreeSet<i64> {
        BTreeSet::new()
    }
}
