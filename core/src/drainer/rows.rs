//! Rows of a mutation as changes of the downstream's table (design 4.2; spec codec 2, drainer 3.6; A4).
//!
//! Two definitions meet here. The one of the transaction's schema version says what the bytes mean; the one of the view
//! says what the downstream has at this place in commit order. They differ while a DDL runs:
//! * a column dropped meanwhile is not emitted; a column renamed meanwhile goes by its id under the view's name; one whose
//!   type is being changed has two ids, of which the row's is taken;
//! * a column that an inserted row lacks gets the value that TiDB shows for it; one that an updated row lacks keeps the
//!   downstream's;
//! * a column that the downstream does not have yet (the last step of a multi-schema change is visible before its binlog)
//!   is left out while its value is the one that the DDL will fill in; any other value is emitted, so that the downstream
//!   refuses the row and an operator decides: leaving it out would lose it.

use crate::codec::datum::Datum;
use crate::codec::json_text::Style;
use crate::codec::mutation::{self, Mutation};
use crate::codec::row::{self, RowImage};
use crate::codec::{CodecError, default, value};
use crate::ids::SchemaVersion;
use crate::schema::model::{ColumnInfo, FieldType, IndexInfo, SchemaState, TableInfo};
use crate::schema::view::{TableEntry, TableName};
use crate::sink::change::{Change, RowChange, RowValues, ShapeColumn, TableShape};
use crate::sink::value::SqlValue;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How the rows of one table of one schema version are translated at one state of the view.
#[derive(Debug)]
pub struct RowPlan {
    /// Decodes the bytes: the definition of the version, and behind its columns those that only the view or later
    /// definitions know.
    decode: TableInfo,
    shape: Arc<TableShape>,
    /// By position in `shape.columns`.
    sources: Vec<Source>,
    /// How JSON is written.
    json: Style,
}

/// Where a column's value comes from.
#[derive(Debug)]
struct Source {
    /// Id of the downstream's column.
    id: i64,
    /// The column as the row may carry it, best first: by id, then (a type change) by name.
    candidates: Vec<ColumnInfo>,
    missing: Missing,
}

#[derive(Debug)]
enum Missing {
    /// The column is public at the transaction's version: fill inserted rows with what TiDB left out.
    Fill(Box<ColumnInfo>),
    /// It became public later: fill inserted rows with what TiDB shows for rows that are older than the column.
    FillLater(Box<ColumnInfo>),
    /// Leave it out, also when the value is the one that the DDL will fill in.
    Ahead(Box<ColumnInfo>),
    /// Not written anyway.
    LeaveOut,
}

impl RowPlan {
    /// `definition`: of the transaction's schema version, made by `made_by`; `later`: those above it, as far as they are
    /// known; `entry`, `name`: the view's.
    #[must_use]
    pub fn new<'a>(
        definition: &TableInfo,
        made_by: SchemaVersion,
        later: impl Iterator<Item = (SchemaVersion, &'a TableInfo)>,
        entry: &TableEntry,
        name: &TableName,
        json: Style,
    ) -> Self {
        let view = &entry.info;
        let known = |table: &TableInfo, id: i64| table.cols.iter().any(|c| c.id == id);
        let mut decode = definition.clone();
        decode.cols.extend(view.cols.iter().filter(|c| !known(definition, c.id)).cloned());
        let mut decoded: BTreeSet<i64> = decode.cols.iter().map(|c| c.id).collect();
        let mut lasting: Vec<&IndexInfo> = view.index_info.iter().collect();
        // A change of a column's type gives its indexes new ids.
        let has = |info: &TableInfo, one: &IndexInfo| {
            let same = |index: &IndexInfo| index.id == one.id || index.idx_name.lower == one.idx_name.lower;
            info.index_info.iter().any(|index| same(index) && index.is_unique == one.is_unique)
        };
        lasting.retain(|index| made_by <= entry.version || has(definition, index));
        // A column that a later definition brings holds what its DDL will fill in, or a change of type will convert: it is
        // known, and not written.
        for (version, info) in later {
            lasting.retain(|index| version <= entry.version || has(info, index));
            decode.cols.extend(info.cols.iter().filter(|c| decoded.insert(c.id)).cloned());
        }
        let by_id = |id: i64| decode.cols.iter().find(|c| c.id == id).cloned();

        let mut columns = Vec::new();
        let mut sources = Vec::new();
        let mut used = Vec::new();
        let mut ids = Vec::new();
        for column in in_order(view).filter(|c| c.is_public() && !c.hidden && !is_virtual(c)) {
            let mut candidates: Vec<ColumnInfo> = by_id(column.id).into_iter().collect();
            if !known(definition, column.id) {
                let same_name = |c: &&ColumnInfo| {
                    c.name.lower == column.name.lower && !known(view, c.id) && !c.hidden && !c.is_generated()
                };
                candidates.extend(definition.cols.iter().find(same_name).cloned());
            }
            used.extend(candidates.iter().map(|c| c.id));
            let written = !column.is_generated();
            let missing = if written {
                match definition.cols.iter().find(|c| c.id == column.id && c.is_public()) {
                    Some(theirs) => Missing::Fill(Box::new(theirs.clone())),
                    None => Missing::FillLater(Box::new(column.clone())),
                }
            } else {
                Missing::LeaveOut
            };
            ids.push(column.id);
            columns.push(ShapeColumn { name: column.name.original.clone(), field: column.field_type.clone(), written });
            sources.push(Source { id: column.id, candidates, missing });
        }
        let lasting = lasting.into_iter().map(|index| index.id).collect();
        let keys = keys(view, &ids, &lasting);
        if made_by > entry.version {
            let ahead =
                in_order(definition).filter(|c| c.is_public() && !c.hidden && !c.is_generated() && !known(view, c.id));
            for column in ahead.filter(|c| !used.contains(&c.id)) {
                columns.push(ShapeColumn {
                    name: column.name.original.clone(),
                    field: column.field_type.clone(),
                    written: true,
                });
                let missing = Missing::Ahead(Box::new(column.clone()));
                sources.push(Source { id: column.id, candidates: vec![column.clone()], missing });
            }
        }
        let shape =
            TableShape { id: entry.info.id, schema: name.schema.clone(), table: name.table.clone(), columns, keys };
        Self { decode, shape: Arc::new(shape), sources, json }
    }

    #[must_use]
    pub fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    /// The changes of one mutation, in their order, at the end of `into`; whether a row has columns that neither
    /// definition knows.
    pub fn translate(&self, mutation: &Mutation<'_>, into: &mut Vec<RowChange>) -> Result<bool, CodecError> {
        let mut unknown = false;
        for row in mutation.rows() {
            let change = self.change(row?, &mut unknown)?;
            into.push(RowChange { shape: Arc::clone(&self.shape), change });
        }
        Ok(unknown)
    }

    fn change(&self, bytes: mutation::RowChange<'_>, unknown: &mut bool) -> Result<Change, CodecError> {
        Ok(match bytes {
            mutation::RowChange::Insert(row) => {
                let row = row::decode_insert(row, &self.decode)?;
                *unknown |= row.has_unknown();
                Change::Insert { new: self.inserted(&row)? }
            }
            mutation::RowChange::Update(row) => {
                let (old, new) = row::decode_update(row, &self.decode)?;
                *unknown |= old.has_unknown();
                Change::Update { old: self.carried(&old)?, new: self.carried(&new)? }
            }
            mutation::RowChange::Delete(row) => {
                let row = row::decode_delete(row, &self.decode)?;
                *unknown |= row.has_unknown();
                Change::Delete { old: self.carried(&row)? }
            }
        })
    }

    fn inserted(&self, image: &RowImage<'_>) -> Result<RowValues, CodecError> {
        let values = self.sources.iter().map(|source| match (source.value(image, self.json)?, &source.missing) {
            (None, Missing::Fill(column)) => left_out(column).map(Some),
            (None, Missing::FillLater(column)) => default::missing(column, column).map(Some),
            (value, _) => Ok(value),
        });
        values.collect()
    }

    fn carried(&self, image: &RowImage<'_>) -> Result<RowValues, CodecError> {
        self.sources.iter().map(|source| source.value(image, self.json)).collect()
    }
}

impl Source {
    fn value(&self, image: &RowImage<'_>, json: Style) -> Result<Option<SqlValue>, CodecError> {
        let found: Option<(&ColumnInfo, &Datum<'_>)> =
            self.candidates.iter().find_map(|column| Some((column, image.get(column.id)?)));
        let Some((column, datum)) = found else { return Ok(None) };
        let mut value = value::to_sql_in(datum, column, json)?;
        if column.id != self.id {
            value = by_element_name(value, &column.field_type);
        }
        match &self.missing {
            Missing::Ahead(column) if default::missing(column, column)? == value => Ok(None),
            Missing::Ahead(_) | Missing::Fill(_) | Missing::FillLater(_) | Missing::LeaveOut => Ok(Some(value)),
        }
    }
}

/// TiDB leaves a column out of an inserted row when its value and its default are NULL (spec codec 2.2), whatever the
/// origin default once was; otherwise because the column is being dropped, and then it shows the origin default.
fn left_out(column: &ColumnInfo) -> Result<SqlValue, CodecError> {
    if column.default.is_null() && column.default_bit.is_none() && column.field_type.is_nullable() {
        return Ok(SqlValue::Null);
    }
    default::missing(column, column)
}

/// The number of an ENUM or SET value means nothing to a column of another type: its text does.
fn by_element_name(value: SqlValue, field: &FieldType) -> SqlValue {
    match (&value, field.tp) {
        (SqlValue::UInt(index), value::tp::ENUM) => {
            SqlValue::Text(value::enum_name(*index, &field.elems).as_bytes().to_vec())
        }
        (SqlValue::UInt(mask), value::tp::SET) => {
            value::set_name(*mask, &field.elems).map_or(value, |names| SqlValue::Text(names.into_bytes()))
        }
        _ => value,
    }
}

fn in_order(table: &TableInfo) -> impl Iterator<Item = &ColumnInfo> {
    let mut columns: Vec<&ColumnInfo> = table.cols.iter().collect();
    columns.sort_by_key(|c| c.offset);
    columns.into_iter()
}

fn is_virtual(column: &ColumnInfo) -> bool {
    column.is_generated() && !column.generated_stored
}

/// Unique keys as positions in `ids`: the primary key first, then the others in order; those over generated columns last,
/// because TiDB's stored value of such a column can be stale (spec recorded). `lasting`: ids of the indexes that no later
/// definition lacks. While a unique index is being dropped, the upstream accepts rows that repeat its values (spec
/// recorded): it does not tell them apart any more.
fn keys(table: &TableInfo, ids: &[i64], lasting: &BTreeSet<i64>) -> Vec<Vec<usize>> {
    let position = |column: &ColumnInfo| ids.iter().position(|id| *id == column.id);
    let mut keys = Vec::new();
    if table.pk_is_handle {
        let key = table.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0);
        keys.extend(key.and_then(position).map(|p| vec![p]));
    }
    let column_of = |part: &crate::schema::model::IndexColumn| {
        let by_offset = usize::try_from(part.offset).ok().and_then(|at| table.cols.get(at));
        by_offset
            .filter(|c| c.name.lower == part.name.lower)
            .or_else(|| table.cols.iter().find(|c| c.name.lower == part.name.lower))
    };
    let key_of = |index: &IndexInfo| -> Option<(bool, Vec<usize>)> {
        let columns: Option<Vec<&ColumnInfo>> = index.idx_cols.iter().map(column_of).collect();
        let columns = columns?;
        let generated = columns.iter().any(|c| c.is_generated());
        let positions: Option<Vec<usize>> = columns.into_iter().map(position).collect();
        Some((generated, positions?))
    };
    let enforced = |index: &&IndexInfo| {
        index.state == SchemaState::PUBLIC && (index.is_unique || index.is_primary) && lasting.contains(&index.id)
    };
    let mut others: Vec<(bool, bool, Vec<usize>)> = table
        .index_info
        .iter()
        .filter(enforced)
        .filter_map(|index| key_of(index).map(|(generated, key)| (!index.is_primary, generated, key)))
        .collect();
    others.sort_by_key(|(secondary, generated, _)| (*generated, *secondary));
    keys.extend(others.into_iter().map(|(_, _, key)| key));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::datum::encode_value;
    use crate::schema::model::CiStr;
    use serde_json::Value;

    const INT: u8 = 3;
    const VARCHAR: u8 = 15;

    fn column(id: i64, name: &str, tp: u8) -> ColumnInfo {
        ColumnInfo {
            id,
            name: CiStr::new(name),
            offset: id,
            field_type: FieldType { tp, ..FieldType::default() },
            state: SchemaState::PUBLIC,
            ..ColumnInfo::default()
        }
    }

    fn with_default(origin: &str, default: Option<&str>, column: ColumnInfo) -> ColumnInfo {
        let default = default.map_or(Value::Null, Value::from);
        ColumnInfo { origin_default: Value::from(origin), default, ..column }
    }

    /// The first column is the integer primary key.
    fn table(columns: &[ColumnInfo]) -> TableInfo {
        let mut cols = columns.to_vec();
        cols[0].field_type.flag |= FieldType::PRI_KEY | FieldType::NOT_NULL;
        TableInfo { id: 9, name: CiStr::new("t"), cols, pk_is_handle: true, ..TableInfo::default() }
    }

    fn plan(version: i64, definition: &[ColumnInfo], view_version: i64, view: &[ColumnInfo]) -> RowPlan {
        let version_of = SchemaVersion::new;
        let entry = TableEntry { schema_id: 1, info: Arc::new(table(view)), version: version_of(view_version) };
        let name = TableName { schema: "d".to_owned(), table: "t".to_owned() };
        RowPlan::new(&table(definition), version_of(version), std::iter::empty(), &entry, &name, Style::Later)
    }

    fn pairs(pairs: &[(i64, Datum<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, value) in pairs {
            encode_value(&mut out, &Datum::Int(*id));
            encode_value(&mut out, value);
        }
        out
    }

    /// What is written of a row with handle 1 and these columns.
    fn inserted(plan: &RowPlan, columns: &[(i64, Datum<'_>)]) -> String {
        let mut row = Vec::new();
        encode_value(&mut row, &Datum::Int(1));
        row.extend(if columns.is_empty() { vec![0] } else { pairs(columns) });
        match plan.change(mutation::RowChange::Insert(&row), &mut false).unwrap() {
            Change::Insert { new } => shown(plan, &new),
            other => panic!("{other:?}"),
        }
    }

    fn shown(plan: &RowPlan, values: &RowValues) -> String {
        let columns = plan.shape.columns.iter().zip(values).filter(|(c, _)| c.written);
        let carried = columns.filter_map(|(c, value)| value.as_ref().map(|v| (c, v)));
        let text = carried.map(|(c, value)| match value {
            SqlValue::Null => format!("{}=NULL", c.name),
            SqlValue::Int(n) => format!("{}={n}", c.name),
            SqlValue::Text(text) => format!("{}='{}'", c.name, String::from_utf8_lossy(text)),
            other => format!("{}={other:?}", c.name),
        });
        text.collect::<Vec<_>>().join(" ")
    }

    fn text(text: &'static str) -> Datum<'static> {
        Datum::Bytes(text.as_bytes().into())
    }

    #[test]
    fn a_column_dropped_meanwhile_is_not_emitted() {
        let (id, a, b) = (column(1, "id", INT), column(2, "a", INT), column(3, "b", INT));
        let plan = plan(5, &[id.clone(), a, b.clone()], 6, &[id, b]);
        assert_eq!(inserted(&plan, &[(2, Datum::Int(20)), (3, Datum::Int(30))]), "id=1 b=30");
    }

    #[test]
    fn a_column_renamed_meanwhile_goes_by_its_id() {
        let (id, a) = (column(1, "id", INT), column(2, "a", INT));
        let plan = plan(5, &[id.clone(), a], 6, &[id, column(2, "Z", INT)]);
        assert_eq!(inserted(&plan, &[(2, Datum::Int(20))]), "id=1 Z=20");
    }

    #[test]
    fn a_changed_type_has_two_ids() {
        let id = column(1, "id", INT);
        let plan = plan(5, &[id.clone(), column(2, "a", INT)], 6, &[id, column(7, "a", VARCHAR)]);
        assert_eq!(inserted(&plan, &[(2, Datum::Int(20)), (7, text("20"))]), "id=1 a='20'");
        assert_eq!(inserted(&plan, &[(2, Datum::Int(20))]), "id=1 a=20");
    }

    #[test]
    fn an_element_s_name_outlives_its_type() {
        let id = column(1, "id", INT);
        let mut choice = column(2, "a", value::tp::ENUM);
        choice.field_type.elems = vec!["x".to_owned(), "y".to_owned()];
        let plan = plan(5, &[id.clone(), choice], 6, &[id, column(7, "a", VARCHAR)]);
        assert_eq!(inserted(&plan, &[(2, Datum::UInt(2))]), "id=1 a='y'");
    }

    #[test]
    fn a_column_added_meanwhile_shows_its_origin_default() {
        let id = column(1, "id", INT);
        let later = with_default("7", Some("8"), column(2, "b", INT));
        let plan = plan(5, std::slice::from_ref(&id), 6, &[id.clone(), later]);
        assert_eq!(inserted(&plan, &[]), "id=1 b=7");
        assert_eq!(inserted(&plan, &[(2, Datum::Int(5))]), "id=1 b=5", "write-only: the row carries it");
    }

    #[test]
    fn what_a_row_leaves_out_is_null_or_the_origin_default() {
        let id = column(1, "id", INT);
        let null_now = with_default("5", None, column(2, "a", INT));
        let dropping = with_default("6", Some("6"), column(3, "b", INT));
        let columns = [id, null_now, dropping];
        assert_eq!(inserted(&plan(5, &columns, 5, &columns), &[]), "id=1 a=NULL b=6");
    }

    #[test]
    fn a_column_that_the_downstream_lacks_is_emitted_only_when_its_value_would_be_lost() {
        let id = column(1, "id", INT);
        let ahead = with_default("3", Some("3"), column(2, "b", INT));
        let plan = plan(6, &[id.clone(), ahead], 5, std::slice::from_ref(&id));
        assert_eq!(inserted(&plan, &[(2, Datum::Int(3))]), "id=1");
        assert_eq!(inserted(&plan, &[(2, Datum::Int(9))]), "id=1 b=9");
    }

    #[test]
    fn a_column_is_unknown_only_while_no_definition_has_it() {
        let id = column(1, "id", INT);
        let added = table(&[id.clone(), column(2, "b", INT)]);
        let only_id = table(std::slice::from_ref(&id));
        let entry = TableEntry { schema_id: 1, info: Arc::new(only_id.clone()), version: SchemaVersion::new(5) };
        let name = TableName { schema: "d".to_owned(), table: "t".to_owned() };
        let mut row = Vec::new();
        encode_value(&mut row, &Datum::Int(1));
        row.extend(pairs(&[(2, Datum::Int(7))]));
        for (later, unknown) in [(vec![], true), (vec![(SchemaVersion::new(6), &added)], false)] {
            let plan = RowPlan::new(&only_id, SchemaVersion::new(5), later.into_iter(), &entry, &name, Style::Later);
            let mut seen = false;
            let change = plan.change(mutation::RowChange::Insert(&row), &mut seen).unwrap();
            assert_eq!(seen, unknown);
            let Change::Insert { new } = change else { panic!("{change:?}") };
            assert_eq!(shown(&plan, &new), "id=1");
        }
    }

    #[test]
    fn an_index_that_is_being_dropped_identifies_no_row() {
        let columns = [column(1, "id", INT), column(2, "a", INT)];
        let part = crate::schema::model::IndexColumn { name: CiStr::new("a"), offset: 1, length: -1 };
        let index = IndexInfo {
            id: 7,
            idx_cols: vec![part],
            is_unique: true,
            state: SchemaState::PUBLIC,
            ..IndexInfo::default()
        };
        let without = TableInfo { pk_is_handle: false, ..table(&columns) };
        let with = TableInfo { index_info: vec![index], ..without.clone() };
        let entry = TableEntry { schema_id: 1, info: Arc::new(with.clone()), version: SchemaVersion::new(5) };
        let name = TableName { schema: "d".to_owned(), table: "t".to_owned() };
        let v = SchemaVersion::new;
        let keys = |definition: &TableInfo, made_by, later: Vec<(SchemaVersion, &TableInfo)>| {
            let plan = RowPlan::new(definition, v(made_by), later.into_iter(), &entry, &name, Style::Later);
            plan.shape.keys.len()
        };
        assert_eq!(keys(&with, 5, vec![(v(6), &with)]), 1);
        assert_eq!(keys(&with, 5, vec![(v(6), &with), (v(7), &without)]), 0);
        assert_eq!(keys(&without, 6, vec![]), 0, "rows that are ahead of their DDL's binlog");
        assert_eq!(keys(&without, 3, vec![(v(4), &without), (v(5), &with)]), 1, "a key that came since");
    }

    #[test]
    fn an_update_that_lacks_a_column_leaves_it_out() {
        let columns = [column(1, "id", INT), column(2, "a", INT), column(3, "b", INT)];
        let plan = plan(5, &columns, 5, &columns);
        let image = |a| pairs(&[(1, Datum::Int(1)), (2, Datum::Int(a))]);
        let row = [image(10), image(11)].concat();
        match plan.change(mutation::RowChange::Update(&row), &mut false).unwrap() {
            Change::Update { old, new } => {
                assert_eq!((shown(&plan, &old), shown(&plan, &new)), ("id=1 a=10".into(), "id=1 a=11".into()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hidden_generated_and_non_public_columns_are_not_written() {
        let mut columns: Vec<ColumnInfo> = (1..=5).map(|id| column(id, &format!("c{id}"), INT)).collect();
        columns[1].hidden = true;
        columns[2].generated_expr_string = "c1".to_owned();
        columns[3].state = SchemaState::WRITE_ONLY;
        let all: Vec<(i64, Datum<'_>)> = (2..=5).map(|id| (id, Datum::Int(id))).collect();
        assert_eq!(inserted(&plan(5, &columns, 5, &columns), &all), "c1=1 c5=5");
    }

    #[test]
    fn keys_in_order_of_preference() {
        let index = |id: i64, name: &str, columns: &[i64], is_primary: bool, state: SchemaState| IndexInfo {
            id,
            idx_name: CiStr::new(name),
            is_unique: true,
            is_primary,
            state,
            idx_cols: columns
                .iter()
                .map(|c| crate::schema::model::IndexColumn {
                    name: CiStr::new(&format!("c{c}")),
                    offset: c - 1,
                    length: -1,
                })
                .collect(),
        };
        let mut columns: Vec<ColumnInfo> = (1..=4).map(|id| column(id, &format!("c{id}"), INT)).collect();
        columns[3].generated_expr_string = "c1".to_owned();
        columns[3].generated_stored = true;
        let mut info = table(&columns);
        info.pk_is_handle = false;
        info.index_info = vec![
            index(1, "over_generated", &[4], false, SchemaState::PUBLIC),
            index(2, "second", &[2, 3], false, SchemaState::PUBLIC),
            index(3, "going", &[1], false, SchemaState::DELETE_ONLY),
            index(4, "primary", &[3], true, SchemaState::PUBLIC),
        ];
        let all = BTreeSet::from([1, 2, 3, 4]);
        assert_eq!(keys(&info, &[1, 2, 3, 4], &all), [vec![2], vec![1, 2], vec![3]]);
        assert_eq!(keys(&info, &[1, 2, 3, 4], &BTreeSet::from([1, 4])), [vec![2], vec![3]]);
        info.pk_is_handle = true;
        assert_eq!(keys(&info, &[1, 2, 3, 4], &all)[0], [0]);
    }
}
