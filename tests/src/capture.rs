//! The part of a capture that tells the final content: `tables.json` and the dumps. Records and streams are read by the
//! stand-in's reader, re-exported here.

pub use binlog_standin::capture::*;

use anyhow::{Result, bail};
use serde::Deserialize;
use std::path::Path;

/// How a column is dumped (README of the captures, "Dump format").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dump {
    Text,
    Hex,
    Float,
    Double,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub sql_type: String,
    pub dump: Dump,
}

/// One table of the recorded cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct Table {
    pub db: String,
    #[serde(rename = "table")]
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub create: String,
    /// Absent for sequences.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// Name of the dump; absent where there is nothing to dump.
    pub file: Option<String>,
}

impl Table {
    /// `db.table`, as reports and `expected.toml` name it.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.db, self.name)
    }

    /// Positions of the columns that name a row in a report: the primary key, else the first unique key, else none.
    #[must_use]
    pub fn key(&self) -> Vec<usize> {
        let lines = || self.create.lines().map(str::trim_start);
        let line =
            lines().find(|l| l.starts_with("PRIMARY KEY")).or_else(|| lines().find(|l| l.starts_with("UNIQUE KEY")));
        let Some(columns) = line.and_then(|l| l.split_once(" (")).map(|(_, columns)| columns) else {
            return Vec::new();
        };
        let names = quoted_names(columns);
        let found: Vec<usize> =
            names.iter().filter_map(|name| self.columns.iter().position(|c| c.name == *name)).collect();
        if found.len() == names.len() { found } else { Vec::new() }
    }
}

/// Names in back-quotes up to the bracket that closes the list.
fn quoted_names(text: &str) -> Vec<String> {
    let (mut out, mut chars, mut depth) = (Vec::new(), text.chars().peekable(), 0);
    while let Some(c) = chars.next() {
        match c {
            '`' => {
                let mut name = String::new();
                while let Some(c) = chars.next() {
                    if c != '`' {
                        name.push(c);
                    } else if chars.next_if_eq(&'`').is_some() {
                        name.push('`');
                    } else {
                        break;
                    }
                }
                out.push(name);
            }
            '(' => depth += 1,
            ')' if depth == 0 => break,
            ')' => depth -= 1,
            _ => {}
        }
    }
    out
}

/// A row: the dumped text of each column.
pub type Row = Vec<Vec<u8>>;

#[derive(Deserialize)]
struct Tables {
    tables: Vec<Table>,
}

/// The tables that have rows to compare; views and sequences have none.
pub fn tables(dir: &Path) -> Result<Vec<Table>> {
    let all: Tables = read_json(&dir.join("tables.json"))?;
    Ok(all.tables.into_iter().filter(|t| t.kind == "BASE TABLE" && t.file.is_some()).collect())
}

/// The recorded rows of a table.
pub fn dump(dir: &Path, table: &Table) -> Result<Vec<Row>> {
    let Some(file) = &table.file else { return Ok(Vec::new()) };
    let path = dir.join("dump").join(file);
    parse_dump(&read(&path)?, table.columns.len()).map_err(|e| e.context(path.display().to_string()))
}

fn parse_dump(content: &[u8], columns: usize) -> Result<Vec<Row>> {
    let Some(lines) = content.strip_suffix(b"\n") else {
        if content.is_empty() {
            return Ok(Vec::new());
        }
        bail!("the last line is cut off")
    };
    lines
        .split(|&b| b == b'\n')
        .enumerate()
        .map(|(n, line)| {
            let row: Row = line.split(|&b| b == b'\t').map(<[u8]>::to_vec).collect();
            if row.len() != columns {
                bail!("line {}: {} columns instead of {columns}", n + 1, row.len());
            }
            Ok(row)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_split_at_newlines_only() {
        assert!(parse_dump(b"", 2).unwrap().is_empty());
        assert_eq!(parse_dump(b"\n", 1).unwrap(), [[b""]], "one row with one empty text");
        assert_eq!(parse_dump(b"1\ta\rb\n2\t\\N\n", 2).unwrap(), [[&b"1"[..], b"a\rb"], [b"2", b"\\N"]]);
        assert!(parse_dump(b"1\n", 2).unwrap_err().to_string().contains("line 1"));
        assert!(parse_dump(b"1", 1).is_err());
    }

    #[test]
    fn the_key_comes_from_the_create_text() {
        let column = |name: &str| Column { name: name.into(), sql_type: "int".into(), dump: Dump::Text };
        let table = |create: &str| Table {
            db: "d".into(),
            name: "t".into(),
            kind: "BASE TABLE".into(),
            create: create.into(),
            columns: vec![column("a"), column("q`x"), column("c")],
            file: None,
        };
        assert_eq!(table("CREATE TABLE `t` (\n  `a` int,\n  PRIMARY KEY (`c`,`a`) /*T! x */\n)").key(), [2, 0]);
        assert_eq!(table("x\n  UNIQUE KEY `u` (`q``x`(10)),\n  KEY `k` (`a`)").key(), [1]);
        assert_eq!(table("x\n  UNIQUE KEY `u` ((lower(`zz`)))").key(), [0_usize; 0], "not a column");
        assert_eq!(table("CREATE TABLE `t` (`a` int)").key(), [0_usize; 0]);
    }
}
