//! TiDB's binary JSON: framing and a bounded walk (spec codec 6). Texts are made in [`super::json_text`].
//!
//! Offsets inside a document are untrusted. The original writes keys and values in entry order, one after another, so the
//! walk requires each to begin at or behind the end of the one before and to end inside its container: every byte is then
//! visited once per level at most, no document can refer to itself, and no text is longer than a small multiple of it.

use super::CodecError;
use super::number;
use super::reader::Reader;
use super::time::Civil;

/// A document whose structure has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a> {
    doc: &'a [u8],
}

impl<'a> Json<'a> {
    /// Takes one document (type byte and value) from the input and checks all of it.
    pub fn read(input: &mut Reader<'a>) -> Result<Self, CodecError> {
        let at = input.offset();
        let size = size(input.rest()).map_err(|e| e.shifted(at))?;
        let json = Self { doc: input.take(size, "a JSON document")? };
        json.walk(&mut Nothing).map_err(|e| e.shifted(at))?;
        Ok(json)
    }

    /// Type byte and value.
    #[must_use]
    pub const fn doc(&self) -> &'a [u8] {
        self.doc
    }

    /// Visits the whole document in order.
    pub fn walk<V: Visitor>(&self, visitor: &mut V) -> Result<(), CodecError> {
        let (kind, value) = self.doc.split_first().ok_or_else(|| CodecError::new(0, "the type of a JSON value"))?;
        visit(*kind, value, 1, MAX_DEPTH, visitor)
    }
}

/// A value that is no container.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    /// Finite.
    Double(f64),
    /// UTF-8 by intention; may hold anything.
    String(&'a [u8]),
    /// MySQL type code and bytes.
    Opaque(u8, &'a [u8]),
    Date(Civil),
    /// DATETIME and TIMESTAMP.
    DateTime(Civil),
    /// Nanoseconds.
    Time(i64),
}

/// What happens during a walk.
pub trait Visitor {
    fn scalar(&mut self, value: Scalar) -> Result<(), &'static str>;
    fn open(&mut self, object: bool);
    /// Before each element; the key in an object.
    fn element(&mut self, first: bool, key: Option<&[u8]>);
    fn close(&mut self, object: bool);
}

/// Only checks.
struct Nothing;

impl Visitor for Nothing {
    fn scalar(&mut self, _: Scalar) -> Result<(), &'static str> {
        Ok(())
    }
    fn open(&mut self, _: bool) {}
    fn element(&mut self, _: bool, _: Option<&[u8]>) {}
    fn close(&mut self, _: bool) {}
}

/// Bytes of the document at the beginning of `doc`, from its header alone.
pub fn size(doc: &[u8]) -> Result<usize, CodecError> {
    let (kind, value) = doc.split_first().ok_or_else(|| CodecError::new(0, "the type of a JSON value"))?;
    let size = 1 + value_size(*kind, value).map_err(|e| e.shifted(1))?;
    if size > doc.len() {
        return Err(CodecError::new(0, "a JSON value that ends inside the input"));
    }
    Ok(size)
}

/// Size without the type byte; may lie beyond the input.
fn value_size(kind: u8, value: &[u8]) -> Result<usize, CodecError> {
    let sized = |head: usize, input: &mut Reader| {
        let length = number::uvarint(input)?;
        let length = usize::try_from(length).ok().and_then(|n| n.checked_add(input.offset() - head));
        length.ok_or_else(|| CodecError::new(head, "a length within the input"))
    };
    let mut input = Reader::new(value);
    match kind {
        OBJECT | ARRAY => {
            input.array::<4>("the element count of a JSON container")?;
            let size = u32::from_le_bytes(input.array("the size of a JSON container")?);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size < HEADER { Err(CodecError::new(4, "a container size of at least 8")) } else { Ok(size) }
        }
        LITERAL => Ok(1),
        INT | UINT | DOUBLE | DATE | DATETIME | TIMESTAMP => Ok(8),
        TIME => Ok(12),
        STRING => sized(0, &mut input),
        OPAQUE => {
            input.u8("the type code of an opaque JSON value")?;
            Ok(1 + sized(1, &mut input)?)
        }
        _ => Err(CodecError::new(0, "a known JSON type")),
    }
}

/// `value` begins behind the type byte, at `at` in the document, and may be longer than the value.
fn visit<V: Visitor>(kind: u8, value: &[u8], at: usize, depth: usize, visitor: &mut V) -> Result<(), CodecError> {
    let size = value_size(kind, value).map_err(|e| e.shifted(at))?;
    let value = value.get(..size).ok_or_else(|| CodecError::new(at, "a JSON value that ends inside its container"))?;
    if kind == OBJECT || kind == ARRAY {
        let depth = depth.checked_sub(1).ok_or_else(|| CodecError::new(at, "at most 128 levels of JSON"))?;
        return container(kind == OBJECT, value, at, depth, visitor);
    }
    let scalar = scalar(kind, value).map_err(|e| e.shifted(at))?;
    visitor.scalar(scalar).map_err(|expected| CodecError::new(at, expected))
}

fn container<V: Visitor>(
    object: bool,
    value: &[u8],
    at: usize,
    depth: usize,
    visitor: &mut V,
) -> Result<(), CodecError> {
    let fail = |offset: usize, expected| CodecError::new(at + offset, expected);
    let count = le_u32(value, 0).ok_or_else(|| fail(0, "an element count"))?;
    let keys = if object { count.checked_mul(KEY_ENTRY) } else { Some(0) };
    let values_at = keys.and_then(|n| n.checked_add(HEADER));
    let tables_end = values_at.zip(count.checked_mul(VALUE_ENTRY)).and_then(|(a, b)| a.checked_add(b));
    let (Some(values_at), Some(tables_end)) = (values_at, tables_end.filter(|end| *end <= value.len())) else {
        return Err(fail(0, "as many entries as the element count says"));
    };
    visitor.open(object);
    // Keys come first, then the values: `free` is the end of what has been used.
    let mut key_end = tables_end;
    let mut free = if object { keys_end(value, count, tables_end).map_err(|e| e.shifted(at))? } else { tables_end };
    for i in 0..count {
        let key = if object {
            let (key, end) = key(value, i, key_end).map_err(|e| e.shifted(at))?;
            key_end = end;
            Some(key)
        } else {
            None
        };
        visitor.element(i == 0, key);
        let entry = values_at + i * VALUE_ENTRY;
        let kind = *value.get(entry).ok_or_else(|| fail(entry, "a value entry"))?;
        if kind == LITERAL {
            let inlined = value.get(entry + 1..).unwrap_or_default();
            visit(kind, inlined, at + entry + 1, depth, visitor)?;
            continue;
        }
        let offset = le_u32(value, entry + 1).filter(|o| *o >= free);
        let offset = offset.ok_or_else(|| fail(entry + 1, "an offset behind the values before"))?;
        let inner = value.get(offset..).ok_or_else(|| fail(entry + 1, "an offset inside the container"))?;
        visit(kind, inner, at + offset, depth, visitor)?;
        free = offset + value_size(kind, inner)?;
    }
    visitor.close(object);
    Ok(())
}

/// Checks all keys; gives the end of the last.
fn keys_end(value: &[u8], count: usize, tables_end: usize) -> Result<usize, CodecError> {
    (0..count).try_fold(tables_end, |end, i| Ok(key(value, i, end)?.1))
}

/// The i-th key and its end; it must not begin before `free`.
fn key(value: &[u8], i: usize, free: usize) -> Result<(&[u8], usize), CodecError> {
    let entry = HEADER + i * KEY_ENTRY;
    let fail = |expected| CodecError::new(entry, expected);
    let offset = le_u32(value, entry).filter(|o| *o >= free).ok_or_else(|| fail("a key behind the keys before"))?;
    let length = value.get(entry + 4..entry + 6).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let end = offset + usize::from(length.ok_or_else(|| fail("a key entry"))?);
    let key = value.get(offset..end).ok_or_else(|| fail("a key inside the object"))?;
    Ok((key, end))
}

fn scalar(kind: u8, value: &[u8]) -> Result<Scalar<'_>, CodecError> {
    let mut input = Reader::new(value);
    let civil = |time: Civil| time.check().map_err(|expected| CodecError::new(0, expected));
    Ok(match kind {
        LITERAL => match input.u8("a JSON literal")? {
            0 => Scalar::Null,
            1 => Scalar::Bool(true),
            2 => Scalar::Bool(false),
            _ => return Err(CodecError::new(0, "null, true or false")),
        },
        INT => Scalar::Int(i64::from_le_bytes(input.array("8 bytes")?)),
        UINT => Scalar::UInt(u64::from_le_bytes(input.array("8 bytes")?)),
        DOUBLE => {
            let double = f64::from_le_bytes(input.array("8 bytes")?);
            if !double.is_finite() {
                return Err(CodecError::new(0, "a finite number"));
            }
            Scalar::Double(double)
        }
        STRING => {
            number::uvarint(&mut input)?;
            Scalar::String(input.rest())
        }
        OPAQUE => {
            let code = input.u8("the type code of an opaque JSON value")?;
            number::uvarint(&mut input)?;
            Scalar::Opaque(code, input.rest())
        }
        DATE => Scalar::Date(civil(Civil::from_core(u64::from_le_bytes(input.array("8 bytes")?)))?),
        DATETIME | TIMESTAMP => Scalar::DateTime(civil(Civil::from_core(u64::from_le_bytes(input.array("8 bytes")?)))?),
        TIME => {
            let nanos = i64::from_le_bytes(input.array("8 bytes")?);
            if super::duration::text(nanos, 0).is_none() {
                return Err(CodecError::new(0, "a time within 838:59:59"));
            }
            Scalar::Time(nanos)
        }
        _ => return Err(CodecError::new(0, "a known JSON type")),
    })
}

fn le_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let raw = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*raw)).ok()
}

const OBJECT: u8 = 0x01;
const ARRAY: u8 = 0x03;
const LITERAL: u8 = 0x04;
const INT: u8 = 0x09;
const UINT: u8 = 0x0a;
const DOUBLE: u8 = 0x0b;
const STRING: u8 = 0x0c;
const OPAQUE: u8 = 0x0d;
const DATE: u8 = 0x0e;
const DATETIME: u8 = 0x0f;
const TIMESTAMP: u8 = 0x10;
const TIME: u8 = 0x11;
/// Element count and size.
const HEADER: usize = 8;
const KEY_ENTRY: usize = 6;
const VALUE_ENTRY: usize = 5;
/// TiDB stops at 100; the walk recurses once per level.
const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(doc: &[u8]) -> Result<Json<'_>, CodecError> {
        Json::read(&mut Reader::new(doc))
    }

    /// `[[[…]]]`, `levels` deep.
    fn nested(levels: usize) -> Vec<u8> {
        let mut value = vec![0, 0, 0, 0, 8, 0, 0, 0];
        for _ in 1..levels {
            let size = u32::try_from(13 + value.len()).unwrap().to_le_bytes();
            let mut outer = vec![1, 0, 0, 0];
            outer.extend(size);
            outer.extend([ARRAY, 13, 0, 0, 0]);
            outer.extend(&value);
            value = outer;
        }
        value.insert(0, ARRAY);
        value
    }

    #[test]
    fn depth_is_bounded() {
        assert!(read(&nested(128)).is_ok());
        let error = read(&nested(129)).unwrap_err();
        assert_eq!(error.expected, "at most 128 levels of JSON");
        assert!(read(&nested(5_000)).is_err());
    }

    #[test]
    fn overlapping_values_and_keys_are_refused() {
        // [x, x] with both entries at the same eight bytes.
        let shared = [3, 2, 0, 0, 0, 26, 0, 0, 0, 9, 18, 0, 0, 0, 9, 18, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&shared).unwrap_err().expected, "an offset behind the values before");
        // {"a": null, "a": null} with one shared key.
        let head = [1, 2, 0, 0, 0, 31, 0, 0, 0];
        let entries = [30, 0, 0, 0, 1, 0, 30, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 4, 0, 0, 0, 0, b'a'];
        let doc = [&head[..], &entries].concat();
        assert_eq!(read(&doc).unwrap_err().expected, "a key behind the keys before");
        // A value on top of the keys.
        let doc = [1, 1, 0, 0, 0, 27, 0, 0, 0, 19, 0, 0, 0, 8, 0, 9, 19, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(read(&doc).unwrap_err().expected, "an offset behind the values before");
    }
}
