//! Metrics of the Pump (spec pump 7, docs/metrics.md), and the log lines that come from measuring.
//!
//! What happens on the way of a write is measured where it happens: one histogram observation per call, and a few per batch. The
//! rest is read from the status when somebody asks (`metric_rows`).

use crate::metric_rows::{ROWS, labelled};
use crate::ports::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use binlog_cluster::pd::PdClient;
use binlog_cluster::pump_service::CallObserver;
use binlog_cluster::registry::Registry;
use binlog_core::fault::{Fault, Reject};
use binlog_core::ids::CommitTs;
use binlog_core::node::purge::{Standing, standing};
use binlog_core::pump::input::Input;
use binlog_core::pump::status::PumpStatus;
use binlog_core::time::Tso;
use binlog_runtime::logs::Throttle;
use binlog_runtime::metrics::{CONTENT_TYPE, Error, Family, Histogram, IntCounter, IntCounterVec, Kind, Metrics};
use binlog_runtime::status::Asker;
use binlog_storage::dir::free_space;
use binlog_storage::log_files::LogStep;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is counted and timed while the Pump runs.
#[derive(Debug)]
pub struct Measured {
    metrics: Metrics,
    write_succeeded: Histogram,
    write_failed: Histogram,
    pull_succeeded: Histogram,
    pull_failed: Histogram,
    lost: IntCounter,
    single_size: Histogram,
    batch_size: Histogram,
    single_time: Histogram,
    batch_time: Histogram,
    disk_time: Histogram,
    sync_time: Histogram,
    rotate_time: Histogram,
    single_errors: IntCounter,
    batch_errors: IntCounter,
    index_errors: IntCounter,
    read_errors: IntCounter,
    pairing_errors: IntCounter,
    faults: IntCounterVec,
    purges: IntCounterVec,
    /// Nanoseconds of the writes since the last sync.
    unsynced: AtomicU64,
    slow_write: Duration,
    slow_calls: Throttle,
    slow_writes: Throttle,
}

/// First bucket, factor, count (spec pump 7).
const CALL_BUCKETS: (f64, f64, usize) = (0.00005, 2.0, 18);
const SIZE_BUCKETS: (f64, f64, usize) = (16.0, 2.0, 25);
const WRITE_BUCKETS: (f64, f64, usize) = (0.00005, 2.0, 20);
const CATCHUP_BUCKETS: (f64, f64, usize) = (0.001, 2.0, 22);
/// A WriteBinlog call that takes longer is logged (spec pump 1.4).
const SLOW_CALL: Duration = Duration::from_secs(1);

impl Measured {
    /// `slow_write`: a write that takes longer is logged.
    pub fn new(slow_write: Duration) -> Result<Self, Error> {
        let metrics = Metrics::new("pump")?;
        let m = &metrics;
        let calls = m.histogram(
            "binlog_pump_rpc_duration_seconds",
            "Duration of gRPC calls; of PullBinlogs how long the stream lived.",
            &["method", "label"],
            CALL_BUCKETS,
        )?;
        let sizes = m.histogram(
            "binlog_pump_storage_write_binlog_size",
            "Bytes of binlogs as they came (single), and of the batches written to disk (batch).",
            &["type"],
            SIZE_BUCKETS,
        )?;
        let times = m.histogram(
            "binlog_pump_storage_write_binlog_duration_time",
            "Seconds: single: until one binlog is acknowledged; batch: write and sync of one; to_disk: the write alone; fsync: the \
             sync alone; rotate: making a new file.",
            &["type"],
            WRITE_BUCKETS,
        )?;
        let errors =
            m.counter("binlog_pump_storage_error_count", "Failures of the storage: a human must look.", &["type"])?;
        let error = |kind| errors.with_label_values(&[kind]);
        let chaser = m.counter(
            "binlog_pump_storage_slow_chaser_count",
            "Always 0: there is no slow chaser here, see binlog_pump_index_behind_bytes.",
            &["type"],
        )?;
        for kind in ["turned_on", "turned_off", "catch_up", "recovery"] {
            let _ = chaser.with_label_values(&[kind]);
        }
        let catchup = m.histogram(
            "binlog_drainer_slow_chaser_catchup_time_seconds",
            "Never observed: there is no slow chaser here.",
            &[],
            CATCHUP_BUCKETS,
        )?;
        let _ = catchup.with_label_values::<&str>(&[]);
        let lost = m.counter(
            "binlog_pump_loss_binlog_count",
            "WriteBinlog calls that failed, except for calls of another cluster.",
            &[],
        )?;
        let faults = m.counter(
            "binlog_pump_faults_total",
            "Faults: a function of this Pump stopped until a human acts; /status tells them.",
            &["kind"],
        )?;
        let purges = m.counter(
            "binlog_pump_detected_drainer_binlog_purge_count",
            "Times that a Drainer which is not offline was seen with a checkpoint below the GC point: it needs what is gone.",
            &["id"],
        )?;
        Ok(Self {
            write_succeeded: calls.with_label_values(&["WriteBinlog", "succ"]),
            write_failed: calls.with_label_values(&["WriteBinlog", "fail"]),
            pull_succeeded: calls.with_label_values(&["PullBinlogs", "succ"]),
            pull_failed: calls.with_label_values(&["PullBinlogs", "fail"]),
            lost: lost.with_label_values::<&str>(&[]),
            single_size: sizes.with_label_values(&["single"]),
            batch_size: sizes.with_label_values(&["batch"]),
            single_time: times.with_label_values(&["single"]),
            batch_time: times.with_label_values(&["batch"]),
            disk_time: times.with_label_values(&["to_disk"]),
            sync_time: times.with_label_values(&["fsync"]),
            rotate_time: times.with_label_values(&["rotate"]),
            single_errors: error("write_binlog"),
            batch_errors: error("write_binlog_batch"),
            index_errors: error("batch_write_kv"),
            read_errors: error("read_value"),
            pairing_errors: error("feed_pre_write_value"),
            faults,
            purges,
            unsynced: AtomicU64::new(0),
            slow_write,
            slow_calls: Throttle::default(),
            slow_writes: Throttle::default(),
            metrics,
        })
    }

    /// An operation of the log's files.
    pub fn log_step(&self, step: LogStep, took: Duration, succeeded: bool) {
        match step {
            LogStep::Write { .. } | LogStep::Sync | LogStep::Create if !succeeded => self.batch_errors.inc(),
            LogStep::Write { bytes } => {
                #[allow(clippy::cast_precision_loss)] // Batches end at a few MiB.
                self.batch_size.observe(bytes as f64);
                self.disk_time.observe(took.as_secs_f64());
                let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                self.unsynced.fetch_add(nanos, Ordering::Relaxed);
            }
            LogStep::Sync => {
                self.sync_time.observe(took.as_secs_f64());
                let written = Duration::from_nanos(self.unsynced.swap(0, Ordering::Relaxed));
                self.batch_time.observe((written + took).as_secs_f64());
            }
            LogStep::Create => self.rotate_time.observe(took.as_secs_f64()),
            LogStep::Read if !succeeded => self.read_errors.inc(),
            LogStep::Read | LogStep::List | LogStep::Other => {}
        }
    }

    pub fn index_failed(&self) {
        self.index_errors.inc();
    }

    pub fn fault(&self, fault: &Fault) {
        self.faults.with_label_values(&[fault.kind()]).inc();
        if matches!(fault, Fault::AssumptionBroken { .. }) {
            self.pairing_errors.inc();
        }
    }

    /// WriteBinlog calls that were answered.
    fn calls(&self) -> u64 {
        self.write_succeeded.get_sample_count().saturating_add(self.write_failed.get_sample_count())
    }
}

impl CallObserver for Measured {
    fn write_ended(&self, bytes: usize, result: &Result<(), Reject>, took: Duration) {
        let seconds = took.as_secs_f64();
        match result {
            Ok(()) => {
                self.write_succeeded.observe(seconds);
                // A probe is no binlog.
                if bytes > 0 {
                    #[allow(clippy::cast_precision_loss)]
                    self.single_size.observe(bytes as f64);
                    self.single_time.observe(seconds);
                }
            }
            Err(reject) => {
                self.write_failed.observe(seconds);
                if !matches!(reject, Reject::ClusterMismatch { .. }) {
                    self.lost.inc();
                }
                if matches!(reject, Reject::WriteFailed(_)) {
                    self.single_errors.inc();
                }
            }
        }
        if took > self.slow_write
            && let Some(more) = self.slow_writes.pass()
        {
            tracing::warn!(bytes, seconds, more, "take a long time to write binlog");
        }
        if took >= SLOW_CALL
            && let Some(more) = self.slow_calls.pass()
        {
            let label = if result.is_ok() { "succ" } else { "fail" };
            tracing::warn!(bytes, seconds, label, more, "slow write binlog RPC response");
        }
    }

    fn pull_ended(&self, failed: bool, lived: Duration) {
        let histogram = if failed { &self.pull_failed } else { &self.pull_succeeded };
        histogram.observe(lived.as_secs_f64());
    }
}

/// Everything that metrics are read from.
#[derive(Clone)]
pub struct Observer {
    pub measured: Arc<Measured>,
    pub asker: Asker<Input, Request, PumpStatus>,
    pub pd: PdClient,
    pub registry: Registry,
    pub data_dir: PathBuf,
}

/// PD's time is shown if it comes within this.
const PATIENCE: Duration = Duration::from_millis(500);
/// "server info tick" (spec pump 6.4).
const INFO_INTERVAL: Duration = Duration::from_secs(10);
/// How often the Drainers are held against the GC point (spec pump 3.5).
const PURGE_INTERVAL: Duration = Duration::from_secs(600);

impl Observer {
    /// The text form.
    pub async fn text(self) -> String {
        let (status, now) = tokio::join!(self.asker.ask(Input::Tick), tokio::time::timeout(PATIENCE, self.pd.tso()));
        let mut families = Vec::new();
        if let (Some(status), Ok(Ok(now))) = (&status, now) {
            let help = "How far the watermark is behind PD's clock.";
            let lag = now.physical_ms().saturating_sub(Tso::new(status.watermark.raw()).physical_ms());
            let lag = Duration::from_millis(lag).as_secs_f64();
            families.push(Family::new("binlog_pump_watermark_lag_seconds", Kind::Gauge, help).with(&[], lag));
        }
        let help = "Of the file system of data-dir, in bytes.";
        let mut space = Family::new("binlog_pump_storage_storage_size_bytes", Kind::Gauge, help);
        if let Ok(free) = free_space(&self.data_dir) {
            #[allow(clippy::cast_precision_loss)]
            for (kind, bytes) in [("capacity", free.capacity), ("available", free.available)] {
                space = space.with(&[("type", kind)], bytes as f64);
            }
        }
        families.push(space);
        let status = status.and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null);
        families.extend(ROWS.iter().map(|row| row.read(&status)));
        families.extend(labelled(&status));
        self.measured.metrics.text(families)
    }

    /// `GET /metrics`.
    pub async fn respond(self) -> Response {
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.text().await).into_response()
    }

    /// Says every ten seconds what operators look for.
    pub async fn tell(self) {
        loop {
            tokio::time::sleep(INFO_INTERVAL).await;
            let Some(status) = self.asker.ask(Input::Tick).await else { return };
            tracing::info!(
                writeBinlogCount = self.measured.calls(),
                alivePullerCount = status.streams,
                MaxCommitTS = status.watermark.raw(),
                "server info tick"
            );
        }
    }

    /// Looks for Drainers that need what GC has taken.
    pub async fn watch_purges(self) {
        let mut pause = INFO_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            pause = PURGE_INTERVAL;
            let Some(status) = self.asker.ask(Input::Tick).await else { return };
            match self.registry.list_drainers().await {
                Ok(drainers) => self.measured.hold_against(&drainers, status.gc),
                Err(error) => tracing::warn!("cannot hold the Drainers against the GC point: {error}"),
            }
        }
    }
}

impl Measured {
    fn hold_against(&self, drainers: &[binlog_core::node::status::NodeStatus], gc: CommitTs) {
        for drainer in drainers {
            let Some(standing) = standing(drainer, gc) else { continue };
            // Also at 0: so that an alert sees the first one rise.
            let count = self.purges.with_label_values(&[&drainer.node_id]);
            if standing == Standing::Purged {
                count.inc();
                tracing::error!(
                    drainer = drainer.node_id,
                    checkpoint = drainer.max_commit_ts,
                    gc = gc.raw(),
                    "a Drainer needs binlogs that GC has deleted: it will be refused; set it up anew from a dump"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::node::status::NodeStatus;

    fn measured() -> Measured {
        Measured::new(Duration::from_secs(1)).unwrap()
    }

    fn has(measured: &Measured, lines: &[&str]) {
        let text = measured.metrics.text(Vec::new());
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line:?} is missing:\n{text}");
        }
    }

    #[test]
    fn calls_are_counted_by_outcome() {
        let m = measured();
        let took = Duration::from_micros(60);
        m.write_ended(100, &Ok(()), took);
        m.write_ended(0, &Ok(()), took);
        m.write_ended(9, &Err(Reject::ClusterMismatch { got: 1, own: 2 }), took);
        m.write_ended(9, &Err(Reject::WriteFailed("x".to_owned())), took);
        m.pull_ended(false, took);
        assert_eq!(m.calls(), 4);
        has(
            &m,
            &[
                "binlog_pump_rpc_duration_seconds_count{label=\"succ\",method=\"WriteBinlog\"} 2",
                "binlog_pump_rpc_duration_seconds_count{label=\"fail\",method=\"WriteBinlog\"} 2",
                "binlog_pump_rpc_duration_seconds_count{label=\"succ\",method=\"PullBinlogs\"} 1",
                "binlog_pump_rpc_duration_seconds_bucket{label=\"succ\",method=\"WriteBinlog\",le=\"0.00005\"} 0",
                "binlog_pump_rpc_duration_seconds_bucket{label=\"succ\",method=\"WriteBinlog\",le=\"0.0001\"} 2",
                "binlog_pump_rpc_duration_seconds_bucket{label=\"succ\",method=\"WriteBinlog\",le=\"6.5536\"} 2",
                "binlog_pump_loss_binlog_count 1",
                "binlog_pump_storage_error_count{type=\"write_binlog\"} 1",
                "binlog_pump_storage_write_binlog_size_sum{type=\"single\"} 100",
                "binlog_pump_storage_write_binlog_duration_time_count{type=\"single\"} 1",
            ],
        );
    }

    #[test]
    fn a_batch_is_its_writes_and_its_sync() {
        let m = measured();
        let seconds = Duration::from_secs;
        for (step, took, succeeded) in [
            (LogStep::Write { bytes: 4096 }, seconds(1), true),
            (LogStep::Write { bytes: 4096 }, seconds(2), true),
            (LogStep::Sync, seconds(4), true),
            (LogStep::Sync, seconds(8), false),
            (LogStep::Create, seconds(16), true),
            (LogStep::Read, seconds(1), true),
            (LogStep::Read, seconds(1), false),
        ] {
            m.log_step(step, took, succeeded);
        }
        has(
            &m,
            &[
                "binlog_pump_storage_write_binlog_size_sum{type=\"batch\"} 8192",
                "binlog_pump_storage_write_binlog_size_bucket{type=\"batch\",le=\"268435456\"} 2",
                "binlog_pump_storage_write_binlog_duration_time_sum{type=\"batch\"} 7",
                "binlog_pump_storage_write_binlog_duration_time_sum{type=\"to_disk\"} 3",
                "binlog_pump_storage_write_binlog_duration_time_sum{type=\"fsync\"} 4",
                "binlog_pump_storage_write_binlog_duration_time_sum{type=\"rotate\"} 16",
                "binlog_pump_storage_write_binlog_duration_time_bucket{type=\"batch\",le=\"26.2144\"} 1",
                "binlog_pump_storage_error_count{type=\"write_binlog_batch\"} 1",
                "binlog_pump_storage_error_count{type=\"read_value\"} 1",
                "binlog_pump_storage_slow_chaser_count{type=\"turned_on\"} 0",
                "binlog_drainer_slow_chaser_catchup_time_seconds_count 0",
            ],
        );
    }

    #[test]
    fn drainers_that_lost_binlogs_are_counted_each_time_they_are_seen() {
        let m = measured();
        let drainer = |id: &str, state: &str, checkpoint: i64| -> NodeStatus {
            serde_json::from_value(serde_json::json!({"nodeId": id, "state": state, "maxCommitTS": checkpoint}))
                .unwrap()
        };
        let all = [drainer("behind", "paused", 5), drainer("fine", "online", 50), drainer("gone", "offline", 1)];
        m.hold_against(&all, CommitTs::new(10));
        m.hold_against(&all, CommitTs::new(10));
        has(
            &m,
            &[
                "binlog_pump_detected_drainer_binlog_purge_count{id=\"behind\"} 2",
                "binlog_pump_detected_drainer_binlog_purge_count{id=\"fine\"} 0",
            ],
        );
        assert!(!m.metrics.text(Vec::new()).contains("id=\"gone\""));
    }

    #[test]
    fn faults_are_counted_by_kind() {
        let m = measured();
        m.fault(&Fault::Index("x".to_owned()));
        let broken = Fault::AssumptionBroken {
            what: "x".to_owned(),
            start_ts: Default::default(),
            commit_ts: Default::default(),
        };
        m.fault(&broken);
        has(
            &m,
            &[
                "binlog_pump_faults_total{kind=\"index\"} 1",
                "binlog_pump_faults_total{kind=\"assumption_broken\"} 1",
                "binlog_pump_storage_error_count{type=\"feed_pre_write_value\"} 1",
            ],
        );
    }
}
