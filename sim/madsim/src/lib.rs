//! The madsim lane (design 5): the *production* driver loop, `binlog_runtime::{driver, clock, status}`, compiled against a
//! deterministic runtime and run around the real Pump, and around the real Drainer (`drainer`), over ports in memory.
//!
//! The simulator in `sim/` hands inputs to the machines itself and so never runs the driver. Here a seed decides in which order
//! ready tasks run, how long each port takes, when clients give up and when the process dies; the same seed gives the same
//! trace. Looked for: completions that the driver loses, calls that nobody answers, requests that pass a full inbox, a
//! shutdown that does not end, acknowledged binlogs that are gone; for the Drainer: credit that is passed, items of a source that
//! was closed, transactions that are not applied exactly once and in order.
//!
//! Only with `--cfg madsim`, which `.cargo/config.toml` in this folder sets: `cd sim/madsim && cargo test`.
#![cfg(madsim)]
#![forbid(unsafe_code)]

pub mod client;
pub mod drainer;
pub mod machine;
pub mod ports;
pub mod process;
pub mod scenario;
pub mod world;
