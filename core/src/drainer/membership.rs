//! Up to which timestamp the set of Pumps is known to be complete (rules 7): a TSO f first, *then* a linearizable listing;
//! once every Pump in it that is not offline is a source, everything at or below f may be emitted.
//!
//! Why the order matters: a Pump that is absent or offline in the listing acknowledges its first prewrite later than f was
//! allocated, so all its commits are above f. Called by [`super::machine::Drainer`].

use super::effect::Effect;
use super::out::Out;
use super::retry::Retry;
use crate::canary::{self, Canary};
use crate::ids::{CommitTs, OpId};
use crate::time::{MonoTime, Tso};

/// At most one confirmation is in flight.
#[derive(Debug)]
pub(super) struct Membership {
    interval_ms: u64,
    /// Everything at or below may be emitted.
    confirmed: CommitTs,
    phase: Phase,
    /// Somebody waits for the next confirmation.
    wanted: bool,
    /// Begin of the last confirmation.
    begun: Option<MonoTime>,
    retry: Retry,
    /// Calls of `Notify` that the confirmation in flight answers, and those that came after it began.
    in_flight_calls: Vec<u64>,
    waiting_calls: Vec<u64>,
    /// PD's clock as last seen, and when.
    clock: Option<(Tso, MonoTime)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Tso {
        op: OpId,
    },
    /// `at`: what the listing confirms; `None`: nothing, it is only for those who called.
    List {
        op: OpId,
        at: Option<CommitTs>,
    },
}

impl Membership {
    pub(super) fn new(interval_ms: u64) -> Self {
        Self {
            interval_ms: interval_ms.max(SPACING_MS),
            confirmed: CommitTs::ZERO,
            phase: Phase::Idle,
            wanted: false,
            begun: None,
            retry: Retry::new("reading the list of pumps"),
            in_flight_calls: Vec::new(),
            waiting_calls: Vec::new(),
            clock: None,
        }
    }

    /// The sources are gone: nothing is confirmed, and what is in flight no longer counts.
    pub(super) fn restart(&mut self) {
        self.phase = Phase::Idle;
        self.confirmed = CommitTs::ZERO;
        self.begun = None;
        self.in_flight_calls.append(&mut self.waiting_calls);
        std::mem::swap(&mut self.in_flight_calls, &mut self.waiting_calls);
    }

    pub(super) fn confirmed(&self) -> CommitTs {
        self.confirmed
    }

    /// Asks for a confirmation as soon as the spacing allows.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// A Pump waits until it is a source.
    pub(super) fn notify(&mut self, call: u64, out: &mut Out) {
        if self.waiting_calls.len() >= MAX_CALLS {
            let result = Err("too many notifications are waiting for the registry".to_owned());
            out.push(Effect::NotifyReply { call, result });
            return;
        }
        self.waiting_calls.push(call);
    }

    /// Answers everybody who waits: this process stops.
    pub(super) fn refuse_calls(&mut self, why: &str, out: &mut Out) {
        for call in self.in_flight_calls.drain(..).chain(self.waiting_calls.drain(..)) {
            out.push(Effect::NotifyReply { call, result: Err(why.to_owned()) });
        }
    }

    /// Begins a confirmation when one is wanted or due.
    pub(super) fn advance(&mut self, now: MonoTime, out: &mut Out) {
        if self.phase != Phase::Idle || self.due().is_some_and(|due| now < due) {
            return;
        }
        self.wanted = false;
        self.begun = Some(now);
        self.in_flight_calls.append(&mut self.waiting_calls);
        self.phase = Phase::Tso { op: out.request(|op| Effect::GetTso { op }) };
    }

    /// When the next one begins; `None`: at once.
    fn due(&self) -> Option<MonoTime> {
        let begun = self.begun?;
        let urgent = self.wanted || !self.waiting_calls.is_empty() || self.retry.failures() > 0;
        let wait = if urgent { SPACING_MS } else { self.interval_ms };
        Some(begun.plus_millis(wait).max(self.retry.not_before()))
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        (self.phase == Phase::Idle).then(|| self.due().unwrap_or(MonoTime::ZERO))
    }

    /// Whether the answer was this part's.
    pub(super) fn tso(&mut self, now: MonoTime, op: OpId, result: Result<Tso, String>, out: &mut Out) -> bool {
        if self.phase != (Phase::Tso { op }) {
            return false;
        }
        match result {
            Ok(tso) => {
                self.saw_tso(now, tso);
                let at = Some(CommitTs::new(tso.raw()));
                self.phase = Phase::List { op: out.request(|op| Effect::ListPumps { op }), at };
            }
            Err(error) if self.in_flight_calls.is_empty() => self.failed(now, &error, out),
            // A new Pump must not wait for PD's clock: being a source is all that its call asks for.
            Err(error) => {
                self.wanted = true;
                self.retry.fail(now, &error, out);
                self.phase = Phase::List { op: out.request(|op| Effect::ListPumps { op }), at: None };
            }
        }
        true
    }

    /// Whether the listing belongs to the confirmation in flight; then its sources are made, and `listed` or `failed` is
    /// called.
    pub(super) fn is_listing(&self, op: OpId) -> bool {
        matches!(self.phase, Phase::List { op: own, .. } if own == op)
    }

    /// Every Pump of the listing that is not offline is a source now.
    pub(super) fn listed(&mut self, now: MonoTime, out: &mut Out) {
        let Phase::List { at, .. } = self.phase else { return };
        self.phase = Phase::Idle;
        if let Some(at) = at {
            let later = self.clock(now).filter(|_| canary::is(Canary::ListBeforeTso));
            let at = later.map_or(at, |clock| CommitTs::new(clock.raw()));
            self.confirmed = self.confirmed.max(at);
            self.retry.succeed(now, out);
        }
        for call in self.in_flight_calls.drain(..) {
            out.push(Effect::NotifyReply { call, result: Ok(()) });
        }
    }

    pub(super) fn failed(&mut self, now: MonoTime, error: &str, out: &mut Out) {
        self.phase = Phase::Idle;
        self.wanted = true;
        self.retry.fail(now, error, out);
        // Who called waits for the next one: it will cover them as well.
        self.waiting_calls.append(&mut self.in_flight_calls);
    }

    pub(super) fn saw_tso(&mut self, now: MonoTime, tso: Tso) {
        if self.clock.is_none_or(|(seen, _)| seen < tso) {
            self.clock = Some((tso, now));
        }
    }

    /// PD's clock now, as far as it is known: for `updateTS` and `Synced`, never for order.
    pub(super) fn clock(&self, now: MonoTime) -> Option<Tso> {
        self.clock.map(|(tso, at)| Tso::compose(tso.physical_ms().saturating_add(now.millis_since(at)), 0))
    }

    pub(super) fn trouble(&self) -> Option<(&str, MonoTime)> {
        self.retry.trouble()
    }
}

/// One confirmation costs two round trips; so many per second keep the delay below what a Pump's fakes add.
const SPACING_MS: u64 = 20;
/// Each Pump has one call at its start.
const MAX_CALLS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::ZERO.plus_millis(ms)
    }

    fn tso_op(out: &mut Out) -> OpId {
        match out.pop() {
            Some(Effect::GetTso { op }) => op,
            other => panic!("expected GetTso, got {other:?}"),
        }
    }

    fn list_op(out: &mut Out) -> OpId {
        match out.pop() {
            Some(Effect::ListPumps { op }) => op,
            other => panic!("expected ListPumps, got {other:?}"),
        }
    }

    #[test]
    fn timestamp_first_then_listing_one_at_a_time() {
        let mut out = Out::new(0);
        let mut m = Membership::new(5_000);
        m.advance(at(0), &mut out);
        let tso = tso_op(&mut out);
        m.want();
        m.advance(at(100), &mut out);
        assert!(out.is_empty(), "one in flight");
        assert!(m.tso(at(100), tso, Ok(Tso::new(77)), &mut out));
        assert!(!m.tso(at(100), tso, Ok(Tso::new(99)), &mut out), "a repeated answer is nobody's");
        let list = list_op(&mut out);
        assert_eq!(m.confirmed(), CommitTs::ZERO);
        assert!(m.is_listing(list));
        m.listed(at(101), &mut out);
        assert_eq!(m.confirmed(), CommitTs::new(77));
        m.advance(at(101), &mut out);
        let _ = tso_op(&mut out);
    }

    #[test]
    fn a_call_is_answered_without_pd_s_clock_and_nothing_is_confirmed() {
        let mut out = Out::new(0);
        let mut m = Membership::new(5_000);
        m.notify(7, &mut out);
        m.advance(at(0), &mut out);
        let tso = tso_op(&mut out);
        assert!(m.tso(at(1), tso, Err("away".to_owned()), &mut out));
        let listing = std::iter::from_fn(|| out.pop()).find_map(|effect| match effect {
            Effect::ListPumps { op } => Some(op),
            _ => None,
        });
        assert!(m.is_listing(listing.expect("a listing for the caller")));
        m.listed(at(2), &mut out);
        assert_eq!(m.confirmed(), CommitTs::ZERO);
        assert!(matches!(out.pop(), Some(Effect::NotifyReply { call: 7, result: Ok(()) })));
        assert!(m.deadline().is_some_and(|next| next < at(5_000)), "the confirmation itself is still wanted");
    }

    #[test]
    fn spacing_and_interval() {
        let mut out = Out::new(0);
        let mut m = Membership::new(5_000);
        m.advance(at(0), &mut out);
        let tso = tso_op(&mut out);
        m.tso(at(1), tso, Ok(Tso::new(7)), &mut out);
        list_op(&mut out);
        m.listed(at(2), &mut out);
        assert_eq!(m.deadline(), Some(at(5_000)));
        m.want();
        assert_eq!(m.deadline(), Some(at(20)));
        m.advance(at(19), &mut out);
        assert!(out.is_empty());
        m.advance(at(20), &mut out);
        let _ = tso_op(&mut out);
    }

    #[test]
    fn a_call_is_answered_by_a_confirmation_that_began_after_it() {
        let mut out = Out::new(0);
        let mut m = Membership::new(5_000);
        m.advance(at(0), &mut out);
        let first = tso_op(&mut out);
        m.notify(1, &mut out);
        m.tso(at(1), first, Ok(Tso::new(7)), &mut out);
        list_op(&mut out);
        m.listed(at(2), &mut out);
        assert!(out.is_empty(), "the confirmation began before the call");
        m.advance(at(20), &mut out);
        let second = tso_op(&mut out);
        m.tso(at(21), second, Err("away".to_owned()), &mut out);
        assert!(matches!(out.pop(), Some(Effect::Notice { .. })));
        list_op(&mut out);
        m.failed(at(22), "away", &mut out);
        m.advance(at(5_000), &mut out);
        let third = tso_op(&mut out);
        m.tso(at(5_001), third, Ok(Tso::new(9)), &mut out);
        list_op(&mut out);
        m.listed(at(5_002), &mut out);
        let replies: Vec<_> = std::iter::from_fn(|| out.pop()).collect();
        assert!(replies.iter().any(|e| matches!(e, Effect::NotifyReply { call: 1, result: Ok(()) })), "{replies:?}");
    }
}
