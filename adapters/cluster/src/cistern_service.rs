//! The gRPC service `binlog.Cistern` of a Drainer (spec drainer 7.2): a new Pump announces itself with Notify and writes only
//! after the Drainer knows it. The two dump calls are obsolete and succeed with nothing.

use crate::generated::binlog::cistern_server::{Cistern, CisternServer};
use crate::receive_limit::ReceiveLimit;
use binlog_core::proto::binlog::{
    DumpBinlogReq, DumpBinlogResp, DumpDdlJobsReq, DumpDdlJobsResp, NotifyReq, NotifyResp,
};
use tokio::sync::{mpsc, oneshot};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

/// One Notify: answer once the registry was read again and every Pump in it that is not offline is a source; `Err` is the text
/// that the Pump sees. Dropped without an answer, the Pump is told that this Drainer is shutting down.
pub type Notify = oneshot::Sender<Result<(), String>>;

/// Notifies that may wait: one per Pump that starts.
pub const NOTIFY_QUEUE: usize = 128;

/// The service's end.
#[derive(Debug, Clone)]
pub struct CisternHandle {
    notifies: mpsc::Sender<Notify>,
}

/// A service and the inbox of its calls.
#[must_use]
pub fn channel() -> (CisternHandle, mpsc::Receiver<Notify>) {
    let (notifies, inbox) = mpsc::channel(NOTIFY_QUEUE);
    (CisternHandle { notifies }, inbox)
}

/// Requests of this service are empty or a few bytes.
const REQUEST_LIMIT: usize = 1 << 20;
const GONE: &str = "drainer is shutting down";

impl CisternHandle {
    #[must_use]
    pub fn service(&self) -> ReceiveLimit<CisternServer<Self>> {
        let server = CisternServer::new(self.clone())
            .max_decoding_message_size(REQUEST_LIMIT)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        ReceiveLimit::new(server, REQUEST_LIMIT)
    }
}

#[tonic::async_trait]
impl Cistern for CisternHandle {
    async fn notify(&self, _: Request<NotifyReq>) -> Result<Response<NotifyResp>, Status> {
        let (reply, answer) = oneshot::channel();
        self.notifies.send(reply).await.map_err(|_| Status::unknown(GONE))?;
        match answer.await {
            Ok(Ok(())) => Ok(Response::new(NotifyResp {})),
            Ok(Err(text)) => Err(Status::unknown(text)),
            Err(_) => Err(Status::unknown(GONE)),
        }
    }

    type DumpBinlogStream = tokio_stream::Empty<Result<DumpBinlogResp, Status>>;

    async fn dump_binlog(&self, _: Request<DumpBinlogReq>) -> Result<Response<Self::DumpBinlogStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn dump_ddl_jobs(&self, _: Request<DumpDdlJobsReq>) -> Result<Response<DumpDdlJobsResp>, Status> {
        Ok(Response::new(DumpDdlJobsResp::default()))
    }
}
