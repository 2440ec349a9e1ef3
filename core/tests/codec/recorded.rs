//! Every row of a recorded workload (TiDB 6.6: all column types with edge values, all kinds of keys, 748 transactions)
//! applied to tables in memory, and the outcome compared with what that TiDB itself showed at the end.
//!
//! `../data/recorded_rows.json.gz`: `tables` (definition from the DDL history; names, kinds and rows of the dump),
//! `transactions` (prewrite values in commit order). In a dump row, cells are separated by tabs, `\N` is NULL.

use super::support::hex;
use base64::{Engine, prelude::BASE64_STANDARD};
use binlog_core::codec::datum::Datum;
use binlog_core::codec::json_text::{self, Style};
use binlog_core::codec::mutation::{PrewriteValue, RowChange};
use binlog_core::codec::row::{RowImage, decode_delete, decode_insert, decode_update};
use binlog_core::codec::value::{self, tp};
use binlog_core::codec::{datum, default};
use binlog_core::schema::model::{ColumnInfo, TableInfo};
use binlog_core::sink::value::SqlValue;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;

/// A row as the texts of its columns; `None` for NULL.
type Cells = Vec<Option<String>>;

struct Table {
    info: TableInfo,
    /// Columns that rows carry (virtual ones are only in deletes), with their kind in the dump.
    stored: Vec<(usize, String)>,
    rows: BTreeMap<Cells, usize>,
    expected: BTreeMap<Cells, usize>,
}

impl Table {
    fn new(table: &Value) -> Self {
        let info: TableInfo = serde_json::from_value(table["info"].clone()).unwrap();
        let texts = |key: &str| -> Vec<String> { serde_json::from_value(table[key].clone()).unwrap() };
        let (names, dump) = (texts("names"), texts("dump"));
        let find = |name: &String| info.cols.iter().position(|c| &c.name.original == name).unwrap();
        let columns: Vec<(usize, String)> = names.iter().map(find).zip(dump).collect();
        let is_stored = |at: usize| !info.cols[at].is_generated() || info.cols[at].generated_stored;
        let rows = BASE64_STANDARD.decode(table["rows"].as_str().unwrap()).unwrap();
        let mut expected = BTreeMap::new();
        for line in rows.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let cells = line.split(|b| *b == b'\t').zip(&columns).filter(|(_, (at, _))| is_stored(*at));
            let cells = cells.map(|(cell, (_, kind))| from_dump(cell, kind)).collect();
            *expected.entry(cells).or_default() += 1;
        }
        let stored = columns.into_iter().filter(|(at, _)| is_stored(*at)).collect();
        Self { info, stored, rows: BTreeMap::new(), expected }
    }

    fn cells(&self, image: &RowImage) -> Cells {
        let cell = |(at, kind): &(usize, String)| {
            let column = &self.info.cols[*at];
            cell(image.get(column.id), column, kind)
        };
        self.stored.iter().map(cell).collect()
    }

    fn add(&mut self, image: &RowImage) {
        *self.rows.entry(self.cells(image)).or_default() += 1;
    }

    /// The old image must be a row that is there, with every column equal.
    fn remove(&mut self, image: &RowImage) {
        let cells = self.cells(image);
        let count = self.rows.get_mut(&cells);
        let count = count.unwrap_or_else(|| panic!("{}: no row {cells:?}", self.info.name.original));
        *count -= 1;
        if *count == 0 {
            self.rows.remove(&cells);
        }
    }
}

/// A cell of the dump: escapes undone, floats in a form that compares.
fn from_dump(cell: &[u8], kind: &str) -> Option<String> {
    if cell == b"\\N" {
        return None;
    }
    let text = String::from_utf8(cell.to_vec()).unwrap();
    Some(match kind {
        "float" => text.parse::<f32>().unwrap().to_string(),
        "double" => text.parse::<f64>().unwrap().to_string(),
        _ => text,
    })
}

/// A value as the dump writes it.
fn cell(datum: Option<&Datum>, column: &ColumnInfo, kind: &str) -> Option<String> {
    let field = &column.field_type;
    let value = match datum {
        Some(Datum::Json(json)) => {
            value::to_sql(datum.unwrap(), column).unwrap();
            SqlValue::Text(json_text::text(json, Style::Original).unwrap().into_bytes())
        }
        Some(datum) => value::to_sql(datum, column).unwrap(),
        None => default::missing(column, column).unwrap(),
    };
    Some(match (value, field.tp) {
        (SqlValue::Null, _) => return None,
        (SqlValue::UInt(index), tp::ENUM) => escaped(value::enum_name(index, &field.elems).as_bytes()),
        (SqlValue::UInt(mask), tp::SET) => escaped(value::set_name(mask, &field.elems).unwrap().as_bytes()),
        (SqlValue::UInt(bits), tp::BIT) => hex(&value::bit_bytes(bits, field.flen)).to_uppercase(),
        (SqlValue::Int(year), tp::YEAR) => format!("{year:04}"),
        (SqlValue::UInt(year), tp::YEAR) => format!("{year:04}"),
        (SqlValue::Int(n), _) => n.to_string(),
        (SqlValue::UInt(n), _) => n.to_string(),
        (SqlValue::Double(n), _) if kind == "float" => (n as f32).to_string(),
        (SqlValue::Double(n), _) => n.to_string(),
        (SqlValue::Bytes(bytes), _) if kind == "hex" => hex(&bytes).to_uppercase(),
        (SqlValue::Text(bytes) | SqlValue::Bytes(bytes), _) => escaped(&bytes),
    })
}

fn escaped(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\0', "\\0")
}

#[test]
fn recorded_rows_give_the_recorded_tables() {
    let mut file = String::new();
    let packed = include_bytes!("../data/recorded_rows.json.gz");
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut file).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let tables = file["tables"].as_array().unwrap().iter().map(Table::new);
    let mut tables: BTreeMap<i64, Table> = tables.map(|t| (t.info.id, t)).collect();

    let mut rows = [0; 3];
    for transaction in file["transactions"].as_array().unwrap() {
        let raw = BASE64_STANDARD.decode(transaction.as_str().unwrap()).unwrap();
        for mutation in PrewriteValue::decode(&raw).unwrap().mutations() {
            let mutation = mutation.unwrap();
            let table = tables.get_mut(&mutation.table_id).unwrap();
            for row in mutation.rows() {
                match row.unwrap() {
                    RowChange::Insert(row) => {
                        table.add(&decode_insert(row, &table.info).unwrap());
                        rows[0] += 1;
                    }
                    RowChange::Update(row) => {
                        let (old, new) = decode_update(row, &table.info).unwrap();
                        table.remove(&old);
                        table.add(&new);
                        rows[1] += 1;
                    }
                    RowChange::Delete(row) => {
                        check_encoding(row);
                        table.remove(&decode_delete(row, &table.info).unwrap());
                        rows[2] += 1;
                    }
                }
            }
        }
    }
    assert_eq!(rows, [446, 486, 148], "rows of the recording by kind");
    for table in tables.values() {
        assert_eq!(table.rows, table.expected, "table {}", table.info.name.original);
    }
}

/// What TiDB wrote is what we would write.
fn check_encoding(row: &[u8]) {
    let mut input = binlog_core::codec::reader::Reader::new(row);
    let mut again = Vec::new();
    while !input.is_empty() {
        datum::encode_value(&mut again, &datum::decode(&mut input).unwrap());
    }
    assert_eq!(hex(&again), hex(row));
}
