//! Back-off for one thing that fails for reasons outside of us: said once when it begins, once when it is over, never in a
//! flood. Every part of the Drainer that asks the world for something owns one.

use super::out::Out;
use crate::pump::effect::Level;
use crate::time::MonoTime;

/// Failures of one kind of request in a row.
#[derive(Debug)]
pub(super) struct Retry {
    /// What is being tried, for the log: "listing the pumps".
    what: String,
    failures: u32,
    since: MonoTime,
    not_before: MonoTime,
    last_error: String,
    said_at: Option<MonoTime>,
}

impl Retry {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            failures: 0,
            since: MonoTime::ZERO,
            not_before: MonoTime::ZERO,
            last_error: String::new(),
            said_at: None,
        }
    }

    /// Nothing is tried before `not_before`.
    pub(super) fn waiting_until(self, not_before: MonoTime) -> Self {
        Self { not_before, ..self }
    }

    /// Counts a failure and sets the moment of the next attempt.
    pub(super) fn fail(&mut self, now: MonoTime, error: &str, out: &mut Out) {
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_error = clip(error);
        let doubled = FIRST_MS.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let wait = doubled.min(LAST_MS);
        self.not_before = now.plus_millis(wait + out.random_below(wait / 4 + 1));
        let repeat = self.said_at.is_some_and(|at| now.millis_since(at) >= REPEAT_MS);
        if self.failures == 1 || repeat {
            self.said_at = Some(now);
            let text = format!("{} failed ({}); trying again until it succeeds", self.what, self.last_error);
            out.notice(Level::Warn, text);
        }
    }

    /// It worked.
    pub(super) fn succeed(&mut self, now: MonoTime, out: &mut Out) {
        if self.failures > 0 {
            let text = format!(
                "{} works again after {} failed attempts in {} ms",
                self.what,
                self.failures,
                now.millis_since(self.since)
            );
            out.notice(Level::Info, text);
        }
        self.failures = 0;
        self.said_at = None;
        self.not_before = MonoTime::ZERO;
        self.last_error.clear();
    }

    pub(super) fn may_try(&self, now: MonoTime) -> bool {
        now >= self.not_before
    }

    pub(super) fn not_before(&self) -> MonoTime {
        self.not_before
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Error and beginning of the trouble that lasts.
    pub(super) fn trouble(&self) -> Option<(&str, MonoTime)> {
        (self.failures > 0).then_some((self.last_error.as_str(), self.since))
    }
}

/// Errors of peers go into logs and status: bounded.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A peer that restarts answers again within this.
const FIRST_MS: u64 = 100;
/// Cheap enough for a peer that is away for hours, short enough to be unnoticed when it is back.
const LAST_MS: u64 = 5_000;
/// A trouble that lasts is said again this often.
const REPEAT_MS: u64 = 600_000;
/// Characters of a foreign error text that are kept.
const MAX_TEXT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drainer::effect::Effect;

    #[test]
    fn says_it_once_and_backs_off_to_five_seconds() {
        let mut out = Out::new(1);
        let mut retry = Retry::new("reading");
        let mut now = MonoTime::ZERO;
        let mut waits = Vec::new();
        for _ in 0..10 {
            retry.fail(now, "away", &mut out);
            waits.push(retry.not_before().millis_since(now));
            assert!(!retry.may_try(now));
            now = retry.not_before();
            assert!(retry.may_try(now));
        }
        assert!((100..=125).contains(&waits[0]), "{waits:?}");
        assert!((5_000..=6_250).contains(&waits[9]), "{waits:?}");
        retry.succeed(now, &mut out);
        retry.succeed(now, &mut out);
        let mut levels = Vec::new();
        while let Some(effect) = out.pop() {
            if let Effect::Notice { level, .. } = effect {
                levels.push(level);
            }
        }
        assert_eq!(levels, [Level::Warn, Level::Info]);
    }
}
