//! A backup's archive on its way back: which copy, how it is packed, whether it is what its manifest says.

use crate::base::chain;
use crate::catalog::{Choice, Entry, Origin, StoredCopy};
use crate::component::ComponentError;
use crate::domain::component::ComponentName;
use crate::domain::facts::Facts;
use crate::domain::listing::BackupState;
use crate::domain::manifest::{Manifest, StoredObject};
use crate::domain::progress::Meter;
use crate::domain::report::SkippedBackup;
use crate::engine::uploads::read_all;
use crate::engine::{Engine, EngineError};
use crate::store::{Body, Store, StoreError};
use crate::stream::crypt::{Identities, OpenError, Recipients, decrypt};
use crate::stream::pack::Compression;
use crate::stream::unpack::{HashingReader, Unpacked, unpack};
use std::{io, sync::Arc};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::InspectReader;

/// Bytes that are read at once where they are only hashed.
pub(super) const CHUNK: usize = 256 * 1024;

/// A backup, and the copy of it that is read.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) entry: Entry,
    pub(super) copy: StoredCopy,
    /// The archives that an incremental one builds on, once they are found.
    pub(super) bases: Vec<Archive>,
    store: Arc<dyn Store>,
    compression: Compression,
    encrypted: bool,
    identities: Option<Identities>,
}

impl Archive {
    /// The manifest of the backup; `None` for the app's old files.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        self.entry.manifest()
    }

    /// The facts that the component reported when the backup was made.
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.manifest().map(|manifest| &manifest.facts)
    }

    /// Length and hash that the copy must have.
    fn expected(&self) -> Option<&StoredObject> {
        let copy = &self.copy;
        let here = |object: &&StoredObject| {
            object.destination == copy.destination && object.key == copy.key.to_string()
        };
        self.manifest()?.objects.iter().find(here)
    }

    /// The number of archives that are read side by side to read this one: itself and those that it builds on.
    pub(super) fn readers(&self) -> usize {
        1 + self.bases.len()
    }

    async fn open(&self, readers: usize) -> Result<Body, EngineError> {
        Ok(self.store.open_beside(&self.copy.key, readers).await?)
    }

    /// Reads the copy once, to see whether its bytes are those of the manifest.
    ///
    /// # Errors
    ///
    /// [`EngineError::Damaged`] when they are not.
    pub(super) async fn check(&self, meter: &Meter) -> Result<(), EngineError> {
        meter.begin("check", self.copy.bytes);
        let mut stored = self.reader().await?;
        read_all(&mut stored, meter).await?;
        self.compare(stored)
    }

    /// Returns the number of bytes that passed, and the fault if they are not the whole copy, unchanged.
    pub(super) fn problem(&self, stored: HashingReader<Body>) -> (u64, Option<String>) {
        let (bytes, sha256) = stored.finish();
        let problem = match self.expected() {
            Some(object) if object.bytes != bytes => {
                Some(format!("it should have {} bytes, and has {bytes}", object.bytes))
            }
            Some(object) if object.sha256 != sha256 => {
                Some("its hash is not the one in its manifest".to_owned())
            }
            _ if bytes == 0 => Some("it is empty".to_owned()),
            _ => None,
        };
        (bytes, problem)
    }

    fn compare(&self, stored: HashingReader<Body>) -> Result<(), EngineError> {
        let (_, problem) = self.problem(stored);
        let at = &self.copy.location;
        problem.map_or(Ok(()), |problem| {
            Err(EngineError::Damaged { problems: vec![format!("{at}: {problem}")] })
        })
    }

    /// Opens the copy; what is read is counted and hashed on the way.
    pub(super) async fn reader(&self) -> Result<HashingReader<Body>, EngineError> {
        self.reader_beside(self.readers()).await
    }

    /// Opens the copy as one of `readers` that are read side by side.
    pub(super) async fn reader_beside(&self, readers: usize) -> Result<HashingReader<Body>, EngineError> {
        Ok(HashingReader::new(self.open(readers).await?))
    }

    /// Opens the copy, and counts the bytes that are read on `meter` as well.
    pub(super) async fn metered_reader(&self, meter: &Meter) -> Result<HashingReader<Body>, EngineError> {
        let meter = meter.clone();
        let body =
            InspectReader::new(self.open(self.readers()).await?, move |read| meter.add(read.len() as u64));
        Ok(HashingReader::new(Box::new(body)))
    }

    /// The keys that open the archive, `None` if it is not encrypted.
    ///
    /// # Errors
    ///
    /// [`EngineError::Locked`] when it is encrypted and there is no secret key.
    pub(super) fn keys(&self) -> Result<Option<&Identities>, EngineError> {
        if self.encrypted && self.identities.is_none() {
            return Err(self.locked("set BACKUP_AGE_IDENTITY_FILE to the file with its secret key"));
        }
        Ok(self.identities.as_ref().filter(|_| self.encrypted))
    }

    fn locked(&self, fix: &'static str) -> EngineError {
        EngineError::Locked { id: self.entry.backup_id.clone(), fix }
    }

    /// The contents of the archive as a reader delivers its bytes, decrypted and decompressed.
    ///
    /// # Errors
    ///
    /// [`EngineError::Locked`] without the right key, [`EngineError::Damaged`] where its head is damaged,
    /// [`EngineError::Stream`] where that cannot be read.
    pub(super) async fn unpacked<'a>(
        &self,
        reader: &'a mut HashingReader<Body>,
    ) -> Result<Unpacked<'a>, EngineError> {
        Ok(unpack(self.compression, self.decrypted(reader).await?))
    }

    /// The bytes below the encryption, if there is one.
    async fn decrypted<'a>(&self, reader: &'a mut HashingReader<Body>) -> Result<Unpacked<'a>, EngineError> {
        let Some(keys) = self.keys()? else { return Ok(Box::new(reader)) };
        match decrypt(reader, keys).await {
            Ok(opened) => Ok(opened),
            Err(OpenError::WrongKey) => {
                Err(self
                    .locked("no key in BACKUP_AGE_IDENTITY_FILE opens it: name the file with the right one"))
            }
            Err(OpenError::Read(source)) => Err(EngineError::Stream { what: "read the archive", source }),
            Err(damage) => Err(EngineError::Damaged { problems: vec![chain(&damage)] }),
        }
    }

    /// Returns the same archive with the encryption and compression that its first bytes tell: for an archive without
    /// a manifest, whose name may be wrong about them.
    ///
    /// # Errors
    ///
    /// When the archive cannot be read. An archive that is not there is an error of the later reader.
    pub(super) async fn recognized(mut self) -> Result<Self, EngineError> {
        let mut stored = match self.reader().await {
            Err(EngineError::Store(StoreError::NotFound { .. })) => return Ok(self),
            opened => opened?,
        };
        self.encrypted = Recipients::is_encrypted(&head_of(&mut stored).await?);
        if self.encrypted && self.identities.is_none() {
            return Ok(self); // who opens it says what is missing
        }
        let mut again = self.reader().await?;
        let opened = self.decrypted(&mut again).await;
        match opened {
            Ok(mut opened) => {
                let head = head_of(&mut opened).await;
                drop(opened);
                self.compression = Compression::of_bytes(&head?);
                Ok(self)
            }
            // A later reader gets the same error when it opens the archive.
            Err(EngineError::Locked { .. } | EngineError::Damaged { .. }) => Ok(self),
            Err(err) => Err(err),
        }
    }

    /// The encryption and the compression, in the words of manifests.
    pub(super) fn packing(&self) -> (Option<String>, String) {
        (self.encrypted.then(|| Recipients::NAME.to_owned()), self.compression.to_string())
    }

    /// Reads on to the very end, and compares what passed with the manifest.
    ///
    /// # Errors
    ///
    /// [`EngineError::Damaged`].
    pub(super) async fn finish(&self, mut reader: HashingReader<Body>) -> Result<(), EngineError> {
        read_all(&mut reader, &Meter::default()).await?;
        self.compare(reader)
    }
}

/// As many first bytes as tell formats apart, or all that there are.
async fn head_of(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, EngineError> {
    const ENOUGH: u64 = 32;
    let mut head = Vec::new();
    match reader.take(ENOUGH).read_to_end(&mut head).await {
        Err(err) if err.kind() != io::ErrorKind::InvalidData => {
            Err(EngineError::Stream { what: "read the archive", source: err })
        }
        _ => Ok(head),
    }
}

/// Sorts the error of a component that reads an archive.
pub(super) fn unusable(component: ComponentName, source: ComponentError) -> EngineError {
    match source {
        damage @ ComponentError::Corrupt { .. } => EngineError::Damaged { problems: vec![chain(&damage)] },
        source => EngineError::Component { component, source },
    }
}

/// Reads the rest of a feed; a decoder may stop at its own end of archive.
///
/// # Errors
///
/// [`EngineError::Damaged`] where it cannot be unpacked, [`EngineError::Stream`] where it cannot be read.
pub(super) async fn rest_of(feed: &mut Unpacked<'_>) -> Result<(), EngineError> {
    read_all(feed, &Meter::default()).await.map_err(|err| match err {
        EngineError::Stream { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            EngineError::Damaged {
                problems: vec![format!("archive does not decompress: {}", chain(&source))],
            }
        }
        err => err,
    })
}

impl Engine {
    /// The archives that a reference leads to: every copy that is whole for all we know, the nearest first,
    /// and at least one.
    ///
    /// # Errors
    ///
    /// When there is no such backup, it is of another component, or not to be read by this program.
    pub(super) async fn archives(
        &self,
        component: ComponentName,
        reference: &str,
    ) -> Result<Vec<Archive>, EngineError> {
        self.archives_of(component, self.catalog.find(Some(component), reference).await?).await
    }

    /// Finds the archives of a backup for a restore, and the newer backups that `latest` does not mean.
    ///
    /// # Errors
    ///
    /// As for [`archives`](Self::archives), and when `latest` could only be a backup that is flagged as suspiciously
    /// small.
    pub(super) async fn archives_to_restore(
        &self,
        component: ComponentName,
        reference: &str,
    ) -> Result<(Vec<Archive>, Vec<SkippedBackup>), EngineError> {
        let Choice { entry, passed_over } = self.catalog.choose(component, reference).await?;
        Ok((self.archives_of(component, entry).await?, passed_over))
    }

    async fn archives_of(&self, component: ComponentName, entry: Entry) -> Result<Vec<Archive>, EngineError> {
        let unfit = |what: String| EngineError::Unfit { what };
        if entry.component() != component {
            return Err(unfit(format!("{} is a backup of {}", entry.backup_id, entry.component())));
        }
        let stores = self.catalog.stores();
        let mut copies: Vec<_> = entry.copies.iter().filter(|copy| copy.state == BackupState::Ok).collect();
        copies.sort_by_key(|copy| stores.iter().position(|store| store.destination() == copy.destination));
        if copies.is_empty() {
            return Err(match entry.copies.iter().find(|copy| copy.state == BackupState::Failed) {
                Some(copy) => {
                    // The copy's own bytes may be right.
                    let bases = match entry.builds_on() {
                        [] => "",
                        _ => ", or one that it builds on is not: `rna-backup verify` tells",
                    };
                    let problem = format!("{} is not what its manifest says{bases}", copy.location);
                    EngineError::Damaged { problems: vec![problem] }
                }
                None => unfit(format!("the archive of {} is not there", entry.backup_id)),
            });
        }
        let mut archives = Vec::new();
        for copy in copies {
            archives.push(self.archive_of(entry.clone(), copy.clone()).await?);
        }
        Ok(archives)
    }

    /// The first of [`archives`](Self::archives).
    ///
    /// # Errors
    ///
    /// As for [`archives`](Self::archives).
    pub(super) async fn archive(
        &self,
        component: ComponentName,
        reference: &str,
    ) -> Result<Archive, EngineError> {
        Ok(self.archives(component, reference).await?.swap_remove(0))
    }

    /// The first of some archives whose bytes are those of the manifest, and what is wrong with those before
    /// it: no reason not to restore.
    ///
    /// # Errors
    ///
    /// The error of the last copy.
    pub(super) async fn first_intact(
        &self,
        archives: Vec<Archive>,
        meter: &Meter,
    ) -> Result<(Archive, Vec<String>), EngineError> {
        let (mut warnings, mut left) = (Vec::new(), archives.len());
        for archive in archives {
            left -= 1;
            match archive.check(meter).await {
                Ok(()) => return Ok((archive, warnings)),
                Err(err) if left == 0 => return Err(err),
                Err(err) => {
                    let warning = format!("Another copy was used, since this one is {}.", chain(&err));
                    tracing::warn!("{warning}");
                    warnings.push(warning);
                }
            }
        }
        unreachable!("there is at least one")
    }

    /// One copy of a backup.
    ///
    /// # Errors
    ///
    /// When the backup is not to be read by this program.
    pub(super) async fn archive_of(&self, entry: Entry, copy: StoredCopy) -> Result<Archive, EngineError> {
        let unfit = |what: String| EngineError::Unfit { what };
        let packed = match &entry.origin {
            Origin::Newer(format) => {
                let id = &entry.backup_id;
                return Err(unfit(format!("{id} has manifest format {format}: use a newer rna-backup")));
            }
            Origin::Manifest(manifest)
                if manifest.encryption.as_ref().is_some_and(|encryption| encryption != Recipients::NAME) =>
            {
                return Err(unfit(format!(
                    "{} is encrypted in a way that is not known here",
                    entry.backup_id
                )));
            }
            Origin::Manifest(manifest) => manifest.compression.clone(),
            Origin::Legacy => Compression::of_file(copy.key.file_name()).to_string(),
        };
        let compression = packed.parse().map_err(|_| {
            unfit(format!("{} is packed by {packed}, which is not known here", entry.backup_id))
        })?;
        let store = self.catalog.store(&copy.destination).cloned();
        let store =
            store.ok_or_else(|| unfit(format!("destination {} is not configured", copy.destination)))?;
        let encrypted = entry.manifest().is_some_and(|manifest| manifest.encryption.is_some());
        let identities = self.encryption.identities.clone();
        let is_foreign = entry.manifest().is_none();
        let archive = Archive { entry, copy, bases: Vec::new(), store, compression, encrypted, identities };
        if is_foreign { archive.recognized().await } else { Ok(archive) }
    }
}
