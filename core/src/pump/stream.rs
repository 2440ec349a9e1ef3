//! One stream: its cursor, the items between index and consumer, and which parts of the log it reads (rules 5).
//!
//! Items are kept in commit order. Their records come from the tail in memory where they still are; the rest is read ahead in
//! pieces: the wanted records are sorted by place, neighbours become one read. A record that cannot be read ends the stream
//! when it is its turn, so that everything before it was delivered. Part of `pull`, which owns all streams.

use super::effect::StreamItem;
use super::tail::Tail;
use crate::binlog::item;
use crate::canary::{self, Canary};
use crate::fault::Fault;
use crate::ids::{CommitTs, LogPtr, StartTs};
use crate::index::key;
use crate::index::value::{CommitValue, Span};
use crate::vlog::log::{Log, Run};
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Stream {
    /// The last commit_ts that was sent, or where the stream began.
    pub sent: CommitTs,
    /// Everything up to here is in `items` or was sent.
    pub scanned: CommitTs,
    /// Upper end of the scan in flight.
    pub scanning: Option<CommitTs>,
    pub credit: i64,
    items: VecDeque<Item>,
    /// Number of the first item in `items`.
    first: u64,
    /// Items before this number were looked for in memory, or are read.
    asked: u64,
    /// Bytes of items before `asked` that were not sent yet.
    held: u64,
    /// Reads that wait for their turn.
    planned: VecDeque<Piece>,
    pub reading: usize,
}

#[derive(Debug)]
struct Item {
    start_ts: StartTs,
    commit_ts: CommitTs,
    prewrite: Part,
    /// `None`: C holds nothing that the item needs.
    commit: Option<Part>,
    bytes: u64,
    /// End of the last of its records in the log.
    end: LogPtr,
}

#[derive(Debug)]
enum Part {
    Stored(Span),
    Have(Bytes),
    Bad(Fault),
}

/// Bytes of one segment to be read at once, and the records wanted from it.
#[derive(Debug)]
pub(super) struct Piece {
    pub ptr: LogPtr,
    pub len: u32,
    pub wanted: Vec<Wanted>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    span: Span,
    item: u64,
    is_commit: bool,
}

/// What the front of a stream's queue allows.
pub(super) enum Next {
    Item(StreamItem, u64),
    /// Nothing to send now.
    Wait,
    /// The next item cannot be read.
    Broken(Fault),
}

impl Stream {
    pub const fn new(from: CommitTs, credit: i64) -> Self {
        Self {
            sent: from,
            scanned: from,
            scanning: None,
            credit,
            items: VecDeque::new(),
            first: 0,
            asked: 0,
            held: 0,
            planned: VecDeque::new(),
            reading: 0,
        }
    }

    /// Whether the queue wants more entries of the index.
    pub fn wants_entries(&self) -> bool {
        self.credit > 0 && self.scanning.is_none() && self.items.len() < REFILL_BELOW
    }

    /// Whether everything up to `watermark` was sent.
    pub fn is_at_end(&self, watermark: CommitTs) -> bool {
        self.scanned >= watermark && self.items.is_empty()
    }

    /// Takes entries of the index in order; they reach up to `through` unless they are as many as were asked for.
    pub fn take_live(&mut self, entries: impl Iterator<Item = (CommitTs, CommitValue)>, through: CommitTs) {
        for (taken, (commit_ts, value)) in entries.enumerate() {
            if taken == SCAN_ITEMS {
                return;
            }
            self.items.push_back(Item::of(commit_ts, value));
            self.scanned = commit_ts;
        }
        self.scanned = self.scanned.max(through);
    }

    /// Takes what a scan up to `through` returned.
    pub fn take_scanned(&mut self, pairs: &[(Bytes, Bytes)], through: CommitTs) -> Result<(), String> {
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

    /// Looks for records in memory, and plans reads for those that are not there, as far as credit and limits go.
    pub fn look_ahead(&mut self, tail: &Tail, log: &Log) {
        let budget = u64::try_from(self.credit).unwrap_or(0).min(READ_AHEAD);
        let mut missing = Vec::new();
        loop {
            if budget == 0 {
                break;
            }
            let number = self.asked;
            let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            let Some(item) = index.and_then(|index| self.items.get_mut(index)) else { break };
            // One larger item is let through alone.
            if self.held > 0 && self.held.saturating_add(item.bytes) > budget {
                break;
            }
            assert!(log.is_durable(item.end), "a stream carries only what is durable (rules 5)");
            let before = missing.len();
            item.resolve(number, tail, &mut missing);
            // Reads are begun when half of what may be held was sent: then they are large.
            if missing.len() > before && before == 0 && self.held > budget / 2 {
                missing.clear();
                break;
            }
            self.held = self.held.saturating_add(item.bytes);
            self.asked += 1;
        }
        self.planned.extend(pieces(missing));
    }

    /// The next piece to be read.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let piece = self.planned.pop_front_if(|_| self.reading < MAX_READING)?;
        self.reading += 1;
        Some(piece)
    }

    /// A piece was read, or the port failed: then its records are read one by one, so that the failure names
    /// the place and what can be read is delivered.
    pub fn take_piece(&mut self, piece: &Piece, result: Result<Run, Fault>) {
        self.reading = self.reading.saturating_sub(1);
        match result {
            Ok(run) => {
                // Little of much: a copy lets the rest go.
                let useful: u64 = piece.wanted.iter().map(|wanted| u64::from(wanted.span.len)).sum();
                let copy = useful.saturating_mul(2) < run.len() as u64;
                for wanted in &piece.wanted {
                    let Span { ptr, len } = wanted.span;
                    self.put(*wanted, run.record(ptr, len), copy);
                }
            }
            Err(fault) => match piece.wanted.as_slice() {
                [one] => self.put(*one, Err(fault), false),
                many => {
                    for one in many.iter().rev() {
                        let Span { ptr, len } = one.span;
                        self.planned.push_front(Piece { ptr, len, wanted: vec![*one] });
                    }
                }
            },
        }
    }

    fn put(&mut self, wanted: Wanted, result: Result<Record, Fault>, copy: bool) {
        let index = wanted.item.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(item) = index.and_then(|index| self.items.get_mut(index)) else { return };
        let start_ts = item.start_ts;
        let Some(part) = (if wanted.is_commit { item.commit.as_mut() } else { Some(&mut item.prewrite) }) else {
            return;
        };
        let checked = result.and_then(|record| check(wanted.span, wanted.is_commit, start_ts, record));
        *part = match checked {
            Ok(payload) if copy => Part::Have(Bytes::copy_from_slice(&payload)),
            Ok(payload) => Part::Have(payload),
            Err(fault) => Part::Bad(fault),
        };
    }

    /// The next item, if it is complete and there is credit.
    pub fn next(&mut self) -> Next {
        if self.credit <= 0 || self.asked == self.first {
            return Next::Wait;
        }
        match self.items.front().map(Item::state) {
            Some(Ok(true)) => {}
            Some(Err(fault)) => return Next::Broken(fault),
            Some(Ok(false)) | None => return Next::Wait,
        }
        let Some(item) = self.items.pop_front() else { return Next::Wait };
        assert!(item.commit_ts > self.sent, "a stream goes forward only");
        self.first += 1;
        self.held = self.held.saturating_sub(item.bytes);
        self.sent = item.commit_ts;
        let item = item.into_item();
        let bytes = item.bytes();
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        Next::Item(item, bytes)
    }

    /// Nothing lies between what was sent and the watermark: a fake says so (rules 4). It is in no log and need not be.
    pub fn fake(&mut self, watermark: CommitTs) -> Option<(StreamItem, u64)> {
        let at_end = self.items.is_empty() && self.scanning.is_none() && self.scanned == watermark;
        if !at_end || self.sent >= watermark || self.credit <= 0 {
            return None;
        }
        self.sent = watermark;
        let payload = [item::fake(watermark.tso()), Bytes::new()];
        let item = StreamItem { start_ts: watermark.raw().cast_signed(), commit_ts: watermark, payload };
        let bytes = item.bytes();
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some((item, bytes))
    }

    pub fn check(&self, watermark: CommitTs, log: &Log) {
        assert!(self.sent <= self.scanned, "sent beyond what was scanned");
        assert!(self.items.is_empty() || self.scanned <= watermark, "scanned beyond the watermark");
        let order = self.items.iter().zip(self.items.iter().skip(1));
        assert!(order.into_iter().all(|(a, b)| a.commit_ts < b.commit_ts), "items are in order");
        assert!(self.items.front().is_none_or(|item| item.commit_ts > self.sent), "items are above the cursor");
        assert!(self.items.iter().all(|item| log.is_durable(item.end)), "items are durable");
        assert!(self.items.len() <= REFILL_BELOW + SCAN_ITEMS, "items are limited");
        let asked = usize::try_from(self.asked - self.first).unwrap_or(usize::MAX);
        assert!(asked <= self.items.len(), "only items are asked for");
        let held: u64 = self.items.iter().take(asked).map(|item| item.bytes).sum();
        assert_eq!(held, self.held, "held bytes are counted");
        assert!(asked <= 1 || held <= READ_AHEAD, "what is read ahead is limited");
        assert!(self.reading <= MAX_READING, "reads are limited");
    }
}

impl Item {
    fn of(commit_ts: CommitTs, value: CommitValue) -> Self {
        match value {
            CommitValue::Commit { start_ts, prewrite, commit, unknown_fields } => {
                let end = end_of(prewrite).max(end_of(commit));
                let commit = (unknown_fields || canary::is(Canary::AppendWholeC)).then_some(commit);
                let bytes = u64::from(prewrite.len) + commit.map_or(0, |span| u64::from(span.len));
                Self {
                    start_ts,
                    commit_ts,
                    prewrite: Part::Stored(prewrite),
                    commit: commit.map(Part::Stored),
                    bytes,
                    end,
                }
            }
            CommitValue::Fake { record } => {
                let payload = item::fake(commit_ts.tso());
                let start_ts = StartTs::new(commit_ts.raw());
                let bytes = payload.len() as u64;
                Self { start_ts, commit_ts, prewrite: Part::Have(payload), commit: None, bytes, end: end_of(record) }
            }
        }
    }

    /// Takes records that are in memory; the others are added to `missing`.
    fn resolve(&mut self, number: u64, tail: &Tail, missing: &mut Vec<Wanted>) {
        let start_ts = self.start_ts;
        let mut look = |part: &mut Part, is_commit| {
            let Part::Stored(span) = *part else { return };
            match tail.record(span) {
                Some(record) => match check(span, is_commit, start_ts, record) {
                    Ok(payload) => *part = Part::Have(payload),
                    Err(fault) => *part = Part::Bad(fault),
                },
                None => missing.push(Wanted { span, item: number, is_commit }),
            }
        };
        look(&mut self.prewrite, false);
        if let Some(commit) = &mut self.commit {
            look(commit, true);
        }
    }

    /// Whether it is complete; the error is what keeps it from ever being.
    fn state(&self) -> Result<bool, Fault> {
        let mut complete = true;
        for part in [Some(&self.prewrite), self.commit.as_ref()].into_iter().flatten() {
            match part {
                Part::Have(_) => {}
                Part::Stored(_) => complete = false,
                Part::Bad(fault) => return Err(fault.clone()),
            }
        }
        Ok(complete)
    }

    /// Rules 5: P's bytes, then `tp` and `commit_ts` and what C has that we do not know. Only of a complete item.
    fn into_item(self) -> StreamItem {
        let have = |part| match part {
            Part::Have(bytes) => bytes,
            Part::Stored(_) | Part::Bad(_) => panic!("only complete items are sent"),
        };
        let (start_ts, commit_ts) = (self.start_ts.raw().cast_signed(), self.commit_ts);
        let prewrite = have(self.prewrite);
        if self.start_ts.raw() == self.commit_ts.raw() {
            return StreamItem { start_ts, commit_ts, payload: [prewrite, Bytes::new()] };
        }
        let unknown = match self.commit.map(have) {
            Some(commit) if canary::is(Canary::AppendWholeC) => commit,
            Some(commit) => item::unknown_fields(&commit),
            None => Bytes::new(),
        };
        StreamItem { start_ts, commit_ts, payload: [prewrite, item::commit_suffix(self.commit_ts, &unknown)] }
    }
}

/// The payload, if this is the record that the index means.
fn check(span: Span, is_commit: bool, start_ts: StartTs, record: Record) -> Result<Bytes, Fault> {
    let kind = match record.kind {
        RecordKind::Prewrite => !is_commit,
        RecordKind::Commit | RecordKind::VerdictCommit => is_commit,
        _ => false,
    };
    if kind && record.start_ts == start_ts {
        return Ok(record.payload);
    }
    let LogPtr { segment, offset } = span.ptr;
    let what = format!(
        "the index names a record of start_ts {start_ts} here, found {:?} of start_ts {}",
        record.kind, record.start_ts
    );
    Err(Fault::LogDamaged { segment, offset, what })
}

fn end_of(span: Span) -> LogPtr {
    LogPtr { segment: span.ptr.segment, offset: span.ptr.offset.saturating_add(u64::from(span.len)) }
}

/// Sorted by place, neighbours in one piece.
fn pieces(mut wanted: Vec<Wanted>) -> Vec<Piece> {
    wanted.sort_unstable_by_key(|wanted| wanted.span.ptr);
    let mut out: Vec<Piece> = Vec::new();
    for next in wanted {
        let Span { ptr, len } = next.span;
        if let Some(last) = out.last_mut().filter(|last| last.ptr.segment == ptr.segment) {
            let end = last.ptr.offset.saturating_add(u64::from(last.len));
            let whole = ptr.offset.saturating_add(u64::from(len)).saturating_sub(last.ptr.offset);
            if ptr.offset.saturating_sub(end) <= GAP && whole <= PIECE {
                last.len = last.len.max(u32::try_from(whole).unwrap_or(u32::MAX));
                last.wanted.push(next);
                continue;
            }
        }
        out.push(Piece { ptr, len, wanted: vec![next] });
    }
    out
}

/// Entries fetched at once.
pub(super) const SCAN_ITEMS: usize = 1024;
/// Fetch again when fewer entries than this are left.
const REFILL_BELOW: usize = 1024;
/// Bytes of records per stream between look-up and sent, but never more than its credit: four pieces keep a disk busy.
const READ_AHEAD: u64 = 2 << 20;
/// A read: large enough that its cost is that of its bytes.
const PIECE: u64 = 512 << 10;
/// Bytes between two wanted records that are read along: less than what another read costs.
const GAP: u64 = 32 << 10;
/// Reads in flight per stream: streams that read scattered records leave room for the others.
const MAX_READING: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SegmentId;

    /// `segment:offset+len` of what is wanted, and of what is read.
    #[test]
    fn neighbours_are_one_read() {
        let parse = |text: &str| {
            let (segment, rest) = text.split_once(':').unwrap();
            let (offset, len) = rest.split_once('+').unwrap();
            let segment = SegmentId::new(segment.parse().unwrap());
            Span { ptr: LogPtr { segment, offset: offset.parse().unwrap() }, len: len.parse().unwrap() }
        };
        for (wanted, read) in [
            ("", ""),
            ("1:8192+100", "1:8192+100"),
            ("1:8292+100 1:8192+100", "1:8192+200"),
            ("1:8192+100 2:8292+100", "1:8192+100 2:8292+100"),
            ("1:0+10 1:32778+10 1:65557+10", "1:0+32788 1:65557+10"),
            ("1:0+524288 1:524288+1", "1:0+524288 1:524288+1"),
            ("1:0+900000", "1:0+900000"),
        ] {
            let spans = wanted.split_whitespace().map(parse);
            let wanted: Vec<_> = spans.map(|span| Wanted { span, item: 0, is_commit: false }).collect();
            let count = wanted.len();
            let pieces = pieces(wanted);
            assert_eq!(pieces.iter().map(|piece| piece.wanted.len()).sum::<usize>(), count);
            let got = pieces.iter().map(|p| format!("{}:{}+{}", p.ptr.segment.raw(), p.ptr.offset, p.len));
            assert_eq!(got.collect::<Vec<_>>().join(" "), read);
        }
    }
}
