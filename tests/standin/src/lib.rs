//! A stand-in for a TiDB cluster: one process that answers like PD and TiKV where a Pump, a Drainer or a tool asks them.
//!
//! What PD and TiKV say is decided by the simulator's models (`binlog_sim_models::{pd, tikv}`); this crate is their second
//! face: real ports, real messages, the host's clock. PD's port serves PD over gRPC and forwards etcd's calls unchanged to a
//! private etcd process, so that the registry is a real one. TiKV's port serves snapshot reads, the history of a key and the
//! status of a transaction. A third port is for the operator of a test (`control`, and `client` that speaks to it). The forms
//! of all answers follow a recorded PD and TiKV (test `recorded_replies`); what the cluster "knows" comes from a capture
//! (`capture`, `Shared::load_capture`), from commands, or from a test that calls the models.
//!
//! It is a test double: it holds everything in memory and forgets it at its end.

pub mod capture;
pub mod client;
pub mod control;
mod etcd;
pub mod faults;
mod pd;
pub mod process;
pub mod regions;
mod tikv;
mod tls_front;
pub mod tso;

use anyhow::{Context, Result};
use binlog_cluster::generated::pdpb::pd_server::PdServer;
use binlog_cluster::generated::tikvpb::tikv_server::TikvServer;
use binlog_cluster::tls::Security;
use binlog_core::time::Tso;
use binlog_sim_models::tikv::{Mutation, Tikv};
use capture::Capture;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// What may be chosen; port 0 takes a free one.
#[derive(Debug, Clone)]
pub struct Options {
    pub pd_port: u16,
    pub tikv_port: u16,
    pub control_port: u16,
    /// Until a capture is loaded.
    pub cluster_id: u64,
    /// Where etcd's data and logs go; a temporary directory when absent.
    pub work_dir: Option<PathBuf>,
    /// TLS on PD's and TiKV's ports.
    pub security: Security,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pd_port: 0,
            tikv_port: 0,
            control_port: 0,
            cluster_id: 7_710_470_937_905_117_241,
            work_dir: None,
            security: Security::plaintext(),
        }
    }
}

/// The state that all services share.
pub struct Shared {
    cluster_id: AtomicU64,
    /// `http://host:port` of PD's port; `https` with TLS.
    pub pd_url: String,
    /// `host:port` of TiKV's port, as a store's address.
    pub tikv_addr: String,
    started_ns: i64,
    tso: Mutex<tso::Clock>,
    tikv: Mutex<Tikv>,
    /// What is wrong with TiKV.
    pub faults: faults::Faults,
}

/// Start and commit of the transaction that wrote what a capture holds: below every version that anybody reads.
const LOADED: (u64, u64) = (1, 2);

impl Shared {
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::SeqCst)
    }

    pub fn set_cluster_id(&self, id: u64) {
        self.cluster_id.store(id, Ordering::SeqCst);
    }

    /// PD: its clock, and the model behind it.
    pub fn tso(&self) -> MutexGuard<'_, tso::Clock> {
        self.tso.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh timestamp; `None` during an outage.
    pub fn timestamp(&self) -> Option<Tso> {
        let (physical, logical) = self.tso().get(1)?;
        Some(Tso::compose(u64::try_from(physical).ok()?, u64::try_from(logical).ok()?))
    }

    /// TiKV's keys. Do not hold it while taking [`Shared::tso`].
    pub fn tikv(&self) -> MutexGuard<'_, Tikv> {
        self.tikv.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value that reads of every version see.
    ///
    /// # Errors
    /// The key has one.
    pub fn put_loaded(&self, key: &[u8], value: Vec<u8>) -> Result<()> {
        let put = self.tikv().put_commit(key, Mutation::Put(value.into()), LOADED.0, LOADED.1);
        put.map_err(|error| anyhow::anyhow!("load key {key:02x?}: {error:?}"))
    }

    /// Takes over what a capture knows: cluster id, meta keys, evidence of transactions, and the range of its timestamps (the
    /// clock itself changes only with `tso().start()`). Load before clients connect: they remember the cluster id.
    pub fn load_capture(&self, capture: &Capture) -> Result<()> {
        let meta = capture.meta_kv()?;
        let evidence = capture.evidence()?;
        let range = capture.ts_range().context("the capture has no record")?;
        self.set_cluster_id(capture.facts.cluster_id);
        *self.tikv() = Tikv::default();
        for (key, value) in meta {
            self.put_loaded(&key, value)?;
        }
        let mut tikv = self.tikv();
        for item in evidence {
            // Evidence is a write without a value: it must not hide the values at the end of the recording.
            let put = match item.commit_ts {
                Some(commit_ts) => tikv.put_commit(&item.key, Mutation::Lock, item.start_ts, commit_ts),
                None => tikv.rollback(std::slice::from_ref(&item.key), item.start_ts),
            };
            put.map_err(|error| anyhow::anyhow!("evidence of transaction {}: {error:?}", item.start_ts))?;
        }
        drop(tikv);
        let mut clock = self.tso();
        clock.set_capture(range);
        clock.forget_safe_points();
        Ok(())
    }
}

/// A running stand-in; everything ends when it is dropped.
pub struct Standin {
    pub shared: Arc<Shared>,
    /// `http://host:port` of the operator's port.
    pub control_url: String,
    tasks: Vec<JoinHandle<()>>,
    etcd: etcd::PrivateEtcd,
}

impl Standin {
    /// Binds the ports, starts the private etcd and serves. Returns when clients may connect.
    pub async fn start(options: Options) -> Result<Self> {
        let pd = bind(options.pd_port).await.context("PD's port")?;
        let tikv = bind(options.tikv_port).await.context("TiKV's port")?;
        let control = bind(options.control_port).await.context("the control port")?;
        let scheme = if options.security.is_tls() { "https" } else { "http" };
        let pd_url = format!("{scheme}://{}", pd.local_addr()?);
        let control_url = format!("http://{}", control.local_addr()?);
        let shared = Arc::new(Shared {
            cluster_id: AtomicU64::new(options.cluster_id),
            tikv_addr: tikv.local_addr()?.to_string(),
            started_ns: i64::try_from(tso::wall_ms()).unwrap_or(0).saturating_mul(1_000_000),
            tso: Mutex::new(tso::Clock::default()),
            tikv: Mutex::default(),
            faults: faults::Faults::default(),
            pd_url: pd_url.clone(),
        });
        let (pd, pd_front) = tls_front::before(pd, &options.security).await?;
        let (tikv, tikv_front) = tls_front::before(tikv, &options.security).await?;
        let etcd = etcd::PrivateEtcd::start(&pd_url, options.work_dir.as_deref()).await?;

        let (channel, registry) = (etcd.channel()?, shared.clone());
        let pd_routes = tonic::service::Routes::new(PdServer::new(pd::PdService(shared.clone())))
            .into_axum_router()
            .fallback(move |request| {
                let channel = Some(channel.clone()).filter(|_| registry.tso().is_up());
                etcd::forward(channel, request)
            });
        let pd_server = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(pd_routes))
            .serve_with_incoming(TcpListenerStream::new(pd));
        let tikv_server = tonic::transport::Server::builder()
            .add_service(TikvServer::new(tikv::TikvService(shared.clone())).max_decoding_message_size(usize::MAX))
            .serve_with_incoming(TcpListenerStream::new(tikv));
        let control_router = control::router(shared.clone());
        let mut tasks = vec![
            tokio::spawn(async move { report("PD", pd_server.await) }),
            tokio::spawn(async move { report("TiKV", tikv_server.await) }),
            tokio::spawn(async move { report("control", axum::serve(control, control_router).await) }),
        ];
        tasks.extend(pd_front.into_iter().chain(tikv_front));
        Ok(Self { shared, control_url, tasks, etcd })
    }

    /// Fails with the tail of its log when the private etcd has died.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.process.check()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn bind(port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}: is another process using the port?"))
}

fn report<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("standin: the {what} server ended: {error}");
    }
}
