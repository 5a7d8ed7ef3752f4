//! Further settings of a real Weaviate server (the folder of its backups, the user of the operating system), and the
//! versions that are here.

use crate::support::weaviate_server::{MIDDLE, NEWEST, OLDEST, Start, WeaviateServer, program};
use std::path::Path;

const FOLDER: &str = "BACKUP_FILESYSTEM_PATH";

impl Start {
    /// With this folder for backups: a folder that only this test has.
    pub fn folder(self, path: &Path) -> Self {
        self.set(FOLDER, path.display())
    }

    /// With the folder of another server, as two servers share a volume.
    pub fn folder_of(self, other: &WeaviateServer) -> Self {
        self.folder(&other.folder())
    }

    /// As that user and group of the operating system, with that umask; root alone can start such a server.
    pub fn user(self, uid: u32, gid: u32, umask: &str) -> Self {
        self.set("OWNER", format!("{uid}:{gid}")).set("UMASK", umask)
    }

    /// True if only this test has the folder for backups.
    pub(super) fn has_own_folder(&self) -> bool {
        self.settings.contains_key(FOLDER)
    }
}

/// The versions that are here: `make weaviate` builds all, `make test` the oldest and the newest.
pub fn versions() -> Vec<&'static str> {
    let is_here = |version: &str| program(version).exists();
    if !is_here(MIDDLE) {
        println!("Weaviate {MIDDLE} is left out, since `make weaviate` has not built it");
    }
    [OLDEST, MIDDLE, NEWEST].into_iter().filter(|version| *version != MIDDLE || is_here(version)).collect()
}
