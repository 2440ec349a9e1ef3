//! Metrics that show the status: one row each (docs/metrics.md). A new number in the status needs a row here and a line there.
//!
//! The first block has the original's names (spec pump 7), which dashboards and alerts rely on: they are always there.

use binlog_runtime::metrics::Unit::{Flag, Length, PhysicalMs, Plain, Seconds};
use binlog_runtime::metrics::{Family, Kind, Row, Unit, number};
use serde_json::Value;

pub const ROWS: &[Row] = &[
    Row::gauge(
        "binlog_pump_storage_max_commit_ts",
        "/watermark",
        PhysicalMs,
        "Everything up to here can be pulled; milliseconds since 1970.",
    )
    .or_zero(),
    Row::gauge(
        "binlog_pump_storage_gc_ts",
        "/gc",
        PhysicalMs,
        "Nothing at or below is served any more; milliseconds since 1970.",
    )
    .or_zero(),
    Row::gauge(
        "binlog_pump_storage_done_gc_ts",
        "/gc",
        PhysicalMs,
        "Deletion has finished up to here; milliseconds since 1970. It is one step with the move of gc_ts.",
    )
    .or_zero(),
    Row::counter(
        "binlog_pump_storage_query_tikv_count",
        "/verdicts/status_queries",
        "CheckTxnStatus calls for prewrites whose commit did not come.",
    )
    .or_zero(),
    Row::counter(
        "binlog_pump_storage_deleted_kv_total",
        "/none",
        "Always 0: keys of the index are deleted by range, uncounted. See binlog_pump_segments_freed_total.",
    )
    .or_zero(),
    // Ours: writes.
    Row::counter("binlog_pump_records_accepted_total", "/accepted", "Binlogs taken into the log."),
    Row::counter("binlog_pump_records_acknowledged_total", "/acknowledged", "Binlogs acknowledged to clients."),
    Row::counter("binlog_pump_records_rejected_total", "/rejected", "Binlogs refused."),
    Row::counter("binlog_pump_fakes_total", "/fakes", "Fake binlogs written while idle."),
    Row::counter(
        "binlog_pump_fakes_on_demand_total",
        "/fakes_on_demand",
        "Fake binlogs that only moved the watermark in memory, for a stream that waited.",
    ),
    Row::counter(
        "binlog_pump_repeated_prewrites_total",
        "/counters/repeated_prewrites",
        "Prewrites that came more than once.",
    ),
    Row::counter(
        "binlog_pump_repeated_commits_total",
        "/counters/repeated_commits",
        "Commits that came more than once.",
    ),
    Row::counter(
        "binlog_pump_commits_below_gc_total",
        "/counters/commits_below_gc",
        "Commits at or below the GC point: acknowledged, not stored.",
    ),
    Row::counter("binlog_pump_rollbacks_total", "/counters/rollbacks", "Prewrites that were rolled back."),
    // Ours: can it write, and for how long.
    Row::gauge("binlog_pump_space_writable", "/space_writable", Flag, "1 while disk space lets prewrites in, else 0."),
    Row::gauge(
        "binlog_pump_prewrites_refused_in_seconds",
        "/space/refused_in_ms",
        Seconds,
        "Until prewrites are refused for want of disk space, at the rate of the last minutes; absent: space does not shrink.",
    ),
    Row::gauge(
        "binlog_pump_refuses_writes",
        "/refuses_writes",
        Flag,
        "1 while prewrites are refused for whatever reason; /health names it.",
    ),
    // Ours: order.
    Row::gauge("binlog_pump_undecided_prewrites", "/undecided", Plain, "Prewrites without commit or rollback."),
    Row::gauge(
        "binlog_pump_oldest_undecided_seconds",
        "/oldest_undecided/1",
        Seconds,
        "How long the prewrite that holds the watermark back has done so.",
    )
    .or_zero(),
    Row::gauge(
        "binlog_pump_watermark_frozen",
        "/frozen_below",
        Flag,
        "1 when a fault keeps the watermark from moving past a binlog.",
    ),
    Row::gauge(
        "binlog_pump_undecidable_prewrites",
        "/verdicts/undecidable",
        Plain,
        "Prewrites that only an operator can decide; the watermark stays below them.",
    ),
    Row::counter("binlog_pump_mvcc_queries_total", "/verdicts/mvcc_queries", "MVCC reads in TiKV for verdicts."),
    Row::counter(
        "binlog_pump_failed_queries_total",
        "/verdicts/failed_queries",
        "Calls to TiKV for verdicts that failed.",
    ),
    Row::gauge(
        "binlog_pump_verdict_outage",
        "/verdicts/outage",
        Flag,
        "1 while TiKV or PD cannot be asked for verdicts.",
    ),
    Row::gauge(
        "binlog_pump_service_safe_point",
        "/verdicts/gc_held_at",
        PhysicalMs,
        "Where PD holds TiKV's GC for this Pump; milliseconds since 1970.",
    ),
    // Ours: index and log.
    Row::gauge(
        "binlog_pump_index_behind_bytes",
        "/unindexed_bytes",
        Plain,
        "Bytes of the log that wait for the index.",
    ),
    Row::gauge("binlog_pump_log_segments", "/collector/segments", Plain, "Segments of the log that hold something."),
    Row::gauge("binlog_pump_log_free_slots", "/collector/free_slots", Plain, "Files of the log that wait for reuse."),
    Row::gauge(
        "binlog_pump_log_prepared_bytes",
        "/collector/prepared_bytes",
        Plain,
        "Zero-filled bytes that stand ready for the next segments.",
    ),
    Row::counter("binlog_pump_log_filled_bytes_total", "/collector/slots/filled_bytes", "Zeros written ahead of time."),
    Row::counter("binlog_pump_log_slots_filled_total", "/collector/slots/filled", "Files filled with zeros."),
    Row::counter("binlog_pump_segments_freed_total", "/collector/slots/freed", "Segments that GC freed."),
    Row::counter("binlog_pump_log_slots_reused_total", "/collector/slots/reused", "Files of the log used once more."),
    Row::counter(
        "binlog_pump_scrub_bytes_total",
        "/scrub/bytes",
        "Bytes of history that were read again in the background.",
    ),
    Row::counter(
        "binlog_pump_scrub_passes_total",
        "/scrub/passes",
        "Times that all complete segments were read again.",
    ),
    Row::counter(
        "binlog_pump_scrub_bad_segments_total",
        "/scrub/bad_segments",
        "Segments that did not verify, or could not be read, when they were read again.",
    ),
    // Ours: GC.
    Row::counter("binlog_pump_gc_rounds_total", "/collector/rounds", "Rounds of GC."),
    Row::gauge("binlog_pump_gc_held", "/collector/held_by", Flag, "1 while a Drainer holds GC back."),
    Row::counter(
        "binlog_pump_gc_passed_drainers_total",
        "/collector/passed_consumers",
        "Times that GC passed the checkpoint of a Drainer that is not offline (gc-hold = \"age\").",
    ),
    // Ours: streams.
    Row::gauge("binlog_pump_streams", "/streams", Plain, "Live streams to Drainers."),
    Row::counter("binlog_pump_stream_items_total", "/items_sent", "Binlogs sent to Drainers."),
    Row::counter("binlog_pump_stream_bytes_total", "/bytes_sent", "Bytes of binlogs sent to Drainers."),
    Row::counter("binlog_pump_stream_log_reads_total", "/pull/reads", "Reads of the log for streams that were behind."),
    Row::counter("binlog_pump_stream_log_read_bytes_total", "/pull/bytes_read", "Bytes of those reads."),
    Row::gauge("binlog_pump_stream_memory_bytes", "/tail_bytes", Plain, "Log in memory for streams that keep up."),
    // Ours: going offline, and what went wrong.
    Row::gauge(
        "binlog_pump_closing_waits",
        "/closing/waits_for",
        Length,
        "How many things going offline waits for; /status names them.",
    ),
    Row::counter(
        "binlog_pump_unknown_completions_total",
        "/unknown_completions",
        "Completions that nobody waited for: a bug.",
    ),
];

/// What needs labels.
pub fn labelled(status: &Value) -> Vec<Family> {
    let text = |at: &str| status.pointer(at).and_then(Value::as_str);
    let mut state = Family::new("binlog_pump_state", Kind::Gauge, "1 for the state that this Pump is in.");
    for name in ["online", "pausing", "paused", "closing", "offline"] {
        state = state.with(&[("state", name)], f64::from(u8::from(text("/state") == Some(name))));
    }
    let help = "1 while this Pump takes no writes until it is restarted, with the reason.";
    let reason = text("/read_only");
    let read_only = Family::new("binlog_pump_read_only", Kind::Gauge, help)
        .with(&[("reason", reason.unwrap_or_default())], f64::from(u8::from(reason.is_some())));
    let help = "Until a Drainer finds a gap here, because GC does not wait for it; 0: it does already; absent: never.";
    let mut gaps = Family::new("binlog_pump_drainer_gap_in_seconds", Kind::Gauge, help);
    let help = "Checkpoint of a Drainer that is not offline, as the last round of GC saw it; milliseconds since 1970.";
    let mut checkpoints = Family::new("binlog_pump_drainer_checkpoint", Kind::Gauge, help);
    for drainer in status.pointer("/collector/drainers").and_then(Value::as_array).into_iter().flatten() {
        let Some(id) = drainer.get("node_id").and_then(Value::as_str) else { continue };
        let value = |key: &str, unit: Unit| number(drainer.get(key), unit);
        if let Some(seconds) = value("gap_in_ms", Seconds) {
            gaps = gaps.with(&[("id", id)], seconds);
        }
        if let Some(ms) = value("checkpoint", PhysicalMs) {
            checkpoints = checkpoints.with(&[("id", id)], ms);
        }
    }
    vec![state, read_only, gaps, checkpoints]
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_runtime::metrics::Metrics;
    use serde_json::json;

    #[test]
    fn names_are_unique() {
        for (i, row) in ROWS.iter().enumerate() {
            assert!(ROWS[i + 1..].iter().all(|other| other.name != row.name), "{}", row.name);
            assert_eq!(
                row.kind == Kind::Counter,
                row.name.ends_with("_total") || row.name.ends_with("_count"),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn labels_tell_states_reasons_and_drainers() {
        let status = json!({
            "state": "paused", "read_only": "sync of 000001.slot failed",
            "collector": {"drainers": [
                {"node_id": "d1", "checkpoint": 411_364_585_497_690_113_u64, "gap_in_ms": 1500},
                {"node_id": "d2", "checkpoint": 0, "gap_in_ms": null},
            ]},
        });
        let text = Metrics::new("pump").unwrap().text(labelled(&status));
        for line in [
            "binlog_pump_state{state=\"paused\"} 1",
            "binlog_pump_state{state=\"online\"} 0",
            "binlog_pump_read_only{reason=\"sync of 000001.slot failed\"} 1",
            "binlog_pump_drainer_gap_in_seconds{id=\"d1\"} 1.5",
            "binlog_pump_drainer_checkpoint{id=\"d2\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is missing:\n{text}");
        }
        assert!(!text.contains("gap_in_seconds{id=\"d2\"}"), "GC waits for it");
        let healthy = Metrics::new("pump").unwrap().text(labelled(&json!({"state": "online", "read_only": null})));
        assert!(healthy.contains("binlog_pump_read_only{reason=\"\"} 0\n"), "{healthy}");
    }
}
