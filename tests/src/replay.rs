//! `replay`: a capture through our processes, compared with what was recorded (README of the captures, "Replaying a capture").

use crate::apply;
use crate::capture::{Capture, Item};
use crate::compare_stream;
use crate::compare_tables;
use crate::expected::Expected;
use crate::harness::{WorkDir, binary};
use crate::session::{Kill, Session, Setup};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The command line.
#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// Pumps only: compare their streams, once in peace and once with SIGKILL in the middle.
    pub stream_only: bool,
    /// Absent: as many as recorded.
    pub pumps: Option<usize>,
    /// Leave data and logs.
    pub keep: bool,
    /// Full mode: SIGKILL every Pump during the feed and the Drainer while it applies.
    pub kill: bool,
}

/// True when everything was equal apart from the named differences.
pub async fn run(options: &Options) -> Result<bool> {
    binary("pump")?;
    if !options.stream_only {
        binary("drainer")?;
    }
    let mut work = WorkDir::new("replay")?;
    let outcome =
        if options.stream_only { streams(options, work.path()).await } else { full(options, work.path()).await };
    if options.keep || !matches!(outcome, Ok(true)) {
        work.keep();
    }
    outcome
}

async fn streams(options: &Options, work: &Path) -> Result<bool> {
    let mut equal = true;
    for (name, kill) in [("in peace", Kill::None), ("with SIGKILL in the middle", Kill::All)] {
        let capture = Capture::open(&options.dir)?;
        let recorded = capture.pulls()?;
        let up_to = capture.largest_commit_ts();
        let setup = Setup { pumps: options.pumps, drainer: false, pump_config: String::new() };
        let dir = work.join(if kill == Kill::None { "peace" } else { "kill" });
        std::fs::create_dir_all(&dir)?;
        let mut session = Session::start(capture, &dir, &setup).await?;
        println!("{}: {} Pump(s), {name}", options.dir.display(), session.pumps.len());
        let fed = session.feed(None, kill).await?;
        println!("  fed {} records in {:.1} s, {} retries", fed.records, fed.seconds, fed.retries);
        let ours = session.pull().await?;
        let differences = compare_all(recorded, ours, up_to);
        let restarts: u32 = session.pumps.iter().map(|p| p.restarts).sum();
        if kill != Kill::None {
            println!("  {restarts} restarts after SIGKILL");
        }
        for line in &differences {
            println!("  DIFFERS  {line}");
        }
        println!("  {}", if differences.is_empty() { "streams are equal" } else { "streams DIFFER" });
        equal &= differences.is_empty();
    }
    Ok(equal)
}

/// Pump by Pump where their number is the recorded one, else all as one stream.
fn compare_all(recorded: Vec<Vec<Item>>, ours: Vec<Vec<Item>>, up_to: u64) -> Vec<String> {
    let transactions =
        |streams: &[Vec<Item>]| streams.iter().flatten().filter(|i| !i.fake && i.commit_ts <= up_to).count();
    println!("  {} transactions recorded, {} served", transactions(&recorded), transactions(&ours));
    if recorded.len() == ours.len() {
        let pairs = recorded.iter().zip(&ours).enumerate();
        return pairs
            .flat_map(|(n, (r, o))| {
                let lines = compare_stream::compare(r, o, up_to);
                lines.into_iter().map(move |line| format!("pump{}: {line}", n + 1))
            })
            .collect();
    }
    // Each stream's own order is checked before they become one.
    let mut out: Vec<String> = ours.iter().flat_map(|stream| compare_stream::unordered(stream)).collect();
    out.extend(compare_stream::compare(&compare_stream::merge(recorded), &compare_stream::merge(ours), up_to));
    out
}

async fn full(options: &Options, work: &Path) -> Result<bool> {
    let capture = Capture::open(&options.dir)?;
    let expected = expected(&options.dir, &capture)?;
    let setup = Setup { pumps: options.pumps, drainer: true, pump_config: String::new() };
    let mut session = Session::start(capture, work, &setup).await?;
    println!("{}: {} Pump(s), a Drainer, MariaDB", options.dir.display(), session.pumps.len());
    let fed = session.feed(None, if options.kill { Kill::All } else { Kill::None }).await?;
    println!("  fed {} records in {:.1} s, {} retries", fed.records, fed.seconds, fed.retries);
    let applied = apply::apply(&mut session, &expected, options.kill).await?;
    println!("  applied in {:.1} s, {} statements resolved", applied.seconds, applied.resolved);
    let mariadb = session.mariadb.as_ref().context("no MariaDB")?;
    let mut conn = mariadb.connect().await?;
    let report = compare_tables::compare(&mut conn, &options.dir, &expected.differs).await?;
    conn.disconnect().await?;
    for line in report.lines() {
        println!("  {line}");
    }
    println!(
        "  {} tables, {} rows: {} differences, {} expected",
        report.tables,
        report.rows,
        report.differences.len(),
        report.named.len()
    );
    Ok(report.differences.is_empty())
}

/// `expected.toml` beside the capture, else the one of its scenario.
fn expected(dir: &Path, capture: &Capture) -> Result<Expected> {
    let beside = dir.join("expected.toml");
    if beside.is_file() {
        return Expected::read(&beside);
    }
    Expected::of_scenario(&capture.facts.scenario)
}
