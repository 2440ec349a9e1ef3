//! The real Drainer behind a witness: the contract between machine and driver, checked at every step and folded into the trace.

use super::side::World;
use binlog_core::drainer::effect::{Effect, SourceId};
use binlog_core::drainer::input::Input;
use binlog_core::drainer::machine::Drainer;
use binlog_core::ids::OpId;
use binlog_core::machine::Machine;
use binlog_core::time::{Deadline, MonoTime};
use binlog_sim::translate::SimTranslate;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct Watched {
    pub drainer: Drainer<SimTranslate>,
    world: Arc<World>,
    /// Asked of the ports and not completed.
    open: BTreeSet<OpId>,
    /// Credit that is left, of the sources that the machine has not closed.
    credit: BTreeMap<SourceId, i64>,
    calls: BTreeSet<u64>,
    now: MonoTime,
    started: bool,
}

impl Watched {
    #[must_use]
    pub fn new(drainer: Drainer<SimTranslate>, world: Arc<World>) -> Self {
        let (open, credit, calls) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { drainer, world, open, credit, calls, now: MonoTime::ZERO, started: false }
    }

    fn completed(&mut self, op: OpId) -> u64 {
        assert!(self.open.remove(&op), "a completion of {op}, which is not open");
        self.world.arrives(op);
        op.raw()
    }

    fn asked(&mut self, op: OpId) -> u64 {
        assert!(self.open.insert(op), "{op} is asked twice");
        op.raw()
    }

    fn answered(&mut self, call: u64) -> u64 {
        assert!(self.calls.remove(&call), "call {call} is answered twice, or never came");
        call
    }
}

impl Machine for Watched {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: MonoTime, input: Input) {
        assert!(now >= self.now, "time goes back");
        self.now = now;
        let starts = matches!(input, Input::Start);
        assert!(self.started || starts, "{input:?} overtook the start");
        self.started |= starts;
        let (tag, id) = match &input {
            Input::Start => (1, 0),
            Input::TsoDone { op, .. }
            | Input::PumpsDone { op, .. }
            | Input::StatusDone { op, .. }
            | Input::HistoryDone { op, .. }
            | Input::JobDone { op, .. }
            | Input::SinkDone { op, .. } => (2, self.completed(*op)),
            Input::SourceItem { source, payload } => {
                match self.credit.get_mut(source) {
                    Some(credit) => {
                        assert!(*credit > 0, "an item of {source:?} without credit");
                        *credit -= i64::try_from(payload.len()).expect("small");
                    }
                    None => self.world.count("item of a closed source"),
                }
                (3, source.0 << 32 | payload.len() as u64)
            }
            Input::SourceClosed { source, .. } => {
                self.credit.remove(source);
                (4, source.0)
            }
            Input::Notify { call } | Input::Resolve { call, .. } => {
                assert!(self.calls.insert(*call), "call {call} comes twice");
                (5, *call)
            }
            Input::Shutdown => (6, 0),
            Input::Tick => (7, 0),
        };
        if matches!(input, Input::StatusDone { result: Ok(()), .. }) {
            self.world.with(|s| s.registered = true);
        }
        self.world.fold(tag << 60 | id);
        self.drainer.handle(now, input);
        self.drainer.check();
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.drainer.poll_effect()?;
        let (tag, id) = match &effect {
            Effect::GetTso { op }
            | Effect::ListPumps { op }
            | Effect::PutStatus { op, .. }
            | Effect::LoadHistory { op }
            | Effect::FetchJob { op, .. }
            | Effect::Sink { op, .. } => (1, self.asked(*op)),
            Effect::OpenSource { source, last, credit, .. } => {
                let credit = i64::try_from(*credit).expect("bounded by the memory limit");
                assert!(self.credit.insert(*source, credit).is_none(), "{source:?} is opened twice");
                (2, source.0 ^ last.raw())
            }
            Effect::SourceCredit { source, bytes } => {
                let credit =
                    self.credit.get_mut(source).unwrap_or_else(|| panic!("credit for {source:?}, which is closed"));
                *credit += i64::try_from(*bytes).expect("bounded by the memory limit");
                (3, source.0 << 32 | bytes)
            }
            Effect::CloseSource { source } => {
                self.credit.remove(source);
                (4, source.0)
            }
            Effect::NotifyReply { call, result } => (5, self.answered(*call) << 1 | u64::from(result.is_ok())),
            Effect::ResolveReply { call, .. } => (6, self.answered(*call)),
            Effect::Fault(fault) => panic!("no fault was injected: {fault}"),
            Effect::Notice { text, .. } => (7, text.len() as u64),
            Effect::Stopped { exit_code } => (8, u64::from(*exit_code)),
        };
        self.world.fold(tag << 60 | id);
        Some(effect)
    }

    fn next_deadline(&self) -> Option<Deadline> {
        self.drainer.next_deadline()
    }

    fn check(&self) {
        self.drainer.check();
    }
}
