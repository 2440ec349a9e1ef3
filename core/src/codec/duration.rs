//! TIME: signed nanoseconds and its text (spec codec 4.2).

use super::time::push_fraction;

/// `[-]hh:mm:ss[.f…]`: hours of at least two digits, nanoseconds below the fraction digits are cut. `None` beyond 838:59:59.
#[must_use]
pub fn text(nanos: i64, fsp: usize) -> Option<String> {
    let micros = nanos.unsigned_abs() / 1_000;
    let seconds = u32::try_from(micros / 1_000_000).ok().filter(|s| *s <= MAX_SECONDS)?;
    let micro = u32::try_from(micros % 1_000_000).ok()?;
    let sign = if nanos < 0 { "-" } else { "" };
    let mut text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    push_fraction(&mut text, micro, fsp);
    Some(text)
}

/// 838:59:59.
const MAX_SECONDS: u32 = 838 * 3600 + 59 * 60 + 59;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        let table = [
            (-500_000_000, 1, Some("-00:00:00.5")),
            (-1_500_000_000, 3, Some("-00:00:01.500")),
            (999, 6, Some("00:00:00.000000")),
            (3_020_399_999_999_999, 6, Some("838:59:59.999999")),
            (3_020_400_000_000_000, 0, None),
            (i64::MIN, 6, None),
            (i64::MAX, 6, None),
        ];
        for (nanos, fsp, expected) in table {
            assert_eq!(text(nanos, fsp).as_deref(), expected, "{nanos}");
        }
    }
}
