//! One Pump's stream (rules 7, spec drainer 2.2): the connection and its back-off, what was received, the items that wait
//! for the merge, and the credit that bounds them.
//!
//! Keeps true: items of one Pump rise strictly; a reconnect continues from the last item *received*; what the driver may
//! hand in and what is held stay within the target. Owned by [`super::merge::Collector`].

use super::effect::{Effect, SourceId};
use super::item::Item;
use super::out::Out;
use super::retry::Retry;
use crate::canary::{self, Canary};
use crate::ids::{CommitTs, NodeId};
use crate::node::status::NodeState;
use crate::time::MonoTime;
use std::collections::VecDeque;

/// Identity of a Pump's entry in this process; a Pump that left and came back gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PumpKey(pub(super) u32);

#[derive(Debug)]
pub(super) struct Source {
    pub(super) pump: NodeId,
    pub(super) addr: String,
    pub(super) state: NodeState,
    pub(super) link: Link,
    /// Last item received, fakes included.
    pub(super) received: CommitTs,
    /// Identity of the item at `received`; `None` where the stream began.
    last_identity: Option<u64>,
    pub(super) queue: VecDeque<Item>,
    /// Bytes of this Pump's items in the pipeline, up to their application.
    held: u64,
    /// What the driver may still hand in; below zero after an item larger than the rest.
    balance: i64,
    pub(super) retry: Retry,
    /// Since when the queue is empty.
    pub(super) empty_since: MonoTime,
    /// Registered as offline: it leaves once everything up to here was received.
    pub(super) leaving: Option<CommitTs>,
}

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Opened by the next tick that `retry` allows.
    Down,
    Open(SourceId),
    /// Nothing more is expected: it left, or its stream contradicts itself.
    Ended,
}

/// What the order of a source's own items says about the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    Next,
    /// The last item again.
    Repeated,
    Broken(String),
}

impl Source {
    pub(super) fn new(pump: NodeId, addr: String, state: NodeState, last: CommitTs, now: MonoTime) -> Self {
        let retry = Retry::new(format!("pulling binlogs from pump {pump}"));
        Self {
            pump,
            addr,
            state,
            link: Link::Down,
            received: last,
            last_identity: None,
            queue: VecDeque::new(),
            held: 0,
            balance: 0,
            retry,
            empty_since: now,
            leaving: None,
        }
    }

    /// Connects when it is time to; `target`: bytes that this source may have in memory.
    pub(super) fn open(&mut self, now: MonoTime, target: u64, out: &mut Out) -> Option<SourceId> {
        if self.link != Link::Down || !self.retry.may_try(now) {
            return None;
        }
        let credit = target.saturating_sub(self.held);
        self.balance = signed(credit);
        let source = out.next_source();
        self.link = Link::Open(source);
        out.push(Effect::OpenSource {
            source,
            pump: self.pump.clone(),
            addr: self.addr.clone(),
            last: match self.queue.front().filter(|_| canary::is(Canary::ReconnectFromEmitted)) {
                Some(first) => CommitTs::new(first.commit_ts.raw() - 1),
                None => self.received,
            },
            credit,
        });
        Some(source)
    }

    /// Drops the connection, if there is one; the next one continues from `received`.
    pub(super) fn disconnect(&mut self, then: Link, out: &mut Out) -> Option<SourceId> {
        let open = match self.link {
            Link::Open(source) => {
                out.push(Effect::CloseSource { source });
                Some(source)
            }
            Link::Down | Link::Ended => None,
        };
        self.link = then;
        self.balance = 0;
        open
    }

    /// Judges the next item by this source's own order and takes note of it.
    pub(super) fn sequence(&mut self, item: &Item) -> Sequence {
        self.balance = self.balance.saturating_sub(signed(item.bytes));
        if item.commit_ts > self.received {
            self.received = item.commit_ts;
            self.last_identity = Some(item.identity);
            return Sequence::Next;
        }
        let same = self.last_identity.is_none_or(|last| last == item.identity) || item.is_fake();
        if item.commit_ts == self.received && same {
            return Sequence::Repeated;
        }
        Sequence::Broken(format!(
            "it sent commit_ts {} after {}: the binlogs of one pump must rise",
            item.commit_ts, self.received
        ))
    }

    pub(super) fn push(&mut self, item: Item) {
        self.held = self.held.saturating_add(item.bytes);
        self.queue.push_back(item);
    }

    pub(super) fn pop(&mut self, now: MonoTime) -> Option<Item> {
        let item = self.queue.pop_front();
        if self.queue.is_empty() {
            self.empty_since = now;
        }
        item
    }

    /// `bytes` of this Pump's items left the pipeline.
    pub(super) fn release(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Grants what `target` allows; small amounts wait as long as the driver has some left.
    pub(super) fn grant(&mut self, target: u64, out: &mut Out) {
        let Link::Open(source) = self.link else { return };
        let room = signed(target).saturating_sub(signed(self.held)).saturating_sub(self.balance);
        let Ok(bytes) = u64::try_from(room) else { return };
        if bytes > 0 && (self.balance <= 0 || bytes >= target / GRANT_PART) {
            self.balance = self.balance.saturating_add(room);
            out.push(Effect::SourceCredit { source, bytes });
        }
    }

    /// Everything that it promised in the registry was received.
    pub(super) fn may_leave(&self) -> bool {
        self.leaving.is_some_and(|target| self.received >= target)
    }

    /// Why it has nothing to merge, for the status.
    pub(super) fn why_waiting(&self) -> String {
        let pump = &self.pump;
        let link = match (self.link, self.retry.trouble()) {
            (_, Some((error, _))) => format!("not reachable at {}: {error}", self.addr),
            (Link::Down, None) => "not connected yet".to_owned(),
            (Link::Open(_), None) => "it has sent nothing newer".to_owned(),
            (Link::Ended, None) => "its stream was ended by a fault".to_owned(),
        };
        match self.state {
            NodeState::Online => format!("waiting for pump {pump}: {link}"),
            state => format!("waiting for pump {pump}, which is {state}: {link}"),
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// One grant per eighth of the target keeps the number of grants small and the stream flowing.
const GRANT_PART: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drainer::item::Kind;

    fn item(ts: u64, identity: u64, bytes: u64) -> Item {
        Item { commit_ts: CommitTs::new(ts), kind: Kind::SetVal, identity, bytes }
    }

    fn source() -> Source {
        let pump = NodeId::parse("p").unwrap();
        Source::new(pump, "h:1".to_owned(), NodeState::Online, CommitTs::new(10), MonoTime::ZERO)
    }

    #[test]
    fn own_order() {
        let mut s = source();
        assert_eq!(s.sequence(&item(10, 7, 0)), Sequence::Repeated, "what the stream began after");
        assert_eq!(s.sequence(&item(11, 1, 0)), Sequence::Next);
        assert_eq!(s.sequence(&item(11, 1, 0)), Sequence::Repeated);
        assert!(matches!(s.sequence(&item(11, 2, 0)), Sequence::Broken(_)), "other content");
        assert!(matches!(s.sequence(&item(9, 1, 0)), Sequence::Broken(_)));
        assert_eq!(s.received, CommitTs::new(11));
    }

    #[test]
    fn credit_is_bounded_and_survives_an_oversize_item() {
        let mut out = Out::new(0);
        let mut s = source();
        s.open(MonoTime::ZERO, 100, &mut out).unwrap();
        assert!(matches!(out.pop(), Some(Effect::OpenSource { credit: 100, .. })));
        let big = item(11, 1, 250);
        assert_eq!(s.sequence(&big), Sequence::Next);
        s.push(big);
        s.grant(100, &mut out);
        assert!(out.is_empty(), "250 bytes are held");
        s.pop(MonoTime::ZERO);
        s.release(250);
        s.grant(100, &mut out);
        assert!(matches!(out.pop(), Some(Effect::SourceCredit { bytes: 250, .. })), "back to a balance of 100");
        s.grant(100, &mut out);
        assert!(out.is_empty());
        // A reconnect counts what is still held.
        let held = item(12, 1, 30);
        s.sequence(&held);
        s.push(held);
        s.disconnect(Link::Down, &mut out);
        out.pop();
        s.open(MonoTime::ZERO, 100, &mut out).unwrap();
        assert!(matches!(out.pop(), Some(Effect::OpenSource { credit: 70, last, .. }) if last == CommitTs::new(12)));
    }
}
