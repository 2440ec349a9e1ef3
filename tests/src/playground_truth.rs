//! The model's true tables against the downstream's, in the form of the dumps (`compare_tables`).
//!
//! JSON is compared by content: MariaDB keeps the text that it was sent, TiDB's normal form has other blanks.

use crate::capture::{Column, Dump, Row, Table};
use crate::compare_tables::{Difference, Report, compare_rows, escape, extra_tables, general, read_table};
use anyhow::{Context, Result};
use binlog_core::codec::value::tp;
use binlog_core::sink::value::SqlValue;
use binlog_sim_models::tidb::data::Contents;
use binlog_sim_models::types::ColType;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// Names that the model gives to columns of handles and primary keys only; no DDL of its changes them.
const KEY_COLUMNS: [&str; 3] = ["id", "k1", "k2"];

/// Compares every table of the model, and looks for tables that it does not have.
pub async fn compare(conn: &mut Conn, truth: &[Contents]) -> Result<Report> {
    for statement in ["SET NAMES utf8mb4", "SET SESSION time_zone = '+00:00'"] {
        conn.query_drop(statement).await.context("prepare the session")?;
    }
    let mut report = Report::default();
    let tables: Vec<Table> = truth.iter().map(table).collect();
    for (table, contents) in tables.iter().zip(truth) {
        let wanted: Vec<Row> = contents.rows.iter().map(|row| render_row(contents, row)).collect();
        report.tables += 1;
        report.rows += wanted.len() as u64;
        match read_table(conn, table).await? {
            Some(mut rows) => {
                rows.iter_mut().for_each(|row| normalise(contents, row));
                report.differences.extend(compare_rows(table, wanted, rows));
            }
            None => report.differences.push(Difference {
                table: table.full_name(),
                key: String::new(),
                column: None,
                what: format!("the table is not in the downstream ({} rows in TiDB)", wanted.len()),
            }),
        }
    }
    report.differences.extend(extra_tables(conn, &tables).await?);
    Ok(report)
}

fn table(contents: &Contents) -> Table {
    let column = |(name, ty): &(String, ColType)| Column { name: name.clone(), sql_type: ty.sql(), dump: form(ty) };
    let keys: Vec<String> = contents
        .columns
        .iter()
        .filter(|(name, _)| KEY_COLUMNS.contains(&name.as_str()))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let create = if keys.is_empty() { String::new() } else { format!("PRIMARY KEY ({})", keys.join(",")) };
    Table {
        db: contents.database.clone(),
        name: contents.table.clone(),
        kind: "BASE TABLE".into(),
        create,
        columns: contents.columns.iter().map(column).collect(),
        file: None,
    }
}

fn form(ty: &ColType) -> Dump {
    match ty.tp {
        tp::FLOAT => Dump::Float,
        tp::DOUBLE => Dump::Double,
        tp::BIT => Dump::Hex,
        _ if ty.is_string() && ty.binary => Dump::Hex,
        _ => Dump::Text,
    }
}

fn render_row(contents: &Contents, row: &[SqlValue]) -> Row {
    row.iter().zip(&contents.columns).map(|(value, (_, ty))| render(ty, value)).collect()
}

/// A value as the dump has it.
fn render(ty: &ColType, value: &SqlValue) -> Vec<u8> {
    let hex = |bytes: &[u8]| bytes.iter().flat_map(|b| format!("{b:02X}").into_bytes()).collect();
    match (value, ty.tp) {
        (SqlValue::Null, _) => b"\\N".to_vec(),
        (SqlValue::UInt(n), tp::YEAR) => format!("{n:04}").into_bytes(),
        (SqlValue::UInt(n), tp::BIT) => {
            let length = usize::try_from(ty.flen.clamp(1, 64)).unwrap_or(64).div_ceil(8);
            hex(n.to_be_bytes().get(8 - length..).unwrap_or_default())
        }
        (SqlValue::UInt(n), tp::ENUM) => {
            let at = n.checked_sub(1).and_then(|n| usize::try_from(n).ok());
            escape(at.and_then(|at| ty.elems.get(at)).map(String::as_bytes).unwrap_or_default())
        }
        (SqlValue::UInt(mask), tp::SET) => {
            let named = ty.elems.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
            escape(named.map(|(_, e)| e.as_str()).collect::<Vec<_>>().join(",").as_bytes())
        }
        (SqlValue::Int(n), _) => n.to_string().into_bytes(),
        (SqlValue::UInt(n), _) => n.to_string().into_bytes(),
        (SqlValue::Double(n), tp::FLOAT) => general(*n, 9).into_bytes(),
        (SqlValue::Double(n), _) => general(*n, 17).into_bytes(),
        (SqlValue::Text(text) | SqlValue::Bytes(text), tp::JSON) => canonical(&escape(text)),
        (SqlValue::Text(bytes) | SqlValue::Bytes(bytes), _) if form(ty) == Dump::Hex => hex(bytes),
        (SqlValue::Text(bytes) | SqlValue::Bytes(bytes), _) => escape(bytes),
    }
}

/// JSON cells of the downstream in the form of [`render`].
fn normalise(contents: &Contents, row: &mut Row) {
    for (cell, (_, ty)) in row.iter_mut().zip(&contents.columns) {
        if ty.tp == tp::JSON && cell != b"\\N" {
            *cell = canonical(cell);
        }
    }
}

/// A JSON cell by content; what is no JSON stays as it is and so differs.
fn canonical(cell: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&unescape(cell)) else { return cell.to_vec() };
    value.sort_all_objects();
    escape(value.to_string().as_bytes())
}

/// The inverse of `escape`.
fn unescape(cell: &[u8]) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::with_capacity(cell.len()), cell.iter());
    while let Some(&b) = bytes.next() {
        out.push(match (b, if b == b'\\' { bytes.next() } else { None }) {
            (_, Some(b't')) => b'\t',
            (_, Some(b'n')) => b'\n',
            (_, Some(b'0')) => 0,
            (_, Some(&other)) => other,
            (b, None) => b,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rendered_as_the_server_shows_them() {
        let text = |text: &str| SqlValue::Text(text.as_bytes().to_vec());
        let plain = ColType::plain;
        let set = ColType { elems: ["a", "b", "c"].map(Into::into).to_vec(), ..plain(tp::SET) };
        let bit = ColType { flen: 12, ..plain(tp::BIT) };
        let binary = ColType { binary: true, flen: 3, ..plain(tp::STRING) };
        for (ty, value, shown) in [
            (plain(tp::YEAR), SqlValue::UInt(0), "0000"),
            (bit, SqlValue::UInt(5), "0005"),
            (set.clone(), SqlValue::UInt(5), "a,c"),
            (set.clone(), SqlValue::UInt(0), ""),
            (ColType { tp: tp::ENUM, ..set }, SqlValue::UInt(2), "b"),
            (plain(tp::FLOAT), SqlValue::Double(f64::from(0.1_f32)), "0.100000001"),
            (plain(tp::DOUBLE), SqlValue::Double(0.1), "0.10000000000000001"),
            (binary, SqlValue::Bytes(vec![0, 255, 1]), "00FF01"),
            (plain(tp::JSON), text("{\"b\": 1,\"a\":\"\\n\"}"), "{\"a\":\"\\\\n\",\"b\":1}"),
            (plain(tp::VARCHAR), text("a\\b"), "a\\\\b"),
            (plain(tp::LONG), SqlValue::Null, "\\N"),
        ] {
            assert_eq!(String::from_utf8(render(&ty, &value)).unwrap(), shown, "{}", ty.sql());
        }
    }

    #[tokio::test]
    async fn every_difference_is_found() {
        let work = crate::harness::WorkDir::new("test").unwrap();
        let mariadb = crate::harness::MariaDb::start(work.path()).await.unwrap();
        let mut conn = mariadb.connect().await.unwrap();
        let text = |text: &str| SqlValue::Text(text.as_bytes().to_vec());
        let json = "{\"a\": [1.5, null], \"\": \"\\n\"}";
        let drawn: Vec<(ColType, SqlValue)> = vec![
            (ColType { flen: 33, ..ColType::plain(tp::BIT) }, SqlValue::UInt(1 << 32)),
            (ColType::plain(tp::YEAR), SqlValue::UInt(0)),
            (ColType { scale: 3, ..ColType::plain(tp::DATETIME) }, text("0000-00-00 00:00:00.000")),
            (ColType { scale: 0, ..ColType::plain(tp::DURATION) }, text("-838:59:59")),
            (ColType { flen: 5, scale: 2, ..ColType::plain(tp::DECIMAL) }, text("-0.50")),
            (ColType { elems: vec!["it's".into()], ..ColType::plain(tp::ENUM) }, SqlValue::UInt(1)),
            (ColType { elems: vec!["a".into(), "b".into()], ..ColType::plain(tp::SET) }, SqlValue::UInt(3)),
            (ColType { binary: true, flen: 3, ..ColType::plain(tp::STRING) }, SqlValue::Bytes(vec![0, 255, 0])),
            (ColType::plain(tp::FLOAT), SqlValue::Double(0.75)),
            (ColType::plain(tp::DOUBLE), SqlValue::Double(1.0 / 3.0)),
            (ColType::plain(tp::JSON), text(json)),
        ];
        let name = |n: usize| format!("c{n}");
        let columns: Vec<String> =
            drawn.iter().enumerate().map(|(n, (ty, _))| format!("{} {} NULL", name(n), ty.sql())).collect();
        for statement in [
            "SET sql_mode = 'ALLOW_INVALID_DATES'".to_owned(),
            "CREATE DATABASE d".to_owned(),
            format!("CREATE TABLE d.t (id INT PRIMARY KEY, {})", columns.join(",")),
            "INSERT INTO d.t VALUES (1, 4294967296, 0, '0000-00-00', '-838:59:59', '-.5', 'it''s', 'a,b', x'00ff00', \
             0.75, 0.333333333333333333, '{\"\":\"\\\\n\",\"a\":[1.5,null]}')"
                .to_owned(),
        ] {
            conn.query_drop(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
        let mut all = vec![("id".to_owned(), ColType::plain(tp::LONG))];
        all.extend(drawn.iter().enumerate().map(|(n, (ty, _))| (name(n), ty.clone())));
        let mut row = vec![SqlValue::Int(1)];
        row.extend(drawn.iter().map(|(_, value)| value.clone()));
        let truth = Contents { database: "d".into(), table: "t".into(), columns: all, rows: vec![row] };
        let found = compare(&mut conn, std::slice::from_ref(&truth)).await.unwrap();
        assert_eq!((found.lines(), found.rows, found.tables), (Vec::new(), 1, 1));
        for n in 0..drawn.len() {
            conn.query_drop("CREATE TABLE d.old AS SELECT * FROM d.t").await.unwrap();
            conn.query_drop(format!("UPDATE d.t SET c{n} = NULL")).await.unwrap();
            let found = compare(&mut conn, std::slice::from_ref(&truth)).await.unwrap().lines().join("\n");
            assert!(found.contains(&format!("d.t [id=1] column c{n}: ")), "{found}");
            assert!(found.contains("d.old: the table is only in the downstream"), "{found}");
            conn.query_drop(format!("UPDATE d.t SET c{n} = (SELECT c{n} FROM d.old)")).await.unwrap();
            conn.query_drop("DROP TABLE d.old").await.unwrap();
        }
        let found = compare(&mut conn, std::slice::from_ref(&truth)).await.unwrap();
        assert!(found.differences.is_empty(), "{:?}", found.lines());
        conn.query_drop("DROP TABLE d.t").await.unwrap();
        let found = compare(&mut conn, &[truth]).await.unwrap();
        assert_eq!(found.lines(), ["DIFFERS  d.t: the table is not in the downstream (1 rows in TiDB)"]);
    }

    #[test]
    fn json_is_equal_by_content_only() {
        let cell = |text: &str| canonical(&escape(text.as_bytes()));
        assert_eq!(cell("[1, \"x\\n\\\\\"]"), cell("[1,\"x\\n\\\\\"]"));
        assert_ne!(cell("[1]"), cell("[2]"));
        assert_ne!(cell("[1.0]"), cell("[1]"), "another type in TiDB");
        assert_eq!(unescape(&escape(b"\0\t\n\\0")), b"\0\t\n\\0");
    }
}
