//! The TiKV service: requests are checked against the region that they name, then answered by the model.

use crate::{Shared, regions};
use binlog_cluster::generated::tikvpb::tikv_server::Tikv;
use binlog_core::proto::kvrpcpb::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, Context, GetRequest, GetResponse, MvccGetByKeyRequest,
    MvccGetByKeyResponse, ScanRequest, ScanResponse,
};
use binlog_core::proto::{errorpb, metapb};
use binlog_sim_models::tikv::Snapshot;
use binlog_sim_models::wire;
use bytes::Bytes;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Most pairs of one scan, whatever is asked for (TiKV's clients ask for 256 to 10,240).
const MAX_SCAN: u32 = 10_240;

pub struct TikvService(pub Arc<Shared>);

impl TikvService {
    /// The region that a request for a raw key names, or the error in place of an answer: one that was asked for, or one
    /// that the request deserves. Waits, or ends the call, while TiKV is away.
    async fn admit(
        &self,
        method: &'static str,
        context: Option<&Context>,
        raw_key: &[u8],
    ) -> Result<Result<metapb::Region, Box<errorpb::Error>>, Status> {
        self.0.faults.admit(method).await?;
        if let Some(trouble) = self.0.faults.next_trouble() {
            return Ok(Err(Box::new(trouble.error(context))));
        }
        Ok(regions::check(context, raw_key))
    }
}

fn snapshot(context: Option<&Context>, version: u64) -> Snapshot<'_> {
    Snapshot {
        version,
        resolved: context.map_or(&[], |c| &c.resolved_locks),
        committed: context.map_or(&[], |c| &c.committed_locks),
    }
}

#[tonic::async_trait]
impl Tikv for TikvService {
    async fn kv_get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let request = request.into_inner();
        let mut reply = GetResponse::default();
        match self.admit("KvGet", request.context.as_ref(), &request.key).await? {
            Err(error) => reply.region_error = Some(*error),
            Ok(_) => match self.0.tikv().get(&request.key, snapshot(request.context.as_ref(), request.version)) {
                Ok(Some(value)) => reply.value = value,
                // The recorded store leaves `not_found` unset as well: an empty value says it.
                Ok(None) => {}
                Err(error) => reply.error = Some(wire::key_error(&request.key, request.version, &error)),
            },
        }
        Ok(Response::new(reply))
    }

    async fn kv_scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let request = request.into_inner();
        let mut reply = ScanResponse::default();
        // In reverse `start_key` is the excluded upper end and `end_key` the lower one.
        let checked = if request.reverse { &request.end_key } else { &request.start_key };
        match self.admit("KvScan", request.context.as_ref(), checked).await? {
            Err(error) => reply.region_error = Some(*error),
            Ok(region) => {
                let region_end = regions::raw_end(region.id);
                let (lower, upper) = if request.reverse {
                    (&request.end_key, &request.start_key)
                } else {
                    (&request.start_key, &request.end_key)
                };
                let upper = Some(upper.as_ref()).filter(|end: &&[u8]| !end.is_empty());
                let upper = match (upper, region_end) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                let lower = lower.as_ref().max(regions::raw_start(region.id));
                let at = snapshot(request.context.as_ref(), request.version);
                let limit = request.limit.min(MAX_SCAN) as usize;
                match self.0.tikv().scan_at(lower, upper, limit, at, request.reverse) {
                    Ok(pairs) => reply.pairs = pairs.into_iter().map(|p| wire::pair(p, request.version)).collect(),
                    Err(error) => reply.error = Some(wire::key_error(lower, request.version, &error)),
                }
                if request.key_only {
                    for pair in &mut reply.pairs {
                        pair.value = Bytes::new();
                    }
                }
            }
        }
        Ok(Response::new(reply))
    }

    async fn kv_check_txn_status(
        &self,
        request: Request<CheckTxnStatusRequest>,
    ) -> Result<Response<CheckTxnStatusResponse>, Status> {
        let request = request.into_inner();
        let admitted = self.admit("KvCheckTxnStatus", request.context.as_ref(), &request.primary_key).await?;
        Ok(Response::new(match admitted {
            Err(error) => CheckTxnStatusResponse { region_error: Some(*error), ..Default::default() },
            Ok(_) => {
                let status = self.0.tikv().check_txn_status(
                    &request.primary_key,
                    request.lock_ts,
                    request.current_ts,
                    request.rollback_if_not_exist,
                );
                wire::status(&request.primary_key, request.lock_ts, status)
            }
        }))
    }

    async fn mvcc_get_by_key(
        &self,
        request: Request<MvccGetByKeyRequest>,
    ) -> Result<Response<MvccGetByKeyResponse>, Status> {
        let request = request.into_inner();
        let mut reply = MvccGetByKeyResponse::default();
        match self.admit("MvccGetByKey", request.context.as_ref(), &request.key).await? {
            Err(error) => reply.region_error = Some(*error),
            Ok(_) => reply.info = Some(wire::mvcc(&self.0.tikv().mvcc(&request.key))),
        }
        Ok(Response::new(reply))
    }
}
