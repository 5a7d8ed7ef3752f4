//! Reading a tar stream to its end: what it holds, and whether it is whole.

use crate::component::tar::dumpdir::Dumpdir;
use crate::component::tar::entry::Entry;
use crate::component::tar::members::{Member, Members, damaged};
use crate::component::tar::reference::Reference;
use crate::component::{ComponentError, Feed};
use crate::domain::{facts::FileCounts, progress::Meter};
use async_tar::EntryType;

/// Looks at the entries of a tar stream while it is walked.
pub trait Visit {
    /// An entry begins; `size` bytes of content follow when it is a file.
    ///
    /// # Errors
    ///
    /// The walk ends with them.
    fn entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), ComponentError>;

    /// The next bytes of the content of a file.
    ///
    /// # Errors
    ///
    /// The walk ends with them.
    fn content(&mut self, bytes: &[u8]) -> Result<(), ComponentError>;

    /// A file of which the content lies in an earlier archive.
    ///
    /// # Errors
    ///
    /// The walk ends with them. Who wants the content cannot go on: [`join`](mod@super::join) first.
    fn reference(&mut self, reference: &Reference<'_>) -> Result<(), ComponentError> {
        Err(damaged(format!("{reference} lies in another archive, which is not here")))
    }
}

/// Nobody looks: the stream is only to be counted.
struct Nobody;

impl Visit for Nobody {
    fn entry(&mut self, _: &Entry<'_>, _: u64) -> Result<(), ComponentError> {
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<(), ComponentError> {
        Ok(())
    }

    fn reference(&mut self, _: &Reference<'_>) -> Result<(), ComponentError> {
        Ok(())
    }
}

/// Counts the entries of a tar stream, reading every byte of it.
///
/// The reader of `async-tar` would do, but it clears 32 KiB of memory for every header, which for small
/// files is most of the work. Memory is bounded whatever the stream says: names and PAX records may take
/// 1 MiB an entry.
pub async fn decode(feed: Feed<'_>, meter: &Meter) -> Result<FileCounts, ComponentError> {
    walk(feed, meter, &mut Nobody).await
}

/// Shows every entry of a tar stream to `visitor`, to the end of the stream, and counts them.
pub async fn walk(
    feed: Feed<'_>,
    meter: &Meter,
    visitor: &mut impl Visit,
) -> Result<FileCounts, ComponentError> {
    let mut members = Members::new(feed, meter);
    let mut counts = FileCounts::default();
    loop {
        match members.next().await? {
            Member::End => return Ok(counts),
            Member::References(references) => {
                for reference in references {
                    counts.files += 1;
                    counts.bytes = counts.bytes.saturating_add(reference.bytes);
                    visitor.reference(&reference)?;
                }
            }
            Member::Entry { size } => {
                let entry = members.entry()?;
                count(&entry, size, &mut counts)?;
                visitor.entry(&entry, size)?;
                if let Some(names) = entry.recorded_dumpdir() {
                    Dumpdir::of(&entry).read(names)?;
                }
                let mut names = entry.is_dumpdir().then(|| Dumpdir::of(&entry));
                let mut left = if entry.is_file() || names.is_some() { size } else { 0 };
                while left > 0 {
                    let piece = members.piece().await?;
                    let part = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                    match &mut names {
                        Some(names) => names.read(&piece[..part])?,
                        None => visitor.content(&piece[..part])?,
                    }
                    left -= part as u64;
                }
            }
        }
    }
}

fn count(entry: &Entry<'_>, size: u64, counts: &mut FileCounts) -> Result<(), ComponentError> {
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

    async fn files(parts: &[&[u8]]) -> Result<FileCounts, ComponentError> {
        let stream = [&parts.concat()[..], &[0; 1024]].concat();
        decode(&mut &*stream, &Meter::default()).await
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
