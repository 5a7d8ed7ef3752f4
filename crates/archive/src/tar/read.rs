//! Reading a tar stream to its end: what it holds, and whether it is whole.

use crate::tar::attribute::AttributeKinds;
use crate::tar::dumpdir::Dumpdir;
use crate::tar::entry::Entry;
use crate::tar::members::{Member, Members, damaged};
use crate::tar::reference::Reference;
use crate::tar::sparse::Segment;
use crate::{ArchiveError, Feed};
use async_tar::EntryType;
use rna_backup_model::{
    facts::{AttributeCounts, Counts, FileCounts},
    metadata::MetadataCounts,
    progress::Meter,
};

/// Looks at the entries of a tar stream while it is walked.
pub trait Visit {
    /// The error with which a visitor ends the walk. An error of the archive becomes one.
    type Error: From<ArchiveError>;

    /// An entry begins; `size` bytes of content follow when it is a file.
    ///
    /// # Errors
    ///
    /// The walk ends with them.
    fn entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), Self::Error>;

    /// The next bytes of the content of a file.
    ///
    /// # Errors
    ///
    /// The walk ends with them.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The next bytes of a file are a hole, so many of it. Who does not expect holes refuses them.
    ///
    /// # Errors
    ///
    /// The walk ends with them.
    fn hole(&mut self, bytes: u64) -> Result<(), Self::Error> {
        Err(damaged(format!("a hole of {bytes} bytes where no sparse file should be")).into())
    }

    /// A file of which the content lies in an earlier archive.
    ///
    /// # Errors
    ///
    /// The walk ends with them. Who wants the content cannot go on: [`join`](fn@super::join) first.
    fn reference(&mut self, reference: &Reference<'_>) -> Result<(), Self::Error> {
        Err(damaged(format!("{reference} lies in another archive, which is not here")).into())
    }
}

/// The visitor of a stream that is only counted.
struct NoVisitor;

impl Visit for NoVisitor {
    type Error = ArchiveError;

    fn entry(&mut self, _: &Entry<'_>, _: u64) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn reference(&mut self, _: &Reference<'_>) -> Result<(), ArchiveError> {
        Ok(())
    }
}

/// Counts the entries of a tar stream, reading every byte of it.
///
/// The reader of `async-tar` would do, but it clears 32 KiB of memory for every header, which for small
/// files is most of the work. Memory is bounded whatever the stream says: names may take 1 MiB an entry, and PAX
/// records 4 MiB.
///
/// # Errors
///
/// [`ArchiveError::Corrupt`] when the stream is damaged or cut short, [`ArchiveError::Read`] when it cannot be read.
pub async fn decode(feed: Feed<'_>, meter: &Meter) -> Result<Counts, ArchiveError> {
    walk(feed, meter, &mut NoVisitor).await
}

/// Shows every entry of a tar stream to `visitor`, to the end of the stream, and counts them. Attributes and metadata
/// are not counted where some files lie in other archives.
///
/// # Errors
///
/// As [`decode`], and those of the visitor.
pub async fn walk<V: Visit>(feed: Feed<'_>, meter: &Meter, visitor: &mut V) -> Result<Counts, V::Error> {
    let mut members = Members::new(feed, meter);
    let (mut counts, mut attributes) = (FileCounts::default(), Some(AttributeCounts::default()));
    let mut metadata = Some(MetadataCounts::none());
    let mut is_rooted = false;
    loop {
        match members.next().await? {
            Member::End => {
                return Ok(Counts { files: Some(counts), attributes, metadata, ..Counts::default() });
            }
            Member::References(references) => {
                (attributes, metadata) = (None, None);
                for reference in references {
                    counts.files += 1;
                    counts.bytes = counts.bytes.saturating_add(reference.bytes);
                    visitor.reference(&reference)?;
                }
            }
            Member::Entry { size } => {
                let entry = members.entry()?;
                // The root comes again at the end of an archive that would end in references.
                if entry.is_root() && std::mem::replace(&mut is_rooted, true) {
                    continue;
                }
                count(&entry, size, &mut counts)?;
                metadata = metadata.and_then(|metadata| with_metadata(&entry, metadata));
                if let Some(attributes) = &mut attributes {
                    AttributeKinds::of(&entry.extended()?).count(attributes);
                }
                visitor.entry(&entry, size)?;
                if let Some(names) = entry.recorded_dumpdir() {
                    Dumpdir::of(&entry).read(names)?;
                }
                if entry.is_dumpdir() {
                    let names = Dumpdir::of(&entry);
                    listed(&mut members, names, size).await?;
                    continue;
                }
                let bytes = if entry.is_file() { size } else { 0 };
                let holes = contents(&mut members, visitor, bytes).await?;
                if let (Some(holes), Some(attributes)) = (holes, &mut attributes) {
                    attributes.count_holes(holes);
                }
            }
        }
    }
}

/// Shows the content of a file of that size; returns how much of a sparse one is holes.
async fn contents<V: Visit>(
    members: &mut Members<'_>,
    visitor: &mut V,
    size: u64,
) -> Result<Option<u64>, V::Error> {
    let Some(segments) = members.segments().await? else {
        return data(members, visitor, size).await.map(|()| None);
    };
    let (mut at, mut holes) = (0, 0);
    let end = Segment { offset: size, bytes: 0 };
    for Segment { offset, bytes } in segments.into_iter().chain([end]) {
        if offset > at {
            visitor.hole(offset - at)?;
            holes += offset - at;
        }
        data(members, visitor, bytes).await?;
        at = offset + bytes;
    }
    Ok(Some(holes))
}

/// Reads the list of names of a folder.
async fn listed(members: &mut Members<'_>, mut names: Dumpdir, mut bytes: u64) -> Result<(), ArchiveError> {
    while bytes > 0 {
        let piece = members.piece(bytes).await?;
        names.read(piece)?;
        bytes -= piece.len() as u64;
    }
    Ok(())
}

/// Shows so many bytes of a file.
async fn data<V: Visit>(members: &mut Members<'_>, visitor: &mut V, mut bytes: u64) -> Result<(), V::Error> {
    while bytes > 0 {
        let piece = members.piece(bytes).await?;
        visitor.content(piece)?;
        bytes -= piece.len() as u64;
    }
    Ok(())
}

/// Counts owner, mode and time of an entry; `None` where its header, of a stranger's archive, does not tell them.
fn with_metadata(entry: &Entry<'_>, mut metadata: MetadataCounts) -> Option<MetadataCounts> {
    let is_symlink = match entry.kind() {
        EntryType::Link => return Some(metadata),
        kind => kind == EntryType::Symlink,
    };
    let (owner, mode, (seconds, _)) = (entry.owner().ok()?, entry.mode().ok()?, entry.modified().ok()?);
    metadata.count(owner, (!is_symlink).then_some((mode, seconds)));
    Some(metadata)
}

fn count(entry: &Entry<'_>, size: u64, counts: &mut FileCounts) -> Result<(), ArchiveError> {
    match entry.kind() {
        EntryType::Regular | EntryType::Continuous => counts.files += 1,
        EntryType::Directory if entry.is_root() => {}
        EntryType::Directory => counts.directories += 1,
        EntryType::Symlink => counts.symlinks += 1,
        EntryType::Link => counts.hard_links += 1,
        other => {
            let kind = char::from(other.as_byte());
            return Err(damaged(format!("entry of unexpected type {kind:?}")));
        }
    }
    if entry.is_file() {
        counts.bytes = counts.bytes.saturating_add(size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_tar::Header;

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

    async fn files(parts: &[&[u8]]) -> Result<FileCounts, ArchiveError> {
        let stream = [&parts.concat()[..], &[0; 1024]].concat();
        decode(&mut &*stream, &Meter::default()).await.map(|counts| counts.files.unwrap())
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
