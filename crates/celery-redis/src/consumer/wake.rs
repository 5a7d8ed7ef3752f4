//! Announces new messages to a consumer without polling, by the client-side caching of Redis.

use super::super::CeleryError;
use super::super::client::{Client, PushSubscription};
use redis::{PushInfo, PushKind, Value};
use std::sync::Arc;
use tokio::sync::Notify;

/// A connection on which Redis announces every change of the given lists.
///
/// `CLIENT TRACKING` in broadcasting mode sends an invalidation for each change of a key with one of the prefixes,
/// except for changes made over this connection. Source:
/// <https://redis.io/docs/latest/develop/reference/client-side-caching/>.
#[derive(Debug)]
pub(super) struct Wake {
    pub(super) link: Client,
    changed: Arc<Notify>,
}

impl Wake {
    pub(super) fn new(client: &Client, queues: &[String], lists: Vec<String>) -> Result<Self, CeleryError> {
        let changed = Arc::new(Notify::new());
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST").arg("NOLOOP");
        for prefix in apart(queues) {
            track.arg("PREFIX").arg(prefix);
        }
        let notify = Arc::clone(&changed);
        let on_push = move |push: PushInfo| {
            if concerns(&push, &lists) {
                notify.notify_one();
            }
        };
        let link = client.with_pushes(PushSubscription { on_push: Arc::new(on_push), command: track })?;
        Ok(Self { link, changed })
    }

    /// Waits until a list has changed since the last call, or [`wake_up`](Self::wake_up) was called.
    pub(super) async fn heard(&self) {
        self.changed.notified().await;
    }

    pub(super) fn wake_up(&self) {
        self.changed.notify_one();
    }
}

/// Returns the prefixes without those that begin with another prefix: Redis refuses overlaps.
fn apart(prefixes: &[String]) -> Vec<&String> {
    let shorter = |of: &String, at: usize| {
        prefixes.iter().enumerate().any(|(other_at, other)| {
            of.starts_with(other.as_str()) && (other.len() < of.len() || other_at < at)
        })
    };
    prefixes
        .iter()
        .enumerate()
        .filter(|(at, prefix)| !shorter(prefix, *at))
        .map(|(_, prefix)| prefix)
        .collect()
}

/// Returns `true` for a push about one of the lists, a flush of all keys, or the end of the connection.
fn concerns(push: &PushInfo, lists: &[String]) -> bool {
    let ours = |key: &Value| matches!(key, Value::BulkString(key) if lists.iter().any(|list| list.as_bytes() == key));
    match push.kind {
        PushKind::Disconnection => true,
        PushKind::Invalidate => push.data.iter().any(|data| match data {
            Value::Array(keys) => keys.iter().any(ours),
            other => matches!(other, Value::Nil) || ours(other),
        }),
        _ => false,
    }
}

#[test]
fn a_prefix_that_begins_with_another_is_left_out() {
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(apart(&of(&["bulk", "b", "celery", "bulk", "celery"])), ["b", "celery"]);
}
