//! Random data transactions: typed row changes that are valid where they will be committed.
//!
//! Rows and unique keys that a transaction touches are locked until its outcome is known, as a pessimistic TiDB does; so
//! every transaction that commits was valid, whatever ran beside it.

use super::catalog::{Schema, Table};
use super::data::{Data, Op, RowChange, TableData};
use crate::rng::Rng;
use binlog_core::codec::encode::Row;
use binlog_core::schema::model::{ColumnInfo, SchemaState};
use binlog_core::sink::value::SqlValue;
use std::collections::{BTreeMap, BTreeSet};

/// How often each kind of operation is drawn.
#[derive(Debug, Clone)]
pub struct Weights {
    pub insert: u32,
    pub update: u32,
    /// Of key columns: delete and insert in clustered tables.
    pub update_key: u32,
    pub delete: u32,
    pub replace: u32,
    /// Two rows exchange a unique value.
    pub swap: u32,
    /// Percent of transactions with many inserts.
    pub large_percent: u64,
    /// Operations of a transaction at most.
    pub operations: u64,
    /// Rows of a table at which inserts become deletes.
    pub rows: usize,
    /// How many different values a column takes; small: keys collide often.
    pub spread: u64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            insert: 10,
            update: 6,
            update_key: 3,
            delete: 3,
            replace: 2,
            swap: 2,
            large_percent: 2,
            operations: 6,
            rows: 40,
            spread: 60,
        }
    }
}

/// Rows and keys that transactions hold.
#[derive(Debug, Clone, Default)]
pub struct Locks {
    pub rows: BTreeSet<(i64, i64)>,
    pub keys: BTreeSet<(i64, i64, Vec<u8>)>,
}

/// One transaction being made.
pub struct Maker<'a> {
    pub schema: &'a Schema,
    pub data: &'a Data,
    /// Of other transactions.
    pub locks: &'a Locks,
    pub weights: &'a Weights,
    pub next_row: &'a mut i64,
    local: BTreeMap<i64, TableData>,
    pub changes: Vec<RowChange>,
    pub own: Locks,
}

impl<'a> Maker<'a> {
    pub fn new(
        schema: &'a Schema,
        data: &'a Data,
        locks: &'a Locks,
        weights: &'a Weights,
        next_row: &'a mut i64,
    ) -> Self {
        let (local, changes, own) = (BTreeMap::new(), Vec::new(), Locks::default());
        Self { schema, data, locks, weights, next_row, local, changes, own }
    }

    /// Draws the operations; `changes` stays empty when none was possible.
    pub fn run(&mut self, rng: &mut Rng) {
        let public = self.schema.tables.iter().filter(|(_, t)| t.info.state == SchemaState::PUBLIC);
        let ids: Vec<i64> = public.map(|(id, _)| *id).collect();
        let Some(mut id) = rng.pick(&ids).copied() else { return };
        if rng.percent(self.weights.large_percent) {
            for _ in 0..150 {
                self.insert(rng, id, u64::MAX >> 20);
            }
            return;
        }
        for _ in 0..rng.range(1, self.weights.operations) {
            if rng.percent(30) {
                id = rng.pick(&ids).copied().unwrap_or(id);
            }
            self.step(rng, id);
        }
    }

    fn step(&mut self, rng: &mut Rng, id: i64) {
        let Some(table) = self.schema.tables.get(&id) else { return };
        let w = self.weights;
        let mut kinds = [w.insert, w.update, w.update_key, w.delete, w.replace, w.swap];
        if table.is_changing() {
            (kinds[2], kinds[3], kinds[4], kinds[5]) = (0, 0, 0, 0);
        } else if self.table(id).rows.len() >= w.rows {
            kinds[0] = 0;
        }
        match rng.weighted(&kinds) {
            0 => self.insert(rng, id, w.spread),
            1 => self.update(rng, id, false),
            2 => self.update(rng, id, true),
            3 => {
                if let Some((row, _)) = self.pick(rng, id) {
                    self.delete(id, row);
                }
            }
            4 => self.replace(rng, id),
            _ => self.swap(rng, id),
        }
    }

    fn table(&mut self, id: i64) -> &mut TableData {
        self.local.entry(id).or_insert_with(|| self.data.tables.get(&id).cloned().unwrap_or_default())
    }

    fn definition(&self, id: i64) -> Option<&'a Table> {
        self.schema.tables.get(&id).map(AsRef::as_ref)
    }

    /// A row that nobody else holds, with everything that its table's definition adds.
    fn pick(&mut self, rng: &mut Rng, id: i64) -> Option<(i64, Row)> {
        let table = self.definition(id)?;
        let locks = self.locks;
        let free: Vec<i64> =
            self.table(id).rows.keys().copied().filter(|row| !locks.rows.contains(&(id, *row))).collect();
        let chosen = *rng.pick(&free)?;
        let mut row = self.table(id).rows.get(&chosen)?.clone();
        table.complete(&mut row);
        Some((chosen, row))
    }

    /// Rows that hold a unique value of `row`; `None` when another transaction holds one of the values.
    fn conflicts(&mut self, id: i64, row: &Row, but: i64) -> Option<Vec<i64>> {
        let table = self.definition(id)?;
        let mut found = Vec::new();
        for key in table.keys() {
            let Some(bytes) = table.key_of(&key, row) else { continue };
            if self.locks.keys.contains(&(id, key.id, bytes.clone())) {
                return None;
            }
            found.extend(self.table(id).keys.get(&(key.id, bytes)).filter(|other| **other != but));
        }
        found.dedup();
        Some(found)
    }

    fn hold(&mut self, id: i64, row_id: i64, row: &Row) {
        let Some(table) = self.definition(id) else { return };
        self.own.rows.insert((id, row_id));
        for key in table.keys() {
            if let Some(bytes) = table.key_of(&key, row) {
                self.own.keys.insert((id, key.id, bytes));
            }
        }
    }

    fn insert(&mut self, rng: &mut Rng, id: i64, spread: u64) {
        let Some(table) = self.definition(id) else { return };
        let row = table.random_row(rng, spread);
        if self.conflicts(id, &row, 0).is_some_and(|c| c.is_empty()) {
            self.put_new(id, row);
        }
    }

    fn put_new(&mut self, id: i64, row: Row) {
        let Some(table) = self.definition(id) else { return };
        *self.next_row += 1;
        let row_id = *self.next_row;
        self.hold(id, row_id, &row);
        self.table(id).put(table, row_id, row.clone());
        self.changes.push(RowChange { table: id, op: Op::Insert { id: row_id, row } });
    }

    fn delete(&mut self, id: i64, row_id: i64) {
        let Some(table) = self.definition(id) else { return };
        let Some(mut old) = self.table(id).rows.get(&row_id).cloned() else { return };
        table.complete(&mut old);
        self.hold(id, row_id, &old);
        self.table(id).remove(table, row_id);
        self.changes.push(RowChange { table: id, op: Op::Delete { id: row_id, old } });
    }

    fn update(&mut self, rng: &mut Rng, id: i64, keys: bool) {
        let Some(table) = self.definition(id) else { return };
        let Some((row_id, old)) = self.pick(rng, id) else { return };
        let wanted = |c: &&ColumnInfo| !c.is_generated() && table.is_in_index(c) == keys;
        let columns: Vec<&ColumnInfo> = table.public().filter(wanted).collect();
        let mut new = old.clone();
        for _ in 0..=rng.index(3) {
            let Some(column) = rng.pick(&columns) else { return };
            new.insert(column.id, table.random_value(rng, column, self.weights.spread));
        }
        table.complete(&mut new);
        self.change(id, row_id, old, new);
    }

    /// False when it would break a unique key.
    fn change(&mut self, id: i64, row_id: i64, old: Row, new: Row) -> bool {
        let Some(table) = self.definition(id) else { return false };
        if old == new || self.conflicts(id, &new, row_id).is_none_or(|c| !c.is_empty()) {
            return false;
        }
        let moves =
            |key: &super::catalog::Key| key.clustered && key.parts.iter().any(|(c, _)| old.get(c) != new.get(c));
        if table.keys().iter().any(moves) {
            if table.is_changing() {
                return false;
            }
            self.delete(id, row_id);
            self.put_new(id, new);
        } else {
            self.hold(id, row_id, &old);
            self.hold(id, row_id, &new);
            self.table(id).put(table, row_id, new.clone());
            self.changes.push(RowChange { table: id, op: Op::Update { id: row_id, old, new } });
        }
        true
    }

    /// REPLACE: every row in the way is deleted, then the new one inserted.
    fn replace(&mut self, rng: &mut Rng, id: i64) {
        let Some(table) = self.definition(id) else { return };
        let mut new = table.random_row(rng, self.weights.spread);
        // Take a key from a row that is there.
        if let Some((_, old)) = self.pick(rng, id)
            && let Some(key) = rng.pick(&table.keys())
        {
            for (column, _) in &key.parts {
                new.insert(*column, old.get(column).cloned().unwrap_or(SqlValue::Null));
            }
            table.complete(&mut new);
        }
        let Some(others) = self.conflicts(id, &new, 0) else { return };
        if others.iter().any(|row| self.locks.rows.contains(&(id, *row))) {
            return;
        }
        for row in others {
            self.delete(id, row);
        }
        self.put_new(id, new);
    }

    /// Two rows exchange the values of a unique key through a third value (R15), or one after the other takes the place
    /// that became free (R40).
    fn swap(&mut self, rng: &mut Rng, id: i64) {
        let Some(table) = self.definition(id) else { return };
        let generated = |c: &i64| table.info.cols.iter().any(|i| i.id == *c && i.is_generated());
        let keys: Vec<_> = table.keys().into_iter().filter(|k| !k.parts.iter().any(|(c, _)| generated(c))).collect();
        let Some(key) = rng.pick(&keys).cloned() else { return };
        let (Some((a, row_a)), Some((b, row_b))) = (self.pick(rng, id), self.pick(rng, id)) else { return };
        if a == b {
            return;
        }
        let with = |row: &Row, of: &Row| {
            let mut row = row.clone();
            for (column, _) in &key.parts {
                row.insert(*column, of.get(column).cloned().unwrap_or(SqlValue::Null));
            }
            table.complete(&mut row);
            row
        };
        let third = table.random_row(rng, u64::MAX >> 20);
        let away = with(&row_a, &third);
        if !self.change(id, a, row_a.clone(), away.clone()) {
            return;
        }
        // In a clustered table the row has a new id now.
        let now = if self.table(id).rows.contains_key(&a) { a } else { *self.next_row };
        let taken = with(&row_b, &row_a);
        if !self.change(id, b, row_b.clone(), taken) || rng.percent(40) {
            return;
        }
        let back = with(&away, &row_b);
        self.change(id, now, away, back);
    }
}
