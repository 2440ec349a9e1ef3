//! One record of a v1 value log, its footer (spec pump 3.2), and what a stored binlog means to us. Called by `scan` and by the
//! log's reads. All numbers are little-endian; lengths are checked against what is there before anything else is done.

use crate::binlog::peek::peek;
use crate::ids::{CommitTs, StartTs};
use crate::vlog::record::{Record, RecordKind};
use bytes::{Buf, Bytes};

/// First bytes of every record.
pub const MAGIC: [u8; 4] = 0x823a_56e8_u32.to_le_bytes();
/// magic, length (u64), crc-32c (u32).
pub const HEADER: usize = 16;
/// maxTS (i64), end magic.
pub const FOOTER: usize = 12;
/// A record is addressed with 32 bits of length; TiDB's client cannot send more than 2^31 bytes.
pub const MAX_PAYLOAD: u64 = u32::MAX as u64 - HEADER as u64;

const END_MAGIC: [u8; 4] = 0x123a_b922_u32.to_le_bytes();

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload; not checked against anything.
    pub len: u64,
    crc: u32,
}

impl Header {
    /// `None`: too short, or no magic.
    #[must_use]
    pub fn decode(mut raw: &[u8]) -> Option<Self> {
        if raw.len() < HEADER || !raw.starts_with(&MAGIC) {
            return None;
        }
        raw.advance(MAGIC.len());
        Some(Self { len: raw.get_u64_le(), crc: raw.get_u32_le() })
    }

    #[must_use]
    pub fn verifies(&self, payload: &[u8]) -> bool {
        payload.len() as u64 == self.len && crc32c::crc32c(payload) == self.crc
    }
}

/// The bytes that the original would have written, for tests and generated directories.
#[must_use]
pub fn encode(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// The largest timestamps of the records of one file, as a footer may give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxTs {
    /// start_ts of P, commit_ts of all others: what the original tracks while it writes.
    indexed: i64,
    /// Of both timestamps of all records: what it recovers by a scan.
    any: i64,
}

impl MaxTs {
    pub fn take(&mut self, tp: i32, start_ts: i64, commit_ts: i64) {
        self.indexed = self.indexed.max(if tp == PREWRITE { start_ts } else { commit_ts });
        self.any = self.any.max(start_ts).max(commit_ts);
    }
}

/// Whether the last bytes of a file are the footer of exactly these records. The end magic alone proves nothing: a payload may
/// end with it (trap T37).
#[must_use]
pub fn is_footer(mut raw: &[u8], max: MaxTs) -> bool {
    if raw.len() != FOOTER || !raw.ends_with(&END_MAGIC) {
        return false;
    }
    let ts = raw.get_i64_le();
    ts == max.indexed || ts == max.any
}

/// A footer as the original writes it, for tests and generated directories.
#[must_use]
pub fn encode_footer(max_ts: i64) -> Vec<u8> {
    [&max_ts.to_le_bytes()[..], &END_MAGIC].concat()
}

/// What a stored binlog is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    pub record: Record,
    pub unknown_fields: bool,
    tp: i32,
}

impl Meaning {
    /// For the footer's sum.
    pub fn count(&self, max: &mut MaxTs) {
        let signed = |raw: u64| i64::try_from(raw).unwrap_or(i64::MAX);
        max.take(self.tp, signed(self.record.start_ts.raw()), signed(self.record.commit_ts.raw()));
    }
}

/// `Ok(None)`: an all-zero record, which says nothing (the original skips it too). An error is a payload whose checksum is right
/// and which is no binlog all the same.
pub fn meaning(payload: Bytes) -> Result<Option<Meaning>, String> {
    let peek = peek(&payload).map_err(|error| error.to_string())?;
    if peek.is_probe() {
        return Ok(None);
    }
    let kind = match peek.tp {
        PREWRITE => RecordKind::Prewrite,
        _ if peek.is_fake() => RecordKind::Fake,
        ROLLBACK => RecordKind::RollbackHint,
        // PreDDL and PostDDL are handled like C (spec pump 2.1).
        _ => RecordKind::Commit,
    };
    let (start, commit) = (peek.start_ts, peek.commit_ts);
    let bad = start <= 0 || commit < 0 || (kind == RecordKind::Commit && commit <= start);
    let (Ok(start_ts), Ok(commit_ts), false) = (u64::try_from(start), u64::try_from(commit), bad) else {
        return Err(format!("binlog of type {} with start_ts {start} and commit_ts {commit}", peek.tp));
    };
    let record = Record { kind, start_ts: StartTs::new(start_ts), commit_ts: CommitTs::new(commit_ts), payload };
    Ok(Some(Meaning { record, unknown_fields: peek.unknown_fields, tp: peek.tp }))
}

/// The record that was read at a known place: exactly these bytes.
pub fn decode(raw: &Bytes) -> Result<Record, String> {
    let header = Header::decode(raw).ok_or("wrong magic")?;
    let payload = raw.slice(HEADER..);
    if header.len != payload.len() as u64 {
        return Err(format!("the record has {} bytes, not {}", header.len, payload.len()));
    }
    if !header.verifies(&payload) {
        return Err("checksum mismatch".to_owned());
    }
    meaning(payload)?.map(|meaning| meaning.record).ok_or_else(|| "an empty binlog".to_owned())
}

const PREWRITE: i32 = 0;
const ROLLBACK: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binlog::Binlog;
    use prost::Message;

    fn payload(tp: i32, start_ts: i64, commit_ts: i64) -> Bytes {
        Binlog { tp, start_ts, commit_ts, ..Binlog::default() }.encode_to_vec().into()
    }

    #[test]
    fn meanings() {
        let of = |tp, start, commit| {
            meaning(payload(tp, start, commit)).map(|m| m.map(|m| (m.record.kind, m.record.commit_ts.raw())))
        };
        for (tp, start, commit, expected) in [
            (0, 5, 0, Ok(Some((RecordKind::Prewrite, 0)))),
            (1, 5, 6, Ok(Some((RecordKind::Commit, 6)))),
            (2, 5, 0, Ok(Some((RecordKind::RollbackHint, 0)))),
            (2, 5, 5, Ok(Some((RecordKind::Fake, 5)))),
            (3, 5, 6, Ok(Some((RecordKind::Commit, 6)))),
            (4, 5, 6, Ok(Some((RecordKind::Commit, 6)))),
            (0, 0, 0, Ok(None)),
        ] {
            assert_eq!(of(tp, start, commit), expected, "{tp} {start} {commit}");
        }
        for (tp, start, commit) in [(1, 5, 4), (1, 0, 4), (0, -5, 0), (2, 5, -1), (1, i64::MIN, i64::MAX)] {
            assert!(of(tp, start, commit).is_err(), "{tp} {start} {commit}");
        }
        assert!(meaning(Bytes::from_static(b"\xff\xff")).is_err());
    }

    #[test]
    fn single_reads_prove_themselves() {
        let stored = payload(1, 5, 6);
        let raw = Bytes::from(encode(&stored));
        assert_eq!(decode(&raw).unwrap().payload, stored);
        for at in 0..raw.len() {
            let mut bad = raw.to_vec();
            bad[at] ^= 0x40;
            assert!(decode(&bad.into()).is_err(), "byte {at}");
            assert!(decode(&raw.slice(..at)).is_err(), "cut at {at}");
        }
        assert!(decode(&[&raw[..], b"x"].concat().into()).is_err());
    }

    #[test]
    fn the_end_magic_alone_makes_no_footer() {
        let mut max = MaxTs::default();
        max.take(0, 70, 0);
        max.take(1, 50, 60);
        // What was indexed: P at 70, C at 60.
        assert!(is_footer(&encode_footer(70), max));
        max.take(1, 80, 81);
        max.take(2, 99, 0);
        // An R counts with its commit_ts 0 while writing, with its start_ts in a scan.
        assert!(is_footer(&encode_footer(81), max) && is_footer(&encode_footer(99), max));
        for forged in [0, 70, 80, 82, 100, -1, i64::MAX] {
            assert!(!is_footer(&encode_footer(forged), max), "{forged}");
        }
        let footer = encode_footer(81);
        assert!(!is_footer(&footer[1..], max));
        assert!(!is_footer(&[&footer[..8], &[0x22, 0xb9, 0x3a, 0x13]].concat(), max));
    }
}
