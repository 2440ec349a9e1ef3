//! Property test of the whole log on [`Disk`]: random histories of staging, flushing, crashing and recovering.
//!
//! The owner is modelled by its index: an entry per record that was reported `Durable` or `Tail`, of which a crash keeps a prefix
//! that includes what was flushed. Checked at every `Tail` and `Ready`: what was ever reported is there, in the same order; what is
//! reported in addition continues it in the order of staging; what was missing once never appears again. And every entry reads
//! back.

use super::format::{HeaderCopy, decode_header};
use super::log::{BatchSeq, IndexClaims, Log, LogConfig, LogEvent, LogOps, Placed, Run};
use super::op::LogOp;
use super::record::{Record, RecordKind};
use super::testdisk::Disk;
use crate::fault::Fault;
use crate::ids::{ClusterId, CommitTs, LogPtr, OpId, OpIds, SegmentId, SlotId, StartTs};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

pub const SEGMENT: u64 = 64 << 10;

pub fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT,
        node: [7; 16],
        cluster: ClusterId::new(42),
        max_batch_bytes: 20_000,
        max_batch_records: 5,
    }
}

/// The record number `id`; some are larger than a segment.
pub fn record(id: u64) -> Record {
    let size = match id % 37 {
        0 => 0,
        7 => 90_000,
        n if n % 5 == 0 => 17_000,
        n => n * 97,
    };
    Record {
        kind: if id.is_multiple_of(3) { RecordKind::Commit } else { RecordKind::Prewrite },
        start_ts: StartTs::new(id),
        commit_ts: CommitTs::new(id),
        payload: Bytes::from(vec![id as u8; size as usize]),
    }
}

/// One step of the index: `None` moves only the end.
#[derive(Debug, Clone, Copy)]
struct Entry {
    placed: Option<Placed>,
    end: LogPtr,
}

pub struct World {
    pub disk: Disk,
    pub log: Log,
    ids: OpIds,
    queue: VecDeque<(OpId, LogOp)>,
    sealed: BTreeMap<BatchSeq, Vec<Placed>>,
    next_id: u64,
    lives: u64,
    /// Timestamps in log order: first those that were reported (`reported` of them), then those that may still turn up.
    history: Vec<u64>,
    reported: usize,
    records: BTreeMap<u64, Record>,
    index: Vec<Entry>,
    flushed: usize,
    reads: BTreeMap<u64, Result<Record, Fault>>,
    runs: BTreeMap<u64, Result<Run, Fault>>,
    pub ready: bool,
    pub fault: Option<Fault>,
    /// What the scrub found.
    pub rotten: Vec<Fault>,
    injected: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            disk: Disk::new(seed),
            log: Log::new(config(), seed),
            ids: OpIds::default(),
            queue: VecDeque::new(),
            sealed: BTreeMap::new(),
            next_id: 1,
            lives: seed,
            history: Vec::new(),
            reported: 0,
            records: BTreeMap::new(),
            index: Vec::new(),
            flushed: 0,
            reads: BTreeMap::new(),
            runs: BTreeMap::new(),
            ready: false,
            fault: None,
            rotten: Vec::new(),
            injected: false,
        };
        world.start(false);
        world
    }

    /// A log of several segments, every record in a batch of its own, flushed nowhere.
    pub fn long() -> Self {
        let mut world = Self::new(5);
        world.settle();
        for _ in 0..40 {
            world.stage_many(1);
            world.settle();
        }
        assert!(world.log.durable_end().segment.raw() >= 4);
        world
    }

    /// Changes a byte of a record on the disk.
    pub fn damage(&mut self, placed: Placed) {
        let slot = self.slot_of(placed.ptr.segment);
        let at = placed.ptr.offset as usize + 3;
        self.disk.files.get_mut(&slot).unwrap().visible[at] ^= 0x10;
        self.disk.settle();
    }

    pub fn slot_of(&self, segment: SegmentId) -> SlotId {
        let carries =
            |bytes: &[u8]| matches!(decode_header(bytes), HeaderCopy::Valid { seal, .. } if seal.segment == segment);
        *self.disk.files.iter().find(|(_, file)| carries(&file.visible)).expect("a slot").0
    }

    fn ops<T>(&mut self, f: impl FnOnce(&mut Log, &mut LogOps<'_>) -> T) -> T {
        f(&mut self.log, &mut LogOps { ids: &mut self.ids, out: &mut self.queue })
    }

    pub fn claims(&self, flushed: bool) -> IndexClaims {
        let indexed_end = self.index.last().map(|entry| entry.end);
        IndexClaims { indexed_end, flushed_end: if flushed { indexed_end } else { None } }
    }

    pub fn start(&mut self, flushed: bool) {
        self.start_with(self.claims(flushed));
    }

    pub fn start_with(&mut self, claims: IndexClaims) {
        self.lives += 1;
        self.log = Log::new(config(), self.lives.wrapping_mul(0x1234_5678_9abc_def1));
        self.queue.clear();
        self.sealed.clear();
        self.ready = false;
        self.fault = None;
        self.injected = false;
        self.disk.fail_next = false;
        self.ops(|log, ops| log.recover(claims, ops));
    }

    /// The process ends; the index keeps `keep` of what it had not flushed.
    pub fn crash(&mut self, power: bool, keep: usize, flushed: bool) {
        if let Some((_, op)) = self.queue.front()
            && keep.is_multiple_of(2)
        {
            let op = op.clone();
            self.disk.crash_within(&op);
        }
        if power {
            self.disk.power_loss();
        }
        let loose = self.index.len() - self.flushed;
        self.index.truncate(self.flushed + keep % (loose + 1));
        self.flushed = self.index.len();
        self.start(flushed);
    }

    pub fn stage(&mut self, record: Record) {
        if self.log.is_ready() {
            let id = record.commit_ts.raw();
            self.history.push(id);
            self.records.insert(id, record.clone());
            self.log.stage(record);
        }
    }

    pub fn stage_many(&mut self, count: u64) {
        for _ in 0..count {
            let id = self.next_id;
            self.next_id += 1;
            self.stage(record(id));
        }
    }

    /// Everything that is indexed is flushed; then GC may free what lies below.
    pub fn gc(&mut self) {
        self.flushed = self.index.len();
        let Some(first_live) = self.index.last().map(|entry| entry.end.segment) else { return };
        let id = self.next_id;
        self.next_id += 1;
        self.stage(Record::gc(CommitTs::new(id), first_live));
    }

    /// Frees what the log says may go; one or no slot is kept.
    pub fn release(&mut self) {
        let Some((_, below)) = self.log.gc() else { return };
        let keep = (self.lives % 4 / 2) as usize;
        self.ops(|log, ops| log.release(below, keep, ops));
    }

    /// Asks for the next piece of the scrub.
    pub fn scrub(&mut self) -> bool {
        self.ops(Log::scrub)
    }

    pub fn seal(&mut self) {
        if let Some(sealed) = self.ops(Log::seal) {
            assert!(self.sealed.is_empty(), "one flush in flight");
            self.sealed.insert(sealed.seq, sealed.records);
        }
    }

    /// Carries out one operation: the oldest, or now and then a later read, as the port's second thread would.
    pub fn run_one(&mut self, choice: u64) -> bool {
        let mut at = 0;
        if choice.is_multiple_of(3) {
            at = self.queue.iter().position(|(_, op)| matches!(op, LogOp::Read { .. })).unwrap_or(0);
        }
        let Some((op, request)) = self.queue.remove(at) else { return false };
        if let (LogOp::Read { len, .. }, false) = (&request, self.ready) {
            assert!(*len <= 1 << 20, "recovery reads in bounded pieces");
        }
        let failing = self.disk.fail_next;
        let result = self.disk.execute(&request);
        self.injected |= failing && !self.disk.fail_next;
        let mut events = Vec::new();
        self.ops(|log, ops| log.handle(op, result, &mut events, ops));
        self.log.check();
        for event in events {
            self.event(event);
        }
        true
    }

    /// Everything that is queued except reads.
    pub fn run_all_but_reads(&mut self) {
        while let Some(at) = self.queue.iter().position(|(_, op)| !matches!(op, LogOp::Read { .. })) {
            self.queue.swap(0, at);
            self.run_one(1);
        }
    }

    pub fn settle(&mut self) {
        for round in 1.. {
            self.seal();
            if !self.run_one(round) {
                return;
            }
        }
    }

    fn event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Written { seq } => assert!(self.sealed.contains_key(&seq)),
            LogEvent::Durable { seq, end } => {
                assert_eq!(self.log.durable_end(), end);
                for placed in self.sealed.remove(&seq).expect("a sealed batch") {
                    self.indexed(placed);
                }
                self.index.push(Entry { placed: None, end });
                if self.lives.is_multiple_of(2) {
                    self.release();
                }
            }
            LogEvent::Tail { placed, record } => {
                assert!(!self.ready);
                assert_eq!(Some(&record), self.records.get(&placed.commit_ts.raw()));
                self.indexed(placed);
            }
            LogEvent::Ready { end } => {
                assert!(self.index.iter().all(|entry| entry.end <= end));
                assert!(self.entries() >= self.reported, "what was reported is there");
                self.history.truncate(self.entries());
                self.ready = true;
                self.index.push(Entry { placed: None, end });
            }
            LogEvent::Run { token, result } => assert!(self.runs.insert(token, result).is_none()),
            LogEvent::Read { token, result } => assert!(self.reads.insert(token, result).is_none()),
            LogEvent::Rotten(fault) => self.rotten.push(fault),
            LogEvent::ReadOnly(fault) => {
                assert!(self.injected, "{fault}");
                self.fault = Some(fault);
            }
        }
    }

    fn entries(&self) -> usize {
        self.index.iter().filter(|entry| entry.placed.is_some()).count()
    }

    fn indexed(&mut self, placed: Placed) {
        let end = LogPtr { offset: placed.ptr.offset + u64::from(placed.len), ..placed.ptr };
        let at = self.entries();
        assert_eq!(self.history.get(at).copied(), Some(placed.commit_ts.raw()), "order of staging is kept");
        assert!(self.index.iter().rev().find_map(|e| e.placed).is_none_or(|last| last.ptr < placed.ptr));
        self.index.push(Entry { placed: Some(placed), end });
        self.reported = self.reported.max(at + 1);
    }

    /// Reads everything that the index knows and GC has not freed.
    pub fn read_all(&mut self) {
        let Some((_, first_live)) = self.log.gc().filter(|_| self.ready) else { return };
        let placed: Vec<_> = self.index.iter().filter_map(|e| e.placed).collect();
        let placed: Vec<_> = placed.into_iter().filter(|p| p.ptr.segment >= first_live).collect();
        self.reads.clear();
        for p in &placed {
            self.ops(|log, ops| log.read(p.ptr, p.len, p.commit_ts.raw(), ops));
        }
        while self.run_one(3) {}
        self.read_runs(&placed);
        for p in placed {
            let read = self.reads.remove(&p.commit_ts.raw()).expect("every read is answered");
            assert_eq!(read.as_ref(), Ok(&self.records[&p.commit_ts.raw()]), "{p:?}");
        }
    }

    /// The same, all records of a segment at once; a run that is too short names the record that it cuts.
    fn read_runs(&mut self, placed: &[Placed]) {
        for run in placed.chunk_by(|a, b| a.ptr.segment == b.ptr.segment) {
            // GC may have gone on while the reads before were carried out.
            if self.log.gc().is_none_or(|(_, first_live)| run[0].ptr.segment < first_live) {
                continue;
            }
            let (first, last) = (run[0], run[run.len() - 1]);
            let len = u32::try_from(last.ptr.offset - first.ptr.offset).unwrap() + last.len;
            self.ops(|log, ops| log.read_run(first.ptr, len, 0, ops));
            self.ops(|log, ops| log.read_run(first.ptr, len - 1, 1, ops));
            while self.run_one(3) {}
            let (whole, cut) = (self.runs.remove(&0).unwrap().unwrap(), self.runs.remove(&1).unwrap().unwrap());
            for p in run {
                assert_eq!(whole.record(p.ptr, p.len).as_ref(), Ok(&self.records[&p.commit_ts.raw()]), "{p:?}");
            }
            let LogPtr { segment, offset } = last.ptr;
            let what = format!("only {} of {} bytes are there", last.len - 1, last.len);
            assert_eq!(cut.record(last.ptr, last.len), Err(Fault::LogDamaged { segment, offset, what }));
            let other = LogPtr { segment: SegmentId::new(segment.raw() + 1), offset };
            assert!(whole.record(other, last.len).is_err() && whole.record(last.ptr, last.len + 1).is_err());
        }
    }

    /// Recovers a log that somebody damaged.
    pub fn expect_fault(&mut self) -> Fault {
        self.injected = true;
        self.settle();
        assert!(!self.ready && !self.log.is_ready());
        self.fault.clone().expect("a fault")
    }

    pub fn placed(&self) -> Vec<Placed> {
        self.index.iter().filter_map(|entry| entry.placed).collect()
    }

    /// The answer to one read.
    pub fn read(&mut self, placed: Placed) -> Result<Record, Fault> {
        self.ops(|log, ops| log.read(placed.ptr, placed.len, u64::MAX, ops));
        while self.run_one(0) {}
        self.reads.remove(&u64::MAX).expect("an answer")
    }

    pub fn contents(&self) -> Vec<u64> {
        self.index.iter().filter_map(|entry| entry.placed).map(|placed| placed.commit_ts.raw()).collect()
    }

    /// Restarts with an index that was flushed up to `end`.
    pub fn restart_at(&mut self, end: LogPtr) {
        self.index.retain(|entry| entry.end <= end);
        self.flushed = self.index.len();
        self.start_with(IndexClaims { indexed_end: Some(end), flushed_end: Some(end) });
    }

    /// Restarts without an index, so that the whole retained log is handed out as tail.
    pub fn rescan(&mut self) {
        let freed = self.log.gc().map_or(SegmentId::ZERO, |(_, first_live)| first_live);
        self.index.retain(|entry| entry.placed.is_some_and(|placed| placed.ptr.segment < freed));
        self.flushed = self.index.len();
        self.start_with(IndexClaims::default());
        self.settle();
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Stage(u64),
    Seal,
    Run(u64),
    Settle,
    Kill(usize),
    PowerLoss(usize),
    Fail,
    Flush,
    Gc,
    ReadAll,
    Scrub,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1u64..12).prop_map(Action::Stage),
        5 => Just(Action::Seal),
        8 => (1u64..9).prop_map(Action::Run),
        3 => Just(Action::Settle),
        2 => any::<u16>().prop_map(|n| Action::Kill(n.into())),
        2 => any::<u16>().prop_map(|n| Action::PowerLoss(n.into())),
        1 => Just(Action::Fail),
        1 => Just(Action::Flush),
        1 => Just(Action::Gc),
        1 => Just(Action::ReadAll),
        2 => Just(Action::Scrub),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_else_is_served(
        seed in any::<u64>(), actions in proptest::collection::vec(action(), 1..80),
    ) {
        let mut world = World::new(seed);
        for action in actions {
            match action {
                Action::Stage(count) => world.stage_many(count),
                Action::Seal => world.seal(),
                Action::Run(count) => for n in 0..count {
                    world.run_one(seed ^ n);
                },
                Action::Settle => world.settle(),
                Action::Kill(keep) => world.crash(false, keep, keep % 3 == 0),
                Action::PowerLoss(keep) => world.crash(true, keep, keep % 3 == 0),
                Action::Fail => world.disk.fail_next = true,
                Action::Flush => world.flushed = world.index.len(),
                Action::Gc => world.gc(),
                Action::ReadAll => world.read_all(),
                Action::Scrub => drop(world.scrub()),
            }
            prop_assert!(world.rotten.is_empty() || world.injected, "{:?}", world.rotten);
        }
        world.disk.fail_next = false;
        world.settle();
        world.read_all();
        // In the end, all comes back, and again, and after the power went.
        for power in [false, false, true, true] {
            world.crash(power, 1, false);
            world.settle();
            prop_assert!(world.ready);
            let contents = world.contents();
            prop_assert_eq!(&contents, &world.history);
            world.read_all();
        }
        world.stage_many(3);
        world.settle();
        let (contents, files) = (world.contents(), world.disk.files.len());
        for _ in 0..4 {
            world.rescan();
            prop_assert!(world.ready);
            prop_assert_eq!(&world.contents(), &contents);
        }
        prop_assert!(world.disk.files.len() <= files + 2, "restarts do not pile up files");
    }
}
