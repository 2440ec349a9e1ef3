//! The lane around the Drainer: the production driver loop, the real machine, and in memory what its ports reach: PD, the
//! registry, the DDL history, Pumps that are pulled from, the downstream of the simulator.

pub mod machine;
pub mod ports;
pub mod process;
pub mod scenario;
pub mod side;
pub mod upstream;
