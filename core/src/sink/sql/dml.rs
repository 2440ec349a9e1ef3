//! Row changes as statements (spec drainer 4.2; rules 8: never REPLACE).
//!
//! Consecutive inserts into one table become multi-row statements, in sizes that are powers of two, so that few texts
//! arise and prepared statements are found again. Rows are found by their first complete unique key, else by all columns
//! with LIMIT 1. In safe mode an insert first deletes what has the row's identity; a table without a usable key has no
//! identity, so there an insert stays an insert: repeating a row is better than removing one (rules 8, takeover).

use super::{Dialect, quote, quote_table};
use crate::ids::CommitTs;
use crate::schema::model::FieldType;
use crate::sink::change::{Change, RowChange, RowValues, TableShape};
use crate::sink::op::Statement;
use crate::sink::value::SqlValue;
use std::sync::Arc;

/// Rows of one INSERT at most; a power of two. Larger ones gain nothing measurable and make errors vague.
const MAX_ROWS: usize = 128;
/// A prepared statement can have 65,535 placeholders.
const MAX_PLACEHOLDERS: usize = 60_000;
/// Bytes of one INSERT's values, far below every usual max_allowed_packet; one row may be larger.
const MAX_BYTES: usize = 1 << 20;

/// Renders the changes of one upstream transaction in their order.
#[must_use]
pub fn render(changes: &[RowChange], safe: bool, dialect: Dialect, commit_ts: CommitTs) -> Vec<Statement> {
    let mut out = Renderer { dialect, commit_ts, safe, statements: Vec::new() };
    let mut rest = changes;
    while let Some(first) = rest.first() {
        let taken = match &first.change {
            Change::Insert { new } if safe => {
                out.safe_insert(&first.shape, new);
                1
            }
            Change::Insert { new } => {
                let group = insert_group(rest, &first.shape, new);
                out.insert(&first.shape, &group);
                group.len().max(1)
            }
            Change::Update { old, new } if safe => {
                out.delete(&first.shape, old);
                if !same_identity(&first.shape, old, new) {
                    out.delete_identity(&first.shape, new);
                }
                out.insert(&first.shape, &[new]);
                1
            }
            Change::Update { old, new } => {
                out.update(&first.shape, old, new);
                1
            }
            Change::Delete { old } => {
                out.delete(&first.shape, old);
                1
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    out.statements
}

struct Renderer {
    dialect: Dialect,
    commit_ts: CommitTs,
    safe: bool,
    statements: Vec<Statement>,
}

impl Renderer {
    fn push(&mut self, sql: String, params: Vec<SqlValue>, affected: u64) {
        let affected = (!self.safe).then_some(affected);
        self.statements.push(Statement { sql, params, affected, commit_ts: self.commit_ts });
    }

    /// `rows` carry the same columns and are at most one statement's worth.
    fn insert(&mut self, shape: &TableShape, rows: &[&RowValues]) {
        let Some(first) = rows.first() else { return };
        let columns = present(shape, first);
        let names: Vec<String> =
            columns.iter().filter_map(|p| shape.columns.get(*p)).map(|column| quote(&column.name)).collect();
        let row = format!("({})", vec!["?"; columns.len()].join(","));
        let table = quote_table(&shape.schema, &shape.table);
        let sql = format!("INSERT INTO {table}({}) VALUES {}", names.join(","), vec![row.as_str(); rows.len()].join(","));
        let params = rows.iter().flat_map(|row| columns.iter().map(|p| value(row, *p))).collect();
        self.push(sql, params, rows.len() as u64);
    }

    fn safe_insert(&mut self, shape: &TableShape, new: &RowValues) {
        self.delete_identity(shape, new);
        self.insert(shape, &[new]);
    }

    fn update(&mut self, shape: &TableShape, old: &RowValues, new: &RowValues) {
        let columns = present(shape, new);
        if columns.is_empty() {
            return;
        }
        let set: Vec<String> = columns
            .iter()
            .filter_map(|p| shape.columns.get(*p))
            .map(|column| format!("{} = ?", quote(&column.name)))
            .collect();
        let mut params: Vec<SqlValue> = columns.iter().map(|p| value(new, *p)).collect();
        let condition = self.condition(shape, old, &mut params);
        let table = quote_table(&shape.schema, &shape.table);
        self.push(format!("UPDATE {table} SET {} WHERE {condition} LIMIT 1", set.join(",")), params, 1);
    }

    fn delete(&mut self, shape: &TableShape, old: &RowValues) {
        let mut params = Vec::new();
        let condition = self.condition(shape, old, &mut params);
        let table = quote_table(&shape.schema, &shape.table);
        self.push(format!("DELETE FROM {table} WHERE {condition} LIMIT 1"), params, 1);
    }

    /// Nothing when the row has no identity.
    fn delete_identity(&mut self, shape: &TableShape, row: &RowValues) {
        if shape.identity(row).is_some() {
            self.delete(shape, row);
        }
    }

    fn condition(&self, shape: &TableShape, row: &RowValues, params: &mut Vec<SqlValue>) -> String {
        let mut terms = Vec::new();
        if let Some(key) = shape.identity(row) {
            for position in key {
                self.key_term(shape, *position, row, &mut terms, params);
            }
        } else {
            for position in 0..shape.columns.len() {
                self.row_term(shape, position, row, &mut terms, params);
            }
        }
        if terms.is_empty() { "TRUE".to_owned() } else { terms.join(" AND ") }
    }

    /// The downstream's own equality on the key decides, as it does in its unique index.
    fn key_term(
        &self,
        shape: &TableShape,
        position: usize,
        row: &RowValues,
        terms: &mut Vec<String>,
        params: &mut Vec<SqlValue>,
    ) {
        let Some(column) = shape.columns.get(position) else { return };
        terms.push(format!("{} = {}", quote(&column.name), placeholder(&column.field)));
        params.push(value(row, position));
    }

    /// Without a key only exactly equal values are the same row: the collation's equality would accept a row that differs
    /// in case or trailing spaces.
    fn row_term(
        &self,
        shape: &TableShape,
        position: usize,
        row: &RowValues,
        terms: &mut Vec<String>,
        params: &mut Vec<SqlValue>,
    ) {
        let (Some(column), Some(Some(value))) = (shape.columns.get(position), row.get(position)) else { return };
        if !column.written {
            return;
        }
        let name = quote(&column.name);
        match (value, kind(&column.field)) {
            (SqlValue::Null, _) => {
                terms.push(format!("{name} IS NULL"));
                return;
            }
            (_, Kind::Json) if self.dialect != Dialect::MariaDb => terms.push(format!("{name} = CAST(? AS JSON)")),
            (_, Kind::Text) => {
                // The first term can use an index, the second one is exact.
                terms.push(format!("{name} = ?"));
                terms.push(format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY) = ?"));
                params.push(value.clone());
            }
            (_, Kind::Json | Kind::Other) => terms.push(format!("{name} = {}", placeholder(&column.field))),
        }
        params.push(value.clone());
    }
}

/// How a column compares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

fn kind(field: &FieldType) -> Kind {
    match field.tp {
        TYPE_JSON => Kind::Json,
        15 | 249..=254 if !field.is_binary() => Kind::Text,
        _ => Kind::Other,
    }
}

const TYPE_DECIMAL: u8 = 246;
const TYPE_JSON: u8 = 245;

/// A decimal is sent as text; compared with a text, a DECIMAL column would be compared as DOUBLE.
fn placeholder(field: &FieldType) -> String {
    if field.tp != TYPE_DECIMAL {
        return "?".to_owned();
    }
    let (precision, scale) = (field.flen, field.decimal);
    if (1..=65).contains(&precision) && (0..=30).contains(&scale) && scale <= precision {
        format!("CAST(? AS DECIMAL({precision},{scale}))")
    } else {
        "CAST(? AS DECIMAL(65,30))".to_owned()
    }
}

/// Positions of the written columns that the row carries.
fn present(shape: &TableShape, row: &RowValues) -> Vec<usize> {
    let carried = |position: usize| matches!(row.get(position), Some(Some(_)));
    shape.columns.iter().enumerate().filter(|(p, column)| column.written && carried(*p)).map(|(p, _)| p).collect()
}

fn value(row: &RowValues, position: usize) -> SqlValue {
    row.get(position).cloned().flatten().unwrap_or(SqlValue::Null)
}

fn same_identity(shape: &TableShape, old: &RowValues, new: &RowValues) -> bool {
    let (a, b) = (shape.identity(old), shape.identity(new));
    a == b && a.is_some_and(|key| key.iter().all(|p| value(old, *p) == value(new, *p)))
}

/// The longest run of inserts of one shape from the start of `changes` that fits one statement.
fn insert_group<'a>(changes: &'a [RowChange], shape: &Arc<TableShape>, first: &'a RowValues) -> Vec<&'a RowValues> {
    let columns = present(shape, first);
    let mut rows = Vec::new();
    let mut bytes = 0usize;
    for change in changes {
        let Change::Insert { new } = &change.change else { break };
        let alike = Arc::ptr_eq(&change.shape, shape) || change.shape == *shape;
        if !alike || present(shape, new) != columns {
            break;
        }
        bytes = bytes.saturating_add(new.iter().flatten().map(size).sum());
        let full = rows.len() >= MAX_ROWS || (rows.len() + 1).saturating_mul(columns.len()) > MAX_PLACEHOLDERS;
        if !rows.is_empty() && (full || bytes > MAX_BYTES) {
            break;
        }
        rows.push(new);
    }
    let power = rows.len().checked_ilog2().map_or(0, |log| 1usize << log);
    rows.truncate(power);
    rows
}

/// Bytes on the wire, roughly.
fn size(value: &SqlValue) -> usize {
    match value {
        SqlValue::Text(bytes) | SqlValue::Bytes(bytes) => bytes.len().saturating_add(9),
        SqlValue::Null | SqlValue::Int(_) | SqlValue::UInt(_) | SqlValue::Double(_) => 8,
    }
}
