//! Folders with everything in them that a file system allows, and what can be said of a folder.

use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr, utimensat,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

/// All that a backup must bring back of one entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: (i64, i64),
    pub target: Option<OsString>,
    pub content: Option<Vec<u8>>,
    /// Extended attributes and ACLs.
    pub extended: BTreeMap<OsString, Vec<u8>>,
    /// The first path, in order, that has the same inode; for files with one name their own.
    pub same_as: OsString,
}

/// Everything under `root`, itself included, by path.
pub fn look(root: &Path) -> BTreeMap<OsString, Seen> {
    let mut paths = vec![OsString::new()];
    let mut at = 0;
    while at < paths.len() {
        let path = root.join(&paths[at]);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                paths.push(Path::new(&paths[at]).join(entry.unwrap().file_name()).into_os_string());
            }
        }
        at += 1;
    }
    paths.sort();
    let mut first_names = HashMap::new();
    let see = |name: OsString| {
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path).unwrap();
        let is_file = metadata.is_file();
        let first = first_names.entry(metadata.ino()).or_insert_with(|| name.clone());
        let seen = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            target: metadata.is_symlink().then(|| fs::read_link(&path).unwrap().into_os_string()),
            content: is_file.then(|| fs::read(&path).unwrap()),
            extended: extended(&path),
            same_as: if is_file { first.clone() } else { name.clone() },
        };
        (name, seen)
    };
    paths.into_iter().map(see).collect()
}

/// The extended attributes of an entry itself; none where the file system has none.
pub fn extended(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = lgetxattr(path, name, &mut value).unwrap();
        value.truncate(length);
        value
    };
    names
        .filter(|name| *name != b"security.selinux")
        .map(|name| (OsStr::from_bytes(name).to_owned(), value(name)))
        .collect()
}

/// Gives an entry itself an extended attribute.
pub fn set_extended(path: &Path, name: &str, value: &[u8]) {
    let set = lsetxattr(path, name, value, XattrFlags::empty());
    set.unwrap_or_else(|err| panic!("{name} of {}: {err}", path.display()));
}

/// The value of an ACL with these entries: tag, permissions and id (Linux, `posix_acl_xattr.h`). The mask is `rwx`.
pub fn acl(named: &[(u16, u16, u32)], group: u16) -> Vec<u8> {
    let nobody = u32::MAX;
    let mut entries = vec![(1, 7, nobody), (4, group, nobody), (16, 7, nobody), (32, 0, nobody)];
    entries.extend_from_slice(named);
    entries.sort_unstable_by_key(|(tag, _, id)| (*tag, *id));
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend([tag.to_le_bytes(), u16::to_le_bytes(permissions)].concat());
        value.extend(id.to_le_bytes());
    }
    value
}

pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";
/// `cap_net_bind_service=ep` (Linux, capability.h, `vfs_cap_data` of revision 2).
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Gives what [`fill`] made ACLs and extended attributes of each kind: 4 entries with ACLs, 3 with user attributes, 1
/// with a capability, 2 with trusted attributes. As root.
pub fn adorn(root: &Path) {
    let times = look(root);
    set_extended(&root.join("a.txt"), ACCESS, &acl(&[(2, 5, 4321), (2, 7, 1), (8, 4, 5)], 4));
    set_extended(&root.join("photos"), ACCESS, &acl(&[(8, 7, 4321)], 5));
    set_extended(&root.join("photos"), DEFAULT, &acl(&[(2, 6, 4321)], 0));
    set_extended(&root.join("sticky"), DEFAULT, &acl(&[], 5));
    set_extended(root, DEFAULT, &acl(&[(2, 7, 77)], 7));
    set_extended(root, "user.of the root", b"yes");
    set_extended(&root.join("a.txt"), "user.a=b%\n", b"\0 raw \xff\n");
    set_extended(&root.join("a.txt"), "user.empty", b"");
    set_extended(&root.join("photos/notes.csv"), "user.large", &[7; 3_000]); // has three names
    set_extended(&root.join("block.dat"), "security.capability", &CAPABILITY);
    set_extended(&root.join("block.dat"), "trusted.of root", b"1");
    set_extended(&root.join("link"), "trusted.of a link", b"2");
    // An ACL changes the mode of its group; nothing changes the time of what it is set on.
    assert_eq!(look(root).len(), times.len());
}

/// Gives a file an extended attribute, which leaves its time as it is.
pub fn adorn_one(path: &Path) {
    set_extended(path, "user.note", b"lane 1");
}

/// Sets the time of an entry itself, symbolic link or not.
pub fn touch(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Fills `root` with one of each kind: 16 files, 9 folders below it, 5 symbolic links, 3 hard links.
pub fn fill(root: &Path) {
    let write = |name: &OsStr, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let photo: Vec<u8> = (0..225_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    write("a.txt".as_ref(), b"first");
    write("empty.dat".as_ref(), b"");
    write("block.dat".as_ref(), &[7; 512]);
    write("photos/gel 1.jpg".as_ref(), &photo);
    write("photos/GEL2.PNG".as_ref(), &photo[..70_000]);
    write("photos/notes.csv".as_ref(), "lane,ng\n".repeat(90_000).as_bytes());
    write("photos/deep/er/x".as_ref(), b"x");
    write("new\nline and \\ and \"quotes\"".as_ref(), b"odd");
    write("-rf".as_ref(), b"looks like an option");
    write("größe/データ.txt".as_ref(), b"unicode");
    write(OsStr::from_bytes(b"caf\xe9\xff.txt"), b"latin");
    let at_limit = "n".repeat(100); // exactly what a header holds
    write(at_limit.as_ref(), b"100");
    write(OsStr::from_bytes(format!("m{at_limit}").as_bytes()), b"101");
    let longest = OsString::from_vec(vec![b'\xfe'; 255]);
    write(&longest, b"255");
    let deep = Path::new("long").join("d".repeat(200)).join("e".repeat(200));
    write(deep.join("leaf.txt").as_os_str(), b"deep");
    fs::create_dir(root.join("nothing in here")).unwrap();
    fs::create_dir(root.join("sticky")).unwrap();

    for (target, link) in [
        ("a.txt", "link"),
        ("../nowhere/at//all/./", "dangling"),
        ("/etc", "out"),
        ("photos", "photos/up"),
        (&*"t/".repeat(300), "far"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    fs::hard_link(root.join("photos/notes.csv"), root.join("photos/same.csv")).unwrap();
    fs::hard_link(root.join("photos/notes.csv"), root.join("sticky/same again.csv")).unwrap();
    // A link to a name that no header holds.
    fs::hard_link(root.join(deep.join("leaf.txt")), root.join("long/z")).unwrap();

    File::create(root.join("sparse.img")).unwrap().set_len(1_500_000).unwrap();
    for (name, mode) in
        [("a.txt", 0o4755), ("empty.dat", 0o600), ("sticky", 0o1777), ("photos", 0o2750), ("", 0o711)]
    {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    times(root);
}

/// Times of every sort; folders last, since everything put into one changes its own.
fn times(root: &Path) {
    touch(&root.join("a.txt"), 1_700_000_000, 123_456_789);
    touch(&root.join("empty.dat"), 1_700_000_001, 0);
    touch(&root.join("block.dat"), -1_000_000, 0);
    touch(&root.join("-rf"), -2, 250_000_000);
    touch(&root.join("sparse.img"), 9_000_000_000, 1); // beyond what 11 octal digits hold
    touch(&root.join("dangling"), 1_600_000_000, 5);
    touch(&root.join("link"), 1_500_000_000, 0);
    touch(&root.join("photos/deep"), 1_400_000_000, 999_999_999);
    touch(&root.join("nothing in here"), 1_300_000_000, 0);
    touch(root, 1_200_000_000, 42);
}

/// An entry of a tar archive, made by hand.
pub fn tar_entry(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = async_tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_entry_type(async_tar::EntryType::new(kind));
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}
