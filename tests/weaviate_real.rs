//! `component::weaviate` against real servers: what comes back after a backup, and what is refused before anything goes.

use crate::support::weaviate_server::Start;
use crate::support::weaviate_start::versions;
use crate::weaviate::{backup, decode, restore};
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{Target, Undo};
use rna_backup::domain::progress::Meter;

#[tokio::test]
async fn classes_of_every_kind_come_back_from_each_way_on_each_version() {
    for version in versions() {
        for backend in [BackendSetting::Filesystem, BackendSetting::Export] {
            println!("Weaviate {version} {backend:?}");
            let server = Start::version(version).server().await;
            server.fill().await;
            let weaviate = Weaviate::new(WeaviateConfig { backend, ..server.config() }, None);
            let before = server.contents().await;
            let (archive, facts) = backup(&weaviate).await.unwrap();
            let objects = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
            assert_eq!(facts.counts.classes, objects.map(|(class, count)| (class.to_owned(), count)).into());
            assert_eq!(decode(&weaviate, &archive).await.unwrap(), facts.counts);
            server.spoil().await;
            let spoiled = server.contents().await;
            restore(&weaviate, &archive, &Target::Live).await.unwrap().expect("something was there");
            let mut found = server.contents().await;
            assert_eq!(found.remove("Later"), Some(spoiled["Later"].clone()));
            assert!(found == before, "{version} {backend:?}");
            weaviate.undo(None, &Meter::default()).await.unwrap();
            assert!(server.contents().await == spoiled, "{version} {backend:?}");
        }
    }
}
