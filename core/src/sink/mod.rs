//! Sinks: what is sent downstream (design 4.3, 4.4).

pub mod change;
pub mod op;
pub mod sql;
pub mod value;
