//! The limit that history is measured against: a server that reads the same files from beginning to end and sends what it
//! reads, cut into items of one size, without looking at it.

use anyhow::{Context, Result};
use binlog_cluster::generated::binlog::pump_server::{Pump, PumpServer};
use binlog_core::proto::binlog::{Entity, Meta, Pos, PullBinlogReq, PullBinlogResp, WriteBinlogReq, WriteBinlogResp};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

pub struct Plain {
    pub dir: PathBuf,
    pub item: usize,
}

impl Plain {
    pub async fn serve(self, address: &str) -> Result<()> {
        let address = address.parse().context("address")?;
        Ok(tonic::transport::Server::builder().add_service(PumpServer::new(self)).serve(address).await?)
    }

    fn read(dir: PathBuf, item: usize, out: &tokio::sync::mpsc::Sender<Vec<PullBinlogResp>>) -> std::io::Result<()> {
        let mut names: Vec<_> = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        names.sort();
        for name in names {
            let file = File::open(name)?;
            let mut at = 0;
            loop {
                let mut piece = vec![0; PIECE];
                let read = file.read_at(&mut piece, at)?;
                if read == 0 {
                    break;
                }
                at += read as u64;
                piece.truncate(read);
                let piece = Bytes::from(piece);
                let cuts = (0..read).step_by(item).map(|from| response(piece.slice(from..read.min(from + item))));
                if out.blocking_send(cuts.collect()).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn response(payload: Bytes) -> PullBinlogResp {
    let meta = Some(Meta { start_ts: 1, commit_ts: 2 });
    PullBinlogResp { entity: Some(Entity { pos: Some(Pos::default()), payload, checksum: Bytes::new(), meta }) }
}

#[tonic::async_trait]
impl Pump for Plain {
    async fn write_binlog(&self, _: Request<WriteBinlogReq>) -> Result<Response<WriteBinlogResp>, Status> {
        Ok(Response::new(WriteBinlogResp::default()))
    }

    type PullBinlogsStream = BoxStream<'static, Result<PullBinlogResp, Status>>;

    async fn pull_binlogs(&self, _: Request<PullBinlogReq>) -> Result<Response<Self::PullBinlogsStream>, Status> {
        let (send, receive) = tokio::sync::mpsc::channel(4);
        let (dir, item) = (self.dir.clone(), self.item);
        std::thread::spawn(move || Self::read(dir, item, &send));
        let pieces = tokio_stream::wrappers::ReceiverStream::new(receive);
        let items = futures::StreamExt::flat_map(pieces, futures::stream::iter);
        Ok(Response::new(Box::pin(items.map(Ok))))
    }
}

/// The argument that makes this program the plain server.
pub const SERVE_PLAIN: &str = "serve-plain";

const PIECE: usize = 512 << 10;
