//! The Pump client's decisions (spec pump 8): which Pump gets a binlog, what follows each attempt, who is probed.
//!
//! No I/O: the caller sends, waits and reports; `adapters/pump-client` does so for programs. One [`Client`] per process; every
//! write is a [`Write`] that asks for its next [`Step`].
//!
//! | part | decides |
//! |---|---|
//! | `pumps` | which Pumps are known, available, usable; who is probed |
//! | `choose` | the Pump of the next attempt |
//! | `write` | retries, the last pass, giving up |

pub mod choose;
pub mod pumps;
pub mod write;

use crate::ids::StartTs;
use crate::node::status::NodeStatus;
use crate::time::MonoTime;
use choose::Strategy;
use pumps::{Pumps, Target};
use std::collections::BTreeMap;
use write::{Kind, Outcome, Step, Write};

/// State that all writes of a process share.
#[derive(Debug)]
pub struct Client {
    strategy: Strategy,
    write_timeout_ms: u64,
    pumps: Pumps,
    /// start_ts → the Pump whose acknowledgement of P was accepted: its C or R goes there (spec pump 8.3).
    routes: BTreeMap<StartTs, String>,
}

impl Client {
    /// `write_timeout_ms`: of one attempt (TiDB's `write-timeout`, 15 s); `seed` differs from process to process, so that not all
    /// begin with the same Pump.
    #[must_use]
    pub fn new(strategy: Strategy, write_timeout_ms: u64, seed: u64) -> Self {
        Self { strategy, write_timeout_ms, pumps: Pumps::new(seed), routes: BTreeMap::new() }
    }

    /// A client of the one Pump behind a local socket: no registry, every write goes there.
    #[must_use]
    pub fn local(address: &str, write_timeout_ms: u64) -> Self {
        let mut client = Self::new(Strategy::LocalSocket, write_timeout_ms, 0);
        client.pumps.set_local(address);
        client
    }

    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.strategy
    }

    #[must_use]
    pub const fn write_timeout_ms(&self) -> u64 {
        self.write_timeout_ms
    }

    /// What the registry shows of one Pump; repeated statuses change nothing.
    pub fn registered(&mut self, status: &NodeStatus) {
        self.pumps.registered(status);
    }

    #[must_use]
    pub const fn pumps(&self) -> &Pumps {
        &self.pumps
    }

    /// Pumps that are online but not available: each gets a probe (an empty payload) every [`pumps::PROBE_INTERVAL_MS`].
    #[must_use]
    pub fn probes(&self) -> Vec<Target> {
        self.pumps.probes()
    }

    /// The answer to a probe.
    pub fn probed(&mut self, target: &Target, outcome: &Outcome) {
        self.pumps.answered(target, outcome);
        if matches!(outcome, Outcome::Stored) {
            self.pumps.make_available(&target.node_id);
        }
    }

    #[must_use]
    pub fn begin(&self, now: MonoTime, kind: Kind, start_ts: StartTs) -> Write {
        Write::new(now, kind, start_ts, self.pumps.available_len())
    }
}

/// What a write asks of its client.
impl Client {
    /// What to do next for this write; [`Step::Send`] must be followed by [`Client::attempted`].
    pub fn next(&mut self, now: MonoTime, write: &mut Write) -> Step {
        let step = write.next(now, self.strategy, &mut self.pumps, &self.routes);
        if let Step::End(end) = &step {
            write.settle(end, &mut self.pumps, &mut self.routes);
        }
        step
    }

    /// How the attempt at `target` ended.
    pub fn attempted(&mut self, now: MonoTime, write: &mut Write, target: &Target, outcome: &Outcome) {
        self.pumps.answered(target, outcome);
        write.attempted(now, self.write_timeout_ms, target, outcome, &mut self.pumps);
    }
}
