//! The scrub (rules 2): reads what is durable again, piece by piece, so that damage of history shows before a Drainer needs it.
//! Opening verifies from `flushed_end` on; this looks at the rest. Decides nothing: the owner sets the pace and is told of what does
//! not verify. Part of `Log`.
//!
//! Only segments that are complete are read; the one that is written to has its turn when the next follows it. The original's value
//! logs are not: their checks need a search (`v1`), and whoever reads them checks them.

use super::log::{BatchSeq, LogEvent, LogOps};
use super::op::{LogOp, LogReply};
use super::read::Place;
use super::scan::{Need, Scanner, Step};
use super::segment::unexpected;
use crate::fault::{Fault, IoFault};
use crate::ids::{OpId, SegmentId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Debug, Default)]
pub(super) struct Scrub {
    current: Option<Current>,
    /// Segments up to here were read in this pass.
    done: SegmentId,
    pub counters: ScrubCounters,
}

/// For status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ScrubCounters {
    /// Bytes read in this life.
    pub bytes: u64,
    /// Times that all segments were read.
    pub passes: u64,
    /// Segments that did not verify, or could not be read, each once per pass.
    pub bad_segments: u64,
}

/// A segment that is being read.
#[derive(Debug)]
struct Current {
    segment: SegmentId,
    scanner: Scanner,
    /// Batches are dense within a segment.
    next_seq: Option<BatchSeq>,
    reading: Option<(OpId, Need)>,
}

impl Scrub {
    /// Asks for the next piece, unless one is under way; `false`: all of `segments` below `active` were read, the next call begins
    /// anew.
    pub fn advance(&mut self, segments: &BTreeMap<SegmentId, Place>, active: SegmentId, ops: &mut LogOps<'_>) -> bool {
        // GC may have freed it between two pieces; while one is under way it cannot.
        self.current.take_if(|current| !segments.contains_key(&current.segment));
        if self.current.is_none() {
            let next = segments.range((Bound::Excluded(self.done), Bound::Excluded(active.max(self.done)))).next();
            let Some((segment, place)) = next else {
                self.done = SegmentId::ZERO;
                self.counters.passes += 1;
                return false;
            };
            let scanner = Scanner::of_segment(place.seal, place.slot, place.end);
            self.current = Some(Current { segment: *segment, scanner, next_seq: None, reading: None });
        }
        if let Some(current) = self.current.as_mut().filter(|current| current.reading.is_none()) {
            match current.scanner.step() {
                Step::Need(need) => {
                    let op = ops.push(LogOp::Read { slot: need.slot, offset: need.offset, len: need.len });
                    current.reading = Some((op, need));
                }
                // `handle` steps on until something is needed: this one holds no batch.
                Step::Batch(_) | Step::Invalid { .. } | Step::End => self.finish(),
            }
        }
        true
    }

    /// The segment that a piece is being read of.
    pub fn in_use(&self) -> Option<SegmentId> {
        self.current.as_ref().filter(|current| current.reading.is_some()).map(|current| current.segment)
    }

    /// `false` if `op` is not ours.
    pub fn handle(&mut self, op: OpId, result: &Result<LogReply, IoFault>, events: &mut Vec<LogEvent>) -> bool {
        let Some(current) = self.current.as_mut() else { return false };
        let Some((_, need)) = current.reading.take_if(|(reading, _)| *reading == op) else { return false };
        let segment = current.segment;
        let Ok(LogReply::Data(data)) = result else {
            let what = format!("while it was read again in the background: {}", unexpected("read", result));
            events.push(LogEvent::Rotten(Fault::LogUnreadable { segment, offset: need.offset, what }));
            self.counters.bad_segments += 1;
            self.finish();
            return true;
        };
        self.counters.bytes += data.len() as u64;
        current.scanner.feed(data);
        let bad = loop {
            match current.scanner.step() {
                Step::Need(_) => return true,
                Step::End => break None,
                Step::Invalid { at, why, .. } => break Some((at, why.to_owned())),
                Step::Batch(batch) => {
                    if let Some(expected) = current.next_seq.filter(|expected| *expected != batch.seq) {
                        break Some((batch.offset, format!("batch {} follows {}", batch.seq.0, expected.0 - 1)));
                    }
                    current.next_seq = Some(BatchSeq(batch.seq.0 + 1));
                }
            }
        };
        if let Some((offset, what)) = bad {
            let what = format!("found while it was read again in the background: {what}");
            events.push(LogEvent::Rotten(Fault::LogDamaged { segment, offset, what }));
            self.counters.bad_segments += 1;
        }
        self.finish();
        true
    }

    fn finish(&mut self) {
        if let Some(current) = self.current.take() {
            self.done = current.segment;
        }
    }
}
