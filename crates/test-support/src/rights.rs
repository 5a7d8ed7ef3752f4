//! The rights of a worker in Redis, as the documentation of `ConnectOptions` lists them.

use crate::redis::Redis;
use redis::Value;
use std::collections::HashMap;

/// The documented rules for a queue and a namespace.
pub fn documented_rules(queue: &str, namespace: &str) -> Vec<String> {
    let docs = include_str!("../../celery-redis/src/client/options.rs");
    let (_, block) = docs.split_once("```text").expect("the options list the rights");
    let (block, _) = block.split_once("```").expect("the list ends");
    let words = block.lines().flat_map(|line| line.trim_start_matches("///").split_whitespace());
    words.map(|rule| rule.replace("QUEUE", queue).replace("NAMESPACE", namespace)).collect()
}

/// Makes the user `worker` with the password `p@ss/word` and these rules.
pub async fn user(redis: &Redis, rules: &[String]) {
    let mut setuser = redis::cmd("ACL");
    setuser.arg("SETUSER").arg("worker").arg("reset").arg("on").arg(">p@ss/word").arg(rules);
    setuser.exec_async(&mut redis.connect().await).await.expect("the rules are an ACL");
}

/// The commands, keys and channels that the server has refused so far, each after the word `command`, `key` or `channel`.
pub async fn refused(redis: &Redis) -> Vec<String> {
    let log: Vec<HashMap<String, Value>> = redis::cmd("ACL")
        .arg("LOG")
        .query_async(&mut redis.connect().await)
        .await
        .expect("the default user may read the log");
    let text = |value: &Value| {
        redis::from_redis_value::<String>(value.clone()).expect("an entry of the log is text")
    };
    log.iter().map(|entry| format!("{} {}", text(&entry["reason"]), text(&entry["object"]))).collect()
}
