//! The PD client against recorded replies, changes of leader, and peers that misbehave.

mod common;

use binlog_cluster::error::PdError;
use binlog_cluster::pd::PdClient;
use binlog_core::fault::IoFault;
use binlog_core::proto::pdpb;
use binlog_core::time::Tso;
use common::{CLUSTER, Cluster, by_name, members};
use prost::Message;
use std::collections::BTreeSet;
use tonic::Status;

async fn client(cluster: &Cluster) -> PdClient {
    PdClient::connect(std::slice::from_ref(&cluster.url)).await.unwrap()
}

#[tokio::test]
async fn recorded_replies() {
    let cluster = Cluster::start().await;
    // A bare host:port is tolerated, and a member that does not answer is passed over.
    let bare = cluster.url.trim_start_matches("http://").to_owned();
    let pd = PdClient::connect(&["127.0.0.1:1".to_owned(), bare]).await.unwrap();
    assert_eq!(pd.cluster_id().raw(), CLUSTER);
    assert_eq!(pd.member_urls(), std::slice::from_ref(&cluster.url));
    assert_eq!(pd.gc_safe_point().await.unwrap(), Tso::ZERO);
    assert_eq!(pd.get_store(1).await.unwrap().id, 1);
    assert_eq!(pd.get_all_stores().await.unwrap().len(), 1);

    let region = pd.get_region(b"m\0\0\0\0\0\0\0\xf8").await.unwrap().unwrap();
    assert_eq!((region.region.id, region.leader.unwrap().id), (4, 5));
    assert_eq!(pd.get_region(b"\xff").await.unwrap(), None);

    // The error inside a header.
    match pd.get_store(999_999).await.unwrap_err() {
        PdError::Header { message, .. } => assert_eq!(message, "invalid store ID 999999, not found"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn service_safe_points() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let ours = Tso::new(470_609_800_947_826_691);
    let first = pd.update_service_gc_safe_point("tidb-binlog-pump-a", 3600, ours).await.unwrap();
    assert!(first.accepted);
    assert_eq!(
        (first.service_id.as_ref(), first.min_safe_point),
        (&b"gc_worker"[..], Tso::new(470_609_643_438_604_288))
    );
    // The same reply means a refusal when what we asked for lies below.
    let refused = pd.update_service_gc_safe_point("tidb-binlog-pump-c", 3600, Tso::new(5)).await.unwrap();
    assert!(!refused.accepted);
    pd.update_service_gc_safe_point("tidb-binlog-pump-a", 0, ours).await.unwrap();
}

#[tokio::test]
async fn wrong_cluster_is_not_retried() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let refusal = by_name("wrong cluster id").error.unwrap();
    let message = refusal.split("desc = ").last().unwrap().to_owned();
    cluster.hook(move |_, _| Some(Err(Status::failed_precondition(message.clone()))));
    let e = pd.gc_safe_point().await.unwrap_err();
    assert!(matches!(&e, PdError::WrongCluster(text) if text.contains("but got 42")), "{e:?}");
    assert_eq!(cluster.calls("GetGCSafePoint").len(), 1);
    let e = pd.tso().await.unwrap_err();
    assert!(matches!(e, PdError::WrongCluster(_)), "{e:?}");
    assert!(matches!(IoFault::from(e), IoFault::Other(_)));
}

#[tokio::test]
async fn members_of_another_cluster_are_not_followed() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    cluster.set_members(members(42, &[&cluster.url], Some(&cluster.url)));
    let e = pd.refresh_members().await.unwrap_err();
    assert!(matches!(&e, PdError::WrongCluster(text) if text.contains("42")), "{e:?}");
    assert_eq!(pd.cluster_id().raw(), CLUSTER);
}

#[tokio::test]
async fn concurrent_timestamps_are_distinct_rising_and_batched() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let first = pd.tso().await.unwrap();
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let pd = pd.clone();
            tokio::spawn(async move { pd.tso().await.unwrap() })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for call in calls {
        assert!(seen.insert(call.await.unwrap()), "a timestamp was handed out twice");
    }
    assert!(seen.iter().all(|ts| *ts > first));
    assert!(pd.tso().await.unwrap() > *seen.last().unwrap());
    let requests = cluster.calls("Tso");
    assert!(requests.len() < 400, "{} requests for 502 timestamps", requests.len());
    // The form that PD's own clients send, recorded.
    assert_eq!(requests[0], by_name("tso count 1").request);
}

#[tokio::test]
async fn a_timestamp_is_allocated_after_it_was_asked_for() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let mut last = Tso::ZERO;
    for _ in 0..50 {
        let (a, b) = tokio::join!(pd.tso(), pd.tso());
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a > last && b > last);
        last = a.max(b);
    }
}

#[tokio::test]
async fn broken_streams_are_opened_again() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let before = pd.tso().await.unwrap();
    let mut left = 3;
    cluster.hook(move |method, _| {
        if method != "Tso" || left == 0 {
            return None;
        }
        left -= 1;
        Some(match left {
            // A stream that breaks, PD without a leader, and another's reply: one timestamp too few.
            2 => Err(Status::unavailable("not leader")),
            1 => Err(Status::unknown(
                "[PD:tso:ErrGenerateTimestamp] generate timestamp failed, requested pd is not leader of cluster",
            )),
            _ => Err(Status::internal("h2 protocol error")),
        })
    });
    assert!(pd.tso().await.unwrap() > before);
    assert!(cluster.calls("Tso").len() >= 5);
}

#[tokio::test]
async fn a_reply_of_the_wrong_count_is_an_error_and_not_a_timestamp() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    let ten = by_name("tso count 10").response;
    cluster.hook(move |method, _| (method == "Tso").then(|| Ok(ten.clone())));
    let e = pd.tso().await.unwrap_err();
    assert!(matches!(e, PdError::BadReply { .. }), "{e:?}");
}

#[tokio::test]
async fn an_unavailable_pd_answers_within_the_deadline_with_its_reason() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    cluster.hook(|_, _| Some(Err(Status::unavailable("the clock stands still"))));
    let (tso, point) = tokio::join!(pd.tso(), pd.gc_safe_point());
    for e in [tso.unwrap_err(), point.unwrap_err()] {
        assert!(e.to_string().contains("the clock stands still"), "{e}");
        assert!(matches!(IoFault::from(e), IoFault::Unavailable(_)));
    }
    // And it is found again.
    cluster.hook(|_, _| None);
    pd.tso().await.unwrap();
    pd.gc_safe_point().await.unwrap();
}

#[tokio::test]
async fn a_pd_that_hangs_does_not_hang_its_callers() {
    let cluster = Cluster::start().await;
    let pd = client(&cluster).await;
    // Nobody accepts there, but the kernel does.
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    cluster.set_members(members(CLUSTER, &[&url, &cluster.url], Some(&url)));
    pd.refresh_members().await.unwrap();
    let waiting = {
        let pd = pd.clone();
        tokio::spawn(async move { pd.tso().await })
    };
    // Its successor is followed as soon as one attempt is over.
    cluster.set_members(members(CLUSTER, &[&url, &cluster.url], Some(&cluster.url)));
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_leader_is_followed_and_all_addresses_may_be_replaced() {
    let first = Cluster::start().await;
    let second = Cluster::start().await;
    let third = Cluster::start().await;
    let both = members(CLUSTER, &[&first.url, &second.url], Some(&first.url));
    first.set_members(both);
    let pd = client(&first).await;
    let before = pd.tso().await.unwrap();

    // The leader moves: the old one refuses, as a follower does.
    let moved = members(CLUSTER, &[&first.url, &second.url], Some(&second.url));
    first.set_members(moved.clone());
    second.set_members(moved);
    second.set_clock(before.raw() + 1_000);
    first.hook(|_, _| Some(Err(Status::unavailable("not leader"))));
    let ts = pd.tso().await.unwrap();
    assert!(ts.raw() > before.raw() + 1_000, "the timestamp came from the old leader");
    pd.gc_safe_point().await.unwrap();
    assert_eq!(second.calls("GetGCSafePoint").len(), 1);

    // The only configured address goes, and then the leader.
    first.stop();
    let replaced = members(CLUSTER, &[&second.url, &third.url], Some(&second.url));
    second.set_members(replaced);
    pd.refresh_members().await.unwrap();
    second.stop();
    third.set_members(members(CLUSTER, &[&third.url], Some(&third.url)));
    third.set_clock(before.raw() + 2_000);
    assert!(pd.tso().await.unwrap().raw() > before.raw() + 2_000);
    pd.gc_safe_point().await.unwrap();
    assert_eq!(pd.member_urls(), std::slice::from_ref(&third.url));
}

#[tokio::test]
async fn who_is_not_there_is_named() {
    let e = PdClient::connect(&["http://127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]).await.err().unwrap();
    assert!(e.to_string().contains("127.0.0.1:1") && e.to_string().contains("127.0.0.1:2"), "{e}");
    let e = PdClient::connect(&["https://pd:2379".to_owned()]).await.err().unwrap();
    assert!(e.to_string().contains("https needs TLS"), "{e}");
    // A cluster that is not bootstrapped.
    let cluster = Cluster::start().await;
    cluster.set_members(pdpb::GetMembersResponse::decode(&b""[..]).unwrap());
    assert!(PdClient::connect(std::slice::from_ref(&cluster.url)).await.is_err());
}
