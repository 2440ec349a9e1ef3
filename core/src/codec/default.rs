//! The value of a column that a row lacks (spec codec 2.5). Whether a row may lack it is the caller's decision.

use super::CodecError;
use super::value::{is_string, tp};
use crate::schema::model::{ColumnInfo, FieldType};
use crate::sink::value::SqlValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

/// `column` is the current definition: nullability, type and zero value come from it. `origin` is the definition that the
/// origin default is taken from (the older one that still covers the transaction's schema version, else the current).
pub fn missing(column: &ColumnInfo, origin: &ColumnInfo) -> Result<SqlValue, CodecError> {
    let field = &column.field_type;
    let value = match origin_default(field, origin) {
        Some(value) => value,
        None if field.is_nullable() => Ok(SqlValue::Null),
        None => zero(field),
    };
    value.map_err(|expected| {
        CodecError::new(0, format!("{expected} for column {:?} (id {})", column.name.original, column.id))
    })
}

/// `None` when there is none.
fn origin_default(field: &FieldType, origin: &ColumnInfo) -> Option<Result<SqlValue, &'static str>> {
    if field.tp == tp::BIT
        && let Some(text) = &origin.origin_default_bit
    {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| "base64 as the default of a bit column");
        return Some(bytes.and_then(|bytes| bits(&bytes)));
    }
    Some(match &origin.origin_default {
        Value::Null => return None,
        Value::Bool(value) => Ok(SqlValue::Int(i64::from(*value))),
        Value::Number(number) => Ok(from_number(field, number)),
        Value::String(text) => from_text(field, text),
        Value::Array(_) | Value::Object(_) => Err("a scalar as origin default"),
    })
}

fn from_number(field: &FieldType, number: &serde_json::Number) -> SqlValue {
    if is_string(field.tp) || field.tp == tp::DECIMAL {
        return as_text(field, number.to_string());
    }
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (_, Some(n), _) if wants_unsigned(field) => SqlValue::UInt(n),
        (Some(n), ..) => SqlValue::Int(n),
        (None, Some(n), _) => SqlValue::UInt(n),
        (None, None, Some(n)) => SqlValue::Double(n),
        (None, None, None) => as_text(field, number.to_string()),
    }
}

/// Numbers become numbers where they are written as such; all else is passed on for the downstream to read.
fn from_text(field: &FieldType, text: &str) -> Result<SqlValue, &'static str> {
    let passed_on = || as_text(field, text.to_owned());
    Ok(match field.tp {
        tp::ENUM => SqlValue::UInt(element(text, &field.elems)?),
        tp::SET => SqlValue::UInt(mask(text, &field.elems)?),
        tp::BIT if text.contains('\u{fffd}') => return Err("a bit default that the schema's JSON did not destroy"),
        tp::BIT => return bits(text.as_bytes()),
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR if field.is_unsigned() => {
            text.parse().map_or_else(|_| passed_on(), SqlValue::UInt)
        }
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR => {
            text.parse().map_or_else(|_| passed_on(), SqlValue::Int)
        }
        tp::FLOAT | tp::DOUBLE => match text.parse::<f64>() {
            Ok(n) if n.is_finite() => SqlValue::Double(n),
            _ => passed_on(),
        },
        _ => passed_on(),
    })
}

fn zero(field: &FieldType) -> Result<SqlValue, &'static str> {
    let text = |text: &str| as_text(field, text.to_owned());
    Ok(match field.tp {
        tp::ENUM => SqlValue::UInt(1),
        tp::SET | tp::BIT => SqlValue::UInt(0),
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR if field.is_unsigned() => {
            SqlValue::UInt(0)
        }
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR => SqlValue::Int(0),
        tp::FLOAT | tp::DOUBLE => SqlValue::Double(0.0),
        tp::DECIMAL => text("0"),
        tp::DATE | tp::NEWDATE => text("0000-00-00"),
        tp::DATETIME | tp::TIMESTAMP => text("0000-00-00 00:00:00"),
        tp::DURATION => text("00:00:00"),
        tp::JSON => text("null"),
        tp::STRING if field.is_binary() => {
            let length = usize::try_from(field.flen).ok().filter(|n| *n <= MAX_BINARY);
            SqlValue::Bytes(vec![0; length.ok_or("a length of at most 255 bytes")?])
        }
        tp if is_string(tp) => text(""),
        _ => return Err("a column type that rows can hold"),
    })
}

/// Bytes for binary strings, text for everything else.
fn as_text(field: &FieldType, text: String) -> SqlValue {
    let text = text.into_bytes();
    if is_string(field.tp) && field.is_binary() { SqlValue::Bytes(text) } else { SqlValue::Text(text) }
}

fn wants_unsigned(field: &FieldType) -> bool {
    field.is_unsigned() || matches!(field.tp, tp::ENUM | tp::SET | tp::BIT)
}

/// Big endian, at most eight bytes.
fn bits(bytes: &[u8]) -> Result<SqlValue, &'static str> {
    if bytes.len() > 8 {
        return Err("a bit default of at most 64 bits");
    }
    Ok(SqlValue::UInt(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
}

/// 1-based index of an enum's element; a text that is no element but a number is that number.
fn element(text: &str, elems: &[String]) -> Result<u64, &'static str> {
    match elems.iter().position(|e| e.to_lowercase() == text.to_lowercase()) {
        Some(at) => u64::try_from(at + 1).map_err(|_| "a small enum"),
        None => text.parse().map_err(|_| "an element of the enum as default"),
    }
}

/// Elements joined by commas, or a number.
fn mask(text: &str, elems: &[String]) -> Result<u64, &'static str> {
    if text.is_empty() {
        return Ok(0);
    }
    let bit = |name: &str| {
        let at = elems.iter().position(|e| e.to_lowercase() == name.to_lowercase())?;
        1_u64.checked_shl(u32::try_from(at).ok()?)
    };
    let all: Option<u64> = text.split(',').map(bit).try_fold(0, |mask, bit| Some(mask | bit?));
    match all {
        Some(mask) => Ok(mask),
        None => text.parse().map_err(|_| "elements of the set as default"),
    }
}

/// Longest BINARY(n).
const MAX_BINARY: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn column(tp: u8, flag: u32, default: Value) -> ColumnInfo {
        let elems = vec!["a".to_owned(), "É".to_owned(), "7".to_owned()];
        let field_type = FieldType { tp, flag, elems, flen: -1, ..FieldType::default() };
        ColumnInfo { origin_default: default, field_type, ..ColumnInfo::default() }
    }

    fn text(text: &str) -> SqlValue {
        SqlValue::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn table() {
        let unsigned = FieldType::UNSIGNED;
        let table: &[(u8, u32, Value, Option<SqlValue>)] = &[
            (tp::LONG, 0, "-5".into(), Some(SqlValue::Int(-5))),
            (tp::LONGLONG, unsigned, "18446744073709551615".into(), Some(SqlValue::UInt(u64::MAX))),
            (tp::LONGLONG, unsigned, 5.into(), Some(SqlValue::UInt(5))),
            (tp::LONGLONG, 0, (-5).into(), Some(SqlValue::Int(-5))),
            (tp::LONG, 0, "0x10".into(), Some(text("0x10"))),
            (tp::DOUBLE, 0, "1e3".into(), Some(SqlValue::Double(1000.0))),
            (tp::DOUBLE, 0, "inf".into(), Some(text("inf"))),
            (tp::DECIMAL, 0, "1.50".into(), Some(text("1.50"))),
            (tp::DECIMAL, 0, 5.into(), Some(text("5"))),
            (tp::VARCHAR, 0, 5.into(), Some(text("5"))),
            (tp::TINY, 0, true.into(), Some(SqlValue::Int(1))),
            (tp::ENUM, 0, "é".into(), Some(SqlValue::UInt(2))),
            (tp::ENUM, 0, "7".into(), Some(SqlValue::UInt(3))),
            (tp::ENUM, 0, "2".into(), Some(SqlValue::UInt(2))),
            (tp::ENUM, 0, "zzz".into(), None),
            (tp::SET, 0, "7,A".into(), Some(SqlValue::UInt(5))),
            (tp::SET, 0, "".into(), Some(SqlValue::UInt(0))),
            (tp::SET, 0, "6".into(), Some(SqlValue::UInt(6))),
            (tp::SET, 0, "a,zzz".into(), None),
            (tp::BIT, 0, "\u{1}\u{2}".into(), Some(SqlValue::UInt(258))),
            (tp::BIT, 0, 5.into(), Some(SqlValue::UInt(5))),
            (tp::BIT, 0, "\u{fffd}".into(), None),
            (tp::BIT, 0, "123456789".into(), None),
            (tp::LONG, 0, Value::Null, Some(SqlValue::Null)),
            (tp::LONG, 1, Value::Array(vec![]), None),
            (tp::SET, 1, Value::Null, Some(SqlValue::UInt(0))),
            (tp::JSON, 1, Value::Null, Some(text("null"))),
            (tp::TIMESTAMP, 1, Value::Null, Some(text("0000-00-00 00:00:00"))),
            (tp::YEAR, 1, Value::Null, Some(SqlValue::Int(0))),
            (255, 1, Value::Null, None),
        ];
        for (tp, flag, default, expected) in table {
            let column = column(*tp, *flag, default.clone());
            assert_eq!(missing(&column, &column).ok().as_ref(), expected.as_ref(), "type {tp} {default}");
        }
    }

    #[test]
    fn the_default_is_the_origins_and_the_rest_the_columns() {
        let current = column(tp::LONG, FieldType::NOT_NULL, Value::Null);
        let older = column(tp::LONG, 0, "9".into());
        assert_eq!(missing(&current, &older).unwrap(), SqlValue::Int(9));
        assert_eq!(missing(&current, &current).unwrap(), SqlValue::Int(0));
        assert_eq!(missing(&older, &current).unwrap(), SqlValue::Null);
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        let mut binary = column(tp::STRING, FieldType::NOT_NULL, Value::Null);
        binary.field_type.charset = "binary".to_owned();
        binary.field_type.flen = i64::MAX;
        assert!(missing(&binary, &binary).is_err());
        binary.field_type.flen = 3;
        assert_eq!(missing(&binary, &binary).unwrap(), SqlValue::Bytes(vec![0; 3]));
    }
}
