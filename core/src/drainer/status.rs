//! What `GET /status` shows: the original's keys first (spec drainer 7.1), then ours: where the slowest point is, since
//! when, why, and what resolves it (design 1).

use super::apply::Counts;
use super::pause::PausedStatus;
use serde::Serialize;
use std::collections::BTreeMap;

/// Serialised as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainerStatus {
    /// Last timestamp received from each Pump; `None` before the first listing.
    #[serde(rename = "PumpPos")]
    pub pump_pos: Option<BTreeMap<String, i64>>,
    #[serde(rename = "Synced")]
    pub synced: bool,
    /// The durable checkpoint.
    #[serde(rename = "LastTS")]
    pub last_ts: i64,
    #[serde(rename = "TsMap")]
    pub ts_map: String,
    /// starting, running, paused, faulted, stopping, stopped.
    pub state: &'static str,
    pub checkpoint: u64,
    /// Everything up to here is applied.
    pub applied: u64,
    /// Last timestamp that left the merge.
    pub merge_position: u64,
    /// Up to here the list of Pumps is known to be complete.
    pub confirmed: u64,
    /// What holds everything up; `None`: nothing does.
    pub waiting: Option<Waiting>,
    pub paused: Option<PausedStatus>,
    pub faults: Vec<String>,
    pub queues: Queues,
    pub applied_totals: Counts,
    pub generation: u64,
    /// Transactions up to here are applied in safe mode (a takeover); 0: none.
    pub safe_until: u64,
    /// Completions that nobody waited for.
    pub ignored_completions: u64,
}

/// The slowest point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub why: String,
    pub for_ms: Option<u64>,
}

/// Sizes of what is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Queues {
    /// Payload bytes received and not applied.
    pub bytes: u64,
    /// Transactions between merge and checkpoint.
    pub window: usize,
    pub window_bytes: u64,
    pub staged: usize,
    pub in_flight: usize,
    /// Timestamps recorded in the downstream above the checkpoint.
    pub recorded: usize,
    /// Transactions remembered to check a Pump that is found late.
    pub remembered: usize,
}
