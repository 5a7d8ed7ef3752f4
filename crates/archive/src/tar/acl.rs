//! POSIX ACLs: as the kernel keeps them in two extended attributes, and as the text that GNU tar writes.

use std::{fs, io::Write};

/// One entry of an ACL: its tag, permissions, and the user or group that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AclEntry {
    tag: u16,
    id: u32,
    permissions: u16,
}

/// A POSIX ACL. Its entries are in the order in which libacl keeps them, so that equal ACLs are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<AclEntry>);

impl Acl {
    /// The extended attribute with the rights to a file or folder.
    pub const ACCESS: &[u8] = b"system.posix_acl_access";
    /// The extended attribute with the rights to new entries of a folder.
    pub const DEFAULT: &[u8] = b"system.posix_acl_default";

    // Linux, include/uapi/linux/posix_acl.h and posix_acl_xattr.h.
    const VERSION: u32 = 2;
    const USER_OBJ: u16 = 1;
    const USER: u16 = 2;
    const GROUP_OBJ: u16 = 4;
    const GROUP: u16 = 8;
    const MASK: u16 = 16;
    const OTHER: u16 = 32;
    const NOBODY: u32 = u32::MAX;
    /// The most entries for which an extended attribute has room.
    const MOST: usize = 8191;

    /// Tests whether an extended attribute is an ACL.
    pub fn is_in(attribute: &[u8]) -> bool {
        attribute == Self::ACCESS || attribute == Self::DEFAULT
    }

    /// Reads the value of an extended attribute; `None` if that is no ACL.
    pub fn from_value(value: &[u8]) -> Option<Self> {
        let (version, entries) = value.split_first_chunk()?;
        let (entries, []) = entries.as_chunks::<8>() else { return None };
        if u32::from_le_bytes(*version) != Self::VERSION || entries.len() > Self::MOST {
            return None;
        }
        let entry = |[a, b, c, d, id @ ..]: &[u8; 8]| {
            let (tag, permissions) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
            AclEntry { tag, id: u32::from_le_bytes(*id), permissions }
        };
        Some(Self::sorted(entries.iter().map(entry).collect()))
    }

    /// The value of the extended attribute.
    pub fn to_value(&self) -> Vec<u8> {
        let mut value = Self::VERSION.to_le_bytes().to_vec();
        for AclEntry { tag, id, permissions } in &self.0 {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// Reads the text of a PAX record (acl(5), "ACL TEXT FORMS"; star(5) for ids in a fourth field). Names of
    /// users and groups are those of this machine. An unknown one becomes an id that no kernel takes, so that
    /// setting the ACL fails as a whole. `None` if it is no such text.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        let mut entries = Vec::new();
        for line in str::from_utf8(text).ok()?.split(['\n', ',']) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if entries.len() == Self::MOST {
                return None;
            }
            entries.push(AclEntry::parse(line)?);
        }
        Some(Self::sorted(entries))
    }

    /// The text of a PAX record, with numbers for users and groups: names differ between containers.
    pub(super) fn to_text(&self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        for AclEntry { tag, id, permissions } in &self.0 {
            let (tag, id) = match *tag {
                Self::USER_OBJ => ("user", String::new()),
                Self::USER => ("user", id.to_string()),
                Self::GROUP_OBJ => ("group", String::new()),
                Self::GROUP => ("group", id.to_string()),
                Self::MASK => ("mask", String::new()),
                Self::OTHER => ("other", String::new()),
                _ => return None,
            };
            let may = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
            let written = writeln!(text, "{tag}:{id}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x'));
            written.expect("a vector takes everything");
        }
        text.pop(); // the last line end
        Some(text)
    }

    /// Tests whether a mode says as much: the kernel keeps no access ACL then.
    pub fn is_mode(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, Self::USER_OBJ | Self::GROUP_OBJ | Self::OTHER))
    }

    /// A mode that gives nobody more than this ACL does, for a file that cannot have it. Beside an ACL, the bits of
    /// the group are those of the mask, which others than the group may be meant by.
    pub fn mode_without(&self, mode: u32) -> u32 {
        let of = |tag| self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions);
        let group = of(Self::GROUP_OBJ).unwrap_or(0) & of(Self::MASK).unwrap_or(7) & 7;
        mode & !0o070 | mode & u32::from(group) << 3
    }

    fn sorted(mut entries: Vec<AclEntry>) -> Self {
        entries.sort_unstable();
        Self(entries)
    }
}

impl AclEntry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields: Vec<_> = line.split(':').map(str::trim).collect();
        if matches!(fields[0], "default" | "d") {
            fields.remove(0);
        }
        let (tag, named, file) = match *fields.first()? {
            "user" | "u" => (Acl::USER_OBJ, Acl::USER, "/etc/passwd"),
            "group" | "g" => (Acl::GROUP_OBJ, Acl::GROUP, "/etc/group"),
            "mask" | "m" => (Acl::MASK, Acl::MASK, ""),
            "other" | "o" => (Acl::OTHER, Acl::OTHER, ""),
            _ => return None,
        };
        let (name, permissions, id) = match fields[1..] {
            [permissions] if file.is_empty() => ("", permissions, ""),
            [name, permissions] => (name, permissions, ""),
            [name, permissions, id] => (name, permissions, id),
            _ => return None,
        };
        let permissions = permissions_of(permissions)?;
        if name.is_empty() {
            return Some(Self { tag, id: Acl::NOBODY, permissions });
        }
        if file.is_empty() {
            return None;
        }
        let id = id.parse().or_else(|_| name.parse()).ok().or_else(|| id_of(file, name));
        Some(Self { tag: named, id: id.unwrap_or(Acl::NOBODY), permissions })
    }
}

fn permissions_of(text: &str) -> Option<u16> {
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })
}

/// The id of a user or group in a file of those (passwd(5), group(5)): the third of its fields.
fn id_of(file: &str, name: &str) -> Option<u32> {
    let lines = fs::read_to_string(file).ok()?;
    let mut fields = lines.lines().map(|line| line.split(':'));
    let mut found = fields.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    found.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_gnu_tar_bsdtar_and_star_are_read() {
        let lines = "user::rw-\nuser:1:rwx\nuser:4321:r-x\ngroup::r--\nmask::rwx\nother::---";
        let acl = Acl::from_text(lines.as_bytes()).unwrap();
        for text in [
            "user::rw-\nuser:daemon:rwx\nuser:4321:r-x\ngroup::r--\t#effective:r--\nmask::rwx\nother::---\n",
            "user::rw-,group::r--,other::---,user:nobody at all:r-x:4321,user:daemon:rwx:1,mask::rwx",
            "u::rw,u:1:rwx,u:4321:rx,g::r,m:rwx,o:-",
        ] {
            assert_eq!(Acl::from_text(text.as_bytes()).as_ref(), Some(&acl), "{text}");
        }
        assert_eq!(acl.to_text().unwrap(), lines.as_bytes());
        assert_eq!(Acl::from_value(&acl.to_value()).as_ref(), Some(&acl));
        assert!(!acl.is_mode() && Acl::from_text(b"user::rwx\ngroup::r-x\nother::---").unwrap().is_mode());
        assert_eq!(acl.mode_without(0o2670), 0o2640);
    }

    #[test]
    fn what_is_no_acl_is_none() {
        for text in ["x", "user", "user:", "user::rwz", "mask:1:rwx", "user:1:rwx:2:3", "\u{ff}", "other"] {
            assert_eq!(Acl::from_text(text.as_bytes()), None, "{text}");
        }
        let many = "user:1:rwx\n".repeat(8192);
        assert_eq!(Acl::from_text(many.as_bytes()), None);
        for value in [&b""[..], b"\x02\0\0", b"\x03\0\0\0", b"\x02\0\0\0x", &vec![0; 65_540]] {
            assert_eq!(Acl::from_value(value), None);
        }
    }
}
