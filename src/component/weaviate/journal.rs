//! The journal of a restore, one small file of ours: everything that must be known if this process dies in the middle.

use crate::base::place::sync_folder;
use crate::component::ComponentError;
use crate::component::weaviate::files::is_ours;
use crate::component::weaviate::notes::Notes;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
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
    pub(super) fn open(folder: &Path) -> Result<Self, ComponentError> {
        let file = folder.join(Self::FILE);
        let notes = match fs::read(&file) {
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
    pub(super) fn adopt(folder: &Path) -> Result<(), ComponentError> {
        let Some(above) = folder.parent().filter(|above| above.join(Self::FILE).exists()) else {
            return Ok(());
        };
        let adopt = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            for entry in fs::read_dir(above)? {
                let entry = entry?;
                let is_copy = |file: &str| is_ours(file.split('.').next().unwrap_or(file));
                if entry.file_type()?.is_file() && entry.file_name().to_str().is_some_and(is_copy) {
                    fs::rename(entry.path(), folder.join(entry.file_name()))?;
                }
            }
            // Last, so that a death before it changes nothing.
            fs::rename(above.join(Self::FILE), folder.join(Self::FILE))?;
            Ok(sync_folder(File::open(folder)?)?)
        };
        if folder.join(Self::FILE).exists() {
            return Ok(());
        }
        adopt().map_err(|err| unwritten(above, err))
    }

    /// The journals of other servers, each with the address.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Read`] when some cannot be read.
    pub(super) fn others(folder: &Path) -> Result<Vec<(String, Self)>, ComponentError> {
        let entries = folder.parent().and_then(|above| fs::read_dir(above).ok()).into_iter().flatten();
        let mut others = Vec::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path != folder && path.join(Self::FILE).exists() {
                let address = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                others.push((address, Self::open(&path)?));
            }
        }
        Ok(others)
    }

    /// Changes the notes, durably.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`] when they cannot be written; then the old ones stand.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Notes)) -> Result<(), ComponentError> {
        let mut notes = self.notes.clone();
        change(&mut notes);
        let text = serde_json::to_vec_pretty(&notes).expect("names and times are JSON");
        self.put(Self::FILE, &text)?;
        self.notes = notes;
        Ok(())
    }

    /// The [id of the journal](Notes::id), which the first call makes.
    ///
    /// # Errors
    ///
    /// As [`note`](Self::note).
    pub(super) fn id(&mut self) -> Result<String, ComponentError> {
        if let Some(id) = &self.notes.id {
            return Ok(id.clone());
        }
        let id = Uuid::new_v4().simple().to_string();
        self.note(|notes| notes.id = Some(id.clone()))?;
        Ok(id)
    }

    /// Writes a file of ours beside the notes: whole, or not at all.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`].
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ComponentError> {
        let written = || -> io::Result<()> {
            let mut file = self.begin(name)?;
            file.write_all(bytes)?;
            self.finish(name, &file)
        };
        written().map_err(|err| unwritten(&self.folder, err))
    }

    /// Begins a file that nobody sees before it is [finished](Self::finish).
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub(super) fn begin(&self, name: &str) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let partial = self.folder.join(format!("{name}.partial"));
        File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)
    }

    /// Gives a file its name, durably.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub(super) fn finish(&self, name: &str, file: &File) -> io::Result<()> {
        file.sync_all()?;
        fs::rename(self.folder.join(format!("{name}.partial")), self.folder.join(name))?;
        Ok(sync_folder(File::open(&self.folder)?)?)
    }

    /// Removes what the notes do not name: of copies that were not finished, or whose run died before it noted them.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`].
    pub(super) fn clear(&self) -> Result<(), ComponentError> {
        let named = self.notes.snapshots();
        let is_needed = |file: &str| {
            let id = file.split('.').next().unwrap_or(file);
            if file.strip_suffix(".partial") == Some(Self::FILE) {
                return false;
            }
            !is_ours(id) || named.iter().any(|snapshot| snapshot.id == id)
        };
        let clear = || -> io::Result<()> {
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(|file| !is_needed(file)) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        match clear() {
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
    pub(super) fn remove(&self, name: &str) -> Result<(), ComponentError> {
        for name in [name.to_owned(), format!("{name}.partial")] {
            match fs::remove_file(self.folder.join(name)) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(unwritten(&self.folder, err));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn unread(file: &Path, source: io::Error) -> ComponentError {
    ComponentError::Read { what: format!("read {}", file.display()), source }
}

pub(super) fn unwritten(folder: &Path, source: io::Error) -> ComponentError {
    let what = format!("write in {}", folder.display());
    ComponentError::Unavailable { what, source: Some(source.into()) }
}

#[cfg(test)]
use crate::component::weaviate::{
    index::Made,
    notes::{Kept, Loose, Replacing, State, Step, tests::snapshot},
};

#[test]
fn notes_are_there_again_and_a_folder_is_made_only_when_there_is_something_to_note() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(".weaviate");
    let mut journal = Journal::open(&folder).unwrap();
    journal.clear().unwrap();
    assert!(!folder.exists());
    let loose = Loose::new(Made::S3, "rna-1");
    journal.note(|notes| notes.loose.push(loose.clone())).unwrap();
    assert_eq!(Journal::open(&folder).unwrap().notes.loose, [loose]);
    journal.put("a", b"x").unwrap();
    journal.remove("a").unwrap();
    assert!(!folder.join("a").exists());
    journal.remove("a").unwrap();

    let kept = Kept { before: [("A".to_owned(), Some(snapshot("rna-kept")))].into() };
    let step = Step { state: State::Deleted, before: Some(snapshot("rna-safe")) };
    let replacing = Replacing { classes: [("A".to_owned(), step)].into(), ..Replacing::default() };
    journal.note(|notes| (notes.kept, notes.replacing) = (Some(kept), Some(replacing))).unwrap();
    let needed = ["rna-kept.json", "rna-kept.tar", "rna-safe.tar", "another.tar", "journal.json"];
    let left = ["rna-left.tar.partial", "rna-left.json", "rna-left2.tar", "journal.json.partial"];
    for name in needed.iter().chain(&left).filter(|name| **name != "journal.json") {
        fs::write(folder.join(name), "").unwrap();
    }
    journal.clear().unwrap();
    assert!(needed.iter().all(|name| folder.join(name).exists()));
    assert!(!left.iter().any(|name| folder.join(name).exists()));

    fs::write(folder.join("journal.json"), "{").unwrap();
    assert!(matches!(Journal::open(&folder), Err(ComponentError::Read { .. })));
}

#[test]
fn what_cannot_be_read_or_removed_is_an_error_and_not_an_empty_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    fs::create_dir(dir.path().join("rna-1.tar")).unwrap();
    assert!(matches!(journal.remove("rna-1.tar"), Err(ComponentError::Unavailable { .. })));
    assert!(matches!(journal.clear(), Err(ComponentError::Unavailable { .. })));
    fs::create_dir(dir.path().join(Journal::FILE)).unwrap();
    assert!(matches!(Journal::open(dir.path()), Err(ComponentError::Read { .. })));
}

#[test]
fn each_server_has_a_journal_and_the_one_of_earlier_versions_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("weaviate:8080"), dir.path().join("staging:8080"));
    let loose = Loose::new(Made::S3, "rna-1");
    Journal::open(dir.path()).unwrap().note(|notes| notes.loose.push(loose.clone())).unwrap();
    fs::write(dir.path().join("rna-2.tar"), "copy").unwrap();
    Journal::adopt(&one).unwrap();
    assert_eq!(Journal::open(&one).unwrap().notes.loose, [loose]);
    assert!(one.join("rna-2.tar").exists() && !dir.path().join("journal.json").exists());
    Journal::adopt(&other).unwrap();
    assert!(Journal::open(&other).unwrap().notes.loose.is_empty());
    let others = Journal::others(&other).unwrap();
    assert_eq!(others.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>(), ["weaviate:8080"]);
}
