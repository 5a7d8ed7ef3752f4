//! The kinds of entries and properties of a media tree, and the support of each in a backup and a restore: a
//! table, from which the one in `docs/media.md` is written.

use std::fmt::Write as _;

/// The support of a kind in a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreSupport {
    /// The object comes back as it was.
    Restored,
    /// The bits come back on the entries that could be given to their owner. Elsewhere the bits would let others act as
    /// the user who restores.
    WithOwner,
    /// The value becomes that of the user who restores, and a warning has the number of entries.
    OfProcess,
    /// The object is left out, and a warning has the number of entries; the dry run has the warning before.
    Counted,
    /// Zeros stand in the place of the holes, and a warning has the number of files.
    Zeros,
    /// The restore is refused before anything is replaced.
    Refused,
    /// The entry is not in a backup, and a warning of the backup names the entry.
    Named,
    /// The property is not in a backup: an entry that comes back gets that of the new place.
    Left,
    /// Every file system holds the property.
    Everywhere,
}

impl RestoreSupport {
    const fn words(self) -> &'static str {
        match self {
            Self::Restored => "comes back",
            Self::WithOwner => "comes back with the owner",
            Self::OfProcess => "that of the user who restores, counted",
            Self::Counted => "left, and counted",
            Self::Zeros => "zeros, and counted",
            Self::Refused => "refused",
            Self::Named => "left, and named",
            Self::Left => "left",
            Self::Everywhere => "",
        }
    }
}

/// The comparison of the copy with the manifest by a restore, before its swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The number of entries that have the property.
    Number,
    /// The number of entries for each value.
    Values,
    /// A checksum over all entries.
    Sum,
    /// The number of files; less is a warning, as the content is the same.
    Warning,
    /// Nothing.
    Nothing,
}

impl Compared {
    const fn words(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Values => "number of each",
            Self::Sum => "checksum",
            Self::Warning => "number, as a warning",
            Self::Nothing => "",
        }
    }
}

/// Something that a media tree holds.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The name of the kind.
    pub name: &'static str,
    /// The form of the kind in an archive; empty if no archive has the kind.
    pub form: &'static str,
    /// The support where root restores.
    pub root: RestoreSupport,
    /// The support where another user restores.
    pub user: RestoreSupport,
    /// The support on a file system that does not hold the kind.
    pub without: RestoreSupport,
    /// The comparison before a swap.
    pub compared: Compared,
    /// The comparison of each entry by a drill, in words.
    pub drilled: &'static str,
}

const fn kind(
    name: &'static str,
    form: &'static str,
    [root, user, without]: [RestoreSupport; 3],
    compared: Compared,
    drilled: &'static str,
) -> Kind {
    Kind { name, form, root, user, without, compared, drilled }
}

use Compared::{Nothing, Number, Sum, Values, Warning};
use RestoreSupport::{Counted, Everywhere, Left, Named, OfProcess, Refused, Restored, WithOwner, Zeros};

const GIVEN: &str = "yes, where it could be given";
const SET: &str = "yes, where it could be set";

/// All kinds.
pub const KINDS: [Kind; 20] = [
    kind("names, byte for byte", "header, GNU long name", [Restored, Restored, Refused], Number, "yes"),
    kind("content", "as it is", [Restored, Restored, Everywhere], Number, "yes, every byte"),
    kind(
        "holes of sparse files",
        "GNU's PAX sparse format 1.0",
        [Restored, Restored, Zeros],
        Warning,
        "content, not place: zeros are equal to a hole",
    ),
    kind("mode", "header", [Restored, Restored, Counted], Values, "yes"),
    kind("setuid and setgid bits", "header", [Restored, WithOwner, Counted], Values, GIVEN),
    kind("owner and group, as numbers", "header", [Restored, OfProcess, OfProcess], Values, GIVEN),
    kind(
        "time of modification, to the nanosecond",
        "header, PAX `mtime`",
        [Restored, Restored, Counted],
        Sum,
        "yes, as exact as the file system keeps it",
    ),
    kind(
        "ACL, default ACL",
        "PAX `SCHILY.acl.access`, `SCHILY.acl.default`, with numbers for names",
        [Restored, Restored, Counted],
        Number,
        SET,
    ),
    kind("`user.*` attributes", "PAX `SCHILY.xattr.*`, raw", [Restored, Restored, Counted], Number, SET),
    kind(
        "`security.capability` and other `security.*`",
        "PAX `SCHILY.xattr.*`, raw",
        [Restored, Counted, Counted],
        Number,
        SET,
    ),
    kind("`trusted.*`", "PAX `SCHILY.xattr.*`, raw", [Restored, Counted, Counted], Number, SET),
    kind(
        "attributes of the file system itself, as `system.nfs4_acl`",
        "PAX `SCHILY.xattr.*`, raw",
        [Restored, Restored, Counted],
        Number,
        SET,
    ),
    kind(
        "symbolic links, as they are",
        "header, GNU long link",
        [Restored, Restored, Refused],
        Number,
        "yes",
    ),
    kind(
        "hard links of files (a symbolic link of several names comes back as several)",
        "link to the first name",
        [Restored, Restored, Refused],
        Number,
        "yes",
    ),
    kind(
        "empty folders, and the media folder itself",
        "entries of their own",
        [Restored, Restored, Everywhere],
        Number,
        "yes",
    ),
    kind("sockets, pipes and devices", "", [Named; 3], Nothing, ""),
    kind("times of access, of change and of birth", "", [Left; 3], Nothing, ""),
    kind("flags of `chattr`", "", [Left; 3], Nothing, ""),
    kind("labels of the machine: `security.selinux`, `security.apparmor`", "", [Left; 3], Nothing, ""),
    kind("signatures of the machine: `security.ima`, `security.evm`", "", [Left; 3], Nothing, ""),
];

/// The table of the documentation.
pub fn table() -> String {
    let mut table = "| kind | in the archive | as root | as another user | on a file system without it | compared before a \
                     swap | compared by a drill, entry by entry |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for kind in KINDS {
        let [root, user, without] = [kind.root, kind.user, kind.without].map(RestoreSupport::words);
        let (compared, drilled) = (kind.compared.words(), kind.drilled);
        let _ = writeln!(
            table,
            "| {} | {} | {root} | {user} | {without} | {compared} | {drilled} |",
            kind.name, kind.form
        );
    }
    table
}
