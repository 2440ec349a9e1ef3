//! Column types as SQL writes them, the values that they hold, and when two values are the same key.
//!
//! Both ends use this: the TiDB model to make tables and values, the MySQL model to read DDL and to store what it is sent.
//! Values are [`SqlValue`]s in the form that `codec::value::to_sql` gives, so that equal means equal.

use crate::rng::Rng;
use binlog_core::codec::encode_value::{civil, nanos};
use binlog_core::codec::value::tp;
use binlog_core::codec::{duration, time};
use binlog_core::schema::model::FieldType;
use binlog_core::sink::value::SqlValue;
use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColType {
    /// Type code (spec codec 4.1).
    pub tp: u8,
    /// Length, bits or precision; −1 where the type has none.
    pub flen: i64,
    /// Scale or fraction digits; −1 where the type has none.
    pub scale: i64,
    pub unsigned: bool,
    /// BINARY, VARBINARY, BLOB.
    pub binary: bool,
    /// utf8mb4_general_ci instead of utf8mb4_bin.
    pub ci: bool,
    pub elems: Vec<String>,
}

/// Code, name of text or number, name when binary.
const NAMES: [(u8, &str, &str); 23] = [
    (tp::TINY, "TINYINT", ""),
    (tp::SHORT, "SMALLINT", ""),
    (tp::INT24, "MEDIUMINT", ""),
    (tp::LONG, "INT", ""),
    (tp::LONGLONG, "BIGINT", ""),
    (tp::YEAR, "YEAR", ""),
    (tp::FLOAT, "FLOAT", ""),
    (tp::DOUBLE, "DOUBLE", ""),
    (tp::DECIMAL, "DECIMAL", ""),
    (tp::DATE, "DATE", ""),
    (tp::DATETIME, "DATETIME", ""),
    (tp::TIMESTAMP, "TIMESTAMP", ""),
    (tp::DURATION, "TIME", ""),
    (tp::VARCHAR, "VARCHAR", "VARBINARY"),
    (tp::STRING, "CHAR", "BINARY"),
    (tp::TINY_BLOB, "TINYTEXT", "TINYBLOB"),
    (tp::BLOB, "TEXT", "BLOB"),
    (tp::MEDIUM_BLOB, "MEDIUMTEXT", "MEDIUMBLOB"),
    (tp::LONG_BLOB, "LONGTEXT", "LONGBLOB"),
    (tp::BIT, "BIT", ""),
    (tp::ENUM, "ENUM", ""),
    (tp::SET, "SET", ""),
    (tp::JSON, "JSON", ""),
];

impl ColType {
    #[must_use]
    pub const fn plain(tp: u8) -> Self {
        Self { tp, flen: -1, scale: -1, unsigned: false, binary: false, ci: false, elems: Vec::new() }
    }

    /// Any type at all.
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let (code, _, binary) = NAMES[rng.index(NAMES.len())];
        let mut ty = Self { binary: !binary.is_empty() && rng.percent(40), ..Self::plain(code) };
        let int = |n: u64| i64::try_from(n).unwrap_or(1);
        match code {
            tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG => ty.unsigned = rng.percent(40),
            tp::DECIMAL => {
                let precision = if rng.percent(20) { 65 } else { rng.range(1, 20) };
                ty.flen = int(precision);
                ty.scale = int(rng.below(precision.min(30) + 1));
            }
            tp::DATETIME | tp::TIMESTAMP | tp::DURATION => ty.scale = int([0, 0, 3, 6][rng.index(4)]),
            tp::VARCHAR | tp::STRING => ty.flen = int(rng.range(4, 24)),
            tp::BIT => ty.flen = int([1, 8, 33, 64][rng.index(4)]),
            tp::ENUM => ty.elems = ["red", "green", "it's", "blue,ish"].map(str::to_owned).to_vec(),
            tp::SET => ty.elems = (0..if rng.percent(20) { 64 } else { 5 }).map(|i| format!("m{i}")).collect(),
            _ => {}
        }
        ty.ci = ty.is_text() && rng.percent(40);
        ty
    }

    /// A type whose values make good keys: short, and many.
    #[must_use]
    pub fn random_key(rng: &mut Rng) -> Self {
        loop {
            let ty = Self::random(rng);
            let blob = matches!(ty.tp, tp::TINY_BLOB | tp::BLOB | tp::MEDIUM_BLOB | tp::LONG_BLOB);
            if !blob && !matches!(ty.tp, tp::JSON | tp::FLOAT | tp::DOUBLE | tp::BIT | tp::SET | tp::ENUM) {
                return ty;
            }
        }
    }

    #[must_use]
    pub const fn is_string(&self) -> bool {
        matches!(self.tp, tp::VARCHAR | tp::STRING | tp::TINY_BLOB | tp::BLOB | tp::MEDIUM_BLOB | tp::LONG_BLOB)
    }

    #[must_use]
    pub const fn is_text(&self) -> bool {
        self.is_string() && !self.binary
    }

    #[must_use]
    pub const fn is_integer(&self) -> bool {
        matches!(self.tp, tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG)
    }

    /// MySQL allows no literal default.
    #[must_use]
    pub const fn takes_default(&self) -> bool {
        !matches!(self.tp, tp::TINY_BLOB | tp::BLOB | tp::MEDIUM_BLOB | tp::LONG_BLOB | tp::JSON | tp::BIT)
            && !self.binary
    }

    /// As SQL writes it.
    #[must_use]
    pub fn sql(&self) -> String {
        let name = NAMES
            .iter()
            .find(|(code, ..)| *code == self.tp)
            .map_or("?", |(_, text, binary)| if self.binary { binary } else { text });
        let mut sql = name.to_owned();
        match self.tp {
            tp::DECIMAL => sql += &format!("({},{})", self.flen, self.scale),
            tp::DATETIME | tp::TIMESTAMP | tp::DURATION if self.scale > 0 => sql += &format!("({})", self.scale),
            tp::VARCHAR | tp::STRING | tp::BIT => sql += &format!("({})", self.flen),
            tp::ENUM | tp::SET => {
                let elems: Vec<String> = self.elems.iter().map(|e| literal(e)).collect();
                sql += &format!("({})", elems.join(","));
            }
            _ => {}
        }
        if self.unsigned {
            sql += " UNSIGNED";
        }
        if self.is_text() {
            sql += &format!(" CHARACTER SET utf8mb4 COLLATE {}", self.collation());
        }
        sql
    }

    #[must_use]
    pub const fn collation(&self) -> &'static str {
        match (self.is_text(), self.ci) {
            (true, true) => "utf8mb4_general_ci",
            (true, false) => "utf8mb4_bin",
            (false, _) => "binary",
        }
    }

    /// As a definition's JSON holds it; `flag` without the unsigned bit.
    #[must_use]
    pub fn field_type(&self, flag: u32) -> FieldType {
        let text = self.is_text() || matches!(self.tp, tp::ENUM | tp::SET);
        FieldType {
            tp: self.tp,
            flag: flag | if self.unsigned || self.tp == tp::YEAR { FieldType::UNSIGNED } else { 0 },
            flen: self.flen,
            decimal: self.scale,
            charset: if text { "utf8mb4" } else { "binary" }.to_owned(),
            collate: if text && !self.is_text() { "utf8mb4_bin" } else { self.collation() }.to_owned(),
            elems: self.elems.clone(),
        }
    }

    /// Reads the type from the tokens of a column definition ([`crate::mysql::lexer`]); gives how many it took.
    #[must_use]
    pub fn parse(tokens: &[crate::mysql::lexer::Token]) -> Option<(Self, usize)> {
        use crate::mysql::lexer::Token;
        let word = |at: usize, word: &str| tokens.get(at).is_some_and(|t| t.is_word(word));
        let Token::Word(name) = tokens.first()? else { return None };
        let upper = name.to_ascii_uppercase();
        let (code, _, binary) = NAMES.iter().find(|(_, text, binary)| *text == upper || *binary == upper)?;
        let mut ty = Self { binary: *binary == upper, ..Self::plain(*code) };
        let mut at = 1;
        let mut arguments = Vec::new();
        if tokens.get(at) == Some(&Token::Symbol('(')) {
            at += 1;
            while tokens.get(at)? != &Token::Symbol(')') {
                match tokens.get(at)? {
                    Token::Number(n) => arguments.push(n.parse::<i64>().ok()?),
                    Token::Text(element) => ty.elems.push(element.clone()),
                    _ => {}
                }
                at += 1;
            }
            at += 1;
        }
        match ty.tp {
            tp::DECIMAL => (ty.flen, ty.scale) = (*arguments.first()?, *arguments.get(1)?),
            tp::DATETIME | tp::TIMESTAMP | tp::DURATION => ty.scale = arguments.first().copied().unwrap_or(0),
            tp::VARCHAR | tp::STRING | tp::BIT => ty.flen = *arguments.first()?,
            _ => {}
        }
        if word(at, "UNSIGNED") {
            ty.unsigned = true;
            at += 1;
        }
        if word(at, "CHARACTER") && word(at + 1, "SET") && word(at + 3, "COLLATE") {
            ty.ci = tokens.get(at + 4).is_some_and(|t| t.is_word("utf8mb4_general_ci"));
            at += 5;
        }
        Some((ty, at))
    }

    /// Bits of an integer type.
    const fn bits(&self) -> u32 {
        match self.tp {
            tp::TINY => 8,
            tp::SHORT => 16,
            tp::INT24 => 24,
            tp::LONG => 32,
            _ => 64,
        }
    }

    /// A value of the type, not NULL. `spread`: how many different ones are likely; small makes keys collide.
    #[must_use]
    pub fn random_value(&self, rng: &mut Rng, spread: u64) -> SqlValue {
        let n = rng.below(spread.max(1));
        let edge = rng.percent(6);
        let text = |text: String| SqlValue::Text(text.into_bytes());
        match self.tp {
            _ if self.is_integer() && self.unsigned => {
                let max = u64::MAX >> (64 - self.bits());
                SqlValue::UInt(if edge { max } else { n & max })
            }
            _ if self.is_integer() => {
                let max = i64::MAX >> (64 - self.bits());
                let n = n.cast_signed() & max;
                SqlValue::Int(if edge {
                    -max - 1
                } else if rng.percent(20) {
                    -n
                } else {
                    n
                })
            }
            tp::YEAR => SqlValue::UInt(if edge { 0 } else { 1901 + n % 255 }),
            tp::FLOAT => SqlValue::Double(f64::from(u16::try_from(n & 0x7fff).unwrap_or(0)) / 4.0 + 0.25),
            tp::DOUBLE => SqlValue::Double(f64::from(u32::try_from(n & 0xffff).unwrap_or(0)) / 3.0 + 0.1),
            tp::DECIMAL => text(self.decimal(rng, n, edge)),
            tp::DATE if edge => text("0000-00-00".to_owned()),
            tp::DATETIME | tp::TIMESTAMP if edge => text(self.fraction("0000-00-00 00:00:00".to_owned(), 0)),
            tp::DATE => text(format!("20{:02}-{:02}-{:02}", n / 336 % 38, n / 28 % 12 + 1, n % 28 + 1)),
            tp::DATETIME | tp::TIMESTAMP => {
                text(self.fraction(
                    format!("2023-{:02}-{:02} {:02}:59:{:02}", n / 28 % 12 + 1, n % 28 + 1, n % 24, n % 60),
                    n,
                ))
            }
            tp::DURATION if edge => text(self.fraction("-838:59:59".to_owned(), 0)),
            tp::DURATION => text(self.fraction(format!("{:02}:{:02}:{:02}", n / 60 % 800, n % 60, n % 59 + 1), n)),
            tp::BIT => SqlValue::UInt(if edge { u64::MAX } else { n } & (u64::MAX >> (64 - self.flen.clamp(1, 64)))),
            tp::ENUM => SqlValue::UInt(1 + n % self.elems.len().max(1) as u64),
            tp::SET => {
                SqlValue::UInt(if edge { u64::MAX } else { n } & (u64::MAX >> (64 - self.elems.len().clamp(1, 64))))
            }
            tp::JSON => text(json(n)),
            tp::STRING if self.binary => {
                let mut bytes = n.to_le_bytes().to_vec();
                bytes.resize(usize::try_from(self.flen).unwrap_or(8), 0);
                SqlValue::Bytes(bytes)
            }
            _ if self.binary => {
                SqlValue::Bytes([b"\0\xff'\\".as_slice(), &n.to_le_bytes()[..4]][rng.index(2)].to_vec())
            }
            _ => text(self.words(rng, n, edge)),
        }
    }

    fn decimal(&self, rng: &mut Rng, n: u64, edge: bool) -> String {
        let whole = usize::try_from(self.flen - self.scale).unwrap_or(0);
        let scale = usize::try_from(self.scale).unwrap_or(0);
        let cut = |n: u64, digits: usize| {
            let text = n.to_string();
            text.get(text.len().saturating_sub(digits)..).unwrap_or_default().trim_start_matches('0').to_owned()
        };
        let int = if edge { "9".repeat(whole) } else { cut(n, whole) };
        let frac = if edge { "9".repeat(scale) } else { format!("{:0<scale$}", cut(n, scale)) };
        let zero = int.is_empty() && frac.bytes().all(|b| b == b'0');
        let sign = if rng.percent(25) && !zero { "-" } else { "" };
        let int = if int.is_empty() { "0" } else { int.as_str() };
        if scale == 0 { format!("{sign}{int}") } else { format!("{sign}{int}.{frac}") }
    }

    fn fraction(&self, mut text: String, n: u64) -> String {
        if let Ok(digits) = usize::try_from(self.scale)
            && digits > 0
        {
            let micros = format!("{:06}", n * 1_001 % 1_000_000);
            text.push('.');
            text.push_str(&micros[..digits.min(6)]);
        }
        text
    }

    fn words(&self, rng: &mut Rng, n: u64, edge: bool) -> String {
        const WORDS: [&str; 8] = ["abc", "Abc", "ABC", "éa", "日本", "😀", "a'b", "a\\b"];
        let word = WORDS[rng.index(WORDS.len())];
        let text = if edge { word.to_owned() } else { format!("{word}{n}") };
        match usize::try_from(self.flen) {
            Ok(length) => text.chars().take(length).collect::<String>().trim_end().to_owned(),
            Err(_) => text,
        }
    }

    /// What a column of this type holds after being sent `value`; texts are read as MySQL reads them.
    ///
    /// # Errors
    /// What a strict server says: out of range, too long, not a value of the type.
    pub fn convert(&self, value: &SqlValue) -> Result<SqlValue, String> {
        let bad = || format!("incorrect value {value:?} for {}", self.sql());
        let bytes: Cow<'_, [u8]> = match value {
            SqlValue::Null => return Ok(SqlValue::Null),
            SqlValue::Int(n) => Cow::Owned(n.to_string().into_bytes()),
            SqlValue::UInt(n) => Cow::Owned(n.to_string().into_bytes()),
            SqlValue::Double(n) => Cow::Owned(n.to_string().into_bytes()),
            SqlValue::Text(bytes) | SqlValue::Bytes(bytes) => Cow::Borrowed(bytes),
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad());
        let number = matches!(value, SqlValue::Int(_) | SqlValue::UInt(_));
        let out = |text: String| SqlValue::Text(text.into_bytes());
        Ok(match self.tp {
            _ if self.is_integer() => {
                let n: i128 = text?.trim().parse().map_err(|_| bad())?;
                let bits = self.bits();
                let (low, high) =
                    if self.unsigned { (0, (1 << bits) - 1) } else { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) };
                if !(low..=high).contains(&n) {
                    return Err(bad());
                }
                match (self.unsigned, u64::try_from(n), i64::try_from(n)) {
                    (true, Ok(n), _) => SqlValue::UInt(n),
                    (false, _, Ok(n)) => SqlValue::Int(n),
                    _ => return Err(bad()),
                }
            }
            tp::YEAR => match text?.parse::<u64>().map_err(|_| bad())? {
                n @ (0 | 1901..=2155) => SqlValue::UInt(n),
                _ => return Err(bad()),
            },
            tp::FLOAT | tp::DOUBLE => {
                let n = if let SqlValue::Double(n) = value { *n } else { text?.parse().map_err(|_| bad())? };
                #[expect(clippy::cast_possible_truncation, reason = "a FLOAT column rounds")]
                SqlValue::Double(if self.tp == tp::FLOAT { f64::from(n as f32) } else { n })
            }
            tp::DECIMAL => out(self.scaled(text?).ok_or_else(bad)?),
            tp::DATE => out(civil(&bytes).ok_or_else(bad)?.date_text()),
            tp::DATETIME | tp::TIMESTAMP => out(civil(&bytes).ok_or_else(bad)?.datetime_text(time::fsp(self.scale))),
            tp::DURATION => {
                out(nanos(&bytes).and_then(|n| duration::text(n, time::fsp(self.scale))).ok_or_else(bad)?)
            }
            tp::BIT | tp::ENUM | tp::SET if number => {
                let n: u64 = text?.parse().map_err(|_| bad())?;
                let limit = match self.tp {
                    tp::BIT => u64::MAX >> (64 - self.flen.clamp(1, 64)),
                    tp::ENUM => self.elems.len() as u64,
                    _ => u64::MAX >> (64 - self.elems.len().clamp(1, 64)),
                };
                if n > limit || (self.tp == tp::ENUM && n == 0) {
                    return Err(bad());
                }
                SqlValue::UInt(n)
            }
            tp::ENUM => {
                let text = text?;
                let at = self.elems.iter().position(|e| e == text).ok_or_else(bad)?;
                SqlValue::UInt(at as u64 + 1)
            }
            tp::SET if bytes.is_empty() => SqlValue::UInt(0),
            tp::SET => {
                let bit = |name: &str| self.elems.iter().position(|e| e == name).map(|at| 1_u64 << at);
                SqlValue::UInt(text?.split(',').map(bit).try_fold(0, |all, bit| Some(all | bit?)).ok_or_else(bad)?)
            }
            tp::JSON => {
                let value: serde_json::Value = serde_json::from_str(text?).map_err(|_| bad())?;
                out(value.to_string())
            }
            tp::STRING if self.binary => {
                let mut bytes = bytes.into_owned();
                let length = usize::try_from(self.flen).map_err(|_| bad())?;
                if bytes.len() > length {
                    return Err(bad());
                }
                bytes.resize(length, 0);
                SqlValue::Bytes(bytes)
            }
            _ if self.binary => SqlValue::Bytes(bytes.into_owned()),
            _ if self.is_string() => {
                let text = text?;
                if usize::try_from(self.flen).is_ok_and(|most| text.chars().count() > most) {
                    return Err(bad());
                }
                out(if self.tp == tp::STRING { text.trim_end_matches(' ').to_owned() } else { text.to_owned() })
            }
            _ => return Err(bad()),
        })
    }

    /// With exactly the column's scale; `None` when it does not fit.
    fn scaled(&self, text: &str) -> Option<String> {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
        let (int, frac) = digits.split_once('.').unwrap_or((digits, ""));
        let scale = usize::try_from(self.scale).ok()?;
        let whole = usize::try_from(self.flen - self.scale).ok()?;
        let int = int.trim_start_matches('0');
        if frac.len() > scale || int.len() > whole || !int.bytes().chain(frac.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let int = if int.is_empty() { "0" } else { int };
        Some(if scale == 0 { format!("{sign}{int}") } else { format!("{sign}{int}.{frac:0<scale$}") })
    }

    /// Equal values have equal keys: the collation's sort key of a text cut at `prefix` characters. `None` for NULL, which
    /// equals nothing.
    #[must_use]
    pub fn key(&self, value: &SqlValue, prefix: i64) -> Option<Vec<u8>> {
        let prefix = usize::try_from(prefix).unwrap_or(usize::MAX);
        match value {
            SqlValue::Null => None,
            SqlValue::Text(text) if self.is_text() => {
                let text = String::from_utf8_lossy(text);
                Some(sort_key(self.ci, text.chars().take(prefix)))
            }
            SqlValue::Bytes(bytes) => Some(bytes.iter().take(prefix).copied().collect()),
            // JSON is no key, everything else has one form.
            other => Some(format!("{other:?}").into_bytes()),
        }
    }

    /// The same value, exactly: JSON by content.
    #[must_use]
    pub fn same(&self, a: &SqlValue, b: &SqlValue) -> bool {
        match (a, b) {
            (SqlValue::Text(a), SqlValue::Text(b)) if self.tp == tp::JSON => {
                let parse = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).ok();
                parse(a) == parse(b)
            }
            _ => a == b,
        }
    }
}

/// Both collations pad with spaces; general_ci also folds case.
fn sort_key(ci: bool, text: impl Iterator<Item = char>) -> Vec<u8> {
    let mut key: String = if ci {
        text.map(|c| {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(one), None) => one,
                _ => c,
            }
        })
        .collect()
    } else {
        text.collect()
    };
    key.truncate(key.trim_end_matches(' ').len());
    key.into_bytes()
}

/// For the handles of clustered tables under the new collation framework.
#[must_use]
pub fn field_sort_key(field: &FieldType, text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    sort_key(field.collate.ends_with("_ci"), text.chars())
}

fn json(n: u64) -> String {
    match n % 7 {
        0 => format!("{{\"a\": {n}, \"b\": [1.5, null, true]}}"),
        1 => format!("[{n}, \"x\", {{}}]"),
        2 => format!("\"it's \\\"{n}\\\" \\n 日本\""),
        3 => format!("{n}.25"),
        4 => "null".to_owned(),
        5 => format!("-{}", n + 1),
        _ => "{\"\": {\"k\": [[], {\"z\": 18446744073709551615}]}}".to_owned(),
    }
}

/// A text in quotes, as TiDB's normalised DDL writes it.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::lexer;
    use crate::rng::Rng;
    use binlog_core::codec::encode_value::{Form, put};
    use binlog_core::codec::reader::Reader;
    use binlog_core::codec::{datum, value};
    use binlog_core::schema::model::ColumnInfo;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn types_and_values_survive_sql_codec_and_server(seed: u64) {
            let mut rng = Rng::new(seed);
            let ty = ColType::random(&mut rng);
            let tokens = lexer::tokens(&ty.sql()).unwrap();
            let (back, taken) = ColType::parse(&tokens).unwrap();
            prop_assert_eq!(taken, tokens.len());
            prop_assert_eq!(back.sql(), ty.sql());
            let drawn = ty.random_value(&mut rng, 1 << (seed % 40));
            let column = ColumnInfo { field_type: ty.field_type(0), ..ColumnInfo::default() };
            let mut bytes = Vec::new();
            put(&mut bytes, &drawn, &column.field_type, Form::Row).unwrap();
            let decoded = value::to_sql(&datum::decode(&mut Reader::new(&bytes)).unwrap(), &column).unwrap();
            prop_assert!(ty.same(&decoded, &drawn), "{decoded:?} {drawn:?}");
            let stored = ty.convert(&decoded).unwrap();
            prop_assert!(ty.same(&stored, &drawn), "{} {stored:?} {drawn:?}", ty.sql());
            prop_assert_eq!(ty.key(&stored, -1).is_some(), true);
        }
    }

    #[test]
    fn keys_follow_the_collation() {
        let mut ty = ColType { flen: 20, ci: true, ..ColType::plain(tp::VARCHAR) };
        let key = |ty: &ColType, text: &str, prefix| ty.key(&SqlValue::Text(text.as_bytes().to_vec()), prefix);
        assert_eq!(key(&ty, "abc ", -1), key(&ty, "ABC", -1));
        assert_eq!(key(&ty, "日本x", 2), key(&ty, "日本y", 2));
        ty.ci = false;
        assert_eq!(key(&ty, "abc ", -1), key(&ty, "abc", -1));
        assert_ne!(key(&ty, "abc", -1), key(&ty, "ABC", -1));
        assert_eq!(ty.key(&SqlValue::Null, -1), None);
    }

    #[test]
    fn a_strict_server_refuses() {
        let refused = |ty: &ColType, value| ty.convert(&value).is_err();
        assert!(refused(&ColType::plain(tp::TINY), SqlValue::Int(128)));
        assert!(refused(&ColType { unsigned: true, ..ColType::plain(tp::LONG) }, SqlValue::Int(-1)));
        assert!(refused(&ColType { flen: 2, ..ColType::plain(tp::VARCHAR) }, SqlValue::Text("abc".into())));
        assert!(refused(&ColType { flen: 3, scale: 1, ..ColType::plain(tp::DECIMAL) }, SqlValue::Text("100.0".into())));
        assert!(refused(&ColType::plain(tp::JSON), SqlValue::Text("{".into())));
        assert!(refused(&ColType { elems: vec!["a".into()], ..ColType::plain(tp::ENUM) }, SqlValue::UInt(2)));
    }
}
