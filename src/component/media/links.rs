//! Files with several names: the first name of each is packed with the content, the others as links to it.

use crate::component::media::file_stat::FileStat;
use rustix::fs::Stat;
use std::collections::{HashMap, hash_map::Entry};

/// Maximum number of files of which further names are still to come: about 35 MB of memory. A table of twice as many
/// entries would be twice as long.
const MOST: usize = (1 << 18) / 8 * 7;

/// A file by its device and inode number, and by size and time, since a number may be given anew.
type Identity = (u64, u64, u64, (i64, i64));

/// The files of which further names are still to come.
#[derive(Debug)]
pub(super) struct Links {
    /// The first name of each file, and how many names are to come.
    open: HashMap<Identity, (Vec<u8>, u64)>,
    most: usize,
    /// The number of names that were not remembered, and are packed with their content each.
    apart: u64,
}

impl Links {
    pub(super) fn new() -> Self {
        Self::at_most(MOST)
    }

    fn at_most(most: usize) -> Self {
        Self { open: HashMap::new(), most, apart: 0 }
    }

    /// Returns the first name of a file with several names; `None` where `name` is the first, and the content is to be
    /// packed.
    pub(super) fn first_name(&mut self, stat: &Stat, name: &[u8]) -> Option<Vec<u8>> {
        let file_stat = FileStat::of(stat);
        let identity = (stat.st_dev, stat.st_ino, file_stat.bytes(), file_stat.modified());
        #[allow(clippy::useless_conversion, reason = "it has 32 bits on some processors")]
        self.first_name_of(identity, stat.st_nlink.into(), name)
    }

    fn first_name_of(&mut self, identity: Identity, names: u64, name: &[u8]) -> Option<Vec<u8>> {
        let is_full = self.open.len() >= self.most;
        match self.open.entry(identity) {
            Entry::Occupied(mut file) if file.get().1 > 1 => {
                file.get_mut().1 -= 1;
                Some(file.get().0.clone())
            }
            Entry::Occupied(file) => Some(file.remove().0),
            Entry::Vacant(_) if is_full => {
                self.apart += 1;
                None
            }
            Entry::Vacant(file) => {
                file.insert((name.to_owned(), names.saturating_sub(1)));
                None
            }
        }
    }

    /// The sentence about names that are stored with their content each, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        (self.apart > 0).then(|| {
            format!(
                "{} names of files with several names are stored with their content each, and come back as files of their \
                 own: more than {} such files were open at once",
                self.apart, self.most
            )
        })
    }
}

#[test]
fn further_names_lead_to_the_first_and_beyond_the_limit_are_files_of_their_own() {
    let mut links = Links::at_most(2);
    let file = |n: u64| (1, n, 0, (0, 0));
    for (n, names, name, first) in [
        (1, 3, "a", None),
        (1, 3, "b", Some("a")),
        (2, 2, "c", None),
        (3, 2, "d", None),
        (3, 2, "e", None),
        (2, 2, "f", Some("c")),
        (1, 3, "g", Some("a")),
        (3, 2, "h", None),
        (3, 2, "i", Some("h")),
    ] {
        let found = links.first_name_of(file(n), names, name.as_bytes());
        assert_eq!(found.as_deref(), first.map(str::as_bytes), "{name}");
    }
    assert!(links.open.is_empty());
    assert!(links.warning().unwrap().starts_with("2 names of files with several names are stored"));
    assert_eq!(Links::new().warning(), None);
}
