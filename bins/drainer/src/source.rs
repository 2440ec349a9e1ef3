//! One task per source: pulls from a Pump within the credit that the machine grants.

use crate::ports::Request;
use binlog_cluster::pump_client::{self, PullOptions};
use binlog_cluster::tls::Security;
use binlog_core::drainer::effect::SourceId;
use binlog_core::drainer::input::Input;
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_runtime::driver::Sender;
use std::collections::BTreeMap;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

/// The sources that are open.
pub struct Sources {
    cluster: ClusterId,
    options: PullOptions,
    sender: Sender<Input, Request>,
    open: BTreeMap<SourceId, Source>,
}

struct Source {
    /// Bytes granted since the source was opened; only rises.
    granted: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sources {
    pub fn new(cluster: ClusterId, gzip: bool, security: Security, sender: Sender<Input, Request>) -> Self {
        let options = PullOptions { gzip, security, ..PullOptions::default() };
        Self { cluster, options, sender, open: BTreeMap::new() }
    }

    pub fn open(&mut self, source: SourceId, addr: String, last: CommitTs, credit: u64) {
        // A stream that ended by itself is not closed by the machine: it opens another one.
        self.open.retain(|_, source| !source.task.is_finished());
        let (granted, grants) = watch::channel(credit);
        let (cluster, options, sender) = (self.cluster, self.options.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let error = pull(source, &addr, cluster, last, options, grants, &sender).await.err();
            sender.complete(Input::SourceClosed { source, error });
        });
        self.open.insert(source, Source { granted, task });
    }

    pub fn grant(&self, source: SourceId, bytes: u64) {
        if let Some(source) = self.open.get(&source) {
            source.granted.send_modify(|total| *total = total.saturating_add(bytes));
        }
    }

    pub fn close(&mut self, source: SourceId) {
        self.open.remove(&source);
    }
}

async fn pull(
    source: SourceId,
    addr: &str,
    cluster: ClusterId,
    last: CommitTs,
    options: PullOptions,
    mut grants: watch::Receiver<u64>,
    sender: &Sender<Input, Request>,
) -> Result<(), String> {
    let mut stream = pump_client::open_with(addr, cluster, last, options).await.map_err(|e| e.to_string())?;
    let mut taken: u64 = 0;
    loop {
        // Not reading is what holds the Pump back: the window of HTTP/2 fills.
        if grants.wait_for(|granted| *granted > taken).await.is_err() {
            return Ok(());
        }
        match stream.next().await {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(payload)) => {
                taken = taken.saturating_add(payload.len() as u64);
                sender.complete(Input::SourceItem { source, payload });
            }
        }
    }
}
