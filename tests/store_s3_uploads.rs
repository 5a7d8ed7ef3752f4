//! Uploads to a bucket, over a bad line above all: whole or nothing, and nothing left.

use crate::store_contract::{key, read, upload};
use crate::store_s3::{
    Kind, MIB, assert_arrived, assert_nothing_left, begin, behind, behind_for, content, first, patience,
    refusal, says, store_at, upload_long, upload_parts,
};
use crate::support::lab::eventually;
use crate::support::s3::{Bucket, S3Server};
use crate::support::s3_proxy::{Asked, BadLine, Line};
use rna_backup::base::chain;
use rna_backup::store::{Request, S3Config, S3Store, Store as _, StoreError};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::AsyncReadExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_up_in_equal_parts_or_at_once_when_it_is_one() {
    let (store, bucket, line) = behind(|_| Line::Good).await;
    upload_parts(&store).await.unwrap();
    let parts: Vec<_> =
        line.asked().iter().filter(|asked| asked.is_part()).map(|asked| asked.bytes).collect();
    let last = *parts.iter().min().unwrap();
    assert_eq!((parts.len(), last), (3, 2 * MIB));
    assert_eq!(parts.iter().filter(|len| **len == 5 * MIB).count(), 2);
    assert!(line.asked().iter().all(|asked| !asked.head.contains("x-amz-checksum")
        && !asked.head.contains("x-amz-trailer")
        && !asked.head.contains("aws-chunked")));
    assert!(
        line.asked()
            .iter()
            .filter(|asked| asked.is_part() || asked.is_put())
            .all(|asked| !asked.head.contains("unsigned-payload"))
    );

    let before = line.count(Asked::is_part);
    let (small, written) = begin(&store, 5 * MIB).await;
    written.unwrap();
    small.abort().await;
    store.delete(&key("media/a")).await.unwrap();
    let (one, written) = begin(&store, 5 * MIB).await;
    written.unwrap();
    one.commit().await.unwrap();
    assert_eq!((line.count(Asked::is_part), line.count(Asked::is_put)), (before, 1));
    assert_eq!(bucket.objects().await, ["media/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_part_need_not_wait_for_the_completion() {
    let (store, bucket, line) = behind(|_| Line::Good).await;
    for (len, parts) in [(12 * MIB, 3), (10 * MIB, 2)] {
        let before = line.count(Asked::is_part);
        let (mut upload, written) = begin(&store, len).await;
        written.unwrap();
        upload.end().await.unwrap();
        assert!(eventually(async || line.count(Asked::is_part) == before + parts).await);
        assert_eq!((line.count(Asked::is_complete), bucket.objects().await.len()), (0, 0));
        upload.abort().await;
    }
    let (mut upload, written) = begin(&store, 12 * MIB).await;
    written.unwrap();
    upload.end().await.unwrap();
    upload.commit().await.unwrap();
    assert_arrived(&store, &bucket).await;

    // One that is whole with its only part is not sent before its time.
    let (mut upload, written) = begin(&store, MIB).await;
    written.unwrap();
    store.delete(&key("media/a")).await.unwrap();
    upload.end().await.unwrap();
    assert_eq!((line.count(Asked::is_put), bucket.objects().await.len()), (0, 0));
    upload.commit().await.unwrap();
    assert_eq!(bucket.objects().await, ["media/a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_outgrows_its_parts_gets_longer_ones_next_time() {
    let mut config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    config.max_parts = 2;
    let line = BadLine::to(&mut config, |_| Line::Good).await;
    let store = store_at(config).await;

    let err = upload_long(&store, 24 * MIB).await.unwrap_err();
    assert!(err.is_transient());
    says(&err, &["write media/a", "longer than the 10485760 bytes that 2 parts of 5242880 hold"]);
    assert_nothing_left(&store, &bucket).await;

    let before = line.count(Asked::is_part);
    upload_long(&store, 24 * MIB).await.unwrap();
    assert_eq!(line.count(Asked::is_part) - before, 2);
    assert_eq!(store.head(&key("media/a")).await.unwrap().bytes, 24 << 20);
    store.wait_for_cleanup().await;
    assert_eq!(bucket.uploads().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_asked_again() {
    let mut config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    // Every other request is refused.
    let mut seen = HashSet::new();
    let _line = BadLine::to(&mut config, move |asked| {
        let new = seen.insert(format!("{} {}", asked.method, asked.target));
        if new { Line::Busy } else { Line::Good }
    })
    .await;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let told = requests.clone();
    let observer = Arc::new(move |request: Request| told.lock().unwrap().push(request));
    let store = S3Store::open(config, Some(observer)).await.unwrap();

    upload_parts(&store).await.unwrap();
    assert_arrived(&store, &bucket).await;
    assert_eq!(store.list(&key("media")).await.unwrap().len(), 1);
    store.delete(&key("media/a")).await.unwrap();
    let requests = requests.lock().unwrap();
    for op in ["head", "create_multipart", "upload_part", "complete_multipart", "get", "list", "delete"] {
        let of = |result, retry| requests.contains(&Request { op, result, retry });
        assert!(of("failed", false) && (of("ok", true) || of("refused", true)), "{op}: {requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_survives_a_line_that_breaks_once() {
    let kinds: [Kind; 4] = [
        ("create", Asked::is_create),
        ("part", Asked::is_part),
        ("complete", Asked::is_complete),
        ("head", |asked| asked.method == "HEAD"),
    ];
    let survive = |name, kind, line: Line| async move {
        let (store, bucket, proxy) = behind_for(patience(&line), first(1, kind, line.clone())).await;
        upload_parts(&store).await.unwrap_or_else(|err| panic!("{name} {line:?}: {}", chain(&err)));
        assert_arrived(&store, &bucket).await;
        assert!(proxy.count(kind) > 1, "{name} {line:?}");
    };
    for line in [Line::LoseAnswer, Line::CutAnswer(0), Line::BlackHole] {
        let all = kinds.into_iter().map(|(name, kind)| survive(name, kind, line.clone()));
        futures_util::future::join_all(all).await;
    }
    // What was damaged on the way is refused by the server, and what was cut is not taken.
    for line in [Line::FlipRequest(1000), Line::CutRequest(MIB)] {
        survive("part", Asked::is_part, line).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_one_part_survives_as_well_and_is_never_half() {
    let lines =
        [Line::LoseAnswer, Line::BlackHole, Line::Busy, Line::FlipRequest(70_000), Line::CutRequest(70_000)];
    let survive = |line: Line| async move {
        let (store, bucket, _line) = behind_for(patience(&line), first(1, Asked::is_put, line.clone())).await;
        let bytes = content(100_000);
        upload(&store, &key("media/a"), &bytes)
            .await
            .unwrap_or_else(|err| panic!("{line:?}: {}", chain(&err)));
        assert!(read(&store, &key("media/a")).await == bytes, "{line:?}");
        assert_eq!(bucket.uploads().await, [""; 0]);
    };
    futures_util::future::join_all(lines.map(survive)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_fails_for_good_leaves_nothing() {
    let kinds: [Kind; 3] =
        [("create", Asked::is_create), ("part", Asked::is_part), ("complete", Asked::is_complete)];
    let fail = |name, kind, line: Line| async move {
        let (store, bucket, _proxy) =
            behind_for(patience(&line), first(usize::MAX, kind, line.clone())).await;
        let err = upload_parts(&store).await.expect_err(name);
        assert!(err.is_transient(), "{name} {line:?}: {err:?}");
        says(&err, &["media/a", &bucket.name]);
        assert_nothing_left(&store, &bucket).await;
    };
    // A lost answer to a completion is no failure: the object is there and is found.
    for line in [Line::Busy, Line::LoseAnswer, Line::BlackHole] {
        let kinds = kinds.into_iter().filter(|(name, _)| *name != "complete" || line != Line::LoseAnswer);
        let all = kinds.map(|(name, kind)| fail(name, kind, line.clone()));
        futures_util::future::join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_or_given_up_leaves_nothing() {
    let (store, bucket, _line) = behind(|_| Line::Good).await;
    let (dropped, written) = begin(&store, 12 * MIB).await;
    written.unwrap();
    assert_eq!(bucket.uploads().await, ["media/a"]);
    drop(dropped);
    assert_nothing_left(&store, &bucket).await;

    let (mut whole, written) = begin(&store, 12 * MIB).await;
    written.unwrap();
    let mut back = Vec::new();
    whole.read_back().await.unwrap().read_to_end(&mut back).await.unwrap();
    assert!(back == content(12 * MIB));
    assert_eq!(bucket.objects().await, ["media/a"]);
    whole.abort().await;
    assert_nothing_left(&store, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_somebody_else_stays_when_an_upload_of_its_key_fails() {
    let (store, bucket, _line) = behind(first(usize::MAX, Asked::is_complete, Line::Busy)).await;
    let (upload, written) = begin(&store, 12 * MIB).await;
    written.unwrap();
    bucket.put("media/a", content(10)).await;
    let err = upload.commit().await.unwrap_err();
    assert!(matches!(err, StoreError::Exists { .. }), "{err:?}");
    assert_eq!(read(&store, &key("media/a")).await, content(10));
    assert_eq!(bucket.uploads().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_told_to_replace_nothing_and_believed() {
    // It looked as if nothing were there; meanwhile somebody has been quicker.
    let mut looked = false;
    let rule = move |asked: &Asked| match asked.method.as_str() {
        "HEAD" if !looked => {
            looked = true;
            Line::Say(404, String::new())
        }
        _ if asked.is_complete() || asked.is_put() => {
            assert!(asked.head.contains("if-none-match: *"));
            Line::Say(412, refusal("PreconditionFailed"))
        }
        _ => Line::Good,
    };
    for len in [MIB, 12 * MIB] {
        let (store, bucket, _line) = behind(rule).await;
        bucket.put("media/a", content(10)).await;
        let (upload, written) = begin(&store, len).await;
        written.unwrap();
        let err = upload.commit().await.unwrap_err();
        assert!(matches!(err, StoreError::Exists { .. }), "{err:?}");
        assert_eq!(read(&store, &key("media/a")).await, content(10));
        assert_eq!(bucket.uploads().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_told_so_is_asked_before() {
    let rule = |asked: &Asked| {
        let told = asked.head.contains("if-none-match");
        if told { Line::Say(501, refusal("NotImplemented")) } else { Line::Good }
    };
    let (store, bucket, line) = behind(rule).await;
    upload_parts(&store).await.unwrap();
    assert_arrived(&store, &bucket).await;
    let again = upload_parts(&store).await.unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again:?}");
    upload(&store, &key("media/b"), &content(10)).await.unwrap();
    assert_eq!(line.count(|asked| asked.head.contains("if-none-match")), 1, "it is not told again");
    assert!(!store.probe().await.unwrap().never_replaces);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_full_is_told_apart() {
    let full = Line::Say(403, refusal("QuotaExceeded"));
    let (store, bucket, _line) = behind(first(usize::MAX, Asked::is_part, full)).await;
    let err = upload_parts(&store).await.unwrap_err();
    assert!(matches!(err, StoreError::OverQuota { .. }) && err.is_transient(), "{err:?}");
    says(&err, &["media/a: quota is used up", "QuotaExceeded", "raise its quota"]);
    assert_nothing_left(&store, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_removes_dead_uploads_of_ours_and_no_living_or_foreign_ones() {
    let mut config = S3Server::shared().bucket().await;
    config.prefix = S3Config::parse_prefix("lab").unwrap();
    let bucket = Bucket::of(&config);
    let store = store_at(config).await;
    for name in ["lab/media/dead", "lab/media/deep/dead", "lab/other/a", "lab2/media/a", "media/a"] {
        bucket.begin_upload(name).await;
    }
    let (living, written) = begin(&store, 6 * MIB).await;
    written.unwrap();
    let folders = [key("media"), key("postgres")];
    let day = Duration::from_hours(24);
    assert_eq!(store.sweep_uploads(&folders, day).await.unwrap(), 0, "all are young");
    assert_eq!(store.sweep_uploads(&folders, Duration::ZERO).await.unwrap(), 2);
    let left: HashSet<_> = bucket.uploads().await.into_iter().collect();
    let stay = ["lab/other/a", "lab2/media/a", "media/a", "lab/media/a"];
    assert_eq!(left, stay.map(str::to_owned).into());
    living.commit().await.unwrap();
    assert_eq!(store.head(&key("media/a")).await.unwrap().bytes, 6 << 20);
}
