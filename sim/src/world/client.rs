//! TiDBs as the Pumps see them: start_ts, P with the real client's way of retrying, a lock in TiKV, commit_ts after the
//! acknowledgement, commit, C (late, repeated), R after every failure.
//!
//! Some C are never sent: then TiKV tells what became of the transaction (`verdict`). Without verdicts in the plan, all else is
//! said to every Pump that may hold a P until it is acknowledged. With them clients die at any step, do not learn that they
//! committed, forget the Pumps whose acknowledgement they did not get, and give C and R up; locks expire, also under clients
//! that live.

use super::event::Ev;
use super::verdict::TxnFate;
use super::{Allocated, MS, Owes, World};
use crate::canary::PortCanary;
use crate::oracle::log;
use crate::plan::{Fate, Plan};
use crate::rng::Rng;
use crate::trace::Weight;
use crate::translate::{digest, job};
use binlog_core::binlog::item;
use binlog_core::ids::WriteId;
use binlog_core::node::status::NodeState;
use binlog_core::proto::binlog::Binlog;
use binlog_core::pump::input::Input;
use binlog_core::pump::verdict::ABSENT_AFTER_MS;
use binlog_core::time::Tso;
use binlog_sim_models::registry::Kind;
use binlog_sim_models::tikv::{Mutation, Tikv};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

pub const CLUSTER: u64 = 7;

#[derive(Debug)]
pub struct Client {
    pub txns: Vec<Txn>,
    next_call: u64,
    /// Calls that somebody waits for.
    open: BTreeMap<u64, Call>,
    /// Transactions that are not over.
    pub running: usize,
    /// A DDL that is not over: there is one at a time.
    ddl: Option<usize>,
    pub jobs: Vec<(i64, Bytes)>,
    pub tikv: Tikv,
}

#[derive(Debug)]
pub struct Txn {
    rng: Rng,
    pub start_ts: u64,
    pub commit_ts: u64,
    pub accepted: Option<usize>,
    /// Pumps that may hold its P.
    sent: BTreeSet<usize>,
    attempts: u32,
    pub value: Bytes,
    pub digest: u64,
    pub p: Bytes,
    pub begun: bool,
    decided: bool,
    /// How it was decided.
    committed: bool,
    /// C and R that are not acknowledged yet.
    unanswered: usize,
    /// What happens in TiKV; apart from the rest, which is older.
    kv: Rng,
    /// Its lock was set, or refused.
    locked: bool,
    /// Somebody rolled it back: it can never commit.
    lost: bool,
    /// Its client died.
    dead: bool,
    /// Canary: a commit timestamp from before the acknowledgement.
    early: Option<Tso>,
}

/// One unary call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u64,
    pub txn: usize,
    pub kind: u8,
    pub node: usize,
    /// A copy that the network made: nobody waits for its answer.
    pub copy: bool,
}

impl Call {
    #[must_use]
    pub const fn first(self) -> Self {
        Self { copy: false, ..self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    StartTs,
    SendP,
    /// The lock reaches TiKV.
    Lock,
    CommitTs,
    Commit,
    Send {
        kind: u8,
        node: usize,
    },
    PAgain {
        node: usize,
    },
}

impl Client {
    pub fn new(plan: &Plan) -> Self {
        let root = Rng::new(plan.seed);
        let txn = |id: u32, size: u64| {
            let mut rng = root.fork_n("client", u64::from(id));
            let len = usize::try_from(size).unwrap_or(0).max(4);
            let mut value: Vec<u8> = vec![rng.below(256) as u8; len];
            value[..4].copy_from_slice(&id.to_le_bytes());
            Txn {
                rng,
                start_ts: 0,
                commit_ts: 0,
                accepted: None,
                sent: BTreeSet::new(),
                attempts: 0,
                digest: digest(&value),
                value: value.into(),
                p: Bytes::new(),
                begun: false,
                decided: false,
                committed: false,
                unanswered: 0,
                kv: root.fork_n("light kv", u64::from(id)),
                locked: false,
                lost: false,
                dead: false,
                early: None,
            }
        };
        let txns: Vec<_> = plan.txns.iter().map(|t| txn(t.id, t.size)).collect();
        let running = if plan.config.rows > 0 { 0 } else { txns.len() };
        let (open, tikv) = (BTreeMap::new(), Tikv::default());
        Self { txns, next_call: 0, open, running, ddl: None, jobs: Vec::new(), tikv }
    }

    /// The transaction that began at `start_ts`.
    pub(super) fn of_start(&self, start_ts: u64) -> Option<&Txn> {
        self.txns.iter().find(|txn| txn.begun && txn.start_ts == start_ts)
    }

    pub fn reason(&self) -> String {
        let open: Vec<_> = self.txns.iter().enumerate().filter(|(_, t)| !t.decided || t.unanswered > 0).collect();
        let first = open.first().map(|(i, t)| {
            format!(
                "txn {i}: start {}, commit {}, accepted by {:?}, {} unanswered",
                t.start_ts, t.commit_ts, t.accepted, t.unanswered
            )
        });
        format!("{} transactions are not over, first {first:?}", self.running)
    }
}

impl Txn {
    pub(super) const fn is_committed(&self) -> bool {
        self.committed
    }

    pub(super) fn was_sent_to(&self, node: usize) -> bool {
        self.sent.contains(&node)
    }

    pub(super) const fn fate(&self) -> TxnFate {
        match (self.decided, self.committed) {
            (false, _) => TxnFate::Running,
            (true, true) => TxnFate::Committed(self.commit_ts),
            (true, false) => TxnFate::RolledBack,
        }
    }
}

impl World {
    pub(super) fn txn_begin(&mut self, txn: usize) {
        let plan = &self.plan.txns[txn];
        if plan.ddl {
            if self.client.ddl.is_some_and(|other| other != txn) {
                self.after(20 * MS, Ev::TxnBegin { txn });
                return;
            }
            self.client.ddl = Some(txn);
        }
        let wait = self.tso_latency();
        self.after(wait, Ev::TxnStep { txn, step: Step::StartTs });
    }

    pub(super) fn txn_step(&mut self, txn: usize, step: Step) {
        match step {
            Step::StartTs => self.start_ts(txn),
            Step::SendP => self.send_p(txn),
            Step::CommitTs => self.commit_ts(txn),
            Step::Lock => self.lock(txn),
            Step::Commit => self.commit(txn),
            Step::Send { kind, node } => self.call(txn, kind, node),
            Step::PAgain { node } => {
                let call = self.new_call(txn, log::P, node);
                let wait = self.latency();
                self.after(wait, Ev::WriteArrives { node, call: Call { copy: true, ..call } });
            }
        }
    }

    fn start_ts(&mut self, txn: usize) {
        let Some(ts) = self.tso() else {
            self.after(30 * MS, Ev::TxnStep { txn, step: Step::StartTs });
            return;
        };
        let early = if self.canary == Some(PortCanary::AsyncCommitOn) { self.tso() } else { None };
        let plan = &self.plan.txns[txn];
        let state = &mut self.client.txns[txn];
        state.start_ts = ts.raw();
        state.begun = true;
        let mut binlog = Binlog { tp: 0, start_ts: ts.raw().cast_signed(), ..Binlog::default() };
        binlog.prewrite_key = Some(Bytes::copy_from_slice(&ts.raw().to_be_bytes()));
        if plan.ddl {
            binlog.ddl_query = Some(state.value.clone());
            binlog.ddl_job_id = i64::from(plan.id) + 100;
            binlog.ddl_schema_state = 5;
        } else {
            binlog.prewrite_value = Some(state.value.clone());
        }
        state.p = binlog.encode_to_vec().into();
        state.early = early;
        // An abort: perhaps another's lock is in the way.
        if plan.fate != Fate::Vanish && (plan.fate != Fate::Abort || state.kv.percent(50)) {
            let wait = state.kv.below(10_000) * 1000;
            self.after(wait, Ev::TxnStep { txn, step: Step::Lock });
        }
        self.send_p(txn);
    }

    /// Chooses a Pump: among those that the registry shows as online, another one than last time where possible.
    fn send_p(&mut self, txn: usize) {
        let listed = self.registry.list(Kind::Pump).unwrap_or_default();
        let online = |n: &usize| {
            listed.iter().any(|s| s.state == NodeState::Online && s.node_id == super::pump::node_id(*n).as_str())
        };
        let nodes: Vec<usize> = (0..self.pumps.len()).filter(online).collect();
        let state = &mut self.client.txns[txn];
        state.attempts += 1;
        if state.attempts > MAX_ATTEMPTS {
            self.fails(txn);
            return;
        }
        if nodes.is_empty() {
            self.after(50 * MS, Ev::TxnStep { txn, step: Step::SendP });
            return;
        }
        let node = nodes[state.rng.index(nodes.len())];
        state.sent.insert(node);
        self.call(txn, log::P, node);
        if self.plan.txns[txn].fate == Fate::Vanish {
            self.dies(txn);
        }
    }

    fn lock(&mut self, txn: usize) {
        let verdicts = self.plan.config.verdicts > 0;
        let state = &mut self.client.txns[txn];
        if state.decided && !state.dead {
            return;
        }
        let (start, key) = (state.start_ts, state.start_ts.to_be_bytes());
        // GC leaves the newest value of a key, but no mere lock.
        let value = if state.kv.percent(50) { Mutation::Lock } else { Mutation::Put(Bytes::from_static(b"v")) };
        let ttl_ms = match state.kv.below(100) {
            // The client does not prolong it in time.
            0..20 if verdicts => state.kv.range(100, 1_500),
            _ => ALIVE_MS,
        };
        state.locked = true;
        state.lost |= self.client.tikv.prewrite(&[(key.to_vec(), value)], &key, start, ttl_ms).is_err();
        if self.client.txns[txn].dead {
            self.expires(txn);
        }
    }

    /// Nobody prolongs its lock any more.
    fn expires(&mut self, txn: usize) {
        let since = self.pd.physical_ms(self.now / MS);
        let start = self.client.txns[txn].start_ts;
        let key = start.to_be_bytes();
        let Some(mut lock) = self.client.tikv.mvcc(&key).lock.filter(|lock| lock.start_ts == start) else { return };
        lock.ttl_ms = since.saturating_sub(Tso::new(start).physical_ms()) + LOCK_TTL_MS;
        // Decided meanwhile: then there is no lock to prolong.
        let _ = self.client.tikv.put_lock(&key, lock);
    }

    /// The client dies: nobody says or commits anything from here on.
    fn dies(&mut self, txn: usize) {
        let state = &mut self.client.txns[txn];
        (state.dead, state.decided) = (true, true);
        self.line(Weight::Short, format_args!("txn-{txn}"), || "its client dies".to_owned());
        self.expires(txn);
        self.maybe_over(txn);
    }

    /// TiKV rolled it back, because a Pump or GC asked about a lock that had expired.
    pub(super) fn rolled_back(&mut self, start: u64) {
        let Some(state) = self.client.txns.iter_mut().find(|txn| txn.begun && txn.start_ts == start) else { return };
        state.lost = true;
        if let Some(known) = self.allocated.get_mut(&state.commit_ts) {
            known.commits = false;
        }
    }

    /// The commit, or the end, reaches TiKV.
    fn commit(&mut self, txn: usize) {
        let state = &mut self.client.txns[txn];
        if !state.locked {
            self.after(2 * MS, Ev::TxnStep { txn, step: Step::Commit });
            return;
        }
        let (start, commit, keys) = (state.start_ts, state.commit_ts, [state.start_ts.to_be_bytes().to_vec()]);
        let wants = self.plan.txns[txn].fate != Fate::Rollback;
        let committed = wants && !state.lost && self.client.tikv.commit(&keys, start, commit).is_ok();
        if committed {
            self.judge_commit(start, commit);
        } else {
            self.rolled_back(start);
            let _ = self.client.tikv.rollback(&keys, start);
        }
        self.decide(txn, committed);
    }

    /// The client gives the transaction up.
    fn fails(&mut self, txn: usize) {
        let state = &self.client.txns[txn];
        // Where no lock was set, there is no trace of it.
        if state.locked {
            let _ = self.client.tikv.rollback(&[state.start_ts.to_be_bytes().to_vec()], state.start_ts);
        }
        self.decide(txn, false);
    }

    pub(super) fn new_call(&mut self, txn: usize, kind: u8, node: usize) -> Call {
        self.client.next_call += 1;
        Call { number: self.client.next_call, txn, kind, node, copy: false }
    }

    fn call(&mut self, txn: usize, kind: u8, node: usize) {
        let call = self.new_call(txn, kind, node);
        self.client.open.insert(call.number, call);
        self.after(TIMEOUT_MS * MS, Ev::WriteTimeout { call });
        self.post(node, call);
    }

    /// A call leaves; the network may make two of it.
    pub(super) fn post(&mut self, node: usize, call: Call) {
        let wait = self.latency();
        self.after(wait, Ev::WriteArrives { node, call });
        if self.net.percent(self.plan.config.dup_percent) {
            let wait = if self.net.percent(30) { self.net.below(1_000) * MS } else { self.latency() };
            self.after(wait, Ev::WriteArrives { node, call: Call { copy: true, ..call } });
        }
    }

    /// The bytes that a call brings, and the name of the record that they become.
    fn message(&self, call: Call) -> (Bytes, log::Name) {
        if let Some(tidb) = &self.tidb {
            return tidb.message(call.number);
        }
        let state = &self.client.txns[call.txn];
        let mut binlog = Binlog { start_ts: state.start_ts.cast_signed(), ..Binlog::default() };
        let commit = if call.kind == log::C { state.commit_ts } else { 0 };
        let name = (call.kind, state.start_ts, commit);
        match call.kind {
            log::P => return (state.p.clone(), name),
            log::C => (binlog.tp, binlog.commit_ts) = (1, state.commit_ts.cast_signed()),
            _ => binlog.tp = 2,
        }
        (binlog.encode_to_vec().into(), name)
    }

    pub(super) fn write_arrives(&mut self, node: usize, call: Call) {
        let cut = self.pumps[node].clients_cut > self.now;
        let Some(proc) = self.pumps[node].proc.as_mut().filter(|_| !cut) else {
            if !cut && !call.copy {
                let wait = self.latency();
                self.after(wait, Ev::WriteAnswer { call, ok: false });
            }
            return;
        };
        proc.next_write += 1;
        let write = WriteId::new(proc.next_write);
        proc.writes.insert(write, (call, self.now));
        let inc = self.pumps[node].inc;
        let (payload, _) = self.message(call);
        self.pump_input(node, inc, Input::Write { write, cluster_id: CLUSTER, payload });
    }

    /// The Pump answered a call: D2 holds when the reply leaves.
    pub(super) fn write_replied(&mut self, node: usize, write: WriteId, ok: bool) {
        let Some((call, since)) = self.pumps[node].proc.as_mut().and_then(|p| p.writes.remove(&write)) else {
            self.violate("H1", format!("pump {node} answers write {write} twice, or one that was never made"));
            return;
        };
        self.trace.fold(call.number ^ u64::from(ok));
        if !ok {
            self.note(|| "a write is refused".to_owned());
        }
        // R32: where nothing is injected, a write waits for its batch and the one before it, and perhaps for a new segment; never for
        // the index or for GC.
        let bound = PAUSE_OPERATIONS * self.plan.config.disk_max_us * 1000;
        if self.plan.actions.is_empty() && self.now - since > bound {
            let text = format!("pump {node} answers a write after {} us", (self.now - since) / 1000);
            self.violate("R32", text);
        }
        let (payload, name) = self.message(call);
        if ok && self.plan.config.sync_log == 1 && !payload.is_empty() {
            let pump = &self.pumps[node];
            if !pump.view.is_durable(&pump.disk, name, &payload) {
                self.violate("D2", format!("pump {node} acknowledges {name:?}, which is not durable"));
            }
        }
        if let Some(tidb) = &mut self.tidb {
            tidb.replied(call, node, ok);
        }
        if call.copy || self.net.percent(self.plan.config.lose_percent) || self.pumps[node].clients_cut > self.now {
            return;
        }
        let wait = self.latency();
        self.after(wait, Ev::WriteAnswer { call, ok });
    }

    pub(super) fn write_answer(&mut self, call: Call, ok: bool) {
        if self.tidb.is_some() {
            self.tidb_written(call, ok);
            return;
        }
        if self.client.open.remove(&call.number).is_none() {
            return;
        }
        let Call { txn, kind, node, .. } = call;
        if kind == log::P && self.client.txns[txn].decided {
            return;
        }
        if kind == log::P {
            if !ok {
                let wait = self.client.txns[txn].rng.below(50) * MS;
                self.after(wait, Ev::TxnStep { txn, step: Step::SendP });
                return;
            }
            self.client.txns[txn].accepted = Some(node);
            self.line(Weight::Short, format_args!("txn-{txn}"), || format!("P accepted by pump {node}"));
            let state = &self.client.txns[txn];
            self.pumps[node].accepted.insert(state.start_ts, state.p.clone());
            let think = self.plan.txns[txn].think_us * 1000;
            if self.plan.txns[txn].fate == Fate::Abort {
                self.fails(txn);
            } else {
                // The request is made now at the earliest; PD allocates when it arrives.
                let wait = think + self.tso_latency();
                self.after(wait, Ev::TxnStep { txn, step: Step::CommitTs });
            }
        } else if ok {
            let state = &mut self.client.txns[txn];
            state.unanswered -= 1;
            if kind == log::C {
                self.pumps[node].committed.insert(state.commit_ts);
            }
            self.maybe_over(txn);
        } else if self.plan.config.verdicts > 0 && self.client.txns[txn].kv.percent(30) {
            self.client.txns[txn].unanswered -= 1;
            self.maybe_over(txn);
        } else {
            let wait = 20 + self.client.txns[txn].rng.below(200);
            self.after(wait * MS, Ev::TxnStep { txn, step: Step::Send { kind, node } });
        }
    }

    fn commit_ts(&mut self, txn: usize) {
        let early = self.client.txns[txn].early.take();
        let Some(ts) = early.or_else(|| self.tso()) else {
            self.after(30 * MS, Ev::TxnStep { txn, step: Step::CommitTs });
            return;
        };
        let fate = self.plan.txns[txn].fate;
        if fate == Fate::Die {
            self.dies(txn);
            return;
        }
        let state = &mut self.client.txns[txn];
        state.commit_ts = ts.raw();
        let commits = fate != Fate::Rollback && !state.lost;
        let Some(pump) = state.accepted else { return };
        let (start_ts, p, digest) = (state.start_ts, state.p.clone(), state.digest);
        let wait = state.rng.below(3_000) * 1000;
        let known = Allocated { txn: txn as u64, start_ts, pump, commits, p, digest, owes: Owes::Effect };
        self.allocated.insert(ts.raw(), known);
        self.after(wait, Ev::TxnStep { txn, step: Step::Commit });
    }

    /// The transaction is committed in TiKV, or it failed for certain. Its client tells every Pump that may hold its P.
    fn decide(&mut self, txn: usize, committed: bool) {
        let plan = self.plan.txns[txn].clone();
        let verdicts = self.plan.config.verdicts > 0;
        let state = &mut self.client.txns[txn];
        state.decided = true;
        state.committed = committed;
        let (start, commit) = (state.start_ts, state.commit_ts);
        let accepted = state.accepted;
        let mut sends = Vec::new();
        for node in state.sent.clone() {
            // Its client remembers the Pump whose acknowledgement it took only.
            let forgotten = verdicts && accepted.is_some_and(|own| own != node) && state.kv.percent(50);
            if forgotten || (committed && plan.fate == Fate::Silent) {
                continue;
            }
            if committed && plan.fate != Fate::Undetermined && accepted == Some(node) {
                // A client that dies here never sends its C: the Pump has to ask TiKV.
                if plan.c_repeat == 0 && state.rng.below(100) < NEVER_PERCENT {
                    continue;
                }
                sends.extend((0..=plan.c_repeat).map(|i| (log::C, node, plan.c_delay_us * 1000 + i * 40 * MS)));
            } else {
                let late = if plan.fate == Fate::Undetermined { plan.c_delay_us * 1000 } else { 0 };
                sends.push((log::R, node, late + state.rng.below(20) * MS));
            }
        }
        state.unanswered = sends.len();
        let age_ms = self.pd.physical_ms(self.now / MS).saturating_sub(Tso::new(start).physical_ms());
        let again = state.sent.iter().next().copied().filter(|_| plan.p_again_us > 0);
        if committed && age_ms > ABSENT_AFTER_MS {
            self.note(|| "a transaction commits after ten minutes".to_owned());
        }
        if committed && plan.ddl {
            let version = i64::try_from(self.client.jobs.len()).unwrap_or(0) + 1;
            let id = i64::from(plan.id) + 100;
            self.client.jobs.push((id, job(id, version, commit)));
        }
        self.line(Weight::Short, format_args!("txn-{txn}"), || {
            format!("{} start {start} commit {commit}", if committed { "committed" } else { "rolled back" })
        });
        for (kind, node, wait) in sends {
            self.after(wait, Ev::TxnStep { txn, step: Step::Send { kind, node } });
        }
        if let Some(node) = again {
            self.after(plan.p_again_us * 1000, Ev::TxnStep { txn, step: Step::PAgain { node } });
        }
        self.maybe_over(txn);
    }

    fn maybe_over(&mut self, txn: usize) {
        let state = &self.client.txns[txn];
        if state.decided && state.unanswered == 0 {
            self.client.running -= 1;
            if self.client.ddl == Some(txn) {
                self.client.ddl = None;
            }
        }
    }

    /// Whether this is a fake as a Pump makes them.
    pub(super) fn is_fake(payload: &[u8], ts: u64) -> bool {
        payload == item::fake(binlog_core::time::Tso::new(ts)).as_ref()
    }
}

/// The client's time-out of one call, shortened from the original's 15 s as everything here is.
const TIMEOUT_MS: u64 = 700;
/// Commits whose C is never sent.
const NEVER_PERCENT: u64 = 8;
/// The TTL of a lock whose client prolongs it.
const ALIVE_MS: u64 = 86_400_000;
/// … and what is left of it when the client dies.
const LOCK_TTL_MS: u64 = 1_000;
/// Operations of the disk that a write may have to wait for.
const PAUSE_OPERATIONS: u64 = 16;
/// Attempts at P before the transaction fails.
const MAX_ATTEMPTS: u32 = 30;
