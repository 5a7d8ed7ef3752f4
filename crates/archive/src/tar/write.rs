//! The tar stream: headers of `async-tar`, with names of any length, exact times, and in chunks.

use crate::Content;
use crate::tar::attribute::{self, ExtendedAttributes};
use crate::tar::entry::DUMPDIR_RECORD;
use crate::tar::fields::{number, put, time_record};
use crate::tar::pax;
use crate::tar::reference::Reference;
use crate::tar::sparse::{self, Segment};
use async_tar::{EntryType, Header};
use bytes::Bytes;
use rustix::fs::Stat;
use tokio::sync::mpsc;

/// A part of the stream, and whether compressing it is worth the time.
#[derive(Debug)]
pub struct Chunk {
    /// The kind of the bytes.
    pub content: Content,
    /// Whole blocks of the stream.
    pub bytes: Bytes,
}

/// The error that the consumer of the stream has gone.
#[derive(Debug)]
pub struct ConsumerGone;

/// Length of a block, to which everything in a tar stream is padded (POSIX pax, "ustar Interchange Format").
const BLOCK: usize = 512;

/// Writes entries in GNU format, which every tar reads: GNU entries for names over 100 bytes, base-256 for
/// large numbers, a PAX record in a POSIX header for times with a fraction. Owners are numbers, as names differ between
/// containers.
#[derive(Debug)]
pub struct TarWriter {
    /// The chunk under way.
    chunk: Vec<u8>,
    /// The number of bytes of the chunk that are compressed already.
    compressed: usize,
    /// The number of chunks in a row that were so, for the most part.
    run: u32,
    chunks: mpsc::Sender<Chunk>,
    /// The PAX records of the next entry; kept for its memory.
    records: Vec<u8>,
    /// Records of files before the next entry that lie in earlier archives.
    references: Vec<u8>,
    /// True if no entry was written since the last of them.
    ends_in_references: bool,
}

impl TarWriter {
    /// Large enough that handing over costs nothing, small enough for a few of them to wait in line.
    const CHUNK: usize = 1 << 20;
    /// The number of chunks that must be compressed already before the next is announced as such. Measured: zstd
    /// passes over such bytes at about 1 ms a chunk, while ending a frame lets its threads idle for 20.
    const RUN: u32 = 16;
    /// The least room that a file is read into.
    const ROOM: usize = 64 * 1024;

    /// Begins a stream that goes to `chunks`; whoever receives them may be slow.
    pub fn new(chunks: mpsc::Sender<Chunk>) -> Self {
        let chunk = Vec::with_capacity(Self::CHUNK);
        let (records, references) = (Vec::new(), Vec::new());
        Self { chunk, compressed: 0, run: 0, chunks, records, references, ends_in_references: false }
    }

    /// Tests whether the other end is gone.
    pub fn is_abandoned(&self) -> bool {
        self.chunks.is_closed()
    }

    /// Gives the next entry extended attributes; returns how many are left out, since no reader would take more.
    pub fn extended(&mut self, extended: &mut ExtendedAttributes) -> usize {
        let all = extended.len();
        extended.retain(|name, value| attribute::write(&mut self.records, name, value));
        all - extended.len()
    }

    /// Gives the next entry, a folder, the list of its names, which is `size` bytes long, as GNU tar does with
    /// `--format=posix`: readers that know of no such lists pass over the record. `false`: it would be longer than many
    /// readers take, and is left out.
    pub fn dumpdir<'a>(&mut self, size: usize, names: impl Iterator<Item = (u8, &'a [u8])>) -> bool {
        /// Go's `archive/tar` and node's `tar` take 1 MiB of records; some of it is for what else there is to say.
        const MOST: usize = (1 << 20) - 4096;
        if self.records.len() + size > MOST {
            return false;
        }
        let mut list = Vec::with_capacity(size);
        for (code, name) in names {
            list.push(code);
            list.extend_from_slice(name);
        }
        list.push(0);
        pax::put(&mut self.records, &[DUMPDIR_RECORD], &[&list]);
        true
    }

    /// Writes the head of an entry; `size` bytes of content and [`pad`](Self::pad) must follow.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn entry(
        &mut self,
        kind: EntryType,
        path: &[u8],
        target: &[u8],
        stat: &Stat,
        size: u64,
    ) -> Result<(), ConsumerGone> {
        self.head(Header::new_gnu(), kind, path, target, stat, size)
    }

    fn head(
        &mut self,
        mut header: Header,
        kind: EntryType,
        path: &[u8],
        target: &[u8],
        stat: &Stat,
        size: u64,
    ) -> Result<(), ConsumerGone> {
        self.put_references()?;
        self.ends_in_references = false;
        self.room()?;
        time_record(&mut self.records, stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        if !self.records.is_empty() {
            let mut records = std::mem::take(&mut self.records);
            self.extension(EntryType::XHeader, b"././@PaxHeader", &records)?;
            records.clear();
            self.records = records;
        }
        let fields = header.as_old_mut();
        if !put(&mut fields.linkname, target) {
            self.extension(EntryType::GNULongLink, b"././@LongLink", &[target, b"\0"].concat())?;
        }
        if !put(&mut fields.name, path) {
            self.extension(EntryType::GNULongName, b"././@LongLink", &[path, b"\0"].concat())?;
        }
        number(&mut fields.mode, (stat.st_mode & 0o7777).into());
        number(&mut fields.uid, stat.st_uid.into());
        number(&mut fields.gid, stat.st_gid.into());
        // Times before 1970 stand in the PAX record alone.
        number(&mut fields.mtime, stat.st_mtime.try_into().unwrap_or(0));
        number(&mut fields.size, size);
        self.append(header, kind);
        Ok(())
    }

    /// Writes the head of a file of `size` bytes of which these parts are no holes; they and [`pad`](Self::pad) must
    /// follow.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn sparse(
        &mut self,
        path: &[u8],
        stat: &Stat,
        size: u64,
        segments: &[Segment],
    ) -> Result<(), ConsumerGone> {
        sparse::write_records(&mut self.records, path, size);
        let map = sparse::map_of(segments, size);
        let stored = map.len() as u64 + segments.iter().map(|segment| segment.bytes).sum::<u64>();
        // GNU tar looks for the records of this form behind headers of POSIX alone.
        let header = Header::new_ustar();
        self.head(header, EntryType::Regular, &sparse::stand_in(path), b"", stat, stored)?;
        self.bytes(&map)
    }

    /// Notes a file whose content lies in an earlier archive.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn reference(&mut self, reference: &Reference<'_>) -> Result<(), ConsumerGone> {
        reference.write(&mut self.references);
        self.ends_in_references = true;
        if self.references.len() < Self::ROOM / 2 { Ok(()) } else { self.put_references() }
    }

    /// Tests whether no entry follows the last reference: Python's `tarfile` reads no archive that ends so.
    pub const fn ends_in_references(&self) -> bool {
        self.ends_in_references
    }

    fn put_references(&mut self) -> Result<(), ConsumerGone> {
        if !self.references.is_empty() {
            self.room()?;
            let records = std::mem::take(&mut self.references);
            self.extension(EntryType::XGlobalHeader, b"././@PaxHeader", &records)?;
        }
        Ok(())
    }

    /// An entry that says more about the one after it.
    fn extension(&mut self, kind: EntryType, name: &[u8], content: &[u8]) -> Result<(), ConsumerGone> {
        // PAX records belong to POSIX's own format, and some readers refuse them in any other.
        let is_posix = matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader);
        let mut header = if is_posix { Header::new_ustar() } else { Header::new_gnu() };
        let fields = header.as_old_mut();
        put(&mut fields.name, name);
        number(&mut fields.mode, 0o644);
        number(&mut fields.uid, 0);
        number(&mut fields.gid, 0);
        number(&mut fields.size, content.len() as u64);
        self.append(header, kind);
        self.bytes(content)?;
        self.pad(content.len() as u64)?;
        self.room().map(drop) // for a header
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), ConsumerGone> {
        while !bytes.is_empty() {
            let chunk = self.room()?;
            let (now, later) = bytes.split_at(bytes.len().min(chunk.capacity() - chunk.len()));
            chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Seals a header and writes it. `async-tar` could do both, at a multiple of the time: for a folder
    /// of small files this is half of the work.
    fn append(&mut self, mut header: Header, kind: EntryType) {
        header.set_entry_type(kind);
        // Summed up as if the sum itself were blanks (POSIX pax, "ustar Interchange Format").
        header.as_old_mut().cksum = [b' '; 8];
        let sum = header.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
        number(&mut header.as_old_mut().cksum, sum);
        self.chunk.extend_from_slice(header.as_bytes());
    }

    /// The chunk under way, with free capacity to write contents into.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn room(&mut self) -> Result<&mut Vec<u8>, ConsumerGone> {
        if self.chunk.capacity() - self.chunk.len() < Self::ROOM {
            self.send(Vec::with_capacity(Self::CHUNK))?;
        }
        Ok(&mut self.chunk)
    }

    /// Notes that the last `bytes` of content are compressed already.
    pub fn note_compressed(&mut self, bytes: usize) {
        self.compressed += bytes;
    }

    /// Writes `count` bytes of zeros.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn zeros(&mut self, mut count: u64) -> Result<(), ConsumerGone> {
        while count > 0 {
            let chunk = self.room()?;
            let free = chunk.capacity() - chunk.len();
            let part = usize::try_from(count).map_or(free, |count| count.min(free));
            chunk.resize(chunk.len() + part, 0);
            count -= part as u64;
        }
        Ok(())
    }

    /// Fills the last block of an entry of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn pad(&mut self, size: u64) -> Result<(), ConsumerGone> {
        self.zeros(size.next_multiple_of(BLOCK as u64) - size)
    }

    /// Writes the end of the archive, two blocks of zeros, and hands over the last chunk.
    ///
    /// # Errors
    ///
    /// [`ConsumerGone`] when nobody takes the stream any more.
    pub fn finish(mut self) -> Result<(), ConsumerGone> {
        self.put_references()?;
        self.zeros(2 * BLOCK as u64)?;
        self.send(Vec::new())
    }

    fn send(&mut self, next: Vec<u8>) -> Result<(), ConsumerGone> {
        let bytes = std::mem::replace(&mut self.chunk, next);
        let compressed = std::mem::take(&mut self.compressed);
        // Deciding by chunk, headers and small neighbours among them, costs at most an eighth of what
        // could shrink, and only where nearly nothing does.
        let mostly = compressed > 0 && compressed >= bytes.len() / 8 * 7;
        self.run = if mostly { self.run + 1 } else { 0 };
        let content = if self.run > Self::RUN { Content::Incompressible } else { Content::Compressible };
        self.chunks.blocking_send(Chunk { content, bytes: bytes.into() }).map_err(|_| ConsumerGone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_of_compressed_chunks_is_announced_until_one_could_shrink() {
        let (chunks, mut queue) = mpsc::channel(1);
        let mut tar = TarWriter::new(chunks);
        let mut kind_of = |compressed: usize, plain: usize| {
            tar.room().unwrap().resize(compressed + plain, 0);
            tar.note_compressed(compressed);
            tar.send(Vec::with_capacity(TarWriter::CHUNK)).unwrap();
            queue.try_recv().unwrap().content
        };
        for _ in 0..TarWriter::RUN {
            assert_eq!(kind_of(70_000, 1_000), Content::Compressible);
        }
        assert_eq!(kind_of(70_000, 1_000), Content::Incompressible);
        assert_eq!(kind_of(70_000, 9_000), Content::Incompressible);
        assert_eq!(kind_of(70_000, 30_000), Content::Compressible);
        assert_eq!(kind_of(70_000, 0), Content::Compressible);
    }

    #[test]
    fn headers_are_sealed_as_async_tar_seals_them() {
        let (chunks, mut queue) = mpsc::channel(1);
        let mut tar = TarWriter::new(chunks);
        let stat = rustix::fs::stat("/").unwrap();
        tar.entry(EntryType::Symlink, b"\xFFname", b"target", &stat, 0).unwrap();
        tar.finish().unwrap();
        let bytes = queue.try_recv().unwrap().bytes;
        let header = Header::from_byte_slice(&bytes[bytes.len() - 1536..bytes.len() - 1024]);
        let mut sealed = header.clone();
        sealed.set_cksum();
        assert_eq!(header.as_bytes()[..], sealed.as_bytes()[..]);
    }

    #[test]
    fn sizes_that_octal_digits_cannot_hold_are_kept() {
        let (chunks, mut queue) = mpsc::channel(1);
        let mut tar = TarWriter::new(chunks);
        let stat = rustix::fs::stat("/").unwrap();
        tar.entry(EntryType::Regular, b"big", b"", &stat, 9 << 30).unwrap();
        tar.send(Vec::new()).unwrap();
        let bytes = queue.try_recv().unwrap().bytes;
        let header = Header::from_byte_slice(bytes.last_chunk::<512>().unwrap());
        assert_eq!((header.entry_size().unwrap(), &*header.path_bytes()), (9 << 30, &b"big"[..]));
    }
}
