//! An operator's commands over HTTP (rules 1 and 4): `PUT /resolve/{start_ts}/commit/{commit_ts}`,
//! `PUT /resolve/{start_ts}/rollback`, `PUT /release/frozen`. Answers are HTTP 200 with a code inside, as the Drainer's; they
//! come when the decision is durable.

use crate::ports::{Command, Request};
use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use binlog_core::ids::{CommitTs, StartTs};
use binlog_core::pump::input::Input;
use binlog_core::pump::verdict::Verdict;
use binlog_runtime::driver::Sender;
use serde_json::{Value, json};
use tokio::sync::oneshot;

type Commands = Sender<Input, Request>;

/// Codes inside an answer (spec drainer 7.1).
const OK: u32 = 200;
const WRONG_PARAMETER: u32 = 1;
const OTHER: u32 = 3;

pub fn router(sender: Commands) -> Router {
    let (commits, rollbacks) = (sender.clone(), sender.clone());
    Router::new()
        .route("/resolve/{start_ts}/commit/{commit_ts}", put(move |path| commit(commits, path)))
        .route("/resolve/{start_ts}/rollback", put(move |path| rollback(rollbacks, path)))
        .route("/release/frozen", put(move || release(sender)))
}

async fn commit(sender: Commands, Path((start_ts, commit_ts)): Path<(String, String)>) -> Response {
    match (start_ts.parse().map(StartTs::new), commit_ts.parse().map(CommitTs::new)) {
        (Ok(start_ts), Ok(commit_ts)) => resolve(sender, start_ts, Verdict::Committed(commit_ts)).await,
        (Err(_), _) => envelope(format!("{start_ts:?} is no start ts"), WRONG_PARAMETER),
        (_, Err(_)) => envelope(format!("{commit_ts:?} is no commit ts"), WRONG_PARAMETER),
    }
}

async fn rollback(sender: Commands, Path(start_ts): Path<String>) -> Response {
    match start_ts.parse().map(StartTs::new) {
        Ok(start_ts) => resolve(sender, start_ts, Verdict::RolledBack).await,
        Err(_) => envelope(format!("{start_ts:?} is no start ts"), WRONG_PARAMETER),
    }
}

async fn resolve(sender: Commands, start_ts: StartTs, verdict: Verdict) -> Response {
    let done = match verdict {
        Verdict::Committed(commit_ts) => {
            format!("the transaction with start_ts {start_ts} is committed at {commit_ts}")
        }
        Verdict::RolledBack => {
            format!("the transaction with start_ts {start_ts} is rolled back: it is never delivered")
        }
    };
    run(sender, Command::Resolve { start_ts, verdict }, done).await
}

async fn release(sender: Commands) -> Response {
    let done = "the watermark is released: commits that this pump refused are never delivered by it; compare upstream and \
                downstream";
    run(sender, Command::ReleaseFrozen, done.to_owned()).await
}

async fn run(sender: Commands, command: Command, done: String) -> Response {
    let (reply, answer) = oneshot::channel();
    let sent = sender.request(Request::Command { command, reply }).await;
    match (sent, answer.await) {
        (Ok(()), Ok(Ok(()))) => {
            tracing::warn!("an operator decided: {done}");
            envelope(done, OK)
        }
        (Ok(()), Ok(Err(reject))) => envelope(reject.to_string(), OTHER),
        _ => envelope("pump is shutting down".to_owned(), OTHER),
    }
}

fn envelope(message: String, code: u32) -> Response {
    let body = json!({ "message": message, "code": code, "data": Value::Null });
    let text = serde_json::to_string_pretty(&body).unwrap_or_default() + "\n";
    ([(header::CONTENT_TYPE, "application/json; charset=UTF-8")], text).into_response()
}
