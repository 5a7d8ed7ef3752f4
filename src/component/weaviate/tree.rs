//! What Weaviate writes for a backup, and whether it is whole. Pure.
//!
//! `backup_config.json` is the descriptor of all, `<node>/backup.json` that of a node, and
//! `<node>/<Class>/chunk-<n>` hold the data. Chunks that no descriptor names may be there; the hash of none
//! is written down (Weaviate's source, `entities/backup` and `usecases/backup`).

use serde::Deserialize;
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
    /// What the descriptors say.
    texts: BTreeMap<String, Vec<u8>>,
}

/// What a whole backup says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) classes: BTreeSet<String>,
    pub(super) nodes: BTreeSet<String>,
    pub(super) server_version: String,
    /// Which files must be in a chunk, by its path; of later versions that split shards, nothing is known.
    pub(super) chunks: BTreeMap<String, BTreeSet<String>>,
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

    /// Whether the file of that path is a descriptor, whose text is wanted.
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

    /// Notes what a descriptor says.
    pub(super) fn say(&mut self, path: &str, text: Vec<u8>) {
        self.texts.insert(path.to_owned(), text);
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    /// Looks whether it is the whole backup `id`, as far as can be seen without reading the chunks.
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
        let files: BTreeMap<_, _> = shards
            .iter()
            .map(|shard| (shard.name.as_str(), shard.files.as_deref().unwrap_or_default()))
            .collect();
        let mut stored = BTreeMap::<&str, usize>::new();
        let none = BTreeMap::new();
        let chunks = class.chunks.as_ref().unwrap_or(&none);
        for names in chunks.values().flatten().flatten() {
            *stored.entry(names).or_default() += 1;
        }
        for (number, names) in chunks {
            let path = format!("{node}/{}/chunk-{number}", class.name);
            match self.files.get(&path) {
                None => wrong.push(format!("{path} is missing")),
                Some(0) => wrong.push(format!("{path} is empty")),
                Some(_) => {}
            }
            // Of a shard that is spread over several, nobody knows which file is in which.
            let whole = names.iter().flatten().filter(|name| stored[name.as_str()] == 1);
            let named =
                whole.filter_map(|name| files.get(name.as_str())).flat_map(|files| files.iter().cloned());
            into.chunks.insert(path, named.collect());
        }
        let lost = files.keys().filter(|shard| !stored.contains_key(**shard));
        wrong.extend(lost.map(|shard| format!("shard {shard} of class {} is in no chunk", class.name)));
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
            tree.say(path, text.to_string().into_bytes());
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
        assert_eq!(described.chunks, BTreeMap::from([("node1/Document/chunk-1".to_owned(), files)]));
        assert_eq!(tree(&descriptors(), Some(5)).bytes(), 7);
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
        cut.say(DESCRIPTOR, b"{\"id\":".to_vec());
        assert!(cut.describe("rna-1").unwrap_err()[0].contains("cannot be read"));
        assert!(Tree::default().describe("rna-1").unwrap_err()[0].contains("is missing"));
    }
}
