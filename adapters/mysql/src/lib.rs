//! The sink port for MySQL, MariaDB and TiDB (rules 8, design 4.3; the contract is `binlog_core::sink::op`).
//!
//! Keeps true: a downstream transaction carries its record (`drainer_applied`) or does not exist; nothing is committed
//! before every result was checked; no value is changed by the server in silence; a DDL has a journal row before it
//! runs; an outcome that is not known is `Lost`, never guessed. Called by the Drainer's driver, one operation at a time.
//!
//! Where is what: [`sink`] the port, [`session`] one configured connection, `apply` data transactions, `warnings` what
//! counts as a changed value, `ddl` and `definition` the journal, `progress` our tables and the checkpoint, `error`
//! what an error means and how its text is freed of row values.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod apply;
pub mod config;
mod ddl;
mod definition;
pub mod error;
mod progress;
pub mod session;
pub mod sink;
pub mod tables;
mod warnings;

pub use binlog_core::sink::sql::Dialect;
pub use config::MysqlConfig;
pub use sink::{KEEP_ALIVE_INTERVAL, MysqlSink};
