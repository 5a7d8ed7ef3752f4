//! A lock of the fleet has one holder, who is alive, and who knows when it is so no more.

use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases, Record};
use celery_redis::lock::{HeldLock, Holder, Locks};
use celery_redis::sweep::LeaseKeeper;
use redis::AsyncCommands;
use std::process::{Child, Command};
use std::time::Duration;
use test_support::celery_lab::{Lab, client, until, within};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);

/// Another worker on the same Redis.
fn other(lab: &Lab, record: Record) -> Leases {
    Leases::new(client(&lab.redis), Keys::default(), Instance::new(record))
}

fn elsewhere() -> Record {
    Record { boot_id: Some("another-machine".to_owned()), ..Instance::here("far@lab").record().clone() }
}

fn keeper(leases: &Leases) -> LeaseKeeper {
    LeaseKeeper::new(leases.clone(), HOUR).with_patience(Duration::ZERO)
}

async fn take(locks: &Locks) -> Result<HeldLock, Holder> {
    locks.try_take("media", Some("t1")).await.unwrap()
}

async fn held(lab: &Lab) -> Vec<String> {
    lab.link().await.hkeys("celery-redis:locks").await.unwrap()
}

#[tokio::test]
async fn a_lock_has_one_holder_and_its_numbers_grow() {
    let lab = Lab::new();
    let (mine, far) = (lab.leases.locks(), other(&lab, elsewhere()));
    let lock = take(mine).await.unwrap();
    let busy = take(far.locks()).await.unwrap_err();
    assert_eq!(busy.to_string(), "test@lab (task t1)");
    assert_eq!(far.locks().holder("media").await.unwrap(), Some(busy));
    assert!(take(mine).await.is_err(), "not twice by the same worker either");
    let beside = mine.try_take("postgres", None).await.unwrap().unwrap();
    assert!(beside.token() > lock.token());
    assert_eq!(mine.holder("postgres").await.unwrap().unwrap().to_string(), "test@lab");

    assert!(lock.check().await.unwrap());
    let token = lock.token();
    lock.free().await.unwrap();
    let theirs = take(far.locks()).await.unwrap();
    assert!(theirs.token() > token);
    theirs.free().await.unwrap();
    beside.free().await.unwrap();
    assert_eq!(held(&lab).await, [""; 0]);
}

#[tokio::test]
async fn of_many_who_want_it_at_once_one_gets_it() {
    let lab = Lab::new();
    let workers: Vec<_> = (0..20).map(|_| other(&lab, elsewhere())).collect();
    let takes = workers.iter().map(|worker| take(worker.locks()));
    let got = futures_util::future::join_all(takes).await;
    assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 1);
}

#[tokio::test]
async fn the_lock_of_a_killed_process_is_freed_and_that_of_a_live_one_is_not() {
    let lab = Lab::new();
    let mut child: Child = Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let started = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let record =
        Record { pid: child.id(), started: Some(started), ..Instance::here("killed@lab").record().clone() };
    std::mem::forget(take(other(&lab, record).locks()).await.unwrap());

    let mut keeper = keeper(&lab.leases);
    keeper.round().await.unwrap();
    assert_eq!(take(lab.leases.locks()).await.unwrap_err().node, "killed@lab");
    child.kill().unwrap();
    child.wait().unwrap();
    keeper.round().await.unwrap();
    assert!(take(lab.leases.locks()).await.is_ok());
}

#[tokio::test]
async fn the_lock_of_a_worker_elsewhere_is_freed_when_its_record_has_ended() {
    let lab = Lab::new();
    let far = other(&lab, elsewhere());
    std::mem::forget(take(far.locks()).await.unwrap());
    let mut keeper = keeper(&lab.leases);
    keeper.round().await.unwrap();
    assert!(take(lab.leases.locks()).await.is_err(), "its record says that it is alive");
    let record = Keys::default().worker(far.instance().id());
    let life: u64 = lab.link().await.pttl(&record).await.unwrap();
    assert!((15_000..=20_000).contains(&life), "{life} ms");
    let _: usize = lab.link().await.del(&record).await.unwrap();
    LeaseKeeper::new(lab.leases.clone(), HOUR).round().await.unwrap();
    assert!(take(lab.leases.locks()).await.is_err(), "all records end while Redis is down");
    keeper.round().await.unwrap();
    assert!(take(lab.leases.locks()).await.is_ok());
}

#[tokio::test]
async fn a_dropped_lock_is_freed_at_once() {
    let lab = Lab::new();
    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper(&lab.leases).run(stop.clone()));
    let far = other(&lab, elsewhere());
    for _ in 0..3 {
        let began = std::time::Instant::now();
        drop(take(lab.leases.locks()).await.unwrap());
        until(async || held(&lab).await.is_empty()).await;
        take(far.locks()).await.unwrap().free().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "not only with the next round");
    }
    // As the last task of a worker that stops does.
    drop(take(lab.leases.locks()).await.unwrap());
    stop.cancel();
    within(running).await.unwrap();
    assert_eq!(held(&lab).await, [""; 0]);
}

#[tokio::test]
async fn a_lock_whose_taking_was_never_answered_is_freed() {
    let lab = Lab::new();
    // The same instance, but this lock is not in the hands of `lab.leases`.
    let unknown = Leases::new(lab.client.clone(), Keys::default(), lab.leases.instance().clone());
    std::mem::forget(take(unknown.locks()).await.unwrap());
    let in_hand = lab.leases.locks().try_take("postgres", None).await.unwrap().unwrap();
    keeper(&lab.leases).round().await.unwrap();
    assert_eq!(held(&lab).await, ["postgres"]);
    assert!(!in_hand.lost().is_cancelled());
    in_hand.free().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_was_away_for_too_long_learns_that_its_lock_is_lost() {
    let lab = Lab::new();
    let far = other(&lab, elsewhere());
    let lock = take(far.locks()).await.unwrap();
    let lost = lock.lost();
    let _: usize = lab.link().await.del(Keys::default().worker(far.instance().id())).await.unwrap();
    keeper(&lab.leases).round().await.unwrap();
    let taken_over = take(lab.leases.locks()).await.unwrap();
    assert!(!lost.is_cancelled());

    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper(&far).run(stop.clone()));
    within(lost.cancelled()).await;
    assert!(!lock.check().await.unwrap());
    // Also when the other one has come and gone: somebody worked in between.
    taken_over.free().await.unwrap();
    assert!(!lock.check().await.unwrap());
    lock.free().await.unwrap();
    stop.cancel();
    within(running).await.unwrap();
}

#[tokio::test]
async fn a_check_alone_sees_that_somebody_worked_in_between() {
    let lab = Lab::new();
    let far = other(&lab, elsewhere());
    let lock = take(far.locks()).await.unwrap();
    let mut link = lab.link().await;
    let _: usize = link.hdel("celery-redis:locks", "media").await.unwrap();
    take(lab.leases.locks()).await.unwrap().free().await.unwrap();
    assert!(!lock.check().await.unwrap());
    assert!(lock.lost().is_cancelled());
    assert_eq!(held(&lab).await, [""; 0]);
}

#[tokio::test]
async fn a_lock_outlives_the_memory_of_redis() {
    let lab = Lab::new();
    let lock = take(lab.leases.locks()).await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut lab.link().await).await.unwrap();
    keeper(&lab.leases).round().await.unwrap();
    assert!(!lock.lost().is_cancelled() && lock.check().await.unwrap());
    let far = other(&lab, elsewhere());
    assert!(take(far.locks()).await.is_err());
    let token = lock.token();
    lock.free().await.unwrap();
    assert!(take(far.locks()).await.unwrap().token() > token);
}

#[tokio::test]
async fn what_nobody_of_ours_wrote_there_harms_nobody() {
    let lab = Lab::new();
    let mut link = lab.link().await;
    for (name, holder) in [("media", "{}"), ("x", "\n"), ("y", r#"{"instance": "", "node": 1}"#)] {
        let _: usize = link.hset("celery-redis:locks", name, holder).await.unwrap();
    }
    let _: usize = link.hset("celery-redis:locks", b"\xff", b"\xff").await.unwrap();
    keeper(&lab.leases).round().await.unwrap();
    assert_eq!(take(lab.leases.locks()).await.unwrap_err().to_string(), "an unknown holder");
    let hostile = r#"{"instance": "i", "node": "a\nb", "task": "c\u001b", "token": 1}"#;
    let _: usize = link.hset("celery-redis:locks", "media", hostile).await.unwrap();
    assert_eq!(take(lab.leases.locks()).await.unwrap_err().to_string(), "ab (task c)");
}
