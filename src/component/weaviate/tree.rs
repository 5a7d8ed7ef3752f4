//! The files that Weaviate writes for a backup, and the proof that they are whole. Pure.
//!
//! `backup_config.json` is the descriptor of all, `<node>/backup.json` that of a node, and
//! `<node>/<Class>/chunk-<n>` hold the data. Chunks that no descriptor names may be there; the hash of none
//! is written down (Weaviate's source, `entities/backup` and `usecases/backup`).

use crate::component::weaviate::chunk::Contents;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The descriptor of all, in a backup's folder.
pub(super) const DESCRIPTOR: &str = "backup_config.json";
/// Written by each restore, so no part of a backup.
pub(super) const RESTORED: &str = "restore_config.json";
const NODE_DESCRIPTOR: &str = "backup.json";

/// The files of one backup as they were found.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Length of each, by its path below the backup's folder.
    pub(super) files: BTreeMap<String, u64>,
    /// The texts of the descriptors.
    texts: BTreeMap<String, Vec<u8>>,
}

/// The contents of a whole backup by its descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) classes: BTreeSet<String>,
    pub(super) nodes: BTreeSet<String>,
    pub(super) server_version: String,
    /// True if users or roles are in it.
    pub(super) has_access: bool,
    /// The files of each class on each node.
    pub(super) stored: Vec<Stored>,
}

/// The files of a class on one node. A shard may lie in several chunks, so the files are known of all chunks together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) class: String,
    /// The paths of its chunks.
    pub(super) chunks: BTreeSet<String>,
    /// The files of its shards, by the paths that they have on the server.
    pub(super) files: BTreeSet<String>,
}

impl Described {
    /// Returns whether the file of that path is a chunk of a class.
    pub(super) fn is_chunk(&self, path: &str) -> bool {
        self.stored.iter().any(|stored| stored.chunks.contains(path))
    }

    /// Compares what was read in the chunks, by their paths, with the files that must be in them.
    ///
    /// # Errors
    ///
    /// The first file that is missing, in words.
    pub(super) fn compare(&self, read: &BTreeMap<String, Contents>) -> Result<(), String> {
        for stored in &self.stored {
            if let Some(lost) = stored.chunks.iter().find(|chunk| !read.contains_key(*chunk)) {
                return Err(format!("{lost} is missing"));
            }
            let is_there =
                |file: &&String| stored.chunks.iter().any(|chunk| read[chunk].files.contains(*file));
            if let Some(lost) = stored.files.iter().find(|file| !is_there(file)) {
                return Err(format!("no chunk of class {} has {lost}", stored.class));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Global {
    id: String,
    status: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    version: String,
    #[serde(rename = "serverVersion", default)]
    server_version: String,
    #[serde(default)]
    nodes: BTreeMap<String, GlobalNode>,
}

#[derive(Debug, Deserialize)]
struct GlobalNode {
    #[serde(default)]
    classes: Vec<String>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    status: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    classes: Option<Vec<NodeClass>>,
    /// Roles, as JSON in base64; of a server without roles there are none.
    #[serde(rename = "rbacBackups", default)]
    roles: Option<String>,
    /// Users with hashes of their keys, likewise; of a server without users an empty list.
    #[serde(rename = "userBackups", default)]
    users: Option<String>,
}

impl Node {
    fn has_access(&self) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Users {
            data: Data,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Data {
            users: serde_json::Map<String, Value>,
        }
        let users = self.users.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let users = users.and_then(|text| serde_json::from_slice::<Users>(&text).ok());
        users.is_some_and(|users| !users.data.users.is_empty())
            || self.roles.as_ref().is_some_and(|roles| !roles.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct NodeClass {
    name: String,
    #[serde(default)]
    shards: Option<Vec<Shard>>,
    #[serde(default)]
    chunks: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Debug, Deserialize)]
struct Shard {
    name: String,
    #[serde(default)]
    files: Option<Vec<String>>,
}

impl Tree {
    /// More than a descriptor of a thousand classes has.
    pub(super) const LONGEST_TEXT: u64 = 32 << 20;

    /// Returns whether the file of that path is a descriptor, whose text is wanted.
    pub(super) fn is_descriptor(path: &str) -> bool {
        path == DESCRIPTOR
            || path.split_once('/').is_some_and(|(node, file)| !node.is_empty() && file == NODE_DESCRIPTOR)
    }

    /// Notes a file.
    pub(super) fn add(&mut self, path: &str, bytes: u64) {
        if path != RESTORED {
            self.files.insert(path.to_owned(), bytes);
        }
    }

    /// Notes a descriptor. Its length is that of this text: the server may write the file again after it was listed.
    pub(super) fn add_descriptor(&mut self, path: &str, text: Vec<u8>) {
        self.add(path, text.len() as u64);
        self.texts.insert(path.to_owned(), text);
    }

    /// The files of these paths alone.
    pub(super) fn only(&self, paths: &BTreeSet<String>) -> Self {
        let files = self.files.iter().filter(|(path, _)| paths.contains(*path));
        Self { files: files.map(|(path, bytes)| (path.clone(), *bytes)).collect(), texts: BTreeMap::new() }
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    /// Tests whether it is the whole backup `id`, as far as can be seen without reading the chunks.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in words.
    pub(super) fn describe(&self, id: &str) -> Result<Described, Vec<String>> {
        let mut wrong = Vec::new();
        let Some(global) = self.read::<Global>(DESCRIPTOR, &mut wrong) else { return Err(wrong) };
        let mut note = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        note(global.id == id, format!("{DESCRIPTOR} is of backup {} and not of {id}", global.id));
        note(global.status == "SUCCESS", format!("{DESCRIPTOR} says {}", global.status));
        note(global.error.is_empty(), format!("{DESCRIPTOR} names an error: {}", global.error));
        note(
            !global.version.is_empty() && !global.server_version.is_empty(),
            format!("{DESCRIPTOR} names no version"),
        );
        note(!global.nodes.is_empty(), format!("{DESCRIPTOR} names no node"));
        let mut described = Described { server_version: global.server_version, ..Described::default() };
        for (name, of_global) in &global.nodes {
            described.nodes.insert(name.clone());
            if !["SUCCESS", ""].contains(&of_global.status.as_str()) || !of_global.error.is_empty() {
                wrong.push(format!("node {name} says {} {}", of_global.status, of_global.error));
            }
            self.node(id, name, &of_global.classes, &mut described, &mut wrong);
        }
        if wrong.is_empty() { Ok(described) } else { Err(wrong) }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: &str, wrong: &mut Vec<String>) -> Option<T> {
        let Some(text) = self.texts.get(path) else {
            wrong.push(format!("{path} is missing"));
            return None;
        };
        serde_json::from_slice(text).map_err(|err| wrong.push(format!("{path} cannot be read: {err}"))).ok()
    }

    fn node(&self, id: &str, name: &str, promised: &[String], into: &mut Described, wrong: &mut Vec<String>) {
        let path = format!("{name}/{NODE_DESCRIPTOR}");
        let Some(node) = self.read::<Node>(&path, wrong) else { return };
        if node.id != id || node.status != "SUCCESS" || !node.error.is_empty() {
            wrong.push(format!("{path} is of {}, says {} {}", node.id, node.status, node.error));
        }
        into.has_access |= node.has_access();
        let classes = node.classes.unwrap_or_default();
        let missing = promised.iter().filter(|wanted| !classes.iter().any(|class| class.name == **wanted));
        wrong.extend(missing.map(|class| format!("{path} does not have class {class}")));
        for class in classes {
            self.class(name, &class, into, wrong);
            into.classes.insert(class.name);
        }
    }

    /// Each chunk must be there, and each shard in one of them. A class without shards has no chunks.
    fn class(&self, node: &str, class: &NodeClass, into: &mut Described, wrong: &mut Vec<String>) {
        let shards = class.shards.as_deref().unwrap_or_default();
        let (mut stored, mut chunks) = (BTreeSet::new(), BTreeSet::new());
        for (number, names) in class.chunks.iter().flatten() {
            let path = format!("{node}/{}/chunk-{number}", class.name);
            match self.files.get(&path) {
                None => wrong.push(format!("{path} is missing")),
                Some(0) => wrong.push(format!("{path} is empty")),
                Some(_) => {}
            }
            stored.extend(names.iter().flatten());
            chunks.insert(path);
        }
        let lost = shards.iter().map(|shard| &shard.name).filter(|shard| !stored.contains(shard));
        wrong.extend(lost.map(|shard| format!("shard {shard} of class {} is in no chunk", class.name)));
        let files = shards.iter().flat_map(|shard| shard.files.iter().flatten().cloned()).collect();
        into.stored.push(Stored { class: class.name.clone(), chunks, files });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn descriptors() -> (Value, Value) {
        let global = json!({
            "id": "rna-1", "status": "SUCCESS", "version": "2.1", "serverVersion": "1.26.1", "error": "",
            "nodes": {"node1": {"classes": ["Document"], "status": "SUCCESS", "error": ""}},
        });
        let node = json!({
            "id": "rna-1", "status": "SUCCESS", "error": "",
            "classes": [{"name": "Document", "shards": [{"name": "s1", "files": ["document/s1/a", "document/s1/b"]}],
                         "chunks": {"1": ["s1"]}}],
        });
        (global, node)
    }

    fn tree((global, node): &(Value, Value), chunk: Option<u64>) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in [(DESCRIPTOR, global), ("node1/backup.json", node)] {
            tree.add(path, 1);
            tree.add_descriptor(path, text.to_string().into_bytes());
        }
        tree.add("node1/Document/chunk-7", 0); // of an idle worker
        tree.add(RESTORED, 9);
        if let Some(bytes) = chunk {
            tree.add("node1/Document/chunk-1", bytes);
        }
        tree
    }

    #[test]
    fn a_whole_backup_says_what_is_in_it() {
        let described = tree(&descriptors(), Some(5)).describe("rna-1").unwrap();
        assert_eq!(described.classes, BTreeSet::from(["Document".to_owned()]));
        assert_eq!(described.nodes, BTreeSet::from(["node1".to_owned()]));
        let files = ["document/s1/a", "document/s1/b"].map(str::to_owned).into();
        let stored = Stored {
            class: "Document".to_owned(),
            chunks: BTreeSet::from(["node1/Document/chunk-1".to_owned()]),
            files,
        };
        assert_eq!(described.stored, [stored]);
    }

    #[test]
    fn a_descriptor_is_as_long_as_its_text_whatever_a_listing_said_before() {
        let mut tree = Tree::default();
        tree.add(DESCRIPTOR, 406);
        tree.add_descriptor(DESCRIPTOR, vec![b' '; 433]);
        assert_eq!(tree.bytes(), 433);
    }

    #[test]
    fn a_shard_may_lie_in_several_chunks_and_each_of_its_files_is_in_one() {
        let (global, mut node) = descriptors();
        node["classes"][0]["chunks"] = json!({"1": ["s1"], "2": ["s1"]});
        let mut tree = tree(&(global, node), Some(5));
        tree.add("node1/Document/chunk-2", 3);
        let described = tree.describe("rna-1").unwrap();
        let read = |names: [&str; 2]| {
            let chunk = |number: usize, name: &str| {
                let files = BTreeSet::from([name.to_owned()]);
                (format!("node1/Document/chunk-{number}"), Contents { files, ..Contents::default() })
            };
            BTreeMap::from([chunk(1, names[0]), chunk(2, names[1])])
        };
        assert_eq!(described.compare(&read(["document/s1/a", "document/s1/b"])), Ok(()));
        let lost = "no chunk of class Document has document/s1/b".to_owned();
        assert_eq!(described.compare(&read(["document/s1/a", "document/s1/c"])), Err(lost));
        let mut cut = read(["document/s1/a", "document/s1/b"]);
        cut.remove("node1/Document/chunk-2");
        assert_eq!(described.compare(&cut), Err("node1/Document/chunk-2 is missing".to_owned()));
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_named() {
        let wrong = |edit: &dyn Fn(&mut Value, &mut Value), chunk| {
            let (mut global, mut node) = descriptors();
            edit(&mut global, &mut node);
            tree(&(global, node), chunk).describe("rna-1").unwrap_err().join("; ")
        };
        let nothing = |_: &mut Value, _: &mut Value| {};
        for (found, words) in [
            (wrong(&nothing, None), "chunk-1 is missing"),
            (wrong(&nothing, Some(0)), "chunk-1 is empty"),
            (wrong(&|global, _| global["status"] = json!("STARTED"), Some(1)), "says STARTED"),
            (wrong(&|global, _| global["id"] = json!("rna-2"), Some(1)), "is of backup rna-2"),
            (wrong(&|global, _| global["nodes"] = json!({}), Some(1)), "names no node"),
            (wrong(&|global, _| global["serverVersion"] = json!(""), Some(1)), "names no version"),
            (wrong(&|_, node| node["status"] = json!("TRANSFERRING"), Some(1)), "TRANSFERRING"),
            (wrong(&|_, node| node["classes"] = json!([]), Some(1)), "does not have class Document"),
            (
                wrong(&|_, node| node["classes"][0]["chunks"] = json!({}), Some(1)),
                "shard s1 of class Document",
            ),
        ] {
            assert!(found.contains(words), "{words}: {found}");
        }
        let mut cut = tree(&descriptors(), Some(1));
        cut.add_descriptor(DESCRIPTOR, b"{\"id\":".to_vec());
        assert!(cut.describe("rna-1").unwrap_err()[0].contains("cannot be read"));
        assert!(Tree::default().describe("rna-1").unwrap_err()[0].contains("is missing"));
    }
}
