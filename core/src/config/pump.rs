//! Configuration of a Pump (spec pump 6.2).

use super::duration::parse_duration_ms;
use super::push::PushSettings;
use super::security::{SecuritySettings, parse_socket};
use super::settings::{ConfigError, Key, Kind, Settings, Support};
use super::size::{parse_host_port, parse_pd_urls, parse_size};
use crate::ids::NodeId;
use crate::pump::config::{GcConfig, GcHold};
use Support::{Honoured, NoEffect};

const NO_LEVELS: &str = "the index keeps what it has in runs of equal size, not in levels that grow";

/// All flags and file keys of the original's Pump, and ours.
pub const KEYS: &[Key] = &[
    Key::new("addr", "addr", Kind::Text, Honoured, "host:port to listen on, gRPC and HTTP (default <first IPv4>:8250)"),
    Key::new(
        "advertise-addr",
        "advertise-addr",
        Kind::Text,
        Honoured,
        "host:port that peers connect to (default: addr)",
    ),
    Key::new("socket", "socket", Kind::Text, Honoured, "unix socket to listen on besides, as unix:///path"),
    Key::new("pd-urls", "pd-urls", Kind::Text, Honoured, "comma list of PD addresses (default http://127.0.0.1:2379)"),
    Key::new(
        "data-dir",
        "data-dir",
        Kind::Text,
        Honoured,
        "directory of the value log and its index (default data.pump)",
    ),
    Key::new(
        "heartbeat-interval",
        "heartbeat-interval",
        Kind::Int,
        Honoured,
        "seconds between registry updates (default 2)",
    ),
    Key::new(
        "gc",
        "gc",
        Kind::IntOrText,
        Honoured,
        "how long to keep binlogs: days, or a duration such as 8h or 1h30m (default 7)",
    ),
    Key::new(
        "gc-hold",
        "gc-hold",
        Kind::Text,
        Honoured,
        "drainers: binlogs that a Drainer which is not offline still needs are kept beyond gc; age: they are not (default drainers)",
    ),
    Key::new(
        "gc-ttl",
        "gc-ttl",
        Kind::Int,
        Honoured,
        "seconds that TiKV's GC waits for undecided prewrites while this pump is away (default 86400)",
    ),
    Key::new("node-id", "node-id", Kind::Text, Honoured, "name in the registry (default <hostname>:<port>)"),
    Key::new(
        "gen-binlog-interval",
        "fake-binlog-interval",
        Kind::Int,
        Honoured,
        "seconds between fake binlogs when idle (default 3)",
    ),
    Key::new(
        "fake-on-demand-interval",
        "fake-on-demand-interval",
        Kind::Int,
        Honoured,
        "milliseconds between fake binlogs while a Drainer waits, 0: none (default 100)",
    ),
    Key::new("log-level", "L", Kind::Text, Honoured, "debug, info, warn, error or fatal (default info)"),
    Key::new("log-file", "log-file", Kind::Text, Honoured, "file for the log (default: standard output)"),
    Key::new(
        "metrics-addr",
        "metrics-addr",
        Kind::Text,
        Honoured,
        "Prometheus push gateway, as host:port or http://host:port",
    ),
    Key::new(
        "metrics-interval",
        "metrics-interval",
        Kind::Int,
        Honoured,
        "seconds between pushes to the gateway; 0: none (default 15)",
    ),
    // How the original's file spells them.
    Key::new("MetricsAddr", "", Kind::Text, Honoured, ""),
    Key::new("MetricsInterval", "", Kind::Int, Honoured, ""),
    Key::new("EtcdDialTimeout", "", Kind::Int, NoEffect("dialling PD ends after 5 seconds"), ""),
    Key::new("", "max-message-size", Kind::Int, Honoured, "largest gRPC message in bytes (default: no limit)"),
    Key::new("", "enable-debug", Kind::Bool, NoEffect("it never had an effect"), "no effect"),
    Key::new("enable-tolerant", "enable-tolerant", Kind::Bool, NoEffect("errors are always reported"), "no effect"),
    Key::new("", "log-rotate", Kind::Text, NoEffect("deprecated by the original"), "no effect"),
    Key::new("", "binlog-file-size", Kind::Int, NoEffect("deprecated by the original"), "no effect"),
    Key::new("", "enable-binlog-slice", Kind::Bool, NoEffect("deprecated by the original"), "no effect"),
    Key::new("", "binlog-slice-size", Kind::Int, NoEffect("deprecated by the original"), "no effect"),
    Key::new("security.ssl-ca", "", Kind::Text, Honoured, ""),
    Key::new("security.ssl-cert", "", Kind::Text, Honoured, ""),
    Key::new("security.ssl-key", "", Kind::Text, Honoured, ""),
    Key::new("security.cert-allowed-cn", "", Kind::TextList, Honoured, ""),
    Key::new("storage.sync-log", "", Kind::Bool, Honoured, ""),
    Key::new("storage.segment-size", "", Kind::IntOrText, Honoured, ""),
    Key::new("storage.stop-write-at-available-space", "", Kind::IntOrText, Honoured, ""),
    Key::new("storage.kv_chan_cap", "", Kind::Int, NoEffect("hand-overs are bounded by bytes here"), ""),
    Key::new("storage.slow_write_threshold", "", Kind::Float, Honoured, ""),
    Key::new("storage.kv.block-cache-capacity", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.block-restart-interval", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.block-size", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.compaction-L0-trigger", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.compaction-table-size", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.compaction-total-size", "", Kind::Int, NoEffect(NO_LEVELS), ""),
    Key::new("storage.kv.compaction-total-size-multiplier", "", Kind::Float, NoEffect(NO_LEVELS), ""),
    Key::new("storage.kv.write-buffer", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.write-L0-pause-trigger", "", Kind::Int, Honoured, ""),
    Key::new("storage.kv.write-L0-slowdown-trigger", "", Kind::Int, Honoured, ""),
];

/// A Pump's configuration, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PumpSettings {
    pub addr: String,
    pub advertise_addr: String,
    pub pd_urls: Vec<String>,
    /// Path of the unix socket.
    pub socket: Option<String>,
    /// `None`: no TLS.
    pub security: Option<SecuritySettings>,
    pub data_dir: String,
    /// As configured; the `.node` file wins when both agree, and a contradiction refuses the start (spec pump 4.2).
    pub node_id: Option<NodeId>,
    pub heartbeat_ms: u64,
    pub fake_interval_ms: u64,
    pub fake_on_demand_ms: u64,
    /// TTL of the service safe point in PD.
    pub gc_hold_ttl_s: u64,
    pub max_message_bytes: u64,
    pub sync_log: bool,
    pub segment_bytes: u64,
    /// Prewrites are refused at or below this much free space.
    pub stop_write_bytes: u64,
    pub gc: GcConfig,
    /// A WriteBinlog call that takes longer is logged.
    pub slow_write_ms: u64,
    pub index: IndexSettings,
    /// `None`: metrics are only served.
    pub push: Option<PushSettings>,
}

/// `[storage.kv]` (spec pump 6.2); `None`: our default, which is not the original's, for another kind of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexSettings {
    pub cache_bytes: Option<u32>,
    pub restart_interval: Option<u32>,
    pub block_bytes: Option<u32>,
    pub compaction_trigger: Option<u32>,
    pub file_bytes: Option<u32>,
    pub write_buffer_bytes: Option<u32>,
    pub slowdown_trigger: Option<u32>,
    pub stop_trigger: Option<u32>,
}

impl IndexSettings {
    fn from_settings(s: &Settings) -> Result<Self, ConfigError> {
        // As in the original, what is not above 0 stands for the default.
        let value = |key: &str, max: u32| match s.int(key).filter(|n| *n > 0) {
            None => Ok(None),
            Some(n) => match u32::try_from(n).ok().filter(|n| *n <= max) {
                Some(n) => Ok(Some(n)),
                None => Err(s.wrong(key, format!("{n} is too large; at most {max}"))),
            },
        };
        let bytes = |key| value(key, MAX_INDEX_BYTES);
        let files = |key| value(key, MAX_INDEX_COUNT);
        let this = Self {
            cache_bytes: bytes("storage.kv.block-cache-capacity")?,
            restart_interval: files("storage.kv.block-restart-interval")?,
            block_bytes: bytes("storage.kv.block-size")?,
            compaction_trigger: files("storage.kv.compaction-L0-trigger")?,
            file_bytes: bytes("storage.kv.compaction-table-size")?,
            write_buffer_bytes: bytes("storage.kv.write-buffer")?,
            slowdown_trigger: files(SLOWDOWN)?,
            stop_trigger: files("storage.kv.write-L0-pause-trigger")?,
        };
        match (this.slowdown_trigger, this.stop_trigger) {
            (Some(slow), Some(stop)) if slow > stop => {
                Err(s.wrong(SLOWDOWN, format!("{slow} must not be above write-L0-pause-trigger, {stop}")))
            }
            _ => Ok(this),
        }
    }
}

fn slow_write_ms(s: &Settings) -> Result<u64, ConfigError> {
    const KEY: &str = "storage.slow_write_threshold";
    let seconds = s.float(KEY).filter(|n| *n > 0.0).unwrap_or(DEFAULT_SLOW_WRITE);
    let duration = core::time::Duration::try_from_secs_f64(seconds).ok();
    let ms = duration.and_then(|d| u64::try_from(d.as_millis()).ok());
    ms.ok_or_else(|| s.wrong(KEY, format!("{seconds} seconds are too many")))
}

const SLOWDOWN: &str = "storage.kv.write-L0-slowdown-trigger";
/// Of one part of the index; it is a few percent of the log.
const MAX_INDEX_BYTES: u32 = 2 << 30;
/// Counts of files and keys; far above what makes sense.
const MAX_INDEX_COUNT: u32 = 1 << 20;
/// Seconds.
const DEFAULT_SLOW_WRITE: f64 = 1.0;

/// The original's default: the largest i64 less 4 MiB (spec pump 1.1).
const DEFAULT_MAX_MESSAGE: i64 = i64::MAX - (4 << 20);
/// Default size of a segment (design 3.1).
const DEFAULT_SEGMENT: u64 = 512 << 20;
/// Smaller segments would spend more on headers than on data.
const MIN_SEGMENT: u64 = 64 << 10;
const DEFAULT_STOP_WRITE: u64 = 10 << 30;
/// A day, as TiCDC has.
const DEFAULT_GC_TTL: i64 = 86_400;
/// Twice the interval at which it is renewed.
const MIN_GC_TTL: i64 = 60;

impl PumpSettings {
    /// `default_host`: the machine's first IPv4 that is no loopback, or `127.0.0.1`.
    pub fn from_settings(s: &Settings, default_host: &str) -> Result<Self, ConfigError> {
        let addr = s.non_empty("addr").map_or_else(|| format!("{default_host}:8250"), str::to_owned);
        parse_host_port(&addr).map_err(|e| s.wrong("addr", e))?;
        let advertise_addr = s.non_empty("advertise-addr").unwrap_or(&addr).to_owned();
        let (host, _) = parse_host_port(&advertise_addr).map_err(|e| s.wrong("advertise-addr", e))?;
        if host.is_empty() || host == "0.0.0.0" || host == "::" {
            let what = format!("invalid advertiseAddr host: {host:?}: peers cannot connect to it; set advertise-addr");
            return Err(s.wrong("advertise-addr", what));
        }
        let node_id = s.non_empty("node-id").map(NodeId::parse).transpose().map_err(|e| s.wrong("node-id", e))?;
        let size = |key: &str, default: u64| match (s.text(key), s.int(key)) {
            (Some(text), _) => parse_size(text).map_err(|e| s.wrong(key, e)),
            // Bytes.
            (None, Some(_)) => s.at_least(key, 0, 0),
            (None, None) => Ok(default),
        };
        let segment_bytes = size("storage.segment-size", DEFAULT_SEGMENT)?;
        if segment_bytes < MIN_SEGMENT {
            return Err(
                s.wrong("storage.segment-size", format!("{segment_bytes} is too small; at least {MIN_SEGMENT}"))
            );
        }
        // 0 stands for the default here, as in the original (spec pump 6.2).
        let heartbeat = match s.at_least("heartbeat-interval", 0, 2)? {
            0 => 2,
            n => n,
        };
        let security = SecuritySettings::from_settings(s)?;
        Ok(Self {
            pd_urls: parse_pd_urls(s.non_empty("pd-urls").unwrap_or("127.0.0.1:2379"), security.is_some())
                .map_err(|e| s.wrong("pd-urls", e))?,
            data_dir: s.non_empty("data-dir").unwrap_or("data.pump").to_owned(),
            node_id,
            heartbeat_ms: heartbeat.saturating_mul(1000),
            fake_interval_ms: s.at_least("gen-binlog-interval", 1, 3)?.saturating_mul(1000),
            fake_on_demand_ms: s.at_least("fake-on-demand-interval", 0, 100)?,
            gc_hold_ttl_s: s.at_least("gc-ttl", MIN_GC_TTL, DEFAULT_GC_TTL)?,
            max_message_bytes: s.at_least("max-message-size", 1, DEFAULT_MAX_MESSAGE)?,
            sync_log: s.bool("storage.sync-log").unwrap_or(true),
            segment_bytes,
            stop_write_bytes: size("storage.stop-write-at-available-space", DEFAULT_STOP_WRITE)?,
            socket: s.non_empty("socket").map(parse_socket).transpose().map_err(|e| s.wrong("socket", e))?,
            security,
            gc: GcConfig { keep_ms: keep_ms(s)?, hold: hold(s)?, ..GcConfig::default() },
            slow_write_ms: slow_write_ms(s)?,
            index: IndexSettings::from_settings(s)?,
            push: PushSettings::from_settings(s)?,
            addr,
            advertise_addr,
        })
    }
}

/// Whole numbers are days, texts are numbers too or durations; with the original's text for what is not above 0.
fn keep_ms(s: &Settings) -> Result<u64, ConfigError> {
    let text = s.non_empty("gc").map(str::trim);
    let days = s.int("gc").or_else(|| text?.parse().ok());
    let ms = match (days, text) {
        (Some(days), _) => match u64::try_from(days).ok().and_then(|days| days.checked_mul(DAY_MS)) {
            Some(ms) if ms <= MAX_KEEP_MS => ms,
            Some(_) => return Err(s.wrong("gc", format!("{days} days are too many"))),
            None => return Err(s.wrong("gc", format!("GC is {days} days, must bigger than 0"))),
        },
        (None, Some(text)) => parse_duration_ms(text).map_err(|e| s.wrong("gc", e))?,
        (None, None) => return Ok(GcConfig::default().keep_ms),
    };
    if ms == 0 {
        let shown = text.map_or_else(|| "0".to_owned(), str::to_owned);
        return Err(s.wrong("gc", format!("GC is {shown}, must bigger than 0")));
    }
    Ok(ms)
}

fn hold(s: &Settings) -> Result<GcHold, ConfigError> {
    match s.non_empty("gc-hold") {
        None | Some("drainers") => Ok(GcHold::Drainers),
        Some("age") => Ok(GcHold::Age),
        Some(other) => Err(s.wrong("gc-hold", format!("{other:?} is not known; use \"drainers\" or \"age\""))),
    }
}

const DAY_MS: u64 = 24 * 3_600_000;
/// Where Go's durations end.
const MAX_KEEP_MS: u64 = 106_751 * DAY_MS;

#[cfg(test)]
#[path = "pump_keys_tests.rs"]
mod keys_tests;

#[cfg(test)]
mod tests {
    use super::super::settings::Origin;
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let mut s = Settings::default();
        for (name, text) in pairs {
            s.set_text(KEYS.iter().find(|k| k.id() == *name).unwrap(), text, Origin::CommandLine)?;
        }
        Ok(s)
    }

    #[test]
    fn defaults_are_the_originals() {
        let s = PumpSettings::from_settings(&Settings::default(), "10.0.0.7").unwrap();
        assert_eq!(s.addr, "10.0.0.7:8250");
        assert_eq!(s.advertise_addr, s.addr);
        assert_eq!(s.pd_urls, ["http://127.0.0.1:2379"]);
        assert_eq!((s.heartbeat_ms, s.fake_interval_ms, s.fake_on_demand_ms), (2000, 3000, 100));
        assert_eq!(s.stop_write_bytes, 10_737_418_240);
        assert!(s.sync_log);
    }

    #[test]
    fn bad_values_name_their_key() {
        for (name, text) in [
            ("addr", "nonsense"),
            ("advertise-addr", "0.0.0.0:8250"),
            ("advertise-addr", ":8250"),
            ("socket", "pump.sock"),
            ("pd-urls", "ftp://x:1"),
            ("pd-urls", "https://x:1"),
            ("node-id", "a/b"),
            ("gen-binlog-interval", "0"),
            ("fake-on-demand-interval", "-1"),
            ("heartbeat-interval", "-1"),
            ("gc-ttl", "59"),
            ("max-message-size", "0"),
            ("storage.segment-size", "1 kib"),
            ("storage.stop-write-at-available-space", "ten"),
            ("gc", "0"),
            ("gc", "-1"),
            ("gc", "0s"),
            ("gc", "7d"),
            ("gc", "1000000"),
            ("gc-hold", "consumers"),
        ] {
            let s = settings(&[(name, text)]).unwrap();
            let error = PumpSettings::from_settings(&s, "127.0.0.1").unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}: {error}");
        }
    }

    #[test]
    fn gc_is_in_days_or_a_duration() {
        for (text, ms) in [("5", 5 * DAY_MS), ("8h", 8 * 3_600_000), ("1h30m", 5_400_000), ("", 7 * DAY_MS)] {
            let s = settings(&[("gc", text)]).unwrap();
            assert_eq!(PumpSettings::from_settings(&s, "127.0.0.1").unwrap().gc.keep_ms, ms, "{text}");
        }
        let s = settings(&[("gc-hold", "age")]).unwrap();
        let gc = PumpSettings::from_settings(&s, "127.0.0.1").unwrap().gc;
        assert_eq!((gc.hold, gc.keep_ms, gc.interval_ms), (GcHold::Age, 7 * DAY_MS, 3_600_000));
        let s = settings(&[("gc", "0")]).unwrap();
        let error = PumpSettings::from_settings(&s, "127.0.0.1").unwrap_err().to_string();
        assert!(error.contains("GC is 0, must bigger than 0"), "{error}");
    }

    #[test]
    fn ids_of_keys_are_unique() {
        for (i, a) in KEYS.iter().enumerate() {
            assert!(KEYS[i + 1..].iter().all(|b| a.id() != b.id()), "{}", a.id());
        }
    }
}
