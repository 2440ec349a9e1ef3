//! State machines and codecs of TiDB Binlog.
//!
//! Pure: no I/O, no clock, no threads, no locks, no async. The same machines run in production (driven by `adapters/`) and
//! in the simulator. `docs/ARCHITECTURE.md` maps each rule to its file.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod binlog;
pub mod canary;
pub mod client;
pub mod codec;
pub mod config;
pub mod drainer;
pub mod fault;
pub mod ids;
pub mod index;
pub mod machine;
pub mod node;
pub mod proto;
pub mod pump;
pub mod schema;
pub mod sink;
pub mod sorter;
pub mod time;
pub mod vlog;
