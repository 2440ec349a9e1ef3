//! The HTTP surface (spec pump 5): `/status`, `/drainers` and `/debug/gc/trigger` so far.

use crate::ports::Request;
use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use binlog_cluster::pd::PdClient;
use binlog_cluster::registry::Registry;
use binlog_core::node::status::NodeStatus;
use binlog_core::pump::input::Input;
use binlog_core::pump::status::PumpStatus;
use binlog_runtime::status::Asker;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type StatusAsker = Asker<Input, Request, PumpStatus>;

pub fn router(registry: Registry, pd: PdClient, asker: StatusAsker) -> Router {
    let drainers_of = registry.clone();
    let gc_asker = asker.clone();
    Router::new()
        .route("/status", get(move || status(registry.clone(), pd.clone(), asker.clone())))
        .route("/drainers", get(move || drainers(drainers_of.clone())))
        .route("/debug/gc/trigger", post(move || trigger_gc(gc_asker.clone())))
}

/// The original's object: all Pumps of the registry, a fresh timestamp; and `pump`, ours: what this Pump is doing.
async fn status(registry: Registry, pd: PdClient, asker: StatusAsker) -> Response {
    let own = asker.ask(Input::Tick).await.map_or(Value::Null, |s| serde_json::to_value(s).unwrap_or(Value::Null));
    let (pumps, tso) = tokio::join!(registry.list_pumps(), pd.tso());
    let body = match (pumps, tso) {
        (Ok(pumps), Ok(tso)) => {
            let pumps: BTreeMap<String, NodeStatus> = pumps.into_iter().map(|p| (p.node_id.clone(), p)).collect();
            json!({ "status": pumps, "CommitTS": tso.raw(), "Checkpoint": {}, "ErrMsg": "", "pump": own })
        }
        (Err(error), _) => failure(&error.to_string(), own),
        (_, Err(error)) => failure(&error.to_string(), own),
    };
    text(&body)
}

fn failure(error: &str, own: Value) -> Value {
    json!({ "status": null, "CommitTS": 0, "Checkpoint": {}, "ErrMsg": error, "pump": own })
}

/// All Drainers of the registry; `null` when there are none or on error, as the original.
async fn drainers(registry: Registry) -> Response {
    match registry.list_drainers().await {
        Ok(drainers) if !drainers.is_empty() => text(&serde_json::to_value(drainers).unwrap_or(Value::Null)),
        _ => text(&Value::Null),
    }
}

/// The original's two lines. What the round does is in `/status`, under `pump.collector`.
async fn trigger_gc(asker: StatusAsker) -> Response {
    let began = asker.ask(Input::TriggerGc).await.is_some_and(|status| status.collector.triggered);
    let line = if began { "trigger gc success\n" } else { "gc is working\n" };
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], line).into_response()
}

fn text(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{body}\n")).into_response()
}
