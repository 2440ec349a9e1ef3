//! Effects on their way out, operations in flight, and timers: what the parts of the Pump share.

use super::effect::{Effect, Level};
use crate::fault::Fault;
use crate::ids::{OpId, OpIds, StartTs, StreamId};
use crate::index::indexer::BatchId;
use crate::index::op::IndexOp;
use crate::node::status::NodeStatus;
use crate::proto::kvrpcpb::CheckTxnStatusRequest;
use crate::time::{MonoTime, Tso};
use crate::vlog::log::LogOps;
use crate::vlog::op::LogOp;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub struct Outbox {
    pub ids: OpIds,
    effects: VecDeque<Effect>,
    log: VecDeque<(OpId, LogOp)>,
    waiting: BTreeMap<OpId, Waiting>,
    /// Completions of operations that nobody waits for; the simulator forbids them.
    pub unknown_completions: u64,
    /// Newest last, at most [`MAX_FAULTS`], for status.
    pub faults: VecDeque<Fault>,
    pub fault_count: u64,
    /// Of them, those that concern one transaction each.
    wrong_records: u64,
}

/// What to do when an operation completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Meta,
    LoadSegments,
    LoadUndecided,
    LoadStarts,
    LoadCommits,
    Lookup(BatchId),
    Apply,
    Flush,
    Scan(StreamId),
    TsoForStatus,
    TsoForGc,
    TsoForFake,
    /// The present, for a round of GC.
    TsoForCollect,
    Status,
    Notify,
    TsoForDemand,
    /// Entries of the index for `/debug/binlog`, by call.
    Inspect(u64),
    /// Verdicts (rules 1): what TiKV and PD are asked about one prewrite.
    Versions(StartTs),
    Fate(StartTs),
    SafePoint(StartTs),
    TsoForVerdict(StartTs),
    TsoForHold,
    HoldGc,
    /// Entries of the Drainers, for GC.
    DrainersForGc,
    /// Entries of the Drainers, for going offline.
    DrainersForOffline,
}

impl Waiting {
    /// Answered by the index; every other port has its own kinds. Exhaustive, so that a new kind is put where it belongs.
    pub const fn is_index(self) -> bool {
        match self {
            Self::Meta
            | Self::LoadSegments
            | Self::LoadUndecided
            | Self::LoadStarts
            | Self::LoadCommits
            | Self::Lookup(_)
            | Self::Apply
            | Self::Flush
            | Self::Scan(_)
            | Self::Inspect(_) => true,
            Self::TsoForStatus
            | Self::TsoForGc
            | Self::TsoForFake
            | Self::TsoForCollect
            | Self::TsoForDemand
            | Self::TsoForVerdict(_)
            | Self::TsoForHold
            | Self::Versions(_)
            | Self::Fate(_)
            | Self::SafePoint(_)
            | Self::HoldGc
            | Self::Status
            | Self::Notify
            | Self::DrainersForGc
            | Self::DrainersForOffline => false,
        }
    }
}

/// Timers of the Pump; each is set at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Heartbeat,
    Fake,
    IndexFlush,
    IndexRetry,
    StartRetry,
    TsoRetry,
    Registry,
    Notify,
    StopLimit,
    /// The next fake on demand.
    Demand,
    /// The next step of going offline.
    Closing,
    /// The next round of GC.
    Gc,
    Verdict,
    HoldGc,
    /// Zeros may be written ahead of time.
    Fill,
    /// The next piece of the log is read again.
    Scrub,
}

#[derive(Debug, Default)]
pub struct Timers(BTreeMap<Timer, MonoTime>);

impl Outbox {
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub fn notice(&mut self, level: Level, text: String) {
        self.effects.push_back(Effect::Notice { level, text });
    }

    pub fn fault(&mut self, fault: Fault) {
        if self.faults.len() == MAX_FAULTS {
            self.faults.pop_front();
        }
        self.faults.push_back(fault.clone());
        self.fault_count += 1;
        // Something that is wrong with every transaction of a client would be told ten thousand times a second.
        if matches!(fault, Fault::AssumptionBroken { .. } | Fault::PayloadMismatch { .. } | Fault::Undecidable { .. }) {
            self.wrong_records += 1;
            if self.wrong_records == MAX_WRONG_TOLD {
                let text = "more faults of single transactions are only counted: see fault_count in /status".to_owned();
                self.notice(Level::Warn, text);
            }
            if self.wrong_records >= MAX_WRONG_TOLD {
                return;
            }
        }
        self.effects.push_back(Effect::Fault(fault));
    }

    /// Counts a fault that was told already and is still remembered; `false` if it is news.
    pub fn repeat_fault(&mut self, fault: &Fault) -> bool {
        let known = self.faults.contains(fault);
        self.fault_count += u64::from(known);
        known
    }

    pub fn index(&mut self, why: Waiting, request: IndexOp) {
        let op = self.wait(why);
        self.effects.push_back(Effect::Index { op, request });
    }

    pub fn tso(&mut self, why: Waiting) -> OpId {
        let op = self.wait(why);
        self.effects.push_back(Effect::GetTso { op });
        op
    }

    pub fn mvcc(&mut self, start_ts: StartTs, key: Bytes) -> OpId {
        let op = self.wait(Waiting::Versions(start_ts));
        self.effects.push_back(Effect::MvccByKey { op, key });
        op
    }

    /// As the original asks; `bar`: a transaction without a trace cannot be prewritten from then on.
    pub fn txn_status(&mut self, start_ts: StartTs, key: Bytes, now: Tso, bar: bool) -> OpId {
        let op = self.wait(Waiting::Fate(start_ts));
        let request = CheckTxnStatusRequest {
            context: None,
            primary_key: key,
            lock_ts: start_ts.raw(),
            caller_start_ts: start_ts.raw(),
            current_ts: now.raw(),
            rollback_if_not_exist: bar,
            force_sync_commit: false,
            resolving_pessimistic_lock: false,
        };
        self.effects.push_back(Effect::CheckTxnStatus { op, request });
        op
    }

    pub fn gc_safe_point(&mut self, start_ts: StartTs) -> OpId {
        let op = self.wait(Waiting::SafePoint(start_ts));
        self.effects.push_back(Effect::GetGcSafePoint { op });
        op
    }

    pub fn hold_gc(&mut self, service: String, ttl_seconds: i64, safe_point: Tso) {
        let op = self.wait(Waiting::HoldGc);
        self.effects.push_back(Effect::HoldGc { op, service, ttl_seconds, safe_point });
    }

    pub fn put_status(&mut self, status: NodeStatus) {
        let op = self.wait(Waiting::Status);
        self.effects.push_back(Effect::PutStatus { op, status });
    }

    pub fn notify_drainers(&mut self) {
        let op = self.wait(Waiting::Notify);
        self.effects.push_back(Effect::NotifyDrainers { op });
    }

    pub fn list_drainers(&mut self, why: Waiting) {
        let op = self.wait(why);
        self.effects.push_back(Effect::ListDrainers { op });
    }

    /// Where the log pushes its requests.
    pub fn log_ops(&mut self) -> LogOps<'_> {
        LogOps { ids: &mut self.ids, out: &mut self.log }
    }

    /// What waits for this completion; unknown ones are counted. Only `expected` kinds are taken.
    pub fn complete(&mut self, op: OpId, expected: fn(Waiting) -> bool) -> Option<Waiting> {
        match self.waiting.get(&op).copied() {
            Some(why) if expected(why) => self.waiting.remove(&op),
            _ => {
                self.unknown_completions += 1;
                None
            }
        }
    }

    pub fn poll(&mut self) -> Option<Effect> {
        if let Some((op, request)) = self.log.pop_front() {
            return Some(Effect::Log { op, request });
        }
        self.effects.pop_front()
    }

    fn wait(&mut self, why: Waiting) -> OpId {
        let op = self.ids.next_id();
        self.waiting.insert(op, why);
        op
    }
}

impl Timers {
    pub fn set(&mut self, timer: Timer, at: MonoTime) {
        self.0.insert(timer, at);
    }

    pub fn cancel(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    #[must_use]
    pub fn is_set(&self, timer: Timer) -> bool {
        self.0.contains_key(&timer)
    }

    #[must_use]
    pub fn next(&self) -> Option<MonoTime> {
        self.0.values().min().copied()
    }

    /// Takes one that has expired.
    pub fn expired(&mut self, now: MonoTime) -> Option<Timer> {
        let timer = self.0.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer)?;
        self.0.remove(&timer);
        Some(timer)
    }
}

/// Faults kept for status: enough to see the first cause and what followed.
const MAX_FAULTS: usize = 32;
/// Faults of single transactions that are told one by one: enough to see what they have in common.
const MAX_WRONG_TOLD: u64 = 100;
