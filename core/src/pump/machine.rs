//! The Pump as one machine: routes inputs to its parts and completions to who asked for them.
//!
//! | part | decides |
//! |---|---|
//! | `write` | whether a binlog is stored (spec pump 1.4), who waits for which batch |
//! | `vlog::log` | batches, durability, recovery of the log (rules 2) |
//! | `index::{ledger, indexer}` | what the records mean, what is indexed when (rules 1, 3) |
//! | `sorter` | the watermark (rules 4) |
//! | `pull` | streams (rules 5) |
//! | `recover`, `original` | the order of the start, data directories of the original |
//! | `life`, `offline` | registry, shutdown; going offline |
//! | `idle`, `demand` | fakes: logged, and while a stream waits |
//! | `inspect` | look-ups of single binlogs |
//! | `gc` | the GC point, which segments go (rules 6) |
//! | `resolve`, `verdict` | what became of a prewrite whose C does not come (rules 1) |
//! | `hold` | PD's service safe point, so that TiKV keeps what verdicts need (rules 1) |
//! | `operator` | commands that decide what nothing else can |
//!
//! A record goes accepted → staged → written → durable → indexed → (its timestamp) passed. Replies leave on *durable* (on
//! *written* with `sync-log = false`); the watermark moves only when an index batch was applied.

use super::config::PumpConfig;
use super::demand::Demand;
use super::effect::{Effect, Level};
use super::gc::Collector;
use super::hold::Hold;
use super::idle::Idle;
use super::input::Input;
use super::inspect::Inspect;
use super::life::Life;
use super::offline::Offline;
use super::original::TakeOver;
use super::outbox::{Outbox, Timer, Timers, Waiting};
use super::pull::Pull;
use super::recover::Start;
use super::resolve::{READ_TOKEN, Resolver};
use super::space::Space;
use super::write::{self, Decision, Gate, Unsynced};
use crate::binlog::peek::Peek;
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault, Reject};
use crate::ids::{CommitTs, LogPtr, OpId, StartTs, StreamId, WriteId};
use crate::index::indexer::{Indexer, Request};
use crate::index::ledger::{Arrival, Fact, Ledger, View, carries_mark, mismatch, names_transaction};
use crate::index::op::IndexReply;
use crate::index::value::{Digest, Span};
use crate::machine::Machine;
use crate::node::status::NodeStatus;
use crate::sorter::Sorter;
use crate::time::{Deadline, MonoTime, Tso};
use crate::vlog::format::MAX_PAYLOAD;
use crate::vlog::log::{Log, LogEvent};
use crate::vlog::op::LogReply;
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;

#[derive(Debug)]
pub struct Pump {
    pub(super) config: PumpConfig,
    pub(super) now: MonoTime,
    pub(super) out: Outbox,
    pub(super) timers: Timers,
    pub(super) log: Log,
    pub(super) ledger: Ledger,
    pub(super) indexer: Indexer,
    pub(super) sorter: Sorter,
    pub(super) unsynced: Unsynced,
    pub(super) space: Space,
    pub(super) pull: Pull,
    /// Streams that came before the GC point was known.
    pub(super) parked: Vec<(StreamId, CommitTs, u64)>,
    pub(super) start: Start,
    pub(super) take_over: TakeOver,
    pub(super) life: Life,
    pub(super) offline: Offline,
    pub(super) idle: Idle,
    pub(super) demand: Demand,
    pub(super) inspect: Inspect,
    pub(super) collector: Collector,
    pub(super) resolver: Resolver,
    pub(super) hold: Hold,
    /// The GC point (rules 6).
    pub(super) gc: CommitTs,
    /// Largest commit timestamp that was accepted.
    pub(super) max_ts: CommitTs,
    /// The last timestamp of PD and when it came.
    pub(super) tso: Option<(Tso, MonoTime)>,
    /// End of what the operating system has.
    pub(super) written_end: LogPtr,
    /// When the last batch was sealed.
    sealed_at: MonoTime,
    /// Why nothing can be stored any more.
    pub(super) read_only: Option<String>,
    /// The index holds something that cannot be understood: nothing is indexed any more.
    pub(super) index_damaged: bool,
    pub(super) index_outage: bool,
    /// The index had no format when it was opened.
    pub(super) index_is_new: bool,
    pub(super) accepted: u64,
    pub(super) acknowledged: u64,
    pub(super) rejected: u64,
}

/// What the driver may hand in; see [`Pump::ready_for`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// WriteBinlog calls.
    Write,
    /// Everything else: completions and streams are never held back.
    Other,
}

impl Pump {
    #[must_use]
    pub fn new(config: PumpConfig) -> Self {
        let log = Log::new(config.log(), config.seed);
        let space = Space::new(config.stop_write_at_available_space).with_reserve(config.segment_bytes);
        Self {
            now: MonoTime::ZERO,
            out: Outbox::default(),
            timers: Timers::default(),
            log,
            ledger: Ledger::default(),
            indexer: Indexer::default(),
            sorter: Sorter::new(CommitTs::ZERO, None),
            unsynced: Unsynced::default(),
            space,
            pull: Pull::new(config.stream_memory),
            parked: Vec::new(),
            start: Start::Idle,
            take_over: TakeOver::default(),
            life: Life::new(config.previous),
            offline: Offline::default(),
            idle: Idle::default(),
            demand: Demand::default(),
            inspect: Inspect::default(),
            collector: Collector::default(),
            resolver: Resolver::default(),
            hold: Hold::default(),
            gc: CommitTs::ZERO,
            max_ts: CommitTs::ZERO,
            tso: None,
            written_end: LogPtr::default(),
            sealed_at: MonoTime::ZERO,
            read_only: None,
            index_damaged: false,
            index_outage: false,
            index_is_new: false,
            accepted: 0,
            acknowledged: 0,
            rejected: 0,
            config,
        }
    }

    /// Whether the driver should hand in more of this class now; otherwise it leaves the requests where they are.
    #[must_use]
    pub fn ready_for(&self, class: Class) -> bool {
        match class {
            Class::Write => self.log.staged_bytes() < STAGED_BYTES,
            Class::Other => true,
        }
    }

    /// What a write is judged by now.
    fn gate(&self) -> Gate<'_> {
        Gate {
            cluster: self.config.cluster,
            not_online: self.life.not_online(self.start.is_done()),
            starting: !self.start.is_done() || !self.life.has_gc_point(),
            closed: self.life.is_closed(),
            read_only: self.read_only.as_deref(),
            space: &self.space,
            busy: self.busy(),
            full: self.full(),
            max_payload_bytes: self.config.max_payload_bytes.min(MAX_PAYLOAD),
        }
    }

    /// What a client's probe would be told: for `/health`.
    #[must_use]
    pub fn refuses_writes(&self) -> Option<String> {
        let gate = self.gate();
        match write::decide(&gate, self.config.cluster.raw(), &[]) {
            Decision::Reject(reject) => Some(reject.to_string()),
            Decision::Probe | Decision::Append { .. } => gate.busy.map(|what| Reject::Busy(what).to_string()),
        }
    }

    fn on_write(&mut self, write: WriteId, cluster_id: u64, payload: Bytes) {
        let result = match write::decide(&self.gate(), cluster_id, &payload) {
            Decision::Reject(reject) => Err(reject),
            Decision::Probe => Ok(()),
            Decision::Append { kind, peek } => match self.append_client(write, kind, &peek, payload) {
                Ok(()) => return,
                Err(reject) => Err(reject),
            },
        };
        self.rejected += u64::from(result.is_err());
        self.out.effect(Effect::WriteReply { write, result });
    }

    /// Why prewrites are refused although this node is online.
    fn busy(&self) -> Option<&'static str> {
        if self.indexer.waiting_bytes() >= UNINDEXED_BYTES {
            Some("the index is behind")
        } else if self.ledger.len() >= MAX_TRANSACTIONS || self.sorter.len() >= MAX_TRANSACTIONS {
            Some("too many transactions are undecided")
        } else {
            None
        }
    }

    /// Why nothing at all is taken: what C and R hold in memory is small, but an index that stands still must not cost it all.
    fn full(&self) -> Option<&'static str> {
        if self.log.staged_bytes() >= STAGED_BYTES_HARD {
            Some("too many bytes wait for the disk")
        } else if self.indexer.waiting_bytes() >= 2 * UNINDEXED_BYTES || self.ledger.len() >= 2 * MAX_TRANSACTIONS {
            Some("the index is far behind")
        } else {
            None
        }
    }

    fn append_client(&mut self, write: WriteId, kind: RecordKind, peek: &Peek, payload: Bytes) -> Result<(), Reject> {
        let positive = |ts: i64| u64::try_from(ts).unwrap_or(0);
        let (start_ts, commit_ts) = (StartTs::new(positive(peek.start_ts)), CommitTs::new(positive(peek.commit_ts)));
        let record = Record { kind, start_ts, commit_ts, payload };
        self.append(record, peek.unknown_fields, Some(write)).map_err(|fault| {
            let reject = Reject::WriteFailed(fault.to_string());
            self.out.fault(fault);
            reject
        })
    }

    /// Stages a record. An error is a repeated P with another payload: nothing was staged.
    pub(super) fn append(&mut self, record: Record, unknown: bool, write: Option<WriteId>) -> Result<(), Fault> {
        let fact = self.accept(&record, Span::default(), unknown)?;
        self.space.used(u64::try_from(record.payload.len()).unwrap_or(u64::MAX));
        let batch = self.log.stage(record);
        self.unsynced.stage(batch, fact, write);
        self.accepted += 1;
        Ok(())
    }

    /// Takes the record's place in the waiting queue: the same while running and for what recovery reads back.
    pub(super) fn accept(&mut self, record: &Record, span: Span, unknown_fields: bool) -> Result<Fact, Fault> {
        let Record { kind, start_ts, commit_ts, ref payload } = *record;
        let mut digest = Digest::default();
        let mut place = None;
        if kind == RecordKind::Prewrite {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            digest = Digest { len, crc: crc32c::crc32c(payload) };
            match self.ledger.accept_prewrite(start_ts, digest) {
                Ok(Arrival::New) => {
                    place = Some(self.sorter.push_prewrite(start_ts, self.now));
                    self.resolver.prewrite(self.now);
                }
                Ok(Arrival::Repeated) => {}
                Err(pair) => return Err(mismatch(start_ts, pair.first, pair.second)),
            }
        } else if names_transaction(kind) {
            self.ledger.accept(start_ts);
        }
        if carries_mark(kind) {
            #[cfg(not(feature = "canary"))]
            let mark = self.sorter.push_mark(commit_ts);
            #[cfg(feature = "canary")]
            let mark = match self.idle.reserved.take_if(|_| kind == RecordKind::Fake) {
                Some(place) => self.sorter.push_mark_at(place, commit_ts),
                None => self.sorter.push_mark(commit_ts),
            };
            place = Some(mark);
            self.max_ts = self.max_ts.max(commit_ts);
        }
        Ok(Fact { kind, start_ts, commit_ts, span, digest, unknown_fields, place, known_commit: None })
    }

    fn on_log(&mut self, op: OpId, result: Result<LogReply, IoFault>) {
        let mut events = Vec::new();
        if canary::is(Canary::LoseOneCompletion) && op.raw() == 40 {
            return;
        }
        if self.on_import_read(op, &result) {
            return;
        }
        if !self.log.handle(op, result, &mut events, &mut self.out.log_ops()) {
            self.out.unknown_completions += 1;
        }
        for event in events {
            self.on_log_event(event);
        }
    }

    pub(super) fn on_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Tail { placed, record } => self.on_tail(placed, &record),
            LogEvent::Ready { end } => self.on_log_ready(end),
            LogEvent::Written { seq } => {
                self.written_end = self.unsynced.end_of(seq).unwrap_or(self.written_end);
                if !self.config.sync_log || canary::is(Canary::AckBeforeSync) {
                    let writes = self.unsynced.answer(seq, false);
                    self.acknowledge(writes);
                }
            }
            LogEvent::Durable { seq, end } => {
                let writes = self.unsynced.answer(seq, true);
                self.written_end = self.written_end.max(end);
                self.acknowledge(writes);
                self.indexer.durable(seq);
            }
            LogEvent::Run { token, result } => self.pull.read_done(token, result),
            LogEvent::Read { token, result } if token & READ_TOKEN != 0 => self.on_prewrite_read(token, result),
            LogEvent::Read { token, result } => {
                self.inspect_read(token, &result);
            }
            // What is written from now on is not touched by it; a stream that comes there is told again.
            LogEvent::Rotten(fault) => {
                if !self.out.repeat_fault(&fault) {
                    self.out.fault(fault);
                }
            }
            LogEvent::ReadOnly(fault) => self.on_read_only(fault),
        }
    }

    fn acknowledge(&mut self, writes: Vec<WriteId>) {
        for write in writes {
            self.acknowledged += 1;
            self.out.effect(Effect::WriteReply { write, result: Ok(()) });
        }
    }

    /// The log takes no more writes: what waits is refused, streams go on.
    fn on_read_only(&mut self, fault: Fault) {
        let text = fault.to_string();
        self.out.fault(fault);
        for write in self.unsynced.fail() {
            self.rejected += 1;
            let result = Err(Reject::WriteFailed(text.clone()));
            self.out.effect(Effect::WriteReply { write, result });
        }
        self.indexer.forget_undurable();
        self.read_only.get_or_insert(text);
        self.collector.give_up();
        self.on_log_unusable();
    }

    fn on_index(&mut self, op: OpId, result: Result<IndexReply, IoFault>) {
        let Some(why) = self.out.complete(op, Waiting::is_index) else { return };
        match (why, result) {
            (Waiting::Inspect(call), result) => self.inspect_found(call, result),
            (Waiting::Scan(stream), result) => self.pull.scanned(stream, result, &mut self.out),
            (Waiting::Lookup(batch), Ok(IndexReply::Values(values))) => {
                self.index_works();
                if let Err(text) = self.indexer.looked_up(&mut self.ledger, batch, &values) {
                    self.damaged_index(text);
                }
            }
            (Waiting::Apply, Ok(IndexReply::Applied)) => {
                self.index_works();
                self.on_applied();
            }
            (Waiting::Flush, Ok(IndexReply::Flushed)) => self.indexer.flushed(),
            (
                Waiting::Meta
                | Waiting::LoadSegments
                | Waiting::LoadUndecided
                | Waiting::LoadStarts
                | Waiting::LoadCommits,
                Ok(reply),
            ) => {
                self.on_loaded(why, reply);
            }
            (why, Ok(_)) => self.damaged_index(format!("the answer to {why:?} has another form")),
            (why, Err(error)) => self.on_index_failed(why, &error),
        }
    }

    /// What failed is repeated after a second; said once per outage.
    fn on_index_failed(&mut self, why: Waiting, error: &IoFault) {
        if !self.index_outage {
            self.index_outage = true;
            self.out.fault(Fault::Index(format!("{error}; it is tried again every second")));
        }
        match why {
            Waiting::Lookup(batch) => self.indexer.lookup_failed(batch),
            Waiting::Apply => self.indexer.apply_failed(),
            Waiting::Flush => self.indexer.flush_failed(self.now),
            Waiting::Meta
            | Waiting::LoadSegments
            | Waiting::LoadUndecided
            | Waiting::LoadStarts
            | Waiting::LoadCommits => {
                self.timers.set(Timer::StartRetry, self.now.plus_millis(INDEX_RETRY_MS));
                return;
            }
            _ => return,
        }
        self.timers.set(Timer::IndexRetry, self.now.plus_millis(INDEX_RETRY_MS));
    }

    fn index_works(&mut self) {
        if std::mem::take(&mut self.index_outage) {
            self.out.notice(Level::Info, "the index works again".to_owned());
        }
    }

    /// The index holds what we cannot have written: nothing more is indexed, nothing is stored.
    pub(super) fn damaged_index(&mut self, text: String) {
        self.index_damaged = true;
        let fault = Fault::Index(text);
        let text = fault.to_string();
        self.out.fault(fault);
        self.on_log_unusable();
        for (stream, _, _) in std::mem::take(&mut self.parked) {
            self.out.effect(Effect::StreamEnd { stream, result: Err(Reject::ReadFailed(text.clone())) });
        }
        self.read_only.get_or_insert(text);
    }

    fn on_applied(&mut self) {
        let applied = self.indexer.applied(&mut self.ledger);
        self.pull.live.applied(applied.commits);
        for place in applied.places {
            self.sorter.release(place);
            self.sorter.pass(place);
        }
        if let Some(gc) = applied.gc {
            self.gc = self.gc.max(gc);
            self.gc_applied(gc);
        }
        for start_ts in applied.decided {
            self.resolver.decided(start_ts);
        }
        for start_ts in applied.hinted {
            self.resolver.hint(start_ts, self.now);
        }
        if applied.lifted {
            self.sorter.lift();
            self.out.notice(Level::Warn, "an operator's command released the frozen watermark".to_owned());
        }
        self.move_watermark();
    }

    pub(super) fn move_watermark(&mut self) {
        let before = self.sorter.logged();
        let _ = self.sorter.advance();
        let logged = self.sorter.logged();
        if logged > before {
            self.idle.watermark_moved(logged);
        }
    }

    /// Asks every part for what it can do now.
    fn settle(&mut self) {
        self.release_segments();
        self.advance_filling();
        self.advance_import();
        self.settle_indexer();
        self.pull.advance(self.sorter.watermark(), &mut self.log, &mut self.out);
        self.advance_life();
        self.advance_verdicts();
        self.advance_demand();
        self.answer_actions();
    }

    /// Zeros are written ahead of time only after a pause: in the short gaps of a busy log they would hold up its next batch.
    fn advance_filling(&mut self) {
        if !self.log.wants_filling() {
            return;
        }
        let due = self.sealed_at.plus_millis(FILL_PAUSE_MS);
        if due <= self.now {
            self.log.fill(&mut self.out.log_ops());
        } else {
            self.timers.set(Timer::Fill, due);
        }
    }

    /// One piece; then the next after a while, and all again a day later.
    fn on_scrub_timer(&mut self) {
        let more = self.log.scrub(&mut self.out.log_ops());
        let pause = if more { SCRUB_PIECE_MS } else { SCRUB_PASS_MS };
        self.timers.set(Timer::Scrub, self.now.plus_millis(pause));
    }

    pub(super) fn settle_indexer(&mut self) {
        if self.index_damaged {
            return;
        }
        while let Some(request) = self.poll_indexer() {
            self.send_index(request);
        }
        // One that is due but must wait goes out when the apply in flight completes: no timer that would only spin.
        if let Some(at) = self.indexer.deadline().filter(|at| *at > self.now) {
            self.timers.set(Timer::IndexFlush, at);
        }
    }

    fn poll_indexer(&mut self) -> Option<Request> {
        // While one was refused, the timer decides when to go on.
        if self.timers.is_set(Timer::IndexRetry) {
            return None;
        }
        let view = View { watermark: self.sorter.watermark(), logged: self.sorter.logged(), gc: self.gc };
        let mut faults = Vec::new();
        let sorter = &mut self.sorter;
        let request = self.indexer.poll(&mut self.ledger, view, self.now, &mut faults, &mut |ts| sorter.freeze(ts));
        for fault in faults {
            self.out.fault(fault);
        }
        request
    }

    pub(super) fn send_index(&mut self, request: Request) {
        match request {
            Request::Lookup { batch, op } => self.out.index(Waiting::Lookup(batch), op),
            Request::Apply(op) => {
                self.out.index(Waiting::Apply, op);
                #[cfg(feature = "canary")]
                if canary::is(Canary::InsertBelowW) {
                    for place in self.indexer.places_on_their_way() {
                        self.sorter.release(place);
                        self.sorter.pass(place);
                    }
                    self.move_watermark();
                }
            }
            Request::Flush(op) => self.out.index(Waiting::Flush, op),
        }
    }

    fn on_tick(&mut self) {
        while let Some(timer) = self.timers.expired(self.now) {
            match timer {
                Timer::Heartbeat => self.on_heartbeat(),
                Timer::Fake => self.on_fake_timer(),
                // `settle` asks the indexer.
                Timer::IndexFlush => {}
                Timer::IndexRetry => {
                    for request in self.indexer.retry() {
                        self.send_index(request);
                    }
                }
                Timer::StartRetry => self.retry_load(),
                Timer::TsoRetry => self.retry_gc_tso(),
                Timer::Registry => self.write_status(),
                Timer::Notify => self.notify(),
                Timer::StopLimit => self.on_stop_limit(),
                // `settle` asks.
                Timer::Demand | Timer::Fill => {}
                Timer::Scrub => self.on_scrub_timer(),
                Timer::Closing => self.on_closing_timer(),
                Timer::Gc => self.on_gc_timer(),
                Timer::Verdict => self.on_verdict_timer(),
                Timer::HoldGc => self.on_hold_timer(),
            }
        }
    }

    fn on_tso(&mut self, op: OpId, result: Result<Tso, IoFault>) {
        let is_tso = |why| {
            matches!(
                why,
                Waiting::TsoForStatus
                    | Waiting::TsoForGc
                    | Waiting::TsoForFake
                    | Waiting::TsoForDemand
                    | Waiting::TsoForCollect
                    | Waiting::TsoForVerdict(_)
                    | Waiting::TsoForHold
            )
        };
        let Some(why) = self.out.complete(op, is_tso) else { return };
        if let Ok(ts) = result {
            self.tso = Some((ts, self.now));
        }
        match why {
            Waiting::TsoForGc => self.on_gc_tso(result),
            Waiting::TsoForFake => self.on_fake_tso(result),
            Waiting::TsoForDemand => self.on_demand_tso(result),
            Waiting::TsoForCollect => self.on_collect_tso(result),
            Waiting::TsoForVerdict(start_ts) => self.on_tso_for_verdict(start_ts, op, result),
            Waiting::TsoForHold => self.on_hold_tso(result),
            _ => {}
        }
    }

    /// Routes to GC and to going offline; a late answer is ignored.
    fn on_drainers(&mut self, op: OpId, result: Result<Vec<NodeStatus>, IoFault>) {
        let is_list = |why| matches!(why, Waiting::DrainersForGc | Waiting::DrainersForOffline);
        match self.out.complete(op, is_list) {
            Some(Waiting::DrainersForOffline) => self.on_drainers_for_offline(result),
            Some(Waiting::DrainersForGc) => self.on_collect_drainers(result),
            _ => {}
        }
    }

    fn on_pull_open(&mut self, stream: StreamId, cluster_id: u64, last: CommitTs, credit: u64) {
        let own = self.config.cluster.raw();
        if cluster_id != own {
            let result = Err(Reject::ClusterMismatch { got: cluster_id, own });
            self.out.effect(Effect::StreamEnd { stream, result });
        } else if self.life.is_closed() {
            self.out.effect(Effect::StreamEnd { stream, result: Err(Reject::ShuttingDown) });
        } else if self.start.has_failed() {
            let result = Err(Reject::ReadFailed(self.read_only.clone().unwrap_or_default()));
            self.out.effect(Effect::StreamEnd { stream, result });
        } else if self.can_stream() {
            self.pull.open(stream, last, credit, self.gc_floor(), &mut self.out);
        } else if self.parked.len() >= MAX_PARKED {
            self.out.effect(Effect::StreamEnd { stream, result: Err(Reject::Busy("starting")) });
        } else {
            self.parked.push((stream, last, credit));
            self.open_parked();
        }
    }
}

impl Machine for Pump {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: MonoTime, input: Input) {
        assert!(now >= self.now, "time goes back");
        self.now = now;
        match input {
            Input::Start => self.begin(),
            Input::Write { write, cluster_id, payload } => self.on_write(write, cluster_id, payload),
            Input::PullOpen { stream, cluster_id, last, credit } => {
                self.on_pull_open(stream, cluster_id, last, credit);
            }
            Input::PullCredit { stream, bytes } => {
                self.pull.credit(stream, bytes);
                for (_, _, credit) in self.parked.iter_mut().filter(|(id, _, _)| *id == stream) {
                    *credit = credit.saturating_add(bytes);
                }
            }
            Input::PullClosed { stream } => {
                self.pull.closed(stream);
                self.parked.retain(|(id, _, _)| *id != stream);
            }
            Input::LogDone { op, result } => self.on_log(op, result),
            Input::IndexDone { op, result } => self.on_index(op, result),
            Input::TsoDone { op, result } => self.on_tso(op, result),
            Input::StatusDone { op, result } => self.on_status_done(op, result),
            Input::NotifyDone { op, result } => self.on_notify_done(op, result),
            Input::DrainersDone { op, result } => self.on_drainers(op, result),
            Input::Space { available, capacity } => self.on_space(available, capacity),
            Input::TriggerGc => self.on_trigger_gc(),
            Input::Action { call, action } => self.on_action(call, action),
            Input::ReadBinlog { call, ts } => self.read_binlog(call, ts),
            Input::MvccDone { op, result } => self.on_mvcc(op, result),
            Input::TxnStatusDone { op, result } => self.on_txn_status(op, result),
            Input::SafePointDone { op, result } => self.on_safe_point(op, result),
            Input::HoldGcDone { op, result } => self.on_gc_held(op, result),
            Input::Resolve { write, start_ts, verdict } => self.on_resolve(write, start_ts, verdict),
            Input::ReleaseFrozen { write } => self.on_release_frozen(write),
            Input::Shutdown => self.on_shutdown(),
            Input::Tick => self.on_tick(),
        }
        self.settle();
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.out.poll() {
            return Some(effect);
        }
        // Everything that was ready has been handed in: seal it if no flush is in flight (group commit without a timer).
        let Some(sealed) = self.log.seal(&mut self.out.log_ops()) else {
            // It may have asked for the next segment, which has to be made first.
            return self.out.poll();
        };
        self.sealed_at = self.now;
        self.pull.tail.push(&sealed);
        let facts = self.unsynced.seal(&sealed);
        let request = self.indexer.push(&mut self.ledger, Some(sealed.seq), facts, sealed.end, false);
        if let Some(request) = request {
            self.send_index(request);
        }
        self.out.poll()
    }

    fn next_deadline(&self) -> Option<Deadline> {
        self.timers.next()
    }

    fn check(&self) {
        self.log.check();
        self.ledger.check();
        self.indexer.check();
        self.sorter.check();
        self.resolver.check();
        self.pull.check(self.sorter.watermark(), &self.log);
        assert!(
            self.indexer.indexed_end() <= self.log.durable_end() || !self.start.is_done() || self.read_only.is_some(),
            "indexed beyond what is durable"
        );
    }
}

/// Staged bytes beyond which the driver stops reading: some batches ahead of the disk.
const STAGED_BYTES: usize = 64 << 20;
/// Staged bytes beyond which everything is refused, for drivers that do not ask.
const STAGED_BYTES_HARD: usize = 256 << 20;
/// Log that waits for the index beyond which prewrites are refused (rules 3): about eight flush intervals.
const UNINDEXED_BYTES: u64 = 512 << 20;
/// Undecided transactions (about 200 bytes each) beyond which prewrites are refused.
const MAX_TRANSACTIONS: usize = 1 << 20;
/// Streams that wait for the start.
const MAX_PARKED: usize = 64;
/// How long nothing was written before slots are filled with zeros (rules 2): several syncs of a slow disk.
const FILL_PAUSE_MS: u64 = 50;
/// The scrub reads one MiB in this time: a hundred GB a day, and less than a hundredth of what a disk does.
const SCRUB_PIECE_MS: u64 = 1000;
/// Between the end of one scrub and the next.
const SCRUB_PASS_MS: u64 = 24 * 3600 * 1000;
/// The original's interval between attempts at the index.
const INDEX_RETRY_MS: u64 = 1000;
