//! One downstream transaction (rules 8): records first, then the statements, every result checked, then COMMIT in a
//! round trip of its own.

use crate::error::{Class, Failure, shortened};
use crate::session::{ER_DUPLICATE, Outcome, Session, text_at, u64_at, wire};
use crate::warnings::{Verdict, Warning, judge};
use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{SinkError, Statement};
use mysql_async::Value;

/// Rows per INSERT of records: about 60 bytes each, far below any packet limit.
const RECORDS_PER_INSERT: usize = 1000;

impl Session {
    /// Applies one transaction; see [`binlog_core::sink::op::SinkOp::Apply`]. On an error nothing of it is left, unless
    /// that is `Lost`.
    pub async fn apply(
        &mut self,
        generation: u64,
        records: &[CommitTs],
        statements: &[Statement],
    ) -> Result<(), SinkError> {
        for statement in statements {
            if !changes_rows(&statement.sql) {
                return Err(refused(statement, "only INSERT, REPLACE, UPDATE and DELETE belong into a transaction"));
            }
            if let Some(reason) = self.unsendable(&statement.sql, &statement.params) {
                return Err(refused(statement, &reason));
            }
        }
        self.begin().await?;
        if let Err(e) = self.fill(generation, records, statements).await {
            match e {
                SinkError::Lost(_) => self.abandon(),
                _ => self.rollback().await,
            }
            return Err(e);
        }
        match self.commit().await {
            Ok(()) => Ok(()),
            Err(Err(e)) => Err(e),
            Err(Ok(failure)) => Err(self.duplicate_at_commit(generation, records, statements, &failure).await),
        }
    }

    async fn fill(&mut self, generation: u64, records: &[CommitTs], statements: &[Statement]) -> Result<(), SinkError> {
        self.record(generation, records).await?;
        for statement in statements {
            self.run(statement).await?;
        }
        Ok(())
    }

    /// Plain INSERT: an existing record must fail, so never REPLACE or IGNORE.
    pub(crate) async fn record(&mut self, generation: u64, records: &[CommitTs]) -> Result<(), SinkError> {
        for chunk in records.chunks(RECORDS_PER_INSERT) {
            let rows: Vec<String> =
                chunk.iter().map(|ts| format!("({},{generation},{ts},0)", self.names.key)).collect();
            let sql = format!(
                "INSERT INTO {} (cluster,grp,generation,commit_ts,part) VALUES {}",
                self.names.applied,
                rows.join(",")
            );
            match self.query_drop(&sql).await {
                Ok(_) => {}
                Err(f) if f.code() == Some(ER_DUPLICATE) => return Err(SinkError::AlreadyRecorded),
                Err(f) => return Err(f.environment(&sql)),
            }
        }
        Ok(())
    }

    async fn run(&mut self, statement: &Statement) -> Result<(), SinkError> {
        let params = statement.params.iter().map(wire).collect();
        let outcome = match self.exec(&statement.sql, params).await {
            Ok(outcome) => outcome,
            Err(failure) => return Err(self.statement_error(statement, &failure)),
        };
        if outcome.warnings > 0 {
            self.judge_warnings(statement, outcome).await?;
        }
        match statement.affected {
            Some(expected) if expected != outcome.affected => Err(refused(
                statement,
                &format!(
                    "affected {} rows, expected {expected}: the downstream has diverged from the upstream (changed by hand, or a missing row)",
                    outcome.affected
                ),
            )),
            _ => Ok(()),
        }
    }

    fn statement_error(&self, statement: &Statement, failure: &Failure) -> SinkError {
        match failure {
            Failure::Broken(e) => SinkError::Lost(e.clone()),
            Failure::Server(e) => match e.class() {
                Class::Lost => SinkError::Lost(e.text()),
                Class::Retry => SinkError::Retry(e.text()),
                Class::Denied | Class::Refused if e.code == 1153 => refused(
                    statement,
                    &format!("{}; raise max_allowed_packet (now {}) on the server", e.text(), self.packet_limit),
                ),
                Class::Denied | Class::Refused => refused(statement, &e.text()),
            },
        }
    }

    async fn judge_warnings(&mut self, statement: &Statement, outcome: Outcome) -> Result<(), SinkError> {
        const SHOW: &str = "SHOW WARNINGS";
        let rows = self.query_rows(SHOW).await.map_err(|f| f.environment(SHOW))?;
        for row in &rows {
            let code = u64_at(row, 1).and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
            let warning = Warning {
                level: text_at(row, 0).unwrap_or_default(),
                code,
                message: text_at(row, 2).unwrap_or_default(),
            };
            let harmless = match judge(&warning, &statement.sql, &statement.params) {
                Verdict::Harmless => true,
                Verdict::Changed => false,
                Verdict::IfEnum { database, table, column } => self.is_enum(&database, &table, &column).await?,
            };
            if !harmless {
                let text = crate::error::redacted(code, &warning.message);
                return Err(refused(statement, &format!("{} {code}: {text}", warning.level)));
            }
        }
        if rows.len() < usize::from(outcome.warnings) {
            return Err(refused(
                statement,
                &format!("{} warnings, of which the server shows {}", outcome.warnings, rows.len()),
            ));
        }
        Ok(())
    }

    async fn is_enum(&mut self, database: &str, table: &str, column: &str) -> Result<bool, SinkError> {
        const LOOK: &str = "SELECT DATA_TYPE FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND COLUMN_NAME = ?";
        let params = [database, table, column].iter().map(|s| Value::from(*s)).collect();
        let rows = self.exec_rows(LOOK, params).await.map_err(|f| f.environment(LOOK))?;
        Ok(rows.first().and_then(|r| text_at(r, 0)).is_some_and(|t| t.eq_ignore_ascii_case("enum")))
    }

    /// 1062 at COMMIT (TiDB, optimistic): on our table or on one of the user's? The message does not always tell.
    async fn duplicate_at_commit(
        &mut self,
        generation: u64,
        records: &[CommitTs],
        statements: &[Statement],
        failure: &Failure,
    ) -> SinkError {
        self.rollback().await;
        match self.any_recorded(generation, records).await {
            Err(e) => e,
            Ok(true) => SinkError::AlreadyRecorded,
            Ok(false) => match statements.first() {
                Some(first) => refused(first, &format!("at COMMIT: {}", failure.text())),
                None => SinkError::Retry(format!("COMMIT: {}", failure.text())),
            },
        }
    }

    pub(crate) async fn any_recorded(&mut self, generation: u64, records: &[CommitTs]) -> Result<bool, SinkError> {
        for chunk in records.chunks(RECORDS_PER_INSERT) {
            let sql = format!(
                "SELECT 1 FROM {} WHERE {} AND generation = {generation} AND commit_ts IN ({}) LIMIT 1",
                self.names.applied,
                self.names.owner,
                join(chunk)
            );
            if !self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Timestamps as a list of literals.
pub(crate) fn join(timestamps: &[CommitTs]) -> String {
    timestamps.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A DDL would commit what came before it.
fn changes_rows(sql: &str) -> bool {
    let word = sql.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    ["insert", "replace", "update", "delete"].iter().any(|w| word.eq_ignore_ascii_case(w))
}

pub(crate) fn refused(statement: &Statement, error: &str) -> SinkError {
    SinkError::Refused { commit_ts: statement.commit_ts, statement: shortened(&statement.sql), error: error.to_owned() }
}
