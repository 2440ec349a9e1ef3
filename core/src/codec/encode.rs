//! Rows, transactions and messages as TiDB writes them (spec codec 1, 2): the inverse of [`super::row`] and [`super::mutation`].
//! For simulators and tests, which play TiDB.

use super::encode_value::{Form, put};
use super::value::is_string;
use super::{CodecError, datum, key, number};
use crate::proto::binlog::{Binlog, BinlogType, MutationType, PrewriteValue, TableMutation};
use crate::schema::model::{ColumnInfo, FieldType, IndexInfo, SchemaState, TableInfo};
use crate::sink::value::SqlValue;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// Values by column id, generated and non-public columns included.
pub type Row = BTreeMap<i64, SqlValue>;

/// Sort key of a text under its column's collation.
pub type SortKey = fn(&FieldType, &[u8]) -> Vec<u8>;

/// Writes the rows of one table.
#[derive(Debug, Clone, Copy)]
pub struct RowEncoder<'t> {
    table: &'t TableInfo,
    /// Sort key of a text under the column's collation; with it the new collation framework is on.
    sort_key: Option<SortKey>,
}

impl<'t> RowEncoder<'t> {
    #[must_use]
    pub const fn new(table: &'t TableInfo) -> Self {
        Self { table, sort_key: None }
    }

    /// With the new collation framework: handles hold sort keys, and rows the texts that those lost.
    #[must_use]
    pub const fn with_sort_keys(self, sort_key: SortKey) -> Self {
        Self { sort_key: Some(sort_key), ..self }
    }

    /// Handle datums and row value (spec 2.2). `row_id` counts where the table has no clustered key.
    pub fn insert(&self, row: &Row, row_id: i64) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        let handle = self.handle_columns()?;
        match &handle {
            Handle::RowId => put_int(&mut out, row_id),
            Handle::Int(column) => put_int(&mut out, self.handle_int(column, row)?),
            Handle::Common(index) => self.put_handle(&mut out, index, row, Form::Handle)?,
        }
        let mut pairs = Vec::new();
        for column in &self.table.cols {
            let Some(value) = row.get(&column.id) else { continue };
            let left_out = self.in_handle(&handle, column)
                || is_virtual(column)
                || is_going(column)
                || (*value == SqlValue::Null && column.default.is_null() && column.default_bit.is_none());
            if !left_out {
                put_pair(&mut pairs, column, value)?;
            }
        }
        if pairs.is_empty() {
            pairs.push(datum::flag::NULL);
        }
        out.extend(pairs);
        Ok(out)
    }

    /// Old and new row value (spec 2.3). Both rows must have the same columns.
    pub fn update(&self, old: &Row, new: &Row, row_id: i64) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        for row in [old, new] {
            for column in self.table.cols.iter().filter(|c| !is_virtual(c) && !is_going(c)) {
                match (row.get(&column.id), old.contains_key(&column.id) == new.contains_key(&column.id)) {
                    (Some(value), true) => put_pair(&mut out, column, value)?,
                    (None, true) => {}
                    (_, false) => return Err(CodecError::new(0, format!("both values of column {}", column.id))),
                }
            }
            self.put_row_id(&mut out, row_id);
        }
        Ok(out)
    }

    /// Row value with every column, virtual ones too (spec 2.4).
    pub fn delete(&self, row: &Row, row_id: i64) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        for column in &self.table.cols {
            if let Some(value) = row.get(&column.id) {
                put_pair(&mut out, column, value)?;
            }
        }
        self.put_row_id(&mut out, row_id);
        Ok(out)
    }

    /// TiKV key of the row.
    pub fn key(&self, row: &Row, row_id: i64) -> Result<Vec<u8>, CodecError> {
        Ok(match self.handle_columns()? {
            Handle::RowId => key::record(self.table.id, row_id),
            Handle::Int(column) => key::record(self.table.id, self.handle_int(column, row)?),
            Handle::Common(index) => {
                let mut handle = Vec::new();
                self.put_handle(&mut handle, index, row, Form::Key)?;
                key::record_common(self.table.id, &handle)
            }
        })
    }

    fn handle_columns(&self) -> Result<Handle<'t>, CodecError> {
        let table = self.table;
        if table.is_common_handle {
            let index = table.index_info.iter().find(|i| i.is_primary);
            return index.map(Handle::Common).ok_or_else(|| CodecError::new(0, "a primary index in a clustered table"));
        }
        if table.pk_is_handle {
            let column = table.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0);
            return column.map(Handle::Int).ok_or_else(|| CodecError::new(0, "a primary key column"));
        }
        Ok(Handle::RowId)
    }

    fn handle_int(&self, column: &ColumnInfo, row: &Row) -> Result<i64, CodecError> {
        match row.get(&column.id) {
            Some(SqlValue::Int(n)) => Ok(*n),
            Some(SqlValue::UInt(n)) => Ok(n.cast_signed()),
            _ => Err(CodecError::new(0, "an integer in the primary key")),
        }
    }

    fn put_handle(&self, out: &mut Vec<u8>, index: &IndexInfo, row: &Row, form: Form) -> Result<(), CodecError> {
        for part in &index.idx_cols {
            let column = usize::try_from(part.offset).ok().and_then(|at| self.table.cols.get(at));
            let column = column.ok_or_else(|| CodecError::new(0, "a column for a key part"))?;
            let value = row.get(&column.id).ok_or_else(|| CodecError::new(0, "a value for a key part"))?;
            let cut = self.key_value(value, &column.field_type, part.length);
            put(out, &cut, &column.field_type, form)?;
        }
        Ok(())
    }

    /// Cut in characters (bytes of binary strings), then the sort key.
    fn key_value(&self, value: &SqlValue, field: &FieldType, length: i64) -> SqlValue {
        let (SqlValue::Text(bytes) | SqlValue::Bytes(bytes)) = value else { return value.clone() };
        if !is_string(field.tp) {
            return value.clone();
        }
        let mut bytes = bytes.clone();
        if let Ok(length) = usize::try_from(length) {
            match std::str::from_utf8(&bytes) {
                Ok(text) if !field.is_binary() => bytes = text.chars().take(length).collect::<String>().into_bytes(),
                _ => bytes.truncate(length),
            }
        }
        match self.sort_key {
            Some(sort_key) if !field.is_binary() => SqlValue::Bytes(sort_key(field, &bytes)),
            _ => SqlValue::Bytes(bytes),
        }
    }

    /// Whether an inserted row leaves the column to its handle.
    fn in_handle(&self, handle: &Handle, column: &ColumnInfo) -> bool {
        match handle {
            Handle::RowId => false,
            Handle::Int(key) => key.id == column.id,
            Handle::Common(index) => {
                let of_column = |offset: i64| usize::try_from(offset).ok().and_then(|at| self.table.cols.get(at));
                let part = index.idx_cols.iter().find(|p| of_column(p.offset).is_some_and(|c| c.id == column.id));
                part.is_some_and(|p| p.length < 0) && !self.is_restored(&column.field_type)
            }
        }
    }

    /// Whether the sort key loses the text.
    fn is_restored(&self, field: &FieldType) -> bool {
        let lossy = field.tp == super::value::tp::VARCHAR
            || field.tp == super::value::tp::VAR_STRING
            || !(field.collate.ends_with("_bin") && field.collate != "utf8mb4_0900_bin");
        self.sort_key.is_some() && is_string(field.tp) && !field.is_binary() && lossy
    }

    fn put_row_id(&self, out: &mut Vec<u8>, row_id: i64) {
        if !self.table.pk_is_handle && !self.table.is_common_handle {
            put_int(out, ROW_ID);
            put_int(out, row_id);
        }
    }
}

enum Handle<'t> {
    RowId,
    Int(&'t ColumnInfo),
    Common(&'t IndexInfo),
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    out.push(datum::flag::VARINT);
    number::put_varint(out, value);
}

fn put_pair(out: &mut Vec<u8>, column: &ColumnInfo, value: &SqlValue) -> Result<(), CodecError> {
    put_int(out, column.id);
    put(out, value, &column.field_type, Form::Row)
        .map_err(|e| CodecError::new(e.offset, format!("{} in column {:?}", e.expected, column.name.original)))
}

fn is_virtual(column: &ColumnInfo) -> bool {
    column.is_generated() && !column.generated_stored
}

/// Not written any more, or not yet.
fn is_going(column: &ColumnInfo) -> bool {
    column.state == SchemaState::DELETE_ONLY || column.state == SchemaState::DELETE_REORG
}

/// Column id of the row id.
const ROW_ID: i64 = -1;

/// The rows of a transaction by table, in order of first touch (spec 1.4).
#[derive(Debug, Clone, Default)]
pub struct Mutations {
    tables: Vec<TableMutation>,
}

impl Mutations {
    pub fn insert(&mut self, table: i64, row: Vec<u8>) {
        let mutation = self.of(table, MutationType::Insert);
        mutation.inserted_rows.push(row.into());
    }

    pub fn update(&mut self, table: i64, row: Vec<u8>) {
        let mutation = self.of(table, MutationType::Update);
        mutation.updated_rows.push(row.into());
    }

    pub fn delete(&mut self, table: i64, row: Vec<u8>) {
        let mutation = self.of(table, MutationType::DeleteRow);
        mutation.deleted_rows.push(row.into());
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The bytes of the prewrite value.
    #[must_use]
    pub fn prewrite_value(self, schema_version: i64) -> Vec<u8> {
        PrewriteValue { schema_version, mutations: self.tables }.encode_to_vec()
    }

    fn of(&mut self, table: i64, kind: MutationType) -> &mut TableMutation {
        let at = self.tables.iter().position(|t| t.table_id == table).unwrap_or_else(|| {
            self.tables.push(TableMutation { table_id: table, ..TableMutation::default() });
            self.tables.len() - 1
        });
        // The position was found or made above.
        #[expect(clippy::indexing_slicing, reason = "the position was found or made above")]
        let mutation = &mut self.tables[at];
        mutation.sequence.push(kind.into());
        mutation
    }
}

/// P of a data transaction (spec 1.3).
#[must_use]
pub fn prewrite(start_ts: u64, key: Vec<u8>, value: Vec<u8>) -> Binlog {
    Binlog {
        tp: BinlogType::Prewrite.into(),
        start_ts: start_ts.cast_signed(),
        prewrite_key: Some(key.into()),
        prewrite_value: Some(value.into()),
        ..Binlog::default()
    }
}

/// P of a DDL.
#[must_use]
pub fn ddl_prewrite(start_ts: u64, key: Vec<u8>, query: &str, job: i64, schema_state: i32) -> Binlog {
    Binlog {
        tp: BinlogType::Prewrite.into(),
        start_ts: start_ts.cast_signed(),
        prewrite_key: Some(key.into()),
        ddl_query: Some(Bytes::copy_from_slice(query.as_bytes())),
        ddl_job_id: job,
        ddl_schema_state: schema_state,
        ..Binlog::default()
    }
}

/// C of a prewrite: the same message without its value.
#[must_use]
pub fn commit(prewrite: &Binlog, commit_ts: u64) -> Binlog {
    let tp = BinlogType::Commit.into();
    Binlog { tp, commit_ts: commit_ts.cast_signed(), prewrite_value: None, ..prewrite.clone() }
}

/// R of a prewrite.
#[must_use]
pub fn rollback(prewrite: &Binlog) -> Binlog {
    Binlog { tp: BinlogType::Rollback.into(), prewrite_value: None, ..prewrite.clone() }
}

/// What a Pump hands on of a P and its C.
#[must_use]
pub fn joined(prewrite: &Binlog, commit_ts: u64) -> Binlog {
    Binlog { tp: BinlogType::Commit.into(), commit_ts: commit_ts.cast_signed(), ..prewrite.clone() }
}

#[cfg(test)]
mod tests;
