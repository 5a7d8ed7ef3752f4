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
        let args = ["-t", "tmpfs", "-o", &format!("size={size}"), "none"];
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
