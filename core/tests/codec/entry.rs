//! The entry points through which bytes from outside reach the codec. The fuzz targets (`fuzz/`) include this file too, so
//! that the seeds replayed by `cargo test` and the fuzzer drive the same functions.

use binlog_core::binlog::item::unknown_fields;
use binlog_core::binlog::peek;
use binlog_core::codec::json::Json;
use binlog_core::codec::json_text::{self, Style};
use binlog_core::codec::mutation::{PrewriteValue, RowChange};
use binlog_core::codec::reader::Reader;
use binlog_core::codec::row::{RowImage, decode_delete, decode_insert, decode_update};
use binlog_core::codec::{datum, default, key, value};
use binlog_core::schema::model::{ColumnInfo, FieldType, IndexColumn, IndexInfo, TableInfo};

/// The outer message; what is accepted must stay acceptable when a Pump appends to it.
pub fn peek(bytes: &[u8]) {
    if let Ok(seen) = peek::peek(bytes) {
        let unknown = unknown_fields(bytes);
        assert_eq!(seen.unknown_fields, !unknown.is_empty());
        let suffix = binlog_core::binlog::item::commit_suffix(binlog_core::ids::CommitTs::new(9), &unknown);
        let item = peek::peek(&[bytes, &suffix].concat()).expect("an item of an accepted payload");
        assert_eq!((item.tp, item.start_ts, item.commit_ts), (1, seen.start_ts, 9));
    }
}

/// One datum of either form, decoded and cut. What decodes, cuts to the same length and survives encoding.
pub fn datum(bytes: &[u8]) {
    let (mut decoding, mut cutting) = (Reader::new(bytes), Reader::new(bytes));
    let (decoded, cut) = (datum::decode(&mut decoding), datum::cut(&mut cutting));
    let Ok(decoded) = decoded else { return };
    cut.expect("a cut of what decodes");
    assert_eq!(decoding.offset(), cutting.offset());
    let mut again = Vec::new();
    datum::encode_value(&mut again, &decoded);
    let back = datum::decode(&mut Reader::new(&again)).expect("our own encoding");
    let is_nan = matches!(decoded, datum::Datum::Float(n) if n.is_nan());
    assert!(is_nan || back == decoded, "{back:?} is not {decoded:?}");
    for column in every_type() {
        let _ = value::to_sql(&decoded, &column);
    }
    let _ = key::parse(bytes);
    let _ = key::from_region(bytes);
}

/// A row of each kind in a table of each kind, to SQL values.
pub fn row(bytes: &[u8]) {
    for table in every_table() {
        if let Ok(image) = decode_insert(bytes, &table) {
            convert(&image, &table);
        }
        if let Ok(image) = decode_delete(bytes, &table) {
            convert(&image, &table);
        }
        if let Ok((old, new)) = decode_update(bytes, &table) {
            assert_eq!(old.len(), new.len());
            convert(&old, &table);
            convert(&new, &table);
        }
    }
}

fn convert(image: &RowImage, table: &TableInfo) {
    assert!(image.len() <= table.cols.len());
    for column in &table.cols {
        let _ = match image.get(column.id) {
            Some(datum) => value::to_sql(datum, column),
            None => default::missing(column, column),
        };
    }
}

/// A JSON document and its texts, which must be JSON for others too.
pub fn json(bytes: &[u8]) {
    let Ok(json) = Json::read(&mut Reader::new(bytes)) else { return };
    for style in [Style::Original, Style::Later] {
        let text = json_text::text(&json, style).expect("a checked document");
        assert!(text.len() <= 16 + 8 * bytes.len(), "{} bytes of text from {}", text.len(), bytes.len());
        if let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            panic!("{e}: {text}");
        }
    }
}

/// The rows of a transaction, each in a table of each kind.
pub fn prewrite(bytes: &[u8]) {
    let Ok(value) = PrewriteValue::decode(bytes) else { return };
    for mutation in value.mutations() {
        let mutation = mutation.expect("framing was checked");
        for change in mutation.rows().map_while(Result::ok) {
            match change {
                RowChange::Insert(bytes) | RowChange::Update(bytes) | RowChange::Delete(bytes) => row(bytes),
            }
        }
    }
}

fn every_type() -> impl Iterator<Item = ColumnInfo> {
    (0..=u8::MAX).filter(|tp| !(17..245).contains(tp)).map(|tp| column(i64::from(tp) + 1, tp))
}

fn column(id: i64, tp: u8) -> ColumnInfo {
    let elems = vec!["a".to_owned(), "b".to_owned()];
    let field_type = FieldType { tp, flag: 1, flen: 10, decimal: 3, elems, ..FieldType::default() };
    ColumnInfo { id, field_type, ..ColumnInfo::default() }
}

/// Integer key, none, clustered; columns 1 to 17 of the types in this order.
fn every_table() -> [TableInfo; 3] {
    let types = [8, 15, 247, 1, 4, 5, 246, 12, 7, 10, 11, 13, 248, 16, 252, 245, 3];
    let cols: Vec<ColumnInfo> = (1..).zip(types).map(|(id, tp)| column(id, tp)).collect();
    let plain = TableInfo { cols, ..TableInfo::default() };
    let mut integer = TableInfo { pk_is_handle: true, ..plain.clone() };
    integer.cols[0].field_type.flag |= FieldType::PRI_KEY | FieldType::UNSIGNED;
    let part = |offset, length| IndexColumn { offset, length, ..IndexColumn::default() };
    let index = IndexInfo { is_primary: true, idx_cols: vec![part(1, 2), part(0, -1)], ..IndexInfo::default() };
    let clustered = TableInfo { is_common_handle: true, index_info: vec![index], ..plain.clone() };
    [integer, plain, clustered]
}
