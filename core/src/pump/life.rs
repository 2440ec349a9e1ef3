//! The node's life: registration, heartbeat, operators' actions, shutdown (spec pump 4.4–4.6, traps T9, T10, T19, T21); going
//! offline is `offline`'s.
//!
//! A Pump becomes visible as `paused`, tells every online Drainer if it was offline or unknown before, and only then turns
//! `online`. That it has not told them yet is kept in the index, durable before the entry appears, so that a crash in between
//! does not forget it. The entry always shows what this machine is, and is refreshed until the final state is written; when it
//! carries another life's token, somebody else claims the id: this process stops without writing it again.

use super::effect::{Effect, Level};
use super::input::Action;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, OpId, SegmentId};
use crate::index::key;
use crate::index::op::Change;
use crate::node::state::{self, Trigger};
use crate::node::status::{NodeState, NodeStatus};
use crate::time::Tso;
use crate::vlog::record::Record;
use bytes::Bytes;

#[derive(Debug)]
pub struct Life {
    state: NodeState,
    phase: Phase,
    /// The Drainers must be told before this node turns online.
    must_notify: bool,
    /// The index already says so.
    notify_marked: bool,
    /// The data directory is new under a node id that is not: set a GC point first (rules 3).
    gc_point_needed: bool,
    /// The last life was asked to go offline and had not finished.
    must_close: bool,
    /// The index says so.
    closing_marked: bool,
    /// State in the registry before this life.
    previous: Option<NodeState>,
    /// Another process claims our id: the registry is not ours to write.
    evicted: bool,
    /// State in the registry as of the last acknowledged write of this life.
    registered: Option<NodeState>,
    /// State of the write in flight.
    writing: Option<NodeState>,
    write_again: bool,
    registry_outage: bool,
    /// Failed attempts in the phase at hand.
    failures: u32,
    /// Waiting for the world took too long while stopping.
    give_up: bool,
}

/// How far this life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Recovering,
    /// A timestamp of PD, then its `Gc` record, make the GC point.
    GcPoint(Option<CommitTs>),
    /// The note "Drainers not told yet" becomes durable.
    Marking,
    Registering,
    Notifying,
    /// The note is taken back, durably: a crash after the first acknowledgement must not tell them again, which a Drainer
    /// that is away then would hold up.
    Unmarking,
    Serving,
    /// Going offline: see `offline`.
    Closing,
    Draining,
    FinalSync,
    Deregistering,
    Stopped,
}

impl Life {
    #[must_use]
    pub fn new(previous: Option<NodeState>) -> Self {
        Self {
            state: NodeState::Paused,
            phase: Phase::Recovering,
            must_notify: matches!(previous, None | Some(NodeState::Offline)),
            notify_marked: false,
            gc_point_needed: false,
            must_close: previous == Some(NodeState::Closing),
            closing_marked: false,
            previous,
            evicted: false,
            registered: None,
            writing: None,
            write_again: false,
            registry_outage: false,
            failures: 0,
            give_up: false,
        }
    }

    /// What the index says.
    pub fn loaded(&mut self, gc_point_needed: bool, notify_marked: bool, closing: bool) {
        // A Pump that reached `offline` and is started again has had its wish.
        self.closing_marked = closing;
        self.must_close |= closing && !matches!(self.previous, None | Some(NodeState::Offline));
        self.gc_point_needed = gc_point_needed;
        self.notify_marked = notify_marked;
        self.must_notify |= notify_marked;
    }

    /// The directory turned out to be new under a node id that is not.
    pub const fn owes_gc_point(&mut self) {
        self.gc_point_needed = true;
    }

    /// Nothing is known of what this node held before: no stream may be served yet.
    #[must_use]
    pub const fn gc_point_owed(&self) -> bool {
        self.gc_point_needed
    }

    #[must_use]
    pub const fn state(&self) -> NodeState {
        self.state
    }

    /// Text of "no online: …"; `None`: prewrites are welcome.
    #[must_use]
    pub fn not_online(&self, recovered: bool) -> Option<&'static str> {
        match (recovered, self.state) {
            (false, _) => Some("starting"),
            (true, NodeState::Online) => None,
            (true, NodeState::Pausing | NodeState::Closing) if canary::is(Canary::AcceptWhenPausing) => None,
            (true, other) => Some(other.as_str()),
        }
    }

    #[must_use]
    pub const fn has_gc_point(&self) -> bool {
        !matches!(self.phase, Phase::Recovering | Phase::GcPoint(_))
    }

    /// Shutdown has begun.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::FinalSync | Phase::Deregistering | Phase::Stopped)
    }

    /// Drained: nothing is taken any more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::FinalSync | Phase::Deregistering | Phase::Stopped)
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) const fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Notes whether the index holds the wish to close; what it held before.
    pub(super) const fn set_closing_mark(&mut self, marked: bool) -> bool {
        std::mem::replace(&mut self.closing_marked, marked)
    }

    /// What the registry shows, as far as this life knows.
    #[must_use]
    pub const fn registered(&self) -> Option<NodeState> {
        self.registered
    }

    pub(super) fn go(&mut self, trigger: Trigger) {
        if let Some(next) = state::next(self.state, trigger) {
            self.state = next;
        }
    }
}

impl Pump {
    /// Moves on as far as what has happened allows.
    pub(super) fn advance_life(&mut self) {
        loop {
            self.advance_start();
            let before = self.life.phase;
            match before {
                Phase::Recovering if self.start.is_done() => self.recovered(),
                Phase::GcPoint(Some(ts)) if self.gc >= ts => {
                    self.gc_point_is_set();
                    self.mark_or_register();
                }
                Phase::Marking if self.indexer.is_synced() => self.register(),
                Phase::Registering if self.life.registered == Some(NodeState::Paused) => self.registered_paused(),
                Phase::Unmarking if self.indexer.is_synced() || self.read_only.is_some() => self.serve(),
                Phase::Closing if self.step_closing() => self.drain(),
                Phase::Draining if self.is_drained() || self.life.give_up => self.final_sync(),
                Phase::FinalSync if (self.indexer.is_synced() && !self.hold.is_releasing()) || self.life.give_up => {
                    self.deregister();
                }
                Phase::Deregistering if self.life.registered == Some(self.life.state) || self.life.give_up => {
                    self.life.phase = Phase::Stopped;
                    self.timers = super::outbox::Timers::default();
                    self.out.effect(Effect::Stopped);
                }
                _ => {}
            }
            if self.life.phase == before {
                break;
            }
            // A new phase may have asked the indexer for something.
            self.settle_indexer();
        }
    }

    fn recovered(&mut self) {
        self.out.tso(Waiting::TsoForStatus);
        self.arm_fakes();
        if self.life.gc_point_needed && self.gc > CommitTs::ZERO {
            // The log has it; only the index forgot.
            self.gc_point_is_set();
        }
        if self.life.gc_point_needed && self.read_only.is_none() {
            self.life.phase = Phase::GcPoint(None);
            self.out.tso(Waiting::TsoForGc);
        } else {
            self.mark_or_register();
        }
    }

    /// The point itself is durable in the log, so no crash forgets both.
    fn gc_point_is_set(&mut self) {
        self.life.gc_point_needed = false;
        self.indexer.put_meta(Change::Delete(Bytes::from_static(key::META_GC_NEEDED)));
        self.open_parked();
    }

    pub(super) fn retry_gc_tso(&mut self) {
        if self.life.phase == Phase::GcPoint(None) {
            self.out.tso(Waiting::TsoForGc);
        }
    }

    pub(super) fn on_gc_tso(&mut self, result: Result<Tso, IoFault>) {
        if self.life.phase != Phase::GcPoint(None) {
            return;
        }
        match result {
            Ok(ts) => {
                let gc = CommitTs::new(ts.raw());
                let text = format!(
                    "the data directory is new, but node {} is registered and was not offline: what it held is gone; binlogs \
                     up to {gc} cannot be served, and Drainers that ask for them are refused",
                    self.config.node_id
                );
                self.out.notice(Level::Warn, text);
                let record = Record::gc(gc, SegmentId::ZERO);
                if self.append(record, false, None).is_ok() {
                    self.life.phase = Phase::GcPoint(Some(gc));
                }
            }
            Err(error) => {
                if !self.timers.is_set(Timer::TsoRetry) && self.life.failures == 0 {
                    self.life.failures = 1;
                    let text =
                        format!("a timestamp of PD is needed before this pump can serve ({error}): trying again");
                    self.out.notice(Level::Warn, text);
                }
                self.timers.set(Timer::TsoRetry, self.now.plus_millis(RETRY_MS));
            }
        }
    }

    fn mark_or_register(&mut self) {
        self.life.failures = 0;
        if self.life.must_notify && !self.life.notify_marked {
            self.life.notify_marked = true;
            let value = Bytes::from_static(b"1");
            self.indexer.put_meta(Change::Put(Bytes::from_static(key::META_NOTIFY), value));
            self.indexer.sync();
            self.life.phase = Phase::Marking;
        } else {
            self.register();
        }
    }

    fn register(&mut self) {
        self.life.go(Trigger::Start);
        self.life.phase = Phase::Registering;
        self.write_status();
        self.arm_heartbeat();
    }

    fn registered_paused(&mut self) {
        if self.life.must_notify {
            self.life.phase = Phase::Notifying;
            self.out.notify_drainers();
        } else {
            self.serve();
        }
    }

    /// The Drainers know this node: it serves, or goes on closing.
    fn serve(&mut self) {
        if self.life.must_close {
            self.close_again();
        } else {
            // A wish that was fulfilled long ago, or taken back.
            self.forget_closing();
            self.turn_online();
        }
    }

    /// Prewrites are accepted from the moment the entry is on its way: whoever reads `online` finds it true.
    fn turn_online(&mut self) {
        self.life.phase = Phase::Serving;
        if let Some(reason) = &self.read_only {
            let text = format!("this pump stays paused: nothing can be stored ({reason}); streams are served");
            self.out.notice(Level::Warn, text);
        } else {
            self.life.go(Trigger::Ready);
        }
        self.write_status();
    }

    pub(super) fn notify(&mut self) {
        if self.life.phase == Phase::Notifying {
            self.out.notify_drainers();
        }
    }

    pub(super) fn on_notify_done(&mut self, op: OpId, result: Result<(), IoFault>) {
        let is_notify = |why| why == Waiting::Notify;
        if self.out.complete(op, is_notify).is_none() || self.life.phase != Phase::Notifying {
            return;
        }
        match result {
            Ok(()) => {
                self.life.must_notify = false;
                self.indexer.put_meta(Change::Delete(Bytes::from_static(key::META_NOTIFY)));
                self.indexer.sync();
                self.life.phase = Phase::Unmarking;
            }
            Err(error) => {
                if self.life.failures == 0 {
                    let text = format!(
                        "not every online Drainer could be told that this pump exists, it stays paused until that works: {error}; \
                         a Drainer that is gone for good must be set offline"
                    );
                    self.out.notice(Level::Warn, text);
                }
                let wait = RETRY_MS.saturating_mul(1 << self.life.failures.min(5)).min(NOTIFY_MAX_MS);
                self.life.failures = self.life.failures.saturating_add(1);
                self.timers.set(Timer::Notify, self.now.plus_millis(wait));
            }
        }
    }

    fn arm_heartbeat(&mut self) {
        self.timers.set(Timer::Heartbeat, self.now.plus_millis(self.config.heartbeat_ms.max(1)));
    }

    pub(super) fn on_heartbeat(&mut self) {
        self.arm_heartbeat();
        // While the registry is away its own timer decides.
        if self.life.writing.is_none() && !self.timers.is_set(Timer::Registry) {
            self.write_status();
        }
    }

    /// Writes the registry entry; one write at a time, the newest state last.
    pub(super) fn write_status(&mut self) {
        if self.life.evicted {
            return;
        }
        if self.life.writing.is_some() {
            self.life.write_again = true;
            return;
        }
        self.timers.cancel(Timer::Registry);
        self.life.writing = Some(self.life.state);
        let status = self.node_status();
        self.out.put_status(status);
    }

    /// The registry entry as of now (spec pump 4.1, 4.3).
    #[must_use]
    pub fn node_status(&self) -> NodeStatus {
        let update_ts = self.tso.map_or(0, |(ts, since)| {
            let seconds = self.now.millis_since(since) / 1000;
            ts.raw().saturating_add(seconds.saturating_mul(1000) << Tso::LOGICAL_BITS)
        });
        // With `offline` goes what the Drainers were waited for; before that, what a restart will know again.
        let target = self.offline.target().filter(|_| self.life.state == NodeState::Offline);
        let known = if canary::is(Canary::AdvertiseNewest) { self.max_ts } else { self.sorter.logged() };
        let max_commit_ts = target.unwrap_or(known);
        let signed = |raw: u64| i64::try_from(raw).unwrap_or(i64::MAX);
        NodeStatus {
            node_id: self.config.node_id.as_str().to_owned(),
            host: self.config.advertise_addr.clone(),
            state: self.life.state,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: signed(max_commit_ts.raw()),
            update_ts: signed(update_ts),
            token: Some(self.config.token.clone()),
        }
    }

    pub(super) fn on_status_done(&mut self, op: OpId, result: Result<(), IoFault>) {
        let is_status = |why| why == Waiting::Status;
        if self.out.complete(op, is_status).is_none() {
            return;
        }
        let written = self.life.writing.take();
        let again = std::mem::take(&mut self.life.write_again);
        match result {
            Ok(()) => {
                self.life.registered = written;
                if std::mem::take(&mut self.life.registry_outage) {
                    self.out.notice(Level::Info, "the registry answers again".to_owned());
                }
                if again && written != Some(self.life.state) {
                    self.write_status();
                }
            }
            Err(IoFault::Claimed(who)) => self.evict(who),
            Err(error) => {
                if !std::mem::replace(&mut self.life.registry_outage, true) {
                    let text = format!("the registry entry could not be written ({error}): trying again");
                    self.out.notice(Level::Warn, text);
                }
                self.timers.set(Timer::Registry, self.now.plus_millis(RETRY_MS));
            }
        }
    }

    pub(super) fn on_space(&mut self, available: u64, capacity: u64) {
        let changed = self.space.measure(self.now, available, capacity, self.log.prepared_bytes());
        self.space_for_log();
        self.space_for_gc();
        if changed {
            let (level, what) = if self.space.writable {
                (Level::Info, "prewrites are accepted again")
            } else {
                (Level::Warn, "prewrites are refused, commits are still accepted")
            };
            let text = format!(
                "{available} bytes are free, the limit is {} with the reserve for commits: {what}",
                self.space.refused_at()
            );
            self.out.notice(level, text);
        }
    }

    /// Another process registered under our id: what was acknowledged is brought to an end, and the entry is left to it.
    fn evict(&mut self, who: String) {
        self.out.fault(Fault::Claimed(who));
        self.life.evicted = true;
        self.timers.cancel(Timer::Registry);
        if self.life.is_stopping() {
            self.life.give_up |= self.life.phase == Phase::Deregistering;
        } else {
            self.life.go(Trigger::Pause);
            self.drain();
        }
    }

    /// An operator's action: only what the table allows, and only once this node serves (spec pump 4.5).
    pub(super) fn on_action(&mut self, call: u64, action: Action) {
        match (action, self.life.phase) {
            (Action::Pause, Phase::Serving) if self.life.state == NodeState::Online => {
                self.on_shutdown();
                self.out.effect(Effect::ActionReply { call, result: Ok(()) });
            }
            (Action::Close, Phase::Serving) if self.life.state == NodeState::Online => self.close(call),
            (Action::Cancel, Phase::Closing) => self.cancel_closing(call),
            (Action::Pause | Action::Close | Action::Cancel, _) => {
                self.out.effect(Effect::ActionReply { call, result: Err(self.life.state) });
            }
        }
    }

    /// A signal, or the pause action.
    pub(super) fn on_shutdown(&mut self) {
        if self.life.is_stopping() {
            // The registry is waited for without a limit when going offline, unless somebody is impatient.
            if self.life.phase == Phase::Deregistering && !self.timers.is_set(Timer::StopLimit) {
                self.timers.set(Timer::StopLimit, self.now.plus_millis(REGISTRY_MS));
            }
            return;
        }
        if self.life.phase == Phase::Closing {
            self.forget_closing();
            let text = "a signal came while going offline: that is taken back, this pump stops as paused".to_owned();
            self.out.notice(Level::Warn, text);
        }
        self.life.go(Trigger::Pause);
        if self.life.registered.is_some() {
            self.write_status();
        }
        self.drain();
    }

    /// Prewrites are refused from now on; what is under way comes to its end.
    fn drain(&mut self) {
        self.life.phase = Phase::Draining;
        self.timers.set(Timer::StopLimit, self.now.plus_millis(DRAIN_MS));
    }

    pub(super) fn on_stop_limit(&mut self) {
        let what = match self.life.phase {
            Phase::Draining => "writes in flight",
            Phase::FinalSync => "the index",
            Phase::Deregistering => "the registry",
            _ => return,
        };
        self.out
            .notice(Level::Warn, format!("stopping without waiting for {what} any longer; recovery will do the rest"));
        self.life.give_up = true;
    }

    /// Nothing is in flight any more; a start that is not complete is simply given up.
    fn is_drained(&self) -> bool {
        !self.start.is_done() || self.index_damaged || (self.unsynced.is_empty() && self.indexer.is_idle())
    }

    fn final_sync(&mut self) {
        self.pull.end_all(&mut self.out);
        for (stream, _, _) in std::mem::take(&mut self.parked) {
            self.out.effect(Effect::StreamEnd { stream, result: Ok(()) });
        }
        self.life.phase = Phase::FinalSync;
        self.life.give_up = !self.start.is_done() || self.index_damaged;
        if !self.life.give_up {
            self.stop_holding_gc();
            self.indexer.sync();
            self.timers.set(Timer::StopLimit, self.now.plus_millis(FINAL_SYNC_MS));
        }
    }

    fn deregister(&mut self) {
        self.life.phase = Phase::Deregistering;
        self.life.go(Trigger::Drained);
        // Never registered in this life: the entry, if any, stays what it was.
        let unknown = self.life.registered.is_none() && self.life.writing.is_none();
        self.life.give_up = unknown || self.life.evicted;
        self.timers.cancel(Timer::StopLimit);
        if !self.life.give_up {
            self.life.registered = None;
            self.write_status();
            // Whoever waits for `offline` must see it: an entry left at `closing` would close again at the next start.
            if self.life.state != NodeState::Offline {
                self.timers.set(Timer::StopLimit, self.now.plus_millis(REGISTRY_MS));
            }
        }
    }
}

/// Between attempts at PD, the registry and the first at the Drainers.
const RETRY_MS: u64 = 1000;
/// Largest wait between two rounds of Notify.
const NOTIFY_MAX_MS: u64 = 30_000;
/// Longest wait for writes in flight at shutdown: twice TiDB's own time-out for a write.
const DRAIN_MS: u64 = 30_000;
/// Longest wait for the last flush of the index.
const FINAL_SYNC_MS: u64 = 30_000;
/// Longest wait for the registry at shutdown; the process stops all the same.
const REGISTRY_MS: u64 = 10_000;
