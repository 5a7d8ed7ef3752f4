//! Restores into a real Weaviate, class by class: deaths, writers and faults in the midst leave each class as it was
//! or as it was to be.

use crate::support::disk::Tmpfs;
use crate::support::s3_proxy::{Asked, BadLine, Line, now};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, each, restore, weaviate};
use crate::weaviate_faults::{BOTH, deletes_a_class, filled, spoiled};
use crate::weaviate_jobs::filled_in_bucket;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::progress::Meter;
use rna_backup::engine::StoreFolder;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Arc};
use tokio::sync::Notify;

/// The contents of a server, by class.
type Contents = BTreeMap<String, Value>;

/// The component, with its requests through this address.
fn through(server: &WeaviateServer, url: &str, backend: BackendSetting) -> Weaviate {
    with_bucket_folder(server, url, backend, None)
}

/// The same with a way into the bucket of the server.
fn with_bucket_folder(
    server: &WeaviateServer,
    url: &str,
    backend: BackendSetting,
    bucket_folder: Option<Arc<StoreFolder>>,
) -> Weaviate {
    let bucket_folder = bucket_folder.map(|bucket_folder| bucket_folder as Arc<dyn BucketFolder>);
    Weaviate::new(WeaviateConfig { server: url.parse().unwrap(), backend, ..server.config() }, bucket_folder)
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
    let lanes = [
        (OLDEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Export),
    ];
    each(lanes, async |(version, backend)| {
        let server = filled(Start::version(version)).await;
        let weaviate = through(&server, &server.url(), backend);
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
        let dying = through(&server, &line.url(), backend);
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
        assert_eq!(before.len(), 350, "{version} {backend:?}: the class had come back whole");
        weaviate.recover().await.unwrap();
        let found = server.objects("Document", None).await;
        assert!(found == before, "{version} {backend:?}: the app's objects are there");
        let kept = weaviate.undo_point().await.unwrap().expect("what was there before is kept");
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
            let written = now(write.send());
            assert!(written.unwrap().status().is_success());
        }
        Line::Good
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_somebody_makes_again_meanwhile_is_named_and_no_other_class_is_missing() {
    let lanes = BOTH.map(|version| {
        [BackendSetting::Filesystem, BackendSetting::Export].map(|backend| (version, backend))
    });
    for (version, backend) in lanes.concat() {
        let server = filled(Start::version(version).set("AUTOSCHEMA_ENABLED", "true")).await;
        let weaviate = through(&server, &server.url(), backend);
        let (archive, _) = backup(&weaviate).await.unwrap();
        let wanted = server.contents().await;
        server.spoil().await;
        let before = server.contents().await;
        let object =
            json!({"class": "Protocol", "id": id(8, 1), "properties": {"title": "from the app", "steps": 1}});
        let line = BadLine::before(&server.address(), made_again(&server, &object)).await;
        let err =
            restore(&through(&server, &line.url(), backend), &archive, &Target::Live).await.unwrap_err();
        let words = rna_backup::base::chain(&err);
        for part in ["class Protocol: ", "already exists", "; restored: Document, "] {
            assert!(words.contains(part), "{version} {backend:?}: {words}");
        }
        let found = server.contents().await;
        assert_eq!(restored(&found, &wanted, &before, "made again"), ["Document"], "{version} {backend:?}");
        // What stood in its place is kept as well, beside the copy of before where that is an export.
        let files = fs::read_dir(server.state()).unwrap().map(|file| file.unwrap().path());
        let copies = files.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
        assert_eq!(
            copies.count(),
            1 + usize::from(backend == BackendSetting::Export),
            "{version} {backend:?}"
        );
    }
}

#[tokio::test]
async fn a_folder_that_fills_up_in_the_middle_of_a_restore_costs_no_class() {
    for (version, dies) in [(OLDEST, false), (NEWEST, false), (OLDEST, true)] {
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
        let died = Arc::new(Notify::new());
        let dying = died.clone();
        let line = BadLine::before(&server.address(), move |asked| {
            if deletes_a_class(asked) && !fills.exists() {
                fill_up(&fills);
            }
            if dies && fills.exists() && asked.target.ends_with("/restore") {
                dying.notify_one();
                return Line::BlackHole;
            }
            Line::Good
        })
        .await;
        let through = WeaviateConfig { server: line.url().parse().unwrap(), second: SECOND, ..config() };
        let through = Weaviate::new(through, None);
        let words = tokio::select! {
            ended = restore(&through, &archive, &Target::Live) => chain(&ended.unwrap_err()),
            () = died.notified() => weaviate(config()).recover().await.unwrap().join("; "),
        };
        // The files of the backup make room for the classes that are put back: nobody has to come first.
        let put_back = if dies {
            "classes Document are as before it"
        } else {
            "the classes are again as they were before"
        };
        assert!(noise.exists() && words.contains(put_back), "{version}: {words}");
        assert!(dies || words.contains("class Document"), "{version}: {words}");
        let found = server.contents().await;
        restored(&found, &wanted, &before, &format!("{version}: {words}"));
        let next = Weaviate::new(config(), None);
        let said = next.recover().await.unwrap();
        let found = server.contents().await;
        restored(&found, &wanted, &before, &format!("{version}: {words}; {said:?}"));
        assert!(next.due().await.unwrap().is_none());
    }
}

/// Fills a disk until nothing more goes in, not even a small file.
fn fill_up(noise: &Path) {
    let mut file = fs::File::create(noise).unwrap();
    for piece in [1 << 20, 1 << 10, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
}

#[tokio::test]
async fn a_class_that_is_whole_is_not_put_back_where_the_disk_of_the_notes_is_full() {
    each(BOTH, async |version| {
        let Some(disk) = Tmpfs::mount("2m") else { return println!("skipped: mounting is not allowed here") };
        let (server, archive, mut backed_up) = spoiled(Start::version(version)).await;
        let before = server.contents().await;
        backed_up.insert("Later".to_owned(), before["Later"].clone());
        let noise = disk.path().join("noise");
        let (fills, mut is_last_deleted, mut is_full) = (noise.clone(), false, false);
        let line = BadLine::before(&server.address(), move |asked| {
            // The last class has come, and its objects are counted.
            is_last_deleted |= asked.method == "DELETE" && asked.target == "/v1/schema/Sample";
            if is_last_deleted && asked.target == "/v1/graphql" && !is_full {
                is_full = true;
                fill_up(&fills);
            }
            Line::Good
        })
        .await;
        let state = disk.path().join("notes");
        let component = WeaviateConfig { state, second: SECOND, ..server.config() };
        let component = Weaviate::new(WeaviateConfig { server: line.url().parse().unwrap(), ..component }, None);
        let err = chain(&restore(&component, &archive, &Target::Live).await.unwrap_err());
        for words in [
            "class Sample: write in ",
            ": make room there: ",
            "classes Sample are restored and whole, and so are Document, Protocol, though that could not be noted: nothing \
             is put back",
        ] {
            assert!(err.contains(words), "{version}: {err}");
        }
        assert!(server.contents().await == backed_up, "{version}: {err}");
        assert!(component.due().await.unwrap().unwrap().contains("Sample"), "{version}");
        // Nothing is put back while nothing can be noted, and nothing afterwards.
        let still = chain(&component.recover().await.unwrap_err());
        assert!(still.contains(": make room there"), "{version}: {still}");
        assert!(server.contents().await == backed_up, "{version}: {still}");
        fs::remove_file(noise).unwrap();
        let said = component.recover().await.unwrap().join("; ");
        assert!(said.contains("classes Document, Protocol, Sample are restored, which `undo` takes back"), "{said}");
        assert!(server.contents().await == backed_up, "{version}: {said}");
        assert_eq!(component.due().await.unwrap(), None, "{version}");
        component.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == before, "{version}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_the_copy_and_before_the_deletion_comes_back_by_undo() {
    for (version, backend) in [
        (OLDEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Export),
        (NEWEST, BackendSetting::S3),
    ] {
        let (server, bucket_folder) = if backend == BackendSetting::S3 {
            let (server, bucket_folder) = filled_in_bucket(Start::version(version)).await;
            (server, Some(bucket_folder))
        } else {
            (filled(Start::version(version)).await, None)
        };
        let (archive, _) =
            backup(&with_bucket_folder(&server, &server.url(), backend, bucket_folder.clone()))
                .await
                .unwrap();
        server.spoil().await;
        let late = json!({"class": "Sample", "tenant": "wet", "id": id(8, 1), "vector": vector(1),
            "properties": {"name": "written late", "weight": 1.0}});
        let (url, objects, mut has_written) = (server.url(), json!({"objects": [late]}), false);
        let line = BadLine::before(&server.address(), move |asked| {
            // All classes have been copied, and Sample is the last one to go.
            if !has_written && deletes_a_class(asked) {
                has_written = true;
                let write = reqwest::Client::new().post(format!("{url}/v1/batch/objects")).json(&objects);
                let written = now(write.send());
                assert!(written.unwrap().status().is_success());
            }
            Line::Good
        })
        .await;
        let meter = Meter::default();
        let component = with_bucket_folder(&server, &line.url(), backend, bucket_folder.clone());
        let staged =
            component.stage(&mut &*archive, &RestoreOrder::new(&Target::Live, None), &meter).await.unwrap();
        staged.swap().await.unwrap();
        let said = meter.take_warnings().join(" ");
        let words = "Somebody writes to Weaviate: class Sample had 60 objects when it was copied and 61 when";
        assert!(
            said.contains(words) && said.contains("stop what writes to Weaviate"),
            "{version} {backend:?}: {said}"
        );
        assert!(!said.contains("class Document had"), "{version} {backend:?}: {said}");
        assert_eq!(server.objects("Sample", Some("wet")).await.len(), 30, "{version} {backend:?}");
        with_bucket_folder(&server, &server.url(), backend, bucket_folder)
            .undo(None, &Meter::default())
            .await
            .unwrap();
        let back = server.objects("Sample", Some("wet")).await;
        let is_late = |object: &Value| object["properties"]["name"] == "written late";
        assert!(back.len() == 31 && back.iter().any(is_late), "{version} {backend:?}: {}", back.len());
    }
}

#[tokio::test]
async fn a_class_that_cannot_be_read_after_an_outage_is_put_back_and_not_called_restored() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version)).await;
        let (archive, _) = backup(&through(&server, &server.url(), BackendSetting::Filesystem)).await.unwrap();
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
        let component = WeaviateConfig { second: SECOND, backend: BackendSetting::Filesystem, ..server.config() };
        let component = Weaviate::new(WeaviateConfig { server: line.url().parse().unwrap(), ..component }, None);
        let said = chain(&restore(&component, &archive, &Target::Live).await.unwrap_err());
        assert!(said.contains("read every object of class Sample after an outage"), "{version}: {said}");
        assert!(said.contains("slice bounds out of range"), "{version}: {said}");
        let found = server.contents().await;
        assert_eq!(restored(&found, &wanted, &before, version), ["Document", "Protocol"], "{said}");
        assert_eq!(component.due().await.unwrap(), None);
        // Without an outage nothing is read twice.
        let sound = through(&server, &server.url(), BackendSetting::Filesystem);
        restore(&sound, &archive, &Target::Live).await.unwrap();
    })
    .await;
}
