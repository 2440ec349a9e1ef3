//! The Pumps that a client knows (spec pump 8.2, 8.5): from the registry, never forgotten, with their connections' errors.
//!
//! *Available* Pumps are chosen from. A Pump is *usable* while it is online and its last [`MAX_ERRORS`] attempts did not all fail
//! in the RPC; one that is not leaves the available ones when a write has met an error, and comes back by a probe.

use super::write::Outcome;
use crate::node::status::{NodeState, NodeStatus};
use std::collections::BTreeMap;

/// Where an attempt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node_id: String,
    /// host:port, or the path of a socket.
    pub address: String,
    /// Another number than last time: the connection of before is given up, a new one is made.
    pub connection: u64,
}

#[derive(Debug)]
pub struct Pumps {
    known: BTreeMap<String, Pump>,
    /// In the order in which they take turns.
    available: Vec<String>,
    turn: usize,
    seed: u64,
}

#[derive(Debug)]
struct Pump {
    /// As of the newest status. A connection keeps the address that it was made with.
    host: String,
    address: String,
    state: NodeState,
    score: i64,
    /// Consecutive RPC errors.
    errors: u32,
    connection: u64,
}

/// One Pump as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub node_id: String,
    pub host: String,
    pub state: NodeState,
    pub available: bool,
    pub errors: u32,
}

/// Consecutive RPC errors after which a Pump is not usable.
pub const MAX_ERRORS: u32 = 10;
/// Between two probes of one Pump.
pub const PROBE_INTERVAL_MS: u64 = 30_000;
/// Node id of the Pump behind a local socket.
pub const LOCAL_PUMP: &str = "localPump";

impl Pump {
    fn usable(&self) -> bool {
        self.state == NodeState::Online && self.errors <= MAX_ERRORS
    }

    fn reconnect(&mut self) {
        self.connection += 1;
        self.address.clone_from(&self.host);
    }
}

impl Pumps {
    pub(super) const fn new(seed: u64) -> Self {
        Self { known: BTreeMap::new(), available: Vec::new(), turn: 0, seed }
    }

    pub(super) fn set_local(&mut self, address: &str) {
        let (host, address) = (address.to_owned(), address.to_owned());
        let pump = Pump { host, address, state: NodeState::Online, score: 0, errors: 0, connection: 0 };
        self.known.insert(LOCAL_PUMP.to_owned(), pump);
        self.available = vec![LOCAL_PUMP.to_owned()];
    }

    pub(super) fn registered(&mut self, status: &NodeStatus) {
        let id = &status.node_id;
        let Some(pump) = self.known.get_mut(id) else {
            let (host, address) = (status.host.clone(), status.host.clone());
            let pump = Pump { host, address, state: status.state, score: status.score, errors: 0, connection: 0 };
            self.known.insert(id.clone(), pump);
            if status.state == NodeState::Online {
                self.make_available(id);
            }
            return;
        };
        let before = std::mem::replace(&mut pump.state, status.state);
        pump.host.clone_from(&status.host);
        pump.score = status.score;
        if before == status.state {
            return;
        }
        if status.state == NodeState::Online {
            self.make_available(id);
        } else {
            self.make_unavailable(id);
        }
    }

    pub(super) fn make_available(&mut self, id: &str) {
        let online = self.known.get(id).is_some_and(|pump| pump.state == NodeState::Online);
        if online && !self.available.iter().any(|known| known == id) {
            self.available.push(id.to_owned());
            self.moved(id);
        }
    }

    fn make_unavailable(&mut self, id: &str) {
        let before = self.available.len();
        self.available.retain(|known| known != id);
        if self.available.len() != before {
            self.moved(id);
        }
    }

    /// A Pump came or went: it starts afresh, and so does the order of turns.
    fn moved(&mut self, id: &str) {
        if let Some(pump) = self.known.get_mut(id) {
            pump.errors = 0;
            pump.reconnect();
        }
        self.available.sort_unstable();
        // Not all clients of a cluster go on with the same Pump.
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.turn = usize::try_from(self.seed >> 33).unwrap_or(0);
    }

    /// After a write that met an error.
    pub(super) fn drop_unusable(&mut self) {
        let gone: Vec<String> = self.available.iter().filter(|id| !self.is_usable(id)).cloned().collect();
        for id in gone {
            self.make_unavailable(&id);
        }
    }

    fn is_usable(&self, id: &str) -> bool {
        self.known.get(id).is_some_and(Pump::usable)
    }

    /// Counts what an attempt says of the connection: a refusal with a status OK is no error of it.
    pub(super) fn answered(&mut self, target: &Target, outcome: &Outcome) {
        let Some(pump) = self.known.get_mut(&target.node_id) else { return };
        match outcome {
            Outcome::Stored | Outcome::Refused(_) => pump.errors = 0,
            Outcome::Failed { unavailable, .. } => {
                pump.errors = pump.errors.saturating_add(1);
                // Only the connection that failed, not its successor.
                if *unavailable && pump.connection == target.connection {
                    pump.reconnect();
                }
            }
        }
    }

    pub(super) fn in_turn(&mut self, wanted: impl Fn(i64) -> bool) -> Option<Target> {
        for _ in 0..self.available.len() {
            self.turn = self.turn.wrapping_add(1);
            let id = self.available.get(self.turn % self.available.len())?;
            let pump = self.known.get(id)?;
            if wanted(pump.score) {
                return self.target(&id.clone());
            }
        }
        None
    }

    pub(super) fn at(&self, number: u64) -> Option<Target> {
        let index = number.checked_rem(self.available.len() as u64)?;
        self.target(self.available.get(usize::try_from(index).ok()?)?)
    }

    pub(super) fn best_score(&self) -> Option<i64> {
        let score = |id: &String| self.known.get(id).map(|pump| pump.score);
        self.available.iter().filter_map(score).max().filter(|best| *best >= 0)
    }

    pub(super) fn target(&self, id: &str) -> Option<Target> {
        let pump = self.known.get(id)?;
        Some(Target { node_id: id.to_owned(), address: pump.address.clone(), connection: pump.connection })
    }

    /// The same over a connection of its own.
    pub(super) fn fresh_target(&mut self, id: &str) -> Option<Target> {
        self.known.get_mut(id)?.reconnect();
        self.target(id)
    }

    pub(super) fn online(&self) -> Vec<String> {
        let online = |(id, pump): (&String, &Pump)| (pump.state == NodeState::Online).then(|| id.clone());
        self.known.iter().filter_map(online).collect()
    }

    #[must_use]
    pub fn available_len(&self) -> usize {
        self.available.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn probes(&self) -> Vec<Target> {
        let ill = |id: &String| !self.available.contains(id);
        self.online().iter().filter(|id| ill(id)).filter_map(|id| self.target(id)).collect()
    }

    /// All of them, by node id.
    #[must_use]
    pub fn view(&self) -> Vec<View> {
        let one = |(id, pump): (&String, &Pump)| View {
            node_id: id.clone(),
            host: pump.host.clone(),
            state: pump.state,
            available: self.available.contains(id),
            errors: pump.errors,
        };
        self.known.iter().map(one).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use NodeState::{Offline, Online, Paused};

    pub fn status(id: &str, state: NodeState) -> NodeStatus {
        let (node_id, host, label) = (id.to_owned(), format!("{id}:8250"), serde_json::Value::Null);
        let (is_alive, score, max_commit_ts, update_ts, token) = (false, 0, 0, 0, None);
        NodeStatus { node_id, host, state, is_alive, score, label, max_commit_ts, update_ts, token }
    }

    pub fn known(pumps: &[(&str, NodeState)]) -> Pumps {
        let mut known = Pumps::new(7);
        pumps.iter().for_each(|(id, state)| known.registered(&status(id, *state)));
        known
    }

    fn failed(unavailable: bool) -> Outcome {
        Outcome::Failed { unavailable, text: "x".to_owned() }
    }

    fn view(pumps: &Pumps, id: &str) -> View {
        pumps.view().into_iter().find(|v| v.node_id == id).unwrap()
    }

    #[test]
    fn states_of_the_registry() {
        let mut pumps = known(&[("a", Online), ("b", Paused)]);
        assert!(view(&pumps, "a").available && !view(&pumps, "b").available);
        pumps.registered(&status("b", Online));
        pumps.registered(&status("a", Offline));
        assert!(!view(&pumps, "a").available && view(&pumps, "b").available);
        assert!(pumps.probes().is_empty(), "a Pump that is offline is not probed");
    }

    #[test]
    fn a_pump_that_fails_leaves_and_comes_back_by_a_probe() {
        let mut pumps = known(&[("a", Online), ("b", Online)]);
        let target = pumps.target("a").unwrap();
        for _ in 0..MAX_ERRORS {
            pumps.answered(&target, &failed(false));
        }
        pumps.drop_unusable();
        assert!(view(&pumps, "a").available, "ten errors are endured");
        pumps.answered(&target, &failed(false));
        pumps.drop_unusable();
        assert!(!view(&pumps, "a").available);
        assert_eq!(pumps.probes().iter().map(|t| t.node_id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_ne!(pumps.target("a").unwrap().connection, target.connection);
        pumps.make_available("a");
        assert_eq!((view(&pumps, "a").available, view(&pumps, "a").errors), (true, 0));
    }

    #[test]
    fn any_answer_resets_the_errors() {
        let mut pumps = known(&[("a", Online)]);
        let target = pumps.target("a").unwrap();
        pumps.answered(&target, &failed(false));
        pumps.answered(&target, &Outcome::Refused("no space".to_owned()));
        assert_eq!(view(&pumps, "a").errors, 0);
    }

    #[test]
    fn a_new_address_takes_effect_with_the_next_connection() {
        let mut pumps = known(&[("a", Online)]);
        let before = pumps.target("a").unwrap();
        pumps.registered(&NodeStatus { host: "moved:1".to_owned(), ..status("a", Online) });
        assert_eq!(pumps.target("a").unwrap(), before);
        pumps.answered(&before, &failed(true));
        let after = pumps.target("a").unwrap();
        assert_eq!(after.address, "moved:1");
        // The failure of the old connection is reported again by another write.
        pumps.answered(&before, &failed(true));
        assert_eq!(pumps.target("a").unwrap(), after);
    }
}
