//! A restore into Weaviate whose worker is killed before its result is stored, and that a worker on another machine ends.

use crate::restore_taken_over::Machines;
use crate::support::s3::S3Server;
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{OLDEST, Start, WeaviateServer};
use crate::weaviate_machines::marks;
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Writes an object; everything that is there then.
async fn write(server: &WeaviateServer, number: u32) -> BTreeMap<String, Value> {
    let object =
        json!({"class": "Paper", "id": id(1, number), "vector": vector(3), "properties": {"title": "work"}});
    server.put(vec![object]).await;
    server.contents().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_weaviate_is_done_once_by_two_machines_and_undone_by_the_first() {
    let config = S3Server::shared().bucket().await;
    let server = Start::version(OLDEST).server().await;
    let title = json!({"name": "title", "dataType": ["text"]});
    server.make(json!({"class": "Paper", "vectorizer": "none", "properties": [title]})).await;
    let backed_up = write(&server, 1).await;
    let machines = Machines::new(&config, |lab| {
        lab.set("BACKUP_COMPONENTS", "weaviate")
            .set("WEAVIATE_URL", server.url())
            .set("BACKUP_WEAVIATE_DIR", server.folder().display())
    });
    let made = machines.first.json(&["backup", "weaviate"]);
    let spoiled = write(&server, 2).await;
    let mut since = None;
    let meanwhile = async || {
        assert!(server.contents().await == backed_up, "the classes are replaced");
        since = Some(write(&server, 3).await);
    };
    let order = json!({"backup_name": "latest"});
    let restored = machines.taken_over(task::RESTORE_WEAVIATE, order, meanwhile).await;
    assert_eq!(restored["backup_id"], made["backup_id"]);
    assert!(Some(server.contents().await) == since, "it was restored twice");
    // The data from before the restore lies on the machine that died, and the report says so.
    let kept = restored["kept"].as_str().unwrap();
    assert!(kept.contains(machines.first.backups().to_str().unwrap()), "{kept}");

    let mut later = None;
    let meanwhile = async || {
        assert!(server.contents().await == spoiled, "undo leads to what was live before the restore");
        later = Some(write(&server, 4).await);
    };
    machines.taken_over(task::UNDO, json!({"component": "weaviate"}), meanwhile).await;
    assert!(Some(server.contents().await) == later, "the undo was done twice");

    // The first machine comes back, and makes its next backups: nothing is put back, and nothing needs a mark any more.
    let _back = machines.first.worker();
    for _ in 0..2 {
        machines.done(task::BACKUP_WEAVIATE, json!({})).await;
    }
    assert!(Some(server.contents().await) == later);
    assert_eq!(marks(&server).await, [""; 0]);
    assert!(machines.second.manifests("weaviate").is_empty());
}
