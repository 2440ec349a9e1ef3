//! Row changes as statements (spec drainer 4.2; rules 8: never REPLACE).
//!
//! Consecutive inserts into one table become multi-row statements, in sizes that are powers of two, so that few texts
//! arise and prepared statements are found again. Rows are found by their first complete unique key, else by all columns
//! with LIMIT 1. In safe mode an insert first deletes what has the row's identity; a table without a usable key has no
//! identity, so there an insert stays an insert: repeating a row is better than removing one (rules 8, takeover).

use super::{Dialect, quote, quote_table};
use crate::codec::value::{set_name, tp};
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
/// Bytes of one INSERT's values: with its text and lengths it stays below the smallest usual max_allowed_packet, 1 MiB; one
/// row may be larger.
const MAX_BYTES: usize = 1 << 19;

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
        let sql =
            format!("INSERT INTO {table}({}) VALUES {}", names.join(","), vec![row.as_str(); rows.len()].join(","));
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
        params.push(compared(value(row, position), &column.field));
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
        params.push(compared(value.clone(), &column.field));
    }
}

/// The form in which a value finds itself again.
fn compared(value: SqlValue, field: &FieldType) -> SqlValue {
    match value {
        // MariaDB compares a SET with a number as signed integers: one with its 64th element would not be found.
        SqlValue::UInt(mask) if field.tp == tp::SET => match set_name(mask, &field.elems) {
            Some(names) => SqlValue::Text(names.into_bytes()),
            None => SqlValue::UInt(mask),
        },
        // BINARY(n) is stored padded, and compared with what is not.
        SqlValue::Bytes(mut bytes) if field.tp == tp::STRING => {
            let width = usize::try_from(field.flen).unwrap_or(0).min(MAX_BINARY);
            if bytes.len() < width {
                bytes.resize(width, 0);
            }
            SqlValue::Bytes(bytes)
        }
        other => other,
    }
}

/// Longest BINARY(n).
const MAX_BINARY: usize = 255;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::change::ShapeColumn;

    fn column(name: &str, tp: u8) -> ShapeColumn {
        let field = FieldType { tp, flen: 10, decimal: 2, ..FieldType::default() };
        ShapeColumn { name: name.to_owned(), field, written: true }
    }

    /// Columns id INT, n DECIMAL(10,2), t TEXT, j JSON, g generated INT; primary key id, unique key n, as `keys` says.
    fn shape(keys: Vec<Vec<usize>>) -> Arc<TableShape> {
        let mut columns = vec![column("id", 3), column("n`", 246), column("t", 252), column("j", 245), column("g", 3)];
        columns[4].written = false;
        Arc::new(TableShape { id: 1, schema: "d".to_owned(), table: "t".to_owned(), columns, keys })
    }

    fn text(text: &str) -> Option<SqlValue> {
        Some(SqlValue::Text(text.as_bytes().to_vec()))
    }

    fn row(id: i64, n: Option<&str>) -> RowValues {
        let n = n.map_or(Some(SqlValue::Null), text);
        vec![Some(SqlValue::Int(id)), n, text("x"), text("{}"), Some(SqlValue::Int(9))]
    }

    fn shown(changes: &[RowChange], safe: bool, dialect: Dialect) -> Vec<String> {
        let show = |s: Statement| {
            assert_eq!(s.sql.matches('?').count(), s.params.len(), "{}", s.sql);
            format!("{} #{} ={}", s.sql, s.params.len(), s.affected.map_or("-".to_owned(), |n| n.to_string()))
        };
        render(changes, safe, dialect, CommitTs::new(7)).into_iter().map(show).collect()
    }

    fn change(shape: &Arc<TableShape>, change: Change) -> RowChange {
        RowChange { shape: Arc::clone(shape), change }
    }

    #[test]
    fn shapes_with_a_primary_key() {
        let s = shape(vec![vec![0], vec![1]]);
        let changes = [
            change(&s, Change::Insert { new: row(1, Some("1.50")) }),
            change(&s, Change::Update { old: row(1, Some("1.50")), new: row(2, None) }),
            change(&s, Change::Delete { old: row(2, None) }),
        ];
        assert_eq!(
            shown(&changes, false, Dialect::MariaDb),
            [
                "INSERT INTO `d`.`t`(`id`,`n```,`t`,`j`) VALUES (?,?,?,?) #4 =1",
                "UPDATE `d`.`t` SET `id` = ?,`n``` = ?,`t` = ?,`j` = ? WHERE `id` = ? LIMIT 1 #5 =1",
                "DELETE FROM `d`.`t` WHERE `id` = ? LIMIT 1 #1 =1",
            ]
        );
        assert_eq!(
            shown(&changes, true, Dialect::MariaDb),
            [
                "DELETE FROM `d`.`t` WHERE `id` = ? LIMIT 1 #1 =-",
                "INSERT INTO `d`.`t`(`id`,`n```,`t`,`j`) VALUES (?,?,?,?) #4 =-",
                "DELETE FROM `d`.`t` WHERE `id` = ? LIMIT 1 #1 =-",
                "DELETE FROM `d`.`t` WHERE `id` = ? LIMIT 1 #1 =-",
                "INSERT INTO `d`.`t`(`id`,`n```,`t`,`j`) VALUES (?,?,?,?) #4 =-",
                "DELETE FROM `d`.`t` WHERE `id` = ? LIMIT 1 #1 =-",
            ]
        );
    }

    #[test]
    fn a_unique_key_with_null_identifies_nothing() {
        let s = shape(vec![vec![1]]);
        let delete = |n| shown(&[change(&s, Change::Delete { old: row(1, n) })], false, Dialect::MySql);
        assert_eq!(delete(Some("1.50")), ["DELETE FROM `d`.`t` WHERE `n``` = CAST(? AS DECIMAL(10,2)) LIMIT 1 #1 =1"]);
        assert_eq!(
            delete(None),
            [
                "DELETE FROM `d`.`t` WHERE `id` = ? AND `n``` IS NULL AND `t` = ? AND CAST(CONVERT(`t` USING utf8mb4) AS BINARY) = ? \
              AND `j` = CAST(? AS JSON) LIMIT 1 #4 =1"
            ]
        );
    }

    #[test]
    fn values_that_are_compared_in_another_form() {
        let mut columns = vec![column("s", tp::SET), column("b", tp::STRING)];
        columns[0].field.elems = (0..64).map(|n| format!("e{n}")).collect();
        columns[1].field.charset = "binary".to_owned();
        columns[1].field.flen = 4;
        for keys in [vec![], vec![vec![0, 1]]] {
            let s = Arc::new(TableShape {
                id: 1,
                schema: "d".to_owned(),
                table: "t".to_owned(),
                columns: columns.clone(),
                keys,
            });
            let row = vec![Some(SqlValue::UInt(1 << 63 | 2)), Some(SqlValue::Bytes(b"x".to_vec()))];
            let insert = change(&s, Change::Insert { new: row.clone() });
            let delete = change(&s, Change::Delete { old: row.clone() });
            let params: Vec<_> = render(&[insert, delete], false, Dialect::MariaDb, CommitTs::new(7))
                .into_iter()
                .map(|s| s.params)
                .collect();
            assert_eq!(params[0], [SqlValue::UInt(1 << 63 | 2), SqlValue::Bytes(b"x".to_vec())]);
            assert_eq!(params[1], [SqlValue::Text(b"e1,e63".to_vec()), SqlValue::Bytes(b"x\0\0\0".to_vec())]);
        }
    }

    #[test]
    fn without_a_key_safe_mode_repeats_rather_than_removes() {
        let s = shape(vec![]);
        let changes = [
            change(&s, Change::Insert { new: row(1, None) }),
            change(&s, Change::Update { old: row(1, None), new: row(2, None) }),
        ];
        let statements = shown(&changes, true, Dialect::MariaDb);
        let verbs: Vec<&str> = statements.iter().map(|s| s.split(' ').next().unwrap()).collect();
        assert_eq!(verbs, ["INSERT", "DELETE", "INSERT"]);
        assert!(statements[1].contains("`j` = ?"), "MariaDB compares JSON as text: {}", statements[1]);
    }

    #[test]
    fn columns_that_an_update_lacks_stay_as_they_are() {
        let s = shape(vec![vec![0]]);
        let mut new = row(1, None);
        new[2] = None;
        let update = change(&s, Change::Update { old: row(1, None), new });
        assert_eq!(
            shown(&[update], false, Dialect::MariaDb),
            ["UPDATE `d`.`t` SET `id` = ?,`n``` = ?,`j` = ? WHERE `id` = ? LIMIT 1 #4 =1"]
        );
    }

    #[test]
    fn inserts_are_grouped_in_powers_of_two() {
        let s = shape(vec![vec![0]]);
        let insert = |id| change(&s, Change::Insert { new: row(id, None) });
        let sizes = |changes: &[RowChange]| -> Vec<u64> {
            render(changes, false, Dialect::MariaDb, CommitTs::ZERO).iter().map(|s| s.affected.unwrap()).collect()
        };
        let many: Vec<RowChange> = (0..300).map(insert).collect();
        assert_eq!(sizes(&many), [128, 128, 32, 8, 4]);
        // Another table, or other columns, end a group; order is kept.
        let other = Arc::new(TableShape { table: "u".to_owned(), ..(*s).clone() });
        let mixed = [insert(1), insert(2), change(&other, Change::Insert { new: row(3, None) }), insert(4)];
        assert_eq!(sizes(&mixed), [2, 1, 1]);
        // A row larger than the limit goes alone.
        let large = |id| {
            let mut new = row(id, None);
            new[2] = Some(SqlValue::Bytes(vec![0; MAX_BYTES]));
            change(&s, Change::Insert { new })
        };
        assert_eq!(sizes(&[insert(1), large(2), large(3), insert(4)]), [1, 1, 1, 1]);
    }
}
