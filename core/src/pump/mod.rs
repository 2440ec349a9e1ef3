//! The Pump's machine (design 3).

pub mod effect;
pub mod input;
