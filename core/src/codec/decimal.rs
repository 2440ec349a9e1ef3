//! MyDecimal's binary body (spec codec 5): base-10⁹ words, negative numbers complemented, first bit flipped.

use super::CodecError;
use super::reader::Reader;
use std::fmt;

/// A decimal as it stands in a datum; its digits have been checked. Precision and frac come from the datum, never from the
/// column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decimal<'a> {
    precision: u8,
    frac: u8,
    body: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// Precision, frac, body.
    pub fn read(input: &mut Reader<'a>) -> Result<Self, CodecError> {
        let start = input.offset();
        let precision = input.u8("the precision of a decimal")?;
        let frac = input.u8("the frac of a decimal")?;
        let size = body_size(precision, frac)
            .ok_or_else(|| CodecError::new(start, "precision from 1 to 81 and frac up to 30 and the precision"))?;
        let at = input.offset();
        let body = input.take(size, "the digits of a decimal")?;
        let decimal = Self { precision, frac, body };
        decimal.words(|_, _| ()).map_err(|e| e.shifted(at))?;
        Ok(decimal)
    }

    #[must_use]
    pub const fn precision(&self) -> u8 {
        self.precision
    }

    #[must_use]
    pub const fn frac(&self) -> u8 {
        self.frac
    }

    #[must_use]
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    fn is_negative(&self) -> bool {
        self.body.first().is_some_and(|b| b & 0x80 == 0)
    }

    /// Calls back with each group: its value and its number of digits.
    fn words(&self, mut word: impl FnMut(u32, usize)) -> Result<(), CodecError> {
        let mask = if self.is_negative() { 0xff } else { 0x00 };
        let mut at = 0;
        for digits in groups(self.precision, self.frac) {
            let size = size_of(digits);
            let bytes = self.body.get(at..at + size).ok_or_else(|| CodecError::new(at, "the digits of a decimal"))?;
            let mut value = 0_u32;
            for (i, byte) in bytes.iter().enumerate() {
                let flip = if at + i == 0 { 0x80 } else { 0 };
                value = value << 8 | u32::from(byte ^ flip ^ mask);
            }
            if value >= power_of_ten(digits) {
                return Err(CodecError::new(at, format!("a group of at most {digits} decimal digits")));
            }
            word(value, digits);
            at += size;
        }
        Ok(())
    }
}

/// No leading zeros but one before the point, exactly `frac` fraction digits; −0 is written as 0.
impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::with_capacity(MAX_PRECISION.into());
        // The groups were checked when this value was made.
        let _ = self.words(|value, count| digits.push_str(&format!("{value:0count$}")));
        let split = digits.len().saturating_sub(self.frac.into());
        let (int, frac) = digits.split_at_checked(split).unwrap_or((&digits, ""));
        let int = int.trim_start_matches('0');
        if self.is_negative() && digits.bytes().any(|b| b != b'0') {
            f.write_str("-")?;
        }
        f.write_str(if int.is_empty() { "0" } else { int })?;
        if !frac.is_empty() {
            write!(f, ".{frac}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decimal({self}: {}, {})", self.precision, self.frac)
    }
}

/// Bytes of a body; `None` for sizes that no decimal has.
#[must_use]
pub fn body_size(precision: u8, frac: u8) -> Option<usize> {
    let sane = (1..=MAX_PRECISION).contains(&precision) && frac <= MAX_FRAC && frac <= precision;
    sane.then(|| groups(precision, frac).map(size_of).sum())
}

/// Writes the body of a decimal text (`-12.34`). Integer digits above precision − frac lose their high end, fraction digits
/// above frac are cut, as the original does.
pub fn put_body(out: &mut Vec<u8>, text: &str, precision: u8, frac: u8) -> Result<(), CodecError> {
    body_size(precision, frac).ok_or_else(|| CodecError::new(0, "precision from 1 to 81 and frac up to 30"))?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if int.len() + fraction.len() == 0 || !int.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(CodecError::new(0, "decimal digits"));
    }
    let (wanted_int, wanted_frac) = (usize::from(precision - frac), usize::from(frac));
    let zeros = std::iter::repeat_n(b'0', wanted_int.saturating_sub(int.len()));
    let kept = zeros.chain(int.bytes().skip(int.len().saturating_sub(wanted_int)));
    let mut all = kept.chain(fraction.bytes().chain(std::iter::repeat(b'0')).take(wanted_frac)).map(|b| b - b'0');
    let is_zero = all.clone().all(|d| d == 0);
    let mask = if negative && !is_zero { 0xff } else { 0x00 };
    let start = out.len();
    for digits in groups(precision, frac) {
        let value = all.by_ref().take(digits).fold(0_u32, |n, d| n * 10 + u32::from(d));
        out.extend(value.to_be_bytes().iter().skip(4 - size_of(digits)).map(|b| b ^ mask));
    }
    if let Some(first) = out.get_mut(start) {
        *first ^= 0x80;
    }
    Ok(())
}

/// Precision and frac of a text that carries no explicit ones (spec codec 4.3).
#[must_use]
pub fn natural(text: &str) -> (u8, u8) {
    let digits = text.trim_start_matches('-');
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let frac = fraction.len();
    let precision = (int.trim_start_matches('0').len() + frac).max(1);
    (u8::try_from(precision).unwrap_or(u8::MAX), u8::try_from(frac).unwrap_or(u8::MAX))
}

/// Digits of each group: leading partial, full words, full fraction words, trailing partial.
fn groups(precision: u8, frac: u8) -> impl Iterator<Item = usize> {
    let (int, frac) = (usize::from(precision.saturating_sub(frac)), usize::from(frac));
    let partial = |digits: usize| (digits != 0).then_some(digits);
    let leading = partial(int % WORD_DIGITS).into_iter();
    let words = std::iter::repeat_n(WORD_DIGITS, int / WORD_DIGITS + frac / WORD_DIGITS);
    leading.chain(words).chain(partial(frac % WORD_DIGITS))
}

/// Bytes of a group of up to 9 digits.
#[must_use]
pub const fn size_of(digits: usize) -> usize {
    match digits {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 2,
        5 | 6 => 3,
        _ => 4,
    }
}

const fn power_of_ten(digits: usize) -> u32 {
    let mut power = 1;
    let mut i = 0;
    while i < digits && i < WORD_DIGITS {
        power *= 10;
        i += 1;
    }
    power
}

/// Decimal digits in a 4-byte word.
const WORD_DIGITS: usize = 9;
/// What the code of the original can hold; SQL stops at 65.
const MAX_PRECISION: u8 = 81;
const MAX_FRAC: u8 = 30;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let table = [
            (1, 0, 1),
            (5, 2, 3),
            (9, 0, 4),
            (10, 0, 5),
            (10, 2, 5),
            (10, 4, 5),
            (18, 9, 8),
            (20, 6, 10),
            (38, 10, 18),
            (65, 0, 29),
            (65, 30, 30),
            (30, 30, 14),
        ];
        for (p, s, size) in table {
            assert_eq!(body_size(p, s), Some(size), "({p}, {s})");
        }
        for (p, s) in [(0, 0), (82, 0), (5, 6), (65, 31)] {
            assert_eq!(body_size(p, s), None, "({p}, {s})");
        }
    }

    #[test]
    fn foreign_negative_zero_is_zero() {
        let datum = [2, 1, 0x7f, 0xff];
        assert_eq!(Decimal::read(&mut Reader::new(&datum)).unwrap().to_string(), "0.0");
    }

    proptest! {
        #[test]
        fn round_trips(int in "[1-9][0-9]{0,34}|0", frac in "[0-9]{0,30}", negative: bool) {
            let sign = if negative && format!("{int}{frac}").bytes().any(|b| b != b'0') { "-" } else { "" };
            let text = if frac.is_empty() { format!("{sign}{int}") } else { format!("{sign}{int}.{frac}") };
            let (p, s) = natural(&text);
            for (p, s) in [(p, s), (81, 30)] {
                let mut bytes = vec![p, s];
                put_body(&mut bytes, &text, p, s).unwrap();
                let mut input = Reader::new(&bytes);
                let back = Decimal::read(&mut input).unwrap();
                prop_assert!(input.is_empty());
                let pad = "0".repeat(usize::from(s) - frac.len());
                let point = if frac.is_empty() && s > 0 { "." } else { "" };
                prop_assert_eq!(back.to_string(), format!("{text}{point}{pad}"));
            }
        }
    }
}
