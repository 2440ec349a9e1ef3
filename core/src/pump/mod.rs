//! The Pump's machine (design 3).

pub mod config;
mod demand;
pub mod effect;
pub mod gc;
mod hold;
mod idle;
pub mod input;
mod inspect;
mod life;
mod live;
pub mod machine;
pub mod offline;
mod operator;
pub mod original;
mod outbox;
pub mod pull;
mod recover;
pub mod resolve;
pub mod space;
pub mod status;
mod stream;
mod tail;
pub mod verdict;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;
