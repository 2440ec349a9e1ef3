//! Reads from TiKV (spec pd_tikv): snapshot gets and scans that wait out or pass by locks, the DDL history, and the raw calls
//! of the resolver.
//!
//! Keeps true: a read at version v returns what is committed at or below v, or an error; never a value from beside a lock
//! whose fate is open. A key whose value is empty is absent (TiKV stores no empty values; an absent key may come as an empty
//! reply without `not_found`). Called by the Drainer's driver (history) and, later, by the Pump's (verdicts).

mod call;
mod key;
mod region;

use crate::error::{PdError, TikvError};
use crate::pd::PdClient;
use binlog_core::proto::kvrpcpb::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, GetRequest, KeyError, KvPair, LockInfo, MvccGetByKeyRequest,
    MvccGetByKeyResponse, ScanRequest,
};
use binlog_core::time::Tso;
use bytes::Bytes;
use call::{Budget, Passable, Store};
use region::RegionCache;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Cheap to clone; clones share connections and what is known about regions.
#[derive(Clone)]
pub struct TikvClient {
    pd: PdClient,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Default)]
struct Cache {
    regions: RegionCache,
    /// By store id. A cluster has at most some hundred stores; one that fails is dropped and asked for again.
    stores: BTreeMap<u64, Store>,
}

/// One committed pair: raw key and value.
pub type Pair = (Bytes, Bytes);

/// Time for retries of one read, between two successes. Longer than a leader election and than the TTL of an abandoned lock
/// (TiDB: 3 s, up to 20 s for large transactions).
pub const READ_BUDGET: Duration = Duration::from_secs(40);
/// Time for retries of the resolver's calls; the caller asks again anyway.
pub const RESOLVE_BUDGET: Duration = Duration::from_secs(5);
/// Pairs of one page of a scan. Jobs of the DDL history carry table definitions: some ten KB each, seldom more.
pub const SCAN_PAGE: u32 = 256;
/// Locks that one read may pass by; more than that in one place is no accident of a crashed client.
const MAX_PASSABLE: usize = 1024;
/// While a lock lives, it is looked at again this often at most.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(500);

impl TikvClient {
    #[must_use]
    pub fn new(pd: PdClient) -> Self {
        Self { pd, cache: Arc::default() }
    }

    /// The value of a raw key as of `version`; `None` when there is none.
    ///
    /// # Errors
    /// See [`TikvError`]; retries end after [`READ_BUDGET`].
    pub async fn get(&self, raw_key: &[u8], version: Tso) -> Result<Option<Bytes>, TikvError> {
        let mut budget = Budget::new("KvGet", READ_BUDGET);
        let mut passable = Passable::default();
        let request = GetRequest { context: None, key: Bytes::copy_from_slice(raw_key), version: version.raw() };
        loop {
            let (_, reply) = self.routed(raw_key, &request, &passable, &mut budget).await?;
            match reply.error {
                None if reply.not_found || reply.value.is_empty() => return Ok(None),
                None => return Ok(Some(reply.value)),
                Some(error) => self.settle("KvGet", error, version, &mut passable, &mut budget).await?,
            }
        }
    }

    /// Reads the raw keys from `start` to before `end` as of `version`, in order, page by page.
    #[must_use]
    pub fn scan(&self, start: Bytes, end: Bytes, version: Tso) -> Scan {
        Scan {
            client: self.clone(),
            next: Some(start),
            end,
            version,
            passable: Passable::default(),
            budget: Budget::new("KvScan", READ_BUDGET),
        }
    }

    /// Everything that TiKV knows about the versions of a raw key.
    ///
    /// # Errors
    /// See [`TikvError`]. An error of the reply itself stays in the reply.
    pub async fn mvcc_by_key(&self, raw_key: &[u8]) -> Result<MvccGetByKeyResponse, TikvError> {
        let mut budget = Budget::new("MvccGetByKey", RESOLVE_BUDGET);
        let request = MvccGetByKeyRequest { context: None, key: Bytes::copy_from_slice(raw_key) };
        let (_, reply) = self.routed(raw_key, &request, &Passable::default(), &mut budget).await?;
        Ok(reply)
    }

    /// Asks for the fate of a transaction; `request.context` is filled in. This *can change it*: an expired lock is rolled
    /// back, and with `rollback_if_not_exist` a transaction that was never prewritten cannot be any more.
    ///
    /// # Errors
    /// See [`TikvError`]. An error of the reply itself stays in the reply.
    pub async fn check_txn_status(&self, request: CheckTxnStatusRequest) -> Result<CheckTxnStatusResponse, TikvError> {
        let mut budget = Budget::new("KvCheckTxnStatus", RESOLVE_BUDGET);
        let key = request.primary_key.clone();
        let (_, reply) = self.routed(&key, &request, &Passable::default(), &mut budget).await?;
        Ok(reply)
    }

    /// All jobs of the DDL history at a fresh snapshot: raw JSON, by job id (spec codec 8.1).
    ///
    /// # Errors
    /// See [`TikvError`].
    pub async fn history_jobs(&self) -> Result<Vec<Bytes>, TikvError> {
        let version = self.pd.tso().await?;
        let (start, end) = key::history_range();
        let mut scan = self.scan(start, end, version);
        let mut jobs = Vec::new();
        while let Some(page) = scan.next_page().await? {
            jobs.extend(page.into_iter().map(|(_, job)| job));
        }
        Ok(jobs)
    }

    /// One job of the DDL history at a fresh snapshot: raw JSON. `None`: not there (yet).
    ///
    /// # Errors
    /// See [`TikvError`].
    pub async fn history_job(&self, job_id: i64) -> Result<Option<Bytes>, TikvError> {
        let version = self.pd.tso().await?;
        self.get(&key::history_key(job_id), version).await
    }

    /// What to do about an error on a key, so that the caller can read again: waits while a lock lives; once its time is over,
    /// asks for its transaction's fate and notes it in `passable`.
    async fn settle(
        &self,
        method: &'static str,
        error: KeyError,
        version: Tso,
        passable: &mut Passable,
        budget: &mut Budget,
    ) -> Result<(), TikvError> {
        let Some(lock) = error.locked else {
            let KeyError { retryable, abort, .. } = error;
            if retryable.is_empty() {
                let what = if abort.is_empty() { "unknown error about the key".to_owned() } else { abort };
                return Err(TikvError::Key { method, what });
            }
            return budget.pause(Duration::ZERO, || retryable).await;
        };
        let describe =
            |lock: &LockInfo| format!("key {} is locked by transaction {}", key::hex(&lock.key), lock.lock_version);
        let now = match self.pd.tso().await {
            Ok(now) => now,
            Err(e @ (PdError::WrongCluster(_) | PdError::Closed)) => return Err(e.into()),
            Err(e) => return budget.pause(Duration::ZERO, || format!("{}; {e}", describe(&lock))).await,
        };
        let expires = Tso::new(lock.lock_version).physical_ms().saturating_add(lock.lock_ttl);
        let left = Duration::from_millis(expires.saturating_sub(now.physical_ms()));
        if !left.is_zero() {
            return budget.pause(left.min(LOCK_PAUSE_MAX), || describe(&lock)).await;
        }
        let request = CheckTxnStatusRequest {
            context: None,
            primary_key: lock.primary_lock.clone(),
            lock_ts: lock.lock_version,
            caller_start_ts: version.raw(),
            current_ts: now.raw(),
            // The lock that we met proves that the transaction was prewritten; a primary without lock and record was
            // therefore rolled back, and stays so.
            rollback_if_not_exist: true,
            force_sync_commit: false,
            resolving_pessimistic_lock: false,
        };
        let primary = request.primary_key.clone();
        let (_, status) = self.routed(&primary, &request, &Passable::default(), budget).await?;
        if let Some(e) = status.error {
            return budget.pause(Duration::ZERO, || format!("{}; its fate: {e:?}", describe(&lock))).await;
        }
        // The TTL first: a status with both means that the lock still lives (spec pump 2.5).
        if status.lock_ttl > 0 {
            return budget.pause(LOCK_PAUSE_MAX, || describe(&lock)).await;
        }
        let known = if (1..=version.raw()).contains(&status.commit_version) {
            &mut passable.committed
        } else {
            &mut passable.resolved
        };
        if !known.contains(&lock.lock_version) && known.len() < MAX_PASSABLE {
            known.push(lock.lock_version);
            return Ok(());
        }
        // Passed by, and still in the way: TiKV does not know how to pass committed locks (before 5.3), or there are too
        // many. Whoever owns the lock or finds it next resolves it.
        budget.pause(LOCK_PAUSE_MAX, || format!("{}, whose fate is known", describe(&lock))).await
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        // Entries are whole at any time: a panic elsewhere cannot leave one half written.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A scan under way.
pub struct Scan {
    client: TikvClient,
    /// Where the next page begins; `None`: done.
    next: Option<Bytes>,
    end: Bytes,
    version: Tso,
    passable: Passable,
    budget: Budget,
}

impl Scan {
    /// The next pairs; never an empty page; `None` at the end.
    ///
    /// # Errors
    /// See [`TikvError`]; retries end after [`READ_BUDGET`] without a new pair. Calling again continues where it stopped.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Pair>>, TikvError> {
        self.budget.progress();
        while let Some(start) = self.next.clone() {
            if start >= self.end {
                self.next = None;
                break;
            }
            let request = ScanRequest {
                context: None,
                start_key: start.clone(),
                end_key: self.end.clone(),
                limit: SCAN_PAGE,
                version: self.version.raw(),
                ..Default::default()
            };
            let (region, reply) = self.client.routed(&start, &request, &self.passable, &mut self.budget).await?;
            if let Some(error) = reply.error {
                self.settle(error).await?;
                continue;
            }
            let returned = reply.pairs.len();
            let mut page: Vec<Pair> = Vec::with_capacity(returned);
            let mut last: Option<Bytes> = None;
            let mut blocked = None;
            for KvPair { error, key, value } in reply.pairs {
                if let Some(error) = error {
                    blocked = Some(error);
                    break;
                }
                if key < start || last.as_ref().is_some_and(|last| key <= *last) || key >= self.end {
                    return Err(TikvError::Key {
                        method: "KvScan",
                        what: format!("key {} is out of order or range after {}", key::hex(&key), key::hex(&start)),
                    });
                }
                last = Some(key.clone());
                if !value.is_empty() {
                    page.push((key, value));
                }
            }
            match blocked {
                // What came before the lock is good; the rest is read again from there.
                Some(_) if last.is_some() => {}
                Some(error) => {
                    self.settle(error).await?;
                    continue;
                }
                None if returned >= SCAN_PAGE as usize => {}
                None => {
                    // This region has no more.
                    self.next = region.raw_end().map_err(|bound| TikvError::NoRegion {
                        key: key::hex(&start),
                        what: format!("region {} ends at {}, which is no encoded key", region.id, key::hex(bound)),
                    })?;
                    if page.is_empty() {
                        self.budget.progress();
                        continue;
                    }
                    return Ok(Some(page));
                }
            }
            self.next = last.map(|last| key::successor(&last));
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    async fn settle(&mut self, error: KeyError) -> Result<(), TikvError> {
        self.client.settle("KvScan", error, self.version, &mut self.passable, &mut self.budget).await
    }
}
