//! The vector indexes that a backup must have: one for each shard of a class with an HNSW index whose objects have vectors.
//!
//! Up to some version between 1.37.14 and 1.39.2, Weaviate names the logs of an index by the second in which it began
//! them, and leaves the newest out of a backup: a log that was begun in the second of the backup is then missing, and a
//! new class has no other.

use crate::component::weaviate::chunk::{Contents, shard_of};
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::segment::Vectors;
use crate::component::weaviate::tree::{Described, Stored};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

impl Described {
    /// The chunks of classes with a shard that has objects and no vector index, though it may need one.
    pub(super) fn chunks_without_index(&self, classes: &Classes) -> BTreeSet<String> {
        let lacks = |stored: &&Stored| {
            let Some(class) = classes.get(&stored.class) else { return false };
            let mut shards = stored.files.iter().filter_map(|file| shard_of(file));
            shards.any(|shard| stored.lacks(shard, of_hnsw(&class.definition)))
        };
        self.stored.iter().filter(lacks).flat_map(|stored| stored.chunks.iter().cloned()).collect()
    }

    /// The shards whose objects have vectors and whose vector index is not in the backup, by the paths of their folders.
    pub(super) fn lost_indexes(
        &self,
        read: &BTreeMap<String, Contents>,
        classes: &Classes,
    ) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for stored in &self.stored {
            let Some(class) = classes.get(&stored.class) else { continue };
            let indexed = of_hnsw(&class.definition);
            let contents = stored.chunks.iter().filter_map(|chunk| read.get(chunk));
            for (shard, vectors) in contents.flat_map(|contents| &contents.vectors) {
                let wanted =
                    Vectors { plain: vectors.plain && indexed.plain, named: vectors.named && indexed.named };
                if stored.lacks(shard, wanted) {
                    lost.insert(shard.clone());
                }
            }
        }
        lost
    }
}

/// The error of a backup without these vector indexes.
pub(super) fn without(lost: &BTreeSet<String>) -> String {
    let names: Vec<_> = lost.iter().map(String::as_str).collect();
    format!(
        "Weaviate has left vector indexes out of the backup, though the objects have vectors: after a restore a \
         search by vector finds nothing in {}",
        names.join(", ")
    )
}

impl Stored {
    /// Returns whether the files have no log of the index for one of these vectors of a shard.
    fn lacks(&self, shard: &str, vectors: Vectors) -> bool {
        let has = |log: &str| self.files.iter().any(|file| file.starts_with(&format!("{shard}/{log}")));
        vectors.plain && !has("main.hnsw.commitlog.d/") || vectors.named && !has("vectors_")
    }
}

/// The kinds of vectors of a class for each of which there is a log on disk: an index of another type, or none, has no
/// such log.
fn of_hnsw(definition: &Value) -> Vectors {
    let is_hnsw = |of: &Value| of["vectorIndexType"] == "hnsw" && of["vectorIndexConfig"]["skip"] != true;
    let named = definition["vectorConfig"].as_object().filter(|vectors| !vectors.is_empty());
    let named = named.is_some_and(|vectors| vectors.values().all(is_hnsw));
    Vectors { plain: is_hnsw(definition), named }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::{class::Class, count::CountRange};
    use serde_json::json;

    /// Returns whether the chunks of a class with this definition, these files and these vectors are to be read, and whether an
    /// index is missing then.
    fn judged(definition: &Value, files: &[&str], vectors: Vectors) -> (bool, bool) {
        let class =
            Class { definition: definition.clone(), tenants: Vec::new(), objects: CountRange::default() };
        let classes = Classes::from([("Paper".to_owned(), class)]);
        let objects = ["paper/s/lsm/objects/segment-1.db", "paper/s/lsm/objects/segment-1.bloom"];
        let files: BTreeSet<_> = objects.iter().chain(files).map(|file| (*file).to_owned()).collect();
        let chunk = "node1/Paper/chunk-1".to_owned();
        let chunks = BTreeSet::from([chunk.clone()]);
        let stored = Stored { class: "Paper".to_owned(), chunks: chunks.clone(), files };
        let described = Described { stored: vec![stored], ..Described::default() };
        let vectors = BTreeMap::from([("paper/s".to_owned(), vectors)]);
        let read = BTreeMap::from([(chunk, Contents { vectors, ..Contents::default() })]);
        let to_read = described.chunks_without_index(&classes);
        assert!(to_read.is_empty() || to_read == chunks);
        (!to_read.is_empty(), !described.lost_indexes(&read, &classes).is_empty())
    }

    #[test]
    fn an_index_is_missed_only_where_there_are_vectors_for_it() {
        let (none, plain, named) = (
            Vectors::default(),
            Vectors { plain: true, named: false },
            Vectors { plain: false, named: true },
        );
        let hnsw = json!({"vectorIndexType": "hnsw", "vectorIndexConfig": {"skip": false}});
        let skipped = json!({"vectorIndexType": "hnsw", "vectorIndexConfig": {"skip": true}});
        let flat = json!({"vectorIndexType": "flat"});
        let both =
            json!({"vectorConfig": {"a": {"vectorIndexType": "hnsw"}, "b": {"vectorIndexType": "hnsw"}}});
        let mixed =
            json!({"vectorConfig": {"a": {"vectorIndexType": "hnsw"}, "b": {"vectorIndexType": "flat"}}});
        let log = ["paper/s/main.hnsw.commitlog.d/1"];
        for (definition, files, vectors, judgement) in [
            (&hnsw, &[][..], plain, (true, true)),
            (&hnsw, &[], none, (true, false)),
            (&hnsw, &log, plain, (false, false)),
            (&hnsw, &["paper/t/main.hnsw.commitlog.d/1"], plain, (true, true)),
            (&skipped, &[], plain, (false, false)),
            (&flat, &[], plain, (false, false)),
            (&both, &[], named, (true, true)),
            (&both, &["paper/s/vectors_a.hnsw.commitlog.d/1"], named, (false, false)),
            (&mixed, &[], named, (false, false)),
        ] {
            assert_eq!(judged(definition, files, vectors), judgement, "{definition} {files:?} {vectors:?}");
        }
    }
}
