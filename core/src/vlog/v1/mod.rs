//! Value logs of the original (v1), which are read in place and never written to (spec pump 3.2, rules 3 last point).
//!
//! `record` has the bytes: one record, the footer, and what a record means. `scan` walks a file in pieces and tolerates garbage as
//! the original's own reader does. The file with number N is segment N + 1 of our log, so v1 sorts before v2; [`slot`] names it
//! for the log-file port. The import itself is `pump::original`, single reads are the log's.

pub mod record;
pub mod scan;

use crate::ids::{SegmentId, SlotId};

/// The segment that the original's file `number` is.
#[must_use]
pub const fn segment(number: u32) -> SegmentId {
    SegmentId::new(number as u64 + 1)
}

/// The file that is this segment, if it can be one.
#[must_use]
pub fn number(segment: SegmentId) -> Option<u32> {
    segment.raw().checked_sub(1).and_then(|number| u32::try_from(number).ok())
}

/// How the log-file port knows the original's file `number`: slots of our own never come near these ids.
#[must_use]
pub const fn slot(number: u32) -> SlotId {
    SlotId::new(FIRST_SLOT + number as u64)
}

/// The original's file that this slot id stands for; `None`: a slot of our own.
#[must_use]
pub fn file_of(slot: SlotId) -> Option<u32> {
    slot.raw().checked_sub(FIRST_SLOT).and_then(|number| u32::try_from(number).ok())
}

/// Our own slots are counted from 1; a directory does not hold 2^32 files.
const FIRST_SLOT: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_files_and_of_our_own_slots_are_apart() {
        for file in [0, 1, u32::MAX] {
            assert_eq!(number(segment(file)), Some(file));
            assert_eq!(file_of(slot(file)), Some(file));
        }
        assert_eq!(number(SegmentId::ZERO), None);
        assert_eq!(file_of(SlotId::new(u64::from(u32::MAX))), None);
        assert_eq!(file_of(SlotId::new(u64::MAX)), None);
        assert!(segment(7) < segment(8));
    }
}
