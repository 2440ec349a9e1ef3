//! The client against servers that speak the Pump's protocol and a real registry.

use binlog_cluster::generated::binlog::pump_server::{Pump, PumpServer};
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::ids::{ClusterId, StartTs};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::proto::binlog::{PullBinlogReq, PullBinlogResp, WriteBinlogReq, WriteBinlogResp};
use binlog_pump_client::{ConnectError, Finished, Options, PumpClient, Strategy, WriteError};
use binlog_standin::Standin;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A server whose answers a test decides.
#[derive(Clone, Default)]
struct FakePump {
    got: Arc<Mutex<Vec<Bytes>>>,
    /// How many calls are refused yet, and with what.
    refusals: Arc<Mutex<(usize, Option<Status>)>>,
    connections: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl Pump for FakePump {
    async fn write_binlog(&self, request: Request<WriteBinlogReq>) -> Result<Response<WriteBinlogResp>, Status> {
        {
            let mut refusals = self.refusals.lock().unwrap();
            if refusals.0 > 0 {
                refusals.0 -= 1;
                return Err(refusals.1.clone().unwrap_or_else(|| Status::unknown("no online: paused")));
            }
        }
        self.got.lock().unwrap().push(request.into_inner().payload);
        Ok(Response::new(WriteBinlogResp::default()))
    }

    type PullBinlogsStream = BoxStream<'static, Result<PullBinlogResp, Status>>;

    async fn pull_binlogs(&self, _: Request<PullBinlogReq>) -> Result<Response<Self::PullBinlogsStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }
}

impl FakePump {
    async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(PumpServer::new(self.clone()));
        let counted = Arc::clone(&self.connections);
        let incoming = TcpListenerStream::new(listener).inspect(move |_| *counted.lock().unwrap() += 1);
        tokio::spawn(server.serve_with_incoming(incoming));
        address
    }

    fn refuse(&self, calls: usize, with: Status) {
        *self.refusals.lock().unwrap() = (calls, Some(with));
    }

    fn got(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

struct World {
    standin: Standin,
    registry: Registry,
}

impl World {
    async fn new() -> Self {
        let standin = Standin::start(binlog_standin::Options::default()).await.unwrap();
        let registry = Registry::new(std::slice::from_ref(&standin.shared.pd_url)).unwrap();
        Self { standin, registry }
    }

    async fn register(&self, id: &str, host: &str, state: NodeState) {
        let text = format!(r#"{{"nodeId":"{id}","host":"{host}","state":"{state}"}}"#);
        let status: NodeStatus = serde_json::from_str(&text).unwrap();
        self.registry.put(NodeKind::Pump, &status).await.unwrap();
    }

    async fn client(&self) -> Result<PumpClient, ConnectError> {
        PumpClient::connect(Options::new([self.standin.shared.pd_url.clone()])).await
    }
}

fn ts(raw: u64) -> StartTs {
    StartTs::new(raw)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn prewrites_take_turns_and_each_commit_follows_its_prewrite() {
    let world = World::new().await;
    assert!(matches!(world.client().await, Err(ConnectError::NoPump)), "as TiDB, which does not start then");
    let (a, b) = (FakePump::default(), FakePump::default());
    world.register("a", &a.listen().await.to_string(), NodeState::Online).await;
    world.register("b", &b.listen().await.to_string(), NodeState::Online).await;
    let client = world.client().await.unwrap();
    assert_eq!(client.cluster_id(), ClusterId::new(world.standin.shared.cluster_id()));
    for n in 1..=10 {
        let at = client.prewrite_payload(ts(n), Bytes::from_static(b"p")).await.unwrap();
        let followed = client.finish_payload(ts(n), Bytes::from_static(b"c")).await;
        assert_eq!(followed, Finished::Stored(at));
    }
    assert_eq!((a.got(), b.got()), (10, 10), "half of the P and their C each");
    let unknown = client.finish_payload(ts(99), Bytes::from_static(b"c")).await;
    assert_eq!(unknown, Finished::GivenUp(WriteError::NoPrewrite(ts(99))));
}

#[tokio::test]
async fn the_registry_is_followed() {
    let world = World::new().await;
    let (a, b) = (FakePump::default(), FakePump::default());
    let (at_a, at_b) = (a.listen().await.to_string(), b.listen().await.to_string());
    world.register("a", &at_a, NodeState::Online).await;
    let client = world.client().await.unwrap();
    world.register("b", &at_b, NodeState::Online).await;
    world.register("a", &at_a, NodeState::Paused).await;
    let seen = || client.pumps().iter().map(|p| (p.node_id.clone(), p.available)).collect::<Vec<_>>();
    until("b instead of a", || seen() == [("a".to_owned(), false), ("b".to_owned(), true)]).await;
    client.prewrite_payload(ts(1), Bytes::from_static(b"p")).await.unwrap();
    assert_eq!((a.got(), b.got()), (0, 1));
}

#[tokio::test]
async fn a_refusal_moves_to_the_next_pump_and_what_is_too_large_fails_at_once() {
    let world = World::new().await;
    let (a, b) = (FakePump::default(), FakePump::default());
    world.register("a", &a.listen().await.to_string(), NodeState::Online).await;
    world.register("b", &b.listen().await.to_string(), NodeState::Online).await;
    let client = world.client().await.unwrap();
    a.refuse(1_000, Status::unknown("no available space"));
    for n in 1..=4 {
        assert_eq!(client.prewrite_payload(ts(n), Bytes::from_static(b"p")).await.as_deref(), Ok("b"));
    }
    a.refuse(1_000, Status::resource_exhausted("grpc: received message larger than max (9 vs. 8)"));
    b.refuse(1_000, Status::resource_exhausted("grpc: received message larger than max (9 vs. 8)"));
    let error = client.prewrite_payload(ts(9), Bytes::from_static(b"p")).await.unwrap_err();
    assert!(matches!(&error, WriteError::TooLarge(text) if text.contains("message larger than max")), "{error}");
}

#[tokio::test]
async fn a_pump_that_is_gone_is_passed_over() {
    let world = World::new().await;
    let b = FakePump::default();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    world.register("a", &address, NodeState::Online).await;
    world.register("b", &b.listen().await.to_string(), NodeState::Online).await;
    let client = world.client().await.unwrap();
    for n in 1..=3 {
        assert_eq!(client.prewrite_payload(ts(n), Bytes::from_static(b"p")).await.as_deref(), Ok("b"));
    }
    let a = client.pumps().into_iter().find(|p| p.node_id == "a").unwrap();
    assert!(a.errors > 0, "{a:?}");
}

#[tokio::test]
async fn writes_that_begin_together_share_a_connection() {
    let world = World::new().await;
    let pump = FakePump::default();
    world.register("a", &pump.listen().await.to_string(), NodeState::Online).await;
    let client = world.client().await.unwrap();
    let writes = (1..=50).map(|n| client.prewrite_payload(ts(n), Bytes::from_static(b"p")));
    assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok));
    assert_eq!((pump.got(), *pump.connections.lock().unwrap()), (50, 1));
}

#[tokio::test]
async fn a_silent_pump_costs_the_write_timeout() {
    let world = World::new().await;
    // The kernel accepts, nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.register("a", &silent.local_addr().unwrap().to_string(), NodeState::Online).await;
    let limit = Duration::from_millis(50);
    let options = Options { write_timeout: limit, ..Options::new([world.standin.shared.pd_url.clone()]) };
    let client = PumpClient::connect(options).await.unwrap();
    let error = client.prewrite_payload(ts(1), Bytes::from_static(b"p")).await.unwrap_err().to_string();
    assert!(
        error.starts_with("write binlog failed, the last error pump a at ") && error.contains("within 50 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn a_local_socket_needs_no_registry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pump.sock");
    let pump = FakePump::default();
    let server = Server::builder().add_service(PumpServer::new(pump.clone()));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(UnixListener::bind(&path).unwrap())));
    // Either spelling; TiDB's `binlog-socket` is the path.
    for (n, socket) in [format!("unix://{}", path.display()), path.display().to_string()].iter().enumerate() {
        let client = PumpClient::local(socket, ClusterId::new(7), Duration::from_secs(15));
        assert_eq!(client.prewrite_payload(ts(1), Bytes::from_static(b"p")).await.as_deref(), Ok("localPump"));
        assert_eq!(pump.got(), n + 1);
    }
    let options = Options { strategy: Strategy::LocalSocket, ..Options::new(["127.0.0.1:1"]) };
    assert!(matches!(PumpClient::connect(options).await, Err(ConnectError::NoSocket)));
}
