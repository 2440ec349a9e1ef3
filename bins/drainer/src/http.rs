//! The HTTP surface (spec drainer 7.1, design 4.3). Answers are HTTP 200 with a code inside, as the original's.

use crate::ports::Request;
use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use binlog_core::drainer::input::{Input, ResolveAction};
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::ids::{CommitTs, NodeId};
use binlog_runtime::driver::Sender;
use binlog_runtime::status::Asker;
use serde_json::{Value, json};
use tokio::sync::oneshot;

type StatusAsker = Asker<Input, Request, DrainerStatus>;

/// Codes inside an answer (spec drainer 7.1).
const OK: u32 = 200;
const WRONG_PARAMETER: u32 = 1;
const OTHER: u32 = 3;

pub fn router(node_id: &NodeId, sender: Sender<Input, Request>, asker: StatusAsker) -> Router {
    let commit_ts_asker = asker.clone();
    let node_id = node_id.clone();
    Router::new()
        .route("/status", get(move || status(asker.clone())))
        .route("/commit_ts", get(move || commit_ts(commit_ts_asker.clone())))
        .route("/state/{node}/{action}", put(move |path| state(node_id.clone(), path)))
        .route("/resolve/{commit_ts}/{action}", put(move |path| resolve(sender.clone(), path)))
}

/// Compact JSON and a newline: the original's keys first, then ours.
async fn status(asker: StatusAsker) -> Response {
    let text = match asker.ask(Input::Tick).await {
        Some(status) => serde_json::to_string(&status).unwrap_or_else(|e| format!("{{\"error\":{:?}}}", e.to_string())),
        None => r#"{"PumpPos":null,"Synced":false,"LastTS":0,"TsMap":""}"#.to_owned(),
    };
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text + "\n").into_response()
}

async fn commit_ts(asker: StatusAsker) -> Response {
    match asker.ask(Input::Tick).await {
        Some(status) => envelope("get drainer's latest ts success!".to_owned(), OK, json!({ "ts": status.last_ts })),
        None => envelope("drainer is shutting down".to_owned(), OTHER, Value::Null),
    }
}

async fn state(own: NodeId, Path((node, action)): Path<(String, String)>) -> Response {
    let message = if node == own.as_str() {
        format!("{action} by HTTP is not supported yet; end the process with SIGTERM, which pauses it")
    } else {
        format!("invalid nodeID {node}, this pump's nodeID is {own}")
    };
    envelope(message, OTHER, Value::Null)
}

async fn resolve(sender: Sender<Input, Request>, Path((commit_ts, action)): Path<(String, String)>) -> Response {
    let Ok(commit_ts) = commit_ts.parse().map(CommitTs::new) else {
        return envelope(format!("{commit_ts:?} is no commit ts"), WRONG_PARAMETER, Value::Null);
    };
    let action = match action.as_str() {
        "skip" => ResolveAction::Skip,
        "retry" => ResolveAction::Retry,
        "mark-applied" => ResolveAction::MarkApplied,
        other => {
            let message = format!("{other:?} is no action; use skip, retry or mark-applied");
            return envelope(message, WRONG_PARAMETER, Value::Null);
        }
    };
    let (reply, answer) = oneshot::channel();
    let sent = sender.request(Request::Resolve { commit_ts, action, reply }).await;
    match (sent, answer.await) {
        (Ok(()), Ok(Ok(message))) => envelope(message, OK, Value::Null),
        (Ok(()), Ok(Err(message))) => envelope(message, OTHER, Value::Null),
        _ => envelope("drainer is shutting down".to_owned(), OTHER, Value::Null),
    }
}

fn envelope(message: String, code: u32, data: Value) -> Response {
    let body = json!({ "message": message, "code": code, "data": data });
    let text = serde_json::to_string_pretty(&body).unwrap_or_default() + "\n";
    ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], text).into_response()
}
