//! The settings that every build knows, so that a misspelled one can be told from one that is read later.

/// One setting: an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Name of the variable.
    pub name: &'static str,
    /// True if the setting's value is a secret, so that `<name>_FILE` may name a file that holds it.
    pub secret: bool,
}

/// A setting that anybody may see.
pub const fn open(name: &'static str) -> Setting {
    Setting { name, secret: false }
}

/// A setting that nobody may see.
pub const fn secret(name: &'static str) -> Setting {
    Setting { name, secret: true }
}

/// Settings of the compose file, which stand in the same file: nothing reads them here, and they are right.
pub const OF_COMPOSE: &[&str] = &["BACKUP_IMAGE", "BACKUP_USER", "BACKUP_VOLUME"];

/// The settings of the public contract but those of destinations, which each kind of store has itself.
///
/// URLs are secrets, for they hold passwords.
pub const KNOWN: &[Setting] = &[
    // Broker and results.
    secret("REDIS_URL"),
    secret("CELERY_BROKER_URL"),
    secret("CELERY_RESULT_BACKEND"),
    open("BACKUP_QUEUES"),
    open("BACKUP_CONCURRENCY"),
    open("BACKUP_WORKER_NAME"),
    open("BACKUP_MAX_RETRIES"),
    open("BACKUP_RETRY_DELAY"),
    open("BACKUP_TIME_LIMIT"),
    open("BACKUP_VISIBILITY_TIMEOUT"),
    open("BACKUP_RESULT_EXPIRES"),
    open("BACKUP_RESULT_EXTENDED"),
    open("BACKUP_BROKER_KEYPREFIX"),
    open("BACKUP_BROKER_PRIORITY_STEPS"),
    open("BACKUP_BROKER_SEP"),
    open("BACKUP_RESULT_KEYPREFIX"),
    open("BACKUP_SENTINEL_MASTER"),
    open("BACKUP_SHUTDOWN_GRACE"),
    open("BACKUP_TASK_EVENTS"),
    // PostgreSQL.
    secret("DATABASE_URL"),
    open("POSTGRES_DB"),
    open("POSTGRES_USER"),
    secret("POSTGRES_PASSWORD"),
    open("POSTGRES_HOST"),
    open("POSTGRES_PORT"),
    open("POSTGRES_SSLMODE"),
    open("POSTGRES_SSLROOTCERT"),
    open("BACKUP_PG_BIN_DIR"),
    open("BACKUP_PG_JOBS"),
    // Weaviate.
    secret("WEAVIATE_URL"),
    secret("WEAVIATE_API_KEY"),
    open("WEAVIATE_TLS_ENABLED"),
    open("WEAVIATE_CLIENT_CERT"),
    open("WEAVIATE_CLIENT_KEY"),
    open("WEAVIATE_CA_CERT"),
    open("BACKUP_WEAVIATE_BACKEND"),
    open("BACKUP_WEAVIATE_DIR"),
    open("BACKUP_WEAVIATE_TIMEOUT"),
    secret("BACKUP_WEAVIATE_DRILL_URL"),
    // Media.
    open("MEDIA_ROOT"),
    open("BACKUP_MEDIA_FULL_EVERY"),
    // Backups: components, retention, compression and encryption.
    open("BACKUP_COMPONENTS"),
    open("BACKUP_ROOT"),
    open("BACKUP_RETENTION_DAYS"),
    open("BACKUP_KEEP_LAST"),
    open("BACKUP_KEEP_WEEKLY"),
    open("BACKUP_KEEP_MONTHLY"),
    open("BACKUP_COMPRESSION"),
    open("BACKUP_AGE_RECIPIENTS"),
    open("BACKUP_AGE_IDENTITY_FILE"),
    // The program itself.
    secret("BACKUP_RESTORE_KEY"),
    open("BACKUP_METRICS_ADDR"),
    open("BACKUP_LOG_FORMAT"),
    open("RUST_LOG"),
];

/// The setting called `name`.
pub(super) fn find<'a>(known: &'a [Setting], name: &str) -> Option<&'a Setting> {
    known.iter().find(|setting| setting.name == name)
}

/// True if `name` is a setting, or the file of a secret one.
pub(super) fn is_known(known: &[Setting], name: &str) -> bool {
    let of_file = || find(known, name.strip_suffix("_FILE")?).filter(|setting| setting.secret);
    find(known, name).or_else(of_file).is_some()
}

/// The known name that is most like `name`, when one is similar at all.
pub(super) fn nearest(known: &[Setting], name: &str) -> Option<&'static str> {
    /// The least likeness, from 0 to 1 as strsim counts it: two slips in a name of twelve letters still match.
    const ALIKE: f64 = 0.8;
    let alike = known.iter().map(|s| (strsim::normalized_damerau_levenshtein(name, s.name), s.name));
    alike.filter(|(how, _)| *how >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}
