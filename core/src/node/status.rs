//! The registry entry of a node: JSON under `/tidb-binlog/v1/{pumps,drainers}/<nodeID>` (spec pump 4.1).

use serde::{Deserialize, Deserializer, Serialize};
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

/// One registry entry. Field order is the original's. Reading takes what Go's readers take: unknown keys are passed over; what is
/// missing or null has the zero value. One entry that cannot be read fails every listing, so nothing is refused without need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(default, deserialize_with = "zero")]
    pub node_id: String,
    /// Advertised host:port, without a scheme.
    #[serde(default, deserialize_with = "zero")]
    pub host: String,
    #[serde(default = "unnamed", deserialize_with = "state")]
    pub state: NodeState,
    #[serde(default, deserialize_with = "zero")]
    pub is_alive: bool,
    #[serde(default, deserialize_with = "zero")]
    pub score: i64,
    #[serde(default)]
    pub label: serde_json::Value,
    /// Pump: its watermark. Drainer: its durable checkpoint.
    #[serde(default, rename = "maxCommitTS", deserialize_with = "zero")]
    pub max_commit_ts: i64,
    /// Approximate TSO of this update; 0 when PD gave none yet.
    #[serde(default, rename = "updateTS", deserialize_with = "zero")]
    pub update_ts: i64,
    /// Ours: marks which life of which data directory wrote the entry (design 3.5). Absence is no conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Null stands for the zero value.
fn zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// A state that is missing, or none of the five. To the original such a node is neither online nor offline: no prewrites go there,
/// nobody is notified, and GC, going offline and merges wait for it. So it is with `paused`.
const fn unnamed() -> NodeState {
    NodeState::Paused
}

fn state<'de, D: Deserializer<'de>>(value: D) -> Result<NodeState, D::Error> {
    use NodeState::{Closing, Offline, Online, Paused, Pausing};
    let name: Option<String> = Option::deserialize(value)?;
    let known = [Online, Pausing, Paused, Closing, Offline].into_iter().find(|s| name.as_deref() == Some(s.as_str()));
    Ok(known.unwrap_or_else(unnamed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read() {
        for (text, state) in [
            (r#"{"nodeId":"a","host":"h:1","state":"online"}"#, NodeState::Online),
            (r#"{"nodeId":"a","host":"h:1","state":"offline","new":{"k":[1]}}"#, NodeState::Offline),
            (r#"{"nodeId":"a","host":"h:1"}"#, NodeState::Paused),
            (r#"{"nodeId":"a","host":"h:1","state":""}"#, NodeState::Paused),
            (r#"{"nodeId":"a","host":"h:1","state":"retired"}"#, NodeState::Paused),
            (
                r#"{"nodeId":"a","host":"h:1","state":null,"isAlive":null,"score":null,"label":null,"maxCommitTS":null,"updateTS":null,"token":null}"#,
                NodeState::Paused,
            ),
        ] {
            let got: NodeStatus = serde_json::from_str(text).unwrap();
            assert_eq!((got.node_id.as_str(), got.host.as_str(), got.state), ("a", "h:1", state), "{text}");
            assert_eq!((got.max_commit_ts, got.update_ts, got.score, got.token), (0, 0, 0, None), "{text}");
        }
        let empty: NodeStatus = serde_json::from_str("{}").unwrap();
        assert_eq!((empty.node_id.as_str(), empty.host.as_str()), ("", ""));
        for text in ["", "null", r#"{"state":5}"#, r#"{"maxCommitTS":1.5}"#, r#"{"score":"1"}"#] {
            assert!(serde_json::from_str::<NodeStatus>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn written_as_the_original_writes_it() {
        let text = r#"{"nodeId":"ip-172-16-5-71:8250","host":"172.16.5.71:8250","state":"online","isAlive":false,"score":0,"label":null,"maxCommitTS":412518831548007863,"updateTS":412518831338292471}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
    }
}
