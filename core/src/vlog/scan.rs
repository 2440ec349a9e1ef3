//! Reading a segment in order, in bounded pieces (rules 2, recovery). Asks for bytes, never reads itself: the caller turns
//! [`Need`] into a read operation and feeds the answer. Memory is one batch, as it was when the batch was written, plus one
//! chunk; a length is believed only when its checksum holds and the file is that long.

use super::batch;
use super::format::{BATCH_HEADER, BLOCK, BatchHeader, FIRST_BATCH, Seal, align_up, decode_batch_header, to_usize};
use super::log::BatchSeq;
use super::record::Record;
use crate::ids::SlotId;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes that the caller should read and feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub slot: SlotId,
    pub offset: u64,
    pub len: u64,
}

/// A batch whose header and records all verify.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub offset: u64,
    /// Where the next batch begins.
    pub end: u64,
    pub seq: BatchSeq,
    pub records: Vec<(u64, Record)>,
}

#[derive(Debug)]
pub(super) enum Step {
    Need(Need),
    Batch(Batch),
    /// No valid batch begins at `at`; `header` if only its records are bad.
    Invalid {
        at: u64,
        header: Option<BatchHeader>,
        why: &'static str,
    },
    /// The limit is reached exactly.
    End,
}

/// Walks the batches of one segment from `pos` up to `limit`.
#[derive(Debug)]
pub(super) struct Scanner {
    pub seal: Seal,
    pub slot: SlotId,
    begin: u64,
    pos: u64,
    limit: u64,
    /// Bytes from `pos` on.
    ahead: Ahead,
    asked: u64,
}

impl Scanner {
    pub fn new(seal: Seal, slot: SlotId, pos: u64, limit: u64) -> Self {
        Self { seal, slot, begin: pos, pos, limit, ahead: Ahead::default(), asked: 0 }
    }

    /// All batches of a segment that ends at `end`.
    pub fn of_segment(seal: Seal, slot: SlotId, end: u64) -> Self {
        Self::new(seal, slot, FIRST_BATCH, end)
    }

    /// Whether it did not begin with the segment's first batch.
    pub const fn began_within(&self) -> bool {
        self.begin != FIRST_BATCH
    }

    /// Goes back to the first batch if no batch began where reading did: the index claims the end of a batch, or, when a recovery was
    /// cut short, of a record in its middle. `false`: there is nothing to go back to, `at` is invalid.
    pub fn restart(&mut self, at: u64) -> bool {
        let again = at == self.begin && self.began_within();
        if again {
            *self = Self::new(self.seal, self.slot, FIRST_BATCH, self.limit);
        }
        again
    }

    pub fn step(&mut self) -> Step {
        let left = self.limit.saturating_sub(self.pos);
        if left == 0 {
            return Step::End;
        }
        if left < BATCH_HEADER as u64 {
            return self.invalid(None, "batch header is cut off");
        }
        let Some(bytes) = self.ahead.front(BATCH_HEADER) else { return self.need(left) };
        let Some(header) = decode_batch_header(self.seal, self.pos, &bytes) else {
            return self.invalid(None, "no batch of this segment begins here");
        };
        let total = header.payload_len.saturating_add(BATCH_HEADER as u64);
        if total > left {
            return self.invalid(Some(header), "batch reaches beyond the end");
        }
        let Some(bytes) = self.ahead.front(to_usize(total)) else { return self.need(left) };
        match batch::decode(self.seal, self.pos, header, &bytes) {
            Err(why) => self.invalid(Some(header), why),
            Ok(records) => {
                let offset = self.pos;
                self.pos = align_up(offset + total);
                // The padding may not have been read (or may not exist behind a torn file end): it is skipped, not checked.
                self.ahead.skip(to_usize(self.pos - offset));
                Step::Batch(Batch { offset, end: self.pos, seq: header.seq, records })
            }
        }
    }

    pub fn feed(&mut self, data: &Bytes) {
        if (data.len() as u64) < self.asked {
            // The file ends earlier than its size said.
            self.limit = self.limit.min(self.pos + (self.ahead.len + data.len()) as u64);
        }
        self.ahead.push(data.clone());
    }

    fn need(&mut self, left: u64) -> Step {
        let have = self.ahead.len as u64;
        self.asked = CHUNK.min(left - have.min(left));
        Step::Need(Need { slot: self.slot, offset: self.pos + have, len: self.asked })
    }

    fn invalid(&self, header: Option<BatchHeader>, why: &'static str) -> Step {
        Step::Invalid { at: self.pos, header, why }
    }
}

/// Bytes that were read, in the pieces in which they came: only what lies across the end of one is copied.
#[derive(Debug, Default)]
struct Ahead {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Ahead {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push_back(piece);
    }

    /// The first `len` bytes; `None`: so many were not read yet.
    fn front(&self, len: usize) -> Option<Bytes> {
        if self.len < len {
            return None;
        }
        match self.pieces.front() {
            Some(first) if first.len() >= len => Some(first.slice(..len)),
            _ => {
                let mut whole = BytesMut::with_capacity(len);
                for piece in &self.pieces {
                    let left = len - whole.len();
                    whole.extend_from_slice(piece.get(..left).unwrap_or(piece));
                }
                Some(whole.freeze())
            }
        }
    }

    /// Drops the first `len` bytes, or all there are.
    fn skip(&mut self, mut len: usize) {
        while let Some(first) = self.pieces.front_mut().filter(|_| len > 0) {
            let part = len.min(first.len());
            first.advance(part);
            self.len -= part;
            len -= part;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// Looks at the beginning of every block for a batch header of this segment: behind the first invalid batch there must be
/// none, because nothing was written there before that batch was durable.
#[derive(Debug)]
pub(super) struct Hunt {
    pub seal: Seal,
    pub slot: SlotId,
    pos: u64,
    limit: u64,
}

impl Hunt {
    /// From `from` (a block boundary) to `limit`, the length of the file.
    pub fn new(seal: Seal, slot: SlotId, from: u64, limit: u64) -> Self {
        Self { seal, slot, pos: from, limit }
    }

    /// What to read next; `None` when the end is reached.
    pub fn need(&self) -> Option<Need> {
        let left = self.limit.saturating_sub(self.pos);
        (left >= BATCH_HEADER as u64).then(|| Need { slot: self.slot, offset: self.pos, len: CHUNK.min(left) })
    }

    /// The first header in `data`, with its offset.
    pub fn feed(&mut self, data: &Bytes) -> Option<(u64, BatchHeader)> {
        for block in data.chunks(to_usize(BLOCK)) {
            if let Some(header) = decode_batch_header(self.seal, self.pos, block) {
                return Some((self.pos, header));
            }
            self.pos += BLOCK;
        }
        if data.is_empty() {
            self.limit = self.pos;
        }
        None
    }
}

/// One read: large enough that a disk streams, small enough that recovery needs no memory to speak of. A multiple of
/// [`BLOCK`].
const CHUNK: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_read_in_pieces_is_one_run_of_bytes(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..8),
            steps in proptest::collection::vec((0usize..40, 0usize..40), 0..20),
        ) {
            let (mut ahead, mut all) = (Ahead::default(), Vec::new());
            for piece in pieces {
                all.extend_from_slice(&piece);
                ahead.push(piece.into());
            }
            for (peek, skip) in steps {
                let front = ahead.front(peek);
                prop_assert_eq!(front.as_deref(), all.get(..peek));
                ahead.skip(skip);
                all.drain(..skip.min(all.len()));
                prop_assert_eq!(ahead.len, all.len());
            }
        }
    }
}
