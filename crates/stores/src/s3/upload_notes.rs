//! Notes on this machine about its open uploads in parts: those of a process that died are given up by their ids, where
//! a store does not list them.

use crate::s3::{S3Store, fault::Fault};
use rna_backup_base::chain;
use rna_backup_base::durable::{self, blocking};
use rna_backup_base::lock::FileLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The contents of a note.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NoteContents {
    /// The key of the object in the bucket.
    key: String,
    /// The id of the upload.
    id: String,
}

/// The note on one upload, locked as long as its process works on it. One that is dropped stays for the next sweep.
#[derive(Debug)]
pub(super) struct UploadNote {
    path: PathBuf,
    contents: NoteContents,
    _lock: FileLock,
}

impl UploadNote {
    /// Removes the note: the upload is no more.
    pub(super) async fn remove(self) {
        let removed = blocking(move || fs::remove_file(&self.path)).await;
        if let Err(err) = removed {
            tracing::debug!(error = %chain(&err), "the note on an upload that has ended stays until the next sweep");
        }
    }
}

impl S3Store {
    /// Notes an upload that has begun. Should that fail, only a listing of the store finds the upload after a crash.
    pub(super) async fn note_upload(&self, key: &str, id: &str) -> Option<UploadNote> {
        let folder = self.bucket().config.uploads.clone()?;
        let contents = NoteContents { key: key.to_owned(), id: id.to_owned() };
        let name = format!("{}-{}", self.name_prefix(), &digest(id)[..32]);
        match blocking(move || write(&folder, &name, contents)).await {
            Ok(note) => Some(note),
            Err(err) => {
                tracing::warn!(error = %chain(&err), "cannot note an upload: should this process die, it may stay in the bucket");
                None
            }
        }
    }

    /// Gives up the uploads that dead processes of this machine have noted, and returns their number.
    pub(super) async fn abort_noted(&self) -> Result<u64, Fault> {
        let Some(folder) = self.bucket().config.uploads.clone() else { return Ok(0) };
        let prefix = self.name_prefix();
        let dead = blocking(move || Ok(dead(&folder, &prefix))).await.unwrap_or_default();
        let mut given_up = 0;
        for note in dead {
            let there = self.abort_multipart(&note.contents.key, &note.contents.id).await?;
            given_up += u64::from(there);
            note.remove().await;
        }
        Ok(given_up)
    }

    /// The beginning of the names of notes on uploads to this bucket.
    fn name_prefix(&self) -> String {
        let config = &self.bucket().config;
        let address = format!("{}\n{}", config.endpoint.as_deref().unwrap_or_default(), config.bucket);
        digest(&address)[..16].to_owned()
    }
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Writes a note, which is locked before it has its name.
fn write(folder: &Path, name: &str, contents: NoteContents) -> io::Result<UploadNote> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let (partial, path) = (folder.join(format!("{name}.new")), folder.join(name));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    let lock = FileLock::try_lock(file.try_clone()?)?;
    file.write_all(&serde_json::to_vec(&contents)?)?;
    durable::rename(&file, &partial, &path)?;
    Ok(UploadNote { path, contents, _lock: lock })
}

/// The notes on uploads to one bucket that no process has locked. Files that are no notes are removed.
fn dead(folder: &Path, prefix: &str) -> Vec<UploadNote> {
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    let paths = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_ours).filter_map(read_dead).collect()
}

fn read_dead(path: PathBuf) -> Option<UploadNote> {
    /// Longer than a key and an id of an upload.
    const LONGEST: u64 = 64 << 10;
    let lock = FileLock::try_lock(File::open(&path).ok()?).ok()?;
    let mut text = Vec::new();
    lock.file().take(LONGEST).read_to_end(&mut text).ok()?;
    let Ok(contents) = serde_json::from_slice(&text) else {
        let _ = fs::remove_file(&path); // its process died while it wrote the note
        return None;
    };
    Some(UploadNote { path, contents, _lock: lock })
}
