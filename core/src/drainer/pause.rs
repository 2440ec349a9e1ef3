//! A transaction that the downstream refuses, and what an operator says about it (design 4.3).

use super::input::ResolveAction;
use super::retry::clip;
use crate::ids::CommitTs;
use crate::time::MonoTime;
use serde::Serialize;

/// What is refused. The checkpoint stays below it until it is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    pub(super) commit_ts: CommitTs,
    pub(super) is_ddl: bool,
    pub(super) statement: String,
    pub(super) error: String,
    pub(super) since: MonoTime,
}

/// The same for the status page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct PausedStatus {
    pub commit_ts: u64,
    pub ddl: bool,
    pub statement: String,
    pub error: String,
    pub for_ms: u64,
    /// The commands that go on from here.
    pub resolve: Vec<String>,
}

impl Paused {
    pub(super) fn new(commit_ts: CommitTs, is_ddl: bool, statement: &str, error: &str, since: MonoTime) -> Self {
        Self { commit_ts, is_ddl, statement: clip(statement), error: clip(error), since }
    }

    pub(super) fn status(&self, now: MonoTime) -> PausedStatus {
        let commands = ["skip", "retry", "mark-applied"];
        PausedStatus {
            commit_ts: self.commit_ts.raw(),
            ddl: self.is_ddl,
            statement: self.statement.clone(),
            error: self.error.clone(),
            for_ms: now.millis_since(self.since),
            resolve: commands.map(|c| format!("PUT /resolve/{}/{c}", self.commit_ts)).to_vec(),
        }
    }
}

/// Whether `commit_ts` is what waits for a decision; the error says what does.
pub(super) fn may_resolve(paused: Option<&Paused>, commit_ts: CommitTs) -> Result<(), String> {
    match paused {
        None => Err(format!("nothing is paused, so commit_ts {commit_ts} cannot be resolved")),
        Some(p) if p.commit_ts != commit_ts => {
            Err(format!("commit_ts {commit_ts} is not paused; what is paused is commit_ts {}", p.commit_ts))
        }
        Some(_) => Ok(()),
    }
}

/// The answer to a command that was accepted.
pub(super) fn accepted(commit_ts: CommitTs, action: ResolveAction) -> String {
    match action {
        ResolveAction::Skip => format!("commit_ts {commit_ts} is skipped"),
        ResolveAction::Retry => format!("commit_ts {commit_ts} is sent again"),
        ResolveAction::MarkApplied => format!("commit_ts {commit_ts} counts as applied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_paused_can_be_resolved() {
        let paused = Paused::new(CommitTs::new(7), true, "s", "e", MonoTime::ZERO);
        assert!(may_resolve(None, CommitTs::new(7)).unwrap_err().contains("nothing is paused"));
        assert!(may_resolve(Some(&paused), CommitTs::new(8)).unwrap_err().contains("what is paused is commit_ts 7"));
        assert_eq!(may_resolve(Some(&paused), CommitTs::new(7)), Ok(()));
        assert_eq!(paused.status(MonoTime::ZERO).resolve[0], "PUT /resolve/7/skip");
    }
}
