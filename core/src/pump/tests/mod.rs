//! Tests of the whole Pump over ports in memory.

mod gc;
#[cfg(feature = "canary")]
mod gc_canary;
mod life;
mod original;
mod random;
mod recovery;
mod streams;
pub(crate) mod world;
mod writes;
