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
        if !moved && !self.idle.asking && self.idle.pending.is_none() && self.may_store_own() {
            self.idle.asking = true;
            #[cfg(feature = "canary")]
            if crate::canary::is(crate::canary::Canary::FrontierBeforeTsoRequest) {
                self.idle.reserved = Some(self.sorter.reserve());
            }
            self.out.tso(Waiting::TsoForFake);
        }
    }

    pub(super) fn on_fake_tso(&mut self, result: Result<Tso, IoFault>) {
        self.idle.asking = false;
        match result {
            Ok(ts) => {
                self.idle.outage = false;
                let (start_ts, commit_ts) = (StartTs::new(ts.raw()), CommitTs::new(ts.raw()));
                if commit_ts <= self.max_ts.max(self.sorter.watermark()) {
                    if std::mem::replace(&mut self.idle.backwards, true) {
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

    /// Whether the Pump may append records of its own.
    pub(super) fn may_store_own(&self) -> bool {
        self.start.is_done()
            && self.life.has_gc_point()
            && !self.life.is_stopping()
            && self.read_only.is_none()
            && self.log.is_ready()
    }
}
