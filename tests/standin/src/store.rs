//! TiKV's keys: locks, writes and values, and what a snapshot read, a history read or a status check answers.
//!
//! With a capture there are two sources. *Snapshot* values are the meta keys at the end of the capture and answer a read of
//! any version. *Evidence* are writes without a value: what became of the transactions of the capture.

use binlog_core::proto::kvrpcpb::{
    Action, CheckTxnStatusResponse, KeyError, KvPair, LockInfo, MvccInfo, MvccLock, MvccValue, MvccWrite, Op,
    TxnNotFound,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Most pairs of one scan, whatever is asked for (TiKV's clients ask for 256 to 10,240).
pub const MAX_SCAN: u32 = 10_240;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lock {
    start_ts: u64,
    primary: Bytes,
    value: Bytes,
    ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    rollback: bool,
    start_ts: u64,
    /// Of a rollback: its start_ts.
    commit_ts: u64,
    /// Absent for a rollback and for evidence.
    value: Option<Bytes>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    snapshot: Option<Bytes>,
    lock: Option<Lock>,
    /// Newest first.
    writes: Vec<Write>,
}

/// At which version a read looks, and which locks it may pass by: those of transactions that the reader knows to be rolled
/// back or committed above its version (`resolved`), or committed below it (`committed`: their value is read from the lock).
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot<'a> {
    pub version: u64,
    pub resolved: &'a [u64],
    pub committed: &'a [u64],
}

/// All keys, raw.
#[derive(Debug, Default)]
pub struct Store {
    keys: BTreeMap<Vec<u8>, Entry>,
}

impl Store {
    /// A value that reads of every version see.
    pub fn put_snapshot(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.keys.entry(key).or_default().snapshot = Some(value.into());
    }

    /// What became of a transaction: committed at `commit_ts`, or rolled back when that is `None`.
    pub fn add_evidence(&mut self, key: Vec<u8>, start_ts: u64, commit_ts: Option<u64>) {
        let entry = self.keys.entry(key).or_default();
        entry.insert(Write {
            rollback: commit_ts.is_none(),
            start_ts,
            commit_ts: commit_ts.unwrap_or(start_ts),
            value: None,
        });
    }

    /// Locks a key for a transaction. Nothing is checked: the caller plays TiDB.
    pub fn prewrite(&mut self, key: &[u8], value: &[u8], primary: &[u8], start_ts: u64, ttl_ms: u64) {
        self.keys.entry(key.to_vec()).or_default().lock = Some(Lock {
            start_ts,
            primary: Bytes::copy_from_slice(primary),
            value: Bytes::copy_from_slice(value),
            ttl_ms,
        });
    }

    /// Commits the lock of `start_ts`; false when there is none.
    pub fn commit(&mut self, key: &[u8], start_ts: u64, commit_ts: u64) -> bool {
        let Some(entry) = self.keys.get_mut(key) else { return false };
        let Some(lock) = entry.lock.take_if(|lock| lock.start_ts == start_ts) else { return false };
        entry.insert(Write { rollback: false, start_ts, commit_ts, value: Some(lock.value) });
        true
    }

    /// Rolls a transaction back, whether it holds a lock or not.
    pub fn rollback(&mut self, key: &[u8], start_ts: u64) {
        self.keys.entry(key.to_vec()).or_default().roll_back(start_ts);
    }

    /// Snapshot read; `Err` is a lock at or below the version.
    pub fn get(&self, key: &[u8], at: Snapshot<'_>) -> Result<Option<Bytes>, Box<KeyError>> {
        self.keys.get(key).map_or(Ok(None), |entry| entry.read(key, at))
    }

    /// Keys of `[start, end)` in order (or from the end in reverse), at most `limit` of those that have a value or a lock.
    #[must_use]
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32, at: Snapshot<'_>, reverse: bool) -> Vec<KvPair> {
        if end.is_some_and(|end| end <= start) {
            return Vec::new();
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.keys.range::<[u8], _>((Bound::Included(start), upper));
        let pair = |(key, entry): (&Vec<u8>, &Entry)| {
            let key_bytes = Bytes::copy_from_slice(key);
            match entry.read(key, at) {
                Ok(None) => None,
                Ok(Some(value)) => Some(KvPair { key: key_bytes, value, error: None }),
                Err(error) => Some(KvPair { key: key_bytes, value: Bytes::new(), error: Some(*error) }),
            }
        };
        let limit = limit.min(MAX_SCAN) as usize;
        if reverse {
            range.rev().filter_map(pair).take(limit).collect()
        } else {
            range.filter_map(pair).take(limit).collect()
        }
    }

    /// The history of a key, newest first.
    #[must_use]
    pub fn mvcc(&self, key: &[u8]) -> MvccInfo {
        let Some(entry) = self.keys.get(key) else { return MvccInfo::default() };
        MvccInfo {
            // The recorded store does not tell the TTL here; CheckTxnStatus does.
            lock: entry.lock.as_ref().map(|lock| MvccLock {
                start_ts: lock.start_ts,
                primary: lock.primary.clone(),
                short_value: lock.value.clone(),
                ..Default::default()
            }),
            writes: entry
                .writes
                .iter()
                .map(|write| MvccWrite {
                    r#type: if write.rollback { Op::Rollback } else { Op::Put } as i32,
                    start_ts: write.start_ts,
                    commit_ts: write.commit_ts,
                    short_value: write.value.clone().unwrap_or_default(),
                    ..Default::default()
                })
                .collect(),
            values: entry
                .writes
                .iter()
                .map(|write| MvccValue { start_ts: write.start_ts, value: write.value.clone().unwrap_or_default() })
                .collect(),
        }
    }

    /// CheckTxnStatus; may roll back an expired or absent transaction.
    pub fn check_txn_status(
        &mut self,
        primary: &[u8],
        lock_ts: u64,
        current_ts: u64,
        rollback_if_not_exist: bool,
    ) -> CheckTxnStatusResponse {
        let mut reply = CheckTxnStatusResponse::default();
        let entry = self.keys.entry(primary.to_vec()).or_default();
        if let Some(lock) = entry.lock.as_ref().filter(|lock| lock.start_ts == lock_ts) {
            if (lock_ts >> 18).saturating_add(lock.ttl_ms) <= current_ts >> 18 {
                entry.roll_back(lock_ts);
                reply.set_action(Action::TtlExpireRollback);
            } else {
                reply.lock_ttl = lock.ttl_ms;
                reply.lock_info = Some(lock.info(primary));
            }
        } else if let Some(write) = entry.writes.iter().find(|write| write.start_ts == lock_ts) {
            // Rolled back: an answer without anything in it.
            reply.commit_version = if write.rollback { 0 } else { write.commit_ts };
        } else if rollback_if_not_exist {
            entry.roll_back(lock_ts);
            reply.set_action(Action::LockNotExistRollback);
        } else {
            reply.error = Some(KeyError {
                txn_not_found: Some(TxnNotFound { start_ts: lock_ts, primary_key: Bytes::copy_from_slice(primary) }),
                ..Default::default()
            });
        }
        reply
    }
}

impl Entry {
    fn insert(&mut self, write: Write) {
        let at = self.writes.partition_point(|w| w.commit_ts > write.commit_ts);
        self.writes.insert(at, write);
    }

    fn roll_back(&mut self, start_ts: u64) {
        self.lock.take_if(|lock| lock.start_ts == start_ts);
        if !self.writes.iter().any(|write| write.start_ts == start_ts) {
            self.insert(Write { rollback: true, start_ts, commit_ts: start_ts, value: None });
        }
    }

    fn read(&self, key: &[u8], at: Snapshot<'_>) -> Result<Option<Bytes>, Box<KeyError>> {
        if let Some(lock) =
            self.lock.as_ref().filter(|l| l.start_ts <= at.version && !at.resolved.contains(&l.start_ts))
        {
            if at.committed.contains(&lock.start_ts) {
                return Ok(Some(lock.value.clone()));
            }
            return Err(Box::new(KeyError { locked: Some(lock.info(key)), ..Default::default() }));
        }
        let visible = self.writes.iter().filter(|write| !write.rollback && write.commit_ts <= at.version);
        let newest = visible.filter_map(|write| write.value.clone()).next();
        Ok(newest.or_else(|| self.snapshot.clone()))
    }
}

impl Lock {
    fn info(&self, key: &[u8]) -> LockInfo {
        LockInfo {
            primary_lock: self.primary.clone(),
            lock_version: self.start_ts,
            key: Bytes::copy_from_slice(key),
            lock_ttl: self.ttl_ms,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: u64) -> Snapshot<'static> {
        Snapshot { version, ..Snapshot::default() }
    }

    #[test]
    fn a_reader_passes_by_the_locks_that_it_knows() {
        let mut store = Store::default();
        store.put_snapshot(b"k".to_vec(), b"old".to_vec());
        store.prewrite(b"k", b"new", b"k", 10, 3_000);
        assert_eq!(store.get(b"k", at(9)).unwrap().unwrap(), "old", "below the lock");
        assert_eq!(store.get(b"k", at(10)).unwrap_err().locked.unwrap().lock_version, 10);
        let resolved = Snapshot { version: 20, resolved: &[10], ..Snapshot::default() };
        assert_eq!(store.get(b"k", resolved).unwrap().unwrap(), "old");
        let committed = Snapshot { version: 20, committed: &[10], ..Snapshot::default() };
        assert_eq!(store.get(b"k", committed).unwrap().unwrap(), "new");
    }

    #[test]
    fn evidence_has_no_value_but_a_verdict() {
        let mut store = Store::default();
        store.put_snapshot(b"mDB".to_vec(), b"v".to_vec());
        store.add_evidence(b"mDB".to_vec(), 10, Some(20));
        store.add_evidence(b"mDB".to_vec(), 11, None);
        assert_eq!(store.get(b"mDB", at(5)).unwrap().unwrap(), "v", "the end state answers every version");
        let info = store.mvcc(b"mDB");
        assert_eq!(
            info.writes.iter().map(|w| (w.r#type, w.start_ts, w.commit_ts)).collect::<Vec<_>>(),
            [(Op::Put as i32, 10, 20), (Op::Rollback as i32, 11, 11)]
        );
        assert_eq!(store.check_txn_status(b"mDB", 10, 30, true).commit_version, 20);
        assert_eq!(store.check_txn_status(b"mDB", 11, 30, true), CheckTxnStatusResponse::default());
    }

    #[test]
    fn scans_stop_at_their_bounds() {
        let mut store = Store::default();
        for key in ["a", "b", "c", "d"] {
            store.put_snapshot(key.into(), b"1".to_vec());
        }
        store.add_evidence(b"bb".to_vec(), 1, Some(2));
        let keys =
            |pairs: Vec<KvPair>| pairs.iter().map(|p| String::from_utf8(p.key.to_vec()).unwrap()).collect::<String>();
        assert_eq!(keys(store.scan(b"b", Some(b"d"), 9, at(9), false)), "bc", "a key with evidence only has no value");
        assert_eq!(keys(store.scan(b"a", None, 3, at(9), false)), "abc");
        assert_eq!(keys(store.scan(b"a", None, 3, at(9), true)), "dcb");
        assert_eq!(keys(store.scan(b"d", Some(b"a"), 3, at(9), false)), "");
    }
}
