//! TiDB's schema objects and DDL jobs as their JSON holds them (spec codec 8.3, 8.4). Unknown keys are ignored, missing
//! keys take their default, `null` counts as missing.

use crate::ids::SchemaVersion;
use serde::{Deserialize, Deserializer, Serialize, de};

/// `null` or a missing key gives the default.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A name with its lower-cased form; very old data has a plain string.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CiStr {
    #[serde(rename = "O")]
    pub original: String,
    #[serde(rename = "L")]
    pub lower: String,
}

impl CiStr {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { original: name.to_owned(), lower: name.to_lowercase() }
    }
}

impl<'de> Deserialize<'de> for CiStr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            #[serde(rename = "O", default, deserialize_with = "nullable")]
            original: String,
            #[serde(rename = "L", default, deserialize_with = "nullable")]
            lower: String,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Parts(Parts),
            Plain(String),
        }
        match Option::<Form>::deserialize(d).map_err(de::Error::custom)? {
            None => Ok(Self::default()),
            Some(Form::Parts(p)) => Ok(Self { original: p.original, lower: p.lower }),
            Some(Form::Plain(name)) => Ok(Self::new(&name)),
        }
    }
}

/// State of a schema object (spec codec 8.6). Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaState(pub i64);

impl SchemaState {
    pub const NONE: Self = Self(0);
    pub const DELETE_ONLY: Self = Self(1);
    pub const WRITE_ONLY: Self = Self(2);
    pub const WRITE_REORG: Self = Self(3);
    pub const DELETE_REORG: Self = Self(4);
    pub const PUBLIC: Self = Self(5);
}

/// State of a DDL job (spec codec 8.6). Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobState(pub i64);

impl JobState {
    pub const DONE: Self = Self(4);
    pub const SYNCED: Self = Self(6);

    /// Only jobs in these states took effect.
    #[must_use]
    pub fn took_effect(self) -> bool {
        self == Self::DONE || self == Self::SYNCED
    }
}

/// Kind of a DDL job (spec codec 8.5). Unknown numbers are kept, never rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionType(pub i64);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Job {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub action: ActionType,
    #[serde(default, deserialize_with = "nullable")]
    pub schema_id: i64,
    /// For TRUNCATE the old id.
    #[serde(default, deserialize_with = "nullable")]
    pub table_id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub schema_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub table_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub state: JobState,
    #[serde(default, deserialize_with = "nullable")]
    pub raw_args: serde_json::Value,
    #[serde(default, deserialize_with = "nullable")]
    pub schema_state: SchemaState,
    #[serde(default, deserialize_with = "nullable")]
    pub start_ts: u64,
    #[serde(default, deserialize_with = "nullable")]
    pub query: String,
    #[serde(default, deserialize_with = "nullable")]
    pub binlog: HistoryInfo,
    #[serde(default, deserialize_with = "nullable")]
    pub reorg_meta: serde_json::Value,
    #[serde(default, deserialize_with = "nullable")]
    pub multi_schema_info: Option<MultiSchemaInfo>,
}

impl Job {
    /// Parses the JSON of the history; the error names the position.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.binlog.schema_version
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MultiSchemaInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub sub_jobs: Vec<SubJob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SubJob {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub action: ActionType,
    #[serde(default, deserialize_with = "nullable")]
    pub raw_args: serde_json::Value,
    #[serde(default, deserialize_with = "nullable")]
    pub schema_state: SchemaState,
}

/// `binlog` of a job: what the schema is after it. The keys are untagged Go names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryInfo {
    /// 0: the job never took effect.
    #[serde(default, rename = "SchemaVersion", deserialize_with = "nullable")]
    pub schema_version: SchemaVersion,
    #[serde(default, rename = "DBInfo", deserialize_with = "nullable")]
    pub db_info: Option<DbInfo>,
    #[serde(default, rename = "TableInfo", deserialize_with = "nullable")]
    pub table_info: Option<TableInfo>,
    /// start_ts of the transaction that finished the job.
    #[serde(default, rename = "FinishedTS", deserialize_with = "nullable")]
    pub finished_ts: u64,
    #[serde(default, rename = "MultipleTableInfos", deserialize_with = "nullable")]
    pub multiple_table_infos: Vec<Option<TableInfo>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DbInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub db_name: CiStr,
    #[serde(default, deserialize_with = "nullable")]
    pub charset: String,
    #[serde(default, deserialize_with = "nullable")]
    pub collate: String,
    #[serde(default, deserialize_with = "nullable")]
    pub state: SchemaState,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub name: CiStr,
    #[serde(default, deserialize_with = "nullable")]
    pub charset: String,
    #[serde(default, deserialize_with = "nullable")]
    pub collate: String,
    #[serde(default, deserialize_with = "nullable")]
    pub cols: Vec<ColumnInfo>,
    #[serde(default, deserialize_with = "nullable")]
    pub index_info: Vec<IndexInfo>,
    #[serde(default, deserialize_with = "nullable")]
    pub state: SchemaState,
    /// The one integer primary-key column is the row's handle.
    #[serde(default, deserialize_with = "nullable")]
    pub pk_is_handle: bool,
    /// Clustered primary key of another kind: the handle is the primary index's columns.
    #[serde(default, deserialize_with = "nullable")]
    pub is_common_handle: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub partition: Option<PartitionInfo>,
    #[serde(default, deserialize_with = "nullable")]
    pub view: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub sequence: Option<serde_json::Value>,
    /// 0 none, 1 global, 2 local.
    #[serde(default, deserialize_with = "nullable")]
    pub temp_table_type: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub definitions: Vec<PartitionDefinition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionDefinition {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub name: CiStr,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ColumnInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub name: CiStr,
    #[serde(default, deserialize_with = "nullable")]
    pub offset: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub origin_default: serde_json::Value,
    /// base64 (BIT).
    #[serde(default, deserialize_with = "nullable")]
    pub origin_default_bit: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub default: serde_json::Value,
    #[serde(default, deserialize_with = "nullable")]
    pub default_bit: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub generated_expr_string: String,
    #[serde(default, deserialize_with = "nullable")]
    pub generated_stored: bool,
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub field_type: FieldType,
    #[serde(default, deserialize_with = "nullable")]
    pub state: SchemaState,
    #[serde(default, deserialize_with = "nullable")]
    pub hidden: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub version: u64,
}

impl ColumnInfo {
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.state == SchemaState::PUBLIC
    }

    /// DEFAULT CURRENT_TIMESTAMP, with or without fraction digits.
    #[must_use]
    pub fn defaults_to_now(&self) -> bool {
        let text = self.default.as_str().unwrap_or_default();
        text.get(..NOW.len()).is_some_and(|head| head.eq_ignore_ascii_case(NOW))
    }

    #[must_use]
    pub fn is_generated(&self) -> bool {
        !self.generated_expr_string.is_empty()
    }
}

const NOW: &str = "CURRENT_TIMESTAMP";

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FieldType {
    /// Type code (spec codec 4.1).
    #[serde(default, deserialize_with = "nullable")]
    pub tp: u8,
    /// Flag bits (spec codec 4.1).
    #[serde(default, deserialize_with = "nullable")]
    pub flag: u32,
    /// −1: unspecified.
    #[serde(default, deserialize_with = "nullable")]
    pub flen: i64,
    /// Scale or fsp; −1: unspecified.
    #[serde(default, deserialize_with = "nullable")]
    pub decimal: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub charset: String,
    #[serde(default, deserialize_with = "nullable")]
    pub collate: String,
    #[serde(default, deserialize_with = "nullable")]
    pub elems: Vec<String>,
}

impl FieldType {
    pub const NOT_NULL: u32 = 1;
    pub const PRI_KEY: u32 = 1 << 1;
    pub const UNSIGNED: u32 = 1 << 5;

    #[must_use]
    pub const fn is_unsigned(&self) -> bool {
        self.flag & Self::UNSIGNED != 0
    }

    #[must_use]
    pub const fn is_nullable(&self) -> bool {
        self.flag & Self::NOT_NULL == 0
    }

    /// Raw bytes, not text.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.charset.eq_ignore_ascii_case("binary")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IndexInfo {
    #[serde(default, deserialize_with = "nullable")]
    pub id: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub idx_name: CiStr,
    #[serde(default, deserialize_with = "nullable")]
    pub idx_cols: Vec<IndexColumn>,
    #[serde(default, deserialize_with = "nullable")]
    pub is_unique: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub is_primary: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub state: SchemaState,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IndexColumn {
    #[serde(default, deserialize_with = "nullable")]
    pub name: CiStr,
    /// Position in `cols`.
    #[serde(default, deserialize_with = "nullable")]
    pub offset: i64,
    /// −1: the whole column.
    #[serde(default, deserialize_with = "nullable")]
    pub length: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Go takes `null` for any field, and writes it for empty lists and pointers.
    #[test]
    fn null_counts_as_missing() {
        let nulls = |value: serde_json::Value| match value {
            serde_json::Value::Object(map) => map.into_iter().map(|(k, _)| (k, serde_json::Value::Null)).collect(),
            other => panic!("{other} is no object"),
        };
        fn same<T: Default + PartialEq + Serialize + de::DeserializeOwned + std::fmt::Debug>(
            nulls: impl Fn(serde_json::Value) -> serde_json::Value,
        ) {
            let written = serde_json::to_value(T::default()).unwrap();
            assert_eq!(serde_json::from_value::<T>(nulls(written.clone())).unwrap(), T::default(), "{written}");
            assert_eq!(serde_json::from_value::<T>(written).unwrap(), T::default());
            assert_eq!(serde_json::from_str::<T>("{\"unknown\": [1]}").unwrap(), T::default());
        }
        same::<Job>(nulls);
        same::<SubJob>(nulls);
        same::<HistoryInfo>(nulls);
        same::<DbInfo>(nulls);
        same::<TableInfo>(nulls);
        same::<PartitionDefinition>(nulls);
        same::<ColumnInfo>(nulls);
        same::<FieldType>(nulls);
        same::<IndexInfo>(nulls);
        same::<IndexColumn>(nulls);
        same::<CiStr>(nulls);
    }
}
