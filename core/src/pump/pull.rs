//! PullBinlogs: streams of items in commit order (rules 5, spec pump 1.5).
//!
//! A stream has a cursor and credit in bytes. One that keeps up is fed from memory: the entries of the index that were applied
//! last (`live`) and the bytes of the log that were written last (`tail`). One that is behind scans the index up to the watermark of
//! that moment (below it the index never changes) and reads the log ahead. Items leave strictly in order. Everything is driven
//! by events: the watermark moved, credit came, an operation completed; only streams that something happened to are looked at. Only
//! entries at or below the watermark are used, and those are durable.
//!
//! Memory per stream: at most its credit (`stream` holds within it), and about a thousand entries. A slow consumer holds that
//! much and holds nobody back.

use super::config::StreamMemory;
use super::effect::{Effect, Level, StreamItem};
use super::live::Live;
use super::outbox::{Outbox, Waiting};
use super::stream::{Next, Piece, SCAN_ITEMS, Stream};
use super::tail::Tail;
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault, Reject};
use crate::ids::{CommitTs, StreamId};
use crate::index::key;
use crate::index::op::{IndexOp, IndexReply};
use crate::vlog::log::{Log, Run};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Pull {
    streams: BTreeMap<StreamId, Stream>,
    /// Streams that something happened to.
    ready: BTreeSet<StreamId>,
    /// Reads in flight by token.
    reads: BTreeMap<u64, (StreamId, Piece)>,
    next_token: u64,
    /// As of the last look at all streams.
    watermark: CommitTs,
    pub live: Live,
    pub tail: Tail,
    pub counters: Counters,
}

/// For status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    pub items_sent: u64,
    pub bytes_sent: u64,
    /// Scans of the index: a stream was behind what is in memory.
    pub scans: u64,
    /// Reads of the log, and their bytes.
    pub reads: u64,
    pub bytes_read: u64,
    /// Streams that ended because a record could not be read.
    pub broken: u64,
    /// Streams that were refused or ended because GC passed their cursor.
    pub below_gc: u64,
}

impl Pull {
    #[must_use]
    pub fn new(memory: StreamMemory) -> Self {
        Self {
            streams: BTreeMap::new(),
            ready: BTreeSet::new(),
            reads: BTreeMap::new(),
            next_token: 0,
            watermark: CommitTs::ZERO,
            live: Live::new(memory.entries),
            tail: Tail::new(memory.tail_bytes),
            counters: Counters::default(),
        }
    }

    /// A Drainer asks for everything above `last`; the caller has checked the cluster id, and knows the GC point.
    pub fn open(&mut self, stream: StreamId, last: CommitTs, credit: u64, gc: CommitTs, out: &mut Outbox) {
        let refuse = if self.streams.contains_key(&stream) || self.streams.len() >= MAX_STREAMS {
            Some(Reject::Busy("too many streams"))
        } else if last != CommitTs::ZERO && last < gc && !canary::is(Canary::StreamJumpsToG) {
            self.counters.below_gc += 1;
            Some(Reject::BelowGc { last, gc })
        } else {
            None
        };
        if let Some(reject) = refuse {
            out.effect(Effect::StreamEnd { stream, result: Err(reject) });
            return;
        }
        let credit = i64::try_from(credit).unwrap_or(i64::MAX);
        self.streams.insert(stream, Stream::new(last.max(gc), credit));
        self.ready.insert(stream);
    }

    pub fn credit(&mut self, id: StreamId, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.credit = stream.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            self.ready.insert(id);
        }
    }

    pub fn closed(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// The Pump stops: every stream ends cleanly.
    pub fn end_all(&mut self, out: &mut Outbox) {
        for stream in std::mem::take(&mut self.streams).into_keys() {
            out.effect(Effect::StreamEnd { stream, result: Ok(()) });
        }
    }

    /// Ends every stream that still needs something at or below `gc`: it may be gone, and nothing is ever skipped. Returns how
    /// many.
    pub fn end_below(&mut self, gc: CommitTs, out: &mut Outbox) -> usize {
        let behind = |stream: &Stream| stream.sent < gc && !stream.is_at_end(gc);
        let below: Vec<_> = self.streams.iter().filter(|(_, s)| behind(s)).map(|(id, s)| (*id, s.sent)).collect();
        for (stream, last) in &below {
            self.streams.remove(stream);
            self.counters.below_gc += 1;
            out.effect(Effect::StreamEnd { stream: *stream, result: Err(Reject::BelowGc { last: *last, gc }) });
        }
        below.len()
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// A consumer was sent everything up to the watermark and could take more: only a larger watermark helps it (rules 4).
    #[must_use]
    pub fn is_waiting(&self, watermark: CommitTs) -> bool {
        self.streams.values().any(|stream| stream.credit > 0 && stream.is_at_end(watermark))
    }

    /// Answer to a scan.
    pub fn scanned(&mut self, id: StreamId, result: Result<IndexReply, IoFault>, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(through) = stream.scanning.take() else { return };
        self.ready.insert(id);
        let fault = match result {
            Ok(IndexReply::Pairs(pairs)) => match stream.take_scanned(&pairs, through) {
                Ok(()) => return,
                Err(text) => Fault::Index(text),
            },
            Ok(_) => Fault::Index("a scan was not answered with pairs".to_owned()),
            Err(error) => Fault::Index(format!("scan for a stream: {error}")),
        };
        self.fail(id, fault, out);
    }

    /// Answer to a read.
    pub fn read_done(&mut self, token: u64, result: Result<Run, Fault>) {
        let Some((id, piece)) = self.reads.remove(&token) else { return };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.take_piece(&piece, result);
            self.ready.insert(id);
        }
    }

    /// Does what the streams can do now.
    pub fn advance(&mut self, watermark: CommitTs, log: &mut Log, out: &mut Outbox) {
        if watermark != self.watermark {
            self.watermark = watermark;
            self.ready.extend(self.streams.keys().copied());
        }
        while let Some(id) = self.ready.pop_first() {
            if let Err(fault) = self.advance_one(id, log, out) {
                self.fail(id, fault, out);
            }
        }
    }

    fn advance_one(&mut self, id: StreamId, log: &mut Log, out: &mut Outbox) -> Result<(), Fault> {
        let Self { streams, reads, next_token, live, tail, counters, watermark, .. } = self;
        let Some(stream) = streams.get_mut(&id) else { return Ok(()) };
        let watermark = *watermark;
        let mut batch = Vec::new();
        let broken = loop {
            if stream.wants_entries() && stream.scanned < watermark && live.covers(stream.scanned) {
                let after = stream.scanned;
                stream.take_live(live.range(after, watermark), watermark);
            }
            stream.look_ahead(tail, log);
            while let Some(piece) = stream.next_piece() {
                *next_token += 1;
                counters.reads += 1;
                counters.bytes_read = counters.bytes_read.saturating_add(piece.len.into());
                log.read_run(piece.ptr, piece.len, *next_token, &mut out.log_ops());
                reads.insert(*next_token, (id, piece));
            }
            let before = batch.len();
            let broken = loop {
                match stream.next() {
                    Next::Item(item, bytes) => {
                        counters.items_sent += 1;
                        counters.bytes_sent = counters.bytes_sent.saturating_add(bytes);
                        batch.push(item);
                    }
                    Next::Wait => break None,
                    Next::Broken(fault) => break Some(fault),
                }
            };
            // What was sent makes room for more.
            if broken.is_some() || batch.len() == before {
                break broken;
            }
            send(id, &mut batch, MAX_ITEMS, out);
        };
        if broken.is_none()
            && let Some((item, bytes)) = stream.fake(watermark)
        {
            counters.items_sent += 1;
            counters.bytes_sent = counters.bytes_sent.saturating_add(bytes);
            batch.push(item);
        }
        send(id, &mut batch, 1, out);
        if let Some(fault) = broken {
            return Err(fault);
        }
        if stream.wants_entries() && stream.scanned < watermark && !live.covers(stream.scanned) {
            let (from, to) = key::commit_range(stream.scanned, watermark);
            stream.scanning = Some(watermark);
            counters.scans += 1;
            out.index(Waiting::Scan(id), IndexOp::Scan { from, to, limit: SCAN_ITEMS });
        }
        Ok(())
    }

    pub fn check(&self, watermark: CommitTs, log: &Log) {
        assert!(self.streams.len() <= MAX_STREAMS, "streams are limited");
        for stream in self.streams.values() {
            stream.check(watermark, log);
        }
        self.live.check();
        self.tail.check();
    }

    fn fail(&mut self, stream: StreamId, fault: Fault, out: &mut Outbox) {
        let Some(ended) = self.streams.remove(&stream) else { return };
        self.counters.broken += 1;
        let text = fault.to_string();
        // A Drainer comes back every second and meets the same damage: said once, counted each time.
        if out.repeat_fault(&fault) {
            out.effect(Effect::StreamEnd { stream, result: Err(Reject::ReadFailed(text)) });
            return;
        }
        out.notice(Level::Warn, format!("a stream ended after commit_ts {}: {text}", ended.sent));
        out.fault(fault);
        out.effect(Effect::StreamEnd { stream, result: Err(Reject::ReadFailed(text)) });
    }
}

/// Sends what was collected, once it is `least` items.
fn send(stream: StreamId, batch: &mut Vec<StreamItem>, least: usize, out: &mut Outbox) {
    if batch.len() >= least {
        out.effect(Effect::StreamItems { stream, items: std::mem::take(batch) });
    }
}

/// A cluster has a handful of Drainers; each stream holds up to its credit.
const MAX_STREAMS: usize = 64;
/// Items that are handed over at once: the consumer begins while the rest is prepared.
const MAX_ITEMS: usize = 256;
