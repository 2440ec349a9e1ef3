//! The index over the value log (rules 3).

pub mod op;
