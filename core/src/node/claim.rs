//! Who may use a node id (design 3.5, trap T10): decided from the registry entry before anything is written there.
//!
//! A token is `<uuid of the data directory>-<random part of this life>`. An entry of our own directory is our last life and is
//! taken over at once. Any other is watched: while its heartbeat moves the id is in use and the start is refused; one that stands
//! still is taken over, loudly. An entry without a token is the original's, or one that a tool rewrote: it is watched too, unless
//! it says that its process has stopped (`paused`, `offline`). While running, whoever finds another's token in its entry stops
//! (`adapters/cluster`, `pump::life`): so of two that started at the same moment one remains.

use super::status::{NodeState, NodeStatus};
use crate::time::MonoTime;

/// Watches an entry that another process wrote.
#[derive(Debug)]
pub struct Claim {
    own_token: String,
    watch_ms: u64,
    first: Option<(NodeStatus, MonoTime)>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The id is ours. `over`: the token that the first write replaces; `notice`: to be said loudly.
    Take { over: Option<String>, notice: Option<String> },
    /// Read the entry again soon. `notice`: said once.
    Watch { notice: Option<String> },
    /// Another process lives under this id.
    Refuse(String),
}

impl Claim {
    /// `heartbeat_ms`: of this node; the other's is taken to be alike.
    #[must_use]
    pub const fn new(own_token: String, heartbeat_ms: u64) -> Self {
        let watch = heartbeat_ms.saturating_mul(3);
        Self { own_token, watch_ms: if watch < MIN_WATCH_MS { MIN_WATCH_MS } else { watch }, first: None }
    }

    /// Looks at the entry as it is now.
    pub fn see(&mut self, now: MonoTime, entry: Option<&NodeStatus>) -> Step {
        let Some(entry) = entry else { return Step::Take { over: None, notice: None } };
        let over = entry.token.clone();
        let own = over.as_deref().is_some_and(|token| directory(token) == directory(&self.own_token));
        let whose = match entry.state {
            _ if own => return Step::Take { over, notice: None },
            NodeState::Offline if over.is_some() => {
                let text = format!(
                    "node id {} was used by another data directory, which is offline: it is taken over",
                    entry.node_id
                );
                return Step::Take { over, notice: Some(text) };
            }
            NodeState::Offline | NodeState::Paused if over.is_none() => return Step::Take { over, notice: None },
            _ if over.is_some() => "another data directory",
            _ => "a process that leaves no token (the original, or a tool)",
        };
        match &self.first {
            None => {
                let text = format!(
                    "node id {} is registered ({}) by {whose}, at {}: watching for {} s whether that process lives",
                    entry.node_id,
                    entry.state,
                    entry.host,
                    self.watch_ms / 1000
                );
                self.first = Some((entry.clone(), now));
                Step::Watch { notice: Some(text) }
            }
            Some((first, _)) if moved(first, entry) => Step::Refuse(format!(
                "node id {} is in use: the process at {} keeps its registry entry alive (state {}). Set another node-id for this \
                 node and give it a data directory of its own, or stop the other process first",
                entry.node_id, entry.host, entry.state
            )),
            Some((_, since)) if now.millis_since(*since) >= self.watch_ms => {
                let text = format!(
                    "the registry entry of node id {} was written by {whose}, at {}, and has not moved for {} s: it is taken over; \
                     what another directory holds and Drainers have not received is not served by this node",
                    entry.node_id,
                    entry.host,
                    now.millis_since(*since) / 1000
                );
                Step::Take { over, notice: Some(text) }
            }
            Some(_) => Step::Watch { notice: None },
        }
    }
}

/// Whether `entry`, whose token may have changed since, is evidence of another process alive. A tool changes the state and drops
/// the token: that is none.
fn moved(first: &NodeStatus, entry: &NodeStatus) -> bool {
    first.update_ts != entry.update_ts
        || first.max_commit_ts != entry.max_commit_ts
        || (entry.token.is_some() && (first.token != entry.token || first.state != entry.state))
}

/// The data directory that a token names.
fn directory(token: &str) -> &str {
    token.split('-').next().unwrap_or(token)
}

/// Heartbeats come every 2 s by default, `updateTS` moves in whole seconds.
const MIN_WATCH_MS: u64 = 6_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(token: Option<&str>, state: NodeState, update_ts: i64) -> NodeStatus {
        let mut status: NodeStatus =
            serde_json::from_str(&format!(r#"{{"nodeId":"p","host":"h:1","state":"{state}"}}"#)).unwrap();
        (status.token, status.update_ts) = (token.map(ToOwned::to_owned), update_ts);
        status
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime::ZERO.plus_millis(ms)
    }

    #[test]
    fn taken_at_once() {
        use NodeState::{Offline, Online, Paused};
        for (entry, over, loud) in [
            (None, None, false),
            // The original was stopped, and is replaced by this node.
            (Some(entry(None, Paused, 1)), None, false),
            (Some(entry(None, Offline, 1)), None, false),
            (Some(entry(Some("me-1"), Online, 1)), Some("me-1"), false),
            (Some(entry(Some("me"), Online, 1)), Some("me"), false),
            (Some(entry(Some("you-1"), Offline, 1)), Some("you-1"), true),
        ] {
            let step = Claim::new("me-2".to_owned(), 2000).see(at(0), entry.as_ref());
            let Step::Take { over: got, notice } = step else { panic!("{entry:?}: {step:?}") };
            assert_eq!((got.as_deref(), notice.is_some()), (over, loud), "{entry:?}");
        }
    }

    #[test]
    fn a_foreign_entry_is_watched() {
        for state in [NodeState::Online, NodeState::Paused, NodeState::Closing] {
            let mut claim = Claim::new("me-2".to_owned(), 2000);
            let still = entry(Some("you-1"), state, 1);
            assert!(matches!(claim.see(at(0), Some(&still)), Step::Watch { notice: Some(_) }));
            assert_eq!(claim.see(at(5_999), Some(&still)), Step::Watch { notice: None });
            let Step::Take { over, notice } = claim.see(at(6_000), Some(&still)) else { panic!("stale") };
            assert_eq!(over.as_deref(), Some("you-1"));
            assert!(notice.unwrap().contains("h:1"));
        }
        for later in [entry(Some("you-1"), NodeState::Online, 2), entry(Some("them-1"), NodeState::Online, 1)] {
            let mut claim = Claim::new("me-2".to_owned(), 10_000);
            claim.see(at(0), Some(&entry(Some("you-1"), NodeState::Online, 1)));
            assert!(matches!(
                claim.see(at(29_000), Some(&entry(Some("you-1"), NodeState::Online, 1))),
                Step::Watch { .. }
            ));
            let Step::Refuse(text) = claim.see(at(29_500), Some(&later)) else { panic!("alive") };
            assert!(text.contains("node id p is in use") && text.contains("h:1") && text.contains("node-id"), "{text}");
        }
        // An operator says that it went away; a tool's hand is no sign of life.
        for (token, state) in
            [(None, NodeState::Paused), (None, NodeState::Offline), (Some("you-1"), NodeState::Offline)]
        {
            let mut claim = Claim::new("me-2".to_owned(), 2000);
            claim.see(at(0), Some(&entry(Some("you-1"), NodeState::Online, 1)));
            assert!(matches!(claim.see(at(1), Some(&entry(None, NodeState::Online, 1))), Step::Watch { .. }));
            assert!(matches!(claim.see(at(2), Some(&entry(token, state, 1))), Step::Take { .. }), "{state}");
        }
    }

    #[test]
    fn the_original_lives_while_its_heartbeat_moves() {
        for state in [NodeState::Online, NodeState::Pausing, NodeState::Closing] {
            let mut claim = Claim::new("me-2".to_owned(), 2000);
            let first = entry(None, state, 1);
            let Step::Watch { notice: Some(text) } = claim.see(at(0), Some(&first)) else { panic!("{state}") };
            assert!(text.contains("leaves no token"), "{text}");
            assert_eq!(claim.see(at(5_999), Some(&first)), Step::Watch { notice: None });
            // It was killed: nothing moves.
            let Step::Take { over: None, notice: Some(_) } = claim.see(at(6_000), Some(&first)) else {
                panic!("{state}")
            };
            let mut claim = Claim::new("me-2".to_owned(), 2000);
            claim.see(at(0), Some(&first));
            let Step::Refuse(text) = claim.see(at(2_000), Some(&entry(None, state, 2))) else { panic!("{state}") };
            assert!(text.contains("node id p is in use"), "{text}");
        }
    }
}
