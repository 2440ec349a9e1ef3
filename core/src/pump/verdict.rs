//! What TiKV's replies say about one prewrite, and what follows (rules 1). Pure: [`super::resolve`] asks the questions and
//! carries out the steps.
//!
//! Keeps true: a verdict comes from a record of our transaction, or from its absence while the GC safe point, read after the
//! answer, lies below its start_ts; a lock is no verdict; what a reply does not say is an error and is asked again.

use crate::ids::{CommitTs, StartTs};
use crate::proto::kvrpcpb::{Action, CheckTxnStatusResponse, MvccGetByKeyResponse, Op};

/// The fate of a transaction, to be logged before it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Committed(CommitTs),
    RolledBack,
}

/// What a reply shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A write record of our transaction.
    Committed(CommitTs),
    /// A rollback record of our transaction, or TiKV rolled its expired lock back.
    RolledBack,
    /// Its lock stands. `ttl_ms` counts from the physical part of start_ts.
    Locked { ttl_ms: u64, async_commit: bool },
    /// No trace of it.
    Absent,
    /// There was no trace of it; our question left a rollback record.
    AbsentNowBarred,
}

/// What else decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// Its client sent R.
    pub hinted: bool,
    /// Ten minutes have passed since start_ts and since this process first saw P.
    pub old: bool,
    /// A question of ours may have left the rollback record that is seen: then it proves no more than absence.
    pub barred_by_us: bool,
}

/// What to do next about a prewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Decide(Verdict),
    /// Ask again later.
    Wait,
    /// Its lock should have expired by `ttl_ms`: then ask for its status.
    AwaitLock {
        ttl_ms: u64,
    },
    /// Read the GC safe point now; above it, absence means rolled back.
    ProveAbsence,
    /// Leave a rollback record, so that a prewrite under way cannot come any more; then prove the absence.
    Bar,
    /// What binlog rules out: an operator has to look.
    Fault,
}

/// Reads the reply about the versions of P's primary key.
///
/// # Errors
/// What makes the reply unusable; it is asked for again.
pub fn of_mvcc(start_ts: StartTs, reply: &MvccGetByKeyResponse) -> Result<Evidence, String> {
    if !reply.error.is_empty() {
        return Err(format!("TiKV MvccGetByKey: {}", reply.error));
    }
    let own = start_ts.raw();
    // Without it nothing is said, absence neither (trap T6).
    let info = reply.info.as_ref().ok_or("TiKV MvccGetByKey: a reply without info")?;
    let mut rolled_back = false;
    for write in &info.writes {
        // It stands for two records: the other transaction's write, and a rollback of the one that began at its commit_ts.
        rolled_back |= write.has_overlapped_rollback && write.commit_ts == own;
        if write.start_ts != own {
            continue;
        }
        match Op::try_from(write.r#type) {
            Ok(Op::Rollback) => rolled_back = true,
            Ok(Op::Put | Op::Del | Op::Lock | Op::Insert) => return committed(own, write.commit_ts),
            Ok(Op::PessimisticLock | Op::CheckNotExists) | Err(_) => {
                return Err(format!("TiKV MvccGetByKey: a write record of unknown kind {}", write.r#type));
            }
        }
    }
    if rolled_back {
        return Ok(Evidence::RolledBack);
    }
    Ok(match &info.lock {
        Some(lock) if lock.start_ts == own => {
            Evidence::Locked { ttl_ms: lock.ttl, async_commit: lock.use_async_commit }
        }
        Some(lock) if lock.rollback_ts.contains(&own) => Evidence::RolledBack,
        Some(_) | None => Evidence::Absent,
    })
}

/// Reads the reply about the transaction's status.
///
/// # Errors
/// What makes the reply unusable; it is asked for again.
pub fn of_status(start_ts: StartTs, reply: &CheckTxnStatusResponse) -> Result<Evidence, String> {
    if let Some(error) = &reply.error {
        if error.txn_not_found.is_some() {
            return Ok(Evidence::Absent);
        }
        let locked = if error.locked.is_some() { "the key is locked by another transaction " } else { "" };
        return Err(format!("TiKV KvCheckTxnStatus: {locked}{}{}", error.abort, error.retryable));
    }
    let async_commit = reply.lock_info.as_ref().is_some_and(|lock| lock.use_async_commit);
    // The lock first: a status with both means that it still lives (spec pump 2.5). One that is shown stands, whatever its TTL.
    if reply.lock_ttl > 0 || reply.lock_info.is_some() {
        return Ok(Evidence::Locked { ttl_ms: reply.lock_ttl, async_commit });
    }
    if reply.commit_version > 0 {
        return committed(start_ts.raw(), reply.commit_version);
    }
    match Action::try_from(reply.action) {
        Ok(Action::NoAction | Action::TtlExpireRollback | Action::TtlExpirePessimisticRollback) => {
            Ok(Evidence::RolledBack)
        }
        Ok(Action::LockNotExistRollback) => Ok(Evidence::AbsentNowBarred),
        Ok(Action::LockNotExistDoNothing) => Ok(Evidence::Absent),
        Ok(Action::MinCommitTsPushed) | Err(_) => {
            Err(format!("TiKV KvCheckTxnStatus: no lock, no commit, action {}", reply.action))
        }
    }
}

/// What follows from it.
#[must_use]
pub const fn next(evidence: Evidence, context: Context) -> Step {
    match evidence {
        Evidence::Committed(commit_ts) => Step::Decide(Verdict::Committed(commit_ts)),
        Evidence::RolledBack if context.barred_by_us => Step::ProveAbsence,
        Evidence::RolledBack => Step::Decide(Verdict::RolledBack),
        Evidence::Locked { async_commit: true, .. } => Step::Fault,
        Evidence::Locked { ttl_ms, .. } => Step::AwaitLock { ttl_ms },
        Evidence::AbsentNowBarred => Step::ProveAbsence,
        Evidence::Absent if context.hinted => Step::ProveAbsence,
        Evidence::Absent if context.old => Step::Bar,
        Evidence::Absent => Step::Wait,
    }
}

fn committed(own: u64, commit_ts: u64) -> Result<Evidence, String> {
    if commit_ts > own {
        return Ok(Evidence::Committed(CommitTs::new(commit_ts)));
    }
    Err(format!("TiKV says committed at {commit_ts}, which is not above start_ts {own}"))
}

/// A prewrite without any trace in TiKV may still be on its way there for this long after its start_ts and after its binlog
/// (the original's 600 s; trap T5).
pub const ABSENT_AFTER_MS: u64 = 600_000;

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
