//! The settings of the whole program: the sum of what its parts want, read once at start.

mod celery;
mod destinations;

use crate::base::env::{ConfigError, Env, Warning};
use crate::base::host_name;
use crate::component::{Registration, Settings, SettingsContext};
use crate::domain::component::ComponentName;
use crate::domain::retention::Policy;
use crate::observe::telemetry::LogFormat;
use crate::store::{Destination, StoreKind, Usage};
use crate::stream::crypt::Encryption;
use crate::stream::pack::Compression;
use crate::worker::Options;

use std::{
    any::Any,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const NUMBER: &str = "a whole number";
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

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
    /// The settings of each component that is configured.
    pub components: Vec<Arc<dyn Settings>>,
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
        let root = env.or("BACKUP_ROOT", PathBuf::from("./backups"));
        let root = std::path::absolute(&root).map_err(|err| env.note("BACKUP_ROOT", err)).ok();
        let mut components = Vec::new();
        for registration in Registration::all() {
            let named = only.as_ref().is_some_and(|only| only.contains(&registration.name));
            let context = SettingsContext { root: root.as_deref().unwrap_or(Path::new("")), named };
            components.extend((registration.read)(env, &context));
        }
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
        let (root, worker) = (root?, worker?);
        Some(Self {
            host,
            root,
            compression,
            policy,
            only,
            components,
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
        self.components.iter().map(|settings| settings.name()).filter(|name| !self.wants(*name)).collect()
    }

    /// The settings of one type, if that component is configured.
    pub fn settings<T: Settings>(&self) -> Option<&T> {
        self.components.iter().find_map(|settings| (&**settings as &dyn Any).downcast_ref())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{postgres::PostgresConfig, weaviate::WeaviateConfig};
    use crate::store::KINDS;

    fn read(vars: &[(&str, &str)]) -> Result<(Config, Vec<Warning>), ConfigError> {
        Config::from_env(Env::new(vars.iter().copied()), KINDS, true)
    }

    #[test]
    fn without_any_setting_the_defaults_of_the_contract_hold() {
        let (config, warnings) = read(&[]).unwrap();
        assert!(config.components.is_empty());
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
        assert_eq!(config.settings::<PostgresConfig>().unwrap().database, "lab");
        assert_eq!(config.settings::<WeaviateConfig>().unwrap().server.to_string(), "weaviate:8080");
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
        assert_eq!(config.settings::<WeaviateConfig>().unwrap().timeout, 6 * HOUR);
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
