//! Jobs that finish while the Drainer runs (design 4.2). A transaction can know a schema version that the loaded history
//! does not reach: a DDL is running, or it is a multi-schema change, whose last version is visible shortly before its
//! binlog. So the history is read again, once per version, before the first such transaction is translated.
//!
//! A row with columns that no known definition has would lose their values in silence. Where one shows up, the history may
//! be a moment behind: it is read a few more times. Most such columns belong to a DDL that goes on for long, and their
//! values are the ones that the DDL fills in; so the wait is bounded per version. Owned by [`super::apply::Applier`].

use super::effect::Effect;
use super::out::Out;
use super::retry::Retry;
use crate::ids::{CommitTs, OpId, SchemaVersion};
use crate::pump::effect::Level;
use crate::time::MonoTime;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct Learning {
    /// The history was read after a transaction of this version had been merged.
    looked: SchemaVersion,
    flight: Option<(OpId, SchemaVersion)>,
    /// Somebody waits for the answer, or for the next look.
    waiting: bool,
    /// The largest version whose definition is missed, and since when; kept when the wait is over. Rows of two versions come
    /// mixed while the upstream's servers change over: those of the smaller one do not wait again.
    missed: Option<Missed>,
    next_look: MonoTime,
    retry: Retry,
}

#[derive(Debug, Clone, Copy)]
struct Missed {
    version: SchemaVersion,
    since: MonoTime,
    /// The end of the wait was said.
    said: bool,
}

impl Learning {
    pub(super) fn new() -> Self {
        Self {
            looked: SchemaVersion::default(),
            flight: None,
            waiting: false,
            missed: None,
            next_look: MonoTime::ZERO,
            retry: Retry::new("reading the DDL history"),
        }
    }

    /// Whether a transaction that is ahead of the history may be translated; if not, a look is on its way.
    pub(super) fn may_translate(&mut self, now: MonoTime, version: SchemaVersion, out: &mut Out) -> bool {
        self.waiting = version > self.looked || self.expects(version);
        if self.waiting && self.flight.is_none() && now >= self.due() {
            self.flight = Some((out.request(|op| Effect::LoadHistory { op }), version));
        }
        !self.waiting
    }

    /// The translation of that transaction misses definitions. Whether to wait for another look. `passed`: the history has
    /// later versions already.
    pub(super) fn look_again(
        &mut self,
        now: MonoTime,
        version: SchemaVersion,
        passed: bool,
        commit_ts: CommitTs,
        out: &mut Out,
    ) -> bool {
        let fresh = Missed { version, since: now, said: false };
        let mut missed = self.missed.filter(|missed| missed.version >= version).unwrap_or(fresh);
        let limit = if passed { SHORT_WAIT_MS } else { WAIT_MS };
        self.waiting = now.millis_since(missed.since) < limit;
        self.next_look = now.plus_millis(SPACING_MS);
        if !self.waiting && !std::mem::replace(&mut missed.said, true) {
            let text = format!(
                "rows of schema version {version} (from commit_ts {commit_ts} on) need a definition that is not in the DDL \
                 history: columns that only a running DDL knows are left out"
            );
            out.notice(Level::Info, text);
        }
        self.missed = Some(missed);
        self.waiting
    }

    /// A transaction of this version waits for another look.
    pub(super) fn expects(&self, version: SchemaVersion) -> bool {
        self.waiting && self.is_missed(version)
    }

    fn is_missed(&self, version: SchemaVersion) -> bool {
        self.missed.is_some_and(|missed| missed.version >= version)
    }

    /// An answer: the jobs to learn, if it was ours and brought some.
    pub(super) fn done(
        &mut self,
        now: MonoTime,
        op: OpId,
        result: Result<Vec<Bytes>, String>,
        out: &mut Out,
    ) -> Option<Vec<Bytes>> {
        let (_, version) = self.flight.take_if(|(own, _)| *own == op)?;
        match result {
            Ok(jobs) => {
                self.retry.succeed(now, out);
                self.looked = self.looked.max(version);
                self.waiting = false;
                Some(jobs)
            }
            Err(error) => {
                self.retry.fail(now, &error, out);
                None
            }
        }
    }

    fn due(&self) -> MonoTime {
        self.next_look.max(self.retry.not_before())
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        (self.waiting && self.flight.is_none()).then(|| self.due())
    }

    pub(super) fn trouble(&self) -> Option<(&str, MonoTime)> {
        self.retry.trouble().filter(|_| self.waiting)
    }
}

/// A job is in the history at the latest when its binlog commits, and that follows the version within a few schema leases.
const WAIT_MS: u64 = 3_000;
/// Two looks: of a version that the history has passed only a job that finishes this very moment can be missing. Where many
/// DDLs run, a longer wait at each of their versions would never let a Drainer catch up.
const SHORT_WAIT_MS: u64 = 600;
/// A look reads the whole history.
const SPACING_MS: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn look(out: &mut Out) -> OpId {
        match out.pop() {
            Some(Effect::LoadHistory { op }) => op,
            other => panic!("expected LoadHistory, got {other:?}"),
        }
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime::ZERO.plus_millis(ms)
    }

    #[test]
    fn one_look_per_version() {
        let (mut out, mut l) = (Out::new(0), Learning::new());
        let v = SchemaVersion::new;
        assert!(!l.may_translate(at(0), v(7), &mut out));
        let op = look(&mut out);
        assert!(!l.may_translate(at(1), v(7), &mut out) && out.is_empty(), "one in flight");
        assert!(l.done(at(2), op, Ok(vec![]), &mut out).is_some());
        assert!(l.done(at(2), op, Ok(vec![]), &mut out).is_none(), "a repeated answer is nobody's");
        assert!(l.may_translate(at(3), v(7), &mut out) && l.may_translate(at(3), v(6), &mut out) && out.is_empty());
        assert!(!l.may_translate(at(3), v(8), &mut out));
        let op = look(&mut out);
        assert!(l.done(at(4), op, Err("away".into()), &mut out).is_none());
        assert!(matches!(out.pop(), Some(Effect::Notice { .. })), "a failure is said");
        assert!(!l.may_translate(at(4), v(8), &mut out) && out.is_empty(), "after the back-off");
        assert!(!l.may_translate(l.deadline().unwrap(), v(8), &mut out));
        look(&mut out);
    }

    #[test]
    fn a_missed_definition_is_waited_for_within_bounds() {
        let (mut out, mut l) = (Out::new(0), Learning::new());
        let v = SchemaVersion::new(7);
        let (mut now, mut looks) = (at(0), 0);
        loop {
            while !l.may_translate(now, v, &mut out) {
                while let Some(effect) = out.pop() {
                    let Effect::LoadHistory { op } = effect else { panic!("{effect:?}") };
                    looks += 1;
                    l.done(now, op, Ok(vec![]), &mut out);
                }
                now = l.deadline().unwrap_or(now);
            }
            if !l.look_again(now, v, false, CommitTs::new(5), &mut out) {
                break;
            }
            assert!(l.expects(v) && !l.expects(SchemaVersion::new(8)));
        }
        assert!((5..=20).contains(&looks), "{looks}");
        assert!(
            matches!(out.pop(), Some(Effect::Notice { text, .. }) if text.contains("schema version 7 (from commit_ts 5 on)"))
        );
        assert!(
            !l.look_again(now, v, false, CommitTs::new(6), &mut out),
            "the next transaction of this version does not wait"
        );
        assert!(l.may_translate(now, v, &mut out) && out.is_empty(), "and it is said once");
        assert!(
            !l.look_again(now, SchemaVersion::new(6), false, CommitTs::new(7), &mut out),
            "nor does one of an older version"
        );
        assert_eq!(l.deadline(), None);
        let later = SchemaVersion::new(9);
        assert!(l.look_again(now, later, true, CommitTs::new(8), &mut out));
        assert!(!l.look_again(now.plus_millis(SHORT_WAIT_MS), later, true, CommitTs::new(8), &mut out));
    }
}
