//! Collecting from all Pumps and merging by commit timestamp (rules 7, spec drainer 2).
//!
//! Keeps true: what is emitted rises strictly; nothing is emitted above the confirmed timestamp or before every source
//! showed a head; an item below the merge position was emitted before, else it is a Fault, never a drop. Called by
//! [`super::machine::Drainer`], which says up to where the membership is confirmed.

use super::effect::SourceId;
use super::item::{Item, Kind};
use super::out::Out;
use super::retry::clip;
use super::source::{Link, PumpKey, Sequence, Source};
use crate::canary::{self, Canary};
use crate::fault::Fault;
use crate::ids::{CommitTs, NodeId};
use crate::node::status::{NodeState, NodeStatus};
use crate::pump::effect::Level;
use crate::time::MonoTime;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// One transaction in merged order.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) commit_ts: CommitTs,
    pub(super) kind: Kind,
    pub(super) from: PumpKey,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Collector {
    memory: u64,
    next_key: u32,
    sources: BTreeMap<PumpKey, Source>,
    by_node: BTreeMap<NodeId, PumpKey>,
    by_connection: BTreeMap<SourceId, PumpKey>,
    /// The first item of each queue: the root is the next candidate.
    heads: BTreeSet<(CommitTs, PumpKey)>,
    /// Sources without an item; as long as there is one, nothing can be emitted.
    empty: BTreeSet<PumpKey>,
    /// The last timestamp emitted.
    position: CommitTs,
    /// Identities of the transactions emitted above the checkpoint: what a source found late repeats.
    emitted: BTreeMap<CommitTs, u64>,
    /// Pumps that went offline after all that they promised was received.
    left: BTreeMap<NodeId, CommitTs>,
    /// A Fault stopped the emission.
    halted: bool,
}

impl Collector {
    pub(super) fn new(memory: u64) -> Self {
        Self {
            memory,
            next_key: 0,
            sources: BTreeMap::new(),
            by_node: BTreeMap::new(),
            by_connection: BTreeMap::new(),
            heads: BTreeSet::new(),
            empty: BTreeSet::new(),
            position: CommitTs::ZERO,
            emitted: BTreeMap::new(),
            left: BTreeMap::new(),
            halted: false,
        }
    }

    /// Begins anew at `checkpoint`: connections are closed, what was collected is forgotten.
    pub(super) fn restart_at(&mut self, checkpoint: CommitTs, out: &mut Out) {
        self.close(out);
        let (memory, next_key) = (self.memory, self.next_key);
        *self = Self { next_key, position: checkpoint, ..Self::new(memory) };
    }

    /// Closes all connections.
    pub(super) fn close(&mut self, out: &mut Out) {
        for source in self.sources.values_mut() {
            source.disconnect(Link::Ended, out);
        }
        self.by_connection.clear();
    }

    pub(super) fn halt(&mut self) {
        self.halted = true;
    }

    fn fail(&mut self, fault: Fault, out: &mut Out) {
        self.halted = true;
        out.fault(fault);
    }

    /// Takes a linearizable listing: afterwards every Pump that is not offline is a source. `checkpoint`: the durable one,
    /// where a new source begins. An error means that this listing confirms nothing.
    pub(super) fn listed(
        &mut self,
        now: MonoTime,
        pumps: Vec<NodeStatus>,
        checkpoint: CommitTs,
        accepted: &BTreeSet<NodeId>,
        out: &mut Out,
    ) -> Result<(), String> {
        let mut entries = Vec::with_capacity(pumps.len());
        for entry in pumps {
            let node = NodeId::parse(entry.node_id.trim())
                .map_err(|e| format!("an entry under the pumps prefix of the registry is not usable: {e}"))?;
            entries.push((node, entry));
        }
        for (node, entry) in entries {
            let max = CommitTs::new(u64::try_from(entry.max_commit_ts).unwrap_or(0));
            match (self.by_node.get(&node).copied(), entry.state) {
                (None, NodeState::Offline) => self.unknown_offline(node, max, checkpoint, accepted, out),
                (None, state) => self.join(now, node, entry.host, state, checkpoint, out),
                (Some(key), NodeState::Paused) if canary::is(Canary::RemoveSourceEarly) => {
                    self.went_offline(key, CommitTs::ZERO, out);
                }
                (Some(key), NodeState::Offline) => self.went_offline(key, max, out),
                (Some(key), state) => self.still_there(now, key, entry.host, state, out),
            }
        }
        self.connect(now, out);
        Ok(())
    }

    /// Rules 7: what an offline Pump has above the checkpoint cannot be read any more.
    fn unknown_offline(
        &mut self,
        node: NodeId,
        max: CommitTs,
        checkpoint: CommitTs,
        accepted: &BTreeSet<NodeId>,
        out: &mut Out,
    ) {
        let was_received = self.left.get(&node).is_some_and(|received| *received >= max);
        if checkpoint == CommitTs::ZERO || max <= checkpoint || was_received || self.halted {
            return;
        }
        if accepted.contains(&node) {
            if self.left.insert(node.clone(), max).is_none() {
                let text = format!(
                    "pump {node} is offline and had binlogs up to {max}, above the checkpoint {checkpoint}; \
                     what it held is left out because the configuration accepts it"
                );
                out.notice(Level::Warn, text);
            }
            return;
        }
        let what = format!(
            "it is offline and had binlogs up to {max}, above the checkpoint {checkpoint}: transactions that only it held \
             cannot be read. Bring it back (binlogctl -cmd update-pump -node-id {node} -state paused, then start it), or \
             give them up by starting this drainer with -accept-offline-pump {node}"
        );
        self.fail(Fault::Source { pump: node.to_string(), what }, out);
    }

    fn join(
        &mut self,
        now: MonoTime,
        node: NodeId,
        addr: String,
        state: NodeState,
        checkpoint: CommitTs,
        out: &mut Out,
    ) {
        self.next_key += 1;
        let key = PumpKey(self.next_key);
        let text = format!("pump {node} at {addr} ({state}) is collected from commit_ts {checkpoint}");
        out.notice(Level::Info, text);
        self.left.remove(&node);
        self.by_node.insert(node.clone(), key);
        self.sources.insert(key, Source::new(node, addr, state, checkpoint, now));
        self.empty.insert(key);
    }

    fn still_there(&mut self, now: MonoTime, key: PumpKey, addr: String, state: NodeState, out: &mut Out) {
        let Some(source) = self.sources.get_mut(&key) else { return };
        let woke_up = source.state != NodeState::Online && state == NodeState::Online;
        source.state = state;
        source.leaving = None;
        if source.addr != addr {
            let text = format!("pump {} moved from {} to {addr}", source.pump, source.addr);
            out.notice(Level::Info, text);
            source.addr = addr;
            if source.link != Link::Ended {
                if let Some(connection) = source.disconnect(Link::Down, out) {
                    self.by_connection.remove(&connection);
                }
                source.retry.succeed(now, out);
            }
        } else if woke_up && source.link == Link::Down {
            source.retry.succeed(now, out);
        }
    }

    fn went_offline(&mut self, key: PumpKey, max: CommitTs, out: &mut Out) {
        if let Some(source) = self.sources.get_mut(&key) {
            source.state = NodeState::Offline;
            source.leaving = Some(max);
        }
        self.leave_if_complete(key, out);
    }

    /// An offline Pump leaves once it was received up to what it had registered; what is queued is still merged.
    fn leave_if_complete(&mut self, key: PumpKey, out: &mut Out) {
        let Some(source) = self.sources.get_mut(&key) else { return };
        if !source.may_leave() {
            return;
        }
        if let Some(connection) = source.disconnect(Link::Ended, out) {
            self.by_connection.remove(&connection);
        }
        let text = format!("pump {} is offline and was received up to {}", source.pump, source.received);
        out.notice(Level::Info, text);
        self.left.insert(source.pump.clone(), source.received);
        self.by_node.remove(&source.pump);
        self.empty.remove(&key);
        self.forget_if_drained(key);
    }

    fn forget_if_drained(&mut self, key: PumpKey) {
        let drained = self.sources.get(&key).is_some_and(|s| s.may_leave() && s.queue.is_empty() && s.held() == 0);
        if drained && !self.empty.contains(&key) {
            self.sources.remove(&key);
        }
    }

    /// A message arrived on a connection.
    pub(super) fn item(
        &mut self,
        now: MonoTime,
        connection: SourceId,
        payload: Bytes,
        is_setval: fn(&[u8], &[u8]) -> bool,
        out: &mut Out,
    ) {
        let Some(&key) = self.by_connection.get(&connection) else { return };
        let Some(source) = self.sources.get_mut(&key) else { return };
        let item = match Item::decode(payload, is_setval) {
            Ok(item) => item,
            Err(error) => {
                let what = format!("pump {}, the item after {}: {error}", source.pump, source.received);
                let commit_ts = source.received;
                self.end(key, Fault::BadBinlog { commit_ts, what }, out);
                return;
            }
        };
        match source.sequence(&item) {
            Sequence::Next => {}
            Sequence::Repeated => return,
            Sequence::Broken(what) => {
                let pump = source.pump.to_string();
                self.end(key, Fault::Source { pump, what }, out);
                return;
            }
        }
        source.retry.succeed(now, out);
        if item.commit_ts <= self.position {
            self.late(key, &item, out);
        } else {
            if self.empty.remove(&key) {
                self.heads.insert((item.commit_ts, key));
            }
            source.push(item);
        }
        self.leave_if_complete(key, out);
    }

    /// Below the merge position: a source that was found late repeats what another one brought already.
    fn late(&mut self, key: PumpKey, item: &Item, out: &mut Out) {
        if item.is_fake() {
            return;
        }
        let Some(source) = self.sources.get(&key) else { return };
        let pump = source.pump.to_string();
        let fault = match self.emitted.get(&item.commit_ts) {
            Some(identity) if *identity == item.identity => return,
            Some(_) => Fault::Source {
                pump,
                what: format!(
                    "its binlog with commit_ts {} differs from the one that another pump sent under this timestamp",
                    item.commit_ts
                ),
            },
            None if canary::is(Canary::MergeDropsLate) => return,
            None => Fault::LateItem { pump, commit_ts: item.commit_ts, position: self.position },
        };
        self.end(key, fault, out);
    }

    /// A source contradicts itself or others: it is closed and nothing more is emitted.
    fn end(&mut self, key: PumpKey, fault: Fault, out: &mut Out) {
        if let Some(source) = self.sources.get_mut(&key)
            && let Some(connection) = source.disconnect(Link::Ended, out)
        {
            self.by_connection.remove(&connection);
        }
        self.fail(fault, out);
    }

    /// A connection ended.
    pub(super) fn closed(&mut self, now: MonoTime, connection: SourceId, error: Option<String>, out: &mut Out) {
        let Some(key) = self.by_connection.remove(&connection) else { return };
        let Some(source) = self.sources.get_mut(&key) else { return };
        source.link = Link::Down;
        let error = error.unwrap_or_else(|| "the pump ended the stream".to_owned());
        if error.contains(PURGED) {
            let pump = source.pump.to_string();
            let what = format!("cannot continue after {}: {}", source.received, clip(&error));
            source.link = Link::Ended;
            self.fail(Fault::Source { pump, what }, out);
            return;
        }
        source.retry.fail(now, &error, out);
        if let Some(target) = source.leaving
            && source.retry.failures() >= OFFLINE_ATTEMPTS
        {
            let pump = source.pump.to_string();
            let what = format!(
                "it is registered as offline with binlogs up to {target}, but only those up to {} were received and it \
                 does not answer ({}). Start it again, or give the rest up by starting this drainer with \
                 -accept-offline-pump {pump}",
                source.received,
                clip(&error)
            );
            source.link = Link::Ended;
            self.fail(Fault::Source { pump, what }, out);
        }
    }

    /// Opens what is due.
    pub(super) fn connect(&mut self, now: MonoTime, out: &mut Out) {
        if self.halted {
            return;
        }
        let target = self.target();
        for (key, source) in &mut self.sources {
            if let Some(connection) = source.open(now, target, out) {
                self.by_connection.insert(connection, *key);
            }
        }
    }

    /// The next transaction, if it may be emitted.
    pub(super) fn pop(&mut self, now: MonoTime, confirmed: CommitTs, out: &mut Out) -> Option<Merged> {
        if !self.may_emit() {
            return None;
        }
        let (commit_ts, first) = self.heads.first().copied()?;
        if commit_ts > confirmed && !canary::is(Canary::MergeDropsLate) {
            return None;
        }
        debug_assert!(commit_ts > self.position, "late items never enter a queue");
        let mut winner = self.take_head(now, commit_ts, first)?;
        let mut from = first;
        // The same transaction on several Pumps: one is emitted, and its credit alone stays charged.
        while let Some(&(other_ts, key)) = self.heads.first()
            && other_ts == commit_ts
        {
            let Some(other) = self.take_head(now, commit_ts, key) else { break };
            if winner.is_fake() && !other.is_fake() {
                self.release(from, winner.bytes);
                (winner, from) = (other, key);
                continue;
            }
            if !other.is_fake() && other.identity != winner.identity {
                let name = |key: PumpKey| self.sources.get(&key).map(|s| s.pump.to_string()).unwrap_or_default();
                let (pump, second) = (name(from), name(key));
                let what = format!(
                    "it and pump {second} hold different binlogs under commit_ts {commit_ts}; neither is applied"
                );
                self.fail(Fault::Source { pump, what }, out);
                return None;
            }
            self.release(key, other.bytes);
        }
        self.position = commit_ts;
        if !winner.is_fake() {
            self.emitted.insert(commit_ts, winner.identity);
        }
        Some(Merged { commit_ts, kind: winner.kind, from, bytes: winner.bytes })
    }

    fn take_head(&mut self, now: MonoTime, commit_ts: CommitTs, key: PumpKey) -> Option<Item> {
        self.heads.remove(&(commit_ts, key));
        let source = self.sources.get_mut(&key)?;
        let item = source.pop(now)?;
        match source.queue.front() {
            Some(next) => {
                self.heads.insert((next.commit_ts, key));
            }
            None if source.may_leave() => {}
            None => {
                self.empty.insert(key);
            }
        }
        Some(item)
    }

    fn may_emit(&self) -> bool {
        !self.halted
            && (self.empty.is_empty() || canary::is(Canary::MergeWithoutAllHeads))
            && self.emitted.len() < EMITTED_LIMIT
    }

    /// An item waits only for the membership to be confirmed.
    pub(super) fn wants_confirmation(&self, confirmed: CommitTs) -> bool {
        self.may_emit() && self.heads.first().is_some_and(|(ts, _)| *ts > confirmed)
    }

    /// So much is remembered that the checkpoint should move.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.emitted.len() >= EMITTED_LIMIT / 2
    }

    /// `bytes` of items from `key` left the pipeline.
    pub(super) fn release(&mut self, key: PumpKey, bytes: u64) {
        if let Some(source) = self.sources.get_mut(&key) {
            source.release(bytes);
        }
        self.forget_if_drained(key);
    }

    /// Hands credit back; called once per turn, so that many small items make one grant.
    pub(super) fn grant(&mut self, out: &mut Out) {
        if self.halted {
            return;
        }
        let target = self.target();
        for source in self.sources.values_mut() {
            source.grant(target, out);
        }
    }

    fn target(&self) -> u64 {
        let sources = self.sources.len().max(1) as u64;
        (self.memory / sources).max(MIN_SOURCE_BYTES)
    }

    /// The checkpoint is durable: what lies at or below it cannot come again, except from a source that has not got
    /// that far yet.
    pub(super) fn checkpoint(&mut self, durable: CommitTs) {
        let slowest = self.sources.values().filter(|s| s.link != Link::Ended).map(|s| s.received).min();
        let upto = slowest.map_or(durable, |s| s.min(durable));
        if self.emitted.first_key_value().is_some_and(|(first, _)| *first <= upto) {
            self.emitted = self.emitted.split_off(&CommitTs::new(upto.raw().saturating_add(1)));
        }
    }

    pub(super) fn position(&self) -> CommitTs {
        self.position
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.values()
    }

    /// The source that the merge waits for: no item, and the least received.
    pub(super) fn slowest(&self) -> Option<&Source> {
        self.empty.iter().filter_map(|key| self.sources.get(key)).min_by_key(|s| (s.received, &s.pump))
    }

    /// Transactions remembered, and bytes held.
    pub(super) fn sizes(&self) -> (usize, u64) {
        (self.emitted.len(), self.sources.values().map(Source::held).sum())
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let down = self.sources.values().filter(|s| s.link == Link::Down);
        (!self.halted).then(|| down.map(|s| s.retry.not_before()).min()).flatten()
    }

    pub(super) fn check(&self) {
        for (key, source) in &self.sources {
            let head = source.queue.front().map(|item| (item.commit_ts, *key));
            assert_eq!(head.is_some(), head.is_some_and(|h| self.heads.contains(&h)), "head of {}", source.pump);
            assert!(head.is_none_or(|(ts, _)| ts > self.position), "queued below the merge position");
            assert!(!self.empty.contains(key) || head.is_none(), "{} is empty and has a head", source.pump);
            assert!(head.is_some() || self.empty.contains(key) || source.may_leave(), "{} does not block", source.pump);
        }
        assert!(self.emitted.len() <= EMITTED_LIMIT, "remembered transactions");
        assert!(self.emitted.last_key_value().is_none_or(|(ts, _)| *ts <= self.position));
    }
}

/// Our own Pump refuses a start below its GC point with this text (spec pump 1.4); waiting does not bring data back.
const PURGED: &str = "request a purged binlog TS";
/// An offline Pump that cannot be reached this often in a row is gone.
const OFFLINE_ATTEMPTS: u32 = 3;
/// Transactions remembered above the checkpoint: 8 MiB. At half of it the checkpoint is moved out of turn.
const EMITTED_LIMIT: usize = 1 << 18;
/// A source needs room for more than one ordinary transaction, however many Pumps there are.
const MIN_SOURCE_BYTES: u64 = 1 << 20;
