//! The HTTP surface (spec pump 5): the original's routes with its texts, codes and content types, and ours beside them.
//!
//! | route | |
//! |---|---|
//! | `GET /status` | the original's object; `pump` in it is ours |
//! | `GET /status/pump` | ours alone: answers also while PD is away |
//! | `GET /health` | 200 while prewrites are accepted, else 503 with the reason |
//! | `GET /drainers` | |
//! | `PUT /state/{node}/{action}` | `pause`, `close`; ours: `cancel` takes a close back |
//! | `GET /debug/binlog/{ts}` | one stored binlog as text, with what TiKV knows about its primary key |
//! | `POST /debug/gc/trigger` | begins a round of GC; what it does is in `pump.collector` of `/status` |
//!
//! `/metrics` is merged in by `main`. Failures of the original's routes are answered with 200 and say so inside, as the original does (trap T32).

use crate::ports::Request;
use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use binlog_cluster::pd::PdClient;
use binlog_cluster::registry::Registry;
use binlog_cluster::tikv::TikvClient;
use binlog_core::binlog::peek;
use binlog_core::binlog::text::{describe, describe_versions};
use binlog_core::ids::NodeId;
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::pump::input::{Action, Input};
use binlog_core::pump::status::PumpStatus;
use binlog_runtime::driver::Sender;
use binlog_runtime::status::Asker;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

type StatusAsker = Asker<Input, Request, PumpStatus>;

/// What the routes need.
#[derive(Clone)]
pub struct Surface {
    pub node_id: NodeId,
    pub registry: Registry,
    pub pd: PdClient,
    pub tikv: TikvClient,
    pub asker: StatusAsker,
    pub sender: Sender<Input, Request>,
}

/// Codes inside an answer of `/state`.
const OK: u32 = 200;
const FAILED: u32 = 3;

/// Further routes (metrics) are merged into what this returns.
pub fn router(surface: Surface) -> Router {
    let s = || surface.clone();
    let (status_of, pump_of, health_of, drainers_of, state_of, binlog_of) = (s(), s(), s(), s(), s(), s());
    let gc_asker = surface.asker.clone();
    Router::new()
        .route("/status", get(move || status(status_of.clone())))
        .route("/status/pump", get(move || own_status(pump_of.clone())))
        .route("/health", get(move || health(health_of.clone())))
        .route("/drainers", get(move || drainers(drainers_of.clone())))
        .route("/state/{node}/{action}", put(move |path| state(state_of.clone(), path)))
        .route("/debug/binlog/{ts}", get(move |path| binlog(binlog_of.clone(), path)))
        .route("/debug/gc/trigger", post(move || trigger_gc(gc_asker.clone())))
        .fallback(not_found)
}

/// The original's object: all Pumps of the registry, a fresh timestamp; and `pump`, ours: what this Pump is doing.
async fn status(surface: Surface) -> Response {
    let own = ask(&surface.asker).await.unwrap_or(Value::Null);
    let (pumps, tso) = tokio::join!(surface.registry.list_pumps(), surface.pd.tso());
    let body = match (pumps, tso) {
        (Ok(pumps), Ok(tso)) => {
            let pumps: BTreeMap<String, NodeStatus> = pumps.into_iter().map(|p| (p.node_id.clone(), p)).collect();
            json!({ "status": pumps, "CommitTS": tso.raw(), "Checkpoint": {}, "ErrMsg": "", "pump": own })
        }
        (Err(error), _) => failure(&error.to_string(), own),
        (_, Err(error)) => failure(&error.to_string(), own),
    };
    text(format!("{body}\n"))
}

fn failure(error: &str, own: Value) -> Value {
    json!({ "status": null, "CommitTS": 0, "Checkpoint": {}, "ErrMsg": error, "pump": own })
}

async fn own_status(surface: Surface) -> Response {
    match ask(&surface.asker).await {
        Some(own) => json_text(StatusCode::OK, &own),
        None => json_text(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": STOPPED })),
    }
}

async fn ask(asker: &StatusAsker) -> Option<Value> {
    asker.ask(Input::Tick).await.and_then(|status| serde_json::to_value(status).ok())
}

/// For load balancers and probes: what a client's probe would be told.
async fn health(surface: Surface) -> Response {
    let Some(status) = surface.asker.ask(Input::Tick).await else {
        let body = json!({ "accepts_writes": false, "reason": STOPPED, "state": null });
        return json_text(StatusCode::SERVICE_UNAVAILABLE, &body);
    };
    let code = if status.refuses_writes.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "accepts_writes": status.refuses_writes.is_none(),
        "reason": status.refuses_writes,
        "state": status.state,
    });
    json_text(code, &body)
}

/// All Drainers of the registry; `null` when there are none or on error, as the original.
async fn drainers(surface: Surface) -> Response {
    let body = match surface.registry.list_drainers().await {
        Ok(drainers) if !drainers.is_empty() => serde_json::to_value(drainers).unwrap_or(Value::Null),
        _ => Value::Null,
    };
    text(format!("{body}\n"))
}

/// The answer comes before the Pump has stopped; whoever waits for the final state reads the registry.
async fn state(surface: Surface, Path((node, action)): Path<(String, String)>) -> Response {
    let own = surface.node_id.as_str();
    if node != own {
        return envelope(format!("invalide nodeID {node}, this pump's nodeID is {own}"), FAILED);
    }
    let Some(known) = Action::parse(&action) else {
        // The original looks at the state first.
        return match surface.asker.ask(Input::Tick).await.map(|status| status.state) {
            None => envelope(STOPPED.to_owned(), FAILED),
            Some(NodeState::Online) => envelope(format!("invalide action {action}"), FAILED),
            Some(state) => refused(state, &action),
        };
    };
    let (reply, answer) = oneshot::channel();
    surface.sender.signal(Request::Action { action: known, reply });
    match answer.await {
        Ok(Ok(())) => envelope(format!("apply action {action} success!"), OK),
        Ok(Err(state)) => refused(state, &action),
        Err(_) => envelope(STOPPED.to_owned(), FAILED),
    }
}

fn refused(state: NodeState, action: &str) -> Response {
    envelope(format!("this pump's state is {state}, apply {action} failed!"), FAILED)
}

async fn binlog(surface: Surface, Path(ts): Path<String>) -> Response {
    // The original's timestamps are signed; a negative one is never stored.
    let Ok(signed) = ts.parse::<i64>() else { return text(format!("invalid parameter ts: {ts}")) };
    let Ok(raw) = u64::try_from(signed) else { return text(format!("fail read binlog by ts: {ts}: not found")) };
    let (reply, answer) = oneshot::channel();
    if surface.sender.request(Request::ReadBinlog { ts: raw, reply }).await.is_err() {
        return text(STOPPED.to_owned());
    }
    match answer.await {
        Ok(Ok(payload)) => text(explain(&surface.tikv, &payload).await),
        Ok(Err(why)) => text(why),
        Err(_) => text(STOPPED.to_owned()),
    }
}

/// The binlog, and TiKV's answer about its primary key. The question is this caller's alone: the machine, which asks on its own
/// behalf (rules 1), neither waits for it nor learns from it.
async fn explain(tikv: &TikvClient, payload: &[u8]) -> String {
    let mut out = describe(payload);
    if let Some(key) = peek::prewrite_key(payload) {
        out.push_str(&describe_versions(&tikv.mvcc_by_key(key).await));
    }
    out
}

/// The original's two lines. What the round does is in `/status`, under `pump.collector`.
async fn trigger_gc(asker: StatusAsker) -> Response {
    let began = asker.ask(Input::TriggerGc).await.is_some_and(|status| status.collector.triggered);
    text(if began { "trigger gc success\n" } else { "gc is working\n" }.to_owned())
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, text("404 page not found\n".to_owned())).into_response()
}

fn envelope(message: String, code: u32) -> Response {
    let body = json!({ "message": message, "code": code, "data": null });
    let text = serde_json::to_string_pretty(&body).unwrap_or_default() + "\n";
    ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], text).into_response()
}

fn json_text(code: StatusCode, body: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], format!("{body}\n")).into_response()
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

const STOPPED: &str = "this pump is stopping";
