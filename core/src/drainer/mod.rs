//! The Drainer's machine (design 4).

mod apply;
mod checkpoint;
pub mod config;
mod ddl;
pub mod effect;
pub mod filter;
mod heartbeat;
pub mod input;
mod item;
mod learn;
mod life;
pub mod machine;
mod membership;
mod merge;
mod out;
mod pause;
mod retry;
pub mod rows;
mod sinkflight;
mod source;
pub mod status;
#[cfg(test)]
mod tests;
pub mod translate;
pub mod translation;
mod window;
