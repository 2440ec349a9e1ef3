//! Every known definition of every table, by schema version: what the rows of a transaction with `schema_version` V are
//! decoded with (design 4.2, A4). Filled from all jobs, also those whose place in commit order is still to come.

use super::history::{JobKey, is_system_table, recovered_tables};
use super::model::{ActionType, Job, TableInfo};
use crate::ids::SchemaVersion;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Table id → schema version → definition.
#[derive(Debug, Default)]
pub struct Definitions {
    tables: BTreeMap<i64, BTreeMap<JobKey, Arc<TableInfo>>>,
}

impl Definitions {
    /// Takes up what the job defines. Jobs come in version order, so that an exchange finds what was before it.
    pub fn add(&mut self, job: &Job) {
        let key = JobKey::of(job);
        for info in defined_by(job) {
            self.put(key, info.id, Arc::new(info));
        }
        if job.action == ActionType::EXCHANGE_PARTITION
            && let Some(after) = job.binlog.table_info.as_ref()
            && let Some(pt) = self.before(after.id, key)
            && let Some(exchange) = Exchange::find(job, pt, after)
            && let Some(table) = self.before(exchange.table_before, key).cloned()
        {
            self.put(key, exchange.table_after, Arc::new(TableInfo { id: exchange.table_after, ..(*table).clone() }));
        }
    }

    /// The latest definition at or below `version`, else the earliest known one; and the version that made it.
    #[must_use]
    pub fn at(&self, table: i64, version: SchemaVersion) -> Option<(SchemaVersion, &Arc<TableInfo>)> {
        let versions = self.tables.get(&table)?;
        let newest = JobKey { version, job: i64::MAX };
        versions.range(..=newest).next_back().or_else(|| versions.iter().next()).map(|(key, info)| (key.version, info))
    }

    /// The definitions above `version` that are known already.
    pub fn after(&self, table: i64, version: SchemaVersion) -> impl Iterator<Item = (SchemaVersion, &Arc<TableInfo>)> {
        let newest = JobKey { version, job: i64::MAX };
        let versions = self.tables.get(&table).into_iter();
        versions.flat_map(move |versions| versions.range(newest..).map(|(key, info)| (key.version, info)))
    }

    fn before(&self, table: i64, key: JobKey) -> Option<&Arc<TableInfo>> {
        self.tables.get(&table)?.range(..key).next_back().map(|(_, info)| info)
    }

    fn put(&mut self, key: JobKey, table: i64, info: Arc<TableInfo>) {
        if !is_system_table(table) {
            self.tables.entry(table).or_default().insert(key, info);
        }
    }
}

fn defined_by(job: &Job) -> Vec<TableInfo> {
    let mut infos: Vec<TableInfo> = job.binlog.table_info.iter().cloned().collect();
    infos.extend(job.binlog.multiple_table_infos.iter().flatten().cloned());
    if job.action == ActionType::RECOVER_SCHEMA {
        infos.extend(recovered_tables(&job.raw_args));
    }
    infos.retain(|info| info.id > 0);
    infos
}

/// What EXCHANGE PARTITION swaps: the job only holds the partitioned table's new definition, in which one partition has
/// the id that the other table had; that table takes the partition's former id (spec recorded).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    pub partitioned: i64,
    pub table_before: i64,
    pub table_after: i64,
}

impl Exchange {
    /// `before` and `after`: definitions of the partitioned table. `None`: no partition took the other table's id.
    #[must_use]
    pub fn find(job: &Job, before: &TableInfo, after: &TableInfo) -> Option<Self> {
        let (old, new) = (before.partition.as_ref()?, after.partition.as_ref()?);
        let taken = new.definitions.iter().find(|p| p.id == job.table_id)?;
        let given = old.definitions.iter().find(|p| p.name.lower == taken.name.lower && p.id != taken.id)?;
        Some(Self { partitioned: after.id, table_before: taken.id, table_after: given.id })
    }
}
