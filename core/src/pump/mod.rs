//! The Pump's machine (design 3).

pub mod config;
mod demand;
pub mod effect;
pub mod gc;
mod idle;
pub mod input;
mod inspect;
mod life;
mod live;
pub mod machine;
pub mod offline;
pub mod original;
mod outbox;
pub mod pull;
mod recover;
pub mod space;
pub mod status;
mod stream;
mod tail;
pub mod write;

#[cfg(test)]
pub(crate) mod tests;
