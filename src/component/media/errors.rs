//! The errors of a restore, sorted by what the caller can do about them.

use crate::base::access;
use crate::component::ComponentError;
use rustix::io::Errno;
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

/// Sorts the error of a system call on the object that `what` names. A missing right is told with the user of this process.
pub(super) fn system_error(what: impl Into<String>, err: Errno) -> ComponentError {
    let what = match err {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => format!("{} ({})", what.into(), access::process()),
        _ => what.into(),
    };
    sort(what, err, err.into())
}

/// Sorts the error of a system call on `path`. A missing right is told with owner, mode and the command that helps.
pub(super) fn path_error(what: impl Into<String>, path: &Path, err: Errno) -> ComponentError {
    sort(what.into(), err, access::explained(path, err.into()))
}

fn sort(what: String, err: Errno, cause: io::Error) -> ComponentError {
    match err {
        // A limit on the size of files is one more kind of full.
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
            ComponentError::Unavailable { what: format!("{what}: room for it"), source: Some(cause.into()) }
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            ComponentError::Denied { what, source: Some(cause.into()) }
        }
        _ => ComponentError::Read { what, source: cause },
    }
}

/// The error of an archive that would do harm, or that contradicts itself.
pub(super) fn malicious_archive(why: String) -> ComponentError {
    ComponentError::Corrupt { what: "unpack media archive".to_owned(), source: Some(why.into()) }
}

/// The error of something that a person has to change.
pub(super) fn unusable(what: String) -> ComponentError {
    ComponentError::Unusable { what, source: None }
}

/// A name for people: in quotes, bytes that are not text escaped, the middle of long ones left out.
#[allow(clippy::unnecessary_debug_formatting, reason = "names hold line ends and bytes that are no text")]
pub(super) fn shown(name: &[u8]) -> String {
    /// Of which the beginning and the end are shown.
    const LONG: usize = 1024;
    let quoted = |name| format!("{:?}", OsStr::from_bytes(name));
    if name.len() <= LONG {
        return quoted(name);
    }
    format!("{}…{}", quoted(&name[..LONG / 3]), quoted(&name[name.len() - LONG / 3..]))
}
