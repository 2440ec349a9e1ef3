//! One connection to the downstream, set up so that what we send is what is stored.
//!
//! Every round trip takes the connection out and puts it back only when it is still in step with the server: an error of
//! the network, a time-out or a dropped future closes it, and the server rolls back. A pool of workers is a set of these.

use crate::config::{DEFAULT_SQL_MODE, MysqlConfig, Names, literal, param_literal, quoted};
use crate::error::{Class, Failure};
use binlog_core::config::security::SecuritySettings;
use binlog_core::sink::op::SinkError;
use binlog_core::sink::sql::Dialect;
use binlog_core::sink::value::SqlValue;
use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, OptsBuilder, Params, Row, SslOpts, Value};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// A connected and configured session.
pub struct Session {
    /// `None`: lost; only a new session helps.
    conn: Option<Conn>,
    pub(crate) names: Names,
    /// The sessions' `sql_mode`.
    pub(crate) sql_mode: String,
    /// Whether `sql_mode` is the user's: then DDL runs in it too.
    pub(crate) sql_mode_given: bool,
    pub(crate) packet_limit: usize,
    pub(crate) version: String,
    /// The journal may hold rows that a Save can remove.
    pub(crate) journal_used: bool,
    /// The checkpoint row as this session last read or wrote it: a Save must find it so.
    pub(crate) known_text: Option<Vec<u8>>,
    dialect: Dialect,
    read_timeout: Duration,
}

/// What an executed statement reported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Matched rows (CLIENT_FOUND_ROWS).
    pub affected: u64,
    pub warnings: u16,
}

/// Prepared statements kept per session: multi-row statements of different lengths are different texts.
const STATEMENT_CACHE: usize = 128;
/// A session of ours that died must not hold its locks for hours (rules 8).
const WAIT_TIMEOUT_SECONDS: u32 = 60;
/// First probe of a silent peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Parameters per statement that the protocol can count.
const MAX_PARAMS: usize = 65_535;
/// Above this the client library sends parameters in packets of their own.
const LONG_DATA_FROM: usize = (1 << 24) - 1;
const EXPLICIT_DEFAULTS: &str = "SET SESSION explicit_defaults_for_timestamp = 1";
const KEEP_ZERO: &str = "NO_AUTO_VALUE_ON_ZERO";
const ER_UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;
const ER_PACKET_TOO_LARGE: u16 = 1153;

impl Session {
    /// Connects and sets the session up (spec drainer 4.8).
    pub async fn connect(config: &MysqlConfig) -> Result<Self, SinkError> {
        config.check().map_err(SinkError::Fatal)?;
        let place = format!("{}:{} as {:?}", config.host, config.port, config.user);
        let opts = OptsBuilder::default()
            .ip_or_hostname(config.host.clone())
            .tcp_port(config.port)
            .user(Some(config.user.clone()))
            .pass(Some(config.password.clone()))
            .prefer_socket(false)
            .ssl_opts(config.security.as_ref().map(tls))
            .client_found_rows(true)
            .stmt_cache_size(STATEMENT_CACHE)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .tcp_nodelay(true);
        let conn = match tokio::time::timeout(config.connect_timeout, Conn::new(opts)).await {
            Err(_) => {
                return Err(SinkError::Lost(format!(
                    "connect to {place}: no answer within {:?}",
                    config.connect_timeout
                )));
            }
            Ok(Err(e)) => return Err(connect_error(&place, e)),
            Ok(Ok(conn)) => conn,
        };
        let mut session = Self {
            conn: Some(conn),
            names: config.names(),
            sql_mode: config.sql_mode.clone().unwrap_or_else(|| DEFAULT_SQL_MODE.to_owned()),
            sql_mode_given: config.sql_mode.is_some()
                || config.params.keys().any(|k| k.eq_ignore_ascii_case("sql_mode")),
            packet_limit: 0,
            version: String::new(),
            journal_used: true,
            known_text: None,
            dialect: Dialect::MySql,
            read_timeout: config.read_timeout,
        };
        session.set_up(config).await?;
        Ok(session)
    }

    async fn set_up(&mut self, config: &MysqlConfig) -> Result<(), SinkError> {
        const LOOK: &str = "SELECT @@version, @@max_allowed_packet";
        let rows = self.query_rows(LOOK).await.map_err(|f| f.environment(LOOK))?;
        let row = rows.first();
        self.version = row.and_then(|r| text_at(r, 0)).unwrap_or_default();
        self.dialect = Dialect::of_version(&self.version);
        let limit = row.and_then(|r| u64_at(r, 1)).unwrap_or(0);
        self.packet_limit = usize::try_from(limit).unwrap_or(usize::MAX);

        if self.sql_mode.contains('\\') {
            return Err(SinkError::Fatal(format!("sql-mode {:?}: a back-slash is no part of a mode", self.sql_mode)));
        }
        let required = [
            "SET NAMES utf8mb4".to_owned(),
            format!("SET SESSION sql_mode = {}", literal(&self.sql_mode)),
            "SET SESSION time_zone = '+00:00'".to_owned(),
            "SET SESSION autocommit = 1".to_owned(),
            "SET SESSION foreign_key_checks = 0".to_owned(),
            format!("SET SESSION wait_timeout = {WAIT_TIMEOUT_SECONDS}"),
        ];
        for statement in &required {
            self.query_drop(statement).await.map_err(|f| f.environment(statement))?;
        }
        // MariaDB's, TiDB's own, and one that TiDB may lack: a server that does not know them does not need them. What the
        // upstream accepted is stored: its CHECK constraints were checked there or, in old releases, never; and MariaDB's own
        // constraint on JSON columns refuses documents of more than 31 levels.
        let optional = [
            "SET SESSION check_constraint_checks = 0",
            // TiDB's defaults, for a DDL that names no character set or no collation.
            "SET SESSION character_set_server = utf8mb4",
            "SET SESSION collation_server = utf8mb4_bin",
            "SET SESSION character_set_collations = 'utf8mb4=utf8mb4_bin,utf8mb3=utf8mb3_bin,latin1=latin1_bin'",
            "SET SESSION max_error_count = 65535",
            "SET SESSION allow_auto_random_explicit_insert = 1",
            "SET SESSION tidb_txn_mode = 'optimistic'",
            "SET SESSION tidb_placement_mode = 'ignore'",
            EXPLICIT_DEFAULTS,
        ];
        for statement in optional {
            match self.query_drop(statement).await {
                Err(f) if f.code() == Some(ER_UNKNOWN_SYSTEM_VARIABLE) => {}
                // MySQL 8 wants a right of its own for the server's defaults.
                Err(Failure::Server(e)) if e.class() == Class::Denied && statement.contains("_server") => {}
                // Read-only in old servers, a right of its own in new ones.
                Err(Failure::Server(e)) if statement == EXPLICIT_DEFAULTS => self.check_timestamps(&e.text()).await?,
                Err(f) => return Err(f.environment(statement)),
                Ok(_) => {}
            }
        }
        for (key, value) in &config.params {
            let value = param_literal(value).map_err(|e| SinkError::Fatal(format!("[syncer.to.params] {key}: {e}")))?;
            let statement = format!("SET SESSION {} = {value}", quoted(key));
            self.query_drop(&statement).await.map_err(|f| f.environment(&statement))?;
        }
        if self.sql_mode_given {
            const MODE: &str = "SELECT @@SESSION.sql_mode";
            let rows = self.query_rows(MODE).await.map_err(|f| f.environment(MODE))?;
            self.sql_mode = rows.first().and_then(|r| text_at(r, 0)).unwrap_or_default();
            // Without it a 0 in an AUTO_INCREMENT column becomes another number, and no warning tells.
            if !self.sql_mode.split(',').any(|mode| mode.eq_ignore_ascii_case(KEEP_ZERO)) {
                let comma = if self.sql_mode.is_empty() { "" } else { "," };
                let mode = format!("{}{comma}{KEEP_ZERO}", self.sql_mode);
                self.set_sql_mode(&mode).await?;
                self.sql_mode = mode;
            }
        }
        Ok(())
    }

    /// With implicit defaults, `c TIMESTAMP` in a DDL means NOT NULL DEFAULT CURRENT_TIMESTAMP, and a NULL that is stored there
    /// becomes the current time without a warning.
    async fn check_timestamps(&mut self, error: &str) -> Result<(), SinkError> {
        const LOOK: &str = "SELECT @@explicit_defaults_for_timestamp";
        let rows = self.query_rows(LOOK).await.map_err(|f| f.environment(LOOK))?;
        if rows.first().and_then(|r| u64_at(r, 0)) == Some(0) {
            tracing::warn!(
                error,
                "explicit_defaults_for_timestamp is off and cannot be set for this session: TIMESTAMP columns that a replicated \
                 DDL makes get other defaults than upstream; turn it on in the server's configuration"
            );
        }
        Ok(())
    }

    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    /// Keeps an idle session alive; call it well within `wait_timeout`.
    pub async fn ping(&mut self) -> Result<(), SinkError> {
        let mut conn = self.take().map_err(|f| f.environment("ping"))?;
        let answer = timed(Some(self.read_timeout), conn.ping()).await;
        self.settle(conn, answer).map_err(|f| match f.environment("ping") {
            SinkError::Retry(e) | SinkError::Fatal(e) => SinkError::Lost(e),
            other => other,
        })
    }

    /// Says good-bye; a failure does not matter.
    pub async fn close(&mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = tokio::time::timeout(Duration::from_secs(5), conn.disconnect()).await;
        }
    }

    /// Drops the connection without a word: the server rolls back.
    pub(crate) fn abandon(&mut self) {
        self.conn = None;
    }

    /// A statement as text, result thrown away.
    pub(crate) async fn query_drop(&mut self, sql: &str) -> Result<Outcome, Failure> {
        self.query_within(Some(self.read_timeout), sql).await
    }

    /// A statement that may run for hours.
    pub(crate) async fn query_unlimited(&mut self, sql: &str) -> Result<Outcome, Failure> {
        self.query_within(None, sql).await
    }

    async fn query_within(&mut self, limit: Option<Duration>, sql: &str) -> Result<Outcome, Failure> {
        let mut conn = self.take()?;
        let answer = timed(limit, conn.query_drop(sql)).await;
        let outcome = Outcome { affected: conn.affected_rows(), warnings: conn.get_warnings() };
        self.settle(conn, answer).map(|()| outcome)
    }

    pub(crate) async fn query_rows(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        let mut conn = self.take()?;
        let answer = timed(Some(self.read_timeout), conn.query::<Row, _>(sql)).await;
        self.settle(conn, answer)
    }

    /// A prepared statement, cached by its text.
    pub(crate) async fn exec(&mut self, sql: &str, params: Vec<Value>) -> Result<Outcome, Failure> {
        let mut conn = self.take()?;
        let answer = timed(Some(self.read_timeout), conn.exec_drop(sql, positional(params))).await;
        let outcome = Outcome { affected: conn.affected_rows(), warnings: conn.get_warnings() };
        self.settle(conn, answer).map(|()| outcome)
    }

    pub(crate) async fn exec_rows(&mut self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, Failure> {
        let mut conn = self.take()?;
        let answer = timed(Some(self.read_timeout), conn.exec::<Row, _, _>(sql, positional(params))).await;
        self.settle(conn, answer)
    }

    /// Why this statement cannot be sent at all. The client library would close the connection over it, which would look
    /// like an unknown outcome and be repeated for ever.
    pub(crate) fn unsendable(&self, sql: &str, params: &[SqlValue]) -> Option<String> {
        if params.len() > MAX_PARAMS {
            return Some(format!("{} parameters, the protocol allows {MAX_PARAMS}", params.len()));
        }
        let placeholders = crate::warnings::placeholders(sql);
        if placeholders != params.len() {
            return Some(format!("{placeholders} placeholders, {} parameters", params.len()));
        }
        let sizes = || params.iter().map(encoded_size);
        let total = 16 + params.len() * 3 + sizes().sum::<usize>();
        let largest = if total < LONG_DATA_FROM { total } else { sizes().max().unwrap_or(0) + 16 };
        let needed = largest.max(sql.len() + 1);
        (needed > self.packet_limit).then(|| {
            format!(
                "the statement needs a packet of {needed} bytes, the server's max_allowed_packet is {}: raise max_allowed_packet there",
                self.packet_limit
            )
        })
    }

    pub(crate) async fn begin(&mut self) -> Result<(), SinkError> {
        const BEGIN: &str = "START TRANSACTION";
        self.query_drop(BEGIN).await.map(|_| ()).map_err(|f| f.environment(BEGIN))
    }

    /// Ends a transaction that failed. If even that fails, the connection goes and the server does it.
    pub(crate) async fn rollback(&mut self) {
        if self.query_drop("ROLLBACK").await.is_err() {
            self.abandon();
        }
    }

    /// COMMIT. `Err(Ok(code))`: the server refused it for certain with this error; `Err(Err(e))`: decided already.
    pub(crate) async fn commit(&mut self) -> Result<(), Result<Failure, SinkError>> {
        let Err(failure) = self.query_drop("COMMIT").await else { return Ok(()) };
        match &failure {
            Failure::Broken(e) => Err(Err(SinkError::Lost(format!("COMMIT: {e}; whether it took effect is unknown")))),
            // TiDB checks unique keys here when the transaction is optimistic.
            Failure::Server(e) if e.code == ER_DUPLICATE => Err(Ok(failure)),
            Failure::Server(e) if e.class() == Class::Retry => {
                let text = format!("COMMIT: {}", e.text());
                self.rollback().await;
                Err(Err(SinkError::Retry(text)))
            }
            Failure::Server(e) => {
                let text = format!("COMMIT: {}; whether it took effect is unknown", e.text());
                self.abandon();
                Err(Err(SinkError::Lost(text)))
            }
        }
    }

    /// COMMIT of a transaction on our own tables only.
    pub(crate) async fn commit_own(&mut self) -> Result<(), SinkError> {
        match self.commit().await {
            Ok(()) => Ok(()),
            Err(Err(e)) => Err(e),
            Err(Ok(f)) => {
                self.rollback().await;
                Err(SinkError::Retry(format!("COMMIT: {}", f.text())))
            }
        }
    }

    fn take(&mut self) -> Result<Conn, Failure> {
        self.conn.take().ok_or_else(|| Failure::Broken("not connected".to_owned()))
    }

    fn settle<T>(&mut self, conn: Conn, answer: Result<T, Failure>) -> Result<T, Failure> {
        // The server hangs up after a packet that is too large.
        if !matches!(&answer, Err(Failure::Broken(_)))
            && !matches!(&answer, Err(f) if f.code() == Some(ER_PACKET_TOO_LARGE))
        {
            self.conn = Some(conn);
        }
        answer
    }
}

pub(crate) const ER_DUPLICATE: u16 = 1062;

async fn timed<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, mysql_async::Error>>,
) -> Result<T, Failure> {
    let answer = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(answer) => answer,
            Err(_) => return Err(Failure::Broken(format!("no answer within {limit:?}"))),
        },
    };
    answer.map_err(Failure::from)
}

fn positional(params: Vec<Value>) -> Params {
    if params.is_empty() { Params::Empty } else { Params::Positional(params) }
}

/// Only the configured CA counts, and the certificate must be for the host that is dialled. A server without TLS is refused
/// before the password is sent.
fn tls(files: &SecuritySettings) -> SslOpts {
    let path = |path: &String| PathBuf::from(path).into();
    let identity = files.identity.as_ref().map(|own| ClientIdentity::new(path(&own.cert), path(&own.key)));
    SslOpts::default()
        .with_root_certs(vec![PathBuf::from(&files.ca).into()])
        .with_disable_built_in_roots(true)
        .with_client_identity(identity)
}

fn connect_error(place: &str, error: mysql_async::Error) -> SinkError {
    use mysql_async::DriverError as D;
    let fatal_driver = matches!(
        &error,
        mysql_async::Error::Driver(
            D::UnknownAuthPlugin { .. }
                | D::MysqlOldPasswordDisabled
                | D::CleartextPluginDisabled
                | D::NoClientSslFlagFromServer
        )
    );
    let failure = Failure::from(error);
    let text = format!("connect to {place}: {}", failure.text());
    match &failure {
        Failure::Server(e) if e.class() == Class::Denied => SinkError::Fatal(text),
        _ if fatal_driver => SinkError::Fatal(text),
        _ => SinkError::Lost(text),
    }
}

/// What the wire carries. Text and bytes are both sent as VAR_STRING, the only string type of the client library: the
/// server reads it in the connection's character set (utf8mb4), which JSON and text columns need, and stores it in
/// binary columns byte for byte.
pub(crate) fn wire(value: &SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::NULL,
        SqlValue::Int(v) => Value::Int(*v),
        SqlValue::UInt(v) => Value::UInt(*v),
        SqlValue::Double(v) => Value::Double(*v),
        SqlValue::Text(v) | SqlValue::Bytes(v) => Value::Bytes(v.clone()),
    }
}

fn encoded_size(value: &SqlValue) -> usize {
    match value {
        SqlValue::Null => 0,
        SqlValue::Int(_) | SqlValue::UInt(_) | SqlValue::Double(_) => 8,
        SqlValue::Text(v) | SqlValue::Bytes(v) => v.len() + 9,
    }
}

/// Bytes of a column; `None` for NULL, a missing column or another type.
pub(crate) fn bytes_at(row: &Row, column: usize) -> Option<Vec<u8>> {
    match row.as_ref(column)? {
        Value::Bytes(b) => Some(b.clone()),
        _ => None,
    }
}

pub(crate) fn text_at(row: &Row, column: usize) -> Option<String> {
    bytes_at(row, column).map(|b| String::from_utf8_lossy(&b).into_owned())
}

pub(crate) fn u64_at(row: &Row, column: usize) -> Option<u64> {
    match row.as_ref(column)? {
        Value::UInt(v) => Some(*v),
        Value::Int(v) => u64::try_from(*v).ok(),
        Value::Bytes(b) => std::str::from_utf8(b).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects() {
        for (version, want) in [
            ("10.11.19-MariaDB-0+deb12u1", Dialect::MariaDb),
            ("5.7.25-TiDB-v6.6.0", Dialect::TiDb),
            ("8.0.36", Dialect::MySql),
        ] {
            assert_eq!(Dialect::of_version(version), want);
        }
    }
}
