//! Memcomparable doubles (spec codec 3.4).

use super::CodecError;
use super::number::{self, SIGN};
use super::reader::Reader;

/// Any bits, NaN and infinities included, decode.
pub fn float(input: &mut Reader) -> Result<f64, CodecError> {
    let raw = number::uint(input)?;
    Ok(f64::from_bits(if raw & SIGN != 0 { raw & !SIGN } else { !raw }))
}

/// −0.0 is written as +0.0.
pub fn put_float(out: &mut Vec<u8>, value: f64) {
    let bits = value.to_bits();
    number::put_uint(out, if value >= 0.0 { bits | SIGN } else { !bits });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_and_value_survive(a in any::<f64>(), b in any::<f64>()) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            put_float(&mut x, a);
            put_float(&mut y, b);
            prop_assert_eq!(Some(x.cmp(&y)), a.partial_cmp(&b));
            prop_assert_eq!(float(&mut Reader::new(&x)).unwrap(), a);
        }

        #[test]
        fn any_bytes_decode(raw in any::<[u8; 8]>()) {
            float(&mut Reader::new(&raw)).unwrap();
        }
    }
}
