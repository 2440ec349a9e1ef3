//! Protobuf framing: walks the fields of a message without building it, borrowing everything, allocating nothing.
//!
//! Used by [`super::peek`], [`super::item`] and `codec::mutation`. Stricter than a generated decoder only where bytes could
//! mean different things to different readers: groups, reserved wire types and varints above 64 bits are refused.

use super::peek::PeekError;

/// Value of a field as its wire type frames it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// One field: `start..end` is its place in the message, key included; `at` is where a bytes value begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    pub start: usize,
    pub at: usize,
    pub end: usize,
}

impl<'a> Field<'a> {
    /// The number of a varint field of a known name.
    pub fn varint(&self, what: &'static str) -> Result<u64, PeekError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(PeekError { offset: self.start, what }),
        }
    }

    /// The contents of a length-delimited field of a known name.
    pub fn bytes(&self, what: &'static str) -> Result<&'a [u8], PeekError> {
        match self.value {
            Value::Bytes(value) => Ok(value),
            _ => Err(PeekError { offset: self.start, what }),
        }
    }
}

/// Iterator over the fields of one message. After an error it ends.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    message: &'a [u8],
    pos: usize,
}

impl<'a> Fields<'a> {
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { message, pos: 0 }
    }

    /// Offset of the next unread byte.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.pos
    }

    fn read(&mut self) -> Result<Field<'a>, PeekError> {
        let start = self.pos;
        let fail = |what| PeekError { offset: start, what };
        let key = self.varint(start)?;
        let number = u32::try_from(key >> 3).ok().filter(|n| (1..=MAX_NUMBER).contains(n));
        let number = number.ok_or(fail("field number out of range"))?;
        let mut at = self.pos;
        let value = match key & 7 {
            0 => Value::Varint(self.varint(start)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array().ok_or(fail("truncated 8-byte field"))?)),
            2 => {
                let length = self.varint(start)?;
                at = self.pos;
                let length = usize::try_from(length).map_err(|_| fail("length beyond the end of the message"))?;
                Value::Bytes(self.take(length).ok_or(fail("length beyond the end of the message"))?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array().ok_or(fail("truncated 4-byte field"))?)),
            3 | 4 => return Err(fail("group wire types are not supported")),
            _ => return Err(fail("reserved wire type")),
        };
        Ok(Field { number, value, start, at, end: self.pos })
    }

    fn varint(&mut self, start: usize) -> Result<u64, PeekError> {
        let rest = self.message.get(self.pos..).unwrap_or_default();
        let (value, size) = varint(rest).map_err(|what| PeekError { offset: start, what })?;
        self.pos += size;
        Ok(value)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.pos.checked_add(length)?;
        let taken = self.message.get(self.pos..end)?;
        self.pos = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, PeekError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.message.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.pos = self.message.len();
        }
        Some(field)
    }
}

/// LEB128: value and its size. At most 10 bytes, the tenth 0 or 1 (spec codec 3.2).
pub fn varint(bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        if i == MAX_VARINT - 1 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok((value, i + 1));
        }
    }
    if bytes.len() < MAX_VARINT { Err("truncated varint") } else { Err("varint above 64 bits") }
}

/// Appends `value` as LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Bytes of the longest varint.
const MAX_VARINT: usize = 10;
/// The largest field number of protobuf.
const MAX_NUMBER: u32 = (1 << 29) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_bounded() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint(&out), Ok((value, out.len())));
            out.pop();
            assert_eq!(varint(&out), Err("truncated varint"), "{value}");
        }
        assert_eq!(varint(&[0xff; 11]), Err("varint above 64 bits"));
        let mut tenth_is_two = [0xff; 10];
        tenth_is_two[9] = 2;
        assert_eq!(varint(&tenth_is_two), Err("varint above 64 bits"));
        // A padded but bounded form reads as its value, as every protobuf decoder reads it.
        assert_eq!(varint(&[0x80, 0x00]), Ok((0, 2)));
    }

    #[test]
    fn fields_carry_their_place() {
        let message = [0x08, 0x05, 0x12, 0x02, b'a', b'b', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let fields: Vec<Field> = Fields::new(&message).map(Result::unwrap).collect();
        let got: Vec<_> = fields.iter().map(|f| (f.number, f.value, f.start, f.at, f.end)).collect();
        assert_eq!(
            got,
            [
                (1, Value::Varint(5), 0, 1, 2),
                (2, Value::Bytes(b"ab"), 2, 4, 6),
                (3, Value::Fixed32(1), 6, 7, 11),
                (4, Value::Fixed64(2), 11, 12, 20)
            ]
        );
    }

    #[test]
    fn an_error_ends_the_walk() {
        let mut fields = Fields::new(&[0x0b, 0x08, 0x01]);
        assert_eq!(fields.next(), Some(Err(PeekError { offset: 0, what: "group wire types are not supported" })));
        assert_eq!(fields.next(), None);
    }
}
