//! Rights of the key that a restore needs, asked while every class is still there: the server tells the roles of a key, or
//! it is asked to make what exists already, which it refuses, and refuses in other words where the key has no right to ask.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Classes};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::index::Made;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::trial::names_of_trials;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The rights of a key, as its roles give them.
#[derive(Debug)]
pub(super) struct Rights(Vec<Value>);

/// The answer of a server about the key that asks.
#[derive(Deserialize)]
struct OwnInfo {
    #[serde(default)]
    groups: Option<Vec<String>>,
    #[serde(default)]
    roles: Option<Vec<Role>>,
}

#[derive(Deserialize)]
struct Role {
    permissions: Vec<Value>,
}

impl Rights {
    /// Makes sure that the key may replace these classes by those of a backup of this way: make and change marks, delete
    /// what is live, bring what is in the backup, and try it before if it is an export. A right that is not certain to be
    /// needed is not asked for: a restore that could succeed is refused by nobody.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Denied`], which names the rights that are missing.
    pub(super) fn suffice(
        &self,
        way: Option<Made>,
        names: &BTreeSet<&str>,
        live: &Classes,
    ) -> Result<(), ComponentError> {
        const ON_MARKS: [&str; 4] =
            ["create_collections", "delete_collections", "read_collections", "update_collections"];
        const OF_TRIALS: [&str; 5] =
            ["create_collections", "create_data", "delete_collections", "read_collections", "read_data"];
        let mut wanted: Vec<(&str, String)> =
            ON_MARKS.into_iter().map(|right| (right, "RnaBackupMark_*".to_owned())).collect();
        for name in names {
            let mut on = |right| wanted.push((right, (*name).to_owned()));
            on("read_data");
            match way {
                Some(Made::Export) => {
                    on("create_collections");
                    on("create_data");
                    if live.get(*name).is_some_and(|class| class::has_tenants(&class.definition)) {
                        on("create_tenants");
                    }
                    wanted.extend(OF_TRIALS.into_iter().map(|right| (right, names_of_trials(name))));
                }
                Some(Made::Filesystem | Made::S3) => on("manage_backups"),
                None => {}
            }
        }
        wanted.extend(live.keys().map(|name| ("delete_collections", name.clone())));
        let mut missing = BTreeMap::<&str, Vec<String>>::new();
        for (right, class) in wanted.into_iter().filter(|(right, class)| !self.has(right, class)) {
            missing.entry(right).or_default().push(class);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = missing
            .iter()
            .map(|(right, classes)| format!("the right {right} on {}", classes.join(", ")))
            .collect();
        let what = format!(
            "restore weaviate, which replaces classes: give the user of WEAVIATE_API_KEY {}",
            missing.join("; ")
        );
        Err(ComponentError::Denied { what, source: None })
    }

    /// Returns whether the key has a right on a class, or on all classes of a pattern.
    fn has(&self, right: &str, class: &str) -> bool {
        let kind = right.split_once('_').map_or(right, |(_, kind)| kind);
        self.0.iter().any(|permission| {
            let action = permission["action"].as_str();
            action.is_some_and(|action| action == right || action.strip_prefix("manage_") == Some(kind))
                && permission[kind]["collection"].as_str().is_none_or(|pattern| covers(pattern, class))
        })
    }
}

/// Returns whether the pattern of a right has no letters that mean something to the server, which takes patterns for regular
/// expressions.
fn is_plain(permission: &Value) -> bool {
    let of = permission.as_object().into_iter().flat_map(serde_json::Map::values);
    let mut patterns = of.filter_map(|of| of["collection"].as_str());
    patterns
        .all(|pattern| pattern.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:*".contains(letter)))
}

/// Returns whether a pattern of a role stands for a class, or for all classes of another pattern.
fn covers(pattern: &str, class: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(class),
        Some((begin, rest)) => {
            let Some((head, tail)) = class.split_at_checked(begin.len()) else { return false };
            let mut ends = (0..=tail.len()).filter_map(|at| tail.get(at..));
            head.eq_ignore_ascii_case(begin) && ends.any(|end| covers(rest, end))
        }
    }
}

impl Server {
    /// The rights of the key; `None` where the server tells none, or not all: it has no roles, or knows the key as one of a
    /// group, whose roles it does not tell, or a role names classes otherwise than by letters and `*`.
    pub(super) async fn rights(&self) -> Result<Option<Rights>, ComponentError> {
        let told = match self.client.get("/v1/users/own-info").await {
            Ok(told) => serde_json::from_value::<OwnInfo>(told).ok(),
            Err(Fault::Refused { .. } | Fault::Denied { .. }) => None,
            Err(fault) => return Err(fault.of("ask for the rights of WEAVIATE_API_KEY")),
        };
        let told = told.filter(|told| told.groups.iter().flatten().next().is_none());
        let permissions: Vec<_> = told
            .and_then(|told| told.roles)
            .into_iter()
            .flatten()
            .flat_map(|role| role.permissions)
            .collect();
        let is_told = !permissions.is_empty() && permissions.iter().all(is_plain);
        Ok(is_told.then_some(Rights(permissions)))
    }

    /// Makes sure that the key may make a class of this name, its tenants and its objects. The class is there.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Denied`], which names the right that is missing.
    pub(super) async fn may_make_again(&self, class: &str, definition: &Value) -> Result<(), ComponentError> {
        if !self.client.has_key() {
            return Ok(());
        }
        let again = self.create_class(&json!({"class": class, "vectorizer": "none"})).await;
        allowed(again, class, "create_collections")?;
        let mut tenant = None;
        if class::has_tenants(definition) {
            let tenants = self.tenants(class).await;
            let tenants = tenants.map_err(|fault| fault.of(format!("list the tenants of class {class}")))?;
            if let Some(first) = tenants.first() {
                allowed(self.add_tenants(class, std::slice::from_ref(first)).await, class, "create_tenants")?;
            }
            tenant = tenants.into_iter().find(class::Tenant::is_active).map(|tenant| tenant.name);
            if tenant.is_none() {
                return Ok(()); // an object of a tenant that is not active cannot be asked for
            }
        }
        let id = self.some_id(class, tenant.as_deref()).await;
        if let Some(id) = id.map_err(|fault| fault.of(format!("read an object of class {class}")))? {
            let mut object = json!({"class": class, "id": id});
            if let Some(tenant) = tenant {
                object["tenant"] = tenant.into();
            }
            let again = self.client.ask(Method::POST, "/v1/objects", Some(&object)).await;
            allowed(again.map(drop), class, "create_data")?;
        }
        Ok(())
    }
}

/// Passes over what a server says of that which exists already; a missing right is an error.
fn allowed(answer: Result<(), Fault>, class: &str, right: &str) -> Result<(), ComponentError> {
    match answer {
        Err(fault) if fault.is(403) => {
            let what = format!(
                "restore class {class}, which is deleted and made again: give the user of WEAVIATE_API_KEY the right \
                 {right} on {class}"
            );
            Err(ComponentError::Denied { what, source: Some(fault.into()) })
        }
        Ok(()) | Err(Fault::Refused { .. } | Fault::Denied { .. }) => Ok(()),
        Err(fault) => Err(fault.of(format!("ask for rights on class {class}"))),
    }
}

#[test]
fn a_pattern_of_a_role_stands_for_the_classes_that_it_covers() {
    for (pattern, class, does) in [
        ("*", "Paper", true),
        ("Paper", "Paper", true),
        ("paper", "Paper", true),
        ("Paper", "Papers", false),
        ("Pap*", "Paper", true),
        ("Pap*", "Pa", false),
        ("*_rna_trial_*", "Paper_rna_trial_*", true),
        ("Paper_rna_trial_*", "Paper_rna_trial_*", true),
        ("Paper_rna_trial_1", "Paper_rna_trial_*", false),
        ("Rna*Mark_*", "RnaBackupMark_*", true),
    ] {
        assert_eq!(covers(pattern, class), does, "{pattern} {class}");
    }
}

#[test]
fn a_pattern_that_may_be_a_regular_expression_is_not_judged() {
    let of = |pattern: &str| json!({"action": "read_data", "data": {"collection": pattern, "tenant": "*"}});
    assert!(is_plain(&of("Pap*")) && is_plain(&json!({"action": "read_roles", "roles": {"role": "*"}})));
    assert!(!is_plain(&of("Pap.*")) && !is_plain(&of("(Paper|Author)")));
}
