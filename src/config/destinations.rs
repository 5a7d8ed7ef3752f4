//! The settings of the destinations, and of the keys that open archives.

use crate::base::chain;
use crate::base::env::Env;
use crate::store::{Destination, StoreKind};
use crate::stream::crypt::Encryption;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Reads the destinations of these kinds, the nearest first. `root` is `BACKUP_ROOT`, unless it cannot be read.
pub(super) fn read(env: &mut Env, kinds: &[&StoreKind], root: Option<&Path>) -> Vec<Arc<dyn Destination>> {
    let mut found = Vec::new();
    // The farthest first: a near one may be used in another way where there is one.
    for kind in kinds.iter().rev() {
        if let Some(destination) = (kind.read)(env, root, &found) {
            found.insert(0, destination);
        }
    }
    found
}

/// Reads the keys of encrypted archives; the file is read once, now.
pub(super) fn read_encryption(env: &mut Env) -> Encryption {
    let recipients = env.optional("BACKUP_AGE_RECIPIENTS");
    let identities = env.optional::<PathBuf>("BACKUP_AGE_IDENTITY_FILE").and_then(|path| {
        let name = "BACKUP_AGE_IDENTITY_FILE";
        let text =
            std::fs::read_to_string(&path).map_err(|err| env.note_unreadable(name, &path, &err)).ok()?;
        text.parse().map_err(|err| env.note(name, chain(&err))).ok()
    });
    Encryption { recipients, identities }
}
