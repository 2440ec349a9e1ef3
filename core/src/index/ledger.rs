//! What each transaction's records mean (rules 1, 3, 4): a fold over the log, the same while running and at recovery.
//!
//! Holds every start_ts that is undecided, or that a record refers to which is not indexed yet; everything else is looked up
//! in the index. `fold` takes durable records in log order and answers with index changes, the places to give back once they
//! are applied, and the faults that it saw. A P is decided by a client's C or by a verdict that is in the log; a client's R is
//! a hint to ask TiKV at once and decides nothing ([`crate::pump::resolve`]).

use super::key;
use super::named::Named;
use super::op::Change;
use super::segments::Joined;
use super::value::{CommitValue, Digest, Span, StartValue, encode_undecided};
use crate::canary::{self, Canary};
use crate::fault::Fault;
use crate::ids::{CommitTs, LogPtr, SegmentId, StartTs};
use crate::sorter::Place;
use crate::vlog::record::RecordKind;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A stored record as the fold needs it.
#[derive(Debug, Clone, Copy)]
pub struct Fact {
    pub kind: RecordKind,
    pub start_ts: StartTs,
    pub commit_ts: CommitTs,
    pub span: Span,
    pub digest: Digest,
    /// C has fields that our message does not know.
    pub unknown_fields: bool,
    /// Place in the waiting queue: of a P its own (none when it joined another's), of a timestamp its frontier.
    pub place: Option<Place>,
    /// What the index holds under this commit_ts, where that was asked.
    pub known_commit: Option<StartTs>,
}

/// A P whose start_ts was accepted before, with another payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    pub first: Digest,
    pub second: Digest,
}

/// How an accepted P relates to what is known in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Needs a place in the waiting queue.
    New,
    /// Repeats one that is known: that one's place counts for both.
    Repeated,
}

/// The parts of the watermark that the fold compares with.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// W: nothing is inserted at or below it.
    pub watermark: CommitTs,
    /// The logged part of it, which the index keeps.
    pub logged: CommitTs,
    pub gc: CommitTs,
}

/// What folding records asks for; collected for one index batch.
#[derive(Debug, Default)]
pub struct Folded {
    pub changes: Vec<Change>,
    /// To give back or let pass in the waiting queue once the changes are applied.
    pub places: Vec<Place>,
    /// One reference each, to give back once the changes are applied.
    pub references: Vec<StartTs>,
    pub faults: Vec<Fault>,
    /// The watermark must stay below the smallest of these.
    pub freeze: Option<CommitTs>,
    /// The GC point moved here.
    pub gc: Option<CommitTs>,
    /// Entries of the index that `changes` add.
    pub commits: Vec<(CommitTs, CommitValue)>,
    /// Commits that entered the index, since the owner took them.
    pub joined: Vec<Joined>,
    /// Prewrites that were decided.
    pub decided: Vec<StartTs>,
    /// Undecided prewrites whose client sent R: to be asked about at once.
    pub hinted: Vec<StartTs>,
    /// An operator lifted the freeze, and nothing broke since.
    pub lifted: bool,
}

/// Counters for status and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    pub repeated_prewrites: u64,
    pub repeated_commits: u64,
    /// Client's commits at or below the GC point: acknowledged, not indexed.
    pub commits_below_gc: u64,
    /// Timestamps at or below the watermark that carry nothing.
    pub late_fakes: u64,
    /// R of clients for undecided prewrites: hints.
    pub hints: u64,
    /// R that changed nothing.
    pub idle_rollbacks: u64,
    /// Verdicts that decided a prewrite.
    pub verdict_commits: u64,
    pub verdict_rollbacks: u64,
    /// Verdicts at or below the watermark: another Pump has delivered the transaction (rules 4).
    pub late_verdicts: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    txns: BTreeMap<StartTs, Txn>,
    pub named: Named,
    pub counters: Counters,
}

#[derive(Debug)]
struct Txn {
    /// Records that refer to it and are not applied to the index yet.
    references: u32,
    lookup: bool,
    /// Of the first P that was accepted, folded or not.
    accepted: Option<Digest>,
    state: State,
}

/// State as of the records folded so far.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Neither the index nor a folded record knows it.
    Unknown,
    /// R came first.
    Hinted,
    Undecided {
        place: Place,
        first: Prewrite,
        /// Its client sent R.
        hinted: bool,
    },
    Committed {
        commit_ts: CommitTs,
        first: Prewrite,
    },
    /// A verdict at or below the watermark: logged, not inserted.
    Late {
        commit_ts: CommitTs,
        first: Prewrite,
    },
    /// By a verdict in the log.
    RolledBack {
        first: Prewrite,
    },
    /// The index knows the P, and that it is decided; how is seen from the commit's own entry.
    Decided {
        first: Prewrite,
    },
}

#[derive(Debug, Clone, Copy)]
struct Prewrite {
    span: Span,
    digest: Digest,
}

/// Whose word a decision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Client,
    Verdict,
}

impl Ledger {
    /// Recovery: an undecided P from the index.
    pub fn load_undecided(&mut self, start_ts: StartTs, span: Span, digest: Digest, place: Place, hinted: bool) {
        let state = State::Undecided { place, first: Prewrite { span, digest }, hinted };
        self.txns.insert(start_ts, Txn { references: 0, lookup: false, accepted: Some(digest), state });
    }

    /// A P is about to be stored.
    pub fn accept_prewrite(&mut self, start_ts: StartTs, digest: Digest) -> Result<Arrival, Mismatch> {
        let txn = self.txns.entry(start_ts).or_insert_with(Txn::unknown);
        let arrival = match txn.accepted {
            Some(first) if first != digest => return Err(Mismatch { first, second: digest }),
            Some(_) => Arrival::Repeated,
            None => Arrival::New,
        };
        txn.accepted = Some(digest);
        txn.references += 1;
        Ok(arrival)
    }

    /// A record that names `start_ts` but is no P is about to be stored.
    pub fn accept(&mut self, start_ts: StartTs) {
        self.txns.entry(start_ts).or_insert_with(Txn::unknown).references += 1;
    }

    /// What the index must be asked before these records can be folded.
    pub fn lookups(&mut self, facts: &[Fact]) -> Vec<Lookup> {
        let mut out = Vec::new();
        for (index, fact) in facts.iter().enumerate() {
            if !names_transaction(fact.kind) {
                continue;
            }
            let first = self.named.is_first(fact.start_ts);
            let Some(txn) = self.txns.get_mut(&fact.start_ts) else { continue };
            if !txn.lookup && matches!(txn.state, State::Unknown) {
                txn.lookup = true;
                if !first {
                    out.push(Lookup::Start(fact.start_ts));
                }
            }
            let is_commit = matches!(fact.kind, RecordKind::Commit | RecordKind::VerdictCommit);
            let settled = !matches!(txn.state, State::Unknown | State::Hinted | State::Decided { .. });
            if is_commit && !settled {
                out.push(Lookup::Commit { index, ts: fact.commit_ts });
            }
        }
        out
    }

    /// The index's answer about `start_ts`.
    pub fn looked_up(&mut self, start_ts: StartTs, value: Option<StartValue>) {
        let Some(txn) = self.txns.get_mut(&start_ts) else { return };
        if !matches!(txn.state, State::Unknown) {
            return;
        }
        match value {
            None => {}
            Some(StartValue::Hint) => txn.state = State::Hinted,
            Some(StartValue::Prewrite { span, digest }) => {
                txn.state = State::Decided { first: Prewrite { span, digest } };
            }
            Some(StartValue::RolledBack { span, digest }) => {
                txn.state = State::RolledBack { first: Prewrite { span, digest } };
            }
        }
    }

    /// Folds the next durable record.
    pub fn fold(&mut self, fact: &Fact, view: View, out: &mut Folded) {
        match fact.kind {
            RecordKind::Prewrite => self.prewrite(fact, out),
            RecordKind::Commit => self.commit(fact, Source::Client, view, out),
            RecordKind::VerdictCommit => self.commit(fact, Source::Verdict, view, out),
            RecordKind::RollbackHint if canary::is(Canary::RIsVerdict) => self.rolled_back(fact, out),
            RecordKind::RollbackHint => self.hint(fact, out),
            RecordKind::VerdictRollback => self.rolled_back(fact, out),
            RecordKind::Fake => {
                if fact.commit_ts > view.watermark && fact.commit_ts > view.gc {
                    let value = CommitValue::Fake { record: fact.span };
                    out.changes.push(Change::Put(key::commit(fact.commit_ts), value.encode()));
                    out.commits.push((fact.commit_ts, value));
                } else {
                    self.counters.late_fakes += 1;
                }
            }
            RecordKind::Gc => out.gc = out.gc.max(Some(fact.commit_ts)),
            RecordKind::Unfreeze => {
                out.lifted = true;
                out.freeze = None;
            }
            RecordKind::SegmentStart => {}
        }
        // The timestamp's own place; of a P it is given back by what decides it.
        if fact.kind != RecordKind::Prewrite {
            out.places.extend(fact.place);
        }
        if names_transaction(fact.kind) {
            out.references.push(fact.start_ts);
        }
    }

    /// The index holds what these references needed.
    pub fn applied(&mut self, references: &[StartTs]) {
        for start_ts in references {
            let Some(txn) = self.txns.get_mut(start_ts) else { continue };
            txn.references = txn.references.saturating_sub(1);
            if txn.references == 0 && !matches!(txn.state, State::Undecided { .. }) {
                self.txns.remove(start_ts);
            }
        }
    }

    /// As of the records folded so far: the smallest start_ts of an undecided P, and the oldest segment that holds one.
    #[must_use]
    pub fn oldest_undecided(&self) -> Option<(StartTs, SegmentId)> {
        let undecided = self.txns.iter().filter_map(|(start_ts, txn)| match txn.state {
            State::Undecided { first, .. } => Some((*start_ts, first.span.ptr.segment)),
            _ => None,
        });
        undecided.reduce(|(ts, segment), (_, other)| (ts, segment.min(other)))
    }

    /// As of the records folded so far: the undecided P that lie before `ptr`.
    #[must_use]
    pub fn undecided_below(&self, ptr: LogPtr) -> Vec<StartTs> {
        let below = |txn: &Txn| matches!(txn.state, State::Undecided { first, .. } if first.span.ptr < ptr);
        self.txns.iter().filter(|(_, txn)| below(txn)).map(|(start_ts, _)| *start_ts).collect()
    }

    /// How the prewrite of `start_ts` stands by the records folded so far.
    #[must_use]
    pub fn standing(&self, start_ts: StartTs) -> Standing {
        let Some(txn) = self.txns.get(&start_ts) else { return Standing::Gone };
        match txn.state {
            State::Undecided { place, first, hinted } if txn.references == 0 => {
                Standing::Undecided { span: first.span, place, hinted }
            }
            State::Undecided { .. } | State::Unknown | State::Hinted => Standing::Pending,
            State::Committed { .. } | State::Late { .. } | State::RolledBack { .. } | State::Decided { .. } => {
                Standing::Gone
            }
        }
    }

    /// The smallest start_ts above `above` whose prewrite is undecided.
    #[must_use]
    pub fn oldest_undecided_above(&self, above: StartTs) -> Option<StartTs> {
        let from = StartTs::new(above.raw().saturating_add(1));
        let undecided = |txn: &Txn| matches!(txn.state, State::Undecided { .. });
        self.txns.range(from..).find(|(_, txn)| undecided(txn)).map(|(start_ts, _)| *start_ts)
    }

    /// Transactions held in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.txns.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.txns.is_empty()
    }

    /// Asserts the structural invariants.
    pub fn check(&self) {
        for (start_ts, txn) in &self.txns {
            let held = txn.references > 0 || matches!(txn.state, State::Undecided { .. });
            assert!(held, "start_ts {start_ts} is held without a reason");
        }
    }

    fn prewrite(&mut self, fact: &Fact, out: &mut Folded) {
        let txn = self.txns.entry(fact.start_ts).or_insert_with(Txn::unknown);
        let own = Prewrite { span: fact.span, digest: fact.digest };
        match txn.state {
            State::Unknown | State::Hinted => {
                // The first P of a start_ts always got a place when it was accepted.
                let place = fact.place;
                assert!(place.is_some(), "first P of start_ts {} has no place in the queue", fact.start_ts);
                if let Some(place) = place {
                    put_start(fact, out);
                    let hinted = matches!(txn.state, State::Hinted);
                    put_undecided(fact.start_ts, own, hinted, out);
                    out.hinted.extend(hinted.then_some(fact.start_ts));
                    txn.state = State::Undecided { place, first: own, hinted };
                }
            }
            State::Decided { .. } if canary::is(Canary::RequeueDecidedP) && fact.place.is_some() => {
                put_undecided(fact.start_ts, own, false, out);
                let undecided = |place| State::Undecided { place, first: own, hinted: false };
                txn.state = fact.place.map_or(txn.state, undecided);
            }
            State::Undecided { first, .. }
            | State::Committed { first, .. }
            | State::Late { first, .. }
            | State::RolledBack { first }
            | State::Decided { first } => {
                self.counters.repeated_prewrites += 1;
                out.places.extend(fact.place);
                if first.digest != fact.digest {
                    out.faults.push(mismatch(fact.start_ts, first.digest, fact.digest));
                }
            }
        }
    }

    fn commit(&mut self, fact: &Fact, source: Source, view: View, out: &mut Folded) {
        let txn = self.txns.entry(fact.start_ts).or_insert_with(Txn::unknown);
        let late = fact.commit_ts <= view.watermark;
        match txn.state {
            State::Undecided { place, first, .. } => {
                out.changes.push(Change::Delete(key::undecided(first.span.ptr)));
                out.places.push(place);
                out.decided.push(fact.start_ts);
                self.counters.verdict_commits += u64::from(source == Source::Verdict);
                txn.state = State::Committed { commit_ts: fact.commit_ts, first };
                if fact.commit_ts <= view.gc {
                    self.counters.commits_below_gc += 1;
                } else if late && source == Source::Verdict {
                    // The client gave up this pump's acknowledgement; another pump has delivered it (rules 4).
                    self.counters.late_verdicts += 1;
                    txn.state = State::Late { commit_ts: fact.commit_ts, first };
                } else if late {
                    broken("commit at or below the watermark that is not indexed", fact, out);
                } else {
                    put_commit(fact, first, out);
                }
            }
            State::Committed { commit_ts, .. } if commit_ts == fact.commit_ts => self.counters.repeated_commits += 1,
            State::Late { commit_ts, .. } if commit_ts == fact.commit_ts && source == Source::Verdict => {
                self.counters.repeated_commits += 1;
            }
            State::Late { commit_ts, .. } if commit_ts == fact.commit_ts => {
                broken("commit at or below the watermark that is not indexed", fact, out);
            }
            State::Committed { .. } | State::Late { .. } => broken("second commit with another commit_ts", fact, out),
            State::RolledBack { .. } => broken("commit of a transaction that TiKV said was rolled back", fact, out),
            State::Decided { first } => match fact.known_commit {
                Some(start_ts) if start_ts == fact.start_ts => self.counters.repeated_commits += 1,
                Some(_) => broken("another transaction has this commit_ts", fact, out),
                None if fact.commit_ts <= view.gc => self.counters.commits_below_gc += 1,
                None if late && source == Source::Verdict => self.counters.repeated_commits += 1,
                None if late => broken("commit at or below the watermark that is not indexed", fact, out),
                None => {
                    // An R released the P in an earlier version, yet the transaction is committed: it must be delivered.
                    put_commit(fact, first, out);
                    txn.state = State::Committed { commit_ts: fact.commit_ts, first };
                }
            },
            State::Unknown | State::Hinted => {
                if fact.commit_ts <= view.gc {
                    self.counters.commits_below_gc += 1;
                } else {
                    broken("commit without a prewrite in this pump", fact, out);
                }
            }
        }
    }

    /// A client's R (rules 1).
    fn hint(&mut self, fact: &Fact, out: &mut Folded) {
        let txn = self.txns.entry(fact.start_ts).or_insert_with(Txn::unknown);
        match &mut txn.state {
            State::Undecided { first, hinted, .. } if !*hinted => {
                *hinted = true;
                put_undecided(fact.start_ts, *first, true, out);
                out.hinted.push(fact.start_ts);
                self.counters.hints += 1;
            }
            State::Unknown => {
                out.changes.push(Change::Put(key::start(fact.start_ts), StartValue::Hint.encode()));
                txn.state = State::Hinted;
                self.counters.hints += 1;
            }
            _ => self.counters.idle_rollbacks += 1,
        }
    }

    /// The verdict in the log.
    fn rolled_back(&mut self, fact: &Fact, out: &mut Folded) {
        let txn = self.txns.entry(fact.start_ts).or_insert_with(Txn::unknown);
        match txn.state {
            State::Undecided { place, first, .. } => {
                out.changes.push(Change::Delete(key::undecided(first.span.ptr)));
                let value = StartValue::RolledBack { span: first.span, digest: first.digest };
                out.changes.push(Change::Put(key::start(fact.start_ts), value.encode()));
                out.places.push(place);
                out.decided.push(fact.start_ts);
                txn.state = State::RolledBack { first };
                self.counters.verdict_rollbacks += 1;
            }
            _ => self.counters.idle_rollbacks += 1,
        }
    }
}

/// A prewrite as who asks for verdicts sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Decided, or never heard of.
    Gone,
    /// A record that names it is on its way to the index.
    Pending,
    /// `hinted`: its client sent R.
    Undecided { span: Span, place: Place, hinted: bool },
}

/// A question to the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Start(StartTs),
    /// `index`: of the fact that asks.
    Commit {
        index: usize,
        ts: CommitTs,
    },
}

impl Lookup {
    #[must_use]
    pub fn key(self) -> Bytes {
        match self {
            Self::Start(start_ts) => key::start(start_ts),
            Self::Commit { ts, .. } => key::commit(ts),
        }
    }
}

impl Txn {
    const fn unknown() -> Self {
        Self { references: 0, lookup: false, accepted: None, state: State::Unknown }
    }
}

/// Whether records of this kind refer to a transaction by its start_ts.
#[must_use]
pub const fn names_transaction(kind: RecordKind) -> bool {
    match kind {
        RecordKind::Prewrite
        | RecordKind::Commit
        | RecordKind::RollbackHint
        | RecordKind::VerdictCommit
        | RecordKind::VerdictRollback => true,
        RecordKind::Fake | RecordKind::Gc | RecordKind::Unfreeze | RecordKind::SegmentStart => false,
    }
}

/// Whether records of this kind carry a timestamp that may become the watermark.
#[must_use]
pub const fn carries_mark(kind: RecordKind) -> bool {
    match kind {
        RecordKind::Commit | RecordKind::VerdictCommit | RecordKind::Fake | RecordKind::Gc => true,
        RecordKind::Prewrite
        | RecordKind::RollbackHint
        | RecordKind::VerdictRollback
        | RecordKind::Unfreeze
        | RecordKind::SegmentStart => false,
    }
}

/// Two payloads under one start_ts.
#[must_use]
pub fn mismatch(start_ts: StartTs, first: Digest, second: Digest) -> Fault {
    let what = format!(
        "the first has {} bytes and crc {:08x}, another {} bytes and crc {:08x}; the first is kept",
        first.len, first.crc, second.len, second.crc
    );
    Fault::PayloadMismatch { start_ts, what }
}

fn put_start(fact: &Fact, out: &mut Folded) {
    let value = StartValue::Prewrite { span: fact.span, digest: fact.digest };
    out.changes.push(Change::Put(key::start(fact.start_ts), value.encode()));
}

fn put_undecided(start_ts: StartTs, first: Prewrite, hinted: bool, out: &mut Folded) {
    out.changes.push(Change::Put(key::undecided(first.span.ptr), encode_undecided(start_ts, hinted)));
}

fn put_commit(fact: &Fact, first: Prewrite, out: &mut Folded) {
    let value = CommitValue::Commit {
        start_ts: fact.start_ts,
        prewrite: first.span,
        commit: fact.span,
        unknown_fields: fact.unknown_fields,
    };
    out.changes.push(Change::Put(key::commit(fact.commit_ts), value.encode()));
    let (prewrite, commit) = (first.span.ptr.segment, fact.span.ptr.segment);
    out.joined.push(Joined { prewrite, commit, start_ts: fact.start_ts, commit_ts: fact.commit_ts });
    out.commits.push((fact.commit_ts, value));
}

/// Rules 4: stored and acknowledged, never inserted; the watermark stays below it.
fn broken(what: &str, fact: &Fact, out: &mut Folded) {
    let what = format!("{what}; record at {}; the watermark stays below it", fact.span.ptr);
    out.faults.push(Fault::AssumptionBroken { what, start_ts: fact.start_ts, commit_ts: fact.commit_ts });
    out.freeze = Some(out.freeze.map_or(fact.commit_ts, |old| old.min(fact.commit_ts)));
}

/// The end of the batch in which this record lies: batches begin on block boundaries (rules 2).
#[must_use]
pub const fn batch_end(span: Span) -> LogPtr {
    let end = span.ptr.offset.saturating_add(span.len as u64);
    LogPtr { segment: span.ptr.segment, offset: end.div_ceil(BLOCK).saturating_mul(BLOCK) }
}

/// Size of the write-once blocks of the value log (rules 2).
const BLOCK: u64 = 4096;
