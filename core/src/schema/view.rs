//! The schema that the downstream has: names, ids and definitions at one place in commit order (design 4.2; spec codec
//! 8.5). Every kind of job moves it, also those whose SQL is never sent. Applying a job that has been applied changes
//! nothing that matters.
//!
//! The tracker decides *when* a job is applied; this file decides *what* it changes and reports it as [`Effect`], from
//! which the DDL's plan is made.

use super::definitions::Exchange;
use super::history::{is_system_table, mysql_schema, recovered_tables};
use super::model::{ActionType, DbInfo, Job, TableInfo};
use super::text;
use crate::ids::SchemaVersion;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Database and table, in original case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

/// A table, view or sequence as the downstream has it.
#[derive(Debug, Clone)]
pub struct TableEntry {
    pub schema_id: i64,
    pub info: Arc<TableInfo>,
    /// Version of the job that gave it this definition.
    pub version: SchemaVersion,
}

/// What one job changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// No schema object (placement policy, resource group, cluster-wide).
    Nothing,
    /// A database: names before and after.
    Schema { before: Option<String>, after: Option<String> },
    /// Tables, in the order in which the statement names them.
    Tables(Vec<TableMove>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct TableMove {
    pub before: Option<(i64, TableName)>,
    pub after: Option<(i64, TableName)>,
    /// The definition after; for a drop the last one.
    pub info: Option<Arc<TableInfo>>,
}

#[derive(Debug)]
pub struct View {
    schemas: BTreeMap<i64, String>,
    tables: BTreeMap<i64, TableEntry>,
    /// (schema id, lower-case name) → table id.
    names: BTreeMap<(i64, String), i64>,
    /// Ids of tables that were dropped or truncated away: late rows for them are dropped (R16).
    gone: BTreeSet<i64>,
    /// What DROP DATABASE took along, for FLASHBACK DATABASE, which may not name the tables.
    dropped_schemas: BTreeMap<i64, Vec<TableEntry>>,
    /// Version of the job that is being applied.
    applying: SchemaVersion,
}

impl Default for View {
    fn default() -> Self {
        let mut view = Self {
            schemas: BTreeMap::new(),
            tables: BTreeMap::new(),
            names: BTreeMap::new(),
            gone: BTreeSet::new(),
            dropped_schemas: BTreeMap::new(),
            applying: SchemaVersion::default(),
        };
        view.put_schema(&mysql_schema());
        view
    }
}

impl View {
    #[must_use]
    pub fn table(&self, id: i64) -> Option<&TableEntry> {
        self.tables.get(&id)
    }

    #[must_use]
    pub fn is_gone(&self, id: i64) -> bool {
        self.gone.contains(&id)
    }

    #[must_use]
    pub fn schema(&self, id: i64) -> Option<&str> {
        self.schemas.get(&id).map(String::as_str)
    }

    /// Name of a table that is there.
    #[must_use]
    pub fn name(&self, id: i64) -> Option<TableName> {
        let entry = self.tables.get(&id)?;
        let schema = self.schemas.get(&entry.schema_id)?.clone();
        Some(TableName { schema, table: entry.info.name.original.clone() })
    }

    /// Ids of the tables of a database.
    #[must_use]
    pub fn tables_in(&self, schema: &str) -> Vec<i64> {
        let id = self.schema_id(schema);
        self.tables.iter().filter(|(_, t)| Some(t.schema_id) == id).map(|(table, _)| *table).collect()
    }

    /// Applies a job that took effect.
    pub fn apply(&mut self, job: &Job) -> Effect {
        self.applying = job.version();
        match self.moved_by(job) {
            // Without a definition nothing can be said about tables: not even that none is concerned.
            Effect::Tables(moves) if moves.is_empty() => Effect::Nothing,
            effect => effect,
        }
    }

    fn moved_by(&mut self, job: &Job) -> Effect {
        match job.action {
            ActionType::CREATE_SCHEMA | ActionType::MODIFY_SCHEMA_CHARSET | ActionType::MODIFY_SCHEMA_PLACEMENT => {
                let Some(db) = &job.binlog.db_info else { return Effect::Nothing };
                let before = self.put_schema(db);
                Effect::Schema { before, after: Some(db.db_name.original.clone()) }
            }
            ActionType::DROP_SCHEMA => self.drop_schema(job),
            ActionType::RECOVER_SCHEMA => self.recover_schema(job),
            action if action.drops_table() => self.drop_table(job),
            ActionType::RENAME_TABLES => self.rename_tables(job),
            ActionType::TRUNCATE_TABLE => self.truncate(job),
            ActionType::CREATE_TABLES => {
                let several: Vec<&TableInfo> = job.binlog.multiple_table_infos.iter().flatten().collect();
                let infos = if several.is_empty() { job.binlog.table_info.iter().collect() } else { several };
                Effect::Tables(infos.into_iter().map(|info| self.put_table(job.schema_id, info)).collect())
            }
            ActionType::EXCHANGE_PARTITION => self.exchange(job),
            ActionType::CREATE_TABLE
            | ActionType::CREATE_VIEW
            | ActionType::CREATE_SEQUENCE
            | ActionType::RECOVER_TABLE
            | ActionType::RENAME_TABLE => match &job.binlog.table_info {
                Some(info) => Effect::Tables(vec![self.put_table(job.schema_id, info)]),
                None => Effect::Nothing,
            },
            _ => self.redefine(job),
        }
    }

    /// The effect of a job that the view holds already, as far as it can still be told; changes nothing.
    #[must_use]
    pub fn describe(&self, job: &Job) -> Effect {
        if let Some(db) = &job.binlog.db_info {
            let name = Some(db.db_name.original.clone());
            return match job.action {
                ActionType::CREATE_SCHEMA | ActionType::RECOVER_SCHEMA => Effect::Schema { before: None, after: name },
                ActionType::DROP_SCHEMA => Effect::Schema { before: name, after: None },
                _ => Effect::Schema { before: name.clone(), after: name },
            };
        }
        let several = job.binlog.multiple_table_infos.iter().flatten();
        let infos: Vec<&TableInfo> = if job.binlog.multiple_table_infos.is_empty() {
            job.binlog.table_info.iter().collect()
        } else {
            several.collect()
        };
        if infos.is_empty() {
            return Effect::Nothing;
        }
        let moves = infos.into_iter().map(|info| {
            let now = self.name(info.id).map(|name| (info.id, name));
            let named = now.clone().or_else(|| self.named_by(job));
            let info = Some(Arc::new(info.clone()));
            if job.action.drops_table() {
                TableMove { before: named, after: None, info }
            } else if job.action.creates_tables() {
                TableMove { before: None, after: named, info }
            } else {
                TableMove { before: named.clone(), after: named, info }
            }
        });
        Effect::Tables(moves.collect())
    }

    /// Returns the name before.
    fn put_schema(&mut self, db: &DbInfo) -> Option<String> {
        self.schemas.insert(db.id, db.db_name.original.clone())
    }

    /// Puts the definition under a database, whatever was known under this id or this name before.
    fn put_table(&mut self, schema_id: i64, info: &TableInfo) -> TableMove {
        let before = self.remove(info.id);
        if is_system_table(info.id) {
            return TableMove { before: None, after: None, info: None };
        }
        let key = (schema_id, info.name.lower.clone());
        if let Some(replaced) = self.names.get(&key).copied() {
            // CREATE OR REPLACE VIEW: a new id under the old name.
            self.remove(replaced);
            self.gone.insert(replaced);
        }
        let info = Arc::new(info.clone());
        self.gone.remove(&info.id);
        self.names.insert(key, info.id);
        self.tables.insert(info.id, TableEntry { schema_id, info: Arc::clone(&info), version: self.applying });
        let after = self.name(info.id).map(|name| (info.id, name));
        TableMove { before, after, info: Some(info) }
    }

    fn remove(&mut self, id: i64) -> Option<(i64, TableName)> {
        let name = self.name(id);
        let entry = self.tables.remove(&id)?;
        let key = (entry.schema_id, entry.info.name.lower.clone());
        if self.names.get(&key) == Some(&id) {
            self.names.remove(&key);
        }
        name.map(|name| (id, name))
    }

    fn drop_schema(&mut self, job: &Job) -> Effect {
        let id = job.binlog.db_info.as_ref().map_or(job.schema_id, |db| db.id);
        let named = job.binlog.db_info.as_ref().map(|db| db.db_name.original.clone());
        let before = self.schemas.get(&id).cloned().or(named);
        let ids: Vec<i64> = self.tables.iter().filter(|(_, t)| t.schema_id == id).map(|(table, _)| *table).collect();
        if self.schemas.contains_key(&id) {
            let taken = ids.iter().filter_map(|table| self.tables.get(table).cloned()).collect();
            self.dropped_schemas.insert(id, taken);
        }
        for table in ids {
            self.remove(table);
            self.gone.insert(table);
        }
        self.schemas.remove(&id);
        Effect::Schema { before, after: None }
    }

    fn recover_schema(&mut self, job: &Job) -> Effect {
        let Some(db) = &job.binlog.db_info else { return Effect::Nothing };
        let before = self.put_schema(db);
        let mut infos = recovered_tables(&job.raw_args);
        let taken = self.dropped_schemas.remove(&db.id).unwrap_or_default();
        if infos.is_empty() {
            infos = taken.iter().map(|entry| (*entry.info).clone()).collect();
        }
        for info in &infos {
            self.put_table(db.id, info);
        }
        Effect::Schema { before, after: Some(db.db_name.original.clone()) }
    }

    fn drop_table(&mut self, job: &Job) -> Effect {
        let info = self.tables.get(&job.table_id).map(|t| Arc::clone(&t.info));
        let info = info.or_else(|| job.binlog.table_info.clone().map(Arc::new));
        let before = self.remove(job.table_id).or_else(|| self.named_by(job));
        self.gone.insert(job.table_id);
        Effect::Tables(vec![TableMove { before, after: None, info }])
    }

    /// The name that the job itself gives to its table, for a table that is not there.
    fn named_by(&self, job: &Job) -> Option<(i64, TableName)> {
        let schema = self.schemas.get(&job.schema_id).cloned();
        let schema = schema.or_else(|| Some(job.schema_name.clone()).filter(|name| !name.is_empty()))?;
        let table = job.binlog.table_info.as_ref().map_or_else(|| job.table_name.clone(), |i| i.name.original.clone());
        (!table.is_empty()).then_some((job.table_id, TableName { schema, table }))
    }

    fn truncate(&mut self, job: &Job) -> Effect {
        let Some(info) = &job.binlog.table_info else { return Effect::Nothing };
        let schema_id = self.tables.get(&job.table_id).map_or(job.schema_id, |t| t.schema_id);
        let before = self.remove(job.table_id);
        self.gone.insert(job.table_id);
        let moved = self.put_table(schema_id, info);
        Effect::Tables(vec![TableMove { before: before.or(moved.before), ..moved }])
    }

    /// Each element is one step of the statement; a table may move twice (swaps). The job has one database for all of
    /// them, so the others follow from the text: an unqualified name is in the session's database, which is where an
    /// unqualified old name was found.
    fn rename_tables(&mut self, job: &Job) -> Effect {
        let infos: Vec<&TableInfo> = job.binlog.multiple_table_infos.iter().flatten().collect();
        let infos = if infos.is_empty() { job.binlog.table_info.iter().collect() } else { infos };
        let pairs = text::rename_pairs(&job.query).filter(|pairs| pairs.len() == infos.len());
        let mut current = None;
        for (position, info) in infos.iter().enumerate() {
            let pair = pairs.as_ref().and_then(|pairs| pairs.get(position));
            if current.is_none() && pair.is_some_and(|(old, _)| old.schema.is_none()) {
                current = self.tables.get(&info.id).map(|t| t.schema_id);
            }
        }
        let last = infos.len().saturating_sub(1);
        let mut moves = Vec::new();
        for (position, info) in infos.into_iter().enumerate() {
            let own = self.tables.get(&info.id).map(|t| t.schema_id);
            let written = pairs.as_ref().and_then(|pairs| pairs.get(position)).map(|(_, new)| new.schema.as_deref());
            let schema_id = match written {
                _ if position == last => job.schema_id,
                Some(Some(schema)) => self.schema_id(schema).or(own).unwrap_or(job.schema_id),
                Some(None) => current.or(own).unwrap_or(job.schema_id),
                None => own.unwrap_or(job.schema_id),
            };
            moves.push(self.put_table(schema_id, info));
        }
        Effect::Tables(moves)
    }

    fn schema_id(&self, name: &str) -> Option<i64> {
        let lower = name.to_lowercase();
        self.schemas.iter().find(|(_, schema)| schema.to_lowercase() == lower).map(|(id, _)| *id)
    }

    fn exchange(&mut self, job: &Job) -> Effect {
        let Some(after) = &job.binlog.table_info else { return Effect::Nothing };
        let exchange = self.tables.get(&after.id).and_then(|entry| Exchange::find(job, &entry.info, after));
        let schema_id = self.tables.get(&after.id).map_or(job.schema_id, |t| t.schema_id);
        let partitioned = self.put_table(schema_id, after);
        let Some(exchange) = exchange else { return Effect::Tables(vec![partitioned]) };
        let Some(table) = self.tables.get(&exchange.table_before).cloned() else {
            return Effect::Tables(vec![partitioned]);
        };
        let before = self.remove(exchange.table_before);
        let info = TableInfo { id: exchange.table_after, ..(*table.info).clone() };
        let moved = self.put_table(table.schema_id, &info);
        Effect::Tables(vec![partitioned, TableMove { before, ..moved }])
    }

    /// Every other kind, unknown ones included: the definition is replaced. Partition reorganisation may give the table
    /// a new id (64, 71, 72): the job's table id is then the old one.
    fn redefine(&mut self, job: &Job) -> Effect {
        let Some(info) = &job.binlog.table_info else { return Effect::Nothing };
        if is_system_table(info.id) {
            return Effect::Nothing;
        }
        let known = self.tables.get(&info.id).map(|t| t.schema_id);
        let under_old_id = self.tables.get(&job.table_id).filter(|t| t.info.name.lower == info.name.lower);
        let renumbered = known.is_none() && job.table_id != info.id;
        let schema_id = known.or_else(|| under_old_id.map(|t| t.schema_id)).unwrap_or(job.schema_id);
        let before = if renumbered && under_old_id.is_some() {
            self.gone.insert(job.table_id);
            self.remove(job.table_id)
        } else {
            None
        };
        let moved = self.put_table(schema_id, info);
        Effect::Tables(vec![TableMove { before: before.or(moved.before), ..moved }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn table(id: i64, name: &str, partitions: &[(i64, &str)]) -> Value {
        let definitions: Vec<Value> =
            partitions.iter().map(|(id, name)| json!({"id": id, "name": {"O": name, "L": name}})).collect();
        json!({"id": id, "name": {"O": name, "L": name.to_lowercase()},
               "cols": [{"id": 1, "name": {"O": "a", "L": "a"}, "state": 5}],
               "partition": if partitions.is_empty() { Value::Null } else { json!({"definitions": definitions}) }})
    }

    fn job(version: i64, action: i64, schema: i64, table_id: i64, binlog: Value) -> Job {
        let mut job = json!({"id": version, "type": action, "state": 6, "schema_id": schema, "table_id": table_id,
                             "binlog": {"SchemaVersion": version}});
        for (key, value) in binlog.as_object().unwrap() {
            job["binlog"][key] = value.clone();
        }
        Job::parse(job.to_string().as_bytes()).unwrap()
    }

    fn db(version: i64, action: i64, id: i64, name: &str) -> Job {
        job(version, action, id, 0, json!({"DBInfo": {"id": id, "db_name": {"O": name, "L": name}}}))
    }

    /// All tables as `id schema.table`.
    fn shown(view: &View) -> String {
        let tables = view.tables.keys().map(|id| {
            let name = view.name(*id).unwrap();
            format!("{id} {}.{}", name.schema, name.table)
        });
        tables.collect::<Vec<_>>().join(", ")
    }

    fn start() -> View {
        let mut view = View::default();
        view.apply(&db(1, 1, 2, "d"));
        view.apply(&db(2, 1, 3, "e"));
        view.apply(&job(3, 3, 2, 10, json!({"TableInfo": table(10, "t", &[])})));
        view.apply(&job(4, 3, 2, 11, json!({"TableInfo": table(11, "p", &[(21, "p0"), (22, "p1")])})));
        view
    }

    #[test]
    fn each_kind_moves_the_view_and_moving_twice_changes_nothing() {
        let one = |id, name| json!({"TableInfo": table(id, name, &[])});
        let cases: Vec<(&str, Job, &str)> = vec![
            ("drop table", job(5, 4, 2, 10, one(10, "t")), "11 d.p"),
            ("drop a view that is not there", job(5, 24, 2, 77, one(77, "v")), "10 d.t, 11 d.p"),
            ("truncate", job(5, 11, 2, 10, one(12, "t")), "11 d.p, 12 d.t"),
            ("rename across databases", job(5, 14, 3, 10, one(10, "T2")), "10 e.T2, 11 d.p"),
            ("replace a view", job(5, 21, 2, 13, one(13, "t")), "11 d.p, 13 d.t"),
            (
                "batch create",
                job(5, 60, 3, 0, json!({"MultipleTableInfos": [table(14, "x", &[]), table(15, "y", &[])]})),
                "10 d.t, 11 d.p, 14 e.x, 15 e.y",
            ),
            ("a batch of one", job(5, 60, 3, 0, one(14, "x")), "10 d.t, 11 d.p, 14 e.x"),
            (
                "exchange partition",
                job(5, 42, 2, 10, json!({"TableInfo": table(11, "p", &[(10, "p0"), (22, "p1")])})),
                "11 d.p, 21 d.t",
            ),
            ("partitioning with a new id", job(5, 71, 2, 10, one(16, "t")), "11 d.p, 16 d.t"),
            ("an unknown kind", job(5, 999, 2, 10, one(10, "t")), "10 d.t, 11 d.p"),
            ("an unknown kind without a table", job(5, 998, 2, 0, json!({})), "10 d.t, 11 d.p"),
            ("drop schema", db(5, 2, 2, "d"), ""),
            ("a table of the DDL framework", job(5, 5, 1, 7, one(281_474_976_710_000, "s")), "10 d.t, 11 d.p"),
        ];
        for (what, job, expected) in cases {
            let mut view = start();
            view.apply(&job);
            assert_eq!(shown(&view), expected, "{what}");
            if what != "exchange partition" {
                view.apply(&job);
                assert_eq!(shown(&view), expected, "{what}, twice");
            }
        }
    }

    #[test]
    fn what_was_there_is_gone_until_it_is_brought_back() {
        let mut view = start();
        view.apply(&job(5, 11, 2, 10, json!({"TableInfo": table(12, "t", &[])})));
        assert!(view.is_gone(10) && !view.is_gone(12));
        let back = view.apply(&job(6, 25, 2, 10, json!({"TableInfo": table(10, "t_old", &[])})));
        assert!(!view.is_gone(10), "FLASHBACK TABLE revives the id");
        assert!(matches!(back, Effect::Tables(moves) if moves[0].before.is_none()));
        view.apply(&db(7, 2, 2, "d"));
        assert!([10, 11, 12].iter().all(|id| view.is_gone(*id)));
        // The job names no tables: what the DROP took along comes back.
        view.apply(&db(8, 63, 2, "d_back"));
        assert_eq!(shown(&view), "10 d_back.t_old, 11 d_back.p, 12 d_back.t");
        assert!(![10, 11, 12].iter().any(|id| view.is_gone(*id)));
    }

    #[test]
    fn a_job_without_definitions_says_nothing_about_tables() {
        for kind in [47, 60] {
            assert_eq!(start().apply(&job(5, kind, 2, 10, json!({}))), Effect::Nothing, "kind {kind}");
        }
    }

    #[test]
    fn a_new_definition_keeps_the_table_where_it_is() {
        let mut view = start();
        view.apply(&job(5, 14, 3, 10, json!({"TableInfo": table(10, "t", &[])})));
        // A job with another schema id (released versions differ in what they put there).
        let effect = view.apply(&job(6, 5, 2, 10, json!({"TableInfo": table(10, "t", &[])})));
        assert_eq!(shown(&view), "10 e.t, 11 d.p");
        assert_eq!(view.table(10).unwrap().version, SchemaVersion::new(6));
        let Effect::Tables(moves) = effect else { panic!("{effect:?}") };
        assert_eq!(moves[0].before, moves[0].after);
    }
}
