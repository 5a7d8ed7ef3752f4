//! Owners and privileges of the objects of a database, as a manifest keeps them.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Owners and privileges of all objects of a database but those that belong to extensions.
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
    /// An object whose owner is no member of the owner of its schema. A restore by somebody else than a superuser gives
    /// objects to their owners before any privilege on the schema is there, so PostgreSQL refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
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

impl RoleInUse {
    /// Returns whether the role is a superuser, of whom nobody should become a member for a restore.
    pub fn is_superuser(&self) -> bool {
        self.attributes.split(' ').any(|attribute| attribute == "SUPERUSER")
    }
}

impl Rights {
    /// At most this many special rights are kept by name; all are counted.
    pub const SPECIAL_KEPT: usize = 200;

    /// The kinds of objects whose rights in `found` are others, in words.
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let kinds: BTreeSet<_> = self.kinds.keys().chain(found.kinds.keys()).collect();
        let none = KindOfRights::default();
        let of = |rights: &Self, kind: &String| rights.kinds.get(kind).unwrap_or(&none).clone();
        let words = |kind: &String| {
            let (promised, found) = (of(self, kind), of(found, kind));
            match promised.objects == found.objects {
                _ if promised == found => None,
                true => Some(format!("owners or privileges of {kind}s are not as they were")),
                false => Some(format!(
                    "{kind}s with owners: expected {}, found {}",
                    promised.objects, found.objects
                )),
            }
        };
        kinds.into_iter().filter_map(words).collect()
    }
}
