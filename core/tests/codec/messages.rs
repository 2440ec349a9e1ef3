//! Protobuf messages of the vector file.

use super::support::{bytes, hex, number, text};
use binlog_core::binlog::peek::peek;
use binlog_core::codec::CodecError;
use binlog_core::codec::mutation::{Mutation, PrewriteValue, RowChange};
use binlog_core::proto::binlog;
use prost::Message;
use serde_json::Value;

fn rows(raw: &[u8]) -> Result<(i64, Vec<RowChange<'_>>), CodecError> {
    let mutation = Mutation::decode(raw)?;
    Ok((mutation.table_id, mutation.rows().collect::<Result<_, _>>()?))
}

pub fn protobuf(v: &Value) {
    let raw = bytes(v, "hex");
    match text(v, "message") {
        "binlog.TableMutation" => {
            check_mutation(&raw);
            let message = binlog::TableMutation::decode(&raw[..]).unwrap();
            assert_eq!(hex(&message.encode_to_vec()), text(v, "hex"));
        }
        "binlog.PrewriteValue" => {
            let value = PrewriteValue::decode(&raw).unwrap();
            assert_eq!(value.schema_version, 30);
            let mutations: Vec<Mutation> = value.mutations().map(Result::unwrap).collect();
            let message = binlog::PrewriteValue::decode(&raw[..]).unwrap();
            assert_eq!(mutations.len(), message.mutations.len());
            message.mutations.iter().for_each(|m| check_mutation(&m.encode_to_vec()));
            assert_eq!(hex(&message.encode_to_vec()), text(v, "hex"));
        }
        "binlog.Binlog" => check_binlog(v, &raw),
        other => panic!("message {other}"),
    }
}

/// The mutation that all vectors carry.
fn check_mutation(raw: &[u8]) {
    let (table, rows) = rows(raw).unwrap();
    assert_eq!(table, 53);
    assert!(matches!(rows[..], [RowChange::Insert(_), RowChange::Update(_), RowChange::Delete(_)]));
}

fn check_binlog(v: &Value, raw: &[u8]) {
    let (seen, message) = (peek(raw).unwrap(), binlog::Binlog::decode(raw).unwrap());
    for (key, value) in v["fields"].as_object().unwrap() {
        let expected: i64 = if value.is_number() || value.as_str().is_some_and(|s| s.parse::<i64>().is_ok()) {
            number(&v["fields"], key)
        } else {
            0
        };
        let bytes = |b: &Option<bytes::Bytes>| b.as_ref().unwrap().to_vec();
        match key.as_str() {
            "tp" => assert_eq!((i64::from(seen.tp), i64::from(message.tp)), (expected, expected)),
            "start_ts" => assert_eq!((seen.start_ts, message.start_ts), (expected, expected)),
            "commit_ts" => assert_eq!((seen.commit_ts, message.commit_ts), (expected, expected)),
            "ddl_job_id" => assert_eq!((seen.ddl_job_id, message.ddl_job_id), (expected, expected)),
            "ddl_schema_state" => assert_eq!(i64::from(message.ddl_schema_state), expected),
            "prewrite_key" => assert_eq!(hex(&bytes(&message.prewrite_key)), value.as_str().unwrap()),
            "ddl_query" => assert_eq!(bytes(&message.ddl_query), value.as_str().unwrap().as_bytes()),
            "prewrite_value" => {
                let value = bytes(&message.prewrite_value);
                let value = PrewriteValue::decode(&value).unwrap();
                value.mutations().for_each(|m| assert_eq!(m.unwrap().rows().filter_map(Result::ok).count(), 3));
            }
            other => panic!("field {other}"),
        }
    }
    if !text(v, "description").contains("without field 8") {
        assert_eq!(hex(&message.encode_to_vec()), text(v, "hex"));
    }
}

pub fn protobuf_tolerated(v: &Value) {
    let raw = bytes(v, "hex");
    let expect = &v["expect"];
    if text(v, "message") == "binlog.TableMutation" {
        let (table, rows) = rows(&raw).unwrap();
        assert_eq!(table, number::<i64>(expect, "table_id"));
        assert!(matches!(rows[..], [RowChange::Insert(_)]) && expect["sequence"] == serde_json::json!([0]));
        return;
    }
    let seen = peek(&raw).unwrap();
    assert_eq!(i64::from(seen.tp), number::<i64>(expect, "tp"));
    assert_eq!((seen.start_ts, seen.commit_ts), (number(expect, "start_ts"), number(expect, "commit_ts")));
}

pub fn protobuf_invalid(v: &Value) {
    assert_eq!(text(v, "message"), "binlog.Binlog");
    assert!(peek(&bytes(v, "hex")).is_err());
}

pub fn sequence_invalid(v: &Value) {
    assert!(rows(&bytes(v, "hex")).is_err());
}
