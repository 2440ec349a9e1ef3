//! What must hold (invariants 1), judged from outside: from what the disks, links and models saw, never from what a machine
//! believes of itself.

pub mod gc;
pub mod log;
pub mod merge;
pub mod node;
pub mod pump;

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number: `D2`, `W2`, … ; `PANIC` for a failed assertion of a machine.
    pub oracle: &'static str,
    pub text: String,
    /// Virtual nanoseconds.
    pub at: u64,
}
