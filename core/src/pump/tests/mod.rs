//! Tests of the whole Pump over ports in memory.

mod fakes;
mod life;
mod offline;
mod random;
mod recovery;
mod streams;
mod streams_random;
pub(crate) mod world;
mod writes;
