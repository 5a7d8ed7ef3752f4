//! A chunk of Weaviate's, read to its end while it passes: a tar in a gzip or zstd stream, or as it is.

use crate::component::weaviate::segment::{Segment, Vectors};
use flate2::write::MultiGzDecoder;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};
use zstd::stream::{raw, zio};

/// The files in a chunk, and the vectors of their objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The paths of its files.
    pub(super) files: BTreeSet<String>,
    /// The shards whose objects have vectors, by the paths of their folders.
    pub(super) vectors: BTreeMap<String, Vectors>,
}

/// Takes the bytes of one chunk and finds out what files are in it, and whether it ends as it should: gzip's
/// own checksum is all that there is.
pub(super) enum Chunk {
    /// Too little to tell how it is packed.
    Begun(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Names>>),
    Zstd(Box<zio::Writer<Names, raw::Decoder<'static>>>),
    Plain(Box<Names>),
}

impl Default for Chunk {
    fn default() -> Self {
        Self::Begun(Vec::new())
    }
}

impl Chunk {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

    /// The next bytes.
    ///
    /// # Errors
    ///
    /// When it is damaged.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.write_all(bytes),
            Self::Zstd(decoder) => decoder.write_all(bytes),
            Self::Plain(names) => names.write_all(bytes),
            Self::Begun(head) => {
                head.extend_from_slice(bytes);
                if head.len() < Self::ZSTD.len() {
                    return Ok(());
                }
                let head = std::mem::take(head);
                *self = if head.starts_with(&Self::GZIP) {
                    Self::Gzip(Box::new(MultiGzDecoder::new(Names::default())))
                } else if head.starts_with(&Self::ZSTD) {
                    Self::Zstd(Box::new(zio::Writer::new(Names::default(), raw::Decoder::new()?)))
                } else {
                    Self::Plain(Box::default())
                };
                self.take(&head)
            }
        }
    }

    /// The end: what was in it.
    ///
    /// # Errors
    ///
    /// When it is damaged or cut short.
    pub(super) fn finish(self) -> io::Result<Contents> {
        let names = match self {
            Self::Begun(head) if head.is_empty() => return Ok(Contents::default()),
            Self::Begun(_) => return Err(cut()),
            Self::Gzip(decoder) => decoder.finish()?,
            Self::Zstd(mut decoder) => {
                decoder.finish()?;
                decoder.into_inner().0
            }
            Self::Plain(names) => *names,
        };
        names.finish()
    }
}

/// The folder of the shard whose objects are in the file of that path.
pub(super) fn shard_of(path: &str) -> Option<&str> {
    let (shard, file) = path.split_once("/lsm/objects/segment-")?;
    let (_, kind) = file.rsplit_once('.')?;
    (kind == "db").then_some(shard)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is cut short")
}

/// Reads the names in a tar stream that is pushed to it.
#[derive(Debug, Default)]
pub(super) struct Names {
    found: Contents,
    /// The block under way.
    block: Vec<u8>,
    /// Of the content under way: how many bytes are left, with what fills up its last block.
    left: u64,
    /// The text of a long name under way.
    long: Option<Vec<u8>>,
    /// The name of the next entry, from before it.
    name: Option<String>,
    /// The objects under way, with the folder of their shard.
    objects: Option<(String, Segment)>,
    ended: bool,
}

impl Names {
    const BLOCK: usize = 512;

    fn header(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(());
        }
        let header = async_tar::Header::from_byte_slice(&block);
        let size = header.entry_size()?;
        self.left = size.checked_next_multiple_of(Self::BLOCK as u64).ok_or_else(cut)?;
        let kind = header.entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            self.long = Some(Vec::new());
        } else if !kind.is_pax_global_extensions() {
            let short = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
            let name = self.name.take().unwrap_or_else(short);
            self.objects = shard_of(&name).map(|shard| (shard.to_owned(), Segment::default()));
            self.found.files.insert(name);
        }
        Ok(())
    }

    /// The text that stood before an entry: its name, or records of which one is its name.
    fn named(&mut self) {
        let Some(text) = self.long.take() else { return };
        let text = String::from_utf8_lossy(&text).into_owned();
        let text = text.trim_end_matches('\0');
        let record = text.lines().find_map(|line| line.split_once(" path="));
        match record {
            Some((_, name)) => self.name = Some(name.to_owned()),
            None if text.contains('=') => {}
            None => self.name = Some(text.to_owned()),
        }
    }

    /// Notes what vectors the objects have that have ended.
    fn judged(&mut self) {
        let Some((shard, Segment { found, .. })) = self.objects.take() else { return };
        if found != Vectors::default() {
            let vectors = self.found.vectors.entry(shard).or_default();
            *vectors = Vectors { plain: vectors.plain || found.plain, named: vectors.named || found.named };
        }
    }

    fn finish(self) -> io::Result<Contents> {
        if self.ended && self.left == 0 { Ok(self.found) } else { Err(cut()) }
    }
}

impl Write for Names {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// No name is longer.
        const LONGEST: usize = 64 * 1024;
        if self.ended {
            return Ok(bytes.len());
        }
        if self.left > 0 {
            let part = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            if let Some(long) = &mut self.long {
                if long.len() + part > LONGEST {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a name too long to be true"));
                }
                long.extend_from_slice(&bytes[..part]);
            }
            if let Some((_, segment)) = &mut self.objects {
                segment.take(&bytes[..part]);
            }
            self.left -= part as u64;
            if self.left == 0 {
                self.named();
                self.judged();
            }
            return Ok(part);
        }
        let part = (Self::BLOCK - self.block.len()).min(bytes.len());
        self.block.extend_from_slice(&bytes[..part]);
        if self.block.len() == Self::BLOCK {
            self.header()?;
        }
        Ok(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(names: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |kind, name: &str, content: &[u8]| {
            let mut header = async_tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path(name.get(..90).unwrap_or(name)).unwrap();
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        };
        for name in names {
            if name.len() > 90 {
                let record = format!("{} path={name}\n", name.len() + 10);
                add(async_tar::EntryType::XHeader, "pax", record.as_bytes());
            }
            add(async_tar::EntryType::Regular, name, &[7; 700]);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<BTreeSet<String>> {
        let mut chunk = Chunk::default();
        bytes.chunks(3).try_for_each(|part| chunk.take(part))?;
        Ok(chunk.finish()?.files)
    }

    #[test]
    fn names_are_read_however_a_chunk_is_packed_and_every_cut_is_seen() {
        let long = "x/".repeat(60);
        let names = ["document/s1/a", &long, "b"];
        let wanted: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let plain = tar(&names);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        zstd.include_checksum(true).unwrap();
        zstd.write_all(&plain).unwrap();
        for packed in [gzip.finish().unwrap(), zstd.finish().unwrap()] {
            assert_eq!(read(&packed).unwrap(), wanted);
            for cut in 1..packed.len() {
                assert!(read(&packed[..cut]).is_err(), "{cut} of {}", packed.len());
            }
            let mut damaged = packed.clone();
            let last = damaged.len() - 6;
            damaged[last] ^= 1;
            assert!(read(&damaged).is_err());
        }
        assert_eq!(read(&plain).unwrap(), wanted);
        assert!(read(&plain[..plain.len() - 1024]).is_err());
        assert_eq!(read(b"").unwrap(), BTreeSet::new());
    }
}
