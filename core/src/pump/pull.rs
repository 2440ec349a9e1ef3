//! PullBinlogs: streams of items in commit order (rules 5, spec pump 1.5).
//!
//! A stream has a cursor and credit in bytes. When the watermark is ahead of what was scanned, one index scan fetches the next
//! entries up to the watermark of that moment (below it the index never changes); the P records are read with bounded
//! bytes in flight, and items leave strictly in order. Everything is driven by events: the watermark moved, credit came, an
//! operation completed. Only entries at or below the watermark are read, and those are durable.

use super::effect::{Effect, Level};
use super::outbox::{Outbox, Waiting};
use crate::binlog::item;
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault, Reject};
use crate::ids::{CommitTs, LogPtr, StartTs, StreamId};
use crate::index::key;
use crate::index::op::{IndexOp, IndexReply};
use crate::index::value::{CommitValue, Span};
use crate::vlog::log::Log;
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub struct Pull {
    streams: BTreeMap<StreamId, Stream>,
    /// Reads in flight by token.
    reads: BTreeMap<u64, Read>,
    next_token: u64,
    pub items_sent: u64,
    pub bytes_sent: u64,
}

#[derive(Debug)]
struct Stream {
    /// The last commit_ts that was sent, or where the stream began.
    sent: CommitTs,
    /// Everything up to here is in `items` or was sent.
    scanned: CommitTs,
    /// Upper end of the scan in flight.
    scanning: Option<CommitTs>,
    credit: i64,
    items: VecDeque<Item>,
    /// Number of the first item in `items`.
    first: u64,
    /// Items before this number were asked for.
    asked: u64,
    /// Bytes of records that were asked for and not sent yet.
    held: u64,
}

#[derive(Debug)]
struct Item {
    start_ts: StartTs,
    commit_ts: CommitTs,
    prewrite: Part,
    /// `None`: C holds nothing that the item needs.
    commit: Option<Part>,
    bytes: u64,
}

#[derive(Debug)]
enum Part {
    Stored(Span),
    Have(Bytes),
}

/// Records that an item needs: its P, and C where that is needed too (`true`).
type Wanted = [Option<(Span, bool)>; 2];

#[derive(Debug, Clone, Copy)]
struct Read {
    stream: StreamId,
    item: u64,
    is_commit: bool,
}

impl Pull {
    /// A Drainer asks for everything above `last`; the caller has checked the cluster id, and knows the GC point.
    pub fn open(&mut self, stream: StreamId, last: CommitTs, credit: u64, gc: CommitTs, out: &mut Outbox) {
        let refuse = if self.streams.contains_key(&stream) || self.streams.len() >= MAX_STREAMS {
            Some(Reject::Busy("too many streams"))
        } else if last != CommitTs::ZERO && last < gc && !canary::is(Canary::StreamJumpsToG) {
            Some(Reject::BelowGc { last, gc })
        } else {
            None
        };
        if let Some(reject) = refuse {
            out.effect(Effect::StreamEnd { stream, result: Err(reject) });
            return;
        }
        let from = last.max(gc);
        let credit = i64::try_from(credit).unwrap_or(i64::MAX);
        let fresh = Stream {
            sent: from,
            scanned: from,
            scanning: None,
            credit,
            items: VecDeque::new(),
            first: 0,
            asked: 0,
            held: 0,
        };
        self.streams.insert(stream, fresh);
    }

    pub fn credit(&mut self, stream: StreamId, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.credit = stream.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    pub fn closed(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Ends every stream that still needs something at or below `gc`: it is about to go, and nothing is ever skipped. Returns how many.
    pub fn end_below(&mut self, gc: CommitTs, out: &mut Outbox) -> usize {
        let below = |stream: &Stream| {
            let behind = if stream.items.is_empty() { stream.scanned } else { stream.sent };
            (behind < gc).then_some(stream.sent)
        };
        let ended: Vec<_> = self.streams.iter().filter_map(|(id, stream)| Some((*id, below(stream)?))).collect();
        for (stream, last) in &ended {
            self.streams.remove(stream);
            out.effect(Effect::StreamEnd { stream: *stream, result: Err(Reject::BelowGc { last: *last, gc }) });
        }
        ended.len()
    }

    /// The Pump stops: every stream ends cleanly.
    pub fn end_all(&mut self, out: &mut Outbox) {
        for stream in std::mem::take(&mut self.streams).into_keys() {
            out.effect(Effect::StreamEnd { stream, result: Ok(()) });
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Answer to a scan.
    pub fn scanned(&mut self, id: StreamId, result: Result<IndexReply, IoFault>, out: &mut Outbox) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(through) = stream.scanning.take() else { return };
        let fault = match result {
            Ok(IndexReply::Pairs(pairs)) => match stream.take(&pairs, through) {
                Ok(()) => return,
                Err(text) => Fault::Index(text),
            },
            Ok(_) => Fault::Index("a scan was not answered with pairs".to_owned()),
            Err(error) => Fault::Index(format!("scan for a stream: {error}")),
        };
        self.fail(id, fault, out);
    }

    /// Answer to a read.
    pub fn read_done(&mut self, token: u64, result: Result<Record, Fault>, out: &mut Outbox) {
        let Some(read) = self.reads.remove(&token) else { return };
        let Some(stream) = self.streams.get_mut(&read.stream) else { return };
        let index = read.item.checked_sub(stream.first).and_then(|index| usize::try_from(index).ok());
        let Some(item) = index.and_then(|index| stream.items.get_mut(index)) else { return };
        let (part, wanted) = if read.is_commit {
            (item.commit.as_mut(), [RecordKind::Commit, RecordKind::VerdictCommit])
        } else {
            (Some(&mut item.prewrite), [RecordKind::Prewrite, RecordKind::Prewrite])
        };
        let Some(part) = part else { return };
        let Part::Stored(span) = part else { return };
        match result {
            Ok(record) if wanted.contains(&record.kind) && record.start_ts == item.start_ts => {
                *part = Part::Have(record.payload);
            }
            Ok(record) => {
                let what = format!(
                    "the index names a record of start_ts {} here, found {:?} of start_ts {}",
                    item.start_ts, record.kind, record.start_ts
                );
                let LogPtr { segment, offset } = span.ptr;
                self.fail(read.stream, Fault::LogDamaged { segment, offset, what }, out);
            }
            Err(fault) => self.fail(read.stream, fault, out),
        }
    }

    /// Does what every stream can do now.
    pub fn advance(&mut self, watermark: CommitTs, log: &mut Log, out: &mut Outbox) {
        let Self { streams, reads, next_token, items_sent, bytes_sent } = self;
        for (id, stream) in streams {
            loop {
                while stream.credit > 0
                    && let Some((number, spans)) = stream.next_reads()
                {
                    for (span, is_commit) in spans.into_iter().flatten() {
                        *next_token += 1;
                        reads.insert(*next_token, Read { stream: *id, item: number, is_commit });
                        log.read(span.ptr, span.len, *next_token, &mut out.log_ops());
                    }
                }
                // What is sent makes room for the next reads.
                let Some(bytes) = stream.send_one(*id, out) else { break };
                *items_sent += 1;
                *bytes_sent = bytes_sent.saturating_add(bytes);
            }
            if stream.credit <= 0 {
                continue;
            }
            if stream.scanning.is_none() && stream.scanned < watermark && stream.items.len() < SCAN_BELOW {
                let (from, to) = key::commit_range(stream.scanned, watermark);
                stream.scanning = Some(watermark);
                out.index(Waiting::Scan(*id), IndexOp::Scan { from, to, limit: SCAN_ITEMS });
            }
        }
    }

    pub fn check(&self, watermark: CommitTs) {
        assert!(self.streams.len() <= MAX_STREAMS, "streams are limited");
        for stream in self.streams.values() {
            assert!(stream.sent <= stream.scanned, "sent beyond what was scanned");
            assert!(stream.items.is_empty() || stream.scanned <= watermark, "scanned beyond the watermark");
            let order = stream.items.iter().zip(stream.items.iter().skip(1));
            assert!(order.into_iter().all(|(a, b)| a.commit_ts < b.commit_ts), "items are in order");
            assert!(stream.items.front().is_none_or(|item| item.commit_ts > stream.sent), "items are above the cursor");
        }
    }

    fn fail(&mut self, stream: StreamId, fault: Fault, out: &mut Outbox) {
        let Some(ended) = self.streams.remove(&stream) else { return };
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

impl Stream {
    /// Takes scanned entries; `through` is the watermark up to which was scanned.
    fn take(&mut self, pairs: &[(Bytes, Bytes)], through: CommitTs) -> Result<(), String> {
        for (raw, value) in pairs {
            let commit_ts = key::parse_commit(raw).map_err(|e| e.to_string())?;
            if commit_ts <= self.scanned || commit_ts > through {
                return Err(format!("a scan of ({}, {through}] returned commit_ts {commit_ts}", self.scanned));
            }
            let value = CommitValue::decode(value).map_err(|e| format!("commit/{commit_ts}: {e}"))?;
            self.items.push_back(Item::of(commit_ts, value));
            self.scanned = commit_ts;
        }
        if pairs.len() < SCAN_ITEMS {
            self.scanned = through;
        }
        Ok(())
    }

    /// The next item whose records are to be read, within the limit of bytes; a single larger one is let through.
    fn next_reads(&mut self) -> Option<(u64, Wanted)> {
        let index = usize::try_from(self.asked.checked_sub(self.first)?).ok()?;
        let item = self.items.get(index)?;
        if self.held > 0 && self.held.saturating_add(item.bytes) > MAX_HELD_BYTES {
            return None;
        }
        let span = |part: &Part, is_commit| match part {
            Part::Stored(span) => Some((*span, is_commit)),
            Part::Have(_) => None,
        };
        let reads = [span(&item.prewrite, false), item.commit.as_ref().and_then(|part| span(part, true))];
        self.held = self.held.saturating_add(item.bytes);
        let number = self.asked;
        self.asked += 1;
        Some((number, reads))
    }

    /// Sends the next item if it is complete and there is credit; its bytes.
    fn send_one(&mut self, id: StreamId, out: &mut Outbox) -> Option<u64> {
        if self.credit <= 0 || self.asked == self.first || !self.items.front().is_some_and(Item::is_complete) {
            return None;
        }
        let item = self.items.pop_front()?;
        assert!(item.commit_ts > self.sent, "a stream goes forward only");
        self.first += 1;
        self.held = self.held.saturating_sub(item.bytes);
        self.sent = item.commit_ts;
        let (start_ts, commit_ts) = (item.start_ts.raw().cast_signed(), item.commit_ts);
        let payload = item.payload()?;
        let bytes = payload.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum::<u64>();
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        out.effect(Effect::StreamItem { stream: id, start_ts, commit_ts, payload });
        Some(bytes)
    }
}

impl Item {
    fn of(commit_ts: CommitTs, value: CommitValue) -> Self {
        match value {
            CommitValue::Commit { start_ts, prewrite, commit, unknown_fields } => {
                let commit = (unknown_fields || canary::is(Canary::AppendWholeC)).then_some(commit);
                let bytes = u64::from(prewrite.len) + commit.map_or(0, |span| u64::from(span.len));
                Self { start_ts, commit_ts, prewrite: Part::Stored(prewrite), commit: commit.map(Part::Stored), bytes }
            }
            CommitValue::Fake { .. } => {
                let payload = item::fake(commit_ts.tso());
                let start_ts = StartTs::new(commit_ts.raw());
                Self { start_ts, commit_ts, prewrite: Part::Have(payload), commit: None, bytes: 0 }
            }
        }
    }

    fn is_complete(&self) -> bool {
        let have = |part: &Part| matches!(part, Part::Have(_));
        have(&self.prewrite) && self.commit.as_ref().is_none_or(have)
    }

    /// Rules 5: P's bytes, then `tp` and `commit_ts` and what C has that we do not know.
    fn payload(self) -> Option<[Bytes; 2]> {
        let Part::Have(prewrite) = self.prewrite else { return None };
        if self.start_ts.raw() == self.commit_ts.raw() {
            return Some([prewrite, Bytes::new()]);
        }
        let unknown = match self.commit {
            Some(Part::Have(commit)) if canary::is(Canary::AppendWholeC) => commit,
            Some(Part::Have(commit)) => item::unknown_fields(&commit),
            _ => Bytes::new(),
        };
        Some([prewrite, item::commit_suffix(self.commit_ts, &unknown)])
    }
}

/// A cluster has a handful of Drainers; each stream holds up to `MAX_HELD_BYTES`.
const MAX_STREAMS: usize = 64;
/// Entries fetched by one scan.
const SCAN_ITEMS: usize = 256;
/// Scan again when fewer entries than this are left.
const SCAN_BELOW: usize = 128;
/// Bytes of records per stream between read and sent: enough to keep a disk busy; one larger item is let through alone.
const MAX_HELD_BYTES: u64 = 4 << 20;
