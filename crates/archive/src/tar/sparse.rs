//! Sparse files in GNU's forms (GNU tar, "Storing Sparse Files"; "Sparse Formats").
//!
//! We write version 1.0: PAX records with name and length, and at the head of the content a map of the parts that are
//! there. Read are also 0.0 and 0.1, whose maps are PAX records, and the old form, whose map is in the header.

use crate::ArchiveError;
use crate::tar::members::damaged;
use crate::tar::pax::{self, decimal};
use async_tar::{GnuSparseHeader, Header};

/// A part of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The place of the part in the file, in bytes from its beginning.
    pub offset: u64,
    /// The length of the part.
    pub bytes: u64,
}

/// The most parts of a file that an archive is read with: 16 MiB of memory.
const MOST: usize = 1 << 20;
const BLOCK: u64 = 512;

/// A sparse file as headers tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The length of the file, holes included.
    pub(super) size: u64,
    /// `None`: the map is at the head of the content.
    pub(super) map: Option<Vec<Segment>>,
}

/// The PAX records of a sparse file.
#[derive(Debug, Clone, Default)]
pub(super) struct SparseRecords<'a> {
    pub(super) name: Option<&'a [u8]>,
    version: (Option<u64>, Option<u64>),
    size: Option<u64>,
    map: Vec<u64>,
}

impl<'a> SparseRecords<'a> {
    /// Takes over a record whose key begins with `GNU.sparse.`; `None` when its value is none.
    pub(super) fn take(&mut self, key: &[u8], value: &'a [u8]) -> Option<()> {
        match key {
            b"name" => self.name = Some(value),
            b"major" => self.version.0 = Some(decimal(value)?),
            b"minor" => self.version.1 = Some(decimal(value)?),
            b"realsize" | b"size" => self.size = Some(decimal(value)?),
            b"offset" | b"numbytes" => self.map.push(decimal(value)?),
            b"map" => self.map = value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?,
            _ => {}
        }
        Some(())
    }

    pub(super) fn sparse(&self) -> Result<Sparse, ArchiveError> {
        let size = self.size.ok_or_else(|| damaged("a sparse file without a length"))?;
        match self.version {
            (None | Some(0), _) => Ok(Sparse { size, map: Some(segments(&self.map)?) }),
            (Some(1), Some(0) | None) => Ok(Sparse { size, map: None }),
            (major, minor) => {
                let (major, minor) = (major.unwrap_or(0), minor.unwrap_or(0));
                Err(damaged(format!("a sparse file of version {major}.{minor}, which is not known")))
            }
        }
    }
}

fn segments(numbers: &[u64]) -> Result<Vec<Segment>, ArchiveError> {
    let (pairs, []) = numbers.as_chunks::<2>() else { return Err(damaged("a map of holes is broken")) };
    if pairs.len() > MOST {
        return Err(too_many());
    }
    Ok(pairs.iter().map(|[offset, bytes]| Segment { offset: *offset, bytes: *bytes }).collect())
}

fn too_many() -> ArchiveError {
    damaged("a sparse file has more than a million holes")
}

/// Makes sure that the parts of a file follow one another within its length, and that they are as much as there is.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), ArchiveError> {
    let (mut end, mut sum) = (0, 0_u64);
    for (at, Segment { offset, bytes }) in map.iter().enumerate() {
        if *offset < end {
            return Err(damaged("the parts of a sparse file overlap, or are in no order"));
        }
        end = offset
            .checked_add(*bytes)
            .filter(|end| *end <= size)
            .ok_or_else(|| damaged("a part of a sparse file lies beyond the end of the file"))?;
        sum += bytes;
        // GNU tar begins each part with a new block, others do not.
        if bytes % BLOCK != 0 && map[at + 1..].iter().any(|later| later.bytes > 0) {
            return Err(damaged("a part of a sparse file does not fill its blocks"));
        }
    }
    if sum != stored {
        return Err(damaged(format!(
            "a sparse file has {stored} bytes in the archive, and should have {sum}"
        )));
    }
    Ok(())
}

/// A map at the head of the content: numbers, one a line, the first of them how many pairs follow.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    number: Option<u64>,
    numbers: Vec<u64>,
    awaited: Option<usize>,
}

impl MapReader {
    /// Takes the next block; the map once it is whole. What is left of its last block says nothing.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, ArchiveError> {
        let broken = || damaged("a map of holes is broken");
        for byte in block {
            if let digit @ b'0'..=b'9' = byte {
                let number = self.number.unwrap_or(0).checked_mul(10);
                let number = number.and_then(|number| number.checked_add(u64::from(digit - b'0')));
                self.number = Some(number.ok_or_else(broken)?);
                continue;
            }
            let number = self.number.take().filter(|_| *byte == b'\n').ok_or_else(broken)?;
            match self.awaited {
                None => {
                    let pairs = usize::try_from(number).ok().filter(|pairs| *pairs <= MOST);
                    self.awaited = Some(2 * pairs.ok_or_else(too_many)?);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.awaited == Some(self.numbers.len()) {
                return segments(&self.numbers).map(Some);
            }
        }
        Ok(None)
    }
}

/// The map of the old form, as far as it is in the header; whether more blocks of it follow.
pub(super) fn old(header: &Header) -> Result<(Sparse, bool), ArchiveError> {
    let fields = header.as_gnu().ok_or_else(|| damaged("a sparse file in a header that has no map"))?;
    let mut map = Vec::new();
    old_segments(&fields.sparse, &mut map)?;
    Ok((Sparse { size: number(&fields.realsize)?, map: Some(map) }, fields.is_extended()))
}

/// Adds the parts in a block of the old form.
pub(super) fn old_segments(headers: &[GnuSparseHeader], map: &mut Vec<Segment>) -> Result<(), ArchiveError> {
    for header in headers.iter().take_while(|header| !header.is_empty()) {
        if map.len() == MOST {
            return Err(too_many());
        }
        map.push(Segment { offset: number(&header.offset)?, bytes: number(&header.numbytes)? });
    }
    Ok(())
}

/// Reads a number of a header: octal digits, or big-endian after a byte with the first bit set.
fn number(field: &[u8; 12]) -> Result<u64, ArchiveError> {
    if let [0x80, 0, 0, 0, number @ ..] = field {
        return Ok(u64::from_be_bytes(*number));
    }
    let digits = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let number = str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 8).ok());
    number.ok_or_else(|| damaged("a map of holes is broken"))
}

/// Adds the records of version 1.0.
pub(super) fn write_records(records: &mut Vec<u8>, path: &[u8], size: u64) {
    pax::put(records, &[b"GNU.sparse.major"], &[b"1"]);
    pax::put(records, &[b"GNU.sparse.minor"], &[b"0"]);
    pax::put(records, &[b"GNU.sparse.name"], &[path]);
    pax::put(records, &[b"GNU.sparse.realsize"], &[size.to_string().as_bytes()]);
}

/// The map of version 1.0, which fills whole blocks. A part of no bytes at the end makes GNU tar give the file its
/// length.
pub(super) fn map_of(segments: &[Segment], size: u64) -> Vec<u8> {
    use std::io::Write;
    let end = segments.last().map_or(0, |last| last.offset + last.bytes);
    let last = (end < size).then_some(Segment { offset: size, bytes: 0 });
    let mut map = format!("{}\n", segments.len() + usize::from(last.is_some())).into_bytes();
    for Segment { offset, bytes } in segments.iter().copied().chain(last) {
        write!(map, "{offset}\n{bytes}\n").expect("a vector takes everything");
    }
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

/// The name under which readers that know no sparse files find what is stored, as GNU tar gives it.
pub(super) fn stand_in(path: &[u8]) -> Vec<u8> {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..name], b"GNUSparseFile.0/", &path[name..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, bytes: u64) -> Segment {
        Segment { offset, bytes }
    }

    #[test]
    fn a_map_is_read_as_it_is_written_over_any_number_of_blocks() {
        for count in [0, 1, 2, 50, 5_000] {
            let parts: Vec<_> = (0..count).map(|n| segment(n << 40, 4096)).collect();
            let map = map_of(&parts, 1 << 60);
            assert_eq!(map.len() % 512, 0);
            let mut reader = MapReader::default();
            let mut blocks = map.chunks(512);
            let read = blocks.find_map(|block| reader.take(block).unwrap()).unwrap();
            assert_eq!(blocks.len(), 0);
            assert_eq!(read, [&parts[..], &[segment(1 << 60, 0)]].concat());
        }
    }

    #[test]
    fn maps_that_cannot_be_are_refused() {
        for (map, why) in [
            (vec![segment(0, 512), segment(256, 512)], "overlap"),
            (vec![segment(512, 512), segment(0, 512)], "overlap"),
            (vec![segment(9_728, 512)], "beyond"),
            (vec![segment(u64::MAX, 512)], "beyond"),
            (vec![segment(512, u64::MAX)], "beyond"),
            (vec![segment(0, 100), segment(512, 924)], "blocks"),
            (vec![segment(0, 512)], "should have 512"),
        ] {
            let err = check(&map, 10_000, 1024).unwrap_err();
            assert!(format!("{err:?}").contains(why), "{map:?}: {err:?}");
        }
        check(&[segment(0, 512), segment(512, 412), segment(10_000, 0)], 10_000, 924).unwrap();
        check(&[], 10_000, 0).unwrap();
        for text in ["1\n0\nx\n", "1\n-1\n5\n", "\n", "1048577\n", "99999999999999999999\n", "1 0 5"] {
            MapReader::default().take(text.as_bytes()).expect_err(text);
        }
    }

    #[test]
    fn the_stand_in_lies_beside_the_file() {
        assert_eq!(stand_in(b"a/b/c"), b"a/b/GNUSparseFile.0/c");
        assert_eq!(stand_in(b"c"), b"GNUSparseFile.0/c");
    }
}
