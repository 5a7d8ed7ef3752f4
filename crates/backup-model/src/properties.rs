//! Properties of a database itself, as a manifest keeps them: its owner, privileges, locale, limits and settings.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The properties of a database, by name: `connection limit`, `setting work_mem of role app`, …
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl Properties {
    /// At most this many are kept by name.
    pub const KEPT: usize = 200;

    /// At most so many bytes of a value are kept.
    pub const VALUE_KEPT: usize = 400;

    /// The properties that are others in `found`, each with both values: this one's under the name `[were, …]`, that of
    /// `found` under the name `[…, are]`.
    pub fn differences(&self, found: &Self, [were, are]: [&str; 2]) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(found.0.keys()).collect();
        let value = |of: &'_ Self, name: &String| of.0.get(name).map_or("none", String::as_str).to_owned();
        let words = |name: &String| {
            let (was, is) = (value(self, name), value(found, name));
            (was != is).then(|| format!("{name}: {was} {were}, {is} {are}"))
        };
        names.into_iter().filter_map(words).collect()
    }
}

#[test]
fn a_property_that_is_another_is_named_with_both_values() {
    let of = |pairs: &[(&str, &str)]| {
        Properties(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    };
    let noted = of(&[("owner", "app"), ("connection limit", "5"), ("setting work_mem", "7MB")]);
    let found = of(&[("owner", "app"), ("setting work_mem", "8MB"), ("comment", "new")]);
    assert_eq!(
        noted.differences(&found, ["then", "now"]),
        [
            "comment: none then, new now",
            "connection limit: 5 then, none now",
            "setting work_mem: 7MB then, 8MB now"
        ]
    );
    assert_eq!(noted.differences(&noted, ["then", "now"]), [""; 0]);
}
