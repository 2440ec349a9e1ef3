//! From merged order to the downstream, over one connection (rules 8, design 4.3): translating, batching, the DDL barrier,
//! pausing. What an answer of the sink means is in [`super::sinkflight`].
//!
//! Keeps true: transactions are sent in commit order and one operation is in flight; a DDL goes alone, after everything
//! before it is done; a transaction that is recorded is not sent; nothing is sent while something is paused.

use super::checkpoint::{Progress, Save};
use super::config::DrainerConfig;
use super::ddl::{JobWait, dropped};
use super::effect::Effect;
use super::input::ResolveAction;
use super::item::Kind;
use super::learn::Learning;
use super::merge::Merged;
use super::out::Out;
use super::pause::{Paused, Skipped, accepted, may_resolve};
use super::retry::Retry;
use super::sinkflight::{Flight, Session, What};
use super::source::PumpKey;
use super::translate::{DdlPlan, Transaction};
use super::translation::Translate;
use super::window::Window;
use crate::canary::{self, Canary};
use crate::fault::Fault;
use crate::ids::CommitTs;
use crate::pump::effect::Level;
use crate::sink::op::{Checkpoint, Ddl, SinkOp, SinkState, Statement};
use crate::time::MonoTime;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// The pipeline behind the merge. A rewind replaces it as a whole.
#[derive(Debug)]
pub(super) struct Applier<T> {
    pub(super) translator: T,
    pub(super) window: Window,
    /// Translated and not applied, in commit order; the first `flight.count()` are in flight.
    pub(super) staged: VecDeque<Staged>,
    /// Rows and payload bytes of what is staged behind the flight.
    ahead: (u64, u64),
    pub(super) flight: Option<Flight>,
    pub(super) session: Session,
    /// A save whose outcome is unknown.
    pub(super) doubt: Option<Save>,
    /// Timestamps that the downstream has recorded under our generation, for all that is known.
    pub(super) recorded: BTreeSet<CommitTs>,
    pub(super) progress: Progress,
    job: Option<JobWait>,
    learning: Learning,
    pub(super) paused: Option<Paused>,
    /// A batch failed as a whole: up to here each transaction goes alone, to find out which one it is.
    pub(super) alone_until: CommitTs,
    /// The last transaction whose COMMIT was lost from sight: until it is known to be applied, its session may commit it.
    pub(super) uncertain: CommitTs,
    pub(super) retry: Retry,
    /// Translation stopped by a Fault; what is staged is still applied.
    stuck: bool,
    /// The downstream does not let us work at all.
    pub(super) dead: bool,
    /// The final save of a clean stop was made, or is pointless.
    pub(super) settled: bool,
    /// What was observed requires a restart from the downstream's state; why.
    pub(super) rewind: Option<String>,
    /// Bytes that left the pipeline, to be given back to their sources.
    pub(super) freed: Vec<(PumpKey, u64)>,
    /// The last transaction applied that was no fake, and when.
    pub(super) last_applied: Option<(CommitTs, MonoTime)>,
    pub(super) counts: Counts,
}

/// Totals since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Counts {
    pub transactions: u64,
    pub inserted_rows: u64,
    pub updated_rows: u64,
    pub deleted_rows: u64,
    pub ddl: u64,
    /// Left out by filters or configuration.
    pub filtered: u64,
    /// Found recorded already.
    pub recorded: u64,
    /// Groups of rows left out because their table is gone, its creation was skipped, or it is internal to TiDB.
    pub dropped: u64,
}

/// One transaction on its way to the sink.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) commit_ts: CommitTs,
    pub(super) action: Action,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) enum Action {
    Rows(Vec<Statement>),
    Ddl(Box<Ddl>),
    /// An operator resolved it: only the timestamp is recorded. `drop_rows`: tables that the DDL would have made are dropped.
    Record {
        ddl: bool,
        drop_rows: bool,
    },
}

impl Staged {
    fn is_ddl(&self) -> bool {
        matches!(self.action, Action::Ddl(_) | Action::Record { ddl: true, .. })
    }
}

impl<T: Translate> Applier<T> {
    pub(super) fn new(
        now: MonoTime,
        translator: T,
        checkpoint: Checkpoint,
        state: SinkState,
        recorded: BTreeSet<CommitTs>,
    ) -> Self {
        Self {
            translator,
            window: Window::new(checkpoint.commit_ts),
            staged: VecDeque::new(),
            ahead: (0, 0),
            flight: None,
            session: Session::Open,
            doubt: None,
            recorded,
            progress: Progress::new(now, checkpoint, state),
            job: None,
            learning: Learning::new(),
            paused: None,
            alone_until: CommitTs::ZERO,
            uncertain: CommitTs::ZERO,
            retry: Retry::new("applying to the downstream"),
            stuck: false,
            dead: false,
            settled: false,
            rewind: None,
            freed: Vec::new(),
            last_applied: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn push(&mut self, merged: Merged) {
        self.window.push(merged);
    }

    /// Does what can be done now. `pressure`: the checkpoint should move out of turn.
    pub(super) fn advance(&mut self, now: MonoTime, config: &DrainerConfig, pressure: bool, out: &mut Out) {
        self.stage(now, config, out);
        if !self.may_send(now) {
            return;
        }
        if self.session == Session::Lost {
            self.send(SinkOp::Open, What::Open, out);
            return;
        }
        let idle = self.window.first().is_none();
        if self.progress.is_due(now, self.window.applied(), idle, pressure) {
            self.save(false, false, out);
        } else if self.paused.is_none() && !self.staged.is_empty() {
            if self.progress.durable().consistent {
                // "Consistent" promises that nothing above the checkpoint was applied.
                self.save(false, false, out);
            } else {
                self.send_next(config, out);
            }
        }
    }

    /// The same while stopping: what is in flight is finished, then the checkpoint is saved as consistent.
    pub(super) fn advance_stop(&mut self, now: MonoTime, out: &mut Out) {
        self.settled |= self.dead || self.rewind.is_some();
        if self.settled || !self.may_send(now) {
            return;
        }
        if self.session == Session::Lost {
            self.send(SinkOp::Open, What::Open, out);
            return;
        }
        let applied = self.window.applied();
        let consistent = self.recorded.last().is_none_or(|last| *last <= applied) && self.uncertain <= applied;
        self.save(consistent, true, out);
    }

    fn may_send(&self, now: MonoTime) -> bool {
        self.flight.is_none() && !self.dead && self.rewind.is_none() && self.retry.may_try(now)
    }

    /// Translates in commit order, a batch ahead of what is in flight.
    fn stage(&mut self, now: MonoTime, config: &DrainerConfig, out: &mut Out) {
        while !self.stuck && self.may_stage(config) {
            let Some((commit_ts, kind)) = self.window.peek() else { return };
            let filtered = match kind {
                Kind::Ddl { job_id, query, schema_state } => {
                    let (job_id, query, schema_state) = (*job_id, query.clone(), *schema_state);
                    // The barrier: everything before is applied.
                    if !self.window.peeked_is_first() {
                        return;
                    }
                    let json = self.job(now, commit_ts, job_id, out);
                    if json.is_none() && !self.may_go_without_job(config, commit_ts) {
                        return;
                    }
                    self.window.take();
                    let Some(json) = json else {
                        self.pass_without_job(commit_ts, job_id, out);
                        continue;
                    };
                    self.stage_ddl(now, config, commit_ts, &json, &query, schema_state, out);
                    continue;
                }
                Kind::Dml { value } => {
                    let value = value.clone();
                    if !self.stage_rows(now, config, commit_ts, &value, out) {
                        return;
                    }
                    continue;
                }
                Kind::Fake => false,
                Kind::SetVal => true,
            };
            self.window.take();
            self.counts.filtered += u64::from(filtered);
            self.done(commit_ts);
        }
    }

    fn may_stage(&self, config: &DrainerConfig) -> bool {
        let behind = self.staged.len() - self.in_flight().min(self.staged.len());
        let (rows, bytes) = self.ahead;
        let room = behind < BATCH_TRANSACTIONS && rows < config.txn_batch.max(1) && bytes < BATCH_BYTES;
        // Behind a DDL nothing is translated: it may yet be skipped.
        room && !self.staged.back().is_some_and(Staged::is_ddl)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flight.as_ref().map_or(0, Flight::count)
    }

    /// The transaction that `peek` shows. False: it waits for the DDL history, and everything behind it too.
    fn stage_rows(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        commit_ts: CommitTs,
        value: &[u8],
        out: &mut Out,
    ) -> bool {
        let passes = self.recorded.contains(&commit_ts) || config.ignore_txn_commit_ts.contains(&commit_ts);
        if passes {
            self.window.take();
            self.pass_rows(now, commit_ts, out);
            return true;
        }
        let awaited = self.translator.version_of(value).filter(|version| self.learning.expects(*version));
        let unreached = self.translator.ahead_of_history(value);
        let ahead = unreached.or(awaited);
        if ahead.is_some_and(|version| !self.learning.may_translate(now, version, out)) {
            return false;
        }
        let safe = config.safe_mode || commit_ts <= self.progress.state().safe_until;
        let translated = self.translator.transaction(commit_ts, value, safe);
        // Columns can be unknown also where the history reaches that version: a DDL on another table may have finished first.
        let misses = match &translated {
            Ok(transaction) if transaction.unknown_columns => ahead.or_else(|| self.translator.version_of(value)),
            Ok(_) => None,
            Err(_) => ahead,
        };
        if let Some(version) = misses
            && self.learning.look_again(now, version, unreached.is_none(), commit_ts, out)
        {
            return false;
        }
        self.window.take();
        match translated {
            Ok(transaction) => self.stage_transaction(commit_ts, transaction, value.len() as u64),
            Err(fault) => self.stick(fault, out),
        }
        true
    }

    /// Recorded already, or left out by the configuration.
    fn pass_rows(&mut self, now: MonoTime, commit_ts: CommitTs, out: &mut Out) {
        if self.recorded.contains(&commit_ts) {
            self.counts.recorded += 1;
            self.progress.passed();
            self.last_applied = Some((commit_ts, now));
        } else {
            out.notice(Level::Info, format!("the transaction with commit_ts {commit_ts} is left out as configured"));
            self.counts.filtered += 1;
        }
        self.done(commit_ts);
    }

    fn stage_transaction(&mut self, commit_ts: CommitTs, transaction: Transaction, bytes: u64) {
        self.counts.dropped += transaction.dropped;
        if transaction.statements.is_empty() {
            self.counts.filtered += 1;
            self.done(commit_ts);
            return;
        }
        let (inserted, updated, deleted) = transaction.rows;
        self.counts.inserted_rows += inserted;
        self.counts.updated_rows += updated;
        self.counts.deleted_rows += deleted;
        let rows = inserted.saturating_add(updated).saturating_add(deleted);
        let rows = rows.max(transaction.statements.len() as u64);
        self.stage_one(Staged { commit_ts, action: Action::Rows(transaction.statements), rows, bytes });
    }

    /// An answer to `LoadHistory`.
    pub(super) fn history_done(
        &mut self,
        now: MonoTime,
        op: crate::ids::OpId,
        result: Result<Vec<Bytes>, String>,
        out: &mut Out,
    ) {
        if let Some(jobs) = self.learning.done(now, op, result, out)
            && let Err(fault) = self.translator.learn_history(&jobs)
        {
            self.stick(fault, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one binlog and where it goes")]
    fn stage_ddl(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        commit_ts: CommitTs,
        json: &[u8],
        query: &[u8],
        schema_state: i32,
        out: &mut Out,
    ) {
        self.job = None;
        match dropped(commit_ts, json, schema_state) {
            Ok(None) => {}
            Ok(Some(why)) => {
                out.notice(Level::Info, format!("the DDL with commit_ts {commit_ts} is dropped: {why}"));
                self.counts.filtered += 1;
                self.done(commit_ts);
                return;
            }
            Err(fault) => return self.stick(fault, out),
        }
        match self.translator.ddl(commit_ts, json, query, schema_state) {
            Err(fault) => self.stick(fault, out),
            Ok(_) if self.recorded.contains(&commit_ts) => {
                self.counts.recorded += 1;
                self.last_applied = Some((commit_ts, now));
                self.ddl_applied(commit_ts);
            }
            Ok(DdlPlan::Skip(why)) => {
                out.notice(Level::Info, format!("the DDL with commit_ts {commit_ts} is tracked and not sent: {why}"));
                self.counts.filtered += 1;
                self.ddl_applied(commit_ts);
            }
            Ok(DdlPlan::Run(_)) if config.ignore_txn_commit_ts.contains(&commit_ts) => {
                let text = format!("the DDL with commit_ts {commit_ts} is tracked and not sent, as configured");
                out.notice(Level::Info, text);
                self.counts.filtered += 1;
                self.ddl_applied(commit_ts);
            }
            Ok(DdlPlan::Run(ddl)) => {
                // Operators search for this beginning to learn which timestamp they may leave out (spec drainer 3.4).
                let text = format!(
                    "add ddl item to syncer, you can add this commit ts to `ignore-txn-commit-ts` to skip this ddl if \
                     needed [sql={:?}] [\"commit ts\"={commit_ts}] [shouldSkip=false]",
                    ddl.sql
                );
                out.notice(Level::Info, text);
                let bytes = query.len() as u64;
                self.stage_one(Staged { commit_ts, action: Action::Ddl(ddl), rows: 1, bytes });
            }
        }
    }

    fn stage_one(&mut self, staged: Staged) {
        self.ahead.0 = self.ahead.0.saturating_add(staged.rows);
        self.ahead.1 = self.ahead.1.saturating_add(staged.bytes);
        self.staged.push_back(staged);
    }

    /// Counts again what is staged behind the flight.
    pub(super) fn recount(&mut self) {
        let behind = self.staged.iter().skip(self.in_flight());
        self.ahead =
            behind.fold((0, 0), |(rows, bytes), s| (rows.saturating_add(s.rows), bytes.saturating_add(s.bytes)));
    }

    fn job(&mut self, now: MonoTime, commit_ts: CommitTs, job_id: i64, out: &mut Out) -> Option<Bytes> {
        let wait = match &mut self.job {
            Some(wait) if wait.commit_ts == commit_ts => wait,
            other => other.insert(JobWait::new(now, commit_ts, job_id)),
        };
        wait.advance(now, out)
    }

    pub(super) fn job_done(
        &mut self,
        now: MonoTime,
        op: crate::ids::OpId,
        result: Result<Option<Bytes>, String>,
        out: &mut Out,
    ) {
        if let Some(wait) = &mut self.job {
            wait.done(now, op, result, out);
        }
    }

    /// The only way past a job that the history will never have.
    fn may_go_without_job(&self, config: &DrainerConfig, commit_ts: CommitTs) -> bool {
        config.ignore_txn_commit_ts.contains(&commit_ts) && self.job.as_ref().is_some_and(JobWait::is_absent)
    }

    fn pass_without_job(&mut self, commit_ts: CommitTs, job_id: i64, out: &mut Out) {
        self.job = None;
        let text = format!(
            "the DDL with commit_ts {commit_ts} is left out as configured; its job {job_id} is not in the history, so that \
             what it changed is not known here either"
        );
        out.notice(Level::Warn, text);
        self.counts.filtered += 1;
        self.done(commit_ts);
    }

    /// Nothing behind this point can be translated.
    fn stick(&mut self, fault: Fault, out: &mut Out) {
        self.stuck = true;
        out.fault(fault);
    }

    /// Sends the first staged transactions, or the first alone.
    fn send_next(&mut self, config: &DrainerConfig, out: &mut Out) {
        let generation = self.progress.state().generation;
        let Some(first) = self.staged.front() else { return };
        let (request, what) = match &first.action {
            Action::Ddl(ddl) => (SinkOp::Ddl { generation, ddl: (**ddl).clone() }, What::Ddl),
            Action::Record { .. } => {
                let records = vec![first.commit_ts];
                (SinkOp::Apply { generation, records, statements: Vec::new() }, What::Apply { count: 1 })
            }
            Action::Rows(_) => {
                let (mut records, mut statements) = (Vec::new(), Vec::new());
                let (mut rows, mut bytes) = (0_u64, 0_u64);
                for staged in &self.staged {
                    let Action::Rows(own) = &staged.action else { break };
                    records.push(staged.commit_ts);
                    statements.extend(own.iter().cloned());
                    rows = rows.saturating_add(staged.rows);
                    bytes = bytes.saturating_add(staged.bytes);
                    let full = rows >= config.txn_batch || records.len() >= BATCH_TRANSACTIONS || bytes >= BATCH_BYTES;
                    if full || staged.commit_ts <= self.alone_until {
                        break;
                    }
                }
                let count = records.len();
                (SinkOp::Apply { generation, records, statements }, What::Apply { count })
            }
        };
        self.send(request, what, out);
        self.recount();
    }

    fn save(&mut self, consistent: bool, last: bool, out: &mut Out) {
        let staged = self.staged.back().filter(|_| canary::is(Canary::CheckpointAtDispatch));
        let applied = staged.map_or(self.window.applied(), |staged| staged.commit_ts);
        let save = self.progress.save(applied, &self.recorded, consistent);
        let Save { checkpoint, state, delete } = save.clone();
        self.send(SinkOp::Save { checkpoint, state, delete }, What::Save { save, last }, out);
    }

    fn send(&mut self, request: SinkOp, what: What, out: &mut Out) {
        assert!(self.flight.is_none(), "one operation per connection");
        let op = out.request(|op| Effect::Sink { op, request });
        self.flight = Some(Flight { op, what });
    }

    /// A staged transaction is in the downstream.
    pub(super) fn finish(&mut self, now: MonoTime, staged: Staged) {
        self.counts.transactions += 1;
        self.last_applied = Some((staged.commit_ts, now));
        match staged.action {
            Action::Rows(_) | Action::Record { ddl: false, .. } => {
                self.progress.passed();
                self.done(staged.commit_ts);
            }
            Action::Ddl(_) => {
                self.counts.ddl += 1;
                self.ddl_applied(staged.commit_ts);
            }
            Action::Record { ddl: true, drop_rows } => {
                if drop_rows {
                    self.translator.skip_last_ddl();
                }
                self.ddl_applied(staged.commit_ts);
            }
        }
    }

    fn ddl_applied(&mut self, commit_ts: CommitTs) {
        self.progress.ddl_applied(self.translator.schema_version(), self.translator.skipped_tables());
        self.done(commit_ts);
    }

    fn done(&mut self, commit_ts: CommitTs) {
        let freed = &mut self.freed;
        self.window.done(commit_ts, |from, bytes| freed.push((from, bytes)));
    }

    /// The first staged transaction is refused, alone.
    pub(super) fn pause(&mut self, now: MonoTime, statement: &str, error: &str, out: &mut Out) {
        let Some(first) = self.staged.front() else { return };
        let (commit_ts, is_ddl) = (first.commit_ts, first.is_ddl());
        // The error text of a server may hold row values: it is for the status page, not for the log.
        let kind = if is_ddl { "DDL" } else { "transaction" };
        let text = format!(
            "the downstream refuses the {kind} with commit_ts {commit_ts}: replication is paused before it. GET /status \
             shows statement and error; PUT /resolve/{commit_ts}/skip, /retry or /mark-applied goes on"
        );
        out.notice(Level::Warn, text);
        self.paused = Some(Paused::new(commit_ts, is_ddl, statement, error, now));
    }

    /// `PUT /resolve`.
    pub(super) fn resolve(
        &mut self,
        commit_ts: CommitTs,
        action: ResolveAction,
        out: &mut Out,
    ) -> Result<String, String> {
        may_resolve(self.paused.as_ref(), commit_ts)?;
        let Some(first) = self.staged.front_mut().filter(|s| s.commit_ts == commit_ts) else {
            return Err(format!("commit_ts {commit_ts} is not the next transaction any more"));
        };
        let ddl = first.is_ddl();
        let consequence = match (ddl, self.translator.last_ddl_creates()) {
            (false, _) => Skipped::Rows,
            (true, true) => Skipped::Create,
            (true, false) => Skipped::Ddl,
        };
        match action {
            ResolveAction::Retry => {}
            ResolveAction::Skip => first.action = Action::Record { ddl, drop_rows: ddl },
            ResolveAction::MarkApplied => first.action = Action::Record { ddl, drop_rows: false },
        }
        self.paused = None;
        let text = accepted(commit_ts, action, consequence);
        out.notice(Level::Warn, format!("an operator decided: {text}"));
        Ok(text)
    }

    /// Why nothing moves behind the merge, if so.
    pub(super) fn why_waiting(&self) -> Option<(String, Option<MonoTime>)> {
        if let Some(paused) = &self.paused {
            return Some((
                format!("paused at commit_ts {}: the downstream refuses it", paused.commit_ts),
                Some(paused.since),
            ));
        }
        if self.dead || self.stuck {
            return Some(("stopped by a fault".to_owned(), None));
        }
        if let Some((error, since)) = self.retry.trouble() {
            return Some((format!("the downstream fails: {error}"), Some(since)));
        }
        if let Some((error, since)) = self.learning.trouble() {
            return Some((format!("the DDL history cannot be read: {error}"), Some(since)));
        }
        self.job.as_ref().map(|job| (job.why_waiting(), Some(job.since())))
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck || self.dead
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let job = [self.job.as_ref().and_then(JobWait::deadline), self.learning.deadline()].into_iter().flatten().min();
        if self.flight.is_some() || self.dead || self.rewind.is_some() {
            return job;
        }
        let save = self.progress.deadline(self.window.applied());
        let work = self.session == Session::Lost || (self.paused.is_none() && !self.staged.is_empty());
        let send = work.then_some(MonoTime::ZERO);
        let sink = [save, send].into_iter().flatten().min().map(|at| at.max(self.retry.not_before()));
        [job, sink].into_iter().flatten().min()
    }

    pub(super) fn check(&self) {
        self.window.check();
        assert!(self.progress.durable().commit_ts <= self.window.applied(), "checkpoint ahead of what is applied");
        assert!(self.in_flight() <= self.staged.len(), "more in flight than staged");
        let order = self.staged.iter().zip(self.staged.iter().skip(1));
        assert!(order.into_iter().all(|(a, b)| a.commit_ts < b.commit_ts), "staged out of order");
        assert!(
            self.staged.iter().take(self.staged.len().saturating_sub(1)).all(|s| !s.is_ddl()),
            "staged behind a DDL"
        );
        assert!(
            self.paused.is_none()
                || self.staged.front().map(|s| s.commit_ts) == self.paused.as_ref().map(|p| p.commit_ts)
        );
        assert!(self.staged.front().is_none_or(|s| Some(s.commit_ts) == self.window.first()), "applied out of order");
    }
}

/// Transactions of one batch, however small: their timestamps are one INSERT and, later, one DELETE.
const BATCH_TRANSACTIONS: usize = 1_024;
/// Payload bytes after which a batch takes no further transaction: bounds statements in memory (two batches at a time) and
/// stays well below a default `max_allowed_packet` per statement.
const BATCH_BYTES: u64 = 8 << 20;
