//! Backups of Weaviate in the bucket that no manifest names: a machine removes its own, and leaves those of others.

use crate::support::weaviate_server::{NEWEST, OLDEST};
use crate::weaviate::{backup, each, restore};
use crate::weaviate_faults::these_have_ended;
use crate::weaviate_jobs::{bucket_folder, in_bucket};
use crate::weaviate_machines::{config, dies, marks};
use reqwest::Method;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, Restorable, ServerSide, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The backups in the bucket.
async fn in_bucket_folder(bucket_folder: &dyn BucketFolder) -> BTreeSet<String> {
    let files = bucket_folder.files("").await.unwrap();
    files.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0.to_owned())).collect()
}

#[tokio::test]
async fn retention_on_another_machine_leaves_the_copies_that_a_restore_or_an_undo_needs_and_backups_of_others()
 {
    each([OLDEST, NEWEST], async |version| {
        let (server, bucket) = in_bucket(version).await;
        let bucket_folder: Arc<dyn BucketFolder> = Arc::new(bucket_folder(&bucket).await);
        let at = |name: &str| {
            Weaviate::new(
                config(&server, &server.url(), name, BackendSetting::S3),
                Some(bucket_folder.clone()),
            )
        };
        // So short that nothing in the bucket counts as under way.
        let sweeper = |name: &str| {
            let config = config(&server, &server.url(), name, BackendSetting::S3);
            Weaviate::new(WeaviateConfig { timeout: Duration::ZERO, ..config }, Some(bucket_folder.clone()))
        };
        let swept = async |name: &str| sweeper(name).sweep(&[]).await.unwrap();
        let [a, b] = ["a", "b"].map(&at);
        let (archive, facts) = backup(&a).await.unwrap();
        let own = facts.server_backup.unwrap();
        assert_eq!(swept("b").await, [""; 0], "{version}: the manifest is on the other machine");
        server.spoil().await;
        let spoiled = server.contents().await;
        dies(&server, BackendSetting::S3, Some(bucket_folder.clone()), &archive, "Protocol").await;
        let before = in_bucket_folder(&*bucket_folder).await;
        assert_eq!(before.len(), 2, "{version}: the backup, and the copy that the journal needs");
        assert_eq!(swept("b").await, [""; 0], "{version}");
        a.recover().await.unwrap();
        assert!(server.contents().await["Protocol"] == spoiled["Protocol"], "{version}");
        // After a restore that succeeds, its copies are what `undo` brings back.
        restore(&a, &archive, &Target::Live).await.unwrap();
        assert_eq!(swept("b").await, [""; 0], "{version}");
        a.undo(None, &Meter::default()).await.unwrap();
        let found = server.contents().await;
        assert!(
            found["Protocol"] == spoiled["Protocol"] && found["Sample"] == spoiled["Sample"],
            "{version}"
        );
        for _ in 0..2 {
            a.delete_undo_data().await.unwrap();
        }
        assert_eq!(marks(&server).await, [""; 0], "{version}");
        assert_eq!(in_bucket_folder(&*bucket_folder).await, BTreeSet::from([own.clone()]), "{version}");

        // A backup of an earlier version does not say whose it is, and may be the only copy of a class that is gone.
        let old = "rna-20200101t000000z-0123abcd";
        let order = json!({"id": old, "include": ["Later"]});
        server.ask(Method::POST, "/v1/backups/s3", Some(order)).await;
        these_have_ended(&server, "s3", [old.to_owned()]).await;
        server.ask(Method::DELETE, "/v1/schema/Later", None).await;
        assert_eq!(swept("b").await, [""; 0], "{version}: no other copy of the class is known");
        server.make(json!({"class": "Later", "vectorizer": "none", "properties": []})).await;
        assert!(swept("b").await.concat().contains(old), "{version}");
        // Its own that no manifest names any more go at once, and so they did before.
        let said = swept("a").await.concat();
        assert!(
            said.contains(&own) && in_bucket_folder(&*bucket_folder).await.is_empty(),
            "{version}: {said}"
        );
        drop(b);
    })
    .await;
}
