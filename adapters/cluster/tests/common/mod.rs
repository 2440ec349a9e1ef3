//! A PD and TiKV in the test's process which answer with the recorded bytes of real ones.
#![allow(dead_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use binlog_cluster::generated::pdpb::pd_server::{Pd, PdServer};
use binlog_cluster::generated::tikvpb::tikv_server::{Tikv, TikvServer};
use binlog_core::proto::{kvrpcpb, metapb, pdpb};
use prost::Message;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

pub const CLUSTER: u64 = 7_710_470_937_905_117_241;

pub struct Recorded {
    pub name: String,
    pub method: String,
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub error: Option<String>,
}

pub fn recorded() -> Vec<Recorded> {
    let all: Vec<serde_json::Value> = serde_json::from_str(include_str!("../data/replies.json")).unwrap();
    all.into_iter()
        .map(|entry| {
            let bytes = |field: &str| STANDARD.decode(entry[field].as_str().unwrap_or_default()).unwrap();
            Recorded {
                name: entry["name"].as_str().unwrap().to_owned(),
                method: entry["method"].as_str().unwrap().to_owned(),
                request: bytes("request_bytes"),
                response: bytes("response_bytes"),
                error: entry["error"].as_str().map(str::to_owned),
            }
        })
        .collect()
}

pub fn by_name(name: &str) -> Recorded {
    recorded().into_iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no recorded reply {name:?}"))
}

/// Answers a method (its last path element) before the recorded replies are consulted.
pub type Hook = Box<dyn FnMut(&str, &[u8]) -> Option<Result<Vec<u8>, Status>> + Send>;

/// One process that is PD and TiKV.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    pub url: String,
    process: Arc<Process>,
}

/// A runtime of its own: stopping it ends every connection at once, as a killed process does.
struct Process(Mutex<Option<tokio::runtime::Runtime>>);

impl Process {
    fn stop(&self) {
        if let Some(runtime) = self.0.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Shared {
    recorded: Vec<Recorded>,
    hook: Mutex<Option<Hook>>,
    members: Mutex<pdpb::GetMembersResponse>,
    address: Mutex<String>,
    /// The last timestamp that was handed out.
    pub clock: AtomicU64,
    calls: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Cluster {
    pub async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let url = format!("http://{address}");
        let shared = Arc::new(Shared {
            recorded: recorded(),
            hook: Mutex::new(None),
            members: Mutex::new(members(CLUSTER, &[&url], Some(&url))),
            address: Mutex::new(address),
            clock: AtomicU64::new(470_609_800_947_826_691),
            calls: Mutex::new(Vec::new()),
        });
        let node = Node(Arc::clone(&shared));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(PdServer::new(node.clone()))
                .add_service(TikvServer::new(node))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self { shared, url, process: Arc::new(Process(Mutex::new(Some(runtime)))) }
    }

    /// As SIGKILL does.
    pub fn stop(&self) {
        self.process.stop();
    }

    pub fn hook(&self, hook: impl FnMut(&str, &[u8]) -> Option<Result<Vec<u8>, Status>> + Send + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub fn set_members(&self, reply: pdpb::GetMembersResponse) {
        *self.shared.members.lock().unwrap() = reply;
    }

    pub fn set_clock(&self, ts: u64) {
        self.shared.clock.store(ts, Ordering::SeqCst);
    }

    pub fn clock_handle(&self) -> impl Fn(u64) + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move |ts| shared.clock.store(ts, Ordering::SeqCst)
    }

    /// Requests of one method so far, as bytes.
    pub fn calls(&self, method: &str) -> Vec<Vec<u8>> {
        let calls = self.shared.calls.lock().unwrap();
        calls.iter().filter(|(m, _)| m == method).map(|(_, request)| request.clone()).collect()
    }
}

pub fn members(cluster_id: u64, urls: &[&str], leader: Option<&str>) -> pdpb::GetMembersResponse {
    let member =
        |url: &str| pdpb::Member { name: "pd".to_owned(), client_urls: vec![url.to_owned()], ..Default::default() };
    pdpb::GetMembersResponse {
        header: Some(pdpb::ResponseHeader { cluster_id, error: None }),
        members: urls.iter().map(|u| member(u)).collect(),
        leader: leader.map(member),
        etcd_leader: None,
    }
}

#[derive(Clone)]
struct Node(Arc<Shared>);

impl Node {
    fn reply<Req: Message + std::fmt::Debug, Resp: Message + Default>(
        &self,
        method: &str,
        request: &Req,
    ) -> Result<Response<Resp>, Status> {
        let bytes = request.encode_to_vec();
        self.0.calls.lock().unwrap().push((method.to_owned(), bytes.clone()));
        if let Some(hook) = self.0.hook.lock().unwrap().as_mut()
            && let Some(reply) = hook(method, &bytes)
        {
            return reply.map(|bytes| Response::new(Resp::decode(bytes.as_slice()).unwrap()));
        }
        let found = self.0.recorded.iter().find(|r| r.method.ends_with(&format!("/{method}")) && r.request == bytes);
        match found {
            Some(Recorded { error: Some(error), .. }) => {
                let message = error.split("desc = ").last().unwrap();
                assert!(error.contains("FailedPrecondition"), "{error}");
                Err(Status::failed_precondition(message))
            }
            Some(r) => Ok(Response::new(Resp::decode(r.response.as_slice()).unwrap())),
            None => Err(Status::unimplemented(format!("{method}: nothing recorded for {request:?}"))),
        }
    }

    /// The recorded regions, by key.
    fn region(&self, key: &[u8]) -> pdpb::GetRegionResponse {
        let regions = self.0.recorded.iter().filter(|r| r.method.ends_with("/GetRegion"));
        let mut regions: Vec<_> =
            regions.map(|r| pdpb::GetRegionResponse::decode(r.response.as_slice()).unwrap()).collect();
        regions.retain(|r| {
            let region: &metapb::Region = r.region.as_ref().unwrap();
            region.start_key.as_ref() <= key && (region.end_key.is_empty() || key < region.end_key.as_ref())
        });
        regions.pop().unwrap_or_else(|| pdpb::GetRegionResponse {
            header: Some(pdpb::ResponseHeader { cluster_id: CLUSTER, error: None }),
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl Pd for Node {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        Ok(Response::new(self.0.members.lock().unwrap().clone()))
    }

    type TsoStream = Pin<Box<dyn Stream<Item = Result<pdpb::TsoResponse, Status>> + Send>>;

    async fn tso(&self, request: Request<Streaming<pdpb::TsoRequest>>) -> Result<Response<Self::TsoStream>, Status> {
        let node = self.clone();
        let mut requests = request.into_inner();
        let (replies, stream) = tokio::sync::mpsc::channel(1);
        // As PD does: no headers before the first request.
        let first = requests.next().await.ok_or_else(|| Status::cancelled("no request"))?;
        tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(Ok(request)) = next {
                let bytes = request.encode_to_vec();
                node.0.calls.lock().unwrap().push(("Tso".to_owned(), bytes.clone()));
                let hooked = node.0.hook.lock().unwrap().as_mut().and_then(|hook| hook("Tso", &bytes));
                let reply = match hooked {
                    Some(reply) => reply.map(|bytes| pdpb::TsoResponse::decode(bytes.as_slice()).unwrap()),
                    None if request.header.unwrap_or_default().cluster_id != CLUSTER => {
                        Err(Status::failed_precondition("mismatch cluster id, need 7710470937905117241 but got 42"))
                    }
                    None => {
                        let count = u64::from(request.count);
                        let last = node.0.clock.fetch_add(count, Ordering::SeqCst) + count;
                        Ok(pdpb::TsoResponse {
                            header: Some(pdpb::ResponseHeader { cluster_id: CLUSTER, error: None }),
                            count: request.count,
                            timestamp: Some(pdpb::Timestamp {
                                physical: i64::try_from(last >> 18).unwrap(),
                                logical: i64::try_from(last & 0x3_ffff).unwrap(),
                                suffix_bits: 0,
                            }),
                        })
                    }
                };
                let over = reply.is_err();
                if replies.send(reply).await.is_err() || over {
                    return;
                }
                next = requests.next().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_store(&self, r: Request<pdpb::GetStoreRequest>) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        let mut reply: Response<pdpb::GetStoreResponse> = self.reply("GetStore", r.get_ref())?;
        if let Some(store) = &mut reply.get_mut().store {
            store.address.clone_from(&self.0.address.lock().unwrap());
        }
        Ok(reply)
    }

    async fn get_all_stores(
        &self,
        r: Request<pdpb::GetAllStoresRequest>,
    ) -> Result<Response<pdpb::GetAllStoresResponse>, Status> {
        let recorded_as = pdpb::GetAllStoresRequest { exclude_tombstone_stores: false, ..r.into_inner() };
        self.reply("GetAllStores", &recorded_as)
    }

    async fn get_region(
        &self,
        r: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        match self.reply("GetRegion", r.get_ref()) {
            Err(e) if e.code() == tonic::Code::Unimplemented => Ok(Response::new(self.region(&r.get_ref().region_key))),
            reply => reply,
        }
    }

    async fn scan_regions(
        &self,
        r: Request<pdpb::ScanRegionsRequest>,
    ) -> Result<Response<pdpb::ScanRegionsResponse>, Status> {
        self.reply("ScanRegions", r.get_ref())
    }

    async fn get_cluster_config(
        &self,
        r: Request<pdpb::GetClusterConfigRequest>,
    ) -> Result<Response<pdpb::GetClusterConfigResponse>, Status> {
        self.reply("GetClusterConfig", r.get_ref())
    }

    async fn get_gc_safe_point(
        &self,
        r: Request<pdpb::GetGcSafePointRequest>,
    ) -> Result<Response<pdpb::GetGcSafePointResponse>, Status> {
        self.reply("GetGCSafePoint", r.get_ref())
    }

    async fn update_service_gc_safe_point(
        &self,
        r: Request<pdpb::UpdateServiceGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateServiceGcSafePointResponse>, Status> {
        self.reply("UpdateServiceGCSafePoint", r.get_ref())
    }
}

#[tonic::async_trait]
impl Tikv for Node {
    async fn kv_get(&self, r: Request<kvrpcpb::GetRequest>) -> Result<Response<kvrpcpb::GetResponse>, Status> {
        self.reply("KvGet", r.get_ref())
    }

    async fn kv_scan(&self, r: Request<kvrpcpb::ScanRequest>) -> Result<Response<kvrpcpb::ScanResponse>, Status> {
        self.reply("KvScan", r.get_ref())
    }

    async fn kv_check_txn_status(
        &self,
        r: Request<kvrpcpb::CheckTxnStatusRequest>,
    ) -> Result<Response<kvrpcpb::CheckTxnStatusResponse>, Status> {
        self.reply("KvCheckTxnStatus", r.get_ref())
    }

    async fn mvcc_get_by_key(
        &self,
        r: Request<kvrpcpb::MvccGetByKeyRequest>,
    ) -> Result<Response<kvrpcpb::MvccGetByKeyResponse>, Status> {
        self.reply("MvccGetByKey", r.get_ref())
    }
}
