//! The Drainer process: flags, configuration, ports; everything that decides is `binlog_core::drainer`.

mod http;
mod metrics;
mod ports;
mod sink;
mod source;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use binlog_cluster::cistern_service;
use binlog_cluster::pd::PdClient;
use binlog_cluster::registry::Registry;
use binlog_cluster::server::{self, Listeners};
use binlog_cluster::tikv::TikvClient;
use binlog_cluster::tls::Security;
use binlog_core::config::drainer::{DrainerSettings, InitialCommitTs, KEYS, MysqlEnvironment};
use binlog_core::config::security::SecuritySettings;
use binlog_core::config::settings::Settings;
use binlog_core::config::size::parse_host_port;
use binlog_core::drainer::config::DrainerConfig;
use binlog_core::drainer::machine::Drainer;
use binlog_core::drainer::translate::{TranslateConfig, Translator};
use binlog_core::ids::NodeId;
use binlog_mysql::{MysqlConfig, MysqlSink};
use binlog_runtime::args::Program;
use binlog_runtime::clock::Clock;
use binlog_runtime::{driver, host, process, push, retry, signals, status};
use ports::{Ports, Request};
use std::process::ExitCode;
use tonic::service::Routes;

const PROGRAM: Program = Program {
    name: "drainer",
    about: "Merges the binlogs of all Pumps in commit order and applies them to MySQL, MariaDB or TiDB.",
    env_prefix: "BINLOG_SERVER_",
    keys: KEYS,
};

fn main() -> ExitCode {
    process::run(PROGRAM, run)
}

async fn run(settings: Settings) -> anyhow::Result<u8> {
    let variable = |name| std::env::var(name).ok();
    let env = MysqlEnvironment {
        host: variable("MYSQL_HOST"),
        port: variable("MYSQL_PORT"),
        user: variable("MYSQL_USER"),
        password: variable("MYSQL_PSWD"),
    };
    let config = DrainerSettings::from_settings(&settings, &host::default_host(), &env)?;
    let node_id = node_id(&config)?;
    tracing::info!(?config, "configuration");
    let security = Security::load(config.security.as_ref())?;
    // The MySQL client reads its files for each connection; here they are only tried.
    Security::load(config.downstream.security.as_ref()).map_err(|e| anyhow::anyhow!("syncer.to.{e}"))?;
    for key in SecuritySettings::ignored(&settings) {
        tracing::warn!(key, "the configuration key has no effect: TLS is off, because the ssl-ca beside it is not set");
    }
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("cannot create data-dir {}", config.data_dir))?;
    // Listen first: a Pump that sees us online may notify us at once (spec drainer 7.2).
    let listener = server::listen(&config.addr)
        .await
        .map_err(|error| process::NotStarted(format!("cannot listen on {}: {error}", config.addr)))?;
    tracing::info!(
        node_id = node_id.as_str(),
        listen = config.addr,
        advertise = config.advertise_addr,
        tls = security.is_tls(),
        data_dir = config.data_dir,
        downstream = format!("{}:{}", config.downstream.host, config.downstream.port),
        downstream_tls = config.downstream.security.is_some(),
        "drainer starts"
    );
    let pd = tokio::select! {
        pd = retry::forever("connect to PD", || PdClient::connect_with(&config.pd_urls, &security)) => pd,
        signal = signals::shutdown() => {
            tracing::info!(signal = signal?, "got signal to exit.");
            return Ok(0);
        }
    };
    tracing::info!(cluster_id = pd.cluster_id().raw(), "get cluster id from pd");
    let registry = Registry::with_security(&config.pd_urls, &security)?;

    let (sender, mut inbox) = driver::inbox::<_, Request>();
    let (asker, answerer) = status::channel(sender.clone());
    let (cistern, mut notifies) = cistern_service::channel();
    let forward = sender.clone();
    tokio::spawn(async move {
        while let Some(reply) = notifies.recv().await {
            if forward.request(Request::Notify(reply)).await.is_err() {
                return;
            }
        }
    });
    let (stop_serving, serving_stopped) = tokio::sync::oneshot::channel::<()>();
    let observer = metrics::Observer::new(asker.clone())?;
    let pushed = observer.clone();
    let pusher = push::start(config.push.as_ref(), node_id.as_str(), move || pushed.clone().text());
    let shown = Router::new().route("/metrics", get(move || observer.clone().respond()));
    let router = http::router(&node_id, sender.clone(), asker).merge(shown);
    let listeners = Listeners { tcp: listener, security: security.clone(), unix: None };
    let serving = tokio::spawn(server::serve_on(listeners, Routes::new(cistern.service()), router, async {
        let _ = serving_stopped.await;
    }));
    let on_signal = sender.clone();
    tokio::spawn(async move {
        match signals::shutdown().await {
            Ok(name) => {
                tracing::info!(signal = name, "got signal to exit.");
                let _ = on_signal.request(Request::Shutdown).await;
            }
            Err(error) => tracing::error!("cannot wait for signals: {error}"),
        }
    });

    let mysql = MysqlSink::new(mysql_config(&config, &pd, &node_id));
    let mut ports = Ports {
        pd: pd.clone(),
        tikv: TikvClient::new(pd.clone()),
        registry,
        sink: sink::spawn(mysql, sender.clone()),
        sources: source::Sources::new(pd.cluster_id(), config.gzip, security, sender.clone()),
        sender: sender.clone(),
        answerer,
        calls: ports::Calls::default(),
    };
    let mut machine: Drainer<Translator> = Drainer::new(machine_config(&config, node_id)?);
    sender.complete(binlog_core::drainer::input::Input::Start);
    let code = driver::drive(&mut machine, &mut ports, &mut inbox, Clock::start()).await;
    drop(pusher);
    drop(stop_serving);
    drop(ports);
    let _ = serving.await;
    Ok(code)
}

fn node_id(config: &DrainerSettings) -> anyhow::Result<NodeId> {
    if let Some(id) = &config.node_id {
        return Ok(id.clone());
    }
    let (_, port) = parse_host_port(&config.addr).map_err(anyhow::Error::msg)?;
    NodeId::parse(&format!("{}:{port}", host::hostname())).map_err(anyhow::Error::msg).context("set node-id")
}

fn machine_config(config: &DrainerSettings, node_id: NodeId) -> anyhow::Result<DrainerConfig> {
    let mut machine = DrainerConfig::new(node_id, config.advertise_addr.clone());
    machine.initial_commit_ts = match config.initial_commit_ts {
        InitialCommitTs::Now => -1,
        InitialCommitTs::At(ts) => i64::try_from(ts.raw())?,
    };
    machine.detect_interval_ms = config.detect_interval_ms;
    machine.txn_batch = u64::try_from(config.txn_batch)?;
    machine.safe_mode = config.safe_mode;
    machine.ignore_txn_commit_ts.clone_from(&config.ignore_txn_commit_ts);
    machine.accept_offline_pumps.clone_from(&config.accept_offline_pumps);
    machine.translate = TranslateConfig { ignore_schemas: config.ignore_schemas.clone(), sync_ddl: config.sync_ddl };
    machine.seed = getrandom::u64().map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
    Ok(machine)
}

fn mysql_config(config: &DrainerSettings, pd: &PdClient, node_id: &NodeId) -> MysqlConfig {
    let to = &config.downstream;
    let mut mysql = MysqlConfig::new(to.host.clone(), to.port, pd.cluster_id(), node_id.as_str());
    mysql.user.clone_from(&to.user);
    mysql.password.clone_from(&to.password);
    mysql.sql_mode.clone_from(&to.sql_mode);
    mysql.params.clone_from(&to.params);
    mysql.security.clone_from(&to.security);
    mysql.database.clone_from(&to.checkpoint_schema);
    mysql
}
