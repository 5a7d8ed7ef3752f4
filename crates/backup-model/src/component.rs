//! The components that can be backed up, and everything that follows from their names alone.

pub mod kinds;

use kinds::ComponentKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{fmt, str::FromStr, sync::LazyLock};

/// A store of the app's data that is backed up and restored by itself: a handle to a [`ComponentKind`].
///
/// The name is the metric label, the folder in every store and the key in every result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComponentName(usize);

/// The names of all components.
static NAMES: LazyLock<Vec<&str>> =
    LazyLock::new(|| ComponentName::all().map(ComponentName::as_str).collect());

impl ComponentName {
    /// The app's PostgreSQL database.
    pub const POSTGRES: Self = Self(0);
    /// The vector database.
    pub const WEAVIATE: Self = Self(1);
    /// The media folder.
    pub const MEDIA: Self = Self(2);

    /// Every component, in the order in which a full backup dispatches them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..kinds::all().count()).map(Self)
    }

    /// The names and rules of the component.
    pub fn kind(self) -> &'static ComponentKind {
        kinds::all().nth(self.0).expect("every handle has a kind")
    }

    /// The name in stores, metrics, results and on the command line.
    pub fn as_str(self) -> &'static str {
        self.kind().name
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ComponentName {
    type Err = UnknownComponent;

    fn from_str(text: &str) -> Result<Self, UnknownComponent> {
        Self::all().find(|name| name.as_str() == text).ok_or(UnknownComponent)
    }
}

impl Serialize for ComponentName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ComponentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|UnknownComponent| D::Error::unknown_variant(&text, &NAMES))
    }
}

/// The text names no component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not one of {}", NAMES.join(", "))]
pub struct UnknownComponent;

#[test]
fn each_handle_leads_to_its_kind() {
    let names =
        [ComponentName::POSTGRES, ComponentName::WEAVIATE, ComponentName::MEDIA].map(ComponentName::as_str);
    assert_eq!(
        (names, &*UnknownComponent.to_string()),
        (["postgres", "weaviate", "media"], "is not one of postgres, weaviate, media")
    );
}
