//! Going offline (spec pump 4.5, rules 6, traps T20, T21): prewrites are refused, everything else goes on, until nothing that
//! this Pump holds is needed any more; then it registers `offline` and stops.
//!
//! | step | waits for |
//! |---|---|
//! | 1 | every prewrite is decided |
//! | 2 | a closing fake, taken when nothing was undecided: its timestamp is above every commit here. It is the *target* |
//! | 3 | the logged watermark reaches the target |
//! | 4 | every Drainer that is not offline has a checkpoint at or above the target |
//!
//! Fakes are logged all along, once per second, so that the Drainers' checkpoints can move. The wish is kept in the index until it
//! is taken back: a Pump that dies in between goes on closing. There is no time limit; `/status` says what it waits for.

use super::effect::{Effect, Level};
use super::life::Phase;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use crate::fault::IoFault;
use crate::ids::CommitTs;
use crate::index::key;
use crate::index::op::Change;
use crate::node::state::Trigger;
use crate::node::status::{NodeState, NodeStatus};
use bytes::Bytes;
use serde::Serialize;

#[derive(Debug, Default)]
pub struct Offline {
    /// Everything that this Pump holds is at or below it. Known from step 2 on; kept to the end, it is registered with `offline`.
    target: Option<CommitTs>,
    /// The closing fake was asked for at once; later the timer asks.
    asked: bool,
    listing: bool,
    drainers: Listed,
    /// What was said last, so that only news is said.
    said: Vec<String>,
    /// Operators' calls that are answered once the wish, or its end, cannot be forgotten.
    calls: Vec<u64>,
}

#[derive(Debug, Default)]
enum Listed {
    #[default]
    NotYet,
    Failed(String),
    Behind(Vec<Behind>),
    /// Nobody needs anything more.
    Done,
}

/// A Drainer that does not have everything yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Behind {
    node_id: String,
    state: NodeState,
    checkpoint: CommitTs,
}

/// For `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClosingStatus {
    /// The Drainers' checkpoints must reach it.
    pub target: Option<CommitTs>,
    /// One line each, with the command that helps.
    pub waits_for: Vec<String>,
}

impl Offline {
    #[must_use]
    pub const fn target(&self) -> Option<CommitTs> {
        self.target
    }
}

impl Pump {
    /// The operator asks, and this node is online.
    pub(super) fn close(&mut self, call: u64) {
        self.life.go(Trigger::Close);
        let value = Bytes::from_static(b"1");
        self.indexer.put_meta(Change::Put(Bytes::from_static(key::META_CLOSING), value));
        self.life.set_closing_mark(true);
        self.indexer.sync();
        self.begin_closing();
        self.answer_when_durable(call);
    }

    /// The last life was closing; this one is visible again.
    pub(super) fn close_again(&mut self) {
        self.out.notice(Level::Info, "this pump was going offline when it ended: it goes on closing".to_owned());
        self.life.go(Trigger::CloseAgain);
        self.begin_closing();
    }

    fn begin_closing(&mut self) {
        self.offline = Offline { calls: std::mem::take(&mut self.offline.calls), ..Offline::default() };
        self.life.set_phase(Phase::Closing);
        self.write_status();
        self.timers.set(Timer::Closing, self.now.plus_millis(STEP_MS));
    }

    /// Back to `online`.
    pub(super) fn cancel_closing(&mut self, call: u64) {
        self.forget_closing();
        self.indexer.sync();
        self.life.go(Trigger::Cancel);
        self.life.set_phase(Phase::Serving);
        self.write_status();
        self.out.notice(Level::Info, "going offline was cancelled: this pump is online again".to_owned());
        self.answer_when_durable(call);
    }

    /// The wish is taken back; it rides on the next change of the index.
    pub(super) fn forget_closing(&mut self) {
        self.timers.cancel(Timer::Closing);
        if self.life.set_closing_mark(false) {
            self.indexer.put_meta(Change::Delete(Bytes::from_static(key::META_CLOSING)));
        }
    }

    fn answer_when_durable(&mut self, call: u64) {
        if self.offline.calls.len() < MAX_CALLS {
            self.offline.calls.push(call);
        } else {
            self.out.effect(Effect::ActionReply { call, result: Ok(()) });
        }
    }

    /// Answers operators once index or registry remember what they asked for, or when neither can.
    pub(super) fn answer_actions(&mut self) {
        if self.offline.calls.is_empty() {
            return;
        }
        let state = self.life.state();
        let kept = self.indexer.is_synced() || self.life.registered() == Some(state);
        let hopeless = self.read_only.is_some() || self.index_damaged || self.life.is_stopping();
        if kept || hopeless {
            for call in std::mem::take(&mut self.offline.calls) {
                self.out.effect(Effect::ActionReply { call, result: Ok(()) });
            }
        }
    }

    /// Takes the next step; whether all is done.
    pub(super) fn step_closing(&mut self) -> bool {
        if self.offline.target.is_none() && self.sorter.undecided() == 0 {
            // At once; where that gives none, the timer asks again.
            if !std::mem::replace(&mut self.offline.asked, true) {
                self.request_fake();
            }
        }
        let reached = self.offline.target.is_some_and(|target| self.sorter.logged() >= target);
        if reached && matches!(self.offline.drainers, Listed::NotYet) {
            self.list_for_offline();
        }
        reached && matches!(self.offline.drainers, Listed::Done)
    }

    pub(super) fn on_closing_timer(&mut self) {
        if self.life.phase() != Phase::Closing {
            return;
        }
        self.timers.set(Timer::Closing, self.now.plus_millis(STEP_MS));
        self.request_fake();
        if self.offline.target.is_some_and(|target| self.sorter.logged() >= target) {
            self.list_for_offline();
        }
        self.say_waiting();
    }

    /// A fake was accepted. With nothing undecided and prewrites refused, no commit can come above it.
    pub(super) fn fake_accepted(&mut self, ts: CommitTs) {
        if self.life.phase() == Phase::Closing && self.offline.target.is_none() && self.sorter.undecided() == 0 {
            self.offline.target = Some(ts);
        }
    }

    fn list_for_offline(&mut self) {
        if !std::mem::replace(&mut self.offline.listing, true) {
            self.out.list_drainers(Waiting::DrainersForOffline);
        }
    }

    pub(super) fn on_drainers_for_offline(&mut self, result: Result<Vec<NodeStatus>, IoFault>) {
        self.offline.listing = false;
        let Some(target) = self.offline.target.filter(|_| self.life.phase() == Phase::Closing) else { return };
        self.offline.drainers = match result {
            Ok(drainers) => match behind(&drainers, target) {
                none if none.is_empty() => Listed::Done,
                behind => Listed::Behind(behind),
            },
            Err(error) => Listed::Failed(error.to_string()),
        };
    }

    /// For `/status`; `None`: this node is not going offline.
    #[must_use]
    pub fn closing_status(&self) -> Option<ClosingStatus> {
        (self.life.state() == NodeState::Closing)
            .then(|| ClosingStatus { target: self.offline.target, waits_for: self.waits_for() })
    }

    fn waits_for(&self) -> Vec<String> {
        let watermark = self.sorter.logged();
        if let Some(reason) = self.read_only.as_ref().filter(|_| self.offline.target.is_none_or(|t| t > watermark)) {
            return vec![format!(
                "nothing can be stored ({reason}): mend that and start this pump again, it goes on closing"
            )];
        }
        match (self.offline.target, self.sorter.oldest()) {
            (None, Some((start_ts, since))) => {
                let waits = self.now.millis_since(since) / 1000;
                vec![format!(
                    "{} prewrites are not decided, the oldest has start_ts {start_ts} and waits since {waits} s: its commit must come",
                    self.sorter.undecided()
                )]
            }
            (None, None) => vec!["the closing fake: PD must give a timestamp".to_owned()],
            (Some(target), _) if watermark < target => {
                let frozen = self.sorter.frozen().map(|at| format!(" and may not pass {at}, see faults"));
                vec![format!("the watermark is at {watermark}, it must reach {target}{}", frozen.unwrap_or_default())]
            }
            (Some(target), _) => match &self.offline.drainers {
                Listed::NotYet => vec!["the list of Drainers".to_owned()],
                Listed::Failed(error) => vec![format!("the list of Drainers: {error}")],
                Listed::Behind(behind) => behind.iter().map(|drainer| drainer.to_text(target)).collect(),
                Listed::Done => vec!["what is on its way to the index".to_owned()],
            },
        }
    }

    /// Says what it waits for when that is other things than before.
    fn say_waiting(&mut self) {
        let names = match (&self.offline.drainers, self.offline.target) {
            (Listed::Behind(behind), Some(_)) => behind.iter().map(|drainer| drainer.node_id.clone()).collect(),
            (Listed::Failed(_), _) => vec!["registry".to_owned()],
            (_, target) => vec![format!("{}", target.is_some())],
        };
        if names != self.offline.said {
            self.offline.said = names;
            let text = format!("going offline waits for: {}", self.waits_for().join("; "));
            self.out.notice(Level::Info, text);
        }
    }
}

/// The Drainers that still need something of this Pump (spec pump 4.5): all but those that are offline.
fn behind(drainers: &[NodeStatus], target: CommitTs) -> Vec<Behind> {
    let of = |drainer: &NodeStatus| Behind {
        node_id: drainer.node_id.clone(),
        state: drainer.state,
        checkpoint: CommitTs::new(u64::try_from(drainer.max_commit_ts).unwrap_or(0)),
    };
    let on = drainers.iter().filter(|drainer| drainer.state != NodeState::Offline).map(of);
    on.filter(|drainer| drainer.checkpoint < target).collect()
}

impl Behind {
    fn to_text(&self, target: CommitTs) -> String {
        let Self { node_id, state, checkpoint } = self;
        format!(
            "drainer {node_id} ({state}) has checkpoint {checkpoint}, it needs {target}: let it run, or if it is gone for good: \
             binlogctl -cmd update-drainer -node-id {node_id} -state offline"
        )
    }
}

/// The original's interval of fakes and looks at the Drainers while closing.
const STEP_MS: u64 = 1000;
/// Operators that wait for an answer.
const MAX_CALLS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind() {
        use NodeState::{Closing, Offline, Online, Paused, Pausing};
        let entry = |(id, state, checkpoint): (&str, NodeState, i64)| -> NodeStatus {
            let text = format!(r#"{{"nodeId":"{id}","state":"{state}","maxCommitTS":{checkpoint}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        for (drainers, want) in [
            (vec![], vec![]),
            (vec![("a", Online, 10), ("b", Online, 11)], vec![]),
            (vec![("a", Online, 9), ("b", Offline, 1)], vec!["a"]),
            // Only an offline Drainer needs nothing.
            (vec![("a", Paused, 9), ("b", Pausing, 9), ("c", Closing, 9)], vec!["a", "b", "c"]),
            (vec![("never", Online, 0), ("odd", Online, -5)], vec!["never", "odd"]),
        ] {
            let entries: Vec<_> = drainers.iter().copied().map(entry).collect();
            let got = behind(&entries, CommitTs::new(10));
            assert_eq!(got.iter().map(|b| b.node_id.as_str()).collect::<Vec<_>>(), want, "{drainers:?}");
        }
    }
}
