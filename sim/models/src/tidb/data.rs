//! True contents of tables, and the log of what committed.

use super::catalog::{Schema, Table};
use crate::types::ColType;
use binlog_core::codec::encode::Row;
use binlog_core::proto::binlog::Binlog;
use binlog_core::sink::value::SqlValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of one table by internal id, and its unique keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableData {
    pub rows: BTreeMap<i64, Row>,
    /// (index id, key) → row.
    pub keys: BTreeMap<(i64, Vec<u8>), i64>,
}

/// One changed row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    pub table: i64,
    pub op: Op,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Insert { id: i64, row: Row },
    Update { id: i64, old: Row, new: Row },
    Delete { id: i64, old: Row },
}

/// What a DDL does to rows beyond its schema.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum DataEffect {
    #[default]
    None,
    /// A column's values become another column's.
    Convert { table: i64, from: i64, to: i64 },
}

/// Something that committed.
#[derive(Debug, Clone)]
pub struct Committed {
    pub start_ts: u64,
    /// P as it was sent (DDL: with the final job).
    pub prewrite: Binlog,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Rows(Vec<RowChange>),
    /// The schema after it. `None`: it announces, or was rolled back.
    Ddl {
        job: i64,
        schema: Option<Arc<Schema>>,
        effect: DataEffect,
    },
}

/// A table as users see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    pub database: String,
    pub table: String,
    pub columns: Vec<(String, ColType)>,
    /// No order.
    pub rows: Vec<Vec<SqlValue>>,
}

/// All tables' rows by table id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data {
    pub tables: BTreeMap<i64, TableData>,
}

impl TableData {
    pub fn put(&mut self, table: &Table, id: i64, row: Row) {
        self.remove(table, id);
        for key in table.keys() {
            if let Some(bytes) = table.key_of(&key, &row) {
                self.keys.insert((key.id, bytes), id);
            }
        }
        self.rows.insert(id, row);
    }

    pub fn remove(&mut self, table: &Table, id: i64) {
        let Some(old) = self.rows.remove(&id) else { return };
        for key in table.keys() {
            if let Some(bytes) = table.key_of(&key, &old) {
                let entry = (key.id, bytes);
                if self.keys.get(&entry) == Some(&id) {
                    self.keys.remove(&entry);
                    if key.building {
                        let same = |row: &Row| table.key_of(&key, row).as_ref() == Some(&entry.1);
                        let other = self.rows.iter().find(|(_, row)| same(row)).map(|(other, _)| *other);
                        self.keys.extend(other.map(|other| (entry, other)));
                    }
                }
            }
        }
    }

    /// After the table's indexes or columns changed; false when a unique key is not unique.
    pub fn rebuild(&mut self, table: &Table) -> bool {
        let mut unique = true;
        self.keys.clear();
        for (id, row) in &mut self.rows {
            table.complete(row);
            for key in table.keys() {
                if let Some(bytes) = table.key_of(&key, row) {
                    unique &= self.keys.insert((key.id, bytes), *id).is_none();
                }
            }
        }
        unique
    }
}

impl Data {
    /// Changes of tables that are gone have no effect.
    pub fn apply(&mut self, schema: &Schema, changes: &[RowChange]) {
        for change in changes {
            let Some(table) = schema.tables.get(&change.table) else { continue };
            let data = self.tables.entry(change.table).or_default();
            match &change.op {
                Op::Insert { id, row } | Op::Update { id, new: row, .. } => {
                    let mut row = row.clone();
                    table.complete(&mut row);
                    data.put(table, *id, row);
                }
                Op::Delete { id, .. } => data.remove(table, *id),
            }
        }
    }

    pub fn alter(&mut self, schema: &Schema, effect: &DataEffect) {
        if let DataEffect::Convert { table, from, to } = effect
            && let (Some(definition), Some(data)) = (schema.tables.get(table), self.tables.get_mut(table))
        {
            for row in data.rows.values_mut() {
                let old = row.get(from).cloned().unwrap_or(SqlValue::Null);
                let new = definition.types.get(to).and_then(|ty| ty.convert(&old).ok());
                row.insert(*to, new.unwrap_or(SqlValue::Null));
            }
        }
        self.tables.retain(|id, _| schema.tables.contains_key(id));
        for (id, table) in &schema.tables {
            self.tables.entry(*id).or_default().rebuild(table);
        }
    }

    #[must_use]
    pub fn contents(&self, schema: &Schema) -> Vec<Contents> {
        let tables = schema.tables.iter().map(|(id, table)| {
            let columns: Vec<_> = table.public().collect();
            let value = |row: &Row, id: i64| row.get(&id).cloned().unwrap_or(SqlValue::Null);
            let rows = self.tables.get(id).map(|d| d.rows.values()).into_iter().flatten().map(|row| {
                let mut row = row.clone();
                table.complete(&mut row);
                columns.iter().map(|c| value(&row, c.id)).collect()
            });
            Contents {
                database: schema.databases.get(&table.database).cloned().unwrap_or_default(),
                table: table.info.name.original.clone(),
                columns: columns.iter().map(|c| (c.name.original.clone(), table.types[&c.id].clone())).collect(),
                rows: rows.collect(),
            }
        });
        tables.collect()
    }
}
