//! Manifests as they lie in the stores: their names, their text, and those that were read already.

use crate::domain::{component::ComponentName, id::BackupId, manifest::Manifest};
use crate::store::{ObjectKey, ObjectMeta, Store, StoreError};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::io::AsyncReadExt as _;

/// The longest manifest that is read: a hundred thousand tables.
const LONGEST: u64 = 16 << 20;

/// The key of a backup's manifest in every store: `manifests/<component>/<backup_id>.json`.
pub fn manifest_key(id: &BackupId) -> ObjectKey {
    key(&format!("manifests/{}/{id}.json", id.component()))
}

/// The key of a backup's archive in every store: `<component>/<backup_id>.<ext><suffix>`, where the suffix, such as
/// `.zst`, names its compression and encryption.
pub fn archive_key(id: &BackupId, suffix: &str) -> ObjectKey {
    let component = id.component();
    key(&format!("{component}/{id}.{}{suffix}", component.kind().extension))
}

/// The folders of a destination that runs write to: archives, manifests, and on a disk the locks.
pub fn folders() -> Vec<ObjectKey> {
    let of_each = ComponentName::all().flat_map(|name| [archives_of(name), manifests_of(name)]);
    of_each.chain([manifests(), key(".locks")]).collect()
}

pub(super) fn manifests() -> ObjectKey {
    key("manifests")
}

pub(super) fn manifests_of(component: ComponentName) -> ObjectKey {
    key(&format!("manifests/{component}"))
}

pub(super) fn archives_of(component: ComponentName) -> ObjectKey {
    key(component.as_str())
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("ids and names of components are safe in keys")
}

/// The backup that an object in `folder` belongs to, by its name: what stands before the first dot
/// or slash.
pub(super) fn id_in(folder: &ObjectKey, key: &ObjectKey) -> Option<BackupId> {
    let rest = key.as_str().strip_prefix(folder.as_str())?.strip_prefix('/')?;
    rest.split(['.', '/']).next()?.parse().ok()
}

/// True if this program gives an archive of that backup such a key.
pub(super) fn is_archive_of(id: &BackupId, key: &ObjectKey) -> bool {
    let component = id.component();
    let file = format!("{component}/{id}.{}", component.kind().extension);
    key.as_str().strip_prefix(&file).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        && !key.as_str()[file.len()..].contains('/')
}

/// The text of a manifest.
pub(super) fn print(manifest: &Manifest) -> Bytes {
    let mut text = serde_json::to_vec_pretty(manifest).expect("a manifest has nothing that JSON has not");
    text.push(b'\n');
    text.into()
}

/// A manifest that was read.
#[derive(Debug)]
pub(super) enum Document {
    /// A manifest of a format that this version knows.
    Ours { manifest: Arc<Manifest>, objects: Vec<ManifestObject> },
    /// A manifest of a newer format: the fields that are needed to list its backup.
    Newer { format: u32, created_at: Timestamp, objects: Vec<ManifestObject> },
}

/// An archive that a manifest names.
#[derive(Debug, Clone)]
pub(super) struct ManifestObject {
    pub(super) destination: String,
    pub(super) key: ObjectKey,
    pub(super) bytes: u64,
    /// True if a verification found a fault in the object.
    pub(super) failed: bool,
}

impl Document {
    pub(super) fn objects(&self) -> &[ManifestObject] {
        match self {
            Self::Ours { objects, .. } | Self::Newer { objects, .. } => objects,
        }
    }
}

/// Merges the manifests that two destinations have of one backup. The later one counts, of equals the nearer one; and
/// a backup that is pinned in one is pinned: other machines that share a bucket write into it and not into this one's
/// folder.
pub(super) fn merged(farther: &Arc<Document>, nearer: Arc<Document>) -> Arc<Document> {
    let (Document::Ours { manifest: far, .. }, Document::Ours { manifest: near, .. }) =
        (&**farther, &*nearer)
    else {
        return nearer;
    };
    let (later, other) =
        if far.last_word().0 > near.last_word().0 { (farther, near) } else { (&nearer, far) };
    let Document::Ours { manifest, objects } = &**later else { return nearer };
    if manifest.pinned || !other.pinned {
        return Arc::clone(later);
    }
    let manifest = Arc::new(Manifest { pinned: true, ..manifest.as_ref().clone() });
    Arc::new(Document::Ours { manifest, objects: objects.clone() })
}

/// The fields that every format of a manifest has, now and later.
#[derive(Deserialize)]
struct Header {
    format: u32,
    backup_id: BackupId,
    component: ComponentName,
    created_at: Timestamp,
    #[serde(default)]
    objects: Vec<RawObject>,
}

#[derive(Deserialize)]
struct RawObject {
    destination: String,
    key: String,
    bytes: u64,
    #[serde(default)]
    problems: Vec<String>,
}

/// The reason that a manifest cannot be read: the cause in words, for the same answer is given again and again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ManifestFault(String);

impl ManifestFault {
    fn new(why: impl std::fmt::Display) -> Self {
        Self(format!("{why}"))
    }
}

/// Reads the text of the manifest of `id`, trusting nothing that it says: a manifest that named the
/// archive of another backup would have it deleted.
pub(super) fn parse(id: &BackupId, text: &[u8]) -> Result<Document, ManifestFault> {
    let header: Header = serde_json::from_slice(text).map_err(ManifestFault::new)?;
    if header.backup_id != *id || header.component != id.component() {
        return Err(ManifestFault(format!("is the manifest of {} {}", header.component, header.backup_id)));
    }
    let objects = header.objects.into_iter().map(|raw| {
        let key: ObjectKey = raw.key.parse().map_err(ManifestFault::new)?;
        if id_in(&archives_of(id.component()), &key).as_ref() != Some(id) {
            return Err(ManifestFault(format!("names the object {key}, which is of another backup")));
        }
        let failed = !raw.problems.is_empty();
        Ok(ManifestObject { destination: raw.destination, key, bytes: raw.bytes, failed })
    });
    let objects = objects.collect::<Result<_, _>>()?;
    if header.format > Manifest::FORMAT {
        return Ok(Document::Newer { format: header.format, created_at: header.created_at, objects });
    }
    let manifest = serde_json::from_slice(text).map_err(ManifestFault::new)?;
    Ok(Document::Ours { manifest: Arc::new(manifest), objects })
}

/// The bytes of a manifest; `None` when it was deleted meanwhile.
pub(super) async fn read(store: &dyn Store, meta: &ObjectMeta) -> Result<Option<Vec<u8>>, ManifestFault> {
    if meta.bytes > LONGEST {
        return Err(ManifestFault(format!("is longer than {LONGEST} bytes")));
    }
    let mut body = match store.open(&meta.key, None).await {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(err) => {
            let cause = err.source().map_or(String::new(), |cause| format!(": {cause}"));
            return Err(ManifestFault(format!("{err}{cause}")));
        }
        Ok(body) => body.take(LONGEST),
    };
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).await.map_err(ManifestFault::new)?;
    Ok(Some(bytes))
}

type Known = Result<Arc<Document>, ManifestFault>;

/// Manifests that were read, as long as length, time and version of their objects stay the same.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<CacheKey, Cached>>);

/// Destination and key.
type CacheKey = (&'static str, ObjectKey);

#[derive(Debug)]
struct Cached {
    meta: ObjectMeta,
    known: Known,
}

impl Cache {
    pub(super) fn get(&self, destination: &'static str, meta: &ObjectMeta) -> Option<Known> {
        let places = self.lock();
        let cached = places.get(&(destination, meta.key.clone()))?;
        (cached.meta == *meta).then(|| cached.known.clone())
    }

    pub(super) fn insert(&self, destination: &'static str, meta: &ObjectMeta, known: Known) {
        let cached = Cached { meta: meta.clone(), known };
        self.lock().insert((destination, meta.key.clone()), cached);
    }

    /// Forgets an object that is written or deleted here: on a store without versions it may keep its length, and its
    /// time within one tick of the clock, so that the cache would not see the change.
    pub(super) fn forget(&self, destination: &'static str, key: &ObjectKey) {
        self.lock().remove(&(destination, key.clone()));
    }

    /// Forgets objects that are no longer in `folder`, of which `found` is everything, sorted.
    pub(super) fn keep_only(&self, destination: &'static str, folder: &ObjectKey, found: &[ObjectMeta]) {
        self.lock().retain(|(of, key), _| {
            *of != destination
                || !key.as_str().starts_with(folder.as_str())
                || found.binary_search_by(|meta| meta.key.cmp(key)).is_ok()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Cached>> {
        // The map is right even after a panic elsewhere: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
