//! The Drainer's process and its ports: PD, registry, DDL history, streams, the downstream. What becomes visible in the
//! downstream is judged at once (M1, M2, A1, A2, C1, C2).

use super::event::Ev;
use super::pump::clip;
use super::stream::BELOW_GC;
use super::{Allocated, MS, Owes, RegistryWay, World};
use crate::canary::PortCanary;
use crate::oracle::merge::Heads;
use crate::plan::{Kind as Fault, Plan};
use crate::rng::Rng;
use crate::sink::light::Downstream;
use crate::sink::rows::RowSink;
use crate::sink::{Done, Sink, Way};
use crate::trace::Weight;
use crate::translate::SimTranslate;
use binlog_core::drainer::config::DrainerConfig;
use binlog_core::drainer::effect::Effect;
use binlog_core::drainer::input::Input;
use binlog_core::drainer::machine::Drainer;
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::drainer::translate::Translator;
use binlog_core::fault::IoFault;
use binlog_core::ids::{NodeId, OpId};
use binlog_core::machine::Machine;
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::sink::op::{SinkError, SinkOp, SinkReply};
use binlog_core::sink::sql::Dialect;
use binlog_core::time::{Deadline, MonoTime, Tso};
use binlog_sim_models::registry::Kind;
use std::ops::Bound::{Excluded, Included};

pub struct DrainerNode {
    pub inc: u32,
    proc: Option<Proc>,
    pub sink: Sink,
    rng: Rng,
    /// Requests of this life and of those before are void: a dump was restored.
    void: u32,
    /// Effects that were judged.
    judged: usize,
    pub heads: Heads,
    /// A Pump that collects by age alone took what it still needed: the rest cannot arrive.
    pub gap: bool,
}

struct Proc {
    drainer: Process,
    born: u64,
    armed: u64,
}

/// The machine with the translator of its workload.
enum Process {
    Light(Box<Drainer<SimTranslate>>),
    Rows(Box<Drainer<Translator>>),
}

impl Process {
    fn handle(&mut self, now: MonoTime, input: Input) {
        match self {
            Self::Light(drainer) => drainer.handle(now, input),
            Self::Rows(drainer) => drainer.handle(now, input),
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        match self {
            Self::Light(drainer) => drainer.poll_effect(),
            Self::Rows(drainer) => drainer.poll_effect(),
        }
    }

    fn next_deadline(&self) -> Option<Deadline> {
        match self {
            Self::Light(drainer) => drainer.next_deadline(),
            Self::Rows(drainer) => drainer.next_deadline(),
        }
    }

    fn check(&self) {
        match self {
            Self::Light(drainer) => drainer.check(),
            Self::Rows(drainer) => drainer.check(),
        }
    }

    fn status(&self) -> DrainerStatus {
        match self {
            Self::Light(drainer) => drainer.status(),
            Self::Rows(drainer) => drainer.status(),
        }
    }
}

impl DrainerNode {
    pub fn new(plan: &Plan, canary: Option<PortCanary>) -> Self {
        if plan.config.rows > 0 {
            let dialect = [Dialect::MySql, Dialect::MariaDb, Dialect::TiDb][(plan.seed % 3) as usize];
            let mut sink = RowSink::new(dialect);
            sink.lose_statement = canary == Some(PortCanary::LoseStatement);
            let sink = Sink::Rows(Box::new(sink));
            return Self {
                inc: 0,
                proc: None,
                sink,
                rng: Rng::new(plan.seed).fork("sink"),
                void: 0,
                judged: 0,
                heads: Heads::default(),
                gap: false,
            };
        }
        let mut sink = Downstream::default();
        sink.mutations.insert_record_last = canary == Some(PortCanary::InsertRecordLast);
        sink.mutations.delete_record_unchecked = canary == Some(PortCanary::DeleteRecordUnchecked);
        sink.mutations.stale_generation_trusted = canary == Some(PortCanary::StaleGenerationTrusted);
        let sink = Sink::Light(Box::new(sink));
        Self {
            inc: 0,
            proc: None,
            sink,
            rng: Rng::new(plan.seed).fork("sink"),
            void: 0,
            judged: 0,
            heads: Heads::default(),
            gap: false,
        }
    }

    pub fn is_running(&self) -> bool {
        self.proc.is_some()
    }

    /// The durable checkpoint.
    pub fn checkpoint(&self) -> u64 {
        self.sink.row().map_or(0, |row| row.commit_ts.raw())
    }

    pub fn reason(&self) -> String {
        let Some(proc) = &self.proc else { return "no drainer runs".to_owned() };
        let s = proc.drainer.status();
        format!(
            "drainer: {}, checkpoint {}, applied {}, merged {}, confirmed {}, waiting {:?}, faults {:?}",
            s.state, s.checkpoint, s.applied, s.merge_position, s.confirmed, s.waiting, s.faults
        )
    }
}

/// The registry's entry of a Drainer that has been here before, without a checkpoint.
pub(super) fn known_before() -> NodeStatus {
    NodeStatus {
        node_id: "drainer-0".to_owned(),
        host: "drainer-0:8249".to_owned(),
        state: NodeState::Paused,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: 0,
        update_ts: 0,
        token: None,
    }
}

impl World {
    pub(super) fn start_drainer(&mut self) {
        if self.drainer.proc.is_some() || self.plan.config.drainers == 0 {
            return;
        }
        self.drainer.inc += 1;
        self.drainer.heads.start(self.drainer.inc);
        let node = NodeId::parse("drainer-0").unwrap_or_else(|_| unreachable!("a plain name"));
        let mut config = DrainerConfig::new(node, "drainer-0:8249".to_owned());
        config.initial_commit_ts = 0;
        config.seed = self.plan.seed ^ u64::from(self.drainer.inc);
        config.memory_bytes = self.plan.config.memory_bytes;
        config.txn_batch = self.plan.config.txn_batch;
        config.detect_interval_ms = 1_000;
        config.translate.sync_ddl = true;
        let drainer = if self.plan.config.rows > 0 {
            Process::Rows(Box::new(Drainer::new(config)))
        } else {
            Process::Light(Box::new(Drainer::new(config)))
        };
        self.drainer.proc = Some(Proc { drainer, born: self.now, armed: u64::MAX });
        let inc = self.drainer.inc;
        self.trace.life(self.now, || "drainer-0".to_owned(), true);
        self.line(Weight::Short, "drainer-0", || format!("starts (life {inc})"));
        self.drainer_input(inc, Input::Start);
    }

    pub(super) fn kill_drainer(&mut self) {
        if self.drainer.proc.take().is_none() {
            return;
        }
        self.trace.life(self.now, || "drainer-0".to_owned(), false);
        self.line(Weight::Short, "drainer-0", || "is killed".to_owned());
        self.close_source(None);
    }

    pub(super) fn drainer_input(&mut self, inc: u32, input: Input) {
        if self.drainer.inc != inc {
            return;
        }
        let now = self.now;
        let Some(proc) = &mut self.drainer.proc else { return };
        self.trace.line(now, Weight::Full, "drainer-0", || format!("<- {}", clip(&format!("{input:?}"))));
        if let Input::PumpsDone { result: Ok(listed), .. } = &input {
            for entry in listed {
                let Some(node) = entry.node_id.strip_prefix("pump-").and_then(|n| n.parse().ok()) else { continue };
                if entry.state == NodeState::Offline {
                    self.drainer.heads.leaves(node);
                } else {
                    self.drainer.heads.lists(node, || proc.drainer.status().merge_position);
                }
            }
        }
        let mono = MonoTime::from_nanos(now - proc.born);
        proc.drainer.handle(mono, input);
        loop {
            let Some(proc) = self.drainer.proc.as_mut().filter(|_| self.drainer.inc == inc) else { return };
            let Some(effect) = proc.drainer.poll_effect() else { break };
            self.drainer_effect(inc, effect);
        }
        let Some(proc) = &mut self.drainer.proc else { return };
        proc.drainer.check();
        if let Some(deadline) = proc.drainer.next_deadline() {
            let at = (proc.born + deadline.nanos()).max(now + 1000);
            if proc.armed != at {
                proc.armed = at;
                self.events.push(at, Ev::DrainerTick { inc, at });
            }
        }
    }

    pub(super) fn drainer_tick(&mut self, inc: u32, at: u64) {
        let armed = self.drainer.proc.as_mut().filter(|_| self.drainer.inc == inc);
        let Some(proc) = armed.filter(|p| p.armed == at) else { return };
        proc.armed = u64::MAX;
        self.drainer_input(inc, Input::Tick);
    }

    fn drainer_effect(&mut self, inc: u32, effect: Effect) {
        self.trace.line(self.now, Weight::Full, "drainer-0", || format!("-> {}", clip(&format!("{effect:?}"))));
        match effect {
            Effect::GetTso { op } => {
                let wait = self.tso_latency();
                self.after(wait, Ev::DrainerTso { inc, op });
            }
            Effect::ListPumps { op } => {
                let wait = self.latency();
                self.after(wait, Ev::DrainerList { inc, op });
            }
            Effect::PutStatus { op, status } => {
                let wait = self.latency();
                self.after(wait, Ev::DrainerPut { inc, op, status: Box::new(status) });
            }
            Effect::LoadHistory { op } => self.history(inc, op, None),
            Effect::FetchJob { op, job_id } => self.history(inc, op, Some(job_id)),
            Effect::OpenSource { source, pump, last, credit, .. } => self.open_source(source, &pump, last, credit),
            Effect::SourceCredit { source, bytes } => self.grant(source, bytes),
            Effect::CloseSource { source } => self.close_source(Some(source)),
            Effect::Sink { op, request } => {
                self.judge_sent(&request);
                let wait = self.drainer.rng.below(3_000) * 1000 + 50_000;
                self.after(wait, Ev::Sink { inc, op, request: Box::new(request) });
            }
            Effect::NotifyReply { call, result } => self.notify_answered(call, result),
            Effect::ResolveReply { .. } => {}
            Effect::Fault(fault) => {
                let rotten = self.pumps.iter().any(|p| p.rotten);
                self.line(Weight::Short, "drainer-0", || format!("FAULT {fault}"));
                if self.plan.config.gc_age > 0 && fault.to_string().contains(BELOW_GC) {
                    // It was told before (G2): a new full copy is due.
                    self.drainer.gap = true;
                    self.note(|| "the drainer is refused below the GC point".to_owned());
                } else if !rotten {
                    self.violate("H3", format!("drainer: {fault}"));
                }
            }
            Effect::Notice { text, .. } => self.line(Weight::Short, "drainer-0", || text),
            Effect::Stopped { .. } => {
                self.drainer.proc = None;
                self.trace.life(self.now, || "drainer-0".to_owned(), false);
                self.line(Weight::Short, "drainer-0", || "stopped".to_owned());
                self.close_source(None);
            }
        }
    }

    pub(super) fn drainer_notify(&mut self, call: u64) {
        self.notify_answered(call, Err("time-out".to_owned()));
    }

    pub(super) fn drainer_tso(&mut self, inc: u32, op: OpId) {
        let result = self.tso().ok_or_else(|| IoFault::Unavailable("PD has no leader".to_owned()));
        let wait = self.tso_latency();
        self.after(wait, Ev::DrainerInput { inc, input: Box::new(Input::TsoDone { op, result }) });
    }

    pub(super) fn drainer_list(&mut self, inc: u32, op: OpId) {
        let result = match self.registry_answers() {
            RegistryWay::Well => self.registry.list(Kind::Pump).map_err(IoFault::Other),
            _ => Err(IoFault::Unavailable("time-out".to_owned())),
        };
        let slow = if self.now < self.registry_slow { self.registry_delay } else { 0 };
        let wait = self.latency() + slow;
        self.after(wait, Ev::DrainerInput { inc, input: Box::new(Input::PumpsDone { op, result }) });
    }

    pub(super) fn drainer_put(&mut self, inc: u32, op: OpId, status: &NodeStatus) {
        if self.drainer.inc != inc {
            return;
        }
        let way = self.registry_answers();
        if way != RegistryWay::Before {
            self.registry.put(Kind::Drainer, status);
            self.note(|| format!("drainer state {}", status.state));
        }
        let result = match way {
            RegistryWay::Well => Ok(()),
            _ => Err(IoFault::Unavailable("time-out".to_owned())),
        };
        let wait = self.latency();
        self.after(wait, Ev::DrainerInput { inc, input: Box::new(Input::StatusDone { op, result }) });
    }

    fn history(&mut self, inc: u32, op: OpId, job: Option<i64>) {
        let wait = self.latency();
        self.after(wait, Ev::DrainerJob { inc, op, job, snapshot: None });
    }

    pub(super) fn drainer_job(&mut self, inc: u32, op: OpId, job: Option<i64>, snapshot: Option<u64>) {
        let input = match job {
            _ if self.tidb.is_some() => match self.tidb_history(op, job, snapshot) {
                Ok(input) => input,
                Err(snapshot) => {
                    let wait = 20 * MS + self.latency();
                    self.after(wait, Ev::DrainerJob { inc, op, job, snapshot: Some(snapshot) });
                    return;
                }
            },
            None => Input::HistoryDone { op, result: Ok(self.client.jobs.iter().map(|(_, j)| j.clone()).collect()) },
            Some(id) => {
                let job = self.client.jobs.iter().find(|(own, _)| *own == id).map(|(_, json)| json.clone());
                Input::JobDone { op, result: Ok(job) }
            }
        };
        let wait = self.latency();
        self.after(wait, Ev::DrainerInput { inc, input: Box::new(input) });
    }

    // ---- downstream ----

    pub(super) fn sink_run(&mut self, inc: u32, op: OpId, request: &SinkOp) {
        if inc <= self.drainer.void {
            return;
        }
        // A request that left before the process died arrives, or not.
        let orphan = self.drainer.inc != inc || self.drainer.proc.is_none();
        let opens = matches!(request, SinkOp::Open | SinkOp::Begin { .. });
        if orphan && (opens || self.drainer.rng.percent(50)) {
            return;
        }
        let node = &mut self.drainer;
        let (next, left) = (node.sink.ways().front().copied(), node.sink.ways().len());
        let result = node.sink.run(request, &mut node.rng);
        let fired = next.filter(|_| node.sink.ways().len() < left);
        if node.sink.has_limbo() {
            let wait = 5 + node.rng.below(2_000);
            self.after(wait * MS, Ev::SinkSettle);
        }
        match fired {
            Some(Way::LostBefore) => self.fires(Fault::SinkLostBefore),
            Some(Way::LostAfter) => self.fires(Fault::SinkLostAfter),
            Some(Way::Limbo) => self.fires(Fault::SinkLimbo),
            Some(Way::Deadlock) => self.fires(Fault::SinkDeadlock),
            Some(Way::HalfDone) if matches!(request, SinkOp::Ddl { .. }) => self.fires(Fault::SinkHalfDone),
            Some(Way::LoseSuffix) => self.fires(Fault::SinkFailOver),
            Some(Way::HalfDone | Way::Well) | None => {}
        }
        self.sink_answer(inc, op, request, result);
    }

    fn sink_answer(&mut self, inc: u32, op: OpId, request: &SinkOp, result: Result<SinkReply, SinkError>) {
        self.note(|| {
            let what = format!("{request:?}");
            let what = what.split([' ', '{']).next().unwrap_or_default().to_owned();
            let how = match &result {
                Ok(_) => "well".to_owned(),
                Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
            };
            format!("sink {what} {how}")
        });
        self.judge_sink();
        let wait = self.drainer.rng.below(2_000) * 1000 + 50_000;
        self.after(wait, Ev::DrainerInput { inc, input: Box::new(Input::SinkDone { op, result }) });
    }

    pub(super) fn sink_settle(&mut self) {
        let commits = self.drainer.rng.percent(50);
        self.drainer.sink.settle(commits);
        self.judge_sink();
    }

    /// Every new effect, and the checkpoint, against what the upstream committed.
    pub(super) fn judge_sink(&mut self) {
        if let Some((oracle, text)) = self.drainer.sink.take_broken() {
            self.violate(oracle, text);
            return;
        }
        let effects = self.drainer.sink.effects();
        let judged = self.drainer.judged.min(effects.len());
        let fresh: Vec<Done> = effects[judged..].to_vec();
        let mut last = judged.checked_sub(1).map_or(0, |i| effects[i].commit_ts);
        for done in fresh {
            self.trace.fold(done.commit_ts);
            let judged = self.judge_effect(last, done);
            self.judge(judged);
            last = done.commit_ts;
        }
        self.drainer.judged = self.drainer.sink.effects().len();
        let k = self.drainer.checkpoint();
        self.trace.point(self.now, || "applied".to_owned(), Tso::new(last).physical_ms());
        self.trace.point(self.now, || "checkpoint".to_owned(), Tso::new(k).physical_ms());
        let owed = self.allocated.range((Excluded(last), Included(k.max(last)))).find(|(ts, a)| self.is_owed(**ts, a));
        if let Some((ts, _)) = owed.filter(|_| !self.drainer.gap) {
            let text = format!("the checkpoint is {k}, but {ts} is not applied (applied up to {last})");
            self.violate("C1", text);
        }
    }

    /// M2, when a transaction leaves for the downstream.
    fn judge_sent(&mut self, request: &SinkOp) {
        let last = match request {
            SinkOp::Apply { records, .. } => records.last().copied(),
            SinkOp::Ddl { ddl, .. } => Some(ddl.commit_ts),
            SinkOp::Open | SinkOp::Begin { .. } | SinkOp::Save { .. } | SinkOp::Close => None,
        };
        if let Some(ts) = last {
            let judged = self.drainer.heads.sends(ts.raw());
            self.judge(judged);
        }
    }

    /// Whether a commit must have an effect in the downstream.
    pub(super) fn is_owed(&self, ts: u64, a: &Allocated) -> bool {
        a.commits
            && match &a.owes {
                Owes::Effect | Owes::Truncate => true,
                Owes::Perhaps => false,
                Owes::Rows(tables) => {
                    self.tidb.as_ref().is_some_and(|tidb| tables.iter().any(|table| tidb.is_there(*table, ts)))
                }
            }
    }

    fn judge_effect(&self, last: u64, done: Done) -> Result<(), (&'static str, String)> {
        let ts = done.commit_ts;
        let again = ts == last && self.allocated.get(&ts).is_some_and(|a| a.owes == Owes::Truncate);
        if again {
            return Ok(());
        }
        if ts <= last {
            return Err(("A1", format!("{ts} is applied after {last}: repeated, or out of order")));
        }
        if let Some((gap, a)) = self
            .allocated
            .range((Excluded(last), Excluded(ts)))
            .find(|(ts, a)| !self.drainer.gap && self.is_owed(**ts, a))
        {
            let text = format!("{ts} is applied after {last}; {gap} (txn {}, pump {}) is left out", a.txn, a.pump);
            return Err(("A1", text));
        }
        match self.allocated.get(&ts).filter(|a| a.commits) {
            Some(a) if a.digest == done.digest => Ok(()),
            Some(a) => Err(("A1", format!("{ts} is applied with another value than txn {} wrote", a.txn))),
            None => Err(("A1", format!("{ts} is applied, but nobody committed it"))),
        }
    }

    pub(super) fn stop_drainer(&mut self) {
        let inc = self.drainer.inc;
        self.drainer_input(inc, Input::Shutdown);
    }

    /// An operator restores a dump while the Drainer is down.
    pub(super) fn restore_downstream(&mut self) {
        self.kill_drainer();
        let node = &mut self.drainer;
        node.void = node.inc;
        if node.sink.restore(&mut node.rng) {
            node.judged = node.sink.effects().len();
            self.fires(Fault::SinkRestore);
            self.line(Weight::Short, "sink", || "an older dump is restored".to_owned());
        }
    }
}
