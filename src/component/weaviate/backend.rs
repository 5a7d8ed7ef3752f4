//! The backend of a server's backups: chosen by the modules that the server has enabled and the files that we can see.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::Weaviate;
use crate::component::weaviate::config::BackendSetting;
use crate::component::weaviate::files::Files;
use crate::component::weaviate::folder::{Folder, is_closed};
use crate::component::weaviate::index::BackupBackend;
use crate::component::weaviate::server::Server;
use serde_json::Value;
use std::{fs, sync::Arc};

impl Weaviate {
    /// The backend of the next backup, and a warning if that is not the best one.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when the backend of the setting cannot be used; the text tells what to do.
    pub(super) async fn choose_backend(
        &self,
        server: &Server,
    ) -> Result<(BackupBackend, Option<String>), ComponentError> {
        let (folder, bucket) = (self.open_folder(server).await, self.files(server, BackupBackend::S3));
        let open = |backend, files: Result<Files, ComponentError>| files.map(|_| (backend, None));
        match self.config.backend {
            BackendSetting::Filesystem => open(BackupBackend::Filesystem, folder),
            BackendSetting::S3 => open(BackupBackend::S3, bucket),
            BackendSetting::Export => Ok((BackupBackend::Export, None)),
            BackendSetting::Auto if bucket.is_ok() => open(BackupBackend::S3, bucket),
            BackendSetting::Auto if folder.is_ok() => open(BackupBackend::Filesystem, folder),
            BackendSetting::Auto => {
                let why = match (server.modules.contains_key(&module(BackupBackend::Filesystem)), folder) {
                    (true, Err(err)) => chain(&err),
                    _ => enable(BackupBackend::Filesystem),
                };
                Ok((BackupBackend::Export, Some(exported_because(&why))))
            }
        }
    }

    /// The folder that Weaviate writes to, where this process may make and remove folders.
    async fn open_folder(&self, server: &Server) -> Result<Files, ComponentError> {
        let files = self.files(server, BackupBackend::Filesystem)?;
        if let Files::Folder(folder) = &files {
            folder.probe().await?;
            folder.look_for_evidence().await?;
        }
        Ok(files)
    }

    /// The warning of an export that replaces a failed backup by the server; `None` where only people can help. By
    /// `auto`, a folder that turns out to be closed is replaced by an export.
    pub(super) fn may_export(&self, err: &ComponentError) -> Option<String> {
        (self.config.backend == BackendSetting::Auto && is_closed(err)).then(|| exported_because(&chain(err)))
    }

    /// The files of the backups that the server makes with that backend.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when it does not, or we cannot see them; the text says what to do.
    pub(super) fn files(&self, server: &Server, backend: BackupBackend) -> Result<Files, ComponentError> {
        let Some(module) = server.modules.get(&module(backend)) else {
            let (module, enable) = (module(backend), enable(backend));
            return Err(unusable(format!("back up by Weaviate's module {module}: {enable}")));
        };
        if backend == BackupBackend::S3 { self.bucket_of(module) } else { self.folder_of(module) }
    }

    fn bucket_of(&self, module: &Value) -> Result<Files, ComponentError> {
        let Some(bucket_folder) = &self.bucket_folder else {
            return Err(unusable(
                "back up by Weaviate's module backup-s3: set AWS_BACKUP_BUCKET to its bucket, to read what it writes"
                    .to_owned(),
            ));
        };
        let text = |name: &str| module[name].as_str().unwrap_or_default().trim_matches('/').to_owned();
        let (bucket, prefix) = (text("bucketName"), text("rootName"));
        let (wanted, below) = (bucket_folder.bucket(), bucket_folder.prefix());
        if (bucket.as_str(), prefix.as_str()) == (wanted, below.as_str()) {
            return Ok(Files::Bucket(Arc::clone(bucket_folder)));
        }
        Err(unusable(format!(
            "back up by Weaviate's module backup-s3: it writes to s3://{bucket}/{prefix}, and should to \
             s3://{wanted}/{below}: set its BACKUP_S3_BUCKET={wanted} and BACKUP_S3_PATH={below}"
        )))
    }

    fn folder_of(&self, module: &Value) -> Result<Files, ComponentError> {
        let path = module["backupsPath"].as_str().unwrap_or("its BACKUP_FILESYSTEM_PATH");
        let Some(dir) = &self.config.dir else {
            return Err(unusable(format!(
                "find what Weaviate writes to {path}: mount that volume and set BACKUP_WEAVIATE_DIR to it"
            )));
        };
        if fs::metadata(dir).is_ok_and(|found| found.is_dir()) {
            return Ok(Files::Folder(Folder::new(dir.clone(), path.to_owned())));
        }
        Err(unusable(format!(
            "find what Weaviate writes to {path}: BACKUP_WEAVIATE_DIR {} is no folder, mount that volume there",
            dir.display()
        )))
    }
}

fn exported_because(why: &str) -> String {
    format!(
        "Weaviate has no backup module that could be used, so every object is read by itself, which takes longer \
         and leaves its indexes out: {why}, or set BACKUP_WEAVIATE_BACKEND=export if that is meant"
    )
}

/// The lines for Weaviate's environment, so that it can back itself up.
fn enable(backend: BackupBackend) -> String {
    let module = module(backend);
    match backend {
        BackupBackend::S3 => format!(
            "add {module} to ENABLE_MODULES of Weaviate, and set its BACKUP_S3_BUCKET and BACKUP_S3_PATH to where \
             AWS_BACKUP_BUCKET is"
        ),
        _ => format!(
            "add {module} to ENABLE_MODULES of Weaviate, set its \
             BACKUP_FILESYSTEM_PATH=/var/lib/weaviate/backups, and mount that folder in rna-backup as \
             BACKUP_WEAVIATE_DIR"
        ),
    }
}

fn unusable(what: String) -> ComponentError {
    ComponentError::Unusable { what, source: None }
}

fn module(backend: BackupBackend) -> String {
    format!("backup-{}", backend.as_str())
}
