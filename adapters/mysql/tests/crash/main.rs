//! Servers that are killed and connections that break, at every point that matters.

mod proxy;
#[path = "../support/mod.rs"]
mod support;

use binlog_core::sink::op::{SinkError, SinkOp};
use binlog_core::sink::value::SqlValue;
use binlog_mysql::MysqlSink;
use proxy::{Cut, Proxy};
use std::sync::OnceLock;
use support::{Bench, Server, apply, ddl_op, open, recorded, save, text};
use tokio::sync::Mutex;

const INSERT: &str = "INSERT INTO `{db}`.`t`(`a`,`b`) VALUES(?,?)";

/// One server, killed by each test in turn.
fn server() -> &'static Mutex<Server> {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Mutex::new(Server::start()))
}

fn transaction(b: &Bench) -> SinkOp {
    let row = |a: i64| vec![SqlValue::Int(a), text("x")];
    apply(&[101, 102], vec![b.statement(101, INSERT, row(1), Some(1)), b.statement(102, INSERT, row(2), Some(1))])
}

async fn count(b: &mut Bench) -> usize {
    b.rows("SELECT 1 FROM {db}.t").await.len()
}

/// A sink that reaches the server through `proxy`.
fn through(b: &Bench, proxy: &Proxy) -> MysqlSink {
    let mut config = b.config.clone();
    config.port = proxy.port;
    MysqlSink::new(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_break_around_the_commit() {
    let server = server().lock().await;
    for (name, needle, cut, committed) in [
        ("cut_before_commit", "COMMIT", Cut::BeforeForwarding, false),
        ("cut_after_commit", "COMMIT", Cut::AfterAnswer, true),
        ("cut_record", "drainer_applied` (cluster", Cut::AfterAnswer, false),
        ("cut_statement", "`t`(`a`,`b`)", Cut::AfterAnswer, false),
    ] {
        let mut b = server.bench(name).await;
        b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10))").await;
        drop(b.begun().await);
        let proxy = Proxy::start(server.port).await;
        let mut sink = through(&b, &proxy);
        open(&mut sink).await;
        proxy.arm(needle, cut);
        match sink.execute(transaction(&b)).await {
            Err(SinkError::Lost(_)) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert!(matches!(sink.execute(transaction(&b)).await, Err(SinkError::Lost(_))), "only Open helps");
        // What is recorded and what is there agree, and a repeated transaction is applied exactly once. The old session
        // may still be ending: the record waits for it.
        let again = {
            open(&mut sink).await;
            sink.execute(transaction(&b)).await
        };
        match again {
            Err(SinkError::AlreadyRecorded) => assert!(committed, "{name}"),
            Ok(_) => assert!(!committed, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!((count(&mut b).await, recorded(&open(&mut sink).await)), (2, vec![101, 102]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed() {
    let server = server().lock().await;
    for (name, needle, cut) in [
        ("kill_statement", "`t`(`a`,`b`)", Cut::Hold),
        ("kill_commit", "COMMIT", Cut::Hold),
        ("kill_after_commit", "COMMIT", Cut::HoldAnswer),
    ] {
        let mut b = server.bench(name).await;
        b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10))").await;
        drop(b.begun().await);
        let proxy = Proxy::start(server.port).await;
        let mut sink = through(&b, &proxy);
        open(&mut sink).await;
        proxy.arm(needle, cut);
        let op = transaction(&b);
        let running = tokio::spawn(async move {
            let result = sink.execute(op).await;
            (sink, result)
        });
        proxy.reached().await;
        server.kill();
        let (mut sink, result) = running.await.unwrap();
        assert!(matches!(result, Err(SinkError::Lost(_))), "{name}: {result:?}");
        assert!(matches!(sink.execute(SinkOp::Open).await, Err(SinkError::Lost(_))), "{name}: the server is down");
        server.restart();
        b.conn = server.conn().await;
        let opened = open(&mut sink).await;
        let rows = count(&mut b).await;
        assert_eq!(recorded(&opened).len(), rows, "{name}: record and rows are one");
        match sink.execute(transaction(&b)).await {
            Ok(_) => assert_eq!(rows, 0, "{name}"),
            Err(SinkError::AlreadyRecorded) => assert_eq!(rows, 2, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(count(&mut b).await, 2, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_dies_with_its_server() {
    let server = server().lock().await;
    let b = server.bench("kill_idle").await;
    let mut sink = b.begun().await;
    sink.keep_alive().await.unwrap();
    server.kill();
    assert!(matches!(sink.keep_alive().await, Err(SinkError::Lost(_))));
    assert!(matches!(sink.execute(save(101, &[])).await, Err(SinkError::Lost(_))));
    server.restart();
    drop(server.conn().await);
    assert_eq!(open(&mut sink).await.checkpoint.unwrap().commit_ts.raw(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_is_cut_is_whole_or_nothing() {
    let server = server().lock().await;
    for (name, cut, saved) in
        [("save_cut_before", Cut::BeforeForwarding, false), ("save_cut_after", Cut::AfterAnswer, true)]
    {
        let b = server.bench(name).await;
        b.begun().await.execute(apply(&[101, 102], vec![])).await.unwrap();
        let proxy = Proxy::start(server.port).await;
        let mut sink = through(&b, &proxy);
        open(&mut sink).await;
        proxy.arm("COMMIT", cut);
        assert!(matches!(sink.execute(save(101, &[101])).await, Err(SinkError::Lost(_))));
        let opened = open(&mut sink).await;
        let (ts, left) = if saved { (101, vec![102]) } else { (100, vec![101, 102]) };
        assert_eq!((opened.checkpoint.as_ref().unwrap().commit_ts.raw(), recorded(&opened)), (ts, left), "{name}");
        assert!(opened.state.is_some(), "{name}");
    }
}

/// After each cut the same DDL is given again until it is done: it has run exactly once (the column would exist twice, or
/// error 1060 would refuse it: there is no goal that excuses it).
#[tokio::test(flavor = "multi_thread")]
async fn a_ddl_that_is_cut_runs_once() {
    let server = server().lock().await;
    for (name, needle, cut) in [
        ("ddl_cut_lock", "GET_LOCK", Cut::AfterAnswer),
        ("ddl_cut_started", "'started'", Cut::AfterAnswer),
        ("ddl_cut_before", "ALTER TABLE", Cut::BeforeForwarding),
        ("ddl_cut_after", "ALTER TABLE", Cut::AfterAnswer),
        ("ddl_cut_done", "'done'", Cut::BeforeForwarding),
        ("ddl_cut_record", "drainer_applied` (cluster", Cut::AfterAnswer),
        ("ddl_cut_release", "RELEASE_LOCK", Cut::BeforeForwarding),
    ] {
        let mut b = server.bench(name).await;
        b.sql("CREATE TABLE {db}.t (a int)").await;
        drop(b.begun().await);
        let ddl = b.ddl(101, "ALTER TABLE t ADD COLUMN b int", "t");
        let proxy = Proxy::start(server.port).await;
        let mut sink = through(&b, &proxy);
        open(&mut sink).await;
        proxy.arm(needle, cut);
        let first = sink.execute(ddl_op(&ddl)).await;
        // Cut at the very end, everything is done and only the lock's release failed.
        assert!(
            matches!(first, Err(SinkError::Lost(_))) || (needle == "RELEASE_LOCK" && first.is_ok()),
            "{name}: {first:?}"
        );
        loop {
            open(&mut sink).await;
            match sink.execute(ddl_op(&ddl)).await {
                Ok(_) | Err(SinkError::AlreadyRecorded) => break,
                Err(SinkError::Retry(_)) => {}
                other => panic!("{name}: {other:?}"),
            }
        }
        let columns = "SELECT GROUP_CONCAT(COLUMN_NAME) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{db}' AND TABLE_NAME = 't'";
        assert_eq!(b.one(columns).await, "a,b", "{name}");
        let opened = open(&mut sink).await;
        assert_eq!((recorded(&opened), sink.unfinished().len()), (vec![101], 0), "{name}");
    }
}
