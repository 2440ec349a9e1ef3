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
use crate::codec::mutation::{self, Mutation};
use crate::codec::row::{self, RowImage};
use crate::codec::{CodecError, default, value};
use crate::ids::SchemaVersion;
use crate::schema::model::{ColumnInfo, FieldType, IndexInfo, SchemaState, TableInfo};
use crate::schema::view::{TableEntry, TableName};
use crate::sink::change::{Change, RowChange, RowValues, ShapeColumn, TableShape};
use crate::sink::value::SqlValue;
use std::sync::Arc;

/// How the rows of one table of one schema version are translated at one state of the view.
#[derive(Debug)]
pub struct RowPlan {
    /// Decodes the bytes: the definition of the version, and behind its columns those that only the view knows.
    decode: TableInfo,
    shape: Arc<TableShape>,
    /// By position in `shape.columns`.
    sources: Vec<Source>,
}

/// Where a column's value comes from.
#[derive(Debug)]
struct Source {
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
    /// `definition`: of the transaction's schema version, made by `made_by`; `entry`, `name`: the view's.
    #[must_use]
    pub fn new(definition: &TableInfo, made_by: SchemaVersion, entry: &TableEntry, name: &TableName) -> Self {
        let view = &entry.info;
        let known = |table: &TableInfo, id: i64| table.cols.iter().any(|c| c.id == id);
        let mut decode = definition.clone();
        decode.cols.extend(view.cols.iter().filter(|c| !known(definition, c.id)).cloned());
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
            columns.push(ShapeColumn {
                name: column.name.original.clone(),
                field: column.field_type.clone(),
                written,
            });
            sources.push(Source { candidates, missing });
        }
        let keys = keys(view, &ids);
        if made_by > entry.version {
            let ahead = in_order(definition)
                .filter(|c| c.is_public() && !c.hidden && !c.is_generated() && !known(view, c.id));
            for column in ahead.filter(|c| !used.contains(&c.id)) {
                columns.push(ShapeColumn {
                    name: column.name.original.clone(),
                    field: column.field_type.clone(),
                    written: true,
                });
                let missing = Missing::Ahead(Box::new(column.clone()));
                sources.push(Source { candidates: vec![column.clone()], missing });
            }
        }
        let shape =
            TableShape { id: entry.info.id, schema: name.schema.clone(), table: name.table.clone(), columns, keys };
        Self { decode, shape: Arc::new(shape), sources }
    }

    #[must_use]
    pub fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    /// The changes of one mutation, in their order, at the end of `into`.
    pub fn translate(&self, mutation: &Mutation<'_>, into: &mut Vec<RowChange>) -> Result<(), CodecError> {
        for row in mutation.rows() {
            let change = self.change(row?)?;
            into.push(RowChange { shape: Arc::clone(&self.shape), change });
        }
        Ok(())
    }

    fn change(&self, bytes: mutation::RowChange<'_>) -> Result<Change, CodecError> {
        Ok(match bytes {
            mutation::RowChange::Insert(row) => {
                Change::Insert { new: self.inserted(&row::decode_insert(row, &self.decode)?)? }
            }
            mutation::RowChange::Update(row) => {
                let (old, new) = row::decode_update(row, &self.decode)?;
                Change::Update { old: self.carried(&old)?, new: self.carried(&new)? }
            }
            mutation::RowChange::Delete(row) => {
                Change::Delete { old: self.carried(&row::decode_delete(row, &self.decode)?)? }
            }
        })
    }

    fn inserted(&self, image: &RowImage<'_>) -> Result<RowValues, CodecError> {
        let values = self.sources.iter().map(|source| match (source.value(image)?, &source.missing) {
            (None, Missing::Fill(column)) => left_out(column).map(Some),
            (None, Missing::FillLater(column)) => default::missing(column, column).map(Some),
            (value, _) => Ok(value),
        });
        values.collect()
    }

    fn carried(&self, image: &RowImage<'_>) -> Result<RowValues, CodecError> {
        self.sources.iter().map(|source| source.value(image)).collect()
    }
}

impl Source {
    fn value(&self, image: &RowImage<'_>) -> Result<Option<SqlValue>, CodecError> {
        let found: Option<(&ColumnInfo, &Datum<'_>)> =
            self.candidates.iter().find_map(|column| Some((column, image.get(column.id)?)));
        let Some((column, datum)) = found else { return Ok(None) };
        let value = value::to_sql(datum, column)?;
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

fn in_order(table: &TableInfo) -> impl Iterator<Item = &ColumnInfo> {
    let mut columns: Vec<&ColumnInfo> = table.cols.iter().collect();
    columns.sort_by_key(|c| c.offset);
    columns.into_iter()
}

fn is_virtual(column: &ColumnInfo) -> bool {
    column.is_generated() && !column.generated_stored
}

/// Unique keys as positions in `ids`: the primary key first, then the others in order; those over generated columns last,
/// because TiDB's stored value of such a column can be stale (spec recorded).
fn keys(table: &TableInfo, ids: &[i64]) -> Vec<Vec<usize>> {
    let position = |column: &ColumnInfo| ids.iter().position(|id| *id == column.id);
    let mut keys = Vec::new();
    if table.pk_is_handle {
        let key = table.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0);
        keys.extend(key.and_then(position).map(|p| vec![p]));
    }
    let column_of = |part: &crate::schema::model::IndexColumn| {
        let by_offset = usize::try_from(part.offset).ok().and_then(|at| table.cols.get(at));
        by_offset.filter(|c| c.name.lower == part.name.lower).or_else(|| {
            table.cols.iter().find(|c| c.name.lower == part.name.lower)
        })
    };
    let key_of = |index: &IndexInfo| -> Option<(bool, Vec<usize>)> {
        let columns: Option<Vec<&ColumnInfo>> = index.idx_cols.iter().map(column_of).collect();
        let columns = columns?;
        let generated = columns.iter().any(|c| c.is_generated());
        let positions: Option<Vec<usize>> = columns.into_iter().map(position).collect();
        Some((generated, positions?))
    };
    let enforced = |index: &&IndexInfo| index.state == SchemaState::PUBLIC && (index.is_unique || index.is_primary);
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
