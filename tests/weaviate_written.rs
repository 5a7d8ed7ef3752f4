//! Backups of a real Weaviate whose objects change meanwhile: written and deleted again as the server captures them.

use crate::support::s3_proxy::{Asked, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{Start, WeaviateServer};
use crate::weaviate::{backup, decode, each, restore};
use crate::weaviate_faults::{BOTH, deletes_a_class, filled, is_status, over, to};
use reqwest::Client;
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
