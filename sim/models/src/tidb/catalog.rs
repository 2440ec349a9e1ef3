//! Databases and tables of one schema version, their random making, and their SQL.

use crate::rng::Rng;
use crate::types::{ColType, literal};
use binlog_core::codec::encode::Row;
use binlog_core::codec::value::tp;
use binlog_core::schema::model::{CiStr, ColumnInfo, FieldType, IndexColumn, IndexInfo, SchemaState, TableInfo};
use binlog_core::sink::sql::quote;
use binlog_core::sink::value::SqlValue;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The catalogue as of one schema version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schema {
    pub version: i64,
    /// Id → name.
    pub databases: BTreeMap<i64, String>,
    pub tables: BTreeMap<i64, Arc<Table>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub info: TableInfo,
    pub database: i64,
    /// By column id.
    pub types: BTreeMap<i64, ColType>,
    pub max_col: i64,
    pub max_index: i64,
}

/// What makes rows of a table unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// 0: the integer handle.
    pub id: i64,
    /// Column id and prefix (−1: whole).
    pub parts: Vec<(i64, i64)>,
    /// Its columns are the row's handle: an update of them is a delete and an insert.
    pub clustered: bool,
    /// Rows that were there before may still break it.
    pub building: bool,
}

impl Table {
    /// A random table with `columns` columns besides its keys.
    #[must_use]
    pub fn random(rng: &mut Rng, id: i64, database: i64, name: &str, columns: u64) -> Self {
        let info = TableInfo {
            id,
            name: CiStr::new(name),
            charset: "utf8mb4".to_owned(),
            collate: "utf8mb4_bin".to_owned(),
            state: SchemaState::PUBLIC,
            ..TableInfo::default()
        };
        let mut table = Self { info, database, types: BTreeMap::new(), max_col: 0, max_index: 0 };
        // 0 integer handle, 1 clustered, 2 primary key beside the row id, 3 unique keys only, 4 no key at all.
        let kind = rng.weighted(&[4, 3, 2, 2, 1]);
        match kind {
            0 => {
                let mut ty = ColType::plain([tp::LONG, tp::LONGLONG, tp::LONGLONG][rng.index(3)]);
                ty.unsigned = rng.percent(30);
                let at = table.add_column("id", ty, FieldType::NOT_NULL | FieldType::PRI_KEY);
                table.info.cols[at].state = SchemaState::PUBLIC;
                table.info.pk_is_handle = true;
            }
            1 | 2 => {
                for name in ["k1", "k2"].iter().take(1 + rng.index(2)) {
                    table.add_column(name, ColType::random_key(rng), FieldType::NOT_NULL | FieldType::PRI_KEY);
                }
                table.info.is_common_handle = kind == 1;
                let mut columns: Vec<usize> = (0..table.info.cols.len()).collect();
                if rng.percent(40) {
                    columns.reverse();
                }
                table.add_index("PRIMARY", &columns, true, rng.percent(20).then_some(3));
                table.info.index_info[0].is_primary = true;
            }
            _ => {}
        }
        for n in 0..columns {
            let at = table.add_column(&format!("c{n}"), ColType::random(rng), 0);
            if rng.percent(30) {
                table.randomise_default(rng, at);
            }
        }
        if rng.percent(25) {
            table.add_generated(rng);
        }
        if kind != 4 {
            for n in 0..[0, 1, 1, 2][rng.index(4)] + usize::from(kind == 3) {
                if let Some(columns) = table.unique_columns(rng) {
                    table.add_index(&format!("u{n}"), &columns, true, rng.percent(30).then_some(2));
                }
            }
        }
        table.fix_offsets();
        table
    }

    /// At the end, public; gives its position.
    pub fn add_column(&mut self, name: &str, ty: ColType, flag: u32) -> usize {
        self.max_col += 1;
        let column = ColumnInfo {
            id: self.max_col,
            name: CiStr::new(name),
            field_type: ty.field_type(flag),
            state: SchemaState::PUBLIC,
            version: 2,
            ..ColumnInfo::default()
        };
        self.types.insert(column.id, ty);
        self.info.cols.push(column);
        self.fix_offsets();
        self.info.cols.len() - 1
    }

    /// A literal default, and NOT NULL perhaps.
    pub fn randomise_default(&mut self, rng: &mut Rng, at: usize) {
        let column = &mut self.info.cols[at];
        let ty = &self.types[&column.id];
        if !ty.takes_default() {
            return;
        }
        let value = ty.random_value(rng, 1000);
        let text = match (&value, ty.tp) {
            (SqlValue::UInt(n), tp::ENUM) => ty.elems[usize::try_from(*n - 1).unwrap_or(0)].clone(),
            (SqlValue::UInt(mask), tp::SET) => {
                let named = ty.elems.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
                named.map(|(_, e)| e.clone()).collect::<Vec<_>>().join(",")
            }
            (SqlValue::Int(n), _) => n.to_string(),
            (SqlValue::UInt(n), _) => n.to_string(),
            (SqlValue::Double(n), _) => n.to_string(),
            (SqlValue::Text(text) | SqlValue::Bytes(text), _) => String::from_utf8_lossy(text).into_owned(),
            (SqlValue::Null, _) => return,
        };
        column.default = Value::from(text.clone());
        column.origin_default = Value::from(text);
        if rng.percent(50) {
            column.field_type.flag |= FieldType::NOT_NULL;
        }
    }

    fn add_generated(&mut self, rng: &mut Rng) {
        let small = |c: &&ColumnInfo| {
            let ty = &self.types[&c.id];
            ty.is_integer() && ty.tp != tp::LONGLONG && !ty.unsigned && !c.is_generated()
        };
        let Some(source) = self.info.cols.iter().find(small).map(|c| c.name.original.clone()) else { return };
        let plus = rng.range(1, 9);
        let at = self.add_column("g", ColType::plain(tp::LONGLONG), 0);
        self.info.cols[at].generated_expr_string = format!("{} + {plus}", quote(&source));
        self.info.cols[at].generated_stored = rng.percent(60);
    }

    /// One or two columns that can be a unique key.
    #[must_use]
    pub fn unique_columns(&self, rng: &mut Rng) -> Option<Vec<usize>> {
        let usable = |c: &ColumnInfo| {
            let ty = &self.types[&c.id];
            let kind = ty.is_integer()
                || matches!(
                    ty.tp,
                    tp::VARCHAR | tp::STRING | tp::DECIMAL | tp::DATETIME | tp::DATE | tp::DURATION | tp::TIMESTAMP
                );
            kind && c.is_public()
                && (!c.is_generated() || c.generated_stored)
                && c.field_type.flag & FieldType::PRI_KEY == 0
        };
        let mut usable: Vec<usize> = (0..self.info.cols.len()).filter(|at| usable(&self.info.cols[*at])).collect();
        rng.shuffle(&mut usable);
        usable.truncate(1 + rng.index(2));
        (!usable.is_empty()).then_some(usable)
    }

    /// `prefix` cuts the text columns of the index.
    pub fn add_index(&mut self, name: &str, columns: &[usize], unique: bool, prefix: Option<i64>) {
        self.max_index += 1;
        let part = |at: &usize| {
            let column = &self.info.cols[*at];
            let length = prefix.filter(|_| self.types[&column.id].is_string()).unwrap_or(-1);
            let offset = i64::try_from(*at).unwrap_or(0);
            IndexColumn { name: column.name.clone(), offset, length }
        };
        let idx_cols = columns.iter().map(part).collect();
        let (id, state) = (self.max_index, SchemaState::PUBLIC);
        let idx_name = CiStr::new(name);
        self.info.index_info.push(IndexInfo { id, idx_name, idx_cols, is_unique: unique, is_primary: false, state });
    }

    /// After columns were added, moved or removed.
    pub fn fix_offsets(&mut self) {
        for (at, column) in self.info.cols.iter_mut().enumerate() {
            column.offset = i64::try_from(at).unwrap_or(0);
        }
        for part in self.info.index_info.iter_mut().flat_map(|i| &mut i.idx_cols) {
            let at = self.info.cols.iter().position(|c| c.name.lower == part.name.lower);
            part.offset = i64::try_from(at.unwrap_or(0)).unwrap_or(0);
        }
    }

    /// Columns that users see, in order.
    pub fn public(&self) -> impl Iterator<Item = &ColumnInfo> {
        self.info.cols.iter().filter(|c| c.is_public())
    }

    /// Whether something is on its way in or out: TiDB with binlog refuses deletes and key changes then (spec recorded).
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.info.cols.iter().any(|c| !c.is_public())
    }

    #[must_use]
    pub fn is_in_index(&self, column: &ColumnInfo) -> bool {
        self.info.index_info.iter().flat_map(|i| &i.idx_cols).any(|p| p.name.lower == column.name.lower)
            || column.field_type.flag & FieldType::PRI_KEY != 0
    }

    /// Everything unique, also indexes that are on their way in or out.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        if self.info.pk_is_handle
            && let Some(column) = self.info.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0)
        {
            keys.push(Key { id: 0, parts: vec![(column.id, -1)], clustered: true, building: false });
        }
        for index in self.info.index_info.iter().filter(|i| i.is_unique) {
            let column = |name: &CiStr| self.info.cols.iter().find(|c| c.name.lower == name.lower).map_or(0, |c| c.id);
            let parts = index.idx_cols.iter().map(|p| (column(&p.name), p.length)).collect();
            let clustered = index.is_primary && self.info.is_common_handle;
            keys.push(Key { id: index.id, parts, clustered, building: index.state != SchemaState::PUBLIC });
        }
        keys
    }

    /// Whether some unique key can never be NULL.
    #[must_use]
    pub fn always_has_key(&self) -> bool {
        let not_null = |id: i64| self.info.cols.iter().any(|c| c.id == id && !c.field_type.is_nullable());
        self.keys().iter().any(|key| key.parts.iter().all(|(column, _)| not_null(*column)))
    }

    /// `None` when a part is NULL: it then equals nothing.
    #[must_use]
    pub fn key_of(&self, key: &Key, row: &Row) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (column, prefix) in &key.parts {
            let part = self.types.get(column)?.key(row.get(column)?, *prefix)?;
            out.extend((part.len() as u64).to_be_bytes());
            out.extend(part);
        }
        Some(out)
    }

    /// What TiDB shows for a column that a stored row lacks.
    #[must_use]
    pub fn origin_value(&self, column: &ColumnInfo) -> SqlValue {
        match (&column.origin_default, self.types.get(&column.id)) {
            (Value::String(text), Some(ty)) => {
                ty.convert(&SqlValue::Text(text.clone().into_bytes())).unwrap_or(SqlValue::Null)
            }
            _ => SqlValue::Null,
        }
    }

    /// Fills in what the row lacks and computes generated columns.
    pub fn complete(&self, row: &mut Row) {
        for column in self.info.cols.iter().filter(|c| !c.is_generated()) {
            row.entry(column.id).or_insert_with(|| self.origin_value(column));
        }
        // A shadow column of MODIFY COLUMN carries the cast value.
        for column in self.info.cols.iter().filter(|c| !c.is_public()) {
            let source = column.name.original.strip_prefix("_Col$_").and_then(|n| n.strip_suffix("_0"));
            let source = source.and_then(|name| self.info.cols.iter().find(|c| c.name.original == name));
            if let (Some(source), Some(ty)) = (source, self.types.get(&column.id)) {
                let old = row.get(&source.id).cloned().unwrap_or(SqlValue::Null);
                row.insert(column.id, ty.convert(&old).unwrap_or(SqlValue::Null));
            }
        }
        for column in self.info.cols.iter().filter(|c| c.is_generated()) {
            let value = self.generated(column, row);
            row.insert(column.id, value);
        }
    }

    fn generated(&self, column: &ColumnInfo, row: &Row) -> SqlValue {
        let Some((source, plus)) = parse_generated(&column.generated_expr_string) else { return SqlValue::Null };
        let source = self.info.cols.iter().find(|c| c.name.original == source);
        match source.and_then(|c| row.get(&c.id)) {
            Some(SqlValue::Int(n)) => SqlValue::Int(n + plus),
            _ => SqlValue::Null,
        }
    }

    /// Values of a new row; columns that are not public get their default.
    #[must_use]
    pub fn random_row(&self, rng: &mut Rng, spread: u64) -> Row {
        let mut row = Row::new();
        for column in self.public().filter(|c| !c.is_generated()) {
            row.insert(column.id, self.random_value(rng, column, spread));
        }
        self.complete(&mut row);
        row
    }

    #[must_use]
    pub fn random_value(&self, rng: &mut Rng, column: &ColumnInfo, spread: u64) -> SqlValue {
        if column.field_type.is_nullable() && rng.percent(25) {
            return SqlValue::Null;
        }
        self.types.get(&column.id).map_or(SqlValue::Null, |ty| ty.random_value(rng, spread))
    }

    /// `name type …` as in CREATE TABLE.
    #[must_use]
    pub fn column_sql(&self, column: &ColumnInfo) -> String {
        let ty = self.types.get(&column.id).map(ColType::sql).unwrap_or_default();
        let mut sql = format!("{} {ty}", quote(&column.name.original));
        if column.is_generated() {
            let kind = if column.generated_stored { "STORED" } else { "VIRTUAL" };
            return format!("{sql} GENERATED ALWAYS AS ({}) {kind}", column.generated_expr_string);
        }
        sql += if column.field_type.is_nullable() { " NULL" } else { " NOT NULL" };
        if let Value::String(text) = &column.default {
            sql += &format!(" DEFAULT {}", literal(text));
        }
        sql
    }

    #[must_use]
    pub fn index_sql(&self, index: &IndexInfo) -> String {
        let part = |p: &IndexColumn| match p.length {
            -1 => quote(&p.name.original),
            n => format!("{}({n})", quote(&p.name.original)),
        };
        let parts: Vec<String> = index.idx_cols.iter().map(part).collect();
        let clustered = if self.info.is_common_handle { "CLUSTERED" } else { "NONCLUSTERED" };
        match (index.is_primary, index.is_unique) {
            (true, _) => format!("PRIMARY KEY ({}) /*T![clustered_index] {clustered} */", parts.join(",")),
            (_, true) => format!("UNIQUE KEY {} ({})", quote(&index.idx_name.original), parts.join(",")),
            (_, false) => format!("KEY {} ({})", quote(&index.idx_name.original), parts.join(",")),
        }
    }

    #[must_use]
    pub fn create_sql(&self) -> String {
        let mut parts: Vec<String> = self.info.cols.iter().map(|c| self.column_sql(c)).collect();
        if self.info.pk_is_handle
            && let Some(c) = self.info.cols.iter().find(|c| c.field_type.flag & FieldType::PRI_KEY != 0)
        {
            parts.push(format!("PRIMARY KEY ({}) /*T![clustered_index] CLUSTERED */", quote(&c.name.original)));
        }
        parts.extend(self.info.index_info.iter().map(|i| self.index_sql(i)));
        format!("CREATE TABLE {} ({})", quote(&self.info.name.original), parts.join(","))
    }
}

/// `` `a` + 7 ``: the column and what is added.
#[must_use]
pub fn parse_generated(expression: &str) -> Option<(&str, i64)> {
    let (name, plus) = expression.split_once(" + ")?;
    Some((name.trim_matches('`'), plus.parse().ok()?))
}
