//! Replay of captures against real processes, and what it is made of.
//!
//! `session` brings up a stand-in cluster, Pumps, a Drainer and MariaDB (`harness`), feeds a capture (`feed`), lets the
//! Drainer apply it (`apply`), and compares streams (`compare_stream`) and tables (`compare_tables`) with what was recorded.
//! The binaries `replay` and `playground` are two ways to drive it; `storm` kills Pumps under load.

pub mod apply;
pub mod capture;
pub mod compare_stream;
pub mod compare_tables;
pub mod expected;
pub mod feed;
pub mod harness;
pub mod playground;
pub mod playground_driver;
pub mod playground_truth;
pub mod playground_workload;
pub mod progress;
pub mod replay;
pub mod session;
pub mod storm;
mod storm_gc;
mod storm_truth;
