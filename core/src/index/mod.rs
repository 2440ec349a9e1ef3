//! The index over the value log (rules 3).

pub mod indexer;
pub mod key;
pub mod ledger;
pub mod named;
pub mod op;
pub mod segments;
pub mod value;
