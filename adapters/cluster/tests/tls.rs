//! TLS between nodes and on a node's port: who gets in, what is said to the others, and replacing the files while it runs.

mod certificates;

use binlog_cluster::error::NodeError;
use binlog_cluster::pump_client::{PullOptions, PumpWriter, notify_drainer, open_with};
use binlog_cluster::pump_service::{self, PullItem, PumpEvent, PumpInbox};
use binlog_cluster::server::{self, Listeners};
use binlog_cluster::tls::Security;
use binlog_cluster::transport::UNLIMITED_MESSAGE;
use binlog_cluster::unix_socket::SocketListener;
use binlog_cluster::{cistern_service, transport};
use binlog_core::config::security::SecuritySettings;
use binlog_core::ids::{ClusterId, CommitTs};
use bytes::Bytes;
use certificates::{Authority, Leaf, NodeFiles};
use futures::StreamExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::service::Routes;

const CLUSTER: ClusterId = ClusterId::new(7);
const HOST: &[&str] = &["127.0.0.1", "localhost"];

/// A node on a free port that acknowledges every write and every Notify; its address.
async fn node(security: Security, unix: Option<SocketListener>) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let (pump, inbox) = pump_service::channel(1 << 20);
    let (cistern, mut notifies) = cistern_service::channel();
    let http = axum::Router::new().route("/status", axum::routing::get(|| async { "fine" }));
    let routes = Routes::new(pump.service(UNLIMITED_MESSAGE)).add_service(cistern.service());
    tokio::spawn(acknowledge(inbox));
    tokio::spawn(async move {
        while let Some(reply) = notifies.recv().await {
            let _ = reply.send(Ok(()));
        }
    });
    tokio::spawn(server::serve_on(Listeners { tcp, security, unix }, routes, http, std::future::pending()));
    address
}

async fn acknowledge(mut inbox: PumpInbox) {
    while let Some(event) = inbox.recv().await {
        match event {
            PumpEvent::Write { reply, .. } => drop(reply.send(Ok(()))),
            PumpEvent::PullOpen { items, .. } => {
                let payload = [Bytes::from_static(b"pay"), Bytes::from_static(b"load")];
                let _ = items.send(vec![PullItem { start_ts: 1, commit_ts: CommitTs::new(2), payload }]);
                items.end(Ok(()));
            }
            PumpEvent::PullCredit { .. } | PumpEvent::PullClosed { .. } => {}
        }
    }
}

fn load(settings: &SecuritySettings) -> Security {
    Security::load(Some(settings)).unwrap()
}

/// Only the CA: a client without a certificate.
fn anonymous(dir: &Path, ca: &str) -> Security {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("ca.pem");
    std::fs::write(&path, ca).unwrap();
    let settings = SecuritySettings { ca: path.display().to_string(), identity: None, allowed_cn: Vec::new() };
    load(&settings)
}

async fn write(address: &str, security: &Security) -> Result<(), NodeError> {
    let writer = PumpWriter::connect_with(address, security).await?;
    writer.write(CLUSTER, Bytes::new()).await
}

async fn refused(address: &str, security: &Security) -> String {
    write(address, security).await.unwrap_err().to_string()
}

/// Refused by the peer with this alert. It follows the handshake (TLS 1.3), and a call that begins after the connection was closed
/// reports only that: then once more.
async fn refused_with(address: &str, security: &Security, alert: &str) {
    for _ in 0..100 {
        let error = refused(address, security).await;
        if error.contains(alert) {
            return;
        }
        assert!(error.contains("connection closed"), "{error}, expected {alert}");
    }
    panic!("100 attempts did not show {alert}");
}

/// Sends `request` over a connection of our own with this ALPN; everything that comes back.
async fn raw_tls(address: &str, ca: &str, alpn: &[&[u8]], request: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).await.unwrap();
    answer.truncate(n);
    (answer, chosen)
}

#[tokio::test]
async fn all_clients_without_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let files = NodeFiles::new(&dir.path().join("pump"), &ca.pem(), &ca.leaf("pump", HOST));
    let address = node(load(&files.settings(&[])), None).await;
    let client = anonymous(&dir.path().join("client"), &ca.pem());
    write(&address, &client).await.unwrap();
    write(&format!("https://{address}/"), &client).await.unwrap();
    // Host names are verified too.
    write(&address.replace("127.0.0.1", "localhost"), &client).await.unwrap();
    notify_drainer(&address, &client).await.unwrap();
    for gzip in [false, true] {
        let options = PullOptions { gzip, security: client.clone(), ..PullOptions::default() };
        let mut stream = open_with(&address, CLUSTER, CommitTs::ZERO, options).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "payload");
        assert!(stream.next().await.is_none());
    }
    // In the clear nothing is sent, and TLS is not pretended.
    let e = refused(&format!("http://{address}"), &client).await;
    assert!(e.contains("TLS is on"), "{e}");
    let e = refused(&format!("https://{address}"), &Security::plaintext()).await;
    assert!(e.contains("set security.ssl-ca"), "{e}");
}

#[tokio::test]
async fn servers_that_cannot_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let client = anonymous(&dir.path().join("client"), &ca.pem());
    for (name, leaf, why) in [
        ("expired", ca.expired("pump", HOST), "expired"),
        ("stranger", other.leaf("pump", HOST), "UnknownIssuer"),
        ("elsewhere", ca.leaf("127.0.0.1", &["pump.example"]), "not valid for name"),
    ] {
        let files = NodeFiles::new(&dir.path().join(name), &ca.pem(), &leaf);
        let address = node(load(&files.settings(&[])), None).await;
        let e = refused(&address, &client).await;
        assert!(e.contains("TLS with 127.0.0.1: invalid peer certificate") && e.contains(why), "{name}: {e}");
    }
}

#[tokio::test]
async fn client_certificates_and_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let middle = ca.below("binlog-middle");
    let files = NodeFiles::new(&dir.path().join("pump"), &ca.pem(), &ca.leaf("pump", HOST));
    // Names of authorities are in the list: they must not count (trap T34).
    let allowed = ["binlog", "tidb.example", "ca", "binlog-middle"];
    let address = node(load(&files.settings(&allowed)), None).await;
    let client = |name: &str, leaf: &Leaf| load(&NodeFiles::new(&dir.path().join(name), &ca.pem(), leaf).settings(&[]));
    for (name, leaf) in [
        ("common", ca.leaf("binlog", &[])),
        ("alternative", ca.leaf("x", &["y", "tidb.example"])),
        ("below", middle.leaf("binlog", &[])),
    ] {
        let client = client(name, &leaf);
        write(&address, &client).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        notify_drainer(&address, &client).await.unwrap();
    }
    for (name, leaf, alert) in [
        ("name", ca.leaf("evil", &["evil.example"]), "CertificateUnknown"),
        ("authority's name", middle.leaf("evil", &[]), "CertificateUnknown"),
        ("expired", ca.expired("binlog", &[]), "CertificateExpired"),
        ("authority", other.leaf("binlog", &[]), "UnknownCA"),
    ] {
        refused_with(&address, &client(name, &leaf), alert).await;
    }
    refused_with(&address, &anonymous(&dir.path().join("none"), &ca.pem()), "CertificateRequired").await;
    // The port still works.
    write(&address, &client("again", &ca.leaf("binlog", &[]))).await.unwrap();
}

#[tokio::test]
async fn certificate_and_ca_are_replaced_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = NodeFiles::new(&dir.path().join("pump"), &old.pem(), &old.leaf("pump", HOST));
    let peer = NodeFiles::new(&dir.path().join("peer"), &old.pem(), &old.leaf("binlog", &[]));
    let address = node(load(&server.settings(&["binlog"])), None).await;
    // Loaded once, as a process does.
    let client = load(&peer.settings(&[]));
    let before = PumpWriter::connect_with(&address, &client).await.unwrap();
    before.write(CLUSTER, Bytes::new()).await.unwrap();

    // The certificate, in two steps: between them key and certificate do not fit, and the old pair stays.
    let leaf = new.leaf("pump", HOST);
    server.set_cert(&leaf.cert);
    write(&address, &client).await.unwrap();
    server.set_key(&leaf.key);
    let e = refused(&address, &client).await;
    assert!(e.contains("UnknownIssuer"), "the new certificate is in use: {e}");

    // The client's CA: first both, then the new one only; then its certificate, and the server's CA.
    peer.set_ca(&(old.pem() + &new.pem()));
    write(&address, &client).await.unwrap();
    peer.set_leaf(&new.leaf("binlog", &[]));
    // The server's CA is still the old one.
    refused_with(&address, &client, "UnknownCA").await;
    server.set_ca(&new.pem());
    peer.set_ca(&new.pem());
    write(&address, &client).await.unwrap();
    peer.set_leaf(&old.leaf("binlog", &[]));
    // What the old CA signed is refused at once.
    refused_with(&address, &client, "UnknownCA").await;

    // Broken, empty and absent files keep what was good.
    peer.set_leaf(&new.leaf("binlog", &[]));
    write(&address, &client).await.unwrap();
    for damage in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        server.set_ca(damage);
        server.set_cert(damage);
        peer.set_key(damage);
        write(&address, &client).await.unwrap_or_else(|e| panic!("{damage:?}: {e}"));
    }
    std::fs::remove_file(server.path("ca.pem")).unwrap();
    write(&address, &client).await.unwrap();
    // A connection outlives all of it.
    before.write(CLUSTER, Bytes::new()).await.unwrap();
}

#[test]
fn bad_files_name_key_and_path() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let (leaf, another) = (ca.leaf("x", &[]), ca.leaf("y", &[]));
    let files = NodeFiles::new(dir.path(), &ca.pem(), &leaf);
    let error = || Security::load(Some(&files.settings(&["x"]))).unwrap_err().to_string();
    files.set_ca("nothing");
    assert!(error().starts_with("security.ssl-ca: failed to append ca certs: "), "{}", error());
    std::fs::remove_file(files.path("ca.pem")).unwrap();
    let want = format!("security.ssl-ca: could not read ca certificate: {}: ", files.path("ca.pem"));
    assert!(error().starts_with(&want), "{}", error());
    files.set_ca(&ca.pem());
    files.set_key(&another.key);
    assert!(error().contains("could not load client key pair: "), "{}", error());
    for (damage, key, path) in [("cert", "security.ssl-cert", "cert.pem"), ("key", "security.ssl-key", "key.pem")] {
        files.set_leaf(&leaf);
        if damage == "cert" {
            files.set_cert("")
        } else {
            files.set_key("")
        }
        let want = format!("{key}: could not load client key pair: {}: ", files.path(path));
        assert!(error().starts_with(&want), "{}", error());
        std::fs::remove_file(files.path(path)).unwrap();
        assert!(error().starts_with(&want), "{}", error());
    }
    files.set_leaf(&leaf);
    assert!(Security::load(Some(&files.settings(&["x"]))).unwrap().is_tls());
}

#[tokio::test]
async fn http1_and_clients_without_alpn() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let files = NodeFiles::new(dir.path(), &ca.pem(), &ca.leaf("pump", HOST));
    let address = node(load(&files.settings(&[])), None).await;
    let get = b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let http2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let http1: &[u8] = b"http/1.1";
    for (alpn, chosen) in
        [(vec![], None), (vec![http1], Some(http1)), (vec![b"h2".as_slice(), http1], Some(b"h2".as_slice()))]
    {
        // What is spoken counts, not what was agreed.
        let (answer, got) = raw_tls(&address, &ca.pem(), &alpn, get).await;
        assert_eq!(got.as_deref(), chosen);
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("fine"), "{text}");
        let (answer, _) = raw_tls(&address, &ca.pem(), &alpn, http2).await;
        assert_eq!(answer.get(3), Some(&4), "the server's SETTINGS: {answer:?}");
    }
}

#[tokio::test]
async fn plaintext_clients_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let files = NodeFiles::new(dir.path(), &ca.pem(), &ca.leaf("pump", HOST));
    let address = node(load(&files.settings(&["pump"])), None).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("this port speaks TLS"), "{answer}");

    refused_with(&address, &Security::plaintext(), "this port speaks TLS").await;
    // Other noise, and silence, only end.
    for noise in [&b"\0\0\0"[..], b""] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "{answer:?}");
    }
    let peer = load(&files.settings(&[]));
    write(&address, &peer).await.unwrap();
}

#[tokio::test]
async fn a_tls_client_at_a_plain_port_fails() {
    let dir = tempfile::tempdir().unwrap();
    let client = anonymous(dir.path(), &Authority::new("ca").pem());
    let address = node(Security::plaintext(), None).await;
    let e = refused(&address, &client).await;
    assert!(e.contains("TLS with 127.0.0.1"), "{e}");
}

#[tokio::test]
async fn the_unix_socket_serves_grpc_and_http() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pump.sock");
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let unix = SocketListener::bind(path.to_str().unwrap()).await.unwrap();
    let ca = Authority::new("ca");
    let files = NodeFiles::new(&dir.path().join("pump"), &ca.pem(), &ca.leaf("pump", HOST));
    let address = node(load(&files.settings(&["pump"])), Some(unix)).await;

    let socket = format!("unix://{}", path.display());
    write(&socket, &Security::plaintext()).await.unwrap();
    // A process with TLS does not speak it there.
    let security = load(&files.settings(&[]));
    write(&socket, &security).await.unwrap();
    write(&address, &security).await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("fine"), "{answer}");

    let second = SocketListener::bind(path.to_str().unwrap()).await.err().unwrap().to_string();
    assert!(second.contains("another process listens on it"), "{second}");
    assert!(transport::endpoint(&socket, &security).is_ok());
}
