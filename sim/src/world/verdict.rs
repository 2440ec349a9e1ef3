//! Verdicts (rules 1): TiKV and PD as a Pump asks them, W4, and the operator who decides what nobody else can.
//!
//! The answers are those of the models, over the world's links: TiKV and PD time out before or after the effect, and GC drops
//! evidence, whatever a Pump holds in PD or not. What is judged: a verdict in a Pump's log must be what became of the
//! transaction, now and for ever; a prewrite may be declared undecidable only if its evidence may be gone; once the faults are
//! over, none may be undecided for longer than the questions take.

use super::client::Txn;
use super::event::Ev;
use super::{MS, World};
use crate::oracle::log::{Name, VERDICT_C};
use crate::plan::{Action, Kind};
use crate::trace::Weight;
use binlog_core::fault::{IoFault, Reject};
use binlog_core::ids::{CommitTs, OpId, StartTs, WriteId};
use binlog_core::proto::kvrpcpb::{CheckTxnStatusRequest, CheckTxnStatusResponse, MvccGetByKeyResponse};
use binlog_core::pump::input::{GcHeld, Input};
use binlog_core::pump::verdict::{ABSENT_AFTER_MS, Verdict};
use binlog_core::time::Tso;
use binlog_sim_models::tikv::{Action as Done, Tikv, TxnStatus};
use binlog_sim_models::wire;
use bytes::Bytes;

/// One question of a Pump, on its way.
#[derive(Debug)]
pub enum Ask {
    Versions { op: OpId, key: Bytes },
    Status { op: OpId, request: Box<CheckTxnStatusRequest> },
    SafePoint { op: OpId },
    Hold { op: OpId, service: String, ttl_seconds: u64, safe_point: Tso },
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TxnFate {
    /// It may still become either.
    Running,
    Committed(u64),
    RolledBack,
}

impl World {
    /// TiKV as this workload has it.
    pub(super) fn kv(&mut self) -> &mut Tikv {
        match &mut self.tidb {
            Some(tidb) => &mut tidb.tikv,
            None => &mut self.client.tikv,
        }
    }

    pub(super) fn pump_asks(&mut self, node: usize, inc: u32, ask: Ask) {
        let wait = self.latency();
        self.after(wait, Ev::PumpAsks { node, inc, ask: Box::new(ask) });
    }

    /// A question arrives. What it changes stays changed, whether its Pump still lives or hears the answer.
    pub(super) fn pump_asked(&mut self, node: usize, inc: u32, ask: Ask) {
        let of_tikv = matches!(ask, Ask::Versions { .. } | Ask::Status { .. });
        let armed = self.lose_verdict > 0;
        let fails = armed || (of_tikv && self.now < self.tikv_down);
        if armed {
            self.lose_verdict -= 1;
            self.fires(Kind::LoseVerdict);
        }
        let lost = |op| (op, IoFault::Unavailable("no answer".to_owned()));
        let before = fails && self.rng.percent(50);
        let wait = if fails { self.rng.below(300) * MS } else { 0 } + self.latency();
        let input = match ask {
            Ask::Versions { op, key } => {
                let info = (!before).then(|| wire::mvcc(&self.kv().mvcc(&key)));
                let reply = MvccGetByKeyResponse { info, ..MvccGetByKeyResponse::default() };
                let result = if fails { Err(lost(op).1) } else { Ok(reply) };
                Input::MvccDone { op, result }
            }
            Ask::Status { op, request } => {
                let reply = if before { CheckTxnStatusResponse::default() } else { self.check_status(&request) };
                let result = if fails { Err(lost(op).1) } else { Ok(reply) };
                Input::TxnStatusDone { op, result }
            }
            Ask::SafePoint { op } => {
                let point = self.pd.gc_safe_point().map(Tso::new).map_err(|_| lost(op).1);
                Input::SafePointDone { op, result: if fails { Err(lost(op).1) } else { point } }
            }
            Ask::Hold { op, service, ttl_seconds, safe_point } => {
                let now = self.now / MS;
                let held = (!before).then(|| {
                    self.pd
                        .update_service_safe_point(now, &service, ttl_seconds, safe_point.raw())
                        .map_err(|_| lost(op).1)
                });
                let result = match held {
                    Some(Ok(least)) if !fails => Ok(GcHeld {
                        accepted: ttl_seconds == 0 || least.safe_point <= safe_point.raw(),
                        smallest: Tso::new(least.safe_point),
                    }),
                    _ => Err(lost(op).1),
                };
                Input::HoldGcDone { op, result }
            }
        };
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(input) });
    }

    fn check_status(&mut self, request: &CheckTxnStatusRequest) -> CheckTxnStatusResponse {
        let CheckTxnStatusRequest { primary_key, lock_ts, current_ts, rollback_if_not_exist, .. } = request;
        let status = self.kv().check_txn_status(primary_key, *lock_ts, *current_ts, *rollback_if_not_exist);
        let reply = wire::status(primary_key, *lock_ts, status.clone());
        if let Ok(TxnStatus::RolledBack(Done::TtlExpireRollback | Done::LockNotExistRollback)) = status {
            self.note(|| "a pump's question rolls back".to_owned());
            self.rolled_back(*lock_ts);
        }
        reply
    }

    /// TiKV's GC worker: resolves old locks, and collects unless one of them lives. `forced`: whatever services hold.
    pub(super) fn collect(&mut self, action: &Action) {
        let now = self.now / MS;
        let forced = action.kind == Kind::TikvGcForced;
        let point = if forced {
            let wanted = Tso::compose(self.pd.physical_ms(now).saturating_sub(action.ms), 0);
            self.pd.force_gc(wanted.raw())
        } else {
            let Ok(point) = self.pd.advance_gc(now, action.ms) else { return };
            point
        };
        let Ok(ts) = self.pd.tso(now) else { return };
        let mut alive = false;
        for (key, lock) in self.kv().old_locks(point) {
            match self.kv().check_txn_status(&lock.primary, lock.start_ts, ts.raw(), true) {
                Ok(TxnStatus::Committed { commit_ts }) => self.kv().resolve(&key, lock.start_ts, Some(commit_ts)),
                Ok(TxnStatus::RolledBack(_)) => {
                    self.kv().resolve(&key, lock.start_ts, None);
                    self.rolled_back(lock.start_ts);
                }
                Ok(TxnStatus::Locked { .. }) | Err(_) => alive = true,
            }
        }
        if !alive {
            self.kv().gc(point);
        }
    }

    fn fate(&self, start: u64) -> TxnFate {
        match &self.tidb {
            Some(tidb) => tidb.fate(start),
            None => self.client.of_start(start).map_or(TxnFate::RolledBack, Txn::fate),
        }
    }

    /// W4: a verdict goes to the log of a Pump.
    pub(super) fn judge_verdict(&mut self, node: usize, (kind, start, commit): Name) {
        let fate = self.fate(start);
        let right = match fate {
            TxnFate::Committed(ts) => kind == VERDICT_C && commit == ts,
            TxnFate::RolledBack | TxnFate::Running => kind != VERDICT_C,
        };
        self.note(|| format!("verdict {}", if kind == VERDICT_C { "committed" } else { "rolled back" }));
        if kind != VERDICT_C {
            self.judged_rolled_back.insert(start, node);
        }
        if !right {
            let said = if kind == VERDICT_C { format!("committed at {commit}") } else { "rolled back".to_owned() };
            self.violate("W4", format!("pump {node} judges start {start} {said}, but it is {fate:?}"));
        }
    }

    /// W4, the other way round: a transaction commits now.
    pub(super) fn judge_commit(&mut self, start: u64, commit: u64) {
        if let Some(node) = self.judged_rolled_back.get(&start) {
            let text = format!("start {start} commits at {commit}, but pump {node} judged it rolled back");
            self.violate("W4", text);
        }
    }

    /// A Pump gives up on a prewrite: is its evidence really in doubt? Then somebody looks after it.
    pub(super) fn undecidable(&mut self, node: usize, inc: u32, start: u64) {
        let point = self.pd.gc_safe_point().unwrap_or(u64::MAX);
        if start > point {
            let text = format!("pump {node} calls start {start} undecidable, but GC is at {point}");
            self.violate("W4", text);
            return;
        }
        self.note(|| "undecidable".to_owned());
        let wait = 1_000 + self.rng.below(4_000);
        self.after(wait * MS, Ev::Operator { node, inc, start });
    }

    /// The operator has found out what became of the transaction, from tables or other logs.
    pub(super) fn operator_decides(&mut self, node: usize, inc: u32, start: u64) {
        let fate = self.fate(start);
        let Some(proc) = self.pumps.get_mut(node).filter(|p| p.inc == inc).and_then(|p| p.proc.as_mut()) else {
            return;
        };
        let verdict = match fate {
            TxnFate::Running => {
                self.after(2_000 * MS, Ev::Operator { node, inc, start });
                return;
            }
            TxnFate::Committed(ts) => Verdict::Committed(CommitTs::new(ts)),
            TxnFate::RolledBack => Verdict::RolledBack,
        };
        proc.next_write += 1;
        let write = WriteId::new(proc.next_write);
        proc.commands.insert(write, start);
        self.note(|| "an operator decides".to_owned());
        self.line(Weight::Short, "operator", || format!("resolves start {start} at pump {node}: {verdict:?}"));
        self.pump_input(node, inc, Input::Resolve { write, start_ts: StartTs::new(start), verdict });
    }

    /// The Pump answered the operator. Refused, he looks again later: C, or TiKV, was faster, or nothing can be stored now.
    pub(super) fn operator_answered(&mut self, node: usize, start: u64, result: &Result<(), Reject>) {
        let Err(reject) = result else { return };
        let text = reject.to_string();
        if !text.contains("nothing to do") && !text.contains("without a command") {
            let inc = self.pumps[node].inc;
            self.after(2_000 * MS, Ev::Operator { node, inc, start });
        }
    }

    /// Liveness, once faults are over: how long a Pump may hold its watermark for one prewrite.
    pub(super) fn judge_held(&mut self) {
        let healed = self.now.saturating_sub(self.plan.config.horizon_ms * MS) / MS + self.slept.0;
        for node in 0..self.pumps.len() {
            let pump = &self.pumps[node];
            let own = pump.proc.as_ref().filter(|p| !pump.rotten && !p.pump.glance().is_read_only);
            let Some((start, held)) = own.and_then(|p| p.pump.oldest_undecided()) else { continue };
            let held = held.min(healed);
            let (held, bound) = if self.has_evidence(start.raw()) {
                let since = *self.evidence.entry(start.raw()).or_insert(self.now);
                (held.min((self.now - since) / MS), ANSWERED_MS)
            } else {
                // The sleep is longer than ten minutes, and PD's answer from before it may cost one more pause (swarm 1816).
                (held, ABSENT_AFTER_MS + 2 * ANSWERED_MS)
            };
            if held > bound {
                let text =
                    format!("pump {node} holds its watermark for start {start} after {bound} ms: {}", self.reasons());
                self.violate("V2", text);
            }
        }
    }

    /// A prewrite of which TiKV has no trace is believed to be lost after ten minutes (rules 1). The world sleeps through them:
    /// every clock goes on, nothing else happens.
    pub(super) fn pass_the_time(&mut self) {
        let (slept, woke) = self.slept;
        if self.now < woke.max(self.plan.config.horizon_ms * MS) + AWAKE_MS * MS || !self.waits_for_absence() {
            return;
        }
        self.note(|| "ten minutes pass".to_owned());
        self.line(Weight::Short, "plan", || "ten minutes pass".to_owned());
        self.slept = (slept + SLEEP_MS, self.now);
        self.pd.jump(SLEEP_MS);
        for node in 0..self.pumps.len() {
            let pump = &mut self.pumps[node];
            let inc = pump.inc;
            if let Some(proc) = &mut pump.proc {
                proc.slept += SLEEP_MS * MS;
                self.pump_input(node, inc, Input::Tick);
            }
        }
    }

    /// Whether a Pump waits for something of which TiKV has no trace.
    fn waits_for_absence(&mut self) -> bool {
        (0..self.pumps.len()).any(|node| {
            let proc = self.pumps[node].proc.as_ref();
            let oldest = proc.and_then(|p| p.pump.oldest_undecided());
            oldest.is_some_and(|(start, _)| !self.has_evidence(start.raw()))
        })
    }

    fn has_evidence(&mut self, start: u64) -> bool {
        let key = match &self.tidb {
            Some(tidb) => tidb.primary_key(start),
            None => Bytes::copy_from_slice(&start.to_be_bytes()),
        };
        let info = self.kv().mvcc(&key);
        info.lock.is_some_and(|lock| lock.start_ts == start) || info.writes.iter().any(|write| write.start_ts == start)
    }
}

/// The longest pause between two questions is 30 s; the answers and an operator take a few seconds more.
const ANSWERED_MS: u64 = 60_000;
/// Ten minutes, also by a slow host's clock.
const SLEEP_MS: u64 = 640_000;
/// How long the world is awake before it sleeps (again): the longest pause between two questions about an absent transaction,
/// and the answers.
const AWAKE_MS: u64 = 15_000;
