//! Feeds the index from the log (rules 3): batches of records in log order, their look-ups, one `Apply` at a time, and the
//! flush policy. It emits requests and is told their results; the Pump's machine pairs them with operation ids.
//!
//! Keeps true: only durable records are indexed, whole log batches at a time, in one atomic change with `indexed_end` and the
//! watermark; `flushed_end` is `indexed_end` at the start of a flush that completed.

use super::key;
use super::ledger::{Fact, Folded, Ledger, Lookup, View};
use super::op::{Change, IndexOp};
use super::segments::{self, Segments};
use super::value::{CommitValue, StartValue, encode_named, encode_ptr, encode_u64};
use crate::fault::Fault;
use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use crate::sorter::Place;
use crate::time::MonoTime;
use crate::vlog::log::BatchSeq;
use crate::vlog::record::RecordKind;
use bytes::Bytes;
use std::collections::VecDeque;

/// Number of a batch handed to the indexer; dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

#[derive(Debug, Default)]
pub struct Indexer {
    batches: VecDeque<Batch>,
    next_id: u64,
    /// Changes to `meta/…` that ride on the next apply.
    extra: Vec<Change>,
    applying: Option<Applying>,
    /// Set when an operation failed: it is repeated at the owner's next `retry`.
    failed_apply: bool,
    indexed_end: LogPtr,
    stored_watermark: CommitTs,
    flush: Flush,
    /// Sums over the segments, as of the records folded so far.
    pub segments: Segments,
    /// Bytes of log that wait for the index.
    waiting_bytes: u64,
}

/// What an apply made true.
#[derive(Debug, Default)]
pub struct Applied {
    /// To give back or to let pass in the waiting queue.
    pub places: Vec<Place>,
    pub gc: Option<CommitTs>,
    /// Entries that are in the index now.
    pub commits: Vec<(CommitTs, CommitValue)>,
    /// Prewrites that are decided now, and those whose client sent R.
    pub decided: Vec<StartTs>,
    pub hinted: Vec<StartTs>,
    /// The watermark is free again.
    pub lifted: bool,
}

/// A request of the indexer, in the order in which the port must see it.
#[derive(Debug)]
pub enum Request {
    Lookup { batch: BatchId, op: IndexOp },
    Apply(IndexOp),
    Flush(IndexOp),
}

#[derive(Debug)]
struct Batch {
    seq: Option<BatchSeq>,
    facts: Vec<Fact>,
    end: LogPtr,
    bytes: u64,
    durable: bool,
    lookup: Lookups,
}

#[derive(Debug)]
enum Lookups {
    ToAsk(Vec<Lookup>),
    Asked(Vec<Lookup>),
    Failed(Vec<Lookup>),
    Done,
}

#[derive(Debug)]
struct Applying {
    changes: Vec<Change>,
    places: Vec<Place>,
    references: Vec<StartTs>,
    end: LogPtr,
    watermark: CommitTs,
    gc: Option<CommitTs>,
    commits: Vec<(CommitTs, CommitValue)>,
    bytes: u64,
    rotated: bool,
    decided: Vec<StartTs>,
    hinted: Vec<StartTs>,
    lifted: bool,
}

#[derive(Debug, Default)]
struct Flush {
    /// `indexed_end` when the flush in flight began.
    in_flight: Option<LogPtr>,
    end: LogPtr,
    bytes: u64,
    dirty_since: Option<MonoTime>,
    rotated: bool,
    sync: Sync,
}

/// A durable point that the owner waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    None,
    Wanted,
    /// The flush in flight covers it.
    Flushing,
    Done,
}

impl Indexer {
    /// What the index holds, read at the start.
    pub fn load(&mut self, indexed_end: LogPtr, flushed_end: LogPtr, watermark: CommitTs) {
        self.indexed_end = indexed_end;
        self.stored_watermark = watermark;
        self.flush.end = flushed_end;
    }

    /// A batch was sealed (or, at recovery, read back: then it is durable). Its records follow those of earlier calls.
    pub fn push(
        &mut self,
        ledger: &mut Ledger,
        seq: Option<BatchSeq>,
        facts: Vec<Fact>,
        end: LogPtr,
        durable: bool,
    ) -> Option<Request> {
        let lookups = ledger.lookups(&facts);
        let bytes = facts.iter().map(|fact| u64::from(fact.span.len)).sum();
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        let id = BatchId(self.next_id);
        self.next_id += 1;
        let lookup = if lookups.is_empty() { Lookups::Done } else { Lookups::ToAsk(lookups) };
        let mut batch = Batch { seq, facts, end, bytes, durable, lookup };
        let request = batch.ask(id);
        self.batches.push_back(batch);
        request
    }

    /// Batches up to this one are durable.
    pub fn durable(&mut self, seq: BatchSeq) {
        // Only the newest batches are not durable yet; behind a slow index there may be very many that are.
        for batch in self.batches.iter_mut().rev().take_while(|batch| !batch.durable) {
            batch.durable = batch.seq.is_some_and(|own| own <= seq);
        }
    }

    /// The log failed: what was not durable never will be.
    pub fn forget_undurable(&mut self) {
        let lost: u64 = self.batches.iter().filter(|batch| !batch.durable).map(|batch| batch.bytes).sum();
        self.waiting_bytes = self.waiting_bytes.saturating_sub(lost);
        // Only a suffix can be missing, so the ids of the batches before it stay dense.
        let keep = self.batches.iter().take_while(|batch| batch.durable).count();
        self.next_id -= u64::try_from(self.batches.len() - keep).unwrap_or(0);
        self.batches.truncate(keep);
    }

    /// Answer to a look-up. An error is a damaged index.
    pub fn looked_up(&mut self, ledger: &mut Ledger, id: BatchId, values: &[Option<Bytes>]) -> Result<(), String> {
        let Some(batch) = self.batch_mut(id) else { return Ok(()) };
        let Lookups::Asked(lookups) = &mut batch.lookup else { return Ok(()) };
        let lookups = std::mem::take(lookups);
        batch.lookup = Lookups::Done;
        if lookups.len() != values.len() {
            return Err(format!("asked for {} keys, {} values came back", lookups.len(), values.len()));
        }
        for (lookup, value) in lookups.into_iter().zip(values) {
            match lookup {
                Lookup::Start(start_ts) => {
                    let value = value.as_ref().map(|raw| StartValue::decode(raw)).transpose();
                    ledger.looked_up(start_ts, value.map_err(|e| format!("start/{start_ts}: {e}"))?);
                }
                Lookup::Commit { index, ts } => {
                    let value = value.as_ref().map(|raw| CommitValue::decode(raw)).transpose();
                    let known = value.map_err(|e| format!("commit/{ts}: {e}"))?.map(|value| match value {
                        CommitValue::Commit { start_ts, .. } => start_ts,
                        CommitValue::Fake { .. } => StartTs::ZERO,
                    });
                    if let Some(fact) = batch.facts.get_mut(index) {
                        fact.known_commit = known;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn lookup_failed(&mut self, id: BatchId) {
        let Some(batch) = self.batch_mut(id) else { return };
        if let Lookups::Asked(lookups) = &mut batch.lookup {
            batch.lookup = Lookups::Failed(std::mem::take(lookups));
        }
    }

    /// Repeats what failed.
    pub fn retry(&mut self) -> Vec<Request> {
        let first = self.first_id();
        let mut out = Vec::new();
        for (id, batch) in (first..).zip(&mut self.batches) {
            if let Lookups::Failed(lookups) = &mut batch.lookup {
                batch.lookup = Lookups::ToAsk(std::mem::take(lookups));
                out.extend(batch.ask(BatchId(id)));
            }
        }
        if self.failed_apply {
            self.failed_apply = false;
            out.extend(self.applying.as_ref().map(|applying| Request::Apply(IndexOp::Apply(applying.changes.clone()))));
        }
        out
    }

    /// The next request, if one is due. Faults found while folding go to `faults`; `freeze` is asked for the limit that the
    /// watermark keeps from now on.
    pub fn poll(
        &mut self,
        ledger: &mut Ledger,
        view: View,
        now: MonoTime,
        faults: &mut Vec<Fault>,
        freeze: &mut dyn FnMut(CommitTs) -> CommitTs,
    ) -> Option<Request> {
        if self.applying.is_none()
            && let Some(applying) = self.fold(ledger, view, faults, freeze)
        {
            let op = IndexOp::Apply(applying.changes.clone());
            self.applying = Some(applying);
            self.flush.dirty_since.get_or_insert(now);
            return Some(Request::Apply(op));
        }
        self.begin_flush(now).then_some(Request::Flush(IndexOp::Flush))
    }

    pub fn applied(&mut self, ledger: &mut Ledger) -> Applied {
        let Some(done) = self.applying.take() else { return Applied::default() };
        assert!(done.end >= self.indexed_end, "the index never goes back");
        self.indexed_end = done.end;
        self.stored_watermark = done.watermark;
        self.flush.bytes = self.flush.bytes.saturating_add(done.bytes);
        self.flush.rotated |= done.rotated;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(done.bytes);
        ledger.applied(&done.references);
        let Applying { places, gc, commits, decided, hinted, lifted, .. } = done;
        Applied { places, gc, commits, decided, hinted, lifted }
    }

    /// Places that the apply in flight gives back (a mutation needs it).
    #[cfg(feature = "canary")]
    pub fn places_on_their_way(&self) -> Vec<Place> {
        self.applying.as_ref().map(|applying| applying.places.clone()).unwrap_or_default()
    }

    /// The apply in flight failed; `retry` repeats it.
    pub fn apply_failed(&mut self) {
        self.failed_apply = self.applying.is_some();
    }

    pub fn flushed(&mut self) {
        let Some(end) = self.flush.in_flight.take() else { return };
        self.flush.end = self.flush.end.max(end);
        self.extra.push(Change::Put(Bytes::from_static(key::META_FLUSHED_END), encode_ptr(self.flush.end)));
        if self.flush.sync == Sync::Flushing {
            self.flush.sync = Sync::Done;
        }
    }

    /// A flush failed: it is due again after the usual interval, or at once when someone waits for it.
    pub fn flush_failed(&mut self, now: MonoTime) {
        self.flush.in_flight = None;
        self.flush.dirty_since = Some(now);
        if self.flush.sync == Sync::Flushing {
            self.flush.sync = Sync::Wanted;
        }
    }

    /// Segments below `first` are gone: what is known of them goes with the next apply.
    pub fn forget_segments(&mut self, first: SegmentId) {
        self.extra.extend(self.segments.forget(first));
    }

    /// The logged watermark: what the index says at the latest, so what a restart finds again.
    #[must_use]
    pub const fn stored_watermark(&self) -> CommitTs {
        self.stored_watermark
    }

    /// Changes to `meta/…` that ride on the next apply.
    pub fn put_meta(&mut self, change: Change) {
        self.extra.push(change);
    }

    /// Asks for a durable point that covers everything handed in so far; see `is_synced`.
    pub fn sync(&mut self) {
        self.flush.sync = Sync::Wanted;
    }

    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.flush.sync == Sync::Done
    }

    /// A change is on its way that was judged by the watermark of when it was sent.
    #[must_use]
    pub const fn is_applying(&self) -> bool {
        self.applying.is_some()
    }

    /// Everything that is durable in the log has been applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.applying.is_none() && self.batches.is_empty()
    }

    #[must_use]
    pub const fn indexed_end(&self) -> LogPtr {
        self.indexed_end
    }

    #[must_use]
    pub const fn flushed_end(&self) -> LogPtr {
        self.flush.end
    }

    /// Bytes of log that wait for the index.
    #[must_use]
    pub const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// When a flush is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<MonoTime> {
        match (self.flush.in_flight, self.flush.dirty_since) {
            (None, Some(since)) => Some(since.plus_millis(FLUSH_INTERVAL_MS)),
            _ => None,
        }
    }

    pub fn check(&self) {
        assert!(self.flush.end <= self.indexed_end, "flushed beyond what is indexed");
        assert!(self.flush.in_flight.is_none_or(|end| end <= self.indexed_end), "flush of what is not applied");
        let ends = self.batches.iter().zip(self.batches.iter().skip(1));
        assert!(ends.into_iter().all(|(a, b)| a.end <= b.end), "batches follow the log");
    }

    fn fold(
        &mut self,
        ledger: &mut Ledger,
        view: View,
        faults: &mut Vec<Fault>,
        freeze: &mut dyn FnMut(CommitTs) -> CommitTs,
    ) -> Option<Applying> {
        let mut folded = Folded::default();
        let mut now = view;
        let (mut end, mut bytes, mut records) = (self.indexed_end, 0u64, 0usize);
        while records < MAX_APPLY_RECORDS {
            let ready = |batch: &Batch| batch.durable && matches!(batch.lookup, Lookups::Done);
            if !self.batches.front().is_some_and(ready) {
                break;
            }
            let Some(batch) = self.batches.pop_front() else { break };
            for fact in &batch.facts {
                ledger.fold(fact, now, &mut folded);
                self.segments.fold(fact, &std::mem::take(&mut folded.joined));
                if fact.kind == RecordKind::Gc {
                    // What follows in the log is already seen from the new point.
                    now.gc = now.gc.max(fact.commit_ts);
                    let undecided = ledger.oldest_undecided().map_or(StartTs::MAX, |(start_ts, _)| start_ts);
                    let own = StartTs::new(fact.commit_ts.raw());
                    let starts = self.segments.starts_below(fact.commit_ts).min(undecided).min(own);
                    folded.changes.extend(segments::deletions(fact.commit_ts, starts));
                }
            }
            records += batch.facts.len();
            bytes = bytes.saturating_add(batch.bytes);
            end = batch.end;
        }
        // A sync also covers a watermark that moved since the last apply.
        let must_store = self.flush.sync == Sync::Wanted && self.stored_watermark != view.logged;
        let only_flushed_end = self
            .extra
            .iter()
            .all(|change| matches!(change, Change::Put(key, _) if key.as_ref() == key::META_FLUSHED_END));
        if end == self.indexed_end && records == 0 && !must_store && only_flushed_end {
            return None;
        }
        faults.append(&mut folded.faults);
        let mut changes = std::mem::take(&mut self.extra);
        changes.append(&mut folded.changes);
        changes.append(&mut self.segments.changes());
        let put = |key: &'static [u8], value| Change::Put(Bytes::from_static(key), value);
        if let Some(ts) = folded.freeze {
            changes.push(put(key::META_FROZEN, encode_u64(freeze(ts).raw())));
        }
        let lifted = folded.lifted && folded.freeze.is_none();
        if lifted {
            changes.push(Change::Delete(Bytes::from_static(key::META_FROZEN)));
        }
        if let Some(gc) = folded.gc.filter(|gc| *gc > view.gc) {
            changes.push(put(key::META_GC, encode_u64(gc.raw())));
        }
        if end != LogPtr::default() {
            changes.push(put(key::META_INDEXED_END, encode_ptr(end)));
            changes.push(put(key::META_NAMED, encode_named(ledger.named.highest(), end)));
        }
        changes.push(put(key::META_WATERMARK, encode_u64(view.logged.raw())));
        let rotated = self.indexed_end != LogPtr::default() && end.segment != self.indexed_end.segment;
        let Folded { places, references, gc, commits, decided, hinted, .. } = folded;
        let watermark = view.logged;
        Some(Applying {
            changes,
            places,
            references,
            end,
            watermark,
            gc,
            commits,
            bytes,
            rotated,
            decided,
            hinted,
            lifted,
        })
    }

    fn begin_flush(&mut self, now: MonoTime) -> bool {
        if self.flush.in_flight.is_some() || self.applying.is_some() {
            return false;
        }
        let old = self.flush.dirty_since.is_some_and(|since| since.plus_millis(FLUSH_INTERVAL_MS) <= now);
        let wanted = self.flush.sync == Sync::Wanted && self.batches.iter().all(|batch| !batch.durable);
        if !(old || wanted || self.flush.rotated || self.flush.bytes >= FLUSH_BYTES) {
            return false;
        }
        if wanted {
            self.flush.sync = Sync::Flushing;
        }
        self.flush.in_flight = Some(self.indexed_end);
        self.flush.bytes = 0;
        self.flush.rotated = false;
        self.flush.dirty_since = None;
        true
    }

    fn first_id(&self) -> u64 {
        self.next_id.saturating_sub(u64::try_from(self.batches.len()).unwrap_or(u64::MAX))
    }

    fn batch_mut(&mut self, id: BatchId) -> Option<&mut Batch> {
        let index = usize::try_from(id.0.checked_sub(self.first_id())?).ok()?;
        self.batches.get_mut(index)
    }
}

impl Batch {
    fn ask(&mut self, id: BatchId) -> Option<Request> {
        let Lookups::ToAsk(lookups) = &mut self.lookup else { return None };
        let lookups = std::mem::take(lookups);
        let keys = lookups.iter().map(|lookup| lookup.key()).collect();
        self.lookup = Lookups::Asked(lookups);
        Some(Request::Lookup { batch: id, op: IndexOp::Get(keys) })
    }
}

/// Records folded into one apply, beyond which it waits for the next: keeps one atomic change at a few MiB.
const MAX_APPLY_RECORDS: usize = 8192;
/// Rules 3: flush at 64 MiB of log.
const FLUSH_BYTES: u64 = 64 << 20;
/// Rules 3: flush after 60 s with changes.
const FLUSH_INTERVAL_MS: u64 = 60_000;
