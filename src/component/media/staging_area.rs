//! Hidden folders in which a restore keeps its copy, and after the swap what was live.
//!
//! An area lies beside the media folder, or in it, where that is a mount point or its parent is closed to
//! us. It holds `tree`, and beside it nothing but our own files. Its name says whether the tree is a copy
//! under way (`rna-restore`) or what a restore set aside (`rna-before`), and the time.

use crate::base::{durable::sync_folder, lock::FileLock};
use crate::component::ComponentError;
use crate::component::media::{
    attributes::{Attributes, allowed},
    errors::{path_error, shown, unusable},
    extended::clear_inherited,
    find::write_holder,
    folder::Folder,
    journal::JOURNAL,
    label::{Label, Role, is_name},
    layers::{is_layered, may_leave},
    mounts::is_mount_point,
    remove::{remove, remove_locked},
    task_notes::NOTE,
    unpack::open_folder,
};
use rustix::{
    fs::{
        Access, AtFlags, CWD, Mode, OFlags, RenameFlags, accessat, fchmod, mkdirat, openat, renameat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
};
use std::{
    ffi::{CStr, CString, OsStr},
    fs::{self, File},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The tree in an area.
pub(super) const TREE: &CStr = c"tree";
/// The folder for what lies between two steps of a swap.
pub(super) const SPARE: &CStr = c"spare";
/// The file that makes an area ours, and is locked while a run works in it.
pub(super) const MARK: &CStr = c"rna-backup";

/// Tests whether an entry at the top of a media folder is an area of ours, and no part of the media.
pub(super) fn is_area(root: &File, name: &CStr) -> bool {
    is_name(name.to_bytes())
        && open_folder(root, name).is_ok_and(|area| statat(&area, MARK, AtFlags::SYMLINK_NOFOLLOW).is_ok())
}

/// The folder in which the areas of a media folder lie: its parent, or the media folder itself.
#[derive(Debug)]
pub(super) struct StagingRoot {
    /// The folder itself.
    pub(super) folder: File,
    pub(super) path: PathBuf,
    /// The name of the media folder in this folder; `None` when this folder is the media folder itself.
    pub(super) live: Option<CString>,
}

impl StagingRoot {
    /// The parent of the media folder where areas seem possible there, else the media folder. The media folder need not
    /// exist.
    pub(super) fn of(root: &Path) -> Result<Self, ComponentError> {
        let root = resolve(root)?;
        match Self::beside(&root)? {
            Some(staging) if staging.can_exchange(&root) => Ok(staging),
            _ => Self::inside(&root),
        }
    }

    /// Every folder in which an earlier run may have left areas.
    pub(super) fn all(root: &Path) -> Result<Vec<Self>, ComponentError> {
        let root = resolve(root)?;
        let mut staging_roots = Vec::from_iter(Self::beside(&root)?);
        if root.is_dir() {
            staging_roots.push(Self::inside(&root)?);
        }
        Ok(staging_roots)
    }

    fn beside(root: &Path) -> Result<Option<Self>, ComponentError> {
        let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else { return Ok(None) };
        let live = CString::new(name.as_bytes()).ok();
        match open(parent) {
            Ok(folder) => Ok(Some(Self { folder, path: parent.to_owned(), live })),
            Err(Errno::ACCESS) => Ok(None),
            Err(err) => Err(path_error(format!("open {}", parent.display()), parent, err)),
        }
    }

    pub(super) fn inside(root: &Path) -> Result<Self, ComponentError> {
        let folder = open(root).map_err(|err| path_error(format!("open {}", root.display()), root, err))?;
        Ok(Self { folder, path: root.to_owned(), live: None })
    }

    /// Tests whether the folder is an ordinary one, in a parent that we may write to.
    fn can_exchange(&self, root: &Path) -> bool {
        let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        accessat(CWD, &self.path, rights, AtFlags::EACCESS).is_ok() && !is_mount_point(&self.folder, root)
    }

    /// The media folder itself, if it exists.
    pub(super) fn live(&self) -> Result<Option<File>, ComponentError> {
        let opened = match &self.live {
            None => self.folder.try_clone().map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO)),
            Some(name) => open_folder(&self.folder, name),
        };
        match opened {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(unusable(format!("open {}: it is not a folder", self.live_path().display())))
            }
            Err(err) => {
                let path = self.live_path();
                Err(path_error(format!("open {}", path.display()), &path, err))
            }
        }
    }

    /// The path of the media folder.
    pub(super) fn live_path(&self) -> PathBuf {
        self.live
            .as_ref()
            .map_or_else(|| self.path.clone(), |name| self.path.join(OsStr::from_bytes(name.to_bytes())))
    }

    /// The label in a name, if it may be that of an area.
    pub(super) fn label(&self, name: &CStr) -> Option<Label> {
        name.to_bytes().strip_prefix(&*self.prefix()).and_then(Label::parse)
    }

    fn prefix(&self) -> Vec<u8> {
        match &self.live {
            None => b".".to_vec(),
            Some(name) => [b".", name.to_bytes(), b"."].concat(),
        }
    }

    /// Areas made in the media folder change its time, which is a part of the media.
    pub(super) fn keeping_time<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.live.is_none().then(|| Attributes::of(&self.folder)).and_then(Result::ok);
        let done = work();
        if let Some(before) = before {
            before.date(&self.folder);
        }
        done
    }
}

fn unremoved(path: &Path, err: Errno) -> ComponentError {
    path_error(format!("remove {}", path.display()), path, err)
}

fn unmade(staging: &StagingRoot, err: Errno) -> ComponentError {
    path_error(format!("make a folder in {}", staging.path.display()), &staging.path, err)
}

fn open(path: &Path) -> Result<File, Errno> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// The path without links that a path leads to; its last name need not exist.
fn resolve(root: &Path) -> Result<PathBuf, ComponentError> {
    let failed = |err: std::io::Error| match Errno::from_io_error(&err) {
        Some(Errno::NOENT | Errno::NOTDIR) | None => {
            unusable(format!("find the folder of {}: create or mount it", root.display()))
        }
        Some(err) => path_error(format!("find {}", root.display()), root, err),
    };
    match (fs::canonicalize(root), root.parent(), root.file_name()) {
        (Ok(path), ..) => Ok(path),
        (Err(_), Some(parent), Some(name)) if fs::symlink_metadata(root).is_err() => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent).map_err(failed)?.join(name))
        }
        // A link to what is not there, as in the middle of a swap that needs two steps.
        (Err(err), Some(parent), _) if err.kind() == std::io::ErrorKind::NotFound && root.is_symlink() => {
            resolve(&parent.join(fs::read_link(root).map_err(failed)?))
        }
        (Err(err), ..) => Err(failed(err)),
    }
}

/// A hidden folder of this program, with the copy of a restore, or with the data that a restore has set aside.
#[derive(Debug)]
pub(super) struct StagingArea {
    pub(super) staging: StagingRoot,
    pub(super) folder: File,
    pub(super) label: Label,
    pub(super) name: CString,
    /// The lock of the area, held while a run works in the area; `None` for an area that was only looked at.
    pub(super) mark: Option<FileLock>,
}

impl StagingArea {
    /// Makes an area whose tree is to change places with the live data: beside the media folder or, where the media
    /// folder cannot be renamed, in it.
    pub(super) fn to_swap(staging: StagingRoot) -> Result<Self, ComponentError> {
        let place = staging.live_path();
        let mut area = Self::create(staging)?;
        if area.staging.live.is_some() && area.fixed()?.is_some() {
            area.remove()?;
            area = Self::create(StagingRoot::inside(&place)?)?;
        }
        let Some(name) = area.fixed()? else { return Ok(area) };
        area.remove()?;
        let what = format!("replace {}: its folder {} is part of an image", place.display(), shown(&name));
        Err(unusable(format!("{what}, which cannot be renamed: mount a volume there")))
    }

    /// The name of something live that cannot change places with what is in the area.
    fn fixed(&self) -> Result<Option<Vec<u8>>, ComponentError> {
        if !is_layered(&self.staging.folder) {
            return Ok(None);
        }
        let find = || {
            let spare = open_folder(&self.folder, SPARE)?;
            let mut listing = Folder::reopen(&self.staging.folder)?;
            while let Some((handle, name, _)) = listing.next() {
                let is_live =
                    self.staging.live.as_deref().map_or_else(|| !is_area(handle, name), |live| live == name);
                if is_live && !may_leave(handle, name, &spare)? {
                    return Ok(Some(name.to_bytes().to_vec()));
                }
            }
            Ok(None)
        };
        let path = &self.staging.path;
        find().map_err(|err| path_error(format!("look at what is in {}", path.display()), path, err))
    }

    /// Makes an area that no other user may read.
    pub(super) fn create(staging: StagingRoot) -> Result<Self, ComponentError> {
        let mut label = Label::now(Role::Restore);
        let made = loop {
            let name = named(&staging, label);
            match staging.keeping_time(|| mkdirat(&staging.folder, &name, Mode::RWXU)) {
                Ok(()) => break name,
                Err(Errno::EXIST) => label.number += 1,
                Err(err) => return Err(unmade(&staging, err)),
            }
        };
        let initialised = open_folder(&staging.folder, &made).and_then(|folder| {
            let initialised = clear_inherited(&folder).and_then(|()| initialise(&folder));
            if initialised.is_err() {
                // Either may not be there yet.
                let _ = unlinkat(&folder, SPARE, AtFlags::REMOVEDIR);
                let _ = unlinkat(&folder, MARK, AtFlags::empty());
            }
            Ok((initialised?, folder))
        });
        match initialised {
            Ok((mark, folder)) => Ok(Self { staging, folder, label, name: made, mark: Some(mark) }),
            Err(err) => {
                let _ = staging.keeping_time(|| unlinkat(&staging.folder, &made, AtFlags::REMOVEDIR));
                Err(unmade(&staging, err))
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.staging.path.join(OsStr::from_bytes(self.name.to_bytes()))
    }

    /// Tests whether a swap began and did not end.
    pub(super) fn is_swapping(&self) -> bool {
        statat(&self.folder, JOURNAL, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The tree in the area; `None` if there is none.
    pub(super) fn tree(&self) -> Result<Option<File>, Errno> {
        match open_folder(&self.folder, TREE) {
            Ok(tree) => Ok(Some(tree)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Gives the area another role, and the newest name of all areas, even if the clock was set back.
    pub(super) fn relabel(&mut self, role: Role) -> Result<(), Errno> {
        let mut label = Label::now(role);
        let mut listing = Folder::reopen(&self.staging.folder)?;
        while let Some((_, name, _)) = listing.next() {
            if let Some(other) = self.staging.label(name).filter(|other| other.second() >= label.second()) {
                label = Label { at: other.at, number: other.number + 1, role };
            }
        }
        loop {
            let (name, folder) = (named(&self.staging, label), &self.staging.folder);
            match self.staging.keeping_time(|| rename_new(folder, &self.name, folder, &name)) {
                Ok(()) => {
                    (self.label, self.name) = (label, name);
                    return sync_folder(&self.staging.folder);
                }
                Err(Errno::EXIST) => label.number += 1,
                Err(err) => return Err(err),
            }
        }
    }

    /// Removes the area of a restore that has failed, where it can be removed: what is left goes with the next start.
    pub(super) fn remove_after(self, err: &ComponentError) {
        if let Err(left) = self.remove() {
            tracing::warn!(error = %left, after = %err, "a half copy of the media is left until the next start");
        }
    }

    /// Removes the area with its contents, the mark last: until then the area is known as ours. An area with old data is
    /// relabelled first, since one that is half removed must not be taken for an undo point.
    pub(super) fn remove(mut self) -> Result<(), ComponentError> {
        if self.label.role == Role::Before {
            let relabelled = self.relabel(Role::Restore);
            relabelled.map_err(|err| unremoved(&self.path(), err))?;
        }
        let path = self.path();
        let removed = self.staging.keeping_time(|| {
            for name in [TREE, SPARE, JOURNAL, NOTE, MARK] {
                remove(&self.folder, name)?;
            }
            // Halves of files of ours.
            remove_locked(&self.staging.folder, &self.name, &mut self.mark)
        });
        removed.map_err(|err| unremoved(&path, err))
    }
}

impl StagingRoot {
    /// Opens the same folder a second time.
    pub(super) fn again(&self) -> Result<Self, Errno> {
        let folder =
            self.folder.try_clone().map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))?;
        Ok(Self { folder, path: self.path.clone(), live: self.live.clone() })
    }
}

fn named(staging: &StagingRoot, label: Label) -> CString {
    CString::new([&staging.prefix()[..], label.name().as_bytes()].concat()).expect("neither part holds a NUL")
}

/// Marks a new area as ours, and makes the spare folder in it.
fn initialise(folder: &File) -> Result<FileLock, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mark: File = openat(folder, MARK, flags, Mode::RUSR | Mode::WUSR)?.into();
    let mark = FileLock::try_lock(mark)?;
    write_holder(mark.file());
    // Parents may hand down a bit of theirs.
    allowed(fchmod(folder, Mode::RWXU))?;
    mkdirat(folder, SPARE, Mode::RWXU)?;
    Ok(mark)
}

/// Renames a file to a name that nothing has.
pub(super) fn rename_new(from: &File, name: &CStr, to: &File, new: &CStr) -> Result<(), Errno> {
    match renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Not every file system knows how; nobody but us makes such names.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => renameat(from, name, to, new),
                Err(err) => Err(err),
            }
        }
        done => done,
    }
}
