//! What every store promises, as tests over the trait alone. A new store gets rows in `store_matrix.rs`.

use bytes::Bytes;
use rna_backup::store::{ObjectKey, Store, StoreError};
use tokio::io::AsyncReadExt as _;

/// Makes a test of each sentence, for the store of the bench that the future `$bench` gives.
macro_rules! holds_the_contract {
    ($bench:expr) => {
        $crate::store_contract::holds_the_contract! { $bench;
            a_missing_object_is_not_found
            deleting_what_is_not_there_is_done_already
            what_was_committed_is_read_again
            nothing_is_visible_before_the_commit
            an_aborted_or_dropped_upload_leaves_nothing
            a_commit_never_replaces
            of_uploads_of_one_key_at_once_exactly_one_wins
            what_is_read_back_is_what_is_committed
            an_empty_object_is_an_object
            a_range_is_cut_at_the_end
            small_writes_and_large_ones_keep_their_order
            odd_keys_are_kept_as_they_are
            a_listing_is_sorted_and_of_one_folder
            put_replaces_and_is_whole
            what_is_deleted_at_once_is_gone_and_the_rest_stays
            a_location_leads_back_to_its_key
        }
    };
    ($bench:expr; $($sentence:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $sentence() {
            let bench = $bench.await;
            $crate::store_contract::$sentence(&*bench.store).await;
        })*
    };
}
pub(crate) use holds_the_contract;

pub fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// Bytes without a pattern that repeats within a block.
pub fn content(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

pub async fn read(store: &dyn Store, key: &ObjectKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(key, None).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

pub async fn upload(store: &dyn Store, key: &ObjectKey, bytes: &Bytes) -> Result<(), StoreError> {
    let mut upload = store.begin(key, None).await?;
    upload.write(bytes.clone()).await?;
    upload.commit().await
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(&key(prefix)).await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
}

fn is_not_found<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { .. }))
}

pub async fn a_missing_object_is_not_found(store: &dyn Store) {
    upload(store, &key("media/there"), &content(3)).await.unwrap();
    for missing in ["media/x", "x/y/z", "media", "media/there/below"] {
        assert!(is_not_found(&store.open(&key(missing), None).await), "{missing}");
        assert!(is_not_found(&store.head(&key(missing)).await), "{missing}");
    }
    assert_eq!(keys(store, "x").await, [""; 0]);
    assert_eq!(keys(store, "media/there").await, [""; 0], "a file is no folder");
}

pub async fn deleting_what_is_not_there_is_done_already(store: &dyn Store) {
    store.delete(&key("media/x")).await.unwrap();
    upload(store, &key("media/x"), &content(3)).await.unwrap();
    store.delete(&key("media/x")).await.unwrap();
    store.delete(&key("media/x")).await.unwrap();
    assert!(is_not_found(&store.head(&key("media/x")).await));
}

pub async fn what_was_committed_is_read_again(store: &dyn Store) {
    let (key, bytes) = (key("media/a.tar.zst"), content(5_000_000));
    upload(store, &key, &bytes).await.unwrap();
    assert!(read(store, &key).await == bytes);
    let meta = store.head(&key).await.unwrap();
    assert_eq!((&meta.key, meta.bytes), (&key, 5_000_000));
    let age = jiff::Timestamp::now().duration_since(meta.modified);
    assert!(age.abs().as_secs() < 60, "modified {age:?} ago");
    assert_eq!(store.list(&"media".parse().unwrap()).await.unwrap(), [meta]);
}

pub async fn nothing_is_visible_before_the_commit(store: &dyn Store) {
    let key = key("media/a");
    let mut upload = store.begin(&key, None).await.unwrap();
    for _ in 0..3 {
        upload.write(content(1_500_000)).await.unwrap();
        assert!(is_not_found(&store.head(&key).await) && is_not_found(&store.open(&key, None).await));
        assert_eq!(keys(store, "media").await, [""; 0]);
    }
    drop(upload.read_back().await.unwrap());
    if store.destination() == "local" {
        assert!(is_not_found(&store.head(&key).await), "S3 cannot hide what is whole");
    }
    upload.commit().await.unwrap();
    assert_eq!(keys(store, "media").await, ["media/a"]);
}

pub async fn an_aborted_or_dropped_upload_leaves_nothing(store: &dyn Store) {
    let key = key("media/a");
    for len in [0, 10, 3_000_000] {
        let mut aborted = store.begin(&key, None).await.unwrap();
        aborted.write(content(len)).await.unwrap();
        aborted.abort().await;
        let mut dropped = store.begin(&key, None).await.unwrap();
        dropped.write(content(len)).await.unwrap();
        drop(dropped);
        assert!(is_not_found(&store.head(&key).await));
        assert_eq!(keys(store, "media").await, [""; 0]);
    }
}

pub async fn a_commit_never_replaces(store: &dyn Store) {
    let (key, first) = (key("media/a"), content(10));
    upload(store, &key, &first).await.unwrap();
    let second = upload(store, &key, &content(20)).await;
    assert!(matches!(second, Err(StoreError::Exists { .. })), "{second:?}");
    assert_eq!(read(store, &key).await, first);
}

pub async fn of_uploads_of_one_key_at_once_exactly_one_wins(store: &dyn Store) {
    let key = key("media/deep/er/a");
    let uploads = (1..=8).map(|n| {
        let key = key.clone();
        async move { upload(store, &key, &content(n * 1000)).await.map(|()| n) }
    });
    let results = futures_util::future::join_all(uploads).await;
    let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(StoreError::Exists { .. }))));
    assert_eq!(read(store, &key).await, content(won[0] * 1000));
}

pub async fn what_is_read_back_is_what_is_committed(store: &dyn Store) {
    let (key, bytes) = (key("media/a"), content(3_333_333));
    let mut upload = store.begin(&key, None).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    for _ in 0..2 {
        let mut back = Vec::new();
        upload.read_back().await.unwrap().read_to_end(&mut back).await.unwrap();
        assert!(back == bytes);
    }
    upload.commit().await.unwrap();
    assert!(read(store, &key).await == bytes);
}

pub async fn an_empty_object_is_an_object(store: &dyn Store) {
    let key = key("media/empty");
    let mut upload = store.begin(&key, None).await.unwrap();
    upload.write(Bytes::new()).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(store.head(&key).await.unwrap().bytes, 0);
    assert_eq!(read(store, &key).await, b"");
}

pub async fn a_range_is_cut_at_the_end(store: &dyn Store) {
    let (key, bytes) = (key("media/a"), content(2_500_000));
    upload(store, &key, &bytes).await.unwrap();
    for (from, to) in
        [(0, 1), (0, 2_500_000), (7, 1_048_583), (2_499_999, 2_500_000), (5, 5), (2_400_000, 9_000_000)]
    {
        let mut part = Vec::new();
        let mut body = store.open(&key, Some(from as u64..to as u64)).await.unwrap();
        body.read_to_end(&mut part).await.unwrap();
        assert!(part == bytes[from..to.min(bytes.len())], "{from}..{to}");
    }
    for beyond in [2_500_000..2_500_001, 3_000_000..4_000_000] {
        let mut part = Vec::new();
        store.open(&key, Some(beyond)).await.unwrap().read_to_end(&mut part).await.unwrap();
        assert_eq!(part, b"");
    }
}

pub async fn small_writes_and_large_ones_keep_their_order(store: &dyn Store) {
    let (key, bytes) = (key("media/a"), content(4_000_000));
    let mut upload = store.begin(&key, None).await.unwrap();
    let (mut at, mut len) = (0, 1);
    while at < bytes.len() {
        let end = (at + len).min(bytes.len());
        upload.write(bytes.slice(at..end)).await.unwrap();
        (at, len) = (end, if len > 900_000 { 1 } else { len * 3 + 1 });
    }
    upload.commit().await.unwrap();
    assert!(read(store, &key).await == bytes);
}

pub async fn odd_keys_are_kept_as_they_are(store: &dyn Store) {
    let long = format!("media/{}", "x".repeat(250));
    let odd =
        ["media/a b", "media/ü/é ☃", "media/+%20&=?#", "media/-rf", "media/a..", "media/~", long.as_str()];
    for (n, odd) in odd.iter().enumerate() {
        upload(store, &key(odd), &content(n)).await.unwrap();
        assert_eq!(read(store, &key(odd)).await, content(n), "{odd}");
        assert_eq!(store.head(&key(odd)).await.unwrap().key.as_str(), *odd);
    }
    assert_eq!(keys(store, "media").await.len(), odd.len());
}

pub async fn a_listing_is_sorted_and_of_one_folder(store: &dyn Store) {
    for name in ["media/b", "media/a/z", "media/a-", "media-x/c", "mediax", "media/a.b", "media/B"] {
        upload(store, &key(name), &content(1)).await.unwrap();
    }
    assert_eq!(keys(store, "media").await, ["media/B", "media/a-", "media/a.b", "media/a/z", "media/b"]);
    assert_eq!(keys(store, "media/a").await, ["media/a/z"]);
    assert_eq!(keys(store, "med").await, [""; 0]);
}

pub async fn put_replaces_and_is_whole(store: &dyn Store) {
    let key = key("manifests/media/a.json");
    store.put(&key, content(100_000)).await.unwrap();
    let writer = async {
        for n in 1..=30 {
            store.put(&key, content(n * 10_000)).await.unwrap();
        }
    };
    let reader = async {
        for _ in 0..60 {
            let bytes = read(store, &key).await;
            assert!(bytes.len() % 10_000 == 0 && bytes == content(bytes.len()));
        }
    };
    tokio::join!(writer, reader);
    assert_eq!(store.head(&key).await.unwrap().bytes, 300_000);
    assert_eq!(keys(store, "manifests").await, ["manifests/media/a.json"]);
}

pub async fn what_is_deleted_at_once_is_gone_and_the_rest_stays(store: &dyn Store) {
    let all: Vec<_> = (0..7).map(|n| key(&format!("media/ü {n}&"))).collect();
    for key in &all {
        store.put(key, content(2)).await.unwrap();
    }
    let some = [&all[1..6], &[key("media/none"), key("none/media")]].concat();
    for _ in 0..2 {
        let left = store.delete_all(&some).await;
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(keys(store, "media").await, ["media/ü 0&", "media/ü 6&"]);
    }
    assert!(store.delete_all(&[]).await.is_empty());
}

pub async fn a_location_leads_back_to_its_key(store: &dyn Store) {
    let key = key("media/a b.tar.zst");
    assert_eq!(store.key_at(&store.location(&key)), Some(key));
    for outside in ["", "/etc/passwd", "../../etc/passwd", "/", "ftp://bucket/key"] {
        assert_eq!(store.key_at(outside), None, "{outside}");
    }
}
