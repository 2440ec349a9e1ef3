//! The Drainer's machine (design 4).

pub mod effect;
pub mod input;
pub mod translate;
