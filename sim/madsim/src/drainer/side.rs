//! What outlives the Drainer's process: the Pumps' logs, the registry, the DDL history, the downstream, and what is true.

use super::ports::Request;
use crate::world::{Side, World as Any};
use binlog_core::drainer::input::Input;
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::node::status::NodeStatus;
use binlog_core::sink::op::{SinkError, SinkOp, SinkReply};
use binlog_runtime::driver::Sender;
use binlog_runtime::status::Asker;
use binlog_sim::rng::Rng;
use binlog_sim::sink::light::Downstream;
use binlog_sim::sink::{Done, Way};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Notify;

pub type World = Any<DrainerSide>;

/// How others reach the living process.
#[derive(Clone)]
pub struct Door {
    pub sender: Sender<Input, Request>,
    pub asker: Asker<Input, Request, DrainerStatus>,
}

/// What a Pump holds, in commit order.
#[derive(Default)]
pub struct PumpLog {
    /// It has an entry in the registry.
    pub registered: bool,
    pub items: Vec<(u64, Bytes)>,
}

pub struct DrainerSide {
    pub pumps: Vec<PumpLog>,
    /// With every item: sources that have sent all wait here. (A `watch` wakes its receivers in an order of its own.)
    pub growth: Arc<Notify>,
    pub entry: Option<NodeStatus>,
    /// The process of this life knows that an entry of its own is there.
    pub registered: bool,
    pub jobs: Vec<(i64, Bytes)>,
    /// Every transaction that committed, in order.
    pub truth: Vec<Done>,
    pub door: Option<Door>,
    pub downstream: Downstream,
    sink_rng: Rng,
    /// Effects that were compared.
    judged: usize,
    /// Bytes of items that sources handed in.
    pub handed_in: u64,
}

pub const PUMPS: usize = 3;
/// Bytes of payload that the Drainer may hold: the least that it takes for so many Pumps, 1 MiB each.
pub const MEMORY: u64 = (PUMPS as u64) << 20;

impl Side for DrainerSide {
    fn new(root: &Rng) -> Self {
        Self {
            pumps: (0..PUMPS).map(|_| PumpLog::default()).collect(),
            growth: Arc::new(Notify::new()),
            entry: None,
            registered: false,
            jobs: Vec::new(),
            truth: Vec::new(),
            door: None,
            downstream: Downstream::default(),
            sink_rng: root.fork("sink"),
            judged: 0,
            handed_in: 0,
        }
    }
}

impl DrainerSide {
    /// One operation reaches the downstream.
    ///
    /// # Panics
    /// When the downstream then holds what it must not.
    pub fn run(&mut self, request: &SinkOp) -> Result<SinkReply, SinkError> {
        if self.sink_rng.percent(TROUBLE_PERCENT) {
            let ways = [Way::LostBefore, Way::LostAfter, Way::Limbo, Way::Deadlock, Way::HalfDone];
            self.downstream.ways.push_back(ways[self.sink_rng.index(ways.len())]);
        }
        let result = self.downstream.run(request, &mut self.sink_rng);
        self.judge();
        result
    }

    /// A session that outlived its connection commits or is ended.
    pub fn settle(&mut self) {
        let commits = self.sink_rng.percent(50);
        self.downstream.settle(commits);
        self.judge();
    }

    /// Every transaction once, whole, in order; the checkpoint is never ahead.
    fn judge(&mut self) {
        if let Some((oracle, text)) = self.downstream.broken.take() {
            panic!("{oracle}: {text}");
        }
        let effects = &self.downstream.effects;
        for (n, done) in effects.iter().enumerate().skip(self.judged) {
            assert_eq!(Some(done), self.truth.get(n), "effect {n} of the downstream");
        }
        self.judged = effects.len();
        let k = self.checkpoint();
        let owed = self.truth.partition_point(|done| done.commit_ts <= k);
        assert!(owed <= self.judged, "the checkpoint {k} covers {owed} transactions, {} are applied", self.judged);
    }

    #[must_use]
    pub fn checkpoint(&self) -> u64 {
        self.downstream.row.as_ref().map_or(0, |row| row.commit_ts.raw())
    }

    #[must_use]
    pub fn applied(&self) -> usize {
        self.downstream.effects.len()
    }
}

/// How many of the downstream's operations meet trouble.
const TROUBLE_PERCENT: u64 = 4;
