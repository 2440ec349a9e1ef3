//! The registry in PD's etcd: a linearizable map of node statuses with revisions (spec pump 4.1).
//!
//! The original's put is two requests, a read and a conditional write; here too, so that the world can put others between
//! them. Nothing is ever deleted by nodes. Every version is kept: a stale read is a read at an older revision.

use binlog_core::node::status::NodeStatus;
use std::collections::BTreeMap;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pump,
    Drainer,
}

impl Kind {
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Pump => "/tidb-binlog/v1/pumps/",
            Self::Drainer => "/tidb-binlog/v1/drainers/",
        }
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub revision: u64,
    pub key: String,
    /// As written; an operator may have put anything there.
    pub value: Vec<u8>,
}

/// What the first half of a put saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    key: String,
    existed: bool,
}

/// The key appeared between the two halves of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// In the order of revisions, which are dense from 1.
    log: Vec<Version>,
    /// Key → what its newest version says, if that is a status: read once, for all who list.
    newest: BTreeMap<String, Option<NodeStatus>>,
}

impl Registry {
    /// Revision of the newest write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.log.len() as u64
    }

    /// First half of the put primitive.
    #[must_use]
    pub fn begin_put(&self, kind: Kind, id: &str) -> Ticket {
        let key = format!("{}{id}", kind.prefix());
        let existed = self.newest.contains_key(&key);
        Ticket { key, existed }
    }

    /// Second half: the last writer wins, unless the key appeared in between.
    ///
    /// # Errors
    /// See [`Conflict`].
    pub fn finish_put(&mut self, ticket: &Ticket, status: &NodeStatus) -> Result<u64, Conflict> {
        if self.newest.contains_key(&ticket.key) != ticket.existed {
            return Err(Conflict);
        }
        Ok(self.put_raw(&ticket.key, serde_json::to_vec(status).unwrap_or_default()))
    }

    /// Both halves at once.
    pub fn put(&mut self, kind: Kind, status: &NodeStatus) -> u64 {
        let key = format!("{}{}", kind.prefix(), status.node_id);
        self.put_raw(&key, serde_json::to_vec(status).unwrap_or_default())
    }

    /// Any value under any key: what an operator with etcdctl does. Gives the revision.
    pub fn put_raw(&mut self, key: &str, value: Vec<u8>) -> u64 {
        let revision = self.revision() + 1;
        let status = serde_json::from_slice(&value).ok();
        self.newest.insert(key.to_owned(), status);
        self.log.push(Version { revision, key: key.to_owned(), value });
        revision
    }

    /// A linearizable listing, by key; one value that is no status fails it, with its key.
    ///
    /// # Errors
    /// The key of a value that does not parse.
    pub fn list(&self, kind: Kind) -> Result<Vec<NodeStatus>, String> {
        let own = self.newest.range(kind.prefix().to_owned()..).take_while(|(key, _)| key.starts_with(kind.prefix()));
        own.map(|(key, status)| status.clone().ok_or_else(|| key.clone())).collect()
    }

    /// The listing as it was at `revision`: a stale read.
    ///
    /// # Errors
    /// The key of a value that does not parse.
    pub fn list_at(&self, kind: Kind, revision: u64) -> Result<Vec<NodeStatus>, String> {
        let upto = usize::try_from(revision).unwrap_or(usize::MAX).min(self.log.len());
        let mut found: BTreeMap<&str, &[u8]> = BTreeMap::new();
        for version in self.log.iter().take(upto).filter(|v| v.key.starts_with(kind.prefix())) {
            found.insert(&version.key, &version.value);
        }
        found.into_iter().map(|(key, value)| serde_json::from_slice(value).map_err(|_| key.to_owned())).collect()
    }

    /// # Errors
    /// The key, when its value does not parse.
    pub fn get(&self, kind: Kind, id: &str) -> Result<Option<NodeStatus>, String> {
        let key = format!("{}{id}", kind.prefix());
        self.newest.get(&key).map(|status| status.clone().ok_or(key)).transpose()
    }

    /// A watch: every write from `revision` on (inclusive).
    #[must_use]
    pub fn since(&self, revision: u64) -> &[Version] {
        let from = usize::try_from(revision.saturating_sub(1)).unwrap_or(usize::MAX);
        self.log.get(from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::node::status::NodeState;

    fn status(id: &str, state: NodeState, ts: i64) -> NodeStatus {
        NodeStatus {
            node_id: id.to_owned(),
            host: format!("{id}:8250"),
            state,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: ts,
            update_ts: 0,
            token: None,
        }
    }

    #[test]
    fn the_last_writer_wins_but_two_creators_do_not() {
        let mut registry = Registry::default();
        let (a, b) = (registry.begin_put(Kind::Pump, "p"), registry.begin_put(Kind::Pump, "p"));
        assert_eq!(registry.finish_put(&a, &status("p", NodeState::Online, 1)), Ok(1));
        assert_eq!(registry.finish_put(&b, &status("p", NodeState::Online, 2)), Err(Conflict));
        let (a, b) = (registry.begin_put(Kind::Pump, "p"), registry.begin_put(Kind::Pump, "p"));
        registry.finish_put(&b, &status("p", NodeState::Paused, 3)).unwrap();
        registry.finish_put(&a, &status("p", NodeState::Online, 2)).unwrap();
        assert_eq!(registry.get(Kind::Pump, "p").unwrap().unwrap().max_commit_ts, 2);
        assert_eq!(registry.get(Kind::Drainer, "p"), Ok(None));
    }

    #[test]
    fn stale_reads_watches_and_bad_values() {
        let mut registry = Registry::default();
        registry.put(Kind::Pump, &status("b", NodeState::Online, 1));
        registry.put(Kind::Pump, &status("a", NodeState::Online, 1));
        registry.put(Kind::Drainer, &status("a", NodeState::Online, 1));
        registry.put(Kind::Pump, &status("b", NodeState::Offline, 2));
        let ids = |revision| -> Vec<String> {
            registry
                .list_at(Kind::Pump, revision)
                .unwrap()
                .into_iter()
                .map(|s| format!("{} {}", s.node_id, s.state))
                .collect()
        };
        assert_eq!(ids(0), Vec::<String>::new());
        assert_eq!(ids(1), ["b online"]);
        assert_eq!(ids(3), ["a online", "b online"]);
        assert_eq!(ids(99), ["a online", "b offline"]);
        assert_eq!(registry.since(3).iter().map(|v| v.revision).collect::<Vec<_>>(), [3, 4]);
        assert!(registry.since(9).is_empty());
        registry.put_raw("/tidb-binlog/v1/pumps/x", b"{".to_vec());
        assert_eq!(registry.list(Kind::Pump), Err("/tidb-binlog/v1/pumps/x".to_owned()));
        assert!(registry.list(Kind::Drainer).is_ok());
    }
}
