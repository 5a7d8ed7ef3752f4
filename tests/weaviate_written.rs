//! Backups of a real Weaviate whose objects change meanwhile: written and deleted again as the server captures them, or
//! expiring by themselves before they are restored.

use crate::support::lab::eventually;
use crate::support::s3_proxy::{Asked, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, Start, WeaviateServer};
use crate::weaviate::{backup, decode, each, restore, weaviate};
use crate::weaviate_faults::{BOTH, deletes_a_class, filled, is_status, over, to};
use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use rna_backup::component::weaviate::{Way, WeaviateConfig};
use rna_backup::component::{Component as _, Target};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::path::Path;

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

/// Does what a rule of a line waits for.
fn now(work: impl Future<Output = ()>) {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
}

/// A rule under which all that the server captures for a backup is another number of objects than before and after:
/// the objects change at each order, and change back once the server has described what it has captured.
fn changing(server: &WeaviateServer) -> impl FnMut(&Asked) -> Line + Send + use<> {
    let (url, folder, mut is_changed) = (server.url(), server.folder(), false);
    let is_captured = move |folder: &Path, asked: &Asked| {
        let id = asked.target.rsplit('/').next().unwrap();
        is_status(asked) && folder.join(id).join("node1/backup.json").exists()
    };
    move |asked| {
        if !is_changed && to("POST", "/v1/backups/filesystem")(asked) {
            now(change(&url));
            is_changed = true;
        } else if is_changed && is_captured(&folder, asked) {
            now(change_back(&url));
            is_changed = false;
        }
        Line::Good
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_other_objects_than_were_counted_comes_back_and_no_class_is_deleted_twice() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version)).await;
        let (line, component) = over(&server, changing(&server)).await;
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
        let (line, component) = over(&server, |_| Line::Good).await;
        component.undo(&Meter::default()).await.unwrap();
        assert_eq!(there().await, (249, 81), "{version}");
        assert_eq!(line.count(deletes_a_class), 3, "{version}");
        assert_eq!(component.recover().await.unwrap(), [""; 0], "{version}");
    })
    .await;
}

#[tokio::test]
async fn objects_that_expire_between_a_backup_and_its_restore_are_missed_by_nobody() {
    each([Way::Filesystem, Way::Export], async |way| {
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
        let component = weaviate(WeaviateConfig { way, ..server.config() });
        let (archive, facts) = backup(&component).await.unwrap();
        assert_eq!(facts.counts.classes["Brief"], 40, "{way:?}: none has expired yet");
        let lasting = async || eventually(async || server.objects("Brief", None).await.len() == 20).await;
        assert!(lasting().await, "{way:?}");
        let left = server.contents().await;
        restore(&component, &archive, &Target::Live).await.unwrap();
        assert!(lasting().await && server.contents().await == left, "{way:?}");
        component.undo(&Meter::default()).await.unwrap();
        assert!(server.contents().await == left, "{way:?}");
    })
    .await;
}
