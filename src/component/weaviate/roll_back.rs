//! A replacement that failed or died, taken back.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::journal::{Journal, Kept, Replacing, Snapshot};
use crate::component::weaviate::replace::{
    Place, Source, all_can_be_kept, described, names, place_of, remove_classes,
};
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use jiff::{SignedDuration, Timestamp};
use std::{collections::BTreeSet, io};

impl Weaviate {
    /// Puts back what was there after a replacement has failed, and tells how that went.
    pub(super) async fn roll_back(
        &self,
        server: &Server,
        journal: &mut Journal,
        err: ComponentError,
    ) -> ComponentError {
        let failed = |stderr: String, transient: bool| ComponentError::Failed {
            program: "restore into Weaviate",
            status: "failure".to_owned(),
            stderr,
            transient,
        };
        let why = chain(&err);
        tracing::warn!(error = why, "a restore into Weaviate has failed, putting back what was there");
        match self.put_safety_back(server, journal).await {
            Ok(_) => failed(format!("{why}; the classes are again as they were before"), err.is_transient()),
            Err(worse) => {
                let replacing = journal.notes.replacing.clone().unwrap_or_default();
                let place = replacing.safety.map(|safety| place_of(journal, &safety));
                failed(
                    format!(
                        "{why}; and what was there before could not be put back: {}; classes {} may be missing, \
                         they are kept as {} and are put back by the next run on Weaviate or start of the worker",
                        chain(&worse),
                        names(&replacing.classes),
                        place.unwrap_or_else(|| "nothing, since none of them was there".to_owned())
                    ),
                    false,
                )
            }
        }
    }

    /// Finishes a replacement that failed or died, by putting back what was there. Tells what was done.
    pub(super) async fn put_safety_back(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<String, ComponentError> {
        /// A restore that is still under way makes classes again that were just deleted.
        const TIMES: u32 = 3;
        let Replacing { classes, safety, .. } = journal.notes.replacing.clone().unwrap_or_default();
        let all: Vec<_> = classes.iter().cloned().collect();
        let source = match &safety {
            None => None,
            Some(safety) => Some(self.still_there(server, journal, safety, &classes).await?),
        };
        for turn in 1.. {
            let done = async {
                remove_classes(server, &all).await?;
                match (&source, &safety) {
                    (Some(source), Some(safety)) => {
                        source.put_back(self, server, &safety.classes, &Meter::default()).await
                    }
                    _ => Ok(()),
                }
            };
            match done.await {
                Ok(()) => break,
                Err(err) if turn == TIMES => return Err(err),
                Err(err) => tracing::warn!(error = %chain(&err), "putting classes back, once more"),
            }
        }
        journal.note(|notes| notes.replacing = None)?;
        if let Some(safety) = &safety
            && let Err(err) = self.drop_snapshot(server, journal, safety).await
        {
            tracing::warn!(error = %chain(&err), "the safety backup is left");
        }
        Ok(format!("a restore into Weaviate was rolled back: classes {} are as before it", names(&classes)))
    }

    /// What a snapshot is put back from, once it is seen that there still is one: what is live goes before it comes.
    async fn still_there(
        &self,
        server: &Server,
        journal: &Journal,
        snapshot: &Snapshot,
        classes: &BTreeSet<String>,
    ) -> Result<Source, ComponentError> {
        let looked = async {
            let source = self.source_of(server, journal, snapshot)?;
            match &source.place {
                Place::Server(files) => drop(described(&files.tree(&snapshot.id).await?, &snapshot.id)?),
                Place::Scratch(_) | Place::File(_) => drop(source.open().await?),
            }
            Ok::<_, ComponentError>(source)
        };
        let gone = |err: ComponentError| ComponentError::Unusable {
            what: format!(
                "put back what a restore that died had set aside ({}): nothing was changed; bring that back, or if \
                 classes {} are as you want them, remove {}, which says that they are to be put back",
                place_of(journal, snapshot),
                names(classes),
                journal.path(Journal::FILE).display(),
            ),
            source: Some(err.into()),
        };
        looked.await.map_err(|err| match err {
            ComponentError::Read { ref source, .. } if source.kind() == io::ErrorKind::NotFound => gone(err),
            err if err.is_transient() => err,
            err => gone(err),
        })
    }

    /// Before a replacement that died long ago is taken back: what its classes hold now may be the work of days,
    /// of another worker's restore or of a repair by hand. It is set aside for `undo`.
    ///
    /// # Errors
    ///
    /// When that cannot be done; then nothing was changed.
    pub(super) async fn keep_what_came_since(
        &self,
        server: &Server,
        journal: &mut Journal,
    ) -> Result<(), ComponentError> {
        /// Within this time what is there is what the restore had brought so far.
        const FRESH: SignedDuration = SignedDuration::from_hours(1);
        let Some(replacing) = journal.notes.replacing.clone() else { return Ok(()) };
        // Without a time it was noted by an earlier version, or what came since is kept already.
        let Some(began) = replacing.began else { return Ok(()) };
        if Timestamp::now().duration_since(began).abs() < FRESH {
            return Ok(());
        }
        let live = server.classes(Some(&replacing.classes)).await?;
        if live.values().all(|class| class.objects.before == 0) {
            return Ok(());
        }
        all_can_be_kept(&live)?;
        tracing::warn!(
            classes = names(&replacing.classes),
            %began,
            "a restore that died long ago is taken back: what came since is set aside for undo"
        );
        let snapshot = self.set_aside(server, live, journal, &Meter::default()).await?;
        let before = journal.notes.kept.clone();
        journal.note(|notes| {
            notes.loose.retain(|loose| loose.id != snapshot.id);
            notes.kept = Some(Kept { snapshot, classes: replacing.classes.clone() });
            notes.replacing = Some(Replacing { began: None, ..replacing });
        })?;
        self.drop_replaced(server, journal, before).await;
        Ok(())
    }
}
