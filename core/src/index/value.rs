//! Values of the index: a version byte, then fixed big-endian fields. What was read back is never trusted: every decoder
//! answers with an error that names what was wrong.

use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Version of the index as a whole (`meta/format`). 2: `segment/…` sums up every segment.
pub const FORMAT: u64 = 2;

/// A record of the log: where it lies and how many bytes a read of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub ptr: LogPtr,
    pub len: u32,
}

/// What two copies of one payload must have in common (rules 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    pub len: u32,
    pub crc: u32,
}

/// Value of `commit/<ts>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitValue {
    Commit {
        start_ts: StartTs,
        prewrite: Span,
        commit: Span,
        /// C has fields that our message does not know: the stream must read C too (rules 5).
        unknown_fields: bool,
    },
    /// Timestamp only; the record lies at this place.
    Fake { record: Span },
}

/// Value of `start/<ts>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartValue {
    Prewrite {
        span: Span,
        digest: Digest,
    },
    /// A P that a verdict in the log judged rolled back.
    RolledBack {
        span: Span,
        digest: Digest,
    },
    /// An R came before any P of this start_ts.
    Hint,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("index value of {what} has {len} bytes and begins with {head:?}: not a form that this version writes")]
pub struct ValueError {
    pub what: &'static str,
    pub len: usize,
    pub head: Vec<u8>,
}

impl CommitValue {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(51);
        out.put_u8(VERSION);
        match self {
            Self::Commit { start_ts, prewrite, commit, unknown_fields } => {
                out.put_u8(if *unknown_fields { COMMIT_WITH_UNKNOWN } else { COMMIT });
                out.put_u64(start_ts.raw());
                put_span(&mut out, *prewrite);
                put_span(&mut out, *commit);
            }
            Self::Fake { record } => {
                out.put_u8(FAKE);
                put_span(&mut out, *record);
            }
        }
        out.freeze()
    }

    pub fn decode(raw: &[u8]) -> Result<Self, ValueError> {
        let mut at = Cursor(raw);
        let mut parse = || {
            at.version()?;
            let kind = at.u8()?;
            let value = match kind {
                COMMIT | COMMIT_WITH_UNKNOWN => Self::Commit {
                    start_ts: StartTs::new(at.u64()?),
                    prewrite: at.span()?,
                    commit: at.span()?,
                    unknown_fields: kind == COMMIT_WITH_UNKNOWN,
                },
                FAKE => Self::Fake { record: at.span()? },
                _ => return None,
            };
            at.end()?;
            Some(value)
        };
        parse().ok_or_else(|| error("commit", raw))
    }

    /// Where the record lies that made the timestamp known.
    #[must_use]
    pub const fn position(&self) -> LogPtr {
        match self {
            Self::Commit { commit, .. } => commit.ptr,
            Self::Fake { record } => record.ptr,
        }
    }
}

impl StartValue {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(30);
        out.put_u8(VERSION);
        match self {
            Self::Prewrite { span, digest } => {
                out.put_u8(PREWRITE);
                put_span(&mut out, *span);
                out.put_u32(digest.len);
                out.put_u32(digest.crc);
            }
            Self::RolledBack { span, digest } => {
                out.put_u8(ROLLED_BACK);
                put_span(&mut out, *span);
                out.put_u32(digest.len);
                out.put_u32(digest.crc);
            }
            Self::Hint => out.put_u8(HINT),
        }
        out.freeze()
    }

    pub fn decode(raw: &[u8]) -> Result<Self, ValueError> {
        let mut at = Cursor(raw);
        let mut parse = || {
            at.version()?;
            let value = match at.u8()? {
                PREWRITE => {
                    let span = at.span()?;
                    Self::Prewrite { span, digest: Digest { len: at.u32()?, crc: at.u32()? } }
                }
                ROLLED_BACK => {
                    let span = at.span()?;
                    Self::RolledBack { span, digest: Digest { len: at.u32()?, crc: at.u32()? } }
                }
                HINT => Self::Hint,
                _ => return None,
            };
            at.end()?;
            Some(value)
        };
        parse().ok_or_else(|| error("start", raw))
    }
}

#[must_use]
pub fn encode_u64(raw: u64) -> Bytes {
    Bytes::copy_from_slice(&raw.to_be_bytes())
}

pub fn decode_u64(what: &'static str, raw: &[u8]) -> Result<u64, ValueError> {
    raw.try_into().map(u64::from_be_bytes).map_err(|_| error(what, raw))
}

/// Value of `undecided/<pointer of P>`: the start_ts, and a byte when its client sent R.
#[must_use]
pub fn encode_undecided(start_ts: StartTs, hinted: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u64(start_ts.raw());
    if hinted {
        out.put_u8(HINT);
    }
    out.freeze()
}

pub fn decode_undecided(raw: &[u8]) -> Result<(StartTs, bool), ValueError> {
    let mut at = Cursor(raw);
    let mut parse = || {
        let start_ts = StartTs::new(at.u64()?);
        let hinted = match at.u8() {
            None => false,
            Some(HINT) => true,
            Some(_) => return None,
        };
        at.end()?;
        Some((start_ts, hinted))
    };
    parse().ok_or_else(|| error("undecided", raw))
}

#[must_use]
pub fn encode_ptr(ptr: LogPtr) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u64(ptr.segment.raw());
    out.put_u64(ptr.offset);
    out.freeze()
}

pub fn decode_ptr(what: &'static str, raw: &[u8]) -> Result<LogPtr, ValueError> {
    let mut at = Cursor(raw);
    let mut parse = || {
        let ptr = at.ptr()?;
        at.end()?;
        Some(ptr)
    };
    parse().ok_or_else(|| error(what, raw))
}

/// Value of `meta/named`: it counts only while `meta/indexed_end` is the one that it was written with.
#[must_use]
pub fn encode_named(highest: StartTs, indexed_end: LogPtr) -> Bytes {
    let mut out = BytesMut::with_capacity(24);
    out.put_u64(highest.raw());
    out.put_slice(&encode_ptr(indexed_end));
    out.freeze()
}

pub fn decode_named(raw: &[u8]) -> Result<(StartTs, LogPtr), ValueError> {
    let (highest, end) = raw.split_first_chunk().ok_or_else(|| error("meta/named", raw))?;
    Ok((StartTs::new(u64::from_be_bytes(*highest)), decode_ptr("meta/named", end)?))
}

pub fn decode_commit_ts(what: &'static str, raw: &[u8]) -> Result<CommitTs, ValueError> {
    decode_u64(what, raw).map(CommitTs::new)
}

/// A version byte and fixed numbers.
pub(super) fn encode_numbers<const N: usize>(numbers: [u64; N]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 8 * N);
    out.put_u8(VERSION);
    numbers.iter().for_each(|number| out.put_u64(*number));
    out.freeze()
}

pub(super) fn decode_numbers<const N: usize>(what: &'static str, raw: &[u8]) -> Result<[u64; N], ValueError> {
    let mut at = Cursor(raw);
    let mut parse = || {
        at.version()?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = at.u64()?;
        }
        at.end()?;
        Some(numbers)
    };
    parse().ok_or_else(|| error(what, raw))
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn version(&mut self) -> Option<()> {
        (self.u8()? == VERSION).then_some(())
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn ptr(&mut self) -> Option<LogPtr> {
        Some(LogPtr { segment: SegmentId::new(self.u64()?), offset: self.u64()? })
    }

    fn span(&mut self) -> Option<Span> {
        Some(Span { ptr: self.ptr()?, len: self.u32()? })
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn put_span(out: &mut BytesMut, span: Span) {
    out.put_u64(span.ptr.segment.raw());
    out.put_u64(span.ptr.offset);
    out.put_u32(span.len);
}

fn error(what: &'static str, raw: &[u8]) -> ValueError {
    ValueError { what, len: raw.len(), head: raw.iter().take(8).copied().collect() }
}

const VERSION: u8 = 1;
const COMMIT: u8 = 1;
const COMMIT_WITH_UNKNOWN: u8 = 2;
const FAKE: u8 = 3;
const PREWRITE: u8 = 1;
const HINT: u8 = 2;
const ROLLED_BACK: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        (any::<u64>(), any::<u64>(), any::<u32>())
            .prop_map(|(s, offset, len)| Span { ptr: LogPtr { segment: SegmentId::new(s), offset }, len })
    }

    proptest! {
        #[test]
        fn round_trips(p in span(), c in span(), start: u64, unknown: bool, len: u32, crc: u32) {
            for value in [
                CommitValue::Commit { start_ts: StartTs::new(start), prewrite: p, commit: c, unknown_fields: unknown },
                CommitValue::Fake { record: p },
            ] {
                let raw = value.encode();
                prop_assert_eq!(CommitValue::decode(&raw), Ok(value));
                prop_assert!(CommitValue::decode(&raw[..raw.len() - 1]).is_err());
                prop_assert!(CommitValue::decode(&[&raw[..], &[0]].concat()).is_err());
            }
            let digest = Digest { len, crc };
            for value in [
                StartValue::Prewrite { span: p, digest },
                StartValue::RolledBack { span: p, digest },
                StartValue::Hint,
            ] {
                let raw = value.encode();
                prop_assert_eq!(StartValue::decode(&raw), Ok(value));
                prop_assert!(StartValue::decode(&raw[..raw.len() - 1]).is_err());
            }
            for hinted in [false, true] {
                let raw = encode_undecided(StartTs::new(start), hinted);
                prop_assert_eq!(decode_undecided(&raw), Ok((StartTs::new(start), hinted)));
                prop_assert!(decode_undecided(&[&raw[..], &[7]].concat()).is_err());
            }
            // Without a hint: what earlier versions wrote.
            prop_assert_eq!(encode_undecided(StartTs::new(start), false), encode_u64(start));
            prop_assert_eq!(decode_ptr("x", &encode_ptr(p.ptr)), Ok(p.ptr));
            prop_assert_eq!(decode_u64("x", &encode_u64(start)), Ok(start));
        }

        #[test]
        fn noise_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = CommitValue::decode(&raw);
            let _ = StartValue::decode(&raw);
            let _ = decode_ptr("x", &raw);
            let _ = decode_u64("x", &raw);
            let _ = decode_undecided(&raw);
        }
    }

    #[test]
    fn another_version_is_an_error_that_says_so() {
        let mut raw = StartValue::Hint.encode().to_vec();
        raw[0] = 9;
        let text = StartValue::decode(&raw).unwrap_err().to_string();
        assert_eq!(
            text,
            "index value of start has 2 bytes and begins with [9, 2]: not a form that this version writes"
        );
    }
}
