//! Small disks, and file systems that lack something.

#![allow(clippy::print_stdout)] // a skipped test says so

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

    /// A disk of old times, ext2 with inodes of 128 bytes: no time after January 2038 has room in them. `None` also where
    /// there is no program that makes it.
    pub fn of_old() -> Option<Self> {
        let dir = tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        said(Command::new("mkfs.ext2").args(["-q", "-I", "128"]).arg(&image))?;
        let disk = Self::mount_with(&["-o", "loop", image.to_str()?], &path)?;
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

/// A file system without hard links, symbolic links, owners and modes: exFAT, by its FUSE program.
pub struct ExFat {
    path: PathBuf,
    device: String,
    _dir: TempDir,
}

impl ExFat {
    /// `None`, and the reason printed, where it cannot be mounted.
    pub fn mount() -> Option<Self> {
        let dir = tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        said(Command::new("mkfs.exfat").arg(&image))?;
        let device = said(Command::new("losetup").args(["--find", "--show"]).arg(&image))?.trim().to_owned();
        let disk = Self { path, device, _dir: dir };
        said(Command::new("mount.exfat-fuse").arg(&disk.device).arg(&disk.path))?;
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ExFat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).stderr(Stdio::null()).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).stderr(Stdio::null()).status();
    }
}

/// A folder at a second place, by `bindfs` with these options, as shares show folders: without the right to change
/// modes or owners, or read-only.
pub struct Share(PathBuf);

impl Share {
    /// `None`, and the reason printed, where it cannot be mounted.
    pub fn mount(options: &[&str], folder: &Path, path: &Path) -> Option<Self> {
        said(Command::new("bindfs").args(options).arg(folder).arg(path))?;
        Some(Self(path.to_owned()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// What a command prints; `None`, and the reason printed, when it fails or is not installed.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output();
    let skipped = |why: String| println!("skipped: {}: {why}", command.get_program().display());
    match output {
        Ok(out) if out.status.success() => String::from_utf8(out.stdout).ok(),
        Ok(out) => {
            skipped(String::from_utf8_lossy(&out.stderr).into_owned());
            None
        }
        Err(err) => {
            skipped(err.to_string());
            None
        }
    }
}
