//! The settings of the media folder.

use crate::base::env::Env;
use crate::component::Component;
use crate::component::media::Media;
use crate::component::registry::{Parts, Registration, Settings, SettingsContext};
use crate::domain::component::ComponentName;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub(in crate::component) const REGISTRATION: Registration = Registration {
    name: ComponentName::MEDIA,
    read: |env, context| read(env, context).map(|config| Arc::new(config) as _),
    by_hand: |_, _| None,
    variables: |_| None,
};

/// The media folder, and the folders beside the backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaConfig {
    /// `MEDIA_ROOT`. It may itself be a symbolic link; none below it is followed.
    pub root: PathBuf,
    /// The terms of incremental backups; `None`: every one is full.
    pub increments: Option<Increments>,
    /// The folder for drills where nothing can be written beside the media; made when it is needed.
    pub drills: Option<PathBuf>,
}

/// The terms of incremental backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increments {
    /// Time between full backups.
    pub full_every: Duration,
    /// The folder for what the last backup saw, of our own; made when it is needed.
    pub state: PathBuf,
}

impl MediaConfig {
    /// A folder of which every backup is full.
    pub const fn full(root: PathBuf) -> Self {
        Self { root, increments: None, drills: None }
    }
}

impl Settings for MediaConfig {
    fn name(&self) -> ComponentName {
        ComponentName::MEDIA
    }

    fn build(&self, _: &Parts) -> Component {
        Media::new(self.clone()).into()
    }
}

fn read(env: &mut Env, context: &SettingsContext<'_>) -> Option<MediaConfig> {
    const WEEK: Duration = Duration::from_hours(7 * 24);
    let root = env.optional::<PathBuf>("MEDIA_ROOT");
    let full_every = env.duration("BACKUP_MEDIA_FULL_EVERY", WEEK);
    context.require(env, ComponentName::MEDIA);
    let root = root?;
    keep_apart(env, context.root, &root);
    let state = context.root.join(".media");
    Some(MediaConfig {
        root,
        drills: Some(state.join("drills")),
        increments: (!full_every.is_zero()).then_some(Increments { full_every, state }),
    })
}

/// Archives inside the media folder would be backed up again and again, and media among the
/// archives would look like backups.
fn keep_apart(env: &mut Env, root: &Path, media: &Path) {
    let (root, media) = (real(root), real(media));
    if root.starts_with(&media) {
        env.note(
            "BACKUP_ROOT",
            "lies inside MEDIA_ROOT, so every backup would hold all earlier ones: move it out",
        );
    }
    let mut ours = ComponentName::all().map(ComponentName::as_str).chain(["manifests"]);
    if ours.any(|folder| media.starts_with(root.join(folder))) {
        env.note("MEDIA_ROOT", "is a folder in which BACKUP_ROOT keeps backups: choose another BACKUP_ROOT");
    }
}

/// The path without links and `..`, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    match there.as_ref().map(|(part, real)| (path.strip_prefix(part), real)) {
        // Joining nothing would add a slash.
        Some((Ok(rest), real)) if rest != Path::new("") => real.join(rest),
        Some((_, real)) => real.clone(),
        None => path,
    }
}
