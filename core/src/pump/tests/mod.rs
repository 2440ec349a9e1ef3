//! Tests of the whole Pump over ports in memory.

mod fakes;
mod gc;
#[cfg(feature = "canary")]
mod gc_canary;
mod life;
mod offline;
mod original;
mod random;
mod recovery;
mod streams;
mod streams_random;
mod tikv;
mod verdicts;
pub(crate) mod world;
mod writes;
