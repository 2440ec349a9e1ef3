//! Reading vectors, and making tables from type names.

use binlog_core::codec::value::tp;
use binlog_core::schema::model::{CiStr, ColumnInfo, FieldType, IndexColumn, IndexInfo, SchemaState, TableInfo};
use binlog_core::sink::value::SqlValue;
use serde_json::{Value, json};

pub fn unhex(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0);
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The field `name` of a vector as bytes.
pub fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    unhex(text(vector, name))
}

pub fn text<'v>(vector: &'v Value, name: &str) -> &'v str {
    vector[name].as_str().unwrap_or_else(|| panic!("no text {name} in {vector}"))
}

/// A number, or a number in a string.
pub fn number<T: std::str::FromStr>(vector: &Value, name: &str) -> T {
    let value = &vector[name];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| panic!("no number {name} in {vector}"))
}

/// A SQL value in the notation of the vectors.
pub fn show(value: &SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Int(n) => json!(n.to_string()),
        SqlValue::UInt(n) => json!(n.to_string()),
        SqlValue::Double(n) => json!(n.to_string()),
        SqlValue::Text(bytes) => json!(String::from_utf8(bytes.clone()).unwrap()),
        SqlValue::Bytes(bytes) => json!({ "hex": hex(bytes) }),
    }
}

/// A column of a type as SQL writes it: `decimal(10,4)`, `enum('a','b')`, `bigint unsigned`.
pub fn column(id: i64, name: &str, sql: &str) -> ColumnInfo {
    let (base, rest) = sql.split_at(sql.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(sql.len()));
    let arguments = rest.strip_prefix('(').and_then(|r| r.split_once(')')).map_or("", |(a, _)| a);
    let argument = |i: usize| arguments.split(',').nth(i).and_then(|a| a.parse::<i64>().ok()).unwrap_or(-1);
    let (code, binary) = match base {
        "tinyint" => (tp::TINY, true),
        "int" => (tp::LONG, true),
        "bigint" => (tp::LONGLONG, true),
        "float" => (tp::FLOAT, true),
        "double" => (tp::DOUBLE, true),
        "decimal" => (tp::DECIMAL, true),
        "date" => (tp::DATE, true),
        "datetime" => (tp::DATETIME, true),
        "timestamp" => (tp::TIMESTAMP, true),
        "time" => (tp::DURATION, true),
        "year" => (tp::YEAR, true),
        "bit" => (tp::BIT, true),
        "blob" => (tp::BLOB, true),
        "json" => (tp::JSON, true),
        "varchar" => (tp::VARCHAR, false),
        "text" => (tp::BLOB, false),
        "enum" => (tp::ENUM, false),
        "set" => (tp::SET, false),
        other => panic!("type {other} in a vector"),
    };
    let elems = match code {
        tp::ENUM | tp::SET => arguments.split(',').map(|e| e.trim_matches('\'').to_owned()).collect(),
        _ => Vec::new(),
    };
    let decimal = match code {
        tp::DECIMAL => argument(1),
        tp::DATETIME | tp::TIMESTAMP | tp::DURATION => argument(0),
        _ => -1,
    };
    let field_type = FieldType {
        tp: code,
        flag: if rest.contains("unsigned") { FieldType::UNSIGNED } else { 0 },
        flen: argument(0),
        decimal,
        charset: if binary { "binary" } else { "utf8mb4" }.to_owned(),
        elems,
        ..FieldType::default()
    };
    ColumnInfo { id, name: CiStr::new(name), field_type, state: SchemaState::PUBLIC, ..ColumnInfo::default() }
}

/// The table that a `row` vector describes.
pub fn table(vector: &Value) -> TableInfo {
    let mut info = TableInfo {
        pk_is_handle: vector["pk_is_handle"].as_bool().unwrap_or(false),
        is_common_handle: vector["is_common_handle"].as_bool().unwrap_or(false),
        ..TableInfo::default()
    };
    for (offset, c) in vector["columns"].as_array().unwrap().iter().enumerate() {
        let mut column = column(number(c, "id"), text(c, "name"), text(c, "type"));
        column.offset = i64::try_from(offset).unwrap();
        if c["pk_handle"] == true {
            column.field_type.flag |= FieldType::PRI_KEY | FieldType::NOT_NULL;
        }
        info.cols.push(column);
    }
    if let Some(offsets) = vector["pk_column_offsets"].as_array() {
        let part = |o: &Value| IndexColumn { offset: o.as_i64().unwrap(), length: -1, ..IndexColumn::default() };
        let idx_cols = offsets.iter().map(part).collect();
        info.index_info.push(IndexInfo { is_primary: true, is_unique: true, idx_cols, ..IndexInfo::default() });
    }
    info
}

/// A table of BIGINT columns with these ids.
pub fn table_of(ids: &[i64]) -> TableInfo {
    let cols = ids.iter().map(|id| column(*id, &format!("c{id}"), "bigint")).collect();
    TableInfo { cols, ..TableInfo::default() }
}
