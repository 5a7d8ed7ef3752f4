//! The steps of a restore into Weaviate, as one list: `check`, dry run, drill and restore ask their questions by it, and dry
//! run and drill name the steps that they do not take. The steps that do something stand in `restore` and `replace`.

use crate::component::ComponentError;
use crate::component::stage::{Target, Walk};
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::class::Classes;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::index::{Index, Made};
use crate::component::weaviate::needs::Needs;
use crate::component::weaviate::refusals;
use crate::component::weaviate::server::Server;
use std::collections::BTreeSet;

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

use Walk::{Check, Drill, DryRun, Restore};

impl Step {
    /// Every step, what it does in words for people, and the walks that take it.
    const ALL: &[(Self, &str, &[Walk])] = &[
        (Self::Version, "compare the versions of Weaviate", &[DryRun, Drill, Restore]),
        (
            Self::Access,
            "look whether backups of that version hold users and roles, where these are wanted",
            &[DryRun, Restore],
        ),
        (
            Self::Folder,
            "write to Weaviate's folder of backups and remove that again",
            &[Check, DryRun, Drill, Restore],
        ),
        (Self::Nodes, "compare the names of the nodes", &[DryRun, Drill, Restore]),
        (Self::Aliases, "look whether an alias bears the name of a class", &[DryRun, Drill, Restore]),
        (Self::Modules, "look for the modules that the classes need", &[DryRun, Drill, Restore]),
        (Self::SomethingComes, "look whether the backup holds a class", &[DryRun, Restore]),
        (Self::NothingThere, "look whether the second server has none of the classes", &[Drill]),
        (Self::NothingLost, "look whether all that is replaced can be copied", &[DryRun, Restore]),
        (Self::Rights, "ask whether the key may make the classes of an export again", &[DryRun, Restore]),
        (Self::References, "look whether classes are there that the classes refer to", &[Drill, Restore]),
        (Self::Tenants, "look whether a tenant would come back empty", &[Restore]),
        (
            Self::Unpack,
            "compare every byte of the archive with its checksums, and unpack it",
            &[Drill, Restore],
        ),
        (Self::HeldAccess, "look for users and roles in the archive, where these are wanted", &[Restore]),
        (Self::Trial, "restore classes under other names, and compare objects and rights", &[Restore]),
        (Self::SafetyCopy, "copy the classes that are replaced", &[Restore]),
        (Self::TrialOfCopy, "restore classes of that copy under other names", &[Restore]),
        (Self::Replacement, "delete, restore and prove the live classes one by one", &[Restore]),
    ];

    /// The steps of a walk, in their order.
    pub(super) fn of(walk: Walk) -> impl Iterator<Item = Self> {
        Self::ALL.iter().filter(move |(_, _, walks)| walks.contains(&walk)).map(|(step, _, _)| *step)
    }

    /// The steps of a restore that a walk does not take, in words.
    pub(super) fn left_out(walk: Walk) -> Vec<&'static str> {
        let is_left_out = |walks: &[Walk]| walks.contains(&Restore) && !walks.contains(&walk);
        Self::ALL.iter().filter(|(_, _, walks)| is_left_out(walks)).map(|(_, words, _)| *words).collect()
    }
}

/// Everything that the questions before a restore need to know.
#[derive(Debug)]
pub(super) struct Questions<'a> {
    pub(super) weaviate: &'a Weaviate,
    pub(super) target: &'a Target,
    pub(super) server: &'a Server,
    pub(super) needs: &'a Needs,
    /// The classes that are to come; `None` where nobody has noted them.
    pub(super) bring: Option<&'a BTreeSet<String>>,
    /// Those of these classes that are on the server.
    pub(super) live: &'a Classes,
    /// The index of the archive; `None` while nothing but its manifest is read.
    pub(super) index: Option<&'a Index>,
}

impl Questions<'_> {
    /// Asks what a step asks before anything is touched. Steps that do something ask nothing.
    ///
    /// # Errors
    ///
    /// The reason why a restore would fail, and what to do about it.
    async fn ask(&self, step: Step) -> Result<(), ComponentError> {
        let Self { weaviate, target, server, needs, bring, live, index } = *self;
        match step {
            Step::Version => refusals::of_version(server, needs),
            Step::Access if *target == Target::LiveWithAccess => refusals::of_access(server, needs),
            Step::Folder => match needs.way.filter(|way| *way != Made::Export) {
                Some(way) => match weaviate.files(server, way)? {
                    Files::Folder(folder) => folder.probe().await,
                    Files::Bucket(_) => Ok(()),
                },
                None => Ok(()),
            },
            Step::Nodes => refusals::of_nodes(server, needs).await,
            Step::Aliases => server.no_alias_bears(bring.into_iter().flatten()).await,
            Step::Modules => refusals::of_modules(server, needs),
            Step::SomethingComes => bring.map_or(Ok(()), refusals::of_an_empty_backup),
            Step::NothingThere => refusals::of_a_server_in_use(server, live),
            Step::NothingLost => {
                needs.way.map_or(Ok(()), |way| refusals::of_what_cannot_be_kept(server, live, way))
            }
            Step::Rights if needs.way == Some(Made::Export) => {
                for (name, class) in live {
                    server.may_make_again(name, &class.definition).await?;
                }
                Ok(())
            }
            Step::References => match (index, bring) {
                (Some(index), Some(bring)) => refusals::of_dangling_references(server, index, bring).await,
                _ => Ok(()),
            },
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

    /// Asks all that a walk asks, in the order of the steps.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), of the first step.
    pub(super) async fn ask_all(&self, walk: Walk) -> Result<(), ComponentError> {
        for step in Step::of(walk) {
            self.ask(step).await?;
        }
        Ok(())
    }
}

#[test]
fn a_restore_takes_every_step_but_that_of_a_drill_alone_and_whoever_takes_fewer_names_the_rest() {
    assert_eq!(Step::of(Restore).count(), Step::ALL.len() - 1);
    assert_eq!(Step::left_out(Restore), [""; 0]);
    for walk in [Check, DryRun, Drill] {
        let taken = Step::of(walk).filter(|step| *step != Step::NothingThere).count();
        assert_eq!(taken + Step::left_out(walk).len(), Step::of(Restore).count(), "{walk:?}");
    }
    let changes = [Step::Trial, Step::SafetyCopy, Step::TrialOfCopy, Step::Replacement];
    assert!(
        Step::of(DryRun).chain(Step::of(Drill)).chain(Step::of(Check)).all(|step| !changes.contains(&step))
    );
}
