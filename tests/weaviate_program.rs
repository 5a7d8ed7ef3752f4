//! Weaviate through the program: by tasks and by hand, in a folder and in a bucket.

use crate::catalog_rebuild::with_bucket;
use crate::schemas::validates;
use crate::support::{
    lab::{Lab, eventually},
    s3::{Bucket, S3Server},
    tls_front::TlsFront,
    weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer},
};
use crate::weaviate::left;
use crate::weaviate_faults::filled;
use reqwest::Method;
use rna_backup::domain::command::task;
use rna_backup::store::S3Config;
use serde_json::{Value, json};
use std::{fs, process::Command};

/// A lab with this server and nothing else to back up.
fn lab(server: &WeaviateServer) -> Lab {
    Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", server.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display())
        .set("RUST_LOG", "info")
}

#[tokio::test]
async fn by_task_it_is_backed_up_restored_and_undone() {
    let server = filled(Start::version(OLDEST)).await;
    let lab = lab(&server);
    let before = server.contents().await;
    let worker = lab.worker();
    let made = lab.ended(&lab.order(task::BACKUP_WEAVIATE, json!({"label": "nightly"})).await).await;
    let report = &made["result"];
    validates("result-backup", report);
    assert_eq!((&report["backend"], &report["verified"]), (&json!("filesystem"), &json!("decode")), "{made}");
    assert_eq!((&report["backup_name"], &report["location"]), (&report["backup_id"], &report["path"]));
    let manifest = &lab.manifests("weaviate")[0];
    validates("manifest", manifest);
    assert_eq!(
        manifest["facts"]["counts"]["classes"],
        json!({"Document": 300, "Protocol": 30, "Sample": 60})
    );
    assert_eq!(left(&server), [""; 0]);

    server.spoil().await;
    let spoiled = server.contents().await;
    let name = &report["backup_name"];
    let restored = lab.ended(&lab.order(task::RESTORE_WEAVIATE, json!({"backup_name": name})).await).await;
    validates("result-restore", &restored["result"]);
    assert_eq!(&restored["result"]["backup_name"], name, "{restored}");
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);
    let undone = lab.ended(&lab.order(task::UNDO, json!({"component": "weaviate"})).await).await;
    validates("result-undo", &undone["result"]);
    assert!(server.contents().await == spoiled);

    let only = json!({"backup_name": "latest", "include": ["Protocol"]});
    let restored = lab.ended(&lab.order(task::RESTORE_WEAVIATE, only).await).await;
    assert_eq!(restored["status"], "SUCCESS", "{restored}");
    let found = server.contents().await;
    assert!(found["Protocol"] == before["Protocol"] && found["Document"] == spoiled["Document"]);
    // The next backup needs no longer what was set aside.
    lab.ended(&lab.order(task::BACKUP_WEAVIATE, json!({})).await).await;
    assert_eq!(lab.run(&["undo", "weaviate", "--yes"]).0, 1);
    drop(worker);
}

#[tokio::test]
async fn by_hand_it_says_what_it_would_do_and_how_far_it_looked() {
    let server = filled(Start::version(OLDEST)).await;
    let lab = lab(&server).set("RUST_LOG", "");
    lab.json(&["backup", "weaviate"]);
    let found = lab.json(&["verify", "weaviate", "--drill"]);
    validates("result-verify", &found);
    let result = &found["results"][0];
    assert_eq!((&result["ok"], &result["level"]), (&json!(true), &json!("decode")), "{result}");
    assert!(result["warnings"][0].as_str().unwrap().contains("BACKUP_WEAVIATE_DRILL_URL"), "{result}");

    let second = Start::version(OLDEST).folder_of(&server).server().await;
    let lab = lab.set("BACKUP_WEAVIATE_DRILL_URL", second.url());
    let found = lab.json(&["verify", "weaviate", "--drill"]);
    let result = &found["results"][0];
    assert_eq!((&result["ok"], &result["level"]), (&json!(true), &json!("drill")), "{result}");
    let trial = "restore classes under other names, and compare objects and rights";
    let changes = [
        trial,
        "copy the classes that are replaced",
        "restore classes of that copy under other names",
        "delete, restore and prove the live classes one by one",
    ];
    let tenants = "look whether a tenant would come back empty";
    let held = "look for users and roles in the archive, where these are wanted";
    let of_drill = [
        "look whether backups of that version hold users and roles, where these are wanted",
        "look whether the backup holds a class",
        "look whether all that is replaced can be copied",
        "ask whether the key has the rights that a restore needs",
        tenants,
        held,
    ];
    assert_eq!(result["not_tried"], json!([&of_drill[..], &changes].concat()));
    assert_eq!(lab.manifests("weaviate")[0]["verified"]["level"], "drill");
    assert_eq!(second.classes().await.len(), 0);

    server.spoil().await;
    let plan = lab.json(&["restore", "weaviate", "--dry-run"]);
    validates("restore-plan", &plan);
    let replaces = plan["replaces"].as_str().unwrap();
    assert!(replaces.contains("Document (299 objects)") && !replaces.contains("Later"), "{plan}");
    assert!(plan["warnings"].to_string().contains("stay as they are: Later"), "{plan}");
    let unpack = "compare every byte of the archive with its checksums, and unpack it";
    let references = "look whether classes are there that the classes refer to";
    let of_dry_run = [references, tenants, unpack, held];
    assert_eq!(plan["not_tried"], json!([&of_dry_run[..], &changes].concat()));
    let (code, _, err) = lab.run(&["restore", "weaviate", "--include", "Dokument", "--yes"]);
    assert!(code == 1 && err.contains("but has Document, Protocol, Sample"), "{code} {err}");
    let (code, _, err) = lab.run(&["restore", "weaviate", "--into", "/tmp/x", "--yes"]);
    assert!(code == 1 && err.contains("--include"), "{code} {err}");
    let (code, out, err) = lab.run(&["restore", "weaviate", "--yes"]);
    assert!(code == 0 && out.contains("`rna-backup undo weaviate`"), "{out} {err}");
    assert_eq!(lab.json(&["undo", "weaviate", "--yes"])["component"], "weaviate");

    let (_, out, _) = lab.run(&["show", "weaviate"]);
    assert!(
        out.contains("/v1/backups/filesystem/$ID/restore") && out.contains("by way of filesystem"),
        "{out}"
    );
    let (code, out, _) = lab.run(&["check"]);
    assert!(code == 0 && out.contains("Weaviate 1.26.1 answers, classes: 4, by way of filesystem"), "{out}");
}

#[tokio::test]
async fn a_server_that_has_lost_its_classes_is_backed_up_with_a_flag_and_retention_waits() {
    let server = filled(Start::version(NEWEST)).await;
    let lab = lab(&server).set("BACKUP_RETENTION_DAYS", 0);
    let full = lab.json(&["backup", "weaviate"])["backup_id"].clone();
    server.wipe().await;
    let empty = lab.json(&["backup", "weaviate"]);
    assert!(empty["warnings"].to_string().contains("no classes"), "{empty}");
    assert_eq!(empty["anomaly"]["against"], full, "{empty}");
    assert_eq!(lab.json(&["prune"])["deleted"], json!([]));
    lab.json(&["restore", "weaviate", full.as_str().unwrap(), "--yes"]);
    assert_eq!(server.classes().await.len(), 3);
}

/// Runs what `show` prints of the newest backup, as somebody without the program would; the classes are gone before.
async fn by_hand(server: &WeaviateServer, lab: &Lab, settings: &[(&str, String)]) {
    let before = server.contents().await;
    lab.json(&["backup", "weaviate"]);
    let commands = lab.json(&["show", "latest", "--component", "weaviate"])["open_with"].clone();
    let commands: Vec<_> = commands.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    server.wipe().await;
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", &commands.join("\n")])
        .current_dir(folder.path())
        .env("WEAVIATE_URL", server.url())
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    // Weaviate restores in the background.
    let is_there = async |class: &str| {
        let path = format!("/v1/objects?class={class}&limit=1");
        server.answer(Method::GET, &path, None).await.0 == 200
    };
    let all_are_there = eventually(async || {
        is_there("Document").await && is_there("Protocol").await && is_there("Sample&tenant=dry").await
    });
    assert!(all_are_there.await, "{said}");
    assert!(server.contents().await == before, "{said}");
}

#[tokio::test]
async fn what_show_prints_brings_the_classes_back_from_each_way() {
    let server = filled(Start::version(NEWEST)).await;
    let folder = server.folder().display().to_string();
    by_hand(&server, &lab(&server), &[("BACKUP_FILESYSTEM_PATH", folder)]).await;
    let export = lab(&server).set("BACKUP_WEAVIATE_BACKEND", "export");
    by_hand(&server, &export, &[]).await;
    // The plan and the result of its restore say what does not come back.
    for args in [["restore", "weaviate", "--dry-run"], ["restore", "weaviate", "--yes"]] {
        let said = export.json(&args)["warnings"].to_string();
        for words in
            ["The backup is an export: ", "new creation and update times", "no users, roles and keys"]
        {
            assert!(said.contains(words), "{args:?}: {said}");
        }
    }
    let (config, start) = bucket().await;
    let in_bucket = filled(start).await;
    let lab = with_bucket(lab(&in_bucket), &config).set("BACKUP_S3_PREFIX", "lab");
    by_hand(&in_bucket, &lab, &[]).await;
}

/// The way into a bucket, and what a server is started with that writes into it.
async fn bucket() -> (S3Config, Start) {
    let config = S3Server::shared().bucket().await;
    let start = Start::version(OLDEST).bucket(&config, "lab/weaviate");
    (config, start)
}

/// The keys of what Weaviate itself has written.
async fn written(bucket: &Bucket) -> Vec<String> {
    let mut keys = bucket.objects().await;
    keys.retain(|key| key.starts_with("lab/weaviate/rna-"));
    keys
}

#[tokio::test]
async fn what_the_server_writes_into_the_bucket_is_proven_restored_and_goes_with_its_backup() {
    let (config, start) = bucket().await;
    let (server, bucket) = (filled(start).await, Bucket::of(&config));
    let lab = with_bucket(lab(&server), &config).set("BACKUP_S3_PREFIX", "lab").set("RUST_LOG", "");
    let before = server.contents().await;
    let report = lab.json(&["backup", "weaviate"]);
    assert_eq!(report["backend"], "s3", "{report}");
    let manifest = &lab.manifests("weaviate")[0];
    validates("manifest", manifest);
    let id = manifest["facts"]["server_backup"].as_str().unwrap();
    let tree = written(&bucket).await;
    assert!(tree.contains(&format!("lab/weaviate/{id}/backup_config.json")), "{tree:?}");
    assert_eq!(lab.json(&["verify", "weaviate"])["results"][0]["ok"], true);

    server.spoil().await;
    let plan = lab.json(&["restore", "weaviate", "--dry-run"]);
    assert!(
        plan["needs_bytes"].is_null() && plan["free_bytes"].is_null(),
        "all of it is in the bucket: {plan}"
    );
    lab.json(&["restore", "weaviate", "--yes"]);
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);
    lab.json(&["undo", "weaviate", "--yes"]);
    lab.json(&["undo", "weaviate", "--yes"]);

    // One byte of what Weaviate wrote.
    let chunk = tree.iter().find(|key| key.contains("/Document/chunk-")).unwrap();
    let object = bucket.client.get_object().bucket(&bucket.name).key(chunk).send().await.unwrap();
    let good = object.body.collect().await.unwrap().to_vec();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    bucket.put(chunk, bad.into()).await;
    let (code, out, err) = lab.run(&["verify", "weaviate", "--json"]);
    assert_eq!(code, 4, "{out} {err}");
    let live = server.contents().await;
    assert_ne!(lab.run(&["restore", "weaviate", "--yes"]).0, 0);
    assert!(server.contents().await == live);
    bucket.put(chunk, good.into()).await;
    assert_eq!(lab.json(&["verify", "weaviate"])["results"][0]["ok"], true);

    // A manifest that is made anew says still what is in the bucket.
    fs::remove_dir_all(lab.backups().join("manifests")).unwrap();
    for key in bucket.objects().await.iter().filter(|key| key.starts_with("lab/manifests/")) {
        bucket.client.delete_object().bucket(&bucket.name).key(key).send().await.unwrap();
    }
    assert_eq!(lab.run(&["prune"]).0, 0);
    let there = written(&bucket).await;
    assert!(
        tree.iter().all(|key| there.contains(key)),
        "an archive without a manifest is no reason to delete"
    );
    lab.json(&["catalog", "rebuild"]);
    let facts = &lab.manifests("weaviate")[0]["facts"];
    assert_eq!((&facts["server_backup"], &facts["backend"]), (&json!(id), &json!("s3")));

    // With the last copy of its manifest goes what Weaviate keeps, and nothing else.
    bucket.put("lab/weaviate/somebody-else/file", vec![1].into()).await;
    lab.json(&["backup", "weaviate"]);
    let lab = lab.set("BACKUP_RETENTION_DAYS", 0).set("BACKUP_WEAVIATE_TIMEOUT", "1s");
    let pruned = lab.json(&["prune"]);
    assert_eq!(pruned["deleted"], json!([report["backup_id"]]), "{pruned}");
    let left = written(&bucket).await;
    let newest = lab.manifests("weaviate")[0]["facts"]["server_backup"].as_str().unwrap().to_owned();
    assert!(!left.is_empty() && left.iter().all(|key| key.contains(&newest)), "{left:?}");
    assert!(bucket.objects().await.contains(&"lab/weaviate/somebody-else/file".to_owned()));
    assert_eq!(lab.json(&["verify", "weaviate"])["results"][0]["ok"], true);
}

#[tokio::test]
async fn a_server_that_writes_elsewhere_is_told_where_to() {
    let (config, start) = bucket().await;
    let server = filled(start).await;
    let lab = with_bucket(lab(&server), &config).set("BACKUP_S3_PREFIX", "other").set("RUST_LOG", "");
    let (code, _, err) = lab.set("BACKUP_WEAVIATE_BACKEND", "s3").run(&["backup", "weaviate"]);
    assert!(code == 1 && err.contains("BACKUP_S3_PATH=other/weaviate"), "{err}");
}

#[tokio::test]
async fn a_client_certificate_and_an_own_authority_open_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let run = |line: &str| {
        let done =
            std::process::Command::new("sh").arg("-ec").arg(line).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt");
    for name in ["server", "client"] {
        run(&format!(
            "openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr; \
             echo subjectAltName=DNS:localhost,IP:127.0.0.1 > ext; \
             openssl x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.crt"
        ));
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let server = filled(Start::version(NEWEST)).await;
    let front = TlsFront::before(&server.address(), dir.path());
    let lab = lab(&server)
        .set("RUST_LOG", "")
        .set("WEAVIATE_URL", format!("http://localhost:{}", front.port()))
        .set("WEAVIATE_TLS_ENABLED", "True")
        .set("WEAVIATE_CA_CERT", path("ca.crt"));
    let (code, _, err) = lab.run(&["backup", "weaviate"]);
    assert_eq!(code, 1, "without a certificate: {err}");
    let lab =
        lab.set("WEAVIATE_CLIENT_CERT", path("client.crt")).set("WEAVIATE_CLIENT_KEY", path("client.key"));
    let (code, out, err) = lab.run(&["backup", "weaviate"]);
    assert_eq!(code, 0, "{out} {err}");
    let (code, _, err) = lab.set("WEAVIATE_CA_CERT", "").run(&["backup", "weaviate"]);
    assert_eq!(code, 1, "of an authority that nobody knows: {err}");
}

#[tokio::test]
async fn a_second_delivery_answers_from_the_manifest_and_a_wrong_call_touches_nothing() {
    let server = filled(Start::version(OLDEST)).await;
    let lab = lab(&server);
    let worker = lab.worker();
    let id = lab.order(task::BACKUP_WEAVIATE, json!({})).await;
    let first = lab.ended(&id).await;
    for (kwargs, words) in [
        (json!({"backup_name": "nowhere"}), "nowhere"),
        (json!({"backup_name": "latest", "include": ["Nothing"]}), "does not have it"),
        (json!({"backup_name": "latest", "backup_path": "/etc/passwd"}), "/etc/passwd"),
    ] {
        let refused: Value = lab.ended(&lab.order(task::RESTORE_WEAVIATE, kwargs).await).await;
        assert_eq!(refused["status"], "FAILURE", "{refused}");
        assert!(refused["result"].to_string().contains(words), "{refused}");
    }
    assert_eq!(first["status"], "SUCCESS");
    assert_eq!(lab.manifests("weaviate").len(), 1);
    drop(worker);
}
