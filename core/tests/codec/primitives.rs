//! Numbers, strings, decimals, times, JSON and datums of the vector file.

use super::support::{bytes, column, hex, number, show, text, unhex};
use binlog_core::codec::datum::{self, Datum};
use binlog_core::codec::decimal::{self, Decimal};
use binlog_core::codec::json::Json;
use binlog_core::codec::json_text::{self, Style};
use binlog_core::codec::reader::Reader;
use binlog_core::codec::time::Civil;
use binlog_core::codec::value;
use binlog_core::codec::{CodecError, bytes as strings, float, number as numbers};
use binlog_core::time::Tso;
use serde_json::Value;

/// Decodes all of `hex`, encodes it again, and compares both ways.
fn both_ways<T: PartialEq + std::fmt::Debug + Clone>(
    vector: &Value,
    expected: T,
    decode: impl Fn(&mut Reader) -> Result<T, CodecError>,
    encode: impl Fn(&mut Vec<u8>, T),
) {
    let encoded = bytes(vector, "hex");
    let mut input = Reader::new(&encoded);
    assert_eq!(decode(&mut input).unwrap(), expected);
    assert!(input.is_empty(), "bytes left over");
    let mut again = Vec::new();
    encode(&mut again, expected);
    assert_eq!(hex(&again), text(vector, "hex"));
    for cut in 0..encoded.len() {
        assert!(decode(&mut Reader::new(&encoded[..cut])).is_err(), "cut at {cut}");
    }
}

pub fn varint(v: &Value) {
    both_ways(v, number::<i64>(v, "value"), numbers::varint, numbers::put_varint);
}

pub fn uvarint(v: &Value) {
    both_ways(v, number::<u64>(v, "value"), numbers::uvarint, numbers::put_uvarint);
}

pub fn int_memcomparable(v: &Value) {
    both_ways(v, number::<i64>(v, "value"), numbers::int, numbers::put_int);
}

pub fn uint_memcomparable(v: &Value) {
    both_ways(v, number::<u64>(v, "value"), numbers::uint, numbers::put_uint);
}

pub fn float_memcomparable(v: &Value) {
    let value = f64::from_bits(u64::from_str_radix(text(v, "bits"), 16).unwrap());
    assert_eq!(value, number::<f64>(v, "value"));
    both_ways(v, value, float::float, float::put_float);
    let bits = float::float(&mut Reader::new(&bytes(v, "hex"))).unwrap().to_bits();
    assert_eq!(bits, (value + 0.0).to_bits(), "-0.0 becomes 0.0, all else keeps its bits");
}

pub fn bytes_memcomparable(v: &Value) {
    let put = |out: &mut Vec<u8>, value: Vec<u8>| strings::put_memcomparable(out, &value);
    both_ways(v, bytes(v, "value_hex"), strings::memcomparable, put);
}

pub fn bytes_memcomparable_desc(v: &Value) {
    let put = |out: &mut Vec<u8>, value: Vec<u8>| strings::put_memcomparable_desc(out, &value);
    both_ways(v, bytes(v, "value_hex"), strings::memcomparable_desc, put);
}

pub fn bytes_memcomparable_invalid(v: &Value) {
    let raw = bytes(v, "hex");
    assert!(strings::memcomparable(&mut Reader::new(&raw)).is_err());
    assert!(strings::skip_memcomparable(&mut Reader::new(&raw)).is_err());
}

pub fn bytes_compact(v: &Value) {
    let decode = |input: &mut Reader| strings::compact(input).map(<[u8]>::to_vec);
    both_ways(v, bytes(v, "value_hex"), decode, |out, value| strings::put_compact(out, &value));
}

pub fn decimal_bin(v: &Value) {
    let (precision, frac) = (number(v, "precision"), number(v, "frac"));
    let encoded = [&[precision, frac][..], &bytes(v, "hex")].concat();
    let mut input = Reader::new(&encoded);
    let decoded = Decimal::read(&mut input).unwrap();
    assert!(input.is_empty());
    assert_eq!(decoded.to_string(), text(v, "decoded"));
    let mut body = Vec::new();
    decimal::put_body(&mut body, text(v, "value"), precision, frac).unwrap();
    assert_eq!(hex(&body), text(v, "hex"));
}

pub fn digits_to_bytes(vector: &Value) {
    let table: Vec<u64> = serde_json::from_value(vector["table"].clone()).unwrap();
    let ours: Vec<u64> = (0..table.len()).map(|digits| decimal::size_of(digits) as u64).collect();
    assert_eq!(ours, table);
}

/// Calls back with the datum that a vector names; decimals and JSON borrow.
fn with_datum(v: &Value, then: impl Fn(Datum)) {
    match text(v, "kind") {
        "null" => then(Datum::Null),
        "int64" => then(Datum::Int(number(v, "value"))),
        "uint64" => then(Datum::UInt(number(v, "value"))),
        "float64" => then(Datum::Float(number(v, "value"))),
        "bytes_hex" => then(Datum::Bytes(bytes(v, "value").into())),
        "duration_ns" => then(Datum::Duration(number(v, "value"))),
        "decimal" => {
            let (value, precision, frac) = match &v["value"] {
                Value::String(value) => {
                    let (precision, frac) = decimal::natural(value);
                    (value.as_str(), precision, frac)
                }
                value => (text(value, "text"), number(value, "precision"), number(value, "frac")),
            };
            let mut encoded = vec![precision, frac];
            decimal::put_body(&mut encoded, value, precision, frac).unwrap();
            let decimal = Decimal::read(&mut Reader::new(&encoded)).unwrap();
            assert_eq!(decimal.to_string(), value);
            then(Datum::Decimal(decimal));
        }
        "json" => {
            let encoded = bytes(v, "hex");
            let json = Json::read(&mut Reader::new(&encoded[1..])).unwrap();
            assert_eq!(json_text::text(&json, Style::Original).unwrap(), text(v, "value"));
            then(Datum::Json(json));
        }
        kind => panic!("datum kind {kind}"),
    }
}

fn check_datum(v: &Value, encode: impl Fn(&mut Vec<u8>, &Datum)) {
    with_datum(v, |datum| {
        let encoded = bytes(v, "hex");
        let mut input = Reader::new(&encoded);
        assert_eq!(datum::decode(&mut input).unwrap(), datum);
        assert!(input.is_empty());
        let mut cut = Reader::new(&encoded);
        datum::cut(&mut cut).unwrap();
        assert!(cut.is_empty());
        let mut again = Vec::new();
        encode(&mut again, &datum);
        assert_eq!(hex(&again), text(v, "hex"));
        for end in 0..encoded.len() {
            assert!(datum::decode(&mut Reader::new(&encoded[..end])).is_err(), "cut at {end}");
        }
    });
}

pub fn datum_value(v: &Value) {
    check_datum(v, datum::encode_value);
}

pub fn datum_key(v: &Value) {
    check_datum(v, datum::encode_key);
}

pub fn datum_invalid(v: &Value) {
    let raw = bytes(v, "hex");
    assert!(datum::decode(&mut Reader::new(&raw)).is_err());
    let _ = datum::cut(&mut Reader::new(&raw));
}

/// A datum as a column of this SQL type shows it.
fn shown(datum_hex: &str, sql_type: &str) -> Value {
    let raw = unhex(datum_hex);
    let mut input = Reader::new(&raw);
    let datum = datum::decode(&mut input).unwrap();
    assert!(input.is_empty());
    show(&value::to_sql(&datum, &column(1, "c", sql_type)).unwrap())
}

pub fn packed_time(v: &Value) {
    let (kind, fsp): (_, usize) = (text(v, "type"), number(v, "fsp"));
    let packed: u64 = number(v, "packed");
    assert_eq!(shown(text(v, "hex"), &format!("{kind}({fsp})")), text(v, "text"));
    assert_eq!(hex(&packed.to_be_bytes()), text(v, "memcomparable_hex"));
    let mut encoded = Vec::new();
    datum::encode_value(&mut encoded, &Datum::UInt(packed));
    assert_eq!(hex(&encoded), text(v, "hex"));
    assert_eq!(Civil::from_packed(packed).to_packed(), packed);
}

pub fn duration(v: &Value) {
    let fsp: usize = number(v, "fsp");
    assert_eq!(shown(text(v, "flattened_hex"), &format!("time({fsp})")), text(v, "text"));
    let mut encoded = Vec::new();
    datum::encode_value(&mut encoded, &Datum::Int(number(v, "ns")));
    assert_eq!(hex(&encoded), text(v, "flattened_hex"));
}

/// The core knows no zones; offsets of the vectors' zones at their instants stand here.
pub fn timestamp_zone(v: &Value) {
    let utc = Civil::from_packed(number(v, "packed"));
    let day_and_hour = (utc.year, utc.month, utc.day, utc.hour);
    // Last Sundays of March and October at 01:00 UTC; second Sunday of March, first of November.
    let berlin_summer = ((2023, 3, 26, 1)..(2023, 10, 29, 1)).contains(&day_and_hour)
        || ((2019, 3, 31, 1)..(2019, 10, 27, 1)).contains(&day_and_hour);
    let new_york_summer = ((2023, 3, 12, 7)..(2023, 11, 5, 6)).contains(&day_and_hour)
        || ((2019, 3, 10, 7)..(2019, 11, 3, 6)).contains(&day_and_hour);
    for (zone, expected) in v["text"].as_object().unwrap() {
        let hours = match zone.as_str() {
            "UTC" => 0,
            "Asia/Shanghai" => 8,
            "Europe/Berlin" => 1 + i64::from(berlin_summer),
            "America/New_York" => -5 + i64::from(new_york_summer),
            other => panic!("zone {other}"),
        };
        let text = utc.shifted(hours * 3600).datetime_text(number(v, "fsp"));
        assert_eq!(&text, expected.as_str().unwrap(), "{zone}");
    }
}

pub fn tso(v: &Value) {
    let (physical, logical): (u64, u64) = (number(v, "physical_ms"), number(v, "logical"));
    let tso = Tso::compose(physical, logical);
    assert_eq!(tso.raw(), number::<u64>(v, "tso"));
    assert_eq!((tso.physical_ms(), tso.logical()), (physical, logical));
}

pub fn json(v: &Value) {
    let doc = bytes(v, "hex");
    let json = Json::read(&mut Reader::new(&doc)).unwrap();
    assert_eq!(json.doc(), doc);
    let original = text(v, "text");
    assert_eq!(json_text::text(&json, Style::Original).unwrap(), original);
    let later = v["text_mysql_style"].as_str();
    // The later builds also shorten two escapes; the vectors keep to numbers where they name no text of their own.
    assert_eq!(json_text::text(&json, Style::Later).unwrap(), later.unwrap_or(original));
    assert_eq!(shown(text(v, "datum_hex"), "json"), later.unwrap_or(original));
    let mut encoded = Vec::new();
    datum::encode_value(&mut encoded, &Datum::Json(json));
    assert_eq!(hex(&encoded), text(v, "datum_hex"));
}

pub fn bit(v: &Value) {
    let (bits, value): (i64, u64) = (number(v, "bits"), number(v, "value"));
    assert_eq!(shown(text(v, "datum_hex"), &format!("bit({bits})")), value.to_string());
    assert_eq!(hex(&value::bit_bytes(value, bits)), text(v, "bytes_hex"));
}

fn elems(v: &Value) -> Vec<String> {
    serde_json::from_value(v["elems"].clone()).unwrap()
}

pub fn enumeration(v: &Value) {
    let index: u64 = number(v, "index");
    let sql_type = format!("enum('{}')", elems(v).join("','"));
    assert_eq!(shown(text(v, "datum_hex"), &sql_type), index.to_string());
    assert_eq!(value::enum_name(index, &elems(v)), text(v, "name"));
}

pub fn set(v: &Value) {
    let mask: u64 = number(v, "value");
    let sql_type = format!("set('{}')", elems(v).join("','"));
    assert_eq!(shown(text(v, "datum_hex"), &sql_type), mask.to_string());
    assert_eq!(value::set_name(mask, &elems(v)).as_deref(), Some(text(v, "name")));
}
