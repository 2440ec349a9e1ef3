//! The start: read what the index claims, load the waiting queue from it, recover the log, fold the tail that the index did
//! not have (rules 2, 3), exactly as in normal operation. Streams are served as soon as the log can be read.

use super::effect::{Effect, Level};
use super::machine::Pump;
use super::original::Import;
use super::outbox::{Timer, Waiting};
use crate::binlog::peek::peek;
use crate::canary::{self, Canary};
use crate::fault::{Fault, Reject};
use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use crate::index::key;
use crate::index::ledger::{Fact, batch_end};
use crate::index::named::Named;
use crate::index::op::{Change, IndexOp, IndexReply};
use crate::index::segments::SegmentFacts;
use crate::index::value::{
    CommitValue, Digest, FORMAT, Span, StartValue, decode_named, decode_ptr, decode_u64, decode_undecided, encode_u64,
};
use crate::sorter::Sorter;
use crate::vlog::log::{IndexClaims, Placed};
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;

/// How far the start has come.
#[derive(Debug)]
pub enum Start {
    Idle,
    Meta,
    Loading(Box<Loading>),
    /// Value logs of the original are indexed.
    Original(Box<Import>),
    /// The log recovers; records of its unindexed tail are collected batch by batch.
    Log(Vec<Fact>),
    /// The log is ready (or cannot be written); its tail is being indexed.
    Tail,
    Done,
    /// The index cannot be used.
    Failed,
}

/// What was found in the index so far.
#[derive(Debug, Default)]
pub struct Loading {
    claims: IndexClaims,
    watermark: CommitTs,
    frozen: Option<CommitTs>,
    /// Undecided prewrites of the chunk whose `start/…` entries are being read.
    chunk: Vec<(LogPtr, StartTs, bool)>,
    /// The request in flight, to repeat it.
    request: Option<(Waiting, IndexOp)>,
    queue: Vec<(LogPtr, Queued)>,
    more_undecided: Option<LogPtr>,
}

#[derive(Debug)]
enum Queued {
    Prewrite { start_ts: StartTs, span: Span, digest: Digest, hinted: bool },
    Mark(CommitTs),
}

impl Start {
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    #[must_use]
    pub const fn has_failed(&self) -> bool {
        matches!(self, Self::Failed)
    }

    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "not started",
            Self::Meta | Self::Loading(_) => "reading the index",
            Self::Original(_) => "taking over the original's value logs",
            Self::Log(_) => "recovering the value log",
            Self::Tail => "indexing the tail of the value log",
            Self::Done => "recovered",
            Self::Failed => "the index cannot be used",
        }
    }
}

impl Pump {
    pub(super) fn begin(&mut self) {
        if matches!(self.start, Start::Idle) {
            self.start = Start::Meta;
            self.read_meta();
        }
    }

    fn read_meta(&mut self) {
        let keys = META.iter().map(|key| Bytes::from_static(key)).collect();
        self.out.index(Waiting::Meta, IndexOp::Get(keys));
    }

    /// The request that failed is sent again.
    pub(super) fn retry_load(&mut self) {
        match &self.start {
            Start::Meta => self.read_meta(),
            Start::Loading(loading) => {
                if let Some((why, op)) = loading.request.clone() {
                    self.out.index(why, op);
                }
            }
            Start::Original(_) => self.retry_import(),
            Start::Idle | Start::Log(_) | Start::Tail | Start::Done | Start::Failed => {}
        }
    }

    pub(super) fn on_loaded(&mut self, why: Waiting, reply: IndexReply) {
        let state = std::mem::replace(&mut self.start, Start::Failed);
        let result = match (state, why, reply) {
            (Start::Meta, Waiting::Meta, IndexReply::Values(values)) => self.take_meta(&values),
            (Start::Loading(l), Waiting::LoadSegments, IndexReply::Pairs(pairs)) => self.take_segments(l, &pairs),
            (Start::Loading(l), Waiting::LoadUndecided, IndexReply::Pairs(pairs)) => self.take_undecided(l, &pairs),
            (Start::Loading(l), Waiting::LoadStarts, IndexReply::Values(values)) => self.take_starts(l, &values),
            (Start::Loading(l), Waiting::LoadCommits, IndexReply::Pairs(pairs)) => self.take_commits(l, &pairs),
            (state, why, _) => Err(format!("unexpected answer to {why:?} while {}", state.name())),
        };
        if let Err(text) = result {
            self.damaged_index(text);
        }
    }

    fn take_meta(&mut self, values: &[Option<Bytes>]) -> Result<(), String> {
        let [
            format,
            node,
            indexed,
            named,
            flushed,
            watermark,
            gc,
            frozen,
            notify,
            gc_needed,
            closing,
            original,
            decided,
        ] = values
        else {
            return Err(format!("asked for {} meta keys, {} values came back", META.len(), values.len()));
        };
        let number = |what, raw: &Option<Bytes>| {
            raw.as_ref().map(|raw| decode_u64(what, raw)).transpose().map_err(|e| e.to_string())
        };
        let ptr = |what, raw: &Option<Bytes>| {
            raw.as_ref().map(|raw| decode_ptr(what, raw)).transpose().map_err(|e| e.to_string())
        };
        match number("meta/format", format)? {
            Some(FORMAT) if node.as_ref().is_none_or(|node| node.as_ref() != self.config.node_uuid) => {
                return Err("the index belongs to another data directory (node uuid differs)".to_owned());
            }
            // What is missing is written when the log was looked through: see `first_index`.
            None | Some(FORMAT) => {}
            Some(other) => {
                return Err(format!(
                    "the index has format {other}, this version reads {FORMAT}: use the version that wrote it"
                ));
            }
        }
        let claims = IndexClaims {
            indexed_end: ptr("meta/indexed_end", indexed)?,
            flushed_end: ptr("meta/flushed_end", flushed)?,
        };
        let watermark = CommitTs::new(number("meta/watermark", watermark)?.unwrap_or(0));
        self.gc = CommitTs::new(number("meta/gc", gc)?.unwrap_or(0));
        self.index_is_new = format.is_none();
        let named = named.as_ref().map(|raw| decode_named(raw)).transpose().map_err(|e| e.to_string())?;
        self.ledger.named = match (claims.indexed_end, named) {
            (None, _) => Named::above(StartTs::ZERO),
            (Some(end), Some((highest, at))) if at == end => Named::above(highest),
            (Some(_), _) => Named::default(),
        };
        let original = ptr("meta/original", original)?;
        self.take_over.loaded(original, ptr("meta/original_decided", decided)?);
        self.life.loaded(gc_needed.is_some(), notify.is_some(), closing.is_some());
        let frozen = number("meta/frozen", frozen)?.map(CommitTs::new);
        if let Some(frozen) = frozen {
            let text = format!(
                "the watermark stays below {frozen}: a commit was seen that contradicts it (see earlier faults)"
            );
            self.out.notice(Level::Warn, text);
        }
        self.indexer.load(
            claims.indexed_end.unwrap_or_default(),
            claims.flushed_end.unwrap_or_default().min(claims.indexed_end.unwrap_or_default()),
            watermark,
        );
        let loading = Loading { claims, watermark, frozen, ..Loading::default() };
        self.load(Box::new(loading), Waiting::LoadSegments, scan(key::segments_from(SegmentId::ZERO)));
        Ok(())
    }

    fn take_segments(&mut self, loading: Box<Loading>, pairs: &[(Bytes, Bytes)]) -> Result<(), String> {
        let mut next = None;
        for (raw, value) in pairs {
            let segment = key::parse_segment(raw).map_err(|e| e.to_string())?;
            let facts = SegmentFacts::decode(value).map_err(|e| format!("segment/{segment}: {e}"))?;
            self.indexer.segments.load(segment, facts);
            next = Some(SegmentId::new(segment.raw().saturating_add(1)));
        }
        let (why, op) = match next.filter(|_| pairs.len() >= CHUNK) {
            Some(next) => (Waiting::LoadSegments, scan(key::segments_from(next))),
            None => (Waiting::LoadUndecided, scan(key::undecided_from(LogPtr::default()))),
        };
        self.load(loading, why, op);
        Ok(())
    }

    fn load(&mut self, mut loading: Box<Loading>, why: Waiting, op: IndexOp) {
        loading.request = Some((why, op.clone()));
        self.start = Start::Loading(loading);
        self.out.index(why, op);
    }

    fn take_undecided(&mut self, mut loading: Box<Loading>, pairs: &[(Bytes, Bytes)]) -> Result<(), String> {
        loading.chunk.clear();
        for (raw, value) in pairs.iter().filter(|_| !canary::is(Canary::DropUndecidedSet)) {
            let ptr = key::parse_undecided(raw).map_err(|e| e.to_string())?;
            let (start_ts, hinted) = decode_undecided(value).map_err(|e| e.to_string())?;
            loading.chunk.push((ptr, start_ts, hinted));
        }
        loading.more_undecided = loading.chunk.last().filter(|_| pairs.len() >= CHUNK).map(|(ptr, ..)| *ptr);
        let keys = loading.chunk.iter().map(|(_, start_ts, _)| key::start(*start_ts)).collect();
        self.load(loading, Waiting::LoadStarts, IndexOp::Get(keys));
        Ok(())
    }

    fn take_starts(&mut self, mut loading: Box<Loading>, values: &[Option<Bytes>]) -> Result<(), String> {
        if values.len() != loading.chunk.len() {
            return Err(format!("asked for {} keys, {} values came back", loading.chunk.len(), values.len()));
        }
        let chunk = std::mem::take(&mut loading.chunk);
        for ((ptr, start_ts, hinted), value) in chunk.into_iter().zip(values) {
            let value = value.as_ref().map(|raw| StartValue::decode(raw)).transpose();
            match value.map_err(|e| format!("start/{start_ts}: {e}"))? {
                Some(StartValue::Prewrite { span, digest }) if span.ptr == ptr => {
                    loading.queue.push((ptr, Queued::Prewrite { start_ts, span, digest, hinted }));
                }
                other => return Err(format!("undecided prewrite at {ptr}: start/{start_ts} holds {other:?}")),
            }
        }
        let (why, op) = match loading.more_undecided.take() {
            Some(ptr) => {
                let next = LogPtr { segment: ptr.segment, offset: ptr.offset.saturating_add(1) };
                (Waiting::LoadUndecided, scan(key::undecided_from(next)))
            }
            None => (Waiting::LoadCommits, scan(key::commit_range(loading.watermark, CommitTs::MAX))),
        };
        self.load(loading, why, op);
        Ok(())
    }

    fn take_commits(&mut self, mut loading: Box<Loading>, pairs: &[(Bytes, Bytes)]) -> Result<(), String> {
        let mut last = None;
        for (raw, value) in pairs {
            let ts = key::parse_commit(raw).map_err(|e| e.to_string())?;
            let value = CommitValue::decode(value).map_err(|e| format!("commit/{ts}: {e}"))?;
            loading.queue.push((value.position(), Queued::Mark(ts)));
            last = Some(ts);
        }
        if let Some(ts) = last.filter(|_| pairs.len() >= CHUNK) {
            self.load(loading, Waiting::LoadCommits, scan(key::commit_range(ts, CommitTs::MAX)));
            return Ok(());
        }
        self.fill_queue(*loading);
        Ok(())
    }

    /// Rules 3: the waiting queue is `undecided/*` and the commits above the watermark, by log position, then the tail.
    fn fill_queue(&mut self, mut loading: Loading) {
        self.sorter = Sorter::new(loading.watermark, loading.frozen);
        self.max_ts = loading.watermark.max(self.gc);
        loading.queue.sort_by_key(|(ptr, _)| *ptr);
        for (_, queued) in loading.queue {
            match queued {
                Queued::Prewrite { start_ts, span, digest, hinted } => {
                    let place = self.sorter.push_prewrite(start_ts, self.now);
                    self.ledger.load_undecided(start_ts, span, digest, place, hinted);
                    self.resolver.prewrite(self.now);
                    if hinted {
                        self.resolver.hint(start_ts, self.now);
                    }
                }
                Queued::Mark(ts) => {
                    let place = self.sorter.push_mark(ts);
                    self.sorter.pass(place);
                    self.max_ts = self.max_ts.max(ts);
                }
            }
        }
        self.move_watermark();
        self.begin_logs(loading.claims);
    }

    /// A durable record that the index does not have, in log order.
    pub(super) fn on_tail(&mut self, placed: Placed, record: &Record) {
        // First of all, for what follows is folded by it: an index that was lost does not know it.
        self.adopt_logged_gc();
        let span = Span { ptr: placed.ptr, len: placed.len };
        // Taken for true when in doubt: then the stream looks into C itself.
        let is_commit = matches!(record.kind, RecordKind::Commit | RecordKind::VerdictCommit);
        let unknown = is_commit && peek(&record.payload).map_or(true, |peek| peek.unknown_fields);
        let fact = match self.accept(record, span, unknown) {
            Ok(fact) => fact,
            Err(fault) => return self.out.fault(fault),
        };
        let Start::Log(tail) = &mut self.start else { return };
        // Whole log batches only: part of one must not count as indexed, its records may move when it is copied (rules 2).
        let cut = tail
            .last()
            .map(|last| batch_end(last.span))
            .filter(|end| end.segment != span.ptr.segment || span.ptr.offset > end.offset);
        if let Some(end) = cut {
            let facts = std::mem::take(tail);
            self.index_tail(facts, end);
        }
        if let Start::Log(tail) = &mut self.start {
            tail.push(fact);
        }
    }

    pub(super) fn index_tail(&mut self, facts: Vec<Fact>, end: LogPtr) {
        if let Some(request) = self.indexer.push(&mut self.ledger, None, facts, end, true) {
            self.send_index(request);
        }
    }

    /// An index without a format is marked as ours, together with whether a GC point is owed: only a directory whose log is empty too
    /// is new (an index alone may have been removed, it is made again from the log). In one change, so that no crash
    /// makes a directory look old before its GC point is durable.
    fn first_index(&mut self) {
        if !std::mem::take(&mut self.index_is_new) {
            return;
        }
        let log_is_empty = matches!(&self.start, Start::Log(tail) if tail.is_empty());
        let mut put = |key: &'static [u8], value| self.indexer.put_meta(Change::Put(Bytes::from_static(key), value));
        put(key::META_FORMAT, encode_u64(FORMAT));
        put(key::META_NODE, Bytes::copy_from_slice(&self.config.node_uuid));
        if log_is_empty && !self.take_over.is_some() && self.config.wiped_directory_tso_needed {
            put(key::META_GC_NEEDED, Bytes::from_static(b"1"));
            self.life.owes_gc_point();
        }
    }

    pub(super) fn on_log_ready(&mut self, end: LogPtr) {
        self.written_end = end;
        self.first_index();
        if let Some(first_live) = self.adopt_logged_gc() {
            self.indexer.forget_segments(first_live);
        }
        self.end_of_tail();
        self.log_the_originals_word();
        self.timers.set(Timer::Scrub, self.now.plus_millis(FIRST_SCRUB_MS));
    }

    /// The log's own word on GC: the index may have lost its latest batches.
    fn adopt_logged_gc(&mut self) -> Option<SegmentId> {
        let (gc, first_live) = self.log.gc()?;
        self.gc = self.gc.max(gc);
        Some(first_live)
    }

    /// The log cannot be written, but what it holds may be readable: its known tail is indexed and streams are served.
    pub(super) fn on_log_unusable(&mut self) {
        self.end_of_tail();
    }

    fn end_of_tail(&mut self) {
        let Start::Log(tail) = &mut self.start else { return };
        let facts = std::mem::take(tail);
        self.start = Start::Tail;
        if let Some(end) = facts.last().map(|last| batch_end(last.span)) {
            self.index_tail(facts, end);
        }
        self.open_parked();
    }

    /// Streams that came too early are served now, if they can be.
    pub(super) fn open_parked(&mut self) {
        let refuse = self.read_only.clone().filter(|_| self.life.gc_point_owed());
        if !self.can_stream() && refuse.is_none() {
            return;
        }
        for (stream, last, credit) in std::mem::take(&mut self.parked) {
            match &refuse {
                // No GC point will come.
                Some(reason) => {
                    let result = Err(Reject::ReadFailed(reason.clone()));
                    self.out.effect(Effect::StreamEnd { stream, result });
                }
                None => self.pull.open(stream, last, credit, self.gc_floor(), &mut self.out),
            }
        }
    }

    /// Streams are served once the log was looked through and the GC point is known: before that, a request for what a wiped
    /// directory held would be taken for one that can be served.
    pub(super) const fn can_stream(&self) -> bool {
        matches!(self.start, Start::Tail | Start::Done) && !self.life.gc_point_owed()
    }

    pub(super) fn advance_start(&mut self) {
        if matches!(self.start, Start::Tail) && self.indexer.is_idle() && !self.index_damaged {
            self.start = Start::Done;
            self.arm_first_gc();
            self.begin_holding_gc();
            let text = format!(
                "recovered: watermark {}, {} undecided prewrites, value log ends at {}",
                self.sorter.watermark(),
                self.sorter.undecided(),
                self.log.durable_end()
            );
            self.out.notice(Level::Info, text);
        }
    }
}

impl Pump {
    /// For status: what the watermark waits for, if it is frozen.
    #[must_use]
    pub fn frozen_below(&self) -> Option<CommitTs> {
        self.sorter.frozen()
    }

    /// The newest faults, oldest first.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.out.faults.iter()
    }
}

fn scan((from, to): (Bytes, Bytes)) -> IndexOp {
    IndexOp::Scan { from, to, limit: CHUNK }
}

const META: [&[u8]; 13] = [
    key::META_FORMAT,
    key::META_NODE,
    key::META_INDEXED_END,
    key::META_NAMED,
    key::META_FLUSHED_END,
    key::META_WATERMARK,
    key::META_GC,
    key::META_FROZEN,
    key::META_NOTIFY,
    key::META_GC_NEEDED,
    key::META_CLOSING,
    key::META_ORIGINAL,
    key::META_ORIGINAL_DECIDED,
];

/// Entries per request while loading.
const CHUNK: usize = 1024;
/// The scrub begins when the start is long over.
const FIRST_SCRUB_MS: u64 = 60_000;
