//! The first entry of our archives: what is in them, so that they can be understood on their own.

use crate::component::weaviate::class::{Classes, is_name};
use crate::component::weaviate::files::is_ours;
use crate::component::weaviate::hnsw::without;
use crate::component::{ComponentError, Feed};
use async_tar::{EntryType, Header};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};
use tokio::io::AsyncReadExt;

/// The index of an archive, its first entry `weaviate.json`.
///
/// Behind it come the files that Weaviate wrote, below `./`, or for an export the objects of each class in
/// `export/<number>-<Class>/<number>.ndjson.zst`, one JSON object a line as `GET /v1/objects` has it, with its
/// `tenant` as the first field where the class has tenants, and as `POST /v1/batch/objects` takes it; of a backup
/// that Weaviate keeps in the bucket nothing more. Exports of earlier versions name no tenants: `decode` refuses them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Version of this format: [`Index::FORMAT`].
    pub(super) format: u32,
    #[serde(rename = "way")]
    pub(super) backend: BackupBackend,
    /// The backup's name on the server; empty for an export.
    pub(super) id: String,
    pub(super) server_version: String,
    /// The nodes whose names are in the backup.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) nodes: BTreeSet<String>,
    pub(super) classes: Classes,
    /// The class of each alias, of an export; a server's own backup holds its aliases itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) aliases: BTreeMap<String, String>,
    /// The shards without a vector index on the server itself, so that the backup cannot have one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) unindexed: BTreeSet<String>,
    /// Of a backup in the bucket: its files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<FileInBucket>,
}

/// The backend that has made a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BackupBackend {
    /// The server wrote the backup into its folder; the archive holds that folder.
    Filesystem,
    /// The server wrote the backup into the bucket, where it stays.
    S3,
    /// This program read object by object.
    Export,
}

impl BackupBackend {
    /// The word in settings, results and Weaviate's own paths.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "filesystem",
            Self::S3 => "s3",
            Self::Export => "export",
        }
    }
}

/// A file that Weaviate keeps in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileInBucket {
    /// Below the backup's own prefix.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// The name of the entry.
pub(super) const NAME: &str = "weaviate.json";

impl Index {
    /// The format this program writes.
    pub(super) const FORMAT: u32 = 1;
    /// A schema of thousands of classes is shorter.
    const LONGEST: u64 = 64 << 20;

    /// The whole entry, header and all.
    pub(super) fn entry(&self) -> Vec<u8> {
        let text = serde_json::to_vec_pretty(self).expect("names and numbers are JSON");
        entry(NAME, &text)
    }

    /// Reads the entry, which must be the first; what follows it is left in `feed`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when there is none, or another.
    pub(super) async fn take(feed: Feed<'_>) -> Result<Self, ComponentError> {
        let read = async {
            let mut header = Header::new_old();
            feed.read_exact(header.as_mut_bytes()).await?;
            let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("it does not begin with {NAME}"));
            let size = header.entry_size().map_err(|_| odd())?;
            if *header.path_bytes() != *NAME.as_bytes() || size > Self::LONGEST {
                return Err(odd());
            }
            let length = usize::try_from(size).map_err(|_| odd())?;
            let mut text = vec![0; length.next_multiple_of(BLOCK)];
            feed.read_exact(&mut text).await?;
            text.truncate(length);
            Ok(text)
        };
        match read.await {
            Ok(text) => Self::parse(&text),
            Err(err) => Err(match err.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => corrupt(err),
                _ => ComponentError::Read { what: "read the archive of Weaviate".to_owned(), source: err },
            }),
        }
    }

    /// Reads the text of the entry.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`], or [`ComponentError::Unusable`] when a newer program wrote it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ComponentError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Head { format } = serde_json::from_slice(text).map_err(corrupt)?;
        if format > Self::FORMAT {
            let what = format!("read an archive of Weaviate in format {format}: use a newer rna-backup");
            return Err(ComponentError::Unusable { what, source: None });
        }
        let index: Self = serde_json::from_slice(text).map_err(corrupt)?;
        // They stand in paths of requests, of files and of keys.
        if let Some(name) = index.classes.keys().find(|name| !is_name(name)) {
            return Err(corrupt(format!("{name:?} is no name of a class")));
        }
        if index.backend != BackupBackend::Export && !is_ours(&index.id) {
            return Err(corrupt(format!("{:?} is no backup of ours", index.id)));
        }
        Ok(index)
    }

    /// Compares the shards whose vector index is not in the backup with those that never had one.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`], which names the shards.
    pub(super) fn accept(&self, lost: &BTreeSet<String>) -> Result<(), ComponentError> {
        let lost: BTreeSet<_> = lost.difference(&self.unindexed).cloned().collect();
        if lost.is_empty() { Ok(()) } else { Err(corrupt(without(&lost))) }
    }

    /// The folder of a class's objects in an export; its number tells the class.
    pub(super) fn folder(number: usize, class: &str) -> String {
        /// The most bytes of the class's name, so that the whole name fits into a header.
        const LONGEST: usize = 60;
        format!("export/{number:04}-{}", &class[..class.len().min(LONGEST)])
    }

    /// The class of a part of an export, by its path.
    pub(super) fn class_of(&self, path: &str) -> Option<&String> {
        let number: usize = path.strip_prefix("export/")?.split('-').next()?.parse().ok()?;
        let class = self.classes.keys().nth(number)?;
        path.starts_with(&format!("{}/", Self::folder(number, class))).then_some(class)
    }
}

const BLOCK: usize = 512;

/// An entry of a tar, padded.
pub(super) fn entry(path: &str, content: &[u8]) -> Vec<u8> {
    [&head(path, content.len()), content, &padding(content.len())].concat()
}

/// The bytes behind the content of an entry.
pub(super) fn padding(length: usize) -> Vec<u8> {
    vec![0; length.next_multiple_of(BLOCK) - length]
}

/// The header of an entry of a tar.
pub(super) fn head(path: &str, length: usize) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path(path).expect("our own names are short");
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(length as u64);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// The end of a tar.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// An archive that is not what it should be.
pub(super) fn corrupt(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ComponentError {
    ComponentError::Corrupt { what: "read the archive of Weaviate".to_owned(), source: Some(why.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::class::Class;
    use crate::component::weaviate::count::{Count, CountRange};
    use serde_json::json;

    fn index() -> Index {
        let class = |name: &str| {
            let objects = CountRange { after: Count::Exact(4), ..CountRange::captured(3) };
            (name.to_owned(), Class { definition: json!({"class": name}), tenants: Vec::new(), objects })
        };
        Index {
            format: Index::FORMAT,
            backend: BackupBackend::Export,
            id: String::new(),
            server_version: "1.26.1".to_owned(),
            nodes: BTreeSet::new(),
            classes: [class("Document"), class(&"L".repeat(200))].into(),
            aliases: [("Paper".to_owned(), "Document".to_owned())].into(),
            unindexed: BTreeSet::new(),
            files: Vec::new(),
        }
    }

    #[tokio::test]
    async fn it_comes_back_and_leaves_what_follows() {
        let archive = [index().entry(), entry("a", b"x"), END.to_vec()].concat();
        let mut feed = &archive[..];
        assert_eq!(Index::take(&mut feed).await.unwrap(), index());
        assert_eq!(feed.len(), 512 + 512 + END.len());
        for bad in [&archive[..700], &archive[512..], &entry("a", b"x"), b""] {
            let found = Index::take(&mut &*bad).await;
            assert!(matches!(found, Err(ComponentError::Corrupt { .. })), "{found:?}");
        }
        let mut hostile = index();
        let class = hostile.classes.pop_first().unwrap().1;
        hostile.classes.insert("../Document".to_owned(), class);
        let climbs = Index { backend: BackupBackend::S3, id: "rna-../x".to_owned(), ..index() };
        for hostile in [hostile, climbs] {
            let text = serde_json::to_vec(&hostile).unwrap();
            assert!(matches!(Index::parse(&text), Err(ComponentError::Corrupt { .. })));
        }
        let newer = serde_json::to_vec(&Index { format: 2, ..index() }).unwrap();
        assert!(matches!(Index::parse(&newer), Err(ComponentError::Unusable { .. })));
    }

    #[test]
    fn a_part_leads_to_its_class() {
        let index = index();
        for (number, name) in index.classes.keys().enumerate() {
            let path = format!("{}/000001.ndjson.zst", Index::folder(number, name));
            assert_eq!(index.class_of(&path), Some(name), "{path}");
            entry(&path, b"");
        }
        for path in
            ["export/0000-Paper/1", "export/7-Document/1", "export/x/1", "Document/1", "export/0000-Document"]
        {
            assert_eq!(index.class_of(path), None, "{path}");
        }
    }
}
