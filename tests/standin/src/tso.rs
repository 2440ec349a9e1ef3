//! PD's timestamp oracle. A timestamp is `physical ms << 18 | logical`; a request for n gets the *last* of n.
//!
//! With a capture the clock is the capture's (its README, "Replaying a capture"): before the feed it runs 10 s below the
//! smallest recorded timestamp and never reaches it, during the feed there is none at all, afterwards it goes on one second
//! above the largest. So no timestamp that a process gets lies among the recorded ones.

use anyhow::{Result, bail};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Bits of the logical part.
pub const LOGICAL_BITS: u32 = 18;
const MAX_LOGICAL: i64 = (1 << LOGICAL_BITS) - 1;
const BEFORE_MS: i64 = 10_000;
const AFTER_MS: i64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Wall,
    /// Milliseconds of the smallest recorded timestamp.
    Before {
        smallest_ms: i64,
        since: Instant,
    },
    /// Milliseconds of the largest recorded timestamp.
    After {
        largest_ms: i64,
        since: Instant,
    },
}

/// The clock. Timestamps only rise, except where `start` turns it to a capture.
#[derive(Debug)]
pub struct Clock {
    base: Base,
    capture: Option<(u64, u64)>,
    outage: bool,
    physical: i64,
    logical: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { base: Base::Wall, capture: None, outage: false, physical: 0, logical: 0 }
    }
}

impl Clock {
    /// Smallest and largest recorded timestamp; used by `start` and `resume`.
    pub fn set_capture(&mut self, range: (u64, u64)) {
        self.capture = Some(range);
    }

    /// Turns the clock to 10 s below the smallest recorded timestamp.
    pub fn start(&mut self) -> Result<()> {
        let Some((smallest, _)) = self.capture else {
            bail!("no capture is loaded: PUT /capture first, or use PUT /tso/wall")
        };
        let smallest_ms = physical_of(smallest);
        self.base = Base::Before { smallest_ms, since: Instant::now() };
        self.outage = false;
        (self.physical, self.logical) = (smallest_ms - BEFORE_MS, 0);
        Ok(())
    }

    /// Answers UNAVAILABLE until `resume` (or `start`).
    pub fn outage(&mut self) {
        self.outage = true;
    }

    /// Ends an outage. With a capture's clock it goes on one second above the largest recorded timestamp.
    pub fn resume(&mut self) {
        self.outage = false;
        if let (Base::Before { .. }, Some((_, largest))) = (self.base, self.capture) {
            let largest_ms = physical_of(largest) + AFTER_MS;
            self.base = Base::After { largest_ms, since: Instant::now() };
            (self.physical, self.logical) = (largest_ms, 0);
        }
    }

    /// The host's clock, whatever is loaded.
    pub fn wall(&mut self) {
        (self.base, self.outage) = (Base::Wall, false);
        (self.physical, self.logical) = (wall_ms(), 0);
    }

    /// Sets the last timestamp given (tests of recorded replies).
    pub fn set(&mut self, physical: i64, logical: i64) {
        (self.physical, self.logical) = (physical, logical);
        self.base = Base::After { largest_ms: physical, since: Instant::now() };
    }

    /// One word for status.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match (self.outage, self.base) {
            (true, _) => "outage",
            (false, Base::Wall) => "wall",
            (false, Base::Before { .. }) => "capture: before",
            (false, Base::After { .. }) => "capture: after",
        }
    }

    /// The last of `count` new timestamps as (physical, logical); `None` during an outage.
    pub fn get(&mut self, count: u32) -> Option<(i64, i64)> {
        if self.outage {
            return None;
        }
        let (now, ceiling) = match self.base {
            Base::Wall => (wall_ms(), i64::MAX),
            Base::Before { smallest_ms, since } => (smallest_ms - BEFORE_MS + elapsed_ms(since), smallest_ms - 1),
            Base::After { largest_ms, since } => (largest_ms + elapsed_ms(since), i64::MAX),
        };
        let now = now.min(ceiling);
        if now > self.physical {
            (self.physical, self.logical) = (now, 0);
        }
        let count = i64::from(count);
        if self.logical + count > MAX_LOGICAL {
            if self.physical >= ceiling {
                return None;
            }
            (self.physical, self.logical) = (self.physical + 1, 0);
        }
        self.logical += count;
        Some((self.physical, self.logical))
    }
}

/// Milliseconds of a timestamp.
#[must_use]
pub fn physical_of(ts: u64) -> i64 {
    i64::try_from(ts >> LOGICAL_BITS).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn elapsed_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(pair: (i64, i64)) -> u64 {
        u64::try_from((pair.0 << LOGICAL_BITS) + pair.1).unwrap()
    }

    #[test]
    fn timestamps_rise_and_a_batch_is_counted_from_its_last() {
        let mut clock = Clock::default();
        let first = ts(clock.get(1).unwrap());
        let last = clock.get(10).unwrap();
        assert!(ts(last) >= first + 10, "ten timestamps lie between");
        assert!(last.1 >= 10);
    }

    #[test]
    fn a_capture_never_gets_a_timestamp_among_the_recorded() {
        let (smallest, largest) = (1_000_000_u64 << 18 | 7, 1_000_500 << 18 | 3);
        let mut clock = Clock::default();
        assert!(clock.start().is_err(), "nothing loaded");
        clock.set_capture((smallest, largest));
        clock.start().unwrap();
        let before = ts(clock.get(1).unwrap());
        assert_eq!(before >> 18, 990_000, "10 s below the smallest");
        // As if the feed began late: the clock waits below the smallest.
        if let Base::Before { since, .. } = &mut clock.base {
            *since -= std::time::Duration::from_secs(3600);
        }
        assert!(ts(clock.get(5).unwrap()) < smallest);
        clock.outage();
        assert_eq!(clock.get(1), None);
        clock.resume();
        let after = ts(clock.get(1).unwrap());
        assert_eq!(after >> 18, 1_001_500, "1 s above the largest");
    }

    #[test]
    fn a_full_logical_part_moves_the_physical_one() {
        let mut clock = Clock::default();
        clock.set(5_000, MAX_LOGICAL - 1);
        let (physical, logical) = clock.get(4).unwrap();
        assert!(physical > 5_000);
        assert!(logical >= 4);
    }
}
