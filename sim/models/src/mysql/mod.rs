//! The downstream as the sink port sees it (rules 8): a small MySQL that executes what `core::sink` renders, on typed rows with
//! unique keys, in transactions that also hold our recorded timestamps, checkpoint row and journal.
//!
//! The world draws how each operation goes ([`Way`]): a reply that is lost before or after the effect, a session that lives on as
//! a zombie with its locks, a deadlock. An operator may edit the checkpoint row; a failover loses the newest transactions.

mod ddl;
mod dml;
pub mod lexer;
pub mod table;

use crate::tidb::data::Contents;
use crate::types::ColType;
use binlog_core::codec::value::tp;
use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{Checkpoint, Ddl, DdlGoal, Opened, SinkError, SinkOp, SinkReply, SinkState};
use binlog_core::sink::sql::Dialect;
use binlog_core::sink::value::SqlValue;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use table::Table;

/// How an operation goes; the world draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Well,
    /// The connection is lost before anything happened (of a DDL: after its journal row `started`).
    LostBefore,
    /// It is lost after the effect.
    LostAfter,
    /// It is lost while the session lives on with its locks: [`Mysql::settle`] decides whether its COMMIT arrives (whether its
    /// DDL still runs).
    Zombie,
    Deadlock,
    /// A DDL ran, but was not recorded. Anything else: as `LostBefore`.
    HalfDone,
}

/// Commits that a failover can take back at most.
const HISTORY: usize = 32;
/// Error numbers after which the goal may be reached already, as in the real port.
const PERHAPS_REACHED: [&str; 9] = ["1007", "1008", "1049", "1050", "1051", "1054", "1060", "1061", "1091"];

#[derive(Debug)]
pub struct Mysql {
    dialect: Dialect,
    db: Db,
    /// Before each of the newest commits.
    history: VecDeque<Db>,
    /// Of every transaction and DDL, in the order of the commits.
    effects: Vec<CommitTs>,
    zombie: Option<Zombie>,
    /// The row that the live session read or wrote last.
    seen: Option<Checkpoint>,
    /// Statements of these are refused, as by a server that does not understand them.
    pub refuse: BTreeSet<CommitTs>,
}

/// What is durable.
#[derive(Debug, Clone, Default)]
pub(crate) struct Db {
    databases: BTreeSet<String>,
    tables: BTreeMap<(String, String), Arc<Table>>,
    row: Option<Checkpoint>,
    /// Our state and the row that was written with it.
    state: Option<(SinkState, Checkpoint)>,
    last_generation: u64,
    recorded: Arc<BTreeSet<(u64, CommitTs)>>,
    journal: BTreeMap<CommitTs, Journal>,
    /// Length of `effects` after it.
    effects: usize,
}

/// See [`Mysql::dump`].
#[derive(Debug, Clone)]
pub struct Dump {
    databases: BTreeSet<String>,
    tables: BTreeMap<(String, String), Arc<Table>>,
    row: Option<Checkpoint>,
    effects: usize,
}

impl Dump {
    #[must_use]
    pub fn row(&self) -> Option<&Checkpoint> {
        self.row.as_ref()
    }

    /// Transactions and DDLs that it holds.
    #[must_use]
    pub const fn effects(&self) -> usize {
        self.effects
    }
}

#[derive(Debug, Clone)]
struct Journal {
    generation: u64,
    done: bool,
    before: Vec<Option<String>>,
}

#[derive(Debug)]
struct Zombie {
    op: SinkOp,
    seen: Option<Checkpoint>,
}

impl Mysql {
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let (history, effects, refuse) = (VecDeque::new(), Vec::new(), BTreeSet::new());
        Self { dialect, db: Db::default(), history, effects, zombie: None, seen: None, refuse }
    }

    /// # Errors
    /// As the real port. `Retry` also while a zombie holds locks that the operation needs.
    pub fn run(&mut self, op: &SinkOp, way: Way) -> Result<SinkReply, SinkError> {
        if way == Way::LostBefore || (way == Way::HalfDone && !matches!(op, SinkOp::Ddl { .. })) {
            if let SinkOp::Ddl { generation, ddl } = op
                && self.zombie.is_none()
            {
                self.journal_started(*generation, ddl);
            }
            return Err(lost());
        }
        let reads = matches!(op, SinkOp::Open | SinkOp::Close);
        if way == Way::Deadlock && !reads {
            return Err(SinkError::Retry("1213: deadlock found".to_owned()));
        }
        if self.zombie.as_ref().is_some_and(|z| z.blocks(op)) {
            return Err(SinkError::Retry("1205: lock wait timeout exceeded".to_owned()));
        }
        if way == Way::Zombie && !reads {
            if self.zombie.is_none() {
                if let SinkOp::Ddl { generation, ddl } = op {
                    self.journal_started(*generation, ddl);
                }
                self.zombie = Some(Zombie { op: op.clone(), seen: self.seen.clone() });
            }
            return Err(lost());
        }
        if let SinkOp::Ddl { generation, ddl } = op
            && way == Way::HalfDone
        {
            self.run_half(*generation, ddl);
            return Err(lost());
        }
        let seen = self.seen.clone();
        let result = self.execute(op, seen.as_ref());
        if matches!(op, SinkOp::Open | SinkOp::Begin { .. } | SinkOp::Save { .. }) {
            self.seen.clone_from(&self.db.row);
        }
        if way == Way::LostAfter { Err(lost()) } else { result }
    }

    /// A session that lives on without its connection.
    #[must_use]
    pub fn has_zombie(&self) -> bool {
        self.zombie.is_some()
    }

    /// Its COMMIT arrives, or the server ends it.
    pub fn settle(&mut self, commits: bool) {
        let Some(zombie) = self.zombie.take() else { return };
        if commits {
            match &zombie.op {
                SinkOp::Ddl { generation, ddl } => self.run_half(*generation, ddl),
                op => drop(self.execute(op, zombie.seen.as_ref())),
            }
        }
    }

    /// An operator edits the checkpoint row.
    pub fn edit_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.db.row = Some(checkpoint);
    }

    /// The checkpoint row.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.db.row.as_ref()
    }

    /// The timestamps that are recorded, with their generation.
    #[must_use]
    pub fn recorded(&self) -> &BTreeSet<(u64, CommitTs)> {
        &self.db.recorded
    }

    /// Fails over to a replica that lacks the last `transactions` commits (as many as are kept, at most); every session ends.
    pub fn fail_over(&mut self, transactions: usize) {
        self.zombie = None;
        for _ in 0..transactions {
            let Some(before) = self.history.pop_back() else { return };
            self.effects.truncate(before.effects);
            self.db = before;
        }
    }

    /// What an operator's dump holds now: the users' tables and the checkpoint row, not our other tables.
    #[must_use]
    pub fn dump(&self) -> Dump {
        let Db { databases, tables, row, effects, .. } = self.db.clone();
        Dump { databases, tables, row, effects }
    }

    /// The row that stands beside our state: a dump with this row cannot be told from no restore (docs/compatibility.md).
    #[must_use]
    pub fn row_of_state(&self) -> Option<&Checkpoint> {
        self.db.state.as_ref().map(|(_, row)| row)
    }

    /// An operator restores a dump; every session ends.
    pub fn restore(&mut self, dump: &Dump) {
        self.zombie = None;
        let Dump { databases, tables, row, effects } = dump.clone();
        self.effects.truncate(effects);
        let db = &mut self.db;
        (db.databases, db.tables, db.row, db.effects) = (databases, tables, row, effects);
        self.history.clear();
    }

    /// How many times each upstream transaction or DDL took effect.
    #[must_use]
    pub fn effects(&self) -> BTreeMap<CommitTs, u32> {
        let mut counts = BTreeMap::new();
        for ts in &self.effects {
            *counts.entry(*ts).or_insert(0) += 1;
        }
        counts
    }

    /// The same in the order of the downstream's commits.
    #[must_use]
    pub fn effects_in_order(&self) -> &[CommitTs] {
        &self.effects
    }

    /// Every way in which the downstream differs from the upstream's tables; rows by typed value, without order.
    #[must_use]
    pub fn differences(&self, truth: &[Contents]) -> Vec<String> {
        let mut found = Vec::new();
        for table in truth {
            let name = (table.database.clone(), table.table.clone());
            let shown = format!("{}.{}", name.0, name.1);
            let Some(ours) = self.db.tables.get(&name) else {
                found.push(format!("{shown} is missing"));
                continue;
            };
            let theirs: Vec<&String> = table.columns.iter().map(|(name, _)| name).collect();
            let columns: Vec<&String> = ours.columns.iter().map(|c| &c.name).collect();
            if theirs != columns {
                found.push(format!("{shown} has columns {columns:?}, upstream {theirs:?}"));
                continue;
            }
            let mut count: BTreeMap<String, i64> = BTreeMap::new();
            for row in &table.rows {
                *count.entry(canonical(row, &table.columns)).or_insert(0) += 1;
            }
            for (_, row) in ours.rows() {
                *count.entry(canonical(row, &table.columns)).or_insert(0) -= 1;
            }
            for (row, n) in count.into_iter().filter(|(_, n)| *n != 0) {
                let what = if n > 0 { "lacks" } else { "has too much of" };
                found.push(format!("{shown} {what} {} x {row}", n.abs()));
            }
        }
        let known: BTreeSet<(&String, &String)> = truth.iter().map(|t| (&t.database, &t.table)).collect();
        let extra = self.db.tables.keys().filter(|(d, t)| !known.contains(&(d, t)));
        found.extend(extra.map(|(d, t)| format!("{d}.{t} is not upstream")));
        found
    }

    fn execute(&mut self, op: &SinkOp, seen: Option<&Checkpoint>) -> Result<SinkReply, SinkError> {
        let mut db = self.db.clone();
        let mut effects = Vec::new();
        match op {
            SinkOp::Open => return Ok(SinkReply::Opened(Box::new(self.opened()))),
            SinkOp::Close => return Ok(SinkReply::Closed),
            SinkOp::Begin { checkpoint, state } => {
                db.last_generation = db.last_generation.max(state.generation);
                Arc::make_mut(&mut db.recorded).retain(|(g, _)| *g == state.generation);
                db.put(checkpoint, state);
            }
            SinkOp::Apply { generation, records, statements } => {
                for ts in records {
                    if !Arc::make_mut(&mut db.recorded).insert((*generation, *ts)) {
                        return Err(SinkError::AlreadyRecorded);
                    }
                }
                for statement in statements {
                    let refused = |error: String| SinkError::Refused {
                        commit_ts: statement.commit_ts,
                        statement: statement.sql.clone(),
                        error,
                    };
                    if self.refuse.contains(&statement.commit_ts) {
                        return Err(refused("1064: refused by the world".to_owned()));
                    }
                    let affected = db.run(statement).map_err(refused)?;
                    if statement.affected.is_some_and(|expected| expected != affected) {
                        return Err(refused(format!("affected {affected} rows, expected {:?}", statement.affected)));
                    }
                }
                effects = records.iter().copied().filter(|ts| statements.iter().any(|s| s.commit_ts == *ts)).collect();
            }
            SinkOp::Ddl { generation, ddl } => return self.ddl(*generation, ddl),
            SinkOp::Save { checkpoint, state, delete } => {
                if seen != self.db.row.as_ref() {
                    return Err(SinkError::Rewind("the checkpoint row is not the one that was read".to_owned()));
                }
                let recorded = Arc::make_mut(&mut db.recorded);
                if delete.iter().any(|ts| !recorded.remove(&(state.generation, *ts))) {
                    return Err(SinkError::Rewind("deleted fewer recorded timestamps than listed".to_owned()));
                }
                db.put(checkpoint, state);
            }
        }
        self.commit(db, effects);
        Ok(SinkReply::Done)
    }

    fn commit(&mut self, mut db: Db, effects: Vec<CommitTs>) {
        self.effects.extend(effects);
        db.effects = self.effects.len();
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(std::mem::replace(&mut self.db, db));
    }

    fn opened(&self) -> Opened {
        let state = self.db.state.as_ref().filter(|(_, row)| Some(row) == self.db.row.as_ref()).map(|(s, _)| s.clone());
        let generation = state.as_ref().map(|s| s.generation);
        let own = self.db.recorded.iter().filter(|(g, _)| Some(*g) == generation);
        Opened {
            checkpoint: self.db.row.clone(),
            recorded: own.map(|(_, ts)| *ts).collect(),
            state,
            last_generation: self.db.last_generation,
            dialect: self.dialect,
            server: "model".to_owned(),
        }
    }

    fn journal_started(&mut self, generation: u64, ddl: &Ddl) {
        let mut db = self.db.clone();
        let stale = db.journal.get(&ddl.commit_ts).is_none_or(|j| j.generation != generation);
        if stale && !db.recorded.contains(&(generation, ddl.commit_ts)) {
            let before = db.definitions(ddl);
            db.journal.insert(ddl.commit_ts, Journal { generation, done: false, before });
            self.commit(db, Vec::new());
        }
    }

    /// Runs it without telling the journal.
    fn run_half(&mut self, generation: u64, ddl: &Ddl) {
        self.journal_started(generation, ddl);
        let mut db = self.db.clone();
        let open = db.journal.get(&ddl.commit_ts).is_some_and(|j| !j.done && j.before == db.definitions(ddl));
        if open && !self.refuse.contains(&ddl.commit_ts) && db.run_ddl(ddl.database.as_deref(), &ddl.sql).is_ok() {
            self.commit(db, vec![ddl.commit_ts]);
        }
    }

    fn ddl(&mut self, generation: u64, ddl: &Ddl) -> Result<SinkReply, SinkError> {
        if self.db.recorded.contains(&(generation, ddl.commit_ts)) {
            return Err(SinkError::AlreadyRecorded);
        }
        let refused =
            |error: String| Err(SinkError::Refused { commit_ts: ddl.commit_ts, statement: ddl.sql.clone(), error });
        if self.refuse.contains(&ddl.commit_ts) {
            return refused("1064: refused by the world".to_owned());
        }
        let found = self.db.journal.get(&ddl.commit_ts).filter(|j| j.generation == generation).cloned();
        let ran = found.is_some_and(|j| !ddl.rerun && j.before != self.db.definitions(ddl));
        self.journal_started(generation, ddl);
        let mut db = self.db.clone();
        let mut effects = Vec::new();
        if !ran {
            match db.run_ddl(ddl.database.as_deref(), &ddl.sql) {
                Ok(()) => effects.push(ddl.commit_ts),
                Err(e) => {
                    // A statement that failed leaves nothing behind.
                    db = self.db.clone();
                    let perhaps = PERHAPS_REACHED.iter().any(|code| e.starts_with(code));
                    if !perhaps || !ddl.goal.as_ref().is_some_and(|goal| db.is_reached(goal)) {
                        db.journal.remove(&ddl.commit_ts);
                        self.commit(db, Vec::new());
                        return refused(e);
                    }
                }
            }
        }
        if let Some(journal) = db.journal.get_mut(&ddl.commit_ts) {
            journal.done = true;
        }
        Arc::make_mut(&mut db.recorded).insert((generation, ddl.commit_ts));
        self.commit(db, effects);
        Ok(SinkReply::Done)
    }
}

impl Db {
    fn put(&mut self, checkpoint: &Checkpoint, state: &SinkState) {
        self.row = Some(checkpoint.clone());
        self.state = Some((state.clone(), checkpoint.clone()));
    }

    fn definitions(&self, ddl: &Ddl) -> Vec<Option<String>> {
        let define = |(database, table): &(String, String)| {
            if table.is_empty() {
                return self.databases.contains(database).then(String::new);
            }
            self.tables.get(&(database.clone(), table.clone())).map(|t| t.definition())
        };
        ddl.touches.iter().map(define).collect()
    }

    fn is_reached(&self, goal: &DdlGoal) -> bool {
        if goal.table.is_empty() {
            return self.databases.contains(&goal.database) == goal.columns.is_some();
        }
        let table = self.tables.get(&(goal.database.clone(), goal.table.clone()));
        let columns = table.map(|t| t.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>());
        columns == goal.columns
    }
}

impl Zombie {
    /// Whether `op` needs what this session has locked.
    fn blocks(&self, op: &SinkOp) -> bool {
        match (&self.op, op) {
            (_, SinkOp::Open | SinkOp::Close) => false,
            // Rows of the checkpoint table and rows of tables do not meet.
            (SinkOp::Save { .. }, SinkOp::Apply { .. } | SinkOp::Ddl { .. }) => false,
            (SinkOp::Apply { .. } | SinkOp::Ddl { .. }, SinkOp::Save { .. }) => false,
            _ => true,
        }
    }
}

fn lost() -> SinkError {
    SinkError::Lost("2013: lost connection".to_owned())
}

/// A row as text, JSON by content.
fn canonical(row: &[SqlValue], columns: &[(String, ColType)]) -> String {
    let value = |(value, (_, ty)): (&SqlValue, &(String, ColType))| match value {
        SqlValue::Text(text) if ty.tp == tp::JSON => match serde_json::from_slice::<serde_json::Value>(text) {
            Ok(json) => format!("JSON {}", sorted(json)),
            Err(_) => format!("{value:?}"),
        },
        SqlValue::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        _ => format!("{value:?}"),
    };
    row.iter().zip(columns).map(value).collect::<Vec<_>>().join(", ")
}

fn sorted(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => {
            let fields: BTreeMap<String, serde_json::Value> = fields.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            serde_json::Value::Object(fields.into_iter().collect())
        }
        serde_json::Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
