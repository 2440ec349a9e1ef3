//! Statements for MySQL, MariaDB and TiDB (design 4.3; spec drainer 4).

use crate::codec::json_text::Style;

pub mod clock;
pub mod ddl;
pub mod dml;

/// What the downstream is, where that changes a statement. The driver tells after connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    MySql,
    #[default]
    MariaDb,
    TiDb,
}

impl Dialect {
    /// Decides from `SELECT @@version`.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        let version = version.to_ascii_lowercase();
        if version.contains("tidb") {
            Self::TiDb
        } else if version.contains("mariadb") {
            Self::MariaDb
        } else {
            Self::MySql
        }
    }

    /// MariaDB keeps JSON as the text that it is sent: it must be the text that TiDB shows. The others parse it, and `1` would
    /// change a DOUBLE into an INTEGER (spec codec 6.7).
    #[must_use]
    pub const fn json_style(self) -> Style {
        match self {
            Self::MariaDb => Style::Original,
            Self::MySql | Self::TiDb => Style::Later,
        }
    }
}

/// An identifier in back-quotes.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `` `db`.`table` ``.
#[must_use]
pub fn quote_table(schema: &str, table: &str) -> String {
    format!("{}.{}", quote(schema), quote(table))
}
