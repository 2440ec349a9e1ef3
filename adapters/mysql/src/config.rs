//! What a sink needs to know (spec drainer 4.8, 6.3), checked once, and the SQL names that follow from it.

use binlog_core::config::security::SecuritySettings;
use binlog_core::ids::ClusterId;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Configuration of the sink. `Debug` leaves the password out.
#[derive(Clone)]
pub struct MysqlConfig {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    /// Schema of the checkpoint and of our tables.
    pub database: String,
    /// Name of the checkpoint table.
    pub table: String,
    /// The upstream's cluster: key of every row of ours.
    pub cluster_id: ClusterId,
    /// Which Drainer of that cluster: its records, journal and state are its own (1 to 128 characters).
    pub group: String,
    /// `sql_mode` of the sessions, word for word; `None`: [`DEFAULT_SQL_MODE`], and [`DDL_SQL_MODE`] while a DDL runs.
    pub sql_mode: Option<String>,
    /// Session variables of `[syncer.to.params]`, set last.
    pub params: BTreeMap<String, String>,
    /// TLS; `None`: in the clear. The files are read for every connection, so that they are replaced without a restart.
    pub security: Option<SecuritySettings>,
    pub connect_timeout: Duration,
    /// How long one answer may take before the connection counts as lost; never applied to a DDL.
    pub read_timeout: Duration,
}

/// Sessions are not strict: TiDB holds zero dates, invalid dates and the ENUM value 0, which a strict session refuses in
/// part. In exchange every statement's warnings are judged (module `warnings`), so nothing is changed in silence.
pub const DEFAULT_SQL_MODE: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION";
/// A DDL runs strictly: without it a server cuts index prefixes and turns VARCHAR into TEXT with a mere warning.
pub const DDL_SQL_MODE: &str = "STRICT_TRANS_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION";
/// Definitions are read in one fixed mode: their text depends on it, and a journal outlives a change of configuration.
pub const DEFINITION_SQL_MODE: &str = "NO_ENGINE_SUBSTITUTION";

/// Longest group name: 128 characters of 4 bytes keep our primary keys below the 767 bytes of old row formats.
const MAX_GROUP: usize = 128;

impl MysqlConfig {
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, cluster_id: ClusterId, group: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            user: "root".to_owned(),
            password: String::new(),
            database: "tidb_binlog".to_owned(),
            table: "checkpoint".to_owned(),
            cluster_id,
            group: group.into(),
            sql_mode: None,
            params: BTreeMap::new(),
            security: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(300),
        }
    }

    /// Refuses what could not work, naming the key.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (key, name) in [("schema", &self.database), ("table", &self.table)] {
            if name.is_empty() || name.chars().count() > 64 || name.contains('\0') {
                return Err(format!("[syncer.to.checkpoint] {key} {name:?}: a name of 1 to 64 characters is needed"));
            }
        }
        let length = self.group.chars().count();
        if length == 0 || length > MAX_GROUP || self.group.chars().any(|c| c == '\\' || c.is_control()) {
            return Err(format!(
                "node id {:?}: 1 to {MAX_GROUP} characters without '\\' or control characters are needed for the tables in the downstream",
                self.group
            ));
        }
        for (key, value) in &self.params {
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("[syncer.to.params] {key:?} is not the name of a session variable"));
            }
            let lower = key.to_ascii_lowercase();
            let fixed = match lower.as_str() {
                "time_zone" => !matches!(unquoted(value), "+00:00" | "UTC" | "utc"),
                "autocommit" => !matches!(unquoted(value).to_ascii_lowercase().as_str(), "1" | "on" | "true"),
                "character_set_client" | "character_set_connection" | "names" => true,
                _ => false,
            };
            if fixed {
                return Err(format!(
                    "[syncer.to.params] {key}: not supported: sessions use UTC, utf8mb4 and autocommit, and TIMESTAMP values are sent in UTC; remove this entry"
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> Names {
        let database = quoted(&self.database);
        Names {
            checkpoint: format!("{database}.{}", quoted(&self.table)),
            state: format!("{database}.`drainer_state`"),
            applied: format!("{database}.`drainer_applied`"),
            journal: format!("{database}.`drainer_ddl_journal`"),
            owner: format!("cluster = {} AND grp = {}", self.cluster_id, literal(&self.group)),
            key: format!("{},{}", self.cluster_id, literal(&self.group)),
            lock: format!("tidb_binlog:{}:{:016x}", self.cluster_id, fnv1a(&[&self.database, &self.group])),
            cluster: self.cluster_id.to_string(),
            database,
        }
    }
}

impl fmt::Debug for MysqlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("table", &self.table)
            .field("cluster_id", &self.cluster_id)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// Quoted names and fragments that the statements on our tables are made of.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub database: String,
    pub checkpoint: String,
    pub state: String,
    pub applied: String,
    pub journal: String,
    /// `cluster = N AND grp = 'G'`.
    pub owner: String,
    /// `N,'G'`: the first two columns of a row of ours.
    pub key: String,
    /// Name of the user lock that guards DDL: at most 49 bytes of the 64 that MySQL allows.
    pub lock: String,
    pub cluster: String,
}

/// An identifier in back-quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string literal. The text must not contain a back-slash unless the session's mode is known.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The right-hand side of `SET SESSION key = …`: numbers as they are, everything else as a literal.
pub(crate) fn param_literal(value: &str) -> Result<String, String> {
    let text = unquoted(value);
    if text.contains('\\') || text.contains('\0') {
        return Err("a back-slash cannot be sent".to_owned());
    }
    let number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    Ok(if number && value == text { text.to_owned() } else { literal(text) })
}

/// Users write values for the original's DSN with or without quotes.
fn unquoted(value: &str) -> &str {
    let inner = |mark| value.strip_prefix(mark).and_then(|v: &str| v.strip_suffix(mark));
    inner('\'').or_else(|| inner('"')).unwrap_or(value)
}

/// FNV-1a, 64 bits: stable over versions, which the lock's name must be.
fn fnv1a(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MysqlConfig {
        MysqlConfig::new("h", 1, ClusterId::new(u64::MAX), "n")
    }

    #[test]
    fn names_are_quoted_and_the_lock_fits() {
        let mut c = config();
        c.database = "a`b".to_owned();
        c.group = "o'neill".repeat(10);
        let names = c.names();
        assert_eq!(names.checkpoint, "`a``b`.`checkpoint`");
        assert!(names.owner.contains("'o''neill"));
        assert!(names.lock.len() <= 64, "{}", names.lock);
        let mut other = c.clone();
        other.database = "x".to_owned();
        assert_ne!(other.names().lock, names.lock, "two checkpoint schemas are two Drainers");
    }

    #[test]
    fn params_that_would_change_values_are_refused() {
        for (key, value, ok) in [
            ("time_zone", "'+00:00'", true),
            ("time_zone", "Asia/Tokyo", false),
            ("autocommit", "0", false),
            ("tidb_txn_mode", "pessimistic", true),
            ("character_set_client", "latin1", false),
            ("a b", "1", false),
        ] {
            let mut c = config();
            c.params.insert(key.to_owned(), value.to_owned());
            assert_eq!(c.check().is_ok(), ok, "{key}={value}");
        }
    }

    #[test]
    fn param_literals() {
        for (value, sql) in [("1", "1"), ("'1'", "'1'"), ("ON", "'ON'"), ("\"a\"", "'a'"), ("it's", "'it''s'")] {
            assert_eq!(param_literal(value).as_deref(), Ok(sql));
        }
        assert!(param_literal("a\\").is_err());
    }

    #[test]
    fn debug_hides_the_password() {
        let mut c = config();
        c.password = "geheim".to_owned();
        assert!(!format!("{c:?}").contains("geheim"));
    }
}
