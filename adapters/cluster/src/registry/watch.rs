//! Following the registry: a listing, then every change after it (spec pump 8.2).

use super::{MAX_LISTING, NodeKind, REQUEST_TIMEOUT, Registry, decode, timeout};
use crate::error::{RegistryError, chain_of};
use binlog_core::node::status::NodeStatus;
use etcd_client::{GetOptions, WatchOptions, WatchStream};
use std::collections::VecDeque;

/// Changes of the entries of one kind.
pub struct Watch {
    stream: WatchStream,
    changed: VecDeque<NodeStatus>,
}

impl Registry {
    /// All nodes of a kind, and what changes from there on.
    ///
    /// # Errors
    /// As [`Registry::list`].
    pub async fn watch(&self, kind: NodeKind) -> Result<(Vec<NodeStatus>, Watch), RegistryError> {
        let reply = self
            .request("list", |mut kv| async move { kv.get(kind.prefix(), Some(GetOptions::new().with_prefix())).await })
            .await?;
        let statuses = reply.kvs().iter().map(|kv| decode(kv.key(), kv.value())).collect::<Result<_, _>>()?;
        // etcd never answers without a header; from 0 on it watches from now.
        let next = reply.header().map_or(0, |header| header.revision() + 1);
        let (generation, client) = self.inner.connection().await?;
        let options = WatchOptions::new().with_prefix().with_start_revision(next);
        let mut watcher = client.watch_client().max_decoding_message_size(MAX_LISTING);
        match tokio::time::timeout(REQUEST_TIMEOUT, watcher.watch(kind.prefix(), Some(options))).await {
            Ok(Ok(stream)) => Ok((statuses, Watch { stream, changed: VecDeque::new() })),
            Ok(Err(e)) => {
                self.inner.failed(generation).await;
                Err(RegistryError::Etcd(chain_of(&e)))
            }
            Err(_) => {
                self.inner.failed(generation).await;
                Err(timeout("watch"))
            }
        }
    }
}

impl Watch {
    /// The next entry that was written. A deletion is passed over, as TiDB's client does; an entry that is no status is said
    /// and passed over: its node is as it was.
    ///
    /// # Errors
    /// The watch is over (connection lost, revisions compacted): list again.
    pub async fn next(&mut self) -> Result<NodeStatus, RegistryError> {
        loop {
            if let Some(status) = self.changed.pop_front() {
                return Ok(status);
            }
            let reply = self.stream.message().await.map_err(|e| RegistryError::Etcd(chain_of(&e)))?;
            let Some(reply) = reply.filter(|reply| !reply.canceled()) else {
                return Err(RegistryError::Etcd("the watch ended".to_owned()));
            };
            for kv in reply.events().iter().filter_map(etcd_client::Event::kv).filter(|kv| !kv.value().is_empty()) {
                match decode(kv.key(), kv.value()) {
                    Ok(status) => self.changed.push_back(status),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        }
    }
}
