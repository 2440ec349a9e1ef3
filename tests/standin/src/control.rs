//! The operator's port: what a library call does, over HTTP.

use crate::Shared;
use crate::capture::Capture;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, put};
use serde_json::{Value, json};
use std::sync::Arc;

type Reply = Result<Json<Value>, (StatusCode, String)>;

/// `GET /status`; `PUT /tso/{start|outage|resume|wall}`; `PUT /capture` with a directory as body.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/tso/{action}", put(tso))
        .route("/capture", put(capture))
        .with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mode = shared.tso().mode();
    Json(
        json!({"cluster_id": shared.cluster_id().to_string(), "pd": shared.pd_url, "tikv": shared.tikv_addr, "tso": mode}),
    )
}

async fn tso(State(shared): State<Arc<Shared>>, Path(action): Path<String>) -> Reply {
    match action.as_str() {
        "start" => shared.tso().start().map_err(|e| (StatusCode::CONFLICT, format!("{e:#}\n")))?,
        "outage" => shared.tso().outage(),
        "resume" => shared.tso().resume(),
        "wall" => shared.tso().wall(),
        _ => {
            let text = format!("unknown action {action}: use start, outage, resume or wall\n");
            return Err((StatusCode::NOT_FOUND, text));
        }
    }
    Ok(status(State(shared)).await)
}

async fn capture(State(shared): State<Arc<Shared>>, dir: String) -> Reply {
    let loaded = Capture::open(std::path::Path::new(dir.trim())).and_then(|capture| shared.load_capture(&capture));
    loaded.map_err(|e| (StatusCode::BAD_REQUEST, format!("{e:#}\n")))?;
    Ok(status(State(shared)).await)
}
