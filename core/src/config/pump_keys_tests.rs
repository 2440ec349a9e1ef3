//! Every key and flag of the original's Pump (spec pump 6.2) as a table: what it takes, what it refuses, and with which words.

use super::*;
use crate::config::settings::Origin;
use serde_json::{Value, json};

fn key(id: &str) -> &'static Key {
    KEYS.iter().find(|k| k.id() == id).unwrap_or_else(|| panic!("no key {id}"))
}

/// Through the configuration file.
fn file(id: &str, value: &Value) -> Result<PumpSettings, ConfigError> {
    let nested = id.rsplit('.').fold(value.clone(), |inner, part| json!({ part: inner }));
    let mut s = Settings::default();
    s.set_file(KEYS, "pump", "p.toml", &nested)?;
    PumpSettings::from_settings(&s, "10.0.0.7")
}

fn text(id: &str, text: &str, origin: Origin) -> Result<PumpSettings, ConfigError> {
    let mut s = Settings::default();
    s.set_text(key(id), text, origin)?;
    PumpSettings::from_settings(&s, "10.0.0.7")
}

/// Columns: key in the file, flag (`-`: none), a value, what the settings show for it (`ignored`: said to have no effect).
const ACCEPTED: &str = r#"
addr                                     addr                 "h:1"                    addr: "h:1"
advertise-addr                           advertise-addr       "127.0.0.1:1"            advertise_addr: "127.0.0.1:1"
pd-urls                                  pd-urls              "b:2, http://a:1"        pd_urls: ["http://a:1", "http://b:2"]
data-dir                                 data-dir             "d"                      data_dir: "d"
heartbeat-interval                       heartbeat-interval   7                        heartbeat_ms: 7000
heartbeat-interval                       heartbeat-interval   0                        heartbeat_ms: 2000
gen-binlog-interval                      fake-binlog-interval 4                        fake_interval_ms: 4000
node-id                                  node-id              "n"                      node_id: Some(NodeId("n"))
socket                                   socket               "unix:///run/p.sock"     socket: Some("/run/p.sock")
log-level                                L                    "warn"                   ok
log-file                                 log-file             "f"                      ok
metrics-addr                             metrics-addr         "g:9091"                 interval_ms: 15000
MetricsAddr                              -                    "g:9091"                 authority: "g:9091"
metricsaddr                              -                    "g:9091"                 authority: "g:9091"
metrics-interval                         metrics-interval     5                        push: None
metrics-interval                         metrics-interval     0                        push: None
MetricsInterval                          -                    5                        push: None
-                                        max-message-size     1048576                  max_message_bytes: 1048576
-                                        enable-debug         true                     ignored
enable-tolerant                          enable-tolerant      false                    ignored
-                                        log-rotate           "hour"                   ignored
-                                        binlog-file-size     512                      ignored
-                                        enable-binlog-slice  true                     ignored
-                                        binlog-slice-size    4                        ignored
EtcdDialTimeout                          -                    5000000000               ignored
storage.sync-log                         -                    false                    sync_log: false
storage.stop-write-at-available-space    -                    "42 MB"                  stop_write_bytes: 42000000
storage.stop-write-at-available-space    -                    ""                       stop_write_bytes: 0
storage.stop-write-at-available-space    -                    10737418240              stop_write_bytes: 10737418240
storage.segment-size                     -                    "4 mib"                  segment_bytes: 4194304
storage.kv_chan_cap                      -                    1048576                  ignored
storage.kv_chan_cap                      -                    -1                       ignored
storage.slow_write_threshold             -                    0.5                      slow_write_ms: 500
storage.slow_write_threshold             -                    2                        slow_write_ms: 2000
storage.slow_write_threshold             -                    -1                       slow_write_ms: 1000
fake-on-demand-interval                  -                    250                      fake_on_demand_ms: 250
storage.kv.block-cache-capacity          -                    8388608                  cache_bytes: Some(8388608)
storage.kv.block-cache-capacity          -                    0                        cache_bytes: None
storage.kv.block-restart-interval        -                    16                       restart_interval: Some(16)
storage.kv.block-size                    -                    4096                     block_bytes: Some(4096)
storage.kv.compaction-L0-trigger         -                    8                        compaction_trigger: Some(8)
storage.kv.compaction-table-size         -                    67108864                 file_bytes: Some(67108864)
storage.kv.compaction-total-size         -                    536870912                ignored
storage.kv.compaction-total-size-multiplier -                 8.0                      ignored
storage.kv.write-buffer                  -                    67108864                 write_buffer_bytes: Some(67108864)
storage.kv.write-L0-pause-trigger        -                    24                       stop_trigger: Some(24)
storage.kv.write-L0-slowdown-trigger     -                    17                       slowdown_trigger: Some(17)
storage.kv.write-L0-slowdown-trigger     -                    -17                      slowdown_trigger: None
"#;

#[test]
fn every_key_and_flag_is_accepted() {
    let mut seen = Vec::new();
    for line in ACCEPTED.lines().filter(|l| !l.is_empty()) {
        let (name, rest) = line.split_once(' ').unwrap();
        let (flag, rest) = rest.trim_start().split_once(' ').unwrap();
        // Two spaces part value and outcome; a value may hold one.
        let (value, shown) = rest.trim_start().rsplit_once("  ").unwrap();
        let (value, shown): (Value, _) = (serde_json::from_str(value).unwrap(), shown.trim());
        let wanted = match shown {
            "ok" | "ignored" => "PumpSettings",
            other => other,
        };
        if name != "-" {
            let settings = format!("{:?}", file(name, &value).unwrap_or_else(|e| panic!("{line}: {e}")));
            assert!(settings.contains(wanted), "{line}: {settings}");
            seen.push(KEYS.iter().find(|k| k.file.eq_ignore_ascii_case(name)).unwrap().id());
        }
        if flag != "-" {
            let id = KEYS.iter().find(|k| k.flag == flag).unwrap_or_else(|| panic!("no flag {flag}")).id();
            let spelled = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            for origin in [Origin::CommandLine, Origin::Environment] {
                let settings = format!("{:?}", text(id, &spelled, origin).unwrap_or_else(|e| panic!("{line}: {e}")));
                assert!(settings.contains(wanted), "{line}: {settings}");
            }
            seen.push(id);
        }
        let has_effect = !matches!(key(seen.last().unwrap()).support, Support::NoEffect(_));
        assert_eq!(has_effect, shown != "ignored", "{line}");
    }
    // `gc` and TLS have tests of their own.
    let others = |id: &str| id.starts_with("gc") || id.starts_with("security.");
    for key in KEYS.iter().filter(|k| !others(k.id())) {
        assert!(seen.contains(&key.id()), "{} is in no line of the table", key.id());
    }
}

#[test]
fn what_is_refused_names_its_key() {
    for (name, value, words) in [
        ("addr", json!(1), "is not a text"),
        ("addr", json!("h"), "is not host:port"),
        ("addr", json!("http://h:1"), "is not host:port"),
        ("advertise-addr", json!("http://h:1"), "is not host:port"),
        ("advertise-addr", json!(":1"), "invalid advertiseAddr host"),
        ("advertise-addr", json!("0.0.0.0:1"), "invalid advertiseAddr host"),
        ("advertise-addr", json!("[::]:1"), "invalid advertiseAddr host"),
        ("advertise-addr", json!("h"), "is not host:port"),
        ("socket", json!("pump.sock"), ""),
        ("pd-urls", json!("ftp://a:1"), "scheme"),
        ("heartbeat-interval", json!(-1), "at least 0"),
        ("heartbeat-interval", json!("2"), "is not an integer"),
        ("gen-binlog-interval", json!(0), "at least 1"),
        ("gen-binlog-interval", json!(-3), "at least 1"),
        ("metrics-addr", json!("https://g:1"), "not supported"),
        ("metrics-interval", json!(-1), "at least 0"),
        ("MetricsInterval", json!(-1), "at least 0"),
        ("storage.sync-log", json!("yes"), "is not true or false"),
        ("storage.stop-write-at-available-space", json!("10 gigs"), "unknown unit"),
        ("storage.stop-write-at-available-space", json!(-1), "at least 0"),
        ("storage.stop-write-at-available-space", json!(true), "is not an integer or a text"),
        ("storage.slow_write_threshold", json!("1"), "is not a number"),
        ("storage.slow_write_threshold", json!(1e300), "too many"),
        ("storage.kv.block-size", json!("4k"), "is not an integer"),
        ("storage.kv.block-size", json!(1_i64 << 40), "too large"),
        ("storage.kv.block-restart-interval", json!(1_i64 << 31), "too large"),
    ] {
        let error = file(name, &value).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains(words), "{name}: {error}");
    }
    let inverted = json!({"storage": {"kv": {"write-L0-slowdown-trigger": 9, "write-L0-pause-trigger": 8}}});
    let mut s = Settings::default();
    s.set_file(KEYS, "pump", "p.toml", &inverted).unwrap();
    let error = PumpSettings::from_settings(&s, "h").unwrap_err().to_string();
    assert!(error.contains("must not be above"), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_the_originals_words() {
    for (value, names) in [
        (json!({"adr": "x"}), "adr"),
        (json!({"storage": {"kv": {"block-sise": 1}, "sync": true}}), "storage.kv.block-sise, storage.sync"),
        (json!({"max-message-size": 1}), "max-message-size"),
    ] {
        let mut s = Settings::default();
        let error = s.set_file(KEYS, "pump", "p.toml", &value).unwrap_err().to_string();
        let wanted = "component pump's config file p.toml contained unknown configuration options: ";
        assert_eq!(error.strip_prefix(wanted), Some(names), "{error}");
    }
}
