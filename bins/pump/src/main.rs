//! The Pump process: flags, configuration, ports; everything that decides is `binlog_core::pump`.

mod claim;
mod http;
mod metric_rows;
mod metrics;
mod operator;
mod ports;

use axum::Router;
use axum::routing::get;
use binlog_cluster::pd::PdClient;
use binlog_cluster::pump_service::{self, CallObserver, PULL_CREDIT};
use binlog_cluster::registry::Registry;
use binlog_cluster::server::{self, Grpc, Listeners};
use binlog_cluster::tikv::TikvClient;
use binlog_cluster::tls::Security;
use binlog_cluster::unix_socket::SocketListener;
use binlog_cluster::write_call::WriteCalls;
use binlog_core::config::pump::{IndexSettings, KEYS, PumpSettings};
use binlog_core::config::security::SecuritySettings;
use binlog_core::config::settings::Settings;
use binlog_core::config::size::parse_host_port;
use binlog_core::ids::NodeId;
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::pump::config::{PumpConfig, StreamMemory};
use binlog_core::pump::input::Input;
use binlog_core::pump::machine::Pump;
use binlog_runtime::args::Program;
use binlog_runtime::clock::Clock;
use binlog_runtime::driver::Sender;
use binlog_runtime::{driver, host, memory, process, push, retry, signals, status};
use binlog_storage::dir::{DirLock, create_dir, free_space};
use binlog_storage::identity::{DirIdentity, NodeFile};
use binlog_storage::index_store::{IndexOptions, IndexStore};
use binlog_storage::log_files::{LogFiles, LogObserver};
use binlog_storage::original;
use metrics::{Measured, Observer};
use ports::{Ports, Request};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

const PROGRAM: Program = Program {
    name: "pump",
    about: "Stores the binlogs of TiDB durably and serves them in commit order.",
    env_prefix: "PUMP_",
    keys: KEYS,
};

/// How often free space is looked at (spec pump 3.7).
const SPACE_INTERVAL: Duration = Duration::from_secs(3);
/// Largest batch of a group commit: a few milliseconds of a fast disk.
const MAX_BATCH_BYTES: usize = 4 << 20;
const MAX_BATCH_RECORDS: usize = 4096;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

fn main() -> ExitCode {
    memory::give_back_at_once();
    process::run(PROGRAM, run)
}

async fn run(settings: Settings) -> anyhow::Result<u8> {
    let config = PumpSettings::from_settings(&settings, &host::default_host())?;
    tracing::info!(?config, "configuration");
    let security = Security::load(config.security.as_ref())?;
    for key in SecuritySettings::ignored(&settings) {
        tracing::warn!(key, "the configuration key has no effect: TLS is off, because the ssl-ca beside it is not set");
    }
    let dir = Path::new(&config.data_dir);
    create_dir(dir)?;
    // The lock comes first: nothing of another process's directory is touched.
    let lock = DirLock::take(dir)?;
    let original = original::find(dir)?;
    let (_, port) = parse_host_port(&config.addr).map_err(anyhow::Error::msg)?;
    let fallback = format!("{}:{port}", host::hostname());
    let node_id = NodeFile::resolve(dir, config.node_id.as_ref().map(NodeId::as_str), &fallback)?;
    let identity = DirIdentity::load(dir)?;
    let listener = server::listen(&config.addr)
        .await
        .map_err(|error| process::NotStarted(format!("cannot listen on {}: {error}", config.addr)))?;
    let unix = match &config.socket {
        Some(path) => Some(SocketListener::bind(path).await.map_err(|error| process::NotStarted(error.to_string()))?),
        None => None,
    };
    tracing::info!(
        node_id = node_id.as_str(),
        listen = config.addr,
        advertise = config.advertise_addr,
        socket = config.socket,
        tls = security.is_tls(),
        data_dir = config.data_dir,
        "pump starts"
    );
    // From here on a signal ends the process in order, also while PD is away.
    let mut signalled = tokio::spawn(signals::shutdown());
    let token = format!("{}-{:016x}", identity.token(), random()?);
    let (pd, registry, claimed) = tokio::select! {
        biased;
        signal = &mut signalled => {
            say_signal(signal);
            return Ok(0);
        }
        known = ask_cluster(&config, &security, &node_id, &token) => known?,
    };

    let (sender, mut inbox) = driver::inbox::<_, Request>();
    let (asker, answerer) = status::channel(sender.clone());
    let measured = Arc::new(Measured::new(Duration::from_millis(config.slow_write_ms))?);
    let handle = pump_service::connect(PULL_CREDIT, ports::Outlet(sender.clone()))
        .observed(Arc::clone(&measured) as Arc<dyn CallObserver>);
    tokio::spawn(watch_space(PathBuf::from(&config.data_dir), sender.clone()));
    let on_signal = sender.clone();
    tokio::spawn(async move {
        let mut signal = signalled.await;
        // Whoever sends a second one is impatient: the machine knows what that means.
        while say_signal(signal) {
            on_signal.complete(Input::Shutdown);
            signal = Ok(signals::shutdown().await);
        }
    });
    let (stop_serving, serving_stopped) = tokio::sync::oneshot::channel::<()>();
    let limit = usize::try_from(config.max_message_bytes)?;
    let observer = Observer {
        measured: Arc::clone(&measured),
        asker: asker.clone(),
        pd: pd.clone(),
        registry: registry.clone(),
        data_dir: dir.to_owned(),
    };
    tokio::spawn(observer.clone().tell());
    tokio::spawn(observer.clone().watch_purges());
    let pushed = observer.clone();
    let pusher = push::start(config.push.as_ref(), node_id.as_str(), move || pushed.clone().text());
    let metrics = Router::new().route("/metrics", get(move || observer.clone().respond()));
    let tikv = TikvClient::new(pd.clone());
    let router = http::router(http::Surface {
        node_id: node_id.clone(),
        registry: registry.clone(),
        pd: pd.clone(),
        tikv: tikv.clone(),
        asker,
        sender: sender.clone(),
    })
    .merge(operator::router(sender.clone()))
    .merge(metrics);
    let listeners = Listeners { tcp: listener, security, unix };
    let writes = Some(WriteCalls::new(handle.clone(), limit));
    let grpc = Grpc { routes: Routes::new(handle.service(limit)), writes };
    let serving = tokio::spawn(server::serve_on(listeners, grpc, router, async {
        let _ = serving_stopped.await;
    }));

    let mut machine = Pump::new(machine_config(&config, node_id, &pd, &identity, token, claimed.previous.as_ref())?);
    if let Some(original) = original {
        machine = machine.with_original(original);
    }
    let log_sender = sender.clone();
    let index_sender = sender.clone();
    let (of_log, of_index) = (Arc::clone(&measured), Arc::clone(&measured));
    let log_observer: LogObserver = Arc::new(move |step, took, succeeded| of_log.log_step(step, took, succeeded));
    let mut ports = Ports {
        log: LogFiles::open_observed(dir, log_observer, move |op, result| {
            log_sender.complete(Input::LogDone { op, result });
        })?,
        index: IndexStore::open(&dir.join("index"), index_options(&config.index), move |op, result| {
            if result.is_err() {
                of_index.index_failed();
            }
            index_sender.complete(Input::IndexDone { op, result });
        })?,
        tikv,
        pd,
        registry,
        takes_over: claimed.over,
        sender: sender.clone(),
        answerer,
        calls: ports::Calls::default(),
        code: 0,
        measured,
    };
    sender.complete(Input::Start);
    // On a worker of the runtime, beside the calls that it answers: each hand-over to the main thread would wake it first.
    let driving = tokio::spawn(async move {
        let code = driver::drive(&mut machine, &mut ports, &mut inbox, Clock::start()).await;
        (code, ports, inbox)
    });
    let (code, mut ports, inbox) = match driving.await {
        Ok(ended) => ended,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    drop(pusher);
    // Whoever still waits is told, whether the machine has seen the call or not; then calls under way end.
    ports.calls = ports::Calls::default();
    drop(inbox);
    drop(stop_serving);
    let _ = serving.await;
    // The ports end their threads before the directory is released.
    drop(ports);
    drop(lock);
    Ok(code)
}

/// What must be known before the machine starts; waits while PD is away.
async fn ask_cluster(
    config: &PumpSettings,
    security: &Security,
    node_id: &NodeId,
    token: &str,
) -> anyhow::Result<(PdClient, Registry, claim::Claimed)> {
    let pd_urls = &config.pd_urls;
    let pd = retry::forever("connect to PD", || PdClient::connect_with(pd_urls, security)).await;
    tracing::info!(cluster_id = pd.cluster_id().raw(), "get cluster id from pd");
    let registry = Registry::with_security(pd_urls, security)?;
    let claimed = claim::claim(&registry, node_id.as_str(), token, config.heartbeat_ms).await?;
    Ok((pd, registry, claimed))
}

/// Ours where nothing was configured.
fn index_options(configured: &IndexSettings) -> IndexOptions {
    let default = IndexOptions::default();
    let size = |value: Option<u32>, default: usize| value.and_then(|v| usize::try_from(v).ok()).unwrap_or(default);
    let count = |value: Option<u32>, default: i32| value.and_then(|v| i32::try_from(v).ok()).unwrap_or(default);
    // Writes must not stop before they become slow, whichever of the two was configured.
    let stop = count(configured.stop_trigger, default.stop_trigger);
    let slowdown_trigger = count(configured.slowdown_trigger, default.slowdown_trigger.min(stop));
    IndexOptions {
        write_buffer_bytes: size(configured.write_buffer_bytes, default.write_buffer_bytes),
        cache_bytes: size(configured.cache_bytes, default.cache_bytes),
        block_bytes: size(configured.block_bytes, default.block_bytes),
        restart_interval: count(configured.restart_interval, default.restart_interval),
        compaction_trigger: count(configured.compaction_trigger, default.compaction_trigger),
        slowdown_trigger,
        stop_trigger: stop.max(slowdown_trigger),
        file_bytes: configured.file_bytes.map_or(default.file_bytes, u64::from),
    }
}

/// Says which signal came; `false` when signals cannot be waited for.
fn say_signal(signal: Result<std::io::Result<&'static str>, tokio::task::JoinError>) -> bool {
    match &signal {
        Ok(Ok(name)) => tracing::info!(signal = name, "got signal to exit."),
        Ok(Err(error)) => tracing::error!("cannot wait for signals: {error}"),
        Err(error) => tracing::error!("cannot wait for signals: {error}"),
    }
    matches!(signal, Ok(Ok(_)))
}

fn machine_config(
    config: &PumpSettings,
    node_id: NodeId,
    pd: &PdClient,
    identity: &DirIdentity,
    token: String,
    previous: Option<&NodeStatus>,
) -> anyhow::Result<PumpConfig> {
    let previous = previous.map(|status| status.state);
    // Whether the directory is new the machine finds out: a crash in the first start must not make it look old.
    let registered = previous.is_some_and(|state| state != NodeState::Offline);
    Ok(PumpConfig {
        node_id,
        advertise_addr: config.advertise_addr.clone(),
        cluster: pd.cluster_id(),
        node_uuid: identity.uuid,
        token,
        seed: random()?,
        segment_bytes: config.segment_bytes,
        max_batch_bytes: MAX_BATCH_BYTES,
        max_batch_records: MAX_BATCH_RECORDS,
        sync_log: config.sync_log,
        gc_hold_ttl_s: config.gc_hold_ttl_s,
        fake_interval_ms: config.fake_interval_ms,
        fake_on_demand_ms: config.fake_on_demand_ms,
        heartbeat_ms: config.heartbeat_ms,
        stop_write_at_available_space: config.stop_write_bytes,
        max_payload_bytes: usize::try_from(config.max_message_bytes)?,
        previous,
        wiped_directory_tso_needed: registered,
        stream_memory: StreamMemory::default(),
        gc: config.gc,
    })
}

fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|e| anyhow::anyhow!("no random numbers: {e}"))
}

async fn watch_space(dir: PathBuf, sender: Sender<Input, Request>) {
    let mut failed = false;
    loop {
        match look_at_space(&dir) {
            Ok(space) => {
                failed = false;
                sender.complete(space);
            }
            Err(error) if !failed => {
                failed = true;
                tracing::warn!("cannot read the free space of {}: {error}", dir.display());
            }
            Err(_) => {}
        }
        tokio::time::sleep(SPACE_INTERVAL).await;
    }
}

/// Of the directory and the log in it, which may be a mount of its own, the one with less space.
fn look_at_space(dir: &Path) -> std::io::Result<Input> {
    let whole = free_space(dir)?;
    // It is missing until the log is opened.
    let log = free_space(&dir.join("log")).ok().filter(|log| log.available < whole.available);
    let space = log.unwrap_or(whole);
    Ok(Input::Space { available: space.available, capacity: space.capacity })
}
