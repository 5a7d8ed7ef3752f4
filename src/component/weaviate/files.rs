//! The files of backups that Weaviate wrote itself: in its folder, which we see too, or in the bucket.

use crate::component::weaviate::chunk::Chunk;
use crate::component::weaviate::index::{FileInBucket, corrupt};
use crate::component::weaviate::job::PREFIX;
use crate::component::weaviate::tree::{DESCRIPTOR, Described, RESTORED, Tree};
use crate::component::{ComponentError, Shelf};
use rustix::fs::syncfs;
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task,
};

/// Where they are.
#[derive(Debug, Clone)]
pub(super) enum Files {
    /// In this folder.
    Folder(PathBuf),
    /// In the bucket.
    Bucket(Arc<dyn Shelf>),
}

impl Files {
    /// What there is of a backup.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) async fn tree(&self, id: &str) -> Result<Tree, ComponentError> {
        match self {
            Self::Folder(root) => {
                let folder = root.join(id);
                task::spawn_blocking(move || read_folder(&folder))
                    .await
                    .map_err(crate::component::tar::crashed)?
            }
            Self::Bucket(shelf) => {
                let mut tree = Tree::default();
                for (path, bytes) in shelf.files(id).await? {
                    if Tree::is_descriptor(&path) && bytes <= Tree::LONGEST_TEXT {
                        let mut text = Vec::new();
                        let mut file = shelf.open(&format!("{id}/{path}")).await?;
                        file.read_to_end(&mut text).await.map_err(unread)?;
                        tree.say(&path, text);
                    }
                    tree.add(&path, bytes);
                }
                Ok(tree)
            }
        }
    }

    /// Removes a backup of ours, its descriptor first, so that what a crash leaves is taken for nothing. One
    /// that is not there is removed already.
    ///
    /// # Errors
    ///
    /// When something of it is left.
    pub(super) async fn remove(&self, id: &str) -> Result<(), ComponentError> {
        if !is_ours(id) {
            return Err(corrupt(format!("{id:?} is no backup of ours")));
        }
        match self {
            Self::Folder(root) => {
                let folder = root.join(id);
                let removing = {
                    let folder = folder.clone();
                    task::spawn_blocking(move || remove_folder(&folder))
                };
                removing.await.map_err(crate::component::tar::crashed)?.map_err(|source| {
                    let what = format!(
                        "remove {}: run rna-backup as the user of the server, or as one of its group",
                        folder.display()
                    );
                    ComponentError::Read { what, source }
                })
            }
            Self::Bucket(shelf) => {
                shelf.remove(&format!("{id}/{DESCRIPTOR}")).await?;
                for (path, _) in shelf.files(id).await? {
                    shelf.remove(&format!("{id}/{path}")).await?;
                }
                Ok(())
            }
        }
    }

    /// Reads the files of a backup, all of them: their hashes, and whether the chunks are whole.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when one is damaged.
    pub(super) async fn prove(
        &self,
        id: &str,
        tree: &Tree,
        described: &Described,
    ) -> Result<Vec<FileInBucket>, ComponentError> {
        let mut files = Vec::new();
        for (path, bytes) in &tree.files {
            let file: Box<dyn AsyncRead + Send + Unpin> = match self {
                Self::Folder(root) => {
                    Box::new(tokio::fs::File::open(root.join(id).join(path)).await.map_err(unread)?)
                }
                Self::Bucket(shelf) => shelf.open(&format!("{id}/{path}")).await?,
            };
            let (read, sha256) = read_file(file, path, described).await?;
            if read != *bytes {
                return Err(corrupt(format!("{path} has {read} bytes and should have {bytes}")));
            }
            files.push(FileInBucket { path: path.clone(), bytes: read, sha256 });
        }
        Ok(files)
    }

    /// Writes a backup to disk: the server leaves that to the kernel. A bucket has done so.
    ///
    /// # Errors
    ///
    /// When not all of it could be written.
    pub(super) async fn sync(&self, id: &str) -> Result<(), ComponentError> {
        let Self::Folder(root) = self else { return Ok(()) };
        let folder = root.join(id);
        let sync = move || syncfs(fs::File::open(folder)?).map_err(io::Error::from);
        task::spawn_blocking(sync).await.map_err(crate::component::tar::crashed)?.map_err(|source| {
            ComponentError::Unavailable {
                what: format!("write backup {id} to disk"),
                source: Some(source.into()),
            }
        })
    }

    /// Forgets that a backup was restored before: the server shows the end of that until the next one begins.
    pub(super) async fn forget_restore(&self, id: &str) -> Result<(), ComponentError> {
        match self {
            Self::Folder(root) => match fs::remove_file(root.join(id).join(RESTORED)) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => Err(unread(err)),
                _ => Ok(()),
            },
            Self::Bucket(shelf) => shelf.remove(&format!("{id}/{RESTORED}")).await,
        }
    }
}

/// Whether the name can be one that we have given a backup.
pub(super) fn is_ours(id: &str) -> bool {
    id.starts_with(PREFIX) && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn unread(source: io::Error) -> ComponentError {
    ComponentError::Read { what: "read a backup of Weaviate's".to_owned(), source }
}

fn read_folder(root: &Path) -> Result<Tree, ComponentError> {
    let mut tree = Tree::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(err) if err.kind() == io::ErrorKind::NotFound && folder == root => return Ok(tree),
            entries => entries.map_err(|source| ComponentError::Read {
                what: format!("read {}", folder.display()),
                source,
            })?,
        };
        for entry in entries {
            let entry = entry.map_err(unread)?;
            let kind = entry.file_type().map_err(unread)?;
            if kind.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = entry.metadata().map_err(unread)?.len();
            let path = entry.path();
            let below = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if kind.is_file() && Tree::is_descriptor(&below) && bytes <= Tree::LONGEST_TEXT {
                tree.say(&below, fs::read(&path).map_err(unread)?);
            }
            tree.add(&below, bytes);
        }
    }
    Ok(tree)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    for result in [fs::remove_file(folder.join(DESCRIPTOR)), fs::remove_dir_all(folder)] {
        match result {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    Ok(())
}

async fn read_file(
    mut file: Box<dyn AsyncRead + Send + Unpin>,
    path: &str,
    described: &Described,
) -> Result<(u64, String), ComponentError> {
    let wanted = described.chunks.get(path);
    let mut chunk = wanted.is_some().then(Chunk::default);
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    let broken = |err: io::Error| corrupt(format!("{path}: {err}"));
    loop {
        let read = file.read(&mut buffer).await.map_err(unread)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
        if let Some(chunk) = &mut chunk {
            chunk.take(&buffer[..read]).map_err(broken)?;
        }
    }
    if let (Some(chunk), Some(wanted)) = (chunk, wanted) {
        let found = chunk.finish().map_err(broken)?;
        if let Some(lost) = wanted.difference(&found).next() {
            return Err(corrupt(format!("{path} does not have {lost}")));
        }
    }
    Ok((bytes, crate::stream::hex(&hash.finalize())))
}
