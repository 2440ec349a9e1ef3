//! The allocator of the processes that take thousands of calls a second. A payload is got on one thread and given back on another;
//! glibc spends a tenth of the Pump's time on that (docs/benchmarks.md).
//!
//! A binary declares `#[global_allocator] static ALLOCATOR: Allocator = Allocator;` and calls [`give_back_at_once`] first.

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// What is free goes back to the system at once instead of in a while: a burst of large payloads must not stay in the resident
/// set. Costs nothing that could be measured. Called once, before other threads run.
#[allow(unsafe_code)]
pub fn give_back_at_once() {
    // SAFETY: the option exists in this version (a wrong number would be refused by mimalloc's own bounds check), and setting
    // it only stores an integer; no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}
