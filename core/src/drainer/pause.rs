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

/// The same for the status page: which transaction, the statement and the server's answer (both may hold row values: they
/// are shown here and never logged), how long it has been refused, and the commands that decide it.
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

/// What is left out by a skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skipped {
    Rows,
    /// A DDL that creates tables: they are not replicated from now on.
    Create,
    /// Another DDL: the schema as tracked is ahead of the downstream's.
    Ddl,
}

impl Skipped {
    fn consequence(self) -> &'static str {
        match self {
            Self::Rows => "the downstream lacks its changes, and later changes of the same rows may be refused",
            Self::Create => "the tables that it creates are not replicated: all their later rows and DDL are dropped",
            Self::Ddl => {
                "the downstream stays as it was before this DDL; later rows and DDL that need it are refused, so apply an \
                 equivalent by hand. What it would have removed (rows, keys, tables) is still there"
            }
        }
    }
}

/// The answer to a command that was accepted; a skip says what it costs.
pub(super) fn accepted(commit_ts: CommitTs, action: ResolveAction, skipped: Skipped) -> String {
    match action {
        ResolveAction::Skip => format!("commit_ts {commit_ts} is skipped: {}", skipped.consequence()),
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

    #[test]
    fn a_skip_says_what_it_costs() {
        for (skipped, expected) in
            [(Skipped::Rows, "lacks its changes"), (Skipped::Create, "are dropped"), (Skipped::Ddl, "stays as it was")]
        {
            let text = accepted(CommitTs::new(7), ResolveAction::Skip, skipped);
            assert!(text.starts_with("commit_ts 7 is skipped: ") && text.contains(expected), "{text}");
            assert!(!accepted(CommitTs::new(7), ResolveAction::MarkApplied, skipped).contains(expected));
        }
    }
}
