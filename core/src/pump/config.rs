//! What a Pump's machine must know before it starts.

use crate::ids::{ClusterId, NodeId};
use crate::node::status::NodeState;
use crate::vlog::log::LogConfig;

#[derive(Debug, Clone)]
pub struct PumpConfig {
    pub node_id: NodeId,
    /// host:port as peers reach it, without a scheme.
    pub advertise_addr: String,
    pub cluster: ClusterId,
    /// Uuid of the data directory: in every segment header and in the index.
    pub node_uuid: [u8; 16],
    /// Marks this life of this data directory in the registry entry (design 3.5).
    pub token: String,
    /// Seed of everything random (salts of segments).
    pub seed: u64,
    pub segment_bytes: u64,
    pub max_batch_bytes: usize,
    pub max_batch_records: usize,
    /// `false`: acknowledge when written, not when durable.
    pub sync_log: bool,
    /// How long TiKV's GC waits for this Pump's undecided prewrites while the Pump is away (rules 1).
    pub gc_hold_ttl_s: u64,
    /// Idle fakes (spec pump 2.6).
    pub fake_interval_ms: u64,
    /// At most one fake on demand in so many milliseconds while a stream waits; 0: none (rules 4).
    pub fake_on_demand_ms: u64,
    pub heartbeat_ms: u64,
    /// Bytes; prewrites are refused at or below it.
    pub stop_write_at_available_space: u64,
    /// Largest payload of one binlog.
    pub max_payload_bytes: usize,
    /// State in the registry before this start; `None`: never registered.
    pub previous: Option<NodeState>,
    /// Rules 3: the registry knows this node id as not offline. Where the data directory holds nothing at all, it was wiped, and
    /// a GC point is set first.
    pub wiped_directory_tso_needed: bool,
    pub stream_memory: StreamMemory,
    pub gc: GcConfig,
}

/// What is kept in memory for streams that keep up (design 3.3). What is not there is read from index and log.
#[derive(Debug, Clone, Copy)]
pub struct StreamMemory {
    /// Bytes of log.
    pub tail_bytes: usize,
    /// Entries of the index.
    pub entries: usize,
}

impl Default for StreamMemory {
    /// Log: a third of a second of a fast disk, enough for every stream that keeps up and, at usual load, for one that was cut off for
    /// a moment. Entries: about 100 bytes each, seconds of a busy Pump.
    fn default() -> Self {
        Self { tail_bytes: 32 << 20, entries: 64 << 10 }
    }
}

/// When binlogs are deleted (rules 6, spec pump 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// Binlogs are kept at least this long, by PD's clock.
    pub keep_ms: u64,
    pub hold: GcHold,
    /// Between two rounds.
    pub interval_ms: u64,
}

/// What keeps binlogs beyond their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GcHold {
    /// The checkpoints of all Drainers that are not offline.
    #[default]
    Drainers,
    /// Nothing: a Drainer that is too far behind finds a gap.
    Age,
}

impl Default for GcConfig {
    /// The original's: seven days, every hour.
    fn default() -> Self {
        Self { keep_ms: 7 * 24 * 3_600_000, hold: GcHold::default(), interval_ms: 3_600_000 }
    }
}

impl PumpConfig {
    #[must_use]
    pub fn log(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            node: self.node_uuid,
            cluster: self.cluster,
            max_batch_bytes: self.max_batch_bytes,
            max_batch_records: self.max_batch_records,
        }
    }
}
