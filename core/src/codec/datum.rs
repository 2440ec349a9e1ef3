//! One value with its flag byte (spec codec 3.1).

use super::CodecError;
use super::decimal::Decimal;
use super::json::{self, Json};
use super::reader::Reader;
use super::{bytes, decimal, float, number};
use std::borrow::Cow;

/// A decoded value, as raw as the bytes are: what it means in SQL depends on the column ([`super::value`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Datum<'a> {
    Null,
    Int(i64),
    /// Also enum, set, bit and packed time.
    UInt(u64),
    Float(f64),
    Bytes(Cow<'a, [u8]>),
    Decimal(Decimal<'a>),
    /// Nanoseconds; only in prefixes of clustered tables (elsewhere TIME is an `Int`).
    Duration(i64),
    Json(Json<'a>),
}

impl Datum<'_> {
    /// For messages about what was found.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) => "a signed integer",
            Self::UInt(_) => "an unsigned integer",
            Self::Float(_) => "a float",
            Self::Bytes(_) => "bytes",
            Self::Decimal(_) => "a decimal",
            Self::Duration(_) => "a duration",
            Self::Json(_) => "a JSON document",
        }
    }
}

/// Reads one datum of either form and checks all of it.
pub fn decode<'a>(input: &mut Reader<'a>) -> Result<Datum<'a>, CodecError> {
    let start = input.offset();
    Ok(match input.u8("a datum")? {
        flag::NULL => Datum::Null,
        flag::BYTES => Datum::Bytes(Cow::Owned(bytes::memcomparable(input)?)),
        flag::COMPACT_BYTES => Datum::Bytes(Cow::Borrowed(bytes::compact(input)?)),
        flag::INT => Datum::Int(number::int(input)?),
        flag::UINT => Datum::UInt(number::uint(input)?),
        flag::FLOAT => Datum::Float(float::float(input)?),
        flag::DECIMAL => Datum::Decimal(Decimal::read(input)?),
        flag::DURATION => Datum::Duration(number::int(input)?),
        flag::VARINT => Datum::Int(number::varint(input)?),
        flag::UVARINT => Datum::UInt(number::uvarint(input)?),
        flag::JSON => Datum::Json(Json::read(input)?),
        _ => return Err(CodecError::new(start, "a known datum flag")),
    })
}

/// Steps over one datum by its size alone: what is inside is not looked at.
pub fn cut(input: &mut Reader) -> Result<(), CodecError> {
    let start = input.offset();
    match input.u8("a datum")? {
        flag::NULL => {}
        flag::BYTES => bytes::skip_memcomparable(input)?,
        flag::COMPACT_BYTES => drop(bytes::compact(input).map(<[u8]>::len)?),
        flag::INT | flag::UINT | flag::FLOAT | flag::DURATION => {
            input.array::<8>("8 bytes of a number")?;
        }
        flag::DECIMAL => {
            let (precision, frac) = (input.u8("the precision of a decimal")?, input.u8("the frac of a decimal")?);
            let size = decimal::body_size(precision, frac)
                .ok_or_else(|| CodecError::new(start + 1, "precision from 1 to 81 and frac up to 30"))?;
            input.take(size, "the digits of a decimal")?;
        }
        flag::VARINT | flag::UVARINT => {
            number::uvarint(input)?;
        }
        flag::JSON => {
            let size = json::size(input.rest()).map_err(|e| e.shifted(start + 1))?;
            input.take(size, "a JSON document")?;
        }
        _ => return Err(CodecError::new(start, "a known datum flag")),
    }
    Ok(())
}

/// Appends the form that rows use.
pub fn encode_value(out: &mut Vec<u8>, datum: &Datum) {
    match datum {
        Datum::Int(n) => {
            out.push(flag::VARINT);
            number::put_varint(out, *n);
        }
        Datum::UInt(n) => {
            out.push(flag::UVARINT);
            number::put_uvarint(out, *n);
        }
        Datum::Bytes(bytes) => {
            out.push(flag::COMPACT_BYTES);
            bytes::put_compact(out, bytes);
        }
        Datum::Null | Datum::Float(_) | Datum::Decimal(_) | Datum::Duration(_) | Datum::Json(_) => {
            encode_key(out, datum);
        }
    }
}

/// Appends the form that compares as bytes do (JSON is no key: it is written as in a row).
pub fn encode_key(out: &mut Vec<u8>, datum: &Datum) {
    match datum {
        Datum::Null => out.push(flag::NULL),
        Datum::Int(n) => {
            out.push(flag::INT);
            number::put_int(out, *n);
        }
        Datum::UInt(n) => {
            out.push(flag::UINT);
            number::put_uint(out, *n);
        }
        Datum::Float(n) => {
            out.push(flag::FLOAT);
            float::put_float(out, *n);
        }
        Datum::Bytes(bytes) => {
            out.push(flag::BYTES);
            bytes::put_memcomparable(out, bytes);
        }
        Datum::Decimal(decimal) => {
            out.extend([flag::DECIMAL, decimal.precision(), decimal.frac()]);
            out.extend_from_slice(decimal.body());
        }
        Datum::Duration(nanos) => {
            out.push(flag::DURATION);
            number::put_int(out, *nanos);
        }
        Datum::Json(json) => {
            out.push(flag::JSON);
            out.extend_from_slice(json.doc());
        }
    }
}

/// The first byte of a datum.
pub mod flag {
    pub const NULL: u8 = 0x00;
    pub const BYTES: u8 = 0x01;
    pub const COMPACT_BYTES: u8 = 0x02;
    pub const INT: u8 = 0x03;
    pub const UINT: u8 = 0x04;
    pub const FLOAT: u8 = 0x05;
    pub const DECIMAL: u8 = 0x06;
    pub const DURATION: u8 = 0x07;
    pub const VARINT: u8 = 0x08;
    pub const UVARINT: u8 = 0x09;
    pub const JSON: u8 = 0x0a;
}
