//! Sinks: what is sent downstream (design 4.3, 4.4).

pub mod op;
pub mod value;
