//! The Pump's machine (design 3).

pub mod config;
pub mod effect;
pub mod gc;
mod idle;
pub mod input;
mod life;
pub mod machine;
pub mod original;
mod outbox;
mod pull;
mod recover;
pub mod space;
pub mod status;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;
