//! The value log, format v2 (rules 2).

pub mod log;
pub mod op;
pub mod record;
