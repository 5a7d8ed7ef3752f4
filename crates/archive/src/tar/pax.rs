//! PAX records: a length that counts itself, a key and a value each (POSIX pax, "pax Extended Header").

use crate::ArchiveError;
use crate::tar::members::damaged;

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Keys and values of PAX records, all of which must be whole.
pub(super) fn records(mut rest: &[u8]) -> impl Iterator<Item = Result<Record<'_>, ArchiveError>> {
    std::iter::from_fn(move || {
        let now = std::mem::take(&mut rest);
        if now.is_empty() {
            return None;
        }
        Some(first(now).ok_or_else(broken).map(|(record, left)| {
            rest = left;
            record
        }))
    })
}

/// The first of some records, and what follows it.
fn first(all: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let blank = memchr::memchr(b' ', all)?;
    let length = decimal(&all[..blank]).and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| (blank + 2..=all.len()).contains(length))?;
    let record = all[blank + 1..length].strip_suffix(b"\n")?;
    let equals = memchr::memchr(b'=', record)?;
    Some(((&record[..equals], &record[equals + 1..]), &all[length..]))
}

pub(super) fn broken() -> ArchiveError {
    damaged("a PAX record is broken")
}

/// Adds a record, of which key and value come in parts.
pub(super) fn put(records: &mut Vec<u8>, key: &[&[u8]], value: &[&[u8]]) {
    let parts = [&[&b" "[..]], key, &[b"="], value, &[b"\n"]].concat();
    let inner = parts.iter().map(|part| part.len()).sum::<usize>();
    // One digit more may make the length need another.
    let mut length = inner + inner.to_string().len();
    length = inner + length.to_string().len();
    records.extend_from_slice(length.to_string().as_bytes());
    for part in parts {
        records.extend_from_slice(part);
    }
}

/// A number without a sign, in decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a time with a fraction: the kernel counts nanoseconds upwards from the second before, text counts
/// away from zero.
pub(super) fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, time_of) in [
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("-1.500000000", Some((-2, 500_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("-5", Some((-5, 0))),
            ("7.5", Some((7, 500_000_000))),
            ("7.1234567891", Some((7, 123_456_789))),
            ("", None),
            ("1.-5", None),
            ("1e9", None),
            ("-9223372036854775808.5", None),
        ] {
            assert_eq!(time(text.as_bytes()), time_of, "{text}");
        }
    }

    #[test]
    fn records_of_every_length_are_read_as_they_are_written() {
        let mut written = Vec::new();
        let values: Vec<_> = (0..130).chain(980..1010).map(|length| vec![b'\n'; length]).collect();
        for value in &values {
            put(&mut written, &[b"a.", b"b"], &[value]);
        }
        let read: Vec<_> = records(&written).map(Result::unwrap).collect();
        assert!(
            read.iter().map(|(key, value)| (*key, *value)).eq(values.iter().map(|v| (&b"a.b"[..], &**v)))
        );
    }
}
