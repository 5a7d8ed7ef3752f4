//! Backups of a real Weaviate whose objects change meanwhile: written and deleted again as the server captures them, or
//! expiring by themselves before they are restored.

use crate::support::lab::eventually;
use crate::support::s3::Bucket;
use crate::support::s3_proxy::{Asked, BadLine, Line, now};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, decode, each, restore, weaviate};
use crate::weaviate_faults::{deletes_a_class, filled};
use crate::weaviate_jobs::{bucket_folder, in_bucket};
use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, Restorable, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::sync::Arc;

/// Stores objects of a class at the server at `url`.
async fn store(url: &str, objects: impl Iterator<Item = Value>) {
    let body = json!({"objects": objects.collect::<Vec<_>>()});
    let answer = Client::new().post(format!("{url}/v1/batch/objects")).json(&body).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// Deletes the objects of a class whose number is not below `least`.
async fn erase(url: &str, class: &str, property: &str, least: u32) {
    let large = json!({"path": [property], "operator": "GreaterThanEqual", "valueInt": least});
    let body = json!({"match": {"class": class, "where": large}});
    let answer = Client::new().delete(format!("{url}/v1/batch/objects")).json(&body).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// Fifty papers fewer and fifty protocols more than there were.
async fn change(url: &str) {
    erase(url, "Document", "page", 250).await;
    let protocol =
        |number| json!({"class": "Protocol", "id": id(1, number), "properties": {"steps": number}});
    store(url, (1000..1050).map(protocol)).await;
}

/// As many of each as before [`change`].
async fn change_back(url: &str) {
    erase(url, "Protocol", "steps", 1000).await;
    let paper = |number| {
        json!({"class": "Document", "id": id(4, number), "vector": vector(number + 99),
            "properties": {"title": "written again", "page": number}})
    };
    store(url, (250..300).map(paper)).await;
}

/// A rule under which all that the server captures for a backup is another number of objects than before and after:
/// the objects change at each order, and change back once the server has described what it has captured.
fn changing(server: &WeaviateServer, bucket: Option<Bucket>) -> impl FnMut(&Asked) -> Line + Send + use<> {
    let (url, folder, mut is_changed) = (server.url(), server.folder(), false);
    let is_described = move |id: &str| match &bucket {
        None => folder.join(id).join("node1/backup.json").exists(),
        Some(bucket) => {
            let end = format!("/{id}/node1/backup.json");
            now(bucket.objects()).iter().any(|key| key.ends_with(&end))
        }
    };
    move |asked| {
        let backend = asked.target.strip_prefix("/v1/backups/").unwrap_or_default();
        let id = backend.split_once("/rna-").filter(|(_, rest)| !rest.contains('/'));
        if !is_changed && asked.method == "POST" && ["filesystem", "s3"].contains(&backend) {
            now(change(&url));
            is_changed = true;
        } else if is_changed && id.is_some_and(|(_, rest)| is_described(&format!("rna-{rest}"))) {
            now(change_back(&url));
            is_changed = false;
        }
        Line::Good
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_other_objects_than_were_counted_comes_back_and_no_class_is_deleted_twice() {
    each([(OLDEST, false), (NEWEST, false), (NEWEST, true)], async |(version, by_bucket)| {
        let (server, bucket) = if by_bucket {
            let (server, config) = in_bucket(version).await;
            (server, Some(config))
        } else {
            (filled(Start::version(version)).await, None)
        };
        let bucket_folder: Option<Arc<dyn BucketFolder>> = match &bucket {
            Some(config) => Some(Arc::new(bucket_folder(config).await)),
            None => None,
        };
        let over = async |rule| {
            let line = BadLine::before(&server.address(), rule).await;
            let config =
                WeaviateConfig { server: line.url().parse().unwrap(), second: SECOND, ..server.config() };
            (line, Weaviate::new(config, bucket_folder.clone()))
        };
        let rule = changing(&server, bucket.as_ref().map(Bucket::of));
        let (line, component) = over(Box::new(rule) as Box<dyn FnMut(&Asked) -> Line + Send>).await;
        let (archive, facts) = backup(&component).await.unwrap();
        let counts =
            |facts: &[(&str, u64)]| facts.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect();
        assert_eq!(facts.counts.classes, counts(&[("Document", 300), ("Protocol", 30), ("Sample", 60)]));
        assert_eq!(decode(&component, &archive).await.unwrap(), facts.counts, "{version}");
        server.spoil().await;
        let there = async || {
            let [papers, protocols] = ["Document", "Protocol"].map(|class| server.objects(class, None));
            (papers.await.len(), protocols.await.len())
        };
        assert_eq!(there().await, (299, 31), "{version}");

        restore(&component, &archive, &Target::Live).await.unwrap();
        assert_eq!(there().await, (250, 80), "{version}: as many as the server had captured");
        assert_eq!(line.count(deletes_a_class), 3, "{version}");
        // The copy of what was there is of other objects than were counted, too.
        let (line, component) = over(Box::new(|_: &Asked| Line::Good)).await;
        component.undo(None, &Meter::default()).await.unwrap();
        assert_eq!(there().await, (249, 81), "{version}");
        assert_eq!(line.count(deletes_a_class), 3, "{version}");
        assert_eq!(component.recover().await.unwrap(), [""; 0], "{version}");
    })
    .await;
}

#[tokio::test]
async fn objects_that_expire_between_a_backup_and_its_restore_are_missed_by_nobody() {
    each([BackendSetting::Filesystem, BackendSetting::Export], async |backend| {
        let server =
            Start::version(NEWEST).set("OBJECTS_TTL_DELETE_SCHEDULE", "@every 1s").server().await;
        let until = json!({"name": "until", "dataType": ["date"]});
        let ttl = json!({"enabled": true, "defaultTtl": 60, "deleteOn": "until"});
        let brief = json!({"class": "Brief", "vectorizer": "none", "objectTtlConfig": ttl, "properties": [until]});
        server.make(brief).await;
        // Objects expire a minute after the time in them.
        let object = |number: u32, seconds| {
            let until = Timestamp::now() + SignedDuration::from_secs(seconds);
            json!({"class": "Brief", "id": id(9, number), "vector": vector(number), "properties": {"until": until}})
        };
        server.put((0..20).map(|number| object(number, 86400)).collect()).await;
        server.put((20..40).map(|number| object(number, -50)).collect()).await;
        let component = weaviate(WeaviateConfig { backend, ..server.config() });
        let (archive, facts) = backup(&component).await.unwrap();
        assert_eq!(facts.counts.classes["Brief"], 40, "{backend:?}: none has expired yet");
        let lasting = async || eventually(async || server.objects("Brief", None).await.len() == 20).await;
        assert!(lasting().await, "{backend:?}");
        let left = server.contents().await;
        restore(&component, &archive, &Target::Live).await.unwrap();
        assert!(lasting().await && server.contents().await == left, "{backend:?}");
        component.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == left, "{backend:?}");
    })
    .await;
}
