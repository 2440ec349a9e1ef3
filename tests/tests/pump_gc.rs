//! GC of a real Pump on a real disk: a Drainer's entry holds it back, a SIGKILL comes in between, then the Drainer is set offline.
//! Everything above the GC point is served all the time, the disk is given back, and slots are used again.

mod pump_common;

use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_tests::feed;
use binlog_tests::harness::{WorkDir, http_post};
use pump_common::{Client, Node, PATIENCE, POLL, c, cluster, p, pull_until, status, tso, write};
use std::path::Path;
use std::time::Instant;

const CONFIG: &str = "gc = \"1s\"\n[storage]\nsegment-size = \"256 kib\"\nstop-write-at-available-space = \"1 mib\"\n";

fn drainer(state: NodeState, checkpoint: i64) -> NodeStatus {
    NodeStatus {
        node_id: "drainer-1".to_owned(),
        host: "127.0.0.1:1".to_owned(),
        state,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: checkpoint,
        update_ts: 0,
        token: None,
    }
}

/// Transactions of 20 KB; their commit timestamps.
async fn transactions(client: &mut Client, shared: &binlog_standin::Shared, count: usize) -> Vec<i64> {
    let mut commits = Vec::new();
    for i in 0..count {
        let start = tso(shared);
        write(client, shared.cluster_id(), p(start, vec![i as u8; 20_000])).await.unwrap();
        let commit = tso(shared);
        write(client, shared.cluster_id(), c(start, commit)).await.unwrap();
        commits.push(commit);
    }
    commits
}

/// Asks for rounds until `want` holds of the collector's status.
async fn collect(address: &str, what: &str, want: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = http_post(address, "/debug/gc/trigger").await.unwrap();
        assert!(["trigger gc success\n", "gc is working\n"].contains(&&answer[..]), "{answer}");
        let own = status(address).await.unwrap();
        if want(&own["collector"]) {
            return own["collector"].clone();
        }
        assert!(Instant::now() < deadline, "{what}: {own:#}");
        tokio::time::sleep(POLL * 10).await;
    }
}

fn point(collector: &serde_json::Value) -> i64 {
    collector["point"].as_i64().unwrap()
}

/// Bytes of all slot files.
fn disk(data: &Path) -> u64 {
    std::fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Commit timestamps of the transactions above `last`, up to `until`.
async fn served(address: &str, cluster_id: u64, last: i64, until: i64) -> Vec<i64> {
    let items = pull_until(address, cluster_id, last, until).await.unwrap();
    items.iter().filter(|item| !item.is_fake()).map(|item| item.commit_ts).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drainer_holds_it_until_it_is_offline() {
    let work = WorkDir::new("gc").unwrap();
    let standin = cluster(&work).await;
    let (shared, id) = (&standin.shared, standin.shared.cluster_id());
    let registry = Registry::new(std::slice::from_ref(&shared.pd_url)).unwrap();
    let put = async |state, checkpoint| registry.put(NodeKind::Drainer, &drainer(state, checkpoint)).await.unwrap();
    let before = tso(shared);
    // Paused: the Pump does not look for it when it starts.
    put(NodeState::Paused, before).await;
    let mut node = Node::new(work.path(), "pump-1", &shared.pd_url, CONFIG);
    node.start().await;
    let mut client = feed::client(&node.address).unwrap();
    let mut commits = transactions(&mut client, shared, 200).await;
    let full = disk(&node.data);
    assert!(full > 4_000_000);

    let is_held = |c: &serde_json::Value| c["held_by"]["node_id"] == "drainer-1" && point(c) == before;
    let held = collect(&node.address, "the drainer holds it", is_held).await;
    assert_eq!(held["slots"]["freed"], serde_json::json!(0));
    let command = "binlogctl -cmd update-drainer -node-id drainer-1 -state offline";
    assert_eq!(held["held_by"]["command"], command);
    assert_eq!(node.lines("WARN", command).len(), 1, "{}", node.log_text());
    assert_eq!(served(&node.address, id, 0, commits[199]).await, commits);

    put(NodeState::Paused, commits[100]).await;
    let k = commits[100];
    collect(&node.address, "it follows the checkpoint", |c| {
        point(c) == k && c["slots"]["freed"].as_u64() > Some(5) && c["working"] == false
    })
    .await;
    assert_eq!(served(&node.address, id, k, commits[199]).await, commits[101..]);
    let refused = pull_until(&node.address, id, commits[50], k).await.unwrap_err().to_string();
    assert!(refused.contains(&commits[50].to_string()) && refused.contains(&k.to_string()), "{refused}");

    // What was freed stays freed, and nothing else is missing; the freed slots carry the next segments.
    node.kill();
    node.start().await;
    assert_eq!(point(&status(&node.address).await.unwrap()["collector"]), k);
    assert_eq!(served(&node.address, id, 0, commits[199]).await, commits[101..]);
    let mut client = feed::client(&node.address).unwrap();
    commits.extend(transactions(&mut client, shared, 50).await);
    let own = status(&node.address).await.unwrap();
    assert!(own["collector"]["slots"]["reused"].as_u64() >= Some(2), "{own:#}");
    assert_eq!(served(&node.address, id, k, commits[249]).await, commits[101..]);

    put(NodeState::Offline, k).await;
    let last = commits[249];
    let free =
        collect(&node.address, "nobody holds it", |c| point(c) > last && c["slots"]["freed"].as_u64() > Some(5)).await;
    assert!(free["held_by"].is_null() && free["segments"].as_u64() < Some(8), "{free:#}");
    let deadline = Instant::now() + PATIENCE;
    while disk(&node.data) > full {
        assert!(Instant::now() < deadline, "{} of {full} bytes", disk(&node.data));
        tokio::time::sleep(POLL).await;
    }
    let more = transactions(&mut client, shared, 30).await;
    assert_eq!(served(&node.address, id, 0, more[29]).await, more);
    assert!(node.terminate().await.success());
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}
