//! The kinds of components: one row each, with everything outside a component's own folder that differs by component.

use std::sync::OnceLock;

/// The names and rules that belong to one component.
#[derive(Debug)]
pub struct ComponentKind {
    /// The name in stores, metrics, results and on the command line.
    pub name: &'static str,
    /// The prefix of the ids of the component's backups, as the app's old files had it.
    pub file_prefix: &'static str,
    /// The extension of an archive before compression adds its own.
    pub extension: &'static str,
    /// The setting that makes the component a configured one.
    pub setting: &'static str,
    /// The setting that holds the address of the data.
    pub address_setting: &'static str,
    /// The server that has the data, or what stands for one, for people.
    pub server: &'static str,
    /// The advice for refused credentials, and the setting that holds the secret; `None`: there are none.
    pub credentials: Option<(&'static str, &'static str)>,
    /// The Celery task that orders a backup.
    pub backup_task: &'static str,
    /// The Celery task that orders a restore.
    pub restore_task: &'static str,
    /// The parameters of that task, in their order.
    pub restore_parameters: &'static [(&'static str, RestoreParameter)],
    /// The key of the address in results; `None`: results do not have it.
    pub address_key: Option<&'static str>,
    /// True if results hold the id and the path once more, as `backup_name` and `location`.
    pub repeats_id: bool,
    /// The backups that the app's old tasks have left; `None`: there were none.
    pub legacy: Option<LegacyBackup>,
    /// True if restores may go on without owners, privileges and single objects.
    pub restores_in_part: bool,
    /// True if the data holds the tables of the catalogue, which a restore then puts others in the place of.
    pub holds_catalog: bool,
}

/// The part of an order to restore that a parameter of a task sets.
#[derive(Debug, Clone, Copy)]
pub enum RestoreParameter {
    /// The backup, which cannot be left out.
    Backup,
    /// The path of the backup, in the place of its name.
    BackupPath,
    /// Names of objects that may be missing afterwards.
    Without,
    /// True if owners and privileges may be lost.
    WithoutRights,
    /// An option of the target that has one text.
    Text(&'static str),
    /// An option of the target that has names.
    Names(&'static str),
    /// An option of the target that is given or not.
    Flag(&'static str),
}

/// A backup of the app's old tasks, by its name after its id.
#[derive(Debug, Clone, Copy)]
pub enum LegacyBackup {
    /// A file with this extension.
    File(&'static str),
    /// A folder that the component's own server wrote.
    Folder,
}

/// The kinds of this program's components, in the order in which a full backup dispatches them: another component is
/// another row.
static KINDS: [ComponentKind; 3] = [POSTGRES, WEAVIATE, MEDIA];

/// The kind that another program has added.
static ADDED: OnceLock<&'static ComponentKind> = OnceLock::new();

/// Every kind.
pub(super) fn all() -> impl Iterator<Item = &'static ComponentKind> {
    KINDS.iter().chain(ADDED.get().copied())
}

/// Adds the kind of a component that another program brings: once, before anything else of this library is used.
pub fn add(kind: &'static ComponentKind) {
    assert!(ADDED.set(kind).is_ok(), "a program brings one component");
}

/// The app's PostgreSQL database.
pub const POSTGRES: ComponentKind = ComponentKind {
    name: "postgres",
    file_prefix: "pg_backup_",
    extension: "dump",
    setting: "DATABASE_URL (or POSTGRES_DB)",
    address_setting: "DATABASE_URL (or POSTGRES_HOST, POSTGRES_PORT)",
    server: "PostgreSQL",
    credentials: Some((
        "correct user and password in DATABASE_URL (or POSTGRES_USER, POSTGRES_PASSWORD)",
        "POSTGRES_PASSWORD",
    )),
    backup_task: "api.backup.tasks.backup_postgres_database",
    restore_task: "api.backup.restore.restore_postgres_from_backup",
    restore_parameters: &[
        ("backup_path", RestoreParameter::Backup),
        ("database_name", RestoreParameter::Text("database")),
        ("without", RestoreParameter::Without),
        ("without_rights", RestoreParameter::WithoutRights),
    ],
    address_key: Some("database"),
    repeats_id: false,
    legacy: Some(LegacyBackup::File(".sql")),
    restores_in_part: true,
    holds_catalog: true,
};

/// The vector database.
pub const WEAVIATE: ComponentKind = ComponentKind {
    name: "weaviate",
    file_prefix: "weaviate_backup_",
    extension: "tar",
    setting: "WEAVIATE_URL",
    address_setting: "WEAVIATE_URL",
    server: "Weaviate",
    credentials: Some((
        "correct WEAVIATE_API_KEY, or leave it empty where the server knows no keys",
        "WEAVIATE_API_KEY",
    )),
    backup_task: "api.backup.tasks.backup_weaviate_database",
    restore_task: "api.backup.restore.restore_weaviate_from_backup",
    restore_parameters: &[
        ("backup_name", RestoreParameter::Backup),
        ("backup_path", RestoreParameter::BackupPath),
        ("include", RestoreParameter::Names("include")),
        ("with_access", RestoreParameter::Flag("with-access")),
    ],
    address_key: None,
    repeats_id: true,
    legacy: Some(LegacyBackup::Folder),
    restores_in_part: false,
    holds_catalog: false,
};

/// The media folder.
pub const MEDIA: ComponentKind = ComponentKind {
    name: "media",
    file_prefix: "media_backup_",
    extension: "tar",
    setting: "MEDIA_ROOT",
    address_setting: "MEDIA_ROOT",
    server: "the folder's file system",
    credentials: None,
    backup_task: "api.backup.tasks.backup_media_files",
    restore_task: "api.backup.restore.restore_media_files",
    restore_parameters: &[("backup_path", RestoreParameter::Backup)],
    address_key: Some("media_dir"),
    repeats_id: false,
    legacy: Some(LegacyBackup::File(".tar.gz")),
    restores_in_part: false,
    holds_catalog: false,
};
