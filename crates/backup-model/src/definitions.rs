//! Definitions of the objects of a database, as a manifest keeps them: enough to tell which objects are not as they were.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Definitions of all objects of a database but those that belong to extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definitions {
    /// By kind of object: `column`, `index`, `policy`, `comment`, …
    pub kinds: BTreeMap<String, KindOfDefinitions>,
    /// The version of each extension.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
}

/// The definitions of all objects of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindOfDefinitions {
    /// The number of objects.
    pub objects: u64,
    /// SHA-256 over the name and the definition of each, lower-case hex.
    pub sha256: String,
    /// The fingerprints of the objects, 8 hexadecimal digits each, in ascending order; empty where there are more than
    /// [`Definitions::FINGERPRINTS_KEPT`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprints: String,
}

impl KindOfDefinitions {
    /// The number of hexadecimal digits of a fingerprint.
    const DIGITS: usize = 8;

    /// The fingerprints, one by one.
    pub fn each(&self) -> BTreeSet<&str> {
        let digits = self.fingerprints.as_bytes().chunks(Self::DIGITS);
        digits.filter_map(|digits| str::from_utf8(digits).ok()).collect()
    }
}

impl Definitions {
    /// The fingerprints of at most this many objects of a kind are kept.
    pub const FINGERPRINTS_KEPT: usize = 2000;

    /// The number of all objects.
    pub fn objects(&self) -> u64 {
        self.kinds.values().map(|kind| kind.objects).sum()
    }

    /// The kinds of objects whose definitions in `found` are others, in words. `strangers` are the names of objects of
    /// each kind of which `self` has no fingerprint.
    pub fn differences(&self, found: &Self, strangers: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let kinds: BTreeSet<_> = self.kinds.keys().chain(found.kinds.keys()).collect();
        let none = KindOfDefinitions::default();
        let words = |kind: &String| {
            let of = |definitions: &'_ Self| definitions.kinds.get(kind).unwrap_or(&none).clone();
            let (promised, found) = (of(self), of(found));
            if (promised.objects, &promised.sha256) == (found.objects, &found.sha256) {
                return None;
            }
            let names =
                strangers.get(kind).map(|names| format!(": {}", names.join(", "))).unwrap_or_default();
            Some(if promised.objects == found.objects {
                format!("{kind} definitions are not as they were{names}")
            } else {
                let (promised, found) = (promised.objects, found.objects);
                format!("{kind} definitions: expected {promised}, found {found}{names}")
            })
        };
        kinds.into_iter().filter_map(words).collect()
    }

    /// The extensions that `found` has in another version, as a whole sentence each.
    pub fn other_extensions(&self, found: &Self) -> Vec<String> {
        let words = |(name, version): (&String, &String)| {
            let now = found.extensions.get(name).filter(|now| *now != version)?;
            Some(format!(
                "Extension {name} is version {now} after the restore, and was {version} at the backup."
            ))
        };
        self.extensions.iter().filter_map(words).collect()
    }
}

#[test]
fn another_definition_is_named_and_a_missing_one_is_counted() {
    let kind = |objects, sha256: &str, fingerprints: &str| KindOfDefinitions {
        objects,
        sha256: sha256.into(),
        fingerprints: fingerprints.into(),
    };
    let of = |kinds: &[(&str, KindOfDefinitions)]| Definitions {
        kinds: kinds.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect(),
        ..Definitions::default()
    };
    let promised = of(&[("column", kind(2, "a", "0000000100000002")), ("index", kind(1, "b", "00000003"))]);
    let found = of(&[("column", kind(2, "c", "0000000100000009"))]);
    let strangers = [("column".to_owned(), vec!["public.docs.title".to_owned()])].into();
    assert_eq!(
        promised.differences(&found, &strangers),
        [
            "column definitions are not as they were: public.docs.title",
            "index definitions: expected 1, found 0"
        ]
    );
    assert_eq!(promised.differences(&promised, &BTreeMap::new()), [""; 0]);
    assert_eq!(promised.kinds["column"].each(), ["00000001", "00000002"].into());
}
