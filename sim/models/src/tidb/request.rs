//! What a TiDB cluster asks of the world, and the answers it takes.
//!
//! Each [`Request`] has a token; the world carries it out when it likes and gives the answer back with
//! [`super::Cluster::complete`], once, late, or never. An answer to a token that nobody waits for any more is ignored.

use crate::tikv::{KvError, Mutation};
use binlog_core::time::Tso;
use bytes::Bytes;

/// Pairs a request with its answer; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub token: Token,
    /// Index of the TiDB server that asks: its link to the others is the world's.
    pub server: usize,
    pub call: Call,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A fresh timestamp from PD: [`Reply::Ts`] or [`Reply::Failed`].
    GetTs,
    /// WriteBinlog to the Pump with this node id: [`Reply::Written`] or [`Reply::Failed`]. The client's own time-out runs here.
    SendBinlog { pump: String, payload: Bytes, kind: BinlogKind },
    /// A request to TiKV: carry it out with [`super::Cluster::run_kv`] when it arrives there, then bring its answer back.
    /// [`Reply::Failed`]: timed out, the effect may or may not have been.
    Kv(KvOp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BinlogKind {
    Prewrite,
    Commit,
    Rollback,
    /// Empty payload: is the Pump well?
    Probe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvOp {
    Prewrite { mutations: Vec<(Vec<u8>, Mutation)>, primary: Vec<u8>, start_ts: u64, ttl_ms: u64 },
    Commit { keys: Vec<Vec<u8>>, start_ts: u64, commit_ts: u64 },
    Rollback { keys: Vec<Vec<u8>>, start_ts: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Ts(Tso),
    /// The Pump answered; a text is a refusal.
    Written {
        errmsg: String,
    },
    Kv(Result<(), KvError>),
    /// No answer: connection lost, refused or timed out. For Pumps and PD `unavailable` is gRPC's status.
    Failed {
        unavailable: bool,
        text: String,
    },
}
