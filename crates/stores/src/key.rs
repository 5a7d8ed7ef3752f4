//! Keys of objects: parsed once, and then safe to join to any root.

use std::{fmt, str::FromStr};

/// The key of one object inside a store, relative to the store's root:
/// `postgres/pg_backup_20261122_020000.dump.zst`.
///
/// A value of this type never escapes its root. It is not empty, not absolute, at most 1024 bytes
/// (the [S3 limit]), no segment is empty, `.`, `..` or longer than a file name may be, and it
/// shows nothing on a terminal that is not there.
///
/// [S3 limit]: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// The longest segment, in bytes: [`NAME_MAX`](https://man7.org/linux/man-pages/man7/path_resolution.7.html).
    pub const MAX_SEGMENT_BYTES: usize = 255;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key with one more segment, which is checked like any other.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] when the result breaks a rule of this type.
    pub fn join(&self, segment: &str) -> Result<Self, InvalidKey> {
        format!("{self}/{segment}").parse()
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let why = if text.len() > Self::MAX_BYTES {
            "is longer than 1024 bytes"
        } else if text.split('/').any(|s| matches!(s, "" | "." | "..")) {
            "has an empty, `.` or `..` segment"
        } else if text.split('/').any(|s| s.len() > Self::MAX_SEGMENT_BYTES) {
            "has a segment of more than 255 bytes"
        } else if text.contains(|c: char| c == '\\' || c.is_control()) {
            "holds a backslash or a control character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(InvalidKey { text: text.to_owned(), why })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Text that is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("object key {text:?} {why}")]
pub struct InvalidKey {
    text: String,
    why: &'static str,
}

#[test]
fn a_key_never_leaves_its_root() {
    for text in [
        "",
        "/etc/passwd",
        "a//b",
        "a/../b",
        "..",
        "a/.",
        "a\\b",
        "a\0",
        "a\n",
        &"x".repeat(256),
        &"x/".repeat(513),
    ] {
        assert!(text.parse::<ObjectKey>().is_err(), "{text:?}");
    }
    let key: ObjectKey = "media/a.tar.zst".parse().unwrap();
    assert_eq!((key.join("b").unwrap().as_str(), key.file_name()), ("media/a.tar.zst/b", "a.tar.zst"));
    assert!(key.join("../../b").is_err());
}
