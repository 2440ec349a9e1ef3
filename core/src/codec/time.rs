//! DATE, DATETIME and TIMESTAMP: the packed form of datums, the core form inside JSON, and their texts (spec codec 6.3, 7.1).
//!
//! Nothing here knows a time zone: TIMESTAMP stays UTC. A caller that must render another zone asks its zone rules for the
//! offset of the instant and applies it with [`Civil::shifted`].

use std::fmt::Write;

/// A calendar time. Zero dates and partially zero dates are values like others; [`Civil::check`] tells what can be rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Civil {
    pub year: u32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub micro: u32,
}

impl Civil {
    /// From the packed u64 of a datum. Never fails; nonsense is found by [`Civil::check`].
    #[must_use]
    pub fn from_packed(packed: u64) -> Self {
        let year_month = bits(packed, 46, 18);
        Self {
            year: year_month / 13,
            month: year_month % 13,
            day: bits(packed, 41, 5),
            hour: bits(packed, 36, 5),
            minute: bits(packed, 30, 6),
            second: bits(packed, 24, 6),
            micro: bits(packed, 0, 24),
        }
    }

    /// From the core time of a JSON document; the tag in the low four bits is ignored.
    #[must_use]
    pub fn from_core(core: u64) -> Self {
        Self {
            year: bits(core, 50, 14),
            month: bits(core, 46, 4),
            day: bits(core, 41, 5),
            hour: bits(core, 36, 5),
            minute: bits(core, 30, 6),
            second: bits(core, 24, 6),
            micro: bits(core, 4, 20),
        }
    }

    #[must_use]
    pub fn to_packed(self) -> u64 {
        let ymd = u64::from(self.year * 13 + self.month) << 5 | u64::from(self.day);
        let hms = u64::from(self.hour) << 12 | u64::from(self.minute) << 6 | u64::from(self.second);
        (ymd << 17 | hms) << 24 | u64::from(self.micro)
    }

    /// `YYYY-MM-DD hh:mm:ss[.f…]`, as [`Civil::datetime_text`] writes it; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let (date, time) = whole.split_once(' ')?;
        let three = |text: &str, mark| -> Option<[u32; 3]> {
            let parts: Option<Vec<u32>> = text.split(mark).map(|n| n.parse().ok()).collect();
            parts?.try_into().ok()
        };
        let [year, month, day] = three(date, '-')?;
        let [hour, minute, second] = three(time, ':')?;
        let micro = format!("{fraction:0<6}").get(..MAX_FSP)?.parse().ok()?;
        Self { year, month, day, hour, minute, second, micro }.check().ok()
    }

    /// Of a time in UTC; `None` for zero and partially zero dates.
    #[must_use]
    pub fn unix_micros(&self) -> Option<i64> {
        if self.month == 0 || self.day == 0 {
            return None;
        }
        let of_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let seconds = days_from_civil(self.year, self.month, self.day) * DAY + of_day;
        Some(seconds * 1_000_000 + i64::from(self.micro))
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Whether every field fits its place in the text; the error says what would.
    pub fn check(self) -> Result<Self, &'static str> {
        match self {
            Self { year: 10_000.., .. } => Err("a year up to 9999"),
            Self { month: 13.., .. } => Err("a month up to 12"),
            Self { day: 32.., .. } => Err("a day up to 31"),
            Self { hour: 24.., .. } => Err("an hour up to 23"),
            Self { minute: 60.., .. } => Err("a minute up to 59"),
            Self { second: 60.., .. } => Err("a second up to 59"),
            Self { micro: 1_000_000.., .. } => Err("microseconds up to 999999"),
            _ => Ok(self),
        }
    }

    /// `YYYY-MM-DD`.
    #[must_use]
    pub fn date_text(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// `YYYY-MM-DD hh:mm:ss[.f…]`; fraction digits beyond `fsp` are cut.
    #[must_use]
    pub fn datetime_text(&self, fsp: usize) -> String {
        let mut text = self.date_text();
        // Writing to a String does not fail.
        let _ = write!(text, " {:02}:{:02}:{:02}", self.hour, self.minute, self.second);
        push_fraction(&mut text, self.micro, fsp);
        text
    }

    /// This time moved by a zone's offset. Zero and partially zero dates have no instant and stay.
    #[must_use]
    pub fn shifted(self, seconds: i64) -> Self {
        if self.month == 0 || self.day == 0 {
            return self;
        }
        let of_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        let total = days_from_civil(self.year, self.month, self.day) * DAY + of_day + seconds;
        let (year, month, day) = civil_from_days(total.div_euclid(DAY));
        let of_day = u32::try_from(total.rem_euclid(DAY)).unwrap_or_default();
        Self { year, month, day, hour: of_day / 3600, minute: of_day / 60 % 60, second: of_day % 60, micro: self.micro }
    }
}

/// Appends `.` and the first `fsp` of six digits.
pub(super) fn push_fraction(text: &mut String, micro: u32, fsp: usize) {
    if fsp > 0 {
        let digits = format!("{micro:06}");
        text.push('.');
        text.extend(digits.chars().take(fsp.min(MAX_FSP)));
    }
}

/// Fraction digits of a column: its `Decimal`, −1 or absent is 0.
#[must_use]
pub fn fsp(decimal: i64) -> usize {
    usize::try_from(decimal).unwrap_or(0).min(MAX_FSP)
}

fn bits(raw: u64, from: u32, count: u32) -> u32 {
    u32::try_from(raw >> from & ((1 << count) - 1)).unwrap_or(u32::MAX)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: months counted from March make leap days the last of a year.
fn days_from_civil(year: u32, month: u32, day: u32) -> i64 {
    let shifted = (i64::from(month) + 9) % 12;
    let year = i64::from(year) - i64::from(month <= 2);
    let of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let narrow = |n: i64| u32::try_from(n).unwrap_or_default();
    (narrow(year), narrow(month), narrow(day))
}

const DAY: i64 = 86_400;
/// Digits of a microsecond.
const MAX_FSP: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_widest_fields_do_not_overflow() {
        let widest = Civil::from_packed(u64::MAX);
        assert!(widest.check().is_err());
        assert!(Civil::from_core(u64::MAX).check().is_err());
        assert!(widest.datetime_text(9).len() > 26);
    }

    #[test]
    fn texts_become_instants() {
        for (text, micros) in [
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("2026-11-21 03:07:07", Some(1_795_230_427_000_000)),
            ("2026-11-21 03:07:07.25", Some(1_795_230_427_250_000)),
            ("1969-12-31 23:59:59.000001", Some(-999_999)),
            ("0000-00-00 00:00:00", None),
            ("2010-00-10 00:00:00", None),
            ("2010-13-10 00:00:00", None),
            ("2010-01-10", None),
            ("CURRENT_TIMESTAMP", None),
            ("2010-01-10 00:00:00.é", None),
            ("2010-01-10 00:00", None),
        ] {
            assert_eq!(Civil::parse(text).and_then(|c| c.unix_micros()), micros, "{text}");
        }
    }

    #[test]
    fn shifting_crosses_days_and_leap_years() {
        let at = |text: &str| {
            let n: Vec<u32> = text.split(['-', ' ', ':']).map(|n| n.parse().unwrap()).collect();
            Civil { year: n[0], month: n[1], day: n[2], hour: n[3], minute: n[4], second: n[5], micro: 7 }
        };
        let table = [
            ("2020-02-28 23:30:00", 3600, "2020-02-29 00:30:00"),
            ("2019-02-28 23:30:00", 3600, "2019-03-01 00:30:00"),
            ("2020-03-01 00:10:00", -3600, "2020-02-29 23:10:00"),
            ("2000-01-01 00:00:00", -1, "1999-12-31 23:59:59"),
            ("1970-01-01 00:00:01", 28_800, "1970-01-01 08:00:01"),
            ("2010-00-00 00:00:00", 3600, "2010-00-00 00:00:00"),
        ];
        for (from, seconds, to) in table {
            assert_eq!(at(from).shifted(seconds), at(to), "{from} {seconds}");
        }
    }

    proptest! {
        #[test]
        fn shifting_back_restores(days in -500_000_i64..2_500_000, seconds in -86_400_i64..86_400) {
            let (year, month, day) = civil_from_days(days);
            prop_assume!((1..9999).contains(&year));
            prop_assert_eq!(days_from_civil(year, month, day), days);
            let time = Civil { year, month, day, hour: 5, minute: 6, second: 7, micro: 8 };
            prop_assert_eq!(time.shifted(seconds).shifted(-seconds), time);
            prop_assert_eq!(Civil::from_packed(time.to_packed()), time);
        }
    }
}
