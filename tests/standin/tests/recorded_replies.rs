//! Every request of `data/replies.json` (recorded from a real PD and TiKV) is put to the stand-in; its answers must be the
//! recorded ones, byte for byte, where `MAPPED` does not say what has to differ. The recorder's own steps (prewrite, commit,
//! rollback), which no client of ours sends, are library calls.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use binlog_cluster::generated::pdpb::pd_client::PdClient;
use binlog_cluster::generated::tikvpb::tikv_client::TikvClient;
use binlog_core::proto::pdpb;
use binlog_sim_models::pd::GC_WORKER;
use binlog_sim_models::tikv::Mutation;
use binlog_standin::{Options, Standin};
use prost::Message;
use serde_json::Value;
use std::collections::BTreeSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

const CLUSTER: u64 = 7_710_470_937_905_117_241;
const GC_WORKER_POINT: u64 = 470_609_643_438_604_288;
/// What the recorded store makes of the row value `v` under a record key: an empty row in its own encoding.
const STORED_ROW: &[u8] = &[0x80, 0, 0, 0, 0, 0];
/// Entries that differ by nature (addresses, heartbeat, time), and are compared after a mapping.
const MAPPED: [&str; 12] = [
    "members without a header",
    "all stores",
    "store by id",
    "tso count 1",
    "tso count 10",
    "tso without dc location",
    "service safe point: first",
    "service safe point: second service, smaller",
    "service safe point: move on",
    "service safe point: remove",
    "service safe point: below the smallest",
    "service safe point: remove first",
];

struct Peer {
    standin: Standin,
    pd: PdClient<Channel>,
    tikv: TikvClient<Channel>,
    last_tso: (i64, i64),
}

fn bytes_of(entry: &Value, field: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(entry[field].as_str().unwrap_or_default()).unwrap()
}

fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

fn blob(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap_or_default().parse().unwrap()
}

impl Peer {
    async fn start() -> Self {
        let standin = Standin::start(Options { cluster_id: CLUSTER, ..Options::default() }).await.unwrap();
        let mut pd = PdClient::connect(standin.shared.pd_url.clone()).await.unwrap();
        let tikv = TikvClient::connect(format!("http://{}", standin.shared.tikv_addr)).await.unwrap();
        {
            let mut clock = standin.shared.tso();
            let (model, now_ms) = clock.model();
            model.update_service_safe_point(now_ms, GC_WORKER, u64::MAX, GC_WORKER_POINT).unwrap();
        }
        let _ = pd.get_members(pdpb::GetMembersRequest::default()).await.unwrap();
        Self { standin, pd, tikv, last_tso: (0, 0) }
    }

    /// Answers as encoded bytes.
    async fn ask(&mut self, entry: &Value) -> Result<Vec<u8>, Status> {
        let request = bytes_of(entry, "request_bytes");
        let want = bytes_of(entry, "response_bytes");
        macro_rules! unary {
            ($client:ident . $method:ident) => {
                // A `Request` tells the compiler which message it is.
                self.$client
                    .$method(tonic::Request::new(decode(&request)))
                    .await
                    .map(|r| r.into_inner().encode_to_vec())
            };
        }
        match entry["method"].as_str().unwrap() {
            "/pdpb.PD/GetMembers" => {
                let mut reply = self.pd.get_members(decode::<pdpb::GetMembersRequest>(&request)).await?.into_inner();
                let want: pdpb::GetMembersResponse = decode(&want);
                let recorded = want.leader.unwrap();
                let ours = self.standin.shared.pd_url.clone();
                for member in reply.members.iter_mut().chain(&mut reply.leader).chain(&mut reply.etcd_leader) {
                    assert_eq!(member.client_urls[0], ours, "leads back to the stand-in");
                    member.client_urls = recorded.client_urls.clone();
                    member.peer_urls = recorded.peer_urls.clone();
                }
                Ok(reply.encode_to_vec())
            }
            "/pdpb.PD/GetAllStores" => {
                let mut reply =
                    self.pd.get_all_stores(decode::<pdpb::GetAllStoresRequest>(&request)).await?.into_inner();
                let want: pdpb::GetAllStoresResponse = decode(&want);
                assert_eq!(reply.stores[0].address, self.standin.shared.tikv_addr);
                reply.stores[0].address = want.stores[0].address.clone();
                reply.stores[0].last_heartbeat = want.stores[0].last_heartbeat;
                Ok(reply.encode_to_vec())
            }
            "/pdpb.PD/GetStore" => {
                let mut reply = self.pd.get_store(decode::<pdpb::GetStoreRequest>(&request)).await?.into_inner();
                let want: pdpb::GetStoreResponse = decode(&want);
                if let (Some(ours), Some(recorded)) = (&mut reply.store, want.store) {
                    ours.address = recorded.address;
                    ours.last_heartbeat = recorded.last_heartbeat;
                }
                Ok(reply.encode_to_vec())
            }
            "/pdpb.PD/Tso" => {
                let request: pdpb::TsoRequest = decode(&request);
                let count = request.count;
                let mut stream = self.pd.tso(tokio_stream::once(request)).await?.into_inner();
                let mut reply = stream.message().await?.expect("an answer");
                let got = reply.timestamp.expect("a timestamp");
                let (physical, logical) = self.last_tso;
                let first = got.logical - i64::from(count) + 1;
                assert!((got.physical, first) > (physical, logical), "all {count} are new");
                self.last_tso = (got.physical, got.logical);
                reply.timestamp = decode::<pdpb::TsoResponse>(&want).timestamp;
                Ok(reply.encode_to_vec())
            }
            "/pdpb.PD/UpdateServiceGCSafePoint" => {
                let request = decode::<pdpb::UpdateServiceGcSafePointRequest>(&request);
                let mut reply = self.pd.update_service_gc_safe_point(request).await?.into_inner();
                let now = i64::try_from(binlog_standin::tso::wall_ms() / 1_000).unwrap();
                assert!(
                    (0..600).contains(&(now - (i64::MAX - reply.ttl))),
                    "expires at the end of time: {}",
                    reply.ttl
                );
                reply.ttl = decode::<pdpb::UpdateServiceGcSafePointResponse>(&want).ttl;
                Ok(reply.encode_to_vec())
            }
            "/pdpb.PD/GetRegion" => unary!(pd.get_region),
            "/pdpb.PD/ScanRegions" => unary!(pd.scan_regions),
            "/pdpb.PD/GetGCSafePoint" => unary!(pd.get_gc_safe_point),
            "/pdpb.PD/GetClusterConfig" => unary!(pd.get_cluster_config),
            "/tikvpb.Tikv/KvGet" => unary!(tikv.kv_get),
            "/tikvpb.Tikv/KvScan" => unary!(tikv.kv_scan),
            "/tikvpb.Tikv/KvCheckTxnStatus" => unary!(tikv.kv_check_txn_status),
            "/tikvpb.Tikv/MvccGetByKey" => unary!(tikv.mvcc_get_by_key),
            "/tikvpb.Tikv/KvPrewrite" => {
                let request = &entry["request"];
                let (key, primary) = (blob(&request["mutations"][0]["key"]), blob(&request["primary_lock"]));
                let (start_ts, ttl) = (number(&request["start_version"]), number(&request["lock_ttl"]));
                let row = [(key, Mutation::Put(STORED_ROW.into()))];
                self.standin.shared.tikv().prewrite(&row, &primary, start_ts, ttl).unwrap();
                Ok(Vec::new())
            }
            "/tikvpb.Tikv/KvCommit" => {
                let request = &entry["request"];
                let (start_ts, commit_ts) = (number(&request["start_version"]), number(&request["commit_version"]));
                self.standin.shared.tikv().commit(&[blob(&request["keys"][0])], start_ts, commit_ts).unwrap();
                Ok(Vec::new())
            }
            "/tikvpb.Tikv/KvBatchRollback" => {
                let request = &entry["request"];
                let keys = [blob(&request["keys"][0])];
                self.standin.shared.tikv().rollback(&keys, number(&request["start_version"])).unwrap();
                Ok(Vec::new())
            }
            other => panic!("no client for {other}"),
        }
    }
}

#[tokio::test]
async fn every_recorded_request_gets_its_recorded_answer() {
    let entries: Vec<Value> = serde_json::from_str(include_str!("data/replies.json")).unwrap();
    let mut peer = Peer::start().await;
    // The recorded cluster had more meta keys than the scan shows; these are what it shows.
    for pair in entries.iter().find(|e| e["name"] == "scan meta").unwrap()["response"]["pairs"].as_array().unwrap() {
        peer.standin.shared.put_loaded(&blob(&pair["key"]), blob(&pair["value"])).unwrap();
    }
    peer.standin.shared.put_loaded(b"mZZZ", b"beyond the limit".to_vec()).unwrap();
    let mut exact = BTreeSet::new();
    for (n, entry) in entries.iter().enumerate() {
        let name = entry["name"].as_str().unwrap();
        let got = peer.ask(entry).await;
        if let Some(error) = entry["error"].as_str() {
            let status = got.expect_err(name);
            let text = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
            assert_eq!(text, error, "entry {n}, {name}");
            assert_eq!(status.code(), Code::FailedPrecondition);
        } else {
            let got = got.unwrap_or_else(|status| panic!("entry {n}, {name}: {status}"));
            let want = bytes_of(entry, "response_bytes");
            assert_eq!(got, want, "entry {n}, {name}\nrecorded: {}", entry["response"]);
        }
        let recorders_own = ["KvPrewrite", "KvCommit", "KvBatchRollback"];
        if !MAPPED.contains(&name) && !recorders_own.iter().any(|m| entry["method"].as_str().unwrap().ends_with(m)) {
            exact.insert(name);
        }
    }
    assert_eq!(entries.len(), 49, "a new recording needs a look at MAPPED");
    assert_eq!(exact.len(), 29, "compared byte for byte: {exact:#?}");
}

#[tokio::test]
async fn the_clock_is_away_during_a_feed() {
    let mut peer = Peer::start().await;
    let request = || pdpb::TsoRequest {
        header: Some(pdpb::RequestHeader { cluster_id: CLUSTER, sender_id: 0 }),
        count: 1,
        dc_location: String::new(),
    };
    peer.standin.shared.tso().outage();
    let outcome = match peer.pd.tso(tokio_stream::once(request())).await {
        Ok(mut stream) => stream.get_mut().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(outcome.unwrap_err().code(), Code::Unavailable);
    peer.standin.shared.tso().resume();
    let mut stream = peer.pd.tso(tokio_stream::once(request())).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
}
