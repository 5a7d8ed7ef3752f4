//! Classes tried under another name before a restore deletes any: what the server does not take is found out while
//! everything is still there.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::import::{self, ObjectBatch};
use crate::component::weaviate::index::corrupt;
use crate::component::weaviate::journal::Journal;
use crate::component::weaviate::pages;
use crate::component::weaviate::parts::PartReader;
use crate::component::weaviate::references::ReferenceBatch;
use crate::component::weaviate::replace::remove_classes;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::source::{Source, SourceLocation};
use crate::domain::progress::Meter;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};
use uuid::Uuid;

/// The objects of a class without tenants, and of each tenant, that are tried, and the most bytes of one class.
const OF_A_CLASS: usize = 5;
const OF_A_TENANT: usize = 2;
const BYTES: usize = 2 << 20;

impl Source {
    /// Tries whether the server takes the classes `only`: each class of an export is made under another name, with
    /// some of its objects, which are read back and compared, and is removed again. A backup that the server reads
    /// itself cannot be restored under another name, so of that the classes alone are tried that a server of other
    /// settings refuses: those whose objects expire.
    ///
    /// # Errors
    ///
    /// When the server refuses a class or an object, or keeps an object otherwise than it was; no class that was
    /// there before is touched.
    pub(super) async fn run_trial(
        &self,
        server: &Server,
        journal: &mut Journal,
        only: &BTreeSet<String>,
    ) -> Result<(), ComponentError> {
        let there = server.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let mut trial = TrialImport { server, journal, there: there.keys().cloned().collect() };
        let mut waiting = only.clone();
        if matches!(self.location, SourceLocation::Server(_)) {
            waiting.retain(|name| class::expires(&self.index.classes[name].definition));
        } else {
            let mut parts = PartReader::new(self.open().await?);
            let mut under_way: Option<(&String, Sample)> = None;
            while let Some(path) = parts.next().await? {
                let Some(name) = self.index.class_of(&path) else { continue };
                if waiting.remove(name) {
                    let next = (name, Sample::new(&self.index.classes[name]));
                    if let Some((name, sample)) = under_way.replace(next) {
                        trial.class(name, &self.index.classes[name], &sample).await?;
                    }
                }
                if let Some((_, sample)) = under_way.as_mut().filter(|(class, _)| *class == name) {
                    sample.fill(&mut parts).await?;
                }
            }
            if let Some((name, sample)) = under_way {
                trial.class(name, &self.index.classes[name], &sample).await?;
            }
        }
        for name in &waiting {
            let class = &self.index.classes[name];
            trial.class(name, class, &Sample::new(class)).await?;
        }
        if !matches!(self.location, SourceLocation::Server(_)) {
            for (name, definition) in there.iter().filter(|(name, _)| only.contains(*name)) {
                server.may_make_again(name, definition).await?;
            }
        }
        Ok(())
    }
}

/// Some objects of a class: those that come first in its export, of each tenant where it has tenants.
struct Sample {
    /// The lines of the export, by tenant.
    lines: BTreeMap<Option<String>, Vec<Vec<u8>>>,
    bytes: usize,
    /// The most objects of a tenant, or of a class without tenants.
    most: usize,
    /// The number of tenants that may still bring objects.
    left: usize,
}

#[derive(Deserialize)]
struct SampledObject<'a> {
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
}

impl Sample {
    fn new(class: &Class) -> Self {
        let has_tenants = class::has_tenants(&class.definition);
        let active = class.tenants.iter().filter(|tenant| tenant.is_active()).count();
        let (most, left) = if has_tenants { (OF_A_TENANT, active) } else { (OF_A_CLASS, 1) };
        Self { lines: BTreeMap::new(), bytes: 0, most, left }
    }

    /// The lines of a class without tenants, or of those tenants that the class has.
    fn of<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = (&'a Option<String>, &'a Vec<Vec<u8>>)> {
        let is_of = |tenant: &Option<String>| {
            tenant.as_ref().is_none_or(|tenant| class.tenants.iter().any(|known| known.name == *tenant))
        };
        self.lines.iter().filter(move |(tenant, _)| is_of(tenant))
    }

    /// Takes what it may of one part of the export.
    async fn fill(
        &mut self,
        parts: &mut PartReader<impl tokio::io::AsyncRead + Unpin>,
    ) -> Result<(), ComponentError> {
        let mut line = Vec::new();
        while self.left > 0 && parts.line(&mut line).await? {
            if self.bytes + line.len() <= BYTES {
                let object: SampledObject<'_> = serde_json::from_slice(&line).map_err(corrupt)?;
                let lines = self.lines.entry(object.tenant.map(Cow::into_owned)).or_default();
                if lines.len() < self.most {
                    self.bytes += line.len();
                    lines.push(line.clone());
                    self.left -= usize::from(lines.len() == self.most);
                }
            }
            line.clear();
        }
        Ok(())
    }
}

/// The trial import of the classes of a source, under other names.
struct TrialImport<'a> {
    server: &'a Server,
    journal: &'a mut Journal,
    /// The classes that the server has: no server makes a class that refers to any other.
    there: BTreeSet<String>,
}

impl TrialImport<'_> {
    /// Tries one class, with so many tenants at once that a server which holds them already has files and memory for
    /// them.
    async fn class(&mut self, name: &str, class: &Class, sample: &Sample) -> Result<(), ComponentError> {
        /// Tenants that a trial has at once, each with about ten open files.
        const AT_ONCE: usize = 50;
        if class.tenants.is_empty() {
            return self.part(name, class, sample).await;
        }
        for tenants in class.tenants.chunks(AT_ONCE) {
            self.part(name, &Class { tenants: tenants.to_vec(), ..class.clone() }, sample).await?;
        }
        Ok(())
    }

    /// Tries one class with those tenants, and removes what was made for that.
    async fn part(&mut self, name: &str, class: &Class, sample: &Sample) -> Result<(), ComponentError> {
        let other = other_name(name);
        self.journal.note(|notes| notes.trials.extend([other.clone()])).await?;
        let tried = self.make(name, &other, class, sample).await;
        let removed = async {
            remove_classes(self.server, std::slice::from_ref(&other)).await?;
            self.journal.note(|notes| notes.trials.retain(|made| *made != other)).await
        };
        let removed = removed.await;
        if let (Err(_), Err(left)) = (&tried, &removed) {
            tracing::warn!(class = other, error = %chain(left), "a class made for a trial is left until the next run");
        }
        tried.and(removed).map_err(|err| explained(name, err))
    }

    async fn make(
        &self,
        name: &str,
        other: &str,
        class: &Class,
        sample: &Sample,
    ) -> Result<(), ComponentError> {
        let definition = renamed(&class.definition, other, &self.there);
        let (all, kept) = (class::references(&class.definition), class::references(&definition));
        let made = Class { definition, ..class.clone() };
        import::make_classes(self.server, &[(other.to_owned(), made)].into()).await?;
        let mut links = ReferenceBatch::new(other, &kept);
        for (_, lines) in sample.of(class) {
            let mut batch = ObjectBatch::new();
            for line in lines {
                let line = of_class(line, other)?;
                batch.next().extend_from_slice(&line);
                batch.take(&all)?;
                links.take(&line)?;
            }
            batch.store(self.server, other, &Meter::default()).await?;
        }
        for (tenant, lines) in sample.of(class) {
            let found = self.stored(other, tenant.as_deref(), lines.len()).await?;
            for line in lines {
                let wanted: Value = serde_json::from_slice(line).map_err(corrupt)?;
                let id = wanted["id"].as_str().unwrap_or_default();
                let wrong = match found.get(id) {
                    Some(found) => difference(&wanted, found, &all),
                    None if class::expires(&class.definition) => None,
                    None => Some("it is not there".to_owned()),
                };
                if let Some(wrong) = wrong {
                    let what =
                        format!("object {id} of class {name} was stored and is not as it was: {wrong}");
                    return Err(ComponentError::Unusable { what, source: None });
                }
            }
        }
        links.add(self.server).await.map(drop)
    }

    /// The objects that a server has of a class or tenant, by id.
    async fn stored(
        &self,
        class: &str,
        tenant: Option<&str>,
        count: usize,
    ) -> Result<BTreeMap<String, Value>, ComponentError> {
        let found = self.server.client.get(&pages::path(class, tenant, None, count)).await;
        let mut found =
            found.map_err(|fault: Fault| fault.of(format!("read the objects of class {class}")))?;
        let objects = found["objects"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let id = |object: &Value| object["id"].as_str().unwrap_or_default().to_owned();
        Ok(objects.into_iter().map(|object| (id(&object), object)).collect())
    }
}

/// The name under which a class is tried: one that nobody has.
fn other_name(class: &str) -> String {
    let random = &Uuid::new_v4().simple().to_string()[..RANDOM];
    format!("{}{random}", beginning(class))
}

/// The letters of the name of a trial that are random.
const RANDOM: usize = 8;

/// The beginning of the names under which a class is tried.
fn beginning(class: &str) -> String {
    /// The longest name, so that the server can remove the class's folder again.
    const LONGEST: usize = 200;
    const END: &str = "_rna_trial_";
    format!("{}{END}", &class[..class.len().min(LONGEST - END.len() - RANDOM)])
}

/// The names under which a class may be tried, as a pattern of a role.
pub(super) fn names_of_trials(class: &str) -> String {
    format!("{}*", beginning(class))
}

/// A definition under another name, without the references to classes that are not there.
fn renamed(definition: &Value, other: &str, there: &BTreeSet<String>) -> Value {
    let mut definition = definition.clone();
    let references = class::references(&definition);
    definition["class"] = other.into();
    if let Some(properties) = definition["properties"].as_array_mut() {
        let is_there = |kind: &Value| kind.as_str().is_some_and(|kind| there.contains(kind));
        properties.retain(|property| {
            property["name"].as_str().is_none_or(|name| !references.contains(name))
                || property["dataType"].as_array().is_some_and(|kinds| kinds.iter().all(is_there))
        });
    }
    definition
}

/// An object as one of another class; nothing else of the line is read and written again, numbers least of all.
fn of_class(line: &[u8], other: &str) -> Result<Vec<u8>, ComponentError> {
    let mut object: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).map_err(corrupt)?;
    let other = serde_json::value::to_raw_value(other).map_err(corrupt)?;
    object.insert("class", &other);
    serde_json::to_vec(&object).map_err(corrupt)
}

/// The first difference between an object as it was and as a server has stored it; its references are stored later.
fn difference(wanted: &Value, found: &Value, references: &BTreeSet<String>) -> Option<String> {
    let properties = wanted["properties"].as_object().into_iter().flatten();
    let mut properties = properties.filter(|(name, _)| !references.contains(*name));
    let wrong = properties.find(|(name, value)| !is_same(value, &found["properties"][*name]));
    if let Some((name, _)) = wrong {
        return Some(format!("property {name}"));
    }
    let vectors = ["vector", "vectors"].into_iter().find(|field| !is_same(&wanted[*field], &found[*field]));
    vectors.map(|field| format!("its {field}"))
}

/// Returns whether all of `wanted` is in `found`; a server leaves out what is empty, and writes numbers as it likes.
pub(super) fn is_same(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Null, _) => true,
        (Value::Number(wanted), Value::Number(found)) => wanted.as_f64() == found.as_f64(),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(wanted, found)| is_same(wanted, found))
        }
        (Value::Array(wanted), Value::Null) => wanted.is_empty(),
        (Value::Object(wanted), Value::Null) => wanted.is_empty(),
        (Value::Object(wanted), found) => wanted.iter().all(|(name, value)| is_same(value, &found[name])),
        (wanted, found) => wanted == found,
    }
}

/// An error of a trial, for people.
fn explained(class: &str, err: ComponentError) -> ComponentError {
    match err {
        ComponentError::Denied { what, source } => ComponentError::Denied {
            what: format!(
                "{what}: a restore tries each class under another name before it deletes any: give the user of \
                 WEAVIATE_API_KEY every right on the classes {}",
                names_of_trials(class)
            ),
            source,
        },
        ComponentError::Unusable { what, source } => ComponentError::Unusable {
            what: format!(
                "try class {class} under another name, before anything is deleted (nothing was): {what}"
            ),
            source,
        },
        err => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_is_tried_without_the_references_that_no_server_would_take() {
        let properties = json!([
            {"name": "title", "dataType": ["text"]},
            {"name": "of", "dataType": ["Lab"]},
            {"name": "by", "dataType": ["Lab", "Person"]},
        ]);
        let definition = json!({"class": "Paper", "properties": properties});
        let tried = renamed(&definition, "Other", &["Lab".to_owned()].into());
        let names: Vec<_> = tried["properties"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!((tried["class"].as_str(), names), (Some("Other"), vec![&json!("title"), &json!("of")]));
    }

    #[test]
    fn the_name_of_a_trial_is_one_that_a_server_takes() {
        for class in ["A".to_owned(), "B".repeat(255)] {
            let other = other_name(&class);
            assert!(class::is_name(&other) && other.contains("_rna_trial_") && other.len() <= 200, "{other}");
            assert!(other.starts_with(names_of_trials(&class).trim_end_matches('*')), "{other}");
        }
    }

    #[test]
    fn an_object_is_compared_by_what_it_means() {
        let wanted = json!({"properties": {"n": 1.0, "list": [], "none": null, "of": [{"beacon": "x"}], "deep": {"a": [1]}},
            "vector": [0.5], "vectors": {}});
        let of = ["of".to_owned()].into();
        let found = |properties: Value, vector: Value| {
            difference(&wanted, &json!({"properties": properties, "vector": vector}), &of)
        };
        let good = json!({"n": 1, "deep": {"a": [1], "b": 2}});
        assert_eq!(found(good.clone(), json!([0.5])), None);
        assert_eq!(found(good, json!([0.25])), Some("its vector".to_owned()));
        assert_eq!(
            found(json!({"n": 1, "deep": {"a": [2]}}), json!([0.5])),
            Some("property deep".to_owned())
        );
        assert_eq!(found(json!({"deep": {"a": [1]}}), json!([0.5])), Some("property n".to_owned()));
    }
}
