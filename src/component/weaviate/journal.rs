//! The journal of a restore, one small file of ours: everything that must be known if this process dies in the middle.

use crate::base::durable::{self, blocking};
use crate::component::ComponentError;
use crate::component::weaviate::files::is_ours;
use crate::component::weaviate::notes::Notes;
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The file, and what stands in it.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    pub(super) notes: Notes,
}

impl Journal {
    /// The name of the file.
    pub(super) const FILE: &str = "journal.json";

    /// Reads what there is; nothing, where there is no such folder.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Read`] when it cannot be read.
    pub(super) async fn open(folder: &Path) -> Result<Self, ComponentError> {
        let file = folder.join(Self::FILE);
        let path = file.clone();
        let notes = match blocking(move || fs::read(path)).await {
            Ok(text) => serde_json::from_slice(&text).map_err(|err| unread(&file, err.into()))?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Notes::default(),
            Err(err) => return Err(unread(&file, err)),
        };
        Ok(Self { folder: folder.to_owned(), notes })
    }

    /// Takes over what earlier versions have noted in the folder above, which had one journal for all servers.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when it cannot be moved.
    pub(super) async fn adopt(folder: &Path) -> Result<(), ComponentError> {
        let Some(above) = folder.parent() else { return Ok(()) };
        let (folder, from) = (folder.to_owned(), above.to_owned());
        blocking(move || adopt(&folder, &from)).await.map_err(|err| unwritten(above, err))
    }

    /// The journals of other servers, each with the address.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Read`] when some cannot be read.
    pub(super) async fn others(folder: &Path) -> Result<Vec<(String, Self)>, ComponentError> {
        let Some(above) = folder.parent() else { return Ok(Vec::new()) };
        let (own, from) = (folder.to_owned(), above.to_owned());
        let list = move || {
            let paths = fs::read_dir(from).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
            Ok(paths.filter(|path| *path != own && path.join(Self::FILE).exists()).collect::<Vec<_>>())
        };
        let mut others = Vec::new();
        for path in blocking(list).await.map_err(|err| unread(above, err))? {
            let address = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            others.push((address, Self::open(&path).await?));
        }
        Ok(others)
    }

    /// Changes the notes, durably.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when they cannot be written; then the old ones stand.
    pub(super) async fn note(&mut self, change: impl FnOnce(&mut Notes)) -> Result<(), ComponentError> {
        let mut notes = self.notes.clone();
        change(&mut notes);
        let text = serde_json::to_vec_pretty(&notes).expect("names and times are JSON");
        self.put(Self::FILE, text).await?;
        self.notes = notes;
        Ok(())
    }

    /// The [id of the journal](Notes::id), which the first call makes.
    ///
    /// # Errors
    ///
    /// As [`note`](Self::note).
    pub(super) async fn id(&mut self) -> Result<String, ComponentError> {
        if let Some(id) = &self.notes.id {
            return Ok(id.clone());
        }
        let id = Uuid::new_v4().simple().to_string();
        self.note(|notes| notes.id = Some(id.clone())).await?;
        Ok(id)
    }

    /// Writes a file of ours beside the notes: whole, or not at all.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`].
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ComponentError> {
        let (folder, path) = (self.folder.clone(), self.path(name));
        let write = move || {
            make(&folder)?;
            durable::write(&path, &bytes)
        };
        blocking(write).await.map_err(|err| unwritten(&self.folder, err))
    }

    /// Begins a file that nobody sees before it is [finished](Self::finish): for what is too long for
    /// [`put`](Self::put).
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub(super) async fn begin(&self, name: &str) -> io::Result<File> {
        let (folder, partial) = (self.folder.clone(), self.path(&format!("{name}.partial")));
        let begin = move || {
            make(&folder)?;
            File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)
        };
        blocking(begin).await
    }

    /// Gives a file its name, durably.
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub(super) async fn finish(&self, name: &str, file: File) -> io::Result<()> {
        let (partial, path) = (self.path(&format!("{name}.partial")), self.path(name));
        blocking(move || durable::rename(&file, &partial, &path)).await
    }

    /// Removes what the notes do not name: of copies that were not finished, or whose run died before it noted them.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`].
    pub(super) async fn clear(&self) -> Result<(), ComponentError> {
        let named: Vec<_> = self.notes.snapshots().iter().map(|snapshot| snapshot.id.clone()).collect();
        let is_needed = move |file: &str| {
            let (id, end) = file.split_once('.').unwrap_or((file, ""));
            if file.starts_with(Self::FILE) && matches!(end.rsplit('.').next(), Some("partial" | "new")) {
                return false;
            }
            !is_ours(id) || named.iter().any(|named| named == id)
        };
        let folder = self.folder.clone();
        let clear = move || -> io::Result<()> {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(|file| !is_needed(file)) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        match blocking(clear).await {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(unwritten(&self.folder, err)),
            _ => Ok(()),
        }
    }

    /// The path of a file of ours.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes a file of ours; one that is not there is removed already.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`].
    pub(super) async fn remove(&self, name: &str) -> Result<(), ComponentError> {
        for path in [self.path(name), self.path(&format!("{name}.partial"))] {
            match blocking(move || fs::remove_file(path)).await {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(unwritten(&self.folder, err));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes the folder of a journal, for its owner alone.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Moves the journal of all servers, and the copies that it names, from the folder above into that of one server.
fn adopt(folder: &Path, above: &Path) -> io::Result<()> {
    let journal = above.join(Journal::FILE);
    if !journal.exists() || folder.join(Journal::FILE).exists() {
        return Ok(());
    }
    make(folder)?;
    for entry in fs::read_dir(above)? {
        let entry = entry?;
        let is_copy = |file: &str| is_ours(file.split('.').next().unwrap_or(file));
        if entry.file_type()?.is_file() && entry.file_name().to_str().is_some_and(is_copy) {
            fs::rename(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    // Last, so that a death before it changes nothing.
    durable::rename(&File::open(&journal)?, &journal, &folder.join(Journal::FILE))
}

fn unread(file: &Path, source: io::Error) -> ComponentError {
    ComponentError::Read { what: format!("read {}", file.display()), source }
}

pub(super) fn unwritten(folder: &Path, source: io::Error) -> ComponentError {
    let is_full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let what = format!("write in {}{}", folder.display(), if is_full { ": make room there" } else { "" });
    ComponentError::Unavailable { what, source: Some(source.into()) }
}

#[cfg(test)]
use crate::component::weaviate::{
    index::BackupBackend,
    notes::{ClassProgress, OrphanBackup, PreviousClasses, Replacing, State, tests::snapshot},
};

#[tokio::test]
async fn notes_are_there_again_and_a_folder_is_made_only_when_there_is_something_to_note() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(".weaviate");
    let mut journal = Journal::open(&folder).await.unwrap();
    journal.clear().await.unwrap();
    assert!(!folder.exists());
    let orphan = OrphanBackup::new(BackupBackend::S3, "rna-1");
    journal.note(|notes| notes.orphans.push(orphan.clone())).await.unwrap();
    assert_eq!(Journal::open(&folder).await.unwrap().notes.orphans, [orphan]);
    journal.put("a", b"x".to_vec()).await.unwrap();
    journal.remove("a").await.unwrap();
    assert!(!folder.join("a").exists());
    journal.remove("a").await.unwrap();

    let kept = PreviousClasses { before: [("A".to_owned(), Some(snapshot("rna-kept")))].into() };
    let step = ClassProgress { state: State::Deleted, before: Some(snapshot("rna-safe")) };
    let replacing = Replacing { classes: [("A".to_owned(), step)].into(), ..Replacing::default() };
    journal.note(|notes| (notes.kept, notes.replacing) = (Some(kept), Some(replacing))).await.unwrap();
    let needed = ["rna-kept.json", "rna-kept.tar", "rna-safe.tar", "another.tar", "journal.json"];
    let left = ["rna-left.tar.partial", "rna-left.json", "rna-left2.tar", "journal.json.partial"];
    for name in needed.iter().chain(&left).filter(|name| **name != "journal.json") {
        fs::write(folder.join(name), "").unwrap();
    }
    journal.clear().await.unwrap();
    assert!(needed.iter().all(|name| folder.join(name).exists()));
    assert!(!left.iter().any(|name| folder.join(name).exists()));

    fs::write(folder.join("journal.json"), "{").unwrap();
    assert!(matches!(Journal::open(&folder).await, Err(ComponentError::Read { .. })));
}

#[tokio::test]
async fn what_cannot_be_read_or_removed_is_an_error_and_not_an_empty_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).await.unwrap();
    fs::create_dir(dir.path().join("rna-1.tar")).unwrap();
    assert!(matches!(journal.remove("rna-1.tar").await, Err(ComponentError::Unavailable { .. })));
    assert!(matches!(journal.clear().await, Err(ComponentError::Unavailable { .. })));
    fs::create_dir(dir.path().join(Journal::FILE)).unwrap();
    assert!(matches!(Journal::open(dir.path()).await, Err(ComponentError::Read { .. })));
}

#[tokio::test]
async fn each_server_has_a_journal_and_the_one_of_earlier_versions_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("weaviate:8080"), dir.path().join("staging:8080"));
    let orphan = OrphanBackup::new(BackupBackend::S3, "rna-1");
    Journal::open(dir.path()).await.unwrap().note(|notes| notes.orphans.push(orphan.clone())).await.unwrap();
    fs::write(dir.path().join("rna-2.tar"), "copy").unwrap();
    Journal::adopt(&one).await.unwrap();
    assert_eq!(Journal::open(&one).await.unwrap().notes.orphans, [orphan]);
    assert!(one.join("rna-2.tar").exists() && !dir.path().join("journal.json").exists());
    Journal::adopt(&other).await.unwrap();
    assert!(Journal::open(&other).await.unwrap().notes.orphans.is_empty());
    let others = Journal::others(&other).await.unwrap();
    assert_eq!(others.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>(), ["weaviate:8080"]);
}
