//! Owners and privileges of the objects of a database, as a manifest keeps them.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Owners and privileges of all objects of a database. Of the objects of extensions and of the server only the privileges,
/// where these are not the ones of the installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// By kind of object: `table`, `function`, `default privileges`, …
    pub kinds: BTreeMap<String, KindOfRights>,
    /// Every role that owns something, is granted something or is named by a policy.
    pub roles: Vec<RoleInUse>,
    /// Owners and privileges that a new object of the owner of the database would not have, each in words. The first of
    /// them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub special: Vec<String>,
    /// The number of special rights, those without a name here included.
    #[serde(default)]
    pub special_count: u64,
    /// True if somebody else than the owner of an object has granted a privilege on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passed_on: bool,
    /// The owner of the database: PostgreSQL gives the schema `public` to that role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_owner: Option<String>,
    /// An object whose owner is no member of the owner of its schema. A restore by somebody else than a superuser gives
    /// objects to their owners before any privilege on the schema is there, so PostgreSQL refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The privileges of objects of extensions and of the server, which a restore by a superuser alone brings back.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub built_in: Changes,
    /// The extensions whose owners are no superusers, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<OwnedExtension>,
    /// True if somebody has dropped the schema `public`, which every new database has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_public: bool,
}

/// Privileges in words: the first of them by name, and the number of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The first of them.
    pub named: Vec<String>,
    /// The number of all.
    pub count: u64,
}

impl Changes {
    /// Tests whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds more of them.
    pub fn extend(&mut self, more: Vec<String>) {
        self.count += more.len() as u64;
        let room = Rights::SPECIAL_KEPT - self.named.len();
        self.named.extend(more.into_iter().take(room));
    }
}

/// An extension that belongs to somebody who is no superuser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedExtension {
    /// The name of the extension.
    pub name: String,
    /// The schema of its objects.
    pub schema: String,
    /// The owner of the extension, who may update the extension.
    pub owner: String,
}

impl OwnedExtension {
    /// The warning about a restore after which the extension belongs to `other`, as a whole sentence.
    pub fn warning(&self, other: &str) -> String {
        let Self { name, owner, .. } = self;
        format!(
            "Extension {name} belongs to {other} after a restore and belonged to {owner} at the backup, as {owner} may not \
             create it anew: {owner} cannot update it any more, and {other} can."
        )
    }
}

/// The rights on all objects of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindOfRights {
    /// The number of objects.
    pub objects: u64,
    /// SHA-256 over the name, the owner and the privileges of each, lower-case hex.
    pub sha256: String,
}

/// A role that the objects of a database need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleInUse {
    /// The role's name.
    pub name: String,
    /// The role's attributes as `CREATE ROLE` takes them, but for a password.
    pub attributes: String,
    /// The roles that this role is a member of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub member_of: BTreeSet<String>,
    /// True if the role owns objects, or default privileges are its own: a restore must be a member of the role.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owns: bool,
    /// True if a policy names the role: nothing is restored where the role is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_policy: bool,
}

/// Quotes a name for SQL.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl RoleInUse {
    /// The statements that make roles as they were, without their passwords: memberships once all of them are there.
    pub fn create_statements<'a>(roles: impl IntoIterator<Item = &'a Self> + Clone) -> Vec<String> {
        let create = |role: &Self| format!("CREATE ROLE {} {}", ident(&role.name), role.attributes);
        let grants = |role: &'a Self| {
            role.member_of.iter().map(|of| format!("GRANT {} TO {}", ident(of), ident(&role.name)))
        };
        let created = roles.clone().into_iter().map(create);
        created.chain(roles.into_iter().flat_map(grants)).collect()
    }

    /// Returns whether the role is a superuser, of whom nobody should become a member for a restore.
    pub fn is_superuser(&self) -> bool {
        self.attributes.split(' ').any(|attribute| attribute == "SUPERUSER")
    }
}

impl Rights {
    /// The numbers of owners and privileges, in words.
    pub fn describe(&self) -> String {
        let objects: u64 = self.kinds.values().map(|kind| kind.objects).sum();
        let special = self.special_count + self.built_in.count;
        format!("owners of {objects} objects, {special} special owners or privileges")
    }

    /// At most this many special rights are kept by name; all are counted.
    pub const SPECIAL_KEPT: usize = 200;

    /// The schemas of the extensions that a restore creates before `pg_restore` would.
    pub fn schemas_of_extensions(&self) -> impl Iterator<Item = &str> {
        self.extensions.iter().map(|owned| owned.schema.as_str())
    }

    /// Warnings about the extensions that have not the owners of this in `found`, whose others are of `creator`.
    pub fn other_owners(&self, found: &Self, creator: &str) -> Vec<String> {
        let is_there = |owned: &&OwnedExtension| {
            let mut others = found.extensions.iter().map(|found| (&found.name, &found.owner));
            owned.owner == creator || others.any(|other| other == (&owned.name, &owned.owner))
        };
        self.extensions.iter().filter(|owned| !is_there(owned)).map(|owned| owned.warning(creator)).collect()
    }

    /// The rights that a new object of the owner of the database would not have, in words. `None` if there are none.
    pub fn special_words(&self) -> Option<String> {
        let named: Vec<_> = self.special.iter().chain(&self.built_in.named).map(String::as_str).collect();
        words(&named, self.special_count + self.built_in.count)
    }

    /// The privileges of objects of extensions and of the server, in words. `None` if there are none.
    pub fn built_in_words(&self) -> Option<String> {
        let named: Vec<_> = self.built_in.named.iter().map(String::as_str).collect();
        words(&named, self.built_in.count)
    }

    /// The first word of the kind of an object that belongs to an extension or to the server, as `system function`.
    const BUILT_IN: [&str; 2] = ["extension ", "system "];

    /// The kinds of objects whose rights in `found` are others, in words. Objects of extensions and of the server are
    /// compared if `with_built_in`, and only those that this one notes: others may have them from the server itself.
    pub fn differences(&self, found: &Self, with_built_in: bool) -> Vec<String> {
        let is_built_in = |kind: &str| Self::BUILT_IN.iter().any(|origin| kind.starts_with(origin));
        let promised = self.kinds.keys().filter(|kind| with_built_in || !is_built_in(kind));
        let others = found.kinds.keys().filter(|kind| !is_built_in(kind));
        let kinds: BTreeSet<_> = promised.chain(others).collect();
        let none = KindOfRights::default();
        let of = |rights: &Self, kind: &String| rights.kinds.get(kind).unwrap_or(&none).clone();
        let words = |kind: &String| {
            let (promised, found) = (of(self, kind), of(found, kind));
            match promised.objects == found.objects {
                _ if promised == found => None,
                true => Some(format!("owners or privileges of {} are not as they were", plural(kind))),
                false => Some(format!(
                    "{} with owners: expected {}, found {}",
                    plural(kind),
                    promised.objects,
                    found.objects
                )),
            }
        };
        kinds.into_iter().filter_map(words).collect()
    }

    /// The owners and privileges in `found` that are not these, each in words, where objects that are not these may be as
    /// well: those by name, or, where not all have names, by [kind](Self::differences).
    pub fn named_differences(&self, found: &Self) -> Vec<String> {
        if self.special_count.max(found.special_count) > Self::SPECIAL_KEPT as u64 {
            return self.differences(found, false);
        }
        let (were, are): (BTreeSet<_>, BTreeSet<_>) =
            (self.special.iter().collect(), found.special.iter().collect());
        let now = are.difference(&were).map(|special| (*special).clone());
        now.chain(were.difference(&are).map(|special| format!("no longer: {special}"))).collect()
    }
}

/// The first of something, and the number of the rest.
fn words(named: &[&str], count: u64) -> Option<String> {
    let more = count.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    (count > 0).then(|| format!("{}{more}", named.join("; ")))
}

/// The plural of the name of a kind of object.
fn plural(kind: &str) -> String {
    if let Some(stem) = kind.strip_suffix('y') {
        return format!("{stem}ies");
    }
    format!("{kind}{}", if kind.ends_with('s') { "es" } else { "s" })
}

#[test]
fn kinds_have_their_plurals() {
    let kinds = ["table", "operator family", "operator class"].map(plural);
    assert_eq!(kinds, ["tables", "operator families", "operator classes"]);
}
