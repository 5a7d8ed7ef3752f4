//! An archive read to its end: whether all is there that its index and Weaviate's descriptors name.

use crate::component::weaviate::chunk::{Chunk, Contents};
use crate::component::weaviate::index::{BackupBackend, Index, corrupt};
use crate::component::weaviate::ndjson::{Lines, ObjectOwner};
use crate::component::weaviate::tree::Tree;
use crate::component::{ComponentError, Feed};
use crate::domain::{facts::Counts, progress::Meter};
use crate::stream::tar::{Entry, Visit, walk};
use std::collections::{BTreeMap, BTreeSet};

/// Reads an archive behind its index to the end, and counts what it holds.
///
/// Of what Weaviate wrote itself nothing but the files can be counted: the objects are those of the index,
/// if the classes are there and every chunk is whole.
pub(super) async fn decode(index: &Index, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
    decode_only(index, None, feed, meter).await
}

/// Reads an archive as [`decode`] does; of an export, only the objects of the classes of `only` must name their tenants,
/// so that these classes can be restored from an archive in which another class cannot.
pub(super) async fn decode_only(
    index: &Index,
    only: Option<&BTreeSet<String>>,
    feed: Feed<'_>,
    meter: &Meter,
) -> Result<Counts, ComponentError> {
    let mut reading = Reading::new(index, only);
    walk(feed, meter, &mut reading).await?;
    reading.finish()
}

/// The state of an archive's proof as its bytes come.
struct Reading<'a> {
    index: &'a Index,
    /// The classes of an export that are to be restored; all if `None`.
    only: Option<&'a BTreeSet<String>>,
    tree: Tree,
    /// The state of the entry that is being read.
    state: DecodeState<'a>,
    /// The contents of each chunk that was whole.
    chunks: BTreeMap<String, Contents>,
    /// Objects of an export.
    objects: BTreeMap<String, u64>,
}

/// The state of the entry of an archive that is being read.
enum DecodeState<'a> {
    Nothing,
    Text(String, Vec<u8>),
    Chunk(String, Chunk),
    Part(&'a str, Box<Lines<'a>>),
}

impl<'a> Reading<'a> {
    fn new(index: &'a Index, only: Option<&'a BTreeSet<String>>) -> Self {
        // A class without objects has no part.
        let objects = index.classes.keys().map(|class| (class.clone(), 0)).collect();
        Self {
            index,
            only,
            tree: Tree::default(),
            state: DecodeState::Nothing,
            chunks: BTreeMap::new(),
            objects,
        }
    }

    /// Closes the entry before.
    fn close(&mut self) -> Result<(), ComponentError> {
        match std::mem::replace(&mut self.state, DecodeState::Nothing) {
            DecodeState::Nothing => {}
            DecodeState::Text(path, text) => self.tree.add_descriptor(&path, text),
            DecodeState::Chunk(path, chunk) => {
                let contents = chunk.finish().map_err(|err| corrupt(format!("{path}: {err}")))?;
                self.chunks.insert(path, contents);
            }
            DecodeState::Part(class, lines) => {
                let count = lines.finish().map_err(|err| corrupt(format!("objects of {class}: {err}")))?;
                *self.objects.entry(class.to_owned()).or_default() += count;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Counts, ComponentError> {
        self.close()?;
        let promised =
            |(name, class): (&String, &super::class::Class)| (name.clone(), class.objects.number());
        let classes = match self.index.backend {
            BackupBackend::Export => self.objects,
            BackupBackend::Filesystem => {
                self.all_files()?;
                self.index.classes.iter().map(promised).collect()
            }
            BackupBackend::S3 => self.index.classes.iter().map(promised).collect(),
        };
        Ok(Counts { classes, ..Counts::default() })
    }

    /// Proves that the files are those of a whole backup of the index's classes.
    fn all_files(&self) -> Result<(), ComponentError> {
        if self.index.classes.is_empty() {
            return Ok(());
        }
        let described = self.tree.describe(&self.index.id).map_err(|wrong| corrupt(wrong.join("; ")))?;
        let wanted: BTreeSet<_> = self.index.classes.keys().cloned().collect();
        if described.classes != wanted {
            return Err(corrupt(format!("it holds {:?} and should hold {wanted:?}", described.classes)));
        }
        described.compare(&self.chunks).map_err(corrupt)?;
        self.index.accept(&described.lost_indexes(&self.chunks, &self.index.classes))
    }
}

impl Visit for Reading<'_> {
    type Error = ComponentError;

    fn entry(&mut self, entry: &Entry<'_>, size: u64) -> Result<(), ComponentError> {
        self.close()?;
        if !entry.is_file() {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&entry.path()).into_owned();
        if self.index.backend == BackupBackend::Export {
            let class = self.index.class_of(&path);
            let name = class.ok_or_else(|| corrupt(format!("{path:?} is of no class of its index")))?;
            let is_brought = self.only.is_none_or(|only| only.contains(name));
            let owner = is_brought.then(|| ObjectOwner::new(name, &self.index.classes[name]));
            self.state = DecodeState::Part(name, Box::new(Lines::new(owner).map_err(corrupt)?));
            return Ok(());
        }
        self.tree.add(&path, size);
        self.state = if Tree::is_descriptor(&path) {
            if size > Tree::LONGEST_TEXT {
                return Err(corrupt(format!("{path:?} is too long to be true")));
            }
            DecodeState::Text(path, Vec::new())
        } else if path.rsplit('/').next().is_some_and(|name| name.starts_with("chunk-")) {
            DecodeState::Chunk(path, Chunk::default())
        } else {
            DecodeState::Nothing
        };
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), ComponentError> {
        match &mut self.state {
            DecodeState::Nothing => Ok(()),
            DecodeState::Text(_, text) => {
                text.extend_from_slice(bytes);
                Ok(())
            }
            DecodeState::Chunk(path, chunk) => {
                chunk.take(bytes).map_err(|err| corrupt(format!("{path}: {err}")))
            }
            DecodeState::Part(class, lines) => {
                lines.take(bytes).map_err(|err| corrupt(format!("objects of {class}: {err}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::index::{END, entry};

    #[tokio::test]
    async fn an_archive_without_classes_is_whole_and_empty() {
        let index = Index {
            format: Index::FORMAT,
            backend: BackupBackend::Filesystem,
            id: String::new(),
            server_version: "1.26.1".to_owned(),
            nodes: BTreeSet::new(),
            classes: BTreeMap::new(),
            aliases: BTreeMap::new(),
            unindexed: BTreeSet::new(),
            files: Vec::new(),
        };
        let counts = decode(&index, &mut &END[..], &Meter::default()).await.unwrap();
        assert_eq!(counts, Counts::default());
        let odd = Index { backend: BackupBackend::Export, ..index };
        let archive = [entry("x", b""), END.to_vec()].concat();
        assert!(decode(&odd, &mut &*archive, &Meter::default()).await.is_err());
    }
}
