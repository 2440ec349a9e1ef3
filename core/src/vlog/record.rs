//! One record of the value log.

use crate::ids::{CommitTs, StartTs};
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
}

/// A record as it is staged and as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub start_ts: StartTs,
    pub commit_ts: CommitTs,
    pub payload: Bytes,
}
