//! A TiDB cluster: several servers, one catalogue, the true contents of all tables, and what each transaction does to PD, TiKV
//! and the Pumps (spec codec 1.3, 2, 8; pump 8).
//!
//! Use: [`Cluster::new`], [`Cluster::set_pumps`], then start work with [`Cluster::begin`] and [`Cluster::begin_ddl`], carry out
//! what [`Cluster::poll`] gives, answer with [`Cluster::complete`], call [`Cluster::tick`] at [`Cluster::next_deadline`] and
//! [`Cluster::settle`] now and then. The truth is in [`Cluster::committed`] and [`Cluster::contents_at`].
//!
//! Keeps true what TiDB keeps true (rules 4): the commit timestamp is asked for after P was acknowledged and the locks stand;
//! R follows every commit error, undetermined ones too; no commit starts after R; servers are at most one schema version apart;
//! a transaction whose tables changed under it does not commit. [`Config::commit_ts_before_ack`] breaks the first on purpose.

pub mod catalog;
pub mod client;
pub mod data;
pub mod ddl;
pub mod ops;
pub mod request;
mod step;
mod txn;

use crate::rng::Rng;
use crate::tikv::{KvError, Tikv, TxnStatus};
use binlog_core::node::status::NodeStatus;
use binlog_core::proto::binlog::Binlog;
use catalog::Schema;
use client::{Clients, Ended, Out};
use data::{Committed, Contents, Data, What};
use ddl::{DdlWeights, Job};
use ops::{Locks, Maker, Weights};
use prost::Message;
use request::{BinlogKind, Call, KvOp, Reply, Request, Token};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use txn::{DdlPhase, Phase, Txn, Wait};

#[derive(Debug, Clone)]
pub struct Config {
    /// TiDB servers.
    pub servers: usize,
    /// Sessions of all servers together: session n runs on server n mod servers, one transaction at a time.
    pub sessions: usize,
    pub weights: Weights,
    pub ddl: DdlWeights,
    /// Longest time that a server takes to load a schema version.
    pub lease_ms: u64,
    /// TTL of locks.
    pub lock_ttl_ms: u64,
    /// How long a server waits for one answer of a Pump, and tries to write a prewrite.
    pub write_timeout_ms: u64,
    /// Locks of a transaction besides the primary that reach TiKV; verdicts need none.
    pub secondaries: usize,
    /// Percent of transactions that the user rolls back after their prewrite.
    pub rollback_percent: u64,
    /// Breaks an assumption of the watermark (rules 4): the commit timestamp is asked for together with P.
    pub commit_ts_before_ack: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: 2,
            sessions: 4,
            weights: Weights::default(),
            ddl: DdlWeights::default(),
            lease_ms: 200,
            lock_ttl_ms: 3_000,
            write_timeout_ms: client::WRITE_TIMEOUT_MS,
            secondaries: 2,
            rollback_percent: 3,
            commit_ts_before_ack: false,
        }
    }
}

#[derive(Debug)]
pub struct Cluster {
    config: Config,
    rng: Rng,
    ddl_rng: Rng,
    servers: Vec<Server>,
    /// Session → its transaction.
    sessions: Vec<Option<u64>>,
    clients: Clients,
    /// By number, dense.
    txns: BTreeMap<u64, Txn>,
    next_txn: u64,
    /// start_ts → transaction.
    starts: BTreeMap<u64, u64>,
    waits: BTreeMap<Token, (u64, Wait)>,
    /// Newest schema, and those that a server still uses.
    schemas: BTreeMap<i64, Arc<Schema>>,
    data: Data,
    locks: Locks,
    next_row: i64,
    next_id: i64,
    job: Option<(Job, DdlPhase)>,
    log: BTreeMap<u64, Committed>,
    queue: VecDeque<Request>,
    next_token: u64,
    counts: Counts,
}

/// For coverage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub begun: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub undetermined: u64,
    pub schema_changed: u64,
    pub ddl: u64,
    pub ddl_rolled_back: u64,
}

#[derive(Debug)]
struct Server {
    up: bool,
    version: i64,
    /// When it loads the newest version.
    loads_at: u64,
}

impl Cluster {
    #[must_use]
    pub fn new(config: Config, rng: Rng) -> Self {
        let count = config.servers.max(1);
        let server = || Server { up: true, version: 0, loads_at: 0 };
        Self {
            rng: rng.fork("transactions"),
            ddl_rng: rng.fork("ddl"),
            servers: (0..count).map(|_| server()).collect(),
            sessions: vec![None; config.sessions.max(1)],
            clients: Clients::new(count, config.write_timeout_ms),
            txns: BTreeMap::new(),
            next_txn: 0,
            starts: BTreeMap::new(),
            waits: BTreeMap::new(),
            schemas: BTreeMap::from([(0, Arc::default())]),
            data: Data::default(),
            locks: Locks::default(),
            next_row: 0,
            next_id: 100,
            job: None,
            log: BTreeMap::new(),
            queue: VecDeque::new(),
            next_token: 0,
            counts: Counts::default(),
            config,
        }
    }

    /// What the servers' Pump clients know of the registry: call it with each listing (they watch).
    pub fn set_pumps(&mut self, _now_ms: u64, pumps: &[NodeStatus]) {
        self.clients.set_pumps(pumps);
    }

    /// Starts a random transaction on an idle session; false when it is busy, its server is down, or there is no table yet.
    pub fn begin(&mut self, now_ms: u64, session: usize) -> bool {
        let label = self.next_txn + 1;
        self.begin_as(now_ms, session, label)
    }

    /// The same; what it does is drawn by `label`, so that it does not depend on how many began before.
    pub fn begin_as(&mut self, _now_ms: u64, session: usize, label: u64) -> bool {
        let server = session % self.servers.len();
        let idle = self.sessions.get(session).is_some_and(Option::is_none);
        let ready = self.servers.get(server).is_some_and(|s| s.up);
        if !idle || !ready || self.schema_of(server).tables.is_empty() {
            return false;
        }
        let id = self.start_txn(server, Some(session), label);
        self.sessions[session] = Some(id);
        true
    }

    /// Starts a random DDL job; false while one runs, or when the one that was drawn is not possible now.
    pub fn begin_ddl(&mut self, now_ms: u64) -> bool {
        if self.job.is_some() {
            return false;
        }
        let schema = Arc::clone(self.newest());
        let job = ddl::draw(&mut self.ddl_rng, &schema, &self.config.ddl, &mut self.next_id);
        self.start_job(now_ms, job)
    }

    /// The same; the job is drawn by `label`, see [`Cluster::begin_as`].
    pub fn begin_ddl_as(&mut self, now_ms: u64, label: u64) -> bool {
        if self.job.is_some() {
            return false;
        }
        let schema = Arc::clone(self.newest());
        let mut rng = self.ddl_rng.fork_n("job", label);
        let job = ddl::draw(&mut rng, &schema, &self.config.ddl, &mut self.next_id);
        self.start_job(now_ms, job)
    }

    fn start_job(&mut self, now_ms: u64, job: Option<Job>) -> bool {
        let Some(job) = job else { return false };
        self.job = Some((job, DdlPhase::Ready));
        self.advance_ddl(now_ms);
        true
    }

    /// Whether there is a table that transactions could write to.
    #[must_use]
    pub fn has_tables(&self) -> bool {
        !self.newest().tables.is_empty()
    }

    /// Whether this transaction's outcome is still open.
    #[must_use]
    pub fn is_running(&self, start_ts: u64) -> bool {
        self.starts.contains_key(&start_ts)
    }

    /// The Pump whose acknowledgement of this transaction's P its server accepted, while the server needs it.
    #[must_use]
    pub fn accepted_by(&self, start_ts: u64) -> Option<&str> {
        self.clients.accepted_by(start_ts)
    }

    #[must_use]
    pub fn is_ddl_running(&self) -> bool {
        self.job.is_some()
    }

    /// The next request to carry out.
    #[must_use]
    pub fn poll(&mut self) -> Option<Request> {
        self.queue.pop_front()
    }

    /// An answer.
    pub fn complete(&mut self, now_ms: u64, token: Token, reply: Reply) {
        let mut ended = Vec::new();
        if self.clients.complete(now_ms, token, &reply, &mut ended) {
            self.prewrites_ended(now_ms, ended);
        } else if let Some((id, wait)) = self.waits.remove(&token) {
            self.answered(now_ms, id, wait, &reply);
        }
        self.advance_ddl(now_ms);
    }

    /// When [`Cluster::tick`] wants to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let newest = self.newest().version;
        let loads = self.servers.iter().filter(|s| s.up && s.version < newest).map(|s| s.loads_at).min();
        self.clients.next_deadline().into_iter().chain(loads).min()
    }

    /// Retries and time-outs of the Pump clients, schema loading of the servers.
    pub fn tick(&mut self, now_ms: u64) {
        let mut ended = Vec::new();
        let mut out = Out { queue: &mut self.queue, next_token: &mut self.next_token };
        self.clients.tick(now_ms, &mut out, &mut ended);
        self.prewrites_ended(now_ms, ended);
        let newest = self.newest().version;
        for server in self.servers.iter_mut().filter(|s| s.up && s.version < newest && s.loads_at <= now_ms) {
            server.version = newest;
        }
        let oldest = self.servers.iter().map(|s| s.version).min().unwrap_or(newest);
        self.schemas.retain(|version, _| *version >= oldest.min(newest));
        self.advance_ddl(now_ms);
    }

    /// A server dies: its transactions stop where they are, its late binlogs are never sent.
    pub fn crash(&mut self, server: usize) {
        let Some(s) = self.servers.get_mut(server) else { return };
        s.up = false;
        self.clients.crash(server);
        let ids: Vec<u64> = self.txns.iter().filter(|(_, t)| t.server == server).map(|(id, _)| *id).collect();
        self.waits.retain(|_, (id, _)| !ids.contains(id));
        for id in ids {
            let started = self.txns.get(&id).is_some_and(|t| t.phase != Phase::Begin);
            if started {
                self.leave(id);
            } else {
                self.forget(id);
            }
        }
    }

    /// A dead server comes back, with the newest schema.
    pub fn restart(&mut self, _now_ms: u64, server: usize) {
        let newest = self.newest().version;
        if let Some(s) = self.servers.get_mut(server) {
            (s.up, s.version) = (true, newest);
        }
    }

    #[must_use]
    pub fn is_up(&self, server: usize) -> bool {
        self.servers.get(server).is_some_and(|s| s.up)
    }

    /// Finds out what became of transactions whose server is gone or does not know, as readers do that meet their locks.
    /// Locks that have expired are rolled back. `current_ts`: a fresh timestamp. Call it every second or so.
    pub fn settle(&mut self, now_ms: u64, tikv: &mut Tikv, current_ts: u64) {
        let unknown: Vec<u64> =
            self.txns.iter().filter(|(_, t)| t.phase == Phase::Unknown).map(|(id, _)| *id).collect();
        for id in unknown {
            let Some(txn) = self.txns.get(&id) else { continue };
            match tikv.check_txn_status(&txn.primary, txn.start_ts, current_ts, true) {
                Ok(TxnStatus::Locked { .. }) | Err(_) => {}
                Ok(TxnStatus::Committed { .. } | TxnStatus::RolledBack(_)) => self.forget(id),
            }
        }
        tikv.resolve_expired(current_ts);
        self.advance_ddl(now_ms);
    }

    /// Carries a TiKV request out, and notes what became true by it. The answer goes back through [`Cluster::complete`].
    pub fn run_kv(&mut self, now_ms: u64, tikv: &mut Tikv, op: &KvOp) -> Reply {
        let result = match op {
            KvOp::Prewrite { mutations, primary, start_ts, ttl_ms } => {
                tikv.prewrite(mutations, primary, *start_ts, *ttl_ms)
            }
            KvOp::Commit { keys, start_ts, commit_ts } => {
                let result = tikv.commit(keys, *start_ts, *commit_ts);
                if result.is_ok() {
                    self.took_effect(now_ms, *start_ts, *commit_ts);
                }
                result
            }
            KvOp::Rollback { keys, start_ts } => tikv.rollback(keys, *start_ts),
        };
        Reply::Kv(result)
    }

    /// Everything that committed, by commit timestamp.
    #[must_use]
    pub fn committed(&self) -> &BTreeMap<u64, Committed> {
        &self.log
    }

    /// All user tables now: every commit that took effect.
    #[must_use]
    pub fn contents(&self) -> Vec<Contents> {
        self.data.contents(self.newest())
    }

    /// All user tables as of a commit timestamp, replayed from the log.
    #[must_use]
    pub fn contents_at(&self, commit_ts: u64) -> Vec<Contents> {
        let mut schema = Arc::new(Schema::default());
        let mut data = Data::default();
        for committed in self.log.range(..=commit_ts).map(|(_, c)| c) {
            match &committed.what {
                What::Rows(changes) => data.apply(&schema, changes),
                What::Ddl { schema: Some(after), effect, .. } => {
                    schema = Arc::clone(after);
                    data.alter(&schema, effect);
                }
                What::Ddl { schema: None, .. } => {}
            }
        }
        data.contents(&schema)
    }

    /// `database.table` of the tables in which a row may have no key: no unique key, or only keys that can be NULL. Effects
    /// of repeated transactions can only be counted there.
    #[must_use]
    pub fn keyless(&self) -> Vec<String> {
        let schema = self.newest();
        let tables = schema.tables.values().filter(|t| !t.always_has_key());
        let name = |t: &Arc<catalog::Table>| {
            let database = schema.databases.get(&t.database).cloned().unwrap_or_default();
            format!("{database}.{} ", t.info.name.original)
        };
        tables.map(name).collect()
    }

    /// Nothing is running and nothing is to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.txns.is_empty() && self.queue.is_empty() && self.clients.is_idle() && self.job.is_none()
    }

    /// What keeps it from being idle, for a report.
    #[must_use]
    pub fn busy_with(&self) -> String {
        let txns: Vec<_> = self.txns.values().take(3).map(|t| (t.start_ts, t.phase)).collect();
        let servers: Vec<_> = self.servers.iter().map(|s| (s.up, s.version)).collect();
        let job = self.job.as_ref().map(|(job, phase)| (&job.query, job.steps.len(), phase));
        let (newest, writes) = (self.newest().version, !self.clients.is_idle());
        format!("txns {txns:?}, servers {servers:?} of version {newest}, binlogs {writes}, job {job:?}")
    }

    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn newest(&self) -> &Arc<Schema> {
        self.schemas.last_key_value().map(|(_, s)| s).unwrap_or_else(|| unreachable!("there is always a schema"))
    }

    fn schema_of(&self, server: usize) -> &Arc<Schema> {
        let version = self.servers.get(server).map_or(0, |s| s.version);
        self.schemas.get(&version).unwrap_or_else(|| self.newest())
    }

    fn send(&mut self, server: usize, call: Call, id: u64, wait: Wait) {
        let mut out = Out { queue: &mut self.queue, next_token: &mut self.next_token };
        let token = out.send(server, call);
        self.waits.insert(token, (id, wait));
    }

    fn write_binlog(&mut self, now_ms: u64, server: usize, kind: BinlogKind, start_ts: u64, binlog: &Binlog) {
        let mut out = Out { queue: &mut self.queue, next_token: &mut self.next_token };
        self.clients.write(now_ms, server, kind, start_ts, binlog.encode_to_vec().into(), &mut out);
    }

    fn start_txn(&mut self, server: usize, session: Option<usize>, label: u64) -> u64 {
        self.next_txn += 1;
        let id = self.next_txn;
        let txn = Txn {
            label,
            server,
            session,
            start_ts: 0,
            version: 0,
            checked: None,
            changes: Vec::new(),
            locks: Locks::default(),
            prewrite: Binlog::default(),
            primary: Vec::new(),
            keys: Vec::new(),
            binlog_done: None,
            kv_done: None,
            phase: Phase::Begin,
            committed: None,
        };
        self.txns.insert(id, txn);
        self.counts.begun += 1;
        self.send(server, Call::GetTs, id, Wait::StartTs);
        id
    }

    /// The transaction is over: nobody waits for it, nothing is locked by it.
    fn forget(&mut self, id: u64) {
        let Some(txn) = self.txns.remove(&id) else { return };
        self.starts.remove(&txn.start_ts);
        for row in &txn.locks.rows {
            self.locks.rows.remove(row);
        }
        for key in &txn.locks.keys {
            self.locks.keys.remove(key);
        }
        self.free_session(&txn, id);
        self.waits.retain(|_, (other, _)| *other != id);
        if let Some((_, phase)) = &mut self.job
            && *phase == DdlPhase::Running(id)
        {
            *phase = DdlPhase::Ready;
        }
    }

    /// The client has gone on, or is gone; the outcome is unknown.
    fn leave(&mut self, id: u64) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        txn.phase = Phase::Unknown;
        let (session, server) = (txn.session, txn.server);
        if let Some(slot) = session.and_then(|s| self.sessions.get_mut(s))
            && *slot == Some(id)
        {
            *slot = None;
        }
        let _ = server;
    }

    fn free_session(&mut self, txn: &Txn, id: u64) {
        if let Some(slot) = txn.session.and_then(|s| self.sessions.get_mut(s))
            && *slot == Some(id)
        {
            *slot = None;
        }
    }

    fn prewrites_ended(&mut self, now_ms: u64, ended: Vec<Ended>) {
        for end in ended {
            let Some(id) = self.starts.get(&end.start_ts).copied() else { continue };
            if let Some(txn) = self.txns.get_mut(&id).filter(|t| t.server == end.server) {
                txn.binlog_done = Some(end.accepted);
                self.prewritten(now_ms, id);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
