//! SimKv: the index port as RocksDB without a WAL behaves (rules 3): atomic batches, visible at once; a crash keeps a prefix
//! of them that ends at or after the last completed flush.

use crate::rng::Rng;
use binlog_core::fault::IoFault;
use binlog_core::index::op::{Change, IndexOp, IndexReply};
use bytes::Bytes;
use std::collections::BTreeMap;

pub type Store = BTreeMap<Bytes, Bytes>;

#[derive(Debug)]
pub struct SimKv {
    pub visible: Store,
    durable: Store,
    /// Applied since the last flush.
    unflushed: Vec<Vec<Change>>,
    rng: Rng,
    /// Operations that fail next.
    pub armed: u32,
    /// Everything fails.
    pub broken: bool,
    /// Keys of `undecided/` live in a store that is flushed on its own (canary).
    pub flushed_apart: bool,
}

impl SimKv {
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self {
            visible: Store::new(),
            durable: Store::new(),
            unflushed: Vec::new(),
            rng,
            armed: 0,
            broken: false,
            flushed_apart: false,
        }
    }

    pub fn execute(&mut self, op: IndexOp) -> Result<IndexReply, IoFault> {
        if self.broken || self.armed > 0 {
            self.armed = self.armed.saturating_sub(1);
            return Err(IoFault::Other("injected failure of the index".to_owned()));
        }
        Ok(match op {
            IndexOp::Apply(changes) => {
                apply(&mut self.visible, &changes);
                self.unflushed.push(changes);
                IndexReply::Applied
            }
            IndexOp::Flush => {
                for batch in std::mem::take(&mut self.unflushed) {
                    apply(&mut self.durable, &batch);
                }
                IndexReply::Flushed
            }
            IndexOp::Get(keys) => IndexReply::Values(keys.iter().map(|key| self.visible.get(key).cloned()).collect()),
            IndexOp::Scan { from, to, limit } => {
                let pairs = if from < to {
                    self.visible.range(from..to).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect()
                } else {
                    Vec::new()
                };
                IndexReply::Pairs(pairs)
            }
        })
    }

    /// A value as a power loss would leave it.
    #[must_use]
    pub fn flushed(&self, key: &[u8]) -> Option<&Bytes> {
        self.durable.get(key)
    }

    /// The process dies: some prefix of what was not flushed stays.
    pub fn crash(&mut self) {
        let batches = std::mem::take(&mut self.unflushed);
        let kept = usize::try_from(self.rng.below(batches.len() as u64 + 1)).unwrap_or(0);
        for (i, batch) in batches.iter().enumerate() {
            if i < kept {
                apply(&mut self.durable, batch);
            } else if self.flushed_apart {
                let is_apart = |change: &&Change| match change {
                    Change::Put(key, _) | Change::Delete(key) | Change::DeleteRange(key, _) => {
                        key.starts_with(b"undecided/") || key.starts_with(b"commit/")
                    }
                };
                let rest: Vec<_> = batch.iter().filter(|c| !is_apart(c)).cloned().collect();
                apply(&mut self.durable, &rest);
            }
        }
        self.visible.clone_from(&self.durable);
    }
}

fn apply(store: &mut Store, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, value) => {
                store.insert(key.clone(), value.clone());
            }
            Change::Delete(key) => {
                store.remove(key);
            }
            Change::DeleteRange(from, to) => {
                let keys: Vec<_> = store.range(from.clone()..to.clone()).map(|(k, _)| k.clone()).collect();
                keys.iter().for_each(|key| drop(store.remove(key)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_a_prefix_at_or_after_the_last_flush() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut kv = SimKv::new(Rng::new(seed));
            for i in 0..6u8 {
                let put = Change::Put(Bytes::copy_from_slice(&[i]), Bytes::from_static(b"v"));
                kv.execute(IndexOp::Apply(vec![put])).unwrap();
                if i == 2 {
                    kv.execute(IndexOp::Flush).unwrap();
                }
            }
            kv.crash();
            let n = kv.visible.len();
            assert!(kv.visible.keys().enumerate().all(|(i, key)| usize::from(key[0]) == i), "a prefix");
            seen.insert(n);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }
}
