//! Files and folders that this process cannot use: who owns them, who this process is, and the command that helps.

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::{getegid, geteuid},
};
use std::{
    error::Error,
    fs::{self, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The rights that a folder must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The right to list the folder and open its contents.
    Read,
    /// The right to make, replace and remove the folder's contents as well.
    Write,
}

/// The reason why a file or folder cannot be used, for people: paths, ids and modes, and never what is in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}: {fix}")]
pub struct AccessProblem {
    /// The path, the reason, and the ids and the mode that prove the reason.
    pub found: String,
    /// The command or the change that mends the fault.
    pub fix: String,
}

impl AccessProblem {
    /// Explains the error of a system call on `path`; `None` when neither rights nor a mount option are the reason.
    pub fn explain(path: &Path, err: &io::Error) -> Option<Self> {
        match err.kind() {
            ErrorKind::ReadOnlyFilesystem => Some(read_only(path)),
            ErrorKind::PermissionDenied => Some(denied(path)),
            _ => None,
        }
    }

    /// The explanation in an error or its causes, if one of them has been [explained].
    pub fn within<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(err), |&err| err.source()).find_map(|err| {
            let inside = || err.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
            err.downcast_ref().or_else(inside)
        })
    }
}

/// The error of a system call on `path`, with the reason in words where rights or a mount option are the reason. Its
/// kind stays. An error that has words already keeps them.
pub fn explained(path: &Path, err: io::Error) -> io::Error {
    match AccessProblem::explain(path, &err).filter(|_| err.raw_os_error().is_some()) {
        Some(problem) => io::Error::new(err.kind(), problem),
        None => err,
    }
}

/// Tests whether this process can use a folder, without changing anything.
///
/// # Errors
///
/// The reason why it cannot.
pub fn check_folder(folder: &Path, need: Need) -> Result<(), AccessProblem> {
    let path = folder.display();
    let is_folder = match fs::metadata(folder) {
        Ok(metadata) => metadata.is_dir(),
        Err(err) if err.kind() == ErrorKind::NotFound => {
            return Err(AccessProblem {
                found: format!("{path} does not exist; {}", process()),
                fix: "create or mount the folder, or correct the setting".to_owned(),
            });
        }
        Err(err) => return Err(cannot_open(folder, &err)),
    };
    if !is_folder {
        let fix = "move the file away, or correct the setting".to_owned();
        return Err(AccessProblem { found: format!("{path} is not a folder"), fix });
    }
    let rights = match need {
        Need::Read => Access::READ_OK | Access::EXEC_OK,
        Need::Write => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
    };
    accessat(CWD, folder, rights, AtFlags::EACCESS).map_err(|errno| cannot_open(folder, &errno.into()))
}

/// The reason why a file with a secret cannot be read.
pub fn unreadable(file: &Path, err: &io::Error) -> AccessProblem {
    let path = file.display();
    match err.kind() {
        ErrorKind::NotFound => AccessProblem {
            found: format!("{path} does not exist; {}", process()),
            fix: "mount the file there, or correct the setting".to_owned(),
        },
        ErrorKind::IsADirectory => AccessProblem {
            found: format!("{path} is a folder; {}", process()),
            fix: "mount a file there: Docker makes a folder where the file of the host is missing".to_owned(),
        },
        _ => cannot_open(file, err),
    }
}

/// Tests whether this process runs in a container: Docker, Podman and Kubernetes each leave a mark.
pub fn is_in_container() -> bool {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let groups = || fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    marks.iter().any(|mark| Path::new(mark).exists())
        || ["docker", "kubepods", "containerd", "libpod"].iter().any(|name| groups().contains(name))
}

fn cannot_open(path: &Path, err: &io::Error) -> AccessProblem {
    AccessProblem::explain(path, err).unwrap_or_else(|| AccessProblem {
        found: format!("{}: {err}; {}", path.display(), process()),
        fix: "see to the file system, or correct the setting".to_owned(),
    })
}

/// User and group of this process, for people.
pub fn process() -> String {
    format!("this process is {}:{}", geteuid().as_raw(), getegid().as_raw())
}

fn read_only(path: &Path) -> AccessProblem {
    AccessProblem {
        found: format!("{} is mounted read-only; {}", path.display(), process()),
        fix: "mount it for writing (in compose: without `:ro` or `read_only`)".to_owned(),
    }
}

fn denied(path: &Path) -> AccessProblem {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let Some((blocking, metadata)) = blocking_path(path) else {
        let found = format!("{}: permission denied; {}", path.display(), process());
        return AccessProblem { found, fix: "let this user read and write there".to_owned() };
    };
    let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    let (place, shown) = (blocking.display(), path.display());
    let found = format!(
        "{shown}: permission denied: {place} belongs to {owner}:{group} with mode {mode:03o}; {}",
        process()
    );
    let contents = if metadata.is_dir() { "-R " } else { "" };
    let fix = if owner == uid {
        format!("chmod {contents}u+rwX {place}")
    } else {
        let given = format!("chown {contents}{uid}:{gid}");
        let (given, run) = if is_in_container() {
            let run = format!("run the worker as its owner (BACKUP_USER={owner}:{group} in compose)");
            (format!("on the host, {given} what is mounted at {place}"), run)
        } else {
            (format!("{given} {place}"), format!("run this program as its owner, {owner}:{group}"))
        };
        // Nobody is sent to run anything as root. Other owners keep what is theirs, such as the app's media.
        if owner == 0 { given } else { format!("{run}, or {given}") }
    };
    AccessProblem { found, fix }
}

/// The file or folder whose rights are the reason: the path itself, or the nearest folder above it that can be
/// looked at. A file that gives all rights can only be kept by the folder that it is in.
fn blocking_path(path: &Path) -> Option<(&Path, Metadata)> {
    let mut there = path.ancestors().filter_map(|part| Some((part, fs::metadata(part).ok()?)));
    let (nearest, metadata) = there.next()?;
    let rights = Access::READ_OK | Access::WRITE_OK;
    if metadata.is_dir() || accessat(CWD, nearest, rights, AtFlags::EACCESS).is_err() {
        return Some((nearest, metadata));
    }
    there.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[derive(Debug, thiserror::Error)]
    #[error("put")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_explained_error_keeps_its_kind_and_is_found_among_the_causes() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let path = dir.path().join("media/x");
        let err = explained(&path, io::Error::from_raw_os_error(13));
        assert_eq!(err.kind(), ErrorKind::PermissionDenied);
        let words = err.to_string();
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let facts = format!(
            "{} belongs to {uid}:{gid} with mode 750; this process is {uid}:{gid}",
            dir.path().display()
        );
        assert!(words.starts_with(&format!("{}: permission denied: {facts}", path.display())), "{words}");
        assert!(words.ends_with(&format!(": chmod -R u+rwX {}", dir.path().display())), "{words}");

        assert_eq!(AccessProblem::within(&Outer(err)).unwrap().to_string(), words);
        let again = explained(&path, explained(&path, io::Error::from_raw_os_error(30)));
        assert!(again.to_string().contains("is mounted read-only"), "{again}");
    }

    #[test]
    fn other_errors_and_those_with_words_of_their_own_stay_as_they_are() {
        let path = Path::new("/backups");
        let full = explained(path, io::Error::from_raw_os_error(28));
        assert_eq!(full.raw_os_error(), Some(28));
        let link = explained(path, io::Error::new(ErrorKind::PermissionDenied, "x is a symbolic link"));
        assert_eq!(link.to_string(), "x is a symbolic link");
        assert!(AccessProblem::within(&link).is_none());
    }

    #[test]
    fn a_folder_that_is_missing_or_a_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, file) = (dir.path().join("media"), dir.path().join("file"));
        fs::write(&file, "").unwrap();
        assert_eq!(check_folder(dir.path(), Need::Write), Ok(()));
        let found = |path| check_folder(path, Need::Read).unwrap_err().found;
        assert!(
            found(&missing).starts_with(&format!("{} does not exist; this process is ", missing.display()))
        );
        assert_eq!(found(&file), format!("{} is not a folder", file.display()));
        assert!(found(&file.join("below")).contains("Not a directory"));
    }
}
