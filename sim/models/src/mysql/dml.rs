//! The statements that the Drainer renders, parsed and run: multi-row INSERT, UPDATE and DELETE with LIMIT 1. Anything else is
//! refused, so that a new shape of the renderer is noticed.

use super::Db;
use super::lexer::{Token, tokens};
use super::table::Table;
use binlog_core::sink::op::Statement;
use binlog_core::sink::value::SqlValue;
use std::sync::Arc;

enum Verb {
    Insert { columns: Vec<String> },
    Update { set: Vec<String>, terms: Vec<Term> },
    Delete { terms: Vec<Term> },
}

enum Term {
    /// By the column's own equality; takes a parameter.
    Equal(String),
    /// The bytes of the text; takes a parameter.
    Exact(String),
    IsNull(String),
}

/// Cursor over tokens.
struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn words(&mut self, words: &[&str]) -> Option<()> {
        let all = words.iter().enumerate().all(|(i, w)| self.tokens.get(self.at + i).is_some_and(|t| t.is_word(w)));
        all.then(|| self.at += words.len())
    }

    fn symbol(&mut self, symbol: char) -> Option<()> {
        (self.tokens.get(self.at) == Some(&Token::Symbol(symbol))).then(|| self.at += 1)
    }

    fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    fn table(&mut self) -> Option<(String, String)> {
        let database = self.name()?;
        self.symbol('.')?;
        Some((database, self.name()?))
    }

    /// `?` or `CAST(? AS type)`.
    fn parameter(&mut self) -> Option<()> {
        if self.symbol('?').is_some() {
            return Some(());
        }
        self.words(&["CAST"])?;
        self.symbol('(')?;
        self.symbol('?')?;
        self.words(&["AS"])?;
        let mut open = 1;
        while open > 0 {
            match self.next()? {
                Token::Symbol('(') => open += 1,
                Token::Symbol(')') => open -= 1,
                _ => {}
            }
        }
        Some(())
    }

    fn condition(&mut self) -> Option<Vec<Term>> {
        self.words(&["WHERE"])?;
        let mut terms = Vec::new();
        if self.words(&["TRUE"]).is_none() {
            loop {
                terms.push(self.term()?);
                if self.words(&["AND"]).is_none() {
                    break;
                }
            }
        }
        self.words(&["LIMIT"])?;
        (self.next()? == Token::Number("1".to_owned()) && self.at == self.tokens.len()).then_some(terms)
    }

    fn term(&mut self) -> Option<Term> {
        if self.words(&["CAST"]).is_some() {
            self.symbol('(')?;
            self.words(&["CONVERT"])?;
            self.symbol('(')?;
            let name = self.name()?;
            self.words(&["USING", "utf8mb4"])?;
            self.symbol(')')?;
            self.words(&["AS", "BINARY"])?;
            self.symbol(')')?;
            self.symbol('=')?;
            self.symbol('?')?;
            return Some(Term::Exact(name));
        }
        let name = self.name()?;
        if self.words(&["IS", "NULL"]).is_some() {
            return Some(Term::IsNull(name));
        }
        self.symbol('=')?;
        self.parameter()?;
        Some(Term::Equal(name))
    }

    fn statement(&mut self) -> Option<((String, String), Verb)> {
        if self.words(&["INSERT", "INTO"]).is_some() {
            let table = self.table()?;
            self.symbol('(')?;
            let mut columns = Vec::new();
            while self.symbol(')').is_none() {
                columns.push(self.name()?);
                let _ = self.symbol(',');
            }
            self.words(&["VALUES"])?;
            let rest = self.tokens.get(self.at..)?;
            let only = |t: &Token| matches!(t, Token::Symbol('(' | ')' | ',' | '?'));
            return rest.iter().all(only).then_some((table, Verb::Insert { columns }));
        }
        if self.words(&["UPDATE"]).is_some() {
            let table = self.table()?;
            self.words(&["SET"])?;
            let mut set = Vec::new();
            loop {
                set.push(self.name()?);
                self.symbol('=')?;
                self.symbol('?')?;
                if self.symbol(',').is_none() {
                    break;
                }
            }
            return Some((table, Verb::Update { set, terms: self.condition()? }));
        }
        self.words(&["DELETE", "FROM"])?;
        Some((self.table()?, Verb::Delete { terms: self.condition()? }))
    }
}

impl Db {
    /// Runs one statement; gives the number of matched rows.
    ///
    /// # Errors
    /// What the server says.
    pub(super) fn run(&mut self, statement: &Statement) -> Result<u64, String> {
        let mut parser = Parser { tokens: tokens(&statement.sql)?, at: 0 };
        let shape = parser.statement();
        let (name, verb) = shape.ok_or_else(|| format!("1064: not a shape of the Drainer: {}", statement.sql))?;
        let missing = || format!("1146: table {}.{} doesn't exist", name.0, name.1);
        let table = Arc::make_mut(self.tables.get_mut(&name).ok_or_else(missing)?);
        let mut params = statement.params.iter();
        match verb {
            Verb::Insert { columns } => insert(table, &columns, &statement.params),
            Verb::Update { set, terms } => {
                let values: Vec<&SqlValue> = params.by_ref().take(set.len()).collect();
                let Some(id) = find(table, &terms, params)? else { return Ok(0) };
                let mut row = table.row(id).cloned().unwrap_or_default();
                for (name, value) in set.iter().zip(values) {
                    let at = column(table, name)?;
                    row[at] = table.columns[at].ty.convert(value)?;
                }
                table.update(id, row)?;
                Ok(1)
            }
            Verb::Delete { terms } => {
                let Some(id) = find(table, &terms, params)? else { return Ok(0) };
                table.remove(id);
                Ok(1)
            }
        }
    }
}

fn column(table: &Table, name: &str) -> Result<usize, String> {
    table.position(name).ok_or_else(|| format!("1054: unknown column {name}"))
}

fn insert(table: &mut Table, columns: &[String], params: &[SqlValue]) -> Result<u64, String> {
    let positions: Vec<usize> = columns.iter().map(|name| column(table, name)).collect::<Result<_, _>>()?;
    if positions.iter().any(|at| table.columns[*at].generated.is_some()) {
        return Err("3105: a generated column takes no value".to_owned());
    }
    let mut inserted = 0;
    for values in params.chunks(columns.len().max(1)) {
        if values.len() != columns.len() {
            return Err("1136: column count doesn't match value count".to_owned());
        }
        let mut row = Vec::with_capacity(table.columns.len());
        for (at, column) in table.columns.iter().enumerate() {
            row.push(match positions.iter().position(|p| *p == at) {
                Some(given) => column.ty.convert(&values[given])?,
                None => column.default.clone().unwrap_or(SqlValue::Null),
            });
        }
        table.insert(row)?;
        inserted += 1;
    }
    Ok(inserted)
}

/// The first row that meets all terms.
fn find<'p>(
    table: &Table,
    terms: &[Term],
    mut params: impl Iterator<Item = &'p SqlValue>,
) -> Result<Option<u64>, String> {
    let mut wanted = Vec::new();
    for term in terms {
        let (Term::Equal(name) | Term::Exact(name) | Term::IsNull(name)) = term;
        let at = column(table, name)?;
        let value = match term {
            Term::IsNull(_) => None,
            Term::Equal(_) | Term::Exact(_) => Some(params.next().ok_or("2031: a parameter is missing")?),
        };
        wanted.push((at, term, value));
    }
    let meets = |row: &Vec<SqlValue>| {
        wanted.iter().all(|(at, term, value)| match (term, value) {
            (Term::Exact(_), Some(SqlValue::Text(text) | SqlValue::Bytes(text))) => {
                matches!(&row[*at], SqlValue::Text(have) if have == text)
            }
            (Term::Equal(_), Some(value)) => {
                let ty = &table.columns[*at].ty;
                let value = ty.convert(value).unwrap_or(SqlValue::Null);
                let same_key = ty.is_string() && ty.key(&row[*at], -1) == ty.key(&value, -1);
                value != SqlValue::Null && (same_key || ty.same(&row[*at], &value))
            }
            (Term::IsNull(_), _) => row[*at] == SqlValue::Null,
            _ => false,
        })
    };
    Ok(table.rows().find(|(_, row)| meets(row)).map(|(id, _)| id))
}
