//! The port: one operation at a time from the Drainer's driver, over one session.

use crate::config::MysqlConfig;
use crate::session::Session;
use crate::tables::UnfinishedDdl;
use binlog_core::sink::op::{SinkError, SinkOp, SinkReply};
use binlog_core::sink::sql::Dialect;
use std::time::Duration;

/// The driver calls [`MysqlSink::keep_alive`] this often while idle: three times within the sessions' `wait_timeout`.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Sink for MySQL, MariaDB and TiDB.
pub struct MysqlSink {
    config: MysqlConfig,
    session: Option<Session>,
    unfinished: Vec<UnfinishedDdl>,
}

impl MysqlSink {
    #[must_use]
    pub fn new(config: MysqlConfig) -> Self {
        Self { config, session: None, unfinished: Vec::new() }
    }

    /// Does one operation. Dropping the future before its end closes the session: the outcome is then unknown.
    pub async fn execute(&mut self, request: SinkOp) -> Result<SinkReply, SinkError> {
        let done = match request {
            SinkOp::Open => return self.open().await,
            SinkOp::Close => {
                if let Some(mut session) = self.session.take() {
                    session.close().await;
                }
                return Ok(SinkReply::Closed);
            }
            SinkOp::Begin { checkpoint, state } => self.session()?.begin_generation(&checkpoint, &state).await,
            SinkOp::Apply { generation, records, statements } => {
                self.session()?.apply(generation, &records, &statements).await
            }
            SinkOp::Ddl { generation, ddl } => self.session()?.ddl(generation, &ddl).await,
            SinkOp::Save { checkpoint, state, delete } => self.session()?.save(&checkpoint, &state, &delete).await,
        };
        if matches!(done, Err(SinkError::Lost(_))) {
            self.session = None;
        }
        done.map(|()| SinkReply::Done)
    }

    /// Pings the idle session. `Lost` means that the next operation must be `Open`.
    pub async fn keep_alive(&mut self) -> Result<(), SinkError> {
        match &mut self.session {
            None => Ok(()),
            Some(session) => {
                let alive = session.ping().await;
                if alive.is_err() {
                    self.session = None;
                }
                alive
            }
        }
    }

    /// Which server answered the last `Open`.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.session.as_ref().map(Session::dialect)
    }

    /// DDLs that the last `Open` found started and not done, oldest first.
    #[must_use]
    pub fn unfinished(&self) -> &[UnfinishedDdl] {
        &self.unfinished
    }

    async fn open(&mut self) -> Result<SinkReply, SinkError> {
        self.session = None;
        let mut session = Session::connect(&self.config).await?;
        session.create_tables().await?;
        let (mut opened, unfinished) = session.read_all().await?;
        opened.server =
            format!("{:?} {} at {}:{}", session.dialect(), session.version, self.config.host, self.config.port);
        for ddl in &unfinished {
            tracing::warn!(commit_ts = %ddl.commit_ts, sql = %ddl.sql, "this DDL was started and its outcome is unknown");
        }
        self.unfinished = unfinished;
        self.session = Some(session);
        Ok(SinkReply::Opened(Box::new(opened)))
    }

    fn session(&mut self) -> Result<&mut Session, SinkError> {
        match &mut self.session {
            Some(session) if session.is_connected() => Ok(session),
            _ => Err(SinkError::Lost("not connected to the downstream".to_owned())),
        }
    }
}
