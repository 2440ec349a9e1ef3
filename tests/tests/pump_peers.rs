//! What gRPC clients of real peers do: large messages, compression, many calls at once, calls that are cancelled.

mod pump_common;

use binlog_tests::harness::WorkDir;
use pump_common::{CONFIG, Node, c, cluster, next, p, pull, tso, write};
use tonic::codec::CompressionEncoding::Gzip;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_go_in_and_come_out_again_also_compressed() {
    let work = WorkDir::new("large").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;
    let value: Vec<u8> = (0..64_u32 << 20).map(|n| (n >> 7) as u8).collect();
    let mut last = 0;
    for compressed in [false, true] {
        let mut client = node.client();
        if compressed {
            client = client.send_compressed(Gzip).accept_compressed(Gzip);
        }
        let start_ts = tso(&standin.shared);
        write(&mut client, id, p(start_ts, value.clone())).await.unwrap();
        let commit_ts = tso(&standin.shared);
        write(&mut client, id, c(start_ts, commit_ts)).await.unwrap();
        let mut stream = pull(&mut client, id, last).await.unwrap();
        let item = loop {
            let item = next(&mut stream).await.unwrap();
            if !item.is_fake() {
                break item;
            }
        };
        assert_eq!(item.commit_ts, commit_ts);
        assert!(item.binlog().prewrite_value.unwrap() == value, "the rows are the same");
        last = commit_ts;
    }
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_do_not_cost_the_other_calls_of_their_connection() {
    let work = WorkDir::new("cancel").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;
    // One connection for all.
    let mut client = node.client();
    let mut stream = pull(&mut client, id, 0).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let mut client = client.clone();
        calls.spawn(async move { write(&mut client, id, bytes::Bytes::new()).await.is_ok() });
    }
    tokio::task::yield_now().await;
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    write(&mut client, id, bytes::Bytes::new()).await.unwrap();
    next(&mut stream).await.unwrap();
    assert_eq!(node.lines("WARN", "reset"), Vec::<String>::new());
}
