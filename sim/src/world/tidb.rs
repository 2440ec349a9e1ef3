//! The upstream of a world with rows: the TiDB model (several servers, DDL jobs, the Pump client's retry rules) against PD and
//! the TiKV model, over the world's links to the Pumps.
//!
//! It notes for the oracles what became true: a commit at the moment at which TiKV took it. From then on no Pump may have
//! promised that nothing comes at or below it (W2), and everything up to the downstream's tables must show it.
//!
//! The client brings C to the one Pump whose acknowledgement it took; a dead server brings nothing. What is left undecided
//! there is the business of verdicts (rules 1). While a plan says `verdicts 0` the world stands in for them: once a
//! transaction is over, it tells every Pump that may hold its P what became of it, until that is acknowledged.

use super::client::Call as Written;
use super::event::Ev;
use super::pump::node_id;
use super::verdict::TxnFate;
use super::{Allocated, MS, Owes, World};
use crate::oracle::log::{C, Name, P, R};
use crate::plan::{Action, Kind, Plan};
use crate::rng::{Rng, skewed};
use crate::sink::Sink;
use crate::trace::Weight;
use binlog_core::codec::encode;
use binlog_core::drainer::input::Input as DrainerIn;
use binlog_core::fault::IoFault;
use binlog_core::ids::OpId;
use binlog_core::proto::binlog::Binlog;
use binlog_sim_models::registry::Kind as Nodes;
use binlog_sim_models::tidb::data::{Op, What};
use binlog_sim_models::tidb::ddl::DdlWeights;
use binlog_sim_models::tidb::ops::Weights;
use binlog_sim_models::tidb::request::{BinlogKind, Call, KvOp, Reply, Request, Token};
use binlog_sim_models::tidb::{Cluster, Config};
use binlog_sim_models::tikv::{KvError, Tikv};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

pub struct Upstream {
    cluster: Cluster,
    pub(super) tikv: Tikv,
    rng: Rng,
    servers: usize,
    verdicts: bool,
    /// By number: every binlog that was sent.
    calls: BTreeMap<u64, Sent>,
    /// By start.
    prewrites: BTreeMap<u64, Prewrite>,
    /// Start → commit timestamp.
    committed: BTreeMap<u64, u64>,
    /// Tables that ever were, and when they went.
    tables: BTreeSet<i64>,
    gone: BTreeMap<i64, u64>,
    /// Transactions and jobs of the plan that did not begin.
    waiting: usize,
    /// Requests under way to PD and TiKV, and their answers.
    flying: usize,
    armed: u64,
    lose_kv: u64,
    lose_commit: u64,
    /// Servers die after so many commits, before C; down for so long (ms).
    drop_commit: (u64, u64),
}

struct Sent {
    /// Who waits for the answer: `None` is the world.
    token: Option<Token>,
    payload: Bytes,
    name: Name,
    refused: bool,
    answered: bool,
}

struct Prewrite {
    binlog: Binlog,
    p: Bytes,
    accepted: Option<usize>,
    /// C was sent once.
    said: bool,
    /// Pumps that may hold it, and what they know.
    at: BTreeMap<usize, Told>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The world says it, not before this time.
    Nothing {
        next: u64,
    },
    Outcome,
}

impl Upstream {
    /// `None`: this plan's workload is the light one.
    pub fn new(plan: &Plan) -> Option<Box<Self>> {
        if plan.config.rows == 0 {
            return None;
        }
        let root = Rng::new(plan.seed);
        let servers = usize::try_from(plan.config.tidbs).unwrap_or(1).max(1);
        let config = Config {
            servers,
            sessions: 2 * servers,
            weights: Weights { spread: plan.config.spread, operations: 4, rows: 20, ..Weights::default() },
            ddl: DdlWeights { tables: 4, columns: 4, ..DdlWeights::default() },
            lease_ms: 50,
            lock_ttl_ms: LOCK_TTL_MS,
            write_timeout_ms: 1_000,
            secondaries: 1,
            rollback_percent: 5,
            ..Config::default()
        };
        Some(Box::new(Self {
            cluster: Cluster::new(config, root.fork("tidb")),
            tikv: Tikv::default(),
            rng: root.fork("tikv"),
            servers,
            verdicts: plan.config.verdicts > 0,
            calls: BTreeMap::new(),
            prewrites: BTreeMap::new(),
            committed: BTreeMap::new(),
            tables: BTreeSet::new(),
            gone: BTreeMap::new(),
            waiting: plan.txns.len(),
            flying: 0,
            armed: u64::MAX,
            lose_kv: 0,
            lose_commit: 0,
            drop_commit: (0, 0),
        }))
    }

    /// Every transaction is over, and every Pump knows it if the world has to tell.
    pub fn is_over(&self) -> bool {
        let told = |p: &Prewrite| p.at.values().all(|told| *told == Told::Outcome);
        self.waiting == 0
            && self.flying == 0
            && self.cluster.is_idle()
            && (self.verdicts || self.prewrites.values().all(told))
    }

    pub fn reason(&self) -> String {
        let told = |p: &&Prewrite| p.at.values().any(|told| *told != Told::Outcome);
        let untold = self.prewrites.values().filter(told).count();
        format!(
            "upstream: {} did not begin, {} requests fly, {}, {untold} prewrites of unknown outcome at a pump, {:?}",
            self.waiting,
            self.flying,
            self.cluster.busy_with(),
            self.cluster.counts()
        )
    }

    pub fn message(&self, number: u64) -> (Bytes, Name) {
        self.calls.get(&number).map_or((Bytes::new(), (0, 0, 0)), |sent| (sent.payload.clone(), sent.name))
    }

    /// A Pump answers: what it acknowledged is decided there, whoever learns of it.
    pub fn replied(&mut self, call: Written, node: usize, ok: bool) {
        let Some(sent) = self.calls.get_mut(&call.number) else { return };
        sent.refused |= !ok;
        if ok
            && sent.name.0 != P
            && let Some(prewrite) = self.prewrites.get_mut(&sent.name.1)
        {
            prewrite.at.insert(node, Told::Outcome);
        }
    }

    pub fn was_sent_to(&self, start: u64, node: usize) -> bool {
        self.prewrites.get(&start).is_some_and(|prewrite| prewrite.at.contains_key(&node))
    }

    pub(super) fn fate(&self, start: u64) -> TxnFate {
        match self.committed.get(&start) {
            Some(ts) => TxnFate::Committed(*ts),
            None if self.cluster.is_running(start) => TxnFate::Running,
            None => TxnFate::RolledBack,
        }
    }

    pub(super) fn primary_key(&self, start: u64) -> Bytes {
        self.prewrites.get(&start).and_then(|prewrite| prewrite.binlog.prewrite_key.clone()).unwrap_or_default()
    }

    /// Whether this table is there for a transaction that commits at `ts`.
    pub fn is_there(&self, table: i64, ts: u64) -> bool {
        self.gone.get(&table).is_none_or(|gone| *gone > ts)
    }
}

impl World {
    /// A transaction of the plan, on the session that its number gives; or a DDL job, of which one runs at a time.
    pub(super) fn tidb_begin(&mut self, txn: usize) {
        let (id, is_ddl) = (self.plan.txns[txn].id, self.plan.txns[txn].ddl);
        let (now, over) = (self.now / MS, self.now > self.plan.config.horizon_ms * MS);
        let Some(tidb) = &mut self.tidb else { return };
        let listed = self.registry.list(Nodes::Pump).unwrap_or_default();
        tidb.cluster.set_pumps(now, &listed);
        let first = !tidb.cluster.has_tables();
        let began = if is_ddl || first {
            tidb.cluster.begin_ddl_as(now, u64::from(id)) && is_ddl
        } else {
            let session = usize::try_from(id).unwrap_or(0) % (2 * tidb.servers);
            tidb.cluster.begin_as(now, session, u64::from(id))
        };
        if began || over {
            tidb.waiting -= 1;
        } else {
            self.after(10 * MS, Ev::TxnBegin { txn });
        }
        self.tidb_poke();
    }

    /// Carries out what the model asks for, and arms its timer.
    fn tidb_poke(&mut self) {
        while let Some(request) = self.tidb.as_mut().and_then(|tidb| tidb.cluster.poll()) {
            if let Call::SendBinlog { pump, payload, kind } = &request.call {
                self.tidb_write(Some(request.token), pump, payload, *kind);
                continue;
            }
            let wait = if request.call == Call::GetTs { self.tso_latency() } else { self.latency() };
            if let Some(tidb) = &mut self.tidb {
                tidb.flying += 1;
            }
            self.after(wait, Ev::TidbRequest { request: Box::new(request) });
        }
        let now = self.now;
        let Some(tidb) = &mut self.tidb else { return };
        if let Some(deadline) = tidb.cluster.next_deadline() {
            let at = (deadline * MS).max(now + MS);
            if tidb.armed > at || tidb.armed <= now {
                tidb.armed = at;
                self.events.push(at, Ev::TidbTick { at });
            }
        }
    }

    pub(super) fn tidb_tick(&mut self, at: u64) {
        let now = self.now / MS;
        let Some(tidb) = self.tidb.as_mut().filter(|tidb| tidb.armed == at) else { return };
        tidb.armed = u64::MAX;
        tidb.cluster.tick(now);
        self.tidb_poke();
    }

    fn tidb_write(&mut self, token: Option<Token>, pump: &str, payload: &Bytes, kind: BinlogKind) {
        let Some(node) = (0..self.pumps.len()).find(|n| node_id(*n).as_str() == pump) else { return };
        let kind = match kind {
            BinlogKind::Prewrite => P,
            BinlogKind::Commit => C,
            BinlogKind::Rollback => R,
            BinlogKind::Probe => 0,
        };
        let binlog = Binlog::decode(payload.clone()).unwrap_or_default();
        let start = binlog.start_ts.cast_unsigned();
        let commit = if kind == C { binlog.commit_ts.cast_unsigned() } else { 0 };
        let call = self.new_call(0, kind, node);
        let Some(tidb) = &mut self.tidb else { return };
        let name = (kind, start, commit);
        let sent = Sent { token, payload: payload.clone(), name, refused: false, answered: false };
        tidb.calls.insert(call.number, sent);
        if kind == P {
            let fresh = || Prewrite { binlog, p: payload.clone(), accepted: None, said: false, at: BTreeMap::new() };
            tidb.prewrites.entry(start).or_insert_with(fresh).at.insert(node, Told::Nothing { next: 0 });
        }
        // C is sent in the background: some come late, later than their time-out even.
        let state = tidb.prewrites.get_mut(&start).filter(|_| kind == C);
        let first = state.is_some_and(|p| !std::mem::replace(&mut p.said, true));
        let late = first && tidb.rng.fork_n("late", start).percent(15);
        let late = if late { skewed(&mut tidb.rng.fork_n("how late", start), 1_000, 1_500_000) * 1000 } else { 0 };
        if late > 0 {
            let wait = late + self.latency();
            self.after(wait, Ev::WriteArrives { node, call });
        } else {
            self.post(node, call);
        }
    }

    /// A Pump's answer, or that it cannot be reached, arrives at the server.
    pub(super) fn tidb_written(&mut self, call: Written, ok: bool) {
        let now = self.now / MS;
        let Some(tidb) = &mut self.tidb else { return };
        let Some(sent) = tidb.calls.get_mut(&call.number) else { return };
        if std::mem::replace(&mut sent.answered, true) {
            return;
        }
        let (kind, start, commit) = sent.name;
        let (payload, refused) = (sent.payload.clone(), sent.refused);
        let Some(token) = sent.token else { return };
        if ok && kind == P {
            self.pumps[call.node].accepted.insert(start, payload);
        } else if ok && kind == C {
            self.pumps[call.node].committed.insert(commit);
        }
        let reply = match (ok, refused) {
            (true, _) => Reply::Written { errmsg: String::new() },
            (false, true) => Reply::Written { errmsg: "refused".to_owned() },
            (false, false) => Reply::Failed { unavailable: true, text: "connection refused".to_owned() },
        };
        tidb.cluster.complete(now, token, reply);
        if kind == P
            && tidb.cluster.accepted_by(start) == Some(node_id(call.node).as_str())
            && let Some(prewrite) = tidb.prewrites.get_mut(&start)
        {
            prewrite.accepted = Some(call.node);
            self.line(Weight::Short, format_args!("txn-{start}"), || format!("P accepted by pump {}", call.node));
        }
        self.tidb_poke();
    }

    /// A request reaches PD or TiKV.
    pub(super) fn tidb_request(&mut self, request: &Request) {
        let (token, server) = (request.token, request.server);
        let now = self.now / MS;
        let lost = |text: &str| Reply::Failed { unavailable: true, text: text.to_owned() };
        let reply = match &request.call {
            Call::GetTs => self.tso().map_or_else(|| lost("PD has no leader"), Reply::Ts),
            Call::SendBinlog { .. } => return,
            Call::Kv(op) => {
                let Some(tidb) = &mut self.tidb else { return };
                let is_commit = matches!(op, KvOp::Commit { .. });
                let loses = if is_commit { &mut tidb.lose_commit } else { &mut tidb.lose_kv };
                let lose = *loses > 0;
                *loses -= u64::from(lose);
                let before = lose && !is_commit && tidb.rng.percent(50);
                if lose {
                    self.fires(if is_commit { Kind::LoseCommit } else { Kind::LoseKv });
                }
                let Some(tidb) = &mut self.tidb else { return };
                if before {
                    lost("lost before")
                } else {
                    let reply = tidb.cluster.run_kv(now, &mut tidb.tikv, op);
                    if let KvOp::Commit { start_ts, commit_ts, .. } = op {
                        self.tidb_committed(server, *start_ts, *commit_ts);
                    }
                    if lose { lost("lost after") } else { reply }
                }
            }
        };
        let wait = if request.call == Call::GetTs { self.tso_latency() } else { self.latency() };
        self.after(wait, Ev::TidbAnswer { token, reply });
    }

    pub(super) fn tidb_answer(&mut self, token: Token, reply: Reply) {
        let now = self.now / MS;
        let Some(tidb) = &mut self.tidb else { return };
        tidb.flying -= 1;
        tidb.cluster.complete(now, token, reply);
        self.tidb_poke();
    }

    /// A commit was carried out: if it became true by that, everybody has to live with it from now on.
    fn tidb_committed(&mut self, server: usize, start_ts: u64, commit_ts: u64) {
        let Some(tidb) = &mut self.tidb else { return };
        let Some(committed) = tidb.cluster.committed().get(&commit_ts) else { return };
        if tidb.committed.insert(start_ts, commit_ts).is_some() {
            return;
        }
        let owes = match &committed.what {
            What::Ddl { schema: None, .. } => Owes::Perhaps,
            What::Ddl { schema: Some(schema), .. } => {
                for id in tidb.tables.iter().filter(|id| !schema.tables.contains_key(*id)) {
                    tidb.gone.entry(*id).or_insert(commit_ts);
                }
                tidb.tables.extend(schema.tables.keys());
                let query = committed.prewrite.ddl_query.as_deref().unwrap_or_default();
                if query.starts_with(b"TRUNCATE") { Owes::Truncate } else { Owes::Effect }
            }
            What::Rows(changes) => {
                // An update may be of columns that the downstream does not see.
                let visible = changes.iter().filter(|c| !matches!(c.op, Op::Update { .. }));
                Owes::Rows(visible.map(|c| c.table).collect())
            }
        };
        let Some(prewrite) = tidb.prewrites.get(&start_ts) else { return };
        let Some(pump) = prewrite.accepted else {
            self.violate("MODEL", format!("{start_ts} commits at {commit_ts} without an acknowledged prewrite"));
            return;
        };
        let p = prewrite.p.clone();
        let dies = tidb.drop_commit.0 > 0;
        if dies {
            tidb.drop_commit.0 -= 1;
        }
        let known = Allocated { txn: start_ts, start_ts, pump, commits: true, p, digest: 0, owes };
        self.trace.fold(commit_ts);
        self.line(Weight::Short, format_args!("txn-{start_ts}"), || format!("committed at {commit_ts}"));
        self.allocated.insert(commit_ts, known);
        self.judge_commit(start_ts, commit_ts);
        let promised = self.pumps[pump].watch.highest;
        if promised >= commit_ts {
            let text = format!("start {start_ts} commits at {commit_ts}, but pump {pump} has published {promised}");
            self.violate("W2", text);
        }
        if dies {
            self.fires(Kind::DropCommit);
            self.tidb_crash(server);
            let wait = self.tidb.as_ref().map_or(0, |tidb| tidb.drop_commit.1);
            self.after(wait * MS, Ev::TidbRestart { server });
        }
    }

    fn tidb_crash(&mut self, server: usize) {
        self.trace.life(self.now, || format!("tidb-{server}"), false);
        self.line(Weight::Short, format_args!("tidb-{server}"), || "is killed".to_owned());
        if let Some(tidb) = &mut self.tidb {
            tidb.cluster.crash(server);
        }
    }

    pub(super) fn tidb_restart(&mut self, server: usize) {
        let now = self.now / MS;
        let Some(tidb) = self.tidb.as_mut().filter(|tidb| !tidb.cluster.is_up(server)) else { return };
        tidb.cluster.restart(now, server);
        self.trace.life(self.now, || format!("tidb-{server}"), true);
        self.line(Weight::Short, format_args!("tidb-{server}"), || "starts".to_owned());
        self.tidb_poke();
    }

    /// Readers meet old locks; clients watch the registry; the world tells outcomes where no verdicts are.
    pub(super) fn tidb_settle(&mut self) {
        let now = self.now / MS;
        let listed = self.registry.list(Nodes::Pump).unwrap_or_default();
        let ts = self.tso();
        let Some(tidb) = &mut self.tidb else { return };
        tidb.cluster.set_pumps(now, &listed);
        if let Some(ts) = ts {
            tidb.cluster.settle(now, &mut tidb.tikv, ts.raw());
        }
        if !tidb.verdicts {
            self.tell_outcomes();
        }
        self.tidb_poke();
        self.after(SETTLE_MS * MS, Ev::TidbSettle);
    }

    fn tell_outcomes(&mut self) {
        let now = self.now;
        let Some(tidb) = &mut self.tidb else { return };
        let mut say = Vec::new();
        for (start, prewrite) in &mut tidb.prewrites {
            if tidb.cluster.is_running(*start) {
                continue;
            }
            let commit = tidb.committed.get(start);
            for (node, told) in &mut prewrite.at {
                let Told::Nothing { next } = told else { continue };
                if *next > now {
                    continue;
                }
                // The client says it itself, soon; afterwards we do.
                let first = *next == 0;
                *next = now + TELL_MS * MS;
                if first {
                    continue;
                }
                let (kind, binlog) = match commit.filter(|_| prewrite.accepted == Some(*node)) {
                    Some(ts) => (BinlogKind::Commit, encode::commit(&prewrite.binlog, *ts)),
                    None => (BinlogKind::Rollback, encode::rollback(&prewrite.binlog)),
                };
                say.push((*node, kind, Bytes::from(binlog.encode_to_vec())));
            }
        }
        for (node, kind, payload) in say {
            self.tidb_write(None, node_id(node).as_str(), &payload, kind);
        }
    }

    pub(super) fn tidb_fault(&mut self, index: usize, action: &Action) {
        let server = usize::try_from(action.node).unwrap_or(0);
        let Some(tidb) = &mut self.tidb else { return };
        let server = server % tidb.servers;
        match action.kind {
            Kind::CrashTidb => {
                self.tidb_crash(server);
                self.after(action.ms * MS, Ev::ActionEnd(index));
            }
            Kind::LoseKv => tidb.lose_kv += action.n,
            Kind::DropCommit => tidb.drop_commit = (action.n, action.ms),
            Kind::LoseCommit => tidb.lose_commit += action.n,
            _ => {}
        }
    }

    pub(super) fn tidb_fault_ends(&mut self, action: &Action) {
        if let Some(tidb) = &self.tidb {
            let server = usize::try_from(action.node).unwrap_or(0) % tidb.servers;
            self.tidb_restart(server);
        }
    }

    pub(super) fn tidb_heal(&mut self) {
        let Some(tidb) = &mut self.tidb else { return };
        (tidb.lose_kv, tidb.lose_commit, tidb.drop_commit) = (0, 0, (0, 0));
        for server in 0..tidb.servers {
            self.tidb_restart(server);
        }
    }

    /// The DDL history at a fresh snapshot. `Err`: a lock is in the way; to be tried again at the snapshot that it carries,
    /// as the real port does until the lock's owner ends or the lock expires.
    pub(super) fn tidb_history(&mut self, op: OpId, job: Option<i64>, snapshot: Option<u64>) -> Result<DrainerIn, u64> {
        let fresh = snapshot.or_else(|| self.tso().map(|ts| ts.raw()));
        let (Some(snapshot), Some(tidb)) = (fresh, &self.tidb) else {
            let error = IoFault::Unavailable("PD has no leader".to_owned());
            return Ok(match job {
                None => DrainerIn::HistoryDone { op, result: Err(error) },
                Some(_) => DrainerIn::JobDone { op, result: Err(error) },
            });
        };
        let fault = |error: KvError| match error {
            KvError::Locked(_) => Err(snapshot),
            other => Ok(IoFault::Other(format!("{other:?}"))),
        };
        Ok(match job {
            None => match tidb.tikv.history(snapshot) {
                Ok(jobs) => DrainerIn::HistoryDone { op, result: Ok(jobs) },
                Err(error) => DrainerIn::HistoryDone { op, result: Err(fault(error)?) },
            },
            Some(job) => match tidb.tikv.history_job(job, snapshot) {
                Ok(json) => DrainerIn::JobDone { op, result: Ok(json) },
                Err(error) => DrainerIn::JobDone { op, result: Err(fault(error)?) },
            },
        })
    }

    /// A1, A4 at the end: the downstream's tables are the upstream's.
    pub(super) fn compare_tables(&mut self) {
        let (Some(tidb), Sink::Rows(sink)) = (&self.tidb, &self.drainer.sink) else { return };
        let found = sink.mysql.differences(&tidb.cluster.contents());
        if let Some(first) = found.first() {
            let text = format!("{} differences between upstream and downstream, first: {first}", found.len());
            self.violate("A1", text);
        }
    }
}

/// Locks of dead servers are rolled back after this.
const LOCK_TTL_MS: u64 = 1_500;
const SETTLE_MS: u64 = 200;
/// How long a Pump may stay without an outcome before the world says it, and says it again.
const TELL_MS: u64 = 600;
