//! Taking over a data directory of the original (rules 3 last point, design 3.1, spec pump 3.1–3.3, 3.6).
//!
//! Before our own log recovers, the original's value logs are scanned in order and their records folded into the index, exactly
//! as the tail of our own log is; they stay where they are and are read in place. A crash in the middle goes on from
//! `indexed_end`. When everything is indexed, that fact is made durable, and a file that grows afterwards stops the start: the
//! original must not run on a directory that was taken over.
//!
//! What the original's index adds, if it can be read: the GC point, and how far its queue had come. Up to there every prewrite was
//! decided: by C, by R, or by TiKV's verdict "rolled back", which it did not write down. TiKV can hardly be asked again about a
//! history of days, so this word is kept: an R up to there is taken as a verdict, and a prewrite up to there without C is
//! given one in our log. Everything behind is decided by the rules of our own log.

use super::effect::Level;
use super::machine::Pump;
use super::outbox::Timer;
use super::recover::{MAX_WAITING, Start};
use crate::binlog::item;
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, LogPtr, OpId, SegmentId};
use crate::index::key;
use crate::index::ledger::Fact;
use crate::index::op::Change;
use crate::index::value::{Span, encode_ptr, encode_u64};
use crate::time::{MonoTime, Tso};
use crate::vlog::log::IndexClaims;
use crate::vlog::op::{LogOp, LogReply};
use crate::vlog::record::{Record, RecordKind};
use crate::vlog::v1;
use crate::vlog::v1::record::{FOOTER, HEADER, MaxTs, Meaning, is_footer, meaning};
use crate::vlog::v1::scan::{Scanner, Step};
use bytes::Bytes;
use serde::Serialize;
use std::collections::VecDeque;

/// What the driver found of the original in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Numbers and lengths in bytes of `value/NNNNNN.vlog`, ascending.
    pub files: Vec<(u32, u64)>,
    /// From its index (`kv/`); an error says why it cannot be read.
    pub index: Result<OriginalIndex, String>,
}

/// The pointers of the original's index (spec pump 3.3); 0 where a key is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OriginalIndex {
    /// `!binlog!gcts`.
    pub gc: CommitTs,
    /// `!binlog!maxCommitTS`.
    pub max_commit: CommitTs,
    /// `!binlog!handlePointer`: file and offset of the binlog with that commit_ts.
    pub handle: (u32, u64),
}

/// The directory's past, as found and as the index knows it.
#[derive(Debug, Default)]
pub struct TakeOver {
    found: Option<Original>,
    /// End of the original's logs, once everything in them is indexed.
    end: Option<LogPtr>,
    /// The original's queue had come to this record.
    decided: Option<LogPtr>,
    /// Segments up to this one are, or were, the original's files.
    floor: SegmentId,
    pub status: OriginalStatus,
}

/// For status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OriginalStatus {
    pub files: usize,
    pub bytes: u64,
    /// Bytes looked through; less than `bytes` while the import goes on.
    pub scanned_bytes: u64,
    /// Records found in this life.
    pub records: u64,
    /// Bytes between records that are none, without footers.
    pub skipped_bytes: u64,
    /// Records with the right checksum that are no binlog.
    pub strange: u64,
    /// Prewrites and rollbacks that no commit above the GC point can need.
    pub too_old: u64,
}

/// The import under way.
#[derive(Debug)]
pub struct Import {
    claims: IndexClaims,
    /// Of what was handed to the index.
    end: LogPtr,
    rest: VecDeque<(u32, u64)>,
    current: Option<File>,
    /// The read under way and its length.
    reading: Option<(OpId, u64)>,
    /// A read failed: the timer begins it again.
    failed: bool,
    facts: Vec<Fact>,
    /// The GC point is made from the first commit or fake.
    gc_unknown: bool,
    said: MonoTime,
    warnings: u32,
    over: Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    /// Everything is scanned; the index takes the rest.
    Scanned,
    /// That everything is indexed becomes durable.
    Syncing,
}

#[derive(Debug)]
struct File {
    number: u32,
    len: u64,
    scanner: Scanner,
    max: MaxTs,
    /// Scanned from its beginning on in this life.
    whole: bool,
}

impl File {
    fn end(&self, offset: u64) -> LogPtr {
        LogPtr { segment: v1::segment(self.number), offset }
    }
}

impl TakeOver {
    /// There are value logs of the original, or there were.
    pub const fn is_some(&self) -> bool {
        self.found.is_some() || self.end.is_some()
    }

    /// What the index says.
    pub const fn loaded(&mut self, end: Option<LogPtr>, decided: Option<LogPtr>) {
        self.end = end;
        self.decided = decided;
    }

    fn files(&self) -> &[(u32, u64)] {
        self.found.as_ref().map_or(&[], |found| &found.files)
    }
}

impl Pump {
    /// The data directory holds value logs of the original.
    #[must_use]
    pub fn with_original(mut self, original: Original) -> Self {
        self.take_over.found = Some(original).filter(|original| !original.files.is_empty());
        self
    }

    /// What is in the index has been loaded: the original's logs first, where they are not indexed yet, then our own.
    pub(super) fn begin_logs(&mut self, claims: IndexClaims) {
        let newest = self.take_over.files().last().map(|(number, len)| (v1::segment(*number), *len));
        let taken = self.take_over.end;
        self.take_over.floor =
            newest.map_or(SegmentId::ZERO, |(id, _)| id).max(taken.map_or(SegmentId::ZERO, |end| end.segment));
        self.take_over.status.files = self.take_over.files().len();
        self.take_over.status.bytes = self.take_over.files().iter().map(|(_, len)| len).sum();
        let newest = newest.map(|(segment, offset)| LogPtr { segment, offset });
        match (newest, taken) {
            (Some(newest), Some(end)) if newest > end => {
                let what = format!(
                    "the original wrote to value/ after this directory was taken over (up to {end}): what it accepted then is not in \
                     our log and would be lost; drain it with the original's Pump on a copy of this directory"
                );
                self.refuse_start(what);
            }
            (Some(_), None) if claims.indexed_end.is_some_and(|end| end.segment > self.take_over.floor) => {
                let what = "value/ holds logs of the original, but this directory already has a log of its own that did not \
                            begin with them: move value/ away";
                self.refuse_start(what.to_owned());
            }
            (Some(_), None) => self.begin_import(claims),
            (_, Some(_)) | (None, None) => {
                self.take_over.status.scanned_bytes = self.take_over.status.bytes;
                self.recover_log(claims);
            }
        }
    }

    fn refuse_start(&mut self, what: String) {
        self.start = Start::Failed;
        self.damaged_index(what);
    }

    fn begin_import(&mut self, claims: IndexClaims) {
        let indexed = claims.indexed_end.unwrap_or_default();
        let begun = indexed != LogPtr::default();
        let index = self.take_over.found.as_ref().map(|found| found.index.clone());
        let mut gc_unknown = false;
        match index {
            Some(Ok(index)) => {
                if !begun {
                    self.set_original_gc(index.gc);
                }
                let handle = LogPtr { segment: v1::segment(index.handle.0), offset: index.handle.1 };
                if self.take_over.decided.is_none() {
                    self.set_decided(handle);
                }
            }
            Some(Err(why)) => {
                let from_zero = self.take_over.files().first().is_some_and(|(number, _)| *number == 0);
                gc_unknown = !from_zero && self.gc == CommitTs::ZERO;
                let text = format!(
                    "the original's index (kv/) cannot be read ({why}): its GC point is taken from its value logs, and every \
                     rollback in them for final, as it did"
                );
                self.out.notice(Level::Warn, text);
            }
            None => {}
        }
        let text = format!(
            "taking over the original's value logs: {} files, {} bytes{}",
            self.take_over.status.files,
            self.take_over.status.bytes,
            if begun { format!(", going on at {indexed}") } else { String::new() }
        );
        self.out.notice(Level::Info, text);
        self.tell_holes();
        let import = Import {
            claims,
            end: LogPtr::default(),
            rest: self.take_over.files().iter().copied().collect(),
            current: None,
            reading: None,
            failed: false,
            facts: Vec::new(),
            gc_unknown,
            said: self.now,
            warnings: 0,
            over: Over::No,
        };
        self.start = Start::Original(Box::new(import));
        self.advance_import();
    }

    fn set_original_gc(&mut self, gc: CommitTs) {
        self.gc = self.gc.max(gc);
        self.max_ts = self.max_ts.max(self.gc);
        self.indexer.put_meta(Change::Put(Bytes::from_static(key::META_GC), encode_u64(self.gc.raw())));
    }

    fn set_decided(&mut self, ptr: LogPtr) {
        self.take_over.decided = Some(ptr);
        self.indexer.put_meta(Change::Put(Bytes::from_static(key::META_ORIGINAL_DECIDED), encode_ptr(ptr)));
    }

    /// Numbers that are missing between two files: GC removes from the front only.
    fn tell_holes(&mut self) {
        let files = self.take_over.files();
        let holes = files.iter().zip(files.iter().skip(1)).filter(|((a, _), (b, _))| a.saturating_add(1) != *b);
        let texts: Vec<String> =
            holes.take(MAX_WARNINGS).map(|((a, _), (b, _))| format!("between {a} and {b}")).collect();
        if !texts.is_empty() {
            let text =
                format!("value logs of the original are missing: {}; what was in them is gone", texts.join(", "));
            self.out.notice(Level::Warn, text);
        }
    }

    /// Goes on as far as what was read, and the index, allow.
    pub(super) fn advance_import(&mut self) {
        if self.index_damaged {
            return;
        }
        if let Start::Original(import) = &self.start
            && import.over == Over::No
            && import.reading.is_none()
            && !import.failed
            // Memory: what was scanned waits for the index.
            && self.indexer.waiting_bytes() <= MAX_WAITING
        {
            let Start::Original(mut import) = std::mem::replace(&mut self.start, Start::Failed) else { return };
            self.scan(&mut import);
            self.start = Start::Original(import);
        }
        let Start::Original(import) = &mut self.start else { return };
        match import.over {
            Over::Scanned if self.indexer.is_idle() => {
                import.over = Over::Syncing;
                let end = import.end;
                self.indexer.put_meta(Change::Put(Bytes::from_static(key::META_ORIGINAL), encode_ptr(end)));
                self.take_over.end = Some(end);
                self.indexer.sync();
            }
            Over::Syncing if self.indexer.is_synced() => self.import_is_done(),
            Over::No | Over::Scanned | Over::Syncing => {}
        }
    }

    fn scan(&mut self, import: &mut Import) {
        let indexed = self.indexer.indexed_end();
        loop {
            let Some(mut file) = import.current.take() else {
                match import.rest.pop_front() {
                    Some((number, len)) => {
                        let from = match indexed.segment.cmp(&v1::segment(number)) {
                            std::cmp::Ordering::Less => 0,
                            std::cmp::Ordering::Equal => indexed.offset.min(len),
                            std::cmp::Ordering::Greater => len,
                        };
                        self.take_over.status.scanned_bytes += from;
                        let scanner = Scanner::new(from, len);
                        import.current = Some(File { number, len, scanner, max: MaxTs::default(), whole: from == 0 });
                        continue;
                    }
                    None => {
                        import.over = Over::Scanned;
                        return;
                    }
                }
            };
            match file.scanner.step() {
                Step::Need { offset, len } => {
                    self.push_facts(import, file.end(offset));
                    self.tell_progress(import);
                    let request = LogOp::Read { slot: v1::slot(file.number), offset, len };
                    import.reading = Some((self.out.log_ops().push(request), len));
                    import.current = Some(file);
                    return;
                }
                Step::Record { offset, payload } => {
                    let len = HEADER as u64 + payload.len() as u64;
                    self.take_over.status.scanned_bytes += len;
                    self.take_record(import, &mut file, offset, len, payload);
                    if import.facts.len() >= MAX_FACTS {
                        let end = file.end(file.scanner.position());
                        self.push_facts(import, end);
                    }
                    import.current = Some(file);
                }
                Step::Skipped { from, to, tail } => {
                    self.take_over.status.scanned_bytes += to - from;
                    self.tell_skipped(import, &file, from, to, &tail);
                    import.current = Some(file);
                }
                Step::End => self.push_facts(import, file.end(file.len)),
            }
        }
    }

    fn take_record(&mut self, import: &mut Import, file: &mut File, offset: u64, len: u64, payload: Bytes) {
        let ptr = file.end(offset);
        self.take_over.status.records += 1;
        let Meaning { mut record, unknown_fields, .. } = match meaning(payload) {
            Ok(Some(meaning)) => {
                meaning.count(&mut file.max);
                meaning
            }
            Ok(None) => return,
            Err(what) => {
                self.take_over.status.strange += 1;
                return self
                    .warn(import, format!("value log {} of the original, offset {offset}: {what}", file.number));
            }
        };
        let names_ts = matches!(record.kind, RecordKind::Commit | RecordKind::Fake);
        if names_ts && std::mem::take(&mut import.gc_unknown) {
            // Rules 3: the original keeps prewrites that long beyond its GC point.
            let physical = record.commit_ts.tso().physical_ms().saturating_add(GC_MARGIN_MS);
            self.set_original_gc(CommitTs::new(Tso::compose(physical, record.commit_ts.tso().logical()).raw()));
            self.out.notice(Level::Warn, format!("the GC point is taken to be {}", self.gc));
        }
        let decided = self.take_over.decided.is_none_or(|decided| ptr < decided);
        let max_commit =
            self.take_over.found.as_ref().and_then(|found| found.index.as_ref().ok()).map(|i| i.max_commit);
        if names_ts && decided && max_commit == Some(record.commit_ts) {
            // The pointer may be that of a later copy of the same C (trap T7).
            self.set_decided(ptr);
        }
        if record.kind == RecordKind::RollbackHint && decided {
            record.kind = RecordKind::VerdictRollback;
        }
        if matches!(record.kind, RecordKind::Prewrite | RecordKind::RollbackHint | RecordKind::VerdictRollback)
            && record.start_ts.tso().physical_ms().saturating_add(MAX_TXN_MS) < self.gc.tso().physical_ms()
        {
            self.take_over.status.too_old += 1;
            return;
        }
        let span = Span { ptr, len: u32::try_from(len).unwrap_or(u32::MAX) };
        match self.accept(&record, span, unknown_fields) {
            Ok(fact) => import.facts.push(fact),
            Err(fault) => self.out.fault(fault),
        }
    }

    fn push_facts(&mut self, import: &mut Import, end: LogPtr) {
        import.end = import.end.max(end);
        let facts = std::mem::take(&mut import.facts);
        if !facts.is_empty() || end > self.indexer.indexed_end() {
            self.index_tail(facts, end);
        }
    }

    fn tell_skipped(&mut self, import: &mut Import, file: &File, from: u64, to: u64, tail: &[u8]) {
        let mut end = to;
        if to == file.len && tail.len() == FOOTER {
            // After a restart in the middle its sum is not known; then it is only a warning less.
            let footer = if file.whole { is_footer(tail, file.max) } else { to - from == FOOTER as u64 };
            end -= if footer { FOOTER as u64 } else { 0 };
        }
        if end > from {
            self.take_over.status.skipped_bytes += end - from;
            let text = format!(
                "value log {} of the original: bytes {from} to {end} are no record and are skipped, as its own reader does (a \
                 write that a crash or an error cut short)",
                file.number
            );
            self.warn(import, text);
        }
    }

    fn warn(&mut self, import: &mut Import, text: String) {
        import.warnings = import.warnings.saturating_add(1);
        match usize::try_from(import.warnings).unwrap_or(usize::MAX) {
            n if n < MAX_WARNINGS => self.out.notice(Level::Warn, text),
            MAX_WARNINGS => {
                let text = format!("{text}; more of this is only counted: see \"original\" in /status");
                self.out.notice(Level::Warn, text);
            }
            _ => {}
        }
    }

    fn tell_progress(&mut self, import: &mut Import) {
        if self.now.millis_since(import.said) < PROGRESS_MS {
            return;
        }
        import.said = self.now;
        let OriginalStatus { bytes, scanned_bytes, records, .. } = self.take_over.status;
        let percent = scanned_bytes.saturating_mul(100).checked_div(bytes).unwrap_or(100);
        let text = format!(
            "taking over the original's value logs: {percent} % ({} of {} MiB, {records} records)",
            scanned_bytes >> 20,
            bytes >> 20
        );
        self.out.notice(Level::Info, text);
    }

    /// Takes the completion of a read of the import; `false` if it is none.
    pub(super) fn on_import_read(&mut self, op: OpId, result: &Result<LogReply, IoFault>) -> bool {
        let Start::Original(import) = &mut self.start else { return false };
        let Some((_, asked)) = import.reading.filter(|(reading, _)| *reading == op) else { return false };
        import.reading = None;
        let Some(file) = &mut import.current else { return true };
        match result {
            Ok(LogReply::Data(data)) => file.scanner.feed(data.clone(), asked),
            other => {
                import.failed = true;
                let (segment, offset) = (v1::segment(file.number), file.scanner.position());
                let what = match other {
                    Ok(_) => "read was answered with something else".to_owned(),
                    Err(error) => {
                        format!("value log {} of the original: {error}; tried again every second", file.number)
                    }
                };
                let fault = Fault::LogUnreadable { segment, offset, what };
                if !self.out.repeat_fault(&fault) {
                    self.out.fault(fault);
                }
                self.timers.set(Timer::StartRetry, self.now.plus_millis(RETRY_MS));
            }
        }
        true
    }

    pub(super) fn retry_import(&mut self) {
        if let Start::Original(import) = &mut self.start {
            import.failed = false;
        }
    }

    fn import_is_done(&mut self) {
        let Start::Original(import) = std::mem::replace(&mut self.start, Start::Failed) else { return };
        let OriginalStatus { records, skipped_bytes, strange, .. } = self.take_over.status;
        let text = format!(
            "the original's value logs are taken over: {records} records, GC point {}, watermark {}, {} undecided prewrites, \
             {skipped_bytes} bytes skipped, {strange} records that are no binlog",
            self.gc,
            self.sorter.watermark(),
            self.sorter.undecided(),
        );
        self.out.notice(Level::Info, text);
        self.recover_log(import.claims);
    }

    /// Our own log, which goes on behind the original's files.
    fn recover_log(&mut self, claims: IndexClaims) {
        let files = self.take_over.files().to_vec();
        self.log.adopt(files, self.take_over.floor);
        self.pull.live.begin(self.max_ts);
        self.start = Start::Log(Vec::new());
        self.log.recover(claims, &mut self.out.log_ops());
    }

    /// Our log is ready and its tail handed to the index: what only the original's index said goes into the log, where no loss of an
    /// index can take it back.
    pub(super) fn log_the_originals_word(&mut self) {
        let floor = self.take_over.floor;
        if floor == SegmentId::ZERO || !self.log.is_ready() {
            return;
        }
        let Some((gc, first_live)) = self.log.gc() else { return };
        self.tell_missing(first_live);
        if self.gc > gc {
            let _ = self.append(Record::gc(self.gc, first_live), false, None);
        }
        let Some(decided) = self.take_over.decided else { return };
        let rolled_back = self.ledger.undecided_below(decided);
        if !rolled_back.is_empty() {
            let text = format!(
                "{} prewrites without a commit were decided by the original already: they count as rolled back",
                rolled_back.len()
            );
            self.out.notice(Level::Warn, text);
        }
        for start_ts in rolled_back {
            let record = Record {
                kind: RecordKind::VerdictRollback,
                start_ts,
                commit_ts: CommitTs::ZERO,
                payload: item::verdict(start_ts, None),
            };
            let _ = self.append(record, false, None);
        }
    }

    /// Trap T38: files that somebody removed are told at once, not when a Drainer asks for them.
    fn tell_missing(&mut self, first_live: SegmentId) {
        let present =
            |segment: SegmentId| self.take_over.files().iter().any(|(number, _)| v1::segment(*number) == segment);
        let missing: Vec<SegmentId> = self
            .indexer
            .segments
            .ids()
            .filter(|segment| (first_live..=self.take_over.floor).contains(segment) && !present(*segment))
            .collect();
        for segment in missing {
            let number = v1::number(segment).unwrap_or_default();
            let what =
                format!("value/{number:06}.vlog is missing; restore it, or set the Drainers that need it up anew");
            self.out.fault(Fault::LogDamaged { segment, offset: 0, what });
        }
    }
}

/// Records folded into the index at a time.
const MAX_FACTS: usize = 4096;
/// Warnings about single places that are told one by one.
const MAX_WARNINGS: usize = 100;
const PROGRESS_MS: u64 = 5000;
const RETRY_MS: u64 = 1000;
/// The original keeps this much more than its GC point says (spec pump 3.5).
const GC_MARGIN_MS: u64 = 600_000;
/// TiDB refuses a commit 24 h after the start (spec pump 2.5); doubled for safety.
const MAX_TXN_MS: u64 = 48 * 3_600_000;
