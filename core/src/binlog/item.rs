//! Payloads that a Pump makes itself: fakes, and the item of a stream (rules 5).

use super::peek::{COMMIT_TS, DDL_JOB_ID, DDL_SCHEMA_STATE, START_TS, TP};
use super::wire::{Fields, put_varint};
use crate::ids::{CommitTs, StartTs};
use crate::proto::binlog::BinlogType;
use crate::time::Tso;
use bytes::Bytes;

/// A fake binlog: tp Rollback, start_ts = commit_ts = `ts`; the zero DDL fields are written out, as the original does.
#[must_use]
pub fn fake(ts: Tso) -> Bytes {
    let mut out = Vec::with_capacity(MAX_FAKE);
    put_field(&mut out, TP, tp(BinlogType::Rollback));
    put_field(&mut out, START_TS, ts.raw());
    put_field(&mut out, COMMIT_TS, ts.raw());
    put_field(&mut out, DDL_JOB_ID, 0);
    put_field(&mut out, DDL_SCHEMA_STATE, 0);
    out.into()
}

/// A verdict as the original's Pump writes it: C, or R with a commit_ts of 0; the zero DDL fields are written out.
#[must_use]
pub fn verdict(start_ts: StartTs, commit_ts: Option<CommitTs>) -> Bytes {
    let kind = if commit_ts.is_some() { BinlogType::Commit } else { BinlogType::Rollback };
    let mut out = Vec::with_capacity(MAX_FAKE);
    put_field(&mut out, TP, tp(kind));
    put_field(&mut out, START_TS, start_ts.raw());
    put_field(&mut out, COMMIT_TS, commit_ts.map_or(0, CommitTs::raw));
    put_field(&mut out, DDL_JOB_ID, 0);
    put_field(&mut out, DDL_SCHEMA_STATE, 0);
    out.into()
}

/// What is appended to stored P bytes to make the item of a stream: `tp` Commit and `commit_ts` (in protobuf the last value
/// wins), and the fields of C that we do not know. Never C's DDL fields: a Pump-written C has explicit zeros there.
#[must_use]
pub fn commit_suffix(commit_ts: CommitTs, unknown_of_c: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(MAX_FAKE.saturating_add(unknown_of_c.len()));
    put_field(&mut out, TP, tp(BinlogType::Commit));
    put_field(&mut out, COMMIT_TS, commit_ts.raw());
    out.extend_from_slice(unknown_of_c);
    out.into()
}

/// The fields of a payload that our message does not know, concatenated as they stand. For payloads that `peek` accepted;
/// of one with broken framing nothing is taken, so that the result can always be appended.
#[must_use]
pub fn unknown_fields(payload: &[u8]) -> Bytes {
    let mut out = Vec::new();
    for field in Fields::new(payload) {
        let Ok(field) = field else { return Bytes::new() };
        if !(TP..=DDL_SCHEMA_STATE).contains(&field.number) {
            out.extend_from_slice(payload.get(field.start..field.end).unwrap_or_default());
        }
    }
    out.into()
}

fn tp(kind: BinlogType) -> u64 {
    i64::from(i32::from(kind)).cast_unsigned()
}

fn put_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number << 3));
    put_varint(out, value);
}

/// Five one-byte keys, two timestamps of at most 10 bytes, three small numbers.
const MAX_FAKE: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::peek::{Peek, peek};
    use crate::proto::binlog::Binlog;
    use base64::{Engine, prelude::BASE64_STANDARD};
    use prost::Message;

    /// Bytes that a Go Pump stored and served (a real cluster's, and the vector of the codec specification).
    #[test]
    fn fake_is_what_the_original_writes() {
        let recorded = BASE64_STANDARD.decode("CAIQgYCQoLX3+8MGGIGAkKC19/vDBjgAQAA=").unwrap();
        assert_eq!(fake(Tso::new(470_608_273_930_977_281))[..], recorded);
        let vector = BASE64_STANDARD.decode("CAIQgYCwz9OH6tcFGIGAsM/Th+rXBTgAQAA=").unwrap();
        let ts = 409_731_072_032_243_713;
        assert_eq!(hex(&fake(Tso::new(ts))), "0802108180b0cfd387ead705188180b0cfd387ead70538004000");
        assert_eq!(fake(Tso::new(ts))[..], vector);
        let seen = peek(&fake(Tso::new(u64::MAX >> 1))).unwrap();
        assert!(seen.is_fake() && seen.tp == 2 && !seen.unknown_fields);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn suffix_turns_a_prewrite_into_the_item() {
        let p = Binlog {
            tp: 0,
            start_ts: 7,
            commit_ts: 0,
            prewrite_key: Some(Bytes::from_static(b"k")),
            prewrite_value: Some(Bytes::from_static(b"v")),
            ddl_query: Some(Bytes::from_static(b"alter")),
            ddl_job_id: 71,
            ddl_schema_state: 1,
        };
        let mut item = p.encode_to_vec();
        item.extend_from_slice(&commit_suffix(CommitTs::new(9), &[0xa0, 0x01, 0x01]));
        let expected = Peek { tp: 1, start_ts: 7, commit_ts: 9, ddl_job_id: 71, unknown_fields: true };
        assert_eq!(peek(&item).unwrap(), expected);
        assert_eq!(Binlog::decode(&item[..]).unwrap(), Binlog { tp: 1, commit_ts: 9, ..p });
        assert_eq!(commit_suffix(CommitTs::new(9), &[])[..], [0x08, 0x01, 0x18, 0x09]);
    }

    #[test]
    fn unknown_fields_are_taken_as_they_stand() {
        let c = [0x08, 1, 0xa0, 0x01, 0x05, 0x10, 7, 0x4a, 2, b'x', b'y', 0x18, 9, 0x38, 0, 0xa5, 0x01, 1, 2, 3, 4];
        assert_eq!(unknown_fields(&c)[..], [0xa0, 0x01, 0x05, 0x4a, 2, b'x', b'y', 0xa5, 0x01, 1, 2, 3, 4]);
        assert!(unknown_fields(&c[..13]).len() == 7 && unknown_fields(&[]).is_empty());
        assert!(unknown_fields(&c[..20]).is_empty(), "broken framing");
    }
}
