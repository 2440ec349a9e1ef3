//! The life of a Pump's process as an operator sees it: pause, close, cancel, signals, the registry, ids used twice, and every HTTP
//! route.

mod pump_common;

use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_tests::harness::WorkDir;
use pump_common::{CONFIG, Node, PATIENCE, POLL, c, cluster, next, p, pull, tso, write};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One HTTP/1.1 call as it is on the wire: code, content type, body.
async fn http(address: &str, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut raw)).await.unwrap().unwrap();
    let text = String::from_utf8(raw).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned));
    (code, kind.unwrap_or_default(), body.to_owned())
}

async fn put(node: &Node, action: &str) -> String {
    let (code, kind, body) = http(&node.address, "PUT", &format!("/state/{}/{action}", node.node_id)).await;
    assert_eq!((code, kind.as_str()), (200, "application/json; charset=utf-8"));
    body
}

async fn entry(registry: &Registry, id: &str) -> Option<NodeStatus> {
    registry.get(NodeKind::Pump, id).await.unwrap()
}

async fn becomes(registry: &Registry, id: &str, state: NodeState) -> NodeStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(entry) = entry(registry, id).await.filter(|entry| entry.state == state) {
            return entry;
        }
        assert!(Instant::now() < deadline, "{id} does not become {state}: {:?}", entry(registry, id).await);
        tokio::time::sleep(POLL).await;
    }
}

fn drainer(id: &str, state: NodeState, checkpoint: i64) -> NodeStatus {
    let text = format!(r#"{{"nodeId":"{id}","host":"127.0.0.1:1","state":"{state}","maxCommitTS":{checkpoint}}}"#);
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_by_http_online_again_then_offline_when_the_drainer_has_everything() {
    let work = WorkDir::new("life").unwrap();
    let standin = cluster(&work).await;
    let (shared, id) = (&standin.shared, standin.shared.cluster_id());
    let registry = Registry::new(std::slice::from_ref(&shared.pd_url)).unwrap();
    let mut node = Node::new(work.path(), "pump1", &shared.pd_url, CONFIG);
    node.start().await;

    assert_eq!(
        put(&node, "pause").await,
        "{\n  \"message\": \"apply action pause success!\",\n  \"code\": 200,\n  \"data\": null\n}\n"
    );
    assert_eq!(node.ends().await.0, Some(0));
    assert_eq!(entry(&registry, "pump1").await.unwrap().state, NodeState::Paused);
    node.start().await;
    becomes(&registry, "pump1", NodeState::Online).await;

    // A Drainer that is paused, far behind.
    registry.put(NodeKind::Drainer, &drainer("d1", NodeState::Paused, 1)).await.unwrap();
    let mut client = node.client();
    let (open, start) = (tso(shared), tso(shared));
    for start in [open, start] {
        write(&mut client, id, p(start, b"rows".to_vec())).await.unwrap();
    }
    let commit = tso(shared);
    write(&mut client, id, c(start, commit)).await.unwrap();
    assert!(put(&node, "close").await.contains("apply action close success!"));
    becomes(&registry, "pump1", NodeState::Closing).await;
    let refused = write(&mut client, id, p(tso(shared), b"x".to_vec())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unknown, "no online: closing"));
    assert!(put(&node, "pause").await.contains("this pump's state is closing, apply pause failed!"));
    let (code, _, body) = http(&node.address, "GET", "/health").await;
    assert!(code == 503 && body.contains("no online: closing"), "{code} {body}");
    let oldest = format!("start_ts {open}");
    node.status_becomes("names the prewrite", |own| own["closing"]["waits_for"][0].to_string().contains(&oldest)).await;
    // It dies, and goes on closing.
    node.kill();
    node.spawn();
    node.status_becomes("closes again", |own| own["state"] == "closing").await;
    // The commit comes while closing: taken, and below the target.
    let mut client = node.client();
    let late = tso(shared);
    write(&mut client, id, c(open, late)).await.unwrap();
    node.status_becomes("names the Drainer", |own| own["closing"]["waits_for"][0].to_string().contains("drainer d1"))
        .await;
    let own = pump_common::status(&node.address).await.unwrap();
    let target = own["closing"]["target"].as_i64().unwrap();
    assert!(target > late);
    // Everything is still served, with fakes beyond the target.
    let mut stream = pull(&mut client, id, 0).await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|ts| *ts <= target) {
        seen.push(next(&mut stream).await.unwrap().commit_ts);
    }
    assert!(seen.contains(&commit) && seen.contains(&late), "{seen:?}");
    registry.put(NodeKind::Drainer, &drainer("d1", NodeState::Paused, target)).await.unwrap();
    assert_eq!(node.ends().await.0, Some(0));
    let last = entry(&registry, "pump1").await.unwrap();
    assert_eq!((last.state, last.max_commit_ts), (NodeState::Offline, target));
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    // Started on purpose, it serves again.
    node.start().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_cancelled_by_action_and_by_signal() {
    let work = WorkDir::new("cancel").unwrap();
    let standin = cluster(&work).await;
    let shared = &standin.shared;
    let registry = Registry::new(std::slice::from_ref(&shared.pd_url)).unwrap();
    registry.put(NodeKind::Drainer, &drainer("d1", NodeState::Paused, 1)).await.unwrap();
    let mut node = Node::new(work.path(), "pump1", &shared.pd_url, CONFIG);
    node.start().await;
    assert!(put(&node, "cancel").await.contains("this pump's state is online, apply cancel failed!"));
    assert!(put(&node, "close").await.contains("success"));
    becomes(&registry, "pump1", NodeState::Closing).await;
    assert!(put(&node, "cancel").await.contains("apply action cancel success!"));
    becomes(&registry, "pump1", NodeState::Online).await;
    write(&mut node.client(), shared.cluster_id(), p(tso(shared), b"x".to_vec())).await.unwrap();
    assert!(put(&node, "close").await.contains("success"));
    assert_eq!(node.terminate().await.code(), Some(0));
    assert_eq!(entry(&registry, "pump1").await.unwrap().state, NodeState::Paused);
    node.start().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_not_used_by_two_processes() {
    let work = WorkDir::new("twice").unwrap();
    let standin = cluster(&work).await;
    let pd = standin.shared.pd_url.clone();
    let registry = Registry::new(std::slice::from_ref(&pd)).unwrap();
    let mut first = Node::new(work.path(), "pump1", &pd, CONFIG);
    first.start().await;
    // Another directory, the same id: refused while the first lives.
    let second_home = work.path().join("second");
    std::fs::create_dir(&second_home).unwrap();
    let mut second = Node::new(&second_home, "pump1", &pd, CONFIG);
    second.spawn();
    let (code, said) = second.ends().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("node id pump1 is in use") && said.contains(&first.address), "{said}");
    assert_eq!(pump_common::status(&first.address).await.unwrap()["state"], "online");

    // Somebody claims it from under the running one: it stops, says so, and leaves the entry alone.
    let mut stranger = entry(&registry, "pump1").await.unwrap();
    assert!(stranger.token.is_some());
    // A tool rewrites the entry without the token: no conflict.
    stranger.token = None;
    registry.put(NodeKind::Pump, &stranger).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while entry(&registry, "pump1").await.unwrap().token.is_none() {
        assert!(Instant::now() < deadline, "the heartbeat writes its token again");
        tokio::time::sleep(POLL).await;
    }
    stranger.token = Some("0123-1".to_owned());
    stranger.host = "10.9.9.9:8250".to_owned();
    // The heartbeat may write between our read and our write of nothing: put is last writer wins.
    registry.put(NodeKind::Pump, &stranger).await.unwrap();
    let (code, said) = first.ends().await;
    assert_eq!(code, Some(1));
    assert!(said.contains("claimed by another process") && said.contains("10.9.9.9:8250"), "{said}");
    assert_eq!(entry(&registry, "pump1").await.unwrap(), stranger, "the entry is not ours any more");

    // The stranger does not live: after a while the next start takes over, loudly.
    first.start().await;
    assert!(!first.lines("WARN", "it is taken over").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_as_the_original_does() {
    let work = WorkDir::new("http").unwrap();
    let standin = cluster(&work).await;
    let (shared, id) = (&standin.shared, standin.shared.cluster_id());
    let mut node = Node::new(work.path(), "host:8250", &shared.pd_url, CONFIG);
    node.start().await;
    let address = node.address.clone();
    let get = async |path: &str| http(&address, "GET", path).await;
    let plain = "text/plain; charset=utf-8";

    let (code, kind, body) = get("/status").await;
    assert_eq!((code, kind.as_str()), (200, plain));
    assert!(
        body.starts_with(r#"{"status":{"host:8250":{"nodeId":"host:8250","host":"#) && body.ends_with('\n'),
        "{body}"
    );
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(status["CommitTS"].as_u64().unwrap() > 1 << 40);
    assert_eq!((&status["Checkpoint"], &status["ErrMsg"]), (&serde_json::json!({}), &serde_json::json!("")));
    let (code, kind, body) = get("/status/pump").await;
    assert_eq!((code, kind.as_str()), (200, "application/json; charset=utf-8"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["state"], "online");

    let registry = Registry::new(std::slice::from_ref(&shared.pd_url)).unwrap();
    assert_eq!(get("/drainers").await, (200, plain.to_owned(), "null\n".to_owned()));
    registry.put(NodeKind::Drainer, &drainer("d1", NodeState::Paused, 1 << 60)).await.unwrap();
    let body = get("/drainers").await.2;
    assert!(body.starts_with(r#"[{"nodeId":"d1","#) && body.contains("\"maxCommitTS\":1152921504606846976"), "{body}");

    let (code, _, body) = get("/health").await;
    assert_eq!((code, body.as_str()), (200, "{\"accepts_writes\":true,\"reason\":null,\"state\":\"online\"}\n"));

    for (path, message) in [
        ("/state/other/pause", "invalide nodeID other, this pump's nodeID is host:8250"),
        ("/state/host:8250/explode", "invalide action explode"),
        ("/state/host%3A8250/explode", "invalide action explode"),
    ] {
        let (code, kind, body) = http(&address, "PUT", path).await;
        let want = format!("{{\n  \"message\": \"{message}\",\n  \"code\": 3,\n  \"data\": null\n}}\n");
        assert_eq!((code, kind.as_str(), body), (200, "application/json; charset=utf-8", want));
    }

    let mut client = node.client();
    let start = tso(shared);
    write(&mut client, id, p(start, b"\x08\x07".to_vec())).await.unwrap();
    let commit = tso(shared);
    write(&mut client, id, c(start, commit)).await.unwrap();
    node.status_becomes("has indexed it", |own| own["watermark"].as_i64().unwrap() >= commit).await;
    let (code, kind, body) = get(&format!("/debug/binlog/{start}")).await;
    assert_eq!((code, kind.as_str()), (200, plain));
    assert!(
        body.starts_with(&format!("tp:Prewrite start_ts:{start} commit_ts:0 prewrite_key:\"t\\200\\000")),
        "{body}"
    );
    // Nothing of it ever reached TiKV.
    let rest = "\n\n PrewriteValue: \nschema_version:7 \n\n GetMvccByEncodedKey: \ninfo:<> ";
    assert!(body.ends_with(rest), "{body}");
    let want = format!("tp:Commit start_ts:{start} commit_ts:{commit} ddl_job_id:0 ddl_schema_state:0 ");
    assert_eq!(get(&format!("/debug/binlog/{commit}")).await.2, want);
    assert_eq!(get("/debug/binlog/x").await.2, "invalid parameter ts: x");
    assert_eq!(get("/debug/binlog/5").await.2, "fail read binlog by ts: 5: not found");

    for path in ["/health", "/status"] {
        let (code, _, body) = http(&address, "HEAD", path).await;
        assert_eq!((code, body.as_str()), (200, ""), "{path}");
    }
    for path in ["/", "/nothing", "/debug/pprof/", "/debug/pprof/heap"] {
        assert_eq!(get(path).await, (404, plain.to_owned(), "404 page not found\n".to_owned()), "{path}");
    }
    for (method, path) in [
        ("POST", "/status"),
        ("GET", "/state/host:8250/pause"),
        ("GET", "/debug/gc/trigger"),
        ("DELETE", "/debug/binlog/5"),
        ("PUT", "/health"),
    ] {
        let (code, _, body) = http(&address, method, path).await;
        assert_eq!((code, body.as_str()), (405, ""), "{method} {path}");
    }
    let (code, _, body) = http(&address, "POST", "/debug/gc/trigger").await;
    assert!(code == 200 && ["trigger gc success\n", "gc is working\n"].contains(&body.as_str()), "{code} {body}");
}
