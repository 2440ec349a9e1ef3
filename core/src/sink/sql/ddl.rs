//! What is sent for a DDL job (spec drainer 3.4, 4.6; rules 8).
//!
//! Most statements go as the binlog's text, with the job's database as current one. Rendered from the definitions are
//! those whose text does not say which of its tables this job is about (`DROP TABLE a, b` is two jobs with one text), or
//! whose job does not say the session's database (renames across databases). What only TiDB knows is skipped with a
//! reason; what a downstream might refuse is sent, so that an operator decides and nothing is passed over in silence.

use super::clock::{Clock, Zone};
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
    /// The upstream session's time zone, where the job says it.
    pub job_zone: Option<Zone>,
    pub dialect: Dialect,
}

impl DdlText<'_> {
    /// The operation for the sink; `Err`: nothing is sent, why.
    pub fn plan(&self) -> Result<Ddl, String> {
        if let Some(reason) = self.skipped() {
            return Err(reason.to_owned());
        }
        let (sql, database) = self.statement();
        let Clock { time_zone, now } = Clock::of(self.action, self.query, self.job_zone.as_ref(), self.moves());
        Ok(Ddl {
            commit_ts: self.commit_ts,
            database,
            sql,
            touches: self.touches(),
            rerun: self.is_repeatable(),
            time_zone,
            now,
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
            ActionType::CACHE_TABLE | ActionType::NOCACHE_TABLE => {
                Some("cached tables are about the upstream's memory")
            }
            ActionType::CREATE_RESOURCE_GROUP | ActionType::ALTER_RESOURCE_GROUP | ActionType::DROP_RESOURCE_GROUP => {
                Some("resource groups are about the upstream's load")
            }
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
        let as_it_is = || (self.in_case(), self.applied.schema.clone());
        match self.action {
            ActionType::CREATE_SCHEMA => (self.create_schema(), None),
            ActionType::DROP_SCHEMA | ActionType::RECOVER_SCHEMA => (self.query.to_owned(), None),
            ActionType::DROP_TABLE => self.drop_one("TABLE").unwrap_or_else(as_it_is),
            ActionType::DROP_VIEW => self.drop_one("VIEW").unwrap_or_else(as_it_is),
            ActionType::DROP_SEQUENCE => self.drop_one("SEQUENCE").unwrap_or_else(as_it_is),
            ActionType::RENAME_TABLE | ActionType::RENAME_TABLES => self.rename().unwrap_or_else(as_it_is),
            ActionType::EXCHANGE_PARTITION => (self.in_case(), self.exchange_database()),
            ActionType::CREATE_TABLES => self.create_tables().unwrap_or_else(as_it_is),
            _ => as_it_is(),
        }
    }

    /// The text, with the table's name as the downstream has it.
    fn in_case(&self) -> String {
        let name = self.moves().first().and_then(|step| step.before.as_ref()).map(|(_, name)| name);
        let text = name.and_then(|name| text::in_case(self.query, &name.schema, &name.table));
        text.unwrap_or_else(|| self.query.to_owned())
    }

    /// The downstream's default collation of a character set is another one than TiDB's, and then all tables that say
    /// nothing themselves would compare otherwise: what the text leaves open is taken from the definition.
    fn create_schema(&self) -> String {
        let Some((charset, collation)) = &self.applied.schema_charset else { return self.query.to_owned() };
        let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !plain(charset) || !plain(collation) || text::has_word(self.query, "COLLATE") {
            return self.query.to_owned();
        }
        let [statement] = text::statements(self.query)[..] else { return self.query.to_owned() };
        let charset = match ["CHARACTER", "CHARSET"].iter().any(|word| text::has_word(self.query, word)) {
            true => String::new(),
            false => format!("CHARACTER SET {charset} "),
        };
        // On a line of its own: the text may end with a comment.
        format!("{statement}\n{charset}COLLATE {collation}")
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
                let step = if self.action == ActionType::EXCHANGE_PARTITION { moves.first() } else { moves.last() }?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::model::{CiStr, ColumnInfo, SchemaState};
    use std::sync::Arc;

    fn at(id: i64, name: &str) -> Option<(i64, TableName)> {
        let (schema, table) = name.split_once('.').unwrap();
        Some((id, TableName { schema: schema.to_owned(), table: table.to_owned() }))
    }

    fn step(before: Option<(i64, TableName)>, after: Option<(i64, TableName)>) -> TableMove {
        let column = |id: i64, name: &str, hidden| ColumnInfo {
            name: CiStr::new(name),
            offset: 9 - id,
            state: SchemaState::PUBLIC,
            hidden,
            ..ColumnInfo::default()
        };
        let cols = vec![column(1, "second", false), column(2, "First", false), column(3, "hidden", true)];
        TableMove { before, after, info: Some(Arc::new(TableInfo { cols, ..TableInfo::default() })) }
    }

    fn plan(action: ActionType, query: &str, moves: Vec<TableMove>, dialect: Dialect) -> Result<Ddl, String> {
        let applied = Applied { effect: Effect::Tables(moves), schema: Some("job".to_owned()), schema_charset: None };
        DdlText { commit_ts: CommitTs::new(5), action, query, applied: &applied, job_zone: None, dialect }.plan()
    }

    fn sent(action: ActionType, query: &str, moves: Vec<TableMove>) -> String {
        let ddl = plan(action, query, moves, Dialect::MariaDb).unwrap();
        format!("{}: {}", ddl.database.as_deref().unwrap_or("-"), ddl.sql)
    }

    #[test]
    fn a_database_gets_the_collation_that_it_has_upstream() {
        let sent = |query: &str, collation: &str| {
            let applied = Applied {
                effect: Effect::Schema { before: None, after: Some("d".to_owned()) },
                schema: Some("d".to_owned()),
                schema_charset: Some(("utf8mb4".to_owned(), collation.to_owned())),
            };
            let (commit_ts, action, dialect) = (CommitTs::new(5), ActionType::CREATE_SCHEMA, Dialect::MariaDb);
            DdlText { commit_ts, action, query, applied: &applied, job_zone: None, dialect }.plan().unwrap().sql
        };
        for (query, collation, expected) in [
            ("create database d;", "utf8mb4_bin", "create database d\nCHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
            ("create database d charset utf8mb4 -- x", "b_c", "create database d charset utf8mb4 -- x\nCOLLATE b_c"),
            ("create database `collate`", "b", "create database `collate`\nCHARACTER SET utf8mb4 COLLATE b"),
            ("create database d collate utf8mb4_bin", "utf8mb4_bin", "create database d collate utf8mb4_bin"),
            ("create database d", "b; drop", "create database d"),
        ] {
            assert_eq!(sent(query, collation), expected);
        }
    }

    #[test]
    fn a_table_is_named_as_the_downstream_has_it() {
        let moves = |name| vec![step(at(1, name), at(1, name))];
        let add = "ALTER TABLE foo ADD COLUMN a INT";
        assert_eq!(sent(ActionType::ADD_COLUMN, add, moves("d.Foo")), "job: ALTER TABLE `Foo` ADD COLUMN a INT");
        assert_eq!(sent(ActionType::ADD_COLUMN, add, moves("d.foo")), format!("job: {add}"));
        assert_eq!(sent(ActionType::ADD_COLUMN, add, vec![]), format!("job: {add}"));
    }

    #[test]
    fn exchange_runs_where_the_unqualified_name_is() {
        let moves = || vec![step(at(1, "d.p"), at(1, "d.p")), step(at(2, "e.t"), at(3, "e.t"))];
        for (query, expected) in [
            ("ALTER TABLE `p` EXCHANGE PARTITION `x` WITH TABLE `e`.`t`", "d"),
            ("ALTER TABLE `d`.`p` EXCHANGE PARTITION `x` WITH TABLE `t`", "e"),
        ] {
            assert_eq!(sent(ActionType::EXCHANGE_PARTITION, query, moves()), format!("{expected}: {query}"));
        }
    }

    #[test]
    fn a_batch_of_tables_is_one_repeatable_text() {
        let moves = || vec![step(None, at(1, "job.a")), step(None, at(2, "job.b"))];
        assert_eq!(
            sent(ActionType::CREATE_TABLES, "CREATE TABLE `a` (x INT);CREATE TABLE `b` (y INT);", moves()),
            "job: CREATE TABLE IF NOT EXISTS `a` (x INT);\nCREATE TABLE IF NOT EXISTS `b` (y INT)"
        );
        assert_eq!(
            sent(ActionType::CREATE_TABLES, "CREATE TABLE `a` (x INT)", moves()),
            "job: CREATE TABLE `a` (x INT)"
        );
    }

    #[test]
    fn goal_and_touches_say_how_to_tell_whether_it_has_run() {
        let created = plan(ActionType::CREATE_TABLE, "…", vec![step(None, at(1, "d.T"))], Dialect::MariaDb).unwrap();
        let goal = created.goal.unwrap();
        assert_eq!((goal.database.as_str(), goal.table.as_str()), ("d", "T"));
        assert_eq!(goal.columns.unwrap(), ["First", "second"]);
        assert_eq!(created.touches, [("d".to_owned(), "T".to_owned())]);
        assert!(!created.rerun);
        let dropped = plan(ActionType::DROP_TABLE, "…", vec![step(at(1, "d.T"), None)], Dialect::MariaDb).unwrap();
        assert_eq!((dropped.goal.unwrap().columns, dropped.sql.as_str()), (None, "DROP TABLE `d`.`T`"));
        let renamed =
            plan(ActionType::RENAME_TABLE, "…", vec![step(at(1, "d.a"), at(1, "e.b"))], Dialect::MariaDb).unwrap();
        assert_eq!(renamed.sql, "RENAME TABLE `d`.`a` TO `e`.`b`");
        assert_eq!(renamed.touches.len(), 2);
        let truncate = vec![step(at(1, "d.a"), at(2, "d.a"))];
        assert!(plan(ActionType::TRUNCATE_TABLE, "TRUNCATE a", truncate, Dialect::MariaDb).unwrap().rerun);
    }

    #[test]
    fn what_only_tidb_knows_is_sent_to_tidb_only() {
        for action in [ActionType::SET_TIFLASH_REPLICA, ActionType::ALTER_STATS_OPTIONS] {
            let moves = || vec![step(at(1, "d.a"), at(1, "d.a"))];
            assert!(plan(action, "ALTER TABLE a …", moves(), Dialect::MySql).is_err());
            assert!(plan(action, "ALTER TABLE a …", moves(), Dialect::TiDb).is_ok());
        }
    }
}
