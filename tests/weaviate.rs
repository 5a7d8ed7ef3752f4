//! `component::weaviate` against the double of a server: backups of every way, restored and undone.

use crate::postgres::Kept;
use crate::support::weaviate::{SECOND, Start, Weaviate as Server, id};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Way, Weaviate, WeaviateConfig};
use rna_backup::component::{Component, ComponentError, Target};
use rna_backup::domain::facts::{Counts, Facts};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::fs;

/// Versions A to E, as the differences between them are counted.
pub const VERSIONS: [&str; 5] = ["1.22.4", "1.26.1", "1.26.18", "1.31.5", "1.39.0"];

pub fn weaviate(config: WeaviateConfig) -> Weaviate {
    Weaviate::new(config, None)
}

pub async fn backup(weaviate: &Weaviate) -> Result<(Vec<u8>, Facts), ComponentError> {
    let mut out = Kept::default();
    let facts = weaviate.backup(&mut out, &Meter::default()).await?;
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
    let staged = weaviate.stage(&mut &*archive, target, None, &Meter::default()).await?;
    Ok(staged.swap().await?.map(|kept| kept.place))
}

/// Backups of ours that lie in the server's folder.
pub fn left(server: &Server) -> Vec<String> {
    let entries = fs::read_dir(server.folder()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn filled(start: Start) -> Server {
    let server = start.start();
    server.fill().await;
    server
}

/// There, back, and forth again, with nothing left behind.
async fn round_trip(server: &Server, weaviate: &Weaviate) {
    let before = server.fingerprint().await;
    let (archive, facts) = backup(weaviate).await.unwrap();
    let objects = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
    let wanted = objects.map(|(class, count)| (class.to_owned(), count)).into();
    assert_eq!(facts.counts.classes, wanted);
    assert_eq!(decode(weaviate, &archive).await.unwrap(), facts.counts);
    assert_eq!(left(server), [""; 0]);

    server.spoil().await;
    let spoiled = server.fingerprint().await;
    assert_ne!(spoiled["Document"], before["Document"]);
    let kept = restore(weaviate, &archive, &Target::Live).await.unwrap().expect("something was there");
    let mut found = server.fingerprint().await;
    assert_eq!(found.remove("Later"), Some(spoiled["Later"].clone()), "what the backup does not have stays");
    assert_eq!(found, before);

    assert_eq!(weaviate.kept().await.unwrap().unwrap().place, kept);
    weaviate.undo().await.unwrap();
    assert_eq!(server.fingerprint().await, spoiled);
    weaviate.undo().await.unwrap();
    let mut found = server.fingerprint().await;
    found.remove("Later");
    assert_eq!(found, before);

    weaviate.forget().await.unwrap();
    assert!(weaviate.kept().await.unwrap().is_none());
    assert_eq!(left(server), [""; 0]);
    assert_eq!(weaviate.recover().await.unwrap(), [""; 0]);
    let files: Vec<_> = fs::read_dir(server.state()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["journal.json"]);
}

#[tokio::test]
async fn a_server_of_any_version_is_backed_up_restored_and_undone_by_its_own_backups() {
    for version in VERSIONS {
        println!("Weaviate {version}");
        let server = filled(Start::version(version)).await;
        let weaviate = weaviate(server.config());
        let (_, facts) = backup(&weaviate).await.unwrap();
        assert_eq!((facts.backend.as_deref(), facts.warning_count), (Some("filesystem"), 0), "{facts:?}");
        assert_eq!(facts.versions["weaviate"], version);
        round_trip(&server, &weaviate).await;
    }
}

#[tokio::test]
async fn a_server_without_a_module_is_backed_up_object_by_object_and_that_is_said() {
    for version in VERSIONS {
        let server = filled(Start::version(version).modules("text2vec-openai")).await;
        let weaviate = weaviate(server.config());
        let (_, facts) = backup(&weaviate).await.unwrap();
        assert_eq!(facts.backend.as_deref(), Some("export"));
        assert!(
            facts.warnings[0].contains(
                "set ENABLE_MODULES=text2vec-openai,backup-filesystem and BACKUP_FILESYSTEM_PATH=/"
            ),
            "{:?}",
            facts.warnings
        );
        round_trip(&server, &weaviate).await;
    }
}

#[tokio::test]
async fn whoever_means_an_export_is_not_warned_of_it() {
    let server = filled(Start::version("1.26.1")).await;
    let weaviate = weaviate(WeaviateConfig { way: Way::Export, ..server.config() });
    let (_, facts) = backup(&weaviate).await.unwrap();
    assert_eq!((facts.backend.as_deref(), facts.warning_count), (Some("export"), 0));
    round_trip(&server, &weaviate).await;
}

#[tokio::test]
async fn a_way_that_is_closed_says_how_to_open_it() {
    let server = Start::version("1.26.1").modules("text2vec-openai").start();
    let with = |way| weaviate(WeaviateConfig { way, ..server.config() });
    let said = async |way| chain(&backup(&with(way)).await.unwrap_err());
    assert!(
        said(Way::Filesystem)
            .await
            .contains("set ENABLE_MODULES=text2vec-openai,backup-filesystem and BACKUP_FILESYSTEM_PATH=/")
    );
    assert!(said(Way::S3).await.contains("set ENABLE_MODULES=text2vec-openai,backup-s3 "));
    let server = filled(Start::version("1.26.1")).await;
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
    let server = Start::version("1.26.1").start();
    let weaviate = weaviate(server.config());
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert!(facts.warnings[0].contains("nothing to back up"), "{:?}", facts.warnings);
    assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
    let posts = server
        .asked()
        .await
        .into_iter()
        .filter(|(method, path)| method == "POST" && path.contains("backups"));
    assert_eq!(posts.count(), 0);
    server.fill().await;
    let before = server.fingerprint().await;
    assert_eq!(restore(&weaviate, &archive, &Target::Live).await.unwrap(), None);
    assert_eq!(server.fingerprint().await, before);
}

#[tokio::test]
async fn some_classes_alone_are_restored_and_unknown_ones_refused() {
    for modules in ["backup-filesystem", ""] {
        let server = filled(Start::version("1.26.1").modules(modules)).await;
        let weaviate = weaviate(server.config());
        let before = server.fingerprint().await;
        let (archive, _) = backup(&weaviate).await.unwrap();
        server.spoil().await;
        let spoiled = server.fingerprint().await;
        let only = |class: &str| Target::Classes(vec![class.to_owned()]);
        let err = restore(&weaviate, &archive, &only("Dokument")).await.unwrap_err();
        assert!(chain(&err).contains("but has Document, Protocol, Sample"), "{err}");
        assert_eq!(server.fingerprint().await, spoiled);
        restore(&weaviate, &archive, &only("Protocol")).await.unwrap();
        let found = server.fingerprint().await;
        assert_eq!(found["Protocol"], before["Protocol"]);
        assert_eq!(found["Document"], spoiled["Document"]);
        weaviate.undo().await.unwrap();
        assert_eq!(server.fingerprint().await, spoiled);
    }
}

#[tokio::test]
async fn into_an_empty_server_nothing_is_set_aside() {
    for modules in ["backup-filesystem", ""] {
        let server = filled(Start::version("1.26.1").modules(modules)).await;
        let (archive, _) = backup(&weaviate(server.config())).await.unwrap();
        let fresh = Start::version("1.26.1").modules(modules).start();
        let weaviate = weaviate(fresh.config());
        assert_eq!(restore(&weaviate, &archive, &Target::Live).await.unwrap(), None);
        assert_eq!(fresh.fingerprint().await, server.fingerprint().await);
        assert!(weaviate.undo().await.is_err());
        assert_eq!(left(&fresh), [""; 0]);
    }
}

#[tokio::test]
async fn a_drill_restores_on_a_second_server_and_leaves_nothing_there() {
    for modules in ["backup-filesystem", ""] {
        let server = filled(Start::version("1.26.1").modules(modules)).await;
        assert!(weaviate(server.config()).no_drill().unwrap().contains("BACKUP_WEAVIATE_DRILL_URL"));
        let second = Start::version("1.26.1").modules(modules).folder_of(&server).start();
        let drill = Some(second.url().parse().unwrap());
        let weaviate = weaviate(WeaviateConfig { drill, ..server.config() });
        assert_eq!(weaviate.no_drill(), None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let before = server.fingerprint().await;

        let staged = weaviate.stage(&mut &*archive, &Target::Scratch, None, &Meter::default()).await.unwrap();
        assert_eq!((staged.counts(), second.fingerprint().await), (&facts.counts, before.clone()));
        staged.discard().await.unwrap();
        assert_eq!((second.fingerprint().await.len(), left(&server)), (0, Vec::new()));

        // Nothing that anybody may need there is touched.
        second.ask(Method::POST, "/v1/schema", Some(json!({"class": "Sample", "properties": []}))).await;
        let err =
            weaviate.stage(&mut &*archive, &Target::Scratch, None, &Meter::default()).await.unwrap_err();
        assert!(chain(&err).contains("has a class Sample already"), "{err}");
        assert_eq!((second.fingerprint().await.len(), server.fingerprint().await), (1, before));
    }
}

#[tokio::test]
async fn what_is_written_meanwhile_is_told_and_a_count_between_is_right() {
    let server = filled(Start::version("1.26.1")).await;
    let weaviate = weaviate(server.config());
    server.direct("hold", json!({"operation": "backup"})).await;
    let writing = async {
        server.held("backup").await;
        let later = json!({"class": "Protocol", "id": id(1, 500), "properties": {"title": "while it runs"}});
        server.put(vec![later]).await;
        server.direct("release", json!({"operation": "backup"})).await;
    };
    let (made, ()) = tokio::join!(backup(&weaviate), writing);
    let (archive, facts) = made.unwrap();
    assert!(facts.warnings[0].contains("class Protocol had 30 objects before and 31 after"), "{facts:?}");
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
}

#[tokio::test]
async fn large_classes_are_exported_page_by_page() {
    let server = Start::version("1.26.1").modules("").second(SECOND).start();
    let class =
        json!({"class": "Big", "vectorizer": "none", "properties": [{"name": "text", "dataType": ["text"]}]});
    server.ask(Method::POST, "/v1/schema", Some(class)).await;
    // Long ones among short ones, so that pages are cut anew.
    let text = |number: u32| "x".repeat(if number % 50 == 7 { 600_000 } else { 2000 });
    for batch in 0..10 {
        let objects = (0..50).map(|at| batch * 50 + at).map(|number| {
            json!({"class": "Big", "id": id(5, number), "vector": [number, 0.25], "properties": {"text": text(number)}})
        });
        server.put(objects.collect()).await;
    }
    let weaviate = weaviate(server.config());
    let before = server.fingerprint().await;
    let (archive, facts) = backup(&weaviate).await.unwrap();
    assert_eq!(facts.counts.classes["Big"], 500);
    server.ask(Method::DELETE, "/v1/schema/Big", None).await;
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    assert_eq!(server.fingerprint().await, before);
}
