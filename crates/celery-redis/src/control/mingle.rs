//! Mingling: the exchange of revoked ids and clocks with the other workers, at the start of each worker.
//!
//! Source: `celery/worker/consumer/mingle.py`.

use super::super::CeleryError;
use super::super::node::Node;
use super::super::publish::transient;
use super::Mailbox;
use super::arguments::{Arguments, truthy};
use super::panel::Outcome;
use super::reply::EXCHANGE;
use super::request::ControlBody;
use redis::FromRedisValue;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use uuid::Uuid;

/// The time limit of the replies, the same as Celery's.
const PATIENCE: Duration = Duration::from_secs(1);

impl Mailbox {
    /// Asks the other workers for their revoked ids. Returns when all workers have replied, after a
    /// second at the latest, and at once if there are no other workers.
    ///
    /// From the return of this method on, requests are received; [`run`](Self::run) then answers them. So call this
    /// method before the first task is taken: no task is then run that is revoked meanwhile. Without Redis the method
    /// returns as soon as the connection fails, without any ids, and [`run`](Self::run) listens once Redis is
    /// available.
    pub async fn mingle(&self) {
        match self.exchange().await {
            Ok(0) => tracing::debug!("mingle: all alone"),
            Ok(nodes) => tracing::info!(nodes, "mingle: sync complete"),
            Err(error) => tracing::debug!(%error, "mingle failed"),
        }
    }

    async fn exchange(&self) -> Result<usize, CeleryError> {
        let Some(subscription) = &self.subscription else { return Ok(0) };
        subscription.link.ping().await?;
        let oid = Uuid::new_v4().to_string();
        let binding = self.keys.binding(EXCHANGE);
        let (list, member) = (self.keys.replies(&oid), self.keys.reply_member(&oid));
        let outcome = self.greet_all(&oid, &binding, &member, &list).await;
        let mut tidy = redis::pipe();
        tidy.atomic().srem(&binding, &member).del(&list);
        let tidy = &tidy;
        let tidied = |mut link| async move { tidy.query_async::<()>(&mut link).await };
        self.client.once("leave the mingle", tidied).await?;
        outcome
    }

    /// Sends `hello` and reads the replies. Returns the number of replies.
    async fn greet_all(
        &self,
        oid: &str,
        binding: &str,
        member: &str,
        list: &str,
    ) -> Result<usize, CeleryError> {
        let deadline = Instant::now() + PATIENCE;
        let hello = self.hello(oid);
        let mut pipe = redis::pipe();
        pipe.sadd(binding, member).ignore();
        let channels = self.keys.control_channels(&self.client);
        for channel in &channels {
            pipe.publish(channel, &hello);
        }
        let pipe = &pipe;
        let heard: Vec<usize> = self
            .client
            .once("say hello", |mut link| async move { pipe.query_async(&mut link).await })
            .await?;
        // The subscription of this worker counts as a receiver too.
        let own =
            if self.subscription.as_ref().is_some_and(|subscription| subscription.link.refusal().is_none()) {
                channels.len()
            } else {
                0
            };
        let others = heard.iter().sum::<usize>().saturating_sub(own);
        let mut nodes = 0;
        while nodes < others && Instant::now() < deadline {
            let Some(raw) = self.next_reply(list, deadline).await? else { break };
            nodes += 1;
            if let Some(reply) = ControlBody::open(&raw) {
                self.merge_reply(&reply);
            }
        }
        Ok(nodes)
    }

    fn hello(&self, oid: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = json!({
            "method": "hello",
            "arguments": {
                "from_node": self.node.name,
                "revoked": self.node.revoked.list(),
                "run": self.node.run, // Celery passes over what it does not know
            },
            "destination": null,
            "pattern": null,
            "matcher": null,
            "ticket": Uuid::new_v4().to_string(),
            "reply_to": {"exchange": EXCHANGE, "routing_key": oid},
        });
        let headers = json!({
            "clock": self.node.clock.tick(),
            "expires": (now + PATIENCE).as_secs_f64(),
        });
        transient(&body, &headers, "celery.pidbox", "")
    }

    /// Waits for a reply on the connection of the subscription, which no other part of the worker uses before
    /// requests are answered.
    async fn next_reply(&self, list: &str, deadline: Instant) -> Result<Option<Vec<u8>>, CeleryError> {
        let Some(subscription) = &self.subscription else { return Ok(None) };
        // `BRPOP` with a timeout of 0 would wait for ever.
        let left = deadline.duration_since(Instant::now()).as_secs_f64().max(0.01);
        let mut wait = redis::cmd("BRPOP");
        wait.arg(list).arg(left);
        let got: Option<(String, redis::Value)> =
            subscription.link.command("wait for a hello", &wait).await?;
        Ok(got.and_then(|(_, raw)| Vec::from_redis_value(raw).ok()))
    }

    fn merge_reply(&self, reply: &ControlBody) {
        self.node.clock.observe(reply.clock);
        // The reply of this worker to itself is null, and is skipped.
        let Some((node, value)) = reply.body.iter().find(|(_, value)| value.is_object()) else { return };
        if **node == self.node.name {
            warn_of_namesake(&self.node);
        }
        if let Some(clock) = value.get("clock").and_then(Value::as_u64) {
            self.node.clock.observe(clock);
        }
        revoke(&self.node, value.get("revoked"));
    }
}

/// Answers the `hello` of another worker; the `hello` of this worker gets a null.
pub(super) fn answer_hello(node: &Node, arguments: Arguments) -> Outcome {
    let [from] = arguments.require(["from_node"])?;
    if from.as_str() == Some(&node.name) {
        let run = arguments.get("run");
        if run != Some(&json!(node.run)) {
            warn_of_namesake(node);
        }
        // A `hello` without a run id comes from a Python worker of the same name, which skips replies under its own
        // name.
        if run.is_none_or(|run| *run == json!(node.run)) {
            return Ok(Value::Null);
        }
    }
    tracing::info!(node = from.as_str(), "sync with another worker");
    revoke(node, arguments.get("revoked").filter(|revoked| truthy(revoked)));
    Ok(json!({"revoked": node.revoked.list(), "clock": node.clock.tick()}))
}

/// Logs Celery's `DuplicateNodenameWarning`. Two workers of one name still lose no task and run none twice, because
/// leases and locks are held by the id of the run and not by the name.
fn warn_of_namesake(node: &Node) {
    tracing::warn!(
        node = node.name,
        "another worker has the same node name: `celery inspect` shows one of the two, and orders to one go to both; \
         give each a name of its own{}",
        node.about.name_example.map(|example| format!(", such as {example}")).unwrap_or_default()
    );
}

/// Revokes the ids that another worker sent: a list, or an object from id to time.
fn revoke(node: &Node, revoked: Option<&Value>) {
    let ids: Vec<&str> = match revoked {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
        Some(Value::Object(ids)) => ids.keys().map(String::as_str).collect(),
        _ => return,
    };
    node.revoke_all(&ids, None);
}
