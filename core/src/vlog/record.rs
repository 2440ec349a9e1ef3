//! One record of the value log.

use super::format::{RECORD_HEADER, decode_record_header};
use crate::ids::{CommitTs, SegmentId, StartTs};
use bytes::Bytes;

/// What a record is (rules 1–3). The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// First record of every segment: where the log came from.
    SegmentStart = 1,
    /// A client's P.
    Prewrite = 2,
    /// A client's C (obsolete kinds PreDDL and PostDDL are handled like it).
    Commit = 3,
    /// A client's R: a hint, no verdict.
    RollbackHint = 4,
    /// Timestamp only.
    Fake = 5,
    /// TiKV's verdict: committed.
    VerdictCommit = 6,
    /// TiKV's verdict: rolled back.
    VerdictRollback = 7,
    /// The GC point moved.
    Gc = 8,
    /// An operator gives up the commits that froze the watermark (rules 4).
    Unfreeze = 9,
}

impl RecordKind {
    /// The kind with this number on disk.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::SegmentStart,
            2 => Self::Prewrite,
            3 => Self::Commit,
            4 => Self::RollbackHint,
            5 => Self::Fake,
            6 => Self::VerdictCommit,
            7 => Self::VerdictRollback,
            8 => Self::Gc,
            9 => Self::Unfreeze,
            _ => return None,
        })
    }
}

/// A record as it is staged and as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub start_ts: StartTs,
    pub commit_ts: CommitTs,
    pub payload: Bytes,
}

impl Record {
    /// The record that says: the GC point is `point`, segments before `first_live` may be freed (rules 6).
    #[must_use]
    pub fn gc(point: CommitTs, first_live: SegmentId) -> Self {
        Self {
            kind: RecordKind::Gc,
            start_ts: StartTs::ZERO,
            commit_ts: point,
            payload: Bytes::copy_from_slice(&first_live.raw().to_le_bytes()),
        }
    }

    /// GC point and first live segment, if this is a [`RecordKind::Gc`] as [`Record::gc`] makes it.
    #[must_use]
    pub fn as_gc(&self) -> Option<(CommitTs, SegmentId)> {
        let raw = <[u8; 8]>::try_from(self.payload.as_ref()).ok()?;
        (self.kind == RecordKind::Gc).then_some((self.commit_ts, SegmentId::new(u64::from_le_bytes(raw))))
    }
}

/// The record of `len` bytes that begins `head`, of bytes that never left memory: checksums are not looked at. A payload that
/// does not follow its header there is the whole of `next`. `None`: that is not what lies here.
#[must_use]
pub fn record_at(head: &Bytes, next: Option<&Bytes>, len: usize) -> Option<Record> {
    let (kind, start_ts, commit_ts, payload_len) = decode_record_header(head)?;
    if payload_len.checked_add(RECORD_HEADER) != Some(len) {
        return None;
    }
    let payload = match head.len() == RECORD_HEADER && payload_len > 0 {
        true => next.filter(|next| next.len() == payload_len)?.clone(),
        false => {
            let inside = head.get(RECORD_HEADER..len)?;
            head.slice_ref(inside)
        }
    };
    Some(Record { kind, start_ts, commit_ts, payload })
}
