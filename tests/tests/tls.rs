//! A whole cluster that speaks TLS only, with client certificates everywhere: PD (and its etcd), TiKV, Pumps, a Drainer, its downstream,
//! and TiDB on the Pump's port and on its unix socket.

#[path = "../../adapters/cluster/tests/certificates/mod.rs"]
mod certificates;
mod pump_common;

use binlog_cluster::pump_client::PumpWriter;
use binlog_cluster::registry::Registry;
use binlog_cluster::tls::Security;
use binlog_core::ids::ClusterId;
use binlog_core::node::status::NodeState;
use binlog_standin::{Options, Standin};
use binlog_tests::capture::Capture;
use binlog_tests::compare_tables;
use binlog_tests::expected::captures;
use binlog_tests::feed;
use binlog_tests::harness::{MariaDb, Process, WorkDir, binary, drainer_config, free_port, http_get, tail};
use certificates::{Authority, NodeFiles};
use mysql_async::prelude::Queryable;
use pump_common::{CONFIG, Node, PATIENCE, POLL};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const HOST: &[&str] = &["127.0.0.1"];
/// Who may call a Pump.
const ALLOWED: &[&str] = &["binlog", " tidb "];

/// A MariaDB whose account `drainer` comes with a certificate; the harness's own comes in the clear.
async fn downstream(work: &Path, files: &NodeFiles) -> MariaDb {
    let flags = [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")]
        .map(|(flag, file)| format!("--ssl-{flag}={}", files.path(file)));
    let mariadb = MariaDb::start_with(work, &flags).await.unwrap();
    let mut conn = mariadb.connect().await.unwrap();
    conn.query_drop("CREATE USER 'drainer'@'127.0.0.1' IDENTIFIED BY 'drainer' REQUIRE SUBJECT '/CN=to-mysql'")
        .await
        .unwrap();
    conn.query_drop("GRANT ALL ON *.* TO 'drainer'@'127.0.0.1'").await.unwrap();
    conn.disconnect().await.unwrap();
    mariadb
}

/// A Drainer with TLS on both sides; the harness's own asks for its status in the clear.
fn drainer(
    work: &Path,
    standin: &Standin,
    recorded: &str,
    mariadb: &MariaDb,
    security: &str,
    to: &NodeFiles,
) -> Process {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let config = drainer_config(recorded, &address, &standin.shared.pd_url, &work.join("drainer.data"), mariadb.port);
    let mut config: toml::Table = toml::from_str(&config.unwrap()).unwrap();
    let downstream = config["syncer"]["to"].as_table_mut().unwrap();
    for key in ["user", "password"] {
        downstream.insert(key.to_owned(), "drainer".into());
    }
    let files = [("ssl-ca", "ca.pem"), ("ssl-cert", "cert.pem"), ("ssl-key", "key.pem")];
    let files: toml::Table = files.iter().map(|(key, file)| ((*key).to_owned(), to.path(file).into())).collect();
    downstream.insert("security".to_owned(), files.into());
    fs::write(work.join("drainer.toml"), toml::to_string(&config).unwrap() + "\n" + security).unwrap();
    let mut command = Command::new(binary("drainer").unwrap());
    command.args(["-node-id", "drainer-mysql", "-initial-commit-ts", "0", "-config"]).arg(work.join("drainer.toml"));
    command.arg("-log-file").arg(work.join("drainer.log"));
    let process = Process::start("drainer", &mut command, &work.join("drainer.out")).unwrap();
    process.with_log(&work.join("drainer.log"))
}

async fn online(registry: &Registry, node: &mut Node) {
    let id = node.node_id.clone();
    let probe = async || {
        let pumps = registry.list_pumps().await.unwrap_or_default();
        pumps.iter().any(|p| p.node_id == id && p.state == NodeState::Online)
    };
    node.process.as_mut().unwrap().wait_until("is online in the registry", PATIENCE, probe).await.unwrap();
}

async fn checkpoint(mariadb: &MariaDb) -> u64 {
    let mut conn = mariadb.connect().await.unwrap();
    let text: Option<Option<String>> = conn.query_first("SELECT checkPoint FROM tidb_binlog.checkpoint").await.ok();
    conn.disconnect().await.unwrap();
    let row: serde_json::Value = text.flatten().map(|t| serde_json::from_str(&t).unwrap()).unwrap_or_default();
    row["commitTS"].as_u64().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_goes_through_a_cluster_with_tls_everywhere() {
    let work = WorkDir::new("tls").unwrap();
    let ca = Authority::new("the cluster's CA");
    let files = |name: &str, cn: &str| NodeFiles::new(&work.path().join(name), &ca.pem(), &ca.leaf(cn, HOST));
    let load = |files: &NodeFiles, allowed: &[&str]| Security::load(Some(&files.settings(allowed))).unwrap();

    let security = load(&files("pd.tls", "pd"), &["binlog"]);
    let etcd = Some(work.path().join("etcd"));
    let standin = Standin::start(Options { work_dir: etcd, security, ..Options::default() }).await.unwrap();
    assert!(standin.shared.pd_url.starts_with("https://"));
    let capture = Capture::open(&captures().join("small")).unwrap();
    standin.shared.load_capture(&capture).unwrap();
    standin.shared.tso().start().unwrap();

    let pump_files = files("pump.tls", "binlog");
    let mut pump =
        Node::new(work.path(), "pump1", &standin.shared.pd_url, &(CONFIG.to_owned() + &pump_files.toml(ALLOWED)));
    let socket = work.path().join("pump.sock");
    // A Pump that was killed left it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    pump.set("-socket", &format!("unix://{}", socket.display()));
    pump.spawn();
    let operator = load(&files("operator.tls", "binlog"), &[]);
    let registry = Registry::with_security(std::slice::from_ref(&standin.shared.pd_url), &operator).unwrap();
    online(&registry, &mut pump).await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    // Who may not: a stranger's name, and who speaks in the clear. The log says who and why.
    let id = ClusterId::new(standin.shared.cluster_id());
    let stranger = load(&files("stranger.tls", "stranger"), &[]);
    let refused = match PumpWriter::connect_with(&pump.address, &stranger).await {
        Ok(writer) => writer.write(id, bytes::Bytes::new()).await,
        Err(error) => Err(error),
    };
    assert!(refused.is_err());
    pump.says(
        "client certificate authentication failed. The Common Name from the client certificate [stranger 127.0.0.1]",
    )
    .await;
    assert_eq!(pump.lines("WARN", "TLS handshake with 127.0.0.1:").len(), 1);
    let plain = http_get(&pump.address, "/status").await.unwrap_err();
    assert!(format!("{plain:#}").contains("this port speaks TLS"), "{plain:#}");

    // TiDB: every other record over the unix socket.
    let tidb = load(&files("tidb.tls", "tidb"), &[]);
    let over_tls = PumpWriter::connect_with(&pump.address, &tidb).await.unwrap();
    let over_socket = PumpWriter::connect(&format!("unix://{}", socket.display())).await.unwrap();
    standin.shared.tso().outage();
    for (n, record) in feed::plan(&capture, 1).remove(0).into_iter().enumerate() {
        let writer = if n % 2 == 0 { &over_tls } else { &over_socket };
        writer.write(id, record.payload).await.unwrap();
    }
    standin.shared.tso().resume();

    // The downstream has an authority of its own.
    let its = Authority::new("the downstream's CA");
    let its_files = |name: &str, cn: &str| NodeFiles::new(&work.path().join(name), &its.pem(), &its.leaf(cn, HOST));
    let mariadb = downstream(work.path(), &its_files("mariadb.tls", "mariadb")).await;
    let drainer_files = files("drainer.tls", "binlog");
    let (recorded, to) = (&capture.facts.drainer_config_mysql, its_files("to.tls", "to-mysql"));
    let mut drainer = drainer(work.path(), &standin, recorded, &mariadb, &drainer_files.toml(&["binlog"]), &to);
    let log = work.path().join("drainer.log");
    let deadline = Instant::now() + PATIENCE;
    while checkpoint(&mariadb).await < capture.largest_commit_ts() {
        drainer.check().unwrap();
        assert!(Instant::now() < deadline, "the end is not reached\n{}", tail(&log));
        tokio::time::sleep(POLL).await;
    }
    let mut conn = mariadb.connect().await.unwrap();
    let report = compare_tables::compare(&mut conn, &capture.dir, &[]).await.unwrap();
    conn.disconnect().await.unwrap();
    assert!(report.tables > 0 && report.differences.is_empty(), "{:#?}", report.lines());

    // All certificates are replaced by another CA's while everything runs: a second Pump, which tells the Drainer, comes up.
    let next = Authority::new("the cluster's next CA");
    let both = ca.pem() + &next.pem();
    for name in ["pd.tls", "pump.tls", "drainer.tls", "operator.tls"] {
        fs::write(work.path().join(name).join("ca.pem"), &both).unwrap();
    }
    for (name, cn) in [("pd.tls", "pd"), ("pump.tls", "binlog"), ("drainer.tls", "binlog")] {
        NodeFiles::new(&work.path().join(name), &both, &next.leaf(cn, HOST));
    }
    let second_files = NodeFiles::new(&work.path().join("second.tls"), &both, &next.leaf("binlog", HOST));
    let config = CONFIG.to_owned() + &second_files.toml(ALLOWED);
    let mut second = Node::new(work.path(), "pump2", &standin.shared.pd_url, &config);
    second.spawn();
    online(&registry, &mut second).await;
    assert_eq!(second.lines("INFO", "notified").len(), 1, "the Drainer was told over TLS");

    for node in [&mut pump, &mut second] {
        assert_eq!(node.terminate().await.code(), Some(0));
        assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    }
    assert!(!socket.exists(), "the socket goes with its Pump");
    let log = fs::read_to_string(&log).unwrap();
    assert!(!log.contains("[ERROR]"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_at_start() {
    let work = WorkDir::new("tls-start").unwrap();
    let ca = Authority::new("ca");
    let files = NodeFiles::new(&work.path().join("tls"), &ca.pem(), &ca.leaf("binlog", HOST));
    let broken = NodeFiles::new(&work.path().join("broken"), "no certificate", &ca.leaf("binlog", HOST));
    fs::remove_file(files.path("key.pem").replace("tls/key.pem", "broken/key.pem")).unwrap();
    let taken = work.path().join("taken.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&taken).unwrap();
    let in_use = format!("socket = \"unix://{}\"\n{CONFIG}", taken.display());
    for (pd_url, config, want) in [
        ("https://127.0.0.1:1", CONFIG.to_owned(), "https needs TLS; set security.ssl-ca"),
        ("http://127.0.0.1:1", files.toml(&[]), "with security.ssl-ca set it must be https"),
        ("https://127.0.0.1:1", broken.toml(&[]), "security.ssl-key: could not load client key pair: "),
        ("https://127.0.0.1:1", "[security]\nssl-ca = \"x\"\n".to_owned(), "security.ssl-cert is not set"),
        ("http://127.0.0.1:1", in_use, "another process listens on it"),
        ("http://127.0.0.1:1", format!("socket = \"unix://pump.sock\"\n{CONFIG}"), "bad Socket addr format"),
    ] {
        let mut node = Node::new(work.path(), "pump", pd_url, &config);
        node.spawn();
        let (code, said) = node.ends().await;
        // Where everything is right but nobody can be served, the original's other code.
        let wanted = if want.contains("listens on it") { 2 } else { 1 };
        assert_eq!(code, Some(wanted), "{said}");
        assert!(said.contains(want), "{want}: {said}");
        let _ = fs::remove_file(&node.log);
    }
}
