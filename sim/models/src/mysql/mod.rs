//! The downstream as the sink port sees it (rules 8). Skeleton: the signatures are the contract with the world.

pub mod lexer;

use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{Checkpoint, SinkError, SinkOp, SinkReply};
use binlog_core::sink::sql::Dialect;
use std::collections::BTreeMap;

/// How an operation goes; the world draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Well,
    /// The connection is lost before anything happened.
    LostBefore,
    /// It is lost after the effect.
    LostAfter,
    /// It is lost while the session lives on with its locks: [`Mysql::settle`] decides later whether its COMMIT arrives.
    Zombie,
    Deadlock,
    /// A DDL ran, but was not recorded. Anything else: as `LostBefore`.
    HalfDone,
}

#[derive(Debug, Default)]
pub struct Mysql {}

impl Mysql {
    #[must_use]
    pub fn new(_dialect: Dialect) -> Self {
        Self {}
    }

    /// # Errors
    /// As the real port.
    pub fn run(&mut self, _op: &SinkOp, way: Way) -> Result<SinkReply, SinkError> {
        Err(SinkError::Lost(format!("{way:?}")))
    }

    /// A session that lives on without its connection.
    #[must_use]
    pub fn has_zombie(&self) -> bool {
        false
    }

    /// Its COMMIT arrives, or the server ends it.
    pub fn settle(&mut self, _commits: bool) {}

    /// An operator edits the checkpoint row.
    pub fn edit_checkpoint(&mut self, _checkpoint: Checkpoint) {}

    /// Fails over to a replica that lacks the last `transactions` commits.
    pub fn fail_over(&mut self, _transactions: usize) {}

    /// How many times each upstream transaction or DDL took effect.
    #[must_use]
    pub fn effects(&self) -> BTreeMap<CommitTs, u32> {
        BTreeMap::new()
    }
}
