//! GC: which binlogs may go, and that they go in an order that a crash can interrupt anywhere (rules 6, design 3.4, trap T4).
//!
//! A round takes PD's time, then the Drainers' checkpoints, and decides G and the first segment that stays. The record
//! `Gc{G, first}` is appended; when it is durable, the index deletes what lies below G in the same change in which it takes note of
//! the record; only then the slots are given back. Streams that would need something below G end before the record is appended.
//! Only PD's clock counts: a host whose clock jumps deletes nothing (trap T26).

use super::config::GcHold;
use super::effect::Level;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use crate::canary::{self, Canary};
use crate::fault::IoFault;
use crate::ids::{CommitTs, SegmentId};
use crate::node::status::{NodeState, NodeStatus};
use crate::time::Tso;
use crate::vlog::record::Record;
use crate::vlog::spare::SlotCounters;
use serde::Serialize;

#[derive(Debug, Default)]
pub struct Collector {
    phase: Phase,
    /// The last request of an operator began a round.
    triggered: bool,
    /// Segments below may be given back: the index knows that they are gone.
    release: Option<SegmentId>,
    /// The active segment when slots were given back last: what was used since is worth keeping.
    released_at: SegmentId,
    was_short: bool,
    last: Option<Round>,
    /// The Drainer that was told of as holding GC back.
    held_by: Option<String>,
    rounds: u64,
    /// Times that GC passed the checkpoint of a Drainer (`gc-hold = "age"`).
    passed_consumers: u64,
    /// It was said that GC goes on although the registry cannot be read.
    blind: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Tso,
    Drainers(Tso),
    /// The record is on its way to the log and the index.
    Logged(CommitTs),
}

/// What the last round found.
#[derive(Debug, Clone)]
struct Round {
    outcome: Outcome,
    drainers: Vec<Consumer>,
}

/// Why G is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything older than `gc` may go.
    Age,
    /// A Drainer has not gone further.
    Drainer,
    /// The watermark has not gone further.
    Watermark,
    NoTimestamp,
    RegistryUnreadable,
    /// A Drainer that is not offline shows no checkpoint.
    NoCheckpoint,
}

/// A Drainer that is not offline, as the registry shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consumer {
    pub node_id: String,
    pub state: NodeState,
    pub checkpoint: CommitTs,
}

/// For status and metrics (rules 6, design 3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GcStatus {
    /// The GC point: nothing at or below it is served.
    pub point: CommitTs,
    pub keep_ms: u64,
    pub hold: GcHold,
    pub working: bool,
    /// The last request of an operator began a round.
    pub triggered: bool,
    pub rounds: u64,
    pub first_live: SegmentId,
    /// Of the last round.
    pub outcome: Option<Outcome>,
    pub held_by: Option<Holder>,
    pub drainers: Vec<ConsumerStatus>,
    pub passed_consumers: u64,
    pub segments: usize,
    /// Free slots that are kept for reuse.
    pub free_slots: usize,
    /// Bytes that stand ready for the next segments.
    pub prepared_bytes: u64,
    pub slots: SlotCounters,
}

/// Who holds GC back, and what an operator can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    #[serde(flatten)]
    pub consumer: Consumer,
    /// Releases it, if the Drainer is gone for good.
    pub command: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerStatus {
    #[serde(flatten)]
    pub consumer: Consumer,
    /// Until it finds a gap here; 0: it does already; `None`: never, GC waits for it.
    pub gap_in_ms: Option<u64>,
}

impl Collector {
    /// The log takes no more writes: the record that was on its way never acts.
    pub fn give_up(&mut self) {
        self.phase = Phase::Idle;
        self.release = None;
    }

    const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }
}

impl Pump {
    /// Nothing at or below this is promised any more, also while the record is on its way.
    #[must_use]
    pub fn gc_floor(&self) -> CommitTs {
        match self.collector.phase {
            Phase::Logged(gc) => self.gc.max(gc),
            Phase::Idle | Phase::Tso | Phase::Drainers(_) => self.gc,
        }
    }

    /// The first round comes soon after the start: a node that restarts every hour would never have one.
    pub(super) fn arm_first_gc(&mut self) {
        self.collector.released_at = self.log.durable_end().segment;
        self.arm_gc(self.config.gc.interval_ms / FIRST_PART);
    }

    fn arm_gc(&mut self, at_most: u64) {
        self.timers.set(Timer::Gc, self.now.plus_millis(self.config.gc.interval_ms.min(at_most).max(1)));
    }

    pub(super) fn on_gc_timer(&mut self) {
        self.arm_gc(if self.space.is_short() { SHORT_MS } else { u64::MAX });
        self.begin_gc();
    }

    pub(super) fn on_trigger_gc(&mut self) {
        self.collector.triggered = self.begin_gc();
    }

    /// Space was measured: when it has become short, the next round comes sooner. Where G may go does not change.
    pub(super) fn space_for_gc(&mut self) {
        let short = self.space.is_short();
        if short && !std::mem::replace(&mut self.collector.was_short, short) && self.timers.is_set(Timer::Gc) {
            self.arm_gc(SHORT_MS);
            self.begin_gc();
        }
        self.collector.was_short = short;
    }

    /// While space is short the log keeps no more free slots than it needs next, also where a Drainer holds GC back and none is freed.
    pub(super) fn space_for_log(&mut self) {
        if self.space.is_short() {
            self.log.save_space(KEEP_SHORT, &mut self.out.log_ops());
        }
    }

    fn begin_gc(&mut self) -> bool {
        let begins = self.collector.is_idle() && self.may_store_own();
        if begins {
            self.collector.phase = Phase::Tso;
            self.collector.rounds += 1;
            self.out.tso(Waiting::TsoForCollect);
        }
        begins
    }

    pub(super) fn on_collect_tso(&mut self, result: Result<Tso, IoFault>) {
        if !matches!(self.collector.phase, Phase::Tso) {
            return;
        }
        match result {
            Ok(now) => {
                self.collector.phase = Phase::Drainers(now);
                self.out.list_drainers(Waiting::DrainersForGc);
            }
            Err(_) => self.end_round(Outcome::NoTimestamp, Vec::new()),
        }
    }

    pub(super) fn on_collect_drainers(&mut self, result: Result<Vec<NodeStatus>, IoFault>) {
        let Phase::Drainers(now) = self.collector.phase else { return };
        let readable = result.is_ok();
        let drainers = result.map(|list| consumers(&list));
        let goal = goal(
            now,
            self.config.gc.keep_ms,
            self.config.gc.hold,
            drainers.as_deref().ok(),
            self.indexer.stored_watermark(),
        );
        let (gc, outcome) = match goal {
            Ok(goal) => goal,
            Err(outcome) => return self.end_round(outcome, drainers.unwrap_or_default()),
        };
        // By age GC goes on without the registry: for the Drainers that were seen last, their checkpoints then are the lowest they can have.
        let drainers =
            drainers.unwrap_or_else(|_| self.collector.last.take().map(|last| last.drainers).unwrap_or_default());
        self.end_round(outcome, drainers);
        if !self.may_store_own() {
            return;
        }
        let gc = gc.max(self.gc);
        let first = self.first_live(gc);
        let logged = self.log.gc().map_or(SegmentId::ZERO, |(_, first)| first);
        // At zero nothing has ever been old enough.
        if gc > CommitTs::ZERO && (gc > self.gc || first > logged) {
            if gc > self.gc {
                self.tell_passed(gc, readable);
            }
            self.append_gc(gc, first.max(logged));
        }
    }

    fn append_gc(&mut self, gc: CommitTs, first: SegmentId) {
        let ended = self.pull.end_below(gc, &mut self.out);
        if ended > 0 {
            let text = format!("{ended} streams that had not come to {gc} end: binlogs up to there are deleted now");
            self.out.notice(Level::Warn, text);
        }
        #[cfg(feature = "canary")]
        if canary::is(Canary::RecycleBeforeGcRecord) {
            self.log.release(first, 0, &mut self.out.log_ops());
        }
        if self.append(Record::gc(gc, first), false, None).is_ok() {
            self.collector.phase = Phase::Logged(gc);
        }
    }

    /// The oldest segment that must stay when everything up to `gc` goes.
    fn first_live(&self, gc: CommitTs) -> SegmentId {
        let flushed = self.indexer.flushed_end();
        let undecided = self.ledger.oldest_undecided().map_or(SegmentId::MAX, |(_, segment)| segment);
        let active = self.log.durable_end().segment;
        let mut first = SegmentId::ZERO;
        for end in self.log.segments() {
            first = end.segment;
            // Beyond the flushed end a crash may take back what is known of it.
            let known = end <= flushed || canary::is(Canary::FreeBeyondFlushedEnd);
            let goes = end.segment < active
                && end.segment < undecided
                && known
                && self.indexer.segments.is_below(end.segment, gc);
            if !goes {
                break;
            }
        }
        first
    }

    /// The index has taken note of a GC record and deleted what it names.
    pub(super) fn gc_applied(&mut self, gc: CommitTs) {
        // A round has ended them before its record; this holds for a record of any origin.
        self.pull.end_below(gc, &mut self.out);
        if matches!(self.collector.phase, Phase::Logged(own) if own <= gc) {
            self.collector.phase = Phase::Idle;
            self.collector.release = self.log.gc().map(|(_, first)| first);
        }
    }

    /// Gives back the slots of segments that are gone, as far as no read is under way in them.
    pub(super) fn release_segments(&mut self) {
        let Some(below) = self.collector.release else { return };
        let active = self.log.durable_end().segment;
        let used = active.raw().saturating_sub(self.collector.released_at.raw());
        let most = if self.space.is_short() { KEEP_SHORT } else { KEEP_MOST };
        let keep = usize::try_from(used).unwrap_or(usize::MAX).clamp(KEEP_SHORT, most);
        if self.log.release(below, keep, &mut self.out.log_ops()) {
            self.collector.release = None;
            self.collector.released_at = active;
            self.indexer.forget_segments(below);
        }
    }

    fn end_round(&mut self, outcome: Outcome, drainers: Vec<Consumer>) {
        self.collector.phase = Phase::Idle;
        let failed = matches!(outcome, Outcome::NoTimestamp | Outcome::RegistryUnreadable | Outcome::NoCheckpoint);
        if failed && self.collector.last.as_ref().is_none_or(|last| last.outcome != outcome) {
            let what = match outcome {
                Outcome::NoTimestamp => "PD gives no timestamp".to_owned(),
                Outcome::NoCheckpoint => {
                    let without = drainers.iter().find(|drainer| drainer.checkpoint == CommitTs::ZERO);
                    let id = without.map_or("?", |drainer| drainer.node_id.as_str());
                    format!("Drainer {id} shows no checkpoint; {}", release_command(id))
                }
                _ => "the registry cannot be read".to_owned(),
            };
            self.out.notice(Level::Warn, format!("nothing is deleted: {what}"));
        }
        let holder = drainers.iter().min_by_key(|drainer| drainer.checkpoint).filter(|_| outcome == Outcome::Drainer);
        let held_by = holder.map(|holder| holder.node_id.clone());
        if held_by != self.collector.held_by {
            match holder {
                Some(holder) => {
                    let text = format!(
                        "binlogs that are older than gc are kept for Drainer {} ({}), whose checkpoint is {}: start it; if it is \
                         gone for good: {}",
                        holder.node_id,
                        holder.state,
                        holder.checkpoint,
                        release_command(&holder.node_id)
                    );
                    self.out.notice(Level::Warn, text);
                }
                None if !failed => self.out.notice(Level::Info, "no Drainer holds GC back any more".to_owned()),
                None => {}
            }
            if !failed {
                self.collector.held_by = held_by;
            }
        }
        self.collector.last = Some(Round { outcome, drainers });
    }

    /// Invariants G2: said before it happens.
    fn tell_passed(&mut self, gc: CommitTs, readable: bool) {
        if canary::is(Canary::GcPassesInSilence) {
            return;
        }
        if !readable && !std::mem::replace(&mut self.collector.blind, true) {
            let text = format!(
                "the registry cannot be read, and binlogs up to {gc} are deleted now by their age (gc-hold = \"age\"): a Drainer that \
                 this pump has not heard of may still need them"
            );
            self.out.notice(Level::Warn, text);
        }
        self.collector.blind &= !readable;
        let Some(last) = &self.collector.last else { return };
        let passed = last.drainers.iter().filter(|drainer| drainer.checkpoint < gc && drainer.checkpoint >= self.gc);
        for drainer in passed {
            self.collector.passed_consumers += 1;
            let text = format!(
                "Drainer {} ({}) has its checkpoint at {}, but binlogs up to {gc} are deleted now by their age (gc-hold = \"age\"): it \
                 will be refused and needs a new full copy of the data",
                drainer.node_id, drainer.state, drainer.checkpoint
            );
            self.out.notice(Level::Warn, text);
        }
    }

    /// For status.
    #[must_use]
    pub fn gc_status(&self) -> GcStatus {
        let collector = &self.collector;
        let none = Vec::new();
        let drainers = collector.last.as_ref().map_or(&none, |last| &last.drainers);
        let holder = drainers.iter().find(|drainer| Some(&drainer.node_id) == collector.held_by.as_ref());
        let now = self.tso.map(|(tso, at)| tso.physical_ms().saturating_add(self.now.millis_since(at)));
        let gap = |drainer: &Consumer| {
            if drainer.checkpoint < self.gc {
                return Some(0);
            }
            let end = drainer.checkpoint.tso().physical_ms().saturating_add(self.config.gc.keep_ms);
            (self.config.gc.hold == GcHold::Age).then(|| end.saturating_sub(now.unwrap_or(0)))
        };
        let (free_slots, slots) = self.log.slots();
        GcStatus {
            point: self.gc,
            keep_ms: self.config.gc.keep_ms,
            hold: self.config.gc.hold,
            working: !collector.is_idle(),
            triggered: collector.triggered,
            rounds: collector.rounds,
            first_live: self.log.gc().map_or(SegmentId::ZERO, |(_, first)| first),
            outcome: collector.last.as_ref().map(|last| last.outcome),
            held_by: holder
                .map(|holder| Holder { consumer: holder.clone(), command: release_command(&holder.node_id) }),
            drainers: drainers
                .iter()
                .map(|drainer| ConsumerStatus { consumer: drainer.clone(), gap_in_ms: gap(drainer) })
                .collect(),
            passed_consumers: collector.passed_consumers,
            segments: self.log.segments().count(),
            free_slots,
            prepared_bytes: self.log.prepared_bytes(),
            slots,
        }
    }
}

/// Where the GC point may go, and what keeps it there. `drainers`: `None` when the registry could not be read.
fn goal(
    now: Tso,
    keep_ms: u64,
    hold: GcHold,
    drainers: Option<&[Consumer]>,
    logged_watermark: CommitTs,
) -> Result<(CommitTs, Outcome), Outcome> {
    let by_age = Tso::compose(now.physical_ms().saturating_sub(keep_ms), 0);
    let mut goal = (CommitTs::new(by_age.raw()), Outcome::Age);
    if hold == GcHold::Drainers && !canary::is(Canary::GcPastConsumer) {
        let drainers = drainers.ok_or(Outcome::RegistryUnreadable)?;
        for drainer in drainers {
            if drainer.checkpoint == CommitTs::ZERO {
                return Err(Outcome::NoCheckpoint);
            }
            if drainer.checkpoint < goal.0 {
                goal = (drainer.checkpoint, Outcome::Drainer);
            }
        }
    }
    // G stays below the logged watermark, so that a restart never finds W below G.
    let below = CommitTs::new(logged_watermark.raw().saturating_sub(1));
    if below < goal.0 {
        goal = (below, Outcome::Watermark);
    }
    Ok(goal)
}

/// Those that are not offline.
fn consumers(list: &[NodeStatus]) -> Vec<Consumer> {
    let there = list.iter().filter(|drainer| drainer.state != NodeState::Offline);
    there
        .map(|drainer| Consumer {
            node_id: drainer.node_id.clone(),
            state: drainer.state,
            // What is negative is no checkpoint either.
            checkpoint: CommitTs::new(u64::try_from(drainer.max_commit_ts).unwrap_or(0)),
        })
        .collect()
}

fn release_command(node_id: &str) -> String {
    format!("binlogctl -cmd update-drainer -node-id {node_id} -state offline")
}

/// First round after a start: this part of the interval, a minute by default, when the start's own work is done.
const FIRST_PART: u64 = 60;
/// Between two rounds while space is short.
const SHORT_MS: u64 = 60_000;
/// Free slots that are always kept, also when space is short: the next segment and one more.
const KEEP_SHORT: usize = 2;
/// Free slots kept at most, where that many segments were used since the last time.
const KEEP_MOST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn drainer(id: &str, state: NodeState, checkpoint: i64) -> NodeStatus {
        NodeStatus {
            node_id: id.to_owned(),
            host: String::new(),
            state,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: checkpoint,
            update_ts: 0,
            token: None,
        }
    }

    /// Milliseconds; the clock of PD is at 1000, binlogs are kept for 100.
    #[test]
    fn where_the_point_may_go() {
        use GcHold::{Age, Drainers};
        use NodeState::{Closing, Offline, Online, Paused, Pausing};
        let ts = |ms: u64| Tso::compose(ms, 0).raw();
        let states = [Online, Paused, Pausing, Closing];
        // hold, checkpoints (None: the registry cannot be read), watermark; G or why not
        type Row<'a> = (GcHold, Option<&'a [i64]>, u64, Result<(u64, Outcome), Outcome>);
        let table: &[Row] = &[
            (Drainers, Some(&[]), 2000, Ok((ts(900), Outcome::Age))),
            (Drainers, Some(&[950, 990]), 2000, Ok((ts(900), Outcome::Age))),
            (Drainers, Some(&[950, 300, 990]), 2000, Ok((ts(300), Outcome::Drainer))),
            (Drainers, Some(&[300]), 200, Ok((ts(200) - 1, Outcome::Watermark))),
            (Drainers, Some(&[950]), 900, Ok((ts(900) - 1, Outcome::Watermark))),
            (Drainers, Some(&[950, 0]), 2000, Err(Outcome::NoCheckpoint)),
            (Drainers, Some(&[-5]), 2000, Err(Outcome::NoCheckpoint)),
            (Drainers, None, 2000, Err(Outcome::RegistryUnreadable)),
            (Age, None, 2000, Ok((ts(900), Outcome::Age))),
            (Age, Some(&[300, 0]), 2000, Ok((ts(900), Outcome::Age))),
            (Age, Some(&[]), 0, Ok((0, Outcome::Watermark))),
        ];
        for (hold, checkpoints, watermark, expected) in table {
            for state in states {
                let raw = |ms: i64| if ms > 0 { ts(ms as u64) as i64 } else { ms };
                let mut list: Vec<_> =
                    checkpoints.unwrap_or_default().iter().map(|ms| drainer("d", state, raw(*ms))).collect();
                // Those that are offline never count.
                list.push(drainer("gone", Offline, 1));
                let list = consumers(&list);
                let list = checkpoints.map(|_| &list[..]);
                let got = goal(Tso::compose(1000, 5), 100, *hold, list, CommitTs::new(ts(*watermark)));
                assert_eq!(got.map(|(ts, why)| (ts.raw(), why)), *expected, "{hold:?} {checkpoints:?} {watermark}");
            }
        }
        let young = goal(Tso::compose(50, 0), 100, Drainers, Some(&[]), CommitTs::new(ts(50)));
        assert_eq!(young, Ok((CommitTs::ZERO, Outcome::Age)), "nothing is old enough");
    }
}
