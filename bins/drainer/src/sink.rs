//! The sink's task: one session, one operation at a time, kept alive while idle.

use crate::ports::Request;
use binlog_core::drainer::input::Input;
use binlog_core::ids::OpId;
use binlog_core::sink::op::SinkOp;
use binlog_mysql::{KEEP_ALIVE_INTERVAL, MysqlSink};
use binlog_runtime::driver::Sender;
use tokio::sync::mpsc;

/// Where the ports hand operations in. The machine bounds how many are in flight.
pub type SinkQueue = mpsc::UnboundedSender<(OpId, SinkOp)>;

pub fn spawn(mut sink: MysqlSink, sender: Sender<Input, Request>) -> SinkQueue {
    let (queue, mut operations) = mpsc::unbounded_channel::<(OpId, SinkOp)>();
    tokio::spawn(async move {
        loop {
            match tokio::time::timeout(KEEP_ALIVE_INTERVAL, operations.recv()).await {
                Ok(Some((op, request))) => {
                    let result = sink.execute(request).await;
                    sender.complete(Input::SinkDone { op, result });
                }
                Ok(None) => return,
                Err(_) => {
                    // A lost session shows at the next operation, which then opens a new one.
                    if let Err(error) = sink.keep_alive().await {
                        tracing::debug!("keep-alive of the downstream session failed: {error:?}");
                    }
                }
            }
        }
    });
    queue
}
