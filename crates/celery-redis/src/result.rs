//! The results that `AsyncResult` reads.

mod call;
mod child;
mod exception;
mod packed;

use super::CeleryError;
use super::client::Client;
use super::keys::{NAMESPACE, backend_key, result_key};
use super::message::Message;
use super::publish::iso;
use jiff::Timestamp;
use redis::{Script, ScriptInvocation};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use call::Call;
pub use child::Child;
pub use exception::Exception;
pub(super) use packed::Unpacker;

static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/store.lua"),
        "local packed = store(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])\n",
        "return type(packed) == 'table' and packed"
    ))
});

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A worker has begun the task.
    Started,
    /// The task is running; the result holds its progress.
    Progress,
    /// The task failed and will be tried again.
    Retry,
    /// The task succeeded.
    Success,
    /// The task ended by an exception.
    Failure,
    /// The task was revoked, or has expired.
    Revoked,
}

impl State {
    /// The name of the state in Celery's JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "STARTED",
            Self::Progress => "PROGRESS",
            Self::Retry => "RETRY",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
        }
    }

    /// Parses the name of a state; `None` for any other text.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Started, Self::Progress, Self::Retry, Self::Success, Self::Failure, Self::Revoked];
        all.into_iter().find(|state| state.as_str() == name)
    }

    /// True if no other state follows this one: SUCCESS, FAILURE and REVOKED.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked)
    }
}

/// A task's state, as stored in the result backend.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// The id of the task.
    pub task_id: String,
    /// The state of the task.
    pub state: State,
    /// The task's return value, progress, or exception.
    pub result: Value,
    /// The text of the traceback.
    pub traceback: Option<String>,
    /// The tasks that the task sent, in order.
    pub children: Vec<Child>,
    /// The time at which the task ended; set for final states alone.
    pub date_done: Option<Timestamp>,
    /// The id of the group that the task belongs to.
    pub group_id: Option<String>,
    /// The id of the task that sent the task.
    pub parent_id: Option<String>,
    /// The number of attempts before the current one.
    pub retries: u32,
    /// The call of the task, for a backend that stores calls too.
    pub call: Option<Arc<Call>>,
}

impl TaskResult {
    /// Creates a state with its result; the date of a final state is now.
    pub fn new(task_id: &str, state: State, result: Value) -> Self {
        Self {
            task_id: task_id.to_owned(),
            state,
            result,
            traceback: None,
            children: Vec::new(),
            date_done: state.is_final().then(Timestamp::now),
            group_id: None,
            parent_id: None,
            retries: 0,
            call: None,
        }
    }

    /// Adds the fields that come from the task's message: its group, its parent, its attempt and its call.
    #[must_use]
    pub fn of(mut self, message: &Message) -> Self {
        self.group_id.clone_from(&message.group);
        self.parent_id.clone_from(&message.parent_id);
        self.retries = message.retries;
        self.call = Some(Arc::new(Call::of(message)));
        self
    }

    /// Creates a STARTED by this process of the node `hostname`.
    pub fn started(task_id: &str, hostname: &str) -> Self {
        Self::new(task_id, State::Started, json!({"pid": std::process::id(), "hostname": hostname}))
    }

    /// Creates a FAILURE with an exception.
    pub fn failure(task_id: &str, exception: &Exception, traceback: Option<String>) -> Self {
        Self { traceback, ..Self::new(task_id, State::Failure, exception.to_value()) }
    }

    /// Returns the JSON that Celery stores, see `Backend._get_result_meta` in `celery/backends/base.py`. Includes the
    /// call if the name of a worker is given.
    fn to_json(&self, worker: Option<&str>) -> Value {
        let children: Vec<_> = self.children.iter().map(Child::to_value).collect();
        let mut meta = Map::new();
        meta.insert("status".to_owned(), json!(self.state.as_str()));
        meta.insert("result".to_owned(), self.result.clone());
        meta.insert("traceback".to_owned(), json!(self.traceback));
        meta.insert("children".to_owned(), json!(children));
        meta.insert("date_done".to_owned(), json!(self.date_done.map(iso)));
        for (key, id) in [("group_id", &self.group_id), ("parent_id", &self.parent_id)] {
            meta.extend(id.as_ref().map(|id| (key.to_owned(), json!(id))));
        }
        if let (Some(call), Some(worker)) = (&self.call, worker) {
            call.write(worker, &mut meta);
        }
        if self.state == State::Retry {
            meta.entry("retries").or_insert_with(|| json!(self.retries));
        }
        meta.insert("task_id".to_owned(), json!(self.task_id));
        Value::Object(meta)
    }
}

/// The stored result of a task.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub struct StoredResult {
    /// The name of the state: one of Celery's, or a custom one.
    pub status: String,
    /// The task's return value, progress, or exception.
    #[serde(default)]
    pub result: Value,
}

impl StoredResult {
    /// Parses the text under a result's key; `None` if Celery did not write the text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(&Unpacker::new().unpack(text).ok()?).ok()
    }
}

/// Celery's result backend.
#[derive(Debug, Clone)]
pub struct Backend {
    client: Client,
    prefix: String,
    namespace: String,
    expires: Duration,
    extended: Option<String>,
}

impl Backend {
    /// Creates a backend with keys under `prefix`. Results expire after `expires`, or never if that is zero.
    pub fn new(client: Client, prefix: &str, expires: Duration) -> Self {
        Self { client, prefix: prefix.to_owned(), namespace: NAMESPACE.to_owned(), expires, extended: None }
    }

    /// Sets the namespace of the keys that Celery does not know, as [`Keys::with_namespace`] does.
    ///
    /// [`Keys::with_namespace`]: super::keys::Keys::with_namespace
    #[must_use]
    pub fn with_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Stores with each result the call of the task and that the worker `node` ran it, as Celery's
    /// `result_extended` does.
    #[must_use]
    pub fn with_extended(mut self, node: &str) -> Self {
        self.extended = Some(node.to_owned());
        self
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn expires(&self) -> Duration {
        self.expires
    }

    /// Returns a key that Celery does not know.
    pub(super) fn own_key(&self, name: &str) -> String {
        backend_key(&self.prefix, &format!("{}:{name}", self.namespace))
    }

    /// Returns the key of a task's result.
    pub(super) fn key_of(&self, task_id: &str) -> String {
        result_key(&self.prefix, task_id)
    }

    /// Stores a result and publishes it to waiting clients; repeats until Redis answers or `stop` fires.
    ///
    /// A stored SUCCESS stays. A state that is not final never replaces a final one. A STARTED or PROGRESS does not
    /// replace the RETRY of the same or a later attempt, however late its command arrives.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Stopped`], or a permanent error of Redis.
    pub async fn store(&self, result: &TaskResult, stop: &CancellationToken) -> Result<(), CeleryError> {
        self.put(result, u8::from(result.state.is_final()), Some(stop)).await
    }

    /// Like [`store`](Self::store), but a stored FAILURE or REVOKED stays too: for a task that has not run
    /// and now never will.
    pub(super) async fn store_unless_final(
        &self,
        result: &TaskResult,
        stop: &CancellationToken,
    ) -> Result<(), CeleryError> {
        self.put(result, 2, Some(stop)).await
    }

    /// Like [`store`](Self::store), but tries once: for progress, which the next report replaces.
    ///
    /// # Errors
    ///
    /// Any error of Redis.
    pub async fn offer(&self, result: &TaskResult) -> Result<(), CeleryError> {
        self.put(result, u8::from(result.state.is_final()), None).await
    }

    /// Stores a result once or, with a `stop`, until Redis answers. What is stored already and compressed is unpacked
    /// here, for the script that compares the two.
    async fn put(
        &self,
        result: &TaskResult,
        finality: u8,
        stop: Option<&CancellationToken>,
    ) -> Result<(), CeleryError> {
        // If an attempt was run twice, after a crash, its second RETRY replaces the first.
        let attempt = (result.state != State::Retry).then_some(result.retries);
        let attempt = attempt.map_or_else(String::new, |attempt| attempt.to_string());
        let (mut digest, mut unpacked) = (String::new(), Vec::new());
        loop {
            let mut call = STORE.prepare_invoke();
            self.write(result, finality, &mut call);
            call.arg(&attempt).arg(&digest).arg(&unpacked);
            let packed: Option<(String, Vec<u8>)> = match stop {
                Some(stop) => self.client.script_retrying("store result", stop, &call).await?,
                None => self.client.script("store progress", &call).await?,
            };
            let Some((of, text)) = packed else { return Ok(()) };
            // A result that cannot be unpacked counts as a result that Celery did not write.
            unpacked = Unpacker::new().unpack(&text).map(Cow::into_owned).unwrap_or_default();
            digest = of;
        }
    }

    /// Returns `true` if the backend uses the same server and database as this client, so that one script can use the
    /// keys of both.
    pub fn is_at(&self, client: &Client) -> bool {
        self.client.options() == client.options()
    }

    /// Adds the key and the arguments of `store.lua`.
    pub(super) fn write(&self, result: &TaskResult, finality: u8, call: &mut ScriptInvocation<'_>) {
        call.key(result_key(&self.prefix, &result.task_id))
            .arg(result.to_json(self.extended.as_deref()).to_string())
            // Redis counts whole seconds, and takes none at all for never.
            .arg(self.expires.as_secs() + u64::from(self.expires.subsec_nanos() > 0))
            .arg(finality);
    }

    /// Reads the stored result of a task; `None` also if Celery did not write the stored text.
    ///
    /// # Errors
    ///
    /// Any error of Redis.
    pub async fn state(&self, task_id: &str) -> Result<Option<StoredResult>, CeleryError> {
        let mut get = redis::cmd("GET");
        get.arg(result_key(&self.prefix, task_id));
        let text: Option<Vec<u8>> = self.client.command("read result", &get).await?;
        Ok(text.and_then(|text| StoredResult::parse(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_keys_of_celery_in_their_order() {
        let mut result = TaskResult::new("1", State::Success, json!({"status": "ok"}));
        result.children = vec![Child::Task("2".to_owned())];
        result.date_done = Some("2026-11-22T09:59:25.98Z".parse().unwrap());
        let text = r#"{"status":"SUCCESS","result":{"status":"ok"},"traceback":null,"children":[[["2",null],null]],"date_done":"2026-11-22T09:59:25.980000+00:00","task_id":"1"}"#;
        assert_eq!(result.to_json(None).to_string(), text);

        let (group_id, parent_id) = (Some("g".to_owned()), Some("p".to_owned()));
        let started = TaskResult { group_id, parent_id, ..TaskResult::started("1", "w@h") }.to_json(None);
        let keys: Vec<_> = started.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["status", "result", "traceback", "children", "date_done", "group_id", "parent_id", "task_id"];
        assert_eq!(keys, expected);
        assert_eq!(started["date_done"], Value::Null);
    }
}
