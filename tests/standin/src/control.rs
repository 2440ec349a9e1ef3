//! The operator's port: what a library call does, over HTTP. [`crate::client::Control`] sends these commands.
//!
//! | request | body | what it does |
//! |---|---|---|
//! | `GET /status` | | addresses, cluster id, clock, who is up, GC safe point, region errors in waiting, calls of TiKV so far |
//! | `PUT /capture` | a directory | takes over what a capture knows; the clock changes with `/tso/start` |
//! | `PUT /tso/start` | | the capture's clock, 10 s below its smallest timestamp |
//! | `PUT /tso/outage`, `/tso/resume` | | no timestamps (all else of PD is answered), and again |
//! | `PUT /tso/wall` | | the host's clock |
//! | `PUT /tso/get` | | `{"ts": N}`: a fresh timestamp |
//! | `PUT /pd/down`, `/pd/up` | | PD's port, etcd included, answers UNAVAILABLE, and again; watches that stand are not cut |
//! | `PUT /pd/jump/{ms}` | | timestamps jump forward |
//! | `PUT /gc` | `{"life-ms": N}` or `{"safe-point": TS}` | GC as TiDB's worker does it, held by service safe points; or to a point whatever holds it. Locks at or below are resolved by their primaries first; what is below is gone from the history of keys |
//! | `PUT /tikv/down`, `/tikv/hang`, `/tikv/up` | | TiKV answers UNAVAILABLE, or nothing until it is up, and again |
//! | `PUT /tikv/region-errors` | `{"error": KIND, "count": N}` | the next N requests get it: `not-leader`, `no-leader`, `epoch-not-match`, `region-not-found`, `server-is-busy`, `stale-command`, `store-not-match` |
//! | `PUT /tikv/lock` | `{"key": HEX, "start-ts": TS, "ttl-ms": N}`, optional `primary`, `value`, `rollback-ts` (list), `use-async-commit` | a lock; of a transaction that has it already: replaces it |
//! | `PUT /tikv/commit` | `{"key": HEX, "start-ts": TS, "commit-ts": TS}`, optional `value` | commits the lock, or puts the record |
//! | `PUT /tikv/rollback` | `{"key": HEX, "start-ts": TS}` | removes the lock and leaves a rollback record (a mark, where another committed at that timestamp) |
//! | `PUT /tikv/overlapped-rollback` | the same | lets another transaction commit at `start-ts`, then rolls back: only the mark tells |
//! | `GET /tikv/key/{HEX}` | | `{"lock": …, "writes": […]}`, newest first |
//!
//! Keys are raw. Refused with 400: a body that is not understood. 409: what contradicts what TiKV holds (a transaction is
//! committed or rolled back, never both). Every answer is JSON, an error is a line of text.

use crate::Shared;
use crate::capture::Capture;
use crate::client::{Commit, Gc, Lock, RegionErrors, Rollback, from_hex};
use crate::faults::{Health, MAX_TROUBLES};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, put};
use binlog_sim_models::tikv::{self, KvError, Mutation, TxnStatus};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

type Reply = Result<Json<Value>, (StatusCode, String)>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/tso/{action}", put(tso))
        .route("/capture", put(capture))
        .route("/pd/{action}", put(pd))
        .route("/pd/jump/{ms}", put(jump))
        .route("/gc", put(gc))
        .route("/tikv/lock", put(lock))
        .route("/tikv/commit", put(commit))
        .route("/tikv/rollback", put(rollback))
        .route("/tikv/overlapped-rollback", put(overlapped_rollback))
        .route("/tikv/region-errors", put(region_errors))
        .route("/tikv/{action}", put(tikv_health))
        .route("/tikv/key/{key}", get(key))
        .with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mut clock = shared.tso();
    let (tso, pd_up) = (clock.mode(), clock.is_up());
    let gc_safe_point = clock.model().0.gc_safe_point().ok();
    drop(clock);
    Json(json!({
        "cluster_id": shared.cluster_id().to_string(),
        "pd": shared.pd_url,
        "tikv": shared.tikv_addr,
        "tso": tso,
        "pd-up": pd_up,
        "gc-safe-point": gc_safe_point,
        "tikv-health": shared.faults.health(),
        "tikv-calls": shared.faults.calls(),
        "region-errors": shared.faults.waiting(),
    }))
}

async fn tso(State(shared): State<Arc<Shared>>, Path(action): Path<String>) -> Reply {
    match action.as_str() {
        "start" => shared.tso().start().map_err(|e| (StatusCode::CONFLICT, format!("{e:#}\n")))?,
        "outage" => shared.tso().outage(),
        "resume" => shared.tso().resume(),
        "wall" => shared.tso().wall(),
        "get" => {
            let ts = shared.timestamp().ok_or((StatusCode::CONFLICT, "the clock stands\n".to_owned()))?;
            return Ok(Json(json!({"ts": ts.raw()})));
        }
        _ => return Err(unknown(&action, "start, outage, resume, wall or get")),
    }
    Ok(status(State(shared)).await)
}

async fn capture(State(shared): State<Arc<Shared>>, dir: String) -> Reply {
    let loaded = Capture::open(std::path::Path::new(dir.trim())).and_then(|capture| shared.load_capture(&capture));
    loaded.map_err(|e| (StatusCode::BAD_REQUEST, format!("{e:#}\n")))?;
    Ok(status(State(shared)).await)
}

async fn pd(State(shared): State<Arc<Shared>>, Path(action): Path<String>) -> Reply {
    match action.as_str() {
        "down" => shared.tso().set_up(false),
        "up" => shared.tso().set_up(true),
        _ => return Err(unknown(&action, "down, up or jump/MS")),
    }
    Ok(status(State(shared)).await)
}

async fn jump(State(shared): State<Arc<Shared>>, Path(ms): Path<u64>) -> Reply {
    shared.tso().model().0.jump(ms);
    Ok(status(State(shared)).await)
}

async fn tikv_health(State(shared): State<Arc<Shared>>, Path(action): Path<String>) -> Reply {
    shared.faults.set_health(match action.as_str() {
        "up" => Health::Up,
        "down" => Health::Down,
        "hang" => Health::Hang,
        _ => {
            return Err(unknown(
                &action,
                "up, down, hang, lock, commit, rollback, overlapped-rollback or region-errors",
            ));
        }
    });
    Ok(status(State(shared)).await)
}

async fn region_errors(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    let RegionErrors { error, count } = parse(&body)?;
    if !shared.faults.add_troubles(error, count) {
        return Err((StatusCode::BAD_REQUEST, format!("more than {MAX_TROUBLES} region errors would wait\n")));
    }
    Ok(status(State(shared)).await)
}

async fn lock(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    let lock: Lock = parse(&body)?;
    let key = raw("key", &lock.key)?;
    let primary = lock.primary.as_deref().map_or(Ok(key.clone()), |primary| raw("primary", primary))?;
    let new = tikv::Lock {
        ttl_ms: lock.ttl_ms,
        rollback_ts: lock.rollback_ts.into_iter().collect(),
        use_async_commit: lock.use_async_commit,
        ..tikv::Lock::new(lock.start_ts, primary, Mutation::Put(lock.value.into()))
    };
    shared.tikv().put_lock(&key, new).map_err(|e| refused(&e))?;
    Ok(history(&shared, &key))
}

async fn commit(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    let commit: Commit = parse(&body)?;
    let key = raw("key", &commit.key)?;
    let value = Mutation::Put(commit.value.into());
    shared.tikv().put_commit(&key, value, commit.start_ts, commit.commit_ts).map_err(|e| refused(&e))?;
    Ok(history(&shared, &key))
}

async fn rollback(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    let rollback: Rollback = parse(&body)?;
    let key = raw("key", &rollback.key)?;
    shared.tikv().rollback(std::slice::from_ref(&key), rollback.start_ts).map_err(|e| refused(&e))?;
    Ok(history(&shared, &key))
}

async fn overlapped_rollback(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    let rollback: Rollback = parse(&body)?;
    let key = raw("key", &rollback.key)?;
    let before = rollback.start_ts.saturating_sub(1);
    let mut tikv = shared.tikv();
    let roll_back = |tikv: &mut tikv::Tikv| tikv.rollback(std::slice::from_ref(&key), rollback.start_ts);
    // Another may have committed there already; the mark is all that this needs.
    let overlapped = tikv.mvcc(&key).writes.iter().any(|w| w.commit_ts == rollback.start_ts);
    let done = if overlapped { Ok(()) } else { tikv.put_commit(&key, Mutation::Lock, before, rollback.start_ts) };
    done.and_then(|()| roll_back(&mut tikv)).map_err(|e| refused(&e))?;
    drop(tikv);
    Ok(history(&shared, &key))
}

async fn gc(State(shared): State<Arc<Shared>>, body: String) -> Reply {
    collect(&shared, parse(&body)?)?;
    Ok(status(State(shared)).await)
}

fn collect(shared: &Shared, gc: Gc) -> Result<(), (StatusCode, String)> {
    let mut clock = shared.tso();
    let (pd, now_ms) = clock.model();
    let away = |_| (StatusCode::CONFLICT, "PD is away: there is no GC\n".to_owned());
    let safe_point = match gc {
        Gc::LifeMs(life_ms) => pd.advance_gc(now_ms, life_ms).map_err(away)?,
        Gc::SafePoint(safe_point) => pd.force_gc(safe_point),
    };
    drop(clock);
    let mut tikv = shared.tikv();
    for (key, lock) in tikv.old_locks(safe_point) {
        // TiDB's GC worker does not wait for a lock that lives: all time is over.
        match tikv.check_txn_status(&lock.primary, lock.start_ts, u64::MAX, true) {
            Ok(TxnStatus::Committed { commit_ts }) => tikv.resolve(&key, lock.start_ts, Some(commit_ts)),
            Ok(TxnStatus::RolledBack(_)) => tikv.resolve(&key, lock.start_ts, None),
            Ok(TxnStatus::Locked { .. }) | Err(_) => {}
        }
    }
    tikv.gc(safe_point);
    Ok(())
}

async fn key(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Reply {
    Ok(history(&shared, &raw("key", &key)?))
}

fn history(shared: &Shared, key: &[u8]) -> Json<Value> {
    let info = shared.tikv().mvcc(key);
    let lock = info.lock.map(|lock| json!({"start-ts": lock.start_ts, "ttl-ms": lock.ttl_ms}));
    let write = |w: &tikv::Write| {
        json!({
            "kind": format!("{:?}", w.kind).to_lowercase(),
            "start-ts": w.start_ts,
            "commit-ts": w.commit_ts,
            "overlapped-rollback": w.has_overlapped_rollback,
        })
    };
    Json(json!({"lock": lock, "writes": info.writes.iter().map(write).collect::<Vec<_>>()}))
}

fn parse<T: DeserializeOwned>(body: &str) -> Result<T, (StatusCode, String)> {
    serde_json::from_str(body).map_err(|e| (StatusCode::BAD_REQUEST, format!("the body: {e}\n")))
}

fn raw(field: &str, text: &str) -> Result<Vec<u8>, (StatusCode, String)> {
    from_hex(field, text).map_err(|e| (StatusCode::BAD_REQUEST, format!("{e:#}\n")))
}

fn refused(error: &KvError) -> (StatusCode, String) {
    (StatusCode::CONFLICT, format!("contradicts what TiKV holds: {error:?}\n"))
}

fn unknown(action: &str, known: &str) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("unknown action {action}: use {known}\n"))
}
