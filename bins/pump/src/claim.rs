//! Asks the registry, before the machine starts, whether this node id may be used (design 3.5); `binlog_core::node::claim` decides.

use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::node::claim::{Claim, Step};
use binlog_core::node::status::NodeStatus;
use binlog_runtime::clock::Clock;
use binlog_runtime::retry;
use std::time::Duration;

/// Between two looks at an entry that another process wrote.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The entry as this node found it, and the token in it that its first write replaces.
pub struct Claimed {
    pub previous: Option<NodeStatus>,
    pub over: Option<String>,
}

/// Waits while the registry is away, and while it is not clear whether another process lives under this id.
///
/// # Errors
/// The id is in use; the text names the other process and what to do.
pub async fn claim(registry: &Registry, node_id: &str, token: &str, heartbeat_ms: u64) -> anyhow::Result<Claimed> {
    let clock = Clock::start();
    let mut claim = Claim::new(token.to_owned(), heartbeat_ms);
    loop {
        let entry = || registry.get(NodeKind::Pump, node_id);
        let previous = retry::forever("read this node's registry entry", entry).await;
        match claim.see(clock.now(), previous.as_ref()) {
            Step::Take { over, notice } => {
                if let Some(notice) = notice {
                    tracing::warn!("{notice}");
                }
                return Ok(Claimed { previous, over });
            }
            Step::Watch { notice } => {
                if let Some(notice) = notice {
                    tracing::warn!("{notice}");
                }
            }
            Step::Refuse(why) => anyhow::bail!(why),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
