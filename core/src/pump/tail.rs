//! The tail in memory: the batches that were written last, as the bytes that went to the disk (design 3.3). Nothing is copied:
//! it holds the parts of the write itself. Streams look here first and read the log only for what is older.
//!
//! Knows nothing of durability: whoever asks has a position from the index at or below the watermark, and that is durable.
//! Called by `machine` (what was sealed) and `pull` (look-ups).

use crate::ids::LogPtr;
use crate::index::value::Span;
use crate::vlog::log::Sealed;
use crate::vlog::record::{Record, record_at};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug)]
pub struct Tail {
    limit: usize,
    /// In log order.
    batches: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    start: LogPtr,
    /// Each with its offset in the segment; without gaps.
    parts: Vec<(u64, Bytes)>,
    bytes: usize,
}

impl Tail {
    /// Holds up to `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, batches: VecDeque::new(), bytes: 0 }
    }

    /// A batch is on its way to the disk.
    pub fn push(&mut self, sealed: &Sealed) {
        let bytes: usize = sealed.parts.iter().map(Bytes::len).sum();
        // One that would push out most of the others is read from the disk instead: it costs one read each.
        if bytes > self.limit / 2 {
            return;
        }
        while self.bytes + bytes > self.limit {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
        let mut at = sealed.start.offset;
        let parts = sealed.parts.iter().map(|part| {
            let here = at;
            at = at.saturating_add(part.len() as u64);
            (here, part.clone())
        });
        self.batches.push_back(Batch { start: sealed.start, parts: parts.collect(), bytes });
        self.bytes += bytes;
    }

    /// The record at this place, if it is still here. Its payload shares the memory of the batch.
    #[must_use]
    pub fn record(&self, span: Span) -> Option<Record> {
        let after = self.batches.partition_point(|batch| batch.start <= span.ptr);
        let batch = self.batches.get(after.checked_sub(1)?)?;
        if batch.start.segment != span.ptr.segment {
            return None;
        }
        let index = batch.parts.partition_point(|(at, _)| *at <= span.ptr.offset).checked_sub(1)?;
        let (at, part) = batch.parts.get(index)?;
        let from = usize::try_from(span.ptr.offset.checked_sub(*at)?).ok()?;
        let head = part.get(from..).filter(|head| !head.is_empty())?;
        // A large payload is a part of its own, behind the one that ends with its header.
        let next = batch.parts.get(index + 1).map(|(_, part)| part);
        record_at(&part.slice_ref(head), next, usize::try_from(span.len).ok()?)
    }

    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn check(&self) {
        assert!(self.bytes <= self.limit, "the tail in memory is limited");
        let order = self.batches.iter().zip(self.batches.iter().skip(1));
        assert!(order.into_iter().all(|(a, b)| a.start < b.start), "the tail is in log order");
        assert_eq!(self.batches.iter().map(|batch| batch.bytes).sum::<usize>(), self.bytes, "bytes are counted");
    }
}
