//! One DDL with its journal (rules 8).
//!
//! Order: named lock, journal `started` with the definitions before (committed), run, then journal `done` and the
//! recorded timestamp in one transaction. Whoever finds `started` takes the lock *before* it compares definitions: a
//! session that still runs the statement holds it. Then: definitions differ: it ran; equal: it did not.

use crate::config::{DDL_SQL_MODE, literal, quoted};
use crate::definition::{Definitions, Verdict};
use crate::error::{Class, Failure, ServerError, shortened};
use crate::session::{Session, bytes_at, text_at, u64_at, wire};
use binlog_core::ids::CommitTs;
use binlog_core::schema::text;
use binlog_core::sink::op::{Ddl, SinkError};
use binlog_core::sink::sql::Dialect;
use binlog_core::sink::value::SqlValue;

/// How long one operation waits for a session that still runs a DDL; after it, `Retry`.
const LOCK_WAIT_SECONDS: u32 = 5;
/// Database or table exists or not, column or key exists or not: perhaps the goal is reached already.
const PERHAPS_REACHED: [u16; 12] = [1007, 1008, 1049, 1050, 1051, 1054, 1060, 1061, 1091, 1146, 1176, 1831];

/// Microseconds that a session's time can be set to: from 1970-01-01 00:00:01 to what 31 bits of seconds hold.
const TIMESTAMPS: std::ops::Range<i64> = 1_000_000..2_147_483_647_000_000;

const ER_UNKNOWN_TIME_ZONE: u16 = 1298;

/// Who keeps others from running a DDL of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    UserLock,
    /// A server without user locks (TiDB before 6.2).
    None,
}

impl Session {
    /// See [`binlog_core::sink::op::SinkOp::Ddl`].
    pub async fn ddl(&mut self, generation: u64, ddl: &Ddl) -> Result<(), SinkError> {
        let guard = self.take_lock().await?;
        let done = self.ddl_guarded(generation, ddl, guard).await;
        if self.is_connected() {
            self.leave(guard).await;
        }
        done
    }

    async fn ddl_guarded(&mut self, generation: u64, ddl: &Ddl, guard: Guard) -> Result<(), SinkError> {
        if self.any_recorded(generation, &[ddl.commit_ts]).await? {
            return Err(SinkError::AlreadyRecorded);
        }
        match self.journal_entry(ddl.commit_ts).await? {
            // Rows of another generation say nothing about this downstream (rules 8: a restored dump).
            Some(entry) if entry.generation == generation && entry.started => {
                self.wait_for_others(ddl, guard).await?;
                if self.ran_before(ddl, &entry.definitions).await? {
                    return self.mark_done(generation, ddl).await;
                }
            }
            Some(entry) if entry.generation == generation => return Err(SinkError::AlreadyRecorded),
            _ => {
                let before = self.definitions(&ddl.touches).await?;
                self.mark_started(generation, ddl, &before).await?;
            }
        }
        self.run_ddl(generation, ddl).await
    }

    /// Decides about a DDL whose outcome was unknown.
    async fn ran_before(&mut self, ddl: &Ddl, before: &Definitions) -> Result<bool, SinkError> {
        let now = self.definitions(&ddl.touches).await?;
        let verdict = before.compare(&now);
        tracing::info!(commit_ts = %ddl.commit_ts, ?verdict, rerun = ddl.rerun, "DDL with unknown outcome found in the journal");
        if ddl.rerun {
            return Ok(false);
        }
        match (verdict, &ddl.goal) {
            (Verdict::Ran, _) => Ok(true),
            (Verdict::NotRun, _) => Ok(false),
            (Verdict::Unknown, Some(goal)) => self.goal_reached(goal).await,
            (Verdict::Unknown, None) => Err(refused(
                ddl,
                "whether this DDL ran before the connection was lost cannot be told from the definitions: look at the downstream, then skip, retry or mark it as applied",
            )),
        }
    }

    async fn run_ddl(&mut self, generation: u64, ddl: &Ddl) -> Result<(), SinkError> {
        let mode = if self.sql_mode_given { self.sql_mode.clone() } else { DDL_SQL_MODE.to_owned() };
        self.set_sql_mode(&mode).await?;
        self.set_zone(ddl).await?;
        let frozen = self.freeze_now(ddl).await?;
        let done = self.execute_ddl(ddl).await;
        if self.is_connected() {
            self.reset_clock(ddl, frozen).await;
        }
        match done {
            Ok(()) => self.mark_done(generation, ddl).await,
            Err(Failure::Broken(e)) => Err(SinkError::Lost(format!("{}: {e}", shortened(&ddl.sql)))),
            Err(Failure::Server(e)) => self.ddl_error(generation, ddl, &e).await,
        }
    }

    async fn set_zone(&mut self, ddl: &Ddl) -> Result<(), SinkError> {
        let Some(zone) = &ddl.time_zone else { return Ok(()) };
        let sql = format!("SET SESSION time_zone = {}", literal(zone));
        match self.query_drop(&sql).await {
            Ok(_) => Ok(()),
            Err(Failure::Server(e)) if e.code == ER_UNKNOWN_TIME_ZONE => {
                self.forget_journal(ddl).await?;
                Err(refused(
                    ddl,
                    &format!(
                        "the upstream ran it in the time zone {zone:?}, which this server does not know, and in another zone \
                         TIMESTAMP values may come out otherwise: load the server's time zone tables (mysql_tzinfo_to_sql), then \
                         retry"
                    ),
                ))
            }
            Err(f) => Err(f.environment(&sql)),
        }
    }

    /// Our sessions are in UTC at their own time. One that cannot be set back is closed.
    async fn reset_clock(&mut self, ddl: &Ddl, frozen: bool) {
        let zone = ddl.time_zone.as_ref().map(|_| "SET SESSION time_zone = '+00:00'");
        let now = frozen.then_some("SET SESSION timestamp = DEFAULT");
        for sql in zone.into_iter().chain(now) {
            if self.query_drop(sql).await.is_err() {
                return self.abandon();
            }
        }
    }

    /// Sets what `NOW()` says; whether it was set. A server may forbid that: then its clock counts, as in the original.
    async fn freeze_now(&mut self, ddl: &Ddl) -> Result<bool, SinkError> {
        let Some(micros) = ddl.now.filter(|micros| TIMESTAMPS.contains(micros)) else { return Ok(false) };
        let sql = format!("SET SESSION timestamp = {}.{:06}", micros / 1_000_000, micros % 1_000_000);
        match self.query_drop(&sql).await {
            Ok(_) => Ok(true),
            Err(Failure::Server(e)) => {
                tracing::warn!(
                    commit_ts = %ddl.commit_ts, error = %e.text(), sql = %shortened(&ddl.sql),
                    "the server does not let this session set its time: rows older than the new column get another time than upstream"
                );
                Ok(false)
            }
            Err(f) => Err(f.environment(&sql)),
        }
    }

    async fn execute_ddl(&mut self, ddl: &Ddl) -> Result<(), Failure> {
        if let Some(database) = ddl.database.as_deref().filter(|d| !d.is_empty()) {
            self.query_drop(&format!("USE {}", quoted(database))).await?;
        }
        for statement in statements(ddl) {
            self.run_one(ddl, statement).await?;
        }
        Ok(())
    }

    async fn run_one(&mut self, ddl: &Ddl, statement: &str) -> Result<(), Failure> {
        let outcome = self.query_unlimited(statement).await?;
        if outcome.warnings > 0 {
            for row in self.query_rows("SHOW WARNINGS").await? {
                let code = u64_at(&row, 1).and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
                let text = crate::error::redacted(code, &text_at(&row, 2).unwrap_or_default());
                tracing::warn!(commit_ts = %ddl.commit_ts, code, warning = %text, "warning of a DDL");
            }
        }
        Ok(())
    }

    async fn ddl_error(&mut self, generation: u64, ddl: &Ddl, error: &ServerError) -> Result<(), SinkError> {
        match error.class() {
            Class::Lost => {
                self.abandon();
                return Err(SinkError::Lost(error.text()));
            }
            Class::Retry => {
                self.forget_journal(ddl).await?;
                return Err(SinkError::Retry(error.text()));
            }
            Class::Denied | Class::Refused => {}
        }
        // Of several statements the goal only tells about the last one.
        if PERHAPS_REACHED.contains(&error.code)
            && statements(ddl).len() == 1
            && let Some(goal) = &ddl.goal
            && self.goal_reached(goal).await?
        {
            tracing::warn!(
                commit_ts = %ddl.commit_ts, error = %error.text(), sql = %shortened(&ddl.sql),
                "the downstream looks as it does after this DDL: treated as applied"
            );
            return self.mark_done(generation, ddl).await;
        }
        self.forget_journal(ddl).await?;
        Err(refused(ddl, &error.text()))
    }

    async fn mark_started(&mut self, generation: u64, ddl: &Ddl, before: &Definitions) -> Result<(), SinkError> {
        let definitions = serde_json::to_string(before)
            .map_err(|e| SinkError::Fatal(format!("the journal cannot be rendered: {e}")))?;
        let text = |s: &str| wire(&SqlValue::Text(s.as_bytes().to_vec()));
        let delete =
            format!("DELETE FROM {} WHERE {} AND commit_ts = {}", self.names.journal, self.names.owner, ddl.commit_ts);
        let insert = format!(
            "INSERT INTO {} (cluster, grp, commit_ts, generation, phase, ddl, definitions) VALUES ({},{},{generation},'started',?,?)",
            self.names.journal, self.names.key, ddl.commit_ts
        );
        self.begin().await?;
        let done = match self.query_drop(&delete).await {
            Ok(_) => self.exec(&insert, vec![text(&ddl.sql), text(&definitions)]).await.map(|_| ()),
            Err(f) => Err(f),
        };
        self.finish(done.map_err(|f| f.environment(&insert))).await?;
        self.journal_used = true;
        Ok(())
    }

    async fn mark_done(&mut self, generation: u64, ddl: &Ddl) -> Result<(), SinkError> {
        let update = format!(
            "UPDATE {} SET phase = 'done' WHERE {} AND commit_ts = {} AND generation = {generation}",
            self.names.journal, self.names.owner, ddl.commit_ts
        );
        self.begin().await?;
        let done = match self.query_drop(&update).await {
            Err(f) => Err(f.environment(&update)),
            Ok(o) if o.affected != 1 => Err(SinkError::Rewind(format!(
                "the journal row of the DDL at {} is gone from the downstream",
                ddl.commit_ts
            ))),
            Ok(_) => self.record(generation, &[ddl.commit_ts]).await,
        };
        self.finish(done).await
    }

    /// After a certain refusal nothing ran and nothing is left to decide.
    async fn forget_journal(&mut self, ddl: &Ddl) -> Result<(), SinkError> {
        let sql =
            format!("DELETE FROM {} WHERE {} AND commit_ts = {}", self.names.journal, self.names.owner, ddl.commit_ts);
        self.query_drop(&sql).await.map(|_| ()).map_err(|f| f.environment(&sql))
    }

    async fn journal_entry(&mut self, commit_ts: CommitTs) -> Result<Option<Entry>, SinkError> {
        let sql = format!(
            "SELECT generation, phase, definitions FROM {} WHERE {} AND commit_ts = {commit_ts}",
            self.names.journal, self.names.owner
        );
        let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let entry = (|| {
            Some(Entry {
                generation: u64_at(row, 0)?,
                started: match text_at(row, 1)?.as_str() {
                    "started" => true,
                    "done" => false,
                    _ => return None,
                },
                definitions: serde_json::from_slice(&bytes_at(row, 2)?).ok()?,
            })
        })();
        entry.map(Some).ok_or_else(|| {
            SinkError::Fatal(format!("{}: the row of commit_ts {commit_ts} is not one of ours", self.names.journal))
        })
    }

    async fn take_lock(&mut self) -> Result<Guard, SinkError> {
        let sql = format!("SELECT GET_LOCK({}, {LOCK_WAIT_SECONDS})", literal(&self.names.lock));
        match self.query_rows(&sql).await {
            Ok(rows) => match rows.first().and_then(|r| u64_at(r, 0)) {
                Some(1) => Ok(Guard::UserLock),
                _ => Err(SinkError::Retry(format!(
                    "another session holds the lock {}: it still runs a DDL of ours",
                    self.names.lock
                ))),
            },
            // Unknown or unsupported function: only TiDB has ever been without.
            Err(f) if self.dialect() == Dialect::TiDb && matches!(f.code(), Some(1064 | 1235 | 1305 | 8108)) => {
                Ok(Guard::None)
            }
            Err(f) => Err(f.environment(&sql)),
        }
    }

    /// Gives the lock back and the session its mode. A session that fails here is closed, which does both.
    async fn leave(&mut self, guard: Guard) {
        let mode = self.sql_mode.clone();
        if self.set_sql_mode(&mode).await.is_err() {
            self.abandon();
        }
        if guard == Guard::UserLock {
            let sql = format!("SELECT RELEASE_LOCK({})", literal(&self.names.lock));
            if self.query_rows(&sql).await.is_err() {
                self.abandon();
            }
        }
    }

    /// Where the lock does not tell: another session may still run the statement, and on TiDB a job outlives its session.
    async fn wait_for_others(&mut self, ddl: &Ddl, guard: Guard) -> Result<(), SinkError> {
        if guard == Guard::None {
            const LIST: &str = "SHOW FULL PROCESSLIST";
            const OWN: &str = "SELECT CONNECTION_ID()";
            let own = self.query_rows(OWN).await.map_err(|f| f.environment(OWN))?;
            let own = own.first().and_then(|r| u64_at(r, 0));
            let rows = self.query_rows(LIST).await.map_err(|f| f.environment(LIST))?;
            let wanted = bare(&ddl.sql);
            if rows.iter().any(|r| u64_at(r, 0) != own && text_at(r, 7).is_some_and(|t| bare(&t) == wanted)) {
                return Err(SinkError::Retry("another session still runs this DDL".to_owned()));
            }
        }
        if self.dialect() == Dialect::TiDb {
            const JOBS: &str = "ADMIN SHOW DDL JOBS";
            let rows = self.query_rows(JOBS).await.map_err(|f| f.environment(JOBS))?;
            if rows.iter().any(|row| {
                let over = ["synced", "cancelled", "rollback done"];
                let columns: Vec<String> = (0..row.len()).filter_map(|i| text_at(row, i)).collect();
                let running = !columns.iter().any(|c| over.contains(&c.as_str()));
                let same = |name: &str| columns.iter().any(|c| c.eq_ignore_ascii_case(name));
                running && ddl.touches.iter().any(|(d, t)| same(d) && (t.is_empty() || same(t)))
            }) {
                return Err(SinkError::Retry("a DDL job on these tables still runs in the downstream".to_owned()));
            }
        }
        Ok(())
    }
}

struct Entry {
    generation: u64,
    started: bool,
    definitions: Definitions,
}

/// A batch of CREATE TABLE is one DDL with several statements, each of which can run again (`rerun`). Other texts are sent
/// as they are: where a statement ends depends on the sql_mode of the session that wrote them.
fn statements(ddl: &Ddl) -> Vec<&str> {
    if ddl.rerun { text::statements(&ddl.sql) } else { vec![&ddl.sql] }
}

fn bare(sql: &str) -> &str {
    sql.trim().trim_end_matches(';').trim_end()
}

fn refused(ddl: &Ddl, error: &str) -> SinkError {
    SinkError::Refused { commit_ts: ddl.commit_ts, statement: shortened(&ddl.sql), error: error.to_owned() }
}
