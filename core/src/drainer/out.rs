//! The Drainer's effect queue with what every part needs to fill it: operation ids, notices, faults, random numbers.

use super::effect::{Effect, SourceId};
use crate::fault::Fault;
use crate::ids::{OpId, OpIds};
use crate::pump::effect::Level;
use std::collections::VecDeque;

/// Where the parts push what they ask of the world. Bounded by what is in flight: every part has at most one request
/// of a kind, and one notice or fault per occurrence.
#[derive(Debug)]
pub(super) struct Out {
    queue: VecDeque<Effect>,
    ops: OpIds,
    sources: u64,
    random: u64,
    /// Faults of this process, oldest first; shown in the status.
    faults: Vec<Fault>,
    fault_count: u64,
}

impl Out {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            ops: OpIds::default(),
            sources: 0,
            random: seed,
            faults: Vec::new(),
            fault_count: 0,
        }
    }

    /// Pushes a request made from a fresh id, and gives the id.
    pub(super) fn request(&mut self, make: impl FnOnce(OpId) -> Effect) -> OpId {
        let op = self.ops.next_id();
        self.queue.push_back(make(op));
        op
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.queue.push_back(effect);
    }

    pub(super) fn pop(&mut self) -> Option<Effect> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn next_source(&mut self) -> SourceId {
        self.sources += 1;
        SourceId(self.sources)
    }

    pub(super) fn notice(&mut self, level: Level, text: String) {
        self.queue.push_back(Effect::Notice { level, text });
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.fault_count += 1;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault.clone());
        }
        self.queue.push_back(Effect::Fault(fault));
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// A number below `limit` (0 when `limit` is 0): splitmix64 of the configured seed.
    pub(super) fn random_below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(limit).unwrap_or(0)
    }
}

/// Each stops something, so the first few tell the story.
const MAX_FAULTS: usize = 16;
