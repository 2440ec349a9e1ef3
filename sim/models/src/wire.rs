//! Their answers as TiKV's messages (spec pd_tikv), for the simulator and for the stand-in behind real sockets. The forms are
//! those of the recorded replies: what that store leaves out (`not_found`, the TTL in a key's history) is left out here.

use crate::tikv::{self, KvError, Lock, Mutation, Pair, TxnStatus, Write, WriteKind};
use binlog_core::proto::kvrpcpb::{
    Action, CheckTxnStatusResponse, KeyError, KvPair, LockInfo, MvccInfo, MvccLock, MvccValue, MvccWrite, Op,
    TxnNotFound,
};
use bytes::Bytes;

/// An error about a key.
#[must_use]
pub fn key_error(key: &[u8], start_ts: u64, error: &KvError) -> KeyError {
    match error {
        KvError::Locked(lock) => KeyError { locked: Some(lock_info(key, lock)), ..Default::default() },
        KvError::TxnNotFound => KeyError {
            txn_not_found: Some(TxnNotFound { start_ts, primary_key: Bytes::copy_from_slice(key) }),
            ..Default::default()
        },
        KvError::SnapshotTooOld { safe_point } => {
            let abort = format!(
                "GC life time is shorter than transaction duration: version {start_ts} is below the GC safe point {safe_point}"
            );
            KeyError { abort, ..Default::default() }
        }
        // Answers to requests that only TiDB sends; no service of ours gives them.
        KvError::WriteConflict { .. } | KvError::TxnLockNotFound | KvError::Committed { .. } => {
            KeyError { abort: format!("{error:?}"), ..Default::default() }
        }
    }
}

/// One pair of a scan at a version.
#[must_use]
pub fn pair((key, value): Pair, version: u64) -> KvPair {
    match value {
        Ok(value) => KvPair { key: key.into(), value, error: None },
        Err(error) => {
            let error = Some(key_error(&key, version, &error));
            KvPair { key: key.into(), value: Bytes::new(), error }
        }
    }
}

/// Answer of CheckTxnStatus about the transaction `lock_ts`.
#[must_use]
pub fn status(primary: &[u8], lock_ts: u64, status: Result<TxnStatus, KvError>) -> CheckTxnStatusResponse {
    let mut reply = CheckTxnStatusResponse::default();
    match status {
        Ok(TxnStatus::Locked { ttl_ms, lock }) => {
            reply.lock_ttl = ttl_ms;
            reply.lock_info = Some(lock_info(primary, &lock));
        }
        Ok(TxnStatus::Committed { commit_ts }) => reply.commit_version = commit_ts,
        Ok(TxnStatus::RolledBack(action)) => reply.set_action(match action {
            tikv::Action::NoAction => Action::NoAction,
            tikv::Action::TtlExpireRollback => Action::TtlExpireRollback,
            tikv::Action::LockNotExistRollback => Action::LockNotExistRollback,
        }),
        Err(error) => reply.error = Some(key_error(primary, lock_ts, &error)),
    }
    reply
}

/// The history of a key, newest first.
#[must_use]
pub fn mvcc(info: &tikv::MvccInfo) -> MvccInfo {
    let value = |write: &Write| MvccValue { start_ts: write.start_ts, value: write.value.clone() };
    MvccInfo {
        lock: info.lock.as_ref().map(mvcc_lock),
        writes: info.writes.iter().map(mvcc_write).collect(),
        values: info.writes.iter().map(value).collect(),
    }
}

fn mvcc_lock(lock: &Lock) -> MvccLock {
    MvccLock {
        r#type: op_of(&lock.value) as i32,
        start_ts: lock.start_ts,
        primary: lock.primary.clone().into(),
        short_value: value_of(&lock.value),
        use_async_commit: lock.use_async_commit,
        rollback_ts: lock.rollback_ts.iter().copied().collect(),
        ..Default::default()
    }
}

fn mvcc_write(write: &Write) -> MvccWrite {
    let op = match write.kind {
        WriteKind::Put => Op::Put,
        WriteKind::Delete => Op::Del,
        WriteKind::Lock => Op::Lock,
        WriteKind::Rollback => Op::Rollback,
    };
    MvccWrite {
        r#type: op as i32,
        start_ts: write.start_ts,
        commit_ts: write.commit_ts,
        short_value: write.value.clone(),
        has_overlapped_rollback: write.has_overlapped_rollback,
        ..Default::default()
    }
}

fn lock_info(key: &[u8], lock: &Lock) -> LockInfo {
    LockInfo {
        primary_lock: lock.primary.clone().into(),
        lock_version: lock.start_ts,
        key: Bytes::copy_from_slice(key),
        lock_ttl: lock.ttl_ms,
        lock_type: op_of(&lock.value) as i32,
        use_async_commit: lock.use_async_commit,
        ..Default::default()
    }
}

fn op_of(value: &Mutation) -> Op {
    match value {
        Mutation::Put(_) => Op::Put,
        Mutation::Delete => Op::Del,
        Mutation::Lock => Op::Lock,
    }
}

fn value_of(value: &Mutation) -> Bytes {
    match value {
        Mutation::Put(value) => value.clone(),
        Mutation::Delete | Mutation::Lock => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tikv::Tikv;
    use std::collections::BTreeSet;

    #[test]
    fn what_the_recordings_do_not_show() {
        let mut kv = Tikv::default();
        kv.put_commit(b"k", Mutation::Delete, 10, 20).unwrap();
        kv.rollback(&[b"k".to_vec()], 20).unwrap();
        let lock = Lock {
            ttl_ms: 7,
            rollback_ts: BTreeSet::from([25]),
            use_async_commit: true,
            ..Lock::new(30, b"p".to_vec(), Mutation::Lock)
        };
        kv.put_lock(b"k", lock).unwrap();
        let info = mvcc(&kv.mvcc(b"k"));
        let lock = info.lock.unwrap();
        assert_eq!((lock.r#type, lock.rollback_ts, lock.use_async_commit), (Op::Lock as i32, vec![25], true));
        assert_eq!(lock.primary, "p");
        let write = &info.writes[0];
        assert_eq!((write.r#type, write.commit_ts, write.has_overlapped_rollback), (Op::Del as i32, 20, true));
        let answer = status(b"k", 30, kv.check_txn_status(b"k", 30, u64::MAX, true));
        assert_eq!((answer.lock_ttl, answer.lock_info.unwrap().use_async_commit), (7, true));
        kv.gc(50);
        let error = key_error(b"k", 40, &kv.get(b"k", 40).unwrap_err());
        assert!(error.abort.contains("version 40 is below the GC safe point 50"), "{error:?}");
    }
}
