//! Varints and memcomparable integers (spec codec 3.2, 3.3).

use super::CodecError;
use super::reader::Reader;
use crate::binlog::wire;

pub use crate::binlog::wire::put_varint as put_uvarint;

/// LEB128, at most 10 bytes.
pub fn uvarint(input: &mut Reader) -> Result<u64, CodecError> {
    let (value, size) = wire::varint(input.rest()).map_err(|what| input.fail(format!("a varint, found a {what}")))?;
    input.take(size, "a varint")?;
    Ok(value)
}

/// Zig-zag LEB128.
pub fn varint(input: &mut Reader) -> Result<i64, CodecError> {
    let raw = uvarint(input)?;
    Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

/// Sign bit flipped, big endian: compares as bytes do.
pub fn int(input: &mut Reader) -> Result<i64, CodecError> {
    Ok((uint(input)? ^ SIGN).cast_signed())
}

/// Big endian.
pub fn uint(input: &mut Reader) -> Result<u64, CodecError> {
    Ok(u64::from_be_bytes(input.array("8 bytes of an integer")?))
}

pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned());
}

pub fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, value.cast_unsigned() ^ SIGN);
}

pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) const SIGN: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(value in any::<i64>()) {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            put_varint(&mut a, value);
            put_int(&mut b, value);
            prop_assert_eq!(varint(&mut Reader::new(&a)).unwrap(), value);
            prop_assert_eq!(int(&mut Reader::new(&b)).unwrap(), value);
        }

        #[test]
        fn memcomparable_order_is_the_order(a in any::<i64>(), b in any::<i64>()) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            put_int(&mut x, a);
            put_int(&mut y, b);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }

    #[test]
    fn errors_name_the_offset() {
        let mut input = Reader::new(&[0x02, 0xff]);
        assert_eq!(varint(&mut input).unwrap(), 1);
        let error = varint(&mut input).unwrap_err();
        assert_eq!(error.to_string(), "does not decode at byte 1: expected a varint, found a truncated varint");
    }
}
