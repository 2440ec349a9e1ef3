//! Oracles of a Pump's life (invariants N1–N4): what it takes in which state, how its state moves, what `offline` promises, who was
//! told before the first write. Fed by the world at each input and each registry write of one life.

use binlog_core::ids::CommitTs;
use binlog_core::node::state::{self, Trigger};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::pump::status::Glance;

type Judged = Result<(), (&'static str, String)>;

/// What was seen of one life.
#[derive(Debug, Default)]
pub struct LifeWatch {
    state: Option<NodeState>,
    /// The Drainers had to be told before the first write, and have not answered yet.
    owes_notify: bool,
}

/// A write as the Pump saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Prewrite,
    Other,
}

impl LifeWatch {
    pub fn restart(&mut self, previous: Option<NodeState>) {
        *self = Self { state: None, owes_notify: matches!(previous, None | Some(NodeState::Offline)) };
    }

    pub fn notified(&mut self) {
        self.owes_notify = false;
    }

    /// N1, N4: a write was handed in; `before` and `after` are the Pump around it.
    pub fn wrote(&self, kind: Written, before: &Glance, after: &Glance) -> Judged {
        let stored = after.accepted > before.accepted;
        match kind {
            Written::Prewrite if stored && before.state != NodeState::Online => {
                Err(("N1", format!("a prewrite is accepted while {}", before.state)))
            }
            Written::Prewrite if stored && self.owes_notify => {
                Err(("N4", "a prewrite is accepted before the Drainers were told".to_owned()))
            }
            Written::Other if !stored && before.state == NodeState::Online && !before.is_read_only => {
                let refused = after.rejected > before.rejected;
                if refused { Err(("N1", "a commit or rollback is refused while online".to_owned())) } else { Ok(()) }
            }
            Written::Prewrite | Written::Other => Ok(()),
        }
    }

    /// N2: the state after an input.
    pub fn is_now(&mut self, now: NodeState) -> Judged {
        let Some(before) = self.state.replace(now).filter(|before| *before != now) else { return Ok(()) };
        if TRIGGERS.iter().any(|trigger| state::next(before, *trigger) == Some(now)) {
            return Ok(());
        }
        Err(("N2", format!("the state goes from {before} to {now}")))
    }

    /// N2, N3: an entry is about to be written. `largest`: the largest commit timestamp of a transaction that this Pump accepted.
    pub fn registers(&self, entry: &NodeStatus, own: &Glance, drainers: &[NodeStatus], largest: u64) -> Judged {
        if entry.state != own.state {
            return Err(("N2", format!("{} is registered while the machine is {}", entry.state, own.state)));
        }
        let promised = CommitTs::new(u64::try_from(entry.max_commit_ts).unwrap_or(0));
        // R6: whoever reads the entry takes everything up to there for sent.
        if promised > own.watermark {
            return Err(("N2", format!("it advertises {promised}, its watermark is {}", own.watermark)));
        }
        if entry.state != NodeState::Offline {
            return Ok(());
        }
        if own.undecided > 0 {
            return Err(("N3", format!("offline with {} undecided prewrites", own.undecided)));
        }
        if own.logged_watermark < promised || promised == CommitTs::ZERO {
            return Err(("N3", format!("offline with {promised}, the watermark is {}", own.logged_watermark)));
        }
        if largest > promised.raw() {
            return Err(("N3", format!("offline with {promised}, but it holds commit {largest}")));
        }
        let needs = |d: &&NodeStatus| d.state != NodeState::Offline && d.max_commit_ts < entry.max_commit_ts;
        match drainers.iter().find(needs) {
            Some(d) => Err(("N3", format!("offline with {promised}, drainer {} is at {}", d.node_id, d.max_commit_ts))),
            None => Ok(()),
        }
    }
}

const TRIGGERS: [Trigger; 7] = [
    Trigger::Start,
    Trigger::Ready,
    Trigger::Pause,
    Trigger::Close,
    Trigger::CloseAgain,
    Trigger::Drained,
    Trigger::Cancel,
];
