//! VirtualDisk: the log-file port as a real disk may behave (rules 2 and 10, invariants 3).
//!
//! Visible bytes (what a read returns, the page cache) and durable bytes (what a power loss leaves) are kept apart per slot
//! file; a directory entry has a durability of its own. SIGKILL keeps what is visible; a power loss keeps, loses, tears or
//! garbles each un-synced 4 KiB page on its own. A failed sync drops dirty data: the pages read new, are clean, and are not
//! durable.

use crate::rng::Rng;
use binlog_core::fault::IoFault;
use binlog_core::ids::SlotId;
use binlog_core::vlog::op::{LogOp, LogReply};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub const PAGE: usize = 4096;
/// A file gets this much memory at once, instead of moving at each step of its growth.
const FIRST_ROOM: usize = 64 << 10;
/// Bytes of a disk that nobody fills.
pub const UNLIMITED: u64 = 1 << 40;

#[derive(Debug, Default, Clone)]
pub struct File {
    pub visible: Vec<u8>,
    pub durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Dropped by a failed sync: readable until evicted, clean, not durable.
    lost: BTreeSet<usize>,
    /// The directory knows the file now, but perhaps not after a power loss.
    loose: bool,
}

#[derive(Debug)]
pub struct VirtualDisk {
    pub files: BTreeMap<SlotId, File>,
    /// Removed, but the directory may not know after a power loss.
    undead: BTreeMap<SlotId, File>,
    rng: Rng,
    /// Faults that wait for their operation.
    pub armed: Armed,
    /// The port forgets to sync the directory (canary).
    pub skip_directory_sync: bool,
    /// All files together may become this large.
    pub capacity: u64,
}

/// Faults armed by actions of the plan; each counts down on the next fitting operation.
#[derive(Debug, Default, Clone)]
pub struct Armed {
    pub sync: u32,
    pub write: u32,
    pub short_write: u32,
    pub read: u32,
    pub create: u32,
    /// Every write that extends a file fails.
    pub no_space: bool,
}

impl VirtualDisk {
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self {
            files: BTreeMap::new(),
            undead: BTreeMap::new(),
            rng,
            armed: Armed::default(),
            skip_directory_sync: false,
            capacity: UNLIMITED,
        }
    }

    pub fn execute(&mut self, op: &LogOp) -> Result<LogReply, IoFault> {
        match op {
            LogOp::List => {
                if !self.skip_directory_sync {
                    self.files.values_mut().for_each(|file| file.loose = false);
                    self.undead.clear();
                }
                Ok(LogReply::Slots(self.files.iter().map(|(slot, f)| (*slot, f.visible.len() as u64)).collect()))
            }
            LogOp::Create { slot } => {
                let fail = take(&mut self.armed.create) || self.armed.no_space;
                if fail && self.rng.percent(50) {
                    return Err(injected("create"));
                }
                assert!(!self.files.contains_key(slot), "slot {slot} is created twice");
                let loose = fail || self.skip_directory_sync;
                self.files.insert(*slot, File { loose, ..File::default() });
                self.undead.remove(slot);
                if fail { Err(injected("create")) } else { Ok(LogReply::Created) }
            }
            LogOp::Write { slot, offset, parts } => {
                self.write(*slot, to_usize(*offset), parts.iter().map(Bytes::len).sum(), parts)
            }
            LogOp::Sync { slot } => self.sync(*slot),
            LogOp::Fill { slot, offset, len } => {
                self.write(*slot, to_usize(*offset), to_usize(*len), &[])?;
                self.sync(*slot)?;
                Ok(LogReply::Filled)
            }
            LogOp::Remove { slot } => {
                let fail = take(&mut self.armed.create);
                if fail && self.rng.percent(50) {
                    return Err(injected("remove"));
                }
                let file = self.files.remove(slot).ok_or_else(|| IoFault::NotFound(slot.to_string()))?;
                if fail || self.skip_directory_sync {
                    self.undead.insert(*slot, file);
                }
                if fail { Err(injected("remove")) } else { Ok(LogReply::Removed) }
            }
            LogOp::Read { slot, offset, len } => {
                if take(&mut self.armed.read) {
                    return Err(injected("read"));
                }
                let file = self.files.get(slot).ok_or_else(|| IoFault::NotFound(slot.to_string()))?;
                let from = to_usize(*offset).min(file.visible.len());
                let to = from.saturating_add(to_usize(*len)).min(file.visible.len());
                Ok(LogReply::Data(Bytes::copy_from_slice(&file.visible[from..to])))
            }
        }
    }

    /// Bytes that files can still grow by.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    #[must_use]
    pub fn used(&self) -> u64 {
        self.files.values().map(|file| file.visible.len() as u64).sum()
    }

    /// Writes `full` bytes: those of `parts`, zeros behind them.
    fn write(&mut self, slot: SlotId, from: usize, full: usize, parts: &[Bytes]) -> Result<LogReply, IoFault> {
        let free = self.free();
        let file = self.files.get_mut(&slot).ok_or_else(|| IoFault::NotFound(slot.to_string()))?;
        let grows = (from + full).saturating_sub(file.visible.len());
        if grows as u64 > free {
            return Err(IoFault::NoSpace("the disk is full".to_owned()));
        }
        let no_space = self.armed.no_space && grows > 0;
        let mut len = full;
        let fail = if take(&mut self.armed.write) {
            len = 0;
            true
        } else if no_space || take(&mut self.armed.short_write) {
            len = to_usize(self.rng.below(full as u64));
            true
        } else {
            false
        };
        let end = from + len;
        if file.visible.len() < end {
            if file.visible.capacity() == 0 {
                file.visible.reserve(FIRST_ROOM.max(end));
            }
            file.visible.resize(end, 0);
        }
        let mut at = from;
        for part in parts {
            let n = part.len().min(end - at);
            file.visible[at..at + n].copy_from_slice(&part[..n]);
            at += n;
        }
        file.visible[at..end].fill(0);
        for page in from / PAGE..end.div_ceil(PAGE) {
            file.dirty.insert(page);
            file.lost.remove(&page);
        }
        match fail {
            false => Ok(LogReply::Written),
            true if no_space => Err(IoFault::NoSpace("injected".to_owned())),
            true => Err(injected("write")),
        }
    }

    fn sync(&mut self, slot: SlotId) -> Result<LogReply, IoFault> {
        let fail = take(&mut self.armed.sync);
        let file = self.files.get_mut(&slot).ok_or_else(|| IoFault::NotFound(slot.to_string()))?;
        for page in std::mem::take(&mut file.dirty) {
            if fail && self.rng.percent(60) {
                file.lost.insert(page);
            } else {
                file.persist(page);
            }
        }
        if fail { Err(injected("sync")) } else { Ok(LogReply::Synced) }
    }

    /// The process dies; what was written can be read. Pages that a failed sync dropped may have been evicted meanwhile.
    pub fn kill(&mut self) {
        for file in self.files.values_mut() {
            if !file.lost.is_empty() && self.rng.percent(50) {
                for page in std::mem::take(&mut file.lost) {
                    file.evict(page);
                }
            }
        }
    }

    /// The power goes: each page that was not synced survives, vanishes, is torn in 512-byte sectors, or garbled.
    pub fn power_loss(&mut self) {
        for (slot, file) in std::mem::take(&mut self.undead) {
            if self.rng.percent(50) {
                self.files.insert(slot, file);
            }
        }
        let slots: Vec<_> = self.files.keys().copied().collect();
        for slot in slots {
            let Some(mut file) = self.files.remove(&slot) else { continue };
            if file.loose && self.rng.percent(50) {
                continue;
            }
            for page in std::mem::take(&mut file.dirty) {
                match self.rng.below(5) {
                    0 | 1 => {}
                    2 => file.persist(page),
                    3 => file.tear(page, &mut self.rng),
                    _ => file.garble(page, &mut self.rng),
                }
            }
            file.visible.clone_from(&file.durable);
            file.lost.clear();
            file.loose = false;
            self.files.insert(slot, file);
        }
    }

    /// As a crash may catch it: the operation under way has happened, or not, and was not answered.
    pub fn crash_within(&mut self, op: &LogOp) {
        match op {
            LogOp::Read { .. } | LogOp::List => {}
            _ if self.rng.percent(40) => {}
            LogOp::Create { slot } => {
                self.files.entry(*slot).or_insert_with(|| File { loose: true, ..File::default() });
            }
            LogOp::Remove { slot } => {
                if let Some(file) = self.files.remove(slot) {
                    self.undead.insert(*slot, file);
                }
            }
            LogOp::Write { .. } | LogOp::Sync { .. } | LogOp::Fill { .. } => drop(self.execute(op)),
        }
    }

    /// Damage at rest: one bit of what is durable flips (profile `rot` only). False: there is nothing to damage.
    pub fn rot(&mut self) -> bool {
        let sizes: Vec<_> = self.files.iter().map(|(slot, f)| (*slot, f.durable.len() as u64)).collect();
        let total: u64 = sizes.iter().map(|(_, len)| len).sum();
        if total == 0 {
            return false;
        }
        let mut at = self.rng.below(total);
        for (slot, len) in sizes {
            if at < len {
                let bit = 1 << self.rng.below(8);
                if let Some(file) = self.files.get_mut(&slot) {
                    let at = to_usize(at);
                    file.durable[at] ^= bit;
                    if let Some(byte) = file.visible.get_mut(at) {
                        *byte ^= bit;
                    }
                }
                return true;
            }
            at -= len;
        }
        false
    }

    /// Whether these bytes lie here in what a power loss would leave, and the file itself would be there.
    #[must_use]
    pub fn holds_durably(&self, slot: SlotId, at: usize, bytes: &[u8]) -> bool {
        self.files
            .get(&slot)
            .is_some_and(|file| !file.loose && file.durable.get(at..at + bytes.len()).is_some_and(|have| have == bytes))
    }
}

impl File {
    fn persist(&mut self, page: usize) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.visible.len()));
        if self.durable.capacity() == 0 {
            self.durable.reserve(FIRST_ROOM.max(to));
        }
        if self.durable.len() < from {
            self.durable.resize(from, 0);
        }
        // What is there is overwritten, the rest is new.
        let known = self.durable.len().min(to);
        self.durable[from..known].copy_from_slice(&self.visible[from..known]);
        self.durable.extend_from_slice(&self.visible[known..to]);
    }

    fn evict(&mut self, page: usize) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.visible.len()));
        for at in from..to {
            self.visible[at] = self.durable.get(at).copied().unwrap_or(0);
        }
    }

    fn tear(&mut self, page: usize, rng: &mut Rng) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.visible.len()));
        let old: Vec<u8> = (from..to).map(|at| self.durable.get(at).copied().unwrap_or(0)).collect();
        self.persist(page);
        for begin in (0..to - from).step_by(512) {
            if rng.percent(50) {
                let end = (begin + 512).min(old.len());
                self.durable[from + begin..from + end].copy_from_slice(&old[begin..end]);
            }
        }
    }

    fn garble(&mut self, page: usize, rng: &mut Rng) {
        self.persist(page);
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.durable.len()));
        for chunk in self.durable[from..to].chunks_mut(8) {
            let noise = rng.next_u64().to_le_bytes();
            chunk.copy_from_slice(&noise[..chunk.len()]);
        }
    }
}

fn take(armed: &mut u32) -> bool {
    let fires = *armed > 0;
    *armed = armed.saturating_sub(1);
    fires
}

/// Every injected error says so: the oracle of expected faults looks for the word.
fn injected(what: &str) -> IoFault {
    IoFault::Other(format!("injected failure of {what}"))
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = SlotId::new(1);

    fn disk(seed: u64) -> VirtualDisk {
        let mut disk = VirtualDisk::new(Rng::new(seed));
        assert!(matches!(disk.execute(&LogOp::Create { slot: SLOT }), Ok(LogReply::Created)));
        disk
    }

    fn write(disk: &mut VirtualDisk, offset: u64, byte: u8) -> Result<LogReply, IoFault> {
        disk.execute(&LogOp::Write { slot: SLOT, offset, parts: vec![vec![byte; PAGE].into()] })
    }

    #[test]
    fn power_loss_spares_what_was_synced_and_nothing_else_is_certain() {
        let (mut kept, mut gone, mut other) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = disk(seed);
            write(&mut disk, 0, 1).unwrap();
            disk.execute(&LogOp::Sync { slot: SLOT }).unwrap();
            write(&mut disk, 4096, 2).unwrap();
            disk.power_loss();
            let file = &disk.files[&SLOT];
            assert_eq!(file.visible[..PAGE], [1; PAGE]);
            match file.visible.get(PAGE..) {
                Some(tail) if tail == [2; PAGE] => kept += 1,
                Some([]) | None => gone += 1,
                Some(_) => other += 1,
            }
        }
        assert!(kept > 20 && gone > 20 && other > 20, "{kept} {gone} {other}");
    }

    #[test]
    fn a_failed_sync_leaves_pages_that_read_new_and_are_not_durable() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut disk = disk(seed);
            write(&mut disk, 0, 1).unwrap();
            disk.armed.sync = 1;
            assert!(disk.execute(&LogOp::Sync { slot: SLOT }).is_err());
            assert!(disk.execute(&LogOp::Sync { slot: SLOT }).is_ok(), "the next one succeeds");
            assert_eq!(disk.files[&SLOT].visible, [1; PAGE]);
            lost += u32::from(!disk.holds_durably(SLOT, 0, &[1; PAGE]));
        }
        assert!((10..50).contains(&lost), "{lost}");
    }

    #[test]
    fn without_the_directory_sync_a_file_may_vanish_with_all_that_was_synced() {
        let mut gone = 0;
        for seed in 0..50 {
            let mut disk = VirtualDisk::new(Rng::new(seed));
            disk.skip_directory_sync = true;
            disk.execute(&LogOp::Create { slot: SLOT }).unwrap();
            write(&mut disk, 0, 1).unwrap();
            disk.execute(&LogOp::Sync { slot: SLOT }).unwrap();
            assert!(!disk.holds_durably(SLOT, 0, &[1; PAGE]));
            disk.power_loss();
            gone += u32::from(disk.files.is_empty());
        }
        assert!((10..45).contains(&gone), "{gone}");
    }
}
