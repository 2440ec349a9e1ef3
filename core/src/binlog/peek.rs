//! Type and timestamps of a payload without building the message; walks all fields, so that a malformed tail is refused
//! before anything is appended to it (rules 5).

use super::wire::Fields;
use thiserror::Error;

/// What a Pump needs to know of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peek {
    /// Raw `tp`; unknown numbers are an error.
    pub tp: i32,
    pub start_ts: i64,
    pub commit_ts: i64,
    pub ddl_job_id: i64,
    /// The payload has fields that our message does not know (they are preserved on the way to a stream).
    pub unknown_fields: bool,
}

impl Peek {
    /// start_ts > 0 and start_ts == commit_ts: carries only its timestamp.
    #[must_use]
    pub const fn is_fake(&self) -> bool {
        self.start_ts > 0 && self.start_ts == self.commit_ts
    }

    /// The client's health probe: nothing to store.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.start_ts == 0 && self.commit_ts == 0
    }
}

/// Position and reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("binlog payload does not decode at byte {offset}: {what}")]
pub struct PeekError {
    pub offset: usize,
    pub what: &'static str,
}

/// Validates the framing of the whole payload. Of a repeated scalar the last value counts; the contents of
/// `prewrite_value` are not looked at. An empty payload is all defaults.
pub fn peek(payload: &[u8]) -> Result<Peek, PeekError> {
    let mut seen = Peek::default();
    let mut tp = (0_u64, 0_usize);
    for field in Fields::new(payload) {
        let field = field?;
        match field.number {
            TP => tp = (field.varint("tp is not a varint")?, field.start),
            START_TS => seen.start_ts = field.varint("start_ts is not a varint")?.cast_signed(),
            COMMIT_TS => seen.commit_ts = field.varint("commit_ts is not a varint")?.cast_signed(),
            PREWRITE_KEY => {
                field.bytes("prewrite_key is not length-delimited")?;
            }
            PREWRITE_VALUE => {
                field.bytes("prewrite_value is not length-delimited")?;
            }
            DDL_QUERY => {
                field.bytes("ddl_query is not length-delimited")?;
            }
            DDL_JOB_ID => seen.ddl_job_id = field.varint("ddl_job_id is not a varint")?.cast_signed(),
            DDL_SCHEMA_STATE => {
                field.varint("ddl_schema_state is not a varint")?;
            }
            _ => seen.unknown_fields = true,
        }
    }
    let known = i32::try_from(tp.0).ok().filter(|n| *n <= MAX_TP);
    seen.tp = known.ok_or(PeekError { offset: tp.1, what: "unknown binlog type" })?;
    Ok(seen)
}

/// The prewrite_key of a payload that [`peek`] accepted, where it is not empty; the last one counts.
#[must_use]
pub fn prewrite_key(payload: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    for field in Fields::new(payload) {
        let field = field.ok()?;
        if field.number == PREWRITE_KEY {
            found = Some(field.bytes("prewrite_key is not length-delimited").ok()?);
        }
    }
    found.filter(|key| !key.is_empty())
}

/// Field numbers of `binlog.Binlog` (spec codec 1.1).
pub(crate) const TP: u32 = 1;
pub(crate) const START_TS: u32 = 2;
pub(crate) const COMMIT_TS: u32 = 3;
const PREWRITE_KEY: u32 = 4;
const PREWRITE_VALUE: u32 = 5;
const DDL_QUERY: u32 = 6;
pub(crate) const DDL_JOB_ID: u32 = 7;
pub(crate) const DDL_SCHEMA_STATE: u32 = 8;

/// Prewrite 0, Commit 1, Rollback 2; PreDDL 3 and PostDDL 4 are never written but known.
const MAX_TP: i32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binlog::Binlog;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn full() -> Binlog {
        Binlog {
            tp: 0,
            start_ts: 470_608_273_957_191_687,
            commit_ts: 0,
            prewrite_key: Some(Bytes::from_static(b"t\x80key")),
            prewrite_value: Some(Bytes::from_static(b"\x08\x01")),
            ddl_query: Some(Bytes::from_static(b"create table t(a int)")),
            ddl_job_id: 71,
            ddl_schema_state: 5,
        }
    }

    #[test]
    fn reads_what_the_message_says() {
        let seen = peek(&full().encode_to_vec()).unwrap();
        let expected = Peek { start_ts: 470_608_273_957_191_687, ddl_job_id: 71, ..Peek::default() };
        assert_eq!(seen, expected);
        assert!(!seen.is_fake() && !seen.is_probe());
    }

    /// Payload (hex), then what is read or the error's offset and text.
    #[test]
    fn table() {
        let ok = |tp, start_ts, commit_ts, unknown_fields| {
            Ok(Peek { tp, start_ts, commit_ts, ddl_job_id: 0, unknown_fields })
        };
        let err = |offset, what| Err(PeekError { offset, what });
        let wide = "10ffffffffffffffffff01";
        let cases: &[(&str, Result<Peek, PeekError>)] = &[
            ("", ok(0, 0, 0, false)),
            ("08011005180a", ok(1, 5, 10, false)),
            ("08011005180aa00101", ok(1, 5, 10, true)), // field 20, varint
            ("0801a10101020304050607081005", ok(1, 5, 0, true)), // field 20, 8 bytes
            ("0801a201021234a501010203041005", ok(1, 5, 0, true)), // field 20, bytes and 4 bytes
            ("0801080210051006180a180b", ok(2, 6, 11, false)), // the last of each wins
            ("08090801", ok(1, 0, 0, false)),           // also over an unknown number
            ("0803", ok(3, 0, 0, false)),
            (wide, ok(0, -1, 0, false)),
            ("088200", ok(2, 0, 0, false)), // padded varint
            ("0805", err(0, "unknown binlog type")),
            ("100508ffffffffffffffffff01", err(2, "unknown binlog type")),
            ("0880808080808080808001", err(0, "unknown binlog type")), // 2^63: no cut to 32 bits
            ("0880808080f01f", err(0, "unknown binlog type")),
            ("0a00", err(0, "tp is not a varint")),
            ("0d01000000", err(0, "tp is not a varint")),
            ("08001205abcdabcdab", err(2, "start_ts is not a varint")),
            ("1900000000000000ff", err(0, "commit_ts is not a varint")),
            ("2001", err(0, "prewrite_key is not length-delimited")),
            ("2801", err(0, "prewrite_value is not length-delimited")),
            ("3001", err(0, "ddl_query is not length-delimited")),
            ("3a0101", err(0, "ddl_job_id is not a varint")),
            ("420101", err(0, "ddl_schema_state is not a varint")),
            ("08002a0501", err(2, "length beyond the end of the message")),
            ("2affffffffffffffffff01", err(0, "length beyond the end of the message")),
            ("0f", err(0, "reserved wire type")),
            ("a601", err(0, "reserved wire type")),
            ("a301a401", err(0, "group wire types are not supported")),
            ("0800a401", err(2, "group wire types are not supported")),
            ("10ffffffffffffffffffffff", err(0, "varint above 64 bits")),
            ("10ffffffffffffffffff02", err(0, "varint above 64 bits")),
            ("0800108180", err(2, "truncated varint")),
            ("0800ff", err(2, "truncated varint")),
            ("0001", err(0, "field number out of range")),
            ("8080808080011a", err(0, "field number out of range")),
            ("a10101", err(0, "truncated 8-byte field")),
            ("a50101", err(0, "truncated 4-byte field")),
        ];
        for (hex, expected) in cases {
            assert_eq!(&peek(&unhex(hex)), expected, "{hex}");
        }
    }

    fn unhex(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn kinds() {
        let of = |start_ts, commit_ts| Peek { start_ts, commit_ts, ..Peek::default() };
        assert!(of(7, 7).is_fake());
        assert!(!of(0, 0).is_fake() && of(0, 0).is_probe());
        assert!(!of(-7, -7).is_fake());
        assert!(!of(7, 8).is_fake() && !of(7, 8).is_probe());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = peek(&bytes);
        }

        /// What `peek` accepts, the generated decoder accepts and reads alike.
        #[test]
        fn agrees_with_the_message(
            cut in 0_usize..200, flips in proptest::collection::vec((0_usize..90, any::<u8>()), 0..4)
        ) {
            let mut bytes = full().encode_to_vec();
            let length = bytes.len();
            for (at, value) in flips {
                bytes[at % length] = value;
            }
            bytes.truncate(cut);
            if let Ok(seen) = peek(&bytes) {
                let message = Binlog::decode(&bytes[..]).unwrap();
                prop_assert_eq!(
                    (seen.tp, seen.start_ts, seen.commit_ts, seen.ddl_job_id),
                    (message.tp, message.start_ts, message.commit_ts, message.ddl_job_id)
                );
            }
        }
    }
}
