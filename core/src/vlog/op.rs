//! Operations of the log-file port (rules 2). The port knows slots and bytes; segments, batches and records are ours.

use crate::ids::SlotId;
use bytes::Bytes;

/// Request to the log-file port. Operations on one slot are carried out in order; a file descriptor is kept as long as something was
/// written through it that no sync has covered.
#[derive(Debug, Clone)]
pub enum LogOp {
    /// All slot files with their sizes in bytes, ascending by id. Their directory entries are durable when the answer comes (the
    /// directory is synced first): a file whose creation a crash cut short may be reused.
    List,
    /// Create an empty slot file, sync it and the directory (and, on first use, every parent directory).
    Create { slot: SlotId },
    /// Write all `parts`, concatenated, at `offset` (extends the file when needed). Not durable until a later `Sync`.
    Write { slot: SlotId, offset: u64, parts: Vec<Bytes> },
    /// fdatasync.
    Sync { slot: SlotId },
    /// Read up to `len` bytes at `offset`; fewer at the end of the file.
    Read { slot: SlotId, offset: u64, len: u64 },
    /// Write `len` zeros at `offset` of a slot that holds nothing, and sync. In the background: it must not hold up operations on
    /// other slots. One is under way at a time.
    Fill { slot: SlotId, offset: u64, len: u64 },
    /// Remove the slot's file and sync the directory, in the background as `Fill`. Nothing is asked of this slot afterwards. A power
    /// loss before the answer may bring the file back.
    Remove { slot: SlotId },
}

impl LogOp {
    /// The slot that it is about; `None`: the directory.
    #[must_use]
    pub const fn slot(&self) -> Option<SlotId> {
        match self {
            Self::List => None,
            Self::Create { slot }
            | Self::Write { slot, .. }
            | Self::Sync { slot }
            | Self::Read { slot, .. }
            | Self::Fill { slot, .. }
            | Self::Remove { slot } => Some(*slot),
        }
    }
}

/// Answer to the operation of the same name.
#[derive(Debug, Clone)]
pub enum LogReply {
    Slots(Vec<(SlotId, u64)>),
    Created,
    Written,
    Synced,
    Data(Bytes),
    Filled,
    Removed,
}
