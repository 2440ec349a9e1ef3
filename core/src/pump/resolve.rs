//! Asking TiKV what became of a prewrite whose C does not come (rules 1; traps T1, T2, T5, T6, T16). Decides when to ask about
//! which prewrite; what an answer means is in [`super::verdict`].
//!
//! Keeps true: nothing here touches the write path or holds the watermark longer than the answer takes; a verdict is a record of
//! the log and acts when it was folded like any other; per prewrite there is one question at a time, and the next one comes
//! after a pause that grows; while TiKV or PD are away one question at a time finds out when they are back.
//!
//! A prewrite is asked about at once when its client sent R, else when it has been undecided for a second. Its primary key is
//! read from the log. Called by the Pump's machine, which hands in completions and calls [`Pump::advance_verdicts`] last.
//!
//! TiKV is asked by CheckTxnStatus with a current_ts by which no lock has expired: a *look*. It changes nothing there and
//! says what the versions of the key (MvccGetByKey) say, but reads only those that are newer than start_ts; and it says the TTL of
//! a lock. MvccGetByKey returns all versions that GC has left, hundred thousands for a hot row, and hot rows are where clients
//! lose write conflicts (each sends R) and where a TiDB that dies leaves many prewrites of one key. It is asked only where TiKV
//! refuses a look.

use super::effect::Level;
use super::machine::Pump;
use super::outbox::{Timer, Waiting};
use super::verdict::{self, ABSENT_AFTER_MS, Context, Evidence, Step, Verdict};
use crate::binlog::{item, peek};
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, OpId, StartTs, WriteId};
use crate::index::ledger::Standing;
use crate::proto::kvrpcpb::{CheckTxnStatusResponse, MvccGetByKeyResponse};
use crate::sorter::Place;
use crate::time::{MonoTime, Tso};
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Resolver {
    /// Prewrites that are being asked about: at most [`MAX_CASES`], the oldest first.
    cases: BTreeMap<StartTs, Case>,
    /// The cases that nothing is in flight for, by when to ask.
    due: BTreeSet<(MonoTime, StartTs)>,
    /// The first place of the waiting queue that was not looked at.
    cursor: Place,
    /// When there is something to do at the earliest.
    wake: Option<MonoTime>,
    /// Questions to TiKV and PD that are not answered.
    in_flight: usize,
    /// Reads of prewrites in flight, with their bytes.
    reads: BTreeMap<StartTs, u64>,
    /// The next prewrite does not fit into the bytes of reads.
    reads_full: bool,
    key_bytes: usize,
    outage: Option<Outage>,
    /// TiKV refused a look: until then versions are asked for instead (before 3.0 it does not know CheckTxnStatus).
    no_looks_until: MonoTime,
    /// What the timer is set to.
    armed: Option<MonoTime>,
    /// The last safe point of PD that was seen.
    pub(super) floor: Tso,
    pub(super) counts: Counts,
    told: Told,
}

#[derive(Debug)]
pub(super) struct Case {
    /// First sight of P by this process (rules 1: ten minutes count from here).
    pub(super) since: MonoTime,
    phase: Phase,
    /// Of the next wait.
    pause_ms: u64,
    key: Option<Bytes>,
    /// Its client sent R.
    hinted: bool,
    /// A question that leaves a rollback record went out.
    barred: bool,
    /// An operator has to decide.
    pub(super) stuck: Option<String>,
    /// Why nothing is known.
    pub(super) trouble: Option<String>,
    seen: Option<Evidence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In `due`.
    Idle(MonoTime),
    Reading,
    Versions(OpId),
    /// The status, by a question that changes nothing.
    Look(OpId),
    /// A fresh timestamp for the question about the lock that should have expired at `expires_ms`.
    ClockForLock {
        op: OpId,
        expires_ms: u64,
    },
    SafePointForBar(OpId),
    ClockForBar(OpId),
    Status(OpId),
    SafePointForProof(OpId),
}

/// TiKV or PD do not answer.
#[derive(Debug)]
struct Outage {
    next: MonoTime,
    pause_ms: u64,
    text: String,
}

/// For status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Questions that change nothing in TiKV.
    pub mvcc_queries: u64,
    /// KvCheckTxnStatus calls that may (metric `binlog_pump_storage_query_tikv_count`).
    pub status_queries: u64,
    pub failed_queries: u64,
}

/// What was told in the log: verdicts are summed up.
#[derive(Debug, Default)]
struct Told {
    commits: u64,
    rollbacks: u64,
    next: MonoTime,
    /// The outage at hand was told.
    outage: bool,
    /// No new one is told before.
    quiet_until: MonoTime,
}

impl Resolver {
    /// A prewrite was accepted.
    pub fn prewrite(&mut self, now: MonoTime) {
        self.wake_at(now.plus_millis(ASK_AFTER_MS));
    }

    /// Its client sent R: asked about at once.
    pub fn hint(&mut self, start_ts: StartTs, now: MonoTime) {
        if self.cases.contains_key(&start_ts) {
            if let Some(case) = self.cases.get_mut(&start_ts)
                && let Phase::Idle(_) = case.phase
            {
                case.pause_ms = 0;
                self.idle(start_ts, now);
            }
        } else if self.cases.len() < MAX_CASES {
            self.watch(start_ts, now, now);
        }
        self.wake_at(now);
    }

    /// The prewrite is decided.
    pub fn decided(&mut self, start_ts: StartTs) {
        if self.cases.is_empty() {
            return;
        }
        let Some(case) = self.cases.remove(&start_ts) else { return };
        self.key_bytes -= case.key.map_or(0, |key| key.len());
        if let Phase::Idle(at) = case.phase {
            self.due.remove(&(at, start_ts));
        }
    }

    #[must_use]
    pub(super) fn case(&self, start_ts: StartTs) -> Option<&Case> {
        self.cases.get(&start_ts)
    }

    pub(super) fn stuck(&self) -> impl Iterator<Item = (StartTs, &Case)> {
        self.cases.iter().filter(|(_, case)| case.stuck.is_some()).map(|(start_ts, case)| (*start_ts, case))
    }

    pub(super) fn outage(&self) -> Option<&str> {
        self.outage.as_ref().map(|outage| outage.text.as_str())
    }

    fn watch(&mut self, start_ts: StartTs, since: MonoTime, due: MonoTime) {
        self.cases.entry(start_ts).or_insert_with(|| {
            self.due.insert((due, start_ts));
            let phase = Phase::Idle(due);
            let (hinted, barred) = (false, false);
            Case { since, phase, pause_ms: 0, key: None, hinted, barred, stuck: None, trouble: None, seen: None }
        });
    }

    fn idle(&mut self, start_ts: StartTs, at: MonoTime) {
        let Some(case) = self.cases.get_mut(&start_ts) else { return };
        if let Phase::Idle(before) = case.phase {
            self.due.remove(&(before, start_ts));
        }
        case.phase = Phase::Idle(at);
        self.due.insert((at, start_ts));
        if self.key_bytes > MAX_KEY_BYTES {
            self.key_bytes -= case.key.take().map_or(0, |key| key.len());
        }
        self.wake_at(at);
    }

    fn wake_at(&mut self, at: MonoTime) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Takes the next case whose time has come, if a question may go out.
    fn next_due(&mut self, now: MonoTime) -> Option<StartTs> {
        let allowed = match &self.outage {
            None => MAX_IN_FLIGHT,
            Some(outage) => usize::from(outage.next <= now),
        };
        let (at, start_ts) = *self.due.first()?;
        if at > now || self.in_flight + self.reads.len() >= allowed || self.reads_full {
            return None;
        }
        self.due.pop_first();
        Some(start_ts)
    }

    fn answered(&mut self, now: MonoTime) {
        self.in_flight -= 1;
        self.wake_at(now);
    }

    pub fn check(&self) {
        let mut idle = self.cases.iter().filter_map(|(start_ts, case)| match case.phase {
            Phase::Idle(at) => Some((at, *start_ts)),
            _ => None,
        });
        assert!(idle.clone().count() == self.due.len(), "only cases without a question are due");
        assert!(idle.all(|case| self.due.contains(&case)), "cases without a question are due");
        assert!(self.cases.len() <= MAX_CASES, "cases are limited");
        assert!(self.in_flight <= MAX_IN_FLIGHT, "questions are limited");
        let keys: usize = self.cases.values().filter_map(|case| case.key.as_ref()).map(Bytes::len).sum();
        assert_eq!(keys, self.key_bytes, "bytes of keys are counted");
    }
}

impl Case {
    /// For status: what the prewrite waits for.
    #[must_use]
    pub(super) fn reason(&self) -> String {
        match (&self.stuck, &self.trouble, self.seen) {
            (Some(why), _, _) => why.clone(),
            (None, Some(trouble), _) => trouble.clone(),
            (None, None, Some(Evidence::Locked { ttl_ms, .. })) => {
                format!("its transaction is running: its primary key is locked for {ttl_ms} ms from start_ts on")
            }
            (None, None, Some(Evidence::Absent | Evidence::AbsentNowBarred)) => {
                "TiKV has no trace of its transaction yet; that is believed 10 minutes after the prewrite".to_owned()
            }
            (None, None, _) => "TiKV is being asked".to_owned(),
        }
    }

    /// Whether TiKV cannot be counted on to decide it.
    #[must_use]
    pub(super) const fn may_be_resolved(&self) -> bool {
        self.stuck.is_some() || self.trouble.is_some()
    }
}

impl Pump {
    /// Watches prewrites that have waited long enough, and asks about those whose time has come.
    pub(super) fn advance_verdicts(&mut self) {
        if self.resolver.wake.is_none() || !self.may_store_own() {
            return;
        }
        if self.resolver.wake.is_some_and(|wake| wake <= self.now) {
            self.ask_due();
        }
        if self.resolver.armed != self.resolver.wake {
            self.resolver.armed = self.resolver.wake;
            match self.resolver.wake {
                Some(at) => self.timers.set(Timer::Verdict, at),
                None => self.timers.cancel(Timer::Verdict),
            }
        }
    }

    pub(super) const fn on_verdict_timer(&mut self) {
        self.resolver.armed = None;
    }

    fn ask_due(&mut self) {
        self.resolver.wake = None;
        let next_prewrite = self.watch_old();
        while let Some(start_ts) = self.resolver.next_due(self.now) {
            self.ask(start_ts);
        }
        self.tell_verdicts();
        // What waits for an answer is woken by it.
        let room = !self.resolver.reads_full && self.resolver.in_flight + self.resolver.reads.len() < MAX_IN_FLIGHT;
        let due = self.resolver.due.first().map(|(at, _)| *at).filter(|_| room);
        let due = due.map(|at| self.resolver.outage.as_ref().map_or(at, |outage| at.max(outage.next)));
        let due = due.filter(|_| self.resolver.outage.is_none() || self.resolver.in_flight == 0);
        self.resolver.wake = None;
        for at in [next_prewrite, due].into_iter().flatten() {
            self.resolver.wake_at(at);
        }
    }

    /// Takes over the prewrites that have waited long enough; when the next one will have.
    fn watch_old(&mut self) -> Option<MonoTime> {
        for _ in 0..WATCH_STEP {
            let (place, start_ts, since) = self.sorter.prewrite_from(self.resolver.cursor)?;
            self.resolver.cursor = place;
            let due = since.plus_millis(ASK_AFTER_MS);
            if due > self.now {
                return Some(due);
            }
            if self.resolver.cases.len() >= MAX_CASES {
                return Some(self.now.plus_millis(ASK_AFTER_MS));
            }
            self.resolver.watch(start_ts, since, due);
            self.resolver.cursor = place.next();
        }
        // A long queue (a start after a long time) is taken over in steps.
        Some(self.now)
    }

    fn ask(&mut self, start_ts: StartTs) {
        let Some(case) = self.resolver.cases.get_mut(&start_ts) else { return };
        match self.ledger.standing(start_ts) {
            Standing::Gone => self.resolver.decided(start_ts),
            Standing::Pending => self.resolver.idle(start_ts, self.now.plus_millis(PENDING_MS)),
            Standing::Undecided { span, .. } => {
                if let Some(key) = case.key.clone() {
                    self.ask_tikv(start_ts, key);
                    return;
                }
                let bytes = u64::from(span.len);
                let busy: u64 = self.resolver.reads.values().sum();
                if busy > 0 && busy.saturating_add(bytes) > MAX_READ_BYTES {
                    self.resolver.reads_full = true;
                    self.resolver.idle(start_ts, self.now);
                    return;
                }
                case.phase = Phase::Reading;
                self.resolver.reads.insert(start_ts, bytes);
                self.log.read(span.ptr, span.len, READ_TOKEN | start_ts.raw(), &mut self.out.log_ops());
            }
        }
    }

    /// The prewrite was read, for its key.
    pub(super) fn on_prewrite_read(&mut self, token: u64, result: Result<Record, Fault>) {
        let start_ts = StartTs::new(token & !READ_TOKEN);
        self.resolver.reads.remove(&start_ts);
        self.resolver.reads_full = false;
        self.resolver.wake_at(self.now);
        if self.resolver.cases.get(&start_ts).is_none_or(|case| case.phase != Phase::Reading) {
            return;
        }
        match result {
            Ok(record) => match peek::prewrite_key(&record.payload) {
                Some(key) => {
                    // Copied: a part of a large payload would hold all of it.
                    let key = Bytes::copy_from_slice(key);
                    if let Some(case) = self.resolver.cases.get_mut(&start_ts) {
                        self.resolver.key_bytes += key.len();
                        case.key = Some(key.clone());
                    }
                    self.ask_tikv(start_ts, key);
                }
                None => self.give_up(start_ts, "it names no primary key that TiKV could be asked about".to_owned()),
            },
            Err(fault) => {
                let text = format!("its prewrite cannot be read: {fault}");
                let again = self.resolver.case(start_ts).is_some_and(|case| case.pause_ms < PATIENCE_MS);
                if again { self.trouble(start_ts, text) } else { self.give_up(start_ts, text) }
            }
        }
    }

    fn ask_tikv(&mut self, start_ts: StartTs, key: Bytes) {
        self.resolver.counts.mvcc_queries += 1;
        let phase = if self.now >= self.resolver.no_looks_until {
            // One millisecond on: only a TTL of 0 has passed. By 0 not even that, and such a lock would look like none, because its
            // TTL is all that TiKV says of it before 5.0. Never ahead of PD: TiKV takes it for a timestamp that was given out.
            let next = Tso::compose(start_ts.tso().physical_ms().saturating_add(1), 0);
            let at = if self.pd_now().is_some_and(|now| now > next) { next } else { Tso::ZERO };
            Phase::Look(self.out.txn_status(start_ts, key, at, false))
        } else {
            Phase::Versions(self.out.mvcc(start_ts, key))
        };
        self.asked(start_ts, phase);
    }

    pub(super) fn on_mvcc(&mut self, op: OpId, result: Result<MvccGetByKeyResponse, IoFault>) {
        let Some(Waiting::Versions(start_ts)) = self.out.complete(op, |why| matches!(why, Waiting::Versions(_))) else {
            return;
        };
        self.resolver.answered(self.now);
        if self.phase_is(start_ts, Phase::Versions(op)) {
            match self.usable(start_ts, result) {
                Some(reply) => self.weigh(start_ts, verdict::of_mvcc(start_ts, &reply), false),
                None => self.retry_after_failure(start_ts),
            }
        }
    }

    pub(super) fn on_txn_status(&mut self, op: OpId, result: Result<CheckTxnStatusResponse, IoFault>) {
        let Some(Waiting::Fate(start_ts)) = self.out.complete(op, |why| matches!(why, Waiting::Fate(_))) else {
            return;
        };
        self.resolver.answered(self.now);
        let look = self.phase_is(start_ts, Phase::Look(op));
        if !look && !self.phase_is(start_ts, Phase::Status(op)) {
            return;
        }
        let answer = result.map(|reply| verdict::of_status(start_ts, &reply));
        if look && matches!(answer, Err(IoFault::Other(_)) | Ok(Err(_))) {
            self.resolver.no_looks_until = self.now.plus_millis(NO_LOOKS_MS);
            return self.resolver.idle(start_ts, self.now);
        }
        match self.usable(start_ts, answer) {
            Some(evidence) => self.weigh(start_ts, evidence, !look),
            None => self.retry_after_failure(start_ts),
        }
    }

    /// What TiKV showed, and what to do about it. `of_lock`: the answer already was about a lock that should have expired.
    fn weigh(&mut self, start_ts: StartTs, evidence: Result<Evidence, String>, of_lock: bool) {
        let evidence = match evidence {
            Ok(evidence) => evidence,
            Err(text) => return self.trouble(start_ts, text),
        };
        let Standing::Undecided { hinted, .. } = self.ledger.standing(start_ts) else {
            return self.resolver.idle(start_ts, self.now.plus_millis(PENDING_MS));
        };
        let pd_now = self.pd_now();
        let Some(case) = self.resolver.cases.get_mut(&start_ts) else { return };
        if case.trouble.take().is_some() {
            // It was not this transaction that needed time.
            case.pause_ms = 0;
        }
        case.hinted = hinted;
        case.seen = Some(evidence);
        let old =
            self.now.millis_since(case.since) >= ABSENT_AFTER_MS && pd_now.is_some_and(|now| is_old(start_ts, now));
        match verdict::next(evidence, Context { hinted, old, barred_by_us: case.barred }) {
            Step::Decide(verdict) => self.decide(start_ts, verdict, None),
            Step::Wait => {
                case.stuck = None;
                self.later(start_ts, MAX_PAUSE_MS);
            }
            Step::AwaitLock { ttl_ms } => {
                case.stuck = None;
                let expires_ms = start_ts.tso().physical_ms().saturating_add(ttl_ms);
                let left = pd_now.map_or(0, |now| expires_ms.saturating_add(1).saturating_sub(now.physical_ms()));
                if left > 0 {
                    self.later(start_ts, left.min(MAX_PAUSE_MS));
                } else if of_lock {
                    self.later(start_ts, MAX_PAUSE_MS);
                } else {
                    let op = self.out.tso(Waiting::TsoForVerdict(start_ts));
                    self.asked(start_ts, Phase::ClockForLock { op, expires_ms });
                }
            }
            Step::ProveAbsence if canary::is(Canary::SafepointReadBeforeAnswer) => {
                self.safe_point_says(start_ts, self.resolver.floor);
            }
            Step::ProveAbsence => {
                let op = self.out.gc_safe_point(start_ts);
                self.asked(start_ts, Phase::SafePointForProof(op));
            }
            Step::Bar => {
                let op = self.out.gc_safe_point(start_ts);
                self.asked(start_ts, Phase::SafePointForBar(op));
            }
            Step::Fault => {
                let what = "its lock uses async commit: TiDB must not use it while binlog is on, its commit timestamp may lie \
                            below what was served already";
                self.give_up(start_ts, what.to_owned());
            }
        }
    }

    pub(super) fn on_tso_for_verdict(&mut self, start_ts: StartTs, op: OpId, result: Result<Tso, IoFault>) {
        self.resolver.answered(self.now);
        let Some(phase) = self.resolver.case(start_ts).map(|case| case.phase) else { return };
        let bar = match phase {
            Phase::ClockForLock { op: own, .. } if own == op => false,
            Phase::ClockForBar(own) if own == op => true,
            _ => return,
        };
        let Some(now) = self.usable(start_ts, result) else { return self.retry_after_failure(start_ts) };
        let early = match phase {
            Phase::ClockForLock { expires_ms, .. } => now.physical_ms() <= expires_ms,
            _ => !is_old(start_ts, now),
        };
        match self.resolver.cases.get_mut(&start_ts) {
            Some(case) if !early && let Some(key) = case.key.clone() => {
                case.barred |= bar;
                let op = self.out.txn_status(start_ts, key, now, bar);
                self.resolver.counts.status_queries += 1;
                self.asked(start_ts, Phase::Status(op));
            }
            _ => self.later(start_ts, MAX_PAUSE_MS),
        }
    }

    pub(super) fn on_safe_point(&mut self, op: OpId, result: Result<Tso, IoFault>) {
        let Some(Waiting::SafePoint(start_ts)) = self.out.complete(op, |why| matches!(why, Waiting::SafePoint(_)))
        else {
            return;
        };
        self.resolver.answered(self.now);
        let proof = self.phase_is(start_ts, Phase::SafePointForProof(op));
        if !proof && !self.phase_is(start_ts, Phase::SafePointForBar(op)) {
            return;
        }
        let Some(point) = self.usable(start_ts, result) else { return self.retry_after_failure(start_ts) };
        self.resolver.floor = self.resolver.floor.max(point);
        if proof || start_ts.raw() <= point.raw() {
            self.safe_point_says(start_ts, point);
        } else {
            let op = self.out.tso(Waiting::TsoForVerdict(start_ts));
            self.asked(start_ts, Phase::ClockForBar(op));
        }
    }

    /// There is no trace of the transaction: that counts only above the safe point that was read behind the answer.
    fn safe_point_says(&mut self, start_ts: StartTs, point: Tso) {
        if start_ts.raw() > point.raw() {
            return self.decide(start_ts, Verdict::RolledBack, None);
        }
        let why = format!(
            "TiKV has no trace of its transaction, but GC has passed it (safe point {point}): a commit's record may have been \
             removed"
        );
        self.give_up(start_ts, why);
    }

    /// Rules 1: the verdict is a record of the log, and acts when it is durable.
    pub(super) fn decide(&mut self, start_ts: StartTs, verdict: Verdict, write: Option<WriteId>) {
        let Standing::Undecided { place, .. } = self.ledger.standing(start_ts) else {
            return self.resolver.idle(start_ts, self.now.plus_millis(PENDING_MS));
        };
        if !self.may_store_own() {
            return self.resolver.idle(start_ts, self.now.plus_millis(PENDING_MS));
        }
        self.resolver.decided(start_ts);
        if canary::is(Canary::VerdictNotLogged) {
            self.sorter.release(place);
            self.move_watermark();
            return;
        }
        let (kind, commit_ts) = match verdict {
            Verdict::Committed(commit_ts) => (RecordKind::VerdictCommit, Some(commit_ts)),
            Verdict::RolledBack => (RecordKind::VerdictRollback, None),
        };
        let payload = item::verdict(start_ts, commit_ts);
        let record = Record { kind, start_ts, commit_ts: commit_ts.unwrap_or(CommitTs::ZERO), payload };
        // Only a repeated P is refused.
        if let Err(fault) = self.append(record, false, write) {
            self.out.fault(fault);
        }
    }

    /// An operator has to decide; TiKV is still asked now and then, and a client's C is still welcome.
    fn give_up(&mut self, start_ts: StartTs, why: String) {
        let resolve = self.resolve_commands(start_ts).join(" or ");
        let Some(case) = self.resolver.cases.get_mut(&start_ts) else { return };
        if case.stuck.replace(why.clone()).is_none() {
            self.out.fault(Fault::Undecidable { start_ts, why, resolve });
        }
        self.resolver.idle(start_ts, self.now.plus_millis(STUCK_MS));
    }

    /// An answer that cannot be used, or none.
    fn trouble(&mut self, start_ts: StartTs, mut text: String) {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        self.resolver.counts.failed_queries += 1;
        if let Some(case) = self.resolver.cases.get_mut(&start_ts) {
            case.trouble = Some(text);
        }
        self.later(start_ts, MAX_TROUBLE_MS);
    }

    fn retry_after_failure(&mut self, start_ts: StartTs) {
        let text = self.resolver.outage().unwrap_or_default().to_owned();
        self.trouble(start_ts, text);
    }

    /// The answer of a port, or its failure as the outage that it is part of.
    fn usable<T>(&mut self, start_ts: StartTs, result: Result<T, IoFault>) -> Option<T> {
        let resolver = &mut self.resolver;
        match result {
            Ok(answer) => {
                if resolver.outage.take().is_some() && std::mem::take(&mut resolver.told.outage) {
                    self.out.notice(Level::Info, "TiKV and PD answer about prewrites again".to_owned());
                }
                Some(answer)
            }
            Err(error) => {
                let text = error.to_string();
                match &mut resolver.outage {
                    // The others that were in flight tell the same.
                    Some(outage) if self.now < outage.next => outage.text = text,
                    Some(outage) => {
                        outage.pause_ms = outage.pause_ms.saturating_mul(2).min(MAX_OUTAGE_MS);
                        outage.next = self.now.plus_millis(outage.pause_ms);
                        outage.text = text;
                    }
                    None => {
                        let next = self.now.plus_millis(FIRST_PAUSE_MS);
                        // One store that is away fails some questions while others are answered: not told every second.
                        if self.now >= resolver.told.quiet_until {
                            resolver.told.outage = true;
                            resolver.told.quiet_until = self.now.plus_millis(TELL_OUTAGE_MS);
                            let text = format!(
                                "what became of the transaction with start_ts {start_ts} cannot be asked ({text}): trying again; \
                                 until then the watermark stays below it"
                            );
                            self.out.notice(Level::Warn, text);
                        }
                        self.resolver.outage = Some(Outage { next, pause_ms: FIRST_PAUSE_MS, text });
                    }
                }
                None
            }
        }
    }

    /// A question is in flight.
    fn asked(&mut self, start_ts: StartTs, phase: Phase) {
        self.resolver.in_flight += 1;
        if let Some(case) = self.resolver.cases.get_mut(&start_ts) {
            case.phase = phase;
        }
    }

    /// Asks again after the case's pause, which doubles, but `at_most` later.
    fn later(&mut self, start_ts: StartTs, at_most: u64) {
        let Some(case) = self.resolver.cases.get_mut(&start_ts) else { return };
        // Its client is just taking the lock away.
        let first = if case.hinted && case.trouble.is_none() { FIRST_HINTED_PAUSE_MS } else { FIRST_PAUSE_MS };
        case.pause_ms = case.pause_ms.saturating_mul(2).clamp(first, MAX_TROUBLE_MS);
        let at = self.now.plus_millis(case.pause_ms.min(at_most));
        self.resolver.idle(start_ts, at);
    }

    fn phase_is(&self, start_ts: StartTs, phase: Phase) -> bool {
        self.resolver.case(start_ts).is_some_and(|case| case.phase == phase)
    }

    /// PD's clock by the last timestamp and what has passed since.
    pub(super) fn pd_now(&self) -> Option<Tso> {
        let (ts, since) = self.tso?;
        Some(Tso::compose(ts.physical_ms().saturating_add(self.now.millis_since(since)), 0))
    }

    fn tell_verdicts(&mut self) {
        let (commits, rollbacks) = (self.ledger.counters.verdict_commits, self.ledger.counters.verdict_rollbacks);
        let told = &mut self.resolver.told;
        let news = (commits - told.commits, rollbacks - told.rollbacks);
        if news == (0, 0) || self.now < told.next {
            return;
        }
        (told.commits, told.rollbacks) = (commits, rollbacks);
        told.next = self.now.plus_millis(TELL_VERDICTS_MS);
        let text = format!("verdicts about prewrites without C: {} committed, {} rolled back", news.0, news.1);
        self.out.notice(Level::Info, text);
    }
}

/// Whether the transaction's prewrite can no longer be on its way, by PD's clock.
const fn is_old(start_ts: StartTs, now: Tso) -> bool {
    now.physical_ms() >= start_ts.tso().physical_ms().saturating_add(ABSENT_AFTER_MS)
}

/// Marks the log's reads that are ours; timestamps are below it.
pub(super) const READ_TOKEN: u64 = 1 << 63;
/// A client sends C right after the commit: who has waited this long has probably lost its client (spec pump 2.5).
const ASK_AFTER_MS: u64 = 1000;
/// Until the records on their way to the index are there.
const PENDING_MS: u64 = 200;
/// First pause between two questions about one prewrite; it doubles.
const FIRST_PAUSE_MS: u64 = 1000;
/// The same when its client sent R: TiDB removes the locks of a transaction that failed while it sends R.
const FIRST_HINTED_PAUSE_MS: u64 = 20;
/// After a look that was refused.
const NO_LOOKS_MS: u64 = 60_000;
/// Longest pause while TiKV answers.
const MAX_PAUSE_MS: u64 = 10_000;
/// Longest pause while it does not.
const MAX_TROUBLE_MS: u64 = 30_000;
/// Longest pause between two questions of all while none is answered: the watermark stands still that long after the end.
const MAX_OUTAGE_MS: u64 = 3000;
/// A prewrite that still cannot be read when its pause is this long is for an operator.
const PATIENCE_MS: u64 = 8_000;
/// Between questions about what an operator has to decide.
const STUCK_MS: u64 = 60_000;
/// Questions in flight: enough for some ten thousand answers a second.
const MAX_IN_FLIGHT: usize = 64;
/// Prewrites that are watched at a time (some 200 bytes each); the others follow when these are decided.
const MAX_CASES: usize = 1 << 16;
/// Prewrites taken over at a time.
const WATCH_STEP: usize = 4096;
/// Bytes of prewrites read at a time; a larger one is read alone.
const MAX_READ_BYTES: u64 = 8 << 20;
/// Bytes of keys kept between two questions; beyond it they are read again.
const MAX_KEY_BYTES: usize = 16 << 20;
/// Of an error kept for status.
const MAX_TEXT: usize = 200;
/// Verdicts are summed up in the log, at most this often.
const TELL_VERDICTS_MS: u64 = 10_000;
/// A new outage is told again after this long.
const TELL_OUTAGE_MS: u64 = 60_000;
