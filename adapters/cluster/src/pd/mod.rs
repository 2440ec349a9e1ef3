//! Client of PD (spec pd_tikv): members and leader, cluster id, timestamps, regions, stores, GC safe points.
//!
//! Keeps true: every call ends within its deadline; each request carries the cluster id, so that members of another
//! cluster refuse it; an error inside a reply's header is an error. On every failure, and every 30 s, the members are learned
//! again and the leader followed. Called by the drivers of Pump and Drainer and by [`crate::tikv`].

mod joint;
mod members;
mod tso;

use crate::error::PdError;
use crate::tls::Security;
use binlog_core::ids::ClusterId;
use binlog_core::proto::{metapb, pdpb};
use binlog_core::time::Tso;
use bytes::Bytes;
use joint::Joint;
use members::{Client, Members};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Response, Status};

/// Cheap to clone; all clones share connections and the timestamp stream. Background tasks end with the last clone.
#[derive(Clone)]
pub struct PdClient {
    inner: Arc<Inner>,
}

struct Inner {
    members: Arc<Members>,
    tso: tso::Handle,
    safe_point: Joint<Result<Tso, PdError>>,
}

/// A region as PD answers it.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionInfo {
    pub region: metapb::Region,
    /// `None` while the region elects.
    pub leader: Option<metapb::Peer>,
}

/// Answer to a service safe point: the smallest of all services' points and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSafePoint {
    pub service_id: Bytes,
    pub min_safe_point: Tso,
    /// Seconds.
    pub ttl: i64,
    /// False when our own point was refused: the smallest point is already above what was asked for.
    pub accepted: bool,
}

/// Deadline of every call but timestamps.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of a timestamp.
pub const TSO_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the members are learned again without a failure.
pub const MEMBERS_INTERVAL: Duration = Duration::from_secs(30);

/// A leader that hangs gets this part of a deadline, so that its successor gets a chance.
const ATTEMPTS: u32 = 2;
/// Pauses between attempts of one call.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

impl PdClient {
    /// Finds the cluster through any of `urls` (`http://host:port` or `host:port`).
    ///
    /// # Errors
    /// A bad address, or no member that answers; one pass over all addresses, the caller decides whether to try again.
    pub async fn connect(urls: &[String]) -> Result<Self, PdError> {
        Self::connect_with(urls, &Security::plaintext()).await
    }

    /// [`PdClient::connect`] with TLS, if `security` has it; so does every [`crate::tikv::TikvClient`] behind this client.
    ///
    /// # Errors
    /// As [`PdClient::connect`].
    pub async fn connect_with(urls: &[String], security: &Security) -> Result<Self, PdError> {
        let members = Arc::new(Members::learn(urls, security).await?);
        let tso = tso::spawn(Arc::clone(&members));
        let inner = Arc::new(Inner { members, tso, safe_point: Joint::default() });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(MEMBERS_INTERVAL).await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(e) = inner.members.relearn().await {
                    tracing::warn!("PD members cannot be refreshed: {e}");
                }
            }
        });
        Ok(Self { inner })
    }

    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.members.cluster_id()
    }

    /// How this client talks to PD, and to be used with TiKV.
    #[must_use]
    pub fn security(&self) -> &Security {
        self.inner.members.security()
    }

    /// The members' announced addresses as last learned.
    #[must_use]
    pub fn member_urls(&self) -> Vec<String> {
        self.inner.members.urls()
    }

    /// One timestamp, allocated after this call began: concurrent callers share one request, but no caller joins a request
    /// that was sent before it asked (rules 4: frontier before request).
    ///
    /// # Errors
    /// After [`TSO_TIMEOUT`] at the latest, with the last failure's text.
    pub async fn tso(&self) -> Result<Tso, PdError> {
        self.inner.tso.get().await
    }

    /// The point below which TiKV may have deleted old versions, read after this call began. Concurrent callers share requests:
    /// PD reads it from etcd each time, and a storm of failing transactions asks for it thousands of times a second.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn gc_safe_point(&self) -> Result<Tso, PdError> {
        self.inner.safe_point.ask(|| self.read_gc_safe_point()).await
    }

    async fn read_gc_safe_point(&self) -> Result<Tso, PdError> {
        let reply = self
            .call("GetGCSafePoint", |mut client, header| async move {
                client.get_gc_safe_point(pdpb::GetGcSafePointRequest { header: Some(header) }).await
            })
            .await?;
        Ok(Tso::new(reply.safe_point))
    }

    /// Asks that GC stay at or below `safe_point` for `ttl` seconds on behalf of `service_id`; a TTL of 0 removes the request.
    ///
    /// # Errors
    /// See [`PdError`]. A refusal is no error: see [`ServiceSafePoint::accepted`].
    pub async fn update_service_gc_safe_point(
        &self,
        service_id: &str,
        ttl: i64,
        safe_point: Tso,
    ) -> Result<ServiceSafePoint, PdError> {
        let service = Bytes::copy_from_slice(service_id.as_bytes());
        let reply = self
            .call("UpdateServiceGCSafePoint", |mut client, header| {
                let service_id = service.clone();
                async move {
                    client
                        .update_service_gc_safe_point(pdpb::UpdateServiceGcSafePointRequest {
                            header: Some(header),
                            service_id,
                            ttl,
                            safe_point: safe_point.raw(),
                        })
                        .await
                }
            })
            .await?;
        Ok(ServiceSafePoint {
            service_id: reply.service_id,
            min_safe_point: Tso::new(reply.min_safe_point),
            ttl: reply.ttl,
            accepted: reply.min_safe_point <= safe_point.raw(),
        })
    }

    /// The region of a key in PD's form (memcomparable, spec codec 3.5). `None` when PD knows no such region.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_region(&self, encoded_key: &[u8]) -> Result<Option<RegionInfo>, PdError> {
        let key = Bytes::copy_from_slice(encoded_key);
        let reply = self
            .call("GetRegion", |mut client, header| {
                let region_key = key.clone();
                async move {
                    client
                        .get_region(pdpb::GetRegionRequest { header: Some(header), region_key, need_buckets: false })
                        .await
                }
            })
            .await?;
        let leader = reply.leader.filter(|l| l.id != 0);
        Ok(reply.region.map(|region| RegionInfo { region, leader }))
    }

    /// # Errors
    /// [`PdError::Header`] for a store that does not exist.
    pub async fn get_store(&self, id: u64) -> Result<metapb::Store, PdError> {
        let reply = self
            .call("GetStore", |mut client, header| async move {
                client.get_store(pdpb::GetStoreRequest { header: Some(header), store_id: id }).await
            })
            .await?;
        reply
            .store
            .ok_or_else(|| PdError::BadReply { method: "GetStore", what: format!("no store in the reply for id {id}") })
    }

    /// All stores that are not tombstones.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_all_stores(&self) -> Result<Vec<metapb::Store>, PdError> {
        let reply = self
            .call("GetAllStores", |mut client, header| async move {
                client
                    .get_all_stores(pdpb::GetAllStoresRequest { header: Some(header), exclude_tombstone_stores: true })
                    .await
            })
            .await?;
        Ok(reply.stores)
    }

    /// Learns the members again at once.
    ///
    /// # Errors
    /// When no member answers.
    pub async fn refresh_members(&self) -> Result<(), PdError> {
        self.inner.members.relearn().await
    }

    /// Sends to the leader until it answers; what can be cured by learning the members again is tried again until the deadline.
    async fn call<R, F, Fut>(&self, method: &'static str, send: F) -> Result<R, PdError>
    where
        R: HasHeader,
        F: Fn(Client, pdpb::RequestHeader) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let members = &self.inner.members;
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut pause = RETRY_FIRST;
        // What PD said last: an attempt that the deadline cuts short must not hide it.
        let mut said: Option<PdError> = None;
        loop {
            let error = match members.leader() {
                Err(e) => e,
                Ok((url, client)) => {
                    let attempt = deadline.min(Instant::now() + CALL_TIMEOUT / ATTEMPTS);
                    match tokio::time::timeout_at(attempt, send(client, request_header(members))).await {
                        Ok(Ok(reply)) => {
                            let reply = reply.into_inner();
                            check_header(method, reply.header(), members.cluster_id())?;
                            return Ok(reply);
                        }
                        Ok(Err(status)) => {
                            members.failed(&url);
                            PdError::rpc(method, &status)
                        }
                        Err(_) => {
                            members.failed(&url);
                            timeout(method, CALL_TIMEOUT / ATTEMPTS, said.as_ref())
                        }
                    }
                }
            };
            if !matches!(error, PdError::Timeout { .. }) {
                said = Some(error.clone());
            }
            if !error.is_transient() {
                return Err(error);
            }
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            match tokio::time::timeout_at(deadline, members.relearn()).await {
                Ok(Ok(())) => {}
                Ok(Err(e @ PdError::WrongCluster(_))) => return Err(e),
                Ok(Err(e)) => tracing::debug!("PD members cannot be refreshed: {e}"),
                Err(_) => return Err(timeout(method, CALL_TIMEOUT, Some(&error))),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

fn timeout(method: &'static str, limit: Duration, last: Option<&PdError>) -> PdError {
    PdError::Timeout {
        method,
        millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        last: last.map(|e| format!("; last: {e}")).unwrap_or_default(),
    }
}

fn request_header(members: &Members) -> pdpb::RequestHeader {
    pdpb::RequestHeader { cluster_id: members.cluster_id().raw(), sender_id: 0 }
}

fn check_header(method: &'static str, header: Option<&pdpb::ResponseHeader>, own: ClusterId) -> Result<(), PdError> {
    let header = header.ok_or_else(|| PdError::BadReply { method, what: "the reply has no header".to_owned() })?;
    if let Some(e) = &header.error
        && e.r#type != pdpb::ErrorType::Ok as i32
    {
        return Err(PdError::Header { method, kind: e.r#type, message: e.message.clone() });
    }
    if header.cluster_id != own.raw() {
        return Err(PdError::WrongCluster(format!(
            "{method} was answered by a member of {}, this node belongs to {own}",
            header.cluster_id
        )));
    }
    Ok(())
}

/// Replies of PD all begin with a header.
trait HasHeader {
    fn header(&self) -> Option<&pdpb::ResponseHeader>;
}

macro_rules! has_header {
    ($($reply:ident)*) => {
        $(impl HasHeader for pdpb::$reply {
            fn header(&self) -> Option<&pdpb::ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

has_header!(GetStoreResponse GetAllStoresResponse GetRegionResponse GetGcSafePointResponse UpdateServiceGcSafePointResponse TsoResponse);
