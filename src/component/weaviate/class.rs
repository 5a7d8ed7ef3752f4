//! A class: its definition, its tenants, how many objects it has. Pure.

use crate::component::weaviate::count::{CountRange, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Classes by name.
pub(super) type Classes = BTreeMap<String, Class>;

/// A class without its objects: definition, tenants and counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Class {
    /// As `GET /v1/schema` has it.
    pub(super) definition: Value,
    /// The tenants of a multi-tenant class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tenants: Vec<Tenant>,
    /// The number of its objects when its backup began and when that was done.
    pub(super) objects: CountRange,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Tenant {
    pub(super) name: String,
    /// `HOT`, `COLD`, `FROZEN`; later versions say `ACTIVE`, `INACTIVE`, `OFFLOADED`.
    #[serde(rename = "activityStatus", default = "active_status")]
    pub(super) status: String,
}

fn active_status() -> String {
    "HOT".to_owned()
}

impl Tenant {
    /// Returns whether the tenant's data can be read.
    pub(super) fn is_active(&self) -> bool {
        ["HOT", "ACTIVE"].contains(&self.status.as_str())
    }
}

impl Class {
    /// Tenants whose data cannot be read now.
    pub(super) fn inactive(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().filter(|tenant| !tenant.is_active()).map(|tenant| tenant.name.as_str())
    }

    /// The meaning of `found` objects after a restore. An empty class contradicts estimates too; objects that
    /// expire are missing by right.
    pub(super) fn judge(&self, found: u64) -> Verdict {
        match self.objects.judge(found) {
            Verdict::Fewer | Verdict::Unproven if expires(&self.definition) => Verdict::Unproven,
            Verdict::Unproven if found == 0 && self.objects.has_objects() => Verdict::Fewer,
            verdict => verdict,
        }
    }
}

/// Returns whether objects of the class belong to tenants.
pub(super) fn has_tenants(definition: &Value) -> bool {
    definition["multiTenancyConfig"]["enabled"] == true
}

/// Returns whether the server deletes objects of the class by itself, after a time.
pub(super) fn expires(definition: &Value) -> bool {
    definition["objectTtlConfig"]["enabled"] == true
}

/// The properties that refer to other objects: their data types are classes, which begin with a capital.
pub(super) fn references(definition: &Value) -> BTreeSet<String> {
    let is_class = |kind: &Value| kind.as_str().is_some_and(|kind| kind.starts_with(char::is_uppercase));
    let refers = |property: &&Value| {
        property["dataType"].as_array().is_some_and(|kinds| !kinds.is_empty() && kinds.iter().all(is_class))
    };
    let properties = definition["properties"].as_array().into_iter().flatten().filter(refers);
    properties.filter_map(|property| Some(property["name"].as_str()?.to_owned())).collect()
}

/// The classes that the objects of a class may refer to.
pub(super) fn targets(definition: &Value) -> BTreeSet<String> {
    let refers = references(definition);
    let properties = definition["properties"].as_array().into_iter().flatten();
    let refers = properties.filter(|one| one["name"].as_str().is_some_and(|name| refers.contains(name)));
    let kinds = refers.flat_map(|property| property["dataType"].as_array().into_iter().flatten());
    kinds.filter_map(|kind| Some(kind.as_str()?.to_owned())).collect()
}

/// The references of classes to classes that are neither among `classes` nor among `there`, in words: no server makes
/// a class that refers to one that is not there.
pub(super) fn dangling(classes: &Classes, there: &BTreeSet<String>) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, class) in classes {
        let targets = targets(&class.definition).into_iter();
        let lost = targets.filter(|target| !classes.contains_key(target) && !there.contains(target));
        missing
            .extend(lost.map(|target| format!("class {name} refers to class {target}, which is not there")));
    }
    missing
}

/// Returns whether a class has a vector without a name and named vectors beside it, as from 1.31 on they can be added later.
pub(super) fn has_both_kinds_of_vectors(definition: &Value) -> bool {
    let has_named = definition["vectorConfig"].as_object().is_some_and(|vectors| !vectors.is_empty());
    let has_unnamed = ["vectorizer", "vectorIndexType"].iter().any(|field| definition[field].is_string());
    has_named && has_unnamed
}

/// Returns whether vectors of the class are compressed by product quantization.
pub(super) fn has_product_quantization(definition: &Value) -> bool {
    let named = definition["vectorConfig"].as_object().into_iter().flat_map(serde_json::Map::values);
    named.chain([definition]).any(|vector| vector["vectorIndexConfig"]["pq"]["enabled"] == true)
}

/// The modules that a class cannot be made without.
pub(super) fn modules(definition: &Value) -> BTreeSet<String> {
    let of = |value: &Value| value.as_str().map(str::to_owned);
    let vectors = definition["vectorConfig"].as_object().into_iter().flat_map(serde_json::Map::values);
    let named = vectors.filter_map(|vector| vector["vectorizer"].as_object()?.keys().next().cloned());
    of(&definition["vectorizer"]).into_iter().chain(named).filter(|name| name != "none").collect()
}

/// The differences of two definitions in what their data means, in words; the rest is a server's own business.
pub(super) fn differences(promised: &Value, found: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let (wanted, have) = (properties(promised), properties(found));
    for (name, kinds) in &wanted {
        match have.get(name) {
            Some(same) if same == kinds => {}
            Some(other) => wrong.push(format!("property {name} is {other} and should be {kinds}")),
            None => wrong.push(format!("property {name} is missing")),
        }
    }
    let extra = have.keys().filter(|name| !wanted.contains_key(*name));
    wrong.extend(extra.map(|name| format!("property {name} is not expected")));
    for (what, of) in [
        ("the vectorizer", (&promised["vectorizer"], &found["vectorizer"])),
        ("the kind of its vector index", (&promised["vectorIndexType"], &found["vectorIndexType"])),
    ] {
        if of.0 != of.1 {
            wrong.push(format!("{what} is {} and should be {}", of.1, of.0));
        }
    }
    if has_tenants(promised) != has_tenants(found) {
        wrong.push("multi-tenancy is not as it was".to_owned());
    }
    let names = |definition: &Value| {
        definition["vectorConfig"].as_object().map(|vectors| vectors.keys().cloned().collect::<BTreeSet<_>>())
    };
    if names(promised) != names(found) {
        wrong.push("its named vectors are not those that it had".to_owned());
    }
    wrong
}

fn properties(definition: &Value) -> BTreeMap<&str, &Value> {
    let all = definition["properties"].as_array().into_iter().flatten();
    all.filter_map(|property| Some((property["name"].as_str()?, &property["dataType"]))).collect()
}

/// A name as Weaviate has it: it stands in paths and queries.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.len() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::count::Count;
    use serde_json::json;

    #[test]
    fn an_empty_class_is_less_than_what_was_estimated_and_what_expires_is_not_missed() {
        let estimate = CountRange { before: Count::Estimate(0), after: Count::Estimate(5) };
        let seen = CountRange { before: Count::Estimate(4), ..estimate };
        for (objects, found, verdict) in [
            (CountRange::captured(5), 4, Verdict::Fewer),
            (CountRange::captured(5), 6, Verdict::More),
            (seen, 0, Verdict::Fewer),
            (seen, 1, Verdict::Unproven),
            (estimate, 0, Verdict::Unproven),
        ] {
            let class = |definition| Class { definition, tenants: Vec::new(), objects };
            assert_eq!(class(json!({})).judge(found), verdict, "{objects:?} {found}");
            let brief = class(json!({"objectTtlConfig": {"enabled": true, "defaultTtl": 60}}));
            assert_ne!(brief.judge(found), Verdict::Fewer);
        }
    }

    #[test]
    fn what_data_means_is_compared_and_nothing_else() {
        let document = json!({
            "class": "Document", "vectorizer": "none", "vectorIndexType": "hnsw",
            "invertedIndexConfig": {"bm25": {"b": 0.75}},
            "properties": [{"name": "title", "dataType": ["text"]}, {"name": "of", "dataType": ["Protocol"]}],
        });
        assert_eq!(references(&document), BTreeSet::from(["of".to_owned()]));
        let mut other = document.clone();
        other["invertedIndexConfig"]["bm25"]["b"] = json!(0.5);
        other["replicationConfig"] = json!({"factor": 1});
        assert_eq!(differences(&document, &other), [""; 0]);
        other["properties"][0]["dataType"] = json!(["int"]);
        other["properties"][1]["name"] = json!("about");
        other["vectorizer"] = json!("text2vec-openai");
        other["multiTenancyConfig"] = json!({"enabled": true});
        assert_eq!(differences(&document, &other).len(), 5, "{:?}", differences(&document, &other));
        assert_eq!(modules(&other), BTreeSet::from(["text2vec-openai".to_owned()]));
    }

    #[test]
    fn only_names_of_classes_are_asked_for() {
        for (name, is) in [
            ("Document", true),
            ("Lab_2", true),
            ("document", false),
            ("A{b", false),
            ("L:Paper", false),
            ("", false),
        ] {
            assert_eq!(is_name(name), is, "{name}");
        }
    }
}
