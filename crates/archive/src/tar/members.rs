//! A tar stream, member by member: headers checked, what stands before them put together.

use crate::tar::entry::{Entry, EntryPrefix};
use crate::tar::reference::Reference;
use crate::tar::sparse::{self, MapReader, Segment, Sparse};
use crate::{ArchiveError, Feed};
use async_tar::{EntryType, GnuExtSparseHeader, Header};
use rna_backup_model::progress::Meter;
use std::io;
use tokio::io::AsyncReadExt;

/// The next member of a tar stream.
pub enum Member {
    /// An entry, with that many bytes of content.
    Entry {
        /// Bytes, holes included.
        size: u64,
    },
    /// Files of which the content lies in earlier archives.
    References(Vec<Reference<'static>>),
    /// The end; nothing is wrong with it.
    End,
}

/// A tar stream, member by member.
pub struct Members<'a> {
    blocks: BufferedBlocks<'a>,
    header: Header,
    prefix: EntryPrefix,
    /// The blocks of the entry under way, up to its content.
    raw: Vec<u8>,
    /// True if that entry was given out.
    is_given: bool,
    /// The bytes of its content that are in the archive.
    stored: u64,
    /// If it is a sparse file.
    sparse: Option<Sparse>,
    /// The part of its content, and of what fills up the last block of that, which is still to come.
    rest: u64,
}

impl<'a> Members<'a> {
    pub fn new(feed: Feed<'a>, meter: &'a Meter) -> Self {
        let (header, prefix) = (Header::new_old(), EntryPrefix::default());
        let (blocks, raw) = (BufferedBlocks::new(feed, meter), Vec::new());
        Self { blocks, header, prefix, raw, is_given: false, stored: 0, sparse: None, rest: 0 }
    }

    /// The next member; what was not read of the last one is passed over.
    pub async fn next(&mut self) -> Result<Member, ArchiveError> {
        self.blocks.skip(std::mem::take(&mut self.rest)).await?;
        if std::mem::take(&mut self.is_given) {
            self.prefix = EntryPrefix::default();
            self.raw.clear();
        }
        let size = loop {
            self.blocks.exactly(self.header.as_mut_bytes()).await?;
            if self.header.as_bytes().iter().all(|byte| *byte == 0) {
                if !self.prefix.is_empty() {
                    return Err(damaged("names or records without an entry"));
                }
                return self.blocks.end().await.map(|()| Member::End);
            }
            let size = checked_size(&self.header).map_err(damaged)?;
            let kind = self.header.entry_type();
            if kind == EntryType::XGlobalHeader {
                let references = self.global(size).await?;
                if references.is_empty() {
                    continue;
                }
                return Ok(Member::References(references));
            }
            self.raw.extend_from_slice(self.header.as_bytes());
            let Some(content) = self.prefix.slot(kind) else { break size };
            let most = if kind == EntryType::XHeader { EntryPrefix::MOST_RECORDS } else { EntryPrefix::MOST };
            let bytes = self.blocks.head(content.is_some(), size, most).await?;
            self.raw.extend_from_slice(&bytes);
            self.raw.resize(self.raw.len().next_multiple_of(BufferedBlocks::BLOCK), 0);
            *content = Some(bytes);
        };
        self.stored = self.entry()?.recorded_size().unwrap_or(size);
        self.sparse = self.entry()?.sparse()?;
        if self.header.entry_type() == EntryType::GNUSparse {
            self.sparse = Some(Box::pin(self.old_sparse()).await?);
        }
        self.rest = self.stored.saturating_add(padding(self.stored));
        self.is_given = true;
        Ok(Member::Entry { size: self.sparse.as_ref().map_or(self.stored, |sparse| sparse.size) })
    }

    /// Reads the map of a sparse file in the old form: what the header has no room for follows it.
    async fn old_sparse(&mut self) -> Result<Sparse, ArchiveError> {
        let (mut found, mut is_extended) = sparse::old(&self.header)?;
        while is_extended {
            let mut block = GnuExtSparseHeader::new();
            self.blocks.exactly(block.as_mut_bytes()).await?;
            self.raw.extend_from_slice(block.as_bytes());
            sparse::old_segments(block.sparse(), found.map.get_or_insert_default())?;
            is_extended = block.is_extended();
        }
        Ok(found)
    }

    /// The parts of a sparse file that are in the archive, in their order, before any of its content is read; `None`
    /// for others.
    pub async fn segments(&mut self) -> Result<Option<Vec<Segment>>, ArchiveError> {
        let Some(Sparse { size, map }) = self.sparse.take() else { return Ok(None) };
        let (mut map, mut reader) = (map, MapReader::default());
        let mut stored = self.stored;
        let map = loop {
            if let Some(map) = map {
                break map;
            }
            let mut block = [0; BufferedBlocks::BLOCK];
            stored = stored
                .checked_sub(BufferedBlocks::SIZE)
                .ok_or_else(|| damaged("a map of holes is cut short"))?;
            self.blocks.exactly(&mut block).await?;
            self.rest -= BufferedBlocks::SIZE;
            map = reader.take(&block)?;
        };
        sparse::check(&map, size, stored)?;
        Ok(Some(map))
    }

    /// Reads records that are about what follows in general. Those of others say nothing to us.
    async fn global(&mut self, size: u64) -> Result<Vec<Reference<'static>>, ArchiveError> {
        if size > EntryPrefix::MOST {
            self.blocks.skip(size.saturating_add(padding(size))).await?;
            return Ok(Vec::new());
        }
        Reference::all_in(&self.blocks.head(false, size, EntryPrefix::MOST).await?)
    }

    /// The entry that was given out last.
    pub fn entry(&self) -> Result<Entry<'_>, ArchiveError> {
        Entry::new(&self.header, &self.prefix, self.stored)
    }

    /// The blocks of the entry, up to its content.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The next bytes of its content and of what fills up the last block of that, `most` of them; none at their end.
    pub async fn piece(&mut self, most: u64) -> Result<&[u8], ArchiveError> {
        if self.rest == 0 {
            return Ok(&[]);
        }
        let some = self.blocks.some().await?.len();
        if some == 0 {
            return Err(cut());
        }
        let part = usize::try_from(self.rest.min(most)).map_or(some, |rest| rest.min(some));
        self.rest -= part as u64;
        Ok(self.blocks.take(part))
    }
}

/// The length of the content that a header tells, if its checksum holds.
fn checked_size(header: &Header) -> io::Result<u64> {
    let bytes = header.as_bytes();
    // The checksum itself counts as 8 blanks (POSIX pax, "ustar Interchange Format").
    let sum = |part: &[u8]| part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    if header.cksum()? != sum(bytes) - sum(&header.as_old().cksum) + 8 * u32::from(b' ') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a header does not match"));
    }
    header.entry_size()
}

/// The number of bytes that fill up the last block of some content.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BufferedBlocks::SIZE
}

pub fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ArchiveError {
    ArchiveError::Corrupt { what: "read the archive to its end".to_owned(), source: Some(why.into()) }
}

/// The stream, buffered and metered.
struct BufferedBlocks<'a> {
    feed: Feed<'a>,
    meter: &'a Meter,
    buffer: Vec<u8>,
    /// The part of the buffer that is still to be looked at.
    from: usize,
    to: usize,
}

impl<'a> BufferedBlocks<'a> {
    /// Length of a block, to which everything in a tar stream is padded.
    const BLOCK: usize = 512;
    const SIZE: u64 = Self::BLOCK as u64;

    fn new(feed: Feed<'a>, meter: &'a Meter) -> Self {
        /// As much as a decompressor gives at once.
        const BUFFER: usize = 128 * 1024;
        Self { feed, meter, buffer: vec![0; BUFFER], from: 0, to: 0 }
    }

    /// The next bytes there are, reading more when all are used; none at the end.
    async fn some(&mut self) -> Result<&[u8], ArchiveError> {
        if self.from == self.to {
            self.from = 0;
            self.to = self.feed.read(&mut self.buffer).await.map_err(refused)?;
            self.meter.add(self.to as u64);
        }
        Ok(&self.buffer[self.from..self.to])
    }

    async fn exactly(&mut self, mut into: &mut [u8]) -> Result<(), ArchiveError> {
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

    /// Reads what stands before an entry; `again` when that was there already.
    async fn head(&mut self, again: bool, size: u64, most: u64) -> Result<Vec<u8>, ArchiveError> {
        if again {
            return Err(damaged("two names or records of the same kind for one entry"));
        }
        if size > most {
            return Err(damaged("header of an entry too large to be true"));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(damaged)?];
        self.exactly(&mut bytes).await?;
        self.skip(padding(size)).await?;
        Ok(bytes)
    }

    /// The next bytes, of which there are so many.
    fn take(&mut self, bytes: usize) -> &[u8] {
        let from = self.from;
        self.from += bytes;
        &self.buffer[from..self.from]
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<(), ArchiveError> {
        while bytes > 0 {
            let some = self.some().await?.len();
            if some == 0 {
                return Err(cut());
            }
            let part = usize::try_from(bytes).map_or(some, |bytes| bytes.min(some));
            self.from += part;
            bytes -= part as u64;
        }
        Ok(())
    }

    /// Reads what follows the first block of zeros: one more at least, and nothing but zeros (GNU tar,
    /// "Basic Tar Format").
    async fn end(&mut self) -> Result<(), ArchiveError> {
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

fn cut() -> ArchiveError {
    damaged("no end-of-archive blocks: it is cut short")
}

/// Sorts the error of the feed, which says `InvalidData` of a damaged archive; the rest are errors of
/// reading.
fn refused(source: io::Error) -> ArchiveError {
    match source.kind() {
        io::ErrorKind::InvalidData => damaged(source),
        _ => ArchiveError::Read { what: "read the archive".to_owned(), source },
    }
}
