//! The open files of the log, of which a process may have only so many: a long history has more segments than that.
//!
//! An error of a sync is reported to the descriptor that wrote (rules 2): one with bytes that no sync has covered yet stays open, after
//! a sync that failed for good. A file without such bytes has nothing to report: the one that was used longest ago is
//! closed when another is needed, and opened again when it is. Called by `log_files`, under its lock.

use binlog_core::ids::SlotId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `F`: an open file.
#[derive(Debug)]
pub struct Descriptors<F> {
    limit: usize,
    /// Rises with each use.
    clock: u64,
    open: BTreeMap<SlotId, Descriptor<F>>,
}

#[derive(Debug)]
struct Descriptor<F> {
    file: Arc<F>,
    used: u64,
    /// Written to since the last sync that succeeded.
    dirty: bool,
}

impl<F> Default for Descriptors<F> {
    fn default() -> Self {
        Self::new(MAX_OPEN)
    }
}

impl<F> Descriptors<F> {
    const fn new(limit: usize) -> Self {
        Self { limit, clock: 0, open: BTreeMap::new() }
    }

    /// The open file of this slot; `writes`: it is about to be written to.
    pub fn get(&mut self, slot: SlotId, writes: bool) -> Option<Arc<F>> {
        self.clock += 1;
        let descriptor = self.open.get_mut(&slot)?;
        descriptor.used = self.clock;
        descriptor.dirty |= writes;
        Some(Arc::clone(&descriptor.file))
    }

    /// The file of this slot was opened.
    pub fn put(&mut self, slot: SlotId, file: Arc<F>, writes: bool) {
        while self.open.len() >= self.limit {
            let clean = self.open.iter().filter(|(_, descriptor)| !descriptor.dirty);
            let Some(oldest) = clean.min_by_key(|(_, descriptor)| descriptor.used).map(|(slot, _)| *slot) else {
                break;
            };
            self.open.remove(&oldest);
        }
        self.clock += 1;
        self.open.insert(slot, Descriptor { file, used: self.clock, dirty: writes });
    }

    /// A sync of everything that was written through it succeeded.
    pub fn synced(&mut self, slot: SlotId) {
        if let Some(descriptor) = self.open.get_mut(&slot) {
            descriptor.dirty = false;
        }
    }

    pub fn remove(&mut self, slot: SlotId) {
        self.open.remove(&slot);
    }
}

/// Two descriptors each. Processes often may have 1024; the index takes up to 256, connections the rest.
pub const MAX_OPEN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_stays_open_and_the_longest_unused_is_closed() {
        let file = || Arc::new(());
        let slot = SlotId::new;
        let mut open = Descriptors::new(3);
        let written = Arc::new(());
        open.put(slot(1), Arc::clone(&written), true);
        open.put(slot(2), file(), false);
        open.put(slot(3), file(), false);
        assert!(open.get(slot(2), false).is_some());
        open.put(slot(4), file(), false);
        let there = |open: &Descriptors<()>| open.open.keys().map(|slot| slot.raw()).collect::<Vec<_>>();
        assert_eq!(there(&open), [1, 2, 4], "3 was not used since");
        // All have something to report: none is closed.
        assert!(open.get(slot(2), true).is_some() && open.get(slot(4), true).is_some());
        open.put(slot(5), file(), true);
        assert_eq!(there(&open), [1, 2, 4, 5]);
        assert!(Arc::ptr_eq(&open.get(slot(1), false).unwrap(), &written));
        for clean in [1, 2] {
            open.synced(slot(clean));
        }
        open.put(slot(6), file(), false);
        assert_eq!(there(&open), [4, 5, 6]);
        open.remove(slot(6));
        assert!(open.get(slot(6), true).is_none());
    }
}
