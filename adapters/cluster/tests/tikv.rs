//! The TiKV client against recorded replies: regions that moved, locks, the DDL history.

mod common;

use binlog_cluster::error::TikvError;
use binlog_cluster::pd::PdClient;
use binlog_cluster::tikv::{SCAN_PAGE, TikvClient};
use binlog_core::fault::IoFault;
use binlog_core::proto::{kvrpcpb, metapb, pdpb};
use binlog_core::time::Tso;
use bytes::Bytes;
use common::{CLUSTER, Cluster, by_name};
use prost::Message;
use tonic::Status;

const VERSION: Tso = Tso::new(470_609_800_856_076_301);

async fn client(cluster: &Cluster) -> TikvClient {
    TikvClient::new(PdClient::connect(std::slice::from_ref(&cluster.url)).await.unwrap())
}

fn key_of(name: &str) -> Bytes {
    kvrpcpb::GetRequest::decode(by_name(name).request.as_slice()).unwrap().key
}

#[tokio::test]
async fn recorded_gets_and_scans() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    // An empty reply, without `not_found`: absent.
    assert_eq!(tikv.get(&key_of("get absent"), VERSION).await.unwrap(), None);
    assert_eq!(tikv.get(&key_of("get present"), VERSION).await.unwrap().unwrap(), "134");
    // What we send is what was recorded, byte for byte.
    assert_eq!(cluster.calls("KvGet"), [by_name("get absent").request, by_name("get present").request]);
    // One look-up serves both keys.
    assert_eq!(cluster.calls("GetRegion").len(), 1);
    assert_eq!(cluster.calls("GetStore").len(), 1);
}

#[tokio::test]
async fn mvcc_and_status_calls() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    let recorded = by_name("mvcc: committed");
    let request = kvrpcpb::MvccGetByKeyRequest::decode(recorded.request.as_slice()).unwrap();
    // The key was asked for several times while it was recorded; the first answer is "never written".
    let info = tikv.mvcc_by_key(&request.key).await.unwrap().info.unwrap();
    assert!(info.writes.is_empty() && info.lock.is_none());
    for (name, lock_ttl, commit) in [
        ("status: live lock", 3000, 0),
        ("status: committed", 0, 470_609_800_869_183_491),
        ("status: rolled back", 0, 0),
    ] {
        let request = kvrpcpb::CheckTxnStatusRequest::decode(by_name(name).request.as_slice()).unwrap();
        let status = tikv.check_txn_status(request).await.unwrap();
        assert_eq!((status.lock_ttl, status.commit_version), (lock_ttl, commit), "{name}");
    }
    let name = "status: never prewritten, rollback_if_not_exist=false";
    let request = kvrpcpb::CheckTxnStatusRequest::decode(by_name(name).request.as_slice()).unwrap();
    let status = tikv.check_txn_status(request).await.unwrap();
    assert!(status.error.unwrap().txn_not_found.is_some());
}

/// PD answers once with a region whose epoch or id is wrong; TiKV refuses as recorded; the client asks PD again.
#[tokio::test]
async fn stale_epoch_and_unknown_region() {
    for (refusal, epoch, id, peer) in [("get stale epoch", 8, 4, 5), ("get unknown region", 1, 987_654, 1)] {
        let cluster = Cluster::start().await;
        let tikv = client(&cluster).await;
        let right = by_name("region of key 6d00000000000000f8").response;
        let mut wrong = pdpb::GetRegionResponse::decode(right.as_slice()).unwrap();
        let region = wrong.region.as_mut().unwrap();
        region.id = id;
        region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: epoch });
        wrong.leader = Some(metapb::Peer { id: peer, store_id: 1, ..Default::default() });
        let mut answers = vec![right, wrong.encode_to_vec()];
        cluster.hook(move |method, _| (method == "GetRegion").then(|| Ok(answers.pop().unwrap())));
        assert_eq!(tikv.get(&key_of("get absent"), VERSION).await.unwrap(), None);
        assert_eq!(cluster.calls("KvGet"), [by_name(refusal).request, by_name("get absent").request]);
    }
}

/// A PD that has just become leader has not loaded the cluster yet, and says so in the header.
#[tokio::test]
async fn a_new_leader_of_pd_is_waited_for() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    let mut loading =
        pdpb::GetRegionResponse::decode(by_name("region of key 6d00000000000000f8").response.as_slice()).unwrap();
    let error = pdpb::Error { r#type: pdpb::ErrorType::NotBootstrapped as i32, message: "not bootstrapped".to_owned() };
    loading.header.as_mut().unwrap().error = Some(error);
    loading.region = None;
    let mut answers = vec![loading.encode_to_vec(); 3];
    cluster.hook(move |method, _| (method == "GetRegion").then(|| answers.pop().map(Ok)).flatten());
    assert_eq!(tikv.get(&key_of("get absent"), VERSION).await.unwrap(), None);
    assert_eq!(cluster.calls("GetRegion").len(), 4);
}

#[tokio::test]
async fn another_leader_a_busy_server_and_a_lost_store() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    let mut step = 0;
    cluster.hook(move |method, request| {
        if method == "GetStore" {
            // Two stores, the same process.
            let id = pdpb::GetStoreRequest::decode(request).unwrap().store_id;
            let mut reply = pdpb::GetStoreResponse::decode(by_name("store by id").response.as_slice()).unwrap();
            reply.store.as_mut().unwrap().id = id;
            return Some(Ok(reply.encode_to_vec()));
        }
        if method != "KvGet" {
            return None;
        }
        step += 1;
        let peer = kvrpcpb::GetRequest::decode(request).unwrap().context.unwrap().peer.unwrap();
        let mut error = binlog_core::proto::errorpb::Error { message: "test".to_owned(), ..Default::default() };
        match step {
            1 => {
                assert_eq!((peer.id, peer.store_id), (5, 1));
                error.not_leader = Some(binlog_core::proto::errorpb::NotLeader {
                    region_id: 4,
                    leader: Some(metapb::Peer { id: 77, store_id: 2, ..Default::default() }),
                });
            }
            2 => {
                assert_eq!((peer.id, peer.store_id), (77, 2), "the named leader is asked");
                error.server_is_busy =
                    Some(binlog_core::proto::errorpb::ServerIsBusy { backoff_ms: 1, ..Default::default() });
            }
            3 => return Some(Err(Status::unavailable("gone"))),
            // An error that this client does not know.
            4 => {}
            _ => return None,
        }
        Some(Ok(kvrpcpb::GetResponse { region_error: Some(error), ..Default::default() }.encode_to_vec()))
    });
    assert_eq!(tikv.get(&key_of("get present"), VERSION).await.unwrap().unwrap(), "134");
    assert_eq!(cluster.calls("KvGet").len(), 5);
}

const LOCK: u64 = 470_609_800_947_826_690;
const AFTER_LOCK: Tso = Tso::new(LOCK + 1);

/// The lock of the recorded get and scan (60 s) lives, then expires; its transaction is committed, or was rolled back.
#[tokio::test]
async fn a_get_waits_for_a_live_lock_and_passes_an_expired_one() {
    for commit_version in [0, LOCK + 1] {
        let cluster = Cluster::start().await;
        let tikv = client(&cluster).await;
        let clock = cluster.clock_handle();
        let mut gets = 0;
        cluster.hook(move |method, request| match method {
            "KvGet" => {
                gets += 1;
                let context = kvrpcpb::GetRequest::decode(request).unwrap().context.unwrap();
                if gets == 2 {
                    // Seen twice alive; now its 60 s pass on PD's clock.
                    clock(LOCK + (60_000 << 18));
                }
                let passed = if commit_version == 0 { context.resolved_locks } else { context.committed_locks };
                if passed == [LOCK] {
                    return Some(Ok(by_name("get: version below the lock").response));
                }
                Some(Ok(by_name("get: locked by a live transaction").response))
            }
            "KvCheckTxnStatus" => {
                let check = kvrpcpb::CheckTxnStatusRequest::decode(request).unwrap();
                assert_eq!((check.lock_ts, check.caller_start_ts), (LOCK, AFTER_LOCK.raw()));
                assert!(check.current_ts >= LOCK + (60_000 << 18), "asked while the lock was alive");
                assert_eq!(check.primary_key, key_of("get: locked by a live transaction"));
                let status = kvrpcpb::CheckTxnStatusResponse { commit_version, ..Default::default() };
                Some(Ok(status.encode_to_vec()))
            }
            _ => None,
        });
        let value = tikv.get(&key_of("get: locked by a live transaction"), AFTER_LOCK).await.unwrap();
        assert_eq!(value.unwrap(), &[0x80, 0, 0, 0, 0, 0][..]);
        assert_eq!(cluster.calls("KvGet")[0], by_name("get: locked by a live transaction").request);
        assert_eq!(cluster.calls("KvCheckTxnStatus").len(), 1);
    }
}

#[tokio::test]
async fn a_scan_waits_for_a_lock_in_its_middle_and_loses_nothing() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    let locked = kvrpcpb::ScanResponse::decode(by_name("scan: over a locked key").response.as_slice()).unwrap();
    let request = kvrpcpb::ScanRequest::decode(by_name("scan: over a locked key").request.as_slice()).unwrap();
    let pair = |key: &[u8], value: &'static [u8]| kvrpcpb::KvPair {
        error: None,
        key: Bytes::copy_from_slice(key),
        value: Bytes::from_static(value),
    };
    let before = request.start_key.clone();
    let at = locked.pairs[0].key.clone();
    let mut scans = Vec::new();
    let (first, second) = (pair(&before, b"1"), pair(&at, b"2"));
    cluster.hook(move |method, bytes| {
        if method != "KvScan" {
            return None;
        }
        let request = kvrpcpb::ScanRequest::decode(bytes).unwrap();
        scans.push(request.start_key.clone());
        let mut reply = kvrpcpb::ScanResponse::default();
        if request.start_key <= first.key {
            reply.pairs.push(first.clone());
        }
        // The lock is gone at the fourth look.
        reply.pairs.push(if scans.len() < 4 { locked.pairs[0].clone() } else { second.clone() });
        Some(Ok(reply.encode_to_vec()))
    });
    let mut scan = tikv.scan(request.start_key, request.end_key, AFTER_LOCK);
    let mut pairs = Vec::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        assert!(!page.is_empty());
        pairs.extend(page);
    }
    assert_eq!(pairs, [(before, Bytes::from_static(b"1")), (at, Bytes::from_static(b"2"))]);
    // No lock was asked about while it lived.
    assert!(cluster.calls("KvCheckTxnStatus").is_empty());
}

#[tokio::test]
async fn a_scan_crosses_pages_and_regions() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    // Keys on both sides of the boundary between the recorded regions "m".."n" and "n".."t" (6: from the recorded scan of regions).
    let all: Vec<Bytes> = (0..3 * SCAN_PAGE)
        .flat_map(|n| [format!("m{n:05}"), format!("n{n:05}")])
        .map(Bytes::from)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let served = all.clone();
    cluster.hook(move |method, bytes| match method {
        "GetRegion" => {
            let key = pdpb::GetRegionRequest::decode(bytes).unwrap().region_key;
            let regions =
                pdpb::ScanRegionsResponse::decode(by_name("scan regions").response.as_slice()).unwrap().regions;
            let found = regions.into_iter().find(|r| {
                let r = r.region.as_ref().unwrap();
                r.start_key <= key && (r.end_key.is_empty() || key < r.end_key)
            });
            let found = found.unwrap();
            let header = Some(pdpb::ResponseHeader { cluster_id: CLUSTER, error: None });
            let reply =
                pdpb::GetRegionResponse { header, region: found.region, leader: found.leader, ..Default::default() };
            Some(Ok(reply.encode_to_vec()))
        }
        "KvScan" => {
            let request = kvrpcpb::ScanRequest::decode(bytes).unwrap();
            let region = request.context.as_ref().unwrap().region_id;
            let in_region = |key: &Bytes| (region == 4 && key[0] == b'm') || (region == 6 && key[0] == b'n');
            let pairs = served
                .iter()
                .filter(|k| **k >= request.start_key && **k < request.end_key && in_region(k))
                .take(request.limit as usize)
                .map(|key| kvrpcpb::KvPair { error: None, key: key.clone(), value: key.clone() })
                .collect();
            Some(Ok(kvrpcpb::ScanResponse { pairs, ..Default::default() }.encode_to_vec()))
        }
        _ => None,
    });
    let mut scan = tikv.scan(Bytes::from_static(b"m"), Bytes::from_static(b"n9"), VERSION);
    let mut got = Vec::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        got.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(got, all);
}

#[tokio::test]
async fn ddl_history() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    let prefix = b"m\x44\x44\x4c\x4a\x6f\x62\x48\x69\xff\x73\x74\x6f\x72\x79\0\0\0\xfc\0\0\0\0\0\0\0";
    let job_key = {
        let mut key = prefix.to_vec();
        key.extend(b"h\0\0\0\0\0\0\0\x47\xff\0\0\0\0\0\0\0\0\xf7");
        Bytes::from(key)
    };
    let want = job_key.clone();
    cluster.hook(move |method, bytes| match method {
        "KvScan" => {
            let request = kvrpcpb::ScanRequest::decode(bytes).unwrap();
            assert!(request.start_key.starts_with(prefix) && request.start_key.ends_with(b"h"));
            assert!(request.end_key.starts_with(prefix) && request.end_key.ends_with(b"i"));
            assert!(request.version > 470_609_800_947_826_691, "not a fresh timestamp");
            let pairs =
                vec![kvrpcpb::KvPair { error: None, key: want.clone(), value: Bytes::from_static(b"{\"id\":71}") }];
            Some(Ok(kvrpcpb::ScanResponse { pairs, ..Default::default() }.encode_to_vec()))
        }
        "KvGet" => {
            let request = kvrpcpb::GetRequest::decode(bytes).unwrap();
            let value = if request.key == want { Bytes::from_static(b"{\"id\":71}") } else { Bytes::new() };
            Some(Ok(kvrpcpb::GetResponse { value, ..Default::default() }.encode_to_vec()))
        }
        _ => None,
    });
    assert_eq!(tikv.history_jobs().await.unwrap(), [Bytes::from_static(b"{\"id\":71}")]);
    assert_eq!(tikv.history_job(71).await.unwrap().unwrap(), "{\"id\":71}");
    assert_eq!(tikv.history_job(72).await.unwrap(), None);
}

/// TiKV before 3.0: asking other stores, or again, helps nobody, and the caller has another way.
#[tokio::test]
async fn a_call_that_tikv_does_not_know_is_refused_at_once() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    cluster.hook(|method, _| (method == "KvCheckTxnStatus").then(|| Err(Status::unimplemented("unknown method"))));
    let request = kvrpcpb::CheckTxnStatusRequest::decode(by_name("status: committed").request.as_slice()).unwrap();
    let error = tikv.check_txn_status(request).await.unwrap_err();
    assert!(matches!(&error, TikvError::Key { what, .. } if what.contains("unknown method")), "{error:?}");
    assert!(matches!(IoFault::from(error), IoFault::Other(_)));
    assert_eq!(cluster.calls("KvCheckTxnStatus").len(), 1);
}

#[tokio::test]
async fn nonsense_is_an_error() {
    let cluster = Cluster::start().await;
    let tikv = client(&cluster).await;
    // A key outside the range that was asked for.
    cluster.hook(|method, _| {
        let pairs =
            vec![kvrpcpb::KvPair { error: None, key: Bytes::from_static(b"a"), value: Bytes::from_static(b"v") }];
        (method == "KvScan").then(|| Ok(kvrpcpb::ScanResponse { pairs, ..Default::default() }.encode_to_vec()))
    });
    let e = tikv.scan(Bytes::from_static(b"m"), Bytes::from_static(b"n"), VERSION).next_page().await.unwrap_err();
    assert!(matches!(e, TikvError::Key { .. }), "{e:?}");
    // An abort.
    cluster.hook(|method, _| {
        let error = kvrpcpb::KeyError { abort: "no".to_owned(), ..Default::default() };
        (method == "KvGet")
            .then(|| Ok(kvrpcpb::GetResponse { error: Some(error), ..Default::default() }.encode_to_vec()))
    });
    assert_eq!(tikv.get(b"mDB", VERSION).await.unwrap_err(), TikvError::Key { method: "KvGet", what: "no".to_owned() });
}
