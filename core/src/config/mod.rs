//! Validated configuration of every process, without I/O (spec pump 6, drainer 8).
//!
//! `settings` holds what a command line, the environment and a file said, key by key, with its origin; `pump` and `drainer` hold
//! the tables of keys and turn settings into typed values. An error names the key, where the value came from, and what to do.

pub mod drainer;
pub mod duration;
pub mod pump;
pub mod push;
pub mod security;
pub mod settings;
pub mod size;
