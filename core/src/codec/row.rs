//! Rows of a mutation: inserted, updated, deleted (spec codec 2.1–2.4).
//!
//! Only what the bytes say: a column that is missing stays missing, because what that means (a default, or corruption)
//! depends on schema versions that the caller knows. Columns unknown to the table are stepped over, the row id is dropped.

use super::CodecError;
use super::datum::{self, Datum, flag};
use super::reader::Reader;
use super::{number, row_v2};
use crate::schema::model::{FieldType, IndexColumn, TableInfo};

/// The columns of one image of a row by column id; at most as many as the table has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowImage<'a> {
    /// Ascending ids.
    columns: Vec<(i64, Datum<'a>)>,
    /// The bytes hold columns that the table does not know.
    stepped_over: bool,
}

impl<'a> RowImage<'a> {
    #[must_use]
    pub fn get(&self, column: i64) -> Option<&Datum<'a>> {
        let at = self.columns.binary_search_by_key(&column, |(id, _)| *id).ok()?;
        self.columns.get(at).map(|(_, datum)| datum)
    }

    #[must_use]
    pub fn contains(&self, column: i64) -> bool {
        self.get(column).is_some()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// By ascending column id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Datum<'a>)> {
        self.columns.iter().map(|(id, datum)| (*id, datum))
    }

    /// Whether columns unknown to the table were stepped over; of an update, the old image tells for both.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.stepped_over
    }

    pub(super) fn step_over(&mut self) {
        self.stepped_over = true;
    }

    /// False when the column is there already.
    pub(super) fn add(&mut self, column: i64, value: Datum<'a>) -> bool {
        match self.columns.binary_search_by_key(&column, |(id, _)| *id) {
            Ok(_) => false,
            Err(at) => {
                self.columns.insert(at, (column, value));
                true
            }
        }
    }
}

/// Handle datum(s), then the row value. Primary-key columns that only the handle holds are filled in from it.
pub fn decode_insert<'a>(row: &'a [u8], table: &TableInfo) -> Result<RowImage<'a>, CodecError> {
    let mut input = Reader::new(row);
    if table.is_common_handle {
        return insert_clustered(&mut input, table);
    }
    let handle = match datum::decode(&mut input)? {
        Datum::Int(handle) => handle,
        other => return Err(CodecError::new(0, format!("an integer handle, found {}", other.kind()))),
    };
    let mut image = row_value(&mut input, table)?;
    if table.pk_is_handle {
        let key = table.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0);
        let key = key.ok_or_else(|| CodecError::new(0, "a primary key column in a table whose key is the handle"))?;
        // A value in the row would win over the handle; no TiDB writes one.
        image.add(key.id, Datum::Int(handle));
    }
    Ok(image)
}

/// All columns, the row id behind them.
pub fn decode_delete<'a>(row: &'a [u8], table: &TableInfo) -> Result<RowImage<'a>, CodecError> {
    row_value(&mut Reader::new(row), table)
}

/// The old image followed by the new one: the first occurrence of a column is its old value, the second the new one. A
/// column that both lack is left to the caller.
pub fn decode_update<'a>(row: &'a [u8], table: &TableInfo) -> Result<(RowImage<'a>, RowImage<'a>), CodecError> {
    let mut input = Reader::new(row);
    let mut known = Known::new(table);
    let (mut old, mut new) = (RowImage::default(), RowImage::default());
    if matches!(input.peek_u8(), None | Some(flag::NULL)) {
        return Err(input.fail("columns in an updated row"));
    }
    while !input.is_empty() {
        let start = input.offset();
        if let Some((id, value)) = pair(&mut input, &mut known)? {
            let image = if old.contains(id) { &mut new } else { &mut old };
            if !image.add(id, value) {
                return Err(CodecError::new(start, format!("column {id} at most twice in an updated row")));
            }
        }
    }
    old.stepped_over = known.missed;
    if let Some((id, _)) = old.iter().find(|(id, _)| !new.contains(*id)) {
        return Err(input.fail(format!("a new value for column {id} too")));
    }
    Ok((old, new))
}

/// Clustered primary key that is no single integer: one datum per column of the primary index, in its order.
fn insert_clustered<'a>(input: &mut Reader<'a>, table: &TableInfo) -> Result<RowImage<'a>, CodecError> {
    let no_index = || CodecError::new(0, "a primary index in a clustered table");
    let index = table.index_info.iter().find(|i| i.is_primary).ok_or_else(no_index)?;
    let mut key = Vec::with_capacity(index.idx_cols.len());
    for part in &index.idx_cols {
        key.push((input.offset(), part, datum::decode(input)?));
    }
    let mut image = row_value(input, table)?;
    for (at, part, value) in key {
        // A prefix of a column is not its value; the row has that. So it has where the key holds only a sort key.
        if part.length == WHOLE_COLUMN {
            image.add(column_of(part, table).ok_or_else(|| CodecError::new(at, "a column for a key part"))?, value);
        }
    }
    Ok(image)
}

fn column_of(part: &IndexColumn, table: &TableInfo) -> Option<i64> {
    let column = table.cols.get(usize::try_from(part.offset).ok()?)?;
    Some(column.id)
}

/// Pairs up to the end of the input; a single NULL stands for none.
fn row_value<'a>(input: &mut Reader<'a>, table: &TableInfo) -> Result<RowImage<'a>, CodecError> {
    match input.rest() {
        [] => return Err(input.fail("a row value")),
        [flag::NULL] => return Ok(RowImage::default()),
        [row_v2::VERSION, ..] => {
            let at = input.offset();
            return row_v2::decode(input.rest(), table).map_err(|e| e.shifted(at));
        }
        _ => {}
    }
    let mut known = Known::new(table);
    let mut image = RowImage::default();
    while !input.is_empty() {
        let start = input.offset();
        if let Some((id, value)) = pair(input, &mut known)?
            && !image.add(id, value)
        {
            return Err(CodecError::new(start, format!("column {id} only once in a row")));
        }
    }
    image.stepped_over = known.missed;
    Ok(image)
}

/// One column; `None` for one that the table does not know, and for the row id.
fn pair<'a>(input: &mut Reader<'a>, known: &mut Known) -> Result<Option<(i64, Datum<'a>)>, CodecError> {
    let start = input.offset();
    if input.u8("a column id")? != flag::VARINT {
        return Err(CodecError::new(start, "a column id (a signed integer)"));
    }
    let id = number::varint(input)?;
    if known.contains(id) {
        return Ok(Some((id, datum::decode(input)?)));
    }
    datum::cut(input)?;
    Ok(None)
}

/// Appends a row value; what tests and simulators write. Behind handle datums it is an inserted row, twice an updated one.
pub fn encode(out: &mut Vec<u8>, columns: &[(i64, Datum)]) {
    if columns.is_empty() {
        out.push(flag::NULL);
    }
    for (id, value) in columns {
        datum::encode_value(out, &Datum::Int(*id));
        datum::encode_value(out, value);
    }
}

/// Which column ids the table has. Rows come in table order, so the column after the last hit is tried first; what is out of
/// order pays for a sorted list once.
struct Known<'t> {
    table: &'t TableInfo,
    next: usize,
    /// Ids and their positions in the table.
    sorted: Option<Vec<(i64, usize)>>,
    /// An id that could be a column's was not found.
    missed: bool,
}

impl<'t> Known<'t> {
    const fn new(table: &'t TableInfo) -> Self {
        Self { table, next: 0, sorted: None, missed: false }
    }

    fn contains(&mut self, id: i64) -> bool {
        // The row id is never a column, whatever the table says.
        if id <= 0 {
            return false;
        }
        if self.table.cols.get(self.next).is_some_and(|c| c.id == id) {
            self.next += 1;
            return true;
        }
        let table = self.table;
        let sorted = self.sorted.get_or_insert_with(|| {
            let mut ids: Vec<_> = table.cols.iter().enumerate().map(|(at, c)| (c.id, at)).collect();
            ids.sort_unstable();
            ids
        });
        let Ok(found) = sorted.binary_search_by_key(&id, |(id, _)| *id) else {
            self.missed = true;
            return false;
        };
        self.next = sorted.get(found).map_or(0, |(_, at)| at + 1);
        true
    }
}

/// `length` of an index column that is not cut.
const WHOLE_COLUMN: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::model::{ColumnInfo, IndexInfo};

    fn column(id: i64, tp: u8, flag: u32) -> ColumnInfo {
        ColumnInfo { id, field_type: FieldType { tp, flag, ..FieldType::default() }, ..ColumnInfo::default() }
    }

    fn part(offset: i64, length: i64) -> IndexColumn {
        IndexColumn { offset, length, ..IndexColumn::default() }
    }

    /// PRIMARY KEY (b, a(3)) over columns a (id 1), b (id 2), c (id 3).
    fn clustered() -> TableInfo {
        let index = IndexInfo { is_primary: true, idx_cols: vec![part(1, -1), part(0, 3)], ..IndexInfo::default() };
        TableInfo {
            is_common_handle: true,
            cols: vec![column(1, 15, 0), column(2, 8, 0), column(3, 8, 0)],
            index_info: vec![index],
            ..TableInfo::default()
        }
    }

    fn encode(datums: &[Datum]) -> Vec<u8> {
        let mut out = Vec::new();
        datums.iter().for_each(|d| datum::encode_value(&mut out, d));
        out
    }

    fn text(text: &'static str) -> Datum<'static> {
        Datum::Bytes(text.as_bytes().into())
    }

    #[test]
    fn prefix_key_parts_are_taken_from_the_row_only() {
        let row = encode(&[Datum::Int(7), text("abc"), Datum::Int(1), text("abcdef"), Datum::Int(3), Datum::Null]);
        let image = decode_insert(&row, &clustered()).unwrap();
        let got: Vec<_> = image.iter().collect();
        assert_eq!(got, [(1, &text("abcdef")), (2, &Datum::Int(7)), (3, &Datum::Null)]);
        // Without the column in the row, the cut text of the key must not stand in for it.
        let row = encode(&[Datum::Int(7), text("abc"), Datum::Null]);
        let image = decode_insert(&row, &clustered()).unwrap();
        assert!(!image.contains(1) && image.len() == 1);
    }

    #[test]
    fn rows_round_trip() {
        let columns = [(1, text("x")), (2, Datum::Int(-7)), (3, Datum::Null)];
        let mut row = Vec::new();
        super::encode(&mut row, &columns);
        let image = decode_delete(&row, &clustered()).unwrap();
        assert!(image.iter().eq(columns.iter().map(|(id, value)| (*id, value))));
        let mut empty = Vec::new();
        super::encode(&mut empty, &[]);
        assert_eq!(empty, [0]);
        assert!(decode_delete(&empty, &clustered()).unwrap().is_empty());
    }

    #[test]
    fn the_row_wins_over_the_key() {
        let row = encode(&[Datum::Int(7), text("abc"), Datum::Int(2), Datum::Int(8)]);
        assert_eq!(decode_insert(&row, &clustered()).unwrap().get(2), Some(&Datum::Int(8)));
    }

    #[test]
    fn a_clustered_table_needs_its_index() {
        let table = TableInfo { index_info: vec![], ..clustered() };
        assert_eq!(decode_insert(&[0], &table).unwrap_err().expected, "a primary index in a clustered table");
        let mut table = clustered();
        table.index_info[0].idx_cols[0].offset = 9;
        let row = encode(&[Datum::Int(7), text("abc"), Datum::Null]);
        assert_eq!(decode_insert(&row, &table).unwrap_err().expected, "a column for a key part");
    }

    #[test]
    fn errors_name_offset_and_column() {
        let table = TableInfo { cols: vec![column(1, 8, 0), column(2, 8, 0)], ..TableInfo::default() };
        let one = [Datum::Int(1), Datum::Int(5)];
        let table_of_errors: &[(&str, Vec<u8>, usize, &str)] = &[
            ("insert", vec![], 0, "a datum"),
            ("insert", encode(&[Datum::Int(1)]), 2, "a row value"),
            ("insert", encode(&[Datum::UInt(1), Datum::Null]), 0, "an integer handle, found an unsigned integer"),
            ("delete", vec![], 0, "a row value"),
            ("delete", encode(&[Datum::Int(1)]), 2, "a datum"),
            ("delete", [encode(&one), encode(&one)].concat(), 4, "column 1 only once in a row"),
            ("delete", encode(&[Datum::UInt(1), Datum::Null]), 0, "a column id (a signed integer)"),
            ("update", vec![], 0, "columns in an updated row"),
            ("update", vec![0], 0, "columns in an updated row"),
            ("update", encode(&one), 4, "a new value for column 1 too"),
            ("update", encode(&one).repeat(3), 8, "column 1 at most twice in an updated row"),
        ];
        for (kind, row, offset, expected) in table_of_errors {
            let error = match *kind {
                "insert" => decode_insert(row, &table).unwrap_err(),
                "delete" => decode_delete(row, &table).unwrap_err(),
                _ => decode_update(row, &table).unwrap_err(),
            };
            assert_eq!(error, CodecError::new(*offset, *expected), "{kind} {row:?}");
        }
    }

    #[test]
    fn unknown_columns_are_stepped_over_in_any_order() {
        let table = TableInfo { cols: vec![column(5, 8, 0), column(3, 8, 0)], ..TableInfo::default() };
        let pairs = [
            [Datum::Int(9), text("x")],
            [Datum::Int(3), Datum::Int(1)],
            [Datum::Int(-1), Datum::Int(77)],
            [Datum::Int(5), Datum::Int(2)],
            [Datum::Int(9), text("x")],
        ];
        let image = pairs.iter().flat_map(|p| encode(p)).collect::<Vec<u8>>();
        let image = decode_delete(&image, &table).unwrap();
        assert_eq!(image.iter().collect::<Vec<_>>(), [(3, &Datum::Int(1)), (5, &Datum::Int(2))]);
        assert!(image.has_unknown());
        let row_id_only = encode(&[Datum::Int(-1), Datum::Int(77)]);
        assert!(!decode_delete(&row_id_only, &table).unwrap().has_unknown(), "the row id is no column");
        let both = [encode(&[Datum::Int(9), text("x")]), encode(&[Datum::Int(9), text("y")])].concat();
        assert!(decode_update(&both, &table).unwrap().0.has_unknown());
    }

    #[test]
    fn a_column_missing_on_both_sides_is_left_to_the_caller() {
        let table = TableInfo { cols: vec![column(1, 8, 0), column(3, 8, 0)], ..TableInfo::default() };
        let row = encode(&[Datum::Int(1), Datum::Int(1), Datum::Int(1), Datum::Int(2)]);
        let (old, new) = decode_update(&row, &table).unwrap();
        assert_eq!((old.get(1), new.get(1)), (Some(&Datum::Int(1)), Some(&Datum::Int(2))));
        assert!(!old.contains(3) && !new.contains(3));
    }
}
