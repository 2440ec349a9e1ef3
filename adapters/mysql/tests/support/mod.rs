//! A private MariaDB server for one test binary, and short words for what the tests do with it.

#![allow(dead_code)]

use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::sink::op::{Checkpoint, Ddl, DdlGoal, Opened, SinkError, SinkOp, SinkReply, SinkState, Statement};
use binlog_core::sink::value::SqlValue;
use binlog_mysql::{MysqlConfig, MysqlSink};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const INSTALL: &str = "these tests need a MariaDB server: apt-get install -y mariadb-server (or brew install mariadb)";
/// Generous: machines that run these tests may be busy.
pub const DEADLINE: Duration = Duration::from_secs(120);

pub struct Server {
    pub port: u16,
    dir: PathBuf,
    flags: Vec<String>,
    running: Mutex<(Child, u32)>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(flags: &[String]) -> Self {
        let dir = tempfile::Builder::new().prefix("binlog-mysql-").tempdir().unwrap().keep();
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", dir.join("data").display()))
            // Several servers at a time would step on each other's temporary tables.
            .env("TMPDIR", &dir)
            .output();
        match made {
            Ok(out) if out.status.success() => {}
            Ok(out) => panic!("{INSTALL}; mariadb-install-db: {}", String::from_utf8_lossy(&out.stderr)),
            Err(e) => panic!("{INSTALL}; mariadb-install-db: {e}"),
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let running = Mutex::new(spawn(&dir, port, flags));
        Self { port, dir, flags: flags.to_vec(), running }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let running = self.running.lock().unwrap();
        let _ = Command::new("kill").args(["-9", &running.1.to_string()]).status();
    }

    pub fn restart(&self) {
        let mut running = self.running.lock().unwrap();
        // Its pipe closes: the old watchdog ends after its server, before a new one opens the data.
        let keep = self.dir.join("keep");
        std::fs::write(&keep, "").unwrap();
        drop(running.0.stdin.take());
        let _ = running.0.wait();
        std::fs::remove_file(&keep).unwrap();
        *running = spawn(&self.dir, self.port, &self.flags);
    }

    pub async fn conn(&self) -> Conn {
        let until = Instant::now() + DEADLINE;
        loop {
            let opts = OptsBuilder::default()
                .ip_or_hostname("127.0.0.1")
                .tcp_port(self.port)
                .user(Some("root"))
                .prefer_socket(false)
                .init(vec!["SET SESSION wait_timeout = 600"]);
            match Conn::new(opts).await {
                Ok(conn) => return conn,
                Err(e) if Instant::now() > until => {
                    let log = std::fs::read_to_string(self.dir.join("err.log")).unwrap_or_default();
                    panic!("the server does not answer: {e}; {log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A schema and a data database of its own for a test.
    pub async fn bench(&self, name: &str) -> Bench {
        let mut conn = self.conn().await;
        conn.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        let mut config = MysqlConfig::new("127.0.0.1", self.port, ClusterId::new(7), "drainer-1:8249");
        config.database = format!("{name}_binlog");
        Bench { conn, name: name.to_owned(), config }
    }
}

/// The watchdog kills the server and removes its directory when this process ends, however it ends.
fn spawn(dir: &std::path::Path, port: u16, flags: &[String]) -> (Child, u32) {
    let script = r#"dir=$1; port=$2; shift 2
        mariadbd --no-defaults --user=root --datadir="$dir/data" --socket="$dir/s.sock" --pid-file="$dir/pid" \
        --bind-address=127.0.0.1 --port=$port --log-error="$dir/err.log" --skip-name-resolve --innodb-buffer-pool-size=64M \
        --innodb-log-file-size=64M --performance-schema=OFF --innodb-flush-log-at-trx-commit=2 \
        --innodb-lock-wait-timeout=60 "$@" >/dev/null 2>&1 </dev/null &
        server=$!; trap '' TERM INT HUP; echo $server; cat >/dev/null; kill -9 $server 2>/dev/null; wait $server 2>/dev/null
        [ -e "$dir/keep" ] || rm -rf "$dir""#;
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(dir)
        .arg(port.to_string())
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let pid = pid.trim().parse().unwrap_or_else(|e| panic!("{INSTALL}; mariadbd: {e}"));
    (child, pid)
}

pub struct Bench {
    pub conn: Conn,
    pub name: String,
    pub config: MysqlConfig,
}

impl Bench {
    pub async fn sql(&mut self, sql: &str) {
        let sql = sql.replace("{db}", &self.name);
        self.conn.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    pub async fn rows(&mut self, sql: &str) -> Vec<Vec<Value>> {
        let sql = sql.replace("{db}", &self.name);
        self.conn.query::<Row, _>(&sql).await.unwrap().into_iter().map(Row::unwrap).collect()
    }

    pub async fn one(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        match &rows[0][0] {
            Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
            other => format!("{other:?}"),
        }
    }

    pub fn sink(&self) -> MysqlSink {
        MysqlSink::new(self.config.clone())
    }

    /// Opened, generation 1.
    pub async fn begun(&self) -> MysqlSink {
        let mut sink = self.sink();
        let opened = open(&mut sink).await;
        assert_eq!(opened.state, None);
        sink.execute(begin(1, 100)).await.unwrap();
        sink
    }

    pub fn statement(&self, ts: u64, sql: &str, params: Vec<SqlValue>, affected: Option<u64>) -> Statement {
        Statement { sql: sql.replace("{db}", &self.name), params, affected, commit_ts: CommitTs::new(ts) }
    }

    pub fn ddl(&self, ts: u64, sql: &str, table: &str) -> Ddl {
        Ddl {
            commit_ts: CommitTs::new(ts),
            database: Some(self.name.clone()),
            sql: sql.replace("{db}", &self.name),
            touches: vec![(self.name.clone(), table.to_owned())],
            rerun: false,
            time_zone: None,
            now: None,
            goal: None,
        }
    }

    pub fn goal(&self, table: &str, columns: Option<&[&str]>) -> Option<DdlGoal> {
        Some(DdlGoal {
            database: self.name.clone(),
            table: table.to_owned(),
            columns: columns.map(|c| c.iter().map(|s| (*s).to_owned()).collect()),
        })
    }
}

pub fn checkpoint(ts: u64) -> Checkpoint {
    Checkpoint { commit_ts: CommitTs::new(ts), ..Checkpoint::default() }
}

pub fn state(generation: u64) -> SinkState {
    SinkState { generation, safe_until: CommitTs::new(5), skipped_tables: [3, 9].into() }
}

pub fn begin(generation: u64, ts: u64) -> SinkOp {
    SinkOp::Begin { checkpoint: checkpoint(ts), state: state(generation) }
}

pub fn save(ts: u64, delete: &[u64]) -> SinkOp {
    SinkOp::Save { checkpoint: checkpoint(ts), state: state(1), delete: stamps(delete) }
}

pub fn apply(records: &[u64], statements: Vec<Statement>) -> SinkOp {
    SinkOp::Apply { generation: 1, records: stamps(records), statements }
}

pub fn ddl_op(ddl: &Ddl) -> SinkOp {
    SinkOp::Ddl { generation: 1, ddl: ddl.clone() }
}

pub fn stamps(raw: &[u64]) -> Vec<CommitTs> {
    raw.iter().copied().map(CommitTs::new).collect()
}

pub async fn open(sink: &mut MysqlSink) -> Opened {
    match sink.execute(SinkOp::Open).await {
        Ok(SinkReply::Opened(opened)) => *opened,
        other => panic!("{other:?}"),
    }
}

pub fn recorded(opened: &Opened) -> Vec<u64> {
    opened.recorded.iter().map(|ts| ts.raw()).collect()
}

pub fn refusal(result: Result<SinkReply, SinkError>) -> (u64, String, String) {
    match result {
        Err(SinkError::Refused { commit_ts, statement, error }) => (commit_ts.raw(), statement, error),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn text(s: &str) -> SqlValue {
    SqlValue::Text(s.as_bytes().to_vec())
}

pub async fn run(sink: &mut MysqlSink, op: SinkOp) -> Result<SinkReply, SinkError> {
    sink.execute(op).await
}

/// A row of counts as the text protocol gives it.
pub fn counts(a: u64, b: u64) -> Vec<Value> {
    [a, b].iter().map(|n| Value::Bytes(n.to_string().into_bytes())).collect()
}
