//! The components that can be backed up, and everything that follows from their names alone.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One of the things that the lab's app keeps its data in.
///
/// The name is the metric label, the folder in every store and the key in every result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentName {
    /// The app's PostgreSQL database.
    Postgres,
    /// The vector database.
    Weaviate,
    /// The media folder.
    Media,
}

impl ComponentName {
    /// Every component, in the order in which a full backup dispatches them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Weaviate, Self::Media];

    /// The name in stores, metrics, results and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Weaviate => "weaviate",
            Self::Media => "media",
        }
    }

    /// The prefix of the names of the component's backups, as the app's old files had it.
    pub const fn file_prefix(self) -> &'static str {
        match self {
            Self::Postgres => "pg_backup_",
            Self::Weaviate => "weaviate_backup_",
            Self::Media => "media_backup_",
        }
    }

    /// The extension of an archive before compression adds its own.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Postgres => "dump",
            Self::Weaviate | Self::Media => "tar",
        }
    }

    /// The setting that makes this component a configured one.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Postgres => "DATABASE_URL (or POSTGRES_DB)",
            Self::Weaviate => "WEAVIATE_URL",
            Self::Media => "MEDIA_ROOT",
        }
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ComponentName {
    type Err = UnknownComponent;

    fn from_str(text: &str) -> Result<Self, UnknownComponent> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or(UnknownComponent)
    }
}

/// The text names no component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not one of postgres, weaviate, media")]
pub struct UnknownComponent;
