//! Weaviate's own backups on real servers: orders that are lost, files that are missing or changed, and what a backup
//! leaves out.

use crate::catalog_rebuild::with_bucket;
use crate::support::{
    lab::{Lab, eventually},
    s3::{Bucket, S3Server},
    s3_proxy::{BadLine, Line},
    weaviate_contents::{id, vector},
    weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer},
};
use crate::weaviate::{backup, decode, restore};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, ComponentError, Target};
use rna_backup::domain::component::ComponentName;
use rna_backup::engine::StoreFolder;
use rna_backup::store::{S3Config, S3Store};
use serde_json::json;
use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::{io::AsyncRead, net::TcpStream};

/// A filled server that writes into a bucket, and the way into the bucket.
pub async fn in_bucket(version: &str) -> (WeaviateServer, S3Config) {
    let config = S3Server::shared().bucket().await;
    let server = Start::version(version).bucket(&config, "lab/weaviate").server().await;
    server.fill().await;
    (server, config)
}

/// A filled server of these settings that writes into a bucket, and its folder there.
pub async fn filled_in_bucket(start: Start) -> (WeaviateServer, Arc<StoreFolder>) {
    let config = S3Server::shared().bucket().await;
    let server = start.bucket(&config, "lab/weaviate").server().await;
    server.fill().await;
    (server, Arc::new(bucket_folder(&config).await))
}

/// The folder of Weaviate in a bucket.
pub async fn bucket_folder(config: &S3Config) -> StoreFolder {
    let mut config = config.clone();
    config.prefix = Some("lab".parse().unwrap());
    let store = S3Store::open(config, None).await.unwrap();
    StoreFolder::new(Arc::new(store), ComponentName::WEAVIATE).unwrap()
}

/// The keys of what Weaviate has written, in order.
async fn written(bucket: &Bucket) -> Vec<String> {
    let mut keys = bucket.objects().await;
    keys.retain(|key| key.starts_with("lab/weaviate/rna-"));
    keys.sort();
    keys
}

/// A folder whose first listing of each descriptor is from before the server wrote the descriptor for the last time.
#[derive(Debug)]
struct EarlyListing {
    bucket_folder: StoreFolder,
    listed: Mutex<Vec<String>>,
}

#[async_trait]
impl BucketFolder for EarlyListing {
    fn bucket(&self) -> &str {
        self.bucket_folder.bucket()
    }

    fn prefix(&self) -> String {
        self.bucket_folder.prefix()
    }

    async fn files(&self, folder: &str) -> Result<Vec<(String, u64)>, ComponentError> {
        let mut files = self.bucket_folder.files(folder).await?;
        for (path, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with("backup_config.json")) {
            let path = format!("{folder}/{path}");
            let mut listed = self.listed.lock().unwrap();
            if !listed.contains(&path) {
                listed.push(path);
                *bytes -= 27;
            }
        }
        Ok(files)
    }

    async fn open(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, ComponentError> {
        self.bucket_folder.open(path).await
    }

    async fn remove(&self, path: &str) -> Result<(), ComponentError> {
        self.bucket_folder.remove(path).await
    }
}

#[tokio::test]
async fn a_descriptor_that_is_written_again_after_it_was_listed_is_no_damage() {
    let (server, config) = in_bucket(NEWEST).await;
    let bucket_folder =
        EarlyListing { bucket_folder: bucket_folder(&config).await, listed: Mutex::default() };
    let weaviate = Weaviate::new(server.config(), Some(Arc::new(bucket_folder)));
    let before = server.contents().await;
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("s3"));
    server.spoil().await;
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);
}

/// What lies under a key, and the same with one bit changed in the last bytes: those are gzip's own checksum, which
/// Weaviate does not read.
async fn flipped(bucket: &Bucket, key: &str) -> (Bytes, Bytes) {
    let object = bucket.client.get_object().bucket(&bucket.name).key(key).send().await.unwrap();
    let good = object.body.collect().await.unwrap().into_bytes();
    let mut bad = good.to_vec();
    let last = bad.len() - 6;
    bad[last] ^= 1;
    (good, bad.into())
}

#[tokio::test]
async fn a_file_in_the_bucket_that_is_missing_cut_or_changed_is_named_before_anything_is_deleted() {
    let (server, config) = in_bucket(NEWEST).await;
    let bucket = Bucket::of(&config);
    let weaviate = Weaviate::new(server.config(), Some(Arc::new(bucket_folder(&config).await)));
    let before = server.contents().await;
    let (archive, _) = backup(&weaviate).await.unwrap();
    let all = written(&bucket).await;
    server.spoil().await;
    let live = server.contents().await;
    let key = all.iter().find(|key| key.contains("/Document/chunk-")).unwrap();
    let (good, bad) = flipped(&bucket, key).await;
    for bad in [None, Some(good.slice(..good.len() - 700)), Some(bad)] {
        match bad.clone() {
            None => drop(bucket.client.delete_object().bucket(&bucket.name).key(key).send().await.unwrap()),
            Some(bad) => bucket.put(key, bad).await,
        }
        let err = restore(&weaviate, &archive, &Target::Live).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{err:?}");
        assert!(chain(&err).contains(key.strip_prefix("lab/weaviate/").unwrap()), "{}", chain(&err));
    }
    assert!(server.contents().await == live);
    bucket.put(key, good).await;
    assert_eq!(written(&bucket).await, all, "nothing else was written or removed");
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);
}

#[tokio::test]
async fn a_changed_bit_in_the_bucket_is_found_by_verify_at_the_level_of_checksums() {
    let (server, config) = in_bucket(NEWEST).await;
    let bucket = Bucket::of(&config);
    let lab = Lab::new().set("BACKUP_COMPONENTS", "weaviate").set("WEAVIATE_URL", server.url());
    let lab = with_bucket(lab, &config).set("BACKUP_S3_PREFIX", "lab").set("RUST_LOG", "");
    assert_eq!(lab.json(&["backup", "weaviate"])["backend"], "s3");
    let call = ["verify", "weaviate", "--level", "checksum", "--json"];
    let (code, out, err) = lab.run(&call);
    assert_eq!(code, 0, "{out} {err}");
    let keys = written(&bucket).await;
    let key = keys.iter().find(|key| key.contains("/Document/chunk-")).unwrap();
    let (good, bad) = flipped(&bucket, key).await;
    bucket.put(key, bad).await;
    let (code, out, err) = lab.run(&call);
    assert_eq!(code, 4, "{out} {err}");
    assert!(out.contains(key.strip_prefix("lab/weaviate/").unwrap()), "{out}");
    bucket.put(key, good).await;
    let (code, out, err) = lab.run(&call);
    assert_eq!(code, 0, "{out} {err}");
}

/// The number of backups that were ordered of the server behind a line.
fn orders(line: &BadLine) -> usize {
    line.count(|asked| asked.method == "POST" && asked.target == "/v1/backups/filesystem")
}

/// Starts the server again once it has died, and waits until it is ready.
async fn rises(server: &mut WeaviateServer) {
    let address = server.address();
    eventually(async || TcpStream::connect(&address).await.is_err()).await;
    server.start_again();
    server.is_ready().await;
}

#[tokio::test]
async fn a_backup_whose_order_was_taken_by_a_server_that_died_is_ordered_anew_when_the_server_is_back() {
    for version in [OLDEST, NEWEST] {
        let mut server = Start::version(version).server().await;
        server.fill().await;
        let pid = server.pid();
        let mut kills = vec![Line::KillServer(pid)];
        let line = BadLine::before(&server.address(), move |asked| {
            let is_order = asked.method == "POST" && asked.target == "/v1/backups/filesystem";
            if is_order { kills.pop().unwrap_or(Line::Good) } else { Line::Good }
        })
        .await;
        let config = WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() };
        let weaviate = Weaviate::new(config, None);
        let before = server.contents().await;
        let begun = Instant::now();
        let (made, ()) = tokio::join!(backup(&weaviate), rises(&mut server));
        let (archive, facts) = made.unwrap();
        assert!(begun.elapsed() < server.config().timeout / 2, "{version}: {:?}", begun.elapsed());
        assert!(facts.backend.as_deref() == Some("filesystem") && orders(&line) >= 2, "{version} {facts:?}");
        // A server that is killed may lose an index that was just begun, and is backed up all the same.
        assert!(facts.warnings.iter().all(|warning| warning.contains("no vector index of")), "{facts:?}");
        assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
        assert_eq!(fs::read_dir(server.folder()).unwrap().count(), 0, "{version}");
        server.spoil().await;
        restore(&weaviate, &archive, &Target::Live).await.unwrap();
        let mut found = server.contents().await;
        found.remove("Later");
        assert!(found == before, "{version}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_is_waited_for_by_a_backup_and_by_a_restore() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    // The answers of 1.39.2 while nothing listens at BACKUP_S3_ENDPOINT.
    let away = |what: &str| {
        let cause = "get object contents from lab:rna/backup_config.json rna/backup_config.json: dial tcp \
                     127.0.0.1:9: connect: connection refused";
        Line::Say(422, json!({"error": [{"message": format!("{what}: {cause}")}]}).to_string())
    };
    let create = away("check if backup \"rna\" exists at \"s3://lab/rna\"");
    let mut answers = HashMap::from([(false, create), (true, away("find backup s3://lab/rna"))]);
    let line = BadLine::before(&server.address(), move |asked| {
        let is_order = asked.method == "POST" && asked.target.starts_with("/v1/backups/");
        let answer = if is_order { answers.remove(&asked.target.ends_with("/restore")) } else { None };
        answer.unwrap_or(Line::Good)
    })
    .await;
    let weaviate =
        Weaviate::new(WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() }, None);
    let before = server.contents().await;
    let (archive, _) = backup(&weaviate).await.unwrap();
    assert_eq!(orders(&line), 2);
    server.spoil().await;
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    assert_eq!(
        line.count(|asked| asked.method == "POST" && asked.target.ends_with("/restore")),
        before.len() + 1
    );
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);
}

/// Backs up vectors that were written a moment before by the server's own module, and finds one after the restore.
async fn fresh_vectors_are_found(server: &WeaviateServer, weaviate: &Weaviate, backend: &str) {
    let is_hnsw = |name: &str| json!({"class": name, "vectorizer": "none", "properties": []});
    // None of these needs an index on disk.
    server.make(is_hnsw("Empty")).await;
    server.make(is_hnsw("Texts")).await;
    server
        .make(json!({"class": "Flat", "vectorizer": "none", "vectorIndexType": "flat", "properties": []}))
        .await;
    server
        .make(json!({"class": "Skipped", "vectorizer": "none", "vectorIndexConfig": {"skip": true}, "properties": []}))
        .await;
    let object = |class: &str, number| json!({"class": class, "id": id(7, number), "vector": vector(number)});
    server
        .put(vec![object("Flat", 1), object("Skipped", 1), json!({"class": "Texts", "id": id(7, 1)})])
        .await;
    server.make(is_hnsw("Fresh")).await;
    // Only one of the last objects has a vector.
    let mut fresh: Vec<_> = (0..40).map(|number| json!({"class": "Fresh", "id": id(7, number)})).collect();
    fresh.push(object("Fresh", 99));
    server.put(fresh).await;
    let (archive, facts) = backup(weaviate).await.unwrap();
    assert_eq!((facts.counts.classes["Fresh"], facts.backend.as_deref()), (41, Some(backend)));
    assert_eq!(decode(weaviate, &archive).await.unwrap(), facts.counts);
    restore(weaviate, &archive, &Target::Live).await.unwrap();
    let query =
        format!("{{Get{{Fresh(limit:1,nearVector:{{vector:{:?}}}){{_additional{{id}}}}}}}}", vector(99));
    let found = server.ask(Method::POST, "/v1/graphql", Some(json!({"query": query}))).await;
    assert_eq!(found["data"]["Get"]["Fresh"][0]["_additional"]["id"], id(7, 99), "{found}");
}

#[tokio::test]
async fn vectors_that_were_written_a_moment_before_a_backup_are_found_after_its_restore() {
    let server = Start::version(OLDEST).server().await;
    fresh_vectors_are_found(&server, &Weaviate::new(server.config(), None), "filesystem").await;
    let (server, config) = in_bucket(OLDEST).await;
    let bucket_folder = Arc::new(bucket_folder(&config).await);
    fresh_vectors_are_found(&server, &Weaviate::new(server.config(), Some(bucket_folder)), "s3").await;
}

#[tokio::test]
async fn a_backup_that_a_dead_run_has_left_under_way_is_waited_for_and_removed() {
    let server = Start::version(OLDEST).server().await;
    server.fill().await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", server.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display());
    let mut dying = lab.program(&["backup", "weaviate"]).spawn().unwrap();
    eventually(async || {
        fs::read_dir(server.folder())
            .unwrap()
            .any(|entry| entry.unwrap().path().join("backup_config.json").exists())
    })
    .await;
    dying.kill().unwrap();
    dying.wait().unwrap();
    let report = lab.json(&["backup", "weaviate"]);
    assert_eq!(
        (&report["backend"], &report["verified"]),
        (&json!("filesystem"), &json!("decode")),
        "{report}"
    );
    lab.json(&["backup", "weaviate"]);
    assert_eq!(fs::read_dir(server.folder()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_backup_comes_back_on_a_node_of_another_name_where_the_server_can_do_that() {
    let config = S3Server::shared().bucket().await;
    let into_bucket = |start: Start| start.bucket(&config, "lab/weaviate");
    for (version, by_bucket, comes_back) in
        [(OLDEST, false, false), (NEWEST, false, true), (NEWEST, true, true)]
    {
        let start = |name: &str| {
            let start = Start::version(version).set("CLUSTER_HOSTNAME", name);
            if by_bucket { into_bucket(start) } else { start }
        };
        let bucket_folder = Arc::new(bucket_folder(&config).await);
        let component = |server: &WeaviateServer| {
            Weaviate::new(server.config(), by_bucket.then(|| bucket_folder.clone() as Arc<dyn BucketFolder>))
        };
        let server = start("node1").server().await;
        server.fill().await;
        let before = server.contents().await;
        let (archive, facts) = backup(&component(&server)).await.unwrap();
        assert_eq!(facts.backend.as_deref(), Some(if by_bucket { "s3" } else { "filesystem" }));
        drop(server);
        let other = start("other").server().await;
        let weaviate = component(&other);
        let restored = restore(&weaviate, &archive, &Target::Live).await;
        if comes_back {
            restored.unwrap();
            assert!(other.contents().await == before);
        } else {
            let why = chain(&restored.unwrap_err());
            assert!(why.contains("set CLUSTER_HOSTNAME of Weaviate to node1"), "{why}");
            assert_eq!(other.classes().await.len(), 0);
        }
    }
}

#[tokio::test]
async fn inactive_tenants_are_in_the_backups_of_a_server_that_keeps_them_and_come_back_in_place() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    let before = server.objects("Sample", Some("wet")).await;
    let switch = async |state: &str| {
        let tenant = json!([{"name": "wet", "activityStatus": state}]);
        server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(tenant)).await;
    };
    switch("INACTIVE").await;
    let weaviate = Weaviate::new(server.config(), None);
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert_eq!(facts.warnings, [""; 0]);
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    switch("ACTIVE").await;
    assert!(!before.is_empty() && server.objects("Sample", Some("wet")).await == before);
}
