//! Asking real Weaviate servers: counts, servers that start or are away, and keys with few rights.

use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::vector;
use crate::support::weaviate_server::{NEWEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, decode, restore, weaviate};
use crate::weaviate_faults::{BOTH, deletes_a_class, filled};
use crate::weaviate_jobs::filled_in_bucket;
use async_trait::async_trait;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, ComponentError, Restorable, Source, Target, Undo};
use rna_backup::domain::progress::Meter;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncRead, sync::mpsc};

/// Fresh objects of a class without tenants: nothing of them is on disk yet.
async fn fresh(server: &WeaviateServer) {
    server
        .make(json!({"class": "Document", "vectorizer": "none",
        "properties": [{"name": "page", "dataType": ["int"]}]}))
        .await;
    let document =
        |page: u32| json!({"class": "Document", "vector": [0.5, page], "properties": {"page": page}});
    server.put((0..300).map(document).collect()).await;
}

#[tokio::test]
async fn fresh_objects_are_backed_up_and_brought_back_by_a_server_without_graphql() {
    let lanes = BOTH.map(|version| {
        [BackendSetting::Filesystem, BackendSetting::Export].map(|backend| (version, backend))
    });
    for (version, backend) in [lanes.concat(), vec![(NEWEST, BackendSetting::S3)]].concat() {
        // A class without tenants, one that refers to it, and one with tenants: nothing of them is on disk yet.
        let start = Start::version(version).set("DISABLE_GRAPHQL", "true");
        let (server, bucket_folder) = if backend == BackendSetting::S3 {
            let (server, bucket_folder) = filled_in_bucket(start).await;
            (server, Some(bucket_folder as Arc<dyn BucketFolder>))
        } else {
            (filled(start).await, None)
        };
        let before = server.contents().await;
        let weaviate =
            Weaviate::new(WeaviateConfig { backend, second: SECOND, ..server.config() }, bucket_folder);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let wanted = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
        let wanted = wanted.map(|(class, count)| (class.to_owned(), count)).into();
        assert_eq!(facts.counts.classes, wanted, "{version} {backend:?}");
        let is_known = |warning: &&String| warning.contains("an export brings objects back");
        let others: Vec<_> = facts.warnings.iter().filter(|warning| !is_known(warning)).collect();
        assert!(others.is_empty(), "{version} {backend:?} {others:?}");
        let late = |class: &str, properties: Value| json!({"class": class, "vector": vector(9), "properties": properties});
        let mut sample = late("Sample", json!({"name": "late"}));
        sample["tenant"] = json!("wet");
        server.put(vec![late("Document", json!({"page": 999})), sample]).await;
        let spoiled = server.contents().await;
        restore(&weaviate, &archive, &Target::Live).await.unwrap();
        assert!(server.contents().await == before, "{version} {backend:?}");
        weaviate.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == spoiled, "{version} {backend:?}");
    }
}

#[tokio::test]
async fn many_tenants_and_classes_are_counted_by_few_questions() {
    let server = Start::version(NEWEST).server().await;
    server
        .make(json!({"class": "Sample", "vectorizer": "none", "multiTenancyConfig": {"enabled": true}}))
        .await;
    let tenants: Vec<_> = (0..1000).map(|number| json!({"name": format!("lab{number}")})).collect();
    for some in tenants.chunks(100) {
        server.ask(Method::POST, "/v1/schema/Sample/tenants", Some(json!(some))).await;
    }
    server
        .put(vec![
            json!({"class": "Sample", "tenant": "lab7"}),
            json!({"class": "Sample", "tenant": "lab999"}),
        ])
        .await;
    for number in 0..20 {
        server.make(json!({"class": format!("Class{number}"), "vectorizer": "none"})).await;
    }
    let line = BadLine::before(&server.address(), |_| Line::Good).await;
    let config = WeaviateConfig {
        server: line.url().parse().unwrap(),
        backend: BackendSetting::Export,
        ..server.config()
    };
    let plan = Weaviate::new(config, None).plan(&Target::Live, None).await.unwrap();
    assert!(plan.replaces.contains("Sample (2 objects)"), "{}", plan.replaces);
    assert!(line.asked().len() < 20, "{} requests", line.asked().len());
}

/// The route of a request, without names: requests of one kind share it.
fn kind(asked: &Asked) -> String {
    let path = asked.target.split('?').next().unwrap();
    let route: Vec<_> = path.split('/').skip(2).take(1).collect();
    let tail = if path.ends_with("/tenants") { "/tenants" } else { "" };
    format!("{} {}{tail}", asked.method, route.concat())
}

#[tokio::test]
async fn a_server_that_dies_at_each_kind_of_request_of_a_backup_is_waited_for() {
    let mut server = Start::version(NEWEST).server().await;
    server.fill().await;
    let (dead, mut deaths) = mpsc::unbounded_channel();
    let (pids, mut pid) = (Arc::new(std::sync::Mutex::new(server.pid())), None);
    let known = pids.clone();
    let mut left = BTreeSet::from(["GET schema", "GET schema/tenants", "POST graphql", "GET objects"]);
    let line = BadLine::before(&server.address(), move |asked| {
        let current = *known.lock().unwrap();
        // One death at a time: the next kind is due when the server has been started again.
        if pid != Some(current) && left.remove(kind(asked).as_str()) {
            pid = Some(current);
            kill_process(Pid::from_raw(current).unwrap(), Signal::KILL).unwrap();
            dead.send(()).unwrap();
        }
        Line::Good
    })
    .await;
    let config = WeaviateConfig {
        server: line.url().parse().unwrap(),
        backend: BackendSetting::Export,
        ..server.config()
    };
    let weaviate = Weaviate::new(config, None);
    let mut starts = 0;
    let made = tokio::select! {
        made = backup(&weaviate) => made,
        () = async {
            while deaths.recv().await.is_some() {
                server.start_again();
                *pids.lock().unwrap() = server.pid();
                starts += 1;
            }
        } => unreachable!("the line lives longer"),
    };
    assert_eq!(starts, 4);
    let (archive, facts) = made.unwrap();
    let objects = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
    assert_eq!(facts.counts.classes, objects.map(|(class, count)| (class.to_owned(), count)).into());
    assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
}

/// The answers of a server that listens and has not loaded its classes, as real servers give them for some seconds.
fn starting(asked: &Asked) -> Line {
    let says =
        |status, message: &str| Line::Say(status, format!(r#"{{"error":[{{"message":"{message}"}}]}}"#));
    match kind(asked).as_str() {
        "GET .well-known" => Line::Say(503, String::new()),
        "GET objects" => Line::Say(404, String::new()),
        "POST graphql" => {
            says(422, "no graphql provider present, this is most likely because no schema is present")
        }
        "POST backups" => says(422, "class Document doesn't exist"),
        kind if kind.contains("schema") => says(
            403,
            "could not read schema with strong consistency: failed to execute query: leader not found",
        ),
        _ => Line::Good,
    }
}

#[tokio::test]
async fn nothing_that_a_starting_server_says_is_believed() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    for backend in [BackendSetting::Export, BackendSetting::Filesystem] {
        // The server is started anew at the first request of each kind, and loads until it was asked three times.
        let (mut known, mut left) = (BTreeSet::new(), 0);
        let line = BadLine::before(&server.address(), move |asked| {
            let kind = kind(asked);
            if left == 0 && kind != "GET .well-known" && known.insert(kind.clone()) {
                left = 3;
            }
            if left == 0 {
                return Line::Good;
            }
            left -= u32::from(kind == "GET .well-known");
            starting(asked)
        })
        .await;
        let config = WeaviateConfig { backend, second: Duration::from_millis(100), ..server.config() };
        let config = WeaviateConfig { server: line.url().parse().unwrap(), ..config };
        let weaviate = Weaviate::new(config, None);
        let before = server.contents().await;
        let (archive, facts) = backup(&weaviate).await.unwrap();
        assert_eq!(facts.counts.classes["Document"], 300);
        let is_known = |warning: &&String| warning.contains("an export brings objects back");
        assert_eq!(facts.warnings.iter().find(|warning| !is_known(warning)), None);
        restore(&weaviate, &archive, &Target::custom("include", ["Protocol"])).await.unwrap();
        let mut found = server.contents().await;
        assert!(found["Protocol"] == before["Protocol"], "{backend:?}");
        found.retain(|class, _| class != "Protocol");
        assert!(found.iter().all(|(class, content)| before[class] == *content), "{backend:?}");
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_while_classes_are_missing() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    let before = server.contents().await;
    let mut asked_so_far = BTreeMap::<String, u32>::new();
    let mut is_replacing = false;
    let line = BadLine::before(&server.address(), move |asked| {
        is_replacing |= deletes_a_class(asked);
        let is_repeated = asked.method != "POST" || !asked.target.starts_with("/v1/schema");
        let times = asked_so_far.entry(kind(asked)).or_default();
        // More often than the usual patience lasts.
        if is_replacing && is_repeated && *times < 10 {
            *times += 1;
            return Line::Say(500, r#"{"error":[{"message":"in trouble"}]}"#.to_owned());
        }
        Line::Good
    })
    .await;
    let direct = Weaviate::new(WeaviateConfig { backend: BackendSetting::Export, ..server.config() }, None);
    let (archive, _) = backup(&direct).await.unwrap();
    server.spoil().await;
    let second = Duration::from_millis(10);
    let config = WeaviateConfig {
        server: line.url().parse().unwrap(),
        backend: BackendSetting::Export,
        second,
        ..server.config()
    };
    let only = Target::custom("include", ["Document", "Protocol"]);
    restore(&Weaviate::new(config, None), &archive, &only).await.unwrap();
    let found = server.contents().await;
    for class in ["Document", "Protocol"] {
        assert!(found[class] == before[class], "{class}");
    }
}

#[tokio::test]
async fn a_class_of_a_namespace_is_an_error_and_never_left_out_and_a_module_that_a_class_lacks_is_told() {
    for version in BOTH {
        let server = filled(Start::version(version)).await;
        // A server of these settings has no namespaces: its answer is changed on the way.
        let schema = async |change: &dyn Fn(&mut Value)| {
            let mut schema = server.ask(Method::GET, "/v1/schema", None).await;
            change(&mut schema["classes"][0]);
            let text = schema.to_string();
            let rule = move |asked: &Asked| {
                if asked.target == "/v1/schema" { Line::Say(200, text.clone()) } else { Line::Good }
            };
            let line = BadLine::before(&server.address(), rule).await;
            (WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() }, line)
        };
        let (config, line) = schema(&|class| class["class"] = json!("labone:Paper")).await;
        for backend in [BackendSetting::Filesystem, BackendSetting::Export] {
            let component = weaviate(WeaviateConfig { backend, ..config.clone() });
            let (checked, made) =
                (component.check().await.unwrap_err(), backup(&component).await.unwrap_err());
            for err in [checked, made] {
                let said = chain(&err);
                assert!(matches!(err, ComponentError::Unusable { .. }), "{version} {backend:?}: {said}");
                assert!(
                    said.contains("back up class \"labone:Paper\": names of this kind, as in a namespace"),
                    "{said}"
                );
            }
        }
        assert_eq!(line.count(|asked| asked.method != "GET"), 0, "{version}");

        let (config, _line) = schema(&|class| class["vectorizer"] = json!("text2vec-none-here")).await;
        let checked = weaviate(config).check().await.unwrap();
        let words = "a restore would not begin: restore weaviate: class ";
        let module = " needs the module text2vec-none-here: add that to ENABLE_MODULES of Weaviate";
        assert!(checked.contains(words) && checked.contains(module), "{version}: {checked}");
    }
}

/// A bucket that Weaviate writes to, seen by nobody.
#[derive(Debug)]
struct Unseen;

#[async_trait]
impl BucketFolder for Unseen {
    fn bucket(&self) -> &'static str {
        "lab"
    }

    fn prefix(&self) -> String {
        "weaviate".to_owned()
    }

    async fn files(&self, _: &str) -> Result<Vec<(String, u64)>, ComponentError> {
        Ok(Vec::new())
    }

    async fn open(&self, _: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>, ComponentError> {
        unreachable!("nothing is in it")
    }

    async fn remove(&self, _: &str) -> Result<(), ComponentError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_bucket_that_is_away_is_a_reason_to_come_again() {
    let start = Start::version(NEWEST).modules("backup-s3");
    let nowhere = format!("127.0.0.1:{}", crate::support::lab::free_port());
    let settings = [
        ("BACKUP_S3_BUCKET", "lab"),
        ("BACKUP_S3_PATH", "weaviate"),
        ("BACKUP_S3_ENDPOINT", &nowhere),
        ("BACKUP_S3_USE_SSL", "false"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let server =
        settings.into_iter().fold(start, |start, (name, value)| start.set(name, value)).server().await;
    fresh(&server).await;
    let config =
        WeaviateConfig { backend: BackendSetting::S3, second: Duration::from_millis(10), ..server.config() };
    let err = backup(&Weaviate::new(config, Some(Arc::new(Unseen)))).await.unwrap_err();
    assert!(err.is_transient(), "{}", chain(&err));
}

#[tokio::test]
async fn only_modules_that_matter_are_named() {
    let server = Start::version(NEWEST).server().await;
    fresh(&server).await;
    let (_, facts) = backup(&Weaviate::new(server.config(), None)).await.unwrap();
    let named: Vec<_> = facts.versions.keys().map(String::as_str).collect();
    assert_eq!(named, ["weaviate", "weaviate module backup-filesystem", "weaviate nodes"]);
    let server = Start::version(NEWEST).modules("").server().await;
    let said = Weaviate::new(server.config(), None).check().await.unwrap();
    assert!(said.contains("add backup-filesystem to ENABLE_MODULES of Weaviate"), "{said}");
    assert!(!said.contains("text2vec"), "{said}");
}
