//! The `stat` of a file that tells whether the file has changed: the same fields that restic and git compare.

use rustix::fs::Stat;
use std::time::{Duration, SystemTime};

/// Size, times and inode of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStat {
    bytes: u64,
    modified: (i64, i64),
    /// The time of the last change of the file or its metadata (`ctime`), which no program can set.
    changed: (i64, i64),
    inode: u64,
}

impl FileStat {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |nanos| i64::try_from(nanos).unwrap_or(0);
        Self {
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
            inode: stat.st_ino,
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The time of modification, in seconds and nanoseconds.
    pub(super) const fn modified(&self) -> (i64, i64) {
        self.modified
    }

    /// Tests whether it changed so lately that a further change may leave the same time: clocks of files go in
    /// steps, some of two seconds (FAT), most of some milliseconds.
    pub(super) fn is_fresh(&self) -> bool {
        let step = if self.changed.1 == 0 { Duration::from_secs(2) } else { Duration::from_millis(100) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        now < changed + step
    }

    pub(super) fn numbers(&self) -> [u64; 6] {
        let time = |(seconds, nanos): (i64, i64)| [seconds.cast_unsigned(), nanos.cast_unsigned()];
        let ([a, b], [c, d]) = (time(self.modified), time(self.changed));
        [self.bytes, a, b, c, d, self.inode]
    }

    pub(super) const fn from_numbers([bytes, a, b, c, d, inode]: [u64; 6]) -> Self {
        let modified = (a.cast_signed(), b.cast_signed());
        Self { bytes, modified, changed: (c.cast_signed(), d.cast_signed()), inode }
    }
}
