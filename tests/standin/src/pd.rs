//! The PD service. Every call but GetMembers must name the right cluster. Nothing is answered while PD is away.

use crate::{Shared, regions};
use binlog_cluster::generated::pdpb::pd_server::Pd;
use binlog_core::proto::metapb::{Cluster, Store};
use binlog_core::proto::pdpb::{
    Error, ErrorType, GetAllStoresRequest, GetAllStoresResponse, GetClusterConfigRequest, GetClusterConfigResponse,
    GetGcSafePointRequest, GetGcSafePointResponse, GetMembersRequest, GetMembersResponse, GetRegionRequest,
    GetRegionResponse, GetStoreRequest, GetStoreResponse, Member, Region, RequestHeader, ResponseHeader,
    ScanRegionsRequest, ScanRegionsResponse, StoreStats, Timestamp, TsoRequest, TsoResponse,
    UpdateServiceGcSafePointRequest, UpdateServiceGcSafePointResponse,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

const MEMBER_ID: u64 = 1_195_652_401_135_625_978;
const CAPACITY: u64 = 2 << 30;
const AVAILABLE: u64 = 1 << 30;
/// Most regions of one ScanRegions without a limit.
const MAX_REGIONS: usize = 1_000;

pub struct PdService(pub Arc<Shared>);

impl PdService {
    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { cluster_id: self.0.cluster_id(), error: None })
    }

    fn check(&self, header: Option<&RequestHeader>) -> Result<(), Status> {
        check_cluster(&self.0, header)
    }

    fn store(&self) -> Store {
        Store {
            id: regions::STORE_ID,
            address: self.0.tikv_addr.clone(),
            last_heartbeat: self.0.started_ns,
            ..Default::default()
        }
    }
}

fn away() -> Status {
    Status::unavailable("PD is away")
}

fn check_cluster(shared: &Shared, header: Option<&RequestHeader>) -> Result<(), Status> {
    if !shared.tso().is_up() {
        return Err(away());
    }
    let (need, got) = (shared.cluster_id(), header.map_or(0, |h| h.cluster_id));
    if need == got {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("mismatch cluster id, need {need} but got {got}")))
}

#[tonic::async_trait]
impl Pd for PdService {
    async fn get_members(&self, _: Request<GetMembersRequest>) -> Result<Response<GetMembersResponse>, Status> {
        if !self.0.tso().is_up() {
            return Err(away());
        }
        let member = Member {
            name: "pd".into(),
            member_id: MEMBER_ID,
            // Nobody talks to it: there is one member.
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            client_urls: vec![self.0.pd_url.clone()],
            ..Default::default()
        };
        Ok(Response::new(GetMembersResponse {
            header: self.header(),
            members: vec![member.clone()],
            leader: Some(member.clone()),
            etcd_leader: Some(member),
        }))
    }

    type TsoStream = BoxStream<'static, Result<TsoResponse, Status>>;

    async fn tso(&self, request: Request<Streaming<TsoRequest>>) -> Result<Response<Self::TsoStream>, Status> {
        let shared = self.0.clone();
        let replies = request.into_inner().map(move |request| {
            let request = request?;
            check_cluster(&shared, request.header.as_ref())?;
            if request.count == 0 {
                return Err(Status::unknown("tso count should be positive"));
            }
            let (physical, logical) = shared
                .tso()
                .get(request.count)
                .ok_or_else(|| Status::unavailable("the clock is stopped for a feed"))?;
            Ok(TsoResponse {
                header: Some(ResponseHeader { cluster_id: shared.cluster_id(), error: None }),
                count: request.count,
                timestamp: Some(Timestamp { physical, logical, suffix_bits: 0 }),
            })
        });
        // The first error ends the stream, as a status does.
        let replies = replies.scan(false, |ended, reply| {
            let item = if *ended { None } else { Some(reply) };
            *ended = item.as_ref().is_some_and(Result::is_err);
            futures::future::ready(item)
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn get_store(&self, request: Request<GetStoreRequest>) -> Result<Response<GetStoreResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        if request.store_id != regions::STORE_ID {
            let error = Error {
                r#type: ErrorType::Unknown as i32,
                message: format!("invalid store ID {}, not found", request.store_id),
            };
            let header = Some(ResponseHeader { cluster_id: self.0.cluster_id(), error: Some(error) });
            return Ok(Response::new(GetStoreResponse { header, ..Default::default() }));
        }
        let stats = StoreStats {
            store_id: regions::STORE_ID,
            capacity: CAPACITY,
            available: AVAILABLE,
            region_count: u32::try_from(regions::all().len()).unwrap_or(0),
        };
        Ok(Response::new(GetStoreResponse { header: self.header(), store: Some(self.store()), stats: Some(stats) }))
    }

    async fn get_all_stores(
        &self,
        request: Request<GetAllStoresRequest>,
    ) -> Result<Response<GetAllStoresResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        Ok(Response::new(GetAllStoresResponse { header: self.header(), stores: vec![self.store()] }))
    }

    async fn get_region(&self, request: Request<GetRegionRequest>) -> Result<Response<GetRegionResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let region = regions::of_encoded(&request.region_key);
        let leader = region.as_ref().and_then(regions::leader);
        Ok(Response::new(GetRegionResponse { header: self.header(), region, leader, ..Default::default() }))
    }

    async fn scan_regions(
        &self,
        request: Request<ScanRegionsRequest>,
    ) -> Result<Response<ScanRegionsResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let limit = usize::try_from(request.limit).ok().filter(|&n| n > 0).unwrap_or(MAX_REGIONS);
        let metas: Vec<_> = regions::all()
            .into_iter()
            .filter(|r| r.end_key.is_empty() || r.end_key > request.start_key)
            .filter(|r| request.end_key.is_empty() || r.start_key < request.end_key)
            .take(limit)
            .collect();
        Ok(Response::new(ScanRegionsResponse {
            header: self.header(),
            leaders: metas.iter().filter_map(regions::leader).collect(),
            regions: metas
                .iter()
                .map(|region| Region { region: Some(region.clone()), leader: regions::leader(region) })
                .collect(),
            region_metas: metas,
        }))
    }

    async fn get_cluster_config(
        &self,
        request: Request<GetClusterConfigRequest>,
    ) -> Result<Response<GetClusterConfigResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        let cluster = Some(Cluster { id: self.0.cluster_id(), max_peer_count: 3 });
        Ok(Response::new(GetClusterConfigResponse { header: self.header(), cluster }))
    }

    async fn get_gc_safe_point(
        &self,
        request: Request<GetGcSafePointRequest>,
    ) -> Result<Response<GetGcSafePointResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        let safe_point = self.0.tso().model().0.gc_safe_point().map_err(|_| away())?;
        Ok(Response::new(GetGcSafePointResponse { header: self.header(), safe_point }))
    }

    async fn update_service_gc_safe_point(
        &self,
        request: Request<UpdateServiceGcSafePointRequest>,
    ) -> Result<Response<UpdateServiceGcSafePointResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let service = String::from_utf8_lossy(&request.service_id);
        // A TTL below 0 removes as well.
        let ttl = u64::try_from(request.ttl).unwrap_or(0);
        let mut clock = self.0.tso();
        let (model, now_ms) = clock.model();
        let smallest =
            model.update_service_safe_point(now_ms, &service, ttl, request.safe_point).map_err(|_| away())?;
        drop(clock);
        Ok(Response::new(UpdateServiceGcSafePointResponse {
            header: self.header(),
            service_id: smallest.service.into(),
            ttl: i64::try_from(smallest.ttl_seconds).unwrap_or(i64::MAX),
            min_safe_point: smallest.safe_point,
        }))
    }
}
