//! A table of the downstream: columns, unique keys, rows.

use crate::types::ColType;
use binlog_core::sink::value::SqlValue;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub keys: Vec<Key>,
    /// Indexes that are not unique: only their names matter.
    pub plain: Vec<String>,
    rows: BTreeMap<u64, Vec<SqlValue>>,
    /// (position in `keys`, key) → row.
    unique: BTreeMap<(usize, Vec<u8>), u64>,
    next: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: ColType,
    pub nullable: bool,
    pub default: Option<SqlValue>,
    /// Column and what is added to it.
    pub generated: Option<(String, i64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub name: String,
    /// Column name and prefix (−1: whole).
    pub parts: Vec<(String, i64)>,
}

impl Table {
    #[must_use]
    pub fn new(columns: Vec<Column>) -> Self {
        let (keys, plain) = (Vec::new(), Vec::new());
        Self { columns, keys, plain, rows: BTreeMap::new(), unique: BTreeMap::new(), next: 0 }
    }

    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    pub fn rows(&self) -> impl Iterator<Item = (u64, &Vec<SqlValue>)> {
        self.rows.iter().map(|(id, row)| (*id, row))
    }

    #[must_use]
    pub fn row(&self, id: u64) -> Option<&Vec<SqlValue>> {
        self.rows.get(&id)
    }

    fn key_of(&self, key: &Key, row: &[SqlValue]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (name, prefix) in &key.parts {
            let at = self.position(name)?;
            let part = self.columns.get(at)?.ty.key(row.get(at)?, *prefix)?;
            out.extend((part.len() as u64).to_be_bytes());
            out.extend(part);
        }
        Some(out)
    }

    /// Computes generated columns and checks NOT NULL.
    fn finish(&self, row: &mut [SqlValue]) -> Result<(), String> {
        for at in 0..self.columns.len() {
            let column = &self.columns[at];
            if let Some((source, plus)) = &column.generated {
                let source = self.position(source).and_then(|at| row.get(at));
                row[at] = match source {
                    Some(SqlValue::Int(n)) => SqlValue::Int(n + plus),
                    _ => SqlValue::Null,
                };
            } else if !column.nullable && row[at] == SqlValue::Null {
                return Err(format!("1048: column {} cannot be null", column.name));
            }
        }
        Ok(())
    }

    /// # Errors
    /// 1062 and 1048, as the server says them.
    pub fn insert(&mut self, mut row: Vec<SqlValue>) -> Result<(), String> {
        self.finish(&mut row)?;
        self.next += 1;
        self.put(self.next, row)
    }

    /// # Errors
    /// As [`Table::insert`].
    pub fn update(&mut self, id: u64, mut row: Vec<SqlValue>) -> Result<(), String> {
        self.finish(&mut row)?;
        self.remove(id);
        self.put(id, row)
    }

    pub fn remove(&mut self, id: u64) {
        let Some(row) = self.rows.remove(&id) else { return };
        for (at, key) in self.keys.iter().enumerate() {
            if let Some(bytes) = self.key_of(key, &row) {
                self.unique.remove(&(at, bytes));
            }
        }
    }

    fn put(&mut self, id: u64, row: Vec<SqlValue>) -> Result<(), String> {
        let keys = self.keys.iter().enumerate().filter_map(|(at, key)| Some((at, self.key_of(key, &row)?)));
        let keys: Vec<_> = keys.collect();
        for entry in &keys {
            if self.unique.contains_key(entry) {
                return Err(format!("1062: duplicate entry for key {}", self.keys[entry.0].name));
            }
        }
        self.unique.extend(keys.into_iter().map(|k| (k, id)));
        self.rows.insert(id, row);
        Ok(())
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.unique.clear();
    }

    /// After columns or keys changed: each row is given by `change`.
    ///
    /// # Errors
    /// What a row does not fit.
    pub fn rewrite(&mut self, change: impl Fn(Vec<SqlValue>) -> Result<Vec<SqlValue>, String>) -> Result<(), String> {
        self.unique.clear();
        for (id, row) in std::mem::take(&mut self.rows) {
            let mut row = change(row)?;
            self.finish(&mut row)?;
            self.put(id, row)?;
        }
        Ok(())
    }

    /// Everything but the rows.
    #[must_use]
    pub fn definition(&self) -> String {
        format!("{:?} {:?} {:?}", self.columns, self.keys, self.plain)
    }
}
