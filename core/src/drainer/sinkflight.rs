//! What an answer of the sink means (rules 8).
//!
//! A refused batch is tried one by one; a lost connection is opened again and the downstream's own records decide what
//! happened to the operation in flight; whatever contradicts what was believed leads to a rewind.

use super::apply::Applier;
use super::checkpoint::Save;
use super::out::Out;
use super::retry::clip;
use super::translation::Translate;
use crate::fault::Fault;
use crate::ids::OpId;
use crate::pump::effect::Level;
use crate::sink::op::{Opened, SinkError, SinkReply};
use crate::time::MonoTime;

/// The one operation in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) op: OpId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Only after a lost connection; the first `Open` belongs to the start.
    Open,
    /// The first `count` staged transactions.
    Apply {
        count: usize,
    },
    /// The first staged one.
    Ddl,
    Save {
        save: Save,
        last: bool,
    },
}

/// The connection as the machine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Open,
    Lost,
}

impl Flight {
    /// Staged transactions that are in flight.
    pub(super) fn count(&self) -> usize {
        match self.what {
            What::Apply { count } => count,
            What::Ddl => 1,
            What::Open | What::Save { .. } => 0,
        }
    }
}

impl<T: Translate> Applier<T> {
    /// A completion; whether it was ours.
    pub(super) fn sink_done(
        &mut self,
        now: MonoTime,
        op: OpId,
        result: Result<SinkReply, SinkError>,
        out: &mut Out,
    ) -> bool {
        let Some(flight) = self.flight.take_if(|f| f.op == op) else { return false };
        match (flight.what, result) {
            (What::Open, Ok(SinkReply::Opened(opened))) => self.reopened(now, *opened),
            (What::Apply { count }, Ok(SinkReply::Done)) => self.applied(now, count, out),
            (What::Ddl, Ok(SinkReply::Done)) => self.applied(now, 1, out),
            (What::Save { save, last }, Ok(SinkReply::Done)) => self.saved(now, save, last, out),
            (what, Ok(_)) => {
                self.failed(now, what, SinkError::Lost("the sink gave an answer of another kind".into()), out)
            }
            (what, Err(error)) => self.failed(now, what, error, out),
        }
        self.recount();
        true
    }

    /// The first `count` staged transactions are committed, with their timestamps.
    fn applied(&mut self, now: MonoTime, count: usize, out: &mut Out) {
        self.retry.succeed(now, out);
        for _ in 0..count {
            let Some(staged) = self.staged.pop_front() else { break };
            self.recorded.insert(staged.commit_ts);
            self.finish(now, staged);
        }
    }

    fn saved(&mut self, now: MonoTime, save: Save, last: bool, out: &mut Out) {
        self.retry.succeed(now, out);
        self.settle_save(now, save);
        self.settled |= last;
    }

    fn settle_save(&mut self, now: MonoTime, save: Save) {
        for ts in &save.delete {
            self.recorded.remove(ts);
        }
        self.progress.saved(now, save);
    }

    fn failed(&mut self, now: MonoTime, what: What, error: SinkError, out: &mut Out) {
        let alone = matches!(what, What::Apply { count: 1 } | What::Ddl);
        match (error, what) {
            (SinkError::Lost(error), what) => {
                let sent = match what {
                    What::Apply { count } => count,
                    What::Ddl => 1,
                    What::Open | What::Save { .. } => 0,
                };
                if let Some(last) = self.staged.iter().take(sent).next_back() {
                    self.uncertain = self.uncertain.max(last.commit_ts);
                }
                if let What::Save { save, .. } = what {
                    self.doubt = Some(save);
                }
                self.session = Session::Lost;
                self.retry.fail(now, &error, out);
            }
            (SinkError::Fatal(error), _) => {
                self.dead = true;
                out.fault(Fault::Sink(clip(&error)));
            }
            (SinkError::Rewind(why), What::Apply { .. } | What::Ddl | What::Save { .. }) => self.rewind = Some(why),
            (SinkError::Retry(error), _) => self.retry.fail(now, &error, out),
            (SinkError::AlreadyRecorded, What::Apply { .. } | What::Ddl) if alone => {
                // It was applied: by our own session whose COMMIT was in doubt, or by a second process.
                if let Some(first) = self.staged.front() {
                    let text =
                        format!("the transaction with commit_ts {} is in the downstream already", first.commit_ts);
                    out.notice(Level::Info, text);
                }
                self.applied(now, 1, out);
            }
            (SinkError::AlreadyRecorded, What::Apply { count }) => self.one_by_one(count),
            (SinkError::Refused { statement, error, .. }, What::Apply { .. } | What::Ddl) if alone => {
                self.pause(now, &statement, &error, out);
            }
            (SinkError::Refused { .. }, What::Apply { count }) => self.one_by_one(count),
            (error @ (SinkError::Refused { .. } | SinkError::AlreadyRecorded | SinkError::Rewind(_)), _) => {
                self.retry.fail(now, &unexpected(&error), out);
            }
        }
    }

    fn one_by_one(&mut self, count: usize) {
        if let Some(last) = self.staged.iter().take(count).next_back() {
            self.alone_until = self.alone_until.max(last.commit_ts);
        }
    }

    /// The downstream was read again after a lost connection.
    fn reopened(&mut self, now: MonoTime, opened: Opened) {
        self.session = Session::Open;
        let (Some(checkpoint), Some(state)) = (opened.checkpoint, opened.state) else {
            self.rewind = Some("the checkpoint row is not what this process wrote last".to_owned());
            return;
        };
        let doubt = self.doubt.take().filter(|save| save.is_in(&checkpoint, &state));
        if let Some(save) = doubt {
            self.settle_save(now, save);
        } else if !self.progress.is_durable(&checkpoint, &state) {
            let (theirs, ours) = (checkpoint.commit_ts, self.progress.durable().commit_ts);
            self.rewind = Some(format!("the downstream's checkpoint is {theirs}, this process had stored {ours}"));
            return;
        }
        if let Some(missing) = self.recorded.difference(&opened.recorded).next() {
            self.rewind = Some(format!("the transaction with commit_ts {missing} was committed, but is not recorded"));
            return;
        }
        self.recorded = opened.recorded;
        // What was in flight and is recorded counts as applied; the rest is sent again.
        let (known, rest): (Vec<_>, Vec<_>) =
            self.staged.drain(..).partition(|staged| self.recorded.contains(&staged.commit_ts));
        self.staged = rest.into();
        if self.paused.as_ref().is_some_and(|p| self.recorded.contains(&p.commit_ts)) {
            self.paused = None;
        }
        for staged in known {
            self.finish(now, staged);
        }
    }
}

fn unexpected(error: &SinkError) -> String {
    match error {
        SinkError::Refused { error, .. } => format!("the checkpoint cannot be stored: {}", clip(error)),
        SinkError::AlreadyRecorded => "the checkpoint cannot be stored: a timestamp is recorded already".to_owned(),
        SinkError::Lost(text) | SinkError::Retry(text) | SinkError::Rewind(text) | SinkError::Fatal(text) => clip(text),
    }
}
