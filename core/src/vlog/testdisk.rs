//! An in-memory disk for tests of the log (rules 10): what can be read and what is durable are apart, page by page.
//!
//! * Kill: what was written stays readable. Power loss: each un-synced page of 4 KiB is kept, lost, torn by sector or garbled,
//!   independently of the others.
//! * A failed sync leaves pages that read new, count as clean, are not touched by a later sync and vanish with the power.
//! * A file whose removal a crash cut short may come back with the power loss, with all that was durable in it.
//! * A failed write leaves a prefix. A file that was being created may or may not exist after a kill, and one that exists then
//!   may vanish with the power until its directory is synced.

use super::op::{LogOp, LogReply};
use super::segment::Salts;
use crate::fault::IoFault;
use crate::ids::SlotId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub const PAGE: usize = 4096;

#[derive(Debug)]
pub struct Disk {
    pub files: BTreeMap<SlotId, File>,
    /// Removed, but the directory may not know after a power loss.
    undead: BTreeMap<SlotId, File>,
    rng: Salts,
    /// The next write, sync or create fails.
    pub fail_next: bool,
}

#[derive(Debug, Default, Clone)]
pub struct File {
    pub visible: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Dropped by a failed sync: readable, clean, not durable.
    lost: BTreeSet<usize>,
    /// The directory knows the file, but perhaps not after a power loss.
    entry_is_loose: bool,
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        Self { files: BTreeMap::new(), undead: BTreeMap::new(), rng: Salts::new(seed), fail_next: false }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.rng.next() % n as u64) as usize
    }

    /// A durable file with these contents.
    pub fn put(&mut self, slot: SlotId, contents: Vec<u8>) {
        let file = File { visible: contents.clone(), durable: contents, ..File::default() };
        self.files.insert(slot, file);
    }

    /// Everything written so far becomes durable, for tests that edit files.
    pub fn settle(&mut self) {
        for file in self.files.values_mut() {
            *file = File { visible: file.visible.clone(), durable: file.visible.clone(), ..File::default() };
        }
    }

    pub fn execute(&mut self, op: &LogOp) -> Result<LogReply, IoFault> {
        let changes = !matches!(op, LogOp::List | LogOp::Read { .. });
        let fail = changes && std::mem::take(&mut self.fail_next);
        let error = || IoFault::NoSpace("injected".to_owned());
        match op {
            LogOp::List => {
                for file in self.files.values_mut() {
                    file.entry_is_loose = false;
                }
                self.undead.clear();
                Ok(LogReply::Slots(self.files.iter().map(|(slot, f)| (*slot, f.visible.len() as u64)).collect()))
            }
            LogOp::Create { slot } => {
                if fail && self.below(2) == 0 {
                    return Err(error());
                }
                assert!(!self.files.contains_key(slot), "slot {slot} is created twice");
                self.files.insert(*slot, File { entry_is_loose: fail, ..File::default() });
                self.undead.remove(slot);
                if fail { Err(error()) } else { Ok(LogReply::Created) }
            }
            LogOp::Fill { slot, offset, len } => {
                let write = LogOp::Write { slot: *slot, offset: *offset, parts: vec![vec![0; *len as usize].into()] };
                self.fail_next = fail;
                self.execute(&write)?;
                self.execute(&LogOp::Sync { slot: *slot })?;
                Ok(LogReply::Filled)
            }
            LogOp::Remove { slot } => {
                let file = self.files.remove(slot).expect("removal of a file that exists");
                if fail {
                    self.undead.insert(*slot, file);
                    return Err(error());
                }
                Ok(LogReply::Removed)
            }
            LogOp::Write { slot, offset, parts } => {
                let mut data = parts.concat();
                if fail {
                    let keep = self.below(data.len() + 1);
                    data.truncate(keep);
                }
                let file = self.files.get_mut(slot).expect("write to a file that exists");
                let (from, to) = (*offset as usize, *offset as usize + data.len());
                assert_eq!(from % PAGE, 0, "writes begin on block boundaries");
                if file.visible.len() < to {
                    file.visible.resize(to, 0);
                }
                file.visible[from..to].copy_from_slice(&data);
                for page in from / PAGE..to.div_ceil(PAGE) {
                    file.dirty.insert(page);
                    file.lost.remove(&page);
                }
                if fail { Err(error()) } else { Ok(LogReply::Written) }
            }
            LogOp::Sync { slot } => {
                let mut dirty =
                    std::mem::take(&mut self.files.get_mut(slot).expect("sync of a file that exists").dirty);
                let mut lost = BTreeSet::new();
                if fail {
                    lost = dirty.iter().copied().filter(|_| self.rng.next().is_multiple_of(2)).collect();
                    dirty.retain(|page| !lost.contains(page));
                }
                let file = self.files.get_mut(slot).expect("it was there");
                for page in dirty {
                    file.persist(page);
                }
                file.lost.extend(lost);
                if fail { Err(error()) } else { Ok(LogReply::Synced) }
            }
            LogOp::Read { slot, offset, len } => {
                let file = self.files.get(slot).ok_or_else(|| IoFault::NotFound(slot.to_string()))?;
                let from = (*offset as usize).min(file.visible.len());
                let to = from.saturating_add(*len as usize).min(file.visible.len());
                Ok(LogReply::Data(Bytes::copy_from_slice(&file.visible[from..to])))
            }
        }
    }

    /// The power goes.
    pub fn power_loss(&mut self) {
        for (slot, file) in std::mem::take(&mut self.undead) {
            if self.below(2) == 0 {
                self.files.insert(slot, file);
            }
        }
        let slots: Vec<_> = self.files.keys().copied().collect();
        for slot in slots {
            let mut file = self.files.remove(&slot).expect("listed");
            if file.entry_is_loose && self.below(2) == 0 {
                continue;
            }
            for page in std::mem::take(&mut file.dirty) {
                match self.below(4) {
                    0 => {}
                    1 => file.persist(page),
                    2 => {
                        let old = file.durable.clone();
                        file.persist(page);
                        for sector in page * 8..page * 8 + 8 {
                            let range = sector * 512..((sector + 1) * 512).min(file.durable.len());
                            if range.start < range.end && self.below(2) == 0 {
                                for at in range {
                                    file.durable[at] = old.get(at).copied().unwrap_or(0);
                                }
                            }
                        }
                    }
                    _ => {
                        file.persist(page);
                        let end = ((page + 1) * PAGE).min(file.durable.len());
                        for at in page * PAGE..end {
                            file.durable[at] = self.rng.next() as u8;
                        }
                    }
                }
            }
            let durable = file.durable;
            self.put(slot, durable);
        }
    }

    /// As `power_loss`, with an operation under way.
    pub fn crash_within(&mut self, op: &LogOp) {
        match op {
            LogOp::Create { .. } if self.below(2) == 0 => {}
            LogOp::Create { slot } => {
                self.files.insert(*slot, File { entry_is_loose: true, ..File::default() });
            }
            LogOp::Remove { .. } if self.below(2) == 0 => {}
            LogOp::Remove { .. } => {
                self.fail_next = true;
                drop(self.execute(op));
                self.fail_next = false;
            }
            LogOp::Read { .. } | LogOp::List => {}
            op => drop(self.execute(op)),
        }
    }
}

impl File {
    fn persist(&mut self, page: usize) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.visible.len()));
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.visible[from..to]);
    }
}
