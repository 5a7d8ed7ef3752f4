//! The references of objects, added when all objects are stored.

use crate::component::ComponentError;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::import::{ObjectBatch, all_taken};
use crate::component::weaviate::index::corrupt;
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
};

/// The most references of one request, and about the most bytes of the objects that have them.
const MOST: usize = 200;
const BYTES: usize = 2 << 20;

/// An object without its references.
pub(super) fn plain(line: &[u8], references: &BTreeSet<String>) -> Result<Vec<u8>, ComponentError> {
    let mut object: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).map_err(corrupt)?;
    let Some(properties) = object.get("properties") else { return Ok(line.to_vec()) };
    let properties: Option<BTreeMap<&str, &RawValue>> =
        serde_json::from_str(properties.get()).map_err(corrupt)?;
    let mut properties = properties.unwrap_or_default();
    properties.retain(|name, _| !references.contains(*name));
    let properties = serde_json::value::to_raw_value(&properties).map_err(corrupt)?;
    object.insert("properties", &properties);
    serde_json::to_vec(&object).map_err(corrupt)
}

/// The objects of some lines, with what they refer to.
#[derive(Debug)]
pub(super) struct ReferenceBatch<'a> {
    class: &'a str,
    references: &'a BTreeSet<String>,
    lines: Vec<u8>,
    links: Vec<Value>,
}

#[derive(Deserialize)]
struct ReferencingObject<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    properties: Option<BTreeMap<&'a str, &'a RawValue>>,
}

#[derive(Deserialize)]
struct Link<'a> {
    #[serde(borrow)]
    beacon: Cow<'a, str>,
}

impl<'a> ReferenceBatch<'a> {
    pub(super) fn new(class: &'a str, references: &'a BTreeSet<String>) -> Self {
        Self { class, references, lines: Vec::new(), links: Vec::new() }
    }

    /// Takes an object, if it refers to any.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<(), ComponentError> {
        let object: ReferencingObject<'_> = serde_json::from_slice(line).map_err(corrupt)?;
        let before = self.links.len();
        for (name, value) in
            object.properties.iter().flatten().filter(|(name, _)| self.references.contains(**name))
        {
            let from = format!("weaviate://localhost/{}/{}/{name}", self.class, object.id);
            let links: Option<Vec<Link<'_>>> = serde_json::from_str(value.get()).map_err(corrupt)?;
            for Link { beacon } in links.unwrap_or_default() {
                let mut link = json!({"from": from, "to": beacon});
                if let Some(tenant) = &object.tenant {
                    link["tenant"] = json!(tenant);
                }
                self.links.push(link);
            }
        }
        if self.links.len() > before {
            self.lines.extend_from_slice(line);
            self.lines.push(b'\n');
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.links.len() >= MOST || self.lines.len() >= BYTES
    }

    /// Adds the references, and tells how many lead to objects that are not there.
    ///
    /// The server adds to what is there, so a request whose answer was lost is not sent again: the objects are stored
    /// anew, which takes their references away, and then their references are read back, since a request that was
    /// given up may still have its effect.
    ///
    /// # Errors
    ///
    /// When one is refused for another reason, or the server gives no answer for long.
    pub(super) async fn add(self, server: &Server) -> Result<usize, ComponentError> {
        let what = || format!("add the references of the objects of class {}", self.class);
        if self.links.is_empty() {
            return Ok(0);
        }
        let (mut retries, mut is_doubtful) = (server.client.retries(), false);
        loop {
            if is_doubtful {
                self.store_without_references(server).await?;
            }
            let refused = match server.add_references(&self.links).await {
                Err(fault) if fault.passes() && retries.wait(&fault).await => {
                    is_doubtful = true;
                    continue;
                }
                answer => answer.map_err(|fault| fault.of(what()))?,
            };
            let (dangling, bad): (Vec<_>, Vec<_>) = refused.into_iter().partition(|why| leads_nowhere(why));
            all_taken(what(), &bad)?;
            if !is_doubtful
                || self.are_there(server, dangling.len()).await.map_err(|fault| fault.of(what()))?
            {
                return Ok(dangling.len());
            }
            let err = io::Error::other("a request that was given up has added references all the same");
            if !retries.wait(&err).await {
                return Err(Fault::Unavailable(err.into()).of(what()));
            }
        }
    }

    fn each_line(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }

    /// Stores the objects without references.
    async fn store_without_references(&self, server: &Server) -> Result<(), ComponentError> {
        let mut batch = ObjectBatch::new();
        for line in self.each_line() {
            batch.next().extend_from_slice(line);
            batch.take(self.references)?;
        }
        batch.store(server, self.class, &Meter::default()).await
    }

    /// Tests whether the objects have as many references as they should, less `dangling`.
    async fn are_there(&self, server: &Server, dangling: usize) -> Result<bool, Fault> {
        let mut found = dangling;
        for line in self.each_line() {
            let object: ReferencingObject<'_> =
                serde_json::from_slice(line).map_err(|err| Fault::Unavailable(err.into()))?;
            let stored = server.object(self.class, &object.id, object.tenant.as_deref()).await?;
            let links = self.references.iter().filter_map(|name| stored["properties"][name].as_array());
            found += links.map(Vec::len).sum::<usize>();
        }
        Ok(found == self.links.len())
    }
}

/// Returns whether a reference was refused because its target is not there: in classes with tenants, servers look for it.
fn leads_nowhere(why: &str) -> bool {
    why.starts_with("target") && why.contains("not found")
}

#[test]
fn references_are_taken_out_and_added_later() {
    let references = BTreeSet::from(["of".to_owned()]);
    let line = br#"{"tenant":"t","class":"A","id":"1","properties":{"of":[{"beacon":"weaviate://localhost/B/2","href":"/v1"}],"title":"x"},"vectorWeights":null}"#;
    let stored = plain(line, &references).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&stored).unwrap(),
        json!({"class": "A", "id": "1", "tenant": "t", "properties": {"title": "x"}, "vectorWeights": null})
    );
    let mut batch = ReferenceBatch::new("A", &references);
    batch.take(line).unwrap();
    batch.take(br#"{"class":"A","id":"2","properties":{"title":"y"}}"#).unwrap();
    batch.take(br#"{"class":"A","id":"3"}"#).unwrap();
    let link =
        json!({"from": "weaviate://localhost/A/1/of", "to": "weaviate://localhost/B/2", "tenant": "t"});
    assert_eq!(batch.links, [link]);
    assert_eq!(batch.each_line().collect::<Vec<_>>(), [line]);
}
