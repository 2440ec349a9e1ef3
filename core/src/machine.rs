//! The contract of a process-level machine (design 2.1). `Pump` and `Drainer` implement it; their parts are plain structs
//! whose methods take `now` and push into the parent's effect queue.

use crate::time::{Deadline, MonoTime};

/// A deterministic state machine without I/O.
///
/// * `handle` cannot fail: a bad request becomes a reply effect, a failed operation is an input.
/// * Every request effect carries an [`crate::ids::OpId`]; exactly one completion input carries it back.
/// * `poll_effect` may seal a staged batch: the driver hands in everything that is ready, then polls until `None`.
pub trait Machine {
    type Input;
    type Effect;

    /// Takes one input. `now` never goes back between calls.
    fn handle(&mut self, now: MonoTime, input: Self::Input);

    /// The next effect to carry out; `None` when nothing is left until the next input.
    #[must_use]
    fn poll_effect(&mut self) -> Option<Self::Effect>;

    /// When the machine wants an `Input::Tick` at the latest. A spurious tick does nothing.
    #[must_use]
    fn next_deadline(&self) -> Option<Deadline>;

    /// Asserts the structural invariants; the simulator calls it after every input.
    fn check(&self);
}
