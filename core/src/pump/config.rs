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
