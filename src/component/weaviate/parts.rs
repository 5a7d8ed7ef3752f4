//! The parts of an export, read one after the other, line by line.

use crate::component::ComponentError;
use crate::component::weaviate::body::append;
use crate::component::weaviate::index::corrupt;
use crate::component::weaviate::ndjson::LONGEST_PART;
use async_compression::tokio::bufread::ZstdDecoder;
use async_tar::Header;
use memchr::memchr;
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Take};

/// An archive of an export. Memory holds a few blocks of it and the line that is read.
#[derive(Debug)]
pub(super) enum PartReader<R> {
    /// The archive is between two entries.
    Between(R),
    /// The lines of the part under way.
    Within(Box<Unpacked<R>>),
    /// An error has ended the reading.
    Lost,
}

type Unpacked<R> = BufReader<Take<ZstdDecoder<BufReader<Take<R>>>>>;

impl<R: AsyncRead + Unpin> PartReader<R> {
    pub(super) const fn new(archive: R) -> Self {
        Self::Between(archive)
    }

    /// Goes to the next entry, and tells its path; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the archive cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<String>, ComponentError> {
        const BLOCK: u64 = 512;
        let mut archive = match std::mem::replace(self, Self::Lost) {
            Self::Between(archive) => archive,
            Self::Within(lines) => {
                let mut entry = lines.into_inner().into_inner().into_inner();
                tokio::io::copy_buf(&mut entry, &mut tokio::io::sink()).await.map_err(unread)?;
                entry.into_inner().into_inner()
            }
            Self::Lost => return Err(unread(io::ErrorKind::UnexpectedEof.into())),
        };
        let mut header = Header::new_old();
        archive.read_exact(header.as_mut_bytes()).await.map_err(unread)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let size = header.entry_size().map_err(corrupt)?;
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let entry = archive.take(size.next_multiple_of(BLOCK));
        let lines = ZstdDecoder::new(BufReader::with_capacity(64 << 10, entry)).take(LONGEST_PART as u64);
        *self = Self::Within(Box::new(BufReader::with_capacity(64 << 10, lines)));
        Ok(Some(path))
    }

    /// Appends the next line of the part to `line`, without its end; `false` at the end of the part.
    ///
    /// # Errors
    ///
    /// When the part cannot be read.
    pub(super) async fn line(&mut self, line: &mut Vec<u8>) -> Result<bool, ComponentError> {
        let Self::Within(lines) = self else { return Ok(false) };
        let before = line.len();
        loop {
            let bytes = lines.fill_buf().await.map_err(unread)?;
            let end = memchr(b'\n', bytes);
            let (taken, length) = (end.unwrap_or(bytes.len()), bytes.len());
            append(line, &bytes[..taken], before + LONGEST_PART);
            lines.consume(end.map_or(length, |end| end + 1));
            match (end, length) {
                (Some(_), _) => return Ok(true),
                (None, 0) if line.len() == before => return Ok(false),
                (None, 0) => return Err(corrupt("the last line of a part is cut")),
                _ => {}
            }
        }
    }
}

fn unread(source: io::Error) -> ComponentError {
    ComponentError::Read { what: "read the export".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::index::{END, entry};
    use crate::component::weaviate::ndjson::pack;

    #[tokio::test]
    async fn parts_are_read_line_by_line_and_skipped_where_nobody_wants_them() {
        let part = |text: &str| pack(text.as_bytes()).unwrap();
        let long = format!("{}\n", "x".repeat(300_000));
        let archive = [
            entry("weaviate.json", b"{}"),
            entry("a", &part("one\ntwo\n")),
            entry("b", &part(&long.repeat(9))),
            entry("c", &part(&long)),
            entry("d", &part("cut")),
            END.to_vec(),
        ];
        let archive = archive.concat();
        let (mut parts, mut line) = (PartReader::new(&*archive), Vec::new());
        assert_eq!(parts.next().await.unwrap().unwrap(), "weaviate.json");
        assert_eq!(parts.next().await.unwrap().unwrap(), "a");
        while parts.line(&mut line).await.unwrap() {
            line.push(b'|');
        }
        assert_eq!(line, b"one|two|");
        assert_eq!(parts.next().await.unwrap().unwrap(), "b");
        assert_eq!(parts.next().await.unwrap().unwrap(), "c");
        line.clear();
        assert!(parts.line(&mut line).await.unwrap() && line.len() == 300_000);
        assert_eq!(parts.next().await.unwrap().unwrap(), "d");
        assert!(parts.line(&mut line).await.is_err());
        assert_eq!(parts.next().await.unwrap(), None);
        assert!(PartReader::new(&archive[..700]).next().await.is_ok());
    }
}
