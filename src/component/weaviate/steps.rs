//! The steps of a restore into Weaviate, as one list: `check`, dry run, drill and restore ask their questions by it, and dry
//! run and drill name the steps that they do not take. The steps that do something stand in `restore` and `replace`.

use crate::component::ComponentError;
use crate::component::stage::{RestoreMode, Steps};
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{BackupBackend, Index};
use crate::component::weaviate::refusals;
use crate::component::weaviate::requirements::Requirements;
use crate::component::weaviate::restore::counted;
use crate::component::weaviate::rights::Replaced;
use crate::component::weaviate::server::Server;
use crate::component::weaviate::target::ClassTarget;
use std::collections::{BTreeMap, BTreeSet};

/// A step of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Version,
    Access,
    Folder,
    Nodes,
    Aliases,
    Modules,
    SomethingComes,
    NothingThere,
    NothingLost,
    Rights,
    References,
    Tenants,
    Unpack,
    HeldAccess,
    Trial,
    SafetyCopy,
    TrialOfCopy,
    Replacement,
}

use RestoreMode::{Check, Drill, DryRun, Restore};

/// The steps of a restore into Weaviate.
pub(super) const STEPS: Steps<Step> = Steps(&[
    (Step::Version, "compare the versions of Weaviate", &[DryRun, Drill, Restore]),
    (
        Step::Access,
        "look whether backups of that version hold users and roles, where these are wanted",
        &[DryRun, Restore],
    ),
    (
        Step::Folder,
        "write to Weaviate's folder of backups and remove that again",
        &[Check, DryRun, Drill, Restore],
    ),
    (Step::Nodes, "compare the names of the nodes", &[Check, DryRun, Drill, Restore]),
    (Step::Aliases, "look whether an alias bears the name of a class", &[DryRun, Drill, Restore]),
    (Step::Modules, "look for the modules that the classes need", &[Check, DryRun, Drill, Restore]),
    (Step::SomethingComes, "look whether the backup holds a class", &[DryRun, Restore]),
    (Step::NothingThere, "look whether the second server has none of the classes", &[Drill]),
    (Step::NothingLost, "look whether all that is replaced can be copied", &[Check, DryRun, Restore]),
    (Step::Rights, "ask whether the key has the rights that a restore needs", &[Check, DryRun, Restore]),
    (Step::References, "look whether classes are there that the classes refer to", &[Check, Drill, Restore]),
    (Step::Tenants, "look whether a tenant would come back empty", &[Restore]),
    (Step::Unpack, "compare every byte of the archive with its checksums, and unpack it", &[Drill, Restore]),
    (Step::HeldAccess, "look for users and roles in the archive, where these are wanted", &[Restore]),
    (Step::Trial, "restore classes under other names, and compare objects and rights", &[Restore]),
    (Step::SafetyCopy, "copy the classes that are replaced", &[Restore]),
    (Step::TrialOfCopy, "restore classes of that copy under other names", &[Restore]),
    (Step::Replacement, "delete, restore and prove the live classes one by one", &[Restore]),
]);

/// The input of the checks before a restore.
#[derive(Debug)]
pub(super) struct CheckContext<'a> {
    pub(super) weaviate: &'a Weaviate,
    pub(super) target: &'a ClassTarget,
    pub(super) server: &'a Server,
    pub(super) requirements: &'a Requirements,
    /// The classes that are to come; `None` where nobody has noted them.
    pub(super) bring: Option<&'a BTreeSet<String>>,
    /// The classes of these that are on the server.
    pub(super) live: &'a Classes,
    /// The index of the archive; `None` while nothing but its manifest is read, and for `check`, which asks about a
    /// backup of the live classes.
    pub(super) index: Option<&'a Index>,
}

impl CheckContext<'_> {
    /// Asks what a step asks before anything is touched. Steps that do something ask nothing.
    ///
    /// # Errors
    ///
    /// The reason why a restore would fail, and what to do about it.
    async fn ask(&self, step: Step) -> Result<(), ComponentError> {
        let Self { weaviate, target, server, requirements, bring, live, index } = *self;
        match step {
            Step::Version => refusals::of_version(server, requirements),
            Step::Access if *target == ClassTarget::LiveWithAccess => {
                refusals::of_access(server, requirements)
            }
            Step::Folder => match requirements.backend.filter(|backend| *backend != BackupBackend::Export) {
                Some(backend) => match weaviate.files(server, backend)? {
                    Files::Folder(folder) => folder.probe().await,
                    Files::Bucket(_) => Ok(()),
                },
                None => Ok(()),
            },
            Step::Nodes => refusals::of_nodes(server, requirements).await,
            Step::Aliases => server.no_alias_bears(bring.into_iter().flatten()).await,
            Step::Modules => refusals::of_modules(server, requirements),
            Step::SomethingComes => bring.map_or(Ok(()), refusals::of_an_empty_backup),
            Step::NothingThere => refusals::of_a_server_in_use(server, live),
            Step::NothingLost => requirements
                .backend
                .map_or(Ok(()), |backend| refusals::of_what_cannot_be_kept(server, live, backend)),
            Step::References => {
                let classes = index.map_or(live, |index| &index.classes);
                match bring {
                    Some(bring) => refusals::of_dangling_references(server, classes, bring).await,
                    None => Ok(()),
                }
            }
            Step::Tenants => match index {
                Some(index) => refusals::of_emptied_tenants(server, index, live).await,
                None => Ok(()),
            },
            Step::Access
            | Step::Rights
            | Step::Unpack
            | Step::HeldAccess
            | Step::Trial
            | Step::SafetyCopy
            | Step::TrialOfCopy
            | Step::Replacement => Ok(()),
        }
    }

    /// Asks about the rights of the key, and returns whether the server has told them. A server that tells none is tried:
    /// it is asked to make what exists already. `check` is run every day, and makes nothing where it can help it, since
    /// what exists may be gone at that moment.
    async fn ask_about_rights(
        &self,
        mode: RestoreMode,
        counts: &BTreeMap<String, u64>,
    ) -> Result<bool, ComponentError> {
        let Self { server, requirements, bring, live, index, .. } = *self;
        if !server.client.has_key() {
            return Ok(true); // without keys there are no roles
        }
        if let Some(rights) = server.rights().await? {
            let names = live.keys().chain(bring.into_iter().flatten()).map(String::as_str).collect();
            let classes = Replaced { live, coming: index.map(|index| &index.classes), counts };
            return rights.suffice(requirements.backend, &names, classes).map(|()| true);
        }
        if requirements.backend != Some(BackupBackend::Export) || mode == Check {
            return Ok(false);
        }
        for (name, class) in live {
            server.may_make_again(name, &class.definition).await?;
        }
        Ok(!live.is_empty())
    }

    /// Asks all that a mode asks, in the order of the steps, and returns the steps that could not be taken here, in words.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), of the first step.
    pub(super) async fn ask_all(&self, mode: RestoreMode) -> Result<Vec<&'static str>, ComponentError> {
        let coming = self.index.map_or(self.live, |index| &index.classes);
        self.ask_all_of(mode, &counted(coming).classes).await
    }

    /// Asks the same about a backup with so many objects of each class, where no index tells that.
    pub(super) async fn ask_all_of(
        &self,
        mode: RestoreMode,
        counts: &BTreeMap<String, u64>,
    ) -> Result<Vec<&'static str>, ComponentError> {
        let mut not_tried = Vec::new();
        for step in STEPS.of(mode) {
            if step != Step::Rights {
                self.ask(step).await?;
            } else if !self.ask_about_rights(mode, counts).await? {
                not_tried.push(STEPS.words(step));
            }
        }
        Ok(not_tried)
    }
}

#[test]
fn a_restore_takes_every_step_but_that_of_a_drill_alone_and_whoever_takes_fewer_names_the_rest() {
    assert_eq!(STEPS.of(Restore).count(), STEPS.0.len() - 1);
    assert_eq!(STEPS.skipped_steps(Restore), [""; 0]);
    for mode in [Check, DryRun, Drill] {
        let taken = STEPS.of(mode).filter(|step| *step != Step::NothingThere).count();
        assert_eq!(taken + STEPS.skipped_steps(mode).len(), STEPS.of(Restore).count(), "{mode:?}");
    }
    let changes = [Step::Trial, Step::SafetyCopy, Step::TrialOfCopy, Step::Replacement];
    assert!(
        STEPS.of(DryRun).chain(STEPS.of(Drill)).chain(STEPS.of(Check)).all(|step| !changes.contains(&step))
    );
}
