//! The registry of Pumps and Drainers in PD's etcd (spec pump 4.1).
//!
//! Keeps true: nothing but node statuses is ever written below `/tidb-binlog/v1/{pumps,drainers}/`, exactly one path element
//! deep (one bad key there stops every TiDB); reads are linearizable (rules 7: membership); nothing is deleted.
//! A server that was away is reconnected to; the addresses follow etcd's member list. Called by the drivers.

pub mod watch;

use crate::error::{BadAddress, RegistryError};
use crate::tls::Security;
use crate::transport;
use binlog_core::ids::NodeId;
use binlog_core::node::status::NodeStatus;
use etcd_client::{Channel, Client, Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    configured: Vec<String>,
    security: Security,
    state: Mutex<State>,
}

struct State {
    /// Addresses that the members announce; empty until the first answer.
    learned: Vec<String>,
    /// Counts connections: a failure reported for an older one must not drop its successor.
    generation: u64,
    client: Option<Client>,
    /// Which of the addresses is used; moves on at each failure. One at a time: a balancer would send every other request to a
    /// member that is down.
    turn: usize,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Pump,
    Drainer,
}

impl NodeKind {
    /// With the trailing slash: `.../pumps` alone would match siblings.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Pump => "/tidb-binlog/v1/pumps/",
            Self::Drainer => "/tidb-binlog/v1/drainers/",
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pump => "pump",
            Self::Drainer => "drainer",
        })
    }
}

/// Deadline of each request (spec pump 4.1).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the member list is read again.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// One attempt, so that another member can be tried before the deadline.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Largest listing, in bytes: a status has some 300, so this is a hundred thousand nodes.
const MAX_LISTING: usize = 64 << 20;
const MAX_ENDPOINTS: usize = 64;

impl Registry {
    /// A registry behind PD's addresses. Dials nothing yet: the first request does.
    ///
    /// # Errors
    /// An address that cannot be dialled as it is written, or none at all.
    pub fn new(pd_urls: &[String]) -> Result<Self, RegistryError> {
        Self::with_security(pd_urls, &Security::plaintext())
    }

    /// [`Registry::new`] with TLS, if `security` has it.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn with_security(pd_urls: &[String], security: &Security) -> Result<Self, RegistryError> {
        let normal = |u: &String| transport::normalize(u, security);
        let configured = pd_urls.iter().map(normal).collect::<Result<Vec<_>, _>>()?;
        if configured.is_empty() {
            return Err(BadAddress::new("", "no PD address is configured").into());
        }
        let state = State { learned: Vec::new(), generation: 0, client: None, turn: 0 };
        let inner = Arc::new(Inner { configured, security: security.clone(), state: Mutex::new(state) });
        let weak = Arc::downgrade(&inner);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let mut failing = false;
                loop {
                    tokio::time::sleep(SYNC_INTERVAL).await;
                    let Some(inner) = weak.upgrade() else { return };
                    let result = inner.sync().await;
                    // Once per outage.
                    if let Err(e) = &result
                        && !failing
                    {
                        tracing::warn!("members of the registry cannot be refreshed: {e}; trying again");
                    }
                    failing = result.is_err();
                }
            });
        }
        Ok(Self { inner })
    }

    /// How this client talks to the registry, and the node to its peers.
    #[must_use]
    pub fn security(&self) -> &Security {
        &self.inner.security
    }

    /// # Errors
    /// One value that is not a node status fails the listing, and the error names its key.
    pub async fn list_pumps(&self) -> Result<Vec<NodeStatus>, RegistryError> {
        self.list(NodeKind::Pump).await
    }

    /// # Errors
    /// As [`Registry::list_pumps`].
    pub async fn list_drainers(&self) -> Result<Vec<NodeStatus>, RegistryError> {
        self.list(NodeKind::Drainer).await
    }

    /// All nodes of a kind, by key, as of a moment after this call began.
    ///
    /// # Errors
    /// As [`Registry::list_pumps`].
    pub async fn list(&self, kind: NodeKind) -> Result<Vec<NodeStatus>, RegistryError> {
        let reply = self
            .request("list", |mut kv| async move { kv.get(kind.prefix(), Some(GetOptions::new().with_prefix())).await })
            .await?;
        reply.kvs().iter().map(|kv| decode(kv.key(), kv.value())).collect()
    }

    /// # Errors
    /// An id that cannot be a key, a value that is not a node status.
    pub async fn get(&self, kind: NodeKind, id: &str) -> Result<Option<NodeStatus>, RegistryError> {
        let key = key_of(kind, id)?;
        let reply = self
            .request("get", |mut kv| {
                let key = key.clone();
                async move { kv.get(key, None).await }
            })
            .await?;
        reply.kvs().first().map(|kv| decode(kv.key(), kv.value())).transpose()
    }

    /// Creates or replaces the entry of `status.node_id`, the last writer wins: the original's primitive.
    ///
    /// # Errors
    /// An id that cannot be a key; [`RegistryError::Conflict`] when the key appeared or vanished in between.
    pub async fn put(&self, kind: NodeKind, status: &NodeStatus) -> Result<(), RegistryError> {
        let key = key_of(kind, &status.node_id)?;
        let value =
            serde_json::to_vec(status).map_err(|e| RegistryError::BadValue { key: key.clone(), why: e.to_string() })?;
        let reply = self
            .request("put", |mut kv| {
                let (key, value) = (key.clone(), value.clone());
                async move {
                    let exists =
                        !kv.get(key.as_str(), Some(GetOptions::new().with_keys_only())).await?.kvs().is_empty();
                    let unchanged = if exists { CompareOp::Greater } else { CompareOp::Equal };
                    let txn = Txn::new()
                        .when(vec![Compare::mod_revision(key.as_str(), unchanged, 0)])
                        .and_then(vec![TxnOp::put(key.as_str(), value, None)]);
                    kv.txn(txn).await
                }
            })
            .await?;
        if reply.succeeded() { Ok(()) } else { Err(RegistryError::Conflict { key }) }
    }

    /// As [`Registry::put`], unless the entry carries a token that is neither ours nor `over` (the one that this process takes over,
    /// `node::claim`). An entry without a token, or one that cannot be read, is no conflict.
    ///
    /// # Errors
    /// [`RegistryError::Claimed`] when it does; else as [`Registry::put`].
    pub async fn put_own(&self, kind: NodeKind, status: &NodeStatus, over: Option<&str>) -> Result<(), RegistryError> {
        let key = key_of(kind, &status.node_id)?;
        let value =
            serde_json::to_vec(status).map_err(|e| RegistryError::BadValue { key: key.clone(), why: e.to_string() })?;
        let own = status.token.as_deref();
        self.request("put", |mut kv| {
            let (key, value) = (key.clone(), value.clone());
            async move {
                let found = kv.get(key.as_str(), None).await?;
                let entry = found.kvs().first();
                let theirs = entry.and_then(|kv| serde_json::from_slice::<NodeStatus>(kv.value()).ok());
                if let Some(theirs) = theirs
                    && let Some(token) = theirs.token.as_deref()
                    && Some(token) != own
                    && Some(token) != over
                {
                    let claimed = RegistryError::Claimed { key, host: theirs.host, state: theirs.state };
                    return Ok(Err(claimed));
                }
                // Nobody wrote since we looked, or we look again.
                let seen = entry.map_or(0, etcd_client::KeyValue::mod_revision);
                let txn = Txn::new()
                    .when(vec![Compare::mod_revision(key.as_str(), CompareOp::Equal, seen)])
                    .and_then(vec![TxnOp::put(key.as_str(), value, None)]);
                let reply = kv.txn(txn).await?;
                Ok(if reply.succeeded() { Ok(()) } else { Err(RegistryError::Conflict { key }) })
            }
        })
        .await?
    }

    /// Reads the member list at once.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn refresh_members(&self) -> Result<(), RegistryError> {
        self.inner.sync().await
    }

    /// Sends until it is answered or the deadline has passed, each time over a new connection. Repeating is harmless: reads
    /// are reads, and a repeated put of the same status changes nothing.
    async fn request<R, F, Fut>(&self, what: &'static str, send: F) -> Result<R, RegistryError>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<R, etcd_client::Error>>,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut last = None;
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            let connected = tokio::time::timeout_at(attempt, self.inner.connection()).await;
            let (generation, client) = match connected {
                Ok(connected) => connected?,
                Err(_) => return Err(timeout(what)),
            };
            let kv = client.kv_client().max_decoding_message_size(MAX_LISTING);
            match tokio::time::timeout_at(attempt, send(kv)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(e)) => last = Some(RegistryError::Etcd(crate::error::chain_of(&e))),
                Err(_) => last = last.or(Some(timeout(what))),
            }
            self.inner.failed(generation).await;
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(last.unwrap_or_else(|| timeout(what)));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

impl Inner {
    /// The current connection, or a new one to the next address: what the members announce, then what is configured (what
    /// they announce need not be reachable from here).
    async fn connection(&self) -> Result<(u64, Client), RegistryError> {
        let mut state = self.state.lock().await;
        if let Some(client) = &state.client {
            return Ok((state.generation, client.clone()));
        }
        let known = state.learned.iter().chain(self.configured.iter().filter(|u| !state.learned.contains(u)));
        let mut known: Vec<String> = known.cloned().collect();
        let count = known.len().max(1);
        let url = known.swap_remove(state.turn % count);
        // Requests have deadlines; a dead server shows in them.
        let channel = Channel::Tonic(transport::endpoint(&url, &self.security)?.connect_lazy());
        let client =
            Client::from_channel(channel, None).await.map_err(|e| RegistryError::Etcd(crate::error::chain_of(&e)))?;
        state.generation += 1;
        state.client = Some(client.clone());
        Ok((state.generation, client))
    }

    async fn failed(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.client = None;
            state.turn = state.turn.wrapping_add(1);
        }
    }

    /// Takes over the members' addresses; a changed list means a new connection.
    async fn sync(&self) -> Result<(), RegistryError> {
        let (generation, client) = self.connection().await?;
        let mut cluster = client.cluster_client();
        let members = match tokio::time::timeout(REQUEST_TIMEOUT, cluster.member_list()).await {
            Ok(Ok(members)) => members,
            Ok(Err(e)) => {
                self.failed(generation).await;
                return Err(RegistryError::Etcd(crate::error::chain_of(&e)));
            }
            Err(_) => {
                self.failed(generation).await;
                return Err(timeout("member list"));
            }
        };
        let mut urls: Vec<String> = members
            .members()
            .iter()
            .flat_map(|m| m.client_urls())
            .filter_map(|u| transport::normalize(u, &self.security).ok())
            .take(MAX_ENDPOINTS)
            .collect();
        urls.sort();
        urls.dedup();
        if urls.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        if state.learned != urls {
            state.learned = urls;
            state.client = None;
            state.turn = 0;
        }
        Ok(())
    }
}

fn key_of(kind: NodeKind, id: &str) -> Result<String, RegistryError> {
    NodeId::parse(id).map_err(RegistryError::BadNodeId)?;
    Ok(format!("{}{id}", kind.prefix()))
}

fn decode(key: &[u8], value: &[u8]) -> Result<NodeStatus, RegistryError> {
    serde_json::from_slice(value)
        .map_err(|e| RegistryError::BadValue { key: String::from_utf8_lossy(key).into_owned(), why: e.to_string() })
}

fn timeout(what: &'static str) -> RegistryError {
    RegistryError::Timeout { what, millis: u64::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(key_of(NodeKind::Pump, "h:8250").unwrap(), "/tidb-binlog/v1/pumps/h:8250");
        assert_eq!(key_of(NodeKind::Drainer, "d").unwrap(), "/tidb-binlog/v1/drainers/d");
        for id in ["", "a/b", "a b", "/", "a\n"] {
            assert!(matches!(key_of(NodeKind::Pump, id), Err(RegistryError::BadNodeId(_))), "{id:?}");
        }
    }

    #[test]
    fn values() {
        let text = r#"{"nodeId":"h:8250","host":"10.0.0.1:8250","state":"online","isAlive":false,"score":0,"label":null,"maxCommitTS":412518831548007863,"updateTS":412518831338292471}"#;
        let status = decode(b"k", text.as_bytes()).unwrap();
        assert_eq!(status.max_commit_ts, 412_518_831_548_007_863);
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        let e = decode(b"/tidb-binlog/v1/pumps/x", b"{").unwrap_err().to_string();
        assert!(e.contains("/tidb-binlog/v1/pumps/x"), "{e}");
        assert!(decode(b"k", br#"{"state":7}"#).is_err());
    }
}
