//! Objects of an export, put back into fresh classes.
//!
//! An object may refer to one that comes later, or to one of another class, so first all classes are made
//! without their references, then all objects are stored without them, and then they are added.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Classes};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::index::Index;
use crate::component::weaviate::parts::PartReader;
use crate::component::weaviate::references::{ReferenceBatch, plain};
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::AsyncRead;

/// The most objects of one request, and about the most bytes.
const MOST: usize = 500;
const BATCH: usize = 4 << 20;
/// No other batch is read while one of so many bytes is under way.
const LONG: usize = 2 * BATCH;

/// The requests that are under way at once: the server has work for all of its processors while one of them ends.
const AT_ONCE: usize = 2;

/// The most objects of one request where the server may make their vectors itself, one request at a time: a request must be
/// answered within a minute, and for each object without a vector the server asks a vectorizer.
const MOST_TO_VECTORIZE: usize = 200;

/// Classes that were made for an import, with the definitions that the server gave them.
#[derive(Debug)]
pub(super) struct MadeClasses(BTreeMap<String, Value>);

/// Makes the classes of `classes`, empty.
///
/// # Errors
///
/// When one of them is there already, or is refused.
pub(super) async fn make_classes(server: &Server, classes: &Classes) -> Result<MadeClasses, ComponentError> {
    for (name, class) in classes {
        let failed = |fault: Fault| fault.of(format!("make class {name}"));
        let steps = Steps::of(&class.definition);
        server.create_class(&steps.first).await.map_err(failed)?;
        if let Some(second) = &steps.second {
            server.update_class(name, second).await.map_err(failed)?;
        }
    }
    for (name, class) in classes {
        for property in Steps::of(&class.definition).references {
            let made = server.add_property(name, &property).await;
            made.map_err(|fault| fault.of(format!("make property {} of class {name}", property["name"])))?;
        }
        for tenants in class.tenants.chunks(100) {
            let made = server.add_tenants(name, tenants).await;
            made.map_err(|fault| fault.of(format!("make the tenants of class {name}")))?;
        }
    }
    let mut made = definitions(server).await?;
    made.retain(|name, _| classes.contains_key(name));
    Ok(MadeClasses(made))
}

async fn definitions(server: &Server) -> Result<BTreeMap<String, Value>, ComponentError> {
    server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))
}

/// Ends an import, when all objects and references are stored: makes the aliases that are missing, and looks whether
/// the classes are still those that were made.
///
/// # Errors
///
/// When somebody has deleted or changed a class meanwhile: a server with automatic schema makes a class that has
/// vanished anew from the next object, with types that it guesses.
pub(super) async fn finish(
    server: &Server,
    index: &Index,
    MadeClasses(made): MadeClasses,
    meter: &Meter,
) -> Result<(), ComponentError> {
    put_aliases(server, index, &made, meter).await;
    let found = definitions(server).await?;
    let other = made.iter().find(|(name, definition)| found.get(*name) != Some(definition));
    let Some((name, _)) = other else { return Ok(()) };
    let what = format!(
        "restore class {name}: somebody has deleted or changed it meanwhile, stop what writes to Weaviate"
    );
    Err(ComponentError::Unavailable { what, source: None })
}

/// The steps in which a server takes a definition that it shows as one.
#[derive(Debug, PartialEq)]
struct Steps {
    /// The class as it is made.
    first: Value,
    /// The class as it is changed then: named vectors cannot be made beside a vector without a name, and can be added
    /// to it.
    second: Option<Value>,
    /// The properties that are added when all classes are there.
    references: Vec<Value>,
}

impl Steps {
    fn of(definition: &Value) -> Self {
        let references = class::references(definition);
        let mut first = definition.clone();
        let is_one =
            |property: &Value| property["name"].as_str().is_some_and(|name| references.contains(name));
        let refers = match first["properties"].as_array_mut() {
            Some(properties) => properties.extract_if(.., |property| is_one(property)).collect(),
            None => Vec::new(),
        };
        let mut second = None;
        if let Some(fields) = first.as_object_mut() {
            if class::has_tenants(definition) {
                // Servers tell it of such classes, and refuse it: "cannot have both shardingConfig and
                // multiTenancyConfig".
                fields.remove("shardingConfig");
            }
            if class::has_both_kinds_of_vectors(definition) {
                second = Some(Value::Object(fields.clone()));
                fields.remove("vectorConfig");
            }
        }
        Self { first, second, references: refers }
    }
}

/// Stores the objects of those classes.
///
/// # Errors
///
/// When the server refuses one of them, or the archive cannot be read. No request is under way any more then: the
/// server would store its objects after whatever is done next.
pub(super) async fn put_objects(
    server: &Server,
    index: &Index,
    only: &BTreeSet<String>,
    archive: impl AsyncRead + Unpin,
    meter: &Meter,
) -> Result<(), ComponentError> {
    let mut batches = Batches { parts: PartReader::new(archive), index, only, class: None };
    let mut under_way = FuturesUnordered::new();
    let mut outcome = async {
        while let Some((class, batch)) = batches.next().await? {
            let at_once = if is_vectorized(index, class) { 1 } else { AT_ONCE };
            while under_way.len() >= at_once {
                under_way.next().await.transpose()?;
            }
            let is_long = batch.end >= LONG;
            under_way.push(batch.store(server, class, meter));
            // Memory is to hold one long object, not as many as can be under way.
            while is_long && let Some(stored) = under_way.next().await {
                stored?;
            }
        }
        Ok(())
    }
    .await;
    while let Some(stored) = under_way.next().await {
        outcome = outcome.and(stored);
    }
    outcome
}

/// Returns whether the server may make vectors of the objects of a class.
fn is_vectorized(index: &Index, class: &str) -> bool {
    !class::modules(&index.classes[class].definition).is_empty()
}

/// The objects of some classes of an export, a batch at a time.
struct Batches<'a, R> {
    parts: PartReader<R>,
    index: &'a Index,
    only: &'a BTreeSet<String>,
    /// The class of the part under way, and the properties of that class that are references.
    class: Option<(&'a str, BTreeSet<String>)>,
}

impl<'a, R: AsyncRead + Unpin> Batches<'a, R> {
    /// The next batch, and the class of its objects; `None` at the end.
    async fn next(&mut self) -> Result<Option<(&'a str, ObjectBatch)>, ComponentError> {
        loop {
            if let Some((class, references)) = &self.class {
                let mut batch = ObjectBatch::new();
                let most = if is_vectorized(self.index, class) { MOST_TO_VECTORIZE } else { MOST };
                while !batch.is_full(most) && self.parts.line(batch.next()).await? {
                    batch.take(references)?;
                }
                if batch.count > 0 {
                    return Ok(Some((class, batch)));
                }
            }
            let Some(path) = self.parts.next().await? else { return Ok(None) };
            let class = self.index.class_of(&path).filter(|class| self.only.contains(*class));
            let references = |class: &str| class::references(&self.index.classes[class].definition);
            self.class = class.map(|class| (class.as_str(), references(class)));
        }
    }
}

/// Objects on their way to the server: the text of a request, into which lines of an export are read.
#[derive(Debug)]
pub(super) struct ObjectBatch {
    text: Vec<u8>,
    count: usize,
    /// The end of the last object.
    end: usize,
    /// The bytes of the lines.
    bytes: u64,
}

impl ObjectBatch {
    pub(super) fn new() -> Self {
        let text = b"{\"objects\":[".to_vec();
        Self { count: 0, end: text.len(), bytes: 0, text }
    }

    /// The buffer to append the next line to.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        self.text.truncate(self.end);
        if self.count > 0 {
            self.text.push(b',');
        }
        &mut self.text
    }

    /// Takes the line that was appended, without its references. A line is what the server takes, so that nothing
    /// in it is read and written again, numbers least of all.
    pub(super) fn take(&mut self, references: &BTreeSet<String>) -> Result<(), ComponentError> {
        let start = self.end + usize::from(self.count > 0);
        self.bytes += (self.text.len() - start) as u64;
        if !references.is_empty() {
            let stripped = plain(&self.text[start..], references)?;
            self.text.truncate(start);
            self.text.extend_from_slice(&stripped);
        }
        self.end = self.text.len();
        self.count += 1;
        Ok(())
    }

    fn is_full(&self, most: usize) -> bool {
        self.count == most || self.end >= BATCH
    }

    /// Stores the objects; each replaces the one of its id.
    pub(super) async fn store(
        mut self,
        server: &Server,
        class: &str,
        meter: &Meter,
    ) -> Result<(), ComponentError> {
        if self.count == 0 {
            return Ok(());
        }
        self.text.truncate(self.end);
        self.text.extend_from_slice(b"]}");
        let what = format!("store the objects of class {class}");
        let refused = server.put_objects(&Bytes::from(self.text), self.count).await;
        all_taken(what.clone(), &refused.map_err(|fault| fault.of(what))?)?;
        meter.add(self.bytes);
        Ok(())
    }
}

pub(super) fn all_taken(what: String, refused: &[String]) -> Result<(), ComponentError> {
    let Some(first) = refused.first() else { return Ok(()) };
    let source = format!("{} were refused, the first: {first}", refused.len());
    Err(ComponentError::Unusable { what, source: Some(source.into()) })
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
    meter: &Meter,
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
    let (mut parts, mut lost) = (PartReader::new(archive), 0);
    while let Some(path) = parts.next().await? {
        let found = index.class_of(&path).and_then(|name| refers.get_key_value(name));
        let Some((name, references)) = found else { continue };
        let (mut links, mut line) = (ReferenceBatch::new(name, references), Vec::new());
        while parts.line(&mut line).await? {
            links.take(&line)?;
            line.clear();
            if links.is_full() {
                lost +=
                    std::mem::replace(&mut links, ReferenceBatch::new(name, references)).add(server).await?;
            }
        }
        lost += links.add(server).await?;
    }
    if lost > 0 {
        meter.warn(format!("{lost} references to objects that are not there are left out."));
    }
    Ok(())
}

/// Makes the aliases of those classes that are missing. An alias that is in the way or cannot be made is a warning:
/// the classes are there without it.
async fn put_aliases(server: &Server, index: &Index, made: &BTreeMap<String, Value>, meter: &Meter) {
    let wanted = index.aliases.iter().filter(|(_, class)| made.contains_key(*class));
    for (alias, class) in wanted {
        let found = server.aliases().await;
        match found.map(|mut there| there.remove(alias)) {
            Ok(Some(is)) if is == *class => continue,
            Ok(Some(is)) => {
                meter.warn(format!(
                    "Alias {alias} was that of class {class}, is that of {is} now, and stays so."
                ));
                continue;
            }
            Ok(None) | Err(_) => {}
        }
        if let Err(fault) = server.create_alias(alias, class).await {
            meter.warn(format!("Alias {alias} of class {class} could not be made: {fault}."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_is_made_in_the_steps_that_a_server_takes() {
        let title = json!({"name": "title", "dataType": ["text"]});
        let of = json!({"name": "of", "dataType": ["B", "C"]});
        let definition = json!({"class": "A", "vectorizer": "none", "vectorConfig": {"late": {}},
            "shardingConfig": {}, "multiTenancyConfig": {"enabled": true}, "properties": [title, of]});
        let steps = Steps::of(&definition);
        let mut first = json!({"class": "A", "vectorizer": "none", "multiTenancyConfig": {"enabled": true},
            "properties": [title]});
        assert_eq!(steps.first, first);
        first["vectorConfig"] = json!({"late": {}});
        assert_eq!(steps.second, Some(first));
        assert_eq!(steps.references, [of]);
        let named = json!({"class": "A", "vectorConfig": {"only": {}}, "properties": []});
        assert_eq!(Steps::of(&named), Steps { first: named, second: None, references: Vec::new() });
    }

    #[test]
    fn a_class_whose_objects_the_server_may_vectorize_is_one_of_small_batches() {
        let named = |name: &str| json!({"vectorConfig": {"text": {"vectorizer": {name: {}}}}});
        for (definition, is) in [
            (json!({"vectorizer": "none"}), false),
            (json!({"vectorizer": "text2vec-openai"}), true),
            (named("none"), false),
            (named("text2vec-openai"), true),
        ] {
            let index = json!({"format": 1, "way": "export", "id": "", "server_version": "1.39.2",
                "classes": {"Paper": {"definition": definition, "objects": {"before": 0, "after": 0}}}});
            let index: Index = serde_json::from_value(index).unwrap();
            assert_eq!(is_vectorized(&index, "Paper"), is, "{index:?}");
        }
    }

    #[test]
    fn a_line_is_sent_as_it_is_but_for_its_references() {
        let line = br#"{"tenant":"t","class":"A","id":"1","properties":{"n":90.33333333333333,"of":[{"beacon":"x"}]},"vector":[1.50]}"#;
        let send = |references: &BTreeSet<String>| {
            let mut batch = ObjectBatch::new();
            for _ in 0..2 {
                batch.next().extend_from_slice(line);
                batch.take(references).unwrap();
            }
            batch.next();
            String::from_utf8(batch.text[..batch.end].to_vec()).unwrap()
        };
        let line = std::str::from_utf8(line).unwrap();
        assert_eq!(send(&BTreeSet::new()), format!("{{\"objects\":[{line},{line}"));
        let stripped = send(&BTreeSet::from(["of".to_owned()]));
        assert_eq!(stripped.matches("90.33333333333333").count(), 2);
        assert_eq!(stripped.matches("[1.50]").count(), 2);
        assert!(!stripped.contains("beacon"), "{stripped}");
    }
}
