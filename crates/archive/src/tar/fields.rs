//! The fields of headers and PAX records: names, numbers and times.

use std::io::Write;

/// Puts a name into a field of a header, as far as it fits; whether all of it did.
pub(super) fn put(field: &mut [u8], name: &[u8]) -> bool {
    let fits = name.len().min(field.len());
    field[..fits].copy_from_slice(&name[..fits]);
    fits == name.len()
}

/// Writes a number: octal digits and a NUL, or where those cannot hold it, big-endian with the first bit
/// set (GNU tar, "Extensions to the archive format").
pub(super) fn number(field: &mut [u8], mut value: u64) {
    let (last, digits) = field.split_last_mut().expect("no field is empty");
    if value >> (3 * digits.len()) != 0 {
        let bytes = value.to_be_bytes();
        let (high, low) = field.split_at_mut(field.len() - bytes.len());
        high.fill(0);
        low.copy_from_slice(&bytes);
        field[0] |= 0x80;
        return;
    }
    *last = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// Adds the PAX record of a time that no header can hold: with a fraction, or before 1970.
///
/// The length of a record counts itself (POSIX pax, "pax Extended Header").
pub(super) fn time_record(records: &mut Vec<u8>, seconds: i64, nanos: i64) {
    const SECOND: i64 = 1_000_000_000;
    if nanos == 0 && seconds >= 0 {
        return;
    }
    let from = records.len();
    let written = if seconds < 0 && nanos > 0 {
        // The kernel counts nanoseconds upwards from the second before; text counts away from zero.
        writeln!(records, "00 mtime=-{}.{:09}", -(seconds + 1), SECOND - nanos)
    } else {
        writeln!(records, "00 mtime={seconds}.{nanos:09}")
    };
    written.expect("a vector takes everything");
    // Two digits for any length that a time can have.
    let length = records.len() - from;
    write!(&mut records[from..from + 2], "{length:02}").expect("two digits fit");
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_tar::Header;

    #[test]
    fn a_time_record_counts_its_own_length() {
        for (seconds, nanos, record) in [
            (1_700_000_000, 123_456_789, "30 mtime=1700000000.123456789\n"),
            (0, 1, "21 mtime=0.000000001\n"),
            (-2, 500_000_000, "22 mtime=-1.500000000\n"),
            (-1, 999_999_999, "22 mtime=-0.000000001\n"),
            (-5, 0, "22 mtime=-5.000000000\n"),
        ] {
            let mut written = b"6 a=b\n".to_vec();
            time_record(&mut written, seconds, nanos);
            assert_eq!(String::from_utf8(written).unwrap(), format!("6 a=b\n{record}"));
            assert!(record.starts_with(&format!("{} ", record.len())));
        }
        let mut none = Vec::new();
        time_record(&mut none, 1_700_000_000, 0);
        assert_eq!(none, b"");
    }

    #[test]
    fn numbers_are_written_as_async_tar_writes_them() {
        for value in [0, 7, 8, 0o7777, 2_097_151, 2_097_152, 1 << 32, (8 << 30) - 1, 8 << 30, u64::MAX >> 1] {
            let (mut ours, mut theirs) = (Header::new_gnu(), Header::new_gnu());
            number(&mut ours.as_old_mut().size, value);
            theirs.set_size(value);
            number(&mut ours.as_old_mut().uid, value);
            theirs.set_uid(value);
            assert_eq!(ours.as_bytes()[..], theirs.as_bytes()[..], "{value}");
        }
    }
}
