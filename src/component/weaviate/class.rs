//! A class: its definition, its tenants, how many objects it has. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Classes by name.
pub(super) type Classes = BTreeMap<String, Class>;

/// What is known of a class beside its objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Class {
    /// As `GET /v1/schema` has it.
    pub(super) definition: Value,
    /// Those of a multi-tenant class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tenants: Vec<Tenant>,
    /// How many objects it had when its backup began and when that was done.
    pub(super) objects: Bracket,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Tenant {
    pub(super) name: String,
    /// `HOT`, `COLD`, `FROZEN`; later versions say `ACTIVE`, `INACTIVE`, `OFFLOADED`.
    #[serde(rename = "activityStatus", default = "hot")]
    pub(super) status: String,
}

fn hot() -> String {
    "HOT".to_owned()
}

impl Tenant {
    /// Whether its data can be read.
    pub(super) fn is_active(&self) -> bool {
        ["HOT", "ACTIVE"].contains(&self.status.as_str())
    }
}

/// Two counts between which the true one lies: nobody stops writing while a backup runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bracket {
    pub(super) before: u64,
    pub(super) after: u64,
    /// Whether both were counted exactly. Where the server has no GraphQL they were not.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(super) exact: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_true(exact: &bool) -> bool {
    *exact
}

impl Bracket {
    /// Whether `found` objects may be those of this moment.
    pub(super) fn holds(self, found: u64) -> bool {
        let (least, most) = (self.before.min(self.after), self.before.max(self.after));
        // What lags behind still tells something from nothing.
        (least..=most).contains(&found) || !self.exact && (found > 0) == (most > 0)
    }
}

impl Class {
    /// Tenants whose data cannot be read now.
    pub(super) fn inactive(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().filter(|tenant| !tenant.is_active()).map(|tenant| tenant.name.as_str())
    }
}

/// Whether objects of the class belong to tenants.
pub(super) fn has_tenants(definition: &Value) -> bool {
    definition["multiTenancyConfig"]["enabled"] == true
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

/// The modules that a class cannot be made without.
pub(super) fn modules(definition: &Value) -> BTreeSet<String> {
    let of = |value: &Value| value.as_str().map(str::to_owned);
    let vectors = definition["vectorConfig"].as_object().into_iter().flat_map(serde_json::Map::values);
    let named = vectors.filter_map(|vector| vector["vectorizer"].as_object()?.keys().next().cloned());
    of(&definition["vectorizer"]).into_iter().chain(named).filter(|name| name != "none").collect()
}

/// Where two definitions differ in what their data means, in words; the rest is a server's own business.
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
    use serde_json::json;

    #[test]
    fn a_bracket_holds_what_lies_between_and_an_inexact_one_tells_something_from_nothing() {
        let bracket = |before, after, exact| Bracket { before, after, exact };
        for (bracket, found, holds) in [
            (bracket(5, 5, true), 5, true),
            (bracket(5, 5, true), 4, false),
            (bracket(7, 5, true), 6, true),
            (bracket(5, 7, true), 8, false),
            (bracket(5, 5, false), 9, true),
            (bracket(5, 5, false), 0, false),
            (bracket(0, 0, false), 1, false),
        ] {
            assert_eq!(bracket.holds(found), holds, "{bracket:?} {found}");
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
        for (name, is) in
            [("Document", true), ("Lab_2", true), ("document", false), ("A{b", false), ("", false)]
        {
            assert_eq!(is_name(name), is, "{name}");
        }
    }
}
