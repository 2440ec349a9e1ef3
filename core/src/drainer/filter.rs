//! Which databases are replicated (spec drainer 3.5.1): `ignore-schemas` with the original's meaning of a pattern.

use regex::{Regex, RegexBuilder};

/// Compiled patterns are small; this bounds a hostile one.
const MAX_PATTERN_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub struct Filter {
    ignored: Vec<Pattern>,
}

#[derive(Debug)]
enum Pattern {
    /// A name without regexp characters, lower-case.
    Name(String),
    Expression(Regex),
}

impl Filter {
    /// Compiles the patterns; the error names the one that is no valid expression.
    pub fn compile(ignore_schemas: &[String]) -> Result<Self, String> {
        let ignored = ignore_schemas.iter().map(|pattern| Pattern::compile(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { ignored })
    }

    #[must_use]
    pub fn is_ignored(&self, schema: &str) -> bool {
        let lower = schema.to_lowercase();
        self.ignored.iter().any(|pattern| match pattern {
            Pattern::Name(name) => *name == lower,
            Pattern::Expression(regex) => regex.is_match(&lower),
        })
    }
}

impl Pattern {
    /// `~x`: the expression x anywhere in the name. Anything else: an expression for the whole name, not escaped, as the
    /// original has it (`a.b` also matches `axb`).
    fn compile(pattern: &str) -> Result<Self, String> {
        let expression = match pattern.strip_prefix('~') {
            Some(anywhere) => anywhere.to_owned(),
            None if pattern.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') => {
                return Ok(Self::Name(pattern.to_lowercase()));
            }
            None => format!("^{pattern}$"),
        };
        RegexBuilder::new(&expression)
            .case_insensitive(true)
            .size_limit(MAX_PATTERN_BYTES)
            .build()
            .map(Self::Expression)
            .map_err(|e| format!("{pattern:?} in a filter is no valid regular expression: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_the_original() {
        for (pattern, schema, ignored) in [
            ("mysql", "mysql", true),
            ("mysql", "MySQL", true),
            ("INFORMATION_SCHEMA", "information_schema", true),
            ("mysql", "mysql2", false),
            ("a.b", "axb", true),
            ("a.b", "axbc", false),
            ("test_.*", "test_1", true),
            ("test_.*", "my_test_1", false),
            ("~^test", "testing", true),
            ("~est", "testing", true),
            ("~^est", "testing", false),
            (" mysql", "mysql", false),
        ] {
            let filter = Filter::compile(&[pattern.to_owned()]).unwrap();
            assert_eq!(filter.is_ignored(schema), ignored, "{pattern} on {schema}");
        }
    }

    #[test]
    fn a_bad_expression_is_named() {
        let error = Filter::compile(&["ok".to_owned(), "~(".to_owned()]).unwrap_err();
        assert!(error.contains("~("), "{error}");
    }
}
