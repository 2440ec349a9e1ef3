//! Begin and Save: the checkpoint and our state move together in one transaction (rules 8).

use crate::apply::join;
use crate::session::{Session, wire};
use binlog_core::ids::CommitTs;
use binlog_core::sink::op::{Checkpoint, SinkError, SinkState};
use binlog_core::sink::value::SqlValue;

/// Timestamps per DELETE: 20 bytes each, far below any packet limit.
const DELETES_PER_STATEMENT: usize = 2000;

impl Session {
    /// A new generation: row, state, and nothing of the older ones.
    pub async fn begin_generation(&mut self, checkpoint: &Checkpoint, state: &SinkState) -> Result<(), SinkError> {
        let rendered = Rendered::new(checkpoint, state)?;
        self.begin().await?;
        let done = self.write_generation(&rendered, state).await;
        self.finish(done).await?;
        self.known_text = Some(rendered.checkpoint.into_bytes());
        Ok(())
    }

    async fn write_generation(&mut self, rendered: &Rendered, state: &SinkState) -> Result<(), SinkError> {
        if let Some(stored) = self.stored_state(true).await?
            && stored.generation >= state.generation
        {
            return Err(SinkError::Rewind(format!(
                "generation {} is in use already (wanted {}): another Drainer took over",
                stored.generation, state.generation
            )));
        }
        self.write_rows(rendered, state.generation).await?;
        for table in [&self.names.applied.clone(), &self.names.journal.clone()] {
            let sql = format!("DELETE FROM {table} WHERE {} AND generation <> {}", self.names.owner, state.generation);
            self.query_drop(&sql).await.map_err(|f| f.environment(&sql))?;
        }
        Ok(())
    }

    /// Moves the checkpoint and deletes exactly `delete`.
    pub async fn save(
        &mut self,
        checkpoint: &Checkpoint,
        state: &SinkState,
        delete: &[CommitTs],
    ) -> Result<(), SinkError> {
        let rendered = Rendered::new(checkpoint, state)?;
        self.begin().await?;
        let done = self.write_progress(checkpoint, &rendered, state, delete).await;
        self.finish(done).await?;
        self.known_text = Some(rendered.checkpoint.into_bytes());
        self.journal_used = false;
        Ok(())
    }

    async fn write_progress(
        &mut self,
        checkpoint: &Checkpoint,
        rendered: &Rendered,
        state: &SinkState,
        delete: &[CommitTs],
    ) -> Result<(), SinkError> {
        // Locked before they are judged: nobody else moves them until our COMMIT.
        let Some(stored) = self.stored_state(true).await? else {
            return Err(SinkError::Rewind("our state is gone from the downstream".to_owned()));
        };
        if stored.generation != state.generation {
            return Err(SinkError::Rewind(format!(
                "the downstream is at generation {}, not {}: another Drainer took over",
                stored.generation, state.generation
            )));
        }
        // Not only "the row is what is stored beside it": the Save of a dead session may have been committed after our Open,
        // and our list would not know what it deleted.
        let row = self.checkpoint_text(true).await?;
        if row != self.known_text || row != Some(stored.checkpoint_text) {
            return Err(SinkError::Rewind("the checkpoint row was changed by somebody else".to_owned()));
        }
        self.write_rows(rendered, state.generation).await?;
        let mut affected = 0_usize;
        for chunk in delete.chunks(DELETES_PER_STATEMENT) {
            let sql = format!(
                "DELETE FROM {} WHERE {} AND generation = {} AND part = 0 AND commit_ts IN ({})",
                self.names.applied,
                self.names.owner,
                state.generation,
                join(chunk)
            );
            let outcome = self.query_drop(&sql).await.map_err(|f| f.environment(&sql))?;
            affected = affected.saturating_add(usize::try_from(outcome.affected).unwrap_or(usize::MAX));
        }
        if affected != delete.len() {
            return Err(SinkError::Rewind(format!(
                "{affected} of {} recorded timestamps were there: the downstream lost or gained some (failover?)",
                delete.len()
            )));
        }
        if self.journal_used {
            let sql = format!(
                "DELETE FROM {} WHERE {} AND phase = 'done' AND commit_ts <= {}",
                self.names.journal, self.names.owner, checkpoint.commit_ts
            );
            self.query_drop(&sql).await.map_err(|f| f.environment(&sql))?;
        }
        Ok(())
    }

    /// UPDATE, and INSERT when nothing matched (sessions count matched rows).
    async fn write_rows(&mut self, rendered: &Rendered, generation: u64) -> Result<(), SinkError> {
        let n = self.names.clone();
        let text = |bytes: &str| wire(&SqlValue::Text(bytes.as_bytes().to_vec()));
        let rows = [
            (
                format!("UPDATE {} SET checkPoint = ? WHERE clusterID = {}", n.checkpoint, n.cluster),
                format!("INSERT INTO {} (checkPoint, clusterID) VALUES (?, {})", n.checkpoint, n.cluster),
                vec![text(&rendered.checkpoint)],
            ),
            (
                format!(
                    "UPDATE {} SET generation = {generation}, state = ?, checkpoint_text = ? WHERE {}",
                    n.state, n.owner
                ),
                format!(
                    "INSERT INTO {} (cluster, grp, generation, state, checkpoint_text) VALUES ({},{generation},?,?)",
                    n.state, n.key
                ),
                vec![text(&rendered.state), text(&rendered.checkpoint)],
            ),
        ];
        for (update, insert, params) in rows {
            let outcome = self.exec(&update, params.clone()).await.map_err(|f| f.environment(&update))?;
            if outcome.affected == 0 {
                self.exec(&insert, params).await.map_err(|f| f.environment(&insert))?;
            }
        }
        Ok(())
    }

    /// Ends a transaction on our own tables.
    pub(crate) async fn finish(&mut self, done: Result<(), SinkError>) -> Result<(), SinkError> {
        match done {
            Ok(()) => self.commit_own().await,
            Err(e) => {
                if self.is_connected() {
                    self.rollback().await;
                }
                Err(e)
            }
        }
    }
}

/// Rendered once, so that both places hold the same bytes.
struct Rendered {
    checkpoint: String,
    state: String,
}

impl Rendered {
    fn new(checkpoint: &Checkpoint, state: &SinkState) -> Result<Self, SinkError> {
        let text = |r: Result<String, serde_json::Error>| {
            r.map_err(|e| SinkError::Fatal(format!("the checkpoint cannot be rendered: {e}")))
        };
        Ok(Self { checkpoint: text(serde_json::to_string(checkpoint))?, state: text(serde_json::to_string(state))? })
    }
}
