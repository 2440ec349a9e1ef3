//! Walks one v1 file in pieces, as the original's own reader does: on a bad magic, a length beyond the file or a wrong checksum it
//! moves one byte on, looks for the next magic and goes on there; the end of the file while searching is no error. Pure: it says
//! what it needs and is fed. Called by `pump::original`.
//!
//! A torn tail was never cut by the original: it appended behind it, so garbage may lie between records. What was skipped is
//! reported before the record that follows it.

use super::record::{FOOTER, HEADER, Header, MAGIC, MAX_PAYLOAD};
use bytes::Bytes;

#[derive(Debug)]
pub struct Scanner {
    file_len: u64,
    /// Next byte to look at; everything below is decided.
    at: u64,
    /// Bytes from `at` on that are here.
    have: Bytes,
    /// Begin of the garbage that ends at `at`.
    skipping: Option<u64>,
    /// The last bytes of that garbage, at most a footer.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Feed the bytes at this place; fewer mean that the file ends there.
    Need {
        offset: u64,
        len: u64,
    },
    Record {
        offset: u64,
        payload: Bytes,
    },
    /// Bytes `from..to` are no record; `tail`: the last of them, at most a footer's length. What they are the caller knows.
    Skipped {
        from: u64,
        to: u64,
        tail: Vec<u8>,
    },
    End,
}

impl Scanner {
    /// A file of `file_len` bytes, from `at` on: the beginning, or the end of a record.
    #[must_use]
    pub const fn new(at: u64, file_len: u64) -> Self {
        Self { file_len, at, have: Bytes::new(), skipping: None, tail: Vec::new() }
    }

    /// Next byte to look at.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// The bytes of the last `Need`.
    pub fn feed(&mut self, data: Bytes, asked: u64) {
        let got = data.len() as u64;
        if got < asked {
            self.file_len = self.at.saturating_add(got);
        }
        self.have = data;
    }

    pub fn step(&mut self) -> Step {
        loop {
            let rest = self.file_len.saturating_sub(self.at);
            if rest == 0 {
                return self.skipped().unwrap_or(Step::End);
            }
            let have = self.have.len() as u64;
            if have < rest.min(HEADER as u64) {
                return Step::Need { offset: self.at, len: rest.min(PIECE) };
            }
            let header = Header::decode(&self.have).filter(|header| {
                // Before anything is read or allocated for it (trap T37).
                header.len <= MAX_PAYLOAD && header.len <= rest.saturating_sub(HEADER as u64)
            });
            let Some(header) = header else {
                self.skip();
                continue;
            };
            let full = header.len.saturating_add(HEADER as u64);
            if have < full {
                return Step::Need { offset: self.at, len: full.max(PIECE).min(rest) };
            }
            let end = usize::try_from(full).unwrap_or(usize::MAX).min(self.have.len());
            let payload = self.have.slice(HEADER.min(end)..end);
            if !header.verifies(&payload) {
                self.skip();
                continue;
            }
            if let Some(skipped) = self.skipped() {
                return skipped;
            }
            let offset = self.at;
            self.advance(end);
            return Step::Record { offset, payload };
        }
    }

    /// Moves on to the next magic in what is here, or to where one may begin.
    fn skip(&mut self) {
        self.skipping.get_or_insert(self.at);
        let found = self.have.windows(MAGIC.len()).skip(1).position(|window| window == MAGIC).map(|at| at + 1);
        let at_end = self.at.saturating_add(self.have.len() as u64) >= self.file_len;
        let next = match found {
            Some(at) => at,
            None if at_end => self.have.len(),
            // A magic may straddle the pieces.
            None => self.have.len().saturating_sub(MAGIC.len() - 1).max(1),
        };
        let gone = self.have.slice(..next.min(self.have.len()));
        let keep = self.tail.len().saturating_add(gone.len()).saturating_sub(FOOTER).min(self.tail.len());
        self.tail.drain(..keep);
        self.tail.extend_from_slice(gone.get(gone.len().saturating_sub(FOOTER)..).unwrap_or_default());
        self.advance(next);
    }

    fn skipped(&mut self) -> Option<Step> {
        let from = self.skipping.take()?;
        Some(Step::Skipped { from, to: self.at, tail: std::mem::take(&mut self.tail) })
    }

    fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.have.len());
        self.at = self.at.saturating_add(bytes as u64);
        self.have = self.have.slice(bytes..);
    }
}

/// One read: large enough for the disk, small enough for memory.
pub const PIECE: u64 = 4 << 20;

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
