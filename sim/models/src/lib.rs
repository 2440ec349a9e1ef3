//! Models of everything around the Pump and the Drainer: TiDB, TiKV, PD, the registry, MySQL (design 5; rules 10).
//!
//! Each model is a plain struct whose methods take virtual time (milliseconds) and return data. Latency, loss and repetition
//! are the caller's: the simulator's world, or a stand-in that serves the same models over real sockets. Deterministic: one
//! seed, one history. Nothing here reads a clock, does I/O, or iterates over a hash map.
#![forbid(unsafe_code)]

pub mod mysql;
pub mod pd;
pub mod registry;
pub mod rng;
pub mod tidb;
pub mod tikv;
pub mod types;
pub mod wire;

#[cfg(test)]
mod self_test;
