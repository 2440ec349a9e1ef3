//! Tokens of SQL text: names, words, numbers, texts, symbols. Comments count as space.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// In back-quotes.
    Name(String),
    Word(String),
    /// Digits, possibly with a sign or a point.
    Number(String),
    /// In single quotes.
    Text(String),
    Symbol(char),
}

impl Token {
    #[must_use]
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w.eq_ignore_ascii_case(word))
    }
}

/// # Errors
/// An unterminated quote or comment.
pub fn tokens(sql: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut chars = sql.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let rest = sql.get(at..).unwrap_or_default();
        match c {
            _ if c.is_whitespace() => {}
            '/' if rest.starts_with("/*") => {
                let end = rest.find("*/").ok_or("an unterminated comment")? + at + 2;
                while chars.next_if(|(i, _)| *i < end).is_some() {}
            }
            '`' | '\'' => {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        Some((_, q)) if q == c => {
                            if chars.next_if(|(_, next)| *next == c).is_none() {
                                break;
                            }
                            text.push(c);
                        }
                        Some((_, '\\')) if c == '\'' => text.extend(chars.next().map(|(_, escaped)| escaped)),
                        Some((_, other)) => text.push(other),
                        None => return Err("an unterminated quote".to_owned()),
                    }
                }
                out.push(if c == '`' { Token::Name(text) } else { Token::Text(text) });
            }
            _ if c.is_ascii_digit() => {
                let mut number = String::from(c);
                while let Some((_, next)) = chars.next_if(|(_, n)| n.is_ascii_digit() || *n == '.') {
                    number.push(next);
                }
                out.push(Token::Number(number));
            }
            _ if c.is_alphanumeric() || c == '_' || c == '@' => {
                let mut word = String::from(c);
                while let Some((_, next)) = chars.next_if(|(_, n)| n.is_alphanumeric() || *n == '_') {
                    word.push(next);
                }
                out.push(Token::Word(word));
            }
            _ => out.push(Token::Symbol(c)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind() {
        let found = tokens("ALTER TABLE `a``b` /*T![x] y */ ADD c INT DEFAULT 'it''s \\\\ x', (3.5)").unwrap();
        let shown: Vec<String> = found.iter().map(|t| format!("{t:?}")).collect();
        assert_eq!(
            shown.join(" "),
            "Word(\"ALTER\") Word(\"TABLE\") Name(\"a`b\") Word(\"ADD\") Word(\"c\") Word(\"INT\") Word(\"DEFAULT\") \
             Text(\"it's \\\\ x\") Symbol(',') Symbol('(') Number(\"3.5\") Symbol(')')"
        );
        assert!(tokens("'x").is_err() && tokens("/* x").is_err() && tokens("`").is_err());
    }
}
