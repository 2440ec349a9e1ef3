//! A stand-in for a TiDB cluster: one process that answers like PD and TiKV where a Pump, a Drainer or a tool asks them.
//!
//! PD's port serves PD over gRPC and forwards etcd's calls unchanged to a private etcd process, so that the registry is a real
//! one. TiKV's port serves snapshot reads and the history of a key. A third port is for the operator of a test
//! (`control`). The forms of all answers follow a recorded PD and TiKV (test `recorded_replies`); what the cluster "knows"
//! comes from a capture (`capture`, `Shared::load_capture`).
//!
//! It is a test double: it holds everything in memory and forgets it at its end.

pub mod capture;
mod control;
mod etcd;
mod pd;
pub mod process;
pub mod regions;
pub mod safepoint;
pub mod store;
mod tikv;
mod tls_front;
pub mod tso;

use anyhow::{Context, Result};
use binlog_cluster::generated::pdpb::pd_server::PdServer;
use binlog_cluster::generated::tikvpb::tikv_server::TikvServer;
use binlog_cluster::tls::Security;
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
    store: Mutex<store::Store>,
    safe_points: Mutex<safepoint::SafePoints>,
}

impl Shared {
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::SeqCst)
    }

    pub fn set_cluster_id(&self, id: u64) {
        self.cluster_id.store(id, Ordering::SeqCst);
    }

    /// PD's clock.
    pub fn tso(&self) -> MutexGuard<'_, tso::Clock> {
        self.tso.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TiKV's keys.
    pub fn store(&self) -> MutexGuard<'_, store::Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// PD's GC safe points.
    pub fn safe_points(&self) -> MutexGuard<'_, safepoint::SafePoints> {
        self.safe_points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a capture knows: cluster id, meta keys, evidence of transactions, and the range of its timestamps (the
    /// clock itself changes only with `tso().start()`). Load before clients connect: they remember the cluster id.
    pub fn load_capture(&self, capture: &Capture) -> Result<()> {
        let meta = capture.meta_kv()?;
        let evidence = capture.evidence()?;
        let range = capture.ts_range().context("the capture has no record")?;
        self.set_cluster_id(capture.facts.cluster_id);
        let mut store = self.store();
        *store = store::Store::default();
        for (key, value) in meta {
            store.put_snapshot(key, value);
        }
        for item in evidence {
            store.add_evidence(item.key, item.start_ts, item.commit_ts);
        }
        drop(store);
        self.tso().set_capture(range);
        *self.safe_points() = safepoint::SafePoints::default();
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
            started_ns: tso::wall_ms().saturating_mul(1_000_000),
            tso: Mutex::new(tso::Clock::default()),
            store: Mutex::new(store::Store::default()),
            safe_points: Mutex::new(safepoint::SafePoints::default()),
            pd_url: pd_url.clone(),
        });
        let (pd, pd_front) = tls_front::before(pd, &options.security).await?;
        let (tikv, tikv_front) = tls_front::before(tikv, &options.security).await?;
        let etcd = etcd::PrivateEtcd::start(&pd_url, options.work_dir.as_deref()).await?;

        let channel = etcd.channel()?;
        let pd_routes = tonic::service::Routes::new(PdServer::new(pd::PdService(shared.clone())))
            .into_axum_router()
            .fallback(move |request| etcd::forward(channel.clone(), request));
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
