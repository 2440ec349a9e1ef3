//! Keys of the index. Numbers are big-endian so that keys sort as the numbers do.
//!
//! | key | value |
//! |---|---|
//! | `commit/` commit_ts | [`super::value::CommitValue`] |
//! | `start/` start_ts | [`super::value::StartValue`] |
//! | `undecided/` segment, offset of P | start_ts (rules 3) |
//! | `segment/` segment | [`super::segments::SegmentFacts`] |
//! | `meta/…` | see the constants |

use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Format version of the whole index (u64).
pub const META_FORMAT: &[u8] = b"meta/format";
/// Uuid of the data directory that the index belongs to (16 bytes).
pub const META_NODE: &[u8] = b"meta/node";
/// Everything below this position of the log is indexed.
pub const META_INDEXED_END: &[u8] = b"meta/indexed_end";
/// The highest start_ts that a record below `indexed_end` names, or more, and that `indexed_end`.
pub const META_NAMED: &[u8] = b"meta/named";
/// `indexed_end` at the start of a flush that completed: a fact of the past, so it never claims too much.
pub const META_FLUSHED_END: &[u8] = b"meta/flushed_end";
/// The logged watermark (rules 4).
pub const META_WATERMARK: &[u8] = b"meta/watermark";
/// The GC point (rules 6).
pub const META_GC: &[u8] = b"meta/gc";
/// The watermark must stay below this: a commit that we could not pair or that came too late.
pub const META_FROZEN: &[u8] = b"meta/frozen";
/// Present: this directory is new under a node id that is not, and has no GC point yet (rules 3).
pub const META_GC_NEEDED: &[u8] = b"meta/gc_point_needed";
/// Present: this node has not yet told every Drainer that it exists (spec pump 4.4).
pub const META_NOTIFY: &[u8] = b"meta/notify_pending";
/// Everything in the original's value logs up to this position is indexed (rules 3).
pub const META_ORIGINAL: &[u8] = b"meta/original";
/// The original's own queue had come to this position of its value logs.
pub const META_ORIGINAL_DECIDED: &[u8] = b"meta/original_decided";

/// Present: this node was asked to go offline and has not been (design 3.5).
pub const META_CLOSING: &[u8] = b"meta/closing";

const COMMIT: &[u8] = b"commit/";
const START: &[u8] = b"start/";
const UNDECIDED: &[u8] = b"undecided/";
const SEGMENT: &[u8] = b"segment/";

/// A key that does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("index key {key:?} does not have the form of {form}")]
pub struct KeyError {
    pub key: Bytes,
    pub form: &'static str,
}

#[must_use]
pub fn commit(ts: CommitTs) -> Bytes {
    number(COMMIT, ts.raw())
}

#[must_use]
pub fn start(ts: StartTs) -> Bytes {
    number(START, ts.raw())
}

#[must_use]
pub fn undecided(ptr: LogPtr) -> Bytes {
    let mut key = BytesMut::with_capacity(UNDECIDED.len() + 16);
    key.put_slice(UNDECIDED);
    key.put_u64(ptr.segment.raw());
    key.put_u64(ptr.offset);
    key.freeze()
}

/// All commits with `after < commit_ts <= through`, as `[from, to)`.
#[must_use]
pub fn commit_range(after: CommitTs, through: CommitTs) -> (Bytes, Bytes) {
    let from = after.raw().checked_add(1).map_or_else(|| past(COMMIT), |ts| commit(CommitTs::new(ts)));
    let to = through.raw().checked_add(1).map_or_else(|| past(COMMIT), |ts| commit(CommitTs::new(ts)));
    (from, to)
}

/// All undecided prewrites from `ptr` on, as `[from, to)`.
#[must_use]
pub fn undecided_from(ptr: LogPtr) -> (Bytes, Bytes) {
    (undecided(ptr), past(UNDECIDED))
}

#[must_use]
pub fn segment(id: SegmentId) -> Bytes {
    number(SEGMENT, id.raw())
}

/// All segments from `id` on, as `[from, to)`.
#[must_use]
pub fn segments_from(id: SegmentId) -> (Bytes, Bytes) {
    (segment(id), past(SEGMENT))
}

pub fn parse_segment(key: &Bytes) -> Result<SegmentId, KeyError> {
    let error = || KeyError { key: key.clone(), form: "segment/<u64>" };
    let raw = key.strip_prefix(SEGMENT).ok_or_else(error)?;
    raw.try_into().map(|raw| SegmentId::new(u64::from_be_bytes(raw))).map_err(|_| error())
}

pub fn parse_commit(key: &Bytes) -> Result<CommitTs, KeyError> {
    let error = || KeyError { key: key.clone(), form: "commit/<u64>" };
    let raw = key.strip_prefix(COMMIT).ok_or_else(error)?;
    raw.try_into().map(|raw| CommitTs::new(u64::from_be_bytes(raw))).map_err(|_| error())
}

pub fn parse_undecided(key: &Bytes) -> Result<LogPtr, KeyError> {
    let error = || KeyError { key: key.clone(), form: "undecided/<u64><u64>" };
    let raw = key.strip_prefix(UNDECIDED).ok_or_else(error)?;
    let (segment, offset) = raw.split_at_checked(8).ok_or_else(error)?;
    let segment = u64::from_be_bytes(segment.try_into().map_err(|_| error())?);
    let offset = u64::from_be_bytes(offset.try_into().map_err(|_| error())?);
    Ok(LogPtr { segment: SegmentId::new(segment), offset })
}

fn number(prefix: &[u8], raw: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(prefix.len() + 8);
    key.put_slice(prefix);
    key.put_u64(raw);
    key.freeze()
}

/// The first key after all keys with this prefix; prefixes end in '/', so '0' follows.
fn past(prefix: &[u8]) -> Bytes {
    let mut key = BytesMut::from(prefix);
    if let Some(last) = key.last_mut() {
        *last = last.saturating_add(1);
    }
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_open_below_and_closed_above() {
        let (from, to) = commit_range(CommitTs::new(5), CommitTs::new(9));
        let inside = |ts| commit(CommitTs::new(ts)) >= from && commit(CommitTs::new(ts)) < to;
        assert_eq!((4..=10).filter(|ts| inside(*ts)).collect::<Vec<_>>(), vec![6, 7, 8, 9]);
        let (from, to) = commit_range(CommitTs::MAX, CommitTs::MAX);
        assert_eq!(from, to);
        let (_, to) = commit_range(CommitTs::ZERO, CommitTs::MAX);
        assert!(commit(CommitTs::MAX) < to);
    }

    #[test]
    fn foreign_keys_are_errors() {
        for bad in [&b"commit/"[..], b"commit/1234567", b"commit/123456789", b"start/12345678", b""] {
            assert!(parse_commit(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        for bad in [&b"undecided/"[..], b"undecided/123456781234567", b"undecided/12345678123456789", b"x"] {
            assert!(parse_undecided(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
            assert!(parse_segment(&Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_sort_like_numbers_and_round_trip(a: u64, b: u64, c: u64, d: u64) {
            prop_assert_eq!(commit(CommitTs::new(a)).cmp(&commit(CommitTs::new(b))), a.cmp(&b));
            prop_assert_eq!(parse_commit(&commit(CommitTs::new(a))), Ok(CommitTs::new(a)));
            let p = LogPtr { segment: SegmentId::new(a), offset: b };
            let q = LogPtr { segment: SegmentId::new(c), offset: d };
            prop_assert_eq!(undecided(p).cmp(&undecided(q)), p.cmp(&q));
            prop_assert_eq!(parse_undecided(&undecided(p)), Ok(p));
            prop_assert_eq!(segment(p.segment).cmp(&segment(q.segment)), a.cmp(&c));
            prop_assert_eq!(parse_segment(&segment(p.segment)), Ok(p.segment));
        }
    }
}
