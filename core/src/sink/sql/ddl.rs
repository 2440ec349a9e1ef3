//! What is sent for a DDL job (spec drainer 3.4, 4.6; rules 8).
//!
//! Most statements go as the binlog's text, with the job's database as current one. Rendered from the definitions are
//! those whose text does not say which of its tables this job is about (`DROP TABLE a, b` is two jobs with one text), or
//! whose job does not say the session's database (renames across databases). What only TiDB knows is skipped with a
//! reason; what a downstream might refuse is sent, so that an operator decides and nothing is passed over in silence.

use super::{Dialect, quote_table};
use crate::ids::CommitTs;
use crate::schema::model::{ActionType, TableInfo};
use crate::schema::text;
use crate::schema::tracker::Applied;
use crate::schema::view::{Effect, TableMove, TableName};
use crate::sink::op::{Ddl, DdlGoal};
use std::collections::BTreeSet;

/// A DDL at its place in commit order.
#[derive(Debug)]
pub struct DdlText<'a> {
    pub commit_ts: CommitTs,
    pub action: ActionType,
    /// `ddl_query` of the binlog.
    pub query: &'a str,
    pub applied: &'a Applied,
    pub dialect: Dialect,
}

impl DdlText<'_> {
    /// The operation for the sink; `Err`: nothing is sent, why.
    pub fn plan(&self) -> Result<Ddl, String> {
        if let Some(reason) = self.skipped() {
            return Err(reason.to_owned());
        }
        let (sql, database) = self.statement();
        Ok(Ddl {
            commit_ts: self.commit_ts,
            database,
            sql,
            touches: self.touches(),
            rerun: self.is_repeatable(),
            goal: self.goal(),
        })
    }

    /// Kinds that have no meaning, or no rows, outside TiDB.
    fn skipped(&self) -> Option<&'static str> {
        let tidb = self.dialect == Dialect::TiDb;
        match self.action {
            ActionType::LOCK_TABLE | ActionType::UNLOCK_TABLE => Some("LOCK TABLES belongs to a session"),
            ActionType::UPDATE_TIFLASH_STATUS => Some("TiFlash replica status is internal to the upstream"),
            ActionType::SET_TIFLASH_REPLICA if !tidb => Some("only TiDB has TiFlash replicas"),
            ActionType::ALTER_STATS_OPTIONS if !tidb => Some("only TiDB has these statistics options"),
            ActionType::ALTER_TABLE_ATTRIBUTES | ActionType::ALTER_PARTITION_ATTRIBUTES => {
                Some("table attributes are about the upstream's stores")
            }
            ActionType::CREATE_PLACEMENT_POLICY
            | ActionType::ALTER_PLACEMENT_POLICY
            | ActionType::DROP_PLACEMENT_POLICY
            | ActionType::ALTER_PARTITION_PLACEMENT
            | ActionType::MODIFY_SCHEMA_PLACEMENT
            | ActionType::ALTER_TABLE_PLACEMENT => Some("placement is about the upstream's stores"),
            ActionType::CACHE_TABLE | ActionType::NOCACHE_TABLE => Some("cached tables are about the upstream's memory"),
            ActionType::CREATE_RESOURCE_GROUP
            | ActionType::ALTER_RESOURCE_GROUP
            | ActionType::DROP_RESOURCE_GROUP => Some("resource groups are about the upstream's load"),
            _ if !tidb && self.moves().iter().any(is_temporary) => {
                Some("a global temporary table: its rows are never replicated and only TiDB has such tables")
            }
            _ => None,
        }
    }

    fn moves(&self) -> &[TableMove] {
        match &self.applied.effect {
            Effect::Tables(moves) => moves,
            Effect::Nothing | Effect::Schema { .. } => &[],
        }
    }

    /// Text and current database.
    fn statement(&self) -> (String, Option<String>) {
        let as_it_is = || (self.query.to_owned(), self.applied.schema.clone());
        match self.action {
            ActionType::CREATE_SCHEMA | ActionType::DROP_SCHEMA | ActionType::RECOVER_SCHEMA => {
                (self.query.to_owned(), None)
            }
            ActionType::DROP_TABLE => self.drop_one("TABLE").unwrap_or_else(as_it_is),
            ActionType::DROP_VIEW => self.drop_one("VIEW").unwrap_or_else(as_it_is),
            ActionType::DROP_SEQUENCE => self.drop_one("SEQUENCE").unwrap_or_else(as_it_is),
            ActionType::RENAME_TABLE | ActionType::RENAME_TABLES => self.rename().unwrap_or_else(as_it_is),
            ActionType::EXCHANGE_PARTITION => (self.query.to_owned(), self.exchange_database()),
            ActionType::CREATE_TABLES => self.create_tables().unwrap_or_else(as_it_is),
            _ => as_it_is(),
        }
    }

    fn drop_one(&self, what: &str) -> Option<(String, Option<String>)> {
        let name = self.moves().first()?.before.as_ref().map(|(_, name)| name)?;
        Some((format!("DROP {what} {}", quote_table(&name.schema, &name.table)), Some(name.schema.clone())))
    }

    fn rename(&self) -> Option<(String, Option<String>)> {
        let mut steps = Vec::new();
        let mut database = None;
        for step in self.moves() {
            let ((_, old), (_, new)) = (step.before.as_ref()?, step.after.as_ref()?);
            if old != new {
                database.get_or_insert_with(|| old.schema.clone());
                let (old, new) = (quote_table(&old.schema, &old.table), quote_table(&new.schema, &new.table));
                steps.push(format!("{old} TO {new}"));
            }
        }
        (!steps.is_empty()).then(|| (format!("RENAME TABLE {}", steps.join(", ")), database))
    }

    /// An unqualified name is in the session's database: the partitioned table's if that one is unqualified, else the
    /// other table's.
    fn exchange_database(&self) -> Option<String> {
        let schema = |step: &TableMove| step.after.as_ref().map(|(_, name)| name.schema.clone());
        let qualified = text::altered_table(self.query).is_some_and(|name| name.schema.is_some());
        let table = if qualified { self.moves().get(1) } else { self.moves().first() };
        table.and_then(schema).or_else(|| self.applied.schema.clone())
    }

    /// One job, several statements: sent as one text, each made repeatable. The text is left alone when it does not hold
    /// one CREATE TABLE for each table: the downstream refuses what is incomplete, or the rows that follow.
    fn create_tables(&self) -> Option<(String, Option<String>)> {
        let statements = text::statements(self.query);
        if statements.len() != self.moves().len() {
            return None;
        }
        let statements: Option<Vec<String>> = statements.into_iter().map(text::create_if_not_exists).collect();
        Some((statements?.join(";\n"), self.applied.schema.clone()))
    }

    fn touches(&self) -> Vec<(String, String)> {
        let names: BTreeSet<(String, String)> = match &self.applied.effect {
            Effect::Nothing => self.applied.schema.iter().map(|schema| (schema.clone(), String::new())).collect(),
            Effect::Schema { before, after } => {
                before.iter().chain(after).map(|schema| (schema.clone(), String::new())).collect()
            }
            Effect::Tables(moves) => {
                let names = moves.iter().flat_map(|step| step.before.iter().chain(&step.after));
                names.map(|(_, name)| (name.schema.clone(), name.table.clone())).collect()
            }
        };
        names.into_iter().collect()
    }

    /// Running it again has the same effect, while its definitions cannot tell whether it has run.
    fn is_repeatable(&self) -> bool {
        matches!(self.action, ActionType::TRUNCATE_TABLE | ActionType::TRUNCATE_PARTITION | ActionType::CREATE_TABLES)
    }

    fn goal(&self) -> Option<DdlGoal> {
        let named = |name: &TableName, columns| {
            Some(DdlGoal { database: name.schema.clone(), table: name.table.clone(), columns })
        };
        match &self.applied.effect {
            Effect::Nothing => None,
            Effect::Schema { before, after } => {
                let database = after.as_ref().or(before.as_ref())?.clone();
                Some(DdlGoal { database, table: String::new(), columns: after.as_ref().map(|_| Vec::new()) })
            }
            Effect::Tables(moves) => {
                // For an exchange the partitioned table comes first; for several renames the last one is done last.
                let step =
                    if self.action == ActionType::EXCHANGE_PARTITION { moves.first() } else { moves.last() }?;
                match (&step.after, &step.before) {
                    (Some((_, name)), _) => {
                        let info = step.info.as_ref()?;
                        // What a sequence's columns are is the downstream's affair.
                        info.sequence.is_none().then(|| named(name, Some(column_names(info))))?
                    }
                    (None, Some((_, name))) => named(name, None),
                    (None, None) => None,
                }
            }
        }
    }
}

fn is_temporary(step: &TableMove) -> bool {
    step.info.as_ref().is_some_and(|info| info.temp_table_type != 0)
}

/// Public, visible columns in order.
fn column_names(info: &TableInfo) -> Vec<String> {
    let mut columns: Vec<_> = info.cols.iter().filter(|c| c.is_public() && !c.hidden).collect();
    columns.sort_by_key(|c| c.offset);
    columns.into_iter().map(|c| c.name.original.clone()).collect()
}
