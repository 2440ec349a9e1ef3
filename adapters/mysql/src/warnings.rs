//! Which warnings of a statement mean that the server stored something else than it was sent.
//!
//! Sessions are not strict (see `config`), so a value that does not fit becomes a warning instead of an error. Every such
//! warning refuses the statement, with one exception: ENUM value 0 (the empty error value), which TiDB holds, is stored
//! as it is sent and still draws 1265.

use binlog_core::sink::value::SqlValue;

/// A row of SHOW WARNINGS.
#[derive(Debug, Clone)]
pub(crate) struct Warning {
    pub level: String,
    pub code: u16,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Harmless,
    Changed,
    /// Harmless if this column is an ENUM.
    IfEnum {
        database: String,
        table: String,
        column: String,
    },
}

const ER_OUT_OF_RANGE: u16 = 1264;
const ER_TRUNCATED: u16 = 1265;
const ER_TRUNCATED_WRONG_VALUE: u16 = 1292;
const ER_WRONG_VALUE_FOR_FIELD: u16 = 1366;
const ER_DATA_TOO_LONG: u16 = 1406;
/// Deprecated syntax, statements unsafe for the server's own replication: nothing about values.
const TALK: [u16; 4] = [1287, 1592, 1681, 3719];

pub(crate) fn judge(warning: &Warning, sql: &str, params: &[SqlValue]) -> Verdict {
    let about_values = matches!(
        warning.code,
        ER_OUT_OF_RANGE | ER_TRUNCATED | ER_TRUNCATED_WRONG_VALUE | ER_WRONG_VALUE_FOR_FIELD | ER_DATA_TOO_LONG
    );
    // A DECIMAL that loses digits is a mere Note.
    if TALK.contains(&warning.code) || (warning.level.eq_ignore_ascii_case("note") && !about_values) {
        return Verdict::Harmless;
    }
    if warning.code != ER_TRUNCATED {
        return Verdict::Changed;
    }
    let found = column_of(&warning.message).and_then(|(column, row)| {
        let (place, parameter) = parameter_of(sql, &column, row)?;
        let zero = match params.get(parameter)? {
            SqlValue::Int(0) | SqlValue::UInt(0) => true,
            SqlValue::Text(t) => t.is_empty(),
            _ => false,
        };
        zero.then_some((place, column))
    });
    match found {
        Some(((database, table), column)) => Verdict::IfEnum { database, table, column },
        None => Verdict::Changed,
    }
}

/// Column and row of "… for column 'c' at row 1".
fn column_of(message: &str) -> Option<(String, usize)> {
    let (head, row) = message.rsplit_once(" at row ")?;
    let row = row.trim().parse().ok()?;
    let (_, name) = head.split_once(" for column ")?;
    let name = name.trim();
    let column = match name.strip_prefix('\'') {
        Some(n) => n.strip_suffix('\'')?.to_owned(),
        // `db`.`table`.`column`
        None => name.strip_suffix('`')?.rsplit('`').next()?.to_owned(),
    };
    Some((column, row))
}

/// Number of `?` outside of quotes and identifiers.
pub(crate) fn placeholders(sql: &str) -> usize {
    Tokens::new(sql).filter(|t| matches!(t, Token::Placeholder)).count()
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Word(String),
    Placeholder,
    Mark(char),
    Text,
}

/// The tokens of the statements that we render ourselves; nothing else has to be understood.
struct Tokens<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
}

impl<'a> Tokens<'a> {
    fn new(sql: &'a str) -> Self {
        Self { chars: sql.chars().peekable() }
    }

    fn until(&mut self, mark: char) -> String {
        let mut text = String::new();
        while let Some(c) = self.chars.next() {
            if c != mark {
                text.push(c);
            } else if self.chars.peek() == Some(&mark) {
                self.chars.next();
                text.push(mark);
            } else {
                break;
            }
        }
        text
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let c = loop {
            let c = self.chars.next()?;
            if !c.is_whitespace() {
                break c;
            }
        };
        Some(match c {
            '`' => Token::Name(self.until('`')),
            '\'' | '"' => {
                self.until(c);
                Token::Text
            }
            '?' => Token::Placeholder,
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(n) = self.chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                    word.push(n);
                }
                Token::Word(word)
            }
            c => Token::Mark(c),
        })
    }
}

type Place = (String, String);

/// Table and index of the parameter that is stored into `column` of the statement's `row` (from 1).
fn parameter_of(sql: &str, column: &str, row: usize) -> Option<(Place, usize)> {
    let tokens: Vec<Token> = Tokens::new(sql).collect();
    let word = |t: &Token, w: &str| matches!(t, Token::Word(x) if x.eq_ignore_ascii_case(w));
    let names: Vec<(usize, &String)> = tokens
        .iter()
        .enumerate()
        .filter_map(|(i, t)| if let Token::Name(n) = t { Some((i, n)) } else { None })
        .collect();
    let (database, table) = (names.first()?.1.clone(), names.get(1)?.1.clone());
    let after_table = names.get(1)?.0 + 1;
    let first = tokens.first()?;
    let parameter = if word(first, "insert") || word(first, "replace") {
        let values = tokens.iter().position(|t| word(t, "values"))?;
        let columns: Vec<&String> =
            names.iter().filter(|(i, _)| (after_table..values).contains(i)).map(|(_, n)| *n).collect();
        let wanted = columns.iter().position(|c| c.eq_ignore_ascii_case(column))?;
        nth_value(tokens.get(values + 1..)?, row, wanted)?
    } else if word(first, "update") {
        let set = tokens.iter().position(|t| word(t, "set"))?;
        let end = tokens.iter().position(|t| word(t, "where")).unwrap_or(tokens.len());
        let mut parameter = 0;
        let mut current = None;
        let mut found = None;
        for token in tokens.get(set + 1..end)? {
            match token {
                Token::Name(n) => current = Some(n),
                Token::Placeholder => {
                    if current.is_some_and(|n| n.eq_ignore_ascii_case(column)) {
                        found = Some(parameter);
                    }
                    parameter += 1;
                }
                _ => {}
            }
        }
        found?
    } else {
        return None;
    };
    Some(((database, table), parameter))
}

/// Index of the placeholder at (`row`, `column`) of `(?,?),(?,?)`.
fn nth_value(tokens: &[Token], row: usize, column: usize) -> Option<usize> {
    let (mut at_row, mut at_column, mut depth, mut parameter) = (0, 0, 0, 0);
    for token in tokens {
        match token {
            Token::Mark('(') => {
                depth += 1;
                if depth == 1 {
                    at_row += 1;
                    at_column = 0;
                }
            }
            Token::Mark(')') => depth -= 1,
            Token::Mark(',') if depth == 1 => at_column += 1,
            Token::Placeholder => {
                if depth == 1 && at_row == row && at_column == column {
                    return Some(parameter);
                }
                parameter += 1;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        for (sql, column, row, want) in [
            ("INSERT INTO `d`.`t`(`a`,`e`) VALUES(?,?)", "e", 1, Some(1)),
            ("INSERT INTO `d`.`t`(`a`,`e`) VALUES (?,?),(?,?),(?,?)", "E", 3, Some(5)),
            ("INSERT INTO `d`.`t`(`a`,`e`) VALUES (DEFAULT,?),(NULL,?)", "e", 2, Some(1)),
            ("INSERT INTO `d`.`t`(`a`,`e`) VALUES (?,?)", "e", 2, None),
            ("UPDATE `d`.`t` SET `a` = ?,`x?y` = ?,`e` = ? WHERE `e` = ? LIMIT 1", "e", 1, Some(2)),
            ("DELETE FROM `d`.`t` WHERE `e` = ?", "e", 1, None),
            ("INSERT INTO `va``lues`.`set`(`e`) VALUES(?)", "e", 1, Some(0)),
        ] {
            let found = parameter_of(sql, column, row);
            assert_eq!(found.as_ref().map(|f| f.1), want, "{sql}");
        }
        let place = parameter_of("INSERT INTO `va``lues`.`set`(`e`) VALUES(?)", "e", 1).map(|f| f.0);
        assert_eq!(place, Some(("va`lues".to_owned(), "set".to_owned())));
        assert_eq!(placeholders("UPDATE `a?` SET `b` = ?, `c` = '?' WHERE `d` = ?"), 2);
    }

    #[test]
    fn verdicts() {
        let sql = "INSERT INTO `d`.`t`(`e`) VALUES(?),(?)";
        let warn =
            |level: &str, code, message: &str| Warning { level: level.to_owned(), code, message: message.to_owned() };
        let zero = [SqlValue::UInt(0), SqlValue::UInt(7)];
        let truncated = |row| warn("Warning", 1265, &format!("Data truncated for column 'e' at row {row}"));
        assert!(matches!(judge(&truncated(1), sql, &zero), Verdict::IfEnum { .. }));
        assert_eq!(judge(&truncated(2), sql, &zero), Verdict::Changed, "7 became 0");
        assert_eq!(
            judge(&warn("Warning", 1264, "Out of range value for column 'e' at row 1"), sql, &zero),
            Verdict::Changed
        );
        assert_eq!(judge(&warn("Note", 1265, "Data truncated for column 'x' at row 1"), sql, &zero), Verdict::Changed);
        assert_eq!(judge(&warn("Note", 1003, "whatever"), sql, &zero), Verdict::Harmless);
        assert_eq!(judge(&warn("Warning", 1287, "deprecated"), sql, &zero), Verdict::Harmless);
        assert_eq!(judge(&warn("Warning", 9999, "new"), sql, &zero), Verdict::Changed);
    }

    #[test]
    fn columns_of_messages() {
        for (message, want) in [
            ("Data truncated for column 'e' at row 2", Some(("e".to_owned(), 2))),
            ("Incorrect value: 'x' for column `d`.`t`.`e` at row 1", Some(("e".to_owned(), 1))),
            ("Data truncated", None),
            ("", None),
        ] {
            assert_eq!(column_of(message), want);
        }
    }
}
