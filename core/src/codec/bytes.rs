//! Byte strings: memcomparable groups and length-prefixed (spec codec 3.5, 3.6).

use super::CodecError;
use super::number;
use super::reader::Reader;

/// Signed varint length, then the bytes.
pub fn compact<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], CodecError> {
    let start = input.offset();
    let length = number::varint(input)?;
    let length = usize::try_from(length).map_err(|_| CodecError::new(start, "a length that is not negative"))?;
    input.take(length, "as many bytes as the length says")
}

/// Groups of eight with a marker that counts the padding.
pub fn memcomparable(input: &mut Reader) -> Result<Vec<u8>, CodecError> {
    groups(input, 0x00)
}

/// The complement of [`memcomparable`].
pub fn memcomparable_desc(input: &mut Reader) -> Result<Vec<u8>, CodecError> {
    groups(input, 0xff)
}

/// Steps over a memcomparable string without building it.
pub fn skip_memcomparable(input: &mut Reader) -> Result<(), CodecError> {
    while !group(input, 0x00)?.1 {}
    Ok(())
}

fn groups(input: &mut Reader, mask: u8) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    loop {
        let ((bytes, length), last) = group(input, mask)?;
        out.extend(bytes.iter().take(length));
        if last {
            return Ok(out);
        }
    }
}

/// One group: its bytes, how many count, and whether it ends the string.
fn group(input: &mut Reader, mask: u8) -> Result<(([u8; GROUP], usize), bool), CodecError> {
    let start = input.offset();
    let bytes: [u8; GROUP] = input.array("a group of 8 bytes")?;
    let bytes = bytes.map(|b| b ^ mask);
    let marker = input.u8("the marker of a group")? ^ mask;
    let padding = usize::from(0xff - marker);
    let length = GROUP.checked_sub(padding).ok_or_else(|| CodecError::new(start + GROUP, "a marker from f7 to ff"))?;
    if bytes.iter().skip(length).any(|b| *b != 0) {
        return Err(CodecError::new(start + length, "zeros as padding"));
    }
    Ok(((bytes, length), padding != 0))
}

pub fn put_compact(out: &mut Vec<u8>, bytes: &[u8]) {
    number::put_varint(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(bytes);
}

pub fn put_memcomparable(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut chunks = bytes.chunks_exact(GROUP);
    for chunk in &mut chunks {
        out.extend_from_slice(chunk);
        out.push(0xff);
    }
    let tail = chunks.remainder();
    out.extend_from_slice(tail);
    let mut marker = 0xff_u8;
    for _ in tail.len()..GROUP {
        out.push(0);
        marker -= 1;
    }
    out.push(marker);
}

pub fn put_memcomparable_desc(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    put_memcomparable(out, bytes);
    out.iter_mut().skip(start).for_each(|b| *b = !*b);
}

const GROUP: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips_and_order(a in proptest::collection::vec(any::<u8>(), 0..40), b in any::<Vec<u8>>()) {
            let (mut x, mut y, mut d, mut c) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            put_memcomparable(&mut x, &a);
            put_memcomparable(&mut y, &b);
            put_memcomparable_desc(&mut d, &a);
            put_compact(&mut c, &a);
            prop_assert_eq!(x.len(), (a.len() / 8 + 1) * 9);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(&memcomparable(&mut Reader::new(&x)).unwrap(), &a);
            prop_assert_eq!(&memcomparable_desc(&mut Reader::new(&d)).unwrap(), &a);
            prop_assert_eq!(compact(&mut Reader::new(&c)).unwrap(), &a[..]);
            let mut skipped = Reader::new(&x);
            skip_memcomparable(&mut skipped).unwrap();
            prop_assert!(skipped.is_empty());
        }
    }
}
