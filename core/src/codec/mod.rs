//! Datum, row and key encodings of TiDB (spec codec). Everything here borrows from its input, and what it allocates is
//! bounded by a small multiple of that input or by the table's definition; bad bytes give a [`CodecError`], never a panic.

pub mod bytes;
pub mod datum;
pub mod decimal;
pub mod default;
pub mod duration;
pub mod encode;
pub mod encode_json;
pub mod encode_value;
pub mod float;
pub mod json;
pub mod json_text;
pub mod key;
pub mod mutation;
pub mod number;
pub mod reader;
pub mod row;
pub mod row_v2;
pub mod time;
pub mod value;

use crate::binlog::peek::PeekError;
use std::borrow::Cow;
use thiserror::Error;

/// Where the input stops making sense, and what was expected there. Never holds values of a row.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("does not decode at byte {offset}: expected {expected}")]
pub struct CodecError {
    /// Byte offset in the input that the failing function was given.
    pub offset: usize,
    pub expected: Cow<'static, str>,
}

impl CodecError {
    #[must_use]
    pub fn new(offset: usize, expected: impl Into<Cow<'static, str>>) -> Self {
        Self { offset, expected: expected.into() }
    }

    /// The same failure seen from an input that has `base` more bytes in front.
    #[must_use]
    pub fn shifted(mut self, base: usize) -> Self {
        self.offset = self.offset.saturating_add(base);
        self
    }
}

impl From<PeekError> for CodecError {
    fn from(e: PeekError) -> Self {
        Self::new(e.offset, format!("a protobuf field ({})", e.what))
    }
}
