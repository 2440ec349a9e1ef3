//! Random DDL jobs: their steps, texts and JSON (spec codec 8, recorded).
//!
//! A job is a list of steps; each makes the next schema version visible, some carry a binlog. Between two steps every server
//! has loaded the version before, so that servers are never more than one version apart.

use super::catalog::{Schema, Table};
use super::data::DataEffect;
use crate::rng::Rng;
use crate::types::ColType;
use binlog_core::codec::value::tp;
use binlog_core::ids::SchemaVersion;
use binlog_core::schema::model::{
    ActionType, CiStr, DbInfo, FieldType, HistoryInfo, Job as JobInfo, JobState, SchemaState, TableInfo,
};
use binlog_core::sink::sql::quote;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Type numbers that core has no name for.
pub mod action {
    pub const ADD_COLUMN: i64 = 5;
    pub const ADD_INDEX: i64 = 7;
    pub const DROP_INDEX: i64 = 8;
    pub const MODIFY_COLUMN: i64 = 12;
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub action: ActionType,
    pub database: i64,
    /// For TRUNCATE the old id.
    pub table: i64,
    pub query: String,
    /// Left to do, in order.
    pub steps: Vec<Step>,
    /// Checked before the last step: a unique index that is not unique rolls the job back to this schema.
    pub unless_unique: Option<(i64, Schema)>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub schema: Schema,
    pub kind: StepKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StepKind {
    /// Only makes its schema visible.
    Bump,
    /// With a binlog that says that a column is being dropped; the schema is as in the step before.
    Announce,
    /// With the binlog; `keeps_version`: its schema is visible already (multi-schema change).
    Final { effect: DataEffect, keeps_version: bool, table: Option<Box<TableInfo>>, database: Option<DbInfo> },
    /// The job failed: a binlog without consequences.
    RolledBack,
}

/// How often each kind of DDL is drawn.
#[derive(Debug, Clone)]
pub struct DdlWeights {
    pub create_database: u32,
    pub drop_database: u32,
    pub create_table: u32,
    pub drop_table: u32,
    pub truncate: u32,
    pub rename: u32,
    pub add_column: u32,
    pub drop_column: u32,
    pub modify_column: u32,
    pub add_index: u32,
    pub drop_index: u32,
    pub multi: u32,
    /// A multi-schema change that adds columns is visible before its binlog: rows come with values for columns that the
    /// downstream does not have, and the Drainer pauses.
    pub early_values: bool,
    /// Tables at most.
    pub tables: usize,
    /// Columns of a new table besides its keys, at most.
    pub columns: u64,
}

impl Default for DdlWeights {
    fn default() -> Self {
        Self {
            create_database: 1,
            drop_database: 1,
            create_table: 4,
            drop_table: 2,
            truncate: 2,
            rename: 3,
            add_column: 5,
            drop_column: 4,
            modify_column: 3,
            add_index: 3,
            drop_index: 3,
            multi: 3,
            early_values: false,
            tables: 6,
            columns: 7,
        }
    }
}

/// Draws a job for the newest schema. `next_id`: the next free global id.
pub fn draw(rng: &mut Rng, schema: &Schema, weights: &DdlWeights, next_id: &mut i64) -> Option<Job> {
    let mut maker = Maker { rng, schema, next_id };
    if schema.databases.is_empty() {
        return maker.create_database();
    }
    if schema.tables.is_empty() {
        return maker.create_table(weights.columns);
    }
    let w = weights;
    let full = schema.tables.len() >= w.tables;
    let kinds = [
        if schema.databases.len() < 3 { w.create_database } else { 0 },
        if schema.databases.len() > 1 { w.drop_database } else { 0 },
        if full { 0 } else { w.create_table },
        if schema.tables.len() > 1 { w.drop_table } else { 0 },
        w.truncate,
        w.rename,
        w.add_column,
        w.drop_column,
        w.modify_column,
        w.add_index,
        w.drop_index,
        w.multi,
    ];
    match maker.rng.weighted(&kinds) {
        0 => maker.create_database(),
        1 => maker.drop_database(),
        2 => maker.create_table(w.columns),
        3 => maker.drop_table(),
        4 => maker.truncate(),
        5 => maker.rename(),
        6 => maker.add_column(),
        7 => maker.drop_column(),
        8 => maker.modify_column(),
        9 => maker.add_index(),
        10 => maker.drop_index(),
        _ => maker.multi(w.early_values),
    }
}

struct Maker<'a> {
    rng: &'a mut Rng,
    schema: &'a Schema,
    next_id: &'a mut i64,
}

/// One change of a table: the definitions that it goes through, the last one final, and its clause.
struct Change {
    tables: Vec<Table>,
    clause: String,
    effect: DataEffect,
    action: ActionType,
}

const PASSES_IN: [SchemaState; 3] = [SchemaState::DELETE_ONLY, SchemaState::WRITE_ONLY, SchemaState::WRITE_REORG];
const PASSES_OUT: [SchemaState; 3] = [SchemaState::WRITE_ONLY, SchemaState::DELETE_ONLY, SchemaState::DELETE_REORG];

impl Maker<'_> {
    fn id(&mut self) -> i64 {
        *self.next_id += 1;
        *self.next_id
    }

    fn job(&mut self, action: ActionType, database: i64, table: i64, query: String, steps: Vec<Step>) -> Job {
        Job { id: self.id(), action, database, table, query, steps, unless_unique: None }
    }

    fn last(&self, schema: Schema, table: Option<TableInfo>, database: Option<DbInfo>) -> Step {
        let table = table.map(Box::new);
        Step { schema, kind: StepKind::Final { effect: DataEffect::None, keeps_version: false, table, database } }
    }

    fn create_database(&mut self) -> Option<Job> {
        let mut schema = self.schema.clone();
        let id = self.id();
        let name = (0..).map(|n| format!("d{n}")).find(|n| !schema.databases.values().any(|d| d == n))?;
        schema.databases.insert(id, name.clone());
        let step = self.last(schema, None, Some(database_info(id, &name)));
        Some(self.job(ActionType::CREATE_SCHEMA, id, 0, format!("CREATE DATABASE {}", quote(&name)), vec![step]))
    }

    fn drop_database(&mut self) -> Option<Job> {
        let ids: Vec<i64> = self.schema.databases.keys().copied().collect();
        let id = *self.rng.pick(&ids)?;
        let name = self.schema.databases.get(&id)?.clone();
        let mut schema = self.schema.clone();
        schema.databases.remove(&id);
        schema.tables.retain(|_, t| t.database != id);
        let bump = |state| self.leaving(state, |t| t.database == id);
        let mut steps = vec![bump(SchemaState::WRITE_ONLY), bump(SchemaState::DELETE_ONLY)];
        steps.push(self.last(schema, None, Some(database_info(id, &name))));
        Some(self.job(ActionType::DROP_SCHEMA, id, 0, format!("DROP DATABASE {}", quote(&name)), steps))
    }

    fn create_table(&mut self, columns: u64) -> Option<Job> {
        let ids: Vec<i64> = self.schema.databases.keys().copied().collect();
        let database = *self.rng.pick(&ids)?;
        let id = self.id();
        let columns = self.rng.range(1, columns);
        let name = format!("t{}", self.rng.below(9));
        if self.is_taken(database, &name) {
            return None;
        }
        let table = Table::random(self.rng, id, database, &name, columns);
        let mut schema = self.schema.clone();
        let (query, info) = (table.create_sql(), table.info.clone());
        schema.tables.insert(id, Arc::new(table));
        let step = self.last(schema, Some(info), None);
        Some(self.job(ActionType::CREATE_TABLE, database, id, query, vec![step]))
    }

    fn is_taken(&self, database: i64, name: &str) -> bool {
        self.schema.tables.values().any(|t| t.database == database && t.info.name.original == name)
    }

    fn pick(&mut self) -> Option<Arc<Table>> {
        let tables: Vec<&Arc<Table>> = self.schema.tables.values().collect();
        self.rng.pick(&tables).map(|t| Arc::clone(t))
    }

    fn drop_table(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let mut schema = self.schema.clone();
        schema.tables.remove(&table.info.id);
        let bump = |state| self.leaving(state, |t| t.info.id == table.info.id);
        let gone = TableInfo { state: SchemaState::NONE, ..table.info.clone() };
        let mut steps = vec![bump(SchemaState::WRITE_ONLY), bump(SchemaState::DELETE_ONLY)];
        steps.push(self.last(schema.clone(), Some(gone), None));
        let query = format!("DROP TABLE {}", quote(&table.info.name.original));
        Some(self.job(ActionType::DROP_TABLE, table.database, table.info.id, query, steps))
    }

    /// A step in which some tables are there but take no writes.
    fn leaving(&self, state: SchemaState, which: impl Fn(&Table) -> bool) -> Step {
        let mut schema = self.schema.clone();
        for table in schema.tables.values_mut().filter(|t| which(t)) {
            Arc::make_mut(table).info.state = state;
        }
        Step { schema, kind: StepKind::Bump }
    }

    fn truncate(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let id = self.id();
        let mut schema = self.schema.clone();
        schema.tables.remove(&table.info.id);
        let mut fresh = (*table).clone();
        fresh.info.id = id;
        let info = fresh.info.clone();
        schema.tables.insert(id, Arc::new(fresh));
        let step = self.last(schema, Some(info), None);
        let query = format!("TRUNCATE TABLE {}", quote(&table.info.name.original));
        Some(self.job(ActionType::TRUNCATE_TABLE, table.database, table.info.id, query, vec![step]))
    }

    fn rename(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let ids: Vec<i64> = self.schema.databases.keys().copied().collect();
        let database = *self.rng.pick(&ids)?;
        let name = format!("t{}", self.rng.below(9));
        if self.is_taken(database, &name) {
            return None;
        }
        let mut renamed = (*table).clone();
        renamed.info.name = CiStr::new(&name);
        renamed.database = database;
        let mut schema = self.schema.clone();
        let info = renamed.info.clone();
        schema.tables.insert(info.id, Arc::new(renamed));
        let full = |database: i64, name: &str| {
            let database = self.schema.databases.get(&database).map(|d| quote(d)).unwrap_or_default();
            format!("{database}.{}", quote(name))
        };
        let query =
            format!("RENAME TABLE {} TO {}", full(table.database, &table.info.name.original), full(database, &name));
        let step = self.last(schema, Some(info), None);
        Some(self.job(ActionType::RENAME_TABLE, database, table.info.id, query, vec![step]))
    }

    /// A job of one change; `announce`: after which definition the delete-only binlog goes.
    fn alter(&mut self, table: &Table, change: Change, announce: Option<usize>) -> Job {
        let mut steps = Vec::new();
        let count = change.tables.len();
        for (at, definition) in change.tables.into_iter().enumerate() {
            let mut schema = self.schema.clone();
            let info = definition.info.clone();
            schema.tables.insert(info.id, Arc::new(definition));
            if at + 1 < count {
                steps.push(Step { schema: schema.clone(), kind: StepKind::Bump });
                if announce == Some(at) {
                    steps.push(Step { schema, kind: StepKind::Announce });
                }
            } else {
                let kind = StepKind::Final {
                    effect: change.effect.clone(),
                    keeps_version: false,
                    table: Some(Box::new(info)),
                    database: None,
                };
                steps.push(Step { schema, kind });
            }
        }
        let query = format!("ALTER TABLE {} {}", quote(&table.info.name.original), change.clause);
        self.job(change.action, table.database, table.info.id, query, steps)
    }

    fn add_column(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let change = self.adding(&table)?;
        Some(self.alter(&table, change, None))
    }

    fn adding(&mut self, table: &Table) -> Option<Change> {
        if table.info.cols.len() > 14 {
            return None;
        }
        let mut with = table.clone();
        let name = format!("a{}", table.max_col + 1);
        let at = with.add_column(&name, ColType::random(self.rng), 0);
        if self.rng.percent(60) {
            with.randomise_default(self.rng, at);
        }
        let in_state = |state| {
            let mut passing = with.clone();
            passing.info.cols[at].state = state;
            passing
        };
        let mut tables: Vec<Table> = PASSES_IN.into_iter().map(in_state).collect();
        let mut last = with.clone();
        let mut clause = format!("ADD COLUMN {}", with.column_sql(&with.info.cols[at]));
        match self.rng.below(4) {
            0 => {
                let column = last.info.cols.remove(at);
                last.info.cols.insert(0, column);
                clause += " FIRST";
            }
            1 => {
                let after = self.rng.index(at);
                clause += &format!(" AFTER {}", quote(&last.info.cols[after].name.original));
                let column = last.info.cols.remove(at);
                last.info.cols.insert(after + 1, column);
            }
            _ => {}
        }
        last.fix_offsets();
        tables.push(last);
        Some(Change { tables, clause, effect: DataEffect::None, action: ActionType(action::ADD_COLUMN) })
    }

    fn drop_column(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let change = self.dropping(&table)?;
        Some(self.alter(&table, change, Some(1)))
    }

    fn dropping(&mut self, table: &Table) -> Option<Change> {
        let source = |name: &str| {
            table
                .info
                .cols
                .iter()
                .any(|c| super::catalog::parse_generated(&c.generated_expr_string).is_some_and(|(s, _)| s == name))
        };
        let free: Vec<usize> = (0..table.info.cols.len())
            .filter(|at| {
                let column = &table.info.cols[*at];
                !table.is_in_index(column) && !column.is_generated() && !source(&column.name.original)
            })
            .collect();
        if table.info.cols.len() < 3 {
            return None;
        }
        let at = *self.rng.pick(&free)?;
        let in_state = |state| {
            let mut passing = table.clone();
            passing.info.cols[at].state = state;
            passing
        };
        let mut tables: Vec<Table> = PASSES_OUT.into_iter().map(in_state).collect();
        let mut last = table.clone();
        let gone = last.info.cols.remove(at);
        last.types.remove(&gone.id);
        last.fix_offsets();
        tables.push(last);
        let clause = format!("DROP COLUMN {}", quote(&gone.name.original));
        Some(Change { tables, clause, effect: DataEffect::None, action: ActionType::DROP_COLUMN })
    }

    /// A wider type without new data, or a number that becomes a text under a new column id.
    fn modify_column(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let generated = |name: &str| {
            table
                .info
                .cols
                .iter()
                .any(|c| super::catalog::parse_generated(&c.generated_expr_string).is_some_and(|(s, _)| s == name))
        };
        let at = self.rng.index(table.info.cols.len());
        let column = table.info.cols.get(at)?;
        if table.is_in_index(column) || column.is_generated() || generated(&column.name.original) {
            return None;
        }
        let ty = table.types.get(&column.id)?.clone();
        let wider = match ty.tp {
            tp::TINY | tp::SHORT | tp::INT24 | tp::LONG => ColType { tp: tp::LONGLONG, ..ty.clone() },
            tp::VARCHAR => ColType { flen: ty.flen + 5, ..ty.clone() },
            tp::BLOB => ColType { tp: tp::LONG_BLOB, ..ty.clone() },
            tp::LONGLONG | tp::DATE | tp::DECIMAL => ColType { flen: 90, ..ColType::plain(tp::VARCHAR) },
            _ => return None,
        };
        let mut last = (*table).clone();
        let name = column.name.original.clone();
        let changes_data = wider.tp == tp::VARCHAR && ty.tp != tp::VARCHAR;
        if !changes_data {
            let flag = column.field_type.flag & !FieldType::UNSIGNED;
            last.info.cols[at].field_type = wider.field_type(flag);
            last.types.insert(column.id, wider);
            let clause = format!("MODIFY COLUMN {}", last.column_sql(&last.info.cols[at]));
            let change = Change {
                tables: vec![last],
                clause,
                effect: DataEffect::None,
                action: ActionType(action::MODIFY_COLUMN),
            };
            return Some(self.alter(&table, change, None));
        }
        if !column.default.is_null() || !column.origin_default.is_null() {
            return None;
        }
        // A shadow column goes through the states, takes the name in the end, and the old one goes.
        let mut with = (*table).clone();
        let flag = column.field_type.flag & !FieldType::UNSIGNED;
        let shadow = with.add_column(&format!("_Col$_{name}_0"), wider, flag);
        let in_state = |state| {
            let mut passing = with.clone();
            passing.info.cols[shadow].state = state;
            passing
        };
        let mut tables: Vec<Table> = PASSES_IN.into_iter().map(in_state).collect();
        last = with.clone();
        let mut new = last.info.cols.remove(shadow);
        new.name = CiStr::new(&name);
        let old = std::mem::replace(&mut last.info.cols[at], new);
        last.types.remove(&old.id);
        last.fix_offsets();
        let clause = format!("MODIFY COLUMN {}", last.column_sql(&last.info.cols[at]));
        let effect = DataEffect::Convert { table: table.info.id, from: old.id, to: last.info.cols[at].id };
        tables.push(last);
        let change = Change { tables, clause, effect, action: ActionType(action::MODIFY_COLUMN) };
        Some(self.alter(&table, change, None))
    }

    fn add_index(&mut self) -> Option<Job> {
        let table = self.pick()?;
        if table.info.index_info.len() > 3 {
            return None;
        }
        let columns = table.unique_columns(self.rng)?;
        let unique = self.rng.percent(60);
        let mut with = (*table).clone();
        let prefix = self.rng.percent(30).then_some(2);
        with.add_index(&format!("i{}", table.max_index + 1), &columns, unique, prefix);
        let at = with.info.index_info.len() - 1;
        let in_state = |state| {
            let mut passing = with.clone();
            passing.info.index_info[at].state = state;
            passing
        };
        let mut tables: Vec<Table> = PASSES_IN.into_iter().map(in_state).collect();
        let clause = format!("ADD {}", with.index_sql(&with.info.index_info[at]));
        tables.push(with);
        let action = ActionType(action::ADD_INDEX);
        let mut job = self.alter(&table, Change { tables, clause, effect: DataEffect::None, action }, None);
        if unique {
            job.unless_unique = Some((table.info.id, self.schema.clone()));
        }
        Some(job)
    }

    fn drop_index(&mut self) -> Option<Job> {
        let table = self.pick()?;
        let free: Vec<usize> =
            (0..table.info.index_info.len()).filter(|at| !table.info.index_info[*at].is_primary).collect();
        let at = *self.rng.pick(&free)?;
        let in_state = |state| {
            let mut passing = (*table).clone();
            passing.info.index_info[at].state = state;
            passing
        };
        let mut tables: Vec<Table> = PASSES_OUT.into_iter().map(in_state).collect();
        let mut last = (*table).clone();
        let gone = last.info.index_info.remove(at);
        tables.push(last);
        let clause = format!("DROP INDEX {}", quote(&gone.idx_name.original));
        let action = ActionType(action::DROP_INDEX);
        Some(self.alter(&table, Change { tables, clause, effect: DataEffect::None, action }, None))
    }

    /// Several clauses, one binlog. What only drops columns is visible before its binlog (spec recorded); with `early` so is
    /// what adds some: then rows hold values for columns that the downstream cannot have yet.
    fn multi(&mut self, early: bool) -> Option<Job> {
        let table = self.pick()?;
        let drops = self.rng.percent(40);
        let first = if drops { self.dropping(&table) } else { self.adding(&table) }?;
        let middle = first.tables.last()?.clone();
        let second = if drops || self.rng.percent(50) { self.dropping(&middle) } else { self.adding(&middle) }?;
        let added = middle.info.cols.iter().find(|c| !table.info.cols.iter().any(|o| o.id == c.id));
        // Clauses of one statement must not name each other's columns.
        let named: Vec<String> = table.info.cols.iter().chain(added).map(|c| quote(&c.name.original)).collect();
        if named.iter().any(|name| first.clause.contains(name) && second.clause.contains(name)) {
            return None;
        }
        // Both go through their states together.
        let mut tables = Vec::new();
        for (mut passing, of_first) in second.tables.iter().cloned().zip(&first.tables).take(PASSES_IN.len()) {
            for column in &of_first.info.cols {
                match passing.info.cols.iter_mut().find(|c| c.id == column.id) {
                    Some(known) if !column.is_public() => known.state = column.state,
                    None => {
                        passing.info.cols.push(column.clone());
                        passing.types.insert(column.id, of_first.types.get(&column.id)?.clone());
                    }
                    Some(_) => {}
                }
            }
            passing.fix_offsets();
            tables.push(passing);
        }
        let done = second.tables.last()?.clone();
        let with = |definition: Table| {
            let mut schema = self.schema.clone();
            schema.tables.insert(table.info.id, Arc::new(definition));
            schema
        };
        let mut steps: Vec<Step> = tables.into_iter().map(|t| Step { schema: with(t), kind: StepKind::Bump }).collect();
        let keeps_version = drops || early;
        if keeps_version {
            steps.push(Step { schema: with(done.clone()), kind: StepKind::Bump });
        }
        let (schema, table_info) = (with(done.clone()), Some(Box::new(done.info)));
        let effect = DataEffect::None;
        steps.push(Step { schema, kind: StepKind::Final { effect, keeps_version, table: table_info, database: None } });
        let query = format!("ALTER TABLE {} {}, {}", quote(&table.info.name.original), first.clause, second.clause);
        Some(self.job(ActionType::MULTI_SCHEMA_CHANGE, table.database, table.info.id, query, steps))
    }
}

#[must_use]
fn database_info(id: i64, name: &str) -> DbInfo {
    DbInfo {
        id,
        db_name: CiStr::new(name),
        charset: "utf8mb4".to_owned(),
        collate: "utf8mb4_bin".to_owned(),
        state: SchemaState::PUBLIC,
    }
}

impl Job {
    /// The history's JSON of the finished job. `version` 0: it was rolled back.
    #[must_use]
    pub fn json(&self, kind: &StepKind, version: i64, start_ts: u64, names: &BTreeMap<i64, String>) -> Vec<u8> {
        let (table_info, db_info) = match kind {
            StepKind::Final { table, database, .. } => (table.as_deref().cloned(), database.clone()),
            StepKind::Bump | StepKind::Announce | StepKind::RolledBack => (None, None),
        };
        let table_name = table_info.as_ref().map(|t| t.name.original.clone()).unwrap_or_default();
        let job = JobInfo {
            id: self.id,
            action: self.action,
            schema_id: self.database,
            table_id: self.table,
            schema_name: names.get(&self.database).cloned().unwrap_or_default(),
            table_name,
            state: if version == 0 { JobState(3) } else { JobState::SYNCED },
            raw_args: Value::Null,
            schema_state: self.schema_state(kind),
            start_ts,
            query: self.query.clone(),
            binlog: HistoryInfo {
                schema_version: SchemaVersion::new(version),
                db_info,
                table_info,
                finished_ts: start_ts,
                multiple_table_infos: Vec::new(),
            },
            reorg_meta: Value::Null,
            multi_schema_info: None,
        };
        let mut value = serde_json::to_value(&job).unwrap_or_default();
        for (key, extra) in [
            ("warning", Value::Null),
            ("err", Value::Null),
            ("err_count", json!(0)),
            ("row_count", json!(0)),
            ("snapshot_ver", json!(0)),
            ("real_start_ts", json!(start_ts)),
            ("dependency_id", json!(0)),
            ("version", json!(1)),
            ("priority", json!(0)),
            ("seq_num", json!(self.id)),
        ] {
            value[key] = extra;
        }
        value.to_string().into_bytes()
    }

    /// What the binlog says.
    #[must_use]
    pub fn schema_state(&self, kind: &StepKind) -> SchemaState {
        let gone = matches!(
            self.action,
            ActionType::DROP_SCHEMA
                | ActionType::DROP_TABLE
                | ActionType::DROP_COLUMN
                | ActionType::MULTI_SCHEMA_CHANGE
        ) || self.action == ActionType(action::DROP_INDEX);
        match kind {
            StepKind::Announce => SchemaState::DELETE_ONLY,
            StepKind::RolledBack => SchemaState::NONE,
            _ if gone => SchemaState::NONE,
            _ => SchemaState::PUBLIC,
        }
    }
}
