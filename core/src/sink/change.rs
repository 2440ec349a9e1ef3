//! A changed row between decoding and rendering: names and columns as the downstream has them, values ready for a sink.
//! Made by the translator (drainer/rows.rs); the SQL renderer and, later, message sinks take it from there.

use super::value::SqlValue;
use crate::schema::model::FieldType;
use std::sync::Arc;

/// A table as the rows of one schema version meet it in the downstream.
#[derive(Debug, Clone, PartialEq)]
pub struct TableShape {
    /// Upstream id.
    pub id: i64,
    pub schema: String,
    pub table: String,
    pub columns: Vec<ShapeColumn>,
    /// Unique keys as positions in `columns`, best first: the primary key, then the others in order, those over generated
    /// columns last.
    pub keys: Vec<Vec<usize>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShapeColumn {
    pub name: String,
    pub field: FieldType,
    /// False: stored generated, usable only to find a row.
    pub written: bool,
}

/// Values by position in `TableShape::columns`; `None`: the row does not carry this column.
pub type RowValues = Vec<Option<SqlValue>>;

#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    pub shape: Arc<TableShape>,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Insert { new: RowValues },
    Update { old: RowValues, new: RowValues },
    Delete { old: RowValues },
}

impl TableShape {
    /// The first unique key whose values are all there and not NULL in this row (spec drainer 4.2, R14): it identifies
    /// the row. `None`: only all columns together do.
    #[must_use]
    pub fn identity(&self, row: &RowValues) -> Option<&[usize]> {
        let usable = |position: &usize| matches!(row.get(*position), Some(Some(value)) if *value != SqlValue::Null);
        self.keys.iter().find(|key| !key.is_empty() && key.iter().all(usable)).map(Vec::as_slice)
    }
}
