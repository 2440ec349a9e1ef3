//! Free space of the data directory (spec pump 3.7, rules 6): when prewrites are refused, and when that will be.
//!
//! Behind the configured limit lies a reserve for what must go on when prewrites no longer do: two segments and their share of the
//! index, for C, R, verdicts, GC and fakes. Segments that stand ready count as free space: they were taken from it ahead of time.

use crate::canary::{self, Canary};
use crate::time::MonoTime;
use serde::Serialize;
use std::collections::VecDeque;

#[derive(Debug, Clone)]
pub struct Space {
    /// As measured last, in bytes.
    pub available: u64,
    capacity: u64,
    /// `stop-write-at-available-space`, in bytes.
    pub limit: u64,
    reserve: u64,
    /// Bytes that stand ready in the log, as of the last measurement.
    prepared: u64,
    /// By the last measurement, with hysteresis.
    pub writable: bool,
    measured: bool,
    /// Bytes that were accepted since.
    since: u64,
    /// Free bytes (prepared ones included) over time, oldest first.
    samples: VecDeque<(MonoTime, u64)>,
}

/// For status and metrics; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SpaceStatus {
    pub available: u64,
    pub capacity: u64,
    /// The configured limit.
    pub limit: u64,
    /// Kept free behind it; less what stands ready.
    pub reserve: u64,
    /// Prewrites are refused at or below this much free space, and accepted again at 1.2 times it.
    pub refused_at: u64,
    pub writable: bool,
    /// Milliseconds until prewrites are refused, at the rate of the last minutes; `None`: space does not shrink.
    pub refused_in_ms: Option<u64>,
}

impl Space {
    /// Writable until the driver has measured; without a reserve.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self {
            available: 0,
            capacity: 0,
            limit,
            reserve: 0,
            prepared: 0,
            writable: true,
            measured: false,
            since: 0,
            samples: VecDeque::new(),
        }
    }

    /// Keeps space for two segments and for the index's share of them (an entry is about an eighth of a small transaction).
    #[must_use]
    pub const fn with_reserve(mut self, segment_bytes: u64) -> Self {
        self.reserve = segment_bytes.saturating_mul(2).saturating_add(segment_bytes / 4);
        self
    }

    /// Prewrites are refused at or below this much free space.
    #[must_use]
    pub fn refused_at(&self) -> u64 {
        if canary::is(Canary::ReserveUsedByP) {
            return self.limit;
        }
        self.limit.saturating_add(self.reserve.saturating_sub(self.prepared))
    }

    /// A new measurement, and the bytes that stand ready in the log; whether `writable` changed.
    pub fn measure(&mut self, now: MonoTime, available: u64, capacity: u64, prepared: u64) -> bool {
        let before = self.writable;
        (self.available, self.capacity, self.measured, self.since) = (available, capacity, true, 0);
        // What stands ready beyond two segments is no reserve of ours to count on: it goes to the next prewrites.
        self.prepared = prepared.min(self.reserve);
        let refused_at = self.refused_at();
        let again = refused_at.saturating_add(refused_at / 5);
        self.writable = available > refused_at && (before || available >= again);
        let due = self.samples.back().is_none_or(|(at, _)| now.millis_since(*at) >= SAMPLE_MS);
        if due {
            if self.samples.len() >= MAX_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back((now, available.saturating_add(prepared)));
        }
        before != self.writable
    }

    /// Bytes were accepted for the log: between two measurements they count as used.
    pub const fn used(&mut self, bytes: u64) {
        self.since = self.since.saturating_add(bytes);
    }

    /// Free space as far as is known now, for the text of a refusal.
    #[must_use]
    pub const fn estimate(&self) -> u64 {
        self.available.saturating_sub(self.since)
    }

    #[must_use]
    pub fn accepts_prewrites(&self) -> bool {
        self.writable && (!self.measured || self.estimate() > self.refused_at())
    }

    /// Prewrites are refused, or may be soon: GC looks more often.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.measured && self.available <= self.refused_at().saturating_mul(2)
    }

    #[must_use]
    pub fn status(&self) -> SpaceStatus {
        SpaceStatus {
            available: self.available,
            capacity: self.capacity,
            limit: self.limit,
            reserve: self.reserve.saturating_sub(self.prepared),
            refused_at: self.refused_at(),
            writable: self.writable,
            refused_in_ms: self.refused_in_ms(),
        }
    }

    fn refused_in_ms(&self) -> Option<u64> {
        if !self.accepts_prewrites() {
            return Some(0);
        }
        let ((from, most), (to, least)) = (*self.samples.front()?, *self.samples.back()?);
        let (used, span) = (most.checked_sub(least)?, to.millis_since(from));
        let left = u128::from(self.estimate().saturating_sub(self.refused_at()));
        let ms = left.saturating_mul(span.into()).checked_div(used.into())?;
        u64::try_from(ms).ok()
    }
}

/// Between two samples, in milliseconds.
const SAMPLE_MS: u64 = 10_000;
/// Ten minutes: long enough to be calm, short enough to follow the load.
const MAX_SAMPLES: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonoTime {
        MonoTime::ZERO.plus_millis(seconds * 1000)
    }

    #[test]
    fn the_reserve_is_kept_and_what_stands_ready_counts_as_free() {
        // Limit 1000, segments of 400: 900 are reserved.
        let mut space = Space::new(1000).with_reserve(400);
        assert!(space.accepts_prewrites(), "not measured yet");
        for (available, prepared, accepts) in [
            (1901, 0, true),
            (1900, 0, false),
            (2000, 0, false),
            (2279, 0, false),
            (2280, 0, true),
            // A segment was filled: it moved from free to ready, nothing else changed.
            (1880, 400, true),
            (1500, 400, false),
            (1800, 400, true),
            // More than the reserve can stand ready; the limit itself stays.
            (1001, 5000, true),
            (1000, 5000, false),
        ] {
            space.measure(at(0), available, 10_000, prepared);
            assert_eq!(space.accepts_prewrites(), accepts, "{available} {prepared}");
        }
    }

    #[test]
    fn what_is_accepted_between_measurements_counts_as_used() {
        let mut space = Space::new(1000).with_reserve(400);
        space.measure(at(0), 2000, 10_000, 0);
        space.used(99);
        assert!(space.accepts_prewrites());
        space.used(1);
        assert!(!space.accepts_prewrites());
        assert_eq!((space.estimate(), space.refused_at()), (1900, 1900));
        // It was written over old blocks.
        assert!(!space.measure(at(3), 2000, 10_000, 0), "no change of state");
        assert!(space.accepts_prewrites());
    }

    #[test]
    fn time_left_follows_the_rate() {
        let mut space = Space::new(0);
        space.measure(at(0), 100_000, 200_000, 0);
        assert_eq!(space.status().refused_in_ms, None, "no rate yet");
        space.measure(at(10), 100_000, 200_000, 0);
        assert_eq!(space.status().refused_in_ms, None, "nothing is used");
        space.measure(at(20), 98_000, 200_000, 0);
        // 2000 bytes in 20 s.
        assert_eq!(space.status().refused_in_ms, Some(980_000));
        // Filling ahead uses nothing.
        space.measure(at(30), 97_000, 200_000, 1_000);
        assert_eq!(space.status().refused_in_ms, Some(97_000 * 30 / 2));
        for i in 0..200 {
            space.measure(at(40 + i), 150_000, 200_000, 0);
        }
        assert_eq!(space.status().refused_in_ms, None, "GC gave some back");
        space.measure(at(900), 0, 200_000, 0);
        assert_eq!(space.status().refused_in_ms, Some(0));
    }
}
