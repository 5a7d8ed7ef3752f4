//! The errors of stores, sorted by the remedy that a caller has.

use crate::key::ObjectKey;
use rna_backup_base::units::ByteSize;
use std::{error::Error, io};

type Source = Box<dyn Error + Send + Sync>;

/// An error of a store.
///
/// There is one variant for each thing a caller can *do* about it. `Display` names the operation
/// and the object and never repeats its `source`: whoever logs the error prints the whole chain.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{op} {key}: no such object")]
    NotFound {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
    },

    /// The key is taken; nothing was replaced.
    #[error("{op} {key}: already exists")]
    Exists {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
    },

    /// Refused for good: rights are missing, a link or a folder is in the way. Somebody has to
    /// change something; the cause says what.
    #[error("{op} {key}: not allowed")]
    Denied {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
        /// The cause.
        source: Source,
    },

    /// The destination keeps the object for a time that somebody has set: an object lock. Nothing but waiting
    /// helps.
    #[error("{op} {key}: the destination keeps it locked")]
    Locked {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
        /// The cause.
        source: Source,
    },

    /// The destination is full, or would be left with less than it must keep free.
    #[error("{op} {key}: not enough space, {} free and {} to be kept free", ByteSize(*.free), ByteSize(*.keep_free))]
    NoSpace {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
        /// Bytes free at that moment.
        free: u64,
        /// Bytes that are to stay free.
        keep_free: u64,
    },

    /// The owner of the destination has set a limit, and it is reached.
    #[error("{op} {key}: quota is used up")]
    OverQuota {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
        /// The cause.
        source: Source,
    },

    /// A fault that may pass: network, server, device.
    #[error("{op} {key}: store unavailable")]
    Unavailable {
        /// The operation that was tried.
        op: &'static str,
        /// The object.
        key: ObjectKey,
        /// The cause.
        source: Source,
    },
}

impl StoreError {
    /// True if the same call may succeed later: a full disk may be emptied, a server may return.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::NoSpace { .. } | Self::OverQuota { .. } => true,
            Self::NotFound { .. } | Self::Exists { .. } | Self::Denied { .. } | Self::Locked { .. } => false,
        }
    }

    /// True if the destination has refused, and will refuse again until somebody or time changes something.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Locked { .. })
    }

    /// The error of a store that an error stands for.
    pub fn within<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(err), |&err| err.source()).find_map(|err| err.downcast_ref())
    }

    /// Sorts a file system error: the one place where an `io::ErrorKind` is read. A caller that knows the free space
    /// fills it in.
    pub(crate) fn from_io(op: &'static str, key: &ObjectKey, source: io::Error) -> Self {
        let key = key.clone();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { op, key },
            io::ErrorKind::AlreadyExists => Self::Exists { op, key },
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::InvalidFilename => Self::Denied { op, key, source: source.into() },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { op, key, free: 0, keep_free: 0 }
            }
            _ => Self::Unavailable { op, key, source: source.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_leaves_the_cause_to_the_chain() {
        let key: ObjectKey = "media/a.tar.zst".parse().unwrap();
        let err = StoreError::from_io("open", &key, io::Error::other("device on fire"));
        assert_eq!(err.to_string(), "open media/a.tar.zst: store unavailable");
        assert_eq!(err.source().unwrap().to_string(), "device on fire");
        assert!(err.is_transient());
    }

    #[test]
    fn a_full_disk_is_told_apart_and_may_pass() {
        const ENOSPC: i32 = 28;
        let key: ObjectKey = "media/a.tar.zst".parse().unwrap();
        let err = StoreError::from_io("write", &key, io::Error::from_raw_os_error(ENOSPC));
        assert!(matches!(err, StoreError::NoSpace { .. }) && err.is_transient());
    }
}
