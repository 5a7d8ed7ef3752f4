//! A mixed fleet under fire: two workers of ours and one of Python's on one broker, killed and cut off
//! again and again, and every task ends once.

use crate::support::{
    chance::Chance,
    lab::{Lab, Worker, eventually, files},
    python::{self, Python},
};
use jiff::{SignedDuration, Timestamp};
use redis::AsyncCommands;
use rna_backup::celery::client::{Client, ConnectOptions};
use rna_backup::celery::keys::Keys;
use rna_backup::celery::publish::{Outgoing, publish};
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a message may be in nobody's hands, for all three: what a killed Python held comes back then.
const VISIBILITY_SECONDS: u32 = 6;

/// What befalls the fleet beside the deaths of our workers, one in each round.
const BLOWS: [Blow; 6] =
    [Blow::Python, Blow::Clients, Blow::Redis, Blow::Python, Blow::Clients, Blow::Python];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    /// SIGKILL of the Python worker.
    Python,
    /// `CLIENT KILL TYPE normal`.
    Clients,
    /// SIGKILL of Redis, and its restart.
    Redis,
}

/// Tasks by id, with the state that each must end in, and what it is.
#[derive(Default)]
struct Orders(BTreeMap<String, (&'static str, &'static str)>);

impl Orders {
    fn of(&self, what: &str) -> BTreeSet<&String> {
        self.0.iter().filter(|(_, (kind, _))| *kind == what).map(|(id, _)| id).collect()
    }

    /// What is ordered at once. The shared queue holds Python's tasks alone: it would destroy ours.
    fn burst(&mut self) -> Vec<Outgoing> {
        let number = self.0.len();
        let mut messages = Vec::new();
        let mut add = |what, count, ends, task: &str, queue: &str| {
            for _ in 0..count {
                let message = Outgoing::new(task, queue);
                self.0.insert(message.id().to_owned(), (what, ends));
                messages.push(message);
            }
        };
        add("ping", 8, "SUCCESS", task::PING, "backups");
        add("python", 4, "SUCCESS", "api.fleet.tasks.effect", "celery");
        match number % 4 {
            0 | 1 => add("backup", 1, "SUCCESS", task::BACKUP_MEDIA, "backups"),
            2 => add("impossible backup", 1, "FAILURE", task::BACKUP_POSTGRES, "backups"),
            _ => add("python's failure", 1, "FAILURE", "api.canvas.tasks.fail", "celery"),
        }
        messages
    }
}

struct Fleet {
    lab: Lab,
    client: Client,
    sender: python::Client,
    ours: [Worker; 2],
    python: Option<python::Worker>,
    chance: Chance,
    kills: u32,
}

impl Fleet {
    async fn start(chance: Chance) -> Self {
        let lab = Lab::new()
            .set("RUST_LOG", "error")
            .set("BACKUP_QUEUES", "backups,celery")
            .set("BACKUP_CONCURRENCY", 4)
            .set("BACKUP_VISIBILITY_TIMEOUT", format!("{VISIBILITY_SECONDS}s"));
        let client = Client::new(ConnectOptions::parse(&lab.redis.url()).unwrap()).unwrap();
        let sender = Python::newest().client(&lab.celery_url());
        let ours = [1, 2].map(|number| lab.worker_named(&format!("backup{number}@lab")));
        let mut fleet = Self { lab, client, sender, ours, python: None, chance, kills: 0 };
        fleet.start_python().await;
        fleet
    }

    async fn start_python(&mut self) {
        let options = json!({"visibility_timeout": VISIBILITY_SECONDS}).to_string();
        let python = Python::celery_5_3().set("CELERY_BROKER_TRANSPORT_OPTIONS", &options);
        let args = ["-Q", "celery", "-n", "python@lab"];
        self.python = Some(python.worker(&self.lab.celery_url(), &args).await);
    }

    async fn send(&self, messages: &[Outgoing]) {
        publish(&self.client, &Keys::default(), messages, &CancellationToken::new()).await.unwrap();
    }

    /// Orders something, and kills one of ours at any instant of what follows; so many times.
    async fn volleys(&mut self, times: u32, orders: &mut Orders) {
        for _ in 0..times {
            let chain = "chain(signature('celery.ping', queue='backups'), \
                         signature('api.fleet.tasks.effect', immutable=True))";
            let (last, _) = self.sender.canvas(chain).await;
            orders.0.insert(last, ("python, after a ping of ours", "SUCCESS"));
            self.send(&orders.burst()).await;
            self.kill_one().await;
            self.lab.forget_deaths().await;
        }
    }

    async fn kill_one(&mut self) {
        // Not a wait for something: the instant of death is the point.
        tokio::time::sleep(Duration::from_millis(self.chance.below(60) as u64)).await;
        let one = self.chance.below(2);
        self.ours[one].kill();
        self.ours[one] = self.lab.worker_named(&format!("backup{}@lab", one + 1));
        self.kills += 1;
    }

    /// Strikes while the Python worker is inside of a task.
    ///
    /// It takes a message from the queue by one command and notes it by the next, and loses what a blow
    /// finds in between. That is not what this test is about, so it never falls there.
    async fn strike(&mut self, blow: Blow, orders: &mut Orders, round: usize) {
        let release = self.lab.path(&format!("release-{round}"));
        let hold = Outgoing::new("api.fleet.tasks.hold", "celery").args(vec![json!(release)]);
        orders.0.insert(hold.id().to_owned(), ("python under fire", "SUCCESS"));
        self.send(std::slice::from_ref(&hold)).await;
        let mut redis = self.lab.connection().await;
        let holds = eventually(async || {
            let holding: Vec<String> = redis.lrange("holding", 0, -1).await.unwrap();
            holding.iter().any(|id| id == hold.id())
        });
        assert!(holds.await, "Python does not get to its task:\n{}", self.python.as_ref().unwrap().log());
        match blow {
            Blow::Python => {
                self.python = None;
                self.volleys(4, orders).await;
                self.start_python().await;
            }
            Blow::Clients => {
                self.send(&orders.burst()).await;
                let mut kill = redis::cmd("CLIENT");
                let _: u64 =
                    kill.arg("KILL").arg("TYPE").arg("normal").query_async(&mut redis).await.unwrap();
                self.volleys(4, orders).await;
            }
            Blow::Redis => {
                self.send(&orders.burst()).await;
                self.lab.redis.stop();
                self.kill_one().await;
                self.lab.redis.start_again();
            }
        }
        fs::write(release, "").unwrap();
    }

    /// How each task ended; waits until all have.
    async fn ends(&self, orders: &Orders) -> BTreeMap<String, Value> {
        let mut redis = self.lab.connection().await;
        let mut ends = BTreeMap::new();
        let all = eventually(async || {
            for id in orders.0.keys() {
                if ends.contains_key(id) {
                    continue;
                }
                let stored: Option<String> = redis.get(format!("celery-task-meta-{id}")).await.unwrap();
                let result: Value = stored.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
                if ["SUCCESS", "FAILURE", "REVOKED"].iter().any(|state| result["status"] == *state) {
                    ends.insert(id.clone(), result);
                }
            }
            ends.len() == orders.0.len()
        });
        let all = all.await;
        let lost: Vec<_> = orders.0.iter().filter(|(id, _)| !ends.contains_key(*id)).collect();
        assert!(all, "{} of {} did not end: {lost:?}", lost.len(), orders.0.len());
        ends
    }
}

#[tokio::test]
async fn in_a_mixed_fleet_under_fire_every_task_ends_once_and_none_is_lost() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut fleet = Fleet::start(Chance::new(seed)).await;
    let (mut orders, begun) = (Orders::default(), Instant::now());
    for (round, blow) in BLOWS.into_iter().enumerate() {
        let expired = Timestamp::now() - SignedDuration::from_secs(1);
        let expired = Outgoing::new(task::LIST, "backups").expires(expired);
        orders.0.insert(expired.id().to_owned(), ("expired", "REVOKED"));
        fleet.send(std::slice::from_ref(&expired)).await;
        fleet.volleys(9, &mut orders).await;
        fleet.strike(blow, &mut orders, round).await;
        println!("{blow:?} at {:.1?}", begun.elapsed());
    }

    let ends = fleet.ends(&orders).await;
    fleet.lab.settled().await;
    let took = begun.elapsed();
    assert_eq!(fleet.ends(&orders).await, ends, "an end is an end");
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    for (id, (what, state)) in &orders.0 {
        assert_eq!(ends[id]["status"], *state, "{what}: {}", ends[id]);
        *counts.entry((what, state)).or_default() += 1;
    }
    let reruns = each_had_its_effect_once(&fleet, &orders, &ends).await;
    let pings = ends.values().filter(|end| end["parent_id"].is_string()).count();
    let total = orders.0.len() + pings;
    println!(
        "{total} tasks ended within {took:.1?} of the first, {} SIGKILLs of ours, {BLOWS:?}:",
        fleet.kills
    );
    println!("{pings:4} SUCCESS  ping of ours before one of python's");
    for ((what, state), count) in counts {
        println!("{count:4} {state}  {what}");
    }
    println!("python ran {reruns} deliveries once more");
    assert!(total >= 1000);
}

/// A backup for each that was ordered, a message for each task of Python's; how many of those it ran again.
async fn each_had_its_effect_once(fleet: &Fleet, orders: &Orders, ends: &BTreeMap<String, Value>) -> usize {
    let manifests = fleet.lab.manifests("media");
    let makers: Vec<_> = manifests.iter().map(|manifest| manifest["task_id"].as_str().unwrap()).collect();
    let (unique, ordered): (BTreeSet<_>, _) = (makers.iter().copied().collect(), orders.of("backup"));
    assert_eq!((makers.len(), unique), (ordered.len(), ordered.iter().map(|id| id.as_str()).collect()));
    assert_eq!(files(&fleet.lab.backups().join("media")).len(), makers.len(), "an archive for each");

    let mut redis = fleet.lab.connection().await;
    let holds: usize = redis.llen("holding").await.unwrap();
    let mut reruns = holds - BLOWS.len();
    for what in ["python", "python, after a ping of ours"] {
        for id in orders.of(what) {
            let runs: Vec<String> = redis.lrange(format!("effects:{id}"), 0, -1).await.unwrap();
            let deliveries: BTreeSet<_> = runs.iter().collect();
            assert_eq!(deliveries.len(), 1, "{what} {id} was sent once, and run for it: {runs:?}");
            reruns += runs.len() - deliveries.len();
            if let Some(ping) = ends[id]["parent_id"].as_str() {
                assert_eq!(fleet.lab.result(ping).await.unwrap()["status"], "SUCCESS");
            }
        }
    }
    for list in ["backups", "celery", "backups.unreadable", "celery.unreadable"] {
        assert_eq!(redis.llen::<_, u64>(list).await.unwrap(), 0, "{list}");
    }
    reruns
}

#[tokio::test]
async fn two_workers_of_one_name_are_told_and_do_each_task_once() {
    let lab = Lab::new();
    let workers = [lab.worker_named("backup@lab"), lab.worker_named("backup@lab")];
    for worker in &workers {
        worker.ready().await;
    }
    let words = "another worker has the same node name";
    let told = eventually(async || workers.iter().any(|worker| worker.log().contains(words)));
    assert!(told.await, "{}", workers[0].log());
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(lab.order(task::BACKUP_MEDIA, json!({})).await);
    }
    for id in &ids {
        assert_eq!(lab.ended(id).await["status"], "SUCCESS");
    }
    assert_eq!(lab.manifests("media").len(), ids.len(), "each was done once");
    let lone = lab.worker_named("backup@other");
    lone.ready().await;
    assert!(!lone.log().contains(words), "{}", lone.log());
}
