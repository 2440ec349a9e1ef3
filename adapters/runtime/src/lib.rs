//! What every process shares: the driver loop around a machine, command line and configuration file, logs, signals.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

pub mod args;
pub mod clock;
pub mod driver;
pub mod host;
mod log_file;
pub mod logs;
#[cfg(not(madsim))]
pub mod metrics;
// A simulated runtime has no processes and signals.
#[cfg(not(madsim))]
pub mod memory;
#[cfg(not(madsim))]
pub mod process;
#[cfg(not(madsim))]
pub mod push;
pub mod retry;
#[cfg(not(madsim))]
pub mod signals;
pub mod status;
pub mod version;
