//! A binlog as text, for `GET /debug/binlog/{ts}` (spec pump 5): the compact text form of protobuf as Go's library writes it, with
//! a space after each field and proto2's non-nullable fields always shown.

use crate::proto::binlog::{Binlog, BinlogType, MutationType, PrewriteValue};
use prost::Message;
use std::fmt::Write;

/// The answer for one stored payload: the binlog, then its prewrite value, decoded.
#[must_use]
pub fn describe(payload: &[u8]) -> String {
    let binlog = match Binlog::decode(payload) {
        Ok(binlog) => binlog,
        Err(error) => return format!("the stored binlog does not decode: {error}"),
    };
    let mut out = binlog_text(&binlog);
    if let Some(value) = &binlog.prewrite_value {
        out.push_str("\n\n PrewriteValue: \n");
        match PrewriteValue::decode(value.as_ref()) {
            Ok(value) => out.push_str(&value_text(&value)),
            Err(error) => {
                let _ = write!(out, "does not decode: {error}");
            }
        }
    }
    out
}

fn binlog_text(binlog: &Binlog) -> String {
    let mut out = String::new();
    number_or_name(&mut out, "tp", binlog.tp, BinlogType::try_from(binlog.tp).ok().map(|tp| tp.as_str_name()));
    number(&mut out, "start_ts", binlog.start_ts);
    number(&mut out, "commit_ts", binlog.commit_ts);
    for (name, value) in [
        ("prewrite_key", &binlog.prewrite_key),
        ("prewrite_value", &binlog.prewrite_value),
        ("ddl_query", &binlog.ddl_query),
    ] {
        if let Some(value) = value {
            bytes(&mut out, name, value);
        }
    }
    number(&mut out, "ddl_job_id", binlog.ddl_job_id);
    number(&mut out, "ddl_schema_state", i64::from(binlog.ddl_schema_state));
    out
}

fn value_text(value: &PrewriteValue) -> String {
    let mut out = String::new();
    number(&mut out, "schema_version", value.schema_version);
    for mutation in &value.mutations {
        out.push_str("mutations:<");
        number(&mut out, "table_id", mutation.table_id);
        for row in &mutation.inserted_rows {
            bytes(&mut out, "inserted_rows", row);
        }
        for row in &mutation.updated_rows {
            bytes(&mut out, "updated_rows", row);
        }
        for id in &mutation.deleted_ids {
            number(&mut out, "deleted_ids", *id);
        }
        for pk in &mutation.deleted_pks {
            bytes(&mut out, "deleted_pks", pk);
        }
        for row in &mutation.deleted_rows {
            bytes(&mut out, "deleted_rows", row);
        }
        for kind in &mutation.sequence {
            let name = MutationType::try_from(*kind).ok().map(|kind| kind.as_str_name());
            number_or_name(&mut out, "sequence", *kind, name);
        }
        out.push_str("> ");
    }
    out
}

// Writing to a string cannot fail.
fn number(out: &mut String, name: &str, value: i64) {
    let _ = write!(out, "{name}:{value} ");
}

fn number_or_name(out: &mut String, name: &str, value: i32, text: Option<&str>) {
    match text {
        Some(text) => {
            let _ = write!(out, "{name}:{text} ");
        }
        None => number(out, name, i64::from(value)),
    }
}

/// Printable ASCII as it is, the rest as octal.
fn bytes(out: &mut String, name: &str, value: &[u8]) {
    let _ = write!(out, "{name}:\"");
    for byte in value {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x20..0x7f => out.push(char::from(*byte)),
            other => {
                let _ = write!(out, "\\{other:03o}");
            }
        }
    }
    out.push_str("\" ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binlog::TableMutation;
    use bytes::Bytes;

    #[test]
    fn texts() {
        let value = PrewriteValue {
            schema_version: 7,
            mutations: vec![TableMutation {
                table_id: 45,
                inserted_rows: vec![Bytes::from_static(b"a\x80")],
                sequence: vec![0, 9],
                ..TableMutation::default()
            }],
        };
        let p = Binlog {
            tp: 0,
            start_ts: 5,
            prewrite_key: Some(Bytes::from_static(b"t\x00\n\"\\\xff")),
            prewrite_value: Some(value.encode_to_vec().into()),
            ..Binlog::default()
        };
        let text = describe(&p.encode_to_vec());
        let (head, tail) = text.split_once("\n\n PrewriteValue: \n").unwrap();
        assert!(
            head.starts_with(r#"tp:Prewrite start_ts:5 commit_ts:0 prewrite_key:"t\000\n\"\\\377" prewrite_value:""#)
        );
        assert!(head.ends_with("ddl_job_id:0 ddl_schema_state:0 "), "{head}");
        assert_eq!(
            tail,
            "schema_version:7 mutations:<table_id:45 inserted_rows:\"a\\200\" sequence:Insert sequence:9 > "
        );
        let c = Binlog { tp: 1, start_ts: 5, commit_ts: 6, ..Binlog::default() };
        let want = "tp:Commit start_ts:5 commit_ts:6 ddl_job_id:0 ddl_schema_state:0 ";
        assert_eq!(describe(&c.encode_to_vec()), want);
        assert!(describe(&[0xff]).contains("does not decode"));
        let broken = Binlog { prewrite_value: Some(Bytes::from_static(b"\xff")), ..Binlog::default() };
        assert!(describe(&broken.encode_to_vec()).contains("PrewriteValue: \ndoes not decode"));
    }
}
