//! The comparison of tables has no opinion of its own: what a dump says, written into MariaDB, is read back as the same dump.
//! All column types of the captures pass through it.

use binlog_tests::capture::{Dump, Row, Table, dump, tables};
use binlog_tests::compare_tables::compare_rows;
use binlog_tests::compare_tables::{compare, read_table};
use binlog_tests::expected::captures;
use binlog_tests::harness::{MariaDb, WorkDir};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Value};

/// Tables that MariaDB cannot have as TiDB shows them: generated columns with NOT NULL or as a primary key, temporary tables.
const NOT_IN_MARIADB: [&str; 3] = ["t_gen_nn", "t_genpk", "gtmp"];

fn unescape(cell: &[u8]) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), cell.iter());
    while let Some(&b) = bytes.next() {
        out.push(match b {
            b'\\' => match bytes.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                Some(&other) => other,
                None => b'\\',
            },
            _ => b,
        });
    }
    out
}

fn value(cell: &[u8], dump: Dump) -> Value {
    if cell == b"\\N" {
        return Value::NULL;
    }
    match dump {
        Dump::Hex => Value::Bytes(binlog_tests::capture::hex(std::str::from_utf8(cell).unwrap()).unwrap()),
        Dump::Float | Dump::Double => Value::Double(std::str::from_utf8(cell).unwrap().parse().unwrap()),
        Dump::Text => Value::Bytes(unescape(cell)),
    }
}

async fn load(conn: &mut Conn, table: &Table, rows: &[Row]) -> Vec<usize> {
    conn.query_drop(format!("USE `{}`", table.db)).await.unwrap();
    conn.query_drop(&table.create).await.unwrap_or_else(|e| panic!("{e}: {}", table.create));
    let own: Vec<usize> = (0..table.columns.len())
        .filter(|&n| !table.create.contains(&format!("`{}` ", table.columns[n].name)) || !generated(table, n))
        .collect();
    let names: Vec<String> = own.iter().map(|&n| format!("`{}`", table.columns[n].name)).collect();
    let marks = vec!["?"; own.len()].join(",");
    let insert = format!("INSERT INTO `{}` ({}) VALUES ({marks})", table.name, names.join(","));
    for row in rows {
        let values: Vec<Value> = own.iter().map(|&n| value(&row[n], table.columns[n].dump)).collect();
        conn.exec_drop(&insert, values)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}: {}", table.name, String::from_utf8_lossy(&row.join(&b'|'))));
    }
    own
}

fn generated(table: &Table, n: usize) -> bool {
    let start = format!("`{}` ", table.columns[n].name);
    table.create.lines().any(|line| line.trim_start().starts_with(&start) && line.contains(" GENERATED ALWAYS AS "))
}

#[tokio::test]
async fn a_dump_written_to_mariadb_is_read_back_as_it_was() {
    let work = WorkDir::new("dumps").unwrap();
    let mariadb = MariaDb::start(work.path()).await.unwrap();
    let mut conn = mariadb.connect().await.unwrap();
    let mode = "SET sql_mode='NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'";
    // MariaDB's check of a JSON column refuses more than 32 levels.
    conn.query_drop("SET check_constraint_checks=0").await.unwrap();
    for statement in [mode, "SET time_zone='+00:00'", "SET foreign_key_checks=0", "SET NAMES utf8mb4"] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut compared = 0;
    for name in ["small", "bank", "types"] {
        let dir = captures().join(name);
        for table in tables(&dir).unwrap() {
            if NOT_IN_MARIADB.contains(&table.name.as_str()) {
                continue;
            }
            let rows = dump(&dir, &table).unwrap();
            conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{}`", table.db)).await.unwrap();
            let own = load(&mut conn, &table, &rows).await;
            let read = read_table(&mut conn, &table).await.unwrap().expect("it was created");
            let differences: Vec<_> = compare_rows(&table, rows, read)
                .into_iter()
                // What MariaDB computes is the replay's business.
                .filter(|d| d.column.as_ref().is_none_or(|c| own.iter().any(|&n| table.columns[n].name == *c)))
                .collect();
            assert!(differences.is_empty(), "{name}: {differences:#?}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");

    // The whole comparison finds what is missing, what is too much, and what was changed.
    for statement in ["DROP TABLE app.kv", "CREATE TABLE app.more (a int)", "UPDATE app.users SET age = 1 WHERE id = 1"]
    {
        conn.query_drop(statement).await.unwrap();
    }
    let report = compare(&mut conn, &captures().join("small"), &[]).await.unwrap();
    let lines = report.lines().join("\n");
    assert!(lines.contains("app.kv: the table is not in the downstream"), "{lines}");
    assert!(lines.contains("app.more: the table is only in the downstream"), "{lines}");
    assert!(lines.contains("app.users [id=1] column age: `1` instead of the recorded `18`"), "{lines}");
}
