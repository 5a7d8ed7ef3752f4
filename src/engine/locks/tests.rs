use super::*;
use crate::base::clock::SystemClock;
use async_trait::async_trait;
use jiff::Timestamp;
use std::{fmt, sync::Mutex};

fn owner(task_id: &str) -> LockOwner {
    LockOwner { pid: 1, host: "lab".into(), task_id: Some(task_id.into()), recovers: false, loose: None }
}

async fn take(locks: &Locks, task_id: &str, wait: bool) -> Result<ComponentLock, EngineError> {
    let meter = Meter::default();
    locks.take(ComponentName::MEDIA, &owner(task_id), wait.then_some(&meter), &SystemClock).await
}

#[tokio::test]
async fn a_component_is_held_by_one_run_and_free_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join(".locks"));
    let held = take(&locks, "a", false).await.unwrap();
    let busy = take(&locks, "b", false).await.unwrap_err();
    assert_eq!(busy.to_string(), "media is busy: process 1 on lab (task a) works on it");

    let waiting = tokio::spawn({
        let locks = locks.clone();
        async move { take(&locks, "b", true).await.is_ok() }
    });
    drop(held);
    assert!(waiting.await.unwrap());
    assert!(take(&locks, "c", false).await.is_ok(), "the waiting run has ended too");
}

/// A clock by which something ends as soon as somebody waits.
struct Ends(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ends")
    }
}

#[async_trait]
impl Clock for Ends {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    async fn sleep(&self, _: Duration) {
        (self.0)();
    }
}

/// The clock by which a lock that is held becomes free.
fn freeing(held: ComponentLock) -> Ends {
    let held = Mutex::new(Some(held));
    Ends(Box::new(move || drop(held.lock().unwrap().take())))
}

#[tokio::test]
async fn a_command_waits_for_a_worker_that_looks_what_dead_runs_left() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join(".locks"));
    let look = LockOwner { recovers: true, task_id: None, ..owner("") };
    let held = locks.take(ComponentName::MEDIA, &look, None, &SystemClock).await.unwrap();
    let ends = freeing(held);
    let held = locks.take(ComponentName::MEDIA, &owner("a"), None, &ends).await;
    let ends = freeing(held.unwrap());
    locks.take(ComponentName::MEDIA, &owner("b"), None, &ends).await.unwrap_err();
}

#[tokio::test]
async fn a_look_that_does_not_end_is_said_after_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join(".locks"));
    let look = LockOwner { recovers: true, task_id: None, ..owner("") };
    let _held = locks.take(ComponentName::MEDIA, &look, None, &SystemClock).await.unwrap();
    let never = Ends(Box::new(|| ()));
    let busy = locks.take(ComponentName::MEDIA, &owner("a"), None, &never).await.unwrap_err();
    assert_eq!(
        busy.to_string(),
        "media is busy: process 1 on lab, putting right what a dead run left, works on it"
    );
}

#[tokio::test]
async fn what_a_dead_holder_left_is_told_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join(".locks"));
    let mut held = take(&locks, "a", false).await.unwrap();
    held.note(Some("media/x.tar.zst")).await.unwrap();
    drop(held); // as far as the file goes, a SIGKILL
    for _ in 0..2 {
        let held = take(&locks, "b", false).await.unwrap();
        assert_eq!(held.left_behind(), Some("media/x.tar.zst"));
    }
    let mut held = take(&locks, "c", false).await.unwrap();
    held.note(Some("media/y.tar.zst")).await.unwrap();
    drop(held);
    let mut held = take(&locks, "c", false).await.unwrap();
    assert_eq!(held.left_behind(), Some("media/x.tar.zst\nmedia/y.tar.zst"), "one is beside the other");
    held.leave(&[]).await.unwrap();
    drop(held);
    assert_eq!(take(&locks, "d", false).await.unwrap().left_behind(), None);
}

#[tokio::test]
async fn a_look_at_the_holder_stops_no_run_that_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().join(".locks"));
    let mut held = take(&locks, "a", false).await.unwrap();
    held.note(Some("media/x.tar.zst")).await.unwrap();
    drop(held); // as far as the file goes, a SIGKILL: the words of the dead stay
    let probe = File::open(locks.path(ComponentName::MEDIA)).unwrap();
    flock(&probe, FlockOperation::NonBlockingLockShared).unwrap();
    let held = locks
        .take(ComponentName::MEDIA, &owner("b"), None, &Ends(Box::new(move || release(&probe))))
        .await
        .unwrap();
    assert_eq!(held.left_behind(), Some("media/x.tar.zst"));
}

#[tokio::test]
async fn a_disk_that_hangs_stops_no_thread_of_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let locks = Locks::new(dir.path().to_owned());
    // A pipe is opened for reading once somebody opens it for writing.
    let pipe = locks.path(ComponentName::MEDIA);
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (alive, heard) = std::sync::mpsc::channel();
    let disk = std::thread::spawn(move || {
        let was_alive = heard.recv_timeout(Duration::from_secs(10)).is_ok();
        OpenOptions::new().write(true).open(pipe).unwrap();
        was_alive
    });
    let look = tokio::spawn(async move { locks.in_the_way(ComponentName::MEDIA).await });
    tokio::task::yield_now().await;
    alive.send(()).unwrap();
    assert_eq!(look.await.unwrap(), None);
    assert!(disk.join().unwrap(), "no other task ran while the disk hung");
}
