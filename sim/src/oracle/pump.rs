//! Oracles of one Pump: watermark (W1, W2), index against log (D4), acknowledged data (D1), liveness of operations (H1).

use crate::kv::{SimKv, Store};
use crate::oracle::log::{C, Chain, Chained, FAKE, P, VERDICT_C, VERDICT_R};
use binlog_core::ids::{CommitTs, LogPtr, SegmentId};
use binlog_core::index::key;
use binlog_core::index::op::Change;
use binlog_core::index::value::{CommitValue, StartValue};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

type Judged = Result<(), (&'static str, String)>;

/// What was seen of a Pump's watermark in this life of its process.
#[derive(Debug, Default)]
pub struct Watch {
    /// Published, as last seen.
    pub published: u64,
    /// In any life: what was once promised stays so.
    pub highest: u64,
    /// In the index when the process started.
    persisted_before: u64,
    persisted: u64,
    pub recovered: bool,
}

impl Watch {
    pub fn restart(&mut self, kv: &SimKv) {
        let persisted = watermark(&kv.visible);
        let highest = self.highest;
        *self = Self { published: 0, highest, persisted_before: persisted, persisted, recovered: false };
    }

    /// The index is about to take these changes.
    pub fn applies(&mut self, changes: &[Change], kv: &SimKv) -> Judged {
        for change in changes {
            let Change::Put(at, value) = change else { continue };
            if at == key::META_WATERMARK {
                let stored = u64_of(value);
                if stored > self.published.max(self.persisted_before) {
                    return Err(("W1", format!("watermark {stored} is stored, published is {}", self.published)));
                }
                if stored < self.persisted {
                    return Err(("W1", format!("watermark {stored} is stored after {}", self.persisted)));
                }
                self.persisted = stored;
            } else if let Ok(ts) = key::parse_commit(at)
                && ts.raw() <= self.published
                && kv.visible.get(at) != Some(value)
            {
                return Err(("W2", format!("commit {ts} is inserted below the watermark {}", self.published)));
            }
        }
        Ok(())
    }

    /// The watermark is `now` after an input; gives the range that was newly published.
    pub fn publishes(&mut self, now: u64, recovered: bool) -> Result<Option<(u64, u64)>, (&'static str, String)> {
        if now < self.published {
            return Err(("W1", format!("the published watermark fell from {} to {now}", self.published)));
        }
        if recovered && !std::mem::replace(&mut self.recovered, true) && now < self.persisted_before {
            return Err(("W1", format!("{now} is published after a restart, stored was {}", self.persisted_before)));
        }
        let before = std::mem::replace(&mut self.published, now);
        self.highest = self.highest.max(now);
        Ok((now > before).then_some((before, now)))
    }
}

/// D6: what readers of one Pump were shown. A write that was rejected or never answered may be there, but a transaction
/// has one place in the order, in every life of the process.
#[derive(Debug, Default)]
pub struct Shown {
    /// Start → commit timestamp.
    commits: BTreeMap<u64, u64>,
}

impl Shown {
    /// A stream carries this transaction.
    pub fn item(&mut self, start_ts: u64, commit_ts: u64) -> Judged {
        match *self.commits.entry(start_ts).or_insert(commit_ts) {
            first if first == commit_ts => Ok(()),
            first => Err(("D6", format!("start {start_ts} is shown at {commit_ts}, and was shown at {first}"))),
        }
    }
}

/// W2 for one commit: it is in the index, with its transaction.
#[must_use]
pub fn indexes(kv: &SimKv, commit_ts: u64, start_ts: u64) -> bool {
    let value = kv.visible.get(&key::commit(CommitTs::new(commit_ts))).map(|raw| CommitValue::decode(raw));
    matches!(value, Some(Ok(CommitValue::Commit { start_ts: own, .. })) if own.raw() == start_ts)
}

fn watermark(store: &Store) -> u64 {
    store.get(&Bytes::from_static(key::META_WATERMARK)).map_or(0, |raw| u64_of(raw))
}

fn u64_of(raw: &[u8]) -> u64 {
    raw.last_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
}

/// D4: the index is a fold of the whole log. Only when nothing is on its way from one to the other. Commits up to the GC point are not in
/// the index; prewrites that GC took may be. `gone`: the decision about this transaction was once in the log and may have been freed.
pub fn index_is_fold(chain: &Chain, kv: &SimKv, gone: impl Fn(u64) -> bool) -> Judged {
    let err = |text: String| Err(("D4", text));
    let at = |r: &Chained| LogPtr { segment: SegmentId::new(r.segment), offset: r.offset };
    let mut starts: BTreeMap<u64, LogPtr> = BTreeMap::new();
    // A prewrite that is repeated when GC has forgotten the transaction counts where it lies then.
    let mut again: BTreeSet<(u64, LogPtr)> = BTreeSet::new();
    let mut decided = BTreeSet::new();
    let mut commits: BTreeMap<u64, u64> = BTreeMap::new();
    let mut verdicts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut fakes = BTreeSet::new();
    for r in &chain.records {
        let (kind, start, commit) = r.name;
        match kind {
            P => {
                starts.entry(start).or_insert_with(|| at(r));
                again.insert((start, at(r)));
            }
            C => {
                decided.insert(start);
                commits.insert(commit, start);
            }
            // Indexed, unless it lay at or below the watermark.
            VERDICT_C => {
                decided.insert(start);
                verdicts.insert(commit, start);
            }
            VERDICT_R => {
                decided.insert(start);
            }
            FAKE => {
                fakes.insert(commit);
            }
            _ => {}
        }
    }
    for (ts, start) in commits.range(chain.point + 1..) {
        let ptr = starts.get(start);
        match kv.visible.get(&key::commit(CommitTs::new(*ts))).map(|raw| CommitValue::decode(raw)) {
            Some(Ok(CommitValue::Commit { start_ts, prewrite, .. }))
                if start_ts.raw() == *start && Some(&prewrite.ptr) == ptr => {}
            other => return err(format!("commit {ts} of start {start} (P at {ptr:?}) is indexed as {other:?}")),
        }
    }
    let mut undecided: BTreeSet<u64> = starts.keys().filter(|s| !decided.contains(s)).copied().collect();
    for (raw, value) in &kv.visible {
        if let Ok(ts) = key::parse_commit(raw) {
            let known = match CommitValue::decode(value) {
                Ok(CommitValue::Commit { start_ts, .. }) => {
                    [&commits, &verdicts].iter().any(|known| known.get(&ts.raw()) == Some(&start_ts.raw()))
                }
                Ok(CommitValue::Fake { .. }) => fakes.contains(&ts.raw()),
                Err(_) => false,
            };
            if !known {
                return err(format!("the index has commit {ts}, the log does not"));
            }
            if ts.raw() <= chain.point {
                return err(format!("the index has commit {ts}, the GC point is {}", chain.point));
            }
        } else if let Ok(ptr) = key::parse_undecided(raw) {
            let start = value.get(..8).map_or(0, u64_of);
            let listed = undecided.remove(&start) && starts.get(&start) == Some(&ptr);
            let repeated = gone(start) && again.contains(&(start, ptr));
            if !listed && !repeated {
                return err(format!("start {start} is listed as undecided at {ptr}, by the log it is not"));
            }
        } else if let Some(start) = raw.strip_prefix(b"start/") {
            let start = u64_of(start);
            let ptr = match StartValue::decode(value) {
                Ok(StartValue::Prewrite { span, .. } | StartValue::RolledBack { span, .. }) => Some(span.ptr),
                Ok(StartValue::Hint) => None,
                Err(error) => return err(format!("start {start}: {error}")),
            };
            let freed = ptr.is_some_and(|ptr| ptr.segment.raw() < chain.first);
            if starts.get(&start).copied() != ptr && !freed && !gone(start) {
                return err(format!("start {start} is indexed at {ptr:?}, lies at {:?}", starts.get(&start)));
            }
        }
    }
    match undecided.iter().find(|start| !gone(**start)) {
        Some(start) => err(format!("start {start} is undecided by the log, the index does not list it")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_one_place() {
        let mut shown = Shown::default();
        assert!(shown.item(5, 9).is_ok() && shown.item(5, 9).is_ok() && shown.item(6, 10).is_ok());
        assert!(shown.item(5, 11).is_err_and(|(oracle, _)| oracle == "D6"));
    }
}
