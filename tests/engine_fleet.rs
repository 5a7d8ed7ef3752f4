//! One component is worked on by one run at a time among all machines that share a broker.

use crate::support::lab::{files, unfinished};
use crate::support::source::{FaultySource, SourceFault};
use redis::AsyncCommands;
use rna_backup::{
    base::clock::SystemClock,
    catalog::Catalog,
    celery::{
        keys::Keys,
        lease::{Instance, Leases, Record},
        sweep::LeaseKeeper,
    },
    component::{
        Component,
        media::{Media, MediaConfig},
    },
    domain::{command::Backup, component::ComponentName, report::BackupReport, retention::Policy},
    engine::{Changes, Engine, EngineError, Locks, PruneRequest, Run},
    observe::metrics::Metrics,
    store::{Store, local::LocalStore},
    stream::pack::Compression,
    worker::RedisFleet,
};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use test_support::celery_lab::{Lab, client, until, within};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A machine of its own: its folders, its engine, its worker's locks.
struct Host {
    dir: TempDir,
    engine: Arc<Engine>,
    leases: Leases,
    /// Told when the source is read to its end; then it waits for `open`.
    has_read: Arc<Notify>,
    open: Arc<Notify>,
    keeper: JoinHandle<()>,
}

impl Host {
    /// A host whose runs end only when they are stopped, or let go on once by `open`.
    fn new(lab: &Lab, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("media")).unwrap();
        fs::write(dir.path().join("media/gel.txt"), "lane 1: RNA\n".repeat(900)).unwrap();
        let real: Arc<dyn Component> = Arc::new(Media::new(MediaConfig::full(dir.path().join("media"))));
        let media = FaultySource::new(real, Some(SourceFault::Waits));
        let (has_read, open) = (Arc::clone(&media.has_read), Arc::clone(&media.open));
        let media: Arc<dyn Component> = Arc::new(media);
        let root = dir.path().join("backups");
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(&root, 0).unwrap());
        // Each is on a machine of its own, so only its record tells whether it is alive.
        let record = Instance::here(&format!("backup@{name}")).record().clone();
        let record = Record { boot_id: Some(name.to_owned()), ..record };
        let leases = Leases::new(client(&lab.redis), Keys::default(), Instance::new(record));
        let locks = Locks::new(root.join(".locks"));
        locks.join(Arc::new(RedisFleet::new(leases.locks().clone())));
        let engine = Engine {
            components: vec![media],
            left_out: Vec::new(),
            catalog: Catalog::new(vec![Arc::clone(&store)]),
            mirror: None,
            destinations: vec![store],
            cleanup_local: false,
            locks,
            compression: Compression::default(),
            encryption: rna_backup::stream::crypt::Encryption::default(),
            policy: Policy { days: 0, last: 1, weekly: 0, monthly: 0 },
            clock: Arc::new(SystemClock),
            observer: Arc::new(Metrics::new("test").unwrap()),
            changes: Changes::default(),
            host: name.to_owned(),
        };
        let keeper = LeaseKeeper::new(leases.clone(), Duration::from_hours(1)).with_patience(Duration::ZERO);
        let keeper = tokio::spawn(keeper.run(tokio_util::sync::CancellationToken::new()));
        Self { dir, engine: Arc::new(engine), leases, has_read, open, keeper }
    }

    /// A whole backup.
    async fn done(&self, task: &str) -> Result<BackupReport, EngineError> {
        self.open.notify_one();
        within(self.back_up(task).1).await.unwrap()
    }

    fn back_up(&self, task: &str) -> (Run, JoinHandle<Result<BackupReport, EngineError>>) {
        let run = Run { task_id: Some(task.to_owned()), wait: true, ..Run::default() };
        let (engine, with) = (Arc::clone(&self.engine), run.clone());
        let order = Backup { component: ComponentName::Media, label: None, pin: false, set_id: None };
        (run, tokio::spawn(async move { engine.backup(&order, &with).await }))
    }

    fn found(&self, folder: &str) -> Vec<PathBuf> {
        files(&self.dir.path().join("backups").join(folder))
    }

    /// How many archives, of any state, and how many manifests there are.
    fn left(&self) -> (usize, usize) {
        (
            self.found("media").len() + unfinished(&self.dir.path().join("backups")).len(),
            self.found("manifests/media").len(),
        )
    }

    /// Dies without a word, as others see it.
    async fn vanish(&self, lab: &Lab) {
        self.keeper.abort();
        let record = Keys::default().worker(self.leases.instance().id());
        let _: usize = lab.link().await.del(record).await.unwrap();
    }
}

async fn holder(lab: &Lab) -> String {
    lab.leases.locks().holder("media").await.unwrap().map_or(String::new(), |holder| holder.to_string())
}

/// Waits until the run shows that it waits, and why.
async fn waiting_for(run: &Run) -> String {
    until(async || run.meter.read().2.starts_with("waiting: ")).await;
    run.meter.read().2.into_owned()
}

/// A run by hand on the second host, as it names itself in the lock of a folder.
fn owner_on_host2() -> rna_backup::engine::LockOwner {
    rna_backup::engine::LockOwner {
        pid: 1,
        host: "host2".into(),
        task_id: None,
        recovers: false,
        loose: None,
    }
}

#[tokio::test]
async fn a_run_waits_for_the_other_host_and_says_for_whom() {
    let lab = Lab::new();
    let (a, b) = (Host::new(&lab, "host1"), Host::new(&lab, "host2"));
    let (first, running) = a.back_up("t1");
    within(a.has_read.notified()).await;
    let (second, waiting) = b.back_up("t2");
    let expected = "waiting: media is busy: backup@host1 (task t1) works on it";
    assert_eq!(waiting_for(&second).await, expected);
    let shown = second.meter.snapshot(ComponentName::Media);
    assert_eq!(shown.description, format!("media: {expected}"));
    assert_eq!(b.left(), (0, 0));

    // Who waits keeps nobody from the folder that it would work in.
    let folder = b.dir.path().join("backups/.locks");
    let owner = owner_on_host2();
    let of_folder = Locks::new(folder);
    drop(of_folder.take(ComponentName::Media, &owner, None, &SystemClock).await.unwrap());
    // And who does not want to wait is told the same.
    let only = PruneRequest { component: Some(ComponentName::Media), ..PruneRequest::default() };
    let busy = b.engine.prune(only, &Run::default()).await.unwrap_err();
    assert_eq!(busy.to_string(), "media is busy: backup@host1 (task t1) works on it");

    b.open.notify_one();
    first.cancel.cancel();
    within(running).await.unwrap().unwrap_err();
    within(waiting).await.unwrap().unwrap();
    assert_eq!(b.left(), (1, 1));
    until(async || holder(&lab).await.is_empty()).await;
}

#[tokio::test]
async fn runs_on_many_hosts_come_one_after_the_other() {
    let lab = Lab::new();
    let hosts: Vec<_> = (0..4).map(|n| Host::new(&lab, &format!("host{n}"))).collect();
    let mut link = lab.link().await;
    let begin = |host: &Host| {
        host.open.notify_one();
        host.back_up("t").1
    };
    let runs: Vec<_> = hosts.iter().map(begin).collect();
    let mut numbers = Vec::new();
    for run in runs {
        within(run).await.unwrap().unwrap();
        numbers.push(link.get::<_, u64>("celery-redis:fence").await.unwrap());
    }
    assert_eq!(numbers.last(), Some(&4), "each had the lock once: {numbers:?}");
    assert!(hosts.iter().all(|host| host.left() == (1, 1)));
}

#[tokio::test]
async fn when_the_holder_dies_the_next_one_goes_on_and_a_holder_that_lives_on_cannot_commit() {
    let lab = Lab::new();
    let (a, b) = (Host::new(&lab, "host1"), Host::new(&lab, "host2"));
    let (_, running) = a.back_up("t1");
    within(a.has_read.notified()).await;
    let (second, waiting) = b.back_up("t2");
    waiting_for(&second).await;
    b.open.notify_one();
    a.vanish(&lab).await;
    within(waiting).await.unwrap().unwrap();
    assert_eq!(b.left(), (1, 1));

    // Worker `a` was only cut off: its `LeaseKeeper` is back, and ends the run.
    let keeper = LeaseKeeper::new(a.leases.clone(), Duration::from_hours(1));
    tokio::spawn(keeper.run(tokio_util::sync::CancellationToken::new()));
    let error = within(running).await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::LockLost { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(a.left(), (0, 0));
}

#[tokio::test]
async fn a_run_that_has_not_noticed_its_loss_finds_out_before_the_manifest() {
    let lab = Lab::new();
    let a = Host::new(&lab, "host1");
    a.keeper.abort(); // nothing tells it
    let (_, running) = a.back_up("t1");
    within(a.has_read.notified()).await;
    let thief = r#"{"instance": "x", "node": "backup@host9", "task": null, "token": 9}"#;
    let _: usize = lab.link().await.hset("celery-redis:locks", "media", thief).await.unwrap();
    a.open.notify_one();
    let error = within(running).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "media was taken over by another worker, because this one was away for too long"
    );
    assert_eq!(a.left(), (0, 0));
    assert_eq!(holder(&lab).await, "backup@host9", "what is another's stays");
}

#[tokio::test]
async fn a_run_goes_on_without_redis_but_deletes_nothing_meanwhile() {
    let mut lab = Lab::new();
    let a = Host::new(&lab, "host1");
    a.done("t1").await.unwrap();
    let (_, running) = a.back_up("t2");
    a.has_read.notified().await; // of the first run
    within(a.has_read.notified()).await;
    lab.redis.stop();
    a.open.notify_one();
    within(running).await.unwrap().unwrap();
    assert_eq!(a.left(), (2, 2), "retention would have deleted the older one");
    lab.redis.start_again();
    until(async || holder(&lab).await.is_empty()).await;
    let report = a.engine.prune(PruneRequest::default(), &Run::default()).await.unwrap();
    assert_eq!((report.deleted.len(), a.left()), (1, (1, 1)));
}

#[tokio::test]
async fn without_an_answer_a_run_waits_and_whoever_does_not_wait_is_told() {
    let mut lab = Lab::new();
    let a = Host::new(&lab, "host1");
    lab.redis.stop();
    let (run, waiting) = a.back_up("t1");
    assert_eq!(waiting_for(&run).await, "waiting: the broker does not tell whether media is free");
    let only = PruneRequest { component: Some(ComponentName::Media), ..PruneRequest::default() };
    let error = a.engine.prune(only, &Run::default()).await.unwrap_err();
    assert!(matches!(error, EngineError::Fleet { .. }) && error.is_transient(), "{error:?}");
    lab.redis.start_again();
    a.open.notify_one();
    within(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_hosts_that_share_one_folder_never_wait_for_each_other() {
    let lab = Lab::new();
    let a = Host::new(&lab, "host1");
    let shared = a.dir.path().join("backups/.locks");
    let b = Host::new(&lab, "host2");
    let locks = Locks::new(shared);
    locks.join(Arc::new(RedisFleet::new(b.leases.locks().clone())));
    let owner = owner_on_host2();
    let others = tokio::spawn(async move {
        for _ in 0..6 {
            let meter = rna_backup::domain::progress::Meter::default();
            let held = locks.take(ComponentName::Media, &owner, Some(&meter), &SystemClock).await;
            held.unwrap().free().await;
        }
    });
    for n in 0..3 {
        a.done(&format!("t{n}")).await.unwrap();
    }
    within(others).await.unwrap();
}
