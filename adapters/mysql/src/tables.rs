//! Our tables in the downstream, and reading everything that they know (spec drainer 6.3, rules 8).
//!
//! `checkpoint` is the original's, byte for byte. `drainer_state` holds our state and the exact text that we last wrote
//! into the checkpoint row, so that a row edited or restored by somebody else is noticed. `drainer_applied` holds the
//! recorded timestamps, `drainer_ddl_journal` the DDL journal. A read that fails is never "absent".

use crate::error::{Class, Failure};
use crate::session::{Session, bytes_at, text_at, u64_at};
use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{Checkpoint, Opened, SinkError, SinkState};
use std::collections::BTreeSet;

/// Recorded timestamps that we are ready to hold: 200 MB. The machine keeps far fewer above a checkpoint.
const MAX_RECORDED: usize = 5_000_000;

/// A DDL whose outcome is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedDdl {
    pub commit_ts: CommitTs,
    pub generation: u64,
    pub sql: String,
}

impl Session {
    pub(crate) async fn create_tables(&mut self) -> Result<(), SinkError> {
        let n = self.names.clone();
        let grp = "grp varchar(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";
        let text = "mediumtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";
        let tables = [
            (
                &n.checkpoint,
                format!(
                    "CREATE TABLE IF NOT EXISTS {}(clusterID bigint unsigned primary key, checkPoint MEDIUMTEXT)",
                    n.checkpoint
                ),
            ),
            (
                &n.state,
                format!(
                    "CREATE TABLE IF NOT EXISTS {}(cluster bigint unsigned NOT NULL, {grp}, generation bigint unsigned NOT NULL, \
                     state {text} NOT NULL, checkpoint_text {text} NOT NULL, PRIMARY KEY (cluster, grp))",
                    n.state
                ),
            ),
            (
                &n.applied,
                format!(
                    "CREATE TABLE IF NOT EXISTS {}(cluster bigint unsigned NOT NULL, {grp}, generation bigint unsigned NOT NULL, \
                     commit_ts bigint unsigned NOT NULL, part int unsigned NOT NULL, \
                     PRIMARY KEY (cluster, grp, generation, commit_ts, part))",
                    n.applied
                ),
            ),
            (
                &n.journal,
                format!(
                    "CREATE TABLE IF NOT EXISTS {}(cluster bigint unsigned NOT NULL, {grp}, commit_ts bigint unsigned NOT NULL, \
                     generation bigint unsigned NOT NULL, phase varchar(16) NOT NULL, ddl {text} NOT NULL, \
                     definitions {text} NOT NULL, PRIMARY KEY (cluster, grp, commit_ts))",
                    n.journal
                ),
            ),
        ];
        let schema = format!("CREATE DATABASE IF NOT EXISTS {}", n.database);
        // An account without CREATE works if an administrator made the tables: only the last answer counts.
        let schema_denied = match self.query_drop(&schema).await {
            Ok(_) => None,
            Err(f) if is_denied(&f) => Some(f.environment(&schema)),
            Err(f) => return Err(f.environment(&schema)),
        };
        for (table, statement) in tables {
            let denied = match self.query_drop(&statement).await {
                Ok(_) => continue,
                Err(f) if is_denied(&f) || f.code() == Some(1049) => f,
                Err(f) => return Err(f.environment(&statement)),
            };
            let look = format!("SELECT 1 FROM {table} LIMIT 1");
            if let Err(f) = self.query_rows(&look).await {
                if matches!(f, Failure::Broken(_)) {
                    return Err(f.environment(&look));
                }
                let why = match schema_denied {
                    Some(SinkError::Fatal(text)) => text,
                    _ => format!("{statement}: {}", denied.text()),
                };
                return Err(SinkError::Fatal(format!(
                    "{why}; needed: GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON {}.* (or let an administrator create the tables)",
                    n.database
                )));
            }
        }
        Ok(())
    }

    /// Checkpoint, state, records and unfinished DDLs, all of one snapshot: a Save of an older session that ends
    /// meanwhile is seen whole or not at all.
    pub(crate) async fn read_all(&mut self) -> Result<(Opened, Vec<UnfinishedDdl>), SinkError> {
        // A save of an earlier process whose COMMIT is still on its way holds the row. What it writes must be read here: coming
        // later, it could call a state consistent to which we have applied more (C1). TiDB's optimistic sessions take no lock before
        // their COMMIT, so it is our COMMIT that counts there: that of a transaction which began before it fails from then on.
        self.begin().await?;
        let waited = self.checkpoint_text(true).await.map(drop);
        self.finish(waited).await?;
        for statement in
            ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT"]
        {
            self.query_drop(statement).await.map_err(|f| f.environment(statement))?;
        }
        let read = self.read_snapshot().await;
        self.rollback().await;
        let (opened, unfinished, text) = read?;
        self.known_text = text;
        Ok((opened, unfinished))
    }

    async fn read_snapshot(&mut self) -> Result<(Opened, Vec<UnfinishedDdl>, Option<Vec<u8>>), SinkError> {
        let n = self.names.clone();
        let row_text = self.checkpoint_text(false).await?;
        let checkpoint = match &row_text {
            None => None,
            Some(text) => Some(parse_checkpoint(text).map_err(|e| {
                SinkError::Fatal(format!(
                    "{} clusterID {}: {e}; restore the row from a backup, or delete it to start with initial-commit-ts",
                    n.checkpoint, n.cluster
                ))
            })?),
        };
        let mut last_generation = 0;
        let mut state = None;
        if let Some(stored) = self.stored_state(false).await? {
            last_generation = stored.generation;
            if row_text.is_some() && row_text.as_ref() == Some(&stored.checkpoint_text) {
                let parsed: SinkState = serde_json::from_slice(&stored.state).map_err(|e| {
                    SinkError::Fatal(format!("{} ({}): state is not ours to read: {e}", n.state, n.owner))
                })?;
                if parsed.generation != stored.generation {
                    return Err(SinkError::Fatal(format!(
                        "{} ({}): generations differ within the row",
                        n.state, n.owner
                    )));
                }
                state = Some(parsed);
            }
        }
        for table in [&n.applied, &n.journal] {
            let sql = format!("SELECT MAX(generation) FROM {table} WHERE {}", n.owner);
            let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
            last_generation = last_generation.max(rows.first().and_then(|r| u64_at(r, 0)).unwrap_or(0));
        }
        let recorded = match &state {
            Some(state) => self.recorded(state.generation).await?,
            None => BTreeSet::new(),
        };
        let unfinished = self.unfinished().await?;
        let (dialect, server) = (self.dialect(), String::new());
        let opened = Opened { checkpoint, state, last_generation, recorded, dialect, server };
        Ok((opened, unfinished, row_text))
    }

    /// Bytes of the checkpoint row; `None`: there is no row.
    pub(crate) async fn checkpoint_text(&mut self, lock: bool) -> Result<Option<Vec<u8>>, SinkError> {
        let n = &self.names;
        let suffix = if lock { " FOR UPDATE" } else { "" };
        let sql = format!("SELECT checkPoint FROM {} WHERE clusterID = {}{suffix}", n.checkpoint, n.cluster);
        let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
        // A NULL is a row without text, which no version writes: it fails to parse and is not "absent".
        Ok(rows.first().map(|row| bytes_at(row, 0).unwrap_or_default()))
    }

    pub(crate) async fn stored_state(&mut self, lock: bool) -> Result<Option<StoredState>, SinkError> {
        let n = self.names.clone();
        let suffix = if lock { " FOR UPDATE" } else { "" };
        let sql = format!("SELECT generation, state, checkpoint_text FROM {} WHERE {}{suffix}", n.state, n.owner);
        let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
        let Some(row) = rows.first() else { return Ok(None) };
        match (u64_at(row, 0), bytes_at(row, 1), bytes_at(row, 2)) {
            (Some(generation), Some(state), Some(checkpoint_text)) => {
                Ok(Some(StoredState { generation, state, checkpoint_text }))
            }
            _ => Err(SinkError::Fatal(format!("{} ({}): columns of unexpected types", n.state, n.owner))),
        }
    }

    async fn recorded(&mut self, generation: u64) -> Result<BTreeSet<CommitTs>, SinkError> {
        let n = &self.names;
        let table = n.applied.clone();
        let sql = format!(
            "SELECT commit_ts FROM {table} WHERE {} AND generation = {generation} LIMIT {}",
            n.owner,
            MAX_RECORDED + 1
        );
        let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
        if rows.len() > MAX_RECORDED {
            return Err(SinkError::Fatal(format!("{table}: more than {MAX_RECORDED} recorded timestamps")));
        }
        rows.iter()
            .map(|row| u64_at(row, 0).map(CommitTs::new))
            .collect::<Option<_>>()
            .ok_or_else(|| SinkError::Fatal(format!("{table}: commit_ts is not a number")))
    }

    async fn unfinished(&mut self) -> Result<Vec<UnfinishedDdl>, SinkError> {
        let n = &self.names;
        let sql = format!(
            "SELECT commit_ts, generation, ddl FROM {} WHERE {} AND phase = 'started' ORDER BY commit_ts",
            n.journal, n.owner
        );
        let rows = self.query_rows(&sql).await.map_err(|f| f.environment(&sql))?;
        Ok(rows
            .iter()
            .map(|row| UnfinishedDdl {
                commit_ts: CommitTs::new(u64_at(row, 0).unwrap_or(0)),
                generation: u64_at(row, 1).unwrap_or(0),
                sql: text_at(row, 2).unwrap_or_default(),
            })
            .collect())
    }
}

/// Our row of `drainer_state`.
pub(crate) struct StoredState {
    pub generation: u64,
    state: Vec<u8>,
    pub checkpoint_text: Vec<u8>,
}

fn is_denied(failure: &Failure) -> bool {
    matches!(failure, Failure::Server(e) if e.class() == Class::Denied)
}

/// Reads what any generation of the original wrote: missing keys are false or 0, `null` is a missing key, unknown keys
/// and further entries of `ts-map` do not matter.
pub(crate) fn parse_checkpoint(text: &[u8]) -> Result<Checkpoint, String> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| format!("checkPoint is not JSON as any version writes it ({e})"))?;
    let serde_json::Value::Object(mut keys) = value else {
        return Err("checkPoint is not a JSON object".to_owned());
    };
    keys.retain(|_, v| !v.is_null());
    serde_json::from_value(serde_json::Value::Object(keys)).map_err(|e| format!("checkPoint has an unknown form ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_generations() {
        for (text, ts, consistent, version, entries) in [
            (r#"{"commitTS":7,"ts-map":{"master-ts":5,"slave-ts":6}}"#, 7, false, 0, 2),
            (r#"{"consistent":true,"commitTS":7,"ts-map":{}}"#, 7, true, 0, 0),
            (
                r#"{"consistent":false,"commitTS":405039487358599169,"ts-map":null}"#,
                405_039_487_358_599_169,
                false,
                0,
                0,
            ),
            (
                r#"{"consistent":false,"commitTS":9,"ts-map":{"primary-ts":1,"secondary-ts":2,"master-ts":3,"slave-ts":4},"schema-version":57,"new":1}"#,
                9,
                false,
                57,
                4,
            ),
            ("{}", 0, false, 0, 0),
        ] {
            let c = parse_checkpoint(text.as_bytes()).unwrap();
            assert_eq!(
                (c.commit_ts.raw(), c.consistent, c.schema_version.raw(), c.ts_map.len()),
                (ts, consistent, version, entries)
            );
        }
        for bad in ["", "1", "{\"commitTS\":\"x\"}", "{\"commitTS\":-1}", "{"] {
            assert!(parse_checkpoint(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_order_is_the_original_s() {
        let text = r#"{"consistent":false,"commitTS":405039487358599169,"ts-map":{"primary-ts":405039487358599169,"secondary-ts":405039490000000000},"schema-version":57}"#;
        let c = parse_checkpoint(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&c).unwrap(), text);
    }
}
