//! Idle fakes (spec pump 2.6): when no commit moved the watermark for an interval, a timestamp of PD is logged so that the
//! Drainers' merges go on. Its place in the order is taken when PD's reply is here, never before (rules 4).

use super::effect::Level;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use crate::binlog::item;
use crate::fault::IoFault;
use crate::ids::{CommitTs, StartTs};
use crate::time::Tso;
use crate::vlog::record::{Record, RecordKind};

#[derive(Debug, Default)]
pub struct Idle {
    asking: bool,
    /// Logged, but the watermark has not reached it: another would not help.
    pending: Option<CommitTs>,
    /// Largest timestamp accepted when PD was asked: only below that one has PD gone back.
    asked_above: CommitTs,
    /// Since the last tick, by something that is not our fake.
    moved: bool,
    outage: bool,
    /// PD gave a timestamp below what was accepted; said once until it does better.
    backwards: bool,
    pub fakes: u64,
    #[cfg(feature = "canary")]
    pub reserved: Option<crate::sorter::Place>,
}

impl Idle {
    pub fn watermark_moved(&mut self, watermark: CommitTs) {
        match self.pending {
            Some(fake) if fake <= watermark => {
                self.pending = None;
                self.moved |= fake < watermark;
            }
            _ => self.moved = true,
        }
    }
}

impl Pump {
    pub(super) fn arm_fakes(&mut self) {
        self.timers.set(Timer::Fake, self.now.plus_millis(self.config.fake_interval_ms.max(1)));
    }

    pub(super) fn on_fake_timer(&mut self) {
        self.arm_fakes();
        let moved = std::mem::take(&mut self.idle.moved);
        if !moved {
            self.request_fake();
        }
    }

    /// Asks PD for the timestamp of a logged fake, unless one is on its way.
    pub(super) fn request_fake(&mut self) {
        if !self.idle.asking && self.idle.pending.is_none() && self.may_store_own() {
            self.idle.asking = true;
            self.idle.asked_above = self.max_ts;
            #[cfg(feature = "canary")]
            if crate::canary::is(crate::canary::Canary::FrontierBeforeTsoRequest) {
                self.idle.reserved = Some(self.sorter.reserve());
            }
            self.out.tso(Waiting::TsoForFake);
        }
    }

    pub(super) fn on_fake_tso(&mut self, result: Result<Tso, IoFault>) {
        self.idle.asking = false;
        #[cfg(feature = "canary")]
        let result = self.wall_clock_instead(result);
        match result {
            Ok(ts) => {
                self.idle.outage = false;
                let (start_ts, commit_ts) = (StartTs::new(ts.raw()), CommitTs::new(ts.raw()));
                // Below what came in since the question: it would not help.
                if commit_ts <= self.max_ts.max(self.sorter.watermark()) {
                    if commit_ts > self.idle.asked_above || std::mem::replace(&mut self.idle.backwards, true) {
                        return;
                    }
                    let text = format!(
                        "PD gave timestamp {ts}, but commits up to {} were accepted: PD went back; no fake is written",
                        self.max_ts
                    );
                    self.out.notice(Level::Warn, text);
                } else if self.may_store_own() {
                    let record = Record { kind: RecordKind::Fake, start_ts, commit_ts, payload: item::fake(ts) };
                    // Only a repeated P is refused.
                    self.idle.backwards = false;
                    if self.append(record, false, None).is_ok() {
                        self.idle.pending = Some(commit_ts);
                        self.idle.fakes += 1;
                        self.fake_accepted(commit_ts);
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.idle.outage, true) {
                    let text = format!("PD gives no timestamp ({error}): no fake binlogs until it does");
                    self.out.notice(Level::Warn, text);
                }
            }
        }
    }

    /// The mutation: what this host believes PD's clock to be.
    #[cfg(feature = "canary")]
    fn wall_clock_instead(&self, result: Result<Tso, IoFault>) -> Result<Tso, IoFault> {
        if !crate::canary::is(crate::canary::Canary::FakeFromWallClock) {
            return result;
        }
        let ahead = |ts: Tso| Tso::compose(ts.physical_ms().saturating_add(WALL_CLOCK_AHEAD_MS), 0);
        result.map(ahead)
    }

    /// Whether the Pump may append records of its own.
    pub(super) fn may_store_own(&self) -> bool {
        self.start.is_done()
            && self.life.has_gc_point()
            && !self.life.is_stopping()
            && self.read_only.is_none()
            && self.log.is_ready()
    }
}

/// A clock that is not synchronised.
#[cfg(feature = "canary")]
const WALL_CLOCK_AHEAD_MS: u64 = 500;
