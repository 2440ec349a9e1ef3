//! `playground`: a whole cluster on this machine with the committed captures, with kills, compared at the end.
//!
//! The captures come from different clusters whose table and job ids overlap, so each is a round of its own with a fresh
//! stand-in, fresh Pumps, Drainer and MariaDB.

use crate::apply::{self, Applied};
use crate::capture::Capture;
use crate::compare_tables;
use crate::expected::{Expected, captures};
use crate::harness::{SMALL_DISK, WorkDir, binary, interrupted};
use crate::session::{Fed, Kill, Session, Setup};
use anyhow::{Context, Result};

/// In the order of the rounds.
const CAPTURES: [&str; 2] = ["small", "bank"];
const PUMPS: usize = 2;
/// All rounds' feeds together take about this long without `--rate`.
const FEED_SECONDS: f64 = 20.0;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Records per second; absent: about 20 s altogether.
    pub rate: Option<f64>,
    pub keep: bool,
    /// Stay up after the last round.
    pub serve: bool,
}

#[derive(Debug, Default)]
struct Totals {
    transactions: usize,
    rows: u64,
    feeding: f64,
    applying: f64,
    worst_lag: f64,
    restarts: u32,
    retries: u64,
    tables: usize,
    compared: u64,
    differences: usize,
    drainer_killed: bool,
}

/// True when every table is equal after all kills.
pub async fn run(options: &Options) -> Result<bool> {
    for program in ["pump", "drainer"] {
        binary(program)?;
    }
    let mut work = WorkDir::new("playground")?;
    let outcome = rounds(options, &work).await;
    if options.keep || !matches!(outcome, Ok(true)) {
        work.keep();
    }
    outcome
}

async fn rounds(options: &Options, work: &WorkDir) -> Result<bool> {
    let mut totals = Totals::default();
    let all: Vec<Capture> = CAPTURES.iter().map(|name| Capture::open(&captures().join(name))).collect::<Result<_>>()?;
    let records: usize = all.iter().map(|c| c.records().filter(|r| !r.fake).count()).sum();
    let rate = options.rate.unwrap_or(records as f64 / FEED_SECONDS);
    println!(
        "{} captures of a real TiDB, {records} binlogs, {rate:.0}/s, {PUMPS} Pumps, one Drainer into MariaDB",
        all.len()
    );
    let mut last = None;
    for (capture, name) in all.into_iter().zip(CAPTURES) {
        // The servers of a round end before those of the next start.
        drop(last.take());
        let dir = work.path().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        last = Some(round(name, capture, &dir, rate, &mut totals).await.with_context(|| format!("round `{name}`"))?);
    }
    report(&totals);
    let equal = totals.differences == 0;
    if options.serve
        && let Some(mut session) = last
    {
        serve(&mut session).await?;
    }
    Ok(equal)
}

async fn round(name: &str, capture: Capture, dir: &std::path::Path, rate: f64, totals: &mut Totals) -> Result<Session> {
    let expected = Expected::of_scenario(name)?;
    let transactions = capture.records().filter(|r| !r.fake && r.commit_ts > 0).count();
    let source = capture.dir.clone();
    let rows = &capture.facts.counts.rows;
    let rows = rows.insert + rows.update + rows.delete;
    println!("round `{name}`: {transactions} transactions, {rows} rows");
    let setup = Setup { pumps: Some(PUMPS), drainer: true, pump_config: SMALL_DISK.into() };
    let mut session = Session::start(capture, dir, &setup).await?;
    println!("  up: PD {}, {} Pumps, Drainer, MariaDB", session.standin.shared.pd_url, session.pumps.len());
    let fed: Fed = session.feed(Some(rate), Kill::First).await?;
    println!("  fed {} binlogs in {:.1} s; PD's clock goes on, the Drainer starts to apply", fed.records, fed.seconds);
    let applied: Applied = apply::apply(&mut session, &expected, true).await?;
    let mut conn = session.mariadb.as_ref().context("no MariaDB")?.connect().await?;
    let compared = compare_tables::compare(&mut conn, &source, &expected.differs).await?;
    conn.disconnect().await?;
    for line in compared.lines() {
        println!("  {line}");
    }
    println!("  applied in {:.1} s; {} tables with {} rows compared", applied.seconds, compared.tables, compared.rows);
    totals.transactions += transactions;
    totals.rows += rows;
    totals.feeding += fed.seconds;
    totals.applying += applied.seconds;
    totals.worst_lag = totals.worst_lag.max(applied.seconds);
    totals.retries += fed.retries;
    totals.restarts += session.pumps.iter().map(|p| p.restarts).sum::<u32>();
    totals.restarts += session.drainer.as_ref().map_or(0, |d| d.restarts);
    totals.drainer_killed |= applied.killed_before.is_some_and(|behind| behind > 0);
    totals.tables += compared.tables;
    totals.compared += compared.rows;
    totals.differences += compared.differences.len();
    Ok(session)
}

fn report(totals: &Totals) {
    println!();
    println!("  transactions  {}", totals.transactions);
    println!("  rows          {} changed; {} in {} tables compared", totals.rows, totals.compared, totals.tables);
    println!(
        "  rows/s        {:.0} (applying {:.1} s, restarts included)",
        totals.rows as f64 / totals.applying.max(0.001),
        totals.applying
    );
    println!("  feed          {:.1} s, {} writes tried again", totals.feeding, totals.retries);
    println!(
        "  lag           {:.1} s from the last acknowledgement until the durable checkpoint covers all, at worst",
        totals.worst_lag
    );
    println!("  restarts      {} after SIGKILL", totals.restarts);
    println!("  differences   {}", totals.differences);
    if !totals.drainer_killed {
        println!("  WARNING       the Drainer had applied everything before it could be killed");
    }
}

async fn serve(session: &mut Session) -> Result<()> {
    let shared = &session.standin.shared;
    println!("\nThe last round stays up until Ctrl-C. Its clock is the capture's.");
    println!("  PD, etcd  {}", shared.pd_url);
    println!("            ETCDCTL_API=3 etcdctl --endpoints {} get --prefix /tidb-binlog/", shared.pd_url);
    println!("  TiKV      {}", shared.tikv_addr);
    println!("  control   {}", session.standin.control_url);
    println!(
        "            curl -X PUT {}/tso/outage   (PD's clock fails; /tso/resume ends it)",
        session.standin.control_url
    );
    for pump in &session.pumps {
        println!("  {:<9} http://{}", pump.node_id, pump.address);
        println!(
            "            curl http://{0}/status; curl http://{0}/drainers; log {1}",
            pump.address,
            pump.log.display()
        );
    }
    if let Some(drainer) = &session.drainer {
        println!("  drainer   http://{}", drainer.address);
        println!("            curl http://{}/status; log {}", drainer.address, drainer.log.display());
    }
    if let Some(mariadb) = &session.mariadb {
        println!("  MariaDB   {} -e 'select sum(balance) from bank.acc_a'", mariadb.client_command());
    }
    let mut watch = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            () = interrupted() => return Ok(()),
            _ = watch.tick() => session.check()?,
        }
    }
}
