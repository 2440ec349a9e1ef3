//! The real Pump behind a witness: the contract between machine and driver, checked at every step and folded into the trace.

use crate::world::World;
use binlog_core::ids::OpId;
use binlog_core::machine::Machine;
use binlog_core::pump::effect::Effect;
use binlog_core::pump::input::Input;
use binlog_core::pump::machine::Pump;
use binlog_core::time::{Deadline, MonoTime};
use std::collections::BTreeSet;
use std::sync::Arc;

pub struct Watched {
    pub pump: Pump,
    world: Arc<World>,
    /// Asked of the ports and not completed.
    open: BTreeSet<OpId>,
    now: MonoTime,
    started: bool,
}

impl Watched {
    #[must_use]
    pub fn new(pump: Pump, world: Arc<World>) -> Self {
        Self { pump, world, open: BTreeSet::new(), now: MonoTime::ZERO, started: false }
    }

    fn completed(&mut self, op: OpId) {
        assert!(self.open.remove(&op), "a completion of {op}, which is not open");
        self.world.arrives(op);
    }

    fn asked(&mut self, op: OpId) {
        assert!(self.open.insert(op), "{op} is asked twice");
    }
}

impl Machine for Watched {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: MonoTime, input: Input) {
        assert!(now >= self.now, "time goes back");
        self.now = now;
        let starts = matches!(input, Input::Start);
        assert!(self.started || starts || matches!(input, Input::Space { .. }), "{input:?} overtook the start");
        self.started |= starts;
        let (tag, id) = match &input {
            Input::Start => (1, 0),
            Input::Write { write, .. } => (2, write.raw()),
            Input::PullOpen { stream, last, .. } => (3, stream.raw() ^ last.raw()),
            Input::PullCredit { stream, bytes } => (4, stream.raw() << 32 | bytes),
            Input::PullClosed { stream } => (5, stream.raw()),
            Input::LogDone { op, .. }
            | Input::IndexDone { op, .. }
            | Input::TsoDone { op, .. }
            | Input::StatusDone { op, .. }
            | Input::NotifyDone { op, .. }
            | Input::DrainersDone { op, .. }
            | Input::MvccDone { op, .. }
            | Input::TxnStatusDone { op, .. }
            | Input::SafePointDone { op, .. }
            | Input::HoldGcDone { op, .. } => {
                self.completed(*op);
                (6, op.raw())
            }
            Input::Space { .. } => (7, 0),
            Input::Shutdown => (8, 0),
            Input::Tick => (9, 0),
            Input::TriggerGc => (11, 0),
            Input::Action { call, .. } | Input::ReadBinlog { call, .. } => (10, *call),
            Input::Resolve { write, .. } | Input::ReleaseFrozen { write } => (10, write.raw()),
        };
        if matches!(input, Input::StatusDone { result: Ok(()), .. }) {
            self.world.with(|s| s.registered = true);
        }
        self.world.fold(tag << 60 | id);
        self.pump.handle(now, input);
        self.pump.check();
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.pump.poll_effect()?;
        let (tag, id) = match &effect {
            Effect::Log { op, .. }
            | Effect::Index { op, .. }
            | Effect::GetTso { op }
            | Effect::PutStatus { op, .. }
            | Effect::NotifyDrainers { op }
            | Effect::ListDrainers { op }
            | Effect::MvccByKey { op, .. }
            | Effect::CheckTxnStatus { op, .. }
            | Effect::GetGcSafePoint { op }
            | Effect::HoldGc { op, .. } => {
                self.asked(*op);
                (1, op.raw())
            }
            Effect::WriteReply { write, result } => (2, write.raw() << 1 | u64::from(result.is_ok())),
            Effect::StreamItems { stream, items } => {
                (3, items.iter().fold(stream.raw(), |fold, item| fold.rotate_left(7) ^ item.commit_ts.raw()))
            }
            Effect::StreamEnd { stream, .. } => (4, stream.raw()),
            Effect::Fault(fault) => panic!("no fault was injected: {fault}"),
            Effect::Notice { text, .. } => (5, text.len() as u64),
            Effect::Stopped => (6, 0),
            Effect::ActionReply { call, .. } | Effect::BinlogRead { call, .. } => (7, *call),
        };
        self.world.fold(tag << 60 | id);
        Some(effect)
    }

    fn next_deadline(&self) -> Option<Deadline> {
        self.pump.next_deadline()
    }

    fn check(&self) {
        self.pump.check();
    }
}
