//! WriteBinlog: the decision order of spec pump 1.4, and who waits for which batch.

use super::space::Space;
use crate::binlog::peek::{Peek, peek};
use crate::fault::Reject;
use crate::ids::{ClusterId, LogPtr, WriteId};
use crate::index::ledger::Fact;
use crate::vlog::log::{BatchSeq, Sealed};
use crate::vlog::record::RecordKind;
use std::collections::VecDeque;

/// What the decision depends on.
#[derive(Debug, Clone)]
pub struct Gate<'a> {
    pub cluster: ClusterId,
    /// Text for "no online: …" while prewrites are refused; `None`: online.
    pub not_online: Option<&'static str>,
    /// Recovery is not complete: nothing can be stored.
    pub starting: bool,
    /// Drained for the exit: nothing can be stored any more.
    pub closed: bool,
    pub read_only: Option<&'a str>,
    pub space: &'a Space,
    /// A buffer is full: refuse what can go to another Pump.
    pub busy: Option<&'static str>,
    /// Staged bytes are at the hard limit: refuse everything.
    pub full: Option<&'static str>,
    pub max_payload_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Reject(Reject),
    /// The client's health probe: answered, not stored.
    Probe,
    Append {
        kind: RecordKind,
        peek: Peek,
    },
}

/// Spec pump 1.4, in its order; see also the spec's traps T14 (C, R and fakes are accepted when space is short).
#[must_use]
pub fn decide(gate: &Gate<'_>, cluster_id: u64, payload: &[u8]) -> Decision {
    let reject = Decision::Reject;
    if cluster_id != gate.cluster.raw() {
        return reject(Reject::ClusterMismatch { got: cluster_id, own: gate.cluster.raw() });
    }
    let peek = match peek(payload) {
        Ok(peek) => peek,
        Err(error) => return reject(Reject::Undecodable(error.to_string())),
    };
    if gate.closed {
        return reject(Reject::ShuttingDown);
    }
    if let Some(reason) = gate.read_only {
        return reject(Reject::ReadOnly(reason.to_owned()));
    }
    let is_prewrite = peek.tp == PREWRITE;
    if let Some(state) = gate.not_online.filter(|_| is_prewrite) {
        return reject(Reject::NotOnline(state));
    }
    if gate.starting {
        return reject(Reject::NotOnline("starting"));
    }
    if is_prewrite && !peek.is_fake() && !gate.space.accepts_prewrites() {
        return reject(Reject::NoSpace { available: gate.space.estimate(), limit: gate.space.refused_at() });
    }
    if peek.is_probe() {
        // The truth about what a prewrite would be told (spec pump 8.7): a client that sees the probe succeed comes back.
        return gate.busy.or(gate.full).map_or(Decision::Probe, |what| reject(Reject::Busy(what)));
    }
    if payload.len() > gate.max_payload_bytes {
        let text =
            format!("binlog of {} bytes is larger than this pump's limit of {}", payload.len(), gate.max_payload_bytes);
        return reject(Reject::Undecodable(text));
    }
    let kind = match kind_of(&peek) {
        Ok(kind) => kind,
        Err(text) => return reject(Reject::Undecodable(text)),
    };
    if let Some(what) = gate.busy.filter(|_| is_prewrite).or(gate.full) {
        return reject(Reject::Busy(what));
    }
    Decision::Append { kind, peek }
}

/// Obsolete kinds (PreDDL, PostDDL) are handled like C (spec pump 2.1).
fn kind_of(peek: &Peek) -> Result<RecordKind, String> {
    let (start, commit) = (peek.start_ts, peek.commit_ts);
    let kind = match peek.tp {
        PREWRITE => RecordKind::Prewrite,
        _ if peek.is_fake() => RecordKind::Fake,
        ROLLBACK => RecordKind::RollbackHint,
        _ => RecordKind::Commit,
    };
    let bad = match kind {
        _ if start <= 0 => Some("start_ts must be above 0"),
        RecordKind::Commit if commit <= start => Some("a commit needs a commit_ts above its start_ts"),
        _ if commit < 0 => Some("commit_ts must not be negative"),
        _ => None,
    };
    match bad {
        None => Ok(kind),
        Some(what) => Err(format!("binlog of type {} with start_ts {start}, commit_ts {commit}: {what}", peek.tp)),
    }
}

/// Records between acceptance and durability, and the calls that wait for them.
#[derive(Debug, Default)]
pub struct Unsynced {
    staged: VecDeque<Staged>,
    sealed: VecDeque<Flight>,
}

#[derive(Debug)]
struct Staged {
    batch: BatchSeq,
    fact: Fact,
    write: Option<WriteId>,
}

#[derive(Debug)]
struct Flight {
    batch: BatchSeq,
    end: LogPtr,
    writes: Vec<WriteId>,
}

impl Unsynced {
    pub fn stage(&mut self, batch: BatchSeq, fact: Fact, write: Option<WriteId>) {
        self.staged.push_back(Staged { batch, fact, write });
    }

    /// The log sealed a batch: its records, with their places in the log.
    pub fn seal(&mut self, sealed: &Sealed) -> Vec<Fact> {
        let mut facts = Vec::with_capacity(sealed.records.len());
        let mut writes = Vec::new();
        for placed in &sealed.records {
            let Some(mut staged) = self.staged.pop_front() else { break };
            let same = (staged.fact.kind, staged.fact.start_ts, staged.fact.commit_ts)
                == (placed.kind, placed.start_ts, placed.commit_ts);
            assert!(same && staged.batch == sealed.seq, "the log sealed other records than were staged");
            staged.fact.span = crate::index::value::Span { ptr: placed.ptr, len: placed.len };
            facts.push(staged.fact);
            writes.extend(staged.write);
        }
        assert_eq!(facts.len(), sealed.records.len(), "the log sealed more records than were staged");
        self.sealed.push_back(Flight { batch: sealed.seq, end: sealed.end, writes });
        facts
    }

    /// Calls that wait for batches up to `batch`, to be answered now; with `done` these batches are forgotten.
    pub fn answer(&mut self, batch: BatchSeq, done: bool) -> Vec<WriteId> {
        let mut writes = Vec::new();
        for flight in self.sealed.iter_mut().take_while(|flight| flight.batch <= batch) {
            writes.append(&mut flight.writes);
        }
        while done && self.sealed.front().is_some_and(|flight| flight.batch <= batch) {
            self.sealed.pop_front();
        }
        writes
    }

    /// The log takes no more writes: everybody who still waits.
    pub fn fail(&mut self) -> Vec<WriteId> {
        let sealed = self.sealed.drain(..).flat_map(|flight| flight.writes);
        sealed.chain(self.staged.drain(..).filter_map(|staged| staged.write)).collect()
    }

    /// Where this batch ends in the log.
    #[must_use]
    pub fn end_of(&self, batch: BatchSeq) -> Option<LogPtr> {
        self.sealed.iter().find(|flight| flight.batch == batch).map(|flight| flight.end)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.sealed.is_empty()
    }
}

const PREWRITE: i32 = 0;
const ROLLBACK: i32 = 2;

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
