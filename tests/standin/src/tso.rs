//! PD's model on the host's clock: timestamps, and the GC safe points that hang on them.
//!
//! With a capture the clock is the capture's (its README, "Replaying a capture"): before the feed it runs 10 s below the
//! smallest recorded timestamp and never reaches it, during the feed there is none at all, afterwards it goes on one second
//! above the largest. So no timestamp that a process gets lies among the recorded ones.

use anyhow::{Result, bail};
use binlog_core::time::Tso;
use binlog_sim_models::pd::Pd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BEFORE_MS: u64 = 10_000;
const AFTER_MS: u64 = 1_000;
/// Logical parts per millisecond: the most that one request may ask for.
const MAX_COUNT: u64 = 1 << Tso::LOGICAL_BITS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Wall,
    /// The last millisecond that may be given out.
    Before {
        ceiling_ms: u64,
    },
    After,
}

/// The model and the clock that drives it. Timestamps only rise, except where `start` or `wall` turns the clock: that makes
/// another PD, whose safe points begin anew.
#[derive(Debug)]
pub struct Clock {
    model: Pd,
    mode: Mode,
    /// Unix milliseconds at the model's time 0.
    epoch_ms: u64,
    /// The model's time at `since`.
    base: Duration,
    since: Instant,
    capture: Option<(u64, u64)>,
    outage: bool,
}

impl Default for Clock {
    fn default() -> Self {
        let epoch_ms = wall_ms();
        let (base, since) = (Duration::ZERO, Instant::now());
        Self { model: Pd::new(epoch_ms), mode: Mode::Wall, epoch_ms, base, since, capture: None, outage: false }
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
        let smallest_ms = Tso::new(smallest).physical_ms();
        let ceiling_ms = smallest_ms.saturating_sub(1);
        self.turn(smallest_ms.saturating_sub(BEFORE_MS), Mode::Before { ceiling_ms });
        Ok(())
    }

    /// No timestamps until `resume` (or `start`); all else is answered. For PD's whole absence see [`Clock::set_up`].
    pub fn outage(&mut self) {
        self.outage = true;
    }

    /// Ends an outage. With a capture's clock it goes on one second above the largest recorded timestamp.
    pub fn resume(&mut self) {
        self.outage = false;
        if let (Mode::Before { .. }, Some((_, largest))) = (self.mode, self.capture) {
            let now_ms = self.now_ms();
            (self.base, self.since) = (Duration::from_millis(now_ms), Instant::now());
            let target = Tso::new(largest).physical_ms().saturating_add(AFTER_MS);
            self.model.jump(target.saturating_sub(self.epoch_ms.saturating_add(now_ms)));
            self.mode = Mode::After;
        }
    }

    /// The host's clock, whatever is loaded.
    pub fn wall(&mut self) {
        self.outage = false;
        if self.mode != Mode::Wall {
            self.turn(wall_ms(), Mode::Wall);
        }
    }

    /// Forgets safe points and services.
    pub fn forget_safe_points(&mut self) {
        let up = self.model.is_up();
        self.turn(self.epoch_ms.saturating_add(self.now_ms()), self.mode);
        self.model.set_up(up);
    }

    fn turn(&mut self, epoch_ms: u64, mode: Mode) {
        *self = Self { model: Pd::new(epoch_ms), mode, epoch_ms, capture: self.capture, ..Self::default() };
    }

    /// PD is away, or comes back: nothing on its port is answered.
    pub fn set_up(&mut self, up: bool) {
        self.model.set_up(up);
    }

    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.model.is_up()
    }

    /// Time for the model: milliseconds since its beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let elapsed = self.base.saturating_add(self.since.elapsed());
        let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match self.mode {
            Mode::Before { ceiling_ms } => now_ms.min(ceiling_ms.saturating_sub(self.epoch_ms)),
            Mode::Wall | Mode::After => now_ms,
        }
    }

    /// The model, with the time to call it with.
    pub fn model(&mut self) -> (&mut Pd, u64) {
        let now_ms = self.now_ms();
        (&mut self.model, now_ms)
    }

    /// One word for status.
    #[must_use]
    pub const fn mode(&self) -> &'static str {
        match (self.outage, self.mode) {
            (true, _) => "outage",
            (false, Mode::Wall) => "wall",
            (false, Mode::Before { .. }) => "capture: before",
            (false, Mode::After) => "capture: after",
        }
    }

    /// The last of `count` new timestamps as (physical, logical); `None` during an outage.
    pub fn get(&mut self, count: u32) -> Option<(i64, i64)> {
        let last = self.model.last();
        if let Mode::Before { ceiling_ms } = self.mode
            && last.physical_ms() >= ceiling_ms
            && last.logical().saturating_add(u64::from(count)) >= MAX_COUNT
        {
            return None;
        }
        if self.outage || u64::from(count) > MAX_COUNT {
            return None;
        }
        let (model, now_ms) = self.model();
        let ts = model.tso_batch(now_ms, count).ok()?;
        Some((i64::try_from(ts.physical_ms()).ok()?, i64::try_from(ts.logical()).ok()?))
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(pair: (i64, i64)) -> u64 {
        Tso::compose(u64::try_from(pair.0).unwrap(), u64::try_from(pair.1).unwrap()).raw()
    }

    #[test]
    fn timestamps_rise_and_a_batch_is_counted_from_its_last() {
        let mut clock = Clock::default();
        let first = ts(clock.get(1).unwrap());
        let last = clock.get(10).unwrap();
        assert!(ts(last) >= first + 10, "ten timestamps lie between");
        assert!(last.1 >= 9);
        assert_eq!(clock.get(u32::MAX), None, "more than a millisecond has");
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
        clock.since -= Duration::from_secs(3600);
        while let Some(pair) = clock.get(100_000) {
            assert!(ts(pair) < smallest);
        }
        clock.outage();
        assert_eq!(clock.get(1), None);
        clock.resume();
        let after = ts(clock.get(1).unwrap());
        assert_eq!(after >> 18, 1_001_500, "1 s above the largest");
    }

    #[test]
    fn an_outage_of_timestamps_is_not_one_of_pd() {
        let mut clock = Clock::default();
        clock.outage();
        let (model, now_ms) = clock.model();
        assert!(model.update_service_safe_point(now_ms, "pump", 60, 5).is_ok());
        clock.resume();
        clock.set_up(false);
        assert_eq!(clock.get(1), None);
        let (model, now_ms) = clock.model();
        assert!(model.update_service_safe_point(now_ms, "pump", 60, 5).is_err());
    }
}
