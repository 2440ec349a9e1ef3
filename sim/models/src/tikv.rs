//! TiKV: a map of multi-version values with Percolator transactions, as far as verdicts about prewrites and reads of the DDL
//! history need it (spec pd_tikv, codec 9; rules 1).
//!
//! Keeps true: a transaction is committed or rolled back, never both; a read at a snapshot sees exactly what had committed by
//! then, or meets a lock. Evidence (write records) goes at the GC safe point. Regions are the caller's: a region error is an
//! answer that the world gives in place of ours.

use binlog_core::codec::key;
use binlog_core::time::Tso;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

#[derive(Debug, Clone, Default)]
pub struct Tikv {
    keys: BTreeMap<Vec<u8>, Entry>,
    /// Evidence at or below may be gone.
    safe_point: u64,
}

/// Everything about one key.
#[derive(Debug, Clone, Default)]
struct Entry {
    lock: Option<Lock>,
    /// By commit timestamp (a Rollback's is its start).
    writes: BTreeMap<u64, Write>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub start_ts: u64,
    pub primary: Vec<u8>,
    /// Milliseconds from the physical part of `start_ts`.
    pub ttl_ms: u64,
    pub value: Mutation,
    /// Transactions that were rolled back while this lock stood.
    pub rollback_ts: BTreeSet<u64>,
    /// Of a kind that TiDB does not use while binlog is on (rules 1): its TTL decides nothing.
    pub use_async_commit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    Put(Bytes),
    Delete,
    /// Locks without changing.
    Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Put,
    Delete,
    Lock,
    Rollback,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub kind: WriteKind,
    pub start_ts: u64,
    pub commit_ts: u64,
    /// Of a Put.
    pub value: Bytes,
    /// A transaction that began at this `commit_ts` was rolled back.
    pub has_overlapped_rollback: bool,
}

/// What `MvccGetByKey` tells; writes from new to old.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MvccInfo {
    pub lock: Option<Lock>,
    pub writes: Vec<Write>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvError {
    /// Another transaction's lock is in the way.
    Locked(Box<Lock>),
    /// Something committed after our start, or we were rolled back.
    WriteConflict { conflict_ts: u64 },
    /// The commit found no lock of ours and no commit: it was rolled back.
    TxnLockNotFound,
    /// A rollback came after the commit.
    Committed { commit_ts: u64 },
    /// No trace of the transaction, and none was to be left.
    TxnNotFound,
    /// The version to be read is below the GC safe point.
    SnapshotTooOld { safe_point: u64 },
}

/// Answer of `CheckTxnStatus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnStatus {
    /// Still running.
    Locked {
        ttl_ms: u64,
        lock: Box<Lock>,
    },
    Committed {
        commit_ts: u64,
    },
    RolledBack(Action),
}

/// What `CheckTxnStatus` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    NoAction,
    TtlExpireRollback,
    LockNotExistRollback,
}

/// At which version a read looks, and which locks it may pass by: those of transactions that the reader knows to be rolled
/// back or committed above its version (`resolved`), or committed below it (`committed`: their value is read from the lock).
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot<'a> {
    pub version: u64,
    pub resolved: &'a [u64],
    pub committed: &'a [u64],
}

/// Passes by no lock.
impl From<u64> for Snapshot<'_> {
    fn from(version: u64) -> Self {
        Self { version, resolved: &[], committed: &[] }
    }
}

/// A key of a scan with its value, or with the lock in its way.
pub type Pair = (Vec<u8>, Result<Bytes, KvError>);

impl Tikv {
    /// Locks every key or none. Repeating it changes nothing.
    ///
    /// # Errors
    /// Locks of others, and anything that committed after `start_ts`.
    pub fn prewrite(
        &mut self,
        mutations: &[(Vec<u8>, Mutation)],
        primary: &[u8],
        start_ts: u64,
        ttl_ms: u64,
    ) -> Result<(), KvError> {
        for (key, _) in mutations {
            let Some(entry) = self.keys.get(key) else { continue };
            if let Some(lock) = &entry.lock
                && lock.start_ts != start_ts
            {
                return Err(KvError::Locked(Box::new(lock.clone())));
            }
            if let Some((ts, _)) = entry.rolled_back(start_ts) {
                return Err(KvError::WriteConflict { conflict_ts: ts });
            }
            let newer = entry.writes.range(start_ts..).next_back();
            if let Some((ts, _)) = newer.filter(|(_, w)| w.start_ts != start_ts && w.kind != WriteKind::Rollback) {
                return Err(KvError::WriteConflict { conflict_ts: *ts });
            }
        }
        for (key, value) in mutations {
            let entry = self.keys.entry(key.clone()).or_default();
            if entry.committed(start_ts).is_none() && entry.lock.is_none() {
                let (primary, value) = (primary.to_vec(), value.clone());
                entry.lock = Some(Lock { ttl_ms, ..Lock::new(start_ts, primary, value) });
            }
        }
        Ok(())
    }

    /// Puts a lock as it is (one of its own transaction is replaced): for what no prewrite of ours makes.
    ///
    /// # Errors
    /// Another's lock, and a transaction that is decided already.
    pub fn put_lock(&mut self, key: &[u8], lock: Lock) -> Result<(), KvError> {
        let entry = self.keys.entry(key.to_vec()).or_default();
        if let Some(other) = entry.lock.as_ref().filter(|l| l.start_ts != lock.start_ts) {
            return Err(KvError::Locked(Box::new(other.clone())));
        }
        if let Some(write) = entry.committed(lock.start_ts) {
            return Err(KvError::Committed { commit_ts: write.commit_ts });
        }
        if let Some((conflict_ts, ())) = entry.rolled_back(lock.start_ts) {
            return Err(KvError::WriteConflict { conflict_ts });
        }
        entry.lock = Some(lock);
        Ok(())
    }

    /// Puts the record of a commit whose prewrite was not ours (a lock of that transaction is committed instead): loads what
    /// another store knows. Evidence whose value is not known is a [`Mutation::Lock`], which no read sees.
    ///
    /// # Errors
    /// The transaction is decided otherwise, or another committed at that timestamp.
    pub fn put_commit(&mut self, key: &[u8], value: Mutation, start_ts: u64, commit_ts: u64) -> Result<(), KvError> {
        let entry = self.keys.entry(key.to_vec()).or_default();
        if let Some(write) = entry.committed(start_ts) {
            let same = write.commit_ts == commit_ts;
            return if same { Ok(()) } else { Err(KvError::Committed { commit_ts: write.commit_ts }) };
        }
        if entry.rolled_back(start_ts).is_some() {
            return Err(KvError::TxnLockNotFound);
        }
        if entry.writes.get(&commit_ts).is_some_and(|w| w.kind != WriteKind::Rollback) {
            return Err(KvError::WriteConflict { conflict_ts: commit_ts });
        }
        let own = entry.lock.take_if(|l| l.start_ts == start_ts);
        entry.put(own.unwrap_or_else(|| Lock::new(start_ts, key.to_vec(), value)), commit_ts);
        Ok(())
    }

    /// Commits the keys that are still locked. Repeating it changes nothing.
    ///
    /// # Errors
    /// `TxnLockNotFound`: a key is neither locked nor committed.
    pub fn commit(&mut self, keys: &[Vec<u8>], start_ts: u64, commit_ts: u64) -> Result<(), KvError> {
        for key in keys {
            let entry = self.keys.get(key).ok_or(KvError::TxnLockNotFound)?;
            let locked = entry.lock.as_ref().is_some_and(|l| l.start_ts == start_ts);
            if !locked && entry.committed(start_ts).is_none() {
                return Err(KvError::TxnLockNotFound);
            }
        }
        for key in keys {
            let Some(entry) = self.keys.get_mut(key) else { continue };
            if let Some(lock) = entry.lock.take_if(|l| l.start_ts == start_ts) {
                entry.put(lock, commit_ts);
            }
        }
        Ok(())
    }

    /// Rolls the keys back and leaves Rollback records, so that a late prewrite fails.
    ///
    /// # Errors
    /// `Committed`.
    pub fn rollback(&mut self, keys: &[Vec<u8>], start_ts: u64) -> Result<(), KvError> {
        for key in keys {
            if let Some(write) = self.keys.get(key).and_then(|e| e.committed(start_ts)) {
                return Err(KvError::Committed { commit_ts: write.commit_ts });
            }
        }
        for key in keys {
            self.keys.entry(key.clone()).or_default().roll_back(start_ts);
        }
        Ok(())
    }

    /// Prolongs the lock of a running transaction; gives the new TTL.
    ///
    /// # Errors
    /// `TxnNotFound`: no such lock.
    pub fn heart_beat(&mut self, primary: &[u8], start_ts: u64, ttl_ms: u64) -> Result<u64, KvError> {
        let lock = self.keys.get_mut(primary).and_then(|e| e.lock.as_mut()).filter(|l| l.start_ts == start_ts);
        let lock = lock.ok_or(KvError::TxnNotFound)?;
        lock.ttl_ms = lock.ttl_ms.max(ttl_ms);
        Ok(lock.ttl_ms)
    }

    /// Decides about the transaction by its primary key: an expired lock is rolled back; without any trace a Rollback record
    /// is left when `rollback_if_not_exist`.
    ///
    /// # Errors
    /// `TxnNotFound`: no trace, and none was to be left.
    pub fn check_txn_status(
        &mut self,
        primary: &[u8],
        lock_ts: u64,
        current_ts: u64,
        rollback_if_not_exist: bool,
    ) -> Result<TxnStatus, KvError> {
        let entry = self.keys.entry(primary.to_vec()).or_default();
        if let Some(lock) = entry.lock.as_ref().filter(|l| l.start_ts == lock_ts) {
            if lock.use_async_commit || !lock.is_expired(current_ts) {
                return Ok(TxnStatus::Locked { ttl_ms: lock.ttl_ms, lock: Box::new(lock.clone()) });
            }
            entry.roll_back(lock_ts);
            return Ok(TxnStatus::RolledBack(Action::TtlExpireRollback));
        }
        if let Some(write) = entry.committed(lock_ts) {
            return Ok(TxnStatus::Committed { commit_ts: write.commit_ts });
        }
        if entry.rolled_back(lock_ts).is_some() {
            return Ok(TxnStatus::RolledBack(Action::NoAction));
        }
        if !rollback_if_not_exist {
            self.drop_if_empty(primary);
            return Err(KvError::TxnNotFound);
        }
        entry.roll_back(lock_ts);
        Ok(TxnStatus::RolledBack(Action::LockNotExistRollback))
    }

    /// All that is known about a key.
    #[must_use]
    pub fn mvcc(&self, key: &[u8]) -> MvccInfo {
        self.keys.get(key).map_or_else(MvccInfo::default, |entry| MvccInfo {
            lock: entry.lock.clone(),
            writes: entry.writes.values().rev().cloned().collect(),
        })
    }

    /// The value at a snapshot.
    ///
    /// # Errors
    /// A lock that began at or before the snapshot; a snapshot below the safe point.
    pub fn get<'a>(&self, key: &[u8], at: impl Into<Snapshot<'a>>) -> Result<Option<Bytes>, KvError> {
        let at = at.into();
        self.readable(at.version)?;
        self.keys.get(key).map_or(Ok(None), |entry| entry.read(at))
    }

    /// Up to `limit` keys of `[start, end)` at a snapshot, each with its value or the lock in its way.
    ///
    /// # Errors
    /// A snapshot below the safe point.
    pub fn scan(&self, start: &[u8], end: &[u8], limit: usize, version: u64) -> Result<Vec<Pair>, KvError> {
        self.scan_at(start, Some(end), limit, version.into(), false)
    }

    /// As [`Tikv::scan`], to the end of all keys without an `end`, from the last key on when `reverse`.
    ///
    /// # Errors
    /// A snapshot below the safe point.
    pub fn scan_at(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        at: Snapshot<'_>,
        reverse: bool,
    ) -> Result<Vec<Pair>, KvError> {
        self.readable(at.version)?;
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.keys.range::<[u8], _>((Bound::Included(start), upper));
        let found = |(key, entry): (&Vec<u8>, &Entry)| Some((key.clone(), entry.read(at).transpose()?));
        Ok(if reverse {
            range.rev().filter_map(found).take(limit).collect()
        } else {
            range.filter_map(found).take(limit).collect()
        })
    }

    fn readable(&self, version: u64) -> Result<(), KvError> {
        if version < self.safe_point {
            return Err(KvError::SnapshotTooOld { safe_point: self.safe_point });
        }
        Ok(())
    }

    /// The JSON of every DDL job in the history at a snapshot, by job id.
    ///
    /// # Errors
    /// The lock of a DDL that is just committing.
    pub fn history(&self, version: u64) -> Result<Vec<Bytes>, KvError> {
        let (start, end) = key::history_range();
        self.scan(&start, &end, usize::MAX, version)?.into_iter().map(|(_, value)| value).collect()
    }

    /// One job of the history at a snapshot.
    ///
    /// # Errors
    /// As [`Tikv::history`].
    pub fn history_job(&self, job: i64, version: u64) -> Result<Option<Bytes>, KvError> {
        self.get(&key::history_job(job), version)
    }

    /// Drops what no snapshot at or above `safe_point` can see: older versions, and all Rollback and Lock records below. Locks
    /// that began at or below were resolved by the GC worker first: see [`Tikv::old_locks`].
    pub fn gc(&mut self, safe_point: u64) {
        self.safe_point = self.safe_point.max(safe_point);
        for entry in self.keys.values_mut() {
            let data = |w: &&Write| matches!(w.kind, WriteKind::Put | WriteKind::Delete);
            let newest = entry.writes.range(..=safe_point).rev().map(|(_, w)| w).find(data);
            let kept = newest.filter(|w| w.kind == WriteKind::Put).map(|w| w.commit_ts);
            entry.writes.retain(|ts, _| *ts > safe_point || Some(*ts) == kept);
        }
        self.keys.retain(|_, entry| entry.lock.is_some() || !entry.writes.is_empty());
    }

    /// Locks of transactions that began at or below `safe_point`, which the GC worker resolves before it collects: for each,
    /// `check_txn_status` on its primary, then [`Tikv::resolve`].
    #[must_use]
    pub fn old_locks(&self, safe_point: u64) -> Vec<(Vec<u8>, Lock)> {
        let locks = self.keys.iter().filter_map(|(key, e)| Some((key.clone(), e.lock.clone()?)));
        locks.filter(|(_, lock)| lock.start_ts <= safe_point).collect()
    }

    /// Ends one lock by its transaction's outcome: committed at that timestamp, or rolled back.
    pub fn resolve(&mut self, key: &[u8], start_ts: u64, commit_ts: Option<u64>) {
        let keys = [key.to_vec()];
        // A lock that is gone is resolved already.
        let _ = match commit_ts {
            Some(commit_ts) => self.commit(&keys, start_ts, commit_ts),
            None => self.rollback(&keys, start_ts),
        };
    }

    /// Resolves every lock that stands and has expired, as readers that met them would.
    pub fn resolve_expired(&mut self, current_ts: u64) {
        for (key, lock) in self.old_locks(u64::MAX) {
            match self.check_txn_status(&lock.primary, lock.start_ts, current_ts, true) {
                Ok(TxnStatus::Committed { commit_ts }) => self.resolve(&key, lock.start_ts, Some(commit_ts)),
                Ok(TxnStatus::RolledBack(_)) => self.resolve(&key, lock.start_ts, None),
                Ok(TxnStatus::Locked { .. }) | Err(_) => {}
            }
        }
    }

    #[must_use]
    pub const fn safe_point(&self) -> u64 {
        self.safe_point
    }

    fn drop_if_empty(&mut self, key: &[u8]) {
        if self.keys.get(key).is_some_and(|e| e.lock.is_none() && e.writes.is_empty()) {
            self.keys.remove(key);
        }
    }
}

impl Lock {
    /// A lock whose time is over at once; the rest is for the caller to set.
    #[must_use]
    pub const fn new(start_ts: u64, primary: Vec<u8>, value: Mutation) -> Self {
        Self { start_ts, primary, ttl_ms: 0, value, rollback_ts: BTreeSet::new(), use_async_commit: false }
    }

    /// By PD's clock as `current_ts` shows it.
    #[must_use]
    pub fn is_expired(&self, current_ts: u64) -> bool {
        let begun = Tso::new(self.start_ts).physical_ms();
        begun.saturating_add(self.ttl_ms) <= Tso::new(current_ts).physical_ms()
    }
}

impl Entry {
    fn committed(&self, start_ts: u64) -> Option<&Write> {
        self.writes.values().find(|w| w.start_ts == start_ts && w.kind != WriteKind::Rollback)
    }

    /// A Rollback record, or a commit of another at our start that says so, or a lock of another that lists us.
    fn rolled_back(&self, start_ts: u64) -> Option<(u64, ())> {
        let record =
            self.writes.get(&start_ts).is_some_and(|w| w.kind == WriteKind::Rollback || w.has_overlapped_rollback);
        let listed = self.lock.as_ref().is_some_and(|l| l.rollback_ts.contains(&start_ts));
        (record || listed).then_some((start_ts, ()))
    }

    fn put(&mut self, lock: Lock, commit_ts: u64) {
        let (kind, value) = match lock.value {
            Mutation::Put(value) => (WriteKind::Put, value),
            Mutation::Delete => (WriteKind::Delete, Bytes::new()),
            Mutation::Lock => (WriteKind::Lock, Bytes::new()),
        };
        // A rollback record that already stands at our commit timestamp becomes part of the write.
        let has_overlapped_rollback = self.writes.contains_key(&commit_ts) || lock.rollback_ts.contains(&commit_ts);
        for ts in lock.rollback_ts.into_iter().filter(|ts| *ts != commit_ts) {
            self.roll_back(ts);
        }
        self.writes
            .insert(commit_ts, Write { kind, start_ts: lock.start_ts, commit_ts, value, has_overlapped_rollback });
    }

    fn roll_back(&mut self, start_ts: u64) {
        self.lock.take_if(|l| l.start_ts == start_ts);
        match self.writes.get_mut(&start_ts) {
            Some(write) if write.kind != WriteKind::Rollback => write.has_overlapped_rollback = true,
            Some(_) => {}
            None => {
                let (kind, value) = (WriteKind::Rollback, Bytes::new());
                let write = Write { kind, start_ts, commit_ts: start_ts, value, has_overlapped_rollback: false };
                self.writes.insert(start_ts, write);
            }
        }
    }

    fn read(&self, at: Snapshot<'_>) -> Result<Option<Bytes>, KvError> {
        let blocks =
            |l: &&Lock| l.start_ts <= at.version && l.value != Mutation::Lock && !at.resolved.contains(&l.start_ts);
        if let Some(lock) = self.lock.as_ref().filter(blocks) {
            if !at.committed.contains(&lock.start_ts) {
                return Err(KvError::Locked(Box::new(lock.clone())));
            }
            return Ok(if let Mutation::Put(value) = &lock.value { Some(value.clone()) } else { None });
        }
        let mut visible = self.writes.range(..=at.version).rev().map(|(_, w)| w);
        let newest = visible.find(|w| matches!(w.kind, WriteKind::Put | WriteKind::Delete));
        Ok(newest.filter(|w| w.kind == WriteKind::Put).map(|w| w.value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ts(ms: u64) -> u64 {
        Tso::compose(ms, 0).raw()
    }

    fn put(key: &str, value: &str) -> (Vec<u8>, Mutation) {
        (key.as_bytes().to_vec(), Mutation::Put(Bytes::copy_from_slice(value.as_bytes())))
    }

    fn text(value: Result<Option<Bytes>, KvError>) -> String {
        match value {
            Ok(Some(v)) => String::from_utf8(v.to_vec()).unwrap(),
            Ok(None) => "-".to_owned(),
            Err(e) => format!("{e:?}").split([' ', '(']).next().unwrap().to_owned(),
        }
    }

    #[test]
    fn a_snapshot_sees_what_had_committed_or_meets_the_lock() {
        let mut kv = Tikv::default();
        kv.prewrite(&[put("k", "1")], b"k", ts(10), 3000).unwrap();
        assert_eq!(text(kv.get(b"k", ts(9))), "-");
        assert_eq!(text(kv.get(b"k", ts(11))), "Locked");
        kv.commit(&[b"k".to_vec()], ts(10), ts(20)).unwrap();
        kv.commit(&[b"k".to_vec()], ts(10), ts(20)).unwrap();
        assert_eq!((text(kv.get(b"k", ts(19))), text(kv.get(b"k", ts(20)))), ("-".into(), "1".into()));
        assert_eq!(kv.prewrite(&[put("k", "2")], b"k", ts(15), 1), Err(KvError::WriteConflict { conflict_ts: ts(20) }));
        kv.prewrite(&[(b"k".to_vec(), Mutation::Delete)], b"k", ts(30), 1).unwrap();
        kv.commit(&[b"k".to_vec()], ts(30), ts(31)).unwrap();
        assert_eq!(text(kv.get(b"k", ts(40))), "-");
        assert_eq!(kv.rollback(&[b"k".to_vec()], ts(30)), Err(KvError::Committed { commit_ts: ts(31) }));
    }

    #[test]
    fn verdicts() {
        let mut kv = Tikv::default();
        kv.prewrite(&[put("k", "1")], b"k", ts(1000), 3000).unwrap();
        assert!(matches!(
            kv.check_txn_status(b"k", ts(1000), ts(3999), true),
            Ok(TxnStatus::Locked { ttl_ms: 3000, .. })
        ));
        assert_eq!(kv.heart_beat(b"k", ts(1000), 5000), Ok(5000));
        assert!(matches!(kv.check_txn_status(b"k", ts(1000), ts(4000), true), Ok(TxnStatus::Locked { .. })));
        let expired = kv.check_txn_status(b"k", ts(1000), ts(6000), true);
        assert_eq!(expired, Ok(TxnStatus::RolledBack(Action::TtlExpireRollback)));
        assert_eq!(kv.commit(&[b"k".to_vec()], ts(1000), ts(6001)), Err(KvError::TxnLockNotFound));
        assert_eq!(
            kv.prewrite(&[put("k", "1")], b"k", ts(1000), 1),
            Err(KvError::WriteConflict { conflict_ts: ts(1000) })
        );
        // No trace: only on demand is one left.
        assert_eq!(kv.check_txn_status(b"q", ts(1), ts(2), false), Err(KvError::TxnNotFound));
        assert_eq!(kv.mvcc(b"q"), MvccInfo::default());
        let absent = kv.check_txn_status(b"q", ts(1), ts(2), true);
        assert_eq!(absent, Ok(TxnStatus::RolledBack(Action::LockNotExistRollback)));
        assert_eq!(kv.mvcc(b"q").writes[0].kind, WriteKind::Rollback);
        let again = kv.check_txn_status(b"q", ts(1), ts(2), true);
        assert_eq!(again, Ok(TxnStatus::RolledBack(Action::NoAction)));
    }

    #[test]
    fn rollbacks_and_commits_at_one_timestamp_overlap() {
        let mut kv = Tikv::default();
        kv.prewrite(&[put("k", "1")], b"k", ts(10), 1).unwrap();
        kv.commit(&[b"k".to_vec()], ts(10), ts(20)).unwrap();
        kv.rollback(&[b"k".to_vec()], ts(20)).unwrap();
        let info = kv.mvcc(b"k");
        assert!(info.writes[0].has_overlapped_rollback && info.writes[0].kind == WriteKind::Put);
        assert_eq!(kv.check_txn_status(b"k", ts(20), ts(30), true), Ok(TxnStatus::RolledBack(Action::NoAction)));
        // The other way round.
        kv.rollback(&[b"j".to_vec()], ts(20)).unwrap();
        kv.prewrite(&[put("j", "1")], b"j", ts(10), 1).unwrap();
        kv.commit(&[b"j".to_vec()], ts(10), ts(20)).unwrap();
        assert!(kv.mvcc(b"j").writes[0].has_overlapped_rollback);
    }

    #[test]
    fn a_reader_passes_by_the_locks_that_it_knows() {
        let mut kv = Tikv::default();
        kv.put_commit(b"k", put("k", "old").1, 1, 2).unwrap();
        kv.prewrite(&[put("k", "new")], b"k", 10, 3000).unwrap();
        assert_eq!((text(kv.get(b"k", 9)), text(kv.get(b"k", 10))), ("old".into(), "Locked".into()));
        assert_eq!(text(kv.get(b"k", Snapshot { version: 20, resolved: &[10], committed: &[] })), "old");
        assert_eq!(text(kv.get(b"k", Snapshot { version: 20, resolved: &[], committed: &[10] })), "new");
        let keys = |pairs: Result<Vec<Pair>, KvError>| {
            pairs.unwrap().into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<String>()
        };
        for key in ["a", "b", "c"] {
            kv.put_commit(key.as_bytes(), put(key, "1").1, 1, 2).unwrap();
        }
        assert_eq!(keys(kv.scan_at(b"b", Some(b"k"), 9, 9.into(), false)), "bc");
        assert_eq!(keys(kv.scan_at(b"a", None, 3, 9.into(), true)), "kcb");
        assert_eq!(keys(kv.scan_at(b"b", Some(b"a"), 3, 9.into(), true)), "");
    }

    #[test]
    fn loaded_records_are_evidence_and_contradict_nothing() {
        let mut kv = Tikv::default();
        kv.put_commit(b"m", put("m", "v").1, 1, 2).unwrap();
        kv.put_commit(b"m", Mutation::Lock, 10, 20).unwrap();
        kv.put_commit(b"m", Mutation::Lock, 10, 20).unwrap();
        assert_eq!(text(kv.get(b"m", 30)), "v", "a record without a value changes no read");
        assert_eq!(kv.check_txn_status(b"m", 10, 30, false), Ok(TxnStatus::Committed { commit_ts: 20 }));
        assert_eq!(kv.put_commit(b"m", Mutation::Lock, 10, 21), Err(KvError::Committed { commit_ts: 20 }));
        assert_eq!(kv.put_commit(b"m", Mutation::Lock, 11, 20), Err(KvError::WriteConflict { conflict_ts: 20 }));
        kv.rollback(&[b"m".to_vec()], 12).unwrap();
        assert_eq!(kv.put_commit(b"m", Mutation::Lock, 12, 22), Err(KvError::TxnLockNotFound));
        let lock = |start_ts| Lock {
            rollback_ts: BTreeSet::from([15]),
            ..Lock::new(start_ts, b"m".to_vec(), Mutation::Delete)
        };
        assert_eq!(kv.put_lock(b"m", lock(10)), Err(KvError::Committed { commit_ts: 20 }));
        assert_eq!(kv.put_lock(b"m", lock(12)), Err(KvError::WriteConflict { conflict_ts: 12 }));
        kv.put_lock(b"m", lock(13)).unwrap();
        assert!(matches!(kv.put_lock(b"m", lock(14)), Err(KvError::Locked(_))));
        assert_eq!(kv.check_txn_status(b"m", 15, 30, true), Ok(TxnStatus::RolledBack(Action::NoAction)), "listed");
        kv.put_lock(b"m", Lock { use_async_commit: true, ..lock(13) }).unwrap();
        let status = kv.check_txn_status(b"m", 13, u64::MAX, true);
        assert!(matches!(status, Ok(TxnStatus::Locked { .. })), "its time decides nothing: {status:?}");
    }

    #[test]
    fn gc_takes_evidence_and_keeps_values() {
        let mut kv = Tikv::default();
        for (start, commit) in [(10, 11), (20, 21), (30, 31)] {
            kv.prewrite(&[put("k", &commit.to_string())], b"k", ts(start), 1).unwrap();
            kv.commit(&[b"k".to_vec()], ts(start), ts(commit)).unwrap();
        }
        kv.rollback(&[b"r".to_vec()], ts(5)).unwrap();
        kv.gc(ts(25));
        assert_eq!(kv.mvcc(b"r"), MvccInfo::default());
        assert_eq!(kv.mvcc(b"k").writes.iter().map(|w| w.commit_ts).collect::<Vec<_>>(), [ts(31), ts(21)]);
        assert_eq!((text(kv.get(b"k", ts(25))), text(kv.get(b"k", ts(11)))), ("21".into(), "SnapshotTooOld".into()));
        assert!(
            matches!(kv.check_txn_status(b"k", ts(10), ts(90), true), Ok(TxnStatus::RolledBack(_))),
            "evidence is gone"
        );
    }

    #[test]
    fn locks_are_resolved_by_their_primary() {
        let mut kv = Tikv::default();
        kv.prewrite(&[put("a", "1"), put("b", "1")], b"a", ts(10), 5).unwrap();
        kv.commit(&[b"a".to_vec()], ts(10), ts(11)).unwrap();
        kv.prewrite(&[put("c", "1"), put("d", "1")], b"c", ts(12), 5).unwrap();
        assert_eq!(kv.old_locks(ts(11)).len(), 1);
        kv.resolve_expired(ts(15));
        assert_eq!(text(kv.get(b"b", ts(15))), "1");
        assert_eq!(text(kv.get(b"d", ts(15))), "Locked");
        kv.resolve_expired(ts(17));
        assert_eq!(text(kv.get(b"d", ts(17))), "-");
        assert!(kv.old_locks(u64::MAX).is_empty());
    }

    proptest! {
        /// Whatever is done in whatever order, no transaction is both committed and rolled back, and a status, once final,
        /// never changes.
        #[test]
        fn outcomes_are_final(steps in proptest::collection::vec((0_usize..4, 0_u8..5, 0_u64..20), 1..120)) {
            let mut kv = Tikv::default();
            let mut seen: BTreeMap<usize, Option<u64>> = BTreeMap::new();
            for (i, (txn, what, wait)) in steps.into_iter().enumerate() {
                let now = 1000 + 10 * u64::try_from(i).unwrap();
                let start = ts(100 * (1 + u64::try_from(txn).unwrap()));
                let keys = vec![b"k".to_vec()];
                match what {
                    0 => drop(kv.prewrite(&[put("k", "v")], b"k", start, now + wait * 20)),
                    1 => drop(kv.commit(&keys, start, ts(now))),
                    2 => drop(kv.rollback(&keys, start)),
                    3 => drop(kv.check_txn_status(b"k", start, ts(now), wait > 10)),
                    _ => kv.resolve_expired(ts(now)),
                }
                for txn in 0..4_usize {
                    let start = ts(100 * (1 + u64::try_from(txn).unwrap()));
                    let entry = kv.keys.get(b"k".as_slice()).cloned().unwrap_or_default();
                    let committed = entry.committed(start).map(|w| w.commit_ts);
                    let outcome = committed.map(Some).or(entry.rolled_back(start).map(|_| None));
                    prop_assert!(!(committed.is_some() && entry.rolled_back(start).is_some()));
                    if let Some(before) = seen.get(&txn) {
                        prop_assert_eq!(Some(*before), outcome);
                    }
                    if let Some(outcome) = outcome {
                        seen.insert(txn, outcome);
                    }
                }
            }
        }
    }
}
