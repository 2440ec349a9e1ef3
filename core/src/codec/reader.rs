//! A cursor over untrusted bytes: every read is checked and names its offset when it fails.

use super::CodecError;
use std::borrow::Cow;

/// Reads forward only. Offsets in errors count from the beginning of `bytes`.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, pos: 0 }
    }

    #[must_use]
    pub const fn offset(&self) -> usize {
        self.pos
    }

    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.pos..).unwrap_or_default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// A failure at the current offset.
    #[must_use]
    pub fn fail(&self, expected: impl Into<Cow<'static, str>>) -> CodecError {
        CodecError::new(self.pos, expected)
    }

    pub fn peek_u8(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    pub fn u8(&mut self, expected: &'static str) -> Result<u8, CodecError> {
        let [byte] = self.array::<1>(expected)?;
        Ok(byte)
    }

    pub fn take(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], CodecError> {
        let taken = self.rest().get(..length).ok_or_else(|| self.fail(expected))?;
        self.pos += length;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], CodecError> {
        let (taken, _) = self.rest().split_first_chunk::<N>().ok_or_else(|| self.fail(expected))?;
        self.pos += N;
        Ok(*taken)
    }

    /// Must be the end of the input.
    pub fn finish(&self, expected: &'static str) -> Result<(), CodecError> {
        if self.is_empty() { Ok(()) } else { Err(self.fail(expected)) }
    }
}
