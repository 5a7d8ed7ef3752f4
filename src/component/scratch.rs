//! An archive on disk for the time of its restore: `pg_restore` works in parallel only on a file in which it can jump,
//! and an archive of Weaviate is read more than once.

use crate::base::access::{AccessProblem, explained};
use crate::base::durable::blocking;
use crate::component::{ComponentError, Feed, process};
use crate::domain::progress::Meter;
use bytes::BytesMut;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

const CHUNK: usize = 1 << 20;

/// A file without a name: whatever happens to us, it is gone when the last program has closed it.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// The path by which a program opens the file that is its standard input anew.
    pub const AS_STDIN: &str = "/proc/self/fd/0";

    /// Reads `feed` to its end into a file in `folder`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when the disk does not take it, [`ComponentError::Denied`] when we may not
    /// write there; that of the feed, sorted.
    pub async fn spool(folder: &Path, feed: Feed<'_>, meter: &Meter) -> Result<Self, ComponentError> {
        let refused = |err: io::Error| {
            let what = format!("write a scratch file in {}", folder.display());
            let err = explained(folder, err);
            if AccessProblem::within(&err).is_some() {
                return ComponentError::Denied { what, source: Some(err.into()) };
            }
            ComponentError::Unavailable { what, source: Some(err.into()) }
        };
        let path = folder.join(format!(".rna-restore-{}", Uuid::new_v4()));
        let file = blocking(move || nameless(&path)).await.map_err(refused)?;
        let mut writer = tokio::fs::File::from_std(file.try_clone().map_err(refused)?);
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while feed.read_buf(&mut chunk).await.map_err(process::refused)? > 0 {
            meter.add(chunk.len() as u64);
            writer.write_all(&chunk).await.map_err(refused)?;
            chunk.clear();
        }
        writer.flush().await.map_err(refused)?;
        Ok(Self(file))
    }

    /// The file, as the standard input of a program.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when no more files can be open.
    pub fn handle(&self) -> Result<File, ComponentError> {
        self.0.try_clone().map_err(unreadable)
    }

    /// The file from its beginning.
    ///
    /// # Errors
    ///
    /// As for [`Scratch::handle`].
    pub async fn reader(&self) -> Result<tokio::fs::File, ComponentError> {
        let mut file = tokio::fs::File::from_std(self.handle()?);
        file.rewind().await.map_err(unreadable)?;
        Ok(file)
    }
}

fn unreadable(err: io::Error) -> ComponentError {
    ComponentError::Unavailable { what: "read the scratch file".into(), source: Some(err.into()) }
}

fn nameless(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// Bytes free for us in a folder's file system; `None` when it cannot be asked.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
