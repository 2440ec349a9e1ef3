//! Rows of the vector file.

use super::support::{bytes, column, show, table, table_of, text};
use binlog_core::codec::row::{RowImage, decode_delete, decode_insert, decode_update};
use binlog_core::codec::{default, value};
use binlog_core::schema::model::{ColumnInfo, TableInfo};
use serde_json::{Map, Value, json};

pub fn row(v: &Value) {
    let (raw, info) = (bytes(v, "hex"), table(v));
    match text(v, "kind") {
        "insert" => check(&decode_insert(&raw, &info).unwrap(), &info, &v["expect"]),
        "delete" => check(&decode_delete(&raw, &info).unwrap(), &info, &v["expect"]),
        "update" => {
            let (old, new) = decode_update(&raw, &info).unwrap();
            check(&old, &info, &v["expect"]["old"]);
            check(&new, &info, &v["expect"]["new"]);
        }
        kind => panic!("row kind {kind}"),
    }
}

/// All columns as SQL values, missing ones from their defaults; the row id is never among them.
fn check(image: &RowImage, table: &TableInfo, expected: &Value) {
    let mut expected = expected.as_object().unwrap().clone();
    expected.remove("_tidb_rowid");
    assert!(!image.contains(-1));
    let mut got = Map::new();
    for column in &table.cols {
        let value = match image.get(column.id) {
            Some(datum) => value::to_sql(datum, column),
            None => default::missing(column, column),
        };
        got.insert(column.name.original.clone(), show(&value.unwrap()));
    }
    assert_eq!(Value::Object(got), Value::Object(expected));
}

pub fn row_v2(v: &Value) {
    // The format carries no types: these are the columns that the vectors describe.
    let cols: Vec<ColumnInfo> = match text(v, "description").split(':').next().unwrap() {
        "small" => vec![column(1, "1", "int"), column(2, "2", "int"), column(24, "24", "text")],
        "large" => vec![column(1, "1", "int"), column(300, "300", "text")],
        "empty row" => vec![],
        d if d.starts_with("float64") => vec![column(3, "3", "double"), column(14, "14", "json")],
        other => panic!("row v2 vector {other}"),
    };
    let info = TableInfo { cols, ..TableInfo::default() };
    let raw = bytes(v, "hex");
    if text(v, "description").contains("packed time") {
        let cols = vec![column(5, "5", "datetime(6)"), column(8, "8", "decimal(6,4)")];
        let image = decode_delete(&raw, &TableInfo { cols, ..TableInfo::default() });
        let image = image.unwrap();
        let packed = binlog_core::codec::datum::Datum::UInt(v["expect"]["5"].as_str().unwrap().parse().unwrap());
        assert_eq!(image.get(5), Some(&packed));
        let decimal = value::to_sql(image.get(8).unwrap(), &column(8, "8", "decimal(6,4)")).unwrap();
        assert_eq!(show(&decimal), v["expect"]["8"]);
        return;
    }
    check(&decode_delete(&raw, &info).unwrap(), &info, &v["expect"]);
    // The same as the row value of an insert, behind a handle.
    let inserted = [&[0x08, 0x02][..], &raw].concat();
    check(&decode_insert(&inserted, &info).unwrap(), &info, &v["expect"]);
    for end in 0..raw.len() {
        let _ = decode_delete(&raw[..end], &info);
    }
}

pub fn row_invalid(v: &Value) {
    let raw = bytes(v, "hex");
    for info in [table_of(&[1, 2]), table_of(&[])] {
        assert!(decode_delete(&raw, &info).is_err());
        assert!(decode_update(&raw, &info).is_err());
        assert!(decode_insert(&[&[0x08, 0x02][..], &raw].concat(), &info).is_err());
    }
}

pub fn update_invalid(v: &Value) {
    assert!(text(v, "description").contains("wanted columns 1 and 2"));
    assert!(decode_update(&bytes(v, "hex"), &table_of(&[1, 2])).is_err());
}

/// What is missing on both sides is missing in the images; whether a default may stand in is the caller's decision.
pub fn update_default(v: &Value) {
    let wanted: Vec<i64> = serde_json::from_value(v["wanted"].clone()).unwrap();
    let info = table_of(&wanted);
    let raw = bytes(v, "hex");
    let (old, new) = decode_update(&raw, &info).unwrap();
    let missing: Vec<i64> = wanted.into_iter().filter(|id| !old.contains(*id) && !new.contains(*id)).collect();
    assert_eq!(missing, [3]);
    check(&old, &info, &json!({ "c1": "1", "c3": null }));
    check(&new, &info, &json!({ "c1": "2", "c3": null }));
}
