//! Metrics of the Drainer that its status gives (spec drainer 9, docs/metrics.md); the rest of the original's names come later.

use crate::ports::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use binlog_core::drainer::input::Input;
use binlog_core::drainer::status::DrainerStatus;
use binlog_runtime::metrics::Unit::{Flag, Length, PhysicalMs, Plain, Seconds};
use binlog_runtime::metrics::{CONTENT_TYPE, Error, Family, Kind, Metrics, Row, number};
use binlog_runtime::status::Asker;
use serde_json::Value;

const ROWS: &[Row] = &[
    Row::gauge(
        "binlog_drainer_checkpoint_tso",
        "/checkpoint",
        PhysicalMs,
        "The durable checkpoint; milliseconds since 1970.",
    )
    .or_zero(),
    Row::counter("binlog_drainer_ddl_jobs_total", "/applied_totals/ddl", "DDL statements applied.").or_zero(),
    Row::gauge(
        "binlog_drainer_applied_tso",
        "/applied",
        PhysicalMs,
        "Everything up to here is applied; milliseconds since 1970.",
    ),
    Row::gauge(
        "binlog_drainer_merge_tso",
        "/merge_position",
        PhysicalMs,
        "The last timestamp that left the merge; milliseconds since 1970.",
    ),
    Row::gauge(
        "binlog_drainer_paused",
        "/paused",
        Flag,
        "1 while a refused statement waits for an operator; /status shows it.",
    ),
    Row::gauge("binlog_drainer_paused_seconds", "/paused/for_ms", Seconds, "For how long.").or_zero(),
    Row::gauge("binlog_drainer_waiting", "/waiting", Flag, "1 while something holds everything up; /status names it."),
    Row::gauge("binlog_drainer_faults", "/faults", Length, "Faults that /status tells: a human must act."),
    Row::gauge("binlog_drainer_queue_bytes", "/queues/bytes", Plain, "Payload received and not applied yet."),
    Row::gauge(
        "binlog_drainer_queue_transactions",
        "/queues/window",
        Plain,
        "Transactions between merge and checkpoint.",
    ),
    Row::counter("binlog_drainer_transactions_total", "/applied_totals/transactions", "Transactions applied."),
    Row::counter("binlog_drainer_filtered_total", "/applied_totals/filtered", "Left out by filters or configuration."),
];

/// Reads the status when somebody asks.
#[derive(Clone)]
pub struct Observer {
    metrics: Metrics,
    asker: Asker<Input, Request, DrainerStatus>,
}

impl Observer {
    pub fn new(asker: Asker<Input, Request, DrainerStatus>) -> Result<Self, Error> {
        Ok(Self { metrics: Metrics::new("drainer")?, asker })
    }

    /// The text form.
    pub async fn text(self) -> String {
        let status =
            self.asker.ask(Input::Tick).await.and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null);
        let mut families: Vec<Family> = ROWS.iter().map(|row| row.read(&status)).collect();
        families.extend(labelled(&status));
        self.metrics.text(families)
    }

    /// `GET /metrics`.
    pub async fn respond(self) -> Response {
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.text().await).into_response()
    }
}

fn labelled(status: &Value) -> Vec<Family> {
    let help = "The last timestamp received from a Pump; milliseconds since 1970.";
    let mut positions = Family::new("binlog_drainer_pump_position", Kind::Gauge, help);
    for (pump, at) in status.pointer("/PumpPos").and_then(Value::as_object).into_iter().flatten() {
        if let Some(ms) = number(Some(at), PhysicalMs) {
            positions = positions.with(&[("nodeID", pump)], ms);
        }
    }
    let mut events = Family::new("binlog_drainer_event", Kind::Counter, "Rows and DDL statements applied.");
    let totals = [("Insert", "inserted_rows"), ("Update", "updated_rows"), ("Delete", "deleted_rows"), ("DDL", "ddl")];
    for (kind, key) in totals {
        let count = number(status.pointer(&format!("/applied_totals/{key}")), Plain).unwrap_or(0.0);
        events = events.with(&[("type", kind)], count);
    }
    let mut state = Family::new("binlog_drainer_state", Kind::Gauge, "1 for the state that this Drainer is in.");
    for name in ["starting", "running", "paused", "faulted", "stopping", "stopped"] {
        let own = status.get("state").and_then(Value::as_str);
        state = state.with(&[("state", name)], f64::from(u8::from(own == Some(name))));
    }
    vec![positions, events, state]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_becomes_metrics() {
        let ts = 411_364_585_497_690_113_u64;
        let status = json!({
            "PumpPos": {"pump1": ts}, "checkpoint": ts, "state": "paused", "paused": {"for_ms": 2500}, "waiting": null,
            "faults": ["x"], "applied_totals": {"inserted_rows": 3, "ddl": 1, "transactions": 2},
        });
        let mut families: Vec<Family> = ROWS.iter().map(|row| row.read(&status)).collect();
        families.extend(labelled(&status));
        let text = Metrics::new("drainer").unwrap().text(families);
        for line in [
            format!("binlog_drainer_checkpoint_tso {}", ts >> 18),
            format!("binlog_drainer_pump_position{{nodeID=\"pump1\"}} {}", ts >> 18),
            "binlog_drainer_paused 1".to_owned(),
            "binlog_drainer_paused_seconds 2.5".to_owned(),
            "binlog_drainer_waiting 0".to_owned(),
            "binlog_drainer_faults 1".to_owned(),
            "binlog_drainer_ddl_jobs_total 1".to_owned(),
            "binlog_drainer_event{type=\"Insert\"} 3".to_owned(),
            "binlog_drainer_event{type=\"Delete\"} 0".to_owned(),
            "binlog_drainer_state{state=\"paused\"} 1".to_owned(),
            "# TYPE binlog_drainer_event counter".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is missing:\n{text}");
        }
    }
}
