//! Tests of the whole Pump over ports in memory.

mod life;
mod random;
mod recovery;
mod streams;
mod tikv;
mod verdicts;
pub(crate) mod world;
mod writes;
