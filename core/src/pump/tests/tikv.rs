//! TiKV and PD as far as verdicts need them: one transaction per start_ts, whose primary key follows from it.

use crate::proto::kvrpcpb::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, KeyError, LockInfo, MvccGetByKeyResponse, MvccInfo, MvccLock,
    MvccWrite, Op, TxnNotFound,
};
use crate::time::{MonoTime, Tso};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Committed(u64),
    RolledBack,
    /// The rollback lies in another transaction's write at our start_ts.
    Overlapped,
    /// Prewritten; the TTL counts from start_ts.
    Locked {
        ttl_ms: u64,
    },
    AsyncCommit,
    /// Another's lock that lists us as rolled back, or not.
    BehindLock {
        listed: bool,
    },
}

#[derive(Debug, Default)]
pub struct Tikv {
    pub fates: BTreeMap<u64, Fate>,
    /// Physical milliseconds at time 0; 0: timestamps are small numbers that only count.
    pub epoch_ms: u64,
    pub safe_point: u64,
    /// The GC safe point moves here as soon as a question about versions was answered.
    pub safe_point_then: Option<u64>,
    /// Of another service in PD.
    pub smallest_service: u64,
    pub versions_asked: Vec<u64>,
    /// By a question about the status that changes nothing.
    pub looked_at: Vec<u64>,
    /// start_ts and whether absence is to be made final.
    pub status_asked: Vec<(u64, bool)>,
    /// TTL and point.
    pub holds: Vec<(i64, u64)>,
}

impl Tikv {
    pub fn now(&self, now: MonoTime) -> Tso {
        if self.epoch_ms == 0 { Tso::ZERO } else { Tso::compose(self.epoch_ms + now.nanos() / 1_000_000, 0) }
    }

    pub fn versions(&mut self, key: &[u8]) -> MvccGetByKeyResponse {
        let start = start_of(key);
        self.versions_asked.push(start);
        let write = |kind: Op, start_ts, commit_ts, overlapped| MvccWrite {
            r#type: kind as i32,
            start_ts,
            commit_ts,
            has_overlapped_rollback: overlapped,
            ..MvccWrite::default()
        };
        let lock = |start_ts, ttl, async_commit, rollback_ts| MvccLock {
            start_ts,
            ttl,
            use_async_commit: async_commit,
            rollback_ts,
            ..MvccLock::default()
        };
        let mut info = MvccInfo::default();
        match self.fates.get(&start) {
            None => {}
            Some(Fate::Committed(commit)) => info.writes.push(write(Op::Put, start, *commit, false)),
            Some(Fate::RolledBack) => info.writes.push(write(Op::Rollback, start, start, false)),
            Some(Fate::Overlapped) => info.writes.push(write(Op::Put, start - 1, start, true)),
            Some(Fate::Locked { ttl_ms }) => info.lock = Some(lock(start, *ttl_ms, false, vec![])),
            Some(Fate::AsyncCommit) => info.lock = Some(lock(start, 3000, true, vec![])),
            Some(Fate::BehindLock { listed }) => {
                info.lock = Some(lock(start + 1, 3000, false, if *listed { vec![start] } else { vec![] }));
            }
        }
        self.safe_point = self.safe_point_then.unwrap_or(self.safe_point);
        MvccGetByKeyResponse { info: Some(info), ..MvccGetByKeyResponse::default() }
    }

    pub fn status(&mut self, request: &CheckTxnStatusRequest) -> CheckTxnStatusResponse {
        let start = request.lock_ts;
        assert_eq!(start_of(&request.primary_key), start, "the key belongs to another transaction");
        assert!(!request.resolving_pessimistic_lock && !request.force_sync_commit);
        let after = Tso::new(request.current_ts).physical_ms().saturating_sub(Tso::new(start).physical_ms());
        if after <= 1 {
            assert!(!request.rollback_if_not_exist, "who only looks leaves nothing");
            self.looked_at.push(start);
        } else {
            self.status_asked.push((start, request.rollback_if_not_exist));
        }
        let safe_point = self.safe_point_then.unwrap_or(self.safe_point);
        let mut reply = CheckTxnStatusResponse::default();
        match self.fates.get(&start) {
            Some(Fate::Committed(commit)) => reply.commit_version = *commit,
            Some(Fate::RolledBack | Fate::Overlapped) => {}
            Some(Fate::Locked { ttl_ms }) => {
                let now = Tso::new(request.current_ts).physical_ms();
                if Tso::new(start).physical_ms() + ttl_ms < now {
                    self.fates.insert(start, Fate::RolledBack);
                    reply.action = 1;
                } else {
                    reply.lock_ttl = *ttl_ms;
                    reply.lock_info = Some(LockInfo { lock_version: start, ..LockInfo::default() });
                }
            }
            Some(Fate::AsyncCommit) => {
                reply.lock_ttl = 3000;
                reply.lock_info = Some(LockInfo { use_async_commit: true, ..LockInfo::default() });
            }
            None | Some(Fate::BehindLock { .. }) if request.rollback_if_not_exist => {
                self.fates.insert(start, Fate::RolledBack);
                reply.action = 2;
            }
            None | Some(Fate::BehindLock { .. }) => {
                let txn_not_found = Some(TxnNotFound { start_ts: start, ..TxnNotFound::default() });
                reply.error = Some(KeyError { txn_not_found, ..KeyError::default() });
            }
        }
        self.safe_point = safe_point;
        reply
    }
}

pub fn primary_key(start_ts: u64) -> Bytes {
    format!("key-{start_ts}").into()
}

fn start_of(key: &[u8]) -> u64 {
    std::str::from_utf8(key).unwrap().strip_prefix("key-").unwrap().parse().unwrap()
}
