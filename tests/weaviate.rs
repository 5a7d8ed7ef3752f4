//! `component::weaviate` against real servers: backups of every way, restored and undone.

use crate::postgres::MemoryOutput;
use crate::support::lab::eventually;
use crate::support::s3_proxy::Line;
use crate::support::weaviate_contents::id;
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate_faults::{BOTH, filled, over};
use futures_util::future::join_all;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target, Undo};
use rna_backup::domain::facts::{Counts, Facts};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::{fs, time::Duration};

/// The unit of the component's waits in tests, where the server is near and small.
pub const SECOND: Duration = Duration::from_millis(50);

/// The modules of a server that can back itself up, and of one that cannot.
pub const MODULES: [&str; 2] = ["backup-filesystem", ""];

pub fn weaviate(config: WeaviateConfig) -> Weaviate {
    Weaviate::new(WeaviateConfig { second: SECOND, ..config }, None)
}

pub async fn backup(weaviate: &Weaviate) -> Result<(Vec<u8>, Facts), ComponentError> {
    let mut out = MemoryOutput::default();
    let facts = weaviate.back_up(None, &mut out, &Meter::default()).await?;
    Ok((out.0, facts))
}

pub async fn decode(weaviate: &Weaviate, archive: &[u8]) -> Result<Counts, ComponentError> {
    weaviate.decode(&mut &*archive, &Meter::default()).await
}

pub async fn restore(
    weaviate: &Weaviate,
    archive: &[u8],
    target: &Target,
) -> Result<Option<String>, ComponentError> {
    let staged = weaviate.stage(&mut &*archive, &RestoreOrder::new(target, None), &Meter::default()).await?;
    Ok(staged.swap().await?.map(|kept| kept.place))
}

/// Backups that lie in the server's folder.
pub fn left(server: &WeaviateServer) -> Vec<String> {
    let entries = fs::read_dir(server.folder()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Runs a test with each of these at the same time, since most of it is waiting for servers.
pub async fn each<T>(all: impl IntoIterator<Item = T>, test: impl AsyncFn(T)) {
    let test = &test;
    join_all(all.into_iter().map(|one| test(one))).await;
}

/// There, back, and forth again, with nothing left behind.
async fn round_trip(server: &WeaviateServer, weaviate: &Weaviate) -> Facts {
    let before = server.contents().await;
    let (archive, facts) = backup(weaviate).await.unwrap();
    let objects = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
    let wanted = objects.map(|(class, count)| (class.to_owned(), count)).into();
    assert_eq!(facts.counts.classes, wanted);
    assert_eq!(decode(weaviate, &archive).await.unwrap(), facts.counts);
    assert_eq!(left(server), [""; 0]);

    server.spoil().await;
    let spoiled = server.contents().await;
    assert!(spoiled["Document"] != before["Document"]);
    let kept = restore(weaviate, &archive, &Target::Live).await.unwrap().expect("something was there");
    let mut found = server.contents().await;
    assert_eq!(found.remove("Later"), Some(spoiled["Later"].clone()), "what the backup does not have stays");
    assert!(found == before);

    assert_eq!(weaviate.undo_point().await.unwrap().unwrap().place, kept);
    weaviate.undo(None, &Meter::default()).await.unwrap();
    assert!(server.contents().await == spoiled);
    weaviate.undo(None, &Meter::default()).await.unwrap();
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);

    weaviate.delete_undo_data().await.unwrap();
    assert!(weaviate.undo_point().await.unwrap().is_none());
    assert_eq!(left(server), [""; 0]);
    assert_eq!(weaviate.recover().await.unwrap(), [""; 0]);
    let files: Vec<_> = fs::read_dir(server.state()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["journal.json"]);
    facts
}

#[tokio::test]
async fn a_server_of_any_version_is_backed_up_restored_and_undone_by_its_own_backups() {
    each(BOTH, async |version| {
        println!("Weaviate {version}");
        let server = filled(Start::version(version)).await;
        let facts = round_trip(&server, &weaviate(server.config())).await;
        assert_eq!((facts.backend.as_deref(), facts.warning_count), (Some("filesystem"), 0), "{facts:?}");
        assert_eq!(facts.versions["weaviate"], version);
    })
    .await;
}

#[tokio::test]
async fn a_server_without_a_module_is_backed_up_object_by_object_and_that_is_said() {
    each(BOTH, async |version| {
        println!("Weaviate {version}");
        let server = filled(Start::version(version).modules("")).await;
        let facts = round_trip(&server, &weaviate(server.config())).await;
        assert_eq!(facts.backend.as_deref(), Some("export"));
        assert!(tells_to_enable_the_module(&facts.warnings.join("\n")), "{:?}", facts.warnings);
    })
    .await;
}

/// Returns whether the text names what a server lacks to make backups of its own.
fn tells_to_enable_the_module(text: &str) -> bool {
    ["ENABLE_MODULES", "backup-filesystem", "BACKUP_FILESYSTEM_PATH"].iter().all(|word| text.contains(word))
}

#[tokio::test]
async fn whoever_means_an_export_is_not_warned_of_it() {
    let server = filled(Start::version(NEWEST)).await;
    let weaviate = weaviate(WeaviateConfig { backend: BackendSetting::Export, ..server.config() });
    let (_, facts) = backup(&weaviate).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("export"));
    assert!(!facts.warnings.join("\n").contains("ENABLE_MODULES"), "{:?}", facts.warnings);
    assert_eq!(left(&server), [""; 0]);
}

#[tokio::test]
async fn a_way_that_is_closed_says_how_to_open_it() {
    let server = Start::version(OLDEST).modules("").server().await;
    let with = |backend| weaviate(WeaviateConfig { backend, ..server.config() });
    let said = async |backend| chain(&backup(&with(backend)).await.unwrap_err());
    assert!(tells_to_enable_the_module(&said(BackendSetting::Filesystem).await));
    let s3 = said(BackendSetting::S3).await;
    assert!(s3.contains("ENABLE_MODULES") && s3.contains("backup-s3"), "{s3}");
    let server = filled(Start::version(OLDEST)).await;
    let unseen = weaviate(WeaviateConfig { dir: None, ..server.config() });
    let (_, facts) = backup(&unseen).await.unwrap();
    assert!(facts.warnings[0].contains("set BACKUP_WEAVIATE_DIR"), "{:?}", facts.warnings);
    let elsewhere = tempfile::tempdir().unwrap();
    let wrong = WeaviateConfig { dir: Some(elsewhere.path().to_owned()), ..server.config() };
    let err = chain(&backup(&weaviate(wrong)).await.unwrap_err());
    assert!(err.contains("BACKUP_WEAVIATE_DIR must be the volume"), "{err}");
}

#[tokio::test]
async fn a_server_without_classes_is_nothing_to_back_up_and_no_failure() {
    let server = Start::version(OLDEST).server().await;
    let (line, weaviate) = over(&server, |_| Line::Good).await;
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert!(facts.warnings[0].contains("nothing to back up"), "{:?}", facts.warnings);
    assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
    assert_eq!(line.count(|asked| asked.method == "POST" && asked.target.contains("backups")), 0);
    server.fill().await;
    let before = server.contents().await;
    let err = restore(&weaviate, &archive, &Target::Live).await.unwrap_err();
    assert!(chain(&err).contains("nothing would come back"), "{err}");
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn some_classes_alone_are_restored_and_unknown_ones_refused() {
    each(MODULES, async |modules| {
        let server = filled(Start::version(OLDEST).modules(modules)).await;
        let weaviate = weaviate(server.config());
        let before = server.contents().await;
        let (archive, _) = backup(&weaviate).await.unwrap();
        server.spoil().await;
        let spoiled = server.contents().await;
        let only = |class: &str| Target::custom("include", [class]);
        let err = restore(&weaviate, &archive, &only("Dokument")).await.unwrap_err();
        assert!(chain(&err).contains("but has Document, Protocol, Sample"), "{err}");
        assert!(server.contents().await == spoiled);
        restore(&weaviate, &archive, &only("Protocol")).await.unwrap();
        let found = server.contents().await;
        assert!(found["Protocol"] == before["Protocol"]);
        assert!(found["Document"] == spoiled["Document"]);
        weaviate.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == spoiled);
    })
    .await;
}

#[tokio::test]
async fn into_an_empty_server_nothing_is_set_aside() {
    each(MODULES, async |modules| {
        let server = filled(Start::version(OLDEST).modules(modules)).await;
        let (archive, _) = backup(&weaviate(server.config())).await.unwrap();
        let fresh = Start::version(OLDEST).modules(modules).server().await;
        let weaviate = weaviate(fresh.config());
        assert_eq!(restore(&weaviate, &archive, &Target::Live).await.unwrap(), None);
        assert!(fresh.contents().await == server.contents().await);
        assert!(weaviate.undo(None, &Meter::default()).await.is_err());
        assert_eq!(left(&fresh), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_drill_restores_on_a_second_server_and_leaves_nothing_there() {
    each(MODULES, async |modules| {
        let server = filled(Start::version(NEWEST).modules(modules)).await;
        assert!(weaviate(server.config()).drill_unsupported().unwrap().contains("BACKUP_WEAVIATE_DRILL_URL"));
        let second = Start::version(NEWEST).modules(modules).folder_of(&server).server().await;
        let drill = Some(second.url().parse().unwrap());
        let weaviate = weaviate(WeaviateConfig { drill, ..server.config() });
        assert_eq!(weaviate.drill_unsupported(), None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let before = server.contents().await;

        let staged = weaviate
            .stage(&mut &*archive, &RestoreOrder::new(&Target::Scratch, None), &Meter::default())
            .await
            .unwrap();
        assert_eq!(staged.counts(), &facts.counts);
        assert!(second.contents().await == before);
        staged.discard().await.unwrap();
        assert_eq!((second.classes().await.len(), left(&server)), (0, Vec::new()));

        // Nothing that anybody may need there is touched.
        second.make(json!({"class": "Sample", "properties": []})).await;
        let err = weaviate
            .stage(&mut &*archive, &RestoreOrder::new(&Target::Scratch, None), &Meter::default())
            .await
            .unwrap_err();
        assert!(chain(&err).contains("has a class Sample already"), "{err}");
        assert_eq!(second.classes().await.len(), 1);
        assert!(server.contents().await == before);
    })
    .await;
}

#[tokio::test]
async fn what_is_written_meanwhile_is_told_and_a_count_between_is_right() {
    let server = filled(Start::version(OLDEST)).await;
    let (line, weaviate) = over(&server, |_| Line::Good).await;
    let writing = async {
        // The server looks for the end of a backup after two seconds, and not earlier.
        let is_status = |target: &str| target.contains("/v1/backups/filesystem/rna-");
        assert!(eventually(async || line.count(|asked| is_status(&asked.target)) > 0).await);
        let later = json!({"class": "Protocol", "id": id(1, 500), "properties": {"title": "while it runs"}});
        server.put(vec![later]).await;
    };
    let (made, ()) = tokio::join!(backup(&weaviate), writing);
    let (archive, facts) = made.unwrap();
    let said = &facts.warnings[0];
    assert!(said.contains("class Protocol had 30 objects before and 31 after"), "{facts:?}");
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
}

#[tokio::test]
async fn large_classes_are_exported_page_by_page() {
    let server = Start::version(NEWEST).modules("").server().await;
    let properties = json!([{"name": "text", "dataType": ["text"]}]);
    server.make(json!({"class": "Big", "vectorizer": "none", "properties": properties})).await;
    // Long ones among short ones, so that pages are cut anew.
    let text = |number: u32| "x".repeat(if number % 50 == 7 { 600_000 } else { 2000 });
    for batch in 0..10 {
        let objects = (0..50).map(|at| batch * 50 + at).map(|number| {
            json!({"class": "Big", "id": id(5, number), "vector": [number, 0.25], "properties": {"text": text(number)}})
        });
        server.put(objects.collect()).await;
    }
    let weaviate = weaviate(server.config());
    let before = server.contents().await;
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert_eq!(facts.counts.classes["Big"], 500);
    server.ask(Method::DELETE, "/v1/schema/Big", None).await;
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    assert!(server.contents().await == before);
}
