//! Which Drainers have lost binlogs to a Pump's GC (spec pump 3.5, trap T18): metric
//! `binlog_pump_detected_drainer_binlog_purge_count`.

use super::status::{NodeState, NodeStatus};
use crate::ids::CommitTs;

/// How a Drainer of the registry stands to a Pump's GC point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// All that it needs is there.
    Served,
    /// It has not said yet how far it is.
    Unknown,
    /// It needs what is gone: it will be refused.
    Purged,
}

/// `None` for a Drainer that is offline: it comes back as a new one. Unlike the original there is no margin: what is counted has
/// happened.
#[must_use]
pub fn standing(drainer: &NodeStatus, gc: CommitTs) -> Option<Standing> {
    let checkpoint = u64::try_from(drainer.max_commit_ts).unwrap_or(0);
    match drainer.state {
        NodeState::Offline => None,
        _ if checkpoint == 0 => Some(Standing::Unknown),
        _ if CommitTs::new(checkpoint) < gc => Some(Standing::Purged),
        _ => Some(Standing::Served),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_purged() {
        use NodeState::{Closing, Offline, Online, Paused, Pausing};
        for (state, checkpoint, gc, wanted) in [
            (Online, 10, 9, Some(Standing::Served)),
            (Online, 10, 10, Some(Standing::Served)),
            (Online, 10, 11, Some(Standing::Purged)),
            (Paused, 10, 11, Some(Standing::Purged)),
            (Pausing, 10, 11, Some(Standing::Purged)),
            (Closing, 10, 11, Some(Standing::Purged)),
            (Offline, 10, 11, None),
            (Online, 0, 11, Some(Standing::Unknown)),
            (Online, -5, 11, Some(Standing::Unknown)),
            (Online, 10, 0, Some(Standing::Served)),
        ] {
            let drainer = NodeStatus {
                node_id: "d".to_owned(),
                host: String::new(),
                state,
                is_alive: false,
                score: 0,
                label: serde_json::Value::Null,
                max_commit_ts: checkpoint,
                update_ts: 0,
                token: None,
            };
            assert_eq!(standing(&drainer, CommitTs::new(gc)), wanted, "{state} {checkpoint} {gc}");
        }
    }
}
