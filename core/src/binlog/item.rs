//! Payloads that a Pump makes itself: fakes, and the item of a stream (rules 5).

use crate::ids::CommitTs;
use crate::time::Tso;
use bytes::Bytes;

/// A fake binlog: tp Rollback, start_ts = commit_ts = `ts`.
#[must_use]
pub fn fake(_ts: Tso) -> Bytes {
    Bytes::new()
}

/// What is appended to stored P bytes to make the item of a stream: `tp` Commit and `commit_ts` (in protobuf the last value
/// wins), and the fields of C that we do not know.
#[must_use]
pub fn commit_suffix(_commit_ts: CommitTs, _unknown_of_c: &[u8]) -> Bytes {
    Bytes::new()
}

/// The fields of a payload that our message does not know, concatenated as they stand.
#[must_use]
pub fn unknown_fields(_payload: &[u8]) -> Bytes {
    Bytes::new()
}
