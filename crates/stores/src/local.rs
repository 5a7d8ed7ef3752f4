//! A folder as a store.
//!
//! Files are made in `.partial/` beside the objects and renamed into place when they are whole and
//! synced, so nothing is visible before that, even after a power cut. They are readable by their
//! owner alone (0600, folders 0700): a backup holds everything that the app keeps secret. No
//! symbolic link is followed below the root, and names that begin with a dot are no objects.

mod folder;
mod kind;
mod partial;
mod read;
mod upload;

use crate::{AccessCheck, Body, Capabilities, ObjectKey, ObjectMeta, OpenError, Store, StoreError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use folder::Folder;
use partial::Partial;
use rna_backup_base::access::{self, Need, explained};
use rna_backup_base::chain;
use std::{
    fmt,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
    sync::{Arc, OnceLock},
};
use upload::LocalUpload;

pub use kind::KIND;
pub use partial::Swept;

/// A destination on a local or mounted file system. Clones are the same store.
#[derive(Clone)]
pub struct LocalStore {
    /// The root as people wrote it, made absolute.
    root: Arc<Path>,
    /// The root without any symbolic link; set when the folder is opened for the first time.
    real_root: Arc<OnceLock<PathBuf>>,
    keep_free: u64,
}

/// The folder cannot be a store.
#[derive(Debug, thiserror::Error)]
#[error("open backup folder {}", root.display())]
pub struct RootError {
    root: PathBuf,
    source: io::Error,
}

impl LocalStore {
    /// Opens the folder `root`, which is made when it is missing. Uploads leave at least
    /// `keep_free` bytes of its file system free.
    ///
    /// The folder need not be writable, for a backup is also restored from a read-only mount:
    /// [`probe`](Self::probe) finds out. Blocks for a moment: call it at the start.
    ///
    /// # Errors
    ///
    /// [`RootError`] when it is not a folder, or cannot be made or read.
    pub fn open(root: impl AsRef<Path>, keep_free: u64) -> Result<Self, RootError> {
        let store = Self::later(root, keep_free)?;
        store.try_open()?;
        Ok(store)
    }

    /// The store in the folder `root`, which the first call that needs it opens, and makes when it is missing. A
    /// worker starts with it also while the folder cannot be used, and works as soon as it can.
    ///
    /// # Errors
    ///
    /// [`RootError`] when `root` is relative and there is no working directory.
    pub fn later(root: impl AsRef<Path>, keep_free: u64) -> Result<Self, RootError> {
        let root = root.as_ref();
        let absolute = std::path::absolute(root);
        let absolute = absolute.map_err(|source| RootError { root: root.to_owned(), source })?;
        Ok(Self { root: absolute.into(), real_root: Arc::default(), keep_free })
    }

    fn try_open(&self) -> Result<(), RootError> {
        let failed = |err| RootError { root: self.root.to_path_buf(), source: explained(&self.root, err) };
        self.folder().map(drop).map_err(failed)
    }

    /// The open root. A folder that has been opened once is not made again: it may be a disk that is not mounted
    /// at the moment.
    fn folder(&self) -> io::Result<Folder> {
        if self.real_root.get().is_none() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
            Folder::root(&self.root)?;
            // An error means that another thread was first.
            let _ = self.real_root.set(self.root.canonicalize()?);
        }
        Folder::root(&self.root)
    }

    /// The folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Tests whether a file can be written, by writing one.
    ///
    /// # Errors
    ///
    /// The error that [`Store::begin`] would fail with.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let create = |store: &Self| {
            store.check_space()?;
            Partial::trial(&store.folder()?).map(drop)
        };
        self.blocking("begin", &reserved(), create).await
    }

    /// Removes what dead runs have left in `.partial/`. Files that a living process, this one
    /// included, is still writing stay.
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub async fn sweep_partial(&self) -> Result<Swept, StoreError> {
        self.blocking("sweep", &reserved(), |store| partial::sweep(&store.folder()?)).await
    }

    async fn start(&self, key: &ObjectKey) -> Result<LocalUpload, StoreError> {
        let create = |store: &Self| {
            store.check_space()?;
            Partial::create(&store.folder()?)
        };
        let partial = self.blocking("begin", key, create).await?;
        Ok(LocalUpload::new(self.clone(), key.clone(), partial))
    }

    /// Fails like a full disk when less is free than is to be kept free.
    fn check_space(&self) -> io::Result<()> {
        if self.disk_free()? < self.keep_free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Runs file system calls where they may block, and sorts their error.
    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &ObjectKey,
        call: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || call(&store)).await;
        done.unwrap_or_else(|err| Err(io::Error::other(err))).map_err(|err| self.sort(op, key, err))
    }

    async fn open_file(&self, key: &ObjectKey) -> Result<(Arc<File>, u64), StoreError> {
        visible("open", key)?;
        let target = key.clone();
        let open = move |store: &Self| store.folder()?.parent(&target)?.open_file(target.file_name());
        let (file, bytes) = self.blocking("open", key, open).await?;
        Ok((Arc::new(file), bytes))
    }

    fn disk_free(&self) -> io::Result<u64> {
        self.folder()?.disk_free()
    }

    fn sort(&self, op: &'static str, key: &ObjectKey, err: io::Error) -> StoreError {
        let err = explained(&self.root.join(key.as_str()), err);
        match StoreError::from_io(op, key, err) {
            StoreError::NoSpace { op, key, .. } => {
                let free = self.disk_free().unwrap_or(0);
                StoreError::NoSpace { op, key, free, keep_free: self.keep_free }
            }
            sorted => sorted,
        }
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.root.display())
    }
}

/// The key that stands in errors for the folder of files in the making.
fn reserved() -> ObjectKey {
    partial::FOLDER.parse().expect("it is a valid key")
}

fn is_hidden(key: &ObjectKey) -> bool {
    key.as_str().split('/').any(|segment| segment.starts_with('.'))
}

/// Refuses to write where no reader would look.
fn writable(op: &'static str, key: &ObjectKey) -> Result<(), StoreError> {
    if is_hidden(key) {
        let source = io::Error::other("names that begin with a dot are reserved");
        return Err(StoreError::Denied { op, key: key.clone(), source: source.into() });
    }
    Ok(())
}

fn visible(op: &'static str, key: &ObjectKey) -> Result<(), StoreError> {
    if is_hidden(key) { Err(StoreError::NotFound { op, key: key.clone() }) } else { Ok(()) }
}

#[async_trait]
impl Store for LocalStore {
    fn destination(&self) -> &'static str {
        KIND.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { is_local: true, ..Capabilities::default() }
    }

    fn fetch_command(&self, _: &ObjectKey) -> Option<Vec<String>> {
        None
    }

    fn ready(&self) -> Result<(), OpenError> {
        Ok(self.try_open()?)
    }

    fn location(&self, key: &ObjectKey) -> String {
        self.root.join(key.as_str()).display().to_string()
    }

    /// Absolute paths, relative ones from the working directory, and relative ones from the root.
    fn key_at(&self, location: &str) -> Option<ObjectKey> {
        let path = Path::new(location);
        if location.is_empty() || location.contains("://") {
            return None;
        }
        let inside = |path: &Path| {
            let of_real = || path.strip_prefix(self.real_root.get()?).ok();
            path.strip_prefix(&self.root).ok().or_else(of_real)?.to_str()?.parse().ok()
        };
        let absolute = std::path::absolute(path).ok()?;
        // The root itself may have been given with `..` in the path; no key has.
        if let Some(key) = inside(&absolute) {
            return Some(key);
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        None.or_else(|| {
            // Perhaps reached through a link above the root.
            let parent = absolute.parent()?.canonicalize().ok()?;
            inside(&parent.join(absolute.file_name()?))
        })
        .or_else(|| {
            let from_root: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
            from_root.to_str().filter(|_| path.is_relative())?.parse().ok()
        })
    }

    async fn begin(&self, key: &ObjectKey, _expected: Option<u64>) -> Result<Box<dyn Upload>, StoreError> {
        writable("begin", key)?;
        Ok(Box::new(self.start(key).await?))
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        writable("put", key)?;
        let target = key.clone();
        self.blocking("put", key, move |store| {
            let partial = Partial::create(&store.folder()?)?;
            io::Write::write_all(&mut &**partial.file(), &bytes)?;
            let folder = store.folder()?.make_parent(&target)?;
            partial.replace(&folder, target.file_name())
        })
        .await
    }

    async fn open(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let (file, bytes) = self.open_file(key).await?;
        let range = range.unwrap_or(0..bytes);
        Ok(read::stream(file, range.start..range.end.min(bytes), 1))
    }

    async fn open_beside(&self, key: &ObjectKey, readers: usize) -> Result<Body, StoreError> {
        let (file, bytes) = self.open_file(key).await?;
        Ok(read::stream(file, 0..bytes, readers))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        visible("head", key)?;
        let target = key.clone();
        self.blocking("head", key, move |store| {
            store.folder()?.parent(&target)?.describe(target.file_name(), target.clone())
        })
        .await
    }

    async fn list(&self, prefix: &ObjectKey) -> Result<Vec<ObjectMeta>, StoreError> {
        if is_hidden(prefix) {
            return Ok(Vec::new());
        }
        let folder = prefix.clone();
        let list = move |store: &Self| {
            let mut found = Vec::new();
            store.folder()?.prefix(&folder)?.list(&folder, &mut found)?;
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        };
        match self.blocking("list", prefix, list).await {
            Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
            found => found,
        }
    }

    /// Removes every partial file that no process is writing: none has the name of its object.
    async fn abort_uploads(&self, _key: &ObjectKey) -> Result<(), StoreError> {
        self.sweep_partial().await.map(drop)
    }

    /// Removes the partial files of dead runs. Files of live runs, of this process or another, are locked and stay.
    async fn sweep_dead_runs(&self, _folders: &[ObjectKey]) {
        match self.sweep_partial().await {
            Ok(Swept { files: 0, .. }) => {}
            Ok(Swept { files, bytes }) => {
                tracing::info!(files, bytes, "removed the partial files of dead runs");
            }
            Err(err) => tracing::warn!(error = %chain(&err), "cannot remove the partial files of dead runs"),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        writable("delete", key)?;
        let target = key.clone();
        let delete = move |store: &Self| store.folder()?.parent(&target)?.remove_file(target.file_name());
        match self.blocking("delete", key, delete).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }

    async fn check_access(&self, folders: &[ObjectKey], depth: AccessCheck) -> Result<(), StoreError> {
        self.probe().await?;
        for folder in folders {
            let path = self.root.join(folder.as_str());
            let check = move |_: &Self| match access::check_folder(&path, Need::Write) {
                Err(problem) if path.exists() => {
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
                }
                _ => Ok(()), // one that is missing is made when it is needed
            };
            self.blocking("begin", folder, check).await?;
        }
        if depth == AccessCheck::Write {
            let folders = folders.to_vec();
            let place = move |store: &Self| {
                let open = |folder: &ObjectKey| store.folder()?.prefix(folder);
                // One that is missing will be a folder of the root.
                let there = folders.iter().map(open).filter_map(Result::ok);
                std::iter::once(store.folder()?)
                    .chain(there)
                    .try_for_each(|folder| Partial::trial(&store.folder()?)?.try_placing(&folder))
            };
            self.blocking("commit", &reserved(), place).await?;
        }
        Ok(())
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        let free = self.blocking("measure", &reserved(), Self::disk_free).await?;
        Ok(Some(free.saturating_sub(self.keep_free)))
    }
}
