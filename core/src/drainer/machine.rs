//! The Drainer: routes inputs to its parts and moves what they produce along (design 4). The parts decide; this file only
//! says who talks to whom and in which order.

use super::apply::Applier;
use super::config::DrainerConfig;
use super::effect::Effect;
use super::heartbeat::Heartbeat;
use super::input::Input;
use super::life::{Ready, Starting, StopStep, Stopping};
use super::membership::Membership;
use super::merge::Collector;
use super::out::Out;
use super::retry::{Retry, clip};
use super::status::{DrainerStatus, Queues, Waiting};
use super::translate::Translator;
use super::translation::Translate;
use crate::fault::IoFault;
use crate::ids::{CommitTs, OpId};
use crate::machine::Machine;
use crate::node::status::{NodeState, NodeStatus};
use crate::pump::effect::Level;
use crate::sink::op::{SinkError, SinkOp, SinkReply};
use crate::time::{Deadline, MonoTime, Tso};

/// One Drainer process.
#[derive(Debug)]
pub struct Drainer<T: Translate = Translator> {
    config: DrainerConfig,
    now: MonoTime,
    out: Out,
    life: Life<T>,
    members: Membership,
    collector: Collector,
    /// There is one while running and while stopping from there.
    applier: Option<Applier<T>>,
    heartbeat: Heartbeat,
    /// The durable checkpoint as registered.
    durable: CommitTs,
    /// The pumps were listed once since the last start.
    listed: bool,
    /// Inputs came in since the parts were last moved.
    dirty: bool,
    ignored: u64,
    rewinds: Retry,
}

#[derive(Debug)]
enum Life<T> {
    /// Before `Input::Start`.
    New,
    Starting(Box<Starting<T>>),
    Running,
    Stopping(Stopping),
    Stopped,
}

impl<T: Translate> Drainer<T> {
    #[must_use]
    pub fn new(config: DrainerConfig) -> Self {
        Self {
            now: MonoTime::ZERO,
            out: Out::new(config.seed),
            life: Life::New,
            members: Membership::new(config.detect_interval_ms),
            collector: Collector::new(config.memory_bytes),
            applier: None,
            heartbeat: Heartbeat::new(),
            durable: CommitTs::ZERO,
            listed: false,
            dirty: false,
            ignored: 0,
            rewinds: Retry::new("going on with what the downstream has stored"),
            config,
        }
    }

    /// What `GET /status` shows.
    #[must_use]
    pub fn status(&self) -> DrainerStatus {
        let now = self.now;
        let applier = self.applier.as_ref();
        let (remembered, bytes) = self.collector.sizes();
        let ts = |ts: CommitTs| i64::try_from(ts.raw()).unwrap_or(i64::MAX);
        let positions = || self.collector.sources().map(|s| (s.pump.to_string(), ts(s.received))).collect();
        let paused = applier.and_then(|a| a.paused.as_ref()).map(|p| p.status(now));
        let state = match &self.life {
            Life::Starting(starting) if starting.is_failed() => "faulted",
            Life::New | Life::Starting(_) => "starting",
            Life::Running if self.is_faulted() => "faulted",
            Life::Running if paused.is_some() => "paused",
            Life::Running => "running",
            Life::Stopping(_) => "stopping",
            Life::Stopped => "stopped",
        };
        let queues = applier.map_or_else(Queues::default, |a| Queues {
            bytes,
            window: a.window.len(),
            window_bytes: a.window.bytes(),
            staged: a.staged.len(),
            in_flight: a.in_flight(),
            recorded: a.recorded.len(),
            remembered,
        });
        DrainerStatus {
            pump_pos: self.listed.then(positions),
            synced: self.is_synced(),
            last_ts: ts(self.durable),
            ts_map: String::new(),
            state,
            checkpoint: self.durable.raw(),
            applied: applier.map_or(0, |a| a.window.applied().raw()),
            merge_position: self.collector.position().raw(),
            confirmed: self.members.confirmed().raw(),
            waiting: self.waiting(),
            paused,
            faults: self.out.faults().iter().map(ToString::to_string).collect(),
            queues,
            applied_totals: applier.map(|a| a.counts).unwrap_or_default(),
            generation: applier.map_or(0, |a| a.progress.state().generation),
            safe_until: applier.map_or(0, |a| a.progress.state().safe_until.raw()),
            ignored_completions: self.ignored,
        }
    }

    fn is_faulted(&self) -> bool {
        self.collector.is_halted() || self.applier.as_ref().is_some_and(Applier::is_stuck)
    }

    /// Nothing to apply for the configured time, and everything that the Pumps have up to then was seen: unlike the
    /// original's, this does not become true because the input is stuck.
    fn is_synced(&self) -> bool {
        let (Some(applier), Some(clock)) = (&self.applier, self.members.clock(self.now)) else { return false };
        let quiet_since = clock.physical_ms().saturating_sub(self.config.synced_check_ms);
        let last = applier.last_applied.map_or(0, |(ts, _)| ts.tso().physical_ms());
        let quiet_here =
            applier.last_applied.is_none_or(|(_, at)| self.now.millis_since(at) >= self.config.synced_check_ms);
        let seen = applier.window.applied().tso().physical_ms();
        let calm = applier.staged.is_empty() && applier.paused.is_none() && !self.is_faulted();
        calm && quiet_here && last <= quiet_since && seen >= quiet_since
    }

    fn waiting(&self) -> Option<Waiting> {
        let since = |(why, since): (String, Option<MonoTime>)| Waiting {
            why,
            for_ms: since.map(|at| self.now.millis_since(at)),
        };
        if let Life::Starting(starting) = &self.life {
            return Some(since(starting.why_waiting()));
        }
        let applier = self.applier.as_ref()?;
        if let Some(why) = applier.why_waiting() {
            return Some(since(why));
        }
        if self.collector.is_halted() {
            return Some(since(("stopped by a fault".to_owned(), None)));
        }
        if let Some((error, at)) = self.members.trouble() {
            return Some(since((format!("the list of pumps cannot be read: {error}"), Some(at))));
        }
        if self.listed && self.collector.sources().next().is_none() {
            return Some(since(("no pump is registered".to_owned(), None)));
        }
        let slowest = self.collector.slowest()?;
        let at = slowest.retry.trouble().map_or(slowest.empty_since, |(_, at)| at);
        Some(since((slowest.why_waiting(), Some(at))))
    }

    fn route(&mut self, input: Input) {
        let now = self.now;
        match input {
            Input::Start => {
                if matches!(self.life, Life::New) {
                    self.life = Life::Starting(Box::new(Starting::new(MonoTime::ZERO)));
                }
            }
            Input::TsoDone { op, result } => self.tso_done(op, result),
            Input::PumpsDone { op, result } => self.pumps_done(op, result),
            Input::StatusDone { op, result } => self.heartbeat.done(now, op, text(result), &mut self.out),
            Input::HistoryDone { op, result } => {
                if let Life::Starting(starting) = &mut self.life {
                    starting.history_done(now, &self.config, op, text(result), &mut self.out);
                } else if let Some(applier) = &mut self.applier {
                    applier.history_done(now, op, text(result), &mut self.out);
                }
            }
            Input::JobDone { op, result } => {
                if let Some(applier) = &mut self.applier {
                    applier.job_done(now, op, text(result), &mut self.out);
                }
            }
            Input::SourceItem { source, payload } => {
                self.collector.item(now, source, payload, T::is_setval, &mut self.out);
            }
            Input::SourceClosed { source, error } => self.collector.closed(now, source, error, &mut self.out),
            Input::SinkDone { op, result } => self.sink_done(op, result),
            Input::Notify { call } => match self.life {
                Life::Stopping(_) | Life::Stopped => {
                    let result = Err("this drainer is stopping".to_owned());
                    self.out.push(Effect::NotifyReply { call, result });
                }
                Life::New | Life::Starting(_) | Life::Running => self.members.notify(call, &mut self.out),
            },
            Input::Resolve { call, commit_ts, action } => {
                let result = match (&self.life, &mut self.applier) {
                    (Life::Running, Some(applier)) => applier.resolve(commit_ts, action, &mut self.out),
                    _ => Err("nothing is paused: this drainer is not running".to_owned()),
                };
                self.out.push(Effect::ResolveReply { call, result });
            }
            Input::Shutdown => self.shut_down(),
            Input::Tick => {}
        }
    }

    fn tso_done(&mut self, op: OpId, result: Result<Tso, IoFault>) {
        let now = self.now;
        let result = text(result);
        if let Ok(tso) = result {
            self.members.saw_tso(now, tso);
        }
        if let Life::Starting(starting) = &mut self.life
            && starting.tso(now, &self.config, op, result.clone(), &mut self.out)
        {
            return;
        }
        if !self.members.tso(now, op, result, &mut self.out) {
            self.ignored += 1;
        }
    }

    fn pumps_done(&mut self, op: OpId, result: Result<Vec<NodeStatus>, IoFault>) {
        let now = self.now;
        if !self.members.is_listing(op) || !matches!(self.life, Life::Running) {
            self.ignored += 1;
            return;
        }
        let accepted = &self.config.accept_offline_pumps;
        let listed =
            text(result).and_then(|pumps| self.collector.listed(now, pumps, self.durable, accepted, &mut self.out));
        match listed {
            Ok(()) => {
                self.listed = true;
                self.members.listed(now, &mut self.out);
            }
            Err(error) => self.members.failed(now, &error, &mut self.out),
        }
    }

    fn sink_done(&mut self, op: OpId, result: Result<SinkReply, SinkError>) {
        let now = self.now;
        match &mut self.life {
            Life::Starting(starting) => starting.sink_done(now, &self.config, op, result, &mut self.out),
            Life::Stopping(Stopping { step: StopStep::Close { op: own, closed }, .. }) if *own == op => *closed = true,
            Life::New | Life::Running | Life::Stopping(_) | Life::Stopped => {
                let ours = match &mut self.applier {
                    Some(applier) => applier.sink_done(now, op, result, &mut self.out),
                    None => false,
                };
                if !ours {
                    self.ignored += 1;
                }
            }
        }
    }

    fn shut_down(&mut self) {
        match self.life {
            Life::Stopping(_) | Life::Stopped => return,
            Life::New | Life::Starting(_) | Life::Running => {}
        }
        self.members.refuse_calls("this drainer is stopping", &mut self.out);
        self.collector.close(&mut self.out);
        self.collector.halt();
        if self.heartbeat.wanted().is_some() {
            self.heartbeat.want(NodeState::Pausing);
        }
        self.life = Life::Stopping(Stopping::new(self.now, StopStep::Settle));
    }

    /// Moves everything that can be moved now.
    fn advance(&mut self) {
        let now = self.now;
        match &mut self.life {
            Life::New | Life::Stopped => return,
            Life::Starting(starting) => {
                starting.advance(now, &mut self.out);
                if let Some(checkpoint) = starting.ready_at() {
                    self.durable = checkpoint;
                    self.heartbeat.want(NodeState::Online);
                    if self.heartbeat.written() == Some(NodeState::Online) {
                        self.run();
                    }
                }
            }
            Life::Running => self.advance_running(),
            Life::Stopping(_) => self.advance_stopping(),
        }
        if let Some(applier) = &self.applier {
            self.durable = applier.progress.durable().commit_ts;
        }
        let clock = self.members.clock(now);
        if !matches!(self.life, Life::Stopped) {
            self.heartbeat.advance(now, &self.config, self.durable, clock, &mut self.out);
        }
    }

    /// Registered as online: the pipeline begins.
    fn run(&mut self) {
        let Life::Starting(starting) = std::mem::replace(&mut self.life, Life::Running) else { return };
        let Some(Ready { translator, begin }) = starting.finish() else { return };
        self.collector.restart_at(begin.checkpoint.commit_ts, &mut self.out);
        self.members.restart();
        self.listed = false;
        self.applier = Some(Applier::new(self.now, translator, begin.checkpoint, begin.state, begin.recorded));
        self.advance_running();
    }

    fn advance_running(&mut self) {
        let now = self.now;
        let Some(applier) = &mut self.applier else { return };
        let out = &mut self.out;
        self.collector.connect(now, out);
        while let Some(merged) = self.collector.pop(now, self.members.confirmed(), out) {
            applier.push(merged);
        }
        if self.collector.wants_confirmation(self.members.confirmed()) {
            self.members.want();
        }
        self.members.advance(now, out);
        applier.advance(now, &self.config, self.collector.wants_checkpoint(), out);
        for (from, bytes) in applier.freed.drain(..) {
            self.collector.release(from, bytes);
        }
        self.collector.checkpoint(applier.progress.durable().commit_ts);
        self.collector.grant(out);
        if let Some(why) = applier.rewind.take() {
            self.rewind(&why);
        }
    }

    /// What the downstream has contradicts what was believed: everything is dropped and started again from there, with the
    /// back-off of those before, so that a downstream that contradicts itself for ever is not asked in a loop.
    fn rewind(&mut self, why: &str) {
        let (now, out) = (self.now, &mut self.out);
        if self.rewinds.trouble().is_some_and(|(_, since)| now.millis_since(since) >= REWIND_CALM_MS) {
            self.rewinds.succeed(now, out);
        }
        out.notice(Level::Warn, format!("starting again from the downstream's checkpoint: {}", clip(why)));
        self.rewinds.fail(now, why, out);
        self.life = Life::Starting(Box::new(Starting::new(self.rewinds.not_before())));
        self.collector.restart_at(self.durable, out);
        self.members.restart();
        self.applier = None;
    }

    fn advance_stopping(&mut self) {
        let now = self.now;
        let Life::Stopping(stopping) = &mut self.life else { return };
        let out = &mut self.out;
        let late = now >= stopping.until;
        if stopping.step == StopStep::Settle {
            let settled = self.applier.as_mut().is_none_or(|applier| {
                applier.advance_stop(now, out);
                applier.settled
            });
            if settled || late {
                if self.heartbeat.wanted().is_some() {
                    self.heartbeat.want(NodeState::Paused);
                }
                *stopping = Stopping::new(now, StopStep::Register);
            }
        }
        let late = now >= stopping.until;
        if stopping.step == StopStep::Register
            && (late || self.heartbeat.written() == self.heartbeat.wanted() || self.heartbeat.wanted().is_none())
        {
            let op = out.request(|op| Effect::Sink { op, request: SinkOp::Close });
            *stopping = Stopping::new(now, StopStep::Close { op, closed: false });
        }
        let late = now >= stopping.until;
        if let StopStep::Close { closed, .. } = stopping.step
            && (closed || late)
        {
            out.push(Effect::Stopped { exit_code: 0 });
            self.life = Life::Stopped;
        }
    }
}

/// Rewinds further apart have nothing to do with each other.
const REWIND_CALM_MS: u64 = 60_000;

fn text<R>(result: Result<R, IoFault>) -> Result<R, String> {
    result.map_err(|fault| fault.to_string())
}

impl<T: Translate> Machine for Drainer<T> {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: MonoTime, input: Input) {
        self.now = self.now.max(now);
        self.dirty = true;
        self.route(input);
    }

    /// The parts move here and not in `handle`: so everything that the driver handed in before joins one batch.
    fn poll_effect(&mut self) -> Option<Effect> {
        if self.dirty && self.out.is_empty() {
            self.dirty = false;
            self.advance();
        }
        self.out.pop()
    }

    fn next_deadline(&self) -> Option<Deadline> {
        let heartbeat = self.heartbeat.deadline(&self.config);
        let parts = match &self.life {
            Life::New | Life::Stopped => return None,
            Life::Starting(starting) => [starting.deadline(), heartbeat, None, None],
            Life::Running => {
                let applier = self.applier.as_ref().and_then(Applier::deadline);
                [self.members.deadline(), self.collector.deadline(), applier, heartbeat]
            }
            Life::Stopping(stopping) => {
                let retry =
                    self.applier.as_ref().filter(|a| !a.settled && a.flight.is_none()).map(|a| a.retry.not_before());
                [Some(stopping.until), retry, heartbeat, None]
            }
        };
        parts.into_iter().flatten().min()
    }

    fn check(&self) {
        self.collector.check();
        if let Some(applier) = &self.applier {
            applier.check();
            assert!(applier.window.applied() <= self.collector.position(), "applied what was not merged");
        }
    }
}
