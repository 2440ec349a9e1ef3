//! Keys, jobs and defaults of the vector file.

use super::support::{bytes, hex, number, show, text};
use binlog_core::binlog::ddl;
use binlog_core::codec::datum::{self, Datum};
use binlog_core::codec::default;
use binlog_core::codec::key::{self, Handle, Key, MetaPart};
use binlog_core::schema::model::{ColumnInfo, Job};
use serde_json::{Value, json};

pub fn key(v: &Value) {
    let raw = bytes(v, "hex");
    if v["handle"].is_string() {
        let (table, handle) = (number(v, "table_id"), number(v, "handle"));
        assert_eq!(hex(&key::record(table, handle)), text(v, "hex"));
        assert_eq!(key::parse(&raw).unwrap(), Key::Record { table, handle: Handle::Int(handle) });
    } else if v["raw_hex"].is_string() {
        assert_eq!(hex(&key::region(&bytes(v, "raw_hex"))), text(v, "hex"));
        assert_eq!(key::from_region(&raw).unwrap(), bytes(v, "raw_hex"));
    } else {
        assert!(text(v, "description").contains("table 60, PK (varchar \"abc\", bigint 7)"));
        let mut handle = Vec::new();
        datum::encode_key(&mut handle, &Datum::Bytes(b"abc".as_slice().into()));
        datum::encode_key(&mut handle, &Datum::Int(7));
        assert_eq!(hex(&key::record_common(60, &handle)), text(v, "hex"));
        assert_eq!(key::parse(&raw).unwrap(), Key::Record { table: 60, handle: Handle::Common(&handle) });
    }
}

pub fn meta_key(v: &Value) {
    let raw = bytes(v, "hex");
    if v["job_id"].is_number() {
        let job = number(v, "job_id");
        assert_eq!(hex(&key::history_job(job)), text(v, "hex"));
        assert_eq!(key::history_job_id(&raw), Some(job));
        return;
    }
    let field = |field: &str| MetaPart::HashField(field.as_bytes().to_vec());
    let (name, part) = match text(v, "description") {
        "hash range start for scanning DDLJobHistory" => {
            assert_eq!(key::history_range().0, raw);
            return;
        }
        "string SchemaVersionKey" => ("SchemaVersionKey", MetaPart::String),
        "string NextGlobalID" => ("NextGlobalID", MetaPart::String),
        "hash DBs, field DB:1" => ("DBs", field("DB:1")),
        "hash DB:1, field Table:53" => ("DB:1", field("Table:53")),
        "hash DB:1, field TID:53 (auto id)" => ("DB:1", field("TID:53")),
        "list meta DDLJobList" => ("DDLJobList", MetaPart::ListMeta),
        "list item 0 of DDLJobList" => ("DDLJobList", MetaPart::ListItem(0)),
        "string Diff:100 (schema diff)" => ("Diff:100", MetaPart::String),
        other => panic!("meta key {other}"),
    };
    let name = name.as_bytes();
    let encoded = match &part {
        MetaPart::String => key::meta_string(name),
        MetaPart::HashField(field) => key::meta_hash_field(name, field),
        MetaPart::ListMeta => key::meta_list(name),
        MetaPart::ListItem(index) => key::meta_list_item(name, *index),
        MetaPart::HashMeta => panic!("old data only"),
    };
    assert_eq!(hex(&encoded), text(v, "hex"));
    assert_eq!(key::parse(&raw).unwrap(), Key::Meta { name: name.to_vec(), part });
}

pub fn job_json(v: &Value) {
    let job = Job::parse(text(v, "json").as_bytes()).unwrap();
    let table = job.binlog.table_info.as_ref();
    let names = |columns: &[ColumnInfo]| columns.iter().map(|c| c.name.original.clone()).collect::<Vec<_>>();
    for (key, expected) in v["expect"].as_object().unwrap() {
        let got = match key.as_str() {
            "id" => json!(job.id),
            "type" => json!(job.action.0),
            "state" => json!(job.state.0),
            "schema_version" => json!(job.version().raw()),
            "table_id" => json!(table.unwrap().id),
            "table_name" => json!(table.unwrap().name.original),
            "pk_is_handle" => json!(table.unwrap().pk_is_handle),
            "is_common_handle" => json!(table.unwrap().is_common_handle),
            "columns" => json!(names(&table.unwrap().cols)),
            "unsigned" => {
                json!(table.unwrap().cols.iter().map(|c| c.field_type.is_unsigned()).collect::<Vec<_>>())
            }
            "pk_columns" => {
                let primary = table.unwrap().index_info.iter().find(|i| i.is_primary).unwrap();
                json!(primary.idx_cols.iter().map(|c| c.offset).collect::<Vec<_>>())
            }
            "db_name" => json!(job.binlog.db_info.as_ref().unwrap().db_name.original),
            "db_name_lower" => json!(job.binlog.db_info.as_ref().unwrap().db_name.lower),
            other => panic!("job property {other}"),
        };
        assert_eq!(&got, expected, "{key}");
    }
}

pub fn default_value(v: &Value) {
    let column: ColumnInfo = serde_json::from_value(v["column"].clone()).unwrap();
    assert_eq!(show(&default::missing(&column, &column).unwrap()), v["expect"]);
}

pub fn sequence_pseudo_ddl(v: &Value) {
    assert_eq!(ddl::is_setval(text(v, "query").as_bytes()), v["skip"] == true);
}
