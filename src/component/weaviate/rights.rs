//! Rights of the key that a restore needs, asked while every class is still there: the server tells the roles of a key, or
//! it is asked to make what exists already, which it refuses, and refuses in other words where the key has no right to ask.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::trial::names_of_trials;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

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

/// The classes of a restore, as far as they tell which rights it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replaced<'a> {
    /// The classes that are on the server.
    pub(super) live: &'a Classes,
    /// The classes of the backup; `None` while nothing but its manifest is read.
    pub(super) coming: Option<&'a Classes>,
    /// The number of objects of each class of the backup, where that is known.
    pub(super) counts: &'a BTreeMap<String, u64>,
}

/// A right that a restore needs.
#[derive(Debug)]
struct Wanted<'a> {
    right: &'static str,
    /// A class, or a pattern of classes.
    class: String,
    /// The tenants for which the right is needed, or `*` alone for a class without tenants; `None` where the right is none
    /// on tenants, or the tenants are not known.
    tenants: Option<BTreeSet<&'a str>>,
}

impl<'a> Replaced<'a> {
    /// The rights on a class, and on the classes of its trial, that are certain to be needed.
    fn wanted(self, backend: Option<BackupBackend>, name: &str) -> Vec<Wanted<'a>> {
        const OF_TRIALS: [&str; 4] =
            ["create_collections", "create_tenants", "delete_collections", "read_collections"];
        // The server asks for both where objects come in batches.
        const TO_FILL: [&str; 2] = ["create_data", "update_data"];
        let known = [Some(self.live), self.coming].into_iter().flatten().filter_map(|of| of.get(name));
        let known: Vec<&Class> = known.collect();
        let mut wanted = Vec::new();
        let mut on = |class: &str, rights: &[&'static str]| {
            wanted.extend(rights.iter().map(|right| {
                let (right, class, tenants) = (*right, class.to_owned(), tenants_of(right, &known));
                Wanted { right, class, tenants }
            }));
        };
        on(name, &["read_data"]);
        let trials = names_of_trials(name);
        match backend {
            Some(BackupBackend::Export) => {
                on(name, &["create_collections", "create_tenants"]);
                on(&trials, &OF_TRIALS);
                if self.has_objects(name) {
                    on(name, &TO_FILL);
                    on(&trials, &TO_FILL);
                    on(&trials, &["read_data"]);
                }
            }
            Some(BackupBackend::Filesystem | BackupBackend::S3) => {
                on(name, &["manage_backups"]);
                // Such a class is made under another name by `run_trial`, without objects.
                if known.iter().any(|class| class::expires(&class.definition)) {
                    on(&trials, &OF_TRIALS);
                }
            }
            None => {}
        }
        if self.live.contains_key(name) {
            on(name, &["delete_collections"]);
        }
        wanted
    }

    /// Returns whether objects are known to come into a class, or to be there.
    fn has_objects(self, name: &str) -> bool {
        let live = self.live.get(name).map(|class| class.objects.number());
        [live, self.counts.get(name).copied()].into_iter().flatten().any(|count| count > 0)
    }
}

/// The tenants of a class, live and in the backup, for which a right is needed: of a right on data, those that are active.
fn tenants_of<'a>(right: &str, known: &[&'a Class]) -> Option<BTreeSet<&'a str>> {
    let is_on_data = right.ends_with("_data");
    if !is_on_data && !right.ends_with("_tenants") || is_on_data && known.is_empty() {
        return None;
    }
    let mut tenants = BTreeSet::new();
    for class in known {
        let meant = class.tenants.iter().filter(|tenant| !is_on_data || tenant.is_active());
        tenants.extend(meant.map(|tenant| tenant.name.as_str()));
        if is_on_data && !class::has_tenants(&class.definition) {
            tenants.insert("*");
        }
    }
    Some(tenants)
}

impl Rights {
    /// Makes sure that the key may replace these classes by those of a backup by this backend: make and change marks, delete
    /// what is live, bring what is in the backup, and try it before. Only rights that every such restore needs are asked
    /// for, so that none is refused that could succeed.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Denied`], which names the rights that are missing.
    pub(super) fn suffice(
        &self,
        backend: Option<BackupBackend>,
        names: &BTreeSet<&str>,
        classes: Replaced<'_>,
    ) -> Result<(), ComponentError> {
        const ON_MARKS: [&str; 4] =
            ["create_collections", "delete_collections", "read_collections", "update_collections"];
        let on_mark = |right| Wanted { right, class: "RnaBackupMark_*".to_owned(), tenants: None };
        let wanted = ON_MARKS.into_iter().map(on_mark);
        let wanted = wanted.chain(names.iter().flat_map(|name| classes.wanted(backend, name)));
        let mut missing = BTreeMap::<&str, Vec<String>>::new();
        for Wanted { right, class, tenants } in wanted.filter(|wanted| !self.has(wanted)) {
            let has_tenants = tenants.is_some_and(|tenants| !tenants.contains("*"));
            missing.entry(right).or_default().push(class + if has_tenants { " (all tenants)" } else { "" });
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

    /// Returns whether the key has a right on a class, or on all classes of a pattern, for each of the tenants.
    fn has(&self, Wanted { right, class, tenants }: &Wanted<'_>) -> bool {
        let kind = right.split_once('_').map_or(*right, |(_, kind)| kind);
        let is_it = |permission: &&Value| {
            let action = permission["action"].as_str();
            action.is_some_and(|action| action == *right || action.strip_prefix("manage_") == Some(kind))
                && permission[kind]["collection"].as_str().is_none_or(|pattern| covers_class(pattern, class))
        };
        let on_class: Vec<_> = self.0.iter().filter(is_it).map(|permission| &permission[kind]).collect();
        let on_tenant = |tenant: &&str| {
            let mut patterns = on_class.iter().map(|of| of["tenant"].as_str());
            patterns.any(|pattern| pattern.is_none_or(|pattern| covers(pattern, tenant)))
        };
        match tenants {
            Some(tenants) => tenants.iter().all(on_tenant),
            None => !on_class.is_empty(),
        }
    }
}

/// Returns whether the patterns of a right have no letters that mean something to the server, which takes patterns for
/// regular expressions.
fn is_plain(permission: &Value) -> bool {
    let of = permission.as_object().into_iter().flat_map(serde_json::Map::values);
    let mut patterns =
        of.flat_map(|of| ["collection", "tenant"].map(|field| &of[field])).filter_map(Value::as_str);
    patterns.all(|pattern| {
        pattern.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-:*".contains(letter))
    })
}

/// Returns whether a pattern of a role stands for a class, or for all classes of another pattern.
fn covers_class(pattern: &str, class: &str) -> bool {
    covers(&pattern.to_ascii_lowercase(), &class.to_ascii_lowercase())
}

/// Returns whether a pattern stands for a name: its first piece is the begin of the name, its last piece the end, and the
/// pieces between are found one behind the other, each as early as it can be.
fn covers(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in between.split('*') {
        let Some((_, behind)) = left.split_once(piece) else { return false };
        left = behind;
    }
    left.ends_with(last)
}

impl Server {
    /// The rights of the key; `None` where the server tells none, or not all: it has no roles, or knows the key as one of a
    /// group, whose roles it does not tell, or a role names classes or tenants otherwise than by letters and `*`.
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
        if !class::has_tenants(definition) {
            return self.may_fill_again(class, None).await;
        }
        let tenants = self.tenants(class).await;
        let tenants = tenants.map_err(|fault| fault.of(format!("list the tenants of class {class}")))?;
        for some in tenants.chunks(100) {
            allowed(self.add_tenants(class, some).await, class, "create_tenants")?;
        }
        // An object of a tenant that is not active cannot be asked for.
        for tenant in tenants.iter().filter(|tenant| tenant.is_active()) {
            self.may_fill_again(class, Some(&tenant.name)).await?;
        }
        Ok(())
    }

    /// Makes sure that the key may store objects of a class, or of one of its tenants, if there are any: by a new object of
    /// an id that is there, and by the change of one that is not.
    async fn may_fill_again(&self, class: &str, tenant: Option<&str>) -> Result<(), ComponentError> {
        let id = self.some_id(class, tenant).await;
        let id = id.map_err(|fault| fault.of(format!("read an object of class {class}")))?;
        let Some(id) = id else { return Ok(()) };
        let object = |id: &str| {
            let mut object = json!({"class": class, "id": id});
            if let Some(tenant) = tenant {
                object["tenant"] = tenant.into();
            }
            object
        };
        let again = self.client.ask(Method::POST, "/v1/objects", Some(&object(&id))).await;
        allowed(again.map(drop), class, "create_data")?;
        let nobody = Uuid::new_v4().to_string();
        let path = format!("/v1/objects/{class}/{nobody}");
        let changed = self.client.ask(Method::PATCH, &path, Some(&object(&nobody))).await;
        allowed(changed.map(drop), class, "update_data")
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
        ("P*p*r", "Paper", true),
        ("Pap*per", "Paper", false),
        ("*r*a*", "Paper", false),
    ] {
        assert_eq!(covers_class(pattern, class), does, "{pattern} {class}");
    }
    // Each star doubles the work of a comparison that tries every place.
    assert!(!covers(&format!("{}b", "*a".repeat(40)), &"a".repeat(100)));
}

#[test]
fn a_pattern_that_may_be_a_regular_expression_is_not_judged() {
    let of = |pattern: &str| json!({"action": "read_data", "data": {"collection": pattern, "tenant": "*"}});
    assert!(is_plain(&of("Pap*")) && is_plain(&json!({"action": "read_roles", "roles": {"role": "*"}})));
    assert!(!is_plain(&of("Pap.*")) && !is_plain(&of("(Paper|Author)")));
    let of = |tenant: &str| json!({"action": "read_data", "data": {"collection": "*", "tenant": tenant}});
    assert!(is_plain(&of("lab-7_*")) && !is_plain(&of("lab|wet")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::weaviate::class::Tenant;
    use crate::component::weaviate::count::CountRange;

    /// A class of these tenants, the last of which is not active; of none at all without any.
    fn class(tenants: &[&str], objects: u64) -> Class {
        let status = |at: usize| if at + 1 == tenants.len() { "COLD" } else { "HOT" };
        let tenant =
            |(at, name): (_, &&str)| Tenant { name: (*name).to_owned(), status: status(at).to_owned() };
        let definition = json!({"class": "Sample", "multiTenancyConfig": {"enabled": !tenants.is_empty()}});
        let tenants = tenants.iter().enumerate().map(tenant).collect();
        Class { definition, tenants, objects: CountRange::captured(objects) }
    }

    #[test]
    fn a_right_counts_where_it_is_one_on_each_tenant() {
        let data = |tenant: &str| json!({"action": "create_data", "data": {"collection": "sample", "tenant": tenant}});
        for (permissions, tenants, has) in [
            (vec![data("wet")], &["wet"][..], true),
            (vec![data("wet")], &["wet", "dry"], false),
            (vec![data("Wet")], &["wet"], false),
            (vec![data("wet"), data("d*")], &["wet", "dry"], true),
            (vec![data("*")], &["wet", "dry"], true),
            (vec![json!({"action": "manage_data", "data": {"collection": "*"}})], &["wet"], true),
            // A class without tenants.
            (vec![data("wet")], &["*"], false),
            (vec![data("*")], &["*"], true),
        ] {
            let words = format!("{permissions:?} {tenants:?}");
            let tenants = Some(tenants.iter().copied().collect());
            let wanted = Wanted { right: "create_data", class: "Sample".to_owned(), tenants };
            assert_eq!(Rights(permissions).has(&wanted), has, "{words}");
        }
    }

    #[test]
    fn only_rights_that_are_certain_to_be_needed_are_wanted() {
        let wanted = |backend, live: Option<Class>, coming: u64| {
            let live: Classes = live.into_iter().map(|class| ("Sample".to_owned(), class)).collect();
            let counts = [("Sample".to_owned(), coming)].into();
            let classes = Replaced { live: &live, coming: None, counts: &counts };
            let wanted = classes.wanted(Some(backend), "Sample").into_iter();
            let of_class = |wanted: Wanted<'_>| {
                let place = if wanted.class == "Sample" { "" } else { " trial" };
                let tenants = wanted.tenants.map(|tenants| tenants.into_iter().collect::<Vec<_>>().join("+"));
                format!("{}{place} {}", wanted.right, tenants.unwrap_or_default()).trim_end().to_owned()
            };
            wanted.map(of_class).collect::<BTreeSet<_>>()
        };
        let filling = |found: &BTreeSet<String>| {
            let of_objects = ["create_data", "update_data", "read_data trial"];
            found.iter().filter(|one| of_objects.iter().any(|right| one.starts_with(right))).count()
        };
        let empty = wanted(BackupBackend::Export, Some(class(&[], 0)), 0);
        assert!(empty.contains("read_data *") && empty.contains("delete_collections"), "{empty:?}");
        for (live, coming, count) in [(Some(0), 0, 0), (None, 0, 0), (Some(0), 1, 5), (Some(1), 0, 5)] {
            let found = wanted(BackupBackend::Export, live.map(|objects| class(&[], objects)), coming);
            assert_eq!(filling(&found), count, "{live:?} {coming} {found:?}");
        }
        let found = wanted(BackupBackend::Export, Some(class(&["dry", "wet", "cold"], 1)), 1);
        for words in
            ["create_data dry+wet", "create_tenants cold+dry+wet", "create_tenants trial cold+dry+wet"]
        {
            assert!(found.contains(words), "{found:?}");
        }
        // A class whose objects expire is tried with every backend.
        let mut brief = class(&[], 1);
        let found = wanted(BackupBackend::Filesystem, Some(brief.clone()), 1);
        assert!(!found.iter().any(|one| one.contains("trial")));
        brief.definition["objectTtlConfig"] = json!({"enabled": true});
        let found = wanted(BackupBackend::S3, Some(brief), 1);
        assert!(found.contains("create_collections trial") && filling(&found) == 0, "{found:?}");
    }
}
