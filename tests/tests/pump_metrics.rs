//! `/metrics` of a running Pump: every name of the original (spec pump 7) with its type and labels, and values that move; pushing;
//! and what the log says.

mod pump_common;

use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_tests::harness::{WorkDir, http_get};
use pump_common::{CONFIG, Node, PATIENCE, POLL, c, cluster, next, p, pull, tso, write};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Name, type, labels of the first series.
const ORIGINALS: [(&str, &str, &str); 14] = [
    ("binlog_pump_rpc_duration_seconds", "histogram", "_count{label=\"succ\",method=\"WriteBinlog\"}"),
    ("binlog_pump_loss_binlog_count", "counter", ""),
    ("binlog_pump_detected_drainer_binlog_purge_count", "counter", "{id=\"drainer1\"}"),
    ("binlog_pump_storage_gc_ts", "gauge", ""),
    ("binlog_pump_storage_done_gc_ts", "gauge", ""),
    ("binlog_pump_storage_deleted_kv_total", "counter", ""),
    ("binlog_pump_storage_storage_size_bytes", "gauge", "{type=\"capacity\"}"),
    ("binlog_pump_storage_max_commit_ts", "gauge", ""),
    ("binlog_pump_storage_query_tikv_count", "counter", ""),
    ("binlog_pump_storage_error_count", "counter", "{type=\"write_binlog\"}"),
    ("binlog_pump_storage_write_binlog_size", "histogram", "_count{type=\"single\"}"),
    ("binlog_pump_storage_write_binlog_duration_time", "histogram", "_count{type=\"fsync\"}"),
    ("binlog_pump_storage_slow_chaser_count", "counter", "{type=\"recovery\"}"),
    ("binlog_drainer_slow_chaser_catchup_time_seconds", "histogram", "_count"),
];

/// The value of one series.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Polls until `want` holds.
async fn metrics_become(address: &str, what: &str, want: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = http_get(address, "/metrics").await.unwrap_or_default();
        if want(&text) {
            return text;
        }
        assert!(Instant::now() < deadline, "{what} does not come:\n{text}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_the_originals_names_and_move() {
    let work = WorkDir::new("metrics").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    // A Drainer that is not there at the moment, and needs nothing that is gone.
    let registry = Registry::new(std::slice::from_ref(&standin.shared.pd_url)).unwrap();
    let drainer = NodeStatus {
        node_id: "drainer1".to_owned(),
        host: "127.0.0.1:1".to_owned(),
        state: NodeState::Paused,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: tso(&standin.shared),
        update_ts: 0,
        token: None,
    };
    registry.put(NodeKind::Drainer, &drainer).await.unwrap();
    let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.set("-metrics-addr", &gateway.local_addr().unwrap().to_string());
    node.set("-metrics-interval", "1");
    node.start().await;

    let before = http_get(&node.address, "/metrics").await.unwrap();
    let mut client = node.client();
    let start_ts = tso(&standin.shared);
    write(&mut client, id, p(start_ts, vec![7; 5000])).await.unwrap();
    let commit_ts = tso(&standin.shared);
    write(&mut client, id, c(start_ts, commit_ts)).await.unwrap();
    assert!(write(&mut client, id, vec![255].into()).await.is_err());
    assert!(write(&mut client, id + 1, c(start_ts, commit_ts)).await.is_err());
    let mut stream = pull(&mut client, id, 0).await.unwrap();
    while next(&mut stream).await.unwrap().commit_ts < commit_ts {}
    let live = metrics_become(&node.address, "a stream", |text| value(text, "binlog_pump_streams") == Some(1.0)).await;
    assert!(value(&live, "binlog_pump_stream_bytes_total") > Some(5000.0));
    drop(stream);
    let pulled = "binlog_pump_rpc_duration_seconds_count{label=\"succ\",method=\"PullBinlogs\"}";
    metrics_become(&node.address, "the stream's end", |text| value(text, pulled) == Some(1.0)).await;
    // The Drainers are looked at for the first time ten seconds after the start.
    let counted = "binlog_pump_detected_drainer_binlog_purge_count{id=\"drainer1\"}";
    let text = metrics_become(&node.address, "a look at the Drainers", |text| value(text, counted).is_some()).await;

    for (name, kind, series) in ORIGINALS {
        assert!(text.lines().any(|l| l == format!("# TYPE {name} {kind}")), "{name} is no {kind}:\n{text}");
        assert!(value(&text, &format!("{name}{series}")).is_some(), "{name}{series} is missing:\n{text}");
    }
    for (series, wanted) in [
        ("binlog_pump_rpc_duration_seconds_count{label=\"succ\",method=\"WriteBinlog\"}", 2.0),
        ("binlog_pump_rpc_duration_seconds_count{label=\"fail\",method=\"WriteBinlog\"}", 2.0),
        // Another cluster's call is none of ours.
        ("binlog_pump_loss_binlog_count", 1.0),
        ("binlog_pump_storage_write_binlog_size_count{type=\"single\"}", 2.0),
        ("binlog_pump_storage_error_count{type=\"write_binlog_batch\"}", 0.0),
        (counted, 0.0),
        ("binlog_pump_state{state=\"online\"}", 1.0),
        ("binlog_pump_read_only{reason=\"\"}", 0.0),
        ("binlog_pump_undecided_prewrites", 0.0),
    ] {
        assert_eq!(value(&text, series), Some(wanted), "{series}:\n{text}");
    }
    for series in [
        "binlog_pump_storage_max_commit_ts",
        "binlog_pump_storage_write_binlog_size_sum{type=\"batch\"}",
        "binlog_pump_storage_write_binlog_duration_time_count{type=\"fsync\"}",
        "binlog_pump_storage_write_binlog_duration_time_sum{type=\"batch\"}",
        "binlog_pump_records_acknowledged_total",
    ] {
        assert!(value(&text, series) > value(&before, series), "{series} does not move");
    }
    for series in [
        "binlog_pump_storage_storage_size_bytes{type=\"available\"}",
        "binlog_pump_storage_write_binlog_duration_time_count{type=\"rotate\"}",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(value(&text, series) > Some(0.0), "{series}:\n{text}");
    }
    for name in ["binlog_pump_watermark_lag_seconds", "binlog_pump_index_behind_bytes", "process_cpu_seconds_total"] {
        assert!(value(&text, name).is_some(), "{name}:\n{text}");
    }
    assert!(text.contains("binlog_build_info{"), "{text}");

    // The gateway gets the same.
    let (mut push, _) = tokio::time::timeout(PATIENCE, gateway.accept()).await.unwrap().unwrap();
    let mut request = String::new();
    while !request.contains("binlog_pump_storage_max_commit_ts ") {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, push.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "{request}");
        request.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(request.starts_with("POST /metrics/job/binlog/instance/pump1 HTTP/1.1\r\n"), "{request}");
    let _ = push.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    drop((push, gateway));

    node.says("server info tick").await;
    let log = node.log_text();
    for words in ["[\"Welcome to Pump\"] [\"Release Version\"=v", "[\"Git Commit Hash\"=", "[configuration] [config="] {
        assert!(log.contains(words), "{words} is missing:\n{log}");
    }
    let tick = node.lines("INFO", "server info tick").pop().unwrap();
    for field in ["[writeBinlogCount=", "[alivePullerCount=", "[MaxCommitTS="] {
        assert!(tick.contains(field), "{tick}");
    }
    assert!(node.terminate().await.success());
}
