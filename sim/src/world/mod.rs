//! The world: a discrete-event loop over the machines. Events are ordered by (time, sequence); one trace hash covers them
//! all. The parts: `pump` (process, log and index port of a Pump), `client` and `tidb` (the upstream, one of them),
//! `stream` (links that carry streams), `drainer` (process and ports of a Drainer), `faults` (actions of the plan, healing,
//! convergence).
//!
//! There are two workloads, chosen by the plan. Light: transactions carry a digest, cheap enough for many seeds, about
//! order, durability and exactly once. Rows (`set rows 1`): the TiDB model with real rows, DDL jobs, TiKV; the real
//! Translator; the MySQL model, whose tables must equal the upstream's in the end.

mod client;
mod drainer;
mod event;
mod faults;
mod pump;
mod stream;
mod tidb;
mod verdict;

use crate::canary::PortCanary;
use crate::oracle::Violation;
use crate::plan::{Kind, Plan};
use crate::rng::{Rng, skewed};
use crate::trace::{Trace, Weight};
use binlog_core::time::Tso;
use binlog_sim_models::pd::{EPOCH_MS, Pd};
use binlog_sim_models::registry::Registry;
use bytes::Bytes;
use client::Client;
use drainer::DrainerNode;
use event::{Ev, Events};
use pump::PumpNode;
use std::collections::BTreeMap;
use std::fmt;
use stream::Stream;
use tidb::Upstream;

/// Nanoseconds.
pub const MS: u64 = 1_000_000;

/// A transaction that fetched its commit timestamp: what the oracles know of the upstream.
#[derive(Debug, Clone)]
pub struct Allocated {
    /// For reports: a transaction of the plan, or (rows) its start.
    pub txn: u64,
    pub start_ts: u64,
    /// Whose acknowledgement was accepted.
    pub pump: usize,
    /// False: it will fail for certain.
    pub commits: bool,
    /// P as it was sent.
    pub p: Bytes,
    /// What its effect in the downstream carries (rows: 0).
    pub digest: u64,
    pub owes: Owes,
}

/// What a commit must leave in the downstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owes {
    /// One effect.
    Effect,
    /// One, and again after an unknown outcome: TRUNCATE (rules 8).
    Truncate,
    /// Perhaps one: what it changes may not be visible downstream.
    Perhaps,
    /// One if any of these tables is still there at its place in commit order.
    Rows(Vec<i64>),
}

pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub trace: Trace,
    events: Events,
    rng: Rng,
    net: Rng,
    pd: Pd,
    registry: Registry,
    registry_down: u64,
    /// Until then its answers to listings take this much longer.
    registry_slow: u64,
    registry_delay: u64,
    pumps: Vec<PumpNode>,
    client: Client,
    tidb: Option<Box<Upstream>>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    drainer: DrainerNode,
    /// By commit timestamp: everything that ever fetched one.
    pub allocated: BTreeMap<u64, Allocated>,
    /// Start → the Pump in whose log a verdict says that it was rolled back.
    judged_rolled_back: BTreeMap<u64, usize>,
    /// When TiKV was first seen to know about a prewrite that holds a watermark, once faults are over.
    evidence: BTreeMap<u64, u64>,
    /// Time that passed in which nothing happened, and when the world woke from it.
    slept: (u64, u64),
    /// TiKV does not answer Pumps until then.
    tikv_down: u64,
    /// So many answers of TiKV and PD to Pumps are lost.
    lose_verdict: u64,
    /// Lives that an action asked to stop.
    stopping: BTreeMap<usize, u32>,
    /// Everything at or below must arrive everywhere; set when all transactions are over.
    target: Option<u64>,
    /// Calls of operators.
    next_action: u64,
    largest_tso: u64,
    pub violation: Option<Violation>,
    finished: bool,
    /// Faults that took effect.
    pub fired: BTreeMap<Kind, u64>,
    /// States and transitions that were seen.
    pub seen: BTreeMap<String, u64>,
    pub coverage: bool,
    canary: Option<PortCanary>,
}

impl World {
    #[must_use]
    pub fn new(plan: Plan, trace: Trace, canary: Option<PortCanary>) -> Self {
        let root = Rng::new(plan.seed);
        let mut world = Self {
            now: 0,
            trace,
            events: Events::default(),
            rng: root.fork("world"),
            net: root.fork("net"),
            pd: Pd::new(EPOCH_MS),
            registry: Registry::default(),
            registry_down: 0,
            registry_slow: 0,
            registry_delay: 0,
            pumps: Vec::new(),
            client: Client::new(&plan),
            tidb: Upstream::new(&plan),
            streams: BTreeMap::new(),
            next_stream: 0,
            drainer: DrainerNode::new(&plan, canary),
            allocated: BTreeMap::new(),
            judged_rolled_back: BTreeMap::new(),
            evidence: BTreeMap::new(),
            slept: (0, 0),
            tikv_down: 0,
            lose_verdict: 0,
            stopping: BTreeMap::new(),
            target: None,
            next_action: 0,
            largest_tso: 0,
            violation: None,
            finished: false,
            fired: BTreeMap::new(),
            seen: BTreeMap::new(),
            coverage: false,
            canary,
            plan,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        for node in 0..usize::try_from(self.plan.config.pumps).unwrap_or(1) {
            self.add_pump(node);
        }
        if self.plan.config.gc_ms > 0 && self.plan.config.drainers > 0 {
            // It was there before: GC waits for its first checkpoint.
            self.registry.put(binlog_sim_models::registry::Kind::Drainer, &drainer::known_before());
        }
        if self.plan.config.drainers > 0 {
            self.after(self.plan.seed % 50 * MS, Ev::DrainerStart);
        }
        let txns: Vec<_> = self.plan.txns.iter().enumerate().map(|(i, t)| (i, t.at_us)).collect();
        for (index, at_us) in txns {
            self.events.push(at_us * 1000, Ev::TxnBegin { txn: index });
        }
        if self.tidb.is_some() {
            for server in 0..self.plan.config.tidbs.max(1) {
                self.trace.life(0, || format!("tidb-{server}"), true);
            }
            self.after(MS, Ev::TidbSettle);
        }
        let actions: Vec<_> = self.plan.actions.iter().enumerate().map(|(i, a)| (i, a.at_us)).collect();
        for (index, at_us) in actions {
            self.events.push(at_us * 1000, Ev::Action(index));
        }
        self.events.push(self.plan.config.horizon_ms * MS, Ev::Heal);
    }

    fn add_pump(&mut self, node: usize) {
        let root = Rng::new(self.plan.seed);
        self.pumps.push(PumpNode::new(node, &root, self.canary));
        let wait = root.fork_n("boot", node as u64).below(30);
        self.after(wait * MS, Ev::PumpStart { node });
    }

    /// Runs until everything converged, an oracle objects, or `until` (virtual nanoseconds) is reached.
    pub fn run(&mut self, until: u64) {
        while !self.finished && self.violation.is_none() {
            let Some((at, event)) = self.events.pop() else {
                self.violate("V2", "nothing happens any more".to_owned());
                break;
            };
            if at > until {
                break;
            }
            self.now = at;
            self.trace.events += 1;
            self.trace.fold(at);
            self.trace.fold(event.code());
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Ev) {
        match event {
            Ev::Action(index) => self.action(index),
            Ev::ActionEnd(index) => self.action_end(index),
            Ev::Crash { node, power } => self.kill_pump(node, power),
            Ev::Heal => self.heal(),
            Ev::Look => self.look(),
            Ev::PumpStart { node } => self.start_pump(node),
            Ev::PumpInput { node, inc, input } => self.pump_input(node, inc, *input),
            Ev::PumpTick { node, inc, at } => self.pump_tick(node, inc, at),
            Ev::LogRun { node, inc, slot } => self.log_run(node, inc, slot),
            Ev::IndexRun { node, inc } => self.index_run(node, inc),
            Ev::IndexAside { node, inc, op, request } => self.index_executed(node, inc, op, *request),
            Ev::PumpTso { node, inc, op } => self.pump_tso(node, inc, op),
            Ev::PumpPut { node, inc, op, status } => self.pump_put(node, inc, op, &status),
            Ev::PumpNotify { node, inc, op } => self.pump_notify(node, inc, op),
            Ev::PumpListDrainers { node, inc, op } => self.pump_list_drainers(node, inc, op),
            Ev::PumpAsks { node, inc, ask } => self.pump_asked(node, inc, *ask),
            Ev::Operator { node, inc, start } => self.operator_decides(node, inc, start),
            Ev::Supervise { node, inc } => self.supervise(node, inc),
            Ev::Measure { node, inc } => self.measure(node, inc),
            Ev::TxnBegin { txn } if self.tidb.is_some() => self.tidb_begin(txn),
            Ev::TxnBegin { txn } => self.txn_begin(txn),
            Ev::TxnStep { txn, step } => self.txn_step(txn, step),
            Ev::WriteArrives { node, call } => self.write_arrives(node, call),
            Ev::WriteAnswer { call, ok } => self.write_answer(call, ok),
            Ev::WriteTimeout { call } => self.write_answer(call.first(), false),
            Ev::TidbRequest { request } => self.tidb_request(&request),
            Ev::TidbAnswer { token, reply } => self.tidb_answer(token, reply),
            Ev::TidbTick { at } => self.tidb_tick(at),
            Ev::TidbRestart { server } => self.tidb_restart(server),
            Ev::TidbSettle => self.tidb_settle(),
            Ev::PullArrives { stream } => self.pull_arrives(stream),
            Ev::StreamItem { stream, payload, commit_ts } => self.stream_item(stream, payload, commit_ts),
            Ev::StreamClosed { stream, error } => self.stream_closed(stream, error),
            Ev::ReaderOpen { node, inc } => self.reader_open(node, inc),
            Ev::DrainerStart => self.start_drainer(),
            Ev::DrainerInput { inc, input } => self.drainer_input(inc, *input),
            Ev::DrainerTick { inc, at } => self.drainer_tick(inc, at),
            Ev::DrainerTso { inc, op } => self.drainer_tso(inc, op),
            Ev::DrainerList { inc, op } => self.drainer_list(inc, op),
            Ev::DrainerPut { inc, op, status } => self.drainer_put(inc, op, &status),
            Ev::DrainerJob { inc, op, job, snapshot } => self.drainer_job(inc, op, job, snapshot),
            Ev::DrainerNotify { call } => self.drainer_notify(call),
            Ev::Sink { inc, op, request } => self.sink_run(inc, op, &request),
            Ev::SinkSettle => self.sink_settle(),
        }
    }

    fn after(&mut self, nanos: u64, event: Ev) {
        self.events.push(self.now.saturating_add(nanos), event);
    }

    /// One way over a link.
    fn latency(&mut self) -> u64 {
        let c = &self.plan.config;
        skewed(&mut self.net, c.net_min_us, c.net_max_us) * 1000
    }

    fn tso_latency(&mut self) -> u64 {
        let max = self.plan.config.tso_max_us;
        skewed(&mut self.net, 50, max) * 1000
    }

    fn tso(&mut self) -> Option<Tso> {
        let tso = self.pd.tso(self.now / MS).ok();
        self.largest_tso = self.largest_tso.max(tso.map_or(0, |ts| ts.raw()));
        tso
    }

    fn line(&mut self, weight: Weight, node: impl fmt::Display, text: impl FnOnce() -> String) {
        self.trace.line(self.now, weight, node, text);
    }

    pub(crate) fn fires(&mut self, kind: Kind) {
        *self.fired.entry(kind).or_insert(0) += 1;
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.coverage {
            *self.seen.entry(what()).or_insert(0) += 1;
        }
    }

    pub fn violate(&mut self, oracle: &'static str, text: String) {
        if self.violation.is_none() {
            self.line(Weight::Short, "oracle", || format!("{oracle}: {text}"));
            self.violation = Some(Violation { oracle, text, at: self.now });
        }
    }

    fn judge(&mut self, result: Result<(), (&'static str, String)>) {
        if let Err((oracle, text)) = result {
            self.violate(oracle, text);
        }
    }

    /// The registry as it stands: its answer may be lost.
    fn registry_answers(&mut self) -> RegistryWay {
        if self.now >= self.registry_down {
            RegistryWay::Well
        } else if self.rng.percent(50) {
            RegistryWay::Before
        } else {
            RegistryWay::After
        }
    }

    /// What the world waits for, when it does not converge (V2 names the reason).
    #[must_use]
    pub fn reasons(&self) -> String {
        let upstream = self.tidb.as_ref().map_or_else(|| self.client.reason(), |tidb| tidb.reason());
        let mut out = vec![format!("target {:?}", self.target), upstream];
        for pump in &self.pumps {
            out.push(pump.reason());
        }
        out.push(self.drainer.reason());
        out.join("; ")
    }
}

/// How a request to the registry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RegistryWay {
    Well,
    /// Time-out without the effect.
    Before,
    /// Time-out after it.
    After,
}
