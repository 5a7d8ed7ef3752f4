//! Restores into a real Weaviate, class by class: deaths, writers and faults in the midst leave each class as it was
//! or as it was to be.

use crate::support::disk::Tmpfs;
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, each, restore};
use crate::weaviate_faults::{BOTH, deletes_a_class, filled};
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Way, Weaviate, WeaviateConfig};
use rna_backup::component::{Component, Target};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io::Write as _, sync::Arc};
use tokio::sync::Notify;

/// The contents of a server, by class.
type Contents = BTreeMap<String, Value>;

/// The component, with its requests through this address.
fn through(server: &WeaviateServer, url: &str, way: Way) -> Weaviate {
    Weaviate::new(WeaviateConfig { server: url.parse().unwrap(), way, ..server.config() }, None)
}

/// Each class is as in the backup or as before the restore, whole; the names of those as in the backup.
fn restored(found: &Contents, wanted: &Contents, before: &Contents, what: &str) -> Vec<String> {
    assert_eq!(found.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{what}");
    let changed = found.iter().filter(|(class, contents)| before[*class] != **contents);
    let restored: Vec<_> = changed.map(|(class, _)| class.clone()).collect();
    for class in &restored {
        assert!(found[class] == wanted[class], "{what}: {class} is neither as before nor as in the backup");
    }
    restored
}

#[tokio::test]
async fn what_an_app_adds_after_a_class_came_back_is_not_taken_away_by_the_next_run() {
    let ways = [(OLDEST, Way::Filesystem), (NEWEST, Way::Filesystem), (NEWEST, Way::Export)];
    each(ways, async |(version, way)| {
        let server = filled(Start::version(version)).await;
        let weaviate = through(&server, &server.url(), way);
        let (archive, _) = backup(&weaviate).await.unwrap();
        server.spoil().await;
        // The program dies while it counts what it has brought: after the deletion, nothing else is counted before.
        let (died, mut is_deleted) = (Arc::new(Notify::new()), false);
        let dies = died.clone();
        let line = BadLine::before(&server.address(), move |asked| {
            is_deleted |= deletes_a_class(asked);
            if is_deleted && asked.target == "/v1/graphql" {
                dies.notify_one();
                return Line::BlackHole;
            }
            Line::Good
        })
        .await;
        let dying = through(&server, &line.url(), way);
        tokio::select! {
            ended = restore(&dying, &archive, &Target::Live) => panic!("it ended: {ended:?}"),
            () = died.notified() => {}
        }
        let later = |number| {
            json!({"class": "Document", "id": id(9, number), "vector": vector(number),
                "properties": {"title": "written by the app since then"}})
        };
        server.put((0..50).map(later).collect()).await;
        let before = server.objects("Document", None).await;
        assert_eq!(before.len(), 350, "{version} {way:?}: the class had come back whole");
        weaviate.recover().await.unwrap();
        let found = server.objects("Document", None).await;
        assert!(found == before, "{version} {way:?}: the app's objects are there");
        let kept = weaviate.kept().await.unwrap().expect("what was there before is kept");
        assert!(kept.place.contains("rna-"), "{}", kept.place);
    })
    .await;
}

/// A rule under which an app that writes as soon as a class is gone makes the class again, once.
fn made_again(server: &WeaviateServer, object: &Value) -> impl FnMut(&Asked) -> Line + Send + use<> {
    let http = reqwest::Client::new();
    let (url, objects) = (server.url(), json!({"objects": [object]}));
    let class = object["class"].as_str().unwrap().to_owned();
    let (mut is_gone, mut has_written) = (false, false);
    move |asked| {
        is_gone |= asked.method == "DELETE" && asked.target == format!("/v1/schema/{class}");
        let brings = asked.target == "/v1/schema" || asked.target.ends_with("/restore");
        if is_gone && !has_written && asked.method == "POST" && brings {
            has_written = true;
            let write = http.post(format!("{url}/v1/batch/objects")).json(&objects);
            let written =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write.send()));
            assert!(written.unwrap().status().is_success());
        }
        Line::Good
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_somebody_makes_again_meanwhile_is_named_and_no_other_class_is_missing() {
    let ways = BOTH.map(|version| [Way::Filesystem, Way::Export].map(|way| (version, way)));
    for (version, way) in ways.concat() {
        let server = filled(Start::version(version).set("AUTOSCHEMA_ENABLED", "true")).await;
        let weaviate = through(&server, &server.url(), way);
        let (archive, _) = backup(&weaviate).await.unwrap();
        let wanted = server.contents().await;
        server.spoil().await;
        let before = server.contents().await;
        let object =
            json!({"class": "Protocol", "id": id(8, 1), "properties": {"title": "from the app", "steps": 1}});
        let line = BadLine::before(&server.address(), made_again(&server, &object)).await;
        let err = restore(&through(&server, &line.url(), way), &archive, &Target::Live).await.unwrap_err();
        let words = rna_backup::base::chain(&err);
        for part in ["class Protocol: ", "already exists", "; restored: Document, "] {
            assert!(words.contains(part), "{version} {way:?}: {words}");
        }
        let found = server.contents().await;
        assert_eq!(restored(&found, &wanted, &before, "made again"), ["Document"], "{version} {way:?}");
        // What stood in its place is kept as well, beside the copy of before where that is an export.
        let files = fs::read_dir(server.state()).unwrap().map(|file| file.unwrap().path());
        let copies = files.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
        assert_eq!(copies.count(), 1 + usize::from(way == Way::Export), "{version} {way:?}");
    }
}

#[tokio::test]
async fn a_folder_that_fills_up_in_the_middle_of_a_restore_costs_no_class() {
    for version in [OLDEST, NEWEST] {
        let Some(disk) = Tmpfs::mount("60m") else {
            return println!("skipped: mounting is not allowed here");
        };
        let server = Start::version(version).folder(disk.path()).server().await;
        server.fill().await;
        let config = || WeaviateConfig { dir: Some(disk.path().to_owned()), ..server.config() };
        let (archive, _) = backup(&Weaviate::new(config(), None)).await.unwrap();
        let wanted = server.contents().await;
        server.spoil().await;
        let before = server.contents().await;
        let noise = disk.path().join("noise");
        let fills = noise.clone();
        let line = BadLine::before(&server.address(), move |asked| {
            if deletes_a_class(asked) && !fills.exists() {
                // Until nothing more goes in, not even a small file.
                let mut file = fs::File::create(&fills).unwrap();
                for piece in [1 << 20, 1 << 10, 1] {
                    while file.write_all(&vec![0; piece]).is_ok() {}
                }
            }
            Line::Good
        })
        .await;
        let through = WeaviateConfig { server: line.url().parse().unwrap(), second: SECOND, ..config() };
        let err = restore(&Weaviate::new(through, None), &archive, &Target::Live).await.unwrap_err();
        let words = rna_backup::base::chain(&err);
        assert!(words.contains("class Document"), "{version}: {words}");
        // The files of the backup make room for the classes that are put back: nobody has to come first.
        assert!(
            noise.exists() && words.contains("the classes are again as they were before"),
            "{version}: {words}"
        );
        let found = server.contents().await;
        restored(&found, &wanted, &before, &format!("{version}: {words}"));
        let next = Weaviate::new(config(), None);
        let said = next.recover().await.unwrap();
        let found = server.contents().await;
        restored(&found, &wanted, &before, &format!("{version}: {words}; {said:?}"));
        assert!(next.due().await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_the_copy_and_before_the_deletion_comes_back_by_undo() {
    for (version, way) in [(OLDEST, Way::Filesystem), (NEWEST, Way::Filesystem), (NEWEST, Way::Export)] {
        let server = Start::version(version).server().await;
        server.fill().await;
        let (archive, _) = backup(&through(&server, &server.url(), way)).await.unwrap();
        server.spoil().await;
        let late = json!({"class": "Sample", "tenant": "wet", "id": id(8, 1), "vector": vector(1),
            "properties": {"name": "written late", "weight": 1.0}});
        let (url, objects, mut has_written) = (server.url(), json!({"objects": [late]}), false);
        let line = BadLine::before(&server.address(), move |asked| {
            // All classes have been copied, and Sample is the last one to go.
            if !has_written && deletes_a_class(asked) {
                has_written = true;
                let write = reqwest::Client::new().post(format!("{url}/v1/batch/objects")).json(&objects);
                let written =
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write.send()));
                assert!(written.unwrap().status().is_success());
            }
            Line::Good
        })
        .await;
        restore(&through(&server, &line.url(), way), &archive, &Target::Live).await.unwrap();
        assert_eq!(server.objects("Sample", Some("wet")).await.len(), 30, "{version} {way:?}");
        through(&server, &server.url(), way).undo(&Meter::default()).await.unwrap();
        let back = server.objects("Sample", Some("wet")).await;
        let is_late = |object: &Value| object["properties"]["name"] == "written late";
        assert!(back.len() == 31 && back.iter().any(is_late), "{version} {way:?}: {}", back.len());
    }
}

#[tokio::test]
async fn a_class_that_cannot_be_read_after_an_outage_is_put_back_and_not_called_restored() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version)).await;
        let (archive, _) = backup(&through(&server, &server.url(), Way::Filesystem)).await.unwrap();
        let wanted = server.contents().await;
        server.spoil().await;
        server.put(vec![json!({"class": "Sample", "tenant": "wet", "id": id(2, 999), "vector": vector(1)})]).await;
        let before = server.contents().await;
        // The server loses an answer, and then counts the objects of a tenant that it cannot read, as one did that was killed.
        let (mut is_deleted, mut has_been_away) = (false, false);
        let line = BadLine::before(&server.address(), move |asked| {
            is_deleted |= deletes_a_class(asked);
            if is_deleted && !has_been_away && asked.target == "/v1/graphql" {
                has_been_away = true;
                return Line::CutRequest(0);
            }
            let reads = asked.target.starts_with("/v1/objects?class=Sample&limit=100&tenant=wet");
            if !(has_been_away && reads) {
                return Line::Good;
            }
            let error = json!({"error": [{"message": "runtime error: slice bounds out of range [:4] with length 0"}]});
            Line::Say(500, error.to_string())
        })
        .await;
        let component = WeaviateConfig { second: SECOND, way: Way::Filesystem, ..server.config() };
        let component = Weaviate::new(WeaviateConfig { server: line.url().parse().unwrap(), ..component }, None);
        let said = chain(&restore(&component, &archive, &Target::Live).await.unwrap_err());
        assert!(said.contains("read every object of class Sample after an outage"), "{version}: {said}");
        assert!(said.contains("slice bounds out of range"), "{version}: {said}");
        let found = server.contents().await;
        assert_eq!(restored(&found, &wanted, &before, version), ["Document", "Protocol"], "{said}");
        assert_eq!(component.due().await.unwrap(), None);
        // Without an outage nothing is read twice.
        let sound = through(&server, &server.url(), Way::Filesystem);
        restore(&sound, &archive, &Target::Live).await.unwrap();
    })
    .await;
}
