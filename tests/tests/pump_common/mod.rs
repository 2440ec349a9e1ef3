//! What the Pump's end-to-end tests share: a stand-in cluster, a Pump's process that can be killed and started again, and the
//! calls of its peers.
#![allow(dead_code)]

use binlog_cluster::generated::binlog::pump_client::PumpClient;
use binlog_core::proto::binlog::{Binlog, Pos, PullBinlogReq, WriteBinlogReq};
use binlog_standin::{Options, Standin};
use binlog_tests::feed;
use binlog_tests::harness::{Process, WorkDir, binary, free_port, http_get};
use bytes::Bytes;
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Generous: CI machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const POLL: Duration = Duration::from_millis(10);
/// No limit of space that a small machine would meet.
pub const CONFIG: &str = "[storage]\nsegment-size = \"4 mib\"\nstop-write-at-available-space = \"1 mib\"\n";

pub const PREWRITE: i32 = 0;
pub const COMMIT: i32 = 1;
pub const ROLLBACK: i32 = 2;

/// A stand-in cluster on the wall clock, in its own directory.
pub async fn cluster(work: &WorkDir) -> Standin {
    let standin =
        Standin::start(Options { work_dir: Some(work.path().join("etcd")), ..Options::default() }).await.unwrap();
    standin.shared.tso().wall();
    standin
}

/// A fresh timestamp of the cluster's own clock.
pub fn tso(standin: &binlog_standin::Shared) -> i64 {
    let (physical, logical) = standin.tso().get(1).expect("the clock runs");
    (physical << 18) | logical
}

pub fn p(start_ts: i64, value: Vec<u8>) -> Bytes {
    let key = Some(Bytes::from_static(b"t\x80\0\0\0\0\0\0\x01_r"));
    let value = Some(Bytes::from(value));
    binlog(Binlog { tp: PREWRITE, start_ts, prewrite_key: key, prewrite_value: value, ..Binlog::default() })
}

pub fn c(start_ts: i64, commit_ts: i64) -> Bytes {
    binlog(Binlog { tp: COMMIT, start_ts, commit_ts, ..Binlog::default() })
}

pub fn r(start_ts: i64) -> Bytes {
    binlog(Binlog { tp: ROLLBACK, start_ts, ..Binlog::default() })
}

fn binlog(binlog: Binlog) -> Bytes {
    binlog.encode_to_vec().into()
}

pub type Client = PumpClient<Channel>;

pub async fn write(client: &mut Client, cluster_id: u64, payload: Bytes) -> Result<(), Status> {
    let reply = client.write_binlog(WriteBinlogReq { cluster_id, payload }).await?;
    assert_eq!(reply.into_inner().errmsg, "", "a refusal is a gRPC error");
    Ok(())
}

pub async fn pull(
    client: &mut Client,
    cluster_id: u64,
    last: i64,
) -> Result<Streaming<binlog_core::proto::binlog::PullBinlogResp>, Status> {
    let start_from = Some(Pos { suffix: 0, offset: last });
    client.pull_binlogs(PullBinlogReq { cluster_id, start_from }).await.map(tonic::Response::into_inner)
}

/// One item: its commit timestamp, and what was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub commit_ts: i64,
    pub payload: Bytes,
}

impl Item {
    pub fn binlog(&self) -> Binlog {
        Binlog::decode(self.payload.clone()).expect("an item decodes")
    }

    pub fn is_fake(&self) -> bool {
        let binlog = self.binlog();
        binlog.start_ts == binlog.commit_ts
    }
}

/// The next item; an error when the stream ends or stays silent.
pub async fn next(stream: &mut Streaming<binlog_core::proto::binlog::PullBinlogResp>) -> Result<Item, Status> {
    let reply = tokio::time::timeout(PATIENCE, stream.message()).await.map_err(|_| Status::cancelled("silent"))??;
    let entity = reply.and_then(|r| r.entity).ok_or_else(|| Status::cancelled("the stream ended"))?;
    let meta = entity.meta.expect("an item has its timestamps");
    Ok(Item { commit_ts: meta.commit_ts, payload: entity.payload })
}

/// Everything above `last` up to and with the first item at or above `until`.
pub async fn pull_until(address: &str, cluster_id: u64, last: i64, until: i64) -> Result<Vec<Item>, Status> {
    let mut client = feed::client(address).unwrap();
    let mut stream = pull(&mut client, cluster_id, last).await?;
    let mut items = Vec::new();
    while items.last().is_none_or(|item: &Item| item.commit_ts < until) {
        items.push(next(&mut stream).await?);
    }
    Ok(items)
}

/// A Pump on one directory, through all its lives.
pub struct Node {
    pub node_id: String,
    pub address: String,
    pub data: PathBuf,
    pub log: PathBuf,
    pub config_file: PathBuf,
    output: PathBuf,
    /// Flags; may be changed between two lives.
    pub flags: Vec<String>,
    pub process: Option<Process>,
}

impl Node {
    /// Not started.
    pub fn new(work: &Path, node_id: &str, pd_url: &str, config: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let file = |suffix: &str| work.join(format!("{node_id}.{suffix}"));
        let (config_file, data, log) = (file("toml"), file("data"), file("log"));
        fs::write(&config_file, config).unwrap();
        let text = |path: &Path| path.display().to_string();
        let flags = [
            ("-addr", address.clone()),
            ("-pd-urls", pd_url.to_owned()),
            ("-data-dir", text(&data)),
            ("-log-file", text(&log)),
            ("-node-id", node_id.to_owned()),
            ("-fake-binlog-interval", "1".to_owned()),
            ("-config", text(&config_file)),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        Self { node_id: node_id.into(), address, data, log, config_file, output: file("out"), flags, process: None }
    }

    /// Replaces (or adds) a flag for the next life.
    pub fn set(&mut self, flag: &str, value: &str) {
        match self.flags.iter().position(|f| f == flag) {
            Some(at) => self.flags[at + 1] = value.to_owned(),
            None => self.flags.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    pub fn spawn(&mut self) {
        let mut command = Command::new(binary("pump").unwrap());
        self.spawn_with(command.args(self.flags.clone()));
    }

    /// `command` runs the Pump; `flags` are its own affair.
    pub fn spawn_with(&mut self, command: &mut Command) {
        let process = Process::start(&self.node_id, command, &self.output).unwrap();
        self.process = Some(process.with_log(&self.log));
    }

    /// Starts it and waits until it is online.
    pub async fn start(&mut self) {
        self.spawn();
        self.online().await;
    }

    pub async fn online(&mut self) {
        self.status_becomes("is online", |own| own["state"] == "online").await;
    }

    /// Polls `pump` of `/status`.
    pub async fn status_becomes(&mut self, what: &str, want: impl Fn(&serde_json::Value) -> bool) {
        let address = self.address.clone();
        let probe = async || status(&address).await.is_some_and(|own| want(&own));
        self.process.as_mut().unwrap().wait_until(what, PATIENCE, probe).await.unwrap();
    }

    /// Waits until the log says `text`.
    pub async fn says(&mut self, text: &str) {
        let (log, what) = (self.log.clone(), format!("says {text:?}"));
        let probe = async || fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
        self.process.as_mut().unwrap().wait_until(&what, PATIENCE, probe).await.unwrap();
    }

    pub fn kill(&mut self) {
        self.process.as_mut().unwrap().kill();
        self.process = None;
    }

    /// SIGTERM; its exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.take().unwrap().terminate(PATIENCE).await.unwrap()
    }

    /// Waits for an end by itself; exit code and everything it said.
    pub async fn ends(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.as_mut().unwrap().ended().unwrap() {
                return (status.code(), fs::read_to_string(&self.output).unwrap() + &self.log_text());
            }
            assert!(Instant::now() < deadline, "it runs on: {}", self.log_text());
            tokio::time::sleep(POLL).await;
        }
    }

    pub fn client(&self) -> Client {
        feed::client(&self.address).unwrap()
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lines of the log of this level that contain `text`.
    pub fn lines(&self, level: &str, text: &str) -> Vec<String> {
        let mark = format!("] [{level}] [");
        self.log_text().lines().filter(|l| l.contains(&mark) && l.contains(text)).map(ToOwned::to_owned).collect()
    }
}

/// `pump` of `/status`.
pub async fn status(address: &str) -> Option<serde_json::Value> {
    let body = http_get(address, "/status").await.ok()?;
    let mut value: serde_json::Value = serde_json::from_str(&body).ok()?;
    Some(value["pump"].take()).filter(|own| !own.is_null())
}
