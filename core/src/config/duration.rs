//! Durations in Go's syntax (spec pump 6.2): `8h`, `30m`, `1h30m`, `1.5h`.

/// Milliseconds, rounded down. Units: ns, us, µs, ms, s, m, h; there are no days.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a duration; write for example \"8h\", \"30m\" or \"1h30m\"");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(letters);
        let factor: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("{text:?} has the unit {unit:?}; use h, m, s or ms (whole numbers are days)")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(wrong());
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 18).ok_or_else(wrong)?;
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
        let part = part.checked_mul(factor).ok_or_else(wrong)? / 10_u128.pow(digits);
        let sum = whole.checked_mul(factor).and_then(|whole| nanos.checked_add(whole)?.checked_add(part));
        nanos = sum.ok_or_else(wrong)?;
        rest = after;
    }
    // Go's durations end at 292 years.
    if nanos > i64::MAX.unsigned_abs().into() {
        return Err(wrong());
    }
    u64::try_from(nanos / 1_000_000).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("8h", 28_800_000),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("2s500ms", 2500),
            (".5s", 500),
            ("1500us", 1),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "7d", "h", "1", "-1h", "1h30", "x", ".s", "9999999999h", "1.2.3s", "1 h"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }
}
