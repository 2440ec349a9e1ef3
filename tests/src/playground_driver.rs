//! The TiDB model against real Pumps: carries out what its servers ask for.
//!
//! Owns the model cluster. Timestamps come from the stand-in's PD; binlogs go through WriteBinlog of the real Pumps, each as a
//! task of its own; prewrites and commits run in the stand-in's TiKV (the same model), so that the Drainer finds the DDL history
//! (behind its lock, until the job's transaction commits) and a Pump the evidence.
//!
//! The model's client, as TiDB's, sends C and R only to the Pump whose acknowledgement it took. A Pump that was killed behind its
//! acknowledgement may hold the same P: it asks TiKV what became of it (rules 1), and nobody helps it here.

use anyhow::{Result, bail};
use binlog_cluster::error::NodeError;
use binlog_cluster::pump_client::PumpWriter;
use binlog_core::ids::ClusterId;
use binlog_core::node::status::NodeStatus;
use binlog_core::time::Tso;
use binlog_sim_models::rng::Rng;
use binlog_sim_models::tidb::request::{Call, KvOp, Reply, Request, Token};
use binlog_sim_models::tidb::{Cluster, Config};
use binlog_standin::Shared;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Code;

/// How many DDL jobs are begun: one per so many committed transactions, as far as they are possible.
const PER_DDL: u64 = 20;
/// So many are begun at once: without tables nothing can be written.
const FIRST_DDL: u64 = 20;
const SETTLE: Duration = Duration::from_secs(1);
/// Longest time without a look at deadlines.
const TURN: Duration = Duration::from_millis(5);
/// Without any commit, acknowledgement or end for so long it will not come. Longer than a Pump's restart and TiDB's retries.
const STUCK: Duration = Duration::from_secs(90);
/// Percent of the TiKV requests that take up to [`SLOW_MS`].
const SLOW_PERCENT: u64 = 15;
const SLOW_MS: u64 = 40;

/// What others see of a running feed.
#[derive(Debug, Default)]
pub struct Progress {
    /// Data transactions that committed.
    pub committed: AtomicU64,
    pub ddl: AtomicU64,
    /// Writes that did not end with an acknowledgement.
    pub retries: AtomicU64,
}

enum Done {
    /// An answer for the model.
    Answer(Token, Reply),
    /// A TiKV request arrives.
    Kv(Token, KvOp),
}

/// The connections to the Pumps: each TiDB has its own to each.
#[derive(Clone)]
struct Links {
    cluster: ClusterId,
    addresses: Arc<BTreeMap<String, String>>,
    writers: Arc<Mutex<BTreeMap<(usize, String), PumpWriter>>>,
}

impl Links {
    /// One attempt.
    async fn write(&self, server: usize, pump: String, payload: Bytes) -> Result<(), NodeError> {
        let address = self.addresses.get(&pump).cloned().unwrap_or_default();
        let key = (server, pump);
        let known = self.writers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let writer = match known {
            Some(writer) => writer,
            None => {
                let writer = PumpWriter::connect(&address).await?;
                self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(key, writer.clone());
                writer
            }
        };
        writer.write(self.cluster, payload).await
    }
}

pub struct Driver {
    pub cluster: Cluster,
    shared: Arc<Shared>,
    links: Links,
    sessions: usize,
    /// DDL jobs begun.
    jobs: u64,
    rng: Rng,
    start: Instant,
    progress: Arc<Progress>,
    done: mpsc::UnboundedSender<Done>,
    inbox: mpsc::UnboundedReceiver<Done>,
}

impl Driver {
    #[must_use]
    pub fn new(config: Config, seed: u64, shared: Arc<Shared>, pumps: &[NodeStatus], progress: Arc<Progress>) -> Self {
        let rng = Rng::new(seed);
        let sessions = config.sessions;
        let mut cluster = Cluster::new(config, rng.fork("tidb"));
        cluster.set_pumps(0, pumps);
        let (done, inbox) = mpsc::unbounded_channel();
        Self {
            cluster,
            links: Links {
                cluster: ClusterId::new(shared.cluster_id()),
                addresses: Arc::new(pumps.iter().map(|p| (p.node_id.clone(), p.host.clone())).collect()),
                writers: Arc::default(),
            },
            shared,
            sessions,
            jobs: 0,
            rng: rng.fork("driver"),
            start: Instant::now(),
            progress,
            done,
            inbox,
        }
    }

    /// Until `transactions` have committed in all and nothing is on its way; `rate` transactions per second at most.
    pub async fn run(&mut self, transactions: u64, rate: Option<f64>) -> Result<()> {
        let (mut settled, mut moved, mut last) = (Instant::now(), Instant::now(), 0);
        loop {
            let committed = self.cluster.counts().committed;
            if self.shows() != last {
                (last, moved) = (self.shows(), Instant::now());
            }
            if moved.elapsed() > STUCK {
                bail!(
                    "nothing committed or ended for {STUCK:?}: {:?}, the log of the Pumps says why",
                    self.cluster.counts()
                );
            }
            let allowed = rate.map_or(u64::MAX, |rate| (self.start.elapsed().as_secs_f64() * rate) as u64);
            if committed < transactions {
                if (self.jobs < FIRST_DDL || committed / PER_DDL >= self.jobs) && self.cluster.begin_ddl(self.now()) {
                    self.jobs += 1;
                }
                for session in (0..self.sessions).filter(|_| committed < allowed) {
                    self.cluster.begin(self.now(), session);
                }
            }
            self.cluster.tick(self.now());
            while let Some(request) = self.cluster.poll() {
                self.carry_out(request);
            }
            if committed >= transactions && self.cluster.is_idle() {
                return Ok(());
            }
            if settled.elapsed() > SETTLE {
                settled = Instant::now();
                if let Some(now) = self.timestamp() {
                    self.cluster.settle(self.now(), &mut self.shared.tikv(), now.raw());
                }
            }
            self.wait().await?;
        }
    }

    fn shows(&self) -> u64 {
        let counts = self.cluster.counts();
        self.progress.committed.store(counts.committed, Ordering::Relaxed);
        self.progress.ddl.store(counts.ddl, Ordering::Relaxed);
        counts.committed + counts.ddl + counts.rolled_back
    }

    /// For the next answer, not past the next deadline; then takes all that are there.
    async fn wait(&mut self) -> Result<()> {
        let deadline = self.cluster.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(self.now())));
        let pause = deadline.unwrap_or(TURN).clamp(Duration::from_millis(1), TURN);
        let Ok(first) = tokio::time::timeout(pause, self.inbox.recv()).await else { return Ok(()) };
        let mut next = first;
        while let Some(done) = next {
            let now = self.now();
            match done {
                Done::Answer(token, reply) => self.cluster.complete(now, token, reply),
                Done::Kv(token, op) => self.kv(token, &op),
            }
            next = self.inbox.try_recv().ok();
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn timestamp(&self) -> Option<Tso> {
        self.shared.timestamp()
    }

    fn carry_out(&mut self, request: Request) {
        let (token, server) = (request.token, request.server);
        match request.call {
            Call::GetTs => {
                let reply = self.timestamp().map_or_else(|| failed(true, "no timestamp".to_owned()), Reply::Ts);
                self.cluster.complete(self.now(), token, reply);
            }
            Call::Kv(op) if self.rng.percent(SLOW_PERCENT) => {
                let (pause, done) = (Duration::from_millis(self.rng.below(SLOW_MS)), self.done.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _ = done.send(Done::Kv(token, op));
                });
            }
            Call::Kv(op) => self.kv(token, &op),
            Call::SendBinlog { pump, payload, kind: _ } => {
                let (links, done, progress) = (self.links.clone(), self.done.clone(), Arc::clone(&self.progress));
                tokio::spawn(async move {
                    let result = links.write(server, pump, payload).await;
                    if result.is_err() {
                        progress.retries.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = done.send(Done::Answer(token, answer(result)));
                });
            }
        }
    }

    fn kv(&mut self, token: Token, op: &KvOp) {
        let now = self.now();
        let reply = self.cluster.run_kv(now, &mut self.shared.tikv(), op);
        self.cluster.complete(now, token, reply);
    }
}

/// As TiDB's client sees it: what the Pump says itself is a refusal, all else an error of the connection.
fn answer(result: Result<(), NodeError>) -> Reply {
    match result {
        Ok(()) => Reply::Written { errmsg: String::new() },
        Err(NodeError::Rpc { code: Code::Unknown, message, .. }) if !message.contains("transport") => {
            Reply::Written { errmsg: message }
        }
        Err(error) => {
            let unavailable = matches!(
                &error,
                NodeError::Connect { .. } | NodeError::Timeout { .. } | NodeError::Rpc { code: Code::Unavailable, .. }
            );
            failed(unavailable, error.to_string())
        }
    }
}

fn failed(unavailable: bool, text: String) -> Reply {
    Reply::Failed { unavailable, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_pump_says_itself_is_a_refusal() {
        let rpc = |code, message: &str| NodeError::Rpc { address: "a".into(), code, message: message.into() };
        let (refused, lost, other) = ("refused", "lost", "other");
        for (error, expected) in [
            (rpc(Code::Unknown, "too little space"), refused),
            (rpc(Code::Unknown, "transport error"), other),
            (rpc(Code::Unavailable, "connection refused"), lost),
            (rpc(Code::Internal, "h2"), other),
            (NodeError::Connect { address: "a".into(), why: "refused".into() }, lost),
            (NodeError::Timeout { address: "a".into(), millis: 15_000 }, lost),
        ] {
            let shown = format!("{error}");
            let kind = match answer(Err(error)) {
                Reply::Written { errmsg } if !errmsg.is_empty() => refused,
                Reply::Failed { unavailable: true, .. } => lost,
                Reply::Failed { unavailable: false, .. } => other,
                reply => panic!("{shown}: {reply:?}"),
            };
            assert_eq!(kind, expected, "{shown}");
        }
        assert_eq!(answer(Ok(())), Reply::Written { errmsg: String::new() });
    }
}
