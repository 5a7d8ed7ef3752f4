//! Durations and sizes as people write them in settings and read them in tables.

use std::{fmt, str::FromStr, time::Duration};

const MILLI: u64 = 1;
const SECOND: u64 = 1000 * MILLI;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Units of a span with their milliseconds, the longest first.
const SPANS: [(&str, u64); 6] =
    [("w", 7 * DAY), ("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MILLI)];

/// A length of time as the settings write it: `500ms`, `30s`, `5m`, `1h30m`, `7d`, `2w`, or bare
/// seconds. Units in any case; milliseconds are the finest.
///
/// `Display` is for people and keeps the two largest units: `2d 3h`, `1m 5s`, `12.3s`, `450ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(UnitError::Span);
        }
        let mut millis: u64 = 0;
        while !rest.is_empty() {
            let (number, after) = split_at_first(rest, |c| !c.is_ascii_digit());
            let (unit, after) = split_at_first(after.trim_start(), |c| !c.is_ascii_alphabetic());
            let bare = unit.is_empty() && number.len() == text.trim().len();
            let (_, scale) = SPANS
                .into_iter()
                .find(|(name, _)| unit.eq_ignore_ascii_case(name) || (bare && *name == "s"))
                .ok_or(UnitError::Span)?;
            let part = digits(number, UnitError::Span)?.checked_mul(scale);
            millis = part.and_then(|part| millis.checked_add(part)).ok_or(UnitError::TooLarge)?;
            rest = after.trim_start();
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let two = |large: u64, l: &str, small: u64, s: &str| match (millis % large) / small {
            0 => format!("{}{l}", millis / large),
            rest => format!("{}{l} {rest}{s}", millis / large),
        };
        f.pad(&match millis {
            0 => "0s".to_owned(),
            1..SECOND => format!("{millis}ms"),
            SECOND..MINUTE => match (millis % SECOND) / 100 {
                0 => format!("{}s", millis / SECOND),
                tenths => format!("{}.{tenths}s", millis / SECOND),
            },
            MINUTE..HOUR => two(MINUTE, "m", SECOND, "s"),
            HOUR..DAY => two(HOUR, "h", MINUTE, "m"),
            _ => two(DAY, "d", HOUR, "h"),
        })
    }
}

/// A number of bytes as the settings write it: `1GiB`, `500MB`, `1.5g`, or bare bytes.
///
/// `KB`, `MB`, … are powers of 1000; `KiB`, `MiB`, … and the bare letters `K`, `M`, … of 1024, as
/// docker and dd have them. Any case. A fraction of a byte is cut off.
///
/// `Display` is for people: `999 B`, `1.4 GiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// 2^20 bytes.
    pub const MIB: u64 = 1 << 20;
    /// 2^30 bytes.
    pub const GIB: u64 = 1 << 30;
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split_at_first(text.trim(), |c| !c.is_ascii_digit() && c != '.');
        let unit = unit.trim_start().to_ascii_lowercase();
        let scale = match unit.as_str() {
            "" | "b" => 1,
            unit => {
                let power = "kmgtpe".find(unit.get(..1).ok_or(UnitError::Size)?).ok_or(UnitError::Size)? + 1;
                let base: u128 = match &unit[1..] {
                    "b" => 1000,
                    "" | "i" | "ib" => 1024,
                    _ => return Err(UnitError::Size),
                };
                base.pow(u32::try_from(power).expect("there are six letters"))
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole = u128::from(digits(whole, UnitError::Size)?) * scale;
        // Nine digits are finer than a byte of anything that is written with a fraction.
        if fraction.contains('.') {
            return Err(UnitError::Size);
        }
        let fraction = fraction.get(..9).unwrap_or(fraction);
        let part = u128::from(digits(fraction, UnitError::Size)?) * scale / 10u128.pow(places(fraction));
        u64::try_from(whole + part).map(Self).map_err(|_| UnitError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // 1023.95 would print as 1024.0.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{value:.1} {}", UNITS[unit]))
    }
}

/// The reason that a text is not a length of time or a size. The error never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a length of time.
    #[error("is not a duration such as 30s, 5m, 1h or 7d")]
    Span,
    /// Not a size.
    #[error("is not a size such as 500MB or 1GiB")]
    Size,
    /// More than 64 bits hold.
    #[error("is too large")]
    TooLarge,
}

fn split_at_first(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

fn places(digits: &str) -> u32 {
    u32::try_from(digits.len()).unwrap_or(u32::MAX)
}

/// Digits alone: `u64::from_str` would take a `+`.
fn digits(text: &str, otherwise: UnitError) -> Result<u64, UnitError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(otherwise);
    }
    text.parse().map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_span_is_read_as_people_write_it() {
        for (text, millis) in [
            ("0", 0),
            ("30", 30_000),
            (" 30s ", 30_000),
            ("500ms", 500),
            ("500 MS", 500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1D", 86_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text:?}");
        }
        for text in ["", " ", "s", "-1s", "+1", "1x", "1h30", "30 5m", "1.5h", "soon", "1ſ", "5m,"] {
            assert_eq!(text.parse::<Span>(), Err(UnitError::Span), "{text:?}");
        }
        for text in ["18446744073709551616", "99999999999999999w", "18446744073709551615ms 1s"] {
            assert_eq!(text.parse::<Span>(), Err(UnitError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn a_size_is_read_as_people_write_it() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("1b", 1),
            ("1 kb", 1000),
            ("1K", 1024),
            ("1ki", 1024),
            ("1KiB", 1024),
            ("500MB", 500_000_000),
            ("1GiB", 1 << 30),
            ("1gib", 1 << 30),
            ("1.5g", 3 << 29),
            ("0.000000009EB", 9_000_000_000),
            ("2TiB", 2 << 40),
            ("15EiB", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text:?}");
        }
        for text in [
            "",
            "GiB",
            "-1",
            "+1",
            "1X",
            "1GiBi",
            "1bb",
            "1bi",
            "1.2.3k",
            "1.123456789.5k",
            "1.",
            ".5k",
            "1 é",
            "one",
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size), "{text:?}");
        }
        for text in ["16EiB", "18446744073709551616", "99999999999999999999999999GB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn people_see_the_units_that_matter() {
        for (millis, text) in [
            (0, "0s"),
            (450, "450ms"),
            (12_000, "12s"),
            (12_340, "12.3s"),
            (65_000, "1m 5s"),
            (3_600_000, "1h"),
            (5_430_000, "1h 30m"),
            (183_600_000, "2d 3h"),
        ] {
            let span = Duration::from_millis(millis);
            assert_eq!(Span(span).to_string(), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_503_238_553, "1.4 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|{:<8}|", ByteSize(7), Span(Duration::from_secs(9))), "     7 B|9s      |");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,12}") {
            let _ = (text.parse::<Span>(), text.parse::<ByteSize>());
        }

        #[test]
        fn bare_numbers_are_bytes_and_seconds(n in 0..u64::MAX / 1000) {
            prop_assert_eq!(n.to_string().parse(), Ok(ByteSize(n)));
            prop_assert_eq!(n.to_string().parse(), Ok(Span(Duration::from_secs(n))));
        }
    }
}
