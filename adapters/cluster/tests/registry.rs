//! The registry against a real etcd process, killed and started again.

use binlog_cluster::error::RegistryError;
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::fault::IoFault;
use binlog_core::node::status::{NodeState, NodeStatus};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Etcd {
    process: Option<Child>,
    folder: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
}

impl Etcd {
    fn start() -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut etcd =
            Self { process: None, folder: tempfile::tempdir().unwrap(), client_port: port(), peer_port: port() };
        etcd.run();
        etcd
    }

    fn run(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let process = Command::new("etcd")
            .args(["--name", "n", "--log-level", "error", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("n={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match process {
            Ok(process) => self.process = Some(process),
            Err(e) => panic!("this test needs etcd, and it cannot be started ({e}): apt-get install etcd-server"),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits until it serves; generous, machines are busy.
    async fn ready(&self, registry: &Registry) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(e) = registry.list_pumps().await {
            assert!(Instant::now() < deadline, "etcd does not come up: {e}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.url()], None).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn status(id: &str, state: NodeState, max_commit_ts: i64) -> NodeStatus {
    NodeStatus {
        node_id: id.to_owned(),
        host: "10.0.0.1:8250".to_owned(),
        state,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts,
        update_ts: 412_518_831_338_292_471,
        token: None,
    }
}

#[tokio::test]
async fn entries_and_a_server_that_goes_and_comes_back() {
    let mut etcd = Etcd::start();
    let registry = Registry::new(&["127.0.0.1:1".to_owned(), etcd.url()]).unwrap();
    etcd.ready(&registry).await;
    assert!(registry.list_pumps().await.unwrap().is_empty());
    assert_eq!(registry.get(NodeKind::Pump, "p1").await.unwrap(), None);

    let p1 = status("p1", NodeState::Paused, 1);
    let d1 = status("d1", NodeState::Online, 412_518_831_548_007_863);
    registry.put(NodeKind::Pump, &p1).await.unwrap();
    registry.put(NodeKind::Drainer, &d1).await.unwrap();
    let p1 = status("p1", NodeState::Online, 2);
    registry.put(NodeKind::Pump, &p1).await.unwrap();
    let p0 = NodeStatus { token: Some("t".to_owned()), ..status("p0", NodeState::Offline, 3) };
    registry.put(NodeKind::Pump, &p0).await.unwrap();
    assert_eq!(registry.list_pumps().await.unwrap(), [p0.clone(), p1.clone()]);
    assert_eq!(registry.list_drainers().await.unwrap(), std::slice::from_ref(&d1));
    assert_eq!(registry.get(NodeKind::Pump, "p1").await.unwrap(), Some(p1.clone()));
    assert!(matches!(registry.get(NodeKind::Pump, "a/b").await, Err(RegistryError::BadNodeId(_))));

    // The bytes that a TiDB or a binlogctl reads.
    let mut raw = etcd.raw().await;
    let reply = raw.get("/tidb-binlog/v1/drainers/d1", None).await.unwrap();
    assert_eq!(
        reply.kvs()[0].value_str().unwrap(),
        r#"{"nodeId":"d1","host":"10.0.0.1:8250","state":"online","isAlive":false,"score":0,"label":null,"maxCommitTS":412518831548007863,"updateTS":412518831338292471}"#
    );
    // A sibling of the prefix is not listed; an entry of another version is, whatever else it holds.
    raw.put("/tidb-binlog/v1/pumpsibling", "x", None).await.unwrap();
    raw.put("/tidb-binlog/v1/pumps/p2", r#"{"nodeId":"p2","state":"closing","new":{}}"#, None).await.unwrap();
    let pumps = registry.list_pumps().await.unwrap();
    assert_eq!(pumps.len(), 3);
    assert_eq!((pumps[2].node_id.as_str(), pumps[2].state, pumps[2].max_commit_ts), ("p2", NodeState::Closing, 0));

    // One value that is no status fails the listing and is named.
    raw.put("/tidb-binlog/v1/pumps/broken", "{", None).await.unwrap();
    let e = registry.list_pumps().await.unwrap_err();
    assert!(e.to_string().contains("/tidb-binlog/v1/pumps/broken"), "{e}");
    assert!(matches!(IoFault::from(e), IoFault::Other(_)));
    raw.delete("/tidb-binlog/v1/pumps/broken", None).await.unwrap();

    // Away: an error within the deadline. Back, with its data: served over the same registry.
    etcd.kill();
    let asked = Instant::now();
    let e = registry.list_pumps().await.unwrap_err();
    assert!(matches!(IoFault::from(e), IoFault::Unavailable(_)));
    assert!(asked.elapsed() < Duration::from_secs(30), "the deadline of 5 s was not kept");
    let e = registry.put(NodeKind::Pump, &p1).await.unwrap_err();
    assert!(matches!(IoFault::from(e), IoFault::Unavailable(_)));
    etcd.run();
    etcd.ready(&registry).await;
    assert_eq!(registry.list_pumps().await.unwrap().len(), 3);
    registry.put(NodeKind::Pump, &status("p1", NodeState::Paused, 9)).await.unwrap();
    assert_eq!(registry.get(NodeKind::Pump, "p1").await.unwrap().unwrap().max_commit_ts, 9);
}

#[tokio::test]
async fn the_members_addresses_replace_the_configured_ones() {
    let etcd = Etcd::start();
    // What is configured is an address that forwards to the server, as a name would, and that goes away later.
    let forward = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let configured = format!("http://{}", forward.local_addr().unwrap());
    let target = ("127.0.0.1", etcd.client_port);
    let forwarder = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut from, _)) = forward.accept().await {
            connections.spawn(async move {
                if let Ok(mut to) = tokio::net::TcpStream::connect(target).await {
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    let registry = Registry::new(&[configured]).unwrap();
    etcd.ready(&registry).await;
    registry.refresh_members().await.unwrap();
    forwarder.abort();
    let _ = forwarder.await;
    registry.put(NodeKind::Pump, &status("p1", NodeState::Online, 1)).await.unwrap();
    assert_eq!(registry.list_pumps().await.unwrap().len(), 1);
}

#[tokio::test]
async fn nobody_there() {
    let registry = Registry::new(&["http://127.0.0.1:1".to_owned()]).unwrap();
    let e = registry.list_pumps().await.unwrap_err();
    assert!(matches!(e, RegistryError::Etcd(_) | RegistryError::Timeout { .. }), "{e:?}");
    assert!(Registry::new(&[]).is_err());
    assert!(Registry::new(&["https://pd:2379".to_owned()]).is_err());
}

/// Trap T10: the entry of a node carries its token; whoever finds another's does not write.
#[tokio::test]
async fn an_entry_that_another_process_wrote_is_left_alone() {
    let etcd = Etcd::start();
    let registry = Registry::new(&[etcd.url()]).unwrap();
    etcd.ready(&registry).await;
    let entry = |token: Option<&str>, max| NodeStatus {
        token: token.map(ToOwned::to_owned),
        ..status("pump-1", NodeState::Online, max)
    };
    let (mine, kind) = (entry(Some("me-2"), 5), NodeKind::Pump);
    let token = async || registry.get(kind, "pump-1").await.unwrap().and_then(|entry| entry.token);
    // Nothing there, our own, one without a token (the original's, or rewritten by a tool).
    registry.put_own(kind, &mine, None).await.unwrap();
    registry.put_own(kind, &mine, None).await.unwrap();
    registry.put(kind, &entry(None, 1)).await.unwrap();
    registry.put_own(kind, &mine, None).await.unwrap();
    assert_eq!(token().await.as_deref(), Some("me-2"));
    // Another's: also an earlier life of the same directory, unless it is the one that is taken over.
    for theirs in ["you-1", "me-1"] {
        registry.put(kind, &entry(Some(theirs), 1)).await.unwrap();
        for over in [None, Some("them-3")] {
            let error = registry.put_own(kind, &mine, over).await.unwrap_err();
            assert!(matches!(&error, RegistryError::Claimed { host, .. } if host == "10.0.0.1:8250"), "{error}");
            assert!(matches!(IoFault::from(error), IoFault::Claimed(text) if text.contains("10.0.0.1:8250")));
            assert_eq!(token().await.as_deref(), Some(theirs));
        }
        registry.put_own(kind, &mine, Some(theirs)).await.unwrap();
        assert_eq!(token().await.as_deref(), Some("me-2"));
    }
    // What nobody can read is replaced: it stops every TiDB.
    etcd.raw().await.put("/tidb-binlog/v1/pumps/pump-1", "{", None).await.unwrap();
    registry.put_own(kind, &mine, None).await.unwrap();
    assert_eq!(token().await.as_deref(), Some("me-2"));
}
