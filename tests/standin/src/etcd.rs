//! The private etcd and the forwarding of its calls on PD's port.
//!
//! PD embeds an etcd and serves it on its own client port. Here a real etcd process runs beside, and requests to its
//! services are passed on as they are: path, headers, the bytes of both bodies, trailers. etcd advertises PD's port as its
//! client URL, so that a client that asks for the member list comes back to it.

use crate::process::{Process, free_port, http_get, require};
use anyhow::{Context, Result};
use axum::body::Body;
use axum::http::{Request, Response};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tonic::Status;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

/// Services of an etcd; others are not PD's.
const SERVICES: [&str; 3] = ["/etcdserverpb.", "/v3lockpb.", "/v3electionpb."];
/// Another process may take a port between our choice and etcd's bind.
const STARTS: u32 = 3;
const READY: Duration = Duration::from_secs(60);

pub(crate) struct PrivateEtcd {
    pub process: Process,
    url: String,
    _temp: Option<TempDir>,
}

impl PrivateEtcd {
    /// Starts etcd with its data and log below `work_dir`; `advertise` is PD's URL.
    pub async fn start(advertise: &str, work_dir: Option<&Path>) -> Result<Self> {
        require("etcd", "etcd-server")?;
        let temp =
            if work_dir.is_none() { Some(TempDir::new().context("a temporary directory for etcd")?) } else { None };
        let dir = work_dir.or(temp.as_ref().map(TempDir::path)).context("no directory for etcd")?.to_path_buf();
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut attempt = 1;
        loop {
            match Self::start_once(advertise, &dir).await {
                Ok((process, url)) => return Ok(Self { process, url, _temp: temp }),
                Err(error) if attempt >= STARTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    async fn start_once(advertise: &str, dir: &Path) -> Result<(Process, String)> {
        let (client, peer) = (free_port()?, free_port()?);
        let (url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        // Variables of a system etcd would override our flags.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
            .args(["--name", "pd", "--log-level", "warn", "--unsafe-no-fsync", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", advertise])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("pd={peer_url}")]);
        let mut process = Process::start("etcd", &mut command, &dir.join("etcd.log"))?;
        let address = format!("127.0.0.1:{client}");
        process
            .wait_until("is healthy", READY, async || {
                http_get(&address, "/health").await.is_ok_and(|body| body.contains("true"))
            })
            .await?;
        Ok((process, url))
    }

    /// A lazy connection to it.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url.clone())?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_lazy())
    }
}

/// Passes on a call that PD's own service does not know; without a channel PD is away.
pub(crate) async fn forward(channel: Option<Channel>, request: Request<Body>) -> Response<tonic::body::Body> {
    let Some(mut channel) = channel else { return Status::unavailable("PD is away").into_http() };
    let path = request.uri().path();
    if !SERVICES.iter().any(|service| path.starts_with(service)) {
        return Status::unimplemented(format!("the stand-in does not know {path}")).into_http();
    }
    let request = request.map(tonic::body::Body::new);
    if let Err(error) = futures::future::poll_fn(|cx| channel.poll_ready(cx)).await {
        return Status::unavailable(format!("the private etcd is away: {error}")).into_http();
    }
    match channel.call(request).await {
        Ok(response) => response,
        Err(error) => Status::unavailable(format!("the private etcd is away: {error}")).into_http(),
    }
}
