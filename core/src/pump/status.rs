//! What a Pump says of itself: for `/status`, metrics and the simulator.

use super::gc::GcStatus;
use super::machine::Pump;
use super::offline::ClosingStatus;
use super::original::OriginalStatus;
use super::pull;
use super::resolve::{Case, Counts};
use super::space::SpaceStatus;
use crate::ids::{CommitTs, LogPtr, StartTs};
use crate::index::ledger::Counters;
use crate::node::status::NodeState;
use crate::time::Tso;
use crate::vlog::scrub::ScrubCounters;
use serde::Serialize;

/// Positions are different words for different things (design 6): accepted, written, durable, indexed, published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PumpStatus {
    pub state: NodeState,
    /// How far the start has come.
    pub start: &'static str,
    /// Records accepted in this life.
    pub accepted: u64,
    pub acknowledged: u64,
    pub rejected: u64,
    pub written: LogPtr,
    pub durable: LogPtr,
    pub indexed: LogPtr,
    pub flushed: LogPtr,
    /// Everything up to here can be pulled.
    pub watermark: CommitTs,
    /// The part of it that a restart knows again: GC and going offline go by it.
    pub logged_watermark: CommitTs,
    pub gc: CommitTs,
    pub undecided: usize,
    /// The prewrite that has held the watermark back longest, and for how many milliseconds.
    pub oldest_undecided: Option<(StartTs, u64)>,
    /// The watermark may not reach this.
    pub frozen_below: Option<CommitTs>,
    pub unindexed_bytes: u64,
    pub streams: usize,
    pub items_sent: u64,
    pub bytes_sent: u64,
    /// How the streams were fed.
    pub pull: pull::Counters,
    /// Log in memory, for streams that keep up.
    pub tail_bytes: usize,
    /// Logged fakes of this life.
    pub fakes: u64,
    /// Fakes that only moved the watermark in memory.
    pub fakes_on_demand: u64,
    /// What going offline waits for.
    pub closing: Option<ClosingStatus>,
    /// Why prewrites are refused; `null`: they are accepted.
    pub refuses_writes: Option<String>,
    pub space_available: u64,
    pub space_writable: bool,
    pub space: SpaceStatus,
    pub collector: GcStatus,
    /// History that was read again in the background.
    pub scrub: ScrubCounters,
    pub read_only: Option<String>,
    /// Value logs of the original that were taken over.
    pub original: OriginalStatus,
    pub counters: Counters,
    pub verdicts: VerdictStatus,
    pub unknown_completions: u64,
    pub fault_count: u64,
    /// The newest faults, oldest first.
    pub faults: Vec<String>,
}

/// The part of it that is copied without a single allocation: for whoever looks after every input, as the simulator's oracles do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    pub state: NodeState,
    /// How far the start has come.
    pub start: &'static str,
    pub accepted: u64,
    pub rejected: u64,
    pub durable: LogPtr,
    pub indexed: LogPtr,
    pub watermark: CommitTs,
    pub logged_watermark: CommitTs,
    pub undecided: usize,
    pub unknown_completions: u64,
    /// Nothing can be stored any more.
    pub is_read_only: bool,
}

/// Prewrites whose C does not come (rules 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictStatus {
    #[serde(flatten)]
    pub counts: Counts,
    /// What the oldest undecided prewrite waits for.
    pub oldest_waits_for: Option<String>,
    /// Why TiKV or PD cannot be asked at the moment.
    pub outage: Option<String>,
    /// Prewrites that an operator has to decide about, and the first of them.
    pub undecidable: usize,
    pub undecidable_first: Vec<Undecidable>,
    /// Where PD holds TiKV's GC for this Pump.
    pub gc_held_at: Option<u64>,
    /// While the watermark is frozen: the command that releases it, and what that gives up.
    pub release_frozen: Option<String>,
}

/// A prewrite that only an operator can decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecidable {
    pub start_ts: StartTs,
    /// Since this process first saw it.
    pub undecided_ms: u64,
    pub why: String,
    /// The commands that decide.
    pub resolve: [String; 2],
}

/// Undecidable prewrites that status names: they rise and fall together.
const MAX_UNDECIDABLE_SHOWN: usize = 16;

impl Pump {
    fn verdict_status(&self) -> VerdictStatus {
        let stuck = |(start_ts, case): (StartTs, &Case)| Undecidable {
            start_ts,
            undecided_ms: self.now.millis_since(case.since),
            why: case.reason(),
            resolve: self.resolve_commands(start_ts),
        };
        let oldest = self.sorter.oldest().and_then(|(start_ts, _)| self.resolver.case(start_ts));
        VerdictStatus {
            counts: self.resolver.counts,
            oldest_waits_for: oldest.map(Case::reason),
            outage: self.resolver.outage().map(str::to_owned),
            undecidable: self.resolver.stuck().count(),
            undecidable_first: self.resolver.stuck().take(MAX_UNDECIDABLE_SHOWN).map(stuck).collect(),
            gc_held_at: self.hold.held().map(Tso::raw),
            release_frozen: self.sorter.frozen().map(|limit| {
                format!(
                    "curl -X PUT http://{}/release/frozen lets the watermark pass {limit}; the commits that the faults of this \
                     pump name are then never delivered by it: compare upstream and downstream afterwards",
                    self.config.advertise_addr
                )
            }),
        }
    }

    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            state: self.life.state(),
            start: self.start.name(),
            accepted: self.accepted,
            rejected: self.rejected,
            durable: self.log.durable_end(),
            indexed: self.indexer.indexed_end(),
            watermark: self.sorter.watermark(),
            logged_watermark: self.sorter.logged(),
            undecided: self.sorter.undecided(),
            unknown_completions: self.out.unknown_completions,
            is_read_only: self.read_only.is_some(),
        }
    }

    /// The prewrite that has held the watermark back longest, and for how many milliseconds.
    #[must_use]
    pub fn oldest_undecided(&self) -> Option<(StartTs, u64)> {
        self.sorter.oldest().map(|(ts, since)| (ts, self.now.millis_since(since)))
    }

    #[must_use]
    pub fn status(&self) -> PumpStatus {
        PumpStatus {
            state: self.life.state(),
            start: self.start.name(),
            accepted: self.accepted,
            acknowledged: self.acknowledged,
            rejected: self.rejected,
            written: self.written_end,
            durable: self.log.durable_end(),
            indexed: self.indexer.indexed_end(),
            flushed: self.indexer.flushed_end(),
            watermark: self.sorter.watermark(),
            logged_watermark: self.sorter.logged(),
            gc: self.gc,
            undecided: self.sorter.undecided(),
            oldest_undecided: self.oldest_undecided(),
            frozen_below: self.sorter.frozen(),
            unindexed_bytes: self.indexer.waiting_bytes(),
            streams: self.pull.len(),
            items_sent: self.pull.counters.items_sent,
            bytes_sent: self.pull.counters.bytes_sent,
            pull: self.pull.counters,
            tail_bytes: self.pull.tail.bytes(),
            fakes: self.idle.fakes,
            fakes_on_demand: self.demand.fakes,
            closing: self.closing_status(),
            refuses_writes: self.refuses_writes(),
            space_available: self.space.available,
            space_writable: self.space.writable,
            space: self.space.status(),
            collector: self.gc_status(),
            scrub: self.log.scrubbed(),
            read_only: self.read_only.clone(),
            original: self.take_over.status,
            counters: self.ledger.counters,
            verdicts: self.verdict_status(),
            unknown_completions: self.out.unknown_completions,
            fault_count: self.out.fault_count,
            faults: self.out.faults.iter().map(ToString::to_string).collect(),
        }
    }
}
