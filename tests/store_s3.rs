//! What a store in a bucket promises beyond the contract of every store, over a bad line above all: what is read,
//! listed and deleted.

use crate::store_contract::{self, key, read, upload};
use crate::support::s3::{Bucket, S3Server, SECRET};
use crate::support::s3_proxy::{Asked, BadLine, Line};
use bytes::Bytes;
use rna_backup::base::chain;
use rna_backup::store::{S3Config, S3Store, Store as _, StoreError, Upload};
use std::{sync::LazyLock, time::Duration};
use tokio::io::AsyncReadExt as _;

pub const MIB: usize = 1 << 20;

/// The first bytes of one long content, which takes its time to make.
pub fn content(len: usize) -> Bytes {
    static ALL: LazyLock<Bytes> = LazyLock::new(|| store_contract::content(24 * MIB));
    ALL.slice(..len)
}

/// When a dead server is known as such very soon.
pub const SOON: Duration = Duration::from_millis(400);

/// Told that an object has so many bytes, a store divides it into parts of 5 MiB.
pub const SHORT: Option<u64> = Some(1);

pub async fn store_at(config: S3Config) -> S3Store {
    S3Store::open(config, None).await.unwrap()
}

/// A bucket behind a line that does what `rule` says.
pub async fn behind(rule: impl FnMut(&Asked) -> Line + Send + 'static) -> (S3Store, Bucket, BadLine) {
    behind_for(Duration::from_secs(20), rule).await
}

/// How long a server may do nothing: one under load is slow as well, so not long only where it is waited for.
pub fn patience(line: &Line) -> Duration {
    Duration::from_secs(if *line == Line::BlackHole { 1 } else { 20 })
}

/// The same with another patience.
pub async fn behind_for(
    patience: Duration,
    rule: impl FnMut(&Asked) -> Line + Send + 'static,
) -> (S3Store, Bucket, BadLine) {
    let mut config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    config.patience = patience;
    let line = BadLine::to(&mut config, rule).await;
    (store_at(config).await, bucket, line)
}

/// A kind of request, by name.
pub type Kind = (&'static str, fn(&Asked) -> bool);

/// The rule that does something to the first requests of a kind, and nothing to others.
pub fn first(
    times: usize,
    kind: impl Fn(&Asked) -> bool + Send + 'static,
    line: Line,
) -> impl FnMut(&Asked) -> Line + Send {
    let mut left = times;
    move |asked| match left {
        1.. if kind(asked) => {
            left -= 1;
            line.clone()
        }
        _ => Line::Good,
    }
}

pub async fn begin(store: &S3Store, len: usize) -> (Box<dyn Upload>, Result<(), StoreError>) {
    let mut upload = store.begin(&key("media/a"), SHORT).await.unwrap();
    for at in (0..len).step_by(MIB) {
        if let Err(err) = upload.write(content(len).slice(at..len.min(at + MIB))).await {
            return (upload, Err(err));
        }
    }
    (upload, Ok(()))
}

/// Uploads an object of three parts, and ends it as the engine does.
pub async fn upload_parts(store: &S3Store) -> Result<(), StoreError> {
    upload_long(store, 12 * MIB).await
}

pub async fn upload_long(store: &S3Store, len: usize) -> Result<(), StoreError> {
    let (upload, written) = begin(store, len).await;
    match written {
        Ok(()) => upload.commit().await,
        Err(err) => {
            upload.abort().await;
            Err(err)
        }
    }
}

pub async fn assert_nothing_left(store: &S3Store, bucket: &Bucket) {
    store.wait_for_cleanup().await;
    assert_eq!(bucket.objects().await, [""; 0]);
    assert_eq!(bucket.uploads().await, [""; 0]);
}

pub async fn assert_arrived(store: &S3Store, bucket: &Bucket) {
    store.wait_for_cleanup().await;
    assert!(read(store, &key("media/a")).await == content(12 * MIB));
    assert_eq!(bucket.uploads().await, [""; 0]);
}

pub fn says(err: &StoreError, words: &[&str]) {
    let text = chain(err);
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    let debug = format!("{err:?}");
    assert!(![SECRET, "Signature="].iter().any(|secret| text.contains(secret) || debug.contains(secret)));
}

/// What a server says that refuses, as [`Line::Say`] takes it.
pub fn refusal(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>no</Message></Error>")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_where_they_were_cut() {
    let cuts = [Line::CutAnswer(0), Line::CutAnswer(3 * MIB), Line::BlackHole, Line::Busy, Line::LoseAnswer];
    let resume = |line: Line| async move {
        let (store, _, proxy) = behind_for(patience(&line), first(2, Asked::is_get, line.clone())).await;
        upload_parts(&store).await.unwrap();
        assert!(read(&store, &key("media/a")).await == content(12 * MIB), "{line:?}");
        assert_eq!(proxy.count(Asked::is_get), 4, "{line:?}: two ranges, and two attempts in vain");
        let resumed = proxy.count(|asked| asked.head.contains("range: bytes=3145728-8388607"));
        assert_eq!(resumed, usize::from(line == Line::CutAnswer(3 * MIB)), "{line:?}");
    };
    futures_util::future::join_all(cuts.map(resume)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_slowly_is_not_taken_for_dead() {
    // Twice as long as the patience, and always in motion.
    let patience = Duration::from_secs(3);
    let pause = patience / 6;
    let (store, _, proxy) = behind_for(patience, first(1, Asked::is_get, Line::SlowAnswer(12, pause))).await;
    upload(&store, &key("media/a"), &content(MIB)).await.unwrap();
    assert!(read(&store, &key("media/a")).await == content(MIB));
    assert_eq!(proxy.count(Asked::is_get), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changes_while_it_is_read_is_not_mixed() {
    let (store, bucket, _line) = behind(|_| Line::Good).await;
    for gone in [false, true] {
        bucket.put("media/a", content(24 * MIB)).await;
        let mut body = store.open(&key("media/a"), None).await.unwrap();
        if gone {
            store.delete(&key("media/a")).await.unwrap();
        } else {
            bucket.put("media/a", vec![7; 24 * MIB].into()).await;
        }
        let mut bytes = Vec::new();
        let err = body.read_to_end(&mut bytes).await.unwrap_err();
        assert!(err.to_string().contains("meanwhile"), "{err}");
        assert!(content(24 * MIB).starts_with(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_stops_the_reading() {
    let (store, bucket, proxy) = behind(|_| Line::Good).await;
    bucket.put("media/a", content(24 * MIB)).await;
    let mut body = store.open(&key("media/a"), None).await.unwrap();
    body.read_exact(&mut [0; 10]).await.unwrap();
    drop(body);
    store.wait_for_cleanup().await;
    assert!(proxy.count(Asked::is_get) <= 2, "one that is read and one ahead");
}

/// One page of a listing of `total` objects, as the server would send it.
fn page(asked: &Asked, total: usize) -> Line {
    let from = asked
        .target
        .split("continuation-token=")
        .nth(1)
        .map_or(0, |rest| rest.split('&').next().unwrap().parse().unwrap());
    let end = total.min(from + 1000);
    let mut text = String::from("<ListBucketResult>");
    for n in from..end {
        let key = format!("<Key>manifests/media/{n:06}.json</Key>");
        let rest = "<LastModified>2026-11-22T02:00:00.123Z</LastModified><Size>7</Size>";
        text += &format!("<Contents>{key}{rest}</Contents>");
    }
    let next = format!("<NextContinuationToken>{end}</NextContinuationToken>");
    text += &format!("<IsTruncated>{}</IsTruncated>{next}</ListBucketResult>", end < total);
    Line::Say(200, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_many_pages_is_whole() {
    let (store, _, line) = behind(|asked| page(asked, 12_345)).await;
    let listed = store.list(&key("manifests")).await.unwrap();
    let keys: Vec<_> = (0..12_345).map(|n| key(&format!("manifests/media/{n:06}.json"))).collect();
    assert!(listed.iter().map(|meta| &meta.key).eq(&keys), "{} are listed", listed.len());
    assert_eq!(line.asked().len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_objects_are_deleted_in_one_request_and_those_that_the_answer_does_not_name_once_more() {
    let (store, _, line) = behind(|_| Line::Good).await;
    let keys: Vec<_> = (0..5).map(|n| key(&format!("media/ü {n}&"))).collect();
    for key in &keys {
        store.put(key, content(2)).await.unwrap();
    }
    let before = line.asked().len();
    let left = store.delete_all(&keys).await;
    assert!(left.is_empty(), "{left:?}");
    // The answer of this gateway has an empty element for each object that is deleted.
    assert_eq!(line.asked().len() - before, 1 + keys.len());
    assert_eq!(store.list(&key("media")).await.unwrap(), []);
    let told = |asked: &Asked| {
        let deleted = |n| format!("<Deleted><Key>media/{n}</Key></Deleted>");
        let all: String = (0..3).map(deleted).collect();
        assert!(asked.target.ends_with("?delete"), "{asked:?}");
        Line::Say(200, format!("<DeleteResult>{all}</DeleteResult>"))
    };
    let (store, _, line) = behind(told).await;
    assert!(store.delete_all(&[0, 1, 2].map(|n| key(&format!("media/{n}")))).await.is_empty());
    assert_eq!(line.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_are_locked_are_named_and_others_deleted() {
    let refusal = "<DeleteResult><Error><Key>media/a</Key><Code>AccessDenied</Code><Message>Object is WORM protected \
                   and cannot be overwritten</Message></Error></DeleteResult>";
    let rule = |asked: &Asked| {
        if asked.target.ends_with("?delete") {
            Line::Say(200, refusal.to_owned())
        } else {
            Line::Say(204, String::new())
        }
    };
    let (store, _, line) = behind(rule).await;
    let keys: Vec<_> =
        std::iter::once(key("media/a")).chain((0..1500).map(|n| key(&format!("media/{n}")))).collect();
    let refused = store.delete_all(&keys).await;
    assert_eq!(line.count(|asked| asked.target.ends_with("?delete")), 2, "a thousand at a time");
    assert_eq!(line.count(|asked| asked.method == "DELETE"), 1500, "of whose fate the answers say nothing");
    assert_eq!(refused.len(), 1);
    for (locked, err) in refused {
        assert!(locked == key("media/a") && matches!(err, StoreError::Locked { .. }));
        says(&err, &["delete media/a", "AccessDenied", "WORM"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_has_deleted_nobody_knows_what() {
    let (store, bucket, line) = behind(|asked| {
        if asked.target.ends_with("?delete") { Line::Say(501, refusal("NotImplemented")) } else { Line::Good }
    })
    .await;
    let keys: Vec<_> = (0..3).map(|n| key(&format!("media/{n}"))).collect();
    for key in &keys {
        store.put(key, content(2)).await.unwrap();
    }
    // One that has no request for many is asked for each.
    assert!(store.delete_all(&keys).await.is_empty());
    assert_eq!(line.count(|asked| asked.method == "DELETE"), 3);
    assert_eq!(bucket.objects().await, [""; 0]);

    let (store, ..) = behind(|_| Line::Busy).await;
    let left = store.delete_all(&keys).await;
    assert!(left.iter().map(|(key, _)| key).eq(&keys));
    assert!(left.iter().all(|(_, err)| matches!(err, StoreError::Unavailable { .. })), "{left:?}");
}
