//! Writing TiDB's binary JSON (spec codec 6.1, 6.2, 6.4): the inverse of [`super::json`]. For simulators and tests; the products
//! only read JSON.

use super::CodecError;
use super::number::put_uvarint;
use serde_json::Value;

/// The document (type byte and value) of a JSON text. Numbers with a point or an exponent become doubles, others the smallest
/// of i64, u64 and double that holds them.
pub fn from_text(text: &[u8]) -> Result<Vec<u8>, CodecError> {
    let value: Value = serde_json::from_slice(text).map_err(|e| CodecError::new(e.column(), "a JSON text"))?;
    document(&value)
}

/// The document of a JSON value.
pub fn document(value: &Value) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![kind(value)];
    put(&mut out, value, MAX_DEPTH)?;
    Ok(out)
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Object(_) => 0x01,
        Value::Array(_) => 0x03,
        Value::Null | Value::Bool(_) => LITERAL,
        Value::Number(n) if n.is_i64() => 0x09,
        Value::Number(n) if n.is_u64() => 0x0a,
        Value::Number(_) => 0x0b,
        Value::String(_) => 0x0c,
    }
}

const fn literal(value: &Value) -> u8 {
    match value {
        Value::Bool(true) => 1,
        Value::Bool(false) => 2,
        _ => 0,
    }
}

fn put(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), CodecError> {
    let deeper = || depth.checked_sub(1).ok_or_else(|| CodecError::new(0, "at most 100 levels of JSON"));
    match value {
        Value::Null | Value::Bool(_) => out.push(literal(value)),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => out.extend(n.to_le_bytes()),
            (_, Some(n), _) => out.extend(n.to_le_bytes()),
            (.., n) => out.extend(n.filter(|n| n.is_finite()).ok_or_else(not_finite)?.to_le_bytes()),
        },
        Value::String(text) => {
            put_uvarint(out, text.len() as u64);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            let depth = deeper()?;
            container(out, &[], &items.iter().collect::<Vec<_>>(), depth)?;
        }
        Value::Object(fields) => {
            let depth = deeper()?;
            let mut sorted: Vec<(&str, &Value)> = fields.iter().map(|(k, v)| (k.as_str(), v)).collect();
            sorted.sort_by_key(|(key, _)| key.as_bytes());
            let (keys, values): (Vec<&str>, Vec<&Value>) = sorted.into_iter().unzip();
            container(out, &keys, &values, depth)?;
        }
    }
    Ok(())
}

/// Header, key entries, value entries, keys, values; offsets count from the header.
fn container(out: &mut Vec<u8>, keys: &[&str], values: &[&Value], depth: usize) -> Result<(), CodecError> {
    let tables = HEADER + keys.len() * KEY_ENTRY + values.len() * VALUE_ENTRY;
    let mut key_entries = Vec::with_capacity(keys.len() * KEY_ENTRY);
    let mut value_entries = Vec::with_capacity(values.len() * VALUE_ENTRY);
    let mut data = Vec::new();
    for key in keys {
        key_entries.extend(narrow(tables + data.len())?.to_le_bytes());
        let length = u16::try_from(key.len()).map_err(|_| CodecError::new(0, "JSON keys of at most 65535 bytes"))?;
        key_entries.extend(length.to_le_bytes());
        data.extend(key.as_bytes());
    }
    for value in values {
        value_entries.push(kind(value));
        if kind(value) == LITERAL {
            value_entries.extend([literal(value), 0, 0, 0]);
        } else {
            value_entries.extend(narrow(tables + data.len())?.to_le_bytes());
            put(&mut data, value, depth)?;
        }
    }
    out.extend(narrow(values.len())?.to_le_bytes());
    out.extend(narrow(tables + data.len())?.to_le_bytes());
    out.extend(key_entries);
    out.extend(value_entries);
    out.extend(data);
    Ok(())
}

fn narrow(size: usize) -> Result<u32, CodecError> {
    u32::try_from(size).map_err(|_| CodecError::new(0, "a JSON document below 4 GiB"))
}

fn not_finite() -> CodecError {
    CodecError::new(0, "a finite number")
}

const LITERAL: u8 = 0x04;
const HEADER: usize = 8;
const KEY_ENTRY: usize = 6;
const VALUE_ENTRY: usize = 5;
/// As deep as TiDB accepts.
const MAX_DEPTH: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::Json;
    use crate::codec::json_text::{self, Style};
    use crate::codec::reader::Reader;
    use proptest::prelude::*;
    use serde_json::json;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn examples_of_the_specification() {
        assert_eq!(
            hex(&from_text(br#"{"a":2}"#).unwrap()),
            "01010000001c000000130000000100091400000061".to_owned() + "0200000000000000"
        );
        let array = "0303000000210000000917000000040000000" /* entries */
            .to_owned()
            + "00c1f000000"
            + "0100000000000000"
            + "0178";
        assert_eq!(hex(&document(&json!([1, null, "x"])).unwrap()), array);
    }

    #[test]
    fn numbers_keep_their_type() {
        let first = |text: &str| from_text(text.as_bytes()).unwrap()[0];
        for (text, kind) in [
            ("1", 9),
            ("-9223372036854775808", 9),
            ("9223372036854775808", 10),
            ("1.0", 11),
            ("1e2", 11),
            ("18446744073709551616", 11),
        ] {
            assert_eq!(first(text), kind, "{text}");
        }
        assert!(from_text(b"{").is_err());
        assert!(from_text(("[".repeat(101) + &"]".repeat(101)).as_bytes()).is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            // Eighths: serde_json does not read back the last digit of every double.
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            ".{0,200}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((".{0,8}", inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn round_trip(value in values()) {
            let doc = document(&value).unwrap();
            let mut input = Reader::new(&doc);
            let json = Json::read(&mut input).unwrap();
            prop_assert!(input.is_empty());
            let text = json_text::text(&json, Style::Later).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value.clone());
            prop_assert_eq!(from_text(text.as_bytes()).unwrap(), doc);
        }
    }
}
