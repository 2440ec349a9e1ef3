//! Start and stop of a Drainer (rules 7, 8; spec drainer 1.3, 7.4).
//!
//! Start: open the sink, decide where to begin, persist that decision before anything is applied, load the DDL history,
//! register as online, and only then look for Pumps. A rewind runs the same steps again. A read that fails is repeated; it
//! never counts as "there is no checkpoint".

use super::config::DrainerConfig;
use super::effect::Effect;
use super::out::Out;
use super::retry::{Retry, clip};
use super::translation::Translate;
use crate::fault::Fault;
use crate::ids::{CommitTs, OpId};
use crate::pump::effect::Level;
use crate::sink::op::{Checkpoint, Opened, SinkError, SinkOp, SinkReply, SinkState};
use crate::sink::sql::Dialect;
use crate::time::{MonoTime, Tso};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A start in progress.
#[derive(Debug)]
pub(super) struct Starting<T> {
    step: Step<T>,
    op: Option<OpId>,
    retry: Retry,
    dialect: Dialect,
}

#[derive(Debug)]
enum Step<T> {
    Open,
    /// A fresh timestamp is needed to decide.
    Tso(Box<Opened>),
    Begin(Begin),
    History(Begin),
    Done(Box<Ready<T>>),
    /// A Fault that no retry helps against.
    Failed,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) checkpoint: Checkpoint,
    pub(super) state: SinkState,
    pub(super) recorded: BTreeSet<CommitTs>,
}

/// Everything that the pipeline begins with.
#[derive(Debug)]
pub(super) struct Ready<T> {
    pub(super) translator: T,
    pub(super) begin: Begin,
}

impl<T: Translate> Starting<T> {
    /// `not_before`: a rewind begins after the back-off of those before it.
    pub(super) fn new(not_before: MonoTime) -> Self {
        let retry = Retry::new("starting from the downstream's checkpoint").waiting_until(not_before);
        Self { step: Step::Open, op: None, retry, dialect: Dialect::default() }
    }

    /// Sends the next request, if none is in flight.
    pub(super) fn advance(&mut self, now: MonoTime, out: &mut Out) {
        if self.op.is_some() || !self.retry.may_try(now) {
            return;
        }
        self.op = match &self.step {
            Step::Open => Some(out.request(|op| Effect::Sink { op, request: SinkOp::Open })),
            Step::Tso(_) => Some(out.request(|op| Effect::GetTso { op })),
            Step::Begin(begin) => {
                let request = SinkOp::Begin { checkpoint: begin.checkpoint.clone(), state: begin.state.clone() };
                Some(out.request(|op| Effect::Sink { op, request }))
            }
            Step::History(_) => Some(out.request(|op| Effect::LoadHistory { op })),
            Step::Done(_) | Step::Failed => None,
        };
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let waits = matches!(self.step, Step::Open | Step::Tso(_) | Step::Begin(_) | Step::History(_));
        (waits && self.op.is_none()).then(|| self.retry.not_before())
    }

    fn answered(&mut self, op: OpId) -> bool {
        self.op.take_if(|own| *own == op).is_some()
    }

    pub(super) fn sink_done(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        op: OpId,
        result: Result<SinkReply, SinkError>,
        out: &mut Out,
    ) {
        if !self.answered(op) {
            return;
        }
        match (std::mem::replace(&mut self.step, Step::Open), result) {
            (_, Err(SinkError::Fatal(error))) => {
                self.step = Step::Failed;
                out.fault(Fault::Sink(clip(&error)));
            }
            (Step::Open, Ok(SinkReply::Opened(opened))) => self.opened(config, opened, out),
            (Step::Begin(begin), Ok(SinkReply::Done)) => self.step = Step::History(begin),
            // Whatever went wrong, and whether `Begin` was stored or not: the next `Open` tells.
            (_, result) => self.retry.fail(now, &describe(result), out),
        }
    }

    fn opened(&mut self, config: &DrainerConfig, opened: Box<Opened>, out: &mut Out) {
        if !opened.server.is_empty() {
            out.notice(Level::Info, format!("the downstream is {}", opened.server));
        }
        self.dialect = opened.dialect;
        self.step = match decide(&opened, config.initial_commit_ts, None) {
            Some(Decision { begin, persist, why }) => {
                out.notice(Level::Info, why);
                if persist { Step::Begin(begin) } else { Step::History(begin) }
            }
            None => Step::Tso(opened),
        };
    }

    /// Whether the answer was this part's.
    pub(super) fn tso(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        op: OpId,
        result: Result<Tso, String>,
        out: &mut Out,
    ) -> bool {
        if !self.answered(op) {
            return false;
        }
        match (std::mem::replace(&mut self.step, Step::Open), result) {
            (Step::Tso(opened), Ok(tso)) => {
                if let Some(Decision { begin, why, .. }) = decide(&opened, config.initial_commit_ts, Some(tso)) {
                    let level = if opened.checkpoint.is_some() { Level::Warn } else { Level::Info };
                    out.notice(level, why);
                    self.step = Step::Begin(begin);
                }
            }
            (step, Err(error)) => {
                self.step = step;
                self.retry.fail(now, &error, out);
            }
            (step, Ok(_)) => self.step = step,
        }
        true
    }

    pub(super) fn history_done(
        &mut self,
        now: MonoTime,
        config: &DrainerConfig,
        op: OpId,
        result: Result<Vec<Bytes>, String>,
        out: &mut Out,
    ) {
        if !self.answered(op) {
            return;
        }
        match (std::mem::replace(&mut self.step, Step::Failed), result) {
            (Step::History(begin), Ok(jobs)) => {
                let mut translator = T::create(&config.translate);
                translator.set_dialect(self.dialect);
                let Begin { checkpoint, state, .. } = &begin;
                let loaded = translator.load_history(&jobs).and_then(|()| {
                    translator.start_at(checkpoint.commit_ts, checkpoint.schema_version, &state.skipped_tables)
                });
                match loaded {
                    Ok(()) => {
                        self.retry.succeed(now, out);
                        self.step = Step::Done(Box::new(Ready { translator, begin }));
                    }
                    Err(fault) => out.fault(fault),
                }
            }
            (step, Err(error)) => {
                self.step = step;
                self.retry.fail(now, &error, out);
            }
            (step, Ok(_)) => self.step = step,
        }
    }

    /// The checkpoint, once everything is there: the node can be registered.
    pub(super) fn ready_at(&self) -> Option<CommitTs> {
        match &self.step {
            Step::Done(ready) => Some(ready.begin.checkpoint.commit_ts),
            Step::Open | Step::Tso(_) | Step::Begin(_) | Step::History(_) | Step::Failed => None,
        }
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self.step, Step::Failed)
    }

    pub(super) fn finish(self) -> Option<Ready<T>> {
        match self.step {
            Step::Done(ready) => Some(*ready),
            Step::Open | Step::Tso(_) | Step::Begin(_) | Step::History(_) | Step::Failed => None,
        }
    }

    pub(super) fn why_waiting(&self) -> (String, Option<MonoTime>) {
        let doing = match &self.step {
            Step::Open => "reading the downstream's checkpoint",
            Step::Tso(_) => "asking PD for a timestamp",
            Step::Begin(_) => "storing where to begin",
            Step::History(_) => "reading the DDL history",
            Step::Done(_) => "registering this node",
            Step::Failed => "stopped by a fault",
        };
        match self.retry.trouble() {
            Some((error, since)) => (format!("{doing}: {error}"), Some(since)),
            None => (doing.to_owned(), None),
        }
    }
}

fn describe(result: Result<SinkReply, SinkError>) -> String {
    match result {
        Ok(_) => "the sink gave an answer of another kind".to_owned(),
        Err(SinkError::Lost(text) | SinkError::Retry(text) | SinkError::Rewind(text) | SinkError::Fatal(text)) => text,
        Err(SinkError::AlreadyRecorded) => "a timestamp is recorded already".to_owned(),
        Err(SinkError::Refused { error, .. }) => error,
    }
}

/// What the downstream's answer means for the start.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    begin: Begin,
    /// To be stored by `Begin` before anything is applied.
    persist: bool,
    why: String,
}

/// Decides where to begin; `None`: only with PD's time, to be given as `fresh`.
fn decide(opened: &Opened, initial: i64, fresh: Option<Tso>) -> Option<Decision> {
    let fresh = fresh.map(|tso| CommitTs::new(tso.raw()));
    let from_configuration = || u64::try_from(initial).ok().map(CommitTs::new).or(fresh);
    let generation = opened.last_generation.saturating_add(1);
    match (&opened.checkpoint, &opened.state) {
        (Some(checkpoint), Some(state)) => {
            let begin =
                Begin { checkpoint: checkpoint.clone(), state: state.clone(), recorded: opened.recorded.clone() };
            let why = format!(
                "going on from checkpoint {} (schema version {}, generation {}, {} transactions recorded above it)",
                checkpoint.commit_ts,
                checkpoint.schema_version,
                state.generation,
                begin.recorded.len()
            );
            Some(Decision { begin, persist: false, why })
        }
        (Some(found), None) => {
            let safe_until = fresh?;
            let commit_ts = if found.commit_ts == CommitTs::ZERO { from_configuration()? } else { found.commit_ts };
            let checkpoint = Checkpoint { consistent: false, commit_ts, ..found.clone() };
            let why = format!(
                "taking over from checkpoint {commit_ts}, which this program did not write last: transactions up to \
                 {safe_until} are applied in safe mode (tables without a key may repeat rows there)"
            );
            let state = SinkState { generation, safe_until, skipped_tables: BTreeSet::new() };
            Some(Decision { begin: Begin { checkpoint, state, recorded: BTreeSet::new() }, persist: true, why })
        }
        (None, _) => {
            let commit_ts = from_configuration()?;
            let checkpoint = Checkpoint { commit_ts, ..Checkpoint::default() };
            let state = SinkState { generation, ..SinkState::default() };
            let why = format!("there is no checkpoint in the downstream: starting after commit_ts {commit_ts}");
            Some(Decision { begin: Begin { checkpoint, state, recorded: BTreeSet::new() }, persist: true, why })
        }
    }
}

/// A stop in progress: each step is left when it is done or its time is over.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) step: StopStep,
    pub(super) until: MonoTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopStep {
    /// What is in flight ends, then the checkpoint is saved.
    Settle,
    /// The entry in the registry becomes `paused`, as the last thing that others see.
    Register,
    Close {
        op: OpId,
        closed: bool,
    },
}

impl Stopping {
    pub(super) fn new(now: MonoTime, step: StopStep) -> Self {
        Self { step, until: now.plus_millis(STOP_STEP_MS) }
    }
}

/// The original waits as long for its last transactions; three steps stay below the 90 s of a service manager.
const STOP_STEP_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SchemaVersion;

    fn opened(checkpoint: Option<u64>, with_state: bool) -> Opened {
        Opened {
            dialect: Dialect::default(),
            checkpoint: checkpoint.map(|ts| Checkpoint {
                consistent: true,
                commit_ts: CommitTs::new(ts),
                schema_version: SchemaVersion::new(8),
                ..Checkpoint::default()
            }),
            state: with_state.then(|| SinkState {
                generation: 4,
                safe_until: CommitTs::new(30),
                skipped_tables: BTreeSet::from([5]),
            }),
            last_generation: 4,
            recorded: BTreeSet::from([CommitTs::new(25)]),
            server: String::new(),
        }
    }

    /// checkpoint row, our state, initial-commit-ts, PD's time -> start, generation, safe until, recorded, persisted
    #[test]
    fn where_to_begin() {
        type Expected = Option<(u64, u64, u64, usize, bool)>;
        type Case = (Option<u64>, bool, i64, Option<u64>, Expected);
        #[rustfmt::skip]
        let cases: [Case; 12] = [
            (None,     false, -1, None,      None),
            (None,     false, -1, Some(100), Some((100, 5, 0, 0, true))),
            (None,     false, 0,  None,      Some((0, 5, 0, 0, true))),
            (None,     false, 42, None,      Some((42, 5, 0, 0, true))),
            (Some(20), true,  42, None,      Some((20, 4, 30, 1, false))),
            (Some(0),  true,  -1, None,      Some((0, 4, 30, 1, false))),
            (Some(20), false, 42, None,      None),
            (Some(20), false, 42, Some(100), Some((20, 5, 100, 0, true))),
            (Some(0),  false, 42, None,      None),
            (Some(0),  false, 42, Some(100), Some((42, 5, 100, 0, true))),
            (Some(0),  false, -1, Some(100), Some((100, 5, 100, 0, true))),
            (Some(0),  false, 0,  Some(100), Some((0, 5, 100, 0, true))),
        ];
        for (checkpoint, with_state, initial, fresh, expected) in cases {
            let decision = decide(&opened(checkpoint, with_state), initial, fresh.map(Tso::new));
            let got = decision.map(|d| {
                let b = d.begin;
                assert!(!(d.persist && b.checkpoint.consistent), "a new start is not consistent");
                let (k, s) = (b.checkpoint.commit_ts.raw(), b.state.safe_until.raw());
                (k, b.state.generation, s, b.recorded.len(), d.persist)
            });
            assert_eq!(got, expected, "{checkpoint:?} {with_state} {initial} {fresh:?}");
        }
    }

    #[test]
    fn a_takeover_keeps_the_rows_schema_version() {
        let decision = decide(&opened(Some(20), false), -1, Some(Tso::new(100))).unwrap();
        assert_eq!(decision.begin.checkpoint.schema_version, SchemaVersion::new(8));
    }
}
