//! Files that take little room and are read from their beginning to their end: a backup leaves out holes, but for a file
//! that has more parts than it notes.

use std::{fs, fs::File, os::unix::fs::FileExt, path::Path};

/// More parts than a backup notes of one file.
const PARTS: u64 = (1 << 16) + 1;

/// Makes a file of that size, about, with a byte here and there. It takes 256 MiB.
pub fn dense(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    let distance = size / PARTS / 8192 * 8192;
    assert!(distance > 0, "so small a file can be written in full");
    (0..PARTS).for_each(|part| file.write_all_at(b"x", part * distance).unwrap());
    file.set_len(size).unwrap();
}

/// Makes a file of 1 TiB, which takes longer to read than any test. All such files are one, of many names.
pub fn endless(path: &Path) {
    const SIZE: u64 = 1 << 40;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let shared = folder.join("endless");
    if !shared.exists() {
        let own = tempfile::NamedTempFile::new_in(folder).unwrap();
        dense(own.path(), SIZE);
        own.persist(&shared).unwrap();
    }
    // Names of one file lie on one file system.
    if fs::hard_link(&shared, path).is_err() {
        dense(path, SIZE);
    }
}
