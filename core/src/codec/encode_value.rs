//! From the parameter of a SQL statement and its column to a datum (spec codec 4.3): the inverse of [`super::value`]. For
//! simulators and tests, which play TiDB.

use super::datum::{Datum, encode_key, encode_value, flag};
use super::decimal::{natural, put_body};
use super::encode_json;
use super::time::{Civil, fsp};
use super::value::{is_string, tp};
use super::{CodecError, decimal};
use crate::schema::model::FieldType;
use crate::sink::value::SqlValue;

/// Where a datum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In a row.
    Row,
    /// In the prefix of an inserted row of a clustered table: value form, but TIME keeps its own flag.
    Handle,
    /// In a key.
    Key,
}

/// Appends the datum of a value in a column. The value must be what the column can hold; texts in the form that
/// [`super::value::to_sql`] gives.
pub fn put(out: &mut Vec<u8>, value: &SqlValue, field: &FieldType, form: Form) -> Result<(), CodecError> {
    let write = |out: &mut Vec<u8>, datum: &Datum| {
        if form == Form::Key { encode_key(out, datum) } else { encode_value(out, datum) }
    };
    let datum = match (field.tp, value) {
        (_, SqlValue::Null) => Datum::Null,
        (tp::YEAR, value) => Datum::Int(integer(value)?.0),
        (tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG, value) => {
            let (signed, unsigned) = integer(value)?;
            if field.is_unsigned() { Datum::UInt(unsigned) } else { Datum::Int(signed) }
        }
        (tp::FLOAT | tp::DOUBLE, SqlValue::Double(n)) if n.is_finite() => Datum::Float(*n),
        (tp::ENUM | tp::SET | tp::BIT, SqlValue::UInt(n)) => Datum::UInt(*n),
        (tp::DECIMAL, SqlValue::Text(text)) => return put_decimal(out, text, field),
        (tp::DATE | tp::NEWDATE | tp::DATETIME | tp::TIMESTAMP, SqlValue::Text(text)) => {
            Datum::UInt(civil(text).ok_or_else(|| expected("a date or a time"))?.to_packed())
        }
        (tp::DURATION, SqlValue::Text(text)) => {
            let nanos = nanos(text).ok_or_else(|| expected("a duration"))?;
            if form == Form::Row { Datum::Int(nanos) } else { Datum::Duration(nanos) }
        }
        (tp::JSON, SqlValue::Text(text)) => {
            let doc = encode_json::from_text(text)?;
            out.push(flag::JSON);
            out.extend(doc);
            return Ok(());
        }
        (tp, SqlValue::Text(bytes) | SqlValue::Bytes(bytes)) if is_string(tp) => Datum::Bytes(bytes.as_slice().into()),
        _ => return Err(expected("a value of the column's type")),
    };
    write(out, &datum);
    Ok(())
}

/// As signed and as unsigned, the same bits.
fn integer(value: &SqlValue) -> Result<(i64, u64), CodecError> {
    match value {
        SqlValue::Int(n) => Ok((*n, n.cast_unsigned())),
        SqlValue::UInt(n) => Ok((n.cast_signed(), *n)),
        _ => Err(expected("an integer")),
    }
}

/// With the column's precision and scale; natural ones where the column has none. A value that does not fit is an error, never
/// cut.
fn put_decimal(out: &mut Vec<u8>, text: &[u8], field: &FieldType) -> Result<(), CodecError> {
    let text = std::str::from_utf8(text).map_err(|_| expected("decimal digits"))?;
    let (int, scale) = natural(text);
    let of_column = u8::try_from(field.flen).ok().zip(u8::try_from(field.decimal).ok());
    let (precision, frac) = of_column.filter(|(p, f)| decimal::body_size(*p, *f).is_some()).unwrap_or((int, scale));
    let whole = int.saturating_sub(scale);
    if scale > frac || whole > precision.saturating_sub(frac) {
        return Err(expected("digits that fit the column"));
    }
    out.extend([flag::DECIMAL, precision, frac]);
    put_body(out, text, precision, frac)
}

/// `YYYY-MM-DD[ hh:mm:ss[.f…]]`.
#[must_use]
pub fn civil(text: &[u8]) -> Option<Civil> {
    let text = std::str::from_utf8(text).ok()?;
    let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00"));
    let mut ymd = date.splitn(3, '-').map(str::parse);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut hms = time.splitn(3, ':').map(str::parse);
    let next = |parts: &mut dyn Iterator<Item = Result<u32, _>>| parts.next()?.ok();
    let civil = Civil {
        year: next(&mut ymd)?,
        month: next(&mut ymd)?,
        day: next(&mut ymd)?,
        hour: next(&mut hms)?,
        minute: next(&mut hms)?,
        second: next(&mut hms)?,
        micro: micros(fraction)?,
    };
    civil.check().ok()
}

/// `[-]h…:mm:ss[.f…]` as nanoseconds.
#[must_use]
pub fn nanos(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (time, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut hms = time.splitn(3, ':').map(|n| n.parse::<u32>().ok().map(i64::from));
    let (hours, minutes, seconds) = (hms.next()??, hms.next()??, hms.next()??);
    let whole = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?;
    Some(sign * (whole * 1_000_000 + i64::from(micros(fraction)?)) * 1_000)
}

/// Up to six digits of a fraction.
fn micros(digits: &str) -> Option<u32> {
    if digits.len() > fsp(6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<6}").parse().ok()
}

fn expected(what: &'static str) -> CodecError {
    CodecError::new(0, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::datum::decode;
    use crate::codec::reader::Reader;
    use crate::codec::value::to_sql;
    use crate::schema::model::ColumnInfo;
    use proptest::prelude::*;

    fn text(text: String) -> SqlValue {
        SqlValue::Text(text.into_bytes())
    }

    fn field(tp: u8, flag: u32, flen: i64, decimal: i64) -> FieldType {
        let charset = if matches!(tp, tp::VARCHAR | tp::STRING) { "utf8mb4" } else { "binary" }.to_owned();
        let elems = (0..64).map(|i| format!("e{i}")).collect();
        FieldType { tp, flag, flen, decimal, charset, elems, ..FieldType::default() }
    }

    fn fraction(digits: i64, micro: u32) -> String {
        let digits = usize::try_from(digits).unwrap();
        if digits == 0 { String::new() } else { format!(".{}", &format!("{micro:06}")[..digits]) }
    }

    fn cases() -> impl Strategy<Value = (FieldType, SqlValue)> {
        let integers = [tp::TINY, tp::SHORT, tp::INT24, tp::LONG, tp::LONGLONG];
        prop_oneof![
            (proptest::sample::select(integers.to_vec()), any::<i64>())
                .prop_map(|(tp, n)| (field(tp, 0, -1, -1), SqlValue::Int(n))),
            (proptest::sample::select(integers.to_vec()), any::<u64>())
                .prop_map(|(tp, n)| (field(tp, FieldType::UNSIGNED, -1, -1), SqlValue::UInt(n))),
            (1901_u64..2156).prop_map(|n| (field(tp::YEAR, FieldType::UNSIGNED, 4, -1), SqlValue::UInt(n))),
            any::<f32>()
                .prop_filter("a value", |n| n.is_finite() && *n != 0.0)
                .prop_map(|n| (field(tp::FLOAT, 0, -1, -1), SqlValue::Double(f64::from(n)))),
            any::<f64>()
                .prop_filter("a value", |n| n.is_finite() && *n != 0.0)
                .prop_map(|n| (field(tp::DOUBLE, 0, -1, -1), SqlValue::Double(n))),
            (1_i64..=65, 0_i64..=30, any::<bool>(), any::<u128>()).prop_map(|(precision, scale, negative, digits)| {
                let scale = scale.min(precision);
                let digits: String =
                    format!("{digits:065}").chars().rev().take(usize::try_from(precision).unwrap()).collect();
                let (int, frac) = digits.split_at(digits.len() - usize::try_from(scale).unwrap());
                let zero = digits.bytes().all(|b| b == b'0');
                let int = int.trim_start_matches('0');
                let int = if int.is_empty() { "0" } else { int };
                let sign = if negative && !zero { "-" } else { "" };
                let point = if scale == 0 { "" } else { "." };
                (field(tp::DECIMAL, 0, precision, scale), text(format!("{sign}{int}{point}{frac}")))
            }),
            (0_u32..10_000, 0_u32..13, 0_u32..32)
                .prop_map(|(y, m, d)| (field(tp::DATE, 0, 10, 0), text(format!("{y:04}-{m:02}-{d:02}")))),
            (
                proptest::sample::select(vec![tp::DATETIME, tp::TIMESTAMP]),
                0_u32..10_000,
                0_u32..24,
                0_u32..60,
                0_i64..=6,
                0_u32..1_000_000
            )
                .prop_map(|(tp, year, h, s, fsp, micro)| {
                    (
                        field(tp, 0, -1, fsp),
                        text(format!("{year:04}-02-29 {h:02}:{s:02}:{s:02}{}", fraction(fsp, micro))),
                    )
                }),
            (any::<bool>(), 0_u32..839, 0_u32..60, 0_i64..=6, 0_u32..1_000_000).prop_map(
                |(negative, h, m, fsp, micro)| {
                    let body = format!("{h:02}:{m:02}:{m:02}{}", fraction(fsp, micro));
                    let sign = if negative && body.bytes().any(|b| b.is_ascii_digit() && b != b'0') { "-" } else { "" };
                    (field(tp::DURATION, 0, -1, fsp), text(format!("{sign}{body}")))
                }
            ),
            (0_u64..=64).prop_map(|n| (field(tp::ENUM, 0, -1, -1), SqlValue::UInt(n))),
            any::<u64>().prop_map(|n| (field(tp::SET, 0, -1, -1), SqlValue::UInt(n))),
            any::<u64>().prop_map(|n| (field(tp::BIT, 0, 64, -1), SqlValue::UInt(n))),
            ".{0,40}".prop_map(|s| (field(tp::VARCHAR, 0, 40, -1), text(s))),
            any::<Vec<u8>>().prop_map(|b| (field(tp::BLOB, 0, -1, -1), SqlValue::Bytes(b))),
            any::<i64>().prop_map(|n| (field(tp::JSON, 0, -1, -1), text(format!("{{\"a\": [{n}, \"x\", 1.5]}}")))),
        ]
    }

    proptest! {
        #[test]
        fn every_type_reads_back_as_it_was((field, value) in cases(), form in 0..3) {
            let form = [Form::Row, Form::Handle, Form::Key][usize::try_from(form).unwrap()];
            let mut out = Vec::new();
            put(&mut out, &value, &field, form).unwrap();
            let mut input = Reader::new(&out);
            let datum = decode(&mut input).unwrap();
            prop_assert!(input.is_empty());
            let column = ColumnInfo { field_type: field, ..ColumnInfo::default() };
            prop_assert_eq!(to_sql(&datum, &column).unwrap(), value);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let refused = |field: &FieldType, value: SqlValue| put(&mut Vec::new(), &value, field, Form::Row).is_err();
        assert!(refused(&field(tp::DECIMAL, 0, 4, 2), text("123.4".to_owned())));
        assert!(refused(&field(tp::DECIMAL, 0, 4, 2), text("1.234".to_owned())));
        assert!(refused(&field(tp::DECIMAL, 0, 4, 2), text("x".to_owned())));
        assert!(refused(&field(tp::DATE, 0, -1, 0), text("2020-13-01".to_owned())));
        assert!(refused(&field(tp::DURATION, 0, -1, 0), text("1:2".to_owned())));
        assert!(refused(&field(tp::LONG, 0, -1, 0), text("1".to_owned())));
        assert!(refused(&field(tp::DOUBLE, 0, -1, 0), SqlValue::Double(f64::NAN)));
        assert!(refused(&field(tp::JSON, 0, -1, 0), text("{".to_owned())));
    }
}
