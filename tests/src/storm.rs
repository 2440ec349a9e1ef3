//! `storm pump`: real Pumps are killed with SIGKILL at random moments under load, and every acknowledged binlog has to be there.
//!
//! Writers run transactions as TiDB does: lock in TiKV, prewrite through the Pump client, commit timestamp after the
//! acknowledgement, commit in TiKV, C. Some never send their C, some send an R although they committed, some die before they
//! commit: those the Pumps must find out from TiKV. Readers pull all the time and come back where they were after each kill. A
//! Drainer's entry in the registry follows some way behind what every reader has; GC goes up to it, in rounds that begin at any moment,
//! also right before a kill, so that segments are given back and used again. Now and then the load pauses and the log fills segments
//! ahead; now and then a Pump is killed again while it recovers, several times in a row.
//!
//! At the end each reader's stream, which has seen all kills, is compared with what TiKV holds, and with what its Pump still has
//! (pulled from 0):
//! * commit timestamps rise strictly; each item is a committed transaction with its rows, never one that rolled back;
//! * every transaction whose prewrite a Pump acknowledged is in that Pump's stream exactly once;
//! * above the GC point the Pump holds what the stream showed: nothing vanished, nothing came too late;
//! * its log has no ERROR; GC has moved.

use crate::harness::{Pump, WorkDir, tail};
use crate::progress::Line;
use crate::session::wait_online;
use crate::storm_gc::{self, Collected};
use crate::storm_truth::{Items, everything, held_from, problems, value};
use anyhow::{Context, Result, ensure};
use binlog_cluster::pump_client;
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::{Binlog, BinlogType};
use binlog_pump_client::{Options as ClientOptions, PumpClient};
use binlog_sim_models::rng::Rng;
use binlog_sim_models::tikv::Mutation;
use binlog_standin::{Shared, Standin};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// What may be chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// Kills.
    pub rounds: u64,
    pub pumps: usize,
    pub writers: u64,
    /// What is drawn; when things happen is the machine's.
    pub seed: u64,
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 50, pumps: 2, writers: 32, seed: 1, keep: false }
    }
}

/// Small segments: the log rotates all the time, and some records are larger than a segment. What the Drainer has may go at once.
const CONFIG: &str = "gc = \"1s\"\n[storage]\nsegment-size = \"1 mib\"\nstop-write-at-available-space = \"1 mib\"\n";
/// A transaction that died is rolled back by whoever asks after this.
const LOCK_TTL_MS: u64 = 1_000;
/// Without progress for so long something is wrong; longer than a restart and the retries of TiDB's client.
pub(crate) const STUCK: Duration = Duration::from_secs(120);
/// A Pump that was killed is killed again, at most so often in a row: each recovery begins with what the last one left.
const AGAIN: u64 = 3;
/// From a new life's first sign until its recovery is over, in milliseconds, on a quiet machine and on a loaded one.
const RECOVERY_MS: [u64; 2] = [60, 400];
/// A storm that took so long must have seen GC move, also on a machine that has much else to do.
const GC_MOVES_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// How a transaction ends, out of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Commits,
    /// The C never comes.
    CommitsInSilence,
    /// The commit's outcome was undetermined: an R comes although it committed.
    CommitsWithRollback,
    RollsBack,
    /// Dies between P and commit: its lock stays.
    Dies,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(100) {
            0..=3 => Self::CommitsInSilence,
            4..=6 => Self::CommitsWithRollback,
            7..=13 => Self::RollsBack,
            14..=15 => Self::Dies,
            _ => Self::Commits,
        }
    }
}

/// What the writers know, and the truth in TiKV.
#[derive(Default)]
struct World {
    ended: AtomicU64,
    over: AtomicBool,
    /// Nobody begins a transaction.
    paused: AtomicBool,
    /// Transactions that committed and whose C was not sent: only TiKV tells.
    untold: AtomicU64,
    /// commit_ts → start_ts of what committed.
    committed: Mutex<BTreeMap<u64, u64>>,
    /// start_ts → the Pump whose acknowledgement was accepted.
    acknowledged: Mutex<BTreeMap<u64, String>>,
}

/// Runs a storm; false: something is lost, invented or out of order (told on standard error).
///
/// # Errors
/// A process that ended by itself, no progress, a failed set-up.
pub async fn run(options: &Options) -> Result<bool> {
    let mut work = WorkDir::new("storm")?;
    let outcome = storm(options, &work).await;
    if options.keep || !matches!(outcome, Ok(true)) {
        work.keep();
    }
    outcome
}

async fn storm(options: &Options, work: &WorkDir) -> Result<bool> {
    let standin =
        Standin::start(binlog_standin::Options { work_dir: Some(work.path().join("etcd")), ..Default::default() })
            .await?;
    let shared = Arc::clone(&standin.shared);
    shared.tso().wall();
    let mut pumps = Vec::new();
    for n in 1..=options.pumps {
        pumps.push(Pump::start(work.path(), &format!("pump-{n}"), &shared.pd_url, CONFIG).await?);
    }
    wait_online(&mut pumps, &shared.pd_url).await?;
    let client = PumpClient::connect(ClientOptions::new([shared.pd_url.clone()])).await?;

    let world = Arc::new(World::default());
    let rng = Rng::new(options.seed);
    let mut writers = JoinSet::new();
    for n in 0..options.writers {
        let writer = Writer {
            rng: rng.fork_n("writer", n),
            client: client.clone(),
            shared: Arc::clone(&shared),
            world: Arc::clone(&world),
        };
        writers.spawn(writer.run());
    }
    let cluster = ClusterId::new(shared.cluster_id());
    let shown: Vec<Arc<Mutex<Items>>> = pumps.iter().map(|_| Arc::default()).collect();
    let mut readers = JoinSet::new();
    for (pump, shown) in pumps.iter().zip(&shown) {
        readers.spawn(read(pump.address.clone(), cluster, Arc::clone(shown)));
    }
    let collected = Arc::new(Collected::default());
    let addresses = pumps.iter().map(|pump| pump.address.clone()).collect();
    let gc = storm_gc::start(&shared.pd_url, addresses, shown.clone(), rng.fork("gc"), Arc::clone(&collected)).await?;

    let began = Instant::now();
    kill(options, rng.fork("kills"), &mut pumps, &world, &mut writers).await?;
    world.over.store(true, Ordering::SeqCst);
    let took = began.elapsed();
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer panicked")??;
    }
    let committed = world.committed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let acknowledged = world.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let end = shared.timestamp().context("the clock runs")?.raw();
    for (pump, shown) in pumps.iter().zip(&shown) {
        until_shown(shown, end).await.with_context(|| format!("{}: {}", pump.node_id, tail(&pump.log)))?;
    }
    gc.abort();
    let mut good = true;
    for (pump, shown) in pumps.iter().zip(&shown) {
        let items = everything(&pump.address, cluster, end)
            .await
            .with_context(|| format!("{}: {}", pump.node_id, tail(&pump.log)))?;
        // Read after the pull: what lies above was there all the time.
        let from = held_from(&pump.address).await?;
        let held = acknowledged.iter().filter(|(_, id)| **id == pump.node_id).map(|(ts, _)| *ts).collect::<Vec<_>>();
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut problems = problems(&shown, &items, from, &committed, &held);
        if took >= GC_MOVES_WITHIN && shown.first().is_none_or(|(first, _)| from < *first) {
            problems.push("GC took nothing: the storm has not tested it".to_owned());
        }
        let log = std::fs::read_to_string(&pump.log).context("the Pump's log")?;
        problems.extend(log.lines().filter(|line| line.contains("] [ERROR] [")).map(|line| format!("its log: {line}")));
        println!(
            "{}: {} kills, {} items delivered, {} of them still there, {} prewrites acknowledged, {}",
            pump.node_id,
            pump.restarts,
            shown.len(),
            items.len(),
            held.len(),
            if problems.is_empty() {
                "all there, once, in order".to_owned()
            } else {
                format!("{} PROBLEMS", problems.len())
            }
        );
        problems.iter().take(20).for_each(|problem| eprintln!("{}: {problem}", pump.node_id));
        good &= problems.is_empty();
    }
    readers.abort_all();
    println!(
        "{} transactions committed ({} without a C), {} ended, {} rounds; {collected}",
        committed.len(),
        world.untold.load(Ordering::SeqCst),
        world.ended.load(Ordering::SeqCst),
        options.rounds
    );
    Ok(good)
}

/// Waits until a reader has everything up to `end`.
async fn until_shown(shown: &Mutex<Items>, end: u64) -> Result<()> {
    let newest = || shown.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |(ts, _)| *ts);
    let (mut last, mut since) = (newest(), Instant::now());
    while last < end {
        ensure!(since.elapsed() < STUCK, "its stream stays at {last} for {STUCK:?}; the end is {end}");
        tokio::time::sleep(POLL).await;
        let now = newest();
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// One Pump after the other, at a random point of the load; now and then again while it still recovers.
async fn kill(
    options: &Options,
    mut rng: Rng,
    pumps: &mut [Pump],
    world: &World,
    writers: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let mut line = Line::default();
    for round in 0..options.rounds {
        let goal = world.ended.load(Ordering::SeqCst) + rng.below(options.writers * 4 + 1);
        let deadline = Instant::now() + STUCK;
        loop {
            let ended = world.ended.load(Ordering::SeqCst);
            line.show(|| format!("round {round} of {}: {ended} transactions ended", options.rounds));
            if ended >= goal {
                break;
            }
            ensure!(Instant::now() < deadline, "no transaction ended for {STUCK:?}, see the logs of the Pumps");
            if let Some(ended) = writers.try_join_next() {
                ended.context("a writer panicked")??;
            }
            tokio::time::sleep(POLL).await;
        }
        if rng.percent(25) {
            // An idle log fills segments ahead, and the kill meets that, or the first writes into them.
            world.paused.store(true, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(rng.below(400))).await;
            world.paused.store(false, Ordering::SeqCst);
        }
        // Between two events of the load, too.
        tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
        let victim = usize::try_from(rng.below(pumps.len() as u64)).unwrap_or(0);
        let Some(pump) = pumps.get_mut(victim) else { continue };
        pump.check()?;
        if rng.percent(40) {
            storm_gc::trigger(&pump.address).await;
            tokio::time::sleep(Duration::from_millis(rng.below(15))).await;
        }
        pump.kill_and_restart().await?;
        let mut left = AGAIN;
        while left > 0 && rng.percent(40) {
            left -= 1;
            let recovery = RECOVERY_MS[usize::from(rng.percent(50))];
            tokio::time::sleep(Duration::from_millis(rng.below(recovery))).await;
            pump.kill_and_restart().await?;
        }
    }
    Ok(())
}

struct Writer {
    rng: Rng,
    client: PumpClient,
    shared: Arc<Shared>,
    world: Arc<World>,
}

impl Writer {
    async fn run(mut self) -> Result<()> {
        while !self.world.over.load(Ordering::SeqCst) {
            if self.world.paused.load(Ordering::SeqCst) {
                tokio::time::sleep(POLL).await;
                continue;
            }
            self.transaction().await?;
            self.world.ended.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn timestamp(&self) -> Result<u64> {
        Ok(self.shared.timestamp().context("the clock runs")?.raw())
    }

    async fn transaction(&mut self) -> Result<()> {
        let start_ts = self.timestamp()?;
        let key = format!("t{start_ts:016x}_r").into_bytes();
        let locked =
            self.shared.tikv().prewrite(&[(key.clone(), Mutation::Put(Bytes::new()))], &key, start_ts, LOCK_TTL_MS);
        locked.map_err(|e| anyhow::anyhow!("a key of its own was locked: {e:?}"))?;
        let prewrite = Binlog {
            tp: BinlogType::Prewrite as i32,
            start_ts: signed(start_ts),
            prewrite_key: Some(key.clone().into()),
            prewrite_value: Some(value(start_ts).into()),
            ..Binlog::default()
        };
        let pump = match self.client.prewrite(&prewrite).await {
            Ok(pump) => pump,
            Err(_) => {
                self.roll_back(&key, start_ts)?;
                self.finish(start_ts, None).await;
                // While every Pump is set aside that comes at once, and nobody else would have a turn.
                tokio::time::sleep(POLL).await;
                return Ok(());
            }
        };
        self.world.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(start_ts, pump);
        match Fate::draw(&mut self.rng) {
            Fate::Dies => return Ok(()),
            Fate::RollsBack => {
                self.roll_back(&key, start_ts)?;
                self.finish(start_ts, None).await;
            }
            fate @ (Fate::Commits | Fate::CommitsInSilence | Fate::CommitsWithRollback) => {
                let commit_ts = self.timestamp()?;
                if self.shared.tikv().commit(std::slice::from_ref(&key), start_ts, commit_ts).is_err() {
                    // The lock had expired, and a Pump asked for a verdict: as TiDB, which then tells its client of a failure.
                    self.finish(start_ts, None).await;
                    return Ok(());
                }
                self.world.committed.lock().unwrap_or_else(PoisonError::into_inner).insert(commit_ts, start_ts);
                self.world.untold.fetch_add(u64::from(fate != Fate::Commits), Ordering::SeqCst);
                match fate {
                    Fate::Commits => self.finish(start_ts, Some(commit_ts)).await,
                    Fate::CommitsWithRollback => self.finish(start_ts, None).await,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What committed in the meantime cannot be rolled back; nothing of ours does.
    fn roll_back(&self, key: &[u8], start_ts: u64) -> Result<()> {
        let result = self.shared.tikv().rollback(&[key.to_vec()], start_ts);
        result.map_err(|e| anyhow::anyhow!("rollback of {start_ts}: {e:?}"))
    }

    /// C or R: best effort.
    async fn finish(&self, start_ts: u64, commit_ts: Option<u64>) {
        let tp = if commit_ts.is_some() { BinlogType::Commit } else { BinlogType::Rollback };
        let commit_ts = signed(commit_ts.unwrap_or(0));
        let binlog = Binlog { tp: tp as i32, start_ts: signed(start_ts), commit_ts, ..Binlog::default() };
        // One that was given up is the case of a C that never comes.
        self.client.finish(&binlog).await;
    }
}

fn signed(ts: u64) -> i64 {
    i64::try_from(ts).unwrap_or(i64::MAX)
}

/// A Drainer: pulls until it is aborted, also when the storm is over, and comes back with the last timestamp that it got.
async fn read(address: String, cluster: ClusterId, shown: Arc<Mutex<Items>>) {
    loop {
        let last = shown.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |(ts, _)| *ts);
        if let Ok(mut stream) = pump_client::open(&address, cluster, CommitTs::new(last), false).await {
            while let Some(Ok(payload)) = stream.next().await {
                let Ok(binlog) = Binlog::decode(payload.clone()) else { break };
                let item = (u64::try_from(binlog.commit_ts).unwrap_or(0), payload);
                shown.lock().unwrap_or_else(PoisonError::into_inner).push(item);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
