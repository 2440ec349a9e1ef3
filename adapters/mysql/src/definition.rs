//! What the objects that a DDL touches look like, as text that changes exactly when a DDL ran.
//!
//! `SHOW CREATE` without the counters that move by themselves (a server that restarts may set AUTO_INCREMENT back), plus
//! the server's table ids where they can be read: they follow a table through RENAME and EXCHANGE PARTITION and change
//! with TRUNCATE, where the text stays the same.

use crate::config::{DEFINITION_SQL_MODE, quoted};
use crate::error::Failure;
use crate::session::{Session, text_at};
use binlog_core::sink::op::{DdlGoal, SinkError};
use binlog_core::sink::sql::Dialect;
use mysql_async::Value;
use serde::{Deserialize, Serialize};

/// Definitions of all touched objects, as stored in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definitions {
    /// Version of the server that wrote the texts: another one may write them differently.
    pub server: String,
    pub objects: Vec<Object>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Object {
    pub database: String,
    pub table: String,
    /// `None`: it does not exist.
    pub create: Option<String>,
    /// `None`: not known here.
    #[serde(default)]
    pub ids: Option<Vec<String>>,
}

/// What two looks at the definitions say about the DDL between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ran,
    NotRun,
    /// The looks cannot be compared.
    Unknown,
}

impl Definitions {
    pub(crate) fn compare(&self, now: &Self) -> Verdict {
        if self.objects.is_empty() || self.server != now.server || self.objects.len() != now.objects.len() {
            return Verdict::Unknown;
        }
        for (before, after) in self.objects.iter().zip(&now.objects) {
            if (&before.database, &before.table) != (&after.database, &after.table) {
                return Verdict::Unknown;
            }
            let moved = matches!((&before.ids, &after.ids), (Some(a), Some(b)) if a != b);
            if before.create != after.create || moved {
                return Verdict::Ran;
            }
        }
        Verdict::NotRun
    }
}

const ER_BAD_DB: u16 = 1049;
const ER_NO_SUCH_TABLE: u16 = 1146;

impl Session {
    pub(crate) async fn definitions(&mut self, touches: &[(String, String)]) -> Result<Definitions, SinkError> {
        self.set_sql_mode(DEFINITION_SQL_MODE).await?;
        let mut objects = Vec::with_capacity(touches.len());
        for (database, table) in touches {
            let sql = if table.is_empty() {
                format!("SHOW CREATE DATABASE {}", quoted(database))
            } else {
                format!("SHOW CREATE TABLE {}.{}", quoted(database), quoted(table))
            };
            let create = match self.query_rows(&sql).await {
                Ok(rows) => {
                    let text = rows.first().and_then(|r| text_at(r, 1));
                    let text = text.ok_or_else(|| SinkError::Fatal(format!("{sql}: no definition in the answer")))?;
                    Some(without_counters(&text))
                }
                Err(f) if matches!(f.code(), Some(ER_BAD_DB | ER_NO_SUCH_TABLE)) => None,
                Err(f) => return Err(f.environment(&sql)),
            };
            let ids = if table.is_empty() || create.is_none() { None } else { self.table_ids(database, table).await? };
            objects.push(Object { database: database.clone(), table: table.clone(), create, ids });
        }
        Ok(Definitions { server: self.version.clone(), objects })
    }

    /// Ids of the table and its partitions. `None` without the right to see them, or for names that the server stores in
    /// an encoded form.
    async fn table_ids(&mut self, database: &str, table: &str) -> Result<Option<Vec<String>>, SinkError> {
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !plain(database) || !plain(table) {
            return Ok(None);
        }
        let path = format!("{database}/{table}");
        let names: &[&str] = match self.dialect() {
            Dialect::MariaDb => &["INNODB_SYS_TABLES"],
            Dialect::MySql => &["INNODB_TABLES", "INNODB_SYS_TABLES"],
            Dialect::TiDb => {
                let sql = format!(
                    "SELECT CONCAT('t:', TIDB_TABLE_ID) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = '{table}' \
                     UNION ALL SELECT CONCAT(PARTITION_NAME, ':', TIDB_PARTITION_ID) FROM information_schema.PARTITIONS \
                     WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = '{table}' AND PARTITION_NAME IS NOT NULL"
                );
                return self.id_list(&sql).await.map(|ids| ids.filter(|ids| !ids.is_empty()));
            }
        };
        for name in names {
            let sql = format!(
                "SELECT CONCAT(NAME, ':', TABLE_ID) FROM information_schema.{name} \
                 WHERE LOWER(NAME) = LOWER('{path}') OR LEFT(LOWER(NAME), {}) = LOWER('{path}#p#')",
                path.len() + 3
            );
            if let Some(ids) = self.id_list(&sql).await? {
                return Ok(Some(ids).filter(|ids| !ids.is_empty()));
            }
        }
        Ok(None)
    }

    async fn id_list(&mut self, sql: &str) -> Result<Option<Vec<String>>, SinkError> {
        match self.query_rows(sql).await {
            Ok(rows) => {
                let mut ids: Vec<String> = rows.iter().filter_map(|r| text_at(r, 0)).collect();
                ids.sort();
                Ok(Some(ids))
            }
            Err(Failure::Server(_)) => Ok(None),
            Err(f) => Err(f.environment(sql)),
        }
    }

    /// Whether the downstream already looks as it does after the DDL.
    pub(crate) async fn goal_reached(&mut self, goal: &DdlGoal) -> Result<bool, SinkError> {
        const SCHEMA: &str = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?";
        const TABLE: &str =
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
        const COLUMNS: &str = "SELECT COLUMN_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
        let database = Value::from(goal.database.as_str());
        let both = vec![database.clone(), Value::from(goal.table.as_str())];
        let (sql, params) = match (&goal.columns, goal.table.is_empty()) {
            (_, true) => (SCHEMA, vec![database]),
            (None, false) => (TABLE, both),
            (Some(_), false) => (COLUMNS, both),
        };
        let rows = self.exec_rows(sql, params).await.map_err(|f| f.environment(sql))?;
        let found: Vec<String> = rows.iter().filter_map(|r| text_at(r, 0)).collect();
        Ok(match &goal.columns {
            None => found.is_empty(),
            Some(_) if goal.table.is_empty() => !found.is_empty(),
            Some(columns) => {
                columns.len() == found.len()
                    && columns.iter().zip(&found).all(|(a, b)| a.to_lowercase() == b.to_lowercase())
            }
        })
    }

    pub(crate) async fn set_sql_mode(&mut self, mode: &str) -> Result<(), SinkError> {
        let sql = format!("SET SESSION sql_mode = {}", crate::config::literal(mode));
        self.query_drop(&sql).await.map(|_| ()).map_err(|f| f.environment(&sql))
    }
}

/// Removes the numbers of `AUTO_INCREMENT=` and `AUTO_RANDOM_BASE=` outside of quotes.
fn without_counters(create: &str) -> String {
    let mut out = String::with_capacity(create.len());
    let mut quote = None;
    let mut chars = create.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(c);
        match quote {
            Some(q) if c == q => quote = None,
            // SHOW CREATE escapes with a back-slash only in comments and defaults.
            Some(_) if c == '\\' => out.extend(chars.next()),
            Some(_) => {}
            None if matches!(c, '\'' | '`' | '"') => quote = Some(c),
            None if c == '=' && (out.ends_with("AUTO_INCREMENT=") || out.ends_with("AUTO_RANDOM_BASE=")) => {
                while chars.next_if(char::is_ascii_digit).is_some() {}
            }
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(server: &str, create: Option<&str>, ids: Option<&[&str]>) -> Definitions {
        Definitions {
            server: server.to_owned(),
            objects: vec![Object {
                database: "d".to_owned(),
                table: "t".to_owned(),
                create: create.map(str::to_owned),
                ids: ids.map(|i| i.iter().map(|s| (*s).to_owned()).collect()),
            }],
        }
    }

    #[test]
    fn verdicts() {
        use Verdict::{NotRun, Ran, Unknown};
        for (before, now, want) in [
            (one("1", Some("a"), None), one("1", Some("a"), None), NotRun),
            (one("1", Some("a"), None), one("1", Some("b"), None), Ran),
            (one("1", None, None), one("1", Some("a"), None), Ran),
            (one("1", Some("a"), None), one("1", None, None), Ran),
            (one("1", Some("a"), Some(&["7"])), one("1", Some("a"), Some(&["8"])), Ran),
            (one("1", Some("a"), Some(&["7"])), one("1", Some("a"), None), NotRun),
            (one("1", Some("a"), None), one("2", Some("b"), None), Unknown),
            (
                Definitions { server: "1".to_owned(), objects: vec![] },
                Definitions { server: "1".to_owned(), objects: vec![] },
                Unknown,
            ),
        ] {
            assert_eq!(before.compare(&now), want, "{before:?} {now:?}");
        }
    }

    #[test]
    fn counters_are_left_out() {
        assert_eq!(
            without_counters(
                "CREATE TABLE `AUTO_INCREMENT=1` (`a` int AUTO_INCREMENT) ENGINE=InnoDB AUTO_INCREMENT=17 COMMENT='x\\' AUTO_INCREMENT=5'"
            ),
            "CREATE TABLE `AUTO_INCREMENT=1` (`a` int AUTO_INCREMENT) ENGINE=InnoDB AUTO_INCREMENT= COMMENT='x\\' AUTO_INCREMENT=5'"
        );
    }
}
