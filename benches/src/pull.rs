//! Readers of streams, as cheap as can be: what is measured is the Pump.

use anyhow::{Context, Result};
use binlog_cluster::pump_client;
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::Binlog;
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::JoinHandle;

/// Payload bytes and items that one reader took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    pub bytes: u64,
    pub items: u64,
}

/// Reads from the beginning until the item of `until`, or to the end of the stream.
pub async fn read(address: String, cluster: ClusterId, until: u64) -> Result<Taken> {
    let mut stream = pump_client::open(&address, cluster, CommitTs::ZERO, false).await?;
    let mut taken = Taken::default();
    while let Some(item) = stream.next().await {
        let item = item?;
        taken.bytes += item.len() as u64;
        taken.items += 1;
        if until != u64::MAX && commit_ts_of(&item) >= until {
            break;
        }
    }
    Ok(taken)
}

/// When each commit came in.
pub struct Listener {
    seen: Arc<Mutex<HashMap<u64, Instant>>>,
    task: JoinHandle<Option<String>>,
}

impl Listener {
    pub async fn start(address: &str, cluster: ClusterId, from: u64) -> Result<Self> {
        let mut stream = pump_client::open(address, cluster, CommitTs::new(from), false).await?;
        let seen: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                match stream.next().await {
                    Some(Ok(item)) => {
                        let now = Instant::now();
                        notes.lock().unwrap_or_else(PoisonError::into_inner).insert(commit_ts_of(&item), now);
                    }
                    Some(Err(error)) => return Some(error.to_string()),
                    None => return None,
                }
            }
        });
        Ok(Self { seen, task })
    }

    pub fn arrived(&self, commit_ts: u64) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&commit_ts).copied()
    }

    /// Ends it; an error if the stream had ended before.
    pub async fn stop(self) -> Result<()> {
        if self.task.is_finished() {
            let why = self.task.await?.unwrap_or_else(|| "it was closed".to_owned());
            return Err(anyhow::anyhow!(why)).context("the stream ended");
        }
        self.task.abort();
        Ok(())
    }
}

/// An item ends with `tp` and `commit_ts`; only the tail is looked at, so that the reader is no bottleneck. 0: a fake.
pub fn commit_ts_of(item: &Bytes) -> u64 {
    (4..=14)
        .filter_map(|n| item.get(item.len().checked_sub(n)?..))
        .find(|tail| tail.starts_with(&[0x08, 1, 0x18]))
        .and_then(|tail| Binlog::decode(tail).ok())
        .map_or(0, |binlog| binlog.commit_ts.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::binlog::item::commit_suffix;

    #[test]
    fn the_commit_is_read_from_the_end() {
        let commit_ts = CommitTs::new(470_000_000_000_000_000);
        let mut item = vec![0xff; 100];
        item.extend_from_slice(&commit_suffix(commit_ts, &Bytes::new()));
        assert_eq!(commit_ts_of(&item.into()), 470_000_000_000_000_000);
        assert_eq!(commit_ts_of(&Bytes::from_static(b"xyz")), 0);
    }
}
