//! Classes, tenants and indexes that a real Weaviate leaves out of its own backups or cannot back up: each is named, with the
//! way out.

use crate::support::{
    lab::{Lab, files},
    s3_proxy::{Asked, BadLine, Line, now},
    weaviate_contents::{id, vector},
    weaviate_server::{NODE, OLDEST, Start, WeaviateServer},
};
use crate::verify::edit;
use crate::weaviate::{backup, decode, restore, weaviate};
use crate::weaviate_faults::{all_have_ended, filled, is_status, over, to};
use async_tar::Header;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, Target};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, process::Command};

/// Has the server back up a class with vectors, and leaves the log of the vector index out of that backup: the name of the
/// class, and the id of the backup. The server itself leaves the log out only where it was begun in the second of the backup,
/// and a test cannot hold that second. So what the server writes then is made of a real backup: the log is removed from the
/// chunk and from the list of files in the descriptor of the node.
async fn without_index(server: &WeaviateServer) -> (&'static str, &'static str) {
    const SCRIPT: &str = r#"
        set -e -o pipefail
        # Not by `tar --delete`, after which a neighbour of the log was missing now and then.
        mkdir "$0.files"
        gzip -dc "$0" | tar -x -C "$0.files"
        (cd "$0.files" && rm -- "$@")
        (cd "$0.files" && find . -type f -printf '%P\n' | tar -c -T -) | gzip > "$0"
        rm -r "$0.files"
    "#;
    let (class, backup) = ("Fresh", "rna-20261101t030000z-00000001");
    server.make(json!({"class": class, "vectorizer": "none", "properties": []})).await;
    let object = |number| json!({"class": class, "id": id(7, number), "vector": vector(number)});
    server.put((0..5).map(object).collect()).await;
    let order = json!({"id": backup, "include": [class]});
    server.ask(Method::POST, "/v1/backups/filesystem", Some(order)).await;
    all_have_ended(server).await;
    let node = server.folder().join(backup).join(NODE);
    let mut logs = Vec::new();
    edit(&node.join("backup.json"), |descriptor| {
        for shard in descriptor["classes"][0]["shards"].as_array_mut().unwrap() {
            let is_log = |file: &mut Value| file.as_str().unwrap().contains("hnsw.commitlog.d");
            logs.extend(shard["files"].as_array_mut().unwrap().extract_if(.., is_log));
        }
    });
    let logs: Vec<_> = logs.iter().map(|log| log.as_str().unwrap()).collect();
    if !logs.is_empty() {
        let chunk = node.join(class).join("chunk-1");
        let removed = Command::new("bash").args(["-c", SCRIPT]).arg(&chunk).args(logs).status();
        assert!(removed.unwrap().success());
    }
    (class, backup)
}

/// The archive of a backup that the server has in its folder, as versions of this program have made it that knew nothing of
/// missing indexes.
async fn archive_of(server: &WeaviateServer, class: &str, backup: &str) -> Vec<u8> {
    let objects = json!({"before": 5, "after": 5});
    let index = json!({"format": 1, "way": "filesystem", "id": backup, "server_version": OLDEST, "nodes": [NODE],
        "classes": {class: {"definition": server.classes().await[class], "objects": objects}}});
    let mut content = index.to_string().into_bytes();
    let mut header = Header::new_gnu();
    header.set_path("weaviate.json").unwrap();
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    header.set_cksum();
    content.resize(content.len().next_multiple_of(512), 0);
    let files = Command::new("tar")
        .arg("-C")
        .arg(server.folder().join(backup))
        .args(["-cf", "-", "backup_config.json", NODE])
        .output();
    [header.as_bytes().to_vec(), content, files.unwrap().stdout].concat()
}

#[tokio::test]
async fn an_old_archive_that_is_whole_but_for_a_vector_index_is_named_by_verify() {
    let server = Start::version(OLDEST).server().await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", server.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display())
        .set("RUST_LOG", "");
    let (class, backup) = without_index(&server).await;
    let archive = archive_of(&server, class, backup).await;
    let component = weaviate(server.config());
    let err = decode(&component, &archive).await.unwrap_err();
    let words = format!("a search by vector finds nothing in {}/", class.to_lowercase());
    assert!(matches!(err, ComponentError::Corrupt { .. }) && chain(&err).contains(&words), "{}", chain(&err));

    // As it lies among the archives, with the manifest that was written for it.
    let report = lab.json(&["backup", "weaviate"]);
    assert_eq!(lab.json(&["verify", "weaviate"])["results"][0]["ok"], true);
    let archive = zstd::encode_all(&*archive, 3).unwrap();
    fs::write(report["path"].as_str().unwrap(), &archive).unwrap();
    let [manifest] = &files(&lab.backups().join("manifests/weaviate"))[..] else { panic!("one backup") };
    edit(manifest, |manifest| {
        let object = &mut manifest["objects"][0];
        object["bytes"] = json!(archive.len());
        object["sha256"] = json!(hex::encode(Sha256::digest(&archive)));
    });
    let (code, out, err) = lab.run(&["verify", "weaviate"]);
    assert!(code == 4 && out.contains(&words), "{code} {out} {err}");
}

#[tokio::test]
async fn a_class_that_the_server_cannot_back_up_for_its_compression_is_named_with_the_way_out() {
    let server = filled(Start::version(OLDEST)).await;
    let compressed = json!({"pq": {"enabled": true}});
    server
        .make(json!({"class": "Squeezed", "vectorizer": "none", "vectorIndexConfig": compressed, "properties": []}))
        .await;
    let named =
        json!({"vectorizer": {"none": {}}, "vectorIndexType": "hnsw", "vectorIndexConfig": compressed});
    server.make(json!({"class": "Pressed", "vectorConfig": {"small": named}, "properties": []})).await;
    let before = server.contents().await;
    // The end of a backup of such a class by 1.22.4.
    let why = "shard bF3a: Rel: can't make main.hnsw.commitlog.d/1667 relative to /var/lib/weaviate/squeezed";
    let failed = json!({"backend": "filesystem", "status": "FAILED", "error": why}).to_string();
    let rule =
        move |asked: &Asked| if is_status(asked) { Line::Say(200, failed.clone()) } else { Line::Good };
    let (_line, component) = over(&server, rule).await;
    let err = backup(&component).await.unwrap_err();
    let said = chain(&err);
    let words =
        "compressed by product quantization, such as Pressed, Squeezed: set BACKUP_WEAVIATE_BACKEND=export";
    assert!(said.contains("Rel: can't make") && said.contains(words), "{said}");
    assert!(!err.is_transient(), "the next attempt would fail likewise: {said}");
    // The way out is one.
    let component = weaviate(WeaviateConfig { backend: BackendSetting::Export, ..server.config() });
    let (archive, _) = backup(&component).await.unwrap();
    server.wipe().await;
    restore(&component, &archive, &Target::Live).await.unwrap();
    assert!(server.contents().await == before);
    all_have_ended(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_without_active_tenants_that_the_server_leaves_out_is_named_and_any_other_is_an_error() {
    let server = filled(Start::version(OLDEST)).await;
    let switch = async |wet: &str| {
        let tenants =
            json!([{"name": "wet", "activityStatus": wet}, {"name": "dry", "activityStatus": "COLD"}]);
        server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(tenants)).await;
    };
    // As 1.22.4 does, the server takes the order and leaves the class out.
    let (url, folder) = (format!("{}/v1/backups/filesystem", server.url()), server.folder());
    let rule = move |asked: &Asked| {
        if !to("POST", "/v1/backups/filesystem")(asked) {
            return Line::Good;
        }
        let ordered = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        let mut ordered = ordered.filter(|entry| !entry.path().join("backup_config.json").exists());
        let id = ordered.next().unwrap().file_name().into_string().unwrap();
        let order =
            reqwest::Client::new().post(&url).json(&json!({"id": id, "include": ["Document", "Protocol"]}));
        let taken = now(order.send());
        assert!(taken.unwrap().status().is_success());
        Line::Say(200, json!({"id": id, "classes": ["Document", "Protocol", "Sample"]}).to_string())
    };
    let (_line, component) = over(&server, rule).await;
    switch("COLD").await;
    let (archive, facts) = backup(&component).await.unwrap();
    let counts = [("Document", 300), ("Protocol", 30)].map(|(class, count)| (class.to_owned(), count));
    assert_eq!(facts.counts.classes, counts.into());
    assert_eq!(decode(&component, &archive).await.unwrap(), facts.counts);
    let words = "class Sample is not in the backup: none of its tenants is active, and Weaviate 1.26.1 leaves such a class out";
    assert!(facts.warnings.join("\n").contains(words), "{:?}", facts.warnings);

    switch("HOT").await;
    let err = backup(&component).await.unwrap_err();
    assert!(chain(&err).contains("Weaviate's backup holds {\"Document\", \"Protocol\"}"), "{}", chain(&err));
    component.recover().await.unwrap();
}

#[tokio::test]
async fn a_class_that_is_made_during_a_backup_and_one_without_active_tenants_are_named() {
    let server = Start::version(OLDEST).server().await;
    server.fill().await;
    let cold = json!([{"name": "wet", "activityStatus": "COLD"}, {"name": "dry", "activityStatus": "COLD"}]);
    server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(cold)).await;
    let (ordered, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let line = BadLine::before(&server.address(), move |asked| {
        if asked.method == "POST" && asked.target == "/v1/backups/filesystem" {
            ordered.send(()).unwrap();
        }
        Line::Good
    })
    .await;
    let config = WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() };
    let weaviate = Weaviate::new(config, None);
    let makes = async {
        orders.recv().await.unwrap();
        server.make(json!({"class": "Meanwhile", "vectorizer": "none", "properties": []})).await;
    };
    let (made, ()) = tokio::join!(backup(&weaviate), makes);
    let warnings = made.unwrap().1.warnings.join("\n");
    for words in ["class Meanwhile was made after the backup began", "2 inactive tenants of class Sample"] {
        assert!(warnings.contains(words), "{warnings}");
    }
}
