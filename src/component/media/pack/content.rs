//! The content of a file, read into the archive.

use super::{Packing, Stop};
use crate::component::media::file_stat::FileStat;
use crate::component::media::folder::{read, read_at};
use crate::stream::tar::Segment;
use async_tar::EntryType;
use rustix::fs::Stat;
use std::fs::File;

impl Packing {
    /// Packs a file from its beginning to its end; returns how many bytes of it were not there.
    pub(super) fn dense(&mut self, file: &File, stat: &Stat, compressed: bool) -> Result<u64, Stop> {
        let size = FileStat::of(stat).bytes();
        self.tar.entry(EntryType::Regular, &self.path, b"", stat, size)?;
        let missing = self.contents(file, size, compressed)?;
        self.tar.zeros(missing)?;
        self.tar.pad(size)?;
        Ok(missing)
    }

    /// Packs the parts of a file that are no holes; returns how many bytes of them were not there, and how many bytes
    /// are holes. What is written into a hole meanwhile shows in the time of the file.
    pub(super) fn sparse(
        &mut self,
        file: &File,
        stat: &Stat,
        segments: &[Segment],
        compressed: bool,
    ) -> Result<(u64, u64), Stop> {
        let size = FileStat::of(stat).bytes();
        self.tar.sparse(&self.path, stat, size, segments)?;
        let (mut missing, mut stored) = (0, 0);
        for Segment { offset, bytes } in segments {
            let mut done = 0;
            while done < *bytes {
                let chunk = self.tar.room()?;
                let count = match read_at(file, offset + done, chunk, bytes - done) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(err) => return Err(self.broken(err)),
                };
                done += count as u64;
                self.meter.add(count as u64);
                if compressed {
                    self.tar.note_compressed(count);
                }
            }
            self.tar.zeros(bytes - done)?;
            missing += bytes - done;
            stored += bytes;
        }
        self.tar.pad(stored)?;
        self.meter.add(size - stored);
        self.attributes.count_holes(size - stored);
        Ok((missing, size - stored))
    }

    /// Copies up to `size` bytes of a file; returns how many of them were not there.
    fn contents(&mut self, file: &File, size: u64, compressed: bool) -> Result<u64, Stop> {
        let mut missing = size;
        while missing > 0 {
            let chunk = self.tar.room()?;
            let before = chunk.len();
            let count = match read(file, chunk) {
                Ok(0) => break,
                Ok(count) => usize::try_from(missing).map_or(count, |missing| count.min(missing)),
                Err(err) => return Err(self.broken(err)),
            };
            chunk.truncate(before + count); // a file that grew gives more than it promised
            missing -= count as u64;
            self.meter.add(count as u64);
            if compressed {
                self.tar.note_compressed(count);
            }
        }
        Ok(missing)
    }
}
