//! Statements for MySQL, MariaDB and TiDB (design 4.3; spec drainer 4).

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
