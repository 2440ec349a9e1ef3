//! This node's registry entry (spec drainer 7.3, 7.4): written when the state changes and at every heartbeat, one write at a
//! time, so that an older state never overwrites a newer one.

use super::config::DrainerConfig;
use super::effect::Effect;
use super::out::Out;
use super::retry::Retry;
use crate::ids::{CommitTs, OpId};
use crate::node::status::{NodeState, NodeStatus};
use crate::time::{MonoTime, Tso};

#[derive(Debug)]
pub(super) struct Heartbeat {
    /// What the entry should say; `None`: not registered yet.
    wanted: Option<NodeState>,
    /// What it says for all that is known.
    written: Option<NodeState>,
    in_flight: Option<(OpId, NodeState)>,
    last_write: MonoTime,
    retry: Retry,
}

impl Heartbeat {
    pub(super) fn new() -> Self {
        Self {
            wanted: None,
            written: None,
            in_flight: None,
            last_write: MonoTime::ZERO,
            retry: Retry::new("writing this node's entry in the registry"),
        }
    }

    pub(super) fn want(&mut self, state: NodeState) {
        self.wanted = Some(state);
    }

    pub(super) fn wanted(&self) -> Option<NodeState> {
        self.wanted
    }

    pub(super) fn written(&self) -> Option<NodeState> {
        self.written
    }

    /// Writes the entry when it is due. `checkpoint`: the durable one, Pumps keep what is above it.
    pub(super) fn advance(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        checkpoint: CommitTs,
        clock: Option<Tso>,
        out: &mut Out,
    ) {
        let (Some(state), None) = (self.wanted, self.in_flight) else { return };
        if self.due(config).is_none_or(|due| now < due) {
            return;
        }
        self.last_write = now;
        let status = NodeStatus {
            node_id: config.node_id.to_string(),
            host: config.advertise_addr.clone(),
            state,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: i64::try_from(checkpoint.raw()).unwrap_or(i64::MAX),
            update_ts: clock.map_or(0, |tso| i64::try_from(tso.raw()).unwrap_or(i64::MAX)),
            token: None,
        };
        let op = out.request(|op| Effect::PutStatus { op, status });
        self.in_flight = Some((op, state));
    }

    fn due(&self, config: &DrainerConfig) -> Option<MonoTime> {
        let wanted = self.wanted?;
        let due = if self.written == Some(wanted) && self.retry.failures() == 0 {
            self.last_write.plus_millis(config.heartbeat_ms)
        } else {
            MonoTime::ZERO
        };
        Some(due.max(self.retry.not_before()))
    }

    pub(super) fn deadline(&self, config: &DrainerConfig) -> Option<MonoTime> {
        if self.in_flight.is_some() { None } else { self.due(config) }
    }

    pub(super) fn done(&mut self, now: MonoTime, op: OpId, result: Result<(), String>, out: &mut Out) {
        let Some((own, state)) = self.in_flight else { return };
        if own != op {
            return;
        }
        self.in_flight = None;
        match result {
            Ok(()) => {
                self.written = Some(state);
                self.retry.succeed(now, out);
            }
            Err(error) => self.retry.fail(now, &error, out),
        }
    }
}
