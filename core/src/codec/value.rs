//! From a datum and its column to the parameter of a SQL statement (spec codec 4.2, drainer 4.1).
//!
//! TIMESTAMP stays UTC (sessions run in UTC). Where the original writes something else than what is stored — an enum index or
//! set bits that the definition lacks become empty there — this is an error: the caller pauses instead of changing data.

use super::CodecError;
use super::datum::Datum;
use super::duration;
use super::json_text::{self, Style};
use super::time::{Civil, fsp};
use crate::schema::model::{ColumnInfo, FieldType};
use crate::sink::value::SqlValue;

/// Offsets in errors are 0: the position is the column, which the text names.
pub fn to_sql(datum: &Datum, column: &ColumnInfo) -> Result<SqlValue, CodecError> {
    to_sql_in(datum, column, Style::Later)
}

/// The same with the text of JSON in `style`: a downstream that keeps JSON as text shows it as it is sent.
pub fn to_sql_in(datum: &Datum, column: &ColumnInfo, style: Style) -> Result<SqlValue, CodecError> {
    convert(datum, &column.field_type, style).map_err(|expected| {
        let (id, tp) = (column.id, column.field_type.tp);
        let found = datum.kind();
        CodecError::new(
            0,
            format!("{expected} in column {:?} (id {id}, type {tp}), found {found}", column.name.original),
        )
    })
}

fn convert(datum: &Datum, field: &FieldType, style: Style) -> Result<SqlValue, &'static str> {
    Ok(match (field.tp, datum) {
        (_, Datum::Null) => SqlValue::Null,
        (tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR, datum) => integer(datum, field)?,
        (tp::FLOAT | tp::DOUBLE, Datum::Float(n)) if !n.is_finite() => return Err("a finite number"),
        (tp::FLOAT, Datum::Float(n)) => SqlValue::Double(single(*n)),
        (tp::DOUBLE, Datum::Float(n)) => SqlValue::Double(*n),
        (tp::DECIMAL, Datum::Decimal(decimal)) => text(decimal.to_string()),
        (tp::DATE | tp::NEWDATE, Datum::UInt(packed)) => text(Civil::from_packed(*packed).check()?.date_text()),
        (tp::DATETIME | tp::TIMESTAMP, Datum::UInt(packed)) => {
            text(Civil::from_packed(*packed).check()?.datetime_text(fsp(field.decimal)))
        }
        (tp::DURATION, Datum::Int(nanos) | Datum::Duration(nanos)) => {
            text(duration::text(*nanos, fsp(field.decimal)).ok_or("a time within 838:59:59")?)
        }
        (tp::ENUM, Datum::UInt(index)) => match usize::try_from(*index) {
            Ok(index) if index <= field.elems.len() => SqlValue::UInt(u64::try_from(index).unwrap_or(u64::MAX)),
            _ => return Err("the index of an element of the enum"),
        },
        (tp::SET, Datum::UInt(mask)) if set_bits(field) & mask == *mask => SqlValue::UInt(*mask),
        (tp::SET, Datum::UInt(_)) => return Err("bits of elements of the set"),
        (tp::BIT, Datum::UInt(bits)) => SqlValue::UInt(*bits),
        (tp::JSON, Datum::Json(json)) => {
            text(json_text::text(json, style).map_err(|_| "a JSON document that decodes")?)
        }
        (tp, Datum::Bytes(bytes)) if is_string(tp) && field.is_binary() => SqlValue::Bytes(bytes.to_vec()),
        (tp, Datum::Bytes(bytes)) if is_string(tp) => SqlValue::Text(bytes.to_vec()),
        (tp::FLOAT | tp::DOUBLE, _) => return Err("a float"),
        (tp::DECIMAL, _) => return Err("a decimal"),
        (tp::DATE | tp::NEWDATE | tp::DATETIME | tp::TIMESTAMP, _) => return Err("a packed time"),
        (tp::DURATION, _) => return Err("a duration"),
        (tp::ENUM | tp::SET | tp::BIT, _) => return Err("an unsigned integer"),
        (tp::JSON, _) => return Err("a JSON document"),
        (tp, _) if is_string(tp) => return Err("bytes"),
        _ => return Err("a column type that rows can hold"),
    })
}

/// By the column's sign, not the datum's: handles are always signed, and a column may have changed its sign.
fn integer(datum: &Datum, field: &FieldType) -> Result<SqlValue, &'static str> {
    Ok(match (datum, field.is_unsigned()) {
        (Datum::Int(n), false) => SqlValue::Int(*n),
        (Datum::Int(n), true) => SqlValue::UInt(n.cast_unsigned()),
        (Datum::UInt(n), true) => SqlValue::UInt(*n),
        (Datum::UInt(n), false) => SqlValue::Int(n.cast_signed()),
        _ => return Err("an integer"),
    })
}

/// FLOAT is compared and sent as the widened single-precision value. One that does not fit is left as it is.
#[expect(clippy::cast_possible_truncation, reason = "rounding to single precision is what is wanted")]
fn single(value: f64) -> f64 {
    let narrow = value as f32;
    if narrow.is_finite() { f64::from(narrow) } else { value }
}

/// Bits that elements of the set have.
fn set_bits(field: &FieldType) -> u64 {
    let members = u32::try_from(field.elems.len()).unwrap_or(u32::MAX);
    1_u64.checked_shl(members).map_or(u64::MAX, |bit| bit - 1)
}

/// Name of an enum's element; empty for 0 and for what the definition lacks.
#[must_use]
pub fn enum_name(index: u64, elems: &[String]) -> &str {
    let at = usize::try_from(index).ok().and_then(|i| i.checked_sub(1));
    at.and_then(|i| elems.get(i)).map_or("", String::as_str)
}

/// Names of a set's elements joined by commas; `None` when a bit has no element.
#[must_use]
pub fn set_name(mask: u64, elems: &[String]) -> Option<String> {
    let bit = |i: usize| u32::try_from(i).ok().and_then(|i| 1_u64.checked_shl(i)).unwrap_or(0);
    let all = (0..elems.len()).fold(0, |all, i| all | bit(i));
    let named: Vec<&str> =
        elems.iter().enumerate().filter(|(i, _)| mask & bit(*i) != 0).map(|(_, name)| name.as_str()).collect();
    (mask & !all == 0).then(|| named.join(","))
}

/// BIT(n) as ceil(n/8) big-endian bytes, one to eight of them whatever the definition says.
#[must_use]
pub fn bit_bytes(value: u64, width: i64) -> Vec<u8> {
    let bytes = usize::try_from(width).unwrap_or(0).div_ceil(8).clamp(1, 8);
    value.to_be_bytes().into_iter().skip(8 - bytes).collect()
}

fn text(text: String) -> SqlValue {
    SqlValue::Text(text.into_bytes())
}

pub(super) const fn is_string(tp: u8) -> bool {
    matches!(tp, tp::VARCHAR | tp::VAR_STRING | tp::STRING | tp::TINY_BLOB | tp::BLOB | tp::MEDIUM_BLOB | tp::LONG_BLOB)
}

/// Type codes (spec codec 4.1).
pub mod tp {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const DURATION: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const JSON: u8 = 245;
    pub const DECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(tp: u8, flag: u32) -> ColumnInfo {
        let elems = vec!["a".to_owned(), "b".to_owned()];
        let field_type = FieldType { tp, flag, elems, decimal: -1, ..FieldType::default() };
        ColumnInfo { id: 3, field_type, ..ColumnInfo::default() }
    }

    #[test]
    fn sign_is_the_columns() {
        let unsigned = FieldType::UNSIGNED;
        let table = [
            (Datum::Int(-1), 0, SqlValue::Int(-1)),
            (Datum::Int(-1), unsigned, SqlValue::UInt(u64::MAX)),
            (Datum::UInt(u64::MAX), unsigned, SqlValue::UInt(u64::MAX)),
            (Datum::UInt(u64::MAX), 0, SqlValue::Int(-1)),
        ];
        for (datum, flag, expected) in table {
            assert_eq!(to_sql(&datum, &column(tp::LONGLONG, flag)).unwrap(), expected);
        }
        assert_eq!(to_sql(&Datum::Int(2019), &column(tp::YEAR, unsigned)).unwrap(), SqlValue::UInt(2019));
    }

    #[test]
    fn floats() {
        let of = |tp, value| to_sql(&Datum::Float(value), &column(tp, 0)).map_err(|e| e.to_string());
        assert_eq!(of(tp::FLOAT, 0.1), Ok(SqlValue::Double(0.100_000_001_490_116_12)));
        assert_eq!(of(tp::DOUBLE, 0.1), Ok(SqlValue::Double(0.1)));
        assert_eq!(of(tp::FLOAT, 1e300), Ok(SqlValue::Double(1e300)));
        assert!(of(tp::DOUBLE, f64::NAN).unwrap_err().contains("a finite number in column"));
    }

    #[test]
    fn what_the_definition_lacks_is_an_error() {
        let of = |tp, value| to_sql(&Datum::UInt(value), &column(tp, 0)).ok();
        assert_eq!(of(tp::ENUM, 0), Some(SqlValue::UInt(0)));
        assert_eq!(of(tp::ENUM, 2), Some(SqlValue::UInt(2)));
        assert_eq!(of(tp::ENUM, 3), None);
        assert_eq!(of(tp::SET, 3), Some(SqlValue::UInt(3)));
        assert_eq!(of(tp::SET, 4), None);
        assert_eq!(of(tp::DATETIME, u64::MAX), None);
        let wide = FieldType { elems: vec![String::new(); 64], ..FieldType::default() };
        assert_eq!(set_bits(&wide), u64::MAX);
    }

    #[test]
    fn errors_name_the_column_and_not_the_value() {
        let mut column = column(tp::DECIMAL, 0);
        column.name = crate::schema::model::CiStr::new("Price");
        let error = to_sql(&Datum::Bytes(b"secret".as_slice().into()), &column).unwrap_err();
        assert_eq!(error.expected, "a decimal in column \"Price\" (id 3, type 246), found bytes");
    }

    #[test]
    fn null_is_null_and_charset_decides_bytes() {
        for tp in 0..=u8::MAX {
            assert_eq!(to_sql(&Datum::Null, &column(tp, 0)).unwrap(), SqlValue::Null);
        }
        let datum = Datum::Bytes([0xff].as_slice().into());
        let mut blob = column(tp::BLOB, 0);
        assert_eq!(to_sql(&datum, &blob).unwrap(), SqlValue::Text(vec![0xff]));
        blob.field_type.charset = "BINARY".to_owned();
        assert_eq!(to_sql(&datum, &blob).unwrap(), SqlValue::Bytes(vec![0xff]));
    }
}
