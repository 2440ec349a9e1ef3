//! The little that must be known of a DDL text: where statements end, and the names in RENAME TABLE and EXCHANGE
//! PARTITION (their job does not say the session's current database). Not a parser: everything else about a DDL is data.

use crate::sink::sql::quote;

/// A piece of a statement; comments and white space are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// An unquoted word or number, as written.
    Word(String),
    /// A quoted identifier without its quotes. `"x"` counts as one: in the places that are looked at, no string can stand.
    Quoted(String),
    /// What a string in single quotes holds; escapes with a back-slash are left out.
    Text(String),
    Symbol(char),
}

impl Token {
    fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn is_symbol(&self, symbol: char) -> bool {
        matches!(self, Self::Symbol(s) if *s == symbol)
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            Self::Text(_) | Self::Symbol(_) => None,
        }
    }
}

/// A name as the statement wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenName {
    pub schema: Option<String>,
    pub table: String,
}

/// The pairs of `RENAME TABLE a TO b, c.d TO e.f`; `None` when the text is something else.
#[must_use]
pub fn rename_pairs(sql: &str) -> Option<Vec<(WrittenName, WrittenName)>> {
    let tokens = tokens(sql);
    let mut rest = tokens.as_slice();
    eat_word(&mut rest, "RENAME")?;
    eat_word(&mut rest, "TABLE").or_else(|| eat_word(&mut rest, "TABLES"))?;
    let mut pairs = Vec::new();
    loop {
        let old = eat_name(&mut rest)?;
        eat_word(&mut rest, "TO")?;
        let new = eat_name(&mut rest)?;
        pairs.push((old, new));
        match rest.split_first() {
            Some((t, after)) if t.is_symbol(',') => rest = after,
            None => return Some(pairs),
            Some((t, [])) if t.is_symbol(';') => return Some(pairs),
            Some(_) => return None,
        }
    }
}

/// The table that `ALTER TABLE t …` names.
#[must_use]
pub fn altered_table(sql: &str) -> Option<WrittenName> {
    let tokens = tokens(sql);
    let mut rest = tokens.as_slice();
    eat_word(&mut rest, "ALTER")?;
    eat_word(&mut rest, "TABLE")?;
    eat_name(&mut rest)
}

/// The statement with its table's names written as `schema` and `table`: the upstream finds a table whatever the case of its
/// name, a downstream may not. `None`: nothing is to be changed, or the statement is none that begins with its table.
#[must_use]
pub fn in_case(sql: &str, schema: &str, table: &str) -> Option<String> {
    let mut pieces = Pieces::new(sql);
    let mut next = || pieces.next().map(|(start, token)| (start, pieces.at, token));
    let (_, _, first) = next()?;
    match &first {
        word if word.is_word("ALTER") => next().filter(|(.., t)| t.is_word("TABLE")).map(|_| ())?,
        word if word.is_word("TRUNCATE") => {}
        word if word.is_word("CREATE") || word.is_word("DROP") => {
            let kinds = ["INDEX", "UNIQUE", "FULLTEXT", "SPATIAL"];
            next().filter(|(.., t)| kinds.iter().any(|kind| t.is_word(kind)))?;
            while !next()?.2.is_word("ON") {}
        }
        _ => return None,
    }
    let mut name = next()?;
    if first.is_word("TRUNCATE") && name.2.is_word("TABLE") {
        name = next()?;
    }
    let after = next();
    let (of_schema, of_table) = match after {
        Some((.., dot)) if dot.is_symbol('.') => (Some(name), next()?),
        _ => (None, name),
    };
    let mut out = sql.to_owned();
    let named = [Some((of_table, table)), of_schema.map(|of_schema| (of_schema, schema))];
    for ((start, end, token), wanted) in named.into_iter().flatten() {
        let found = token.name()?;
        if found != wanted && found.to_lowercase() == wanted.to_lowercase() {
            out.replace_range(start..end, &quote(wanted));
        }
    }
    (out != sql).then_some(out)
}

/// The statements of a text, without `;` and without empty ones.
#[must_use]
pub fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, piece) in Pieces::new(sql) {
        if matches!(piece, Token::Symbol(';')) {
            found.push(sql.get(start..at).unwrap_or_default().trim());
            start = at + 1;
        }
    }
    found.push(sql.get(start..).unwrap_or_default().trim());
    found.retain(|s| !s.is_empty());
    found
}

/// `CREATE TABLE …` as `CREATE TABLE IF NOT EXISTS …`; `None` when the text is no CREATE TABLE.
#[must_use]
pub fn create_if_not_exists(sql: &str) -> Option<String> {
    let mut pieces = Pieces::new(sql);
    pieces.next().filter(|(_, t)| t.is_word("CREATE"))?;
    pieces.next().filter(|(_, t)| t.is_word("TABLE"))?;
    let after_table = pieces.at;
    if pieces.next().is_some_and(|(_, t)| t.is_word("IF")) {
        return Some(sql.to_owned());
    }
    Some(format!("{} IF NOT EXISTS{}", sql.get(..after_table)?, sql.get(after_table..)?))
}

/// The strings in single quotes outside of comments.
pub fn strings(sql: &str) -> impl Iterator<Item = String> {
    Pieces::new(sql).filter_map(|(_, token)| match token {
        Token::Text(text) => Some(text),
        Token::Word(_) | Token::Quoted(_) | Token::Symbol(_) => None,
    })
}

/// Whether an unquoted word stands somewhere outside of comments.
#[must_use]
pub fn has_word(sql: &str, word: &str) -> bool {
    Pieces::new(sql).any(|(_, token)| token.is_word(word))
}

fn tokens(sql: &str) -> Vec<Token> {
    Pieces::new(sql).map(|(_, token)| token).collect()
}

fn eat_word(rest: &mut &[Token], word: &str) -> Option<()> {
    let (first, after) = rest.split_first()?;
    first.is_word(word).then(|| *rest = after)
}

fn eat_name(rest: &mut &[Token]) -> Option<WrittenName> {
    let (first, after) = rest.split_first()?;
    let first = first.name()?.to_owned();
    *rest = after;
    if let Some((dot, after)) = rest.split_first()
        && dot.is_symbol('.')
    {
        let (second, after) = after.split_first()?;
        *rest = after;
        return Some(WrittenName { schema: Some(first), table: second.name()?.to_owned() });
    }
    Some(WrittenName { schema: None, table: first })
}

/// Walks a text: byte position and token. The words inside `/*! */` and `/*T! */` count as comment.
struct Pieces<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Pieces<'a> {
    fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.sql.get(self.at..).unwrap_or_default()
    }

    fn skip_blank_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let dashes = trimmed.strip_prefix("--").is_some_and(|r| r.is_empty() || r.starts_with(char::is_whitespace));
            let skipped = if trimmed.starts_with('#') || dashes {
                trimmed.find('\n').map_or(trimmed.len(), |end| end + 1)
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").map_or(trimmed.len(), |end| end + 2)
            } else {
                return;
            };
            self.at += skipped;
        }
    }

    /// Content of what `quote` encloses, doubled quotes undone; moves behind it.
    fn quoted(&mut self, quote: char) -> String {
        let mut content = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        let mut end = self.rest().len();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                if chars.peek().is_some_and(|(_, next)| *next == quote) {
                    chars.next();
                    content.push(quote);
                    continue;
                }
                end = i + quote.len_utf8();
                break;
            }
            if c == '\\' && quote != '`' {
                chars.next();
                continue;
            }
            content.push(c);
        }
        self.at += end;
        content
    }
}

impl Iterator for Pieces<'_> {
    type Item = (usize, Token);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_blank_and_comments();
        let at = self.at;
        let rest = self.rest();
        let first = rest.chars().next()?;
        let token = match first {
            '`' | '"' => Token::Quoted(self.quoted(first)),
            '\'' => Token::Text(self.quoted(first)),
            c if is_word_char(c) => {
                let end = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
                self.at += end;
                Token::Word(rest.get(..end).unwrap_or_default().to_owned())
            }
            c => {
                self.at += c.len_utf8();
                Token::Symbol(c)
            }
        };
        Some((at, token))
    }
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || (c as u32) > 127
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(sql: &str) -> String {
        let show = |n: &WrittenName| match &n.schema {
            Some(s) => format!("{s}.{}", n.table),
            None => n.table.clone(),
        };
        rename_pairs(sql).map_or("none".to_owned(), |pairs| {
            pairs.iter().map(|(a, b)| format!("{}>{}", show(a), show(b))).collect::<Vec<_>>().join(" ")
        })
    }

    #[test]
    fn rename_pairs_table() {
        for (sql, expected) in [
            ("rename table r1 to swap_tmp, r2 to r1, swap_tmp to r2", "r1>swap_tmp r2>r1 swap_tmp>r2"),
            ("RENAME TABLE `d3`.`m2z` TO `d1`.`back`, `m3` TO `d2`.`m3`;", "d3.m2z>d1.back m3>d2.m3"),
            ("RENAME /* c, d */ TABLE `a``b` TO \"q.r\" -- end\n;", "a`b>q.r"),
            ("RENAME TABLE a", "none"),
            ("RENAME TABLE a TO b c", "none"),
            ("ALTER TABLE a RENAME b", "none"),
            ("", "none"),
        ] {
            assert_eq!(names(sql), expected, "{sql}");
        }
    }

    #[test]
    fn statements_end_outside_quotes_and_comments() {
        assert_eq!(statements("a ';' \";\" `;` /* ; */ b; -- ;\n c;;"), ["a ';' \";\" `;` /* ; */ b", "-- ;\n c"]);
        assert_eq!(statements(""), Vec::<&str>::new());
    }

    #[test]
    fn names_get_the_case_of_the_schema() {
        for (sql, expected) in [
            ("ALTER TABLE foo ADD COLUMN foo INT", "ALTER TABLE `Foo` ADD COLUMN foo INT"),
            ("alter /* x */ table `db`.`FOO` drop column a", "alter /* x */ table `Db`.`Foo` drop column a"),
            ("ALTER TABLE db.Foo ADD COLUMN b INT", "ALTER TABLE `Db`.Foo ADD COLUMN b INT"),
            ("TRUNCATE foo", "TRUNCATE `Foo`"),
            ("TRUNCATE TABLE db . foo;", "TRUNCATE TABLE `Db` . `Foo`;"),
            ("CREATE UNIQUE INDEX i ON foo (a)", "CREATE UNIQUE INDEX i ON `Foo` (a)"),
            (
                "CREATE INDEX IF NOT EXISTS `on` USING BTREE ON foo (a)",
                "CREATE INDEX IF NOT EXISTS `on` USING BTREE ON `Foo` (a)",
            ),
            ("DROP INDEX i ON foo", "DROP INDEX i ON `Foo`"),
        ] {
            assert_eq!(in_case(sql, "Db", "Foo").as_deref(), Some(expected), "{sql}");
            assert_eq!(in_case(expected, "Db", "Foo"), None, "{expected}");
        }
        for sql in
            ["ALTER TABLE bar ADD a INT", "CREATE TABLE foo (a INT)", "DROP TABLE foo", "ALTER", "DROP INDEX i", ""]
        {
            assert_eq!(in_case(sql, "Db", "Foo"), None, "{sql}");
        }
    }

    #[test]
    fn create_table_gets_if_not_exists_once() {
        assert_eq!(create_if_not_exists("CREATE TABLE `a` (b INT)").unwrap(), "CREATE TABLE IF NOT EXISTS `a` (b INT)");
        assert_eq!(
            create_if_not_exists("create table if not exists a (b INT)").unwrap(),
            "create table if not exists a (b INT)"
        );
        assert_eq!(create_if_not_exists("CREATE VIEW v AS SELECT 1"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(sql in "\\PC{0,60}") {
            let _ = rename_pairs(&sql);
            let _ = altered_table(&sql);
            for head in ["ALTER TABLE ", "TRUNCATE ", "DROP INDEX a ON ", ""] {
                let _ = in_case(&format!("{head}{sql}"), "Db", "Foo");
            }
            let _ = create_if_not_exists(&sql);
            let _ = statements(&sql);
        }
    }
}
