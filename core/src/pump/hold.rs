//! The service safe point in PD (rules 1): TiKV's GC stays below the oldest undecided prewrite, so that a verdict finds its
//! evidence, also after this Pump was away for as long as the TTL. It never needs to be exact: what it fails to protect becomes
//! undecidable, never wrong.

use super::effect::Level;
use super::input::GcHeld;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use super::verdict::ABSENT_AFTER_MS;
use crate::fault::IoFault;
use crate::ids::{OpId, StartTs};
use crate::time::Tso;

#[derive(Debug, Default)]
pub struct Hold {
    /// What was asked for and is not answered.
    asked: Option<Tso>,
    /// Refused in a row.
    refused: u32,
    /// What PD holds for us.
    held: Option<Tso>,
    outage: bool,
    releasing: bool,
}

impl Hold {
    /// The removal at a clean stop is on its way.
    #[must_use]
    pub const fn is_releasing(&self) -> bool {
        self.releasing
    }

    #[must_use]
    pub const fn held(&self) -> Option<Tso> {
        self.held
    }
}

impl Pump {
    pub(super) fn begin_holding_gc(&mut self) {
        self.timers.set(Timer::HoldGc, self.now);
    }

    pub(super) fn on_hold_timer(&mut self) {
        if self.life.is_stopping() {
            return;
        }
        self.timers.set(Timer::HoldGc, self.now.plus_millis(REFRESH_MS));
        if self.hold.asked.is_none() {
            self.hold.refused = 0;
            match self.pd_now() {
                Some(now) => self.hold_at(self.hold_point(now)),
                None => {
                    self.out.tso(Waiting::TsoForHold);
                }
            }
        }
    }

    pub(super) fn on_hold_tso(&mut self, result: Result<Tso, IoFault>) {
        match result {
            Ok(now) if self.hold.asked.is_none() && !self.life.is_stopping() => self.hold_at(self.hold_point(now)),
            Ok(_) => {}
            Err(error) => self.hold_failed(&error),
        }
    }

    /// min(oldest undecided start_ts above the GC safe point, now − 10 min) − 1.
    fn hold_point(&self, now: Tso) -> Tso {
        let floor = StartTs::new(self.resolver.floor.raw());
        let recent = Tso::compose(now.physical_ms().saturating_sub(ABSENT_AFTER_MS), 0).raw();
        let oldest = self.ledger.oldest_undecided_above(floor).map_or(recent, StartTs::raw);
        Tso::new(oldest.min(recent).saturating_sub(1))
    }

    fn hold_at(&mut self, point: Tso) {
        self.hold.asked = Some(point);
        let ttl = i64::try_from(self.config.gc_hold_ttl_s).unwrap_or(i64::MAX);
        self.out.hold_gc(self.hold_service(), ttl, point);
    }

    /// Nothing needs evidence any more: GC need not wait for a Pump that is gone.
    pub(super) fn stop_holding_gc(&mut self) {
        if self.sorter.undecided() == 0 {
            self.hold.releasing = true;
            // A refresh on its way must not come after the removal.
            if self.hold.asked.is_none() {
                self.out.hold_gc(self.hold_service(), 0, Tso::ZERO);
            }
        }
    }

    pub(super) fn on_gc_held(&mut self, op: OpId, result: Result<GcHeld, IoFault>) {
        if self.out.complete(op, |why| why == Waiting::HoldGc).is_none() {
            return;
        }
        let asked = self.hold.asked.take();
        if self.hold.releasing {
            // The answer to the removal ends the wait, whatever it says: the TTL does the rest.
            self.hold.releasing = asked.is_some();
            self.hold.held = None;
            if asked.is_some() {
                self.out.hold_gc(self.hold_service(), 0, Tso::ZERO);
            }
            return;
        }
        match result {
            Ok(GcHeld { accepted: true, .. }) => {
                self.hold.held = asked;
                if std::mem::take(&mut self.hold.outage) {
                    self.out.notice(Level::Info, "PD holds TiKV's GC for this pump again".to_owned());
                }
            }
            Ok(GcHeld { accepted: false, smallest }) => {
                // What lies below is not protected by anybody.
                self.resolver.floor = self.resolver.floor.max(smallest);
                self.hold.refused += 1;
                if self.hold.refused < MAX_REFUSED && !self.life.is_stopping() {
                    self.hold_at(smallest);
                }
            }
            Err(error) => self.hold_failed(&error),
        }
    }

    fn hold_failed(&mut self, error: &IoFault) {
        if !std::mem::replace(&mut self.hold.outage, true) {
            let text = format!(
                "PD cannot be asked to keep TiKV's GC below undecided prewrites ({error}): trying again every {} s",
                REFRESH_MS / 1000
            );
            self.out.notice(Level::Warn, text);
        }
    }

    fn hold_service(&self) -> String {
        format!("tidb-binlog-pump-{}", self.config.node_id)
    }
}

/// Rules 1.
const REFRESH_MS: u64 = 30_000;
/// Refusals in a row before the next interval is waited for: another service's point does not run away that fast.
const MAX_REFUSED: u32 = 4;
