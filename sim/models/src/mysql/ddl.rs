//! The DDL that reaches the downstream, parsed and run.

use super::Db;
use super::lexer::{Token, tokens};
use super::table::{Column, Key, Table};
use crate::types::ColType;
use binlog_core::sink::value::SqlValue;
use std::sync::Arc;

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    database: &'a str,
}

type Name = (String, String);

impl Db {
    /// # Errors
    /// What the server says, with its number.
    pub(super) fn run_ddl(&mut self, database: Option<&str>, sql: &str) -> Result<(), String> {
        let tokens = tokens(sql.trim_end_matches(';'))?;
        let mut parser = Parser { tokens: &tokens, at: 0, database: database.unwrap_or_default() };
        parser.statement(self).unwrap_or_else(|| Err(format!("1064: syntax error in {sql}")))
    }

    fn table_mut(&mut self, name: &Name) -> Result<&mut Table, String> {
        let table =
            self.tables.get_mut(name).ok_or_else(|| format!("1146: table {}.{} doesn't exist", name.0, name.1))?;
        Ok(Arc::make_mut(table))
    }

    fn add_table(&mut self, name: Name, table: Arc<Table>) -> Result<(), String> {
        if !self.databases.contains(&name.0) {
            return Err(format!("1049: unknown database {}", name.0));
        }
        if self.tables.contains_key(&name) {
            return Err(format!("1050: table {}.{} already exists", name.0, name.1));
        }
        self.tables.insert(name, table);
        Ok(())
    }
}

impl Parser<'_> {
    fn words(&mut self, words: &[&str]) -> Option<()> {
        let all = words.iter().enumerate().all(|(i, w)| self.tokens.get(self.at + i).is_some_and(|t| t.is_word(w)));
        all.then(|| self.at += words.len())
    }

    fn symbol(&mut self, symbol: char) -> Option<()> {
        (self.tokens.get(self.at) == Some(&Token::Symbol(symbol))).then(|| self.at += 1)
    }

    fn name(&mut self) -> Option<String> {
        let Some(Token::Name(name)) = self.tokens.get(self.at) else { return None };
        self.at += 1;
        Some(name.clone())
    }

    fn table(&mut self) -> Option<Name> {
        let first = self.name()?;
        match self.symbol('.') {
            Some(()) => Some((first, self.name()?)),
            None => Some((self.database.to_owned(), first)),
        }
    }

    fn end(&self) -> Option<()> {
        (self.at >= self.tokens.len()).then_some(())
    }

    /// `None`: not understood.
    fn statement(&mut self, db: &mut Db) -> Option<Result<(), String>> {
        if self.words(&["CREATE", "DATABASE"]).is_some() {
            let name = self.name()?;
            let fresh = db.databases.insert(name.clone());
            return Some(if fresh { Ok(()) } else { Err(format!("1007: database {name} exists")) });
        }
        if self.words(&["DROP", "DATABASE"]).is_some() {
            let name = self.name()?;
            db.tables.retain(|(database, _), _| *database != name);
            return Some(if db.databases.remove(&name) { Ok(()) } else { Err(format!("1008: no database {name}")) });
        }
        if self.words(&["CREATE", "TABLE"]).is_some() {
            let name = self.table()?;
            return Some(match self.create()? {
                Ok(table) => db.add_table(name, Arc::new(table)),
                Err(e) => Err(e),
            });
        }
        if self.words(&["DROP", "TABLE"]).is_some() {
            let name = self.table()?;
            self.end()?;
            let gone = db.tables.remove(&name);
            return Some(gone.map(drop).ok_or_else(|| format!("1051: unknown table {}.{}", name.0, name.1)));
        }
        if self.words(&["TRUNCATE", "TABLE"]).is_some() {
            let name = self.table()?;
            return Some(db.table_mut(&name).map(Table::clear));
        }
        if self.words(&["RENAME", "TABLE"]).is_some() {
            loop {
                let old = self.table()?;
                self.words(&["TO"])?;
                let new = self.table()?;
                let Some(table) = db.tables.remove(&old) else {
                    return Some(Err(format!("1146: table {}.{} doesn't exist", old.0, old.1)));
                };
                if let Err(e) = db.add_table(new, table) {
                    return Some(Err(e));
                }
                if self.symbol(',').is_none() {
                    self.end()?;
                    return Some(Ok(()));
                }
            }
        }
        self.words(&["ALTER", "TABLE"])?;
        let name = self.table()?;
        let mut table = match db.table_mut(&name) {
            Ok(table) => table.clone(),
            Err(e) => return Some(Err(e)),
        };
        loop {
            if let Err(e) = self.clause(&mut table)? {
                return Some(Err(e));
            }
            if self.symbol(',').is_none() {
                self.end()?;
                db.tables.insert(name, Arc::new(table));
                return Some(Ok(()));
            }
        }
    }

    fn create(&mut self) -> Option<Result<Table, String>> {
        self.symbol('(')?;
        let mut columns = Vec::new();
        let mut keys = Vec::new();
        let mut plain = Vec::new();
        loop {
            match self.index() {
                Some((true, key)) => keys.push(key),
                Some((false, key)) => plain.push(key.name),
                None => columns.push(self.column()?),
            }
            if self.symbol(',').is_none() {
                break;
            }
        }
        self.symbol(')')?;
        self.end()?;
        let mut table = Table::new(columns);
        (table.keys, table.plain) = (keys, plain);
        let known = table.keys.iter().flat_map(|k| &k.parts).all(|(name, _)| table.position(name).is_some());
        Some(if known { Ok(table) } else { Err("1072: key column doesn't exist".to_owned()) })
    }

    /// Whether it is unique, and the key.
    fn index(&mut self) -> Option<(bool, Key)> {
        let (unique, name) = if self.words(&["PRIMARY", "KEY"]).is_some() {
            (true, "PRIMARY".to_owned())
        } else if self.words(&["UNIQUE", "KEY"]).is_some() {
            (true, self.name()?)
        } else {
            self.words(&["KEY"])?;
            (false, self.name()?)
        };
        self.symbol('(')?;
        let mut parts = Vec::new();
        loop {
            let column = self.name()?;
            let mut prefix = -1;
            if self.symbol('(').is_some() {
                let Some(Token::Number(n)) = self.tokens.get(self.at) else { return None };
                prefix = n.parse().ok()?;
                self.at += 1;
                self.symbol(')')?;
            }
            parts.push((column, prefix));
            if self.symbol(',').is_none() {
                break;
            }
        }
        self.symbol(')')?;
        Some((unique, Key { name, parts }))
    }

    fn column(&mut self) -> Option<Column> {
        let name = self.name()?;
        let (ty, taken) = ColType::parse(self.tokens.get(self.at..)?)?;
        self.at += taken;
        let mut column = Column { name, ty, nullable: true, default: None, generated: None };
        if self.words(&["GENERATED", "ALWAYS", "AS"]).is_some() {
            self.symbol('(')?;
            let source = self.name()?;
            self.symbol('+')?;
            let Some(Token::Number(plus)) = self.tokens.get(self.at) else { return None };
            column.generated = Some((source, plus.parse().ok()?));
            self.at += 1;
            self.symbol(')')?;
            self.words(&["STORED"]).or_else(|| self.words(&["VIRTUAL"]))?;
            return Some(column);
        }
        if self.words(&["NOT", "NULL"]).is_some() {
            column.nullable = false;
        } else {
            self.words(&["NULL"])?;
        }
        if self.words(&["DEFAULT"]).is_some() {
            let Some(Token::Text(text)) = self.tokens.get(self.at) else { return None };
            self.at += 1;
            column.default = Some(column.ty.convert(&SqlValue::Text(text.clone().into_bytes())).ok()?);
        }
        Some(column)
    }

    fn clause(&mut self, table: &mut Table) -> Option<Result<(), String>> {
        if self.words(&["ADD", "COLUMN"]).is_some() {
            let column = self.column()?;
            let at = if self.words(&["FIRST"]).is_some() {
                0
            } else if self.words(&["AFTER"]).is_some() {
                let after = self.name()?;
                match table.position(&after) {
                    Some(at) => at + 1,
                    None => return Some(Err(format!("1054: unknown column {after}"))),
                }
            } else {
                table.columns.len()
            };
            if table.position(&column.name).is_some() {
                return Some(Err(format!("1060: duplicate column {}", column.name)));
            }
            let value = column.default.clone().unwrap_or(SqlValue::Null);
            table.columns.insert(at, column);
            return Some(table.rewrite(|mut row| {
                row.insert(at, value.clone());
                Ok(row)
            }));
        }
        if self.words(&["DROP", "COLUMN"]).is_some() {
            let name = self.name()?;
            let Some(at) = table.position(&name) else { return Some(Err(format!("1091: can't drop {name}"))) };
            if table.keys.iter().flat_map(|k| &k.parts).any(|(column, _)| *column == name) {
                return Some(Err(format!("1072: {name} is in a key")));
            }
            table.columns.remove(at);
            return Some(table.rewrite(|mut row| {
                row.remove(at);
                Ok(row)
            }));
        }
        if self.words(&["MODIFY", "COLUMN"]).is_some() {
            let column = self.column()?;
            let Some(at) = table.position(&column.name) else {
                return Some(Err(format!("1054: unknown column {}", column.name)));
            };
            let ty = column.ty.clone();
            table.columns[at] = column;
            return Some(table.rewrite(|mut row| {
                row[at] = ty.convert(&row[at])?;
                Ok(row)
            }));
        }
        if self.words(&["DROP", "INDEX"]).is_some() {
            let name = self.name()?;
            let before = table.keys.len() + table.plain.len();
            table.keys.retain(|k| k.name != name);
            table.plain.retain(|k| *k != name);
            if table.keys.len() + table.plain.len() == before {
                return Some(Err(format!("1091: can't drop {name}")));
            }
            return Some(table.rewrite(Ok));
        }
        self.words(&["ADD"])?;
        let (unique, key) = self.index()?;
        if table.keys.iter().any(|k| k.name == key.name) || table.plain.contains(&key.name) {
            return Some(Err(format!("1061: duplicate key {}", key.name)));
        }
        if !unique {
            table.plain.push(key.name);
            return Some(Ok(()));
        }
        table.keys.push(key);
        Some(table.rewrite(Ok))
    }
}
