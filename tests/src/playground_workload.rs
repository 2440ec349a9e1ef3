//! `playground --transactions`: the TiDB model of the simulator against real Pumps, a real Drainer and MariaDB, with kills.
//!
//! Everything that is drawn (tables, rows, DDL, weights) comes from the seed; what overlaps with what is the machine's. The
//! Drainer applies while the model writes. At the end every table in MariaDB is compared with what the model committed.

use crate::apply::{Status, checkpoint, written};
use crate::harness::{Drainer, MariaDb, Pump, SMALL_DISK, WorkDir, binary, http_get, tail};
use crate::playground_driver::{Driver, Progress};
use crate::playground_truth;
use crate::progress::Line;
use crate::session::wait_online;
use anyhow::{Context, Result, bail};
use binlog_sim_models::tidb::data::What;
use binlog_sim_models::tidb::ddl::DdlWeights;
use binlog_sim_models::tidb::ops::Weights;
use binlog_sim_models::tidb::{Cluster, Config};
use binlog_standin::Standin;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Each is a process with a RocksDB of its own: more are no use on one machine.
pub const MAX_PUMPS: usize = 16;
/// TiDB servers of the model.
const SERVERS: usize = 3;
/// Sessions of all servers.
const SESSIONS: usize = 12;
/// One round of kills (each Pump and the Drainer once) per so many transactions, up to [`MAX_ROUNDS`].
const PER_ROUND: u64 = 2_500;
const MAX_ROUNDS: u64 = 8;
/// After each part of the transactions the writing stops, and all tables are compared: a table that is dropped later counts too.
const PARTS: u64 = 5;
/// Without any change for so long nothing will come.
const STUCK: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// The recorded Drainer's.
const DRAINER: &str = r#"
detect-interval = 5
[syncer]
sql-mode = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION"
db-type = "mysql"
txn-batch = 20
worker-count = 4
safe-mode = false
ignore-schemas = "INFORMATION_SCHEMA,PERFORMANCE_SCHEMA,mysql"
[syncer.to]
"#;

#[derive(Debug, Clone)]
pub struct Options {
    pub transactions: u64,
    pub pumps: usize,
    pub seed: u64,
    /// Transactions per second at most.
    pub rate: Option<f64>,
    pub keep: bool,
}

/// Fields are dropped in this order: clients before servers.
struct World {
    drainer: Drainer,
    pumps: Vec<Pump>,
    mariadb: MariaDb,
    standin: Standin,
    /// Kills while the model wrote.
    killed: u64,
    /// Kills of the Drainer with something left to apply.
    killed_behind: u32,
}

/// True when every table is equal after all kills.
pub async fn run(options: &Options) -> Result<bool> {
    for program in ["pump", "drainer"] {
        binary(program)?;
    }
    let mut work = WorkDir::new("playground")?;
    let outcome = whole(options, work.path()).await;
    if options.keep || !matches!(outcome, Ok(true)) {
        work.keep();
    }
    println!("seed {}; to repeat: {}", options.seed, options.command());
    outcome
}

impl Options {
    fn command(&self) -> String {
        let rate = self.rate.map(|r| format!(" --rate {r}")).unwrap_or_default();
        format!("./x playground --seed {} --pumps {} --transactions {}{rate}", self.seed, self.pumps, self.transactions)
    }

    /// What the model draws. Every DDL shape and type of the model is on.
    fn config() -> Config {
        Config {
            servers: SERVERS,
            sessions: SESSIONS,
            weights: Weights { large_percent: 1, ..Weights::default() },
            ddl: DdlWeights {
                // Tables live long, so that much is there to be compared.
                create_database: 2,
                drop_database: 1,
                create_table: 16,
                drop_table: 4,
                truncate: 4,
                rename: 12,
                add_column: 20,
                drop_column: 16,
                modify_column: 16,
                add_index: 12,
                drop_index: 12,
                multi: 12,
                tables: 16,
                ..DdlWeights::default()
            },
            lease_ms: 60,
            // A killed Pump may cost a client some seconds; an expired lock costs the transaction.
            lock_ttl_ms: 20_000,
            ..Config::default()
        }
    }
}

async fn whole(options: &Options, dir: &Path) -> Result<bool> {
    println!(
        "{} transactions of {SESSIONS} sessions on {SERVERS} TiDBs from seed {}, {} Pumps, one Drainer into MariaDB",
        options.transactions, options.seed, options.pumps
    );
    let mut world = World::start(dir, options.pumps).await?;
    let statuses = wait_online(&mut world.pumps, &world.standin.shared.pd_url).await?;
    println!("  up: PD {}, {} Pumps, Drainer, MariaDB", world.standin.shared.pd_url, world.pumps.len());
    let progress = Arc::new(Progress::default());
    let shared = Arc::clone(&world.standin.shared);
    let mut driver = Driver::new(Options::config(), options.seed, shared, &statuses, Arc::clone(&progress));
    let (mut line, mut totals) = (Line::default(), Totals::default());
    for part in 1..=PARTS {
        let target = (options.transactions * part).div_ceil(PARTS);
        let (start, ended) = (Instant::now(), AtomicBool::new(false));
        let driving = async {
            let outcome = driver.run(target, options.rate).await;
            ended.store(true, Ordering::Relaxed);
            outcome
        };
        tokio::try_join!(driving, world.live(options, &progress, &ended, &mut line))?;
        totals.writing += start.elapsed().as_secs_f64();
        let applying = Instant::now();
        world.apply(&driver.cluster, &mut line).await?;
        let lag = applying.elapsed().as_secs_f64();
        totals.applying += lag;
        totals.lag = totals.lag.max(lag);
        let mut conn = world.mariadb.connect().await?;
        let compared = playground_truth::compare(&mut conn, &driver.cluster.contents()).await?;
        conn.disconnect().await?;
        let counts = driver.cluster.counts();
        line.note(&format!(
            "  {} transactions, {} DDL binlogs, {} rolled back: {} tables with {} rows compared",
            counts.committed, counts.ddl, counts.rolled_back, compared.tables, compared.rows
        ));
        for text in compared.lines() {
            line.note(&format!("  {text}"));
        }
        totals.tables += compared.tables;
        totals.compared += compared.rows;
        totals.differences += compared.differences.len();
        if totals.differences > 0 {
            break;
        }
    }
    drop(line);
    report(&driver.cluster, &progress, &world, &totals);
    Ok(totals.differences == 0)
}

fn report(cluster: &Cluster, progress: &Progress, world: &World, totals: &Totals) {
    let (rows, counts) = (changed_rows(cluster), cluster.counts());
    let seconds = totals.writing + totals.applying;
    println!();
    println!("  transactions  {} and {} DDL binlogs", counts.committed, counts.ddl);
    println!("  rows          {rows} changed; {} in {} tables compared", totals.compared, totals.tables);
    println!("  types         {}", coverage(cluster));
    println!(
        "  rows/s        {:.0} (writing and applying {seconds:.1} s, restarts included)",
        rows as f64 / seconds.max(0.001)
    );
    println!(
        "  feed          {:.1} s, {:.0} transactions/s, {} writes tried again",
        totals.writing,
        counts.committed as f64 / totals.writing.max(0.001),
        progress.retries.load(Ordering::Relaxed)
    );
    println!(
        "  lag           {:.1} s from the last write until the durable checkpoint covers all, at worst",
        totals.lag
    );
    println!("  restarts      {} after SIGKILL", world.restarts());
    println!("  differences   {}", totals.differences);
    if world.killed_behind == 0 {
        println!("  WARNING       the Drainer had applied everything whenever it was killed");
    }
}

fn changed_rows(cluster: &Cluster) -> usize {
    let rows = |what: &What| if let What::Rows(changes) = what { changes.len() } else { 0 };
    cluster.committed().values().map(|c| rows(&c.what)).sum()
}

/// Which types and DDL the seed has drawn.
fn coverage(cluster: &Cluster) -> String {
    let (mut types, mut actions) = (BTreeSet::new(), BTreeSet::new());
    let mut tables = BTreeMap::new();
    for committed in cluster.committed().values() {
        match &committed.what {
            What::Ddl { schema, .. } => {
                if let Some(schema) = schema {
                    tables.extend(schema.tables.iter().map(|(id, table)| (*id, Arc::clone(table))));
                }
                let query = committed.prewrite.ddl_query.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let clause = query.split(' ').enumerate().filter(|(n, word)| *n < 2 || (*n == 3 && is_clause(word)));
                let shown: Vec<&str> = clause.map(|(_, word)| word).collect();
                actions.insert(shown.join(" "));
            }
            What::Rows(changes) => {
                for change in changes {
                    let table = tables.get(&change.table);
                    types.extend(table.into_iter().flat_map(|t| t.types.values()).map(|ty| (ty.tp, ty.binary)));
                }
            }
        }
    }
    format!("{} kinds of columns written; {}", types.len(), actions.into_iter().collect::<Vec<_>>().join(", "))
}

fn is_clause(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_uppercase())
}

/// Over all parts.
#[derive(Debug, Default)]
struct Totals {
    writing: f64,
    applying: f64,
    lag: f64,
    tables: usize,
    compared: u64,
    differences: usize,
}

impl World {
    async fn start(dir: &Path, count: usize) -> Result<Self> {
        let options = binlog_standin::Options { work_dir: Some(dir.join("etcd")), ..Default::default() };
        let standin = Standin::start(options).await.context("the stand-in cluster")?;
        standin.shared.tso().wall();
        let pd_url = standin.shared.pd_url.clone();
        let mut pumps = Vec::new();
        for n in 1..=count {
            pumps.push(Pump::start(dir, &format!("pump{n}"), &pd_url, SMALL_DISK).await?);
        }
        wait_online(&mut pumps, &pd_url).await?;
        let mariadb = MariaDb::start(dir).await?;
        let drainer = Drainer::start(dir, &pd_url, DRAINER, &mariadb).await?;
        Ok(Self { drainer, pumps, mariadb, standin, killed: 0, killed_behind: 0 })
    }

    fn check(&mut self) -> Result<()> {
        self.standin.check()?;
        self.pumps.iter_mut().try_for_each(Pump::check)?;
        self.mariadb.check()?;
        self.drainer.check()
    }

    fn restarts(&self) -> u32 {
        self.drainer.restarts + self.pumps.iter().map(|p| p.restarts).sum::<u32>()
    }

    /// Kills one process after the other, evenly over the transactions, until the writing has ended.
    async fn live(
        &mut self,
        options: &Options,
        progress: &Progress,
        ended: &AtomicBool,
        line: &mut Line,
    ) -> Result<()> {
        let victims = self.pumps.len() as u64 + 1;
        let kills = victims * (options.transactions / PER_ROUND).clamp(1, MAX_ROUNDS);
        let (start, from) = (Instant::now(), progress.committed.load(Ordering::Relaxed));
        let mut conn = self.mariadb.connect().await?;
        while !ended.load(Ordering::Relaxed) {
            self.check()?;
            let committed = progress.committed.load(Ordering::Relaxed);
            if self.killed < kills && committed * (kills + 1) >= options.transactions * (self.killed + 1) {
                let victim = usize::try_from(self.killed % victims).unwrap_or(0);
                self.killed += 1;
                if let Some(pump) = self.pumps.get_mut(victim) {
                    line.note(&format!("  SIGKILL {} after {committed} transactions", pump.node_id));
                    pump.kill_and_restart().await.with_context(|| format!("{} after SIGKILL", pump.node_id))?;
                } else {
                    let before = checkpoint(&mut conn).await?;
                    line.note(&format!("  SIGKILL drainer after {committed} transactions, its checkpoint is {before}"));
                    self.drainer.kill_and_restart().await.context("the Drainer after SIGKILL")?;
                }
            }
            self.unless_paused().await?;
            line.show(|| {
                let per_second = committed.saturating_sub(from) as f64 / start.elapsed().as_secs_f64().max(0.001);
                let ddl = progress.ddl.load(Ordering::Relaxed);
                let retries = progress.retries.load(Ordering::Relaxed);
                format!("writing: {committed} transactions, {per_second:.0}/s, {ddl} DDL binlogs, {retries} retries")
            });
            tokio::time::sleep(POLL).await;
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// A Drainer that was killed a moment ago does not answer; one that paused waits for an operator, and there is none.
    async fn unless_paused(&self) -> Result<()> {
        let Ok(text) = http_get(&self.drainer.address, "/status").await else { return Ok(()) };
        let status: Status = serde_json::from_str(&text).with_context(|| format!("the Drainer's status: {text}"))?;
        let Some(paused) = status.paused else { return Ok(()) };
        bail!(
            "the downstream refused a statement\n  commit ts {}\n  {}\n  {}",
            paused.commit_ts,
            paused.error,
            paused.statement
        )
    }

    /// Until the durable checkpoint has reached the last commit. Where the Drainer is behind it is killed once more.
    async fn apply(&mut self, cluster: &Cluster, line: &mut Line) -> Result<()> {
        let end = cluster.committed().last_key_value().map_or(0, |(ts, _)| *ts);
        let mut conn = self.mariadb.connect().await?;
        let (mut last, mut moved, mut killed) = ((0, 0), Instant::now(), false);
        loop {
            self.check()?;
            let reached = checkpoint(&mut conn).await?;
            if reached >= end {
                conn.disconnect().await?;
                return Ok(());
            }
            let behind = cluster.committed().range(reached + 1..).count();
            if !killed && behind > 0 {
                killed = true;
                self.killed_behind += 1;
                line.note(&format!("  SIGKILL drainer with {behind} transactions above its checkpoint"));
                self.drainer.kill_and_restart().await.context("the Drainer after SIGKILL")?;
            }
            self.unless_paused().await?;
            let now = (reached, written(&mut conn).await?);
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STUCK {
                bail!(
                    "nothing was applied for {STUCK:?}: the checkpoint is {reached}, the end {end}\n{}",
                    tail(&self.drainer.log)
                );
            }
            line.show(|| format!("applying: {behind} transactions above the checkpoint"));
            tokio::time::sleep(POLL).await;
        }
    }
}
