//! One request to the region of a key, retried until it is answered: the store is found, the region corrected as TiKV says,
//! and every pause comes out of one budget.

use super::TikvClient;
use super::key::{encode_bytes, hex};
use super::region::Cached;
use crate::error::{PdError, TikvError, message_of};
use crate::generated::tikvpb::tikv_client::TikvClient as Grpc;
use crate::transport::{self, UNLIMITED_MESSAGE};
use binlog_core::proto::{errorpb, kvrpcpb};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

pub(super) type Store = Grpc<Channel>;

/// Deadline of one RPC to TiKV.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The time that one operation may spend on retries, over all its requests.
pub(super) struct Budget {
    method: &'static str,
    limit: Duration,
    started: Instant,
    pause: Duration,
}

impl Budget {
    pub fn new(method: &'static str, limit: Duration) -> Self {
        Self { method, limit, started: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Pauses before the next attempt, at least `at_least`; an error when that would pass the limit.
    pub async fn pause(&mut self, at_least: Duration, why: impl FnOnce() -> String) -> Result<(), TikvError> {
        let pause = self.pause.max(at_least);
        if self.started.elapsed() + pause > self.limit {
            return Err(TikvError::Budget {
                method: self.method,
                millis: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX),
                last: why(),
            });
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }

    /// Something was read: the next trouble starts with a full budget.
    pub fn progress(&mut self) {
        self.started = Instant::now();
        self.pause = FIRST_PAUSE;
    }
}

/// A request of TiKV that goes to one region.
pub(super) trait KvCall: Clone {
    type Reply;
    fn set_context(&mut self, context: kvrpcpb::Context);
    fn send(self, store: Store) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
    fn region_error(reply: &mut Self::Reply) -> Option<errorpb::Error>;
}

macro_rules! kv_call {
    ($($request:ident => $reply:ident, $method:ident;)*) => {
        $(impl KvCall for kvrpcpb::$request {
            type Reply = kvrpcpb::$reply;
            fn set_context(&mut self, context: kvrpcpb::Context) {
                self.context = Some(context);
            }
            async fn send(self, mut store: Store) -> Result<Response<Self::Reply>, Status> {
                store.$method(self).await
            }
            fn region_error(reply: &mut Self::Reply) -> Option<errorpb::Error> {
                reply.region_error.take()
            }
        })*
    };
}

kv_call! {
    GetRequest => GetResponse, kv_get;
    ScanRequest => ScanResponse, kv_scan;
    CheckTxnStatusRequest => CheckTxnStatusResponse, kv_check_txn_status;
    MvccGetByKeyRequest => MvccGetByKeyResponse, mvcc_get_by_key;
}

/// Locks that a read may pass by, because their transactions' fate is known (by start_ts).
#[derive(Default, Clone)]
pub(super) struct Passable {
    /// Rolled back, or committed above the version that is read.
    pub resolved: Vec<u64>,
    /// Committed at or below the version that is read: the lock's value counts.
    pub committed: Vec<u64>,
}

impl TikvClient {
    /// Sends `request` to the region of `raw_key` until a region answers it; also says which region that was.
    pub(super) async fn routed<C: KvCall>(
        &self,
        raw_key: &[u8],
        request: &C,
        passable: &Passable,
        budget: &mut Budget,
    ) -> Result<(Cached, C::Reply), TikvError> {
        loop {
            let region = match self.region_of(raw_key).await {
                Ok(Some(region)) => region,
                Ok(None) => {
                    let why = || format!("PD knows no region with a peer for key {}", hex(raw_key));
                    budget.pause(Duration::ZERO, why).await?;
                    continue;
                }
                // A PD that has just become leader calls the cluster "not bootstrapped" until it has loaded it.
                Err(e @ TikvError::Pd(PdError::Header { .. })) => {
                    budget.pause(Duration::ZERO, || e.to_string()).await?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let store_id = region.peer.store_id;
            let store = match self.store(store_id).await {
                Ok(store) => store,
                // The region names a store that was removed: PD knows better by now.
                Err(e @ TikvError::Pd(PdError::Header { .. })) => {
                    self.lock().regions.forget(&region);
                    budget.pause(Duration::ZERO, || e.to_string()).await?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let mut request = request.clone();
            let mut context = region.context();
            context.resolved_locks.clone_from(&passable.resolved);
            context.committed_locks.clone_from(&passable.committed);
            request.set_context(context);
            let (at_least, why) = match tokio::time::timeout(RPC_TIMEOUT, request.send(store)).await {
                Ok(Ok(reply)) => {
                    let mut reply = reply.into_inner();
                    match C::region_error(&mut reply) {
                        None => return Ok((region, reply)),
                        Some(error) => self.correct(&region, error),
                    }
                }
                // An old version: no other store knows more.
                Ok(Err(status)) if status.code() == Code::Unimplemented => {
                    return Err(TikvError::Key { method: budget.method, what: message_of(&status) });
                }
                Ok(Err(status)) => {
                    self.lost_store(&region);
                    (Duration::ZERO, format!("store {store_id}: {:?}: {}", status.code(), message_of(&status)))
                }
                Err(_) => {
                    self.lost_store(&region);
                    (Duration::ZERO, format!("store {store_id}: no answer within {} ms", RPC_TIMEOUT.as_millis()))
                }
            };
            budget.pause(at_least, || why).await?;
        }
    }

    /// Takes over what a region error says; returns the pause it asks for and its text.
    fn correct(&self, used: &Cached, error: errorpb::Error) -> (Duration, String) {
        let mut cache = self.lock();
        let mut at_least = Duration::ZERO;
        match error {
            errorpb::Error { not_leader: Some(errorpb::NotLeader { leader: Some(peer), .. }), .. } if peer.id != 0 => {
                cache.regions.lead(used, peer);
            }
            errorpb::Error { server_is_busy: Some(ref busy), .. } => {
                at_least = Duration::from_millis(busy.backoff_ms).min(MAX_PAUSE);
            }
            errorpb::Error { store_not_match: Some(_), .. } => {
                cache.regions.forget(used);
                cache.stores.remove(&used.peer.store_id);
            }
            // A stale epoch, an unknown region, a key that moved away, an election, and whatever a newer TiKV says: ask PD.
            // (The regions that come with a stale epoch do not say who leads.)
            _ => cache.regions.forget(used),
        }
        let text = if error.message.is_empty() { format!("{error:?}") } else { error.message };
        (at_least, format!("region {}: {text}", used.id))
    }

    fn lost_store(&self, used: &Cached) {
        let mut cache = self.lock();
        cache.stores.remove(&used.peer.store_id);
        cache.regions.forget(used);
    }

    async fn region_of(&self, raw_key: &[u8]) -> Result<Option<Cached>, TikvError> {
        if let Some(region) = self.lock().regions.find(raw_key) {
            return Ok(Some(region));
        }
        let Some(region) = self.pd.get_region(&encode_bytes(raw_key)).await?.and_then(Cached::new) else {
            return Ok(None);
        };
        let mut cache = self.lock();
        cache.regions.insert(region.clone());
        // PD's answer may be older than the key's region: then TiKV refuses and the loop goes on.
        Ok(Some(region))
    }

    async fn store(&self, id: u64) -> Result<Store, TikvError> {
        if let Some(store) = self.lock().stores.get(&id) {
            return Ok(store.clone());
        }
        let store = self.pd.get_store(id).await?;
        let channel = transport::endpoint(&store.address, self.pd.security())?.connect_lazy();
        let client = Grpc::new(channel).max_decoding_message_size(UNLIMITED_MESSAGE);
        self.lock().stores.insert(id, client.clone());
        Ok(client)
    }
}
