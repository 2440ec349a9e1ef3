//! The Pump's machine (design 3).

pub mod config;
pub mod effect;
mod idle;
pub mod input;
mod life;
mod live;
pub mod machine;
mod outbox;
pub mod pull;
mod recover;
pub mod status;
mod stream;
mod tail;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;
