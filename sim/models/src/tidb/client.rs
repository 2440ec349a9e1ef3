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
    pub fn new(servers: usize) -> Self {
        Self { servers: (0..servers).map(|_| Client::default()).collect(), ..Self::default() }
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
        write.state = State::InFlight { token, pump, until: now + WRITE_TIMEOUT_MS };
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
        if well {
            self.end(id, Some(pump), ended);
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
            elapsed > WRITE_TIMEOUT_MS && write.retries > write.available_at_begin + 1
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
                    if write.kind == BinlogKind::Prewrite && nobody && now > write.begun + WRITE_TIMEOUT_MS {
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
