//! What a node is to its peers: registry entry, states (spec pump 4, drainer 7).

pub mod claim;
pub mod purge;
pub mod state;
pub mod status;
