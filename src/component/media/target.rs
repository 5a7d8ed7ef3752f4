//! The target of a restore of media.

use crate::component::{ComponentError, Target, media::errors::unusable};
use std::path::PathBuf;

/// The folder that a copy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MediaTarget {
    /// The media folder.
    Live,
    /// None: the copy is thrown away.
    Scratch,
    /// A folder of its own, which must be empty or not there: the option `into`.
    Folder(PathBuf),
}

impl TryFrom<&Target> for MediaTarget {
    type Error = ComponentError;

    fn try_from(target: &Target) -> Result<Self, ComponentError> {
        match target {
            Target::Live => Ok(Self::Live),
            Target::Scratch => Ok(Self::Scratch),
            Target::Custom(option) if option.name == "into" => {
                Ok(Self::Folder(option.values.iter().collect()))
            }
            Target::Custom(option) => {
                let what = format!(
                    "restore media by --{}: they are files, with owner and mode; leave it out, or name a folder by --into",
                    option.name
                );
                Err(unusable(what))
            }
        }
    }
}
