//! Every store, behind every fault: what a store rides out costs nothing of the contract, and of what it cannot
//! hide the caller learns.

use crate::store_contract::{content, holds_the_contract, key, read, upload};
use crate::support::{
    faulty::{self, Fault, Faults, Faulty, GOOD, Op},
    memory::Memory,
    s3::S3Server,
    s3_proxy::{Asked, BadLine, Line},
};
use bytes::Bytes;
use rna_backup::store::{LocalStore, ObjectKey, S3Config, S3Store, Store, StoreError};
use std::{
    any::Any,
    collections::HashSet,
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};
use tokio::io::AsyncReadExt as _;

/// A store with faults in front of it.
pub struct Bench {
    pub store: Arc<dyn Store>,
    /// The same place without them.
    real: Arc<dyn Store>,
    /// What keeps it alive.
    _guard: Box<dyn Any + Send>,
}

fn memory(faults: Faults) -> Ready<Bench> {
    let real = Arc::new(Memory::default());
    ready(Bench { store: Arc::new(Faulty::new(real.clone(), faults)), real, _guard: Box::new(()) })
}

fn local(faults: Faults) -> Ready<Bench> {
    let dir = tempfile::tempdir().unwrap();
    let real = Arc::new(LocalStore::open(dir.path().join("root"), 0).unwrap());
    ready(Bench { store: Arc::new(Faulty::new(real.clone(), faults)), real, _guard: Box::new(dir) })
}

async fn s3(server: &S3Server, prefix: &str) -> Bench {
    let mut config = server.bucket().await;
    config.prefix = S3Config::parse_prefix(prefix).unwrap();
    let real = Arc::new(S3Store::open(config, None).await.unwrap());
    Bench { store: real.clone(), real, _guard: Box::new(()) }
}

async fn line(rule: impl FnMut(&Asked) -> Line + Send + 'static) -> Bench {
    let mut config = S3Server::shared().bucket().await;
    let real = Arc::new(S3Store::open(config.clone(), None).await.unwrap());
    let guard = BadLine::to(&mut config, rule).await;
    Bench { store: Arc::new(S3Store::open(config, None).await.unwrap()), real, _guard: Box::new(guard) }
}

/// The first request of its kind gets this; one that comes again does not.
fn once(fault: fn(&Asked) -> Line) -> impl FnMut(&Asked) -> Line + Send {
    let mut seen = HashSet::new();
    move |asked| {
        let new = seen.insert(format!("{} {}", asked.method, asked.target));
        if new { fault(asked) } else { Line::Good }
    }
}

fn cut(asked: &Asked) -> Line {
    match asked.bytes {
        0 => Line::CutAnswer(100),
        bytes => Line::CutRequest(bytes / 2),
    }
}

fn wrong(asked: &Asked) -> Line {
    match asked.bytes {
        bytes if bytes > 0 && (asked.is_put() || asked.is_part()) => Line::FlipRequest(bytes / 2),
        _ => Line::Good,
    }
}

/// A module of tests for each row.
macro_rules! matrix {
    ($suite:ident: $($name:ident $bench:expr $(, $ends:expr)?;)*) => {
        $(mod $name {
            use super::*;
            $suite! { $bench $(, $ends)? }
        })*
    };
}

matrix! { holds_the_contract:
    memory_good memory(GOOD);
    memory_short memory(faulty::SHORT);
    memory_slow memory(faulty::SLOW);
    local_good local(GOOD);
    local_short local(faulty::SHORT);
    local_slow local(faulty::SLOW);
    s3_good s3(S3Server::shared(), "");
    s3_prefix s3(S3Server::shared(), "backups/lab");
    s3_of_another_make s3(S3Server::versity(), "backups/lab");
    s3_short line(|_| Line::SlowAnswer(16, Duration::ZERO));
    s3_slow line(|_| Line::SlowAnswer(3, Duration::from_millis(1)));
    s3_cut line(once(cut));
    s3_busy line(once(|_| Line::Busy));
    s3_lost line(once(|_| Line::LoseAnswer));
    s3_wrong line(once(wrong));
}

/// How an upload or a reading ends over a fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Well.
    Whole,
    /// With an error that may pass, and with nothing there.
    Nothing,
    /// With that error, and the object is there.
    Untold,
    /// Well, with bytes that are not those that were written.
    Wrong,
}
use End::{Nothing, Untold, Whole, Wrong};

const CUT: Faults = &[(Op::Write, Fault::CutAfter(70_000)), (Op::Open, Fault::CutAfter(20))];
const WRONG: Faults = &[(Op::ReadBack, Fault::Flip(20)), (Op::Open, Fault::Flip(20))];
const LOST: Faults =
    &[(Op::Commit, Fault::LoseReply), (Op::Put, Fault::LoseReply), (Op::Delete, Fault::LoseReply)];

fn cut_for_good(asked: &Asked) -> Line {
    match asked.bytes {
        0 if asked.is_get() => Line::CutAnswer(0),
        0 => Line::Good,
        bytes => Line::CutRequest(bytes / 2),
    }
}

fn wrong_answers(asked: &Asked) -> Line {
    if asked.is_get() { Line::FlipAnswer(20) } else { Line::Good }
}

fn lost_writes(asked: &Asked) -> Line {
    let writes = asked.is_put() || asked.is_complete() || asked.is_delete();
    if writes { Line::LoseAnswer } else { Line::Good }
}

/// Makes a test of each sentence that holds whatever happens, for a store where an upload and a reading end so.
macro_rules! stays_true {
    ($bench:expr, $ends:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn an_upload_is_there_whole_or_not_at_all() {
            super::an_upload_is_there_whole_or_not_at_all(&$bench.await, $ends.0).await;
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn nobody_takes_what_is_read_for_more_than_it_is() {
            super::nobody_takes_what_is_read_for_more_than_it_is(&$bench.await, $ends.1).await;
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn what_was_put_is_the_old_or_the_new() {
            super::what_was_put_is_the_old_or_the_new(&$bench.await).await;
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn what_was_deleted_is_gone_or_named() {
            super::what_was_deleted_is_gone_or_named(&$bench.await).await;
        }
    };
}

matrix! { stays_true:
    memory_cut_for_good memory(CUT), (Nothing, Wrong);
    memory_away memory(faulty::AWAY), (Nothing, Nothing);
    memory_wrong_for_good memory(WRONG), (Wrong, Wrong);
    memory_lost_for_good memory(LOST), (Untold, Whole);
    local_cut_for_good local(CUT), (Nothing, Wrong);
    local_away local(faulty::AWAY), (Nothing, Nothing);
    local_wrong_for_good local(WRONG), (Wrong, Wrong);
    local_lost_for_good local(LOST), (Untold, Whole);
    s3_cut_for_good line(cut_for_good), (Nothing, Nothing);
    s3_away line(|_| Line::Busy), (Nothing, Nothing);
    s3_wrong_for_good line(wrong_answers), (Wrong, Wrong);
    s3_lost_for_good line(lost_writes), (Whole, Whole);
}

/// What a small object needs, and what S3 sends in parts.
const LENGTHS: [usize; 2] = [100_000, 6 << 20];

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable { .. }))
}

/// Uploads as the engine does: reads back what is there, and gives up what is not what was written.
async fn prove(store: &dyn Store, key: &ObjectKey, bytes: &Bytes) -> Result<bool, StoreError> {
    let mut upload = store.begin(key, Some(1)).await?;
    let written =
        async {
            upload.write(bytes.clone()).await?;
            upload.end().await?;
            let mut back = Vec::new();
            upload.read_back().await?.read_to_end(&mut back).await.map_err(|err| {
                StoreError::Unavailable { op: "read back", key: key.clone(), source: err.into() }
            })?;
            Ok(back == *bytes)
        };
    match written.await {
        Ok(true) => upload.commit().await.map(|()| true),
        other => {
            upload.abort().await;
            other
        }
    }
}

async fn an_upload_is_there_whole_or_not_at_all(bench: &Bench, expected: End) {
    for len in LENGTHS {
        let (key, bytes) = (key(&format!("media/{len}")), content(len));
        let done = prove(&*bench.store, &key, &bytes).await;
        let there = bench.real.head(&key).await.is_ok();
        let end = match (&done, there) {
            (Ok(true), true) => Whole,
            (Ok(false), false) => Wrong,
            (Err(_), true) => Untold,
            (Err(_), false) => Nothing,
            other => panic!("{len}: {other:?}"),
        };
        assert!(end == expected && (done.is_ok() || is_unavailable(&done)), "{len}: {end:?} {done:?}");
        // Whoever looks knows what to do.
        let again = upload(&*bench.real, &key, &bytes).await;
        assert_eq!(there, matches!(again, Err(StoreError::Exists { .. })), "{len}: {again:?}");
        assert!(read(&*bench.real, &key).await == bytes, "{len}");
    }
    assert_eq!(bench.real.list(&key("media")).await.unwrap().len(), LENGTHS.len());
}

async fn nobody_takes_what_is_read_for_more_than_it_is(bench: &Bench, expected: End) {
    for len in LENGTHS {
        let (key, bytes) = (key(&format!("media/{len}")), content(len));
        upload(&*bench.real, &key, &bytes).await.unwrap();
        let mut found = Vec::new();
        let end = match bench.store.open(&key, None).await {
            Ok(mut body) => match body.read_to_end(&mut found).await {
                Ok(_) if found == bytes => Whole,
                Ok(_) => Wrong,
                Err(_) => Nothing,
            },
            opened => {
                assert!(is_unavailable(&opened));
                Nothing
            }
        };
        assert_eq!(end, expected, "{len}");
    }
}

async fn what_was_put_is_the_old_or_the_new(bench: &Bench) {
    let (key, old, new) = (key("media/a"), content(1000), content(2000));
    bench.real.put(&key, old.clone()).await.unwrap();
    let put = bench.store.put(&key, new.clone()).await;
    let found = read(&*bench.real, &key).await;
    assert!(if put.is_ok() { found == new } else { is_unavailable(&put) && (found == old || found == new) });
}

async fn what_was_deleted_is_gone_or_named(bench: &Bench) {
    let keys = ["media/a", "media/b", "media/c"].map(key);
    for key in &keys {
        bench.real.put(key, content(1000)).await.unwrap();
    }
    let deleted = bench.store.delete(&keys[0]).await;
    let mut left = bench.store.delete_all(&keys[1..]).await;
    left.extend(deleted.err().map(|err| (keys[0].clone(), err)));
    for (key, err) in &left {
        assert!(matches!(err, StoreError::Unavailable { .. }), "{key}: {err:?}");
    }
    for meta in bench.real.list(&key("media")).await.unwrap() {
        assert!(left.iter().any(|(key, _)| *key == meta.key), "{} is there, and nobody said so", meta.key);
        assert!(read(&*bench.real, &meta.key).await == content(1000));
    }
}
