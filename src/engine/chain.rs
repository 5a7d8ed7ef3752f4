//! An incremental backup and the archives that it builds on, found, checked and read as one.

use crate::base::chain;
use crate::catalog::{Entry, Listing};
use crate::component::{Component, IncrementalBase};
use crate::domain::id::BackupId;
use crate::domain::listing::BackupState;
use crate::domain::progress::Meter;
use crate::engine::archive::{Archive, rest_of, unusable};
use crate::engine::uploads::read_all;
use crate::engine::{Engine, EngineError};
use crate::store::{Body, Store};
use crate::stream::crypt::Recipients;
use crate::stream::unpack::{HashingReader, Unpacked};
use jiff::Timestamp;
use std::sync::Arc;

/// The most archives that one backup may need, its own among them: all are open while it is restored.
const MOST_ARCHIVES: u64 = 16;

/// The most memory that the windows of all decompressors of a chain may take, in bytes.
const MOST_WINDOWS: u64 = 32 << 20;

/// An archive that is being read, with those that it builds on.
pub(super) struct Opened<'a> {
    archive: &'a Archive,
    pub(super) own: HashingReader<Body>,
    bases: Vec<HashingReader<Body>>,
}

impl Archive {
    /// Opens the archive and those that it builds on; `own` reads the archive's own bytes.
    ///
    /// # Errors
    ///
    /// When one of the archives that it builds on cannot be opened.
    pub(super) async fn opened(&self, own: HashingReader<Body>) -> Result<Opened<'_>, EngineError> {
        let mut bases = Vec::new();
        for base in &self.bases {
            bases.push(base.reader_beside(self.readers()).await?);
        }
        Ok(Opened { archive: self, own, bases })
    }
}

impl Opened<'_> {
    /// The contents that a full archive of the same backup would have, decrypted and decompressed.
    ///
    /// # Errors
    ///
    /// As [`Archive::unpacked`].
    pub(super) async fn feed(&mut self, component: &Component) -> Result<Unpacked<'_>, EngineError> {
        let newest = self.archive.unpacked(&mut self.own).await?;
        if self.bases.is_empty() {
            return Ok(newest);
        }
        let mut bases = Vec::new();
        for (base, reader) in self.archive.bases.iter().zip(&mut self.bases) {
            bases.push((base.entry.backup_id.clone(), base.unpacked(reader).await?));
        }
        let incremental = component.incremental().map_err(|source| unusable(component.name(), source))?;
        Ok(incremental.join(newest, bases))
    }

    /// Counts the contents of the archive, and returns the differences from the manifest.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed), and the error of the component.
    pub(super) async fn decode(&mut self, component: &Component) -> Result<Vec<String>, EngineError> {
        let facts = self.archive.facts();
        let mut feed = self.feed(component).await?;
        let counts = component.source.decode(&mut feed, &Meter::default()).await;
        let counts = counts.map_err(|source| unusable(component.name(), source))?;
        rest_of(&mut feed).await?;
        Ok(facts.map_or(Vec::new(), |facts| facts.counts.differences(&counts)))
    }

    /// Reads everything on to its very end, and compares what passed with the manifests.
    ///
    /// # Errors
    ///
    /// [`EngineError::Damaged`].
    pub(super) async fn finish(self) -> Result<(), EngineError> {
        self.archive.finish(self.own).await?;
        for (base, reader) in self.archive.bases.iter().zip(self.bases) {
            base.finish(reader).await?;
        }
        Ok(())
    }

    /// Reads the archives that this one builds on to their ends; returns their faults, and this archive's own reader.
    ///
    /// # Errors
    ///
    /// When one of them cannot be read.
    pub(super) async fn problems_of_bases(self) -> Result<(HashingReader<Body>, Vec<String>), EngineError> {
        let mut problems = Vec::new();
        for (base, mut reader) in self.archive.bases.iter().zip(self.bases) {
            read_all(&mut reader, &Meter::default()).await?;
            let (_, problem) = base.problem(reader);
            problems.extend(
                problem.map(|problem| format!("{}, which it builds on: {problem}", base.copy.location)),
            );
        }
        Ok((self.own, problems))
    }
}

impl Engine {
    /// Finds the archives that `archive` builds on, each as near as can be: in the same destination if it is there.
    ///
    /// # Errors
    ///
    /// [`EngineError::Damaged`] when one of them is not there or not whole.
    pub(super) async fn find_bases(&self, archive: &mut Archive) -> Result<(), EngineError> {
        bounded(&archive.entry)?;
        for id in archive.entry.builds_on().to_vec() {
            let mut found = self.bases(archive, &id).await?;
            let near = found.iter().position(|base| base.copy.destination == archive.copy.destination);
            archive.bases.push(found.swap_remove(near.unwrap_or(0)));
        }
        Ok(())
    }

    /// Finds the archives that this one builds on, in copies of which the bytes have been compared with their
    /// manifests; returns the faults of other copies.
    ///
    /// # Errors
    ///
    /// As for [`find_bases`](Self::find_bases).
    pub(super) async fn find_intact_bases(
        &self,
        archive: &mut Archive,
        meter: &Meter,
    ) -> Result<Vec<String>, EngineError> {
        bounded(&archive.entry)?;
        let mut warnings = Vec::new();
        for id in archive.entry.builds_on().to_vec() {
            let intact = self.first_intact(self.bases(archive, &id).await?, meter).await;
            let (base, warned) = intact.map_err(|err| base_damaged(archive, &id, err))?;
            archive.bases.push(base);
            warnings.extend(warned);
        }
        Ok(warnings)
    }

    async fn bases(&self, archive: &Archive, id: &BackupId) -> Result<Vec<Archive>, EngineError> {
        let found = self.archives(archive.entry.component(), id.as_str()).await;
        found.map_err(|err| base_damaged(archive, id, err))
    }

    /// Returns the backups that a new one may build on: all that are whole in every destination in which it is to
    /// stay.
    pub(super) fn incremental_base(
        &self,
        id: &BackupId,
        at: Timestamp,
        listing: &Listing,
    ) -> IncrementalBase {
        let is_staying = |store: &&Arc<dyn Store>| {
            !(self.cleanup_local && self.destinations.len() > 1 && store.capabilities().is_local)
        };
        let places: Vec<_> =
            self.destinations.iter().filter(is_staying).map(|store| store.destination()).collect();
        let is_there = |entry: &Entry, place: &str| {
            let mut copies = entry.copies.iter();
            copies.any(|copy| copy.destination == place && copy.state == BackupState::Ok)
        };
        let is_complete =
            |entry: &&Entry| entry.is_verified() && places.iter().all(|place| is_there(entry, place));
        let complete_backups =
            listing.entries.iter().filter(is_complete).map(|entry| entry.backup_id.clone()).collect();
        let recipients = self.encryption.recipients.as_ref().map_or_else(String::new, Recipients::names);
        let most = (MOST_WINDOWS / self.compression.window()).min(MOST_ARCHIVES);
        let max_chain = usize::try_from(most).expect("is at most 16");
        IncrementalBase { id: id.clone(), at, complete_backups, recipients, max_chain }
    }
}

/// Refuses a manifest that names more than any of ours does.
fn bounded(entry: &Entry) -> Result<(), EngineError> {
    // Ours never name so many; each is opened beside the others.
    if entry.builds_on().len() as u64 >= MOST_ARCHIVES {
        let problems =
            vec![format!("its manifest names more than {} archives that it builds on", MOST_ARCHIVES - 1)];
        return Err(EngineError::Damaged { problems });
    }
    Ok(())
}

/// The error of a backup without one that it builds on: damaged, unless the other may only be out of reach for now.
fn base_damaged(archive: &Archive, base: &BackupId, err: EngineError) -> EngineError {
    if err.is_transient() || matches!(err, EngineError::Locked { .. }) {
        return err;
    }
    let needs = format!("{} builds on {base}: {}", archive.entry.backup_id, chain(&err));
    EngineError::Damaged { problems: vec![needs] }
}
