//! What the Drainer's machine is told once, at its start. Validated by the configuration layer (spec drainer 8).

use super::translate::TranslateConfig;
use crate::ids::{CommitTs, NodeId};
use std::collections::BTreeSet;

/// Settings of one Drainer.
#[derive(Debug, Clone)]
pub struct DrainerConfig {
    pub node_id: NodeId,
    /// host:port as registered, without a scheme.
    pub advertise_addr: String,
    /// Where to start when there is no checkpoint (spec drainer 1.3): -1 (any negative number) is PD's time at the start,
    /// 0 the oldest that each Pump holds, else this timestamp, exclusive.
    pub initial_commit_ts: i64,
    /// Milliseconds between two looks at the list of Pumps without a cause (`detect-interval`).
    pub detect_interval_ms: u64,
    /// Milliseconds between two writes of the registry entry.
    pub heartbeat_ms: u64,
    /// Upstream rows that are put into one downstream transaction before it is sent (`txn-batch`).
    pub txn_batch: u64,
    /// DELETE by row identity + INSERT for every transaction (rules 8), not only in a takeover's window.
    pub safe_mode: bool,
    /// Transactions that are left out (`ignore-txn-commit-ts`); a DDL among them is tracked, but not run.
    pub ignore_txn_commit_ts: BTreeSet<CommitTs>,
    /// Offline Pumps whose data above the checkpoint the operator gave up (rules 7).
    pub accept_offline_pumps: BTreeSet<NodeId>,
    /// `Synced` in the status: this long without a transaction (`synced-check-time`, in milliseconds).
    pub synced_check_ms: u64,
    /// Bytes of payload that may be in memory, over all Pumps.
    pub memory_bytes: u64,
    pub translate: TranslateConfig,
    /// Of the generator that spreads retries.
    pub seed: u64,
}

impl DrainerConfig {
    /// The original's defaults.
    #[must_use]
    pub fn new(node_id: NodeId, advertise_addr: String) -> Self {
        Self {
            node_id,
            advertise_addr,
            initial_commit_ts: -1,
            detect_interval_ms: 5_000,
            heartbeat_ms: 1_000,
            txn_batch: 20,
            safe_mode: false,
            ignore_txn_commit_ts: BTreeSet::new(),
            accept_offline_pumps: BTreeSet::new(),
            synced_check_ms: 300_000,
            memory_bytes: 64 << 20,
            translate: TranslateConfig::default(),
            seed: 0,
        }
    }
}
