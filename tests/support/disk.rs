//! Small disks.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::{TempDir, tempdir};

/// A tmpfs, unmounted at the end; `None` where mounting is not allowed.
pub struct Tmpfs {
    path: PathBuf,
    _dir: Option<TempDir>,
}

impl Tmpfs {
    pub fn mount(size: &str) -> Option<Self> {
        let dir = tempdir().unwrap();
        let disk = Self::mount_at(size, dir.path())?;
        Some(Self { path: disk.keep(), _dir: Some(dir) })
    }

    pub fn mount_at(size: &str, path: &Path) -> Option<Self> {
        Self::mount_with(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"], path)
    }

    /// A file system that holds neither extended attributes nor ACLs.
    pub fn without_attributes() -> Option<Self> {
        let dir = tempdir().unwrap();
        let disk = Self::mount_with(&["-t", "ramfs", "none"], dir.path())?;
        Some(Self { path: disk.keep(), _dir: Some(dir) })
    }

    /// A folder of the disk at a second place, as the volumes of containers are mounted.
    pub fn bind(&self, folder: &str, path: &Path) -> Option<Self> {
        Self::mount_with(&["--bind", &self.path.join(folder).display().to_string()], path)
    }

    fn mount_with(args: &[&str], path: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(args).arg(path).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self { path: path.to_owned(), _dir: None })
    }

    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = Command::new("umount").arg(&self.path).status();
        }
    }
}

/// A disk that promises more than it has, and finds out when it writes: a file system in a file that has no room to
/// grow. `None` where mounting is not allowed.
pub struct ThinDisk {
    path: PathBuf,
    backing: Tmpfs,
}

impl ThinDisk {
    pub fn mount(size: &str) -> Option<Self> {
        let backing = Tmpfs::mount(size)?;
        let (image, path) = (backing.path().join("image"), backing.path().join("disk"));
        std::fs::create_dir(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
        let run = |command: &mut Command| {
            command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        // Without a journal, whose own trouble would stop everything at once.
        let made = run(Command::new("mkfs.ext2").args(["-q", "-E", "nodiscard"]).arg(&image));
        (made && run(Command::new("mount").args(["-o", "loop"]).args([&image, &path])))
            .then_some(Self { path, backing })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the disk as much as it promises.
    pub fn grow(&self, size: &str) {
        let remount = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &remount]).arg(self.backing.path()).status().unwrap();
        assert!(grown.success());
    }
}

impl Drop for ThinDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
