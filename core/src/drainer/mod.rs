//! The Drainer's machine (design 4).

pub mod effect;
pub mod filter;
pub mod input;
pub mod rows;
pub mod translate;
