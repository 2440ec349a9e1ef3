//! The services of Pump and Drainer over a real port, together with HTTP: our clients, and what is on the wire.

use binlog_cluster::cistern_service;
use binlog_cluster::error::NodeError;
use binlog_cluster::generated::binlog::cistern_client::CisternClient;
use binlog_cluster::generated::binlog::pump_client::PumpClient;
use binlog_cluster::pump_client::{PullOptions, PumpWriter, notify_drainer, open, open_with};
use binlog_cluster::pump_service::{self, PullItem, PumpEvent, PumpInbox};
use binlog_cluster::server::{self, Grpc};
use binlog_cluster::tls::Security;
use binlog_cluster::transport::UNLIMITED_MESSAGE;
use binlog_cluster::write_call::WriteCalls;
use binlog_core::fault::Reject;
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::{DumpBinlogReq, DumpDdlJobsReq, NotifyReq, Pos, PullBinlogReq, WriteBinlogReq};
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

const CLUSTER: ClusterId = ClusterId::new(7);

struct Node {
    address: String,
    inbox: PumpInbox,
    notifies: mpsc::Receiver<cistern_service::Notify>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn node(limit: usize, credit: u64) -> Node {
    node_with(limit, credit, true).await
}

/// `direct`: plain WriteBinlog calls go past the routes, as in a Pump.
async fn node_with(limit: usize, credit: u64, direct: bool) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (pump, inbox) = pump_service::channel(credit);
    let (cistern, notifies) = cistern_service::channel();
    let http = axum::Router::new().route("/status", axum::routing::get(|| async { "fine" }));
    let (stop, stopped) = oneshot::channel();
    let writes = direct.then(|| WriteCalls::new(pump.clone(), limit));
    let routes = Routes::new(pump.service(limit)).add_service(cistern.service());
    let served = tokio::spawn(server::serve(listener, Grpc { routes, writes }, http, async {
        let _ = stopped.await;
    }));
    Node { address, inbox, notifies, stop, served }
}

/// Acknowledges every write of the cluster, and says how long each payload was.
fn acknowledge(mut inbox: PumpInbox) -> mpsc::UnboundedReceiver<usize> {
    let (lengths, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = inbox.recv().await {
            if let PumpEvent::Write { cluster_id, payload, reply } = event {
                let _ = lengths.send(payload.len());
                let own = CLUSTER.raw();
                let result =
                    if cluster_id == own { Ok(()) } else { Err(Reject::ClusterMismatch { got: cluster_id, own }) };
                let _ = reply.send(result);
            }
        }
    });
    received
}

fn code_and_text(e: NodeError) -> (Code, String) {
    match e {
        NodeError::Rpc { code, message, .. } => (code, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writes() {
    for direct in [true, false] {
        let node = node_with(UNLIMITED_MESSAGE, 1000, direct).await;
        let mut lengths = acknowledge(node.inbox);
        let writer = PumpWriter::connect(&node.address).await.unwrap();
        writer.write(CLUSTER, Bytes::new()).await.unwrap();
        assert_eq!(lengths.recv().await, Some(0));
        // Far above tonic's own default of 4 MiB.
        writer.write(CLUSTER, Bytes::from(vec![7; 20 << 20])).await.unwrap();
        assert_eq!(lengths.recv().await, Some(20 << 20));
        // A refusal is UNKNOWN with the text that peers match on.
        let e = writer.write(ClusterId::new(8), Bytes::new()).await.unwrap_err();
        assert_eq!(code_and_text(e), (Code::Unknown, "cluster ID are mismatch, 8 vs 7".to_owned()));
        // What does not decode says the same on both ways, and so does a reply on the wire.
        let reply = raw_call(&node.address, &[0, 0, 0, 0, 2, 0x0f, 0x0f]).await;
        assert_eq!(reply.code(), Code::Internal);
        assert_eq!(reply.message(), "failed to decode Protobuf message: invalid wire type value: 7");
    }
}

/// A WriteBinlog call with this body, prefix and all.
async fn raw_call(address: &str, body: &'static [u8]) -> tonic::Status {
    let stream = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/binlog.Pump/WriteBinlog"))
        .header("content-type", "application/grpc")
        .body(http_body_util::Full::new(Bytes::from_static(body)))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let headers = response.headers().clone();
    let collected = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    connection.abort();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let status = tonic::Status::from_header_map(&headers).or_else(|| tonic::Status::from_header_map(&trailers));
    status.expect("a status in the headers or behind the message")
}

#[tokio::test]
async fn a_pump_that_is_gone_refuses() {
    let node = node(UNLIMITED_MESSAGE, 1000).await;
    drop(node.inbox);
    let writer = PumpWriter::connect(&node.address).await.unwrap();
    let e = writer.write(CLUSTER, Bytes::new()).await.unwrap_err();
    assert_eq!(code_and_text(e), (Code::Unknown, "pump is shutting down".to_owned()));
    let mut stream = open(&node.address, CLUSTER, CommitTs::ZERO, false).await.unwrap();
    let e = stream.next().await.unwrap().unwrap_err();
    assert_eq!(code_and_text(e), (Code::Unknown, "pump is shutting down".to_owned()));
}

#[tokio::test]
async fn oversize_requests() {
    for limit in [1000, 3 << 20] {
        let node = node(limit, 1000).await;
        let mut lengths = acknowledge(node.inbox);
        let writer = PumpWriter::connect(&node.address).await.unwrap();
        // Cluster id, tags and lengths around the payload.
        let overhead =
            prost::Message::encoded_len(&WriteBinlogReq { cluster_id: 7, payload: vec![0; limit].into() }) - limit;
        writer.write(CLUSTER, Bytes::from(vec![7; limit - overhead])).await.unwrap();
        assert_eq!(lengths.recv().await, Some(limit - overhead));
        let e = writer.write(CLUSTER, Bytes::from(vec![7; limit])).await.unwrap_err();
        let (code, text) = code_and_text(e);
        assert_eq!(code, Code::ResourceExhausted);
        let want = format!("received message larger than max ({} vs. {limit})", limit + overhead);
        assert!(text.contains(&want), "{text}");

        // Small when compressed, too large afterwards.
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap().connect_lazy();
        let mut gzip = PumpClient::new(channel).send_compressed(CompressionEncoding::Gzip);
        let request = WriteBinlogReq { cluster_id: 7, payload: vec![7; 2 * limit].into() };
        let status = gzip.write_binlog(request).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("received message larger than max ("), "{status:?}");
        // The connection lives on.
        writer.write(CLUSTER, Bytes::from_static(b"1")).await.unwrap();
        assert!(lengths.recv().await == Some(1) && lengths.try_recv().is_err());
    }
}

fn item(commit_ts: u64, length: usize) -> PullItem {
    let half = Bytes::from(vec![b'p'; length / 2]);
    let rest = Bytes::from(vec![b'c'; length - length / 2]);
    PullItem { start_ts: 1, commit_ts: CommitTs::new(commit_ts), payload: [half, rest] }
}

#[tokio::test]
async fn pull_with_credit_plain_and_gzip() {
    for gzip in [false, true] {
        let mut node = node(UNLIMITED_MESSAGE, 1 << 20).await;
        let mut stream = open(&node.address, CLUSTER, CommitTs::new(5), gzip).await.unwrap();
        let address = node.address.clone();
        let driver = tokio::spawn(async move {
            let (mut next, mut open, mut left) = (6, None, 0i64);
            loop {
                match node.inbox.recv().await.unwrap() {
                    PumpEvent::PullOpen { cluster_id, last, credit, items, .. } => {
                        assert_eq!((cluster_id, last, credit), (7, CommitTs::new(5), 1 << 20));
                        left = i64::try_from(credit).unwrap();
                        open = Some(items);
                    }
                    PumpEvent::PullCredit { bytes, .. } => left += i64::try_from(bytes).unwrap(),
                    PumpEvent::PullClosed { .. } => return next,
                    PumpEvent::Write { .. } => panic!("nobody writes"),
                }
                // As the machine does: while there is credit.
                while left > 0 && next < 106 {
                    let length = if next == 10 { 6 << 20 } else { 100_000 };
                    open.as_ref().unwrap().send(vec![item(next, length)]).unwrap();
                    left -= i64::try_from(length).unwrap();
                    next += 1;
                }
                if next == 106 {
                    // Everything is on its way: a clean end.
                    if let Some(items) = open.take() {
                        items.end(Ok(()));
                    }
                }
            }
        });
        let mut count = 0;
        while let Some(payload) = stream.next().await {
            let payload = payload.unwrap_or_else(|e| panic!("{address}: {e}"));
            let length = if count == 4 { 6 << 20 } else { 100_000 };
            assert_eq!(payload.len(), length);
            assert_eq!((payload[0], payload[length - 1]), (b'p', b'c'));
            count += 1;
        }
        assert_eq!(count, 100);
        assert_eq!(driver.await.unwrap(), 106);
    }
}

/// What a client that compresses gets, and one that only could.
#[tokio::test]
async fn compression_is_answered_in_kind() {
    for (gzip, want) in [(true, Some("gzip")), (false, None)] {
        let mut node = node(UNLIMITED_MESSAGE, 1 << 20).await;
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap().connect_lazy();
        let mut client = PumpClient::new(channel).accept_compressed(CompressionEncoding::Gzip);
        if gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let request = PullBinlogReq { cluster_id: 7, start_from: Some(Pos { suffix: 0, offset: 5 }) };
        let reply = client.pull_binlogs(request).await.unwrap();
        assert_eq!(reply.metadata().get("grpc-encoding").map(|v| v.to_str().unwrap()), want);
        let Some(PumpEvent::PullOpen { items, .. }) = node.inbox.recv().await else { panic!("not opened") };
        items.send(vec![item(6, 1000)]).unwrap();
        items.end(Ok(()));
        let entity = reply.into_inner().message().await.unwrap().unwrap().entity.unwrap();
        assert_eq!(entity.payload.len(), 1000);
        assert_eq!(entity.meta.unwrap().commit_ts, 6);
    }
}

#[tokio::test]
async fn a_consumer_that_goes_away_is_reported() {
    let mut node = node(UNLIMITED_MESSAGE, 1000).await;
    let mut stream = open(&node.address, CLUSTER, CommitTs::ZERO, false).await.unwrap();
    assert!(futures::poll!(stream.next()).is_pending());
    let opened = tokio::select! {
        event = node.inbox.recv() => event,
        _ = stream.next() => None,
    };
    let Some(PumpEvent::PullOpen { stream: id, items, .. }) = opened else { panic!("not opened") };
    drop(stream);
    loop {
        match node.inbox.recv().await.unwrap() {
            PumpEvent::PullClosed { stream } => {
                assert_eq!(stream, id);
                break;
            }
            PumpEvent::PullCredit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(items.send(vec![item(6, 1)]).is_err());
}

/// A host that vanishes without a reset: the connection stands, nothing comes any more.
#[tokio::test]
async fn a_silently_dead_pump_is_noticed() {
    let mut node = node(UNLIMITED_MESSAGE, 1000).await;
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap().to_string();
    let target = node.address.clone();
    let (freeze, frozen) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut from, _) = between.accept().await.unwrap();
        let mut to = TcpStream::connect(target).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
            _ = frozen => std::future::pending().await,
        }
    });
    let short = std::time::Duration::from_millis(300);
    let options = PullOptions { keep_alive: (short, short), ..PullOptions::default() };
    let mut stream = open_with(&address, CLUSTER, CommitTs::ZERO, options).await.unwrap();
    let first = tokio::spawn(async move { (stream.next().await, stream) });
    let Some(PumpEvent::PullOpen { items, .. }) = node.inbox.recv().await else { panic!("not opened") };
    items.send(vec![item(6, 10)]).unwrap();
    let (first, mut stream) = first.await.unwrap();
    assert_eq!(first.unwrap().unwrap().len(), 10);
    freeze.send(()).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await;
    assert!(ended.expect("the dead pump was not noticed").unwrap().is_err());
}

#[tokio::test]
async fn a_refused_pull_says_why() {
    let mut node = node(UNLIMITED_MESSAGE, 1000).await;
    let mut stream = open(&node.address, ClusterId::new(8), CommitTs::new(3), false).await.unwrap();
    let driver = tokio::spawn(async move {
        let Some(PumpEvent::PullOpen { cluster_id, items, .. }) = node.inbox.recv().await else { panic!() };
        items.end(Err(Reject::ClusterMismatch { got: cluster_id, own: 7 }));
    });
    let e = stream.next().await.unwrap().unwrap_err();
    assert_eq!(code_and_text(e), (Code::Unknown, "cluster ID are mismatch, 8 vs 7".to_owned()));
    assert!(stream.next().await.is_none());
    driver.await.unwrap();
}

#[tokio::test]
async fn notify_and_the_obsolete_calls() {
    let mut node = node(UNLIMITED_MESSAGE, 1000).await;
    let address = node.address.clone();
    let driver = tokio::spawn(async move {
        // The first try fails, the second one succeeds.
        node.notifies.recv().await.unwrap().send(Err("registry is away".to_owned())).unwrap();
        node.notifies.recv().await.unwrap().send(Ok(())).unwrap();
        node.notifies.recv().await.unwrap().send(Err("registry is away".to_owned())).unwrap();
    });
    notify_drainer(&address, &Security::plaintext()).await.unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut client = CisternClient::new(channel);
    let status = client.notify(NotifyReq {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "registry is away"));
    driver.await.unwrap();
    let mut stream = client.dump_binlog(DumpBinlogReq::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_none());
    assert!(client.dump_ddl_jobs(DumpDdlJobsReq::default()).await.unwrap().into_inner().ddljobs.is_empty());
    assert!(matches!(notify_drainer("no address", &Security::plaintext()).await, Err(NodeError::Address(_))));
}

async fn http1(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn http_and_grpc_share_a_port() {
    let node = node(UNLIMITED_MESSAGE, 1000).await;
    let _lengths = acknowledge(node.inbox);
    let reply = http1(&node.address, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.ends_with("fine"), "{reply}");
    let reply = http1(&node.address, "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
    PumpWriter::connect(&node.address).await.unwrap().write(CLUSTER, Bytes::new()).await.unwrap();

    // HTTP/1.0, and a client that closes its side once it has asked.
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.0 200 OK") && reply.ends_with("fine"), "{reply:?}");

    // HTTP/2 frames by hand: both content types reach the service, others of the kind do not.
    for (content_type, want) in [
        ("application/grpc", Some(200)),
        ("application/grpc+proto", Some(200)),
        ("application/grpc+json", Some(415)),
        ("text/plain", Some(404)),
    ] {
        let stream = TcpStream::connect(&node.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let body = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 7]);
        let request = http::Request::post(format!("http://{}/binlog.Pump/WriteBinlog", node.address))
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(http_body_util::Full::new(body))
            .unwrap();
        let reply = sender.send_request(request).await.unwrap();
        assert_eq!(Some(reply.status().as_u16()), want, "{content_type}");
        if want == Some(200) {
            let trailers = http_body_util::BodyExt::collect(reply.into_body()).await.unwrap().trailers().cloned();
            assert_eq!(trailers.unwrap()["grpc-status"], "0", "{content_type}");
        }
        connection.abort();
    }
}

#[tokio::test]
async fn a_stopping_server_ends_calls_that_are_under_way() {
    let mut node = node(UNLIMITED_MESSAGE, 1000).await;
    let writer = PumpWriter::connect(&node.address).await.unwrap();
    let writing = {
        let writer = writer.clone();
        tokio::spawn(async move { writer.write(CLUSTER, Bytes::new()).await })
    };
    let Some(PumpEvent::Write { reply, .. }) = node.inbox.recv().await else { panic!("no write") };
    node.stop.send(()).unwrap();
    // No new connections once the listener is closed; the open call still gets its answer.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while TcpStream::connect(&node.address).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the server still accepts");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    reply.send(Ok(())).unwrap();
    writing.await.unwrap().unwrap();
    node.served.await.unwrap();
}

#[tokio::test]
async fn a_port_without_a_host_is_every_address() {
    let listener = binlog_cluster::server::listen(":0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, accepted) = tokio::join!(TcpStream::connect(("127.0.0.1", port)), listener.accept());
    assert!(asked.is_ok() && accepted.is_ok());
    for bad in [":port", "", "no-port"] {
        assert!(binlog_cluster::server::listen(bad).await.is_err(), "{bad}");
    }
    let local = binlog_cluster::server::listen("127.0.0.1:0").await.unwrap();
    assert!(binlog_cluster::server::listen(&local.local_addr().unwrap().to_string()).await.is_err(), "it is taken");
}
