//! Writes binlogs to a cluster of Pumps as TiDB does (spec pump 8).
//!
//! A transaction writes its *prewrite* and waits for the acknowledgement before it asks for a commit timestamp; then it writes the
//! commit (or the rollback), which goes to the Pump that acknowledged the prewrite. The client follows the registry in PD,
//! chooses a Pump by [`Strategy`], retries, sets ill Pumps aside and probes them. One client serves a whole process: clone it.
//!
//! ```no_run
//! use binlog_core::proto::binlog::{Binlog, BinlogType};
//! use binlog_pump_client::{Options, PumpClient};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = PumpClient::connect(Options::new(["http://127.0.0.1:2379"])).await?;
//! let (start_ts, commit_ts) = (412_518_831_338_292_471, 412_518_831_338_292_475);
//! let prewrite = Binlog { tp: BinlogType::Prewrite as i32, start_ts, ..Binlog::default() };
//! client.prewrite(&prewrite).await?; // an error: the transaction must not commit
//! let commit = Binlog { tp: BinlogType::Commit as i32, start_ts, commit_ts, ..Binlog::default() };
//! client.finish(&commit).await; // best effort: a Pump that misses it asks TiKV
//! # Ok(())
//! # }
//! ```
//!
//! What is decided here and what is not: which Pump, when again, when to give up are [`binlog_core::client`]'s decisions; this
//! crate sends, waits and watches.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod connections;
mod follow;

pub use binlog_cluster::tls::Security;
pub use binlog_core::client::choose::{Strategy, UnknownStrategy};
pub use binlog_core::client::pumps::View;
pub use binlog_core::client::write::WriteError;

use binlog_cluster::error::{PdError, RegistryError};
use binlog_cluster::pd::PdClient;
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::client::Client;
use binlog_core::client::write::{End, Kind, Step};
use binlog_core::ids::{ClusterId, StartTs};
use binlog_core::proto::binlog::Binlog;
use binlog_core::time::MonoTime;
use bytes::Bytes;
use connections::Connections;
use prost::Message;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a client finds and uses Pumps.
#[derive(Debug, Clone)]
pub struct Options {
    /// PD's client addresses, with or without scheme.
    pub pd_urls: Vec<String>,
    pub strategy: Strategy,
    /// Deadline of one attempt; TiDB's `[binlog] write-timeout`.
    pub write_timeout: Duration,
    /// TLS material; plaintext by default.
    pub security: Security,
}

impl Options {
    /// TiDB's defaults: strategy `range`, 15 s for each attempt.
    pub fn new<U: Into<String>>(pd_urls: impl IntoIterator<Item = U>) -> Self {
        Self {
            pd_urls: pd_urls.into_iter().map(Into::into).collect(),
            strategy: Strategy::default(),
            write_timeout: Duration::from_secs(15),
            security: Security::plaintext(),
        }
    }
}

/// Why a client cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Pd(#[from] PdError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// As TiDB, which does not start then. Pumps that are not online count as found.
    #[error("no pump found in pd: start a Pump first")]
    NoPump,
    #[error("the strategy \"local unix\" needs a socket: use PumpClient::local")]
    NoSocket,
}

/// How the commit or rollback of a transaction ended; never an error of the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The Pump with this node id has it.
    Stored(String),
    /// It has not: it will find the outcome in TiKV.
    GivenUp(WriteError),
}

/// A client of all Pumps of a cluster. Clones share everything.
#[derive(Clone)]
pub struct PumpClient {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: ClusterId,
    decisions: Mutex<Client>,
    connections: Connections,
    born: Instant,
    write_timeout: Duration,
}

impl PumpClient {
    /// Finds the cluster through PD, lists its Pumps and follows them from then on.
    ///
    /// # Errors
    /// See [`ConnectError`]; one pass, the caller decides whether to try again.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        if options.strategy == Strategy::LocalSocket {
            return Err(ConnectError::NoSocket);
        }
        let pd = PdClient::connect_with(&options.pd_urls, &options.security).await?;
        let registry = Registry::with_security(&options.pd_urls, &options.security)?;
        let (pumps, watch) = registry.watch(NodeKind::Pump).await?;
        if pumps.is_empty() {
            return Err(ConnectError::NoPump);
        }
        let mut decisions = Client::new(options.strategy, millis(options.write_timeout), getrandom::u64().unwrap_or(0));
        pumps.iter().for_each(|status| decisions.registered(status));
        let client = Self::with(pd.cluster_id(), decisions, options.security, options.write_timeout);
        tokio::spawn(follow::registry(Arc::downgrade(&client.inner), registry, watch));
        tokio::spawn(follow::probes(Arc::downgrade(&client.inner)));
        Ok(client)
    }

    /// A client of the one Pump that listens on a unix socket: its path, or `unix:///run/pump.sock`; no registry is read.
    #[must_use]
    pub fn local(socket: &str, cluster: ClusterId, write_timeout: Duration) -> Self {
        let url = if socket.starts_with('/') { format!("unix://{socket}") } else { socket.to_owned() };
        let decisions = Client::local(&url, millis(write_timeout));
        Self::with(cluster, decisions, Security::plaintext(), write_timeout)
    }

    fn with(cluster: ClusterId, decisions: Client, security: Security, write_timeout: Duration) -> Self {
        let (decisions, connections) = (Mutex::new(decisions), Connections::new(security));
        Self { inner: Arc::new(Inner { cluster, decisions, connections, born: Instant::now(), write_timeout }) }
    }

    /// Writes a prewrite; `Ok` names the Pump that has it.
    ///
    /// # Errors
    /// No Pump acknowledged it: the transaction must not commit. (One may hold it nevertheless; it will find out from TiKV.)
    pub async fn prewrite(&self, binlog: &Binlog) -> Result<String, WriteError> {
        self.prewrite_payload(start_ts(binlog), binlog.encode_to_vec().into()).await
    }

    /// [`PumpClient::prewrite`] of a binlog that is serialised already.
    ///
    /// # Errors
    /// As [`PumpClient::prewrite`].
    pub async fn prewrite_payload(&self, start_ts: StartTs, payload: Bytes) -> Result<String, WriteError> {
        match self.write(Kind::Prewrite, start_ts, payload).await {
            End::Stored { node_id } => Ok(node_id),
            End::Failed(error) | End::GivenUp(error) => Err(error),
        }
    }

    /// Writes the commit or rollback of a transaction to the Pump that acknowledged its prewrite; tries for ten minutes.
    pub async fn finish(&self, binlog: &Binlog) -> Finished {
        self.finish_payload(start_ts(binlog), binlog.encode_to_vec().into()).await
    }

    /// [`PumpClient::finish`] of a binlog that is serialised already.
    pub async fn finish_payload(&self, start_ts: StartTs, payload: Bytes) -> Finished {
        match self.write(Kind::Outcome, start_ts, payload).await {
            End::Stored { node_id } => Finished::Stored(node_id),
            End::Failed(error) | End::GivenUp(error) => Finished::GivenUp(error),
        }
    }

    /// The Pumps as this client sees them, by node id.
    #[must_use]
    pub fn pumps(&self) -> Vec<View> {
        self.inner.decisions().pumps().view()
    }

    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster
    }

    async fn write(&self, kind: Kind, start_ts: StartTs, payload: Bytes) -> End {
        // Where no Pump is available the answer is there at once: who tries again in a loop must not starve its runtime.
        tokio::task::yield_now().await;
        let inner = &*self.inner;
        let mut write = inner.decisions().begin(inner.now(), kind, start_ts);
        loop {
            let step = inner.decisions().next(inner.now(), &mut write);
            match step {
                Step::Send(target) => {
                    let outcome =
                        inner.connections.send(&target, inner.cluster, payload.clone(), inner.write_timeout).await;
                    inner.decisions().attempted(inner.now(), &mut write, &target, &outcome);
                }
                Step::WaitUntil(until) => {
                    let until = inner.born + Duration::from_nanos(until.nanos());
                    tokio::time::sleep_until(until.into()).await;
                }
                Step::End(end) => return end,
            }
        }
    }
}

impl std::fmt::Debug for PumpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PumpClient").field("cluster", &self.inner.cluster).field("pumps", &self.pumps()).finish()
    }
}

impl Inner {
    /// Held for a decision only, never while something is awaited.
    fn decisions(&self) -> MutexGuard<'_, Client> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> MonoTime {
        MonoTime::from_nanos(u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A negative one is no transaction's; the Pump refuses it.
fn start_ts(binlog: &Binlog) -> StartTs {
    StartTs::new(u64::try_from(binlog.start_ts).unwrap_or(0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
