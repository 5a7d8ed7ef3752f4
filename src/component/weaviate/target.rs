//! The target of a restore of classes.

use crate::component::{ComponentError, Target};

/// The classes that a restore replaces, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClassTarget {
    /// Every class of the backup, on the live server.
    Live,
    /// As [`Live`](Self::Live), and users, roles and aliases take the place of those that there are: the option
    /// `with-access`.
    LiveWithAccess,
    /// Every class, on the second server, where they are deleted again.
    Scratch,
    /// The live classes of these names alone: the option `include`.
    Classes(Vec<String>),
}

impl TryFrom<&Target> for ClassTarget {
    type Error = ComponentError;

    fn try_from(target: &Target) -> Result<Self, ComponentError> {
        match target {
            Target::Live => Ok(Self::Live),
            Target::Scratch => Ok(Self::Scratch),
            Target::Custom(option) => match option.name {
                "include" => Ok(Self::Classes(option.texts().collect())),
                "with-access" => Ok(Self::LiveWithAccess),
                _ => Err(ComponentError::Unusable {
                    what: "restore weaviate: it goes into its own server, name classes by --include for a part of it"
                        .to_owned(),
                    source: None,
                }),
            },
        }
    }
}
