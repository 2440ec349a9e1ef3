//! A binlog as text, and what TiKV knows about its primary key, for `GET /debug/binlog/{ts}` (spec pump 5): the compact text form
//! of protobuf as Go's library writes it, with a space after each field. Of proto2 messages (binlogs) the non-nullable fields are
//! always shown; of proto3 messages (TiKV's) fields that are zero or empty never.

use crate::proto::binlog::{Binlog, BinlogType, MutationType, PrewriteValue, TableMutation};
use crate::proto::kvrpcpb::{MvccGetByKeyResponse, MvccInfo, MvccLock, MvccValue, MvccWrite, Op};
use prost::Message;
use std::fmt::{Display, Write};

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

/// What follows [`describe`] when the binlog names a primary key: TiKV's answer about its versions, values included, or why
/// there is none.
#[must_use]
pub fn describe_versions<E: Display>(answer: &Result<MvccGetByKeyResponse, E>) -> String {
    match answer {
        Ok(reply) => format!("\n\n GetMvccByEncodedKey: \n{}", reply_text(reply)),
        Err(error) => format!("\n\nGetMvccByEncodedKey failed: {error}"),
    }
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
        nested(&mut out, "mutations", |out| mutation_text(out, mutation));
    }
    out
}

fn mutation_text(out: &mut String, mutation: &TableMutation) {
    number(out, "table_id", mutation.table_id);
    for row in &mutation.inserted_rows {
        bytes(out, "inserted_rows", row);
    }
    for row in &mutation.updated_rows {
        bytes(out, "updated_rows", row);
    }
    for id in &mutation.deleted_ids {
        number(out, "deleted_ids", *id);
    }
    for pk in &mutation.deleted_pks {
        bytes(out, "deleted_pks", pk);
    }
    for row in &mutation.deleted_rows {
        bytes(out, "deleted_rows", row);
    }
    for kind in &mutation.sequence {
        let name = MutationType::try_from(*kind).ok().map(|kind| kind.as_str_name());
        number_or_name(out, "sequence", *kind, name);
    }
}

/// A region error never comes here: the client follows it, or fails.
fn reply_text(reply: &MvccGetByKeyResponse) -> String {
    let mut out = String::new();
    set_bytes(&mut out, "error", reply.error.as_bytes());
    if let Some(info) = &reply.info {
        nested(&mut out, "info", |out| info_text(out, info));
    }
    out
}

fn info_text(out: &mut String, info: &MvccInfo) {
    if let Some(lock) = &info.lock {
        nested(out, "lock", |out| lock_text(out, lock));
    }
    for write in &info.writes {
        nested(out, "writes", |out| write_text(out, write));
    }
    for MvccValue { start_ts, value } in &info.values {
        nested(out, "values", |out| {
            set_number(out, "start_ts", *start_ts);
            set_bytes(out, "value", value);
        });
    }
}

fn lock_text(out: &mut String, lock: &MvccLock) {
    set_op(out, lock.r#type);
    set_number(out, "start_ts", lock.start_ts);
    set_bytes(out, "primary", &lock.primary);
    set_bytes(out, "short_value", &lock.short_value);
    set_number(out, "ttl", lock.ttl);
    set_number(out, "for_update_ts", lock.for_update_ts);
    set_number(out, "txn_size", lock.txn_size);
    set_flag(out, "use_async_commit", lock.use_async_commit);
    for key in &lock.secondaries {
        bytes(out, "secondaries", key);
    }
    for ts in &lock.rollback_ts {
        let _ = write!(out, "rollback_ts:{ts} ");
    }
    set_number(out, "last_change_ts", lock.last_change_ts);
    set_number(out, "versions_to_last_change", lock.versions_to_last_change);
}

fn write_text(out: &mut String, write: &MvccWrite) {
    set_op(out, write.r#type);
    set_number(out, "start_ts", write.start_ts);
    set_number(out, "commit_ts", write.commit_ts);
    set_bytes(out, "short_value", &write.short_value);
    set_flag(out, "has_overlapped_rollback", write.has_overlapped_rollback);
    set_flag(out, "has_gc_fence", write.has_gc_fence);
    set_number(out, "gc_fence", write.gc_fence);
    set_number(out, "last_change_ts", write.last_change_ts);
    set_number(out, "versions_to_last_change", write.versions_to_last_change);
}

fn nested(out: &mut String, name: &str, fill: impl FnOnce(&mut String)) {
    out.push_str(name);
    out.push_str(":<");
    fill(out);
    out.push_str("> ");
}

fn set_op(out: &mut String, op: i32) {
    // `Put` is 0, so it is left out as every zero.
    if op != 0 {
        number_or_name(out, "type", op, Op::try_from(op).ok().map(|op| op.as_str_name()));
    }
}

fn set_number(out: &mut String, name: &str, value: u64) {
    if value != 0 {
        let _ = write!(out, "{name}:{value} ");
    }
}

fn set_flag(out: &mut String, name: &str, value: bool) {
    if value {
        let _ = write!(out, "{name}:true ");
    }
}

fn set_bytes(out: &mut String, name: &str, value: &[u8]) {
    if !value.is_empty() {
        bytes(out, name, value);
    }
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
    #[test]
    fn versions() {
        let text = |reply: MvccGetByKeyResponse| describe_versions::<String>(&Ok(reply));
        let head = "\n\n GetMvccByEncodedKey: \n";
        let info = MvccInfo {
            lock: Some(MvccLock {
                r#type: Op::Del as i32,
                start_ts: 9,
                primary: Bytes::from_static(b"t\x01"),
                ttl: 3000,
                use_async_commit: true,
                rollback_ts: vec![7, 8],
                ..MvccLock::default()
            }),
            writes: vec![
                MvccWrite {
                    start_ts: 5,
                    commit_ts: 6,
                    short_value: Bytes::from_static(b"a\x80"),
                    has_overlapped_rollback: true,
                    ..MvccWrite::default()
                },
                MvccWrite { r#type: 99, start_ts: 3, commit_ts: 3, ..MvccWrite::default() },
            ],
            values: vec![MvccValue { start_ts: 5, value: Bytes::from_static(b"long") }],
        };
        let want = concat!(
            r#"info:<lock:<type:Del start_ts:9 primary:"t\001" ttl:3000 use_async_commit:true rollback_ts:7 rollback_ts:8 > "#,
            r#"writes:<start_ts:5 commit_ts:6 short_value:"a\200" has_overlapped_rollback:true > "#,
            r#"writes:<type:99 start_ts:3 commit_ts:3 > values:<start_ts:5 value:"long" > > "#
        );
        let known = MvccGetByKeyResponse { info: Some(info), ..MvccGetByKeyResponse::default() };
        assert_eq!(text(known), format!("{head}{want}"));
        let nothing = MvccGetByKeyResponse { info: Some(MvccInfo::default()), ..MvccGetByKeyResponse::default() };
        assert_eq!(text(nothing), format!("{head}info:<> "));
        let error = MvccGetByKeyResponse { error: "a \"b\"".to_owned(), ..MvccGetByKeyResponse::default() };
        assert_eq!(text(error), format!("{head}{}", r#"error:"a \"b\"" "#));
        let failed = describe_versions(&Err("TiKV is away"));
        assert_eq!(failed, "\n\nGetMvccByEncodedKey failed: TiKV is away");
    }
}
