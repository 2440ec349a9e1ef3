//! The load generator: P, its acknowledgement, commit timestamp, C, as a TiDB does it (rules 4), over many connections.
//!
//! * Closed loop: each of N writers begins its next transaction when the last one has ended.
//! * Open loop: transactions begin at a fixed rate whether the server keeps up or not, at most N at a time. Their latency counts
//!   from when they *should* have begun, so that a pause of the server is seen by all that it delays.

use crate::payload::Payloads;
use crate::procfs::{self, Usage};
use crate::stats::Histogram;
use anyhow::{Context, Result, bail};
use binlog_cluster::pump_client::PumpWriter;
use binlog_core::ids::ClusterId;
use binlog_standin::Shared;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Connections to one server.
pub struct Target {
    connections: Vec<PumpWriter>,
    /// The server's process.
    pid: u32,
}

impl Target {
    pub async fn connect(address: &str, connections: usize, pid: u32) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..connections.max(1) {
            all.push(PumpWriter::connect(address).await?);
        }
        Ok(Self { connections: all, pid })
    }
}

/// One measured stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub seconds: f64,
    pub transactions: u64,
    /// Latency of single calls: of P from the intended begin of its transaction, of C from P's acknowledgement.
    pub calls: Histogram,
    /// What the server used meanwhile.
    pub server: Usage,
    /// What the load generator used meanwhile.
    pub own: Usage,
    /// Payload bytes that were acknowledged.
    pub accepted: u64,
}

impl Measured {
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.transactions as f64 / self.seconds
    }

    /// CPU seconds of the server for 100,000 transactions.
    #[must_use]
    pub fn cpu_per_100k(&self) -> f64 {
        self.server.cpu_seconds * 100_000.0 / (self.transactions.max(1)) as f64
    }
}

/// What is written, and with whose timestamps.
#[derive(Clone)]
pub struct Load {
    pub cluster: Arc<Shared>,
    pub payloads: Payloads,
    /// Where each measured commit is noted, for who waits for it at the other end.
    pub commits: Option<Arc<Mutex<Vec<Committed>>>>,
}

/// One C.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    pub commit_ts: u64,
    pub sent: Instant,
    pub acknowledged: Instant,
}

/// What the writers of one stretch share.
struct Run {
    load: Load,
    phase: AtomicU8,
    /// Of the measured phase; one lock per transaction, 100 ns of it.
    counted: Mutex<Counted>,
    failed: AtomicU64,
    failure: Mutex<Option<String>>,
}

#[derive(Default)]
struct Counted {
    transactions: u64,
    accepted: u64,
    calls: Histogram,
}

const WARM: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

impl Run {
    fn new(load: &Load) -> Arc<Self> {
        Arc::new(Self {
            load: load.clone(),
            phase: AtomicU8::new(WARM),
            counted: Mutex::default(),
            failed: AtomicU64::new(0),
            failure: Mutex::default(),
        })
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    async fn transaction(&self, connection: &PumpWriter, intended: Instant) {
        match self.write(connection, intended).await {
            Ok((accepted, latencies)) if self.phase() == MEASURED => {
                let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
                counted.transactions += 1;
                counted.accepted += accepted;
                latencies.into_iter().for_each(|latency| counted.calls.record(latency));
            }
            Ok(_) => {}
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    async fn write(&self, connection: &PumpWriter, intended: Instant) -> Result<(u64, [Duration; 2])> {
        let Load { cluster, payloads, commits } = &self.load;
        let id = ClusterId::new(cluster.cluster_id());
        let start_ts = timestamp(cluster)?;
        let prewrite = payloads.prewrite(start_ts);
        let mut accepted = prewrite.len() as u64;
        connection.write(id, prewrite).await.context("P")?;
        let acknowledged = Instant::now();
        let commit_ts = timestamp(cluster)?;
        let commit = payloads.commit(start_ts, commit_ts);
        accepted += commit.len() as u64;
        let sent = Instant::now();
        connection.write(id, commit).await.context("C")?;
        let ended = Instant::now();
        if let Some(commits) = commits.as_ref().filter(|_| self.phase() == MEASURED) {
            let committed = Committed { commit_ts, sent, acknowledged: ended };
            commits.lock().unwrap_or_else(PoisonError::into_inner).push(committed);
        }
        Ok((accepted, [acknowledged - intended, ended - acknowledged]))
    }

    /// Measures `seconds` after `warm`; then the writers are told to stop.
    async fn measure(&self, pid: u32, warm: f64, seconds: f64) -> Result<Measured> {
        tokio::time::sleep(Duration::from_secs_f64(warm)).await;
        let own = std::process::id();
        let (before, own_before, begin) = (procfs::usage(pid)?, procfs::usage(own)?, Instant::now());
        self.phase.store(MEASURED, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        self.phase.store(OVER, Ordering::Relaxed);
        let seconds = begin.elapsed().as_secs_f64();
        let (after, own_after) = (procfs::usage(pid)?, procfs::usage(own)?);
        let counted = std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner));
        let failed = self.failed.load(Ordering::Relaxed);
        if failed > 0 {
            let first = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
            bail!("{failed} transactions failed; the first: {first}");
        }
        Ok(Measured {
            seconds,
            transactions: counted.transactions,
            calls: counted.calls,
            server: after - before,
            own: own_after - own_before,
            accepted: counted.accepted,
        })
    }
}

/// PD's clock, without the way to PD: what is measured is the Pump.
pub fn timestamp(cluster: &Shared) -> Result<u64> {
    let (physical, logical) = cluster.tso().get(1).context("the stand-in's clock stands still")?;
    Ok((physical.cast_unsigned() << 18) + logical.cast_unsigned())
}

/// `writers` at a time, each as fast as it can.
pub async fn closed(target: &Target, load: &Load, writers: usize, warm: f64, seconds: f64) -> Result<Measured> {
    let run = Run::new(load);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (run, connection) = (Arc::clone(&run), target.connections[writer % target.connections.len()].clone());
            tokio::spawn(async move {
                while run.phase() != OVER && run.failed.load(Ordering::Relaxed) == 0 {
                    run.transaction(&connection, Instant::now()).await;
                }
            })
        })
        .collect();
    let measured = run.measure(target.pid, warm, seconds).await;
    run.phase.store(OVER, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    measured
}

/// `rate` transactions per second, at most `writers` at a time; the others wait, and their latency with them.
pub async fn open(
    target: &Target,
    load: &Load,
    writers: usize,
    rate: f64,
    warm: f64,
    seconds: f64,
) -> Result<Measured> {
    let run = Run::new(load);
    let permits = Arc::new(Semaphore::new(writers));
    let handle = tokio::runtime::Handle::current();
    let pace = {
        let (run, permits, connections) = (Arc::clone(&run), Arc::clone(&permits), target.connections.clone());
        // A thread of its own: timers of the runtime are a millisecond apart.
        std::thread::spawn(move || {
            let begin = Instant::now();
            for (n, connection) in (0_u64..).zip(connections.iter().cycle()) {
                let intended = begin + Duration::from_secs_f64(n as f64 / rate);
                if let Some(early) = intended.checked_duration_since(Instant::now()) {
                    std::thread::sleep(early);
                }
                if run.phase() == OVER || run.failed.load(Ordering::Relaxed) > 0 {
                    return;
                }
                let (run, permits, connection) = (Arc::clone(&run), Arc::clone(&permits), connection.clone());
                handle.spawn(async move {
                    let Ok(_permit) = permits.acquire_owned().await else { return };
                    // What still waits at the end was counted against nobody: the rate was too high, which p99 shows.
                    if run.phase() != OVER {
                        run.transaction(&connection, intended).await;
                    }
                });
            }
        })
    };
    let measured = run.measure(target.pid, warm, seconds).await;
    run.phase.store(OVER, Ordering::Relaxed);
    if tokio::task::spawn_blocking(move || pace.join().is_err()).await? {
        bail!("the pace of the open loop broke off");
    }
    let all = u32::try_from(writers)?;
    drop(permits.acquire_many(all).await?);
    measured
}
