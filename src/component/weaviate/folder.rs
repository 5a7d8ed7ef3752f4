//! The folder that Weaviate writes its backups to and this process sees too, often as another user.
//!
//! This process makes the folders of a backup before it orders the backup, with the group and mode of the shared
//! folder. The owner of a folder may remove files of others from it, so a server that runs as root leaves nothing
//! behind. And a server that may not write into folders of this process refuses the backup, which changes
//! nothing, instead of the restore, whose classes are deleted by then.

use crate::base::durable::blocking;
use crate::component::ComponentError;
use crate::component::weaviate::access::{has_no_file, make, remove, share, unremovable_folder};
use crate::component::weaviate::files::is_ours;
use crate::component::weaviate::tree::DESCRIPTOR;
use rustix::process::{getegid, geteuid};
use std::{
    error::Error,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;
use uuid::Uuid;

type Cause = Box<dyn Error + Send + Sync>;

/// `BACKUP_WEAVIATE_DIR`, and the same folder as Weaviate sees it.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    on_server: String,
}

/// The cause of an error that means: this folder cannot be used by Weaviate and this process together.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Closed(Cause);

/// Returns whether an error says that the folder cannot be used by Weaviate and this process together.
pub(super) fn is_closed(err: &ComponentError) -> bool {
    matches!(err, ComponentError::Unusable { source: Some(source), .. } if source.is::<Closed>())
}

/// The result of an attempt to free the name of a backup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FolderRelease {
    /// Nothing has that name.
    Free,
    /// A leftover that cannot be removed, and has been renamed.
    Renamed,
    /// A leftover that can be neither removed nor renamed.
    Taken,
}

impl Folder {
    pub(super) const fn new(path: PathBuf, on_server: String) -> Self {
        Self { path, on_server }
    }

    /// The path of a backup.
    pub(super) fn of(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    /// Makes and removes a folder with a file in it, as each backup does.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`], which [`is_closed`], when this process may not; the text says what to do.
    pub(super) async fn probe(&self) -> Result<(), ComponentError> {
        let (root, name) = (self.path.clone(), format!(".rna-backup-{}", Uuid::new_v4().simple()));
        let tried = spawn_blocking(move || -> io::Result<()> {
            let folder = make(&root, &[&name])?;
            let written = fs::write(folder.join("file"), "");
            let removed = fs::remove_dir_all(folder);
            written.and(removed)
        });
        tried.await?.map_err(|err| self.not_made(err))
    }

    /// Refuses the folder where the server has made folders of its own inside a backup's folder of this process,
    /// which this process may not remove: the next backup would be left there too.
    ///
    /// # Errors
    ///
    /// As [`probe`](Self::probe).
    pub(super) async fn look_for_evidence(&self) -> Result<(), ComponentError> {
        let own = |id: &String| fs::metadata(self.of(id)).is_ok_and(|it| it.uid() == geteuid().as_raw());
        match self.left().await?.iter().find(|id| own(id)) {
            Some(id) => Err(self.not_removed(id, io::Error::from(io::ErrorKind::PermissionDenied))),
            None => Ok(()),
        }
    }

    /// The backups of ours that this process may not remove, by name.
    pub(super) async fn left(&self) -> Result<Vec<String>, ComponentError> {
        let root = self.path.clone();
        let found = spawn_blocking(move || -> io::Result<Vec<String>> {
            let mut left = Vec::new();
            for entry in fs::read_dir(root)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                if is_ours(&name)
                    && entry.file_type()?.is_dir()
                    && unremovable_folder(&entry.path()).is_some()
                {
                    left.push(name);
                }
            }
            left.sort();
            Ok(left)
        });
        found.await?.map_err(|source| self.unread(source))
    }

    /// The command to run for backups that this process may not remove; `None` where there are none.
    pub(super) fn advice(&self, left: &[String]) -> Option<String> {
        /// The most names that are read; others take their place when they are gone.
        const MOST: usize = 5;
        if left.is_empty() {
            return None;
        }
        let paths: Vec<_> = left.iter().take(MOST).map(|id| self.on_server(id)).collect();
        Some(format!(
            "backups in Weaviate's folder that user {} may not remove: {}; run `rm -r {}` in Weaviate's container",
            user(),
            left.len(),
            paths.join(" ")
        ))
    }

    /// Makes the folders that the server will write a backup into.
    ///
    /// # Errors
    ///
    /// As [`probe`](Self::probe).
    pub(super) async fn prepare(
        &self,
        id: &str,
        nodes: &[String],
        classes: &[&String],
    ) -> Result<(), ComponentError> {
        let (root, id, nodes) = (self.path.clone(), id.to_owned(), nodes.to_vec());
        let classes: Vec<String> = classes.iter().map(|class| (*class).clone()).collect();
        let made = move || {
            make(&root, &[&id])?;
            for node in nodes.iter().filter(|node| is_one_name(node)) {
                for class in &classes {
                    make(&root, &[&id, node, class])?;
                }
            }
            Ok(())
        };
        blocking(made).await.map_err(|err| self.not_made(err))
    }

    /// Removes the folders of backups without a single file. The server has taken no order for them: for an order
    /// that it takes, it writes a file before it answers.
    pub(super) async fn discard_unused(&self, ids: Vec<String>) {
        let folders: Vec<_> = ids.iter().map(|id| self.of(id)).collect();
        let discarded = spawn_blocking(move || {
            for folder in folders.iter().filter(|folder| has_no_file(folder)) {
                let _ = remove(folder);
            }
        });
        let _ = discarded.await;
    }

    /// Gives an unpacked backup the group and mode of the shared folder, as far as this process may.
    pub(super) async fn share(&self, id: &str) -> Result<(), ComponentError> {
        let (root, folder) = (self.path.clone(), self.of(id));
        let shared = spawn_blocking(move || share(&folder, &fs::metadata(root)?));
        shared.await?.map_err(|source| self.unread(source))
    }

    /// Removes a backup, its descriptor first, so that what a crash leaves is taken for nothing. One that is not
    /// there is removed already.
    ///
    /// # Errors
    ///
    /// As [`probe`](Self::probe), when something of it is left.
    pub(super) async fn remove(&self, id: &str) -> Result<(), ComponentError> {
        let folder = self.of(id);
        let removed = spawn_blocking(move || remove(&folder));
        removed.await?.map_err(|err| self.not_removed(id, err))
    }

    /// Frees the name of a backup: removes the files that have the name, or else renames them to `aside`.
    pub(super) async fn free(&self, id: &str, aside: &str) -> Result<FolderRelease, ComponentError> {
        let found = tokio::fs::symlink_metadata(self.of(id)).await;
        if found.is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
            return Ok(FolderRelease::Free);
        }
        let Err(left) = self.remove(id).await else { return Ok(FolderRelease::Free) };
        let Ok(()) = tokio::fs::rename(self.of(id), self.of(aside)).await else {
            return Ok(FolderRelease::Taken);
        };
        tracing::warn!(error = %crate::base::chain(&left), aside, "an older copy of a backup is left in Weaviate's folder");
        Ok(FolderRelease::Renamed)
    }

    /// The error of a restore when other files have the name of the backup and can be neither removed nor renamed.
    pub(super) fn taken(&self, id: &str) -> ComponentError {
        let what = "put the backup in the place of the other files that BACKUP_WEAVIATE_DIR has at";
        let why = io::Error::from(io::ErrorKind::PermissionDenied);
        closed(what, &self.of(id), Some(self.removal(id)), why)
    }

    /// Makes sure that the server may write into the folder of the backup `id`, as each restore does. The server has
    /// just written the backup `tried`: either both folders have the same owner, group and mode, or the server has
    /// written both backups.
    ///
    /// # Errors
    ///
    /// As [`probe`](Self::probe), when that is not certain.
    pub(super) fn is_open_to_server(&self, id: &str, tried: &str) -> Result<(), ComponentError> {
        let looked = || -> io::Result<bool> {
            let (folder, like) = (fs::metadata(self.of(id))?, fs::metadata(self.of(tried))?);
            let rights = |it: &Metadata| (it.uid(), it.gid(), it.mode());
            let writer = |id| fs::metadata(self.of(id).join(DESCRIPTOR)).map(|it| it.uid());
            Ok(rights(&folder) == rights(&like) || writer(id)? == writer(tried)?)
        };
        match looked() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let what = "let Weaviate write into the backup that BACKUP_WEAVIATE_DIR has at";
                let why = io::Error::from(io::ErrorKind::PermissionDenied);
                Err(closed(what, &self.of(id), Some(self.removal(id)), why))
            }
            Err(source) => Err(self.unread(source)),
        }
    }

    /// Sorts an error of a backup: where the operating system has refused the server or this process, people have
    /// to mend the folder.
    pub(super) fn judge(&self, err: ComponentError) -> ComponentError {
        let said = crate::base::chain(&err);
        let is_refusal = ["permission denied", "operation not permitted"].iter().any(|no| said.contains(no));
        if is_refusal && said.contains(&self.on_server) {
            let what = "let Weaviate write into folders that rna-backup makes in BACKUP_WEAVIATE_DIR";
            return closed(what, &self.path, None, err);
        }
        match err {
            ComponentError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                closed("read what Weaviate writes to BACKUP_WEAVIATE_DIR", &self.path, None, source)
            }
            err => err,
        }
    }

    fn not_made(&self, err: io::Error) -> ComponentError {
        // Root as the owner means that Weaviate runs as root, who may write into anybody's folder.
        let is_of_root = fs::metadata(&self.path).is_ok_and(|found| found.uid() == 0);
        let chown = || format!("run `chown {} {}` in Weaviate's container, or ", user(), self.on_server);
        closed("make and remove folders in BACKUP_WEAVIATE_DIR", &self.path, is_of_root.then(chown), err)
    }

    fn not_removed(&self, id: &str, err: io::Error) -> ComponentError {
        let what = "remove what Weaviate has left in BACKUP_WEAVIATE_DIR at";
        let folder = self.of(id);
        closed(what, &unremovable_folder(&folder).unwrap_or(folder), Some(self.removal(id)), err)
    }

    /// The cure for a backup that this process may not remove.
    fn removal(&self, id: &str) -> String {
        let path = self.on_server(id);
        format!("run `rm -r {path}` in Weaviate's container, and so that no other is left, ")
    }

    /// The path of a backup as Weaviate sees it.
    fn on_server(&self, id: &str) -> String {
        format!("{}/{id}", self.on_server.trim_end_matches('/'))
    }

    fn unread(&self, source: io::Error) -> ComponentError {
        ComponentError::Read { what: format!("read {}", self.path.display()), source }
    }
}

/// The error for an action that the operating system refuses in the folder, with the cure.
fn closed(action: &str, at: &Path, cure: Option<String>, cause: impl Into<Cause>) -> ComponentError {
    let is = fs::symlink_metadata(at).map_or_else(
        |_| "of unknown owner".to_owned(),
        |it| format!("owner {}:{}, mode {:04o}", it.uid(), it.gid(), it.mode() & 0o7777),
    );
    let (user, cure) = (user(), cure.unwrap_or_default());
    let what = format!(
        "{action} {} ({is}) while rna-backup runs as {user}: {cure}run both as one user, by `user: \"{user}\"` in \
         Weaviate's compose service or by BACKUP_USER of rna-backup",
        at.display()
    );
    ComponentError::Unusable { what, source: Some(Closed(cause.into()).into()) }
}

/// The user and group of this process, as `chown` and Docker want them.
fn user() -> String {
    format!("{}:{}", geteuid().as_raw(), getegid().as_raw())
}

/// Returns whether a name from the server is a single step of a path.
fn is_one_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

#[test]
fn a_name_that_leads_elsewhere_is_no_node() {
    assert!(["node1", "weaviate-0", "a.b"].iter().all(|name| is_one_name(name)));
    assert!(["", ".", "..", "a/b", "/", "../x"].iter().all(|name| !is_one_name(name)));
}
