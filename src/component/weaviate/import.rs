//! Objects of an export, put back into fresh classes.
//!
//! An object may refer to one that comes later, or to one of another class, so first all classes are made
//! without their references, then all objects are stored without them, and then they are added.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Classes};
use crate::component::weaviate::index::{self, Index, corrupt};
use crate::component::weaviate::lines::LONGEST_PART;
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use async_tar::Header;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Objects of one request, and about how many bytes of them.
const MOST: usize = 200;
const BATCH: usize = 2 << 20;

/// Makes the classes of `classes`, empty.
///
/// # Errors
///
/// When one of them is there already, or is refused.
pub(super) async fn make_classes(server: &Server, classes: &Classes) -> Result<(), ComponentError> {
    for (name, class) in classes {
        let (definition, _) = split(&class.definition);
        let made = server.create_class(&definition).await;
        made.map_err(|fault| fault.of(format!("make class {name}")))?;
    }
    for (name, class) in classes {
        for property in split(&class.definition).1 {
            let made = server.add_property(name, &property).await;
            made.map_err(|fault| fault.of(format!("make property {} of class {name}", property["name"])))?;
        }
        for tenants in class.tenants.chunks(100) {
            let made = server.add_tenants(name, tenants).await;
            made.map_err(|fault| fault.of(format!("make the tenants of class {name}")))?;
        }
    }
    Ok(())
}

/// A definition without its references, and those.
fn split(definition: &Value) -> (Value, Vec<Value>) {
    let references = class::references(definition);
    let mut plain = definition.clone();
    if class::has_tenants(definition)
        && let Some(fields) = plain.as_object_mut()
    {
        // Servers tell it of such classes, and refuse it: "cannot have both shardingConfig and multiTenancyConfig".
        fields.remove("shardingConfig");
    }
    let Some(properties) = plain["properties"].as_array_mut() else { return (plain, Vec::new()) };
    let is_one = |property: &Value| property["name"].as_str().is_some_and(|name| references.contains(name));
    let (refers, rest) = std::mem::take(properties).into_iter().partition(is_one);
    *properties = rest;
    (plain, refers)
}

/// Stores the objects of those classes.
///
/// # Errors
///
/// When the server refuses one of them, or the archive cannot be read.
pub(super) async fn put_objects(
    server: &Server,
    index: &Index,
    only: &BTreeSet<String>,
    archive: impl AsyncRead + Unpin,
    meter: &Meter,
) -> Result<(), ComponentError> {
    let mut parts = Parts(archive);
    while let Some((path, lines)) = parts.next().await? {
        let Some(name) = index.class_of(&path).filter(|name| only.contains(*name)) else { continue };
        let references = class::references(&index.classes[name].definition);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            batch.push(plain(line, &references)?);
            bytes += line.len();
            if bytes >= BATCH || batch.len() == MOST {
                store(server, name, std::mem::take(&mut batch)).await?;
                meter.add(std::mem::take(&mut bytes) as u64);
            }
        }
        store(server, name, batch).await?;
        meter.add(bytes as u64);
    }
    Ok(())
}

async fn store(server: &Server, class: &str, batch: Vec<Value>) -> Result<(), ComponentError> {
    if batch.is_empty() {
        return Ok(());
    }
    let what = format!("store the objects of class {class}");
    let refused = server.put_objects(&json!({"objects": batch})).await.map_err(|fault| fault.of(&what))?;
    all_taken(what, &refused)
}

fn all_taken(what: String, refused: &[String]) -> Result<(), ComponentError> {
    let Some(first) = refused.first() else { return Ok(()) };
    let source = format!("{} were refused, the first: {first}", refused.len());
    Err(ComponentError::Unusable { what, source: Some(source.into()) })
}

/// An object as it is stored: what the server makes itself, and what refers to others, left out.
fn plain(line: &[u8], references: &BTreeSet<String>) -> Result<Value, ComponentError> {
    const KEPT: [&str; 6] = ["class", "id", "properties", "vector", "vectors", "tenant"];
    let mut object: Value = serde_json::from_slice(line).map_err(corrupt)?;
    let fields = object.as_object_mut().ok_or_else(|| corrupt("an object is none"))?;
    fields.retain(|name, value| KEPT.contains(&name.as_str()) && !value.is_null());
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| !references.contains(name));
    }
    Ok(object)
}

/// Adds the references of the objects of those classes, all of which must be stored.
///
/// # Errors
///
/// As [`put_objects`].
pub(super) async fn put_references(
    server: &Server,
    index: &Index,
    only: &BTreeSet<String>,
    archive: impl AsyncRead + Unpin,
) -> Result<(), ComponentError> {
    let refers: BTreeMap<&String, BTreeSet<String>> = index
        .classes
        .iter()
        .filter(|(name, _)| only.contains(*name))
        .map(|(name, class)| (name, class::references(&class.definition)))
        .filter(|(_, references)| !references.is_empty())
        .collect();
    if refers.is_empty() {
        return Ok(());
    }
    let (mut parts, mut batch) = (Parts(archive), Vec::new());
    while let Some((path, lines)) = parts.next().await? {
        let Some((name, references)) = index.class_of(&path).and_then(|name| refers.get_key_value(name))
        else {
            continue;
        };
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let object: Value = serde_json::from_slice(line).map_err(corrupt)?;
            batch.extend(references.iter().flat_map(|property| links(name, property, &object)));
            if batch.len() >= MOST {
                refer(server, std::mem::take(&mut batch)).await?;
            }
        }
    }
    refer(server, batch).await
}

async fn refer(server: &Server, batch: Vec<Value>) -> Result<(), ComponentError> {
    if batch.is_empty() {
        return Ok(());
    }
    let what = "add the references of objects";
    let refused = server.put_references(&json!(batch)).await.map_err(|fault| fault.of(what))?;
    all_taken(what.to_owned(), &refused)
}

/// The references of one property of an object, as they are added.
fn links(class: &str, property: &str, object: &Value) -> Vec<Value> {
    let id = object["id"].as_str().unwrap_or_default();
    let from = format!("weaviate://localhost/{class}/{id}/{property}");
    let links = object["properties"][property].as_array().into_iter().flatten();
    let added = links.filter_map(|link| {
        let mut added = json!({"from": from, "to": link["beacon"].as_str()?});
        if let Some(tenant) = object["tenant"].as_str() {
            added["tenant"] = json!(tenant);
        }
        Some(added)
    });
    added.collect()
}

/// The parts of an export, one after the other.
struct Parts<R>(R);

impl<R: AsyncRead + Unpin> Parts<R> {
    /// The path and the lines of the next; `None` at the end.
    async fn next(&mut self) -> Result<Option<(String, Vec<u8>)>, ComponentError> {
        const BLOCK: usize = 512;
        let unread = |source| ComponentError::Read { what: "read the export".to_owned(), source };
        let mut header = Header::new_old();
        self.0.read_exact(header.as_mut_bytes()).await.map_err(unread)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let size = usize::try_from(header.entry_size().map_err(corrupt)?).map_err(corrupt)?;
        if size > LONGEST_PART {
            return Err(corrupt("a part too long to be true"));
        }
        let mut content = vec![0; size.next_multiple_of(BLOCK)];
        self.0.read_exact(&mut content).await.map_err(unread)?;
        content.truncate(size);
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        if path == index::NAME {
            return Ok(Some((path, content)));
        }
        let mut lines = Vec::new();
        let unpacked = zstd::Decoder::new(&*content).map_err(corrupt)?.take(LONGEST_PART as u64 + 1);
        io::BufReader::new(unpacked).read_to_end(&mut lines).map_err(corrupt)?;
        if lines.len() > LONGEST_PART {
            return Err(corrupt("a part too long to be true"));
        }
        Ok(Some((path, lines)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_out_and_added_later() {
        let definition = json!({"class": "A", "properties": [
            {"name": "title", "dataType": ["text"]}, {"name": "of", "dataType": ["B", "C"]}]});
        let (plain_definition, refers) = split(&definition);
        assert_eq!(plain_definition["properties"], json!([{"name": "title", "dataType": ["text"]}]));
        assert_eq!(refers, [json!({"name": "of", "dataType": ["B", "C"]})]);

        let line = json!({"class": "A", "id": "1", "tenant": "t", "creationTimeUnix": 5, "vector": [0.5],
            "vectorWeights": null, "properties": {"title": "x", "of": [{"beacon": "weaviate://localhost/B/2", "href": "/v1"}]}});
        let references = class::references(&definition);
        let stored = plain(line.to_string().as_bytes(), &references).unwrap();
        assert_eq!(
            stored,
            json!({"class": "A", "id": "1", "tenant": "t", "vector": [0.5], "properties": {"title": "x"}})
        );
        assert_eq!(
            links("A", "of", &line),
            [json!({"from": "weaviate://localhost/A/1/of", "to": "weaviate://localhost/B/2", "tenant": "t"})]
        );
    }
}
