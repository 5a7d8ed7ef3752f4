//! Reading a tar stream to its end: what it holds, and whether it is whole.

use crate::component::{ComponentError, Feed};
use crate::domain::{
    facts::{Counts, FileCounts},
    progress::Meter,
};
use async_tar::{EntryType, Header};
use std::io;
use tokio::io::AsyncReadExt;

/// The root of the folder itself, which does not count.
const ROOT: &[u8] = b"./";

/// Counts the entries of a tar stream, reading every byte of it.
///
/// The reader of `async-tar` would do, but it clears 32 KiB of memory for every header, which for small
/// files is most of the work. Memory is bounded whatever the stream says: names and PAX records may take
/// [`Heads::MOST`] bytes an entry.
pub(super) async fn decode(feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
    let files = walk(Blocks::new(feed, meter)).await?;
    Ok(Counts { files: Some(files), ..Counts::default() })
}

async fn walk(mut blocks: Blocks<'_>) -> Result<FileCounts, ComponentError> {
    let mut counts = FileCounts::default();
    let mut heads = Heads::default();
    loop {
        let mut header = Header::new_old();
        blocks.exactly(header.as_mut_bytes()).await?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            break;
        }
        let mut size = checked_size(&header).map_err(damaged)?;
        let kind = header.entry_type();
        if let Some(content) = heads.of(kind) {
            if content.is_some() {
                return Err(damaged("two names or records of the same kind for one entry"));
            }
            if size > Heads::MOST {
                return Err(damaged("header of an entry too large to be true"));
            }
            let mut bytes = vec![0; usize::try_from(size).map_err(damaged)?];
            blocks.exactly(&mut bytes).await?;
            *content = Some(bytes);
            blocks.skip(padding(size)).await?;
            continue;
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => counts.files += 1,
            EntryType::Directory if heads.name.is_none() && *header.path_bytes() == *ROOT => {}
            EntryType::Directory => counts.directories += 1,
            EntryType::Symlink => counts.symlinks += 1,
            EntryType::Link => counts.hard_links += 1,
            EntryType::XGlobalHeader => {}
            other => {
                let kind = char::from(other.as_byte());
                return Err(damaged(format!("entry of unexpected type {kind:?}")));
            }
        }
        if kind != EntryType::XGlobalHeader {
            size = heads.size()?.unwrap_or(size);
            heads = Heads::default();
        }
        if kind.is_file() {
            counts.bytes = counts.bytes.saturating_add(size);
        }
        blocks.skip(size).await?;
        blocks.skip(padding(size)).await?;
    }
    if !heads.is_empty() {
        return Err(damaged("names or records without an entry"));
    }
    blocks.end().await.map(|()| counts)
}

/// What the header says about the length of its content, if its checksum holds.
fn checked_size(header: &Header) -> io::Result<u64> {
    let bytes = header.as_bytes();
    // The checksum itself counts as 8 blanks (POSIX pax, "ustar Interchange Format").
    let sum = |part: &[u8]| part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    if header.cksum()? != sum(bytes) - sum(&header.as_old().cksum) + 8 * u32::from(b' ') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a header does not match"));
    }
    header.entry_size()
}

/// How many bytes fill up the last block of some content.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % Blocks::SIZE
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ComponentError {
    ComponentError::Corrupt { what: "read media archive to its end".to_owned(), source: Some(why.into()) }
}

/// What stands before an entry to say more about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heads {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Option<Vec<u8>>,
}

impl Heads {
    /// The most that each of them may take. Linux knows no path over 4 KiB; attributes are 64 KiB each.
    const MOST: u64 = 1 << 20;

    /// Where an entry of that kind belongs, if it is such a one.
    fn of(&mut self, kind: EntryType) -> Option<&mut Option<Vec<u8>>> {
        match kind {
            EntryType::GNULongName => Some(&mut self.name),
            EntryType::GNULongLink => Some(&mut self.target),
            EntryType::XHeader => Some(&mut self.records),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The size of the entry, where it stands in a PAX record. All records must be whole.
    fn size(&self) -> Result<Option<u64>, ComponentError> {
        let broken = || damaged("a PAX record is broken");
        let (mut rest, mut size) = (self.records.as_deref().unwrap_or_default(), None);
        while !rest.is_empty() {
            // Its length, a blank, the key, `=`, the value and a newline (POSIX pax, "pax Extended Header").
            let blank = memchr::memchr(b' ', rest).ok_or_else(broken)?;
            let length = decimal(&rest[..blank]).and_then(|length| usize::try_from(length).ok());
            let length =
                length.filter(|length| (blank + 2..=rest.len()).contains(length)).ok_or_else(broken)?;
            let record = rest[blank + 1..length].strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = memchr::memchr(b'=', record).ok_or_else(broken)?;
            if record[..equals] == *b"size" {
                size = Some(decimal(&record[equals + 1..]).ok_or_else(broken)?);
            }
            rest = &rest[length..];
        }
        Ok(size)
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The stream, buffered and metered.
struct Blocks<'a> {
    feed: Feed<'a>,
    meter: &'a Meter,
    buffer: Vec<u8>,
    /// What of the buffer is still to be looked at.
    from: usize,
    to: usize,
}

impl<'a> Blocks<'a> {
    /// Length of a block, to which everything in a tar stream is padded.
    const SIZE: u64 = 512;

    fn new(feed: Feed<'a>, meter: &'a Meter) -> Self {
        /// As much as a decompressor gives at once.
        const BUFFER: usize = 128 * 1024;
        Self { feed, meter, buffer: vec![0; BUFFER], from: 0, to: 0 }
    }

    /// The next bytes there are, reading more when all are used; none at the end.
    async fn some(&mut self) -> Result<&[u8], ComponentError> {
        if self.from == self.to {
            self.from = 0;
            self.to = self.feed.read(&mut self.buffer).await.map_err(refused)?;
            self.meter.add(self.to as u64);
        }
        Ok(&self.buffer[self.from..self.to])
    }

    async fn exactly(&mut self, mut into: &mut [u8]) -> Result<(), ComponentError> {
        while !into.is_empty() {
            let some = self.some().await?;
            let part = some.len().min(into.len());
            if part == 0 {
                return Err(cut());
            }
            let (now, later) = into.split_at_mut(part);
            now.copy_from_slice(&some[..part]);
            into = later;
            self.from += part;
        }
        Ok(())
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<(), ComponentError> {
        while bytes > 0 {
            let some = self.some().await?.len();
            if some == 0 {
                return Err(cut());
            }
            let part = usize::try_from(bytes).map_or(some, |bytes| bytes.min(some));
            bytes -= part as u64;
            self.from += part;
        }
        Ok(())
    }

    /// Reads what follows the first block of zeros: one more at least, and nothing but zeros (GNU tar,
    /// "Basic Tar Format").
    async fn end(&mut self) -> Result<(), ComponentError> {
        let mut zeros = 0;
        loop {
            let some = self.some().await?;
            if some.is_empty() {
                return if zeros >= Self::SIZE { Ok(()) } else { Err(cut()) };
            }
            if some.iter().any(|byte| *byte != 0) {
                return Err(damaged("data behind the end of the archive"));
            }
            zeros += some.len() as u64;
            self.from = self.to;
        }
    }
}

fn cut() -> ComponentError {
    damaged("no end-of-archive blocks: it is cut short")
}

/// Sorts the error of the feed, which says `InvalidData` of a damaged archive; the rest is trouble in
/// reading it.
fn refused(source: io::Error) -> ComponentError {
    match source.kind() {
        io::ErrorKind::InvalidData => damaged(source),
        _ => ComponentError::Read { what: "read media archive".to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryType, content: &[u8], size: usize) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_cksum();
        let mut bytes = [header.as_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    async fn files(parts: &[&[u8]]) -> Result<FileCounts, ComponentError> {
        let stream = [&parts.concat()[..], &[0; 1024]].concat();
        let counts = decode(&mut &*stream, &Meter::default()).await?;
        Ok(counts.files.unwrap())
    }

    #[tokio::test]
    async fn a_size_in_a_pax_record_is_that_of_the_next_entry_alone() {
        let record = entry(EntryType::XHeader, b"11 size=600\n", 12);
        assert!(files(&[&record]).await.is_err(), "a length that is one too small");
        let record = entry(EntryType::XHeader, b"12 size=600\n", 12);
        let file = entry(EntryType::Regular, &[1; 600], 0);
        let next = entry(EntryType::Regular, &[1; 5], 5);
        let counts = files(&[&record, &file, &next]).await.unwrap();
        assert_eq!((counts.files, counts.bytes), (2, 605));
        files(&[&file]).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_belongs_to_no_entry_or_twice_to_one_is_refused() {
        let file = entry(EntryType::Regular, b"", 0);
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let head = entry(kind, b"6 a=b\n", 6);
            files(&[&head, &file]).await.unwrap();
            files(&[&head]).await.unwrap_err();
            files(&[&head, &head, &file]).await.unwrap_err();
        }
        for record in
            ["6 a=b", "6 a b\n", "99 a=b\n", " a=b\n", "x a=b\n", "0 a=b\n", "2 ", "8 size=\n", "9 size=x\n"]
        {
            let head = entry(EntryType::XHeader, record.as_bytes(), record.len());
            files(&[&head, &file]).await.expect_err(record);
        }
    }
}
