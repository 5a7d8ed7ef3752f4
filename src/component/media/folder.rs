//! Opening what lies in a folder by its name alone, so that no exchanged symbolic link leads elsewhere.

use rustix::{
    buffer::spare_capacity,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::{File, Metadata},
    io,
    os::fd::AsFd,
    path::Path,
};

/// Nothing here follows a link, waits for the other end of a pipe, or leaks into a child process.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// An open folder and the names in it that are still to come, sorted by their bytes.
pub(super) struct Folder {
    /// The folder itself.
    pub(super) handle: File,
    /// All names, each ended by a NUL: a million of them take a few dozen MiB.
    names: Vec<u8>,
    /// The offset of each name, and its kind when it was listed.
    entries: std::vec::IntoIter<(usize, FileType)>,
}

impl Folder {
    /// Opens and lists the root. It alone may be a symbolic link.
    pub(super) fn root(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::list(openat(CWD, path, flags, Mode::empty())?.into())
    }

    /// Opens and lists a folder in another one.
    pub(super) fn open(parent: &File, name: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | SAFELY;
        Self::list(openat(parent, name, flags, Mode::empty())?.into())
    }

    /// Lists an open folder, from its beginning.
    pub(super) fn reopen(folder: &File) -> Result<Self, Errno> {
        Self::open(folder, c".")
    }

    fn list(handle: File) -> Result<Self, Errno> {
        /// As much as `ls` asks the kernel for at a time.
        const BUFFER: usize = 32 * 1024;
        let (mut names, mut entries) = (Vec::new(), Vec::new());
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut listing = RawDir::new(handle.as_fd(), buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push((names.len(), entry.file_type()));
                names.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        // The NUL ends the comparison: it is below every other byte, and names differ.
        entries.sort_unstable_by(|a, b| names[a.0..].cmp(&names[b.0..]));
        Ok(Self { handle, names, entries: entries.into_iter() })
    }

    /// The number of names that are still to come.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All names that are still to come, each with the NUL that ends it.
    pub(super) fn names(&self) -> impl Iterator<Item = (FileType, &[u8])> {
        self.entries.as_slice().iter().map(|(start, kind)| {
            let name =
                CStr::from_bytes_until_nul(&self.names[*start..]).expect("each name is ended by a NUL");
            (*kind, name.to_bytes_with_nul())
        })
    }

    /// The next name and what kind of entry it was when the folder was listed.
    pub(super) fn next(&mut self) -> Option<(&File, &CStr, FileType)> {
        let (start, kind) = self.entries.next()?;
        let name = CStr::from_bytes_until_nul(&self.names[start..]).expect("each name is ended by a NUL");
        Some((&self.handle, name, kind))
    }
}

/// Opens a regular file for reading. What is opened may meanwhile be something else: see its metadata.
pub(super) fn open_file(folder: &File, name: impl rustix::path::Arg) -> Result<File, Errno> {
    Ok(openat(folder, name, OFlags::RDONLY | SAFELY, Mode::empty())?.into())
}

/// Reads a symbolic link, itself and not what it points at.
pub(super) fn read_link(folder: &File, name: &CStr) -> Result<(Metadata, CString), Errno> {
    let link: File = openat(folder, name, OFlags::PATH | SAFELY, Mode::empty())?.into();
    // Target and metadata are of one handle, so of one link. On anything else it fails with ENOENT.
    let metadata = link.metadata().map_err(|err| errno(&err))?;
    if !metadata.is_symlink() {
        return Err(Errno::LOOP);
    }
    Ok((metadata, readlinkat(&link, c"", Vec::new())?))
}

/// The kind and size of whatever has that name now.
pub(super) fn look(folder: &File, name: &CStr) -> Result<(FileType, u64), Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), u64::try_from(stat.st_size).unwrap_or(0)))
}

/// Reads into the free capacity of `into`; 0 at the end of the file.
pub(super) fn read(file: &File, into: &mut Vec<u8>) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(file, spare_capacity(into)))?)
}

/// Reads up to `most` bytes from an offset on; 0 at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, into: &mut Vec<u8>, most: u64) -> io::Result<usize> {
    let (before, free) = (into.len(), into.capacity() - into.len());
    into.resize(before + usize::try_from(most).map_or(free, |most| most.min(free)), 0);
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut into[before..], offset));
    into.truncate(before + *count.as_ref().unwrap_or(&0));
    Ok(count?)
}

/// The number in an error of a system call.
fn errno(err: &io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}
