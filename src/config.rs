//! The settings of the whole program: the sum of what its parts want, read once at start.

mod celery;
mod destinations;
mod weaviate;

use crate::base::env::{ConfigError, Env, Warning};
use crate::base::host_name;
use crate::component::media::{Increments, MediaConfig};
use crate::component::postgres::PostgresConfig;
use crate::component::weaviate::WeaviateConfig;
use crate::domain::component::ComponentName;
use crate::domain::retention::Policy;
use crate::observe::telemetry::LogFormat;
use crate::store::{Destination, StoreKind, Usage};
use crate::stream::crypt::Encryption;
use crate::stream::pack::Compression;
use crate::worker::Options;
use secrecy::ExposeSecret;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const NUMBER: &str = "a whole number";
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(7 * 24);

/// The settings of the program.
#[derive(Debug, Clone)]
pub struct Config {
    /// Host name of this machine, for manifests, locks and the node name.
    pub host: String,
    /// `BACKUP_ROOT`, absolute.
    pub root: PathBuf,
    /// `BACKUP_COMPRESSION`.
    pub compression: Compression,
    /// `BACKUP_RETENTION_DAYS` and `BACKUP_KEEP_*`.
    pub policy: Policy,
    /// `BACKUP_COMPONENTS`; `None`: all that are configured.
    pub only: Option<Vec<ComponentName>>,
    /// The app's database, if it is configured.
    pub postgres: Option<PostgresConfig>,
    /// The media folder, if it is configured.
    pub media: Option<MediaConfig>,
    /// The vector database, if it is configured.
    pub weaviate: Option<WeaviateConfig>,
    /// The kinds of stores that there are.
    pub kinds: Vec<&'static StoreKind>,
    /// The destinations of backups, the nearest first.
    pub destinations: Vec<Arc<dyn Destination>>,
    /// The keys that encrypt and open archives.
    pub encryption: Encryption,
    /// The Celery side.
    pub worker: Options,
    /// `BACKUP_METRICS_ADDR`.
    pub metrics_addr: SocketAddr,
    /// `BACKUP_LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `RUST_LOG`; unset: what suits the command.
    pub log_filter: Option<String>,
}

impl Config {
    /// Reads every setting before it complains about any. For a command that needs no broker, a wrong setting of the
    /// broker and of its tasks is a warning: such a command works on a day when Redis is gone. `kinds` are the kinds of
    /// stores that a destination may be, the nearest first.
    ///
    /// # Errors
    ///
    /// All problems at once, by name, never with a value.
    pub fn from_env(
        mut env: Env,
        kinds: &[&'static StoreKind],
        needs_broker: bool,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        for kind in kinds {
            env.know(kind.settings);
        }
        let config = Self::read(&mut env, kinds, needs_broker);
        env.finish(config)
    }

    fn read(env: &mut Env, kinds: &[&'static StoreKind], needs_broker: bool) -> Option<Self> {
        let host = host_name();
        let only: Option<Vec<ComponentName>> = env.list("BACKUP_COMPONENTS");
        let named = |name| only.as_ref().is_some_and(|only| only.contains(&name));
        let postgres = read_postgres(env, named(ComponentName::Postgres));
        let mut media = env.optional::<PathBuf>("MEDIA_ROOT").map(MediaConfig::full);
        let full_every = env.duration("BACKUP_MEDIA_FULL_EVERY", WEEK);
        for (name, setting) in
            [(ComponentName::Media, "MEDIA_ROOT"), (ComponentName::Weaviate, "WEAVIATE_URL")]
        {
            if named(name) && !env.is_set(setting) {
                env.note(name.setting(), format_args!("is required, because BACKUP_COMPONENTS names {name}"));
            }
        }
        let root = env.or("BACKUP_ROOT", PathBuf::from("./backups"));
        let root = std::path::absolute(&root).map_err(|err| env.note("BACKUP_ROOT", err)).ok();
        if let (Some(root), Some(media)) = (&root, &media) {
            keep_apart(env, root, &media.root);
        }
        let weaviate = weaviate::read(env, root.as_deref().unwrap_or(Path::new("")));
        let policy = Policy {
            days: env.of_kind("BACKUP_RETENTION_DAYS", "a whole number of days", 7),
            last: env.of_kind("BACKUP_KEEP_LAST", NUMBER, 1),
            weekly: env.of_kind("BACKUP_KEEP_WEEKLY", NUMBER, 0),
            monthly: env.of_kind("BACKUP_KEEP_MONTHLY", NUMBER, 0),
        };
        let compression = env.or("BACKUP_COMPRESSION", Compression::default());
        let worker = read_worker(env, &host, root.as_deref().unwrap_or(Path::new("")), needs_broker);
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9188));
        let metrics_addr =
            env.of_kind("BACKUP_METRICS_ADDR", "an address with a port, such as 0.0.0.0:9188", everywhere);
        let (log_format, log_filter) =
            (env.or("BACKUP_LOG_FORMAT", LogFormat::default()), env.optional("RUST_LOG"));
        let destinations = destinations::read(env, kinds, root.as_deref());
        let encryption = destinations::read_encryption(env);
        // All is read by now: what is missing here was noted above.
        let (root, mut postgres, worker) = (root?, postgres?, worker?);
        if let Some(postgres) = &mut postgres {
            postgres.scratch = Some(root.clone());
        }
        if let Some(media) = &mut media {
            let state = root.join(".media");
            media.drills = Some(state.join("drills"));
            media.increments = (!full_every.is_zero()).then_some(Increments { full_every, state });
        }
        Some(Self {
            host,
            root,
            compression,
            policy,
            only,
            postgres,
            media,
            weaviate,
            kinds: kinds.to_vec(),
            destinations,
            encryption,
            worker,
            metrics_addr,
            log_format,
            log_filter,
        })
    }

    /// True if `BACKUP_COMPONENTS` lets the component be backed up.
    pub fn wants(&self, name: ComponentName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&name))
    }

    /// True if `BACKUP_ROOT` keeps a backup only until a copy elsewhere is proven.
    pub fn cleanup_local(&self) -> bool {
        self.destinations.iter().any(|destination| destination.usage() == Usage::Stages)
    }

    /// Components that have settings but that `BACKUP_COMPONENTS` does not name.
    pub fn left_out(&self) -> Vec<ComponentName> {
        let configured = |name: &ComponentName| match name {
            ComponentName::Postgres => self.postgres.is_some(),
            ComponentName::Media => self.media.is_some(),
            ComponentName::Weaviate => self.weaviate.is_some(),
        };
        ComponentName::ALL.into_iter().filter(|name| configured(name) && !self.wants(*name)).collect()
    }
}

/// The settings of the worker; the defaults, where they are wrong and the command needs no broker.
fn read_worker(env: &mut Env, host: &str, root: &Path, needs_broker: bool) -> Option<Options> {
    if needs_broker {
        return celery::read_worker(env, host, root);
    }
    let read = env.unneeded(|env| celery::read_worker(env, host, root));
    read.or_else(|| celery::read_worker(&mut Env::new([("", ""); 0]), host, root))
}

/// `None` outside: wrong; `None` inside: not configured.
#[expect(clippy::option_option, reason = "wrong and absent are not the same")]
fn read_postgres(env: &mut Env, named: bool) -> Option<Option<PostgresConfig>> {
    let parts = ["POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_HOST"];
    let url = env.secret("DATABASE_URL");
    let configured = named || env.is_set("DATABASE_URL") || parts.iter().any(|name| env.is_set(name));
    let mut config = match &url {
        Some(url) => match PostgresConfig::from_url(url.expose_secret()) {
            Ok(config) => Some(config),
            Err(err) => {
                env.note("DATABASE_URL", err);
                None
            }
        },
        None => Some(PostgresConfig {
            host: env.or("POSTGRES_HOST", "localhost".to_owned()),
            port: env.of_kind("POSTGRES_PORT", "a port number", 5432),
            user: env.or("POSTGRES_USER", "postgres".to_owned()),
            password: env.secret("POSTGRES_PASSWORD"),
            database: env.or("POSTGRES_DB", "rna_db".to_owned()),
            ..PostgresConfig::default()
        }),
    };
    let (sslmode, sslrootcert) = (env.optional("POSTGRES_SSLMODE"), env.optional("POSTGRES_SSLROOTCERT"));
    let bin_dir = env.optional("BACKUP_PG_BIN_DIR");
    let jobs = env.of_kind("BACKUP_PG_JOBS", NUMBER, PostgresConfig::default().jobs);
    if jobs == 0 {
        env.note("BACKUP_PG_JOBS", "must be at least 1");
    }
    if let Some(config) = &mut config {
        config.jobs = jobs;
        config.sslmode = sslmode.unwrap_or(config.sslmode);
        config.sslrootcert = sslrootcert.or(config.sslrootcert.take());
        config.bin_dir = bin_dir;
    }
    if configured { config.map(Some) } else { Some(None) }
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
    let ours = ComponentName::ALL.map(ComponentName::as_str).into_iter().chain(["manifests"]);
    if ours.into_iter().any(|folder| media.starts_with(root.join(folder))) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KINDS;

    fn read(vars: &[(&str, &str)]) -> Result<(Config, Vec<Warning>), ConfigError> {
        Config::from_env(Env::new(vars.iter().copied()), KINDS, true)
    }

    #[test]
    fn without_any_setting_the_defaults_of_the_contract_hold() {
        let (config, warnings) = read(&[]).unwrap();
        assert!(config.postgres.is_none() && config.media.is_none() && config.weaviate.is_none());
        assert_eq!(config.worker.queues, ["backups"]);
        assert_eq!(config.worker.node, format!("backup@{}", config.host));
        assert_eq!((config.worker.max_retries, config.worker.retry_delay), (3, 5 * MINUTE));
        assert_eq!(config.policy, Policy { days: 7, last: 1, weekly: 0, monthly: 0 });
        assert_eq!(warnings, []);
    }

    #[test]
    fn the_apps_env_file_serves_as_it_is() {
        let (config, _) = read(&[
            ("DATABASE_URL", ""),
            ("POSTGRES_DB", "lab"),
            ("POSTGRES_PASSWORD", "s3cret"),
            ("MEDIA_ROOT", "/app/media"),
            ("REDIS_URL", "redis://:pw@redis:6379/0"),
            ("AWS_BACKUP_BUCKET", ""),
            ("BACKUP_CLEANUP_LOCAL", "False"),
            ("WEAVIATE_URL", "http://weaviate:8080"),
        ])
        .unwrap();
        assert_eq!(config.postgres.as_ref().unwrap().database, "lab");
        assert_eq!(config.weaviate.as_ref().unwrap().server.to_string(), "weaviate:8080");
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3cret") && !shown.contains(":pw@"), "{shown}");
    }

    #[test]
    fn what_is_wrong_with_weaviate_is_told_without_its_secrets() {
        let url = ("WEAVIATE_URL", "http://weaviate:8080");
        for (setting, words) in [
            (("WEAVIATE_URL", "http://me:hunter2@weaviate"), "WEAVIATE_URL"),
            (("BACKUP_WEAVIATE_BACKEND", "gcs"), "must be auto, filesystem, s3 or export"),
            (("BACKUP_WEAVIATE_DRILL_URL", "http://weaviate:8080"), "name a second server"),
            (("WEAVIATE_CLIENT_CERT", "/c.pem"), "WEAVIATE_CLIENT_KEY"),
        ] {
            let err = read(&[url, setting]).unwrap_err().to_string();
            assert!(err.contains(words) && !err.contains("hunter2"), "{err}");
        }
        let (config, _) =
            read(&[url, ("WEAVIATE_TLS_ENABLED", "True"), ("WEAVIATE_API_KEY", "hunter2")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.weaviate.unwrap().timeout, 6 * HOUR);
    }

    #[test]
    fn a_sentinel_url_wants_the_name_of_its_master() {
        let url = ("REDIS_URL", "sentinel://:hunter2@s1:26379/0;sentinel://s2:26379/0");
        let err = read(&[url]).unwrap_err();
        assert!(err.problems.iter().all(|problem| problem.name == "BACKUP_SENTINEL_MASTER"), "{err}");
        assert!(!err.to_string().contains("hunter2"), "{err}");
        let (config, _) = read(&[url, ("BACKUP_SENTINEL_MASTER", "lab")]).unwrap();
        assert_eq!(config.worker.broker.to_string(), "lab of sentinel://s1:26379,s2:26379/0");
    }

    #[test]
    fn a_wrong_setting_of_the_broker_stops_no_command_that_needs_none() {
        let vars =
            [("CELERY_RESULT_BACKEND", "django-db"), ("BACKUP_CONCURRENCY", "0"), ("BACKUP_KEEP_LAST", "3")];
        let err = read(&vars).unwrap_err();
        assert_eq!(err.problems.len(), 2, "{err}");
        assert!(err.to_string().contains("begins with none of redis://"), "{err}");
        let (config, warnings) = Config::from_env(Env::new(vars), KINDS, false).unwrap();
        assert_eq!(config.policy.last, 3);
        let names: Vec<_> = warnings.iter().map(|warning| &*warning.name).collect();
        assert_eq!(names, ["CELERY_RESULT_BACKEND", "BACKUP_CONCURRENCY"]);
        Config::from_env(Env::new([("BACKUP_KEEP_LAST", "x")]), KINDS, false).unwrap_err();
    }

    #[test]
    fn all_problems_come_at_once_and_without_values() {
        let err = read(&[
            ("REDIS_URL", "http://:hunter2@redis"),
            ("BACKUP_CONCURRENCY", "0"),
            ("BACKUP_COMPRESSION", "brotli"),
            ("MEDIA_ROOT", "/srv/media"),
            ("BACKUP_ROOT", "/srv/media/backups"),
            ("BACKUP_AGE_RECIPIENTS", "age1qqq"),
            ("BACKUP_COMPONENTS", "media,redis"),
        ])
        .unwrap_err();
        let names: Vec<_> = err.problems.iter().map(|problem| problem.name.as_str()).collect();
        for name in [
            "REDIS_URL",
            "BACKUP_CONCURRENCY",
            "BACKUP_COMPRESSION",
            "BACKUP_ROOT",
            "BACKUP_AGE_RECIPIENTS",
            "BACKUP_COMPONENTS",
        ] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        assert!(!err.to_string().contains("hunter2"), "{err}");
    }
}
