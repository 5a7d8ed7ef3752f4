//! The Celery side.

use super::{DAY, HOUR, MINUTE, NUMBER};
use crate::base::env::Env;
use crate::celery::client::ConnectOptions;
use crate::celery::keys::Priorities;
use crate::worker::{Options, SOFTWARE, VERSION};
use secrecy::ExposeSecret;
use std::{path::Path, time::Duration};

pub(super) fn read_worker(env: &mut Env, host: &str, root: &Path) -> Option<Options> {
    let common = env.secret("REDIS_URL").unwrap_or_else(|| "redis://localhost:6379".into());
    let master: Option<String> = env.optional("BACKUP_SENTINEL_MASTER");
    let mut connect = |name: &str| {
        let (from, url) = env.secret(name).map_or(("REDIS_URL", common.clone()), |url| (name, url));
        if master.is_none() && ConnectOptions::needs_master(url.expose_secret()) {
            env.note("BACKUP_SENTINEL_MASTER", format_args!("is required, because {from} is sentinel://"));
            return None;
        }
        ConnectOptions::parse_with(url.expose_secret(), master.as_deref())
            .map(|options| options.with_library(SOFTWARE, VERSION))
            .map_err(|err| env.note(from, crate::base::chain(&err)))
            .ok()
    };
    let (broker, backend) = (connect("CELERY_BROKER_URL"), connect("CELERY_RESULT_BACKEND"));
    let concurrency = env.of_kind("BACKUP_CONCURRENCY", NUMBER, 2_usize);
    if concurrency == 0 {
        env.note("BACKUP_CONCURRENCY", "must be at least 1");
    }
    let node = env.optional::<String>("BACKUP_WORKER_NAME").unwrap_or_else(|| "backup".to_owned());
    let node = if node.contains('@') { node } else { format!("{node}@{host}") };
    let visibility_timeout = env.duration("BACKUP_VISIBILITY_TIMEOUT", HOUR);
    if visibility_timeout.is_zero() {
        env.note(
            "BACKUP_VISIBILITY_TIMEOUT",
            "must be more than 0: what others work on would be taken from them",
        );
    }
    let options = Options {
        node: formatted(&node, host),
        queues: env.list("BACKUP_QUEUES").unwrap_or_else(|| vec!["backups".to_owned()]),
        concurrency,
        max_retries: env.of_kind("BACKUP_MAX_RETRIES", NUMBER, 3),
        retry_delay: env.duration("BACKUP_RETRY_DELAY", 5 * MINUTE),
        restore_key: env.secret("BACKUP_RESTORE_KEY"),
        orders: root.join(".orders"),
        grace: env.duration("BACKUP_SHUTDOWN_GRACE", MINUTE / 2),
        broker_prefix: env.or("BACKUP_BROKER_KEYPREFIX", String::new()),
        priorities: priorities(env),
        result_prefix: env.or("BACKUP_RESULT_KEYPREFIX", String::new()),
        result_expires: env.duration("BACKUP_RESULT_EXPIRES", DAY),
        visibility_timeout,
        time_limit: Some(env.duration("BACKUP_TIME_LIMIT", Duration::ZERO)).filter(|limit| !limit.is_zero()),
        result_extended: env.flag("BACKUP_RESULT_EXTENDED", false),
        task_events: env.flag("BACKUP_TASK_EVENTS", false),
        broker: broker?,
        backend: backend?,
    };
    Some(options)
}

/// `priority_steps` and `sep` of the app's broker transport options, as kombu has them by default.
fn priorities(env: &mut Env) -> Priorities {
    const STEPS: &str = "BACKUP_BROKER_PRIORITY_STEPS";
    let usual = Priorities::default();
    let steps = env.list(STEPS).unwrap_or(usual.steps);
    if steps.is_empty() || !steps.is_sorted_by(|a, b| a < b) {
        env.note(STEPS, "must be numbers from 0 to 255, each greater than the one before, as 0,3,6,9");
    }
    Priorities { steps, sep: env.or("BACKUP_BROKER_SEP", usual.sep) }
}

/// A node name with the names of the machine in the place of `%h` (all of it), `%n` (before its first dot) and `%d`
/// (its domain), as `celery.utils.nodenames.host_format` has it.
fn formatted(node: &str, host: &str) -> String {
    let (name, domain) = host.split_once('.').unwrap_or((host, ""));
    node.replace("%h", host).replace("%n", name).replace("%d", domain)
}

#[test]
fn a_node_name_takes_in_the_names_of_its_machine() {
    for (node, host, formatted_as) in [
        ("backup@%h", "nas.lab.example", "backup@nas.lab.example"),
        ("%n@%d", "nas.lab.example", "nas@lab.example"),
        ("backup-%n@%d", "f00dcafe1234", "backup-f00dcafe1234@"),
        ("backup@rna-backup", "nas", "backup@rna-backup"),
    ] {
        assert_eq!(formatted(node, host), formatted_as);
    }
}
