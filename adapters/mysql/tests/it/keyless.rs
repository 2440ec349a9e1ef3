//! Rows of tables without a key: what is stored must be found again by its values, and nothing else.

use crate::server;
use crate::support::{apply, text};
use binlog_core::ids::CommitTs;
use binlog_core::schema::model::FieldType;
use binlog_core::sink::change::{Change, RowChange, ShapeColumn, TableShape};
use binlog_core::sink::sql::{Dialect, dml};
use binlog_core::sink::value::SqlValue;
use std::sync::Arc;

fn bytes(b: &[u8]) -> SqlValue {
    SqlValue::Bytes(b.to_vec())
}

#[tokio::test]
async fn every_value_finds_its_row_and_no_other() {
    let mut b = server().bench("keyless").await;
    b.sql("SET GLOBAL time_zone = '+05:30'").await;
    let mut sink = b.begun().await;
    let set: Vec<String> = (0..64).map(|n| format!("e{n}")).collect();
    let set_type = format!("SET('{}')", set.join("','"));
    let field = |tp: u8, flen: i64, decimal: i64, charset: &str| FieldType {
        tp,
        flen,
        decimal,
        charset: charset.to_owned(),
        ..FieldType::default()
    };
    let ci = "VARCHAR(20) COLLATE utf8mb4_general_ci";
    let utf8 = "utf8mb4";
    let decoy = Some;
    // type, its form in the schema, value, another value of a row that must stay
    #[rustfmt::skip]
    let cases: Vec<(&str, FieldType, SqlValue, Option<SqlValue>)> = vec![
        ("BIGINT UNSIGNED", field(8, 20, 0, "binary"), SqlValue::UInt(u64::MAX), decoy(SqlValue::UInt(u64::MAX - 1))),
        ("BIGINT", field(8, 20, 0, "binary"), SqlValue::Int(i64::MIN), decoy(SqlValue::Int(i64::MAX))),
        ("BIT(64)", field(16, 64, 0, "binary"), SqlValue::UInt(u64::MAX), decoy(SqlValue::UInt(u64::MAX >> 1))),
        ("BIT(1)", field(16, 1, 0, "binary"), SqlValue::UInt(0), decoy(SqlValue::UInt(1))),
        (&set_type, FieldType { elems: set.clone(), ..field(248, 0, 0, utf8) }, SqlValue::UInt(1 << 63 | 1), decoy(SqlValue::UInt(1))),
        (&set_type, FieldType { elems: set.clone(), ..field(248, 0, 0, utf8) }, SqlValue::UInt(0), decoy(SqlValue::UInt(1 << 63))),
        ("ENUM('a','','2')", field(247, 0, 0, utf8), SqlValue::UInt(0), decoy(SqlValue::UInt(2))),
        ("ENUM('a','','2')", field(247, 0, 0, utf8), SqlValue::UInt(2), decoy(SqlValue::UInt(3))),
        ("BINARY(4)", field(254, 4, 0, "binary"), bytes(b"a"), decoy(bytes(b"a\0 "))),
        ("VARBINARY(9)", field(15, 9, 0, "binary"), bytes(b"a"), decoy(bytes(b"a\0"))),
        ("BLOB", field(252, -1, 0, "binary"), bytes(b"\xff\0'\\"), decoy(bytes(b"\xff"))),
        (ci, field(15, 20, 0, utf8), text("Abc"), decoy(text("aBC"))),
        (ci, field(15, 20, 0, utf8), text("Abc"), decoy(text("Abc "))),
        (ci, field(15, 20, 0, utf8), text("x\\' 😀"), decoy(text("X\\' 😀"))),
        ("CHAR(5)", field(254, 5, 0, utf8), text("a"), decoy(text("A"))),
        ("TEXT CHARACTER SET latin1", field(252, -1, 0, "latin1"), text("é"), decoy(text("e"))),
        ("FLOAT", field(4, 12, -1, "binary"), SqlValue::Double(f64::from(0.1_f32)), decoy(SqlValue::Double(f64::from(0.100_000_02_f32)))),
        ("DOUBLE", field(5, 22, -1, "binary"), SqlValue::Double(0.1), decoy(SqlValue::Double(0.1 + f64::EPSILON / 8.0))),
        ("DOUBLE", field(5, 22, -1, "binary"), SqlValue::Double(-1.797_693_134_862_315_7e308), None),
        ("DECIMAL(65,30)", field(246, 65, 30, "binary"), text("12345678901234567890123456789012345.000000000000000000000000000001"),
            decoy(text("12345678901234567890123456789012345.000000000000000000000000000002"))),
        ("DATE", field(10, 10, 0, "binary"), text("0000-00-00"), decoy(text("0001-01-01"))),
        ("DATE", field(10, 10, 0, "binary"), text("2021-02-31"), decoy(text("2021-03-03"))),
        ("DATETIME(6)", field(12, 26, 6, "binary"), text("2020-00-10 01:02:03.000001"), decoy(text("2020-00-10 01:02:03.000002"))),
        ("TIMESTAMP(3) NULL", field(7, 23, 3, "binary"), text("2021-03-28 02:30:00.125"), decoy(text("2021-03-28 03:30:00.125"))),
        ("TIMESTAMP NULL", field(7, 19, 0, "binary"), text("0000-00-00 00:00:00"), decoy(text("1970-01-01 00:00:01"))),
        ("TIME(2)", field(11, 13, 2, "binary"), text("-838:59:58.99"), decoy(text("838:59:58.99"))),
        ("YEAR", field(13, 4, 0, "binary"), SqlValue::Int(0), decoy(SqlValue::Int(2000))),
        ("JSON", field(245, -1, 0, "binary"), text(r#"{"a": [1, 2.5, "ü"]}"#), decoy(text(r#"{"a": [1, 2.5, "Ü"]}"#))),
    ];
    for (n, (sql_type, field, value, other)) in cases.into_iter().enumerate() {
        let n = u64::try_from(n).unwrap();
        b.sql(&format!("CREATE TABLE {{db}}.`t`` {n}` (`c d` {sql_type}) DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_bin"))
            .await;
        let column = ShapeColumn { name: "c d".to_owned(), field, written: true };
        let shape = Arc::new(TableShape {
            id: 1,
            schema: "keyless".to_owned(),
            table: format!("t` {n}"),
            columns: vec![column],
            keys: vec![],
        });
        let row = |v: &SqlValue| vec![Some(v.clone())];
        let change = |change| RowChange { shape: Arc::clone(&shape), change };
        let mut changes: Vec<RowChange> = Vec::new();
        changes.extend(other.iter().map(|v| change(Change::Insert { new: row(v) })));
        changes.extend([1, 2].map(|_| change(Change::Insert { new: row(&value) })));
        changes.extend(other.iter().map(|v| change(Change::Insert { new: row(v) })));
        changes.push(change(Change::Insert { new: row(&SqlValue::Null) }));
        // One of two equal rows changes and comes back; the other goes.
        changes.push(change(Change::Update { old: row(&value), new: row(&value) }));
        changes.push(change(Change::Update { old: row(&value), new: row(&SqlValue::Null) }));
        changes.push(change(Change::Delete { old: row(&SqlValue::Null) }));
        changes.push(change(Change::Delete { old: row(&value) }));
        let ts = 1000 + n;
        let statements = dml::render(&changes, false, Dialect::MariaDb, CommitTs::new(ts));
        let done = crate::support::run(&mut sink, apply(&[ts], statements)).await;
        assert!(done.is_ok(), "{sql_type} {value:?}: {done:?}");
        let left = b.rows(&format!("SELECT COUNT(*), COUNT(`c d`) FROM {{db}}.`t`` {n}`")).await;
        let others = if other.is_some() { 2 } else { 0 };
        let found = format!("{:?}", left[0]);
        assert_eq!(found, format!("{:?}", crate::support::counts(others + 1, others)), "{sql_type} {value:?}");
    }
    b.sql("SET GLOBAL time_zone = 'SYSTEM'").await;
}
