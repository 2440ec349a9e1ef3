//! The downstream's tables against the recorded dumps, cell by cell, in the dump's format.

use crate::capture::{Column, Dump, Row, Table, dump, tables};
use crate::expected::Differs;
use anyhow::{Context, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Characters of a cell that a report shows.
const SHOWN_CELL: usize = 60;
/// Differences of one table that a report shows.
const SHOWN_ROWS: usize = 10;
/// Databases of the server and of the Drainer itself.
const OWN_DATABASES: [&str; 5] = ["mysql", "information_schema", "performance_schema", "sys", "tidb_binlog"];

/// One difference; `column` is absent where a whole row or table is missing or too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub table: String,
    pub key: String,
    pub column: Option<String>,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table)?;
        if !self.key.is_empty() {
            write!(f, " [{}]", self.key)?;
        }
        if let Some(column) = &self.column {
            write!(f, " column {column}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    pub tables: usize,
    pub rows: u64,
    /// Not named in `expected.toml`.
    pub differences: Vec<Difference>,
    /// Named there.
    pub named: Vec<Difference>,
    /// Named there, and did not occur.
    pub stale: Vec<String>,
}

impl Report {
    /// The lines to print; few where there is much.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut per_table: BTreeMap<&str, usize> = BTreeMap::new();
        for difference in &self.differences {
            let n = per_table.entry(&difference.table).or_default();
            *n += 1;
            if *n <= SHOWN_ROWS {
                out.push(format!("DIFFERS  {difference}"));
            }
        }
        for (table, n) in per_table.iter().filter(|(_, n)| **n > SHOWN_ROWS) {
            out.push(format!("DIFFERS  {table}: {} more", n - SHOWN_ROWS));
        }
        out.extend(self.named.iter().map(|d| format!("expected {d}")));
        out.extend(self.stale.iter().map(|s| format!("WARNING  {s}")));
        out
    }
}

/// Compares all tables of the capture in `dir`.
pub async fn compare(conn: &mut Conn, dir: &Path, differs: &[Differs]) -> Result<Report> {
    for statement in ["SET NAMES utf8mb4", "SET SESSION time_zone = '+00:00'"] {
        conn.query_drop(statement).await.context("prepare the session")?;
    }
    let mut report = Report::default();
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    let wanted = tables(dir)?;
    for table in &wanted {
        let recorded = dump(dir, table)?;
        report.tables += 1;
        report.rows += recorded.len() as u64;
        match read_table(conn, table).await? {
            Some(rows) => found.extend(compare_rows(table, recorded, rows)),
            None => found.push(Difference {
                table: table.full_name(),
                key: String::new(),
                column: None,
                what: format!("the table is not in the downstream ({} rows recorded)", recorded.len()),
            }),
        }
    }
    found.extend(extra_tables(conn, &wanted).await?);
    for difference in found {
        let entry = differs.iter().position(|d| d.covers(&difference.table, difference.column.as_deref()));
        match entry {
            Some(n) => {
                used.insert(n);
                report.named.push(difference);
            }
            None => report.differences.push(difference),
        }
    }
    report.stale = differs
        .iter()
        .enumerate()
        .filter(|(n, _)| !used.contains(n))
        .map(|(_, d)| {
            let column = d.column.as_ref().map(|c| format!(" column {c}")).unwrap_or_default();
            format!("{}{column} is named as differing but is equal: {}", d.table, d.reason)
        })
        .collect();
    Ok(report)
}

pub(crate) async fn extra_tables(conn: &mut Conn, wanted: &[Table]) -> Result<Vec<Difference>> {
    let listed: Vec<(String, String)> = conn
        .query("SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'")
        .await
        .context("list the tables of the downstream")?;
    let known: BTreeSet<(&str, &str)> = wanted.iter().map(|t| (t.db.as_str(), t.name.as_str())).collect();
    Ok(listed
        .iter()
        .filter(|(db, name)| !OWN_DATABASES.contains(&db.as_str()) && !known.contains(&(db.as_str(), name.as_str())))
        .map(|(db, name)| Difference {
            table: format!("{db}.{name}"),
            key: String::new(),
            column: None,
            what: "the table is only in the downstream".into(),
        })
        .collect())
}

/// The rows of a table as the dump would have them; `None` when there is no such table.
pub async fn read_table(conn: &mut Conn, table: &Table) -> Result<Option<Vec<Row>>> {
    let described: Vec<(String, String)> = conn
        .exec(
            "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = ? AND table_name = ?",
            (&table.db, &table.name),
        )
        .await?;
    if described.is_empty() {
        return Ok(None);
    }
    // The recorded types do not tell it, so the downstream's own do.
    let zerofill = |column: &Column| {
        described.iter().any(|(name, kind)| name.eq_ignore_ascii_case(&column.name) && kind.contains("zerofill"))
    };
    let columns: Vec<String> = table.columns.iter().map(|c| select(c, zerofill(c))).collect();
    let query = format!("SELECT {} FROM {}.{}", columns.join(", "), quote(&table.db), quote(&table.name));
    let rows: Vec<mysql_async::Row> =
        conn.query(query).await.with_context(|| format!("read {} from the downstream", table.full_name()))?;
    rows.into_iter()
        .map(|row| {
            let cells = row.unwrap();
            cells.into_iter().zip(&table.columns).map(|(value, column)| cell(value, column)).collect::<Result<Row>>()
        })
        .collect::<Result<Vec<_>>>()
        .map(Some)
        .with_context(|| table.full_name())
}

fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn select(column: &Column, zerofill: bool) -> String {
    let name = quote(&column.name);
    match column.dump {
        // As text a FLOAT is rounded.
        Dump::Float | Dump::Double => format!("CAST({name} AS DOUBLE)"),
        // The dump has no leading zeros.
        Dump::Text if zerofill => format!("({name} + 0)"),
        Dump::Text | Dump::Hex => name,
    }
}

fn cell(value: Value, column: &Column) -> Result<Vec<u8>> {
    let bytes = match value {
        Value::NULL => return Ok(b"\\N".to_vec()),
        Value::Bytes(bytes) => bytes,
        other => anyhow::bail!("column {}: the server did not send text but {other:?}", column.name),
    };
    Ok(match column.dump {
        Dump::Text => escape(&bytes),
        Dump::Hex => bytes.iter().flat_map(|b| format!("{b:02X}").into_bytes()).collect(),
        Dump::Float | Dump::Double => {
            let text = String::from_utf8_lossy(&bytes);
            let number: f64 =
                text.parse().with_context(|| format!("column {}: `{text}` is not a number", column.name))?;
            general(number, if column.dump == Dump::Float { 9 } else { 17 }).into_bytes()
        }
    })
}

pub(crate) fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'\\' => out.extend(b"\\\\"),
            b'\t' => out.extend(b"\\t"),
            b'\n' => out.extend(b"\\n"),
            0 => out.extend(b"\\0"),
            _ => out.push(b),
        }
    }
    out
}

/// C's `%.{digits}g`.
pub(crate) fn general(number: f64, digits: usize) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.into();
    }
    if !number.is_finite() {
        return if number.is_nan() { "nan".into() } else { format!("{number}") };
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| -> String {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text.into() }
    };
    let limit = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    trim(&format!("{number:.decimals$}"))
}

/// Rows of one key: recorded, ours.
type Both = (Vec<Row>, Vec<Row>);

/// Differences of two sets of rows. Rows with the same key are compared by column; a key that is there several times (or no
/// key at all) is compared by whole rows.
#[must_use]
pub fn compare_rows(table: &Table, recorded: Vec<Row>, ours: Vec<Row>) -> Vec<Difference> {
    let key = table.key();
    let key_of = |row: &Row| -> Row {
        if key.is_empty() { row.clone() } else { key.iter().filter_map(|&n| row.get(n).cloned()).collect() }
    };
    let mut by_key: BTreeMap<Row, Both> = BTreeMap::new();
    for row in recorded {
        by_key.entry(key_of(&row)).or_default().0.push(row);
    }
    for row in ours {
        by_key.entry(key_of(&row)).or_default().1.push(row);
    }
    let mut out = Vec::new();
    for (cells, (mut want, mut got)) in by_key {
        want.sort();
        got.sort();
        if want == got {
            continue;
        }
        let shown = show_key(table, &key, &cells);
        let named = |column: Option<&str>, what: String| Difference {
            table: table.full_name(),
            key: shown.clone(),
            column: column.map(Into::into),
            what,
        };
        if let ([w], [g]) = (want.as_slice(), got.as_slice()) {
            for ((w, g), column) in w.iter().zip(g).zip(&table.columns).filter(|((w, g), _)| w != g) {
                let what = format!("`{}` instead of the recorded `{}`", show(g), show(w));
                out.push(named(Some(&column.name), what));
            }
        } else {
            out.push(named(None, format!("{} rows instead of the recorded {}", got.len(), want.len())));
        }
    }
    out
}

fn show_key(table: &Table, key: &[usize], cells: &[Vec<u8>]) -> String {
    let columns: Vec<usize> = if key.is_empty() { (0..cells.len()).collect() } else { key.to_vec() };
    let name = |n: usize| table.columns.get(n).map_or("?", |c| c.name.as_str());
    let parts: Vec<String> =
        columns.iter().zip(cells).take(8).map(|(&n, c)| format!("{}={}", name(n), show(c))).collect();
    parts.join(", ")
}

fn show(cell: &[u8]) -> String {
    let text = String::from_utf8_lossy(cell);
    if text.chars().count() <= SHOWN_CELL {
        return text.into_owned();
    }
    text.chars().take(SHOWN_CELL).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_is_cs_percent_g() {
        for (number, digits, text) in [
            (0.1, 17, "0.10000000000000001"),
            (f64::from(0.1_f32), 9, "0.100000001"),
            (1e17, 17, "1e+17"),
            (123_456_789_012_345_680.0, 17, "1.2345678901234568e+17"),
            (12_345_678_901_234_568.0, 17, "12345678901234568"),
            (1e-5, 17, "1.0000000000000001e-05"),
            (0.0001, 9, "0.0001"),
            (-0.0, 9, "-0"),
            (100.0, 9, "100"),
            (9.999_999_999, 9, "10"),
            (f64::from(f32::MAX), 9, "3.40282347e+38"),
            (f64::MIN_POSITIVE, 17, "2.2250738585072014e-308"),
        ] {
            assert_eq!(general(number, digits), text, "{number:e}");
        }
    }

    fn table(create: &str) -> Table {
        let column = |name: &str| Column { name: name.into(), sql_type: "int".into(), dump: Dump::Text };
        Table {
            db: "d".into(),
            name: "t".into(),
            kind: "BASE TABLE".into(),
            create: create.into(),
            columns: vec![column("id"), column("v")],
            file: None,
        }
    }

    fn rows(texts: &[[&str; 2]]) -> Vec<Row> {
        texts.iter().map(|row| row.iter().map(|c| c.as_bytes().to_vec()).collect()).collect()
    }

    #[test]
    fn differences_name_key_and_column() {
        let keyed = table("x\n PRIMARY KEY (`id`)");
        let found = compare_rows(
            &keyed,
            rows(&[["1", "a"], ["2", "b"], ["3", "c"]]),
            rows(&[["3", "c"], ["1", "x"], ["4", "d"]]),
        );
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "d.t [id=1] column v: `x` instead of the recorded `a`",
                "d.t [id=2]: 0 rows instead of the recorded 1",
                "d.t [id=4]: 1 rows instead of the recorded 0"
            ]
        );
        assert!(compare_rows(&keyed, rows(&[["1", "a"], ["2", "b"]]), rows(&[["2", "b"], ["1", "a"]])).is_empty());
    }

    #[test]
    fn without_a_key_the_number_of_equal_rows_counts() {
        let found = compare_rows(&table("x"), rows(&[["1", "a"], ["1", "a"]]), rows(&[["1", "a"]]));
        assert_eq!(found[0].to_string(), "d.t [id=1, v=a]: 1 rows instead of the recorded 2");
    }
}
