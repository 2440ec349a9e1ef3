//! Slot files that carry no segment (rules 2, 6): those that GC freed are kept for reuse, up to a number that the owner names, the
//! others are removed; new ones are filled with zeros ahead of time; one is kept without a header for the next restart. Part of the
//! writer.
//!
//! Overwriting blocks that exist needs no journal commit, so a slot of full length makes appends cheap; a slot that is too short
//! only makes them slower. Nothing here can lose data: a spare slot holds nothing, and what fails is given up. Filling goes on one
//! bounded piece at a time, and only when the owner finds the log idle: a busy log grows instead.

use super::format::FIRST_BATCH;
use super::log::LogOps;
use super::op::{LogOp, LogReply};
use crate::fault::IoFault;
use crate::ids::{OpId, SlotId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What became of slots in this life, for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SlotCounters {
    /// Zeros written ahead of time, in bytes; no part of "bytes written per byte accepted".
    pub filled_bytes: u64,
    /// Slots filled completely.
    pub filled: u64,
    /// Segments that GC freed.
    pub freed: u64,
    /// Free slots that were prepared for another segment.
    pub reused: u64,
    /// Files removed.
    pub removed: u64,
    /// Fillings and removals that failed; harmless.
    pub failed: u64,
}

#[derive(Debug)]
pub(super) struct Spare {
    /// Free slots with the bytes that their files have.
    free: BTreeMap<SlotId, u64>,
    /// Of them, those without a header: a restart reuses one at once. The header of any other would have to be followed.
    blank: BTreeSet<SlotId>,
    blanking: Option<Blanking>,
    filling: Option<Filling>,
    removing: BTreeSet<OpId>,
    /// A filling failed: none is begun before `encourage`.
    discouraged: bool,
    pub counters: SlotCounters,
}

/// A free slot whose header is overwritten with zeros.
#[derive(Debug)]
struct Blanking {
    op: OpId,
    slot: SlotId,
    len: u64,
}

#[derive(Debug)]
struct Filling {
    slot: SlotId,
    created: bool,
    done: u64,
    /// The piece under way.
    op: Option<OpId>,
}

impl Spare {
    pub fn new(free: BTreeMap<SlotId, u64>) -> Self {
        let counters = SlotCounters { filled_bytes: 0, filled: 0, freed: 0, reused: 0, removed: 0, failed: 0 };
        let (blank, removing) = (BTreeSet::new(), BTreeSet::new());
        Self { free, blank, blanking: None, filling: None, removing, discouraged: false, counters }
    }

    pub fn holds(&self, slot: SlotId) -> bool {
        self.free.contains_key(&slot)
            || self.filling.as_ref().is_some_and(|filling| filling.slot == slot)
            || self.blanking.as_ref().is_some_and(|blanking| blanking.slot == slot)
    }

    /// Sees to it that one free slot has no header.
    pub fn keep_one_blank(&mut self, ops: &mut LogOps<'_>) {
        if !self.blank.is_empty() || self.blanking.is_some() || self.discouraged {
            return;
        }
        let Some((slot, len)) = self.free.pop_first() else { return };
        let op = ops.push(LogOp::Fill { slot, offset: 0, len: FIRST_BATCH });
        self.blanking = Some(Blanking { op, slot, len: len.max(FIRST_BATCH) });
    }

    /// A slot to prepare, with the bytes that it has: the longest.
    pub fn take(&mut self) -> Option<(SlotId, u64)> {
        let (slot, len) = self.free.iter().max_by_key(|(slot, len)| (**len, std::cmp::Reverse(**slot)))?;
        let taken = (*slot, *len);
        self.forget(taken.0);
        self.counters.reused += 1;
        Some(taken)
    }

    /// The segment in this slot was freed.
    pub fn give(&mut self, slot: SlotId, len: u64) {
        self.free.insert(slot, len);
        self.counters.freed += 1;
    }

    /// A file of the original is gone: it is never reused.
    pub fn remove(&mut self, slot: SlotId, ops: &mut LogOps<'_>) {
        self.counters.freed += 1;
        self.removing.insert(ops.push(LogOp::Remove { slot }));
    }

    /// Removes the files beyond `keep`, the shortest first.
    pub fn trim(&mut self, keep: usize, ops: &mut LogOps<'_>) {
        while self.free.len() > keep {
            let shortest = self.free.iter().min_by_key(|(slot, len)| (**len, std::cmp::Reverse(**slot)));
            let Some(slot) = shortest.map(|(slot, _)| *slot) else { return };
            self.forget(slot);
            self.removing.insert(ops.push(LogOp::Remove { slot }));
        }
    }

    fn forget(&mut self, slot: SlotId) {
        self.free.remove(&slot);
        self.blank.remove(&slot);
    }

    /// Space or a rotation may have changed what failed before.
    pub const fn encourage(&mut self) {
        self.discouraged = false;
    }

    /// Bytes of files that stand ready.
    pub fn bytes(&self, segment_bytes: u64) -> u64 {
        let whole = self.free.values().copied().chain(self.blanking.as_ref().map(|blanking| blanking.len));
        let free = whole.map(|len| len.min(segment_bytes)).sum::<u64>();
        free.saturating_add(self.filling.as_ref().map_or(0, |filling| filling.done))
    }

    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether [`Self::fill`] has something to do while `ahead` segments stand ready besides the free slots.
    pub fn wants_filling(&self, ahead: usize) -> bool {
        match &self.filling {
            Some(filling) => filling.op.is_none(),
            None => !self.discouraged && self.free.len() + ahead < FILL_AHEAD,
        }
    }

    /// The next piece of a new file of `len` bytes.
    pub fn fill(&mut self, len: u64, highest_slot: &mut SlotId, ops: &mut LogOps<'_>) {
        if self.filling.is_none() {
            *highest_slot = SlotId::new(highest_slot.raw().saturating_add(1));
            let slot = *highest_slot;
            let op = ops.push(LogOp::Create { slot });
            self.filling = Some(Filling { slot, created: false, done: 0, op: Some(op) });
            return;
        }
        let Some(filling) = self.filling.as_mut().filter(|filling| filling.op.is_none()) else { return };
        let piece = (len - filling.done.min(len)).min(FILL_PIECE);
        filling.op = Some(ops.push(LogOp::Fill { slot: filling.slot, offset: filling.done, len: piece }));
    }

    /// `false` if `op` is none of ours.
    pub fn handle(
        &mut self,
        op: OpId,
        result: &Result<LogReply, IoFault>,
        segment_bytes: u64,
        ops: &mut LogOps<'_>,
    ) -> bool {
        if self.removing.remove(&op) {
            match result {
                Ok(LogReply::Removed) => self.counters.removed += 1,
                // The file stays until the next start, which finds it blank or off the chain.
                _ => self.counters.failed += 1,
            }
            return true;
        }
        if let Some(Blanking { slot, len, .. }) = self.blanking.take_if(|blanking| blanking.op == op) {
            if let Ok(LogReply::Filled) = result {
                self.free.insert(slot, len);
                self.blank.insert(slot);
            } else {
                self.give_up(slot, ops);
            }
            return true;
        }
        let Some(filling) = self.filling.as_mut().filter(|filling| filling.op == Some(op)) else { return false };
        filling.op = None;
        match result {
            Ok(LogReply::Created) if !filling.created => filling.created = true,
            Ok(LogReply::Filled) if filling.created => {
                let piece = (segment_bytes - filling.done.min(segment_bytes)).min(FILL_PIECE);
                filling.done += piece;
                self.counters.filled_bytes += piece;
                if filling.done >= segment_bytes {
                    self.free.insert(filling.slot, filling.done);
                    self.blank.insert(filling.slot);
                    self.counters.filled += 1;
                    self.filling = None;
                }
            }
            _ => {
                let (slot, created) = (filling.slot, filling.created);
                self.filling = None;
                if created {
                    self.give_up(slot, ops);
                } else {
                    self.counters.failed += 1;
                    self.discouraged = true;
                }
            }
        }
        true
    }

    /// Not used at all: a descriptor whose sync failed is not to be trusted with a batch (rules 2).
    fn give_up(&mut self, slot: SlotId, ops: &mut LogOps<'_>) {
        self.counters.failed += 1;
        self.discouraged = true;
        self.removing.insert(ops.push(LogOp::Remove { slot }));
    }

    pub fn check(&self) {
        if let Some(filling) = &self.filling {
            assert!(!self.free.contains_key(&filling.slot), "a slot that is being filled is not free yet");
        }
        if let Some(blanking) = &self.blanking {
            assert!(!self.free.contains_key(&blanking.slot), "a slot that is being blanked is not free yet");
        }
        assert!(self.blank.iter().all(|slot| self.free.contains_key(slot)), "blank slots are free");
    }
}

/// Segments that stand ready at most before filling stops (rules 2).
const FILL_AHEAD: usize = 2;
/// Bytes of one filling: less than a millisecond of a fast disk, so that a write that arrives meanwhile hardly waits for it.
const FILL_PIECE: u64 = 256 << 10;
