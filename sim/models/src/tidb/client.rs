//! The Pump client inside each TiDB server (spec pump 8.3–8.5): chooses a Pump, retries, probes.
//!
//! P: round-robin over the available Pumps, a new choice at every retry, a last pass over all that are online. C and R: the
//! Pump whose acknowledgement of P was accepted, for up to ten minutes, never an error.

use super::request::{BinlogKind, Call, Reply, Request, Token};
use binlog_core::node::status::{NodeState, NodeStatus};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

pub const WRITE_TIMEOUT_MS: u64 = 15_000;
const RETRY_P_MS: u64 = 100;
const RETRY_C_MS: u64 = 1_000;
const GIVE_UP_C_MS: u64 = 600_000;
const PROBE_MS: u64 = 30_000;
const MAX_ERRORS: u32 = 10;

/// Clients of all servers.
#[derive(Debug, Default)]
pub struct Clients {
    servers: Vec<Client>,
    writes: BTreeMap<u64, Write>,
    /// Token → the write that waits for it.
    tokens: BTreeMap<Token, u64>,
    next_write: u64,
    /// The server and Pump that a probe is for.
    probes: BTreeMap<Token, (usize, String)>,
    /// Of one attempt, and of all attempts at a P.
    timeout_ms: u64,
}

#[derive(Debug, Default)]
struct Client {
    pumps: Vec<Pump>,
    turn: usize,
    /// start_ts → Pump that acknowledged its P.
    chosen: BTreeMap<u64, String>,
    next_probe: u64,
}

#[derive(Debug)]
struct Pump {
    id: String,
    online: bool,
    available: bool,
    errors: u32,
}

#[derive(Debug)]
struct Write {
    server: usize,
    kind: BinlogKind,
    start_ts: u64,
    payload: Bytes,
    begun: u64,
    retries: usize,
    available_at_begin: usize,
    failed: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    InFlight { token: Token, pump: String, until: u64 },
    Sleeping { until: u64 },
}

/// A P came to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub server: usize,
    pub start_ts: u64,
    pub accepted: bool,
}

/// What the client needs of its cluster to send.
pub struct Out<'a> {
    pub queue: &'a mut VecDeque<Request>,
    pub next_token: &'a mut u64,
}

impl Out<'_> {
    pub fn send(&mut self, server: usize, call: Call) -> Token {
        *self.next_token += 1;
        let token = Token(*self.next_token);
        self.queue.push_back(Request { token, server, call });
        token
    }
}

impl Pump {
    const fn usable(&self) -> bool {
        self.online && self.errors <= MAX_ERRORS
    }
}

impl Clients {
    pub fn new(servers: usize, timeout_ms: u64) -> Self {
        Self { servers: (0..servers).map(|_| Client::default()).collect(), timeout_ms, ..Self::default() }
    }

    /// The Pump that acknowledged this P, until C or R reached it.
    pub fn accepted_by(&self, start_ts: u64) -> Option<&str> {
        self.servers.iter().find_map(|c| c.chosen.get(&start_ts)).map(String::as_str)
    }

    /// The registry as the watch shows it.
    pub fn set_pumps(&mut self, statuses: &[NodeStatus]) {
        for client in &mut self.servers {
            for status in statuses {
                let online = status.state == NodeState::Online;
                match client.pumps.iter_mut().find(|p| p.id == status.node_id) {
                    None => {
                        let id = status.node_id.clone();
                        client.pumps.push(Pump { id, online, available: online, errors: 0 });
                    }
                    Some(pump) if pump.online != online => {
                        (pump.online, pump.available, pump.errors) = (online, online, 0);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    pub fn has_pumps(&self, server: usize) -> bool {
        self.servers.get(server).is_some_and(|c| c.pumps.iter().any(|p| p.online))
    }

    /// Begins to write a binlog. C and R without an accepted P go nowhere.
    pub fn write(&mut self, now: u64, server: usize, kind: BinlogKind, start_ts: u64, payload: Bytes, out: &mut Out) {
        let Some(client) = self.servers.get(server) else { return };
        if kind != BinlogKind::Prewrite && !client.chosen.contains_key(&start_ts) {
            return;
        }
        self.next_write += 1;
        let id = self.next_write;
        let available_at_begin = client.pumps.iter().filter(|p| p.available).count();
        let state = State::Sleeping { until: now };
        let (begun, retries, failed) = (now, 0, false);
        let write = Write { server, kind, start_ts, payload, begun, retries, available_at_begin, failed, state };
        self.writes.insert(id, write);
        self.attempt(now, id, out);
    }

    fn attempt(&mut self, now: u64, id: u64, out: &mut Out) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        let Some(client) = self.servers.get_mut(write.server) else { return };
        let pump = if write.kind == BinlogKind::Prewrite {
            let mut available: Vec<&Pump> = client.pumps.iter().filter(|p| p.available).collect();
            if available.is_empty() {
                // The last pass: whoever is online, one after the other.
                available = client.pumps.iter().filter(|p| p.online).collect();
            }
            client.turn = client.turn.wrapping_add(1);
            available.get(client.turn % available.len().max(1)).map(|p| p.id.clone())
        } else {
            client.chosen.get(&write.start_ts).cloned()
        };
        let Some(pump) = pump else {
            write.retries += 1;
            write.state = State::Sleeping { until: now + RETRY_P_MS };
            return;
        };
        let call = Call::SendBinlog { pump: pump.clone(), payload: write.payload.clone(), kind: write.kind };
        let token = out.send(write.server, call);
        self.tokens.insert(token, id);
        write.state = State::InFlight { token, pump, until: now + self.timeout_ms };
    }

    /// True when the token was this client's.
    pub fn complete(&mut self, now: u64, token: Token, reply: &Reply, ended: &mut Vec<Ended>) -> bool {
        let well = matches!(reply, Reply::Written { errmsg } if errmsg.is_empty());
        // A refusal is no error of the connection.
        let rpc_error = !matches!(reply, Reply::Written { .. });
        if let Some((server, pump)) = self.probes.remove(&token) {
            self.note(server, &pump, rpc_error);
            if well && let Some(pump) = self.pump(server, &pump) {
                pump.available = pump.online;
            }
            return true;
        }
        let Some(id) = self.tokens.remove(&token) else { return false };
        let Some(write) = self.writes.get(&id) else { return true };
        let State::InFlight { token: current, pump, .. } = &write.state else { return true };
        if *current != token {
            return true;
        }
        let (server, pump) = (write.server, pump.clone());
        self.note(server, &pump, rpc_error);
        let full = match reply {
            Reply::Written { errmsg: text } | Reply::Failed { text, .. } => text.contains("ResourceExhausted"),
            Reply::Ts(_) | Reply::Kv(_) => false,
        };
        let is_p = self.writes.get(&id).is_some_and(|w| w.kind == BinlogKind::Prewrite);
        if well {
            self.end(id, Some(pump), ended);
        } else if full && is_p {
            self.end(id, None, ended);
        } else {
            self.failed(now, id, ended);
        }
        true
    }

    fn pump(&mut self, server: usize, id: &str) -> Option<&mut Pump> {
        self.servers.get_mut(server)?.pumps.iter_mut().find(|p| p.id == id)
    }

    fn note(&mut self, server: usize, pump: &str, error: bool) {
        if let Some(pump) = self.pump(server, pump) {
            pump.errors = if error { pump.errors + 1 } else { 0 };
        }
    }

    fn end(&mut self, id: u64, accepted: Option<String>, ended: &mut Vec<Ended>) {
        let Some(write) = self.writes.remove(&id) else { return };
        let Some(client) = self.servers.get_mut(write.server) else { return };
        if write.failed {
            client.pumps.iter_mut().filter(|p| !p.usable()).for_each(|p| p.available = false);
        }
        match write.kind {
            BinlogKind::Prewrite => {
                let was = accepted.is_some();
                if let Some(pump) = accepted {
                    if let Some(pump) = client.pumps.iter_mut().find(|p| p.id == pump) {
                        pump.available = pump.online;
                    }
                    client.chosen.insert(write.start_ts, pump);
                }
                ended.push(Ended { server: write.server, start_ts: write.start_ts, accepted: was });
            }
            BinlogKind::Commit | BinlogKind::Rollback | BinlogKind::Probe => {
                client.chosen.remove(&write.start_ts);
            }
        }
    }

    fn failed(&mut self, now: u64, id: u64, ended: &mut Vec<Ended>) {
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.failed = true;
        write.retries += 1;
        let elapsed = now.saturating_sub(write.begun);
        let is_p = write.kind == BinlogKind::Prewrite;
        let over = if is_p {
            // The pass over all Pumps that are online has had its turn by then.
            elapsed > self.timeout_ms && write.retries > write.available_at_begin + 1
        } else {
            elapsed > GIVE_UP_C_MS
        };
        if over {
            self.end(id, None, ended);
        } else {
            write.state = State::Sleeping { until: now + if is_p { RETRY_P_MS } else { RETRY_C_MS } };
        }
    }

    /// Time-outs, retries and probes that are due.
    pub fn tick(&mut self, now: u64, out: &mut Out, ended: &mut Vec<Ended>) {
        let due: Vec<u64> = self.writes.iter().filter(|(_, w)| w.due() <= now).map(|(id, _)| *id).collect();
        for id in due {
            match self.writes.get(&id).map(|w| &w.state) {
                Some(State::InFlight { pump, .. }) => {
                    let (pump, server) = (pump.clone(), self.writes[&id].server);
                    self.note(server, &pump, true);
                    self.failed(now, id, ended);
                }
                Some(State::Sleeping { .. }) => {
                    let write = &self.writes[&id];
                    let nobody = !self.has_pumps(write.server);
                    if write.kind == BinlogKind::Prewrite && nobody && now > write.begun + self.timeout_ms {
                        self.end(id, None, ended);
                    } else {
                        self.attempt(now, id, out);
                    }
                }
                None => {}
            }
        }
        for (server, client) in self.servers.iter_mut().enumerate() {
            if client.next_probe > now {
                continue;
            }
            client.next_probe = now + PROBE_MS;
            for pump in client.pumps.iter().filter(|p| p.online && !p.available) {
                let call = Call::SendBinlog { pump: pump.id.clone(), payload: Bytes::new(), kind: BinlogKind::Probe };
                self.probes.insert(out.send(server, call), (server, pump.id.clone()));
            }
        }
    }

    pub fn next_deadline(&self) -> Option<u64> {
        let ill = self.servers.iter().filter(|c| c.pumps.iter().any(|p| p.online && !p.available));
        self.writes.values().map(Write::due).chain(ill.map(|c| c.next_probe)).min()
    }

    /// The process dies: nothing of it is sent or waited for any more.
    pub fn crash(&mut self, server: usize) {
        self.writes.retain(|_, w| w.server != server);
        self.probes.retain(|_, (s, _)| *s != server);
        if let Some(client) = self.servers.get_mut(server) {
            client.chosen.clear();
            client.pumps.iter_mut().for_each(|p| (p.available, p.errors) = (p.online, 0));
        }
    }

    /// Nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty()
    }
}

impl Write {
    const fn due(&self) -> u64 {
        match self.state {
            State::InFlight { until, .. } | State::Sleeping { until } => until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: &str, state: NodeState) -> NodeStatus {
        let (node_id, host, label) = (id.to_owned(), String::new(), serde_json::Value::Null);
        let (is_alive, score, max_commit_ts, update_ts, token) = (false, 0, 0, 0, None);
        NodeStatus { node_id, host, state, is_alive, score, label, max_commit_ts, update_ts, token }
    }

    #[derive(Default)]
    struct Wire {
        clients: Clients,
        queue: VecDeque<Request>,
        tokens: u64,
        ended: Vec<Ended>,
    }

    impl Wire {
        fn new(pumps: &[(&str, NodeState)]) -> Self {
            let mut clients = Clients::new(1, WRITE_TIMEOUT_MS);
            clients.set_pumps(&pumps.iter().map(|(id, state)| status(id, *state)).collect::<Vec<_>>());
            Self { clients, ..Self::default() }
        }

        fn write(&mut self, now: u64, kind: BinlogKind) {
            let mut out = Out { queue: &mut self.queue, next_token: &mut self.tokens };
            self.clients.write(now, 0, kind, 7, Bytes::from_static(b"x"), &mut out);
        }

        fn tick(&mut self, now: u64) {
            let mut out = Out { queue: &mut self.queue, next_token: &mut self.tokens };
            self.clients.tick(now, &mut out, &mut self.ended);
        }

        /// The Pump that is asked, and the request's token. Probes are stepped over.
        fn asked(&mut self) -> Option<(String, Token)> {
            loop {
                let request = self.queue.pop_front()?;
                if let Call::SendBinlog { pump, kind, .. } = request.call
                    && kind != BinlogKind::Probe
                {
                    return Some((pump, request.token));
                }
            }
        }

        fn answer(&mut self, now: u64, token: Token, errmsg: &str) {
            let reply = Reply::Written { errmsg: errmsg.to_owned() };
            assert!(self.clients.complete(now, token, &reply, &mut self.ended));
        }
    }

    const TWO: [(&str, NodeState); 3] = [("a", NodeState::Online), ("b", NodeState::Online), ("c", NodeState::Offline)];

    #[test]
    fn p_moves_on_and_c_stays_with_the_pump_that_acknowledged() {
        let mut wire = Wire::new(&TWO);
        wire.write(0, BinlogKind::Prewrite);
        let (first, token) = wire.asked().unwrap();
        wire.answer(10, token, "no space");
        wire.tick(109);
        assert!(wire.asked().is_none());
        wire.tick(110);
        let (second, again) = wire.asked().unwrap();
        assert_ne!(first, second);
        let late = Reply::Written { errmsg: String::new() };
        assert!(!wire.clients.complete(120, token, &late, &mut wire.ended), "an attempt is answered once");
        wire.answer(130, again, "");
        assert_eq!(wire.ended, [Ended { server: 0, start_ts: 7, accepted: true }]);
        wire.write(140, BinlogKind::Commit);
        for attempt in 0..5 {
            let (pump, token) = wire.asked().unwrap();
            assert_eq!(pump, second);
            wire.answer(150 + attempt * 1000, token, "busy");
            wire.tick(1150 + attempt * 1000);
        }
        assert!(!wire.clients.is_idle());
        let (_, token) = wire.asked().unwrap();
        wire.answer(700_000, token, "busy");
        assert!(wire.clients.is_idle(), "after ten minutes it is given up");
        wire.write(700_001, BinlogKind::Rollback);
        assert!(wire.asked().is_none(), "no Pump has this prewrite any more");
    }

    #[test]
    fn a_silent_pump_costs_the_time_out_and_in_the_end_p_fails() {
        let mut wire = Wire::new(&TWO);
        wire.write(0, BinlogKind::Prewrite);
        let (mut now, mut asked) = (0, Vec::new());
        while wire.ended.is_empty() {
            asked.extend(wire.asked().map(|(pump, _)| pump));
            now = wire.clients.next_deadline().unwrap();
            wire.tick(now);
        }
        assert_eq!(wire.ended, [Ended { server: 0, start_ts: 7, accepted: false }]);
        assert!(
            now > WRITE_TIMEOUT_MS && asked.contains(&"a".to_owned()) && asked.contains(&"b".to_owned()),
            "{asked:?}"
        );
        wire.write(now, BinlogKind::Rollback);
        assert!(wire.asked().is_none());
    }

    #[test]
    fn what_is_too_large_fails_at_once_and_nobody_online_fails_after_the_time_out() {
        let mut wire = Wire::new(&TWO);
        wire.write(0, BinlogKind::Prewrite);
        let (_, token) = wire.asked().unwrap();
        wire.answer(1, token, "rpc error: code = ResourceExhausted");
        assert_eq!(wire.ended.len(), 1);
        let mut wire = Wire::new(&[("c", NodeState::Paused)]);
        wire.write(0, BinlogKind::Prewrite);
        wire.tick(WRITE_TIMEOUT_MS);
        assert!(wire.ended.is_empty() && wire.asked().is_none());
        wire.tick(WRITE_TIMEOUT_MS + 100);
        assert_eq!(wire.ended.len(), 1);
    }
}
