//! Names of the keys in Redis, as kombu's transport and Celery's result backend build them.

use super::client::Client;

/// The names of the lists of a queue: `priority_steps` and `sep` of the app's `broker_transport_options`.
///
/// Source of the defaults and of the rules: `Channel.priority_steps`, `Channel.sep`, `Channel._q_for_pri` and
/// `Channel.priority` in `kombu/transport/redis.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priorities {
    /// The priority steps, ascending and at least one. The first step is served first.
    pub steps: Vec<u8>,
    /// The separator between a queue's name and its priority step, and between the parts of a binding.
    pub sep: String,
}

impl Default for Priorities {
    fn default() -> Self {
        Self { steps: vec![0, 3, 6, 9], sep: "\x06\x16".to_owned() }
    }
}

impl Priorities {
    /// Returns the greatest step that is not above `priority`. A priority below all steps gets the last step, as in
    /// kombu, which indexes the list of steps by -1 then.
    fn step(&self, priority: u8) -> u8 {
        let at_most = self.steps.iter().rev().find(|step| **step <= priority);
        at_most.or(self.steps.last()).copied().unwrap_or_default()
    }

    /// The list that holds messages of `queue` at priority `step`, without any prefix.
    fn list_name(&self, queue: &str, step: u8) -> String {
        if step == 0 { queue.to_owned() } else { format!("{queue}{}{step}", self.sep) }
    }
}

/// The namespace of the keys that neither kombu nor Celery knows, where the program gives none of its own.
pub(super) const NAMESPACE: &str = "celery-redis";

/// Key names under the broker's `global_keyprefix`, which is put before every key without a separator.
///
/// Keys that neither kombu nor Celery knows (leases, locks, records of workers) begin with a namespace and a colon, so
/// that programs with namespaces of their own can share a broker. All workers of one fleet have the same namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    namespace: String,
    priorities: Priorities,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new("")
    }
}

impl Keys {
    /// Creates the names under `prefix`, which may be empty.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), namespace: NAMESPACE.to_owned(), priorities: Priorities::default() }
    }

    /// Sets the namespace of the keys that neither kombu nor Celery knows, `celery-redis` by default.
    #[must_use]
    pub fn with_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Sets the names of the lists of a queue.
    #[must_use]
    pub fn with_priorities(mut self, priorities: Priorities) -> Self {
        self.priorities = priorities;
        self
    }

    /// The prefix of all keys.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names of the lists of a queue.
    pub(super) fn priorities(&self) -> &Priorities {
        &self.priorities
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A key that neither kombu nor Celery knows.
    fn own(&self, name: &str) -> String {
        format!("{}{}:{name}", self.prefix, self.namespace)
    }

    /// The text that the keys of all lists of a queue begin with.
    pub fn queue(&self, queue: &str) -> String {
        self.key(queue)
    }

    /// The list that holds messages of this priority.
    pub fn list(&self, queue: &str, priority: u8) -> String {
        self.key(&self.priorities.list_name(queue, self.priorities.step(priority)))
    }

    /// All lists of the queues, with the index of the queue of each, in the order in which kombu serves
    /// them: by priority step, and within a step in the given order.
    pub fn lists(&self, queues: &[String]) -> Vec<(usize, String)> {
        let of_step = |step: &u8| {
            let step = *step;
            let list = move |queue: &String| self.key(&self.priorities.list_name(queue, step));
            queues.iter().enumerate().map(move |(at, queue)| (at, list(queue)))
        };
        self.priorities.steps.iter().flat_map(of_step).collect()
    }

    /// The list of the entries of this queue that cannot be parsed.
    pub fn unreadable(&self, queue: &str) -> String {
        self.key(&format!("{queue}.unreadable"))
    }

    /// The hash of the messages that any consumer has taken and not yet acknowledged.
    pub fn unacked(&self) -> String {
        self.key("unacked")
    }

    /// The sorted set of the delivery tags in `unacked`, by the time of the take.
    pub fn unacked_index(&self) -> String {
        self.key("unacked_index")
    }

    /// The hash from delivery tag to the worker of this program that holds the message.
    pub fn leases(&self) -> String {
        self.own("leases")
    }

    /// The record that shows that a worker of this program is alive.
    pub fn worker(&self, instance: &str) -> String {
        self.own(&format!("worker:{instance}"))
    }

    /// The set of this program's workers that began the task of a message, and neither ended it nor gave it back.
    pub fn begun(&self, tag: &str) -> String {
        self.own(&format!("begun:{tag}"))
    }

    /// The hash from the name of a lock to its holder.
    pub fn locks(&self) -> String {
        self.own("locks")
    }

    /// The counter of fencing tokens, which numbers the holders of locks.
    pub fn fence(&self) -> String {
        self.own("fence")
    }

    /// The mutex of the sweep that requeues messages of dead consumers of any language.
    pub fn unacked_mutex(&self) -> String {
        self.key("unacked_mutex")
    }

    /// The set of the queues that are bound to an exchange.
    pub fn binding(&self, exchange: &str) -> String {
        self.key(&format!("_kombu.binding.{exchange}"))
    }

    /// Returns the queue of a member of a [`binding`](Self::binding) set, if the member is for this routing key.
    pub fn bound_queue<'a>(&self, binding: &'a str, routing_key: &str) -> Option<&'a str> {
        let mut parts = binding.split(&*self.priorities.sep);
        (parts.next() == Some(routing_key)).then(|| parts.nth(1)).flatten()
    }

    /// The list of the control replies for the client `oid`.
    pub fn replies(&self, oid: &str) -> String {
        self.key(&format!("{oid}.reply.celery.pidbox"))
    }

    /// The member of the client `oid` in the set of bindings while the client waits for control replies.
    pub fn reply_member(&self, oid: &str) -> String {
        let sep = &self.priorities.sep;
        format!("{oid}{sep}{sep}{oid}.reply.celery.pidbox")
    }

    /// The channels of control requests.
    pub fn control_channels(&self, client: &Client) -> Vec<String> {
        self.fanout(client, "celery.pidbox")
    }

    /// The prefixes of the channels of events; a routing key follows the prefix.
    pub fn event_channels(&self, client: &Client) -> Vec<String> {
        self.fanout(client, "celeryev/")
    }

    /// Returns the fanout channels of `exchange`, which begin with the number of the database. Over Sentinel these
    /// include the channel of kombu before 5.4, which does not fill in the number there.
    ///
    /// Source: `Channel._get_publish_topic`, `Transport.fanout_prefix` and
    /// `SentinelChannel.sentinel_fanout_compat` in `kombu/transport/redis.py`.
    fn fanout(&self, client: &Client, exchange: &str) -> Vec<String> {
        let options = client.options();
        let mut channels = vec![self.key(&format!("/{}.{exchange}", options.db()))];
        if options.by_sentinel() {
            channels.push(self.key(&format!("/{{db}}.{exchange}")));
        }
        channels
    }

    /// The key that marks a group of messages as sent.
    pub fn sent(&self, tag: &str) -> String {
        self.own(&format!("sent:{tag}"))
    }
}

/// The key, and the channel, of a task's result under the result backend's own `global_keyprefix`.
///
/// Unlike the broker's, this prefix gets a `_` unless it ends in one of `: _ - .`.
/// Source: `KeyValueStoreBackend._add_global_keyprefix` in `celery/backends/base.py`.
pub fn result_key(prefix: &str, task_id: &str) -> String {
    backend_key(prefix, &format!("celery-task-meta-{task_id}"))
}

/// A key of a group in the result backend. `end` follows the id: empty for the result, `.s` for the size of a chord's
/// header, and so on.
pub fn group_key(prefix: &str, group_id: &str, end: &str) -> String {
    backend_key(prefix, &format!("celery-taskset-meta-{group_id}{end}"))
}

/// Any key in the result backend.
pub(super) fn backend_key(prefix: &str, name: &str) -> String {
    let joint = if prefix.is_empty() || prefix.ends_with([':', '_', '-', '.']) { "" } else { "_" };
    format!("{prefix}{joint}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_served_step_by_step() {
        let queues = ["a".to_owned(), "b".to_owned()];
        let lists: Vec<_> = Keys::new("p:").lists(&queues).into_iter().map(|(_, key)| key).collect();
        let expected =
            "p:a p:b p:a\x06\x163 p:b\x06\x163 p:a\x06\x166 p:b\x06\x166 p:a\x06\x169 p:b\x06\x169";
        assert_eq!(lists.join(" "), expected);
    }

    #[test]
    fn a_priority_falls_to_the_step_below_it() {
        let steps: Vec<_> =
            [0, 1, 2, 3, 5, 6, 8, 9, 10, 255].map(|priority| Priorities::default().step(priority)).into();
        assert_eq!(steps, [0, 0, 0, 3, 3, 6, 6, 9, 9, 9]);
    }

    #[test]
    fn steps_and_separator_of_the_app_name_the_lists() {
        let priorities = Priorities { steps: vec![1, 5], sep: ":".to_owned() };
        let keys = Keys::new("p:").with_priorities(priorities);
        let lists: Vec<_> = [0, 1, 4, 5, 9].map(|priority| keys.list("q", priority)).into();
        assert_eq!(lists.join(" "), "p:q:5 p:q:1 p:q:1 p:q:5 p:q:5");
        let all: Vec<_> = keys.lists(&["q".to_owned()]).into_iter().map(|(_, key)| key).collect();
        assert_eq!(all.join(" "), "p:q:1 p:q:5");
        assert_eq!(keys.bound_queue("k::q", "k"), Some("q"));
    }

    #[test]
    fn a_result_prefix_is_joined_as_celery_joins_it() {
        for (prefix, key) in [("", "celery-task-meta-1"), ("r", "r_celery-task-meta-1")] {
            assert_eq!(result_key(prefix, "1"), key);
        }
        for end in [":", "_", "-", "."] {
            assert_eq!(result_key(&format!("r{end}"), "1"), format!("r{end}celery-task-meta-1"));
        }
    }
}
