//! One transaction between BEGIN and its outcome, as a plain record; [`super::Cluster`] moves it.

use super::data::RowChange;
use super::ops::Locks;
use binlog_core::proto::binlog::Binlog;

#[derive(Debug)]
pub struct Txn {
    /// What it does is drawn by this.
    pub label: u64,
    pub server: usize,
    /// `None`: a DDL step.
    pub session: Option<usize>,
    pub start_ts: u64,
    /// Schema version it was made under.
    pub version: i64,
    /// Version of its server when its commit timestamp came.
    pub checked: Option<i64>,
    pub changes: Vec<RowChange>,
    pub locks: Locks,
    pub prewrite: Binlog,
    pub primary: Vec<u8>,
    pub keys: Vec<Vec<u8>>,
    pub binlog_done: Option<bool>,
    pub kv_done: Option<bool>,
    pub phase: Phase,
    /// The commit took effect in TiKV.
    pub committed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Begin,
    /// P and the locks are on their way.
    Prewriting,
    /// Both are there; the commit timestamp is on its way.
    CommitTs,
    Committing(u64),
    RollingBack,
    /// The server is gone, or does not know the outcome: [`super::Cluster::settle`] finds out.
    Unknown,
}

/// What a token of a transaction waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    StartTs,
    Prewrite,
    CommitTs,
    Commit,
    Rollback,
}

/// Where the running DDL job stands.
#[derive(Debug, Clone, PartialEq)]
pub enum DdlPhase {
    /// The next step begins when all servers have loaded the newest version.
    Ready,
    /// The transaction of the step.
    Running(u64),
}
