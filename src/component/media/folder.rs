//! Opening what lies in a folder by its name alone, so that no exchanged symbolic link leads elsewhere.

use rustix::{
    buffer::spare_capacity,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::AsFd,
    path::Path,
};

/// Nothing here follows a link, waits for the other end of a pipe, or leaks into a child process.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Bytes of names that lie together. Blocks of this length grow with a folder; one long table would be copied each time
/// it grows, and take twice its room meanwhile.
const BLOCK: usize = 64 << 10;

/// An open folder and the names in it that are still to come, sorted by their bytes.
pub(super) struct Folder {
    /// The folder itself.
    pub(super) handle: File,
    names: Names,
    entries: std::vec::IntoIter<Listed>,
}

/// The names of a folder, each ended by a NUL. A million of them take a few dozen MiB.
#[derive(Debug, Default)]
struct Names(Vec<Vec<u8>>);

/// The place of a name and the kind of its entry, in eight bytes: folders may have a million entries.
#[derive(Debug, Clone, Copy)]
struct Listed(u64);

impl Names {
    fn push(&mut self, name: &CStr, kind: FileType) -> Listed {
        let bytes = name.to_bytes_with_nul();
        if self.0.last().is_none_or(|block| block.len() + bytes.len() > BLOCK) {
            // The names of most folders take much less than a block.
            self.0.push(if self.0.is_empty() { Vec::new() } else { Vec::with_capacity(BLOCK) });
        }
        let at = self.0.len() - 1;
        let place = (at * BLOCK + self.0[at].len()) as u64;
        self.0[at].extend_from_slice(bytes);
        Listed((place << 4) | u64::from(kind.as_raw_mode() >> Listed::KIND_SHIFT))
    }

    /// The bytes from a name on. The NUL that ends it ends each comparison: it is below every other byte, and names
    /// differ.
    fn rest(&self, listed: Listed) -> &[u8] {
        let place = usize::try_from(listed.0 >> 4).expect("it was a usize");
        &self.0[place / BLOCK][place % BLOCK..]
    }

    fn get(&self, listed: Listed) -> &CStr {
        CStr::from_bytes_until_nul(self.rest(listed)).expect("each name is ended by a NUL")
    }
}

impl Listed {
    /// The kind is in the upper four bits of a mode.
    const KIND_SHIFT: u32 = 12;

    fn kind(self) -> FileType {
        let bits = u32::try_from(self.0 & 0xf).expect("it has four bits");
        FileType::from_raw_mode(bits << Self::KIND_SHIFT)
    }
}

impl Folder {
    /// Opens and lists the root. It alone may be a symbolic link.
    pub(super) fn root(path: &Path) -> Result<Self, Errno> {
        Self::list(open_root(path)?)
    }

    /// Opens and lists a folder in another one.
    pub(super) fn open(parent: &File, name: &CStr) -> Result<Self, Errno> {
        Self::list(open_below(parent, name)?)
    }

    /// Lists an open folder, from its beginning.
    pub(super) fn reopen(folder: &File) -> Result<Self, Errno> {
        Self::open(folder, c".")
    }

    fn list(handle: File) -> Result<Self, Errno> {
        let (mut names, mut entries) = (Names::default(), Vec::new());
        each(&handle, |name, kind| entries.push(names.push(name, kind)))?;
        entries.sort_unstable_by(|a, b| names.rest(*a).cmp(names.rest(*b)));
        Ok(Self { handle, names, entries: entries.into_iter() })
    }

    /// The number of names that are still to come.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All names that are still to come, each with the NUL that ends it.
    pub(super) fn names(&self) -> impl Iterator<Item = (FileType, &[u8])> {
        let name = |entry: &Listed| (entry.kind(), self.names.get(*entry).to_bytes_with_nul());
        self.entries.as_slice().iter().map(name)
    }

    /// The next name and what kind of entry it was when the folder was listed.
    pub(super) fn next(&mut self) -> Option<(&File, &CStr, FileType)> {
        let entry = self.entries.next()?;
        Some((&self.handle, self.names.get(entry), entry.kind()))
    }
}

/// Calls `visit` with each name in an open folder and the kind of its entry, in the order of the file system.
pub(super) fn each(folder: &File, mut visit: impl FnMut(&CStr, FileType)) -> Result<(), Errno> {
    /// As much as `ls` asks the kernel for at a time.
    const BUFFER: usize = 32 * 1024;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut listing = RawDir::new(folder.as_fd(), buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            visit(name, entry.file_type());
        }
    }
    Ok(())
}

/// Opens a root, without listing it. It alone may be a symbolic link.
pub(super) fn open_root(path: &Path) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?.into())
}

/// Opens a folder in another one, without listing it.
pub(super) fn open_below(parent: &File, name: &CStr) -> Result<File, Errno> {
    Ok(openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | SAFELY, Mode::empty())?.into())
}

/// Opens a regular file for reading. What is opened may meanwhile be something else: see its metadata.
pub(super) fn open_file(folder: &File, name: impl rustix::path::Arg) -> Result<File, Errno> {
    Ok(openat(folder, name, OFlags::RDONLY | SAFELY, Mode::empty())?.into())
}

/// Reads a symbolic link, itself and not what it points at.
pub(super) fn read_link(folder: &File, name: &CStr) -> Result<(Stat, CString), Errno> {
    let link: File = openat(folder, name, OFlags::PATH | SAFELY, Mode::empty())?.into();
    // Target and metadata are of one handle, so of one link. On anything else it fails with ENOENT.
    let stat = fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Err(Errno::LOOP);
    }
    Ok((stat, readlinkat(&link, c"", Vec::new())?))
}

/// The kind and size of whatever has that name now.
pub(super) fn stat_entry(folder: &File, name: &CStr) -> Result<(FileType, u64), Errno> {
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
