//! A capture on its way through real processes, for tests that disturb it.

#![allow(dead_code)]

use binlog_tests::capture::Capture;
use binlog_tests::compare_tables;
use binlog_tests::expected::{Action, Expected, captures};
use binlog_tests::harness::{Drainer, WorkDir, http_get, http_put, tail};
use binlog_tests::session::{Kill, Session, Setup};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Generous: machines that run these tests may be busy.
pub const DEADLINE: Duration = Duration::from_secs(120);
pub const POLL: Duration = Duration::from_millis(10);

/// A capture that was fed, and a Drainer that applies it.
pub struct Run {
    pub session: Session,
    pub expected: Expected,
    resolved: Vec<u64>,
    commits: Vec<u64>,
    pub work: WorkDir,
}

impl Run {
    /// Everything up and fed. `edit` changes the Drainer's recorded configuration.
    pub async fn start(name: &str, edit: impl FnOnce(&mut toml::Table)) -> Self {
        Self::start_with(name, edit, &[]).await
    }

    /// The same into a downstream where `before` was run: nothing is applied before the feed has ended.
    pub async fn start_with(name: &str, edit: impl FnOnce(&mut toml::Table), before: &[&str]) -> Self {
        let mut capture = Capture::open(&captures().join(name)).unwrap();
        let mut config: toml::Table = toml::from_str(&capture.facts.drainer_config_mysql).unwrap();
        edit(&mut config);
        capture.facts.drainer_config_mysql = toml::to_string(&config).unwrap();
        let mut commits: Vec<u64> =
            capture.records().filter(|r| !r.fake && r.commit_ts > 0).map(|r| r.commit_ts).collect();
        commits.sort_unstable();
        commits.dedup();
        let config = capture.facts.drainer_config_mysql.clone();
        let (work, mut session) = up(name, capture, &config).await;
        let expected = Expected::of_scenario(name).unwrap();
        let mut conn = session.mariadb.as_ref().unwrap().connect().await.unwrap();
        for sql in before {
            conn.query_drop(*sql).await.unwrap();
        }
        conn.disconnect().await.unwrap();
        session.feed(None, Kill::None).await.unwrap();
        Self { session, expected, resolved: Vec::new(), commits, work }
    }

    pub fn drainer(&mut self) -> &mut Drainer {
        self.session.drainer.as_mut().unwrap()
    }

    pub async fn conn(&self) -> Conn {
        self.session.mariadb.as_ref().unwrap().connect().await.unwrap()
    }

    pub async fn sql(&self, statements: &[&str]) {
        let mut conn = self.conn().await;
        for sql in statements {
            conn.query_drop(*sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        conn.disconnect().await.unwrap();
    }

    pub fn transactions(&self) -> usize {
        self.commits.len()
    }

    /// Transactions that the downstream durably has: up to the checkpoint, and recorded above it.
    pub async fn applied(&self) -> usize {
        let mut conn = self.conn().await;
        let text: Option<Option<String>> = conn.query_first("SELECT checkPoint FROM tidb_binlog.checkpoint").await.ok();
        let count: Result<Option<usize>, _> =
            conn.query_first("SELECT COUNT(*) FROM tidb_binlog.drainer_applied").await;
        conn.disconnect().await.unwrap();
        let row: Value = text.flatten().map(|t| serde_json::from_str(&t).unwrap()).unwrap_or_default();
        let checkpoint = row["commitTS"].as_u64().unwrap_or(0);
        self.commits.partition_point(|ts| *ts <= checkpoint) + count.ok().flatten().unwrap_or(0)
    }

    pub async fn checkpoint(&self) -> Value {
        let mut conn = self.conn().await;
        let text: Option<String> = conn.query_first("SELECT checkPoint FROM tidb_binlog.checkpoint").await.unwrap();
        conn.disconnect().await.unwrap();
        serde_json::from_str(&text.unwrap()).unwrap()
    }

    pub async fn status(&mut self) -> Value {
        let address = self.drainer().address.clone();
        serde_json::from_str(&http_get(&address, "/status").await.unwrap()).unwrap()
    }

    /// The answer's message and code.
    pub async fn put(&mut self, path: &str) -> (String, u64) {
        let address = self.drainer().address.clone();
        let answer: Value = serde_json::from_str(&http_put(&address, path, "").await.unwrap()).unwrap();
        (answer["message"].as_str().unwrap().to_owned(), answer["code"].as_u64().unwrap())
    }

    /// Does what `expected.toml` says where the Drainer is paused.
    pub async fn operate(&mut self) {
        let paused = self.status().await["paused"].clone();
        let Some(commit_ts) = paused["commit_ts"].as_u64().filter(|ts| !self.resolved.contains(ts)) else { return };
        let entry = self.expected.resolve.iter().find(|r| r.commit_ts == commit_ts);
        let entry = entry.unwrap_or_else(|| panic!("paused: {paused}")).clone();
        for sql in &entry.sql {
            self.sql(&[sql]).await;
        }
        let action = match entry.action {
            Action::Skip => "skip",
            Action::Replace => "mark-applied",
            Action::Before => "retry",
        };
        assert_eq!(self.put(&format!("/resolve/{commit_ts}/{action}")).await.1, 200);
        self.resolved.push(commit_ts);
    }

    /// Until so many transactions are in the downstream.
    pub async fn until_applied(&mut self, wanted: usize) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.session.check().unwrap();
            let applied = self.applied().await;
            if applied >= wanted {
                return applied;
            }
            self.operate().await;
            assert!(Instant::now() < deadline, "{applied} of {wanted} applied\n{}", tail(&self.drainer().log));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until the checkpoint has reached the end; then every table is compared.
    pub async fn until_equal(&mut self) {
        let end = *self.commits.last().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while self.checkpoint().await["commitTS"].as_u64() < Some(end) {
            self.session.check().unwrap();
            self.operate().await;
            assert!(Instant::now() < deadline, "the end is not reached\n{}", tail(&self.drainer().log));
            tokio::time::sleep(POLL).await;
        }
        let dir = self.session.capture.dir.clone();
        let mut conn = self.conn().await;
        let report = compare_tables::compare(&mut conn, &dir, &self.expected.differs).await.unwrap();
        conn.disconnect().await.unwrap();
        assert!(report.tables > 0);
        assert!(report.differences.is_empty(), "{:#?}\n{}", report.lines(), tail(&self.drainer().log));
    }

    /// The whole log of all lives.
    pub fn log(&mut self) -> String {
        read(&self.drainer().log.clone())
    }

    /// No human had to act.
    pub fn no_errors(&mut self) {
        let log = self.log();
        let errors: Vec<&str> = log.lines().filter(|l| l.contains("[ERROR]") || l.contains("[FATAL]")).collect();
        assert!(errors.is_empty() && log.contains("[INFO]"), "{errors:#?}");
    }
}

/// Brings everything up. MariaDB's installer has been seen to crash on a busy machine: that is no result of a test.
async fn up(name: &str, first: Capture, config: &str) -> (WorkDir, Session) {
    let setup = Setup { pumps: None, drainer: true, pump_config: String::new() };
    let mut capture = Some(first);
    for attempt in 1.. {
        let work = WorkDir::new("drainer-test").unwrap();
        let mut capture = capture.take().unwrap_or_else(|| Capture::open(&captures().join(name)).unwrap());
        config.clone_into(&mut capture.facts.drainer_config_mysql);
        match Session::start(capture, work.path(), &setup).await {
            Ok(session) => return (work, session),
            Err(error) if attempt < 3 && format!("{error:#}").contains("mariadb-install-db failed") => {
                println!("once more: {error:#}");
            }
            Err(error) => panic!("{error:#}"),
        }
    }
    unreachable!()
}

pub fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// One transaction upstream, one downstream: the longest way, for tests that hit the middle of it.
pub fn one_by_one(config: &mut toml::Table) {
    config["syncer"].as_table_mut().unwrap().insert("txn-batch".into(), 1.into());
}
