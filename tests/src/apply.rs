//! Waiting for the Drainer: until its durable checkpoint has reached the end of the capture, doing what `expected.toml` says
//! where it pauses.

use crate::expected::{Action, Expected};
use crate::harness::{http_get, http_put, tail};
use crate::progress::Line;
use crate::session::Session;
use anyhow::{Context, Result, bail};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Without any change for so long it will not come.
const STUCK: Duration = Duration::from_secs(120);
/// Milliseconds are rounded.
const SLACK: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(20);

/// What we read of `GET /status`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) paused: Option<Paused>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Paused {
    #[serde(alias = "commit-ts")]
    pub(crate) commit_ts: u64,
    #[serde(default)]
    pub(crate) statement: String,
    #[serde(default)]
    pub(crate) error: String,
    /// Age of this pause.
    #[serde(default, alias = "for-ms")]
    for_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Checkpoint {
    #[serde(rename = "commitTS")]
    commit_ts: u64,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    pub seconds: f64,
    pub resolved: usize,
    /// Entries of `expected.toml` whose statement the downstream took.
    pub unneeded: usize,
    /// Recorded commits above the checkpoint when the Drainer was killed, if it was.
    pub killed_before: Option<u64>,
}

/// Until all is applied. With `kill` the Drainer is killed by SIGKILL once part of the rows are in the downstream.
pub async fn apply(session: &mut Session, expected: &Expected, kill: bool) -> Result<Applied> {
    let start = Instant::now();
    let end = session.capture.largest_commit_ts();
    let mut commits: Vec<u64> =
        session.capture.records().filter(|r| !r.fake && r.commit_ts > 0).map(|r| r.commit_ts).collect();
    commits.sort_unstable();
    let behind = |checkpoint: u64| (commits.len() - commits.partition_point(|&ts| ts <= checkpoint)) as u64;
    let rows = &session.capture.facts.counts.rows;
    let kill_at = (rows.insert + rows.update + rows.delete) / 5;
    let mut conn = session.mariadb.as_ref().context("a replay without MariaDB applies nothing")?.connect().await?;
    let rows_before = written(&mut conn).await?;

    let mut applied = Applied { seconds: 0.0, resolved: 0, unneeded: 0, killed_before: None };
    let mut done: BTreeMap<u64, Instant> = BTreeMap::new();
    let (mut last, mut moved) = ((0, 0, 0), Instant::now());
    let mut line = Line::default();
    loop {
        session.check()?;
        let checkpoint = checkpoint(&mut conn).await?;
        let rows = written(&mut conn).await?.saturating_sub(rows_before);
        let drainer = session.drainer.as_mut().context("a replay without a Drainer applies nothing")?;
        if kill && applied.killed_before.is_none() && rows >= kill_at {
            line.note(&format!(
                "  SIGKILL drainer with {} of {} transactions above its checkpoint",
                behind(checkpoint),
                commits.len()
            ));
            drainer.kill_and_restart().await.context("the Drainer after SIGKILL")?;
            applied.killed_before = Some(behind(checkpoint));
            continue;
        }
        if checkpoint >= end {
            break;
        }
        let address = drainer.address.clone();
        let asked = Instant::now();
        let status = http_get(&address, "/status").await.context("the Drainer's status")?;
        let status: Status =
            serde_json::from_str(&status).with_context(|| format!("the Drainer's status: {status}"))?;
        if let Some(paused) = status.paused
            && resolve(&mut conn, &address, expected, &paused, &mut done, asked, &mut line).await?
        {
            applied.resolved += 1;
        }
        let now = (checkpoint, rows, applied.resolved);
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        if moved.elapsed() > STUCK {
            let log = session.drainer.as_ref().map(|d| tail(&d.log)).unwrap_or_default();
            bail!("nothing was applied for {STUCK:?}: the checkpoint is {checkpoint}, the end {end}\n{log}");
        }
        line.show(|| {
            format!("applying: {rows} rows written, {} transactions above the checkpoint", behind(checkpoint))
        });
        tokio::time::sleep(POLL).await;
    }
    conn.disconnect().await?;
    for entry in expected.resolve.iter().filter(|entry| !done.contains_key(&entry.commit_ts)) {
        line.note(&format!("  WARNING  the resolution at {} was not needed: {}", entry.commit_ts, entry.reason));
        applied.unneeded += 1;
    }
    applied.seconds = start.elapsed().as_secs_f64();
    Ok(applied)
}

/// True when something was done about this pause.
async fn resolve(
    conn: &mut Conn,
    address: &str,
    expected: &Expected,
    paused: &Paused,
    done: &mut BTreeMap<u64, Instant>,
    asked: Instant,
    line: &mut Line,
) -> Result<bool> {
    if let Some(resolved) = done.get(&paused.commit_ts) {
        // A pause that began before the resolution is the one that was resolved: the status is older than that.
        let since_resolved = asked.saturating_duration_since(*resolved);
        if paused.for_ms.is_none_or(|ms| Duration::from_millis(ms) + SLACK >= since_resolved) {
            return Ok(false);
        }
        bail!(
            "the Drainer paused again at {} after it was resolved: {}\n{}",
            paused.commit_ts,
            paused.error,
            paused.statement
        );
    }
    let Some(entry) = expected.resolve.iter().find(|r| r.commit_ts == paused.commit_ts) else {
        bail!(
            "the downstream refused a statement that expected.toml does not name\n  commit ts {}\n  {}\n  {}",
            paused.commit_ts,
            paused.error,
            paused.statement
        );
    };
    let command = match entry.action {
        Action::Skip => "skip",
        Action::Replace => "mark-applied",
        Action::Before => "retry",
    };
    line.note(&format!("  paused at {}: {} ({command}: {})", paused.commit_ts, paused.error, entry.reason));
    for sql in &entry.sql {
        conn.query_drop(sql).await.with_context(|| format!("expected.toml at {}: {sql}", entry.commit_ts))?;
    }
    http_put(address, &format!("/resolve/{}/{command}", paused.commit_ts), "").await?;
    done.insert(paused.commit_ts, Instant::now());
    Ok(true)
}

/// The Drainer's durable checkpoint; 0 while there is none.
pub(crate) async fn checkpoint(conn: &mut Conn) -> Result<u64> {
    let exists: Option<u8> = conn
        .query_first(
            "SELECT 1 FROM information_schema.tables WHERE table_schema='tidb_binlog' AND table_name='checkpoint'",
        )
        .await?;
    if exists.is_none() {
        return Ok(0);
    }
    let row: Option<String> = conn.query_first("SELECT checkPoint FROM tidb_binlog.checkpoint").await?;
    let Some(text) = row else { return Ok(0) };
    let row: Checkpoint = serde_json::from_str(&text).with_context(|| format!("the checkpoint row: {text}"))?;
    Ok(row.commit_ts)
}

/// Rows that the server has written since it was started; temporary tables are not counted.
pub(crate) async fn written(conn: &mut Conn) -> Result<u64> {
    let rows: Vec<(String, u64)> = conn
        .query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Handler_write', 'Handler_update', 'Handler_delete')")
        .await?;
    Ok(rows.iter().map(|(_, n)| n).sum())
}
