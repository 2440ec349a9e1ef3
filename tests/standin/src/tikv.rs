//! The TiKV service: requests are checked against the region that they name, then answered from the store.

use crate::store::Snapshot;
use crate::{Shared, regions};
use binlog_cluster::generated::tikvpb::tikv_server::Tikv;
use binlog_core::proto::kvrpcpb::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, Context, GetRequest, GetResponse, MvccGetByKeyRequest,
    MvccGetByKeyResponse, ScanRequest, ScanResponse,
};
use bytes::Bytes;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct TikvService(pub Arc<Shared>);

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
        match regions::check(request.context.as_ref(), &request.key) {
            Err(error) => reply.region_error = Some(*error),
            Ok(_) => match self.0.store().get(&request.key, snapshot(request.context.as_ref(), request.version)) {
                Ok(Some(value)) => reply.value = value,
                // The recorded store leaves `not_found` unset as well: an empty value says it.
                Ok(None) => {}
                Err(error) => reply.error = Some(*error),
            },
        }
        Ok(Response::new(reply))
    }

    async fn kv_scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let request = request.into_inner();
        let mut reply = ScanResponse::default();
        // In reverse `start_key` is the excluded upper end and `end_key` the lower one.
        let checked = if request.reverse { &request.end_key } else { &request.start_key };
        match regions::check(request.context.as_ref(), checked) {
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
                reply.pairs = self.0.store().scan(
                    lower,
                    upper,
                    request.limit,
                    snapshot(request.context.as_ref(), request.version),
                    request.reverse,
                );
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
        Ok(Response::new(match regions::check(request.context.as_ref(), &request.primary_key) {
            Err(error) => CheckTxnStatusResponse { region_error: Some(*error), ..Default::default() },
            Ok(_) => self.0.store().check_txn_status(
                &request.primary_key,
                request.lock_ts,
                request.current_ts,
                request.rollback_if_not_exist,
            ),
        }))
    }

    async fn mvcc_get_by_key(
        &self,
        request: Request<MvccGetByKeyRequest>,
    ) -> Result<Response<MvccGetByKeyResponse>, Status> {
        let request = request.into_inner();
        let mut reply = MvccGetByKeyResponse::default();
        match regions::check(request.context.as_ref(), &request.key) {
            Err(error) => reply.region_error = Some(*error),
            Ok(_) => reply.info = Some(self.0.store().mvcc(&request.key)),
        }
        Ok(Response::new(reply))
    }
}
