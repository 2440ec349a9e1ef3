//! Keys, raw values and their origins; precedence: command line, environment, file, default.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int,
    Float,
    Bool,
    /// An integer or a text.
    IntOrText,
    TextList,
    IntList,
    /// A table or a list of tables, taken whole.
    Table,
}

/// Whether a key of the original has an effect here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Honoured,
    /// An error, unless the value is empty.
    NotYet,
    /// Accepted; said once at start, with this reason.
    NoEffect(&'static str),
}

/// One key of a process.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name in the file, dotted; also the name in error texts when there is no flag. Empty: flag only.
    pub file: &'static str,
    /// Name on the command line, without dashes. Empty: file only.
    pub flag: &'static str,
    pub kind: Kind,
    pub support: Support,
    /// Shown by `--help` when there is a flag.
    pub help: &'static str,
}

impl Key {
    #[must_use]
    pub const fn new(file: &'static str, flag: &'static str, kind: Kind, support: Support, help: &'static str) -> Self {
        Self { file, flag, kind, support, help }
    }

    /// Under what the value is kept in [`Settings`]: the file's name, else the flag's.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        if self.file.is_empty() { self.flag } else { self.file }
    }
}

/// Where a value came from; higher ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    File,
    Environment,
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "configuration file",
            Self::Environment => "environment",
            Self::CommandLine => "command line",
        })
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    #[error("{key} ({origin}): {what}")]
    Value { key: String, origin: Origin, what: String },
    #[error("{key} ({origin}) is not supported yet; remove it, or leave it empty")]
    NotSupportedYet { key: String, origin: Origin },
    #[error("component {component}'s config file {path} contained unknown configuration options: {keys}")]
    UnknownKeys { component: &'static str, path: String, keys: String },
    #[error("{0}")]
    Other(String),
}

/// Everything that was said, the strongest origin for each key.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Settings {
    /// Takes `value` for `key` unless a stronger origin has spoken. Checks kind and support.
    pub fn set(&mut self, key: &Key, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let value = checked(key, value, origin)?;
        if key.support == Support::NotYet {
            if is_empty(&value) {
                return Ok(());
            }
            return Err(ConfigError::NotSupportedYet { key: key.id().to_owned(), origin });
        }
        if self.values.get(key.id()).is_none_or(|(_, old)| *old <= origin) {
            self.values.insert(key.id(), (value, origin));
        }
        Ok(())
    }

    /// Reads the text form of a value (command line, environment).
    pub fn set_text(&mut self, key: &Key, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let wrong = |what: &str| ConfigError::Value {
            key: key.id().to_owned(),
            origin,
            what: format!("{text:?} is not {what}"),
        };
        let value = match key.kind {
            Kind::Text | Kind::Table => Value::from(text),
            Kind::Int => Value::from(text.trim().parse::<i64>().map_err(|_| wrong("an integer"))?),
            Kind::Float => Value::from(text.trim().parse::<f64>().map_err(|_| wrong("a number"))?),
            Kind::Bool => Value::from(parse_bool(text).ok_or_else(|| wrong("true or false"))?),
            Kind::IntOrText => text.trim().parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
            Kind::TextList => text.split(',').map(Value::from).collect(),
            Kind::IntList => text
                .split(',')
                .map(|t| t.trim().parse::<i64>().map(Value::from).map_err(|_| wrong("a list of integers")))
                .collect::<Result<_, _>>()?,
        };
        self.set(key, value, origin)
    }

    /// Takes a whole file, as nested objects. `component` and `path` are for the error about unknown keys.
    pub fn set_file(
        &mut self,
        keys: &'static [Key],
        component: &'static str,
        path: &str,
        root: &Value,
    ) -> Result<(), ConfigError> {
        let mut flat = Vec::new();
        flatten("", root, keys, &mut flat);
        let mut unknown = Vec::new();
        for (name, value) in flat {
            let of = |same: fn(&str, &str) -> bool| keys.iter().find(|k| !k.file.is_empty() && same(k.file, &name));
            // As the original's TOML library: the exact name, else one that differs in case only.
            match of(|a, b| a == b).or_else(|| of(str::eq_ignore_ascii_case)) {
                Some(key) => self.set(key, value, Origin::File)?,
                None => unknown.push(name),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ConfigError::UnknownKeys { component, path: path.to_owned(), keys: unknown.join(", ") })
    }

    /// Keys that were given but have no effect, with the reason.
    #[must_use]
    pub fn without_effect(&self, keys: &'static [Key]) -> Vec<(&'static str, &'static str)> {
        keys.iter()
            .filter(|k| self.values.contains_key(k.id()))
            .filter_map(|k| match k.support {
                Support::NoEffect(why) => Some((k.id(), why)),
                Support::Honoured | Support::NotYet => None,
            })
            .collect()
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|(v, _)| v)
    }

    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Text; an empty one counts as not given.
    #[must_use]
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.text(key).filter(|t| !t.is_empty())
    }

    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Value::as_i64)
    }

    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// An error about the value of `key`.
    #[must_use]
    pub fn wrong(&self, key: &str, what: impl Into<String>) -> ConfigError {
        match self.values.get(key) {
            Some((_, origin)) => ConfigError::Value { key: key.to_owned(), origin: *origin, what: what.into() },
            None => ConfigError::Other(format!("{key}: {}", what.into())),
        }
    }

    /// An integer of at least `min`, or `default` when absent.
    pub fn at_least(&self, key: &str, min: i64, default: i64) -> Result<u64, ConfigError> {
        let value = self.int(key).unwrap_or(default);
        u64::try_from(value)
            .ok()
            .filter(|_| value >= min)
            .ok_or_else(|| self.wrong(key, format!("{value} is too small; it must be at least {min}")))
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    // The spellings that Go's flag package takes.
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
        Value::Bool(b) => !b,
        Value::Number(_) => false,
    }
}

fn checked(key: &Key, value: Value, origin: Origin) -> Result<Value, ConfigError> {
    let all = |v: &Value, test: fn(&Value) -> bool| v.as_array().is_some_and(|a| a.iter().all(test));
    let (ok, expected) = match key.kind {
        Kind::Text => (value.is_string(), "a text"),
        Kind::Int => (value.is_i64(), "an integer"),
        Kind::Float => (value.is_number(), "a number"),
        Kind::Bool => (value.is_boolean(), "true or false"),
        Kind::IntOrText => (value.is_i64() || value.is_string(), "an integer or a text"),
        Kind::TextList => (all(&value, Value::is_string), "a list of texts"),
        Kind::IntList => (all(&value, Value::is_i64), "a list of integers"),
        Kind::Table => (true, "a table"),
    };
    if ok {
        return Ok(value);
    }
    let what = format!("{value} is not {expected}");
    Err(ConfigError::Value { key: key.id().to_owned(), origin, what })
}

/// Dotted names and values; stops at keys that are taken whole.
fn flatten(prefix: &str, value: &Value, keys: &[Key], out: &mut Vec<(String, Value)>) {
    let whole = keys.iter().any(|k| k.file == prefix && k.kind == Kind::Table);
    match value {
        Value::Object(map) if !whole => {
            for (name, inner) in map {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, inner, keys, out);
            }
        }
        _ => out.push((prefix.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEYS: &[Key] = &[
        Key { file: "addr", flag: "addr", kind: Kind::Text, support: Support::Honoured, help: "" },
        Key { file: "gc", flag: "gc", kind: Kind::IntOrText, support: Support::NotYet, help: "" },
        Key { file: "a.b", flag: "", kind: Kind::Bool, support: Support::Honoured, help: "" },
        Key { file: "a.params", flag: "", kind: Kind::Table, support: Support::Honoured, help: "" },
        Key { file: "old", flag: "old", kind: Kind::Int, support: Support::NoEffect("gone"), help: "" },
    ];

    fn key(name: &str) -> &'static Key {
        KEYS.iter().find(|k| k.id() == name).unwrap()
    }

    #[test]
    fn the_strongest_origin_wins_in_any_order() {
        let origins = [Origin::File, Origin::Environment, Origin::CommandLine];
        for first in origins {
            for second in origins {
                let mut s = Settings::default();
                s.set_text(key("addr"), &first.to_string(), first).unwrap();
                s.set_text(key("addr"), &second.to_string(), second).unwrap();
                assert_eq!(s.text("addr"), Some(first.max(second).to_string().as_str()));
            }
        }
    }

    #[test]
    fn a_file_names_every_unknown_key() {
        let mut s = Settings::default();
        let file = json!({"addr": "x", "bad": 1, "a": {"b": true, "c": 2, "params": {"time_zone": "x"}}});
        let error = s.set_file(KEYS, "pump", "/etc/p.toml", &file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "component pump's config file /etc/p.toml contained unknown configuration options: bad, a.c"
        );
        assert_eq!(s.get("a.params"), Some(&json!({"time_zone": "x"})));
        assert_eq!(s.bool("a.b"), Some(true));
    }

    #[test]
    fn values_of_the_wrong_kind_name_key_and_origin() {
        let mut s = Settings::default();
        let error = s.set(key("addr"), json!(5), Origin::File).unwrap_err();
        assert_eq!(error.to_string(), "addr (configuration file): 5 is not a text");
        let error = s.set_text(key("old"), "x", Origin::Environment).unwrap_err();
        assert_eq!(error.to_string(), "old (environment): \"x\" is not an integer");
    }

    #[test]
    fn a_key_without_support_is_refused_unless_empty() {
        let mut s = Settings::default();
        s.set_text(key("gc"), "", Origin::CommandLine).unwrap();
        let error = s.set_text(key("gc"), "7", Origin::CommandLine).unwrap_err();
        assert!(error.to_string().contains("gc (command line) is not supported yet"), "{error}");
    }

    #[test]
    fn keys_without_effect_are_listed() {
        let mut s = Settings::default();
        assert!(s.without_effect(KEYS).is_empty());
        s.set_text(key("old"), "3", Origin::CommandLine).unwrap();
        assert_eq!(s.without_effect(KEYS), [("old", "gone")]);
    }
}
