//! The outer message: kinds, cheap look at type and timestamps, fake binlogs (spec codec 1).

pub mod ddl;
pub mod item;
pub mod peek;
pub mod text;
pub mod wire;
