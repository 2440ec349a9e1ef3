//! The states of a node and how it moves between them (spec pump 4.5): one table, tested as a matrix.

use super::status::NodeState;

/// What makes a node change its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The process starts: visible, but not written to.
    Start,
    /// Every Drainer that is online knows this node.
    Ready,
    /// A signal, or the pause action.
    Pause,
    /// The close action.
    Close,
    /// The last life was asked to close and had not finished.
    CloseAgain,
    /// All is drained.
    Drained,
    /// An operator takes back a pending close (trap T20).
    Cancel,
}

/// The next state; `None`: this trigger is refused in this state.
#[must_use]
pub const fn next(from: NodeState, trigger: Trigger) -> Option<NodeState> {
    use NodeState::{Closing, Offline, Online, Paused, Pausing};
    match (from, trigger) {
        (_, Trigger::Start) => Some(Paused),
        (Paused, Trigger::Ready) => Some(Online),
        (Online, Trigger::Pause) | (Closing, Trigger::Pause) => Some(Pausing),
        (Online, Trigger::Close) | (Paused, Trigger::CloseAgain) => Some(Closing),
        (Pausing, Trigger::Drained) => Some(Paused),
        (Closing, Trigger::Drained) => Some(Offline),
        (Closing, Trigger::Cancel) => Some(Online),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrix() {
        use NodeState::{Closing, Offline, Online, Paused, Pausing};
        use Trigger::{Cancel, Close, CloseAgain, Drained, Pause, Ready, Start};
        let triggers = [Start, Ready, Pause, Close, CloseAgain, Drained, Cancel];
        for (from, want) in [
            (Online, [Some(Paused), None, Some(Pausing), Some(Closing), None, None, None]),
            (Pausing, [Some(Paused), None, None, None, None, Some(Paused), None]),
            (Paused, [Some(Paused), Some(Online), None, None, Some(Closing), None, None]),
            (Closing, [Some(Paused), None, Some(Pausing), None, None, Some(Offline), Some(Online)]),
            (Offline, [Some(Paused), None, None, None, None, None, None]),
        ] {
            assert_eq!(triggers.map(|trigger| next(from, trigger)), want, "{from}");
        }
    }
}
