use super::*;
use crate::proto::kvrpcpb::{KeyError, LockInfo, MvccInfo, MvccLock, MvccWrite, TxnNotFound};

const OWN: StartTs = StartTs::new(50);

/// `put 50@60` a write of start 50 at commit 60; a `+` behind it: with an overlapped rollback; `rollback 50`; `lock 50/3000`
/// with a TTL, `!` behind it: async commit, `r50,51` its rollback_ts; `error`, `no-info`.
fn mvcc(script: &str) -> MvccGetByKeyResponse {
    let mut info = MvccInfo::default();
    let mut reply = MvccGetByKeyResponse::default();
    let mut words = script.split_whitespace();
    while let Some(word) = words.next() {
        let mut arg = || words.next().unwrap().to_owned();
        let kind = match word {
            "put" => Op::Put,
            "del" => Op::Del,
            "lockrec" => Op::Lock,
            "insert" => Op::Insert,
            "rollback" => Op::Rollback,
            "odd" => Op::PessimisticLock,
            "lock" => {
                let arg = arg();
                let (head, list) = arg.split_once('r').unwrap_or((&arg, ""));
                let (start, ttl) = head.trim_end_matches('!').split_once('/').unwrap();
                info.lock = Some(MvccLock {
                    start_ts: start.parse().unwrap(),
                    ttl: ttl.parse().unwrap(),
                    use_async_commit: head.ends_with('!'),
                    rollback_ts: list.split(',').filter_map(|n| n.parse().ok()).collect(),
                    ..MvccLock::default()
                });
                continue;
            }
            "error" => {
                reply.error = "region is on fire".to_owned();
                continue;
            }
            "no-info" => return MvccGetByKeyResponse::default(),
            other => panic!("{other}"),
        };
        let arg = arg();
        let (start, commit) = arg.trim_end_matches('+').split_once('@').unwrap_or((&arg, &arg));
        info.writes.push(MvccWrite {
            r#type: kind as i32,
            start_ts: start.parse().unwrap(),
            commit_ts: commit.parse().unwrap(),
            has_overlapped_rollback: arg.ends_with('+'),
            ..MvccWrite::default()
        });
    }
    reply.info = Some(info);
    reply
}

/// `ttl 3000`, `commit 60`, `action 2`, `lock`, `async`, `not-found`, `locked`, `abort`.
fn status(script: &str) -> CheckTxnStatusResponse {
    let mut reply = CheckTxnStatusResponse::default();
    let mut words = script.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "ttl" => reply.lock_ttl = words.next().unwrap().parse().unwrap(),
            "commit" => reply.commit_version = words.next().unwrap().parse().unwrap(),
            "action" => reply.action = words.next().unwrap().parse().unwrap(),
            "lock" => reply.lock_info = Some(LockInfo::default()),
            "async" => reply.lock_info = Some(LockInfo { use_async_commit: true, ..LockInfo::default() }),
            "not-found" => {
                let txn_not_found = Some(TxnNotFound { start_ts: 50, ..TxnNotFound::default() });
                reply.error = Some(KeyError { txn_not_found, ..KeyError::default() });
            }
            "locked" => reply.error = Some(KeyError { locked: Some(LockInfo::default()), ..KeyError::default() }),
            "abort" => reply.error = Some(KeyError { abort: "no".to_owned(), ..KeyError::default() }),
            other => panic!("{other}"),
        }
    }
    reply
}

fn show(evidence: Result<Evidence, String>, context: Context) -> String {
    match evidence.map(|evidence| next(evidence, context)) {
        Ok(Step::Decide(Verdict::Committed(ts))) => format!("committed {ts}"),
        Ok(Step::Decide(Verdict::RolledBack)) => "rolled back".to_owned(),
        Ok(Step::Wait) => "wait".to_owned(),
        Ok(Step::AwaitLock { ttl_ms }) => format!("await lock {ttl_ms}"),
        Ok(Step::ProveAbsence) => "prove absence".to_owned(),
        Ok(Step::Bar) => "bar".to_owned(),
        Ok(Step::Fault) => "fault".to_owned(),
        Err(_) => "ask again".to_owned(),
    }
}

/// `r` R was seen, `o` ten minutes have passed, `b` a question of ours may have left the rollback record.
fn context(letters: &str) -> Context {
    Context { hinted: letters.contains('r'), old: letters.contains('o'), barred_by_us: letters.contains('b') }
}

/// Rules 1, one row per sentence: reply, what else is known, what follows.
#[test]
fn versions_of_the_primary_key() {
    for (reply, letters, want) in [
        // A write with our start_ts that is no Rollback: committed, whatever else there is.
        ("put 50@60", "", "committed 60"),
        ("del 50@60", "", "committed 60"),
        ("lockrec 50@60", "", "committed 60"),
        ("insert 50@60", "", "committed 60"),
        ("put 70@80 put 50@60 put 30@40", "ro", "committed 60"),
        ("put 50@60 put 40@50+", "r", "committed 60"),
        ("put 50@60 lock 90/3000", "", "committed 60"),
        // R is no verdict: a commit whose answer was lost.
        ("put 50@60", "r", "committed 60"),
        // A Rollback record of ours, or one that lies in another's write at our start_ts.
        ("rollback 50", "", "rolled back"),
        ("put 40@50+", "", "rolled back"),
        ("put 40@50", "", "wait"),
        ("put 40@51+", "", "wait"),
        ("rollback 49 rollback 51", "", "wait"),
        // A record that we may have left ourselves proves no more than absence.
        ("rollback 50", "b", "prove absence"),
        ("put 50@60", "b", "committed 60"),
        // Our lock: wait for its TTL, also after R and after ten minutes.
        ("lock 50/3000", "", "await lock 3000"),
        ("lock 50/3000", "ro", "await lock 3000"),
        ("put 30@40 lock 50/20000", "", "await lock 20000"),
        ("lock 50/3000!", "", "fault"),
        // Another's lock: as if there were none, unless it lists us.
        ("lock 70/3000", "", "wait"),
        ("lock 70/3000", "r", "prove absence"),
        ("lock 70/3000r49,50", "", "rolled back"),
        ("lock 70/3000r49,51", "", "wait"),
        // Nothing.
        ("", "", "wait"),
        ("", "r", "prove absence"),
        ("", "o", "bar"),
        ("", "ro", "prove absence"),
        // Not usable.
        ("error", "ro", "ask again"),
        ("no-info", "ro", "ask again"),
        ("odd 50@60", "", "ask again"),
        ("put 50@50", "", "ask again"),
        ("put 50@40", "", "ask again"),
    ] {
        assert_eq!(show(of_mvcc(OWN, &mvcc(reply)), context(letters)), want, "{reply:?} {letters}");
    }
    let unknown = MvccWrite { r#type: 99, start_ts: 50, commit_ts: 60, ..MvccWrite::default() };
    let info = Some(MvccInfo { writes: vec![unknown], ..MvccInfo::default() });
    assert!(of_mvcc(OWN, &MvccGetByKeyResponse { info, ..MvccGetByKeyResponse::default() }).is_err());
}

#[test]
fn status_of_the_transaction() {
    for (reply, letters, want) in [
        ("ttl 3000", "", "await lock 3000"),
        ("lock", "", "await lock 0"),
        ("ttl 3000 commit 60", "", "await lock 3000"),
        ("ttl 3000 action 3", "ro", "await lock 3000"),
        ("commit 60", "", "committed 60"),
        ("commit 60", "r", "committed 60"),
        ("commit 50", "", "ask again"),
        ("", "", "rolled back"),
        ("action 1", "", "rolled back"),
        ("action 4", "", "rolled back"),
        // Absence counts only with the safe point.
        ("action 2", "o", "prove absence"),
        ("not-found", "", "wait"),
        ("not-found", "r", "prove absence"),
        ("not-found", "o", "bar"),
        ("action 5", "", "wait"),
        ("async", "", "fault"),
        ("ttl 3000 async", "", "fault"),
        ("action 3", "", "ask again"),
        ("action 99", "", "ask again"),
        ("locked", "ro", "ask again"),
        ("abort", "ro", "ask again"),
    ] {
        assert_eq!(show(of_status(OWN, &status(reply)), context(letters)), want, "{reply:?} {letters}");
    }
}
