//! What an error of the server or of the connection means, and its text without row values.
//!
//! `Retry` is always safe, also at COMMIT: a repeated transaction starts with the INSERT of its record, which finds a
//! first one that did commit. So only what certainly failed is `Refused`; what is unclear is `Lost`.

use binlog_core::sink::op::SinkError;

/// Why a round trip did not bring its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server answered with an error.
    Server(ServerError),
    /// The connection is unusable; whatever was in flight may have happened.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    pub code: u16,
    state: String,
    message: String,
}

/// What to do about a server's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The session ends or cannot write; the outcome of what ran is unknown.
    Lost,
    /// Rolled back; may succeed when repeated.
    Retry,
    /// Rights, or an account that may not connect.
    Denied,
    /// The statement is refused.
    Refused,
}

impl ServerError {
    pub(crate) fn class(&self) -> Class {
        match self.code {
            // Interrupted, shutdown, killed, network, idle for too long, undetermined (TiDB).
            1053 | 1077 | 1079 | 1152 | 1154..=1161 | 1184 | 1189 | 1190 | 1317 | 1927 | 2006 | 2013 | 4031 | 8501 => {
                Class::Lost
            }
            // Read-only (a fail-over in progress): another connection may reach the new primary.
            1290 | 1792 | 1836 => Class::Lost,
            // Deadlock, lock waits, changed snapshot or definition, time limits, memory, full disk or table, too many connections.
            1020
            | 1021
            | 1037
            | 1038
            | 1040
            | 1041
            | 1114
            | 1203
            | 1205
            | 1213
            | 1226
            | 1412
            | 1461
            | 1613..=1615
            | 1969
            | 3024 => Class::Retry,
            // TiDB: write conflicts, schema changed, PD or TiKV busy or away.
            8002 | 8005 | 8022 | 8027 | 8028 | 9001..=9005 | 9007 => Class::Retry,
            1044 | 1045 | 1130 | 1142 | 1143 | 1227 | 1370 | 1698 | 1820 | 1862 => Class::Denied,
            _ => Class::Refused,
        }
    }

    /// `1146 (42S02): …`, without row values.
    pub(crate) fn text(&self) -> String {
        format!("{} ({}): {}", self.code, self.state, redacted(self.code, &self.message))
    }
}

impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(e) => {
                Self::Server(ServerError { code: e.code, state: e.state, message: e.message })
            }
            // Driver texts name no values; `Other` may hold anything.
            mysql_async::Error::Other(_) => Self::Broken("the client library failed".to_owned()),
            e => Self::Broken(e.to_string()),
        }
    }
}

impl Failure {
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Server(e) => Some(e.code),
            Self::Broken(_) => None,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Server(e) => e.text(),
            Self::Broken(text) => text.clone(),
        }
    }

    /// For statements on our own tables and for session settings, where a refusal is no row's fault.
    pub(crate) fn environment(&self, statement: &str) -> SinkError {
        let text = format!("{}: {}", shortened(statement), self.text());
        match self {
            Self::Broken(_) => SinkError::Lost(text),
            Self::Server(e) => match e.class() {
                Class::Lost => SinkError::Lost(text),
                Class::Retry => SinkError::Retry(text),
                Class::Denied | Class::Refused => SinkError::Fatal(text),
            },
        }
    }
}

/// Longest statement text in an error: multi-row statements may be megabytes.
const MAX_STATEMENT_TEXT: usize = 2048;

pub(crate) fn shortened(sql: &str) -> String {
    match sql.char_indices().nth(MAX_STATEMENT_TEXT) {
        None => sql.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", sql.get(..end).unwrap_or_default(), sql.len()),
    }
}

/// Removes row values from a server's message. Names stay: quoted text that follows a word such as `column` or `key`.
#[must_use]
pub fn redacted(code: u16, message: &str) -> String {
    match code {
        // A value in quotes (it may contain quotes), then a name: "Duplicate entry 'v' for key 'k'",
        // "Incorrect integer value: 'v' for column 'c' at row 1".
        1062 | 1586 | 1292 | 1366 | 1367 | 1411 | 1525 | 1690 | 3140 | 1918 | 4078 | 1105 => {
            let Some(start) = message.find(['\'', '"']) else { return message.to_owned() };
            let head = message.get(..start).unwrap_or_default();
            let tail = ["' for ", "\" for "]
                .iter()
                .filter_map(|mark| message.rfind(mark))
                .filter(|at| *at >= start)
                .max()
                .and_then(|at| message.get(at + 1..))
                .unwrap_or_default();
            format!("{head}'…'{tail}")
        }
        _ => redacted_by_word(message),
    }
}

fn redacted_by_word(message: &str) -> String {
    const NAMING: [&str; 22] = [
        "column",
        "key",
        "table",
        "tables",
        "database",
        "schema",
        "index",
        "constraint",
        "field",
        "user",
        "view",
        "in",
        "near",
        "variable",
        "partition",
        "function",
        "procedure",
        "engine",
        "collation",
        "set",
        "for",
        "drop",
    ];
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(open) = rest.find('\'') {
        let (head, tail) = rest.split_at(open);
        let tail = tail.get(1..).unwrap_or_default();
        // An apostrophe inside a word ("doesn't", "Can't") opens nothing.
        if head.ends_with(char::is_alphanumeric) && tail.starts_with(char::is_alphanumeric) {
            out.push_str(head);
            out.push('\'');
            rest = tail;
            continue;
        }
        out.push_str(head);
        let Some(close) = tail.find('\'') else {
            out.push_str("'…");
            return out;
        };
        let (value, after) = tail.split_at(close);
        let word = head.trim_end_matches([' ', ':', ';', '(']).rsplit(' ').next().unwrap_or_default();
        let names = head.ends_with('@') || NAMING.iter().any(|n| word.eq_ignore_ascii_case(n));
        out.push('\'');
        out.push_str(if names { value } else { "…" });
        out.push('\'');
        rest = after.get(1..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_values_and_keep_names() {
        for (code, message, want) in [
            (1062, "Duplicate entry 'it's' for key 'PRIMARY'", "Duplicate entry '…' for key 'PRIMARY'"),
            (1062, "Duplicate entry 'a' for key 'b' for key 'k'", "Duplicate entry '…' for key 'k'"),
            (
                1366,
                "Incorrect string value: '\\xF0\\x9F' for column `d`.`t`.`c` at row 1",
                "Incorrect string value: '…' for column `d`.`t`.`c` at row 1",
            ),
            (1292, "Truncated incorrect DOUBLE value: 'abc'", "Truncated incorrect DOUBLE value: '…'"),
            (1146, "Table 'd.t' doesn't exist", "Table 'd.t' doesn't exist"),
            (1054, "Unknown column 'c' in 'field list'", "Unknown column 'c' in 'field list'"),
            (1264, "Out of range value for column 'c' at row 1", "Out of range value for column 'c' at row 1"),
            (
                1045,
                "Access denied for user 'u'@'h' (using password: YES)",
                "Access denied for user 'u'@'h' (using password: YES)",
            ),
            (1091, "Can't DROP COLUMN `c`; check that it exists", "Can't DROP COLUMN `c`; check that it exists"),
            (4000, "Strange value 'secret' seen", "Strange value '…' seen"),
            (4000, "Strange value 'secret", "Strange value '…"),
        ] {
            assert_eq!(redacted(code, message), want);
        }
    }

    #[test]
    fn long_statements_are_cut_between_characters() {
        let text = shortened(&"ä".repeat(5000));
        assert!(text.starts_with("ää") && text.ends_with("(10000 bytes)"));
        assert_eq!(shortened("x"), "x");
    }
}
