//! Classes on real Weaviate servers that a restore must not delete before it is sure to bring them back: because of what
//! they refer to, of their vectors, of their tenants, or of a disk that is full.

use crate::support::disk::Tmpfs;
use crate::support::lab::{Lab, eventually};
use crate::support::s3_proxy::Line;
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, decode, each, restore, weaviate};
use crate::weaviate_export::{exporter, rewrite};
use crate::weaviate_faults::{BOTH, deletes_a_class, over, spoiled};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::{ComponentError, Restorable, Source, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::fs;

#[tokio::test]
async fn an_export_that_does_not_say_whose_objects_are_is_refused_before_anything_is_touched() {
    each(BOTH, async |version| {
        let server = Start::version(version).server().await;
        server.fill().await;
        let weaviate = exporter(&server, None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let archive = rewrite(&archive, |text| {
            text.replace("{\"tenant\":\"wet\",", "{").replace("{\"tenant\":\"dry\",", "{")
        });
        server.spoil().await;
        let before = server.contents().await;
        for err in [
            decode(&weaviate, &archive).await.unwrap_err(),
            restore(&weaviate, &archive, &Target::Live).await.unwrap_err(),
            restore(&weaviate, &archive, &Target::custom("include", ["Sample"])).await.unwrap_err(),
        ] {
            let text = chain(&err);
            assert!(matches!(err, ComponentError::Corrupt { .. }), "{text}");
            assert!(
                text.contains("objects of Sample") && text.contains("--include") && text.contains("zstd -dc"),
                "{text}"
            );
        }
        assert!(server.contents().await == before);
        // The classes without tenants can be had as ever.
        let rest = Target::custom("include", ["Document", "Protocol"]);
        restore(&weaviate, &archive, &rest).await.unwrap().expect("something was there");
        assert_eq!(server.objects("Document", None).await.len() as u64, facts.counts.classes["Document"]);
    })
    .await;
}

/// Papers of authors, each paper with its author.
async fn fill_with_papers(server: &WeaviateServer) {
    let name = json!({"name": "name", "dataType": ["text"]});
    server.make(json!({"class": "Author", "vectorizer": "none", "properties": [name]})).await;
    let by = json!({"name": "by", "dataType": ["Author"]});
    server.make(json!({"class": "Paper", "vectorizer": "none", "properties": [by]})).await;
    let objects = (0..20).flat_map(|number| {
        let name = format!("author {number}");
        [
            json!({"class": "Author", "id": id(3, number), "vector": vector(number), "properties": {"name": name}}),
            json!({"class": "Paper", "id": id(4, number), "vector": vector(number + 50)}),
        ]
    });
    server.put(objects.collect()).await;
    let link = |number| {
        json!({"from": format!("weaviate://localhost/Paper/{}/by", id(4, number)),
            "to": format!("weaviate://localhost/Author/{}", id(3, number))})
    };
    server.link((0..20).map(link).collect()).await;
}

#[tokio::test]
async fn an_undo_leaves_a_class_that_was_not_there_before_where_others_refer_to_it() {
    each(BOTH, async |version| {
        for modules in ["", "backup-filesystem"] {
            let server = Start::version(version).modules(modules).server().await;
            fill_with_papers(&server).await;
            let component = weaviate(server.config());
            let (archive, _) = backup(&component).await.unwrap();
            server.ask(Method::DELETE, "/v1/schema/Author", None).await;
            restore(&component, &archive, &Target::Live).await.unwrap();
            let restored = server.contents().await;
            let meter = Meter::default();
            component
                .undo(None, &meter)
                .await
                .unwrap_or_else(|err| panic!("{version} {modules}: {}", chain(&err)));
            let is_export = modules.is_empty();
            let said = meter.take_warnings().join(" ");
            assert_eq!(
                said.contains("Class Author, which was not there before the restore, stays"),
                is_export,
                "{said}"
            );
            let found = server.contents().await;
            assert_eq!(found.contains_key("Author"), is_export, "{version}");
            assert!(found["Paper"] == restored["Paper"], "{version} {modules}");
            assert_eq!(component.due().await.unwrap(), None, "{version} {modules}");
            component.undo(None, &Meter::default()).await.unwrap();
            assert!(server.contents().await == restored, "{version} {modules}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_class_whose_target_is_gone_is_not_deleted_alone_and_comes_back_with_its_target() {
    each(BOTH, async |version| {
        let server = Start::version(version).modules("").server().await;
        fill_with_papers(&server).await;
        let before = server.contents().await;
        let (line, component) = over(&server, |_| Line::Good).await;
        let (archive, _) = backup(&component).await.unwrap();
        server.ask(Method::DELETE, "/v1/schema/Author", None).await;
        let accident = server.contents().await;
        let checked = component.check().await.unwrap();
        let words = "a restore would not begin: restore weaviate: class Paper refers to class Author, which is not there";
        assert!(checked.contains(words), "{version}: {checked}");

        let paper = Target::custom("include", ["Paper"]);
        let err = chain(&restore(&component, &archive, &paper).await.unwrap_err());
        let words =
            "class Paper refers to class Author, which is not there: restore that class too, or make it";
        assert!(err.contains(words), "{version}: {err}");
        assert_eq!(line.count(deletes_a_class), 0, "{version}: {err}");
        assert!(server.contents().await == accident, "{version}");
        assert_eq!(component.recover().await.unwrap(), [""; 0], "{version}");

        restore(&component, &archive, &Target::Live).await.unwrap();
        assert!(server.contents().await == before, "{version}");
    })
    .await;
}

#[tokio::test]
async fn vectors_of_both_kinds_come_back_in_place_and_are_taken_back_and_brought_again() {
    let server = Start::version(NEWEST).modules("").server().await;
    server.make(json!({"class": "Both", "vectorizer": "none", "properties": []})).await;
    let mut both = server.classes().await["Both"].clone();
    both["vectorConfig"] = json!({"late": {"vectorizer": {"none": {}}, "vectorIndexType": "hnsw"}});
    server.ask(Method::PUT, "/v1/schema/Both", Some(both)).await;
    let object = |number: u32, seed: u32| json!({"class": "Both", "id": id(1, number), "vector": vector(seed), "vectors": {"late": vector(seed + 3)}});
    server.put((0..20).map(|number| object(number, number)).collect()).await;
    let before = server.contents().await;
    let weaviate = weaviate(server.config());
    let (archive, _) = backup(&weaviate).await.unwrap();

    // Another vector of either kind, an object less, and one more.
    server.ask(Method::DELETE, &format!("/v1/objects/Both/{}", id(1, 5)), None).await;
    server.put(vec![object(7, 700), object(99, 99)]).await;
    let spoiled = server.contents().await;
    assert!(spoiled != before);
    restore(&weaviate, &archive, &Target::Live).await.unwrap().expect("something was there");
    assert!(server.contents().await == before);
    for wanted in [&spoiled, &before] {
        weaviate.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == *wanted);
    }
}

/// Waits until the server takes no more objects of a class because of its disk.
async fn is_read_only(server: &WeaviateServer) {
    let is_read_only = eventually(async || {
        let shards = server.ask(Method::GET, "/v1/schema/Document/shards", None).await;
        shards[0]["status"] == "READONLY"
    });
    assert!(is_read_only.await, "{}", server.log());
}

#[tokio::test]
async fn a_server_whose_disk_is_too_full_to_store_anything_keeps_its_classes() {
    let (mut server, archive, _) = spoiled(Start::version(NEWEST).modules("")).await;
    let before = server.contents().await;
    server.start_with("DISK_USE_READONLY_PERCENTAGE", "1");
    server.is_ready().await;
    is_read_only(&server).await;
    let (line, component) = over(&server, |_| Line::Good).await;
    let err = chain(&restore(&component, &archive, &Target::Live).await.unwrap_err());
    assert!(err.contains("before anything is deleted") && err.contains("store is read-only"), "{err}");
    assert_eq!(line.count(deletes_a_class), 0, "{err}");
    assert!(server.contents().await == before, "{err}");
    assert_eq!(component.recover().await.unwrap(), [""; 0], "{err}");
}

#[tokio::test]
async fn a_restore_for_which_weaviates_folder_has_no_room_does_not_begin() {
    let Some(disk) = Tmpfs::mount("60m") else { return println!("skipped: mounting is not allowed here") };
    let server = Start::version(NEWEST).folder(disk.path()).server().await;
    server.fill().await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", server.url())
        .set("BACKUP_WEAVIATE_DIR", disk.path().display())
        .set("RUST_LOG", "");
    lab.json(&["backup", "weaviate"]);
    let plan = lab.json(&["restore", "weaviate", "--dry-run"]);
    // The backup unpacked, and as much for the copy of the same objects.
    let needed = plan["needs_bytes"].as_u64().unwrap();
    assert_eq!(needed, 2 * plan["source_bytes"].as_u64().unwrap(), "{plan}");
    let free = plan["free_bytes"].as_u64().unwrap();
    assert!(needed < free && free <= 60 << 20, "{plan}");
    let noise = usize::try_from(free - needed / 4 * 3).unwrap();
    fs::write(disk.path().join("noise"), vec![1; noise]).unwrap();
    let before = server.contents().await;
    for way in ["--dry-run", "--yes"] {
        let (code, out, err) = lab.run(&["restore", "weaviate", way]);
        assert_eq!(code, 1, "{out} {err}");
        assert!(err.contains(&format!("{needed} bytes are needed beside the live data")), "{err}");
    }
    assert!(server.contents().await == before);
    // A restore of an export, object by object, needs room in another folder.
    let lab = lab.set("BACKUP_WEAVIATE_BACKEND", "export");
    lab.json(&["backup", "weaviate"]);
    let plan = lab.json(&["restore", "weaviate", "--dry-run"]);
    assert!(plan["free_bytes"].as_u64().unwrap() > 60 << 20, "{plan}");
}

#[tokio::test]
async fn a_server_that_stores_objects_of_new_classes_alone_is_restored_whole() {
    // 1.26.1 looks at its disk before it has loaded its classes, so the disk fills while it runs.
    let Some(disk) = Tmpfs::mount("400m") else { return println!("skipped: mounting is not allowed here") };
    let [data, backups] = ["data", "backups"].map(|name| disk.path().join(name));
    for folder in [&data, &backups] {
        fs::create_dir(folder).unwrap();
    }
    let start = Start::version(OLDEST).modules("").folder(&backups);
    let start = start.set("PERSISTENCE_DATA_PATH", data.display()).set("DISK_USE_READONLY_PERCENTAGE", 60);
    let (server, archive, backed_up) = spoiled(start).await;
    fs::write(disk.path().join("noise"), vec![1; 250 << 20]).unwrap();
    is_read_only(&server).await;
    let component = weaviate(server.config());
    restore(&component, &archive, &Target::Live).await.unwrap();
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == backed_up);
    assert_eq!(component.recover().await.unwrap(), [""; 0]);
}
