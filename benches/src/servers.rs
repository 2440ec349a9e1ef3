//! The processes that are measured: the real Pump beside a stand-in for PD, and a gRPC server that does nothing.

use crate::plain::SERVE_PLAIN;
use anyhow::{Context, Result, bail};
use binlog_cluster::generated::binlog::pump_server::{Pump as PumpService, PumpServer};
use binlog_cluster::pump_client::PumpWriter;
use binlog_core::ids::ClusterId;
use binlog_core::proto::binlog::{PullBinlogReq, PullBinlogResp, WriteBinlogReq, WriteBinlogResp};
use binlog_standin::process::{Process, free_port, http_get, http_post};
use bytes::Bytes;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::{Request, Response, Status};

const READY: Duration = Duration::from_secs(60);
/// Between attempts at a Pump that starts.
const ATTEMPT: Duration = Duration::from_millis(1);

/// A release binary beside this one.
fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no `{name}` beside {}: ./x bench pump builds it", own.display()))
}

/// A Pump with a data directory of its own, which is removed when it is dropped.
pub struct Pump {
    pub address: String,
    pub data: PathBuf,
    arguments: Vec<String>,
    process: Process,
    output: PathBuf,
    cluster: ClusterId,
}

impl Pump {
    /// Starts it on a fresh directory below `work` and waits until it takes prewrites.
    pub async fn start(work: &Path, name: &str, pd_url: &str, cluster: ClusterId, config: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let file = |suffix: &str| work.join(format!("{name}.{suffix}"));
        fs::write(file("toml"), config).context("write the Pump's configuration")?;
        let (data, output) = (file("data"), file("out"));
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            ("-addr", address.clone()),
            ("-pd-urls", pd_url.to_owned()),
            ("-data-dir", text(&data)),
            ("-node-id", name.to_owned()),
            ("-config", text(&file("toml"))),
        ];
        let arguments: Vec<String> = arguments.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect();
        let process = Process::start(name, Command::new(binary("pump")?).args(&arguments), &output)?;
        let mut pump = Self { address, data, arguments, process, output, cluster };
        pump.wait_until_it_writes().await?;
        Ok(pump)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// What `GET /status/pump` says.
    pub async fn status(&self) -> Result<serde_json::Value> {
        let text = http_get(&self.address, "/status/pump").await?;
        serde_json::from_str(&text).with_context(|| format!("/status/pump: {text}"))
    }

    /// Begins a round of GC.
    pub async fn collect(&self) -> Result<()> {
        http_post(&self.address, "/debug/gc/trigger").await.map(|_| ())
    }

    /// SIGKILL and a new life; how long it took from the start of the process until it took a prewrite.
    pub async fn kill_and_reopen(&mut self) -> Result<Duration> {
        self.process.kill();
        let begin = Instant::now();
        self.process = Process::start("pump", Command::new(binary("pump")?).args(&self.arguments), &self.output)?;
        self.wait_until_it_writes().await?;
        Ok(begin.elapsed())
    }

    /// A probe is refused until prewrites are taken (spec pump 1.4).
    async fn wait_until_it_writes(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        let mut writer = None;
        loop {
            self.process.check()?;
            if writer.is_none() && TcpStream::connect(&self.address).await.is_ok() {
                writer = PumpWriter::connect(&self.address).await.ok();
            }
            if let Some(writer) = &writer
                && writer.write(self.cluster, Bytes::new()).await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the Pump takes no prewrites after {READY:?}\n{}", binlog_standin::process::tail(&self.output));
            }
            tokio::time::sleep(ATTEMPT).await;
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.process.kill();
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// This program again, as a server that is a limit: `serve-empty` or `serve-plain`.
pub struct Empty {
    pub address: String,
    process: Process,
}

/// The argument that makes this program the empty server.
pub const SERVE_EMPTY: &str = "serve-empty";

impl Empty {
    pub async fn start(work: &Path) -> Result<Self> {
        Self::start_as(work, SERVE_EMPTY, &[]).await
    }

    /// Sends the log of `pump`, read from beginning to end and cut into items of `item` bytes.
    pub async fn start_plain(work: &Path, pump: &Pump, item: usize) -> Result<Self> {
        let dir = pump.data.join("log").display().to_string();
        Self::start_as(work, SERVE_PLAIN, &[dir, item.to_string()]).await
    }

    async fn start_as(work: &Path, what: &str, arguments: &[String]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let own = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(own);
        command.args([what, &address]).args(arguments);
        let mut process = Process::start(what, &mut command, &work.join(format!("{what}.out")))?;
        process.wait_until("listens", READY, async || TcpStream::connect(&address).await.is_ok()).await?;
        Ok(Self { address, process })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// Serves until it is killed: tonic as it comes, the same service, an empty reply at once.
pub async fn serve_empty(address: &str) -> Result<()> {
    let address = address.parse().with_context(|| format!("{address}: not an address"))?;
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(PumpServer::new(Nothing).max_decoding_message_size(usize::MAX))
        .serve(address)
        .await
        .context("the empty server")
}

struct Nothing;

#[tonic::async_trait]
impl PumpService for Nothing {
    async fn write_binlog(&self, _: Request<WriteBinlogReq>) -> Result<Response<WriteBinlogResp>, Status> {
        Ok(Response::new(WriteBinlogResp::default()))
    }

    type PullBinlogsStream = tokio_stream::Empty<Result<PullBinlogResp, Status>>;

    async fn pull_binlogs(&self, _: Request<PullBinlogReq>) -> Result<Response<Self::PullBinlogsStream>, Status> {
        Err(Status::unimplemented("the empty server only takes writes"))
    }
}
