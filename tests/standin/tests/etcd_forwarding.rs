//! etcd's calls on PD's port: unary, a watch and a lease's keep-alive reach the private etcd and come back.

use binlog_standin::{Options, Standin};
use etcd_client::{Client, Compare, CompareOp, EventType, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

#[tokio::test]
async fn the_registry_is_a_real_etcd() {
    let standin = Standin::start(Options::default()).await.unwrap();
    let mut client = Client::connect([standin.shared.pd_url.clone()], None).await.unwrap();

    let members = within(client.member_list()).await.unwrap();
    assert_eq!(members.members()[0].client_urls()[0], standin.shared.pd_url, "leads back to PD's port");

    let options = WatchOptions::new().with_prefix();
    let mut watch = within(client.watch("/tidb-binlog/v1/pumps", Some(options))).await.unwrap();
    let lease = within(client.lease_grant(2, None)).await.unwrap().id();
    within(client.put("/tidb-binlog/v1/pumps/a", "1", Some(PutOptions::new().with_lease(lease)))).await.unwrap();
    let absent = Compare::mod_revision("/tidb-binlog/v1/pumps/b", CompareOp::Equal, 0);
    let put = TxnOp::put("/tidb-binlog/v1/pumps/b", "2", None);
    let txn = Txn::new().when([absent]).and_then([put]);
    assert!(within(client.txn(txn.clone())).await.unwrap().succeeded());
    assert!(!within(client.txn(txn)).await.unwrap().succeeded(), "it is there now");

    let (mut keeper, mut alive) = within(client.lease_keep_alive(lease)).await.unwrap();
    for _ in 0..3 {
        within(keeper.keep_alive()).await.unwrap();
        assert!(within(alive.message()).await.unwrap().unwrap().ttl() > 0);
    }
    let listed = within(client.get("/tidb-binlog/v1/pumps/", Some(GetOptions::new().with_prefix()))).await.unwrap();
    assert_eq!(listed.kvs().len(), 2);

    let mut seen = Vec::new();
    // Two puts, then the lease runs out and the watch tells it.
    while seen.len() < 3 {
        let message = within(watch.message()).await.unwrap().unwrap();
        seen.extend(message.events().iter().map(|e| (e.event_type(), e.kv().unwrap().key_str().unwrap().to_owned())));
    }
    assert_eq!(seen[0], (EventType::Put, "/tidb-binlog/v1/pumps/a".into()));
    assert_eq!(seen[1], (EventType::Put, "/tidb-binlog/v1/pumps/b".into()));
    assert_eq!(seen[2], (EventType::Delete, "/tidb-binlog/v1/pumps/a".into()));
}
