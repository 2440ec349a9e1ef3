//! The Pump's machine (design 3).

pub mod config;
pub mod effect;
mod hold;
mod idle;
pub mod input;
mod life;
pub mod machine;
mod operator;
mod outbox;
mod pull;
mod recover;
pub mod resolve;
pub mod status;
pub mod verdict;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;
