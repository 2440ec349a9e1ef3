//! `expected.toml` of a replay: what an operator does where the downstream refuses a statement, and what may differ at the
//! end, each with its reason. Unknown keys are errors.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(default)]
    pub resolve: Vec<Resolve>,
    #[serde(default)]
    pub differs: Vec<Differs>,
}

/// What to do when the Drainer pauses at `commit_ts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    pub commit_ts: u64,
    pub action: Action,
    #[serde(default)]
    pub sql: Vec<String>,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The statement is left out.
    Skip,
    /// `sql` runs in the downstream instead of it.
    Replace,
    /// `sql` runs first, then the statement is tried again.
    Before,
}

/// A column (or, without one, a whole table) that may differ at the end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differs {
    /// `db.table`.
    pub table: String,
    pub column: Option<String>,
    pub reason: String,
}

impl Differs {
    /// Whether this entry names a difference; `column` is `None` for rows that are missing or too many.
    #[must_use]
    pub fn covers(&self, table: &str, column: Option<&str>) -> bool {
        self.table == table && (self.column.is_none() || self.column.as_deref() == column)
    }
}

impl Expected {
    /// Of the scenario's name; nothing is expected where there is no file.
    pub fn of_scenario(name: &str) -> Result<Self> {
        let path = captures().join(name).join("expected.toml");
        if !path.is_file() {
            return Ok(Self::default());
        }
        Self::read(&path)
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not what it should be", path.display()))
    }
}

/// The folder of committed captures and expectations.
#[must_use]
pub fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("captures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_files_are_valid() {
        let mut files = 0;
        for entry in std::fs::read_dir(captures()).unwrap() {
            let path = entry.unwrap().path().join("expected.toml");
            let expected = Expected::read(&path).unwrap();
            assert!(
                expected.resolve.iter().all(|r| !r.reason.is_empty() && (r.action == Action::Skip) == r.sql.is_empty())
            );
            assert!(expected.differs.iter().all(|d| !d.reason.is_empty() && d.table.contains('.')));
            files += 1;
        }
        assert!(files >= 4, "small, types, bank, bigtxn");
    }

    #[test]
    fn what_an_entry_covers() {
        let of =
            |column: Option<&str>| Differs { table: "a.b".into(), column: column.map(Into::into), reason: "r".into() };
        assert!(of(Some("g")).covers("a.b", Some("g")));
        assert!(!of(Some("g")).covers("a.b", Some("h")));
        assert!(!of(Some("g")).covers("a.b", None), "a missing row is more than a differing column");
        assert!(of(None).covers("a.b", None) && of(None).covers("a.b", Some("x")));
        assert!(!of(None).covers("a.c", None));
    }
}
