//! The registry entry of a node: JSON under `/tidb-binlog/v1/{pumps,drainers}/<nodeID>` (spec pump 4.1).

use serde::{Deserialize, Serialize};
use std::fmt;

/// State of a node as the registry shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Online,
    Pausing,
    Paused,
    Closing,
    Offline,
}

impl NodeState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Closing => "closing",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One registry entry. Field order is the original's; unknown keys are tolerated, missing ones default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(default)]
    pub node_id: String,
    /// Advertised host:port, without a scheme.
    #[serde(default)]
    pub host: String,
    pub state: NodeState,
    #[serde(default)]
    pub is_alive: bool,
    #[serde(default)]
    pub score: i64,
    #[serde(default)]
    pub label: serde_json::Value,
    /// Pump: its watermark. Drainer: its durable checkpoint.
    #[serde(default, rename = "maxCommitTS")]
    pub max_commit_ts: i64,
    /// Approximate TSO of this update; 0 when PD gave none yet.
    #[serde(default, rename = "updateTS")]
    pub update_ts: i64,
    /// Ours: marks which life of which data directory wrote the entry (design 3.5). Absence is no conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
