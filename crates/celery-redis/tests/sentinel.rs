//! A client behind real sentinels follows its master, also over its death.

use celery_redis::CeleryError;
use celery_redis::client::{Client, ConnectOptions};
use celery_redis::consumer::Consumer;
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use celery_redis::publish::{Outgoing, publish};
use celery_redis::sweep::LeaseKeeper;
use redis::aio::MultiplexedConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use test_support::celery_lab::{content, judge, until, within};
use test_support::ports::free_port;
use tokio_util::sync::CancellationToken;

/// A server or a sentinel on a port of its own; dies with its value.
struct Node {
    child: Child,
    port: u16,
    password: Option<&'static str>,
    _dir: TempDir,
}

impl Node {
    fn start(config: &str, password: Option<&'static str>, args: &[&str]) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = format!("port {port}\nbind 127.0.0.1\nsave \"\"\n{config}");
        std::fs::write(dir.path().join("node.conf"), config).unwrap();
        let child = Command::new("redis-server")
            .arg("node.conf")
            .args(args)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need `redis-server` on PATH");
        Self { child, port, password, _dir: dir }
    }

    async fn ask(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let login = self.password.map_or(String::new(), |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        let mut link: MultiplexedConnection = client.get_multiplexed_async_connection().await?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut link).await
    }

    /// Waits until the answer holds all of these words.
    async fn says(&self, command: &[&str], words: &[&str]) {
        until(async || {
            let answer = format!("{:?}", self.ask(command).await);
            words.iter().all(|word| answer.contains(word))
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A master, its replica, and three sentinels that watch them as `lab`.
struct Watched {
    master: Node,
    replica: Node,
    sentinels: Vec<Node>,
}

impl Watched {
    async fn start() -> Self {
        const LOGIN: &str = "requirepass pw\nmasterauth pw\nrepl-diskless-sync-delay 0\n";
        let master = Node::start(LOGIN, Some("pw"), &[]);
        let replica = Node::start(&format!("{LOGIN}replicaof 127.0.0.1 {}\n", master.port), Some("pw"), &[]);
        replica.says(&["INFO", "replication"], &["master_link_status:up"]).await;
        let config = format!(
            "sentinel monitor lab 127.0.0.1 {} 2\nsentinel auth-pass lab pw\n\
             sentinel down-after-milliseconds lab 300\nsentinel failover-timeout lab 3000\n",
            master.port
        );
        let sentinels: Vec<_> = (0..3).map(|_| Node::start(&config, None, &["--sentinel"])).collect();
        for sentinel in &sentinels {
            let all = ["name=lab,status=ok", "slaves=1,sentinels=3"];
            sentinel.says(&["INFO", "sentinel"], &all).await;
        }
        Self { master, replica, sentinels }
    }

    fn url(&self) -> String {
        let urls = self.sentinels.iter().map(|node| format!("sentinel://:pw@127.0.0.1:{}/1", node.port));
        // One that is not there at all.
        format!("sentinel://:pw@127.0.0.1:{}/1;{}", free_port(), urls.collect::<Vec<_>>().join(";"))
    }

    fn client(&self) -> Client {
        let options = ConnectOptions::parse_with(&self.url(), Some("lab")).unwrap();
        Client::new(options.with_timeouts(Duration::from_secs(1), Duration::from_secs(1))).unwrap()
    }
}

#[tokio::test]
async fn what_the_new_master_has_acknowledged_is_done_after_a_failover() {
    let mut lab = Watched::start().await;
    let (client, sender, stop) = (lab.client(), lab.client(), CancellationToken::new());
    let leases = Leases::new(client.clone(), Keys::default(), Instance::here("test@lab"));
    let keeper = tokio::spawn(LeaseKeeper::new(leases.clone(), Duration::from_hours(1)).run(stop.clone()));
    let done: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let consumer = Consumer::new(leases, &["q".to_owned()]).unwrap();
    let worker = tokio::spawn({
        let (done, stop) = (Arc::clone(&done), stop.clone());
        async move {
            while let Some(delivery) = within(consumer.next(&judge, &stop)).await.unwrap() {
                *done.lock().unwrap().entry(content(&delivery).id.clone()).or_default() += 1;
                match delivery.lease.ack(&stop).await {
                    // Taken from a master that had not told its replica yet.
                    Ok(()) | Err(CeleryError::LeaseLost { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });

    let mut kept = BTreeSet::new();
    for n in 0.. {
        let (moved, message) = (sender.reconnects() > 0, Outgoing::new("ours", "q"));
        within(publish(&sender, &Keys::default(), std::slice::from_ref(&message), &stop)).await.unwrap();
        if moved {
            kept.insert(message.id().to_owned());
        }
        if n == 50 {
            lab.master.child.kill().unwrap();
        }
        if kept.len() == 200 {
            break;
        }
    }
    until(async || kept.iter().all(|id| done.lock().unwrap().contains_key(id))).await;
    assert!(client.reconnects() > 0);
    lab.replica.says(&["INFO", "replication"], &["role:master"]).await;
    // Nothing is left behind, in hand or in the queue.
    for key in ["unacked", "unacked_index", "q", "celery-redis:leases"] {
        until(async || {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(key);
            client.command::<u8>("look", &exists).await.unwrap() == 0
        })
        .await;
    }
    assert!(kept.iter().all(|id| done.lock().unwrap()[id] == 1), "what nothing happened to is done once");
    stop.cancel();
    within(async { tokio::join!(worker, keeper) }).await.0.unwrap();
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_an_error_and_a_missing_master_a_wait() {
    let lab = Watched::start().await;
    let unknown = ConnectOptions::parse_with(&lab.url(), Some("bal")).unwrap();
    let error = within(Client::new(unknown).unwrap().ping()).await.unwrap_err();
    // The sentinel that is not there may know it.
    assert!(error.is_transient(), "{error:?}");
    let (_, rest) = lab.url().split_once(';').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let unknown = ConnectOptions::parse_with(&rest, Some("bal")).unwrap();
    let error = within(Client::new(unknown).unwrap().ping()).await.unwrap_err();
    assert!(!error.is_transient() && format!("{error:?}").contains("no master of this name"), "{error:?}");

    let wrong = rest.replace(":pw@", ":secret@");
    let wrong = ConnectOptions::parse_with(&wrong, Some("lab")).unwrap();
    let error = within(Client::new(wrong).unwrap().ping()).await.unwrap_err();
    assert!(!error.is_transient() && !format!("{error:?}").contains("secret"), "{error:?}");
    within(lab.client().ping()).await.unwrap();
}

#[tokio::test]
async fn of_a_list_the_server_that_is_a_master_is_taken() {
    let lab = Watched::start().await;
    let [dead, replica, master] = [free_port(), lab.replica.port, lab.master.port];
    let url = [dead, replica, master].map(|port| format!("redis://:pw@127.0.0.1:{port}/1")).join(";");
    let client = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap();
    let mut set = redis::cmd("SET");
    set.arg("by-list").arg("1");
    within(client.command::<()>("write", &set)).await.unwrap();
    lab.master.says(&["INFO", "keyspace"], &["db1:keys=1"]).await;
}

#[test]
fn over_sentinel_both_forms_of_the_fanout_channels_are_used() {
    let keys = Keys::new("p:");
    let options = ConnectOptions::parse_with("sentinel://s1/2", Some("lab")).unwrap();
    let client = Client::new(options).unwrap();
    assert_eq!(keys.control_channels(&client), ["p:/2.celery.pidbox", "p:/{db}.celery.pidbox"]);
    assert_eq!(keys.event_channels(&client), ["p:/2.celeryev/", "p:/{db}.celeryev/"]);
    let plain = Client::new(ConnectOptions::parse("redis://h/2").unwrap()).unwrap();
    assert_eq!(keys.control_channels(&plain), ["p:/2.celery.pidbox"]);
}
