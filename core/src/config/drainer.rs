//! Configuration of a Drainer (spec drainer 8).

use super::push::PushSettings;
use super::security::SecuritySettings;
use super::settings::{ConfigError, Key, Kind, Settings, Support};
use super::size::{parse_host_port, parse_pd_urls};
use crate::drainer::filter::Filter;
use crate::ids::{CommitTs, NodeId};
use Support::{Honoured, NoEffect, NotYet};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ONE_CONNECTION: &str = "transactions are applied in commit order over one connection; parallel apply comes later";

/// All flags and file keys of the original's Drainer, and ours.
pub const KEYS: &[Key] = &[
    Key::new("addr", "addr", Kind::Text, Honoured, "host:port to listen on, gRPC and HTTP (default <first IPv4>:8249)"),
    Key::new(
        "advertise-addr",
        "advertise-addr",
        Kind::Text,
        Honoured,
        "host:port that peers connect to (default: addr)",
    ),
    Key::new("node-id", "node-id", Kind::Text, Honoured, "name in the registry (default <hostname>:<port>)"),
    Key::new("data-dir", "data-dir", Kind::Text, Honoured, "directory for local state (default data.drainer)"),
    Key::new(
        "detect-interval",
        "detect-interval",
        Kind::Int,
        Honoured,
        "seconds between looks for new Pumps (default 5)",
    ),
    Key::new("pd-urls", "pd-urls", Kind::Text, Honoured, "comma list of PD addresses (default http://127.0.0.1:2379)"),
    Key::new("log-level", "L", Kind::Text, Honoured, "debug, info, warn, error or fatal (default info)"),
    Key::new("log-file", "log-file", Kind::Text, Honoured, "file for the log (default: standard output)"),
    Key::new("", "log-rotate", Kind::Text, NoEffect("deprecated by the original"), "no effect"),
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
    Key::new("EtcdTimeout", "", Kind::IntOrText, NoEffect("calls of the registry have limits of their own"), ""),
    Key::new(
        "initial-commit-ts",
        "initial-commit-ts",
        Kind::Int,
        Honoured,
        "where to start without a checkpoint: a commit ts, 0 (oldest), -1 (now; default)",
    ),
    Key::new("compressor", "compressor", Kind::Text, Honoured, "gzip, or empty: compression of what Pumps send"),
    Key::new("synced-check-time", "synced-check-time", Kind::Int, NotYet, "minutes"),
    Key::new("", "cache-binlog-count", Kind::Int, NoEffect("queues are bounded by bytes here"), "no effect"),
    Key::new(
        "accept-offline-pumps",
        "accept-offline-pump",
        Kind::TextList,
        Honoured,
        "comma list of offline Pumps whose binlogs above the checkpoint are given up",
    ),
    Key::new("syncer.txn-batch", "txn-batch", Kind::Int, Honoured, "rows of one downstream transaction (default 20)"),
    Key::new("syncer.worker-count", "c", Kind::Int, NoEffect(ONE_CONNECTION), "number of workers"),
    Key::new("syncer.db-type", "dest-db-type", Kind::Text, Honoured, "mysql or tidb (default mysql)"),
    Key::new(
        "syncer.ignore-schemas",
        "ignore-schemas",
        Kind::Text,
        Honoured,
        "comma list of schemas that are not replicated",
    ),
    Key::new("syncer.safe-mode", "safe-mode", Kind::Bool, Honoured, "write rows in the repeatable form"),
    Key::new("syncer.sync-ddl", "sync-ddl", Kind::Bool, Honoured, "send DDL downstream (default true)"),
    Key::new("syncer.loopback-control", "loopback-control", Kind::Bool, NotYet, "bidirectional replication"),
    Key::new("syncer.channel-id", "channel-id", Kind::Int, NotYet, "bidirectional replication"),
    Key::new("syncer.relay.log-dir", "relay-log-dir", Kind::Text, NotYet, "relay log"),
    Key::new("syncer.relay.max-file-size", "relay-max-file-size", Kind::Int, NotYet, "relay log"),
    Key::new("syncer.enable-dispatch", "enable-dispatch", Kind::Bool, NoEffect(ONE_CONNECTION), "no effect yet"),
    Key::new("syncer.disable-dispatch", "disable-dispatch", Kind::Bool, NoEffect(ONE_CONNECTION), "no effect yet"),
    Key::new("syncer.enable-detect", "enable-detect", Kind::Bool, NoEffect(ONE_CONNECTION), "no effect yet"),
    Key::new("syncer.disable-detect", "disable-detect", Kind::Bool, NoEffect(ONE_CONNECTION), "no effect yet"),
    Key::new("syncer.load-schema-snapshot", "load-schema-snapshot", Kind::Bool, NotYet, "start from a schema snapshot"),
    Key::new("security.ssl-ca", "", Kind::Text, Honoured, ""),
    Key::new("security.ssl-cert", "", Kind::Text, Honoured, ""),
    Key::new("security.ssl-key", "", Kind::Text, Honoured, ""),
    Key::new("security.cert-allowed-cn", "", Kind::TextList, Honoured, ""),
    Key::new("syncer.sql-mode", "", Kind::Text, Honoured, ""),
    Key::new("syncer.ignore-txn-commit-ts", "", Kind::IntList, Honoured, ""),
    Key::new("syncer.replicate-do-db", "", Kind::TextList, NotYet, ""),
    Key::new("syncer.replicate-do-table", "", Kind::Table, NotYet, ""),
    Key::new("syncer.ignore-table", "", Kind::Table, NotYet, ""),
    Key::new("syncer.case-sensitive", "", Kind::Bool, NotYet, ""),
    Key::new("syncer.table-migrate-rule", "", Kind::Table, NotYet, ""),
    Key::new("syncer.binlog-filter-rule", "", Kind::Table, NotYet, ""),
    Key::new("syncer.to.host", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.user", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.password", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.encrypted_password", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.port", "", Kind::Int, Honoured, ""),
    Key::new("syncer.to.sync-mode", "", Kind::Int, NotYet, ""),
    Key::new("syncer.to.dir", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.retention-time", "", Kind::Int, NotYet, ""),
    Key::new("syncer.to.params", "", Kind::Table, Honoured, ""),
    Key::new("syncer.to.read-timeout", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.merge", "", Kind::Bool, NotYet, ""),
    Key::new("syncer.to.zookeeper-addrs", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.kafka-addrs", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.kafka-version", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.kafka-max-messages", "", Kind::Int, NotYet, ""),
    Key::new("syncer.to.kafka-client-id", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.kafka-max-message-size", "", Kind::Int, NotYet, ""),
    Key::new("syncer.to.topic-name", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.oracle-service-name", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.oracle-connect-string", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.security.ssl-ca", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.security.ssl-cert", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.security.ssl-key", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.security.cert-allowed-cn", "", Kind::TextList, Honoured, ""),
    Key::new("syncer.to.checkpoint.type", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.schema", "", Kind::Text, Honoured, ""),
    Key::new("syncer.to.checkpoint.table", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.host", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.user", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.password", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.encrypted_password", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.port", "", Kind::Int, NotYet, ""),
    Key::new("syncer.to.checkpoint.oracle-service-name", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.oracle-connect-string", "", Kind::Text, NotYet, ""),
    Key::new("syncer.to.checkpoint.security", "", Kind::Table, NotYet, ""),
];

/// Where to start when there is no checkpoint (spec drainer 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialCommitTs {
    /// −1: PD's current timestamp, persisted at once.
    Now,
    /// 0: from the oldest binlog that each Pump has; n: after n.
    At(CommitTs),
}

/// Connection to the downstream. The `Debug` form hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Downstream {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    /// `None`: our default (docs/compatibility.md). Set, even empty: sent verbatim.
    pub sql_mode: Option<String>,
    /// Session variables of `[syncer.to.params]`.
    pub params: BTreeMap<String, String>,
    /// `None`: no TLS.
    pub security: Option<SecuritySettings>,
    /// Database of the checkpoint and of our own tables.
    pub checkpoint_schema: String,
}

impl std::fmt::Debug for Downstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downstream")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("sql_mode", &self.sql_mode)
            .field("params", &self.params)
            .field("security", &self.security)
            .field("checkpoint_schema", &self.checkpoint_schema)
            .finish_non_exhaustive()
    }
}

/// A Drainer's configuration, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainerSettings {
    pub addr: String,
    pub advertise_addr: String,
    pub node_id: Option<NodeId>,
    pub data_dir: String,
    pub pd_urls: Vec<String>,
    /// `None`: no TLS.
    pub security: Option<SecuritySettings>,
    pub detect_interval_ms: u64,
    pub initial_commit_ts: InitialCommitTs,
    pub gzip: bool,
    pub txn_batch: usize,
    pub safe_mode: bool,
    pub sync_ddl: bool,
    pub ignore_schemas: Vec<String>,
    pub ignore_txn_commit_ts: BTreeSet<CommitTs>,
    /// Ours: offline Pumps whose binlogs above the checkpoint are given up (rules 7).
    pub accept_offline_pumps: BTreeSet<NodeId>,
    pub downstream: Downstream,
    /// `None`: metrics are only served.
    pub push: Option<PushSettings>,
}

/// What the environment may say about the downstream when the file does not (spec drainer 8.4).
#[derive(Debug, Clone, Default)]
pub struct MysqlEnvironment {
    pub host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
}

impl DrainerSettings {
    /// `default_host`: the machine's first IPv4 that is no loopback, or `127.0.0.1`.
    pub fn from_settings(s: &Settings, default_host: &str, env: &MysqlEnvironment) -> Result<Self, ConfigError> {
        let addr = s.non_empty("addr").map_or_else(|| format!("{default_host}:8249"), str::to_owned);
        parse_host_port(&addr).map_err(|e| s.wrong("addr", e))?;
        let advertise_addr = s.non_empty("advertise-addr").unwrap_or(&addr).to_owned();
        parse_host_port(&advertise_addr).map_err(|e| s.wrong("advertise-addr", e))?;
        let node_id = s.non_empty("node-id").map(NodeId::parse).transpose().map_err(|e| s.wrong("node-id", e))?;
        match s.non_empty("syncer.db-type").unwrap_or("mysql") {
            "mysql" | "tidb" => {}
            other @ ("kafka" | "file" | "pb" | "oracle" | "flash") => {
                return Err(s.wrong("syncer.db-type", format!("{other:?} is not supported yet; use mysql or tidb")));
            }
            other => return Err(s.wrong("syncer.db-type", format!("unknown DestDBType: {other}"))),
        }
        let gzip = match s.non_empty("compressor") {
            None => false,
            Some("gzip") => true,
            Some(other) => {
                return Err(s.wrong("compressor", format!("{other:?} is unknown; use gzip or leave it empty")));
            }
        };
        let detect = match s.at_least("detect-interval", 0, 5)? {
            0 => 5,
            n => n,
        };
        let security = SecuritySettings::from_settings(s)?;
        Ok(Self {
            node_id,
            data_dir: s.non_empty("data-dir").unwrap_or("data.drainer").to_owned(),
            pd_urls: parse_pd_urls(s.non_empty("pd-urls").unwrap_or("127.0.0.1:2379"), security.is_some())
                .map_err(|e| s.wrong("pd-urls", e))?,
            detect_interval_ms: detect.saturating_mul(1000),
            initial_commit_ts: initial_commit_ts(s)?,
            gzip,
            txn_batch: usize::try_from(s.at_least("syncer.txn-batch", 1, 20)?).unwrap_or(usize::MAX),
            safe_mode: s.bool("syncer.safe-mode").unwrap_or(false),
            sync_ddl: s.bool("syncer.sync-ddl").unwrap_or(true),
            ignore_schemas: ignore_schemas(s)?,
            ignore_txn_commit_ts: ignored_commits(s)?,
            accept_offline_pumps: accepted_pumps(s)?,
            downstream: downstream(s, env)?,
            push: PushSettings::from_settings(s)?,
            security,
            addr,
            advertise_addr,
        })
    }
}

fn initial_commit_ts(s: &Settings) -> Result<InitialCommitTs, ConfigError> {
    match s.int("initial-commit-ts").unwrap_or(-1) {
        -1 => Ok(InitialCommitTs::Now),
        n => u64::try_from(n).map(|n| InitialCommitTs::At(CommitTs::new(n))).map_err(|_| {
            s.wrong("initial-commit-ts", format!("{n} is no timestamp; use -1 for now, 0 for the oldest"))
        }),
    }
}

fn ignore_schemas(s: &Settings) -> Result<Vec<String>, ConfigError> {
    let text = s.text("syncer.ignore-schemas").unwrap_or("INFORMATION_SCHEMA,PERFORMANCE_SCHEMA,mysql");
    let list: Vec<String> = text.split(',').map(str::to_owned).collect();
    if list.iter().any(String::is_empty) {
        return Err(s.wrong("syncer.ignore-schemas", "empty schema name in the list"));
    }
    Filter::compile(&list).map_err(|e| s.wrong("syncer.ignore-schemas", e))?;
    Ok(list)
}

fn ignored_commits(s: &Settings) -> Result<BTreeSet<CommitTs>, ConfigError> {
    const KEY: &str = "syncer.ignore-txn-commit-ts";
    s.get(KEY)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| v.as_u64().map(CommitTs::new).ok_or_else(|| s.wrong(KEY, format!("{v} is no timestamp"))))
        .collect()
}

fn accepted_pumps(s: &Settings) -> Result<BTreeSet<NodeId>, ConfigError> {
    const KEY: &str = "accept-offline-pumps";
    let list = s.get(KEY).and_then(Value::as_array).into_iter().flatten();
    let names = list.map(|v| v.as_str().map(str::trim).unwrap_or_default()).filter(|name| !name.is_empty());
    names.map(|name| NodeId::parse(name).map_err(|e| s.wrong(KEY, e))).collect()
}

fn downstream(s: &Settings, env: &MysqlEnvironment) -> Result<Downstream, ConfigError> {
    let text = |key: &str, from_env: &Option<String>, default: &str| {
        let env = from_env.as_deref().filter(|t| !t.is_empty());
        s.non_empty(key).or(env).unwrap_or(default).to_owned()
    };
    let port = match s.int("syncer.to.port").unwrap_or(0) {
        0 => match env.port.as_deref().filter(|t| !t.is_empty()) {
            Some(text) => text
                .parse()
                .map_err(|_| ConfigError::Other(format!("environment MYSQL_PORT: {text:?} is not a port number")))?,
            None => 3306,
        },
        n => u16::try_from(n).map_err(|_| s.wrong("syncer.to.port", format!("{n} is not a port number")))?,
    };
    let mut params = BTreeMap::new();
    if let Some(table) = s.get("syncer.to.params") {
        let wrong = || s.wrong("syncer.to.params", "must be a table of texts, like { time_zone = \"+00:00\" }");
        for (name, value) in table.as_object().ok_or_else(wrong)? {
            params.insert(name.clone(), value.as_str().ok_or_else(wrong)?.to_owned());
        }
    }
    Ok(Downstream {
        host: text("syncer.to.host", &env.host, "localhost"),
        port,
        user: text("syncer.to.user", &env.user, "root"),
        password: text("syncer.to.password", &env.password, ""),
        sql_mode: s.text("syncer.sql-mode").map(str::to_owned),
        params,
        security: SecuritySettings::of_downstream(s)?,
        checkpoint_schema: s.non_empty("syncer.to.checkpoint.schema").unwrap_or("tidb_binlog").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(file: &Value, env: &MysqlEnvironment) -> Result<DrainerSettings, ConfigError> {
        let mut s = Settings::default();
        s.set_file(KEYS, "drainer", "d.toml", file)?;
        DrainerSettings::from_settings(&s, "127.0.0.1", env)
    }

    /// The configuration file with which the captures were recorded.
    #[test]
    fn a_recorded_configuration_is_accepted() {
        let file = json!({
            "addr": "127.0.0.1:8349", "data-dir": "drainer_mysql", "pd-urls": "http://127.0.0.1:2379",
            "initial-commit-ts": 0, "detect-interval": 5, "node-id": "drainer-mysql",
            "syncer": {
                "sql-mode": "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION", "db-type": "mysql",
                "txn-batch": 20, "worker-count": 4, "safe-mode": false,
                "ignore-schemas": "INFORMATION_SCHEMA,PERFORMANCE_SCHEMA,mysql", "ignore-txn-commit-ts": [],
                "to": { "host": "127.0.0.1", "user": "root", "password": "", "port": 3399 },
            },
        });
        let s = parse(&file, &MysqlEnvironment::default()).unwrap();
        assert_eq!(s.initial_commit_ts, InitialCommitTs::At(CommitTs::ZERO));
        assert_eq!(s.downstream.port, 3399);
        assert_eq!(s.txn_batch, 20);
    }

    #[test]
    fn the_environment_fills_what_the_file_omits() {
        let env = MysqlEnvironment {
            host: Some("db".into()),
            port: Some("3307".into()),
            user: Some("u".into()),
            password: Some("p".into()),
        };
        let s = parse(&json!({}), &env).unwrap();
        assert_eq!((s.downstream.host.as_str(), s.downstream.port), ("db", 3307));
        let s = parse(&json!({"syncer": {"to": {"host": "h", "port": 1}}}), &env).unwrap();
        assert_eq!((s.downstream.host.as_str(), s.downstream.port), ("h", 1));
        assert!(!format!("{s:?}").contains("\"p\""), "the password must not appear: {s:?}");
        let bad = MysqlEnvironment { port: Some("x".into()), ..Default::default() };
        assert!(parse(&json!({}), &bad).unwrap_err().to_string().contains("MYSQL_PORT"));
    }

    #[test]
    fn bad_values_name_their_key() {
        for (key, file) in [
            ("syncer.db-type", json!({"syncer": {"db-type": "kafka"}})),
            ("syncer.db-type", json!({"syncer": {"db-type": "oracel"}})),
            ("compressor", json!({"compressor": "zstd"})),
            ("initial-commit-ts", json!({"initial-commit-ts": -2})),
            ("syncer.ignore-schemas", json!({"syncer": {"ignore-schemas": "a,,b"}})),
            ("syncer.ignore-txn-commit-ts", json!({"syncer": {"ignore-txn-commit-ts": [-1]}})),
            ("syncer.to.port", json!({"syncer": {"to": {"port": 70000}}})),
            ("syncer.to.params", json!({"syncer": {"to": {"params": {"a": 1}}}})),
            ("syncer.txn-batch", json!({"syncer": {"txn-batch": 0}})),
            ("syncer.replicate-do-db", json!({"syncer": {"replicate-do-db": ["a"]}})),
        ] {
            let error = parse(&file, &MysqlEnvironment::default()).unwrap_err().to_string();
            assert!(error.starts_with(key), "{key}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_originals_text() {
        let error = parse(&json!({"syncer": {"too": {"host": 1}}}), &MysqlEnvironment::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "component drainer's config file d.toml contained unknown configuration options: syncer.too.host"
        );
    }

    #[test]
    fn ids_of_keys_are_unique() {
        for (i, a) in KEYS.iter().enumerate() {
            assert!(KEYS[i + 1..].iter().all(|b| a.id() != b.id()), "{}", a.id());
        }
    }
}
