//! A worker's description of itself for `celery inspect`.

use crate::celery::node::About;
use crate::worker::Options;
use serde_json::{Value, json};

/// The name of this program in Redis: the namespace of its keys, and the library of its connections.
///
/// Two versions in one fleet share the keys, so the name stays as it is.
pub(crate) const SOFTWARE: &str = "rna-backup";

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Returns the worker's settings under Celery's names. Addresses are without user and password.
pub(super) fn node_info(options: &Options) -> About {
    let conf = json!({
        "accept_content": ["json"],
        "broker_transport_options": {
            "global_keyprefix": options.broker_prefix,
            "priority_steps": options.priorities.steps,
            "sep": options.priorities.sep,
            "visibility_timeout": options.visibility_timeout.as_secs(),
        },
        "broker_url": options.broker.to_string(),
        "enable_utc": true,
        "result_backend": options.backend.to_string(),
        "result_backend_transport_options": {"global_keyprefix": options.result_prefix},
        "result_extended": options.result_extended,
        "result_expires": options.result_expires.as_secs(),
        "result_serializer": "json",
        "task_acks_late": true,
        "task_default_retry_delay": options.retry_delay.as_secs(),
        "task_max_retries": options.max_retries,
        "task_serializer": "json",
        "task_time_limit": options.time_limit.map(|limit| limit.as_secs_f64()),
        "task_track_started": true,
        "timezone": "UTC",
        "worker_concurrency": options.concurrency,
        "worker_queues": options.queues,
        "worker_send_task_events": options.task_events,
    });
    let Value::Object(conf) = conf else { unreachable!("it is written as an object") };
    About { software: SOFTWARE, version: VERSION, name_example: Some("BACKUP_WORKER_NAME=backup@%h"), conf }
}
