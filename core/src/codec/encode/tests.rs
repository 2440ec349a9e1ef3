//! Rows of random tables read back as they were; the worked rows of the specification.

use super::*;
use crate::codec::mutation::{self, Mutation};
use crate::codec::row;
use crate::codec::value::{to_sql, tp};
use crate::schema::model::{CiStr, IndexColumn};
use proptest::prelude::*;

fn column(id: i64, tp: u8) -> ColumnInfo {
    let charset = if tp == tp::VARCHAR { "utf8mb4" } else { "binary" }.to_owned();
    let collate = if tp == tp::VARCHAR { "utf8mb4_general_ci" } else { "binary" }.to_owned();
    let elems = vec!["male".to_owned(), "female".to_owned()];
    let field_type = FieldType { tp, flen: 10, decimal: 4, charset, collate, elems, ..FieldType::default() };
    ColumnInfo {
        id,
        name: CiStr::new(&format!("c{id}")),
        field_type,
        state: SchemaState::PUBLIC,
        ..ColumnInfo::default()
    }
}

/// What a table's key is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    RowId,
    Int,
    Common,
    CommonPrefix,
}

fn table(kind: Kind, types: &[u8]) -> TableInfo {
    let mut cols = vec![column(1, if kind == Kind::Int { tp::LONGLONG } else { tp::VARCHAR })];
    cols.extend(types.iter().zip(2..).map(|(tp, id)| column(id, *tp)));
    cols[0].field_type.flag |= FieldType::PRI_KEY | FieldType::NOT_NULL;
    let mut info = TableInfo { id: 9, cols, pk_is_handle: kind == Kind::Int, ..TableInfo::default() };
    if matches!(kind, Kind::Common | Kind::CommonPrefix) {
        info.is_common_handle = true;
        let part = |offset: i64, length| IndexColumn { offset, length, ..IndexColumn::default() };
        let last = i64::try_from(info.cols.len()).unwrap() - 1;
        let idx_cols = vec![part(last, -1), part(0, if kind == Kind::CommonPrefix { 2 } else { -1 })];
        info.index_info.push(IndexInfo { is_primary: true, is_unique: true, idx_cols, ..IndexInfo::default() });
    }
    info
}

fn upper(_: &FieldType, text: &[u8]) -> Vec<u8> {
    text.to_ascii_uppercase()
}

fn value(tp: u8, n: u64) -> SqlValue {
    let text = |text: String| SqlValue::Text(text.into_bytes());
    match tp {
        tp::LONGLONG | tp::LONG => SqlValue::Int(n.cast_signed()),
        tp::ENUM => SqlValue::UInt(n % 3),
        tp::DECIMAL => text(format!("{}.{:04}", n % 100_000, n % 10_000)),
        tp::DURATION => text(format!("-{:02}:{:02}:03.0004", n % 800, n % 60)),
        tp::DOUBLE => SqlValue::Double(f64::from(u32::try_from(n % 1000).unwrap()) + 0.5),
        tp::BLOB => SqlValue::Bytes(n.to_le_bytes().to_vec()),
        _ => text(format!("Text {}", n % 97)),
    }
}

fn read_back(image: &row::RowImage, table: &TableInfo) -> Row {
    let of = |id: i64| table.cols.iter().find(|c| c.id == id).unwrap();
    image.iter().map(|(id, datum)| (id, to_sql(datum, of(id)).unwrap())).collect()
}

proptest! {
    #[test]
    fn rows_of_any_table_read_back(
        kind in 0..4_usize, types in proptest::collection::vec(0..7_usize, 1..6), seed: u64, nulls: u8, row_id in 1..i64::MAX, sorted: bool,
    ) {
        let kind = [Kind::RowId, Kind::Int, Kind::Common, Kind::CommonPrefix][kind];
        let all = [tp::LONG, tp::ENUM, tp::DECIMAL, tp::DURATION, tp::DOUBLE, tp::BLOB, tp::VARCHAR];
        let types: Vec<u8> = types.into_iter().map(|t| all[t]).collect();
        let info = table(kind, &types);
        let encoder = if sorted { RowEncoder::new(&info).with_sort_keys(upper) } else { RowEncoder::new(&info) };
        let last = info.cols.last().unwrap().id;
        let row = |seed: u64| -> Row {
            info.cols.iter().map(|c| {
                let null = c.id != 1 && c.id != last && nulls >> (c.id % 8) & 1 == 1;
                let value = if null { SqlValue::Null } else { value(c.field_type.tp, seed.wrapping_mul(u64::try_from(c.id).unwrap())) };
                (c.id, value)
            }).collect()
        };
        let (old, new) = (row(seed), row(seed.wrapping_add(7)));
        let inserted = encoder.insert(&new, row_id).unwrap();
        let mut back = read_back(&row::decode_insert(&inserted, &info).unwrap(), &info);
        for column in &info.cols {
            // NULL where NULL is the default is left out.
            back.entry(column.id).or_insert(SqlValue::Null);
        }
        prop_assert_eq!(&back, &new);
        let (a, b) = (encoder.update(&old, &new, row_id).unwrap(), encoder.delete(&old, row_id).unwrap());
        let (first, second) = row::decode_update(&a, &info).unwrap();
        prop_assert_eq!((read_back(&first, &info), read_back(&second, &info)), (old.clone(), new));
        prop_assert_eq!(read_back(&row::decode_delete(&b, &info).unwrap(), &info), old.clone());
        prop_assert!(key::parse(&encoder.key(&old, row_id).unwrap()).is_ok());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn worked_rows() {
    let mut info = table(Kind::Int, &[tp::VARCHAR, tp::ENUM]);
    let row = |name: &str, sex: u64| -> Row {
        [(1, SqlValue::Int(11)), (2, SqlValue::Text(name.into())), (3, SqlValue::UInt(sex))].into()
    };
    let encoder = RowEncoder::new(&info);
    assert_eq!(hex(&encoder.insert(&row("test", 2), 0).unwrap()), "0816080402087465737408060902");
    assert_eq!(
        hex(&encoder.update(&row("old", 1), &row("new", 2), 0).unwrap()),
        "08020816080402066f6c6408060901".to_owned() + "08020816080402066e657708060902"
    );
    info.cols.truncate(1);
    assert_eq!(hex(&RowEncoder::new(&info).insert(&[(1, SqlValue::Int(-5))].into(), 0).unwrap()), "080900");
    let plain = TableInfo { cols: vec![column(1, tp::LONG), column(2, tp::VARCHAR)], ..TableInfo::default() };
    let row: Row = [(1, SqlValue::Int(5)), (2, SqlValue::Null)].into();
    assert_eq!(hex(&RowEncoder::new(&plain).delete(&row, 9).unwrap()), "0802080a08040008010812");
}

#[test]
fn columns_on_their_way_in_or_out() {
    let mut info = table(Kind::Int, &[tp::LONG, tp::LONG, tp::LONG]);
    info.cols[1].state = SchemaState::WRITE_ONLY;
    info.cols[2].state = SchemaState::DELETE_ONLY;
    info.cols[3].generated_expr_string = "c1".to_owned();
    let row: Row = (1..=4).map(|id| (id, SqlValue::Int(id))).collect();
    let encoder = RowEncoder::new(&info);
    let ids = |image: &row::RowImage| image.iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(ids(&row::decode_insert(&encoder.insert(&row, 0).unwrap(), &info).unwrap()), [1, 2]);
    assert_eq!(ids(&row::decode_update(&encoder.update(&row, &row, 0).unwrap(), &info).unwrap().0), [1, 2]);
    assert_eq!(ids(&row::decode_delete(&encoder.delete(&row, 0).unwrap(), &info).unwrap()), [1, 2, 3, 4]);
    let mut lacking = row.clone();
    lacking.remove(&2);
    assert!(encoder.update(&row, &lacking, 0).is_err());
}

#[test]
fn mutations_keep_the_order_within_a_table() {
    let mut mutations = Mutations::default();
    mutations.insert(5, vec![1]);
    mutations.delete(6, vec![2]);
    mutations.update(5, vec![3]);
    let bytes = mutations.prewrite_value(44);
    let value = mutation::PrewriteValue::decode(&bytes).unwrap();
    assert_eq!(value.schema_version, 44);
    let tables: Vec<Mutation> = value.mutations().map(Result::unwrap).collect();
    assert_eq!(tables.iter().map(|t| t.table_id).collect::<Vec<_>>(), [5, 6]);
    let rows: Vec<_> = tables[0].rows().map(Result::unwrap).collect();
    assert_eq!(rows, [mutation::RowChange::Insert(&[1]), mutation::RowChange::Update(&[3])]);
}

#[test]
fn commit_and_rollback_reuse_the_prewrite() {
    let p = ddl_prewrite(7, b"mkey".to_vec(), "CREATE TABLE t (a INT)", 9, 5);
    let c = commit(&p, 8);
    assert_eq!((c.tp, c.start_ts, c.commit_ts, c.ddl_job_id, c.ddl_schema_state), (1, 7, 8, 9, 5));
    assert_eq!((c.ddl_query, c.prewrite_key), (p.ddl_query.clone(), p.prewrite_key.clone()));
    let d = prewrite(7, b"t".to_vec(), vec![8, 1]);
    assert_eq!((commit(&d, 8).prewrite_value, joined(&d, 8).prewrite_value.is_some()), (None, true));
    assert_eq!((rollback(&d).tp, rollback(&d).commit_ts), (2, 0));
}
