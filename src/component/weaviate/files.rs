//! The files of backups that Weaviate wrote itself: in its folder, which we see too, or in the bucket.

use crate::component::weaviate::chunk::{Chunk, Contents};
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::folder::Folder;
use crate::component::weaviate::index::{FileInBucket, Index, corrupt};
use crate::component::weaviate::job::PREFIX;
use crate::component::weaviate::tree::{DESCRIPTOR, Described, RESTORED, Tree};
use crate::component::{BucketFolder, ComponentError};
use rustix::fs::syncfs;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task,
};

/// The place of the files of backups.
#[derive(Debug, Clone)]
pub(super) enum Files {
    /// In this folder.
    Folder(Folder),
    /// In the bucket.
    Bucket(Arc<dyn BucketFolder>),
}

impl Files {
    /// The tree of files that is there of a backup.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) async fn tree(&self, id: &str) -> Result<Tree, ComponentError> {
        match self {
            Self::Folder(folder) => {
                let folder = folder.of(id);
                task::spawn_blocking(move || read_folder(&folder)).await?
            }
            Self::Bucket(bucket_folder) => {
                let mut tree = Tree::default();
                for (path, bytes) in bucket_folder.files(id).await? {
                    if !Tree::is_descriptor(&path) || bytes > Tree::LONGEST_TEXT {
                        tree.add(&path, bytes);
                        continue;
                    }
                    let mut text = Vec::new();
                    let file = bucket_folder.open(&format!("{id}/{path}")).await?;
                    file.take(Tree::LONGEST_TEXT).read_to_end(&mut text).await.map_err(unread)?;
                    tree.add_descriptor(&path, text);
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
            Self::Folder(folder) => folder.remove(id).await,
            Self::Bucket(bucket_folder) => {
                bucket_folder.remove(&format!("{id}/{DESCRIPTOR}")).await?;
                for (path, _) in bucket_folder.files(id).await? {
                    bucket_folder.remove(&format!("{id}/{path}")).await?;
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
        let (files, contents) = self.read(id, tree, described).await?;
        described.compare(&contents).map_err(corrupt)?;
        Ok(files)
    }

    /// Reads every file of `tree`: the hash of each, and the contents of the chunks.
    async fn read(
        &self,
        id: &str,
        tree: &Tree,
        described: &Described,
    ) -> Result<(Vec<FileInBucket>, BTreeMap<String, Contents>), ComponentError> {
        let (mut files, mut contents) = (Vec::new(), BTreeMap::new());
        for (path, wanted) in &tree.files {
            let file: Box<dyn AsyncRead + Send + Unpin> = match self {
                Self::Folder(folder) => {
                    Box::new(tokio::fs::File::open(folder.of(id).join(path)).await.map_err(unread)?)
                }
                Self::Bucket(bucket_folder) => bucket_folder.open(&format!("{id}/{path}")).await?,
            };
            let mut chunk = described.is_chunk(path).then(Chunk::default);
            let (bytes, sha256) = read_file(file, path, chunk.as_mut()).await?;
            if bytes != *wanted {
                return Err(corrupt(format!("{path} has {bytes} bytes and should have {wanted}")));
            }
            if let Some(chunk) = chunk {
                let found = chunk.finish().map_err(|err| corrupt(format!("{path}: {err}")))?;
                contents.insert(path.clone(), found);
            }
            files.push(FileInBucket { path: path.clone(), bytes, sha256 });
        }
        Ok((files, contents))
    }

    /// Reads the files that an archive names, and compares their lengths and hashes with those in its index. Files
    /// that came later are left alone.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`], which names the first file that is missing or not what was backed up.
    pub(super) async fn compare(&self, index: &Index) -> Result<(), ComponentError> {
        let mut tree = self.tree(&index.id).await?;
        tree.files.retain(|path, _| index.files.iter().any(|file| file.path == *path));
        for FileInBucket { path, bytes, .. } in &index.files {
            match tree.files.get(path) {
                None => return Err(corrupt(format!("{}/{path} is missing in the bucket", index.id))),
                Some(found) if found != bytes => {
                    let what = format!("{}/{path} has {found} bytes and should have {bytes}", index.id);
                    return Err(corrupt(what));
                }
                Some(_) => {}
            }
        }
        // The hashes prove the contents of the chunks, too.
        let (found, _) = self.read(&index.id, &tree, &Described::default()).await?;
        match index.files.iter().find(|file| !found.contains(file)) {
            Some(changed) => Err(corrupt(format!("{}/{} is not what was backed up", index.id, changed.path))),
            None => Ok(()),
        }
    }

    /// The shards whose vector index the server has left out. Only chunks of classes that may lack one are read.
    ///
    /// # Errors
    ///
    /// When a chunk cannot be read.
    pub(super) async fn lost_indexes(
        &self,
        id: &str,
        tree: &Tree,
        described: &Described,
        classes: &Classes,
    ) -> Result<BTreeSet<String>, ComponentError> {
        let part = tree.only(&described.chunks_without_index(classes));
        let (_, contents) = self.read(id, &part, described).await?;
        Ok(described.lost_indexes(&contents, classes))
    }

    /// Returns whether the files of the backup `id` are, byte for byte, those of `tree`, which has the name `other`.
    /// Files that cannot be read are not the same.
    pub(super) async fn is_same(&self, id: &str, other: &str, tree: &Tree, described: &Described) -> bool {
        let prove = async |name: &str, tree: &Tree| {
            let mut files = self.prove(name, tree, described).await?;
            files.retain(|file| file.path != RESTORED);
            Ok::<_, ComponentError>(files)
        };
        let same = async {
            let found = self.tree(id).await?;
            Ok::<_, ComponentError>(prove(id, &found).await? == prove(other, tree).await?)
        };
        same.await.unwrap_or(false)
    }

    /// Writes a backup to disk: the server leaves that to the kernel. A bucket has done so.
    ///
    /// # Errors
    ///
    /// When not all of it could be written.
    pub(super) async fn sync(&self, id: &str) -> Result<(), ComponentError> {
        let Self::Folder(folder) = self else { return Ok(()) };
        let folder = folder.of(id);
        let sync = move || syncfs(fs::File::open(folder)?).map_err(io::Error::from);
        task::spawn_blocking(sync).await?.map_err(|source| ComponentError::Unavailable {
            what: format!("write backup {id} to disk"),
            source: Some(source.into()),
        })
    }

    /// Forgets that a backup was restored before: the server shows the end of that until the next one begins.
    /// In a folder that this process may not change, the old status stays; the server overwrites it with the order.
    pub(super) async fn remove_restore_status(&self, id: &str) -> Result<(), ComponentError> {
        match self {
            Self::Folder(folder) => match tokio::fs::remove_file(folder.of(id).join(RESTORED)).await {
                Ok(()) => Ok(()),
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                Err(err) => Err(unread(err)),
            },
            Self::Bucket(bucket_folder) => bucket_folder.remove(&format!("{id}/{RESTORED}")).await,
        }
    }
}

/// Returns whether the id can be one that this program has given a backup.
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
                tree.add_descriptor(&below, fs::read(&path).map_err(unread)?);
            } else {
                tree.add(&below, bytes);
            }
        }
    }
    Ok(tree)
}

/// Reads a file to its end, through `chunk` if it is one: its length and its hash.
async fn read_file(
    mut file: Box<dyn AsyncRead + Send + Unpin>,
    path: &str,
    mut chunk: Option<&mut Chunk>,
) -> Result<(u64, String), ComponentError> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        let read = file.read(&mut buffer).await.map_err(unread)?;
        if read == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
        if let Some(chunk) = &mut chunk {
            chunk.take(&buffer[..read]).map_err(|err| corrupt(format!("{path}: {err}")))?;
        }
    }
}
