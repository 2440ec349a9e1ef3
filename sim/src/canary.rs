//! Canaries: one-line mutations that the oracles must catch; an oracle that cannot fail is not trusted (invariants 2). Those of
//! the machines are compiled into `binlog-core` by the feature `canary`; those of the ports are ours.

use crate::plan::Profile;

#[cfg(feature = "canary")]
pub use binlog_core::canary::Canary as CoreCanary;

/// Mutations of the simulated ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortCanary {
    SkipDirectorySync,
    TwoFamiliesFlushedApart,
    InsertRecordLast,
    DeleteRecordUnchecked,
    StaleGenerationTrusted,
    /// Worlds with rows: the last statement of a batch is not carried out.
    LoseStatement,
    /// Rules 4: the commit timestamp is fixed before P is acknowledged.
    AsyncCommitOn,
    /// R32: the log stands still while the index is flushed.
    LogWaitsForFlush,
}

impl PortCanary {
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::SkipDirectorySync, "skip-directory-sync"),
        (Self::TwoFamiliesFlushedApart, "two-families-flushed-apart"),
        (Self::InsertRecordLast, "insert-record-last"),
        (Self::DeleteRecordUnchecked, "delete-record-unchecked"),
        (Self::StaleGenerationTrusted, "stale-generation-trusted"),
        (Self::LoseStatement, "lose-statement"),
        (Self::AsyncCommitOn, "async-commit-on"),
        (Self::LogWaitsForFlush, "log-waits-for-flush"),
    ];
}

/// One mutation, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    Port(PortCanary),
    #[cfg(feature = "canary")]
    Core(CoreCanary),
}

impl Canary {
    /// All that are compiled in, with their names.
    #[must_use]
    pub fn all() -> Vec<(Self, &'static str)> {
        let ports = PortCanary::ALL.iter().map(|(c, name)| (Self::Port(*c), *name));
        #[cfg(feature = "canary")]
        let ports = ports.chain(CoreCanary::ALL.iter().map(|(c, name)| (Self::Core(*c), *name)));
        ports.collect()
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|(_, n)| *n == name).map(|(c, _)| c)
    }

    /// The profile whose plans meet this mutation soonest.
    #[must_use]
    pub fn profile(name: &str) -> Profile {
        match name {
            // Only where nothing else makes a write wait.
            "log-waits-for-flush" => Profile::Calm,
            _ if OF_GC.contains(&name) => Profile::Gc,
            _ => Profile::Swarm,
        }
    }

    #[must_use]
    pub const fn port(self) -> Option<PortCanary> {
        match self {
            Self::Port(canary) => Some(canary),
            #[cfg(feature = "canary")]
            Self::Core(_) => None,
        }
    }
}

/// Mutations of GC: those show in the profile of that name first.
const OF_GC: [&str; 7] = [
    "gc-passes-in-silence",
    "recycle-before-gc-record",
    "free-beyond-flushed-end",
    "reserve-used-by-p",
    "gc-without-partner",
    "gc-past-consumer",
    "stream-jumps-to-G",
];

/// Makes the machines of this thread behave so until the guard goes.
#[must_use]
pub fn arm(canary: Option<Canary>) -> Armed {
    #[cfg(feature = "canary")]
    binlog_core::canary::choose(match canary {
        Some(Canary::Core(canary)) => Some(canary),
        _ => None,
    });
    let _ = canary;
    Armed
}

/// Disarms when dropped.
#[derive(Debug)]
pub struct Armed;

impl Drop for Armed {
    fn drop(&mut self) {
        #[cfg(feature = "canary")]
        binlog_core::canary::choose(None);
    }
}
