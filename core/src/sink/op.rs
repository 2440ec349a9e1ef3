//! Operations of the sink port for MySQL/TiDB (rules 8). The port keeps one session per worker; the machine decides order,
//! retries and what is recorded.

use crate::ids::{CommitTs, SchemaVersion};
use crate::sink::sql::Dialect;
use crate::sink::value::SqlValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub enum SinkOp {
    /// (Re)connect, create the tables of ours when missing, read everything that is recorded. Also after every lost
    /// connection: what was in flight is known only from the answer.
    Open,
    /// Store a new generation (takeover, first start, or a checkpoint row that is not what we wrote last): writes the
    /// checkpoint row and our state, removes the recorded timestamps of other generations, in one transaction.
    Begin { checkpoint: Checkpoint, state: SinkState },
    /// One downstream transaction: first INSERT the recorded timestamps, then the statements, check results and affected
    /// rows, then COMMIT in a second round trip.
    Apply { generation: u64, records: Vec<CommitTs>, statements: Vec<Statement> },
    /// One DDL with its journal (rules 8): lock, journal `started`, run, journal and record `done`.
    Ddl { generation: u64, ddl: Ddl },
    /// Move the checkpoint: update the row and our state, delete exactly `delete`; the affected count must equal its length.
    /// In the same transaction, and locked, the row must be the one that this port read or wrote last (`Open`, `Begin`,
    /// `Save`), else `Rewind`: a `Save` of a lost session may commit after the `Open` that followed, and one that knows
    /// nothing of it must not move the checkpoint back over timestamps that are no longer recorded.
    Save { checkpoint: Checkpoint, state: SinkState, delete: Vec<CommitTs> },
    /// Close the sessions.
    Close,
}

/// One statement of a downstream transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Text with `?` placeholders.
    pub sql: String,
    pub params: Vec<SqlValue>,
    /// Rows that must be affected (matched rows: sessions use CLIENT_FOUND_ROWS); `None`: not checked (safe mode).
    pub affected: Option<u64>,
    /// Commit timestamp of the upstream transaction that this statement belongs to.
    pub commit_ts: CommitTs,
}

/// A DDL to run downstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ddl {
    pub commit_ts: CommitTs,
    /// Current database of the statement; `None` for CREATE DATABASE and the like.
    pub database: Option<String>,
    pub sql: String,
    /// Objects whose definitions tell whether it has run: (database, table); an empty table name is the database itself.
    pub touches: Vec<(String, String)>,
    /// Definitions before and after are equal by nature (TRUNCATE): after an unknown outcome run it again.
    pub rerun: bool,
    /// Time zone of the session while it runs, as the server takes it; `None`: UTC, as always. The statement's time
    /// literals, and conversions to and from TIMESTAMP, mean what they meant in the upstream's session.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// What `NOW()` must say while it runs, in microseconds since 1970 (UTC): what the upstream filled existing rows with
    /// where a new column defaults to the current time. `None`: the clock's time.
    #[serde(default)]
    pub now: Option<i64>,
    /// What the downstream looks like afterwards, where that is known: lets the port tell whether an "exists already" or
    /// "does not exist" answer means that the goal is reached.
    pub goal: Option<DdlGoal>,
}

/// What the downstream looks like when a DDL has been applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlGoal {
    pub database: String,
    /// Empty: the goal is about the database.
    pub table: String,
    /// Public columns in order; `None`: the object must not exist.
    pub columns: Option<Vec<String>>,
}

/// The original's checkpoint row (spec drainer 6.3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    #[serde(default)]
    pub consistent: bool,
    #[serde(rename = "commitTS", default)]
    pub commit_ts: CommitTs,
    #[serde(rename = "ts-map", default)]
    pub ts_map: serde_json::Map<String, serde_json::Value>,
    #[serde(rename = "schema-version", default)]
    pub schema_version: SchemaVersion,
}

/// What we keep beside the checkpoint row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SinkState {
    /// Rises with each takeover; recorded timestamps of another generation are not ours.
    pub generation: u64,
    /// Upper end of the safe-mode window of a takeover (0: none).
    #[serde(default)]
    pub safe_until: CommitTs,
    /// Ids of tables whose CREATE was skipped by an operator: their rows are dropped.
    #[serde(default)]
    pub skipped_tables: BTreeSet<i64>,
}

/// Answer of the sink.
#[derive(Debug, Clone)]
pub enum SinkReply {
    Opened(Box<Opened>),
    /// `Begin`, `Save`, `Apply`, `Ddl` done.
    Done,
    Closed,
}

/// Everything the downstream knows about our progress.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// The checkpoint row, if there is one.
    pub checkpoint: Option<Checkpoint>,
    /// Our state, only if the checkpoint row is byte for byte what we wrote last beside it.
    pub state: Option<SinkState>,
    /// The largest generation ever used (0: none).
    pub last_generation: u64,
    /// Recorded timestamps of the state's generation.
    pub recorded: BTreeSet<CommitTs>,
    /// What the downstream is: statements differ.
    pub dialect: Dialect,
    /// For the log: server version, host.
    pub server: String,
}

/// Why a sink operation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkError {
    /// The connection is gone or the outcome unknown: `Open` again and look.
    Lost(String),
    /// Rolled back; may succeed when repeated (deadlock, lock wait time-out).
    Retry(String),
    /// One of `records` is recorded already (1062 on our table); rolled back.
    AlreadyRecorded,
    /// The downstream refuses this statement, or its result is not what it must be; rolled back.
    Refused { commit_ts: CommitTs, statement: String, error: String },
    /// The recorded timestamps are not what we believed: rewind.
    Rewind(String),
    /// Configuration or environment: no retry helps without a human (access denied, unknown checkpoint format).
    Fatal(String),
}
