//! The deterministic simulator (design 5): the real machines of `binlog-core` in a world of virtual disks, links, clocks and
//! peers. A seed gives a [`plan::Plan`], a plan gives exactly one run, a run ends with a trace hash and a verdict of the
//! oracles (invariants 1). One thread per seed; nothing here reads a clock.
#![forbid(unsafe_code)]

pub mod canary;
pub mod disk;
pub mod kv;
pub mod minimise;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod sink;
pub mod timeline;
pub mod trace;
pub mod translate;
pub mod world;
