//! A TiDB cluster: several servers, one catalogue, the true contents of all tables, and what each transaction does to PD, TiKV
//! and the Pumps.
//!
//! Use: [`Cluster::new`], [`Cluster::set_pumps`], then start work with [`Cluster::begin`] and [`Cluster::begin_ddl`], carry out
//! what [`Cluster::poll`] gives, answer with [`Cluster::complete`], and call [`Cluster::tick`] at [`Cluster::next_deadline`].

pub mod request;

use crate::rng::Rng;
use crate::tikv::Tikv;
use binlog_core::node::status::NodeStatus;
use request::{KvOp, Reply, Request, Token};

/// Skeleton; the fields come with the implementation.
#[derive(Debug)]
pub struct Cluster {
    _rng: Rng,
}

#[derive(Debug, Clone, Default)]
pub struct Config {
    /// TiDB servers.
    pub servers: usize,
    /// Sessions on each server: each runs one transaction at a time.
    pub sessions: usize,
}

impl Cluster {
    #[must_use]
    pub fn new(_config: Config, rng: Rng) -> Self {
        Self { _rng: rng }
    }

    /// What the servers' Pump clients know of the registry: call it with each listing (they watch).
    pub fn set_pumps(&mut self, _now_ms: u64, _pumps: &[NodeStatus]) {}

    /// Starts a random transaction on an idle session; false when it is busy, its server is down, or nothing can be done yet.
    pub fn begin(&mut self, _now_ms: u64, _session: usize) -> bool {
        false
    }

    /// Starts a random DDL job; false while one runs.
    pub fn begin_ddl(&mut self, _now_ms: u64) -> bool {
        false
    }

    /// The next request to carry out.
    #[must_use]
    pub fn poll(&mut self) -> Option<Request> {
        None
    }

    /// An answer.
    pub fn complete(&mut self, _now_ms: u64, _token: Token, _reply: Reply) {}

    /// Carries a TiKV request out, and notes what became true by it. The answer goes back through [`Cluster::complete`].
    pub fn run_kv(&mut self, _tikv: &mut Tikv, _op: &KvOp) -> Reply {
        Reply::Failed { unavailable: true, text: String::new() }
    }

    /// When [`Cluster::tick`] wants to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// Retries and time-outs of the Pump clients, schema loading of the servers.
    pub fn tick(&mut self, _now_ms: u64) {}

    /// A server dies: its transactions stop where they are, its late binlogs are never sent.
    pub fn crash(&mut self, _server: usize) {}

    /// A dead server comes back.
    pub fn restart(&mut self, _now_ms: u64, _server: usize) {}
}
