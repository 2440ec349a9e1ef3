//! Operations of the index port (rules 3): an ordered key-value store with atomic batches and explicit flushes.

use bytes::Bytes;

/// Request to the index port. Applies and look-ups are carried out one at a time, in order. Flushes and scans see everything
/// that was asked for before them; what was asked for later may be done before they are.
#[derive(Debug, Clone)]
pub enum IndexOp {
    /// Apply all changes atomically; visible to later operations at once, durable only after a later `Flush` (a crash keeps
    /// a prefix of the applied batches that includes everything before the last completed flush).
    Apply(Vec<Change>),
    /// Make everything applied so far durable.
    Flush,
    /// Values of these keys, in the order asked.
    Get(Vec<Bytes>),
    /// Up to `limit` pairs with `from <= key < to`, ascending.
    Scan { from: Bytes, to: Bytes, limit: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// Delete every key with `from <= key < to`.
    DeleteRange(Bytes, Bytes),
}

#[derive(Debug, Clone)]
pub enum IndexReply {
    Applied,
    Flushed,
    Values(Vec<Option<Bytes>>),
    Pairs(Vec<(Bytes, Bytes)>),
}
