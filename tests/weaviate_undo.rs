//! What a restore of a real Weaviate leaves for `undo` and for the next run, when it ends in the middle or goes to another server;
//! and restores that would take away more than they bring.

use crate::support::lab::{Lab, eventually};
use crate::support::s3_proxy::{BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, each, restore};
use crate::weaviate_faults::deletes_a_class;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{Restorable, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::json;
use std::{process::Stdio, sync::Arc};
use tokio::sync::Notify;

fn component(server: &WeaviateServer, url: &str, backend: BackendSetting) -> Weaviate {
    Weaviate::new(
        WeaviateConfig { server: url.parse().unwrap(), backend, second: SECOND, ..server.config() },
        None,
    )
}

/// A line on which everything ends when the class is deleted, and who tells so.
pub async fn ends_with(server: &WeaviateServer, class: &'static str) -> (BadLine, Arc<Notify>) {
    let died = Arc::new(Notify::new());
    let (dies, mut is_gone) = (died.clone(), false);
    let line = BadLine::before(&server.address(), move |asked| {
        if is_gone {
            return Line::BlackHole;
        }
        is_gone = deletes_a_class(asked) && asked.target.ends_with(class);
        if !is_gone {
            return Line::Good;
        }
        dies.notify_one();
        Line::LoseAnswer
    })
    .await;
    (line, died)
}

#[tokio::test]
async fn an_undo_that_dies_in_the_middle_is_gone_on_with_by_the_next_undo() {
    each(
        [(OLDEST, BackendSetting::Filesystem), (NEWEST, BackendSetting::Export)],
        async |(version, backend)| {
            let server = Start::version(version).server().await;
            server.fill().await;
            let direct = component(&server, &server.url(), backend);
            let (archive, _) = backup(&direct).await.unwrap();
            let late = |class: &str, tenant: &str| {
                let mut late = json!({"class": class, "id": id(8, 1), "vector": vector(1), "properties": {}});
                if !tenant.is_empty() {
                    late["tenant"] = json!(tenant);
                }
                late
            };
            server.put(vec![late("Document", ""), late("Protocol", ""), late("Sample", "wet")]).await;
            let before = server.contents().await;
            restore(&direct, &archive, &Target::Live).await.unwrap();
            let restored = server.contents().await;
            let (line, died) = ends_with(&server, "Protocol").await;
            let dying = component(&server, &line.url(), backend);
            let meter = Meter::default();
            tokio::select! {
                ended = dying.undo(None, &meter) => panic!("it ended: {ended:?}"),
                () = died.notified() => {}
            }
            line.is_idle().await;
            let said = direct.recover().await.unwrap().join("; ");
            assert!(said.contains("another `undo` goes on with the others"), "{said}");
            let half = server.contents().await;
            assert!(
                half["Document"] == before["Document"] && half["Protocol"] == restored["Protocol"],
                "{version}"
            );
            // As after a backup of the very run that has put back.
            direct.undo(None, &Meter::default()).await.unwrap();
            assert!(server.contents().await == before, "{version}: it is as before the restore");
            direct.undo(None, &Meter::default()).await.unwrap();
            assert!(
                server.contents().await == restored,
                "{version}: what was restored comes back as a whole"
            );
            direct.delete_undo_data().await.unwrap();
            assert!(direct.undo_point().await.unwrap().is_none());
        },
    )
    .await;
}

#[tokio::test]
async fn what_is_due_on_one_server_is_never_done_to_another() {
    let [staging, live] = [Start::version(NEWEST).server().await, Start::version(NEWEST).server().await];
    for server in [&staging, &live] {
        server.fill().await;
    }
    let lab = Lab::new().set("BACKUP_COMPONENTS", "weaviate").set("BACKUP_WEAVIATE_BACKEND", "export");
    let at = |url: &str, args: &[&str]| {
        let out = lab.program(args).env("WEAVIATE_URL", url).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned() + &err)
    };
    let (code, said) = at(&live.url(), &["backup", "weaviate"]);
    assert_eq!(code, 0, "{said}");
    live.spoil().await;
    let before = live.contents().await;
    // A restore onto the other server, by the same BACKUP_ROOT, is done once and dies the second time.
    assert_eq!(at(&staging.url(), &["restore", "weaviate", "--yes"]).0, 0);
    let (line, died) = ends_with(&staging, "Document").await;
    let mut dying = lab
        .program(&["restore", "weaviate", "--yes"])
        .env("WEAVIATE_URL", line.url())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    died.notified().await;
    dying.kill().unwrap();
    dying.wait().unwrap();
    line.is_idle().await;
    let (_, said) = at(&live.url(), &["list"]);
    let address = line.url().strip_prefix("http://").unwrap().to_owned();
    assert!(
        said.contains(&format!("on the server {address}, to which WEAVIATE_URL led then: classes Document")),
        "{said}"
    );
    let (code, said) = at(&live.url(), &["undo", "weaviate", "--yes"]);
    let (address, advice) = (staging.address(), "set WEAVIATE_URL to");
    assert!(code != 0 && said.contains("nothing to undo: no restore of weaviate has set anything"), "{said}");
    assert!(said.contains(&format!("Weaviate at {address} replaced is kept as")), "{said}");
    assert!(said.contains(&format!("{advice} {address} and run `undo weaviate` again")), "{said}");
    let (code, said) = at(&live.url(), &["backup", "weaviate"]);
    assert_eq!(code, 0, "{said}");
    assert!(live.contents().await == before, "{said}");
}

#[tokio::test]
async fn a_tenant_that_the_backup_holds_nothing_of_is_not_emptied() {
    each(
        [(OLDEST, BackendSetting::Filesystem), (NEWEST, BackendSetting::Export)],
        async |(version, backend)| {
            let server = Start::version(version).server().await;
            server.fill().await;
            let weaviate = component(&server, &server.url(), backend);
            let turn = async |status: &str| {
                let tenants = json!([{"name": "dry", "activityStatus": status}]);
                server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(tenants)).await;
            };
            turn("COLD").await;
            let (archive, facts) = backup(&weaviate).await.unwrap();
            turn("HOT").await;
            let plan = weaviate.plan(&Target::Live, Some(&facts)).await.unwrap();
            assert!(
                plan.warnings.concat().contains("When the backup was made: the data of 1 inactive tenants"),
                "{plan:?}"
            );
            let err = chain(&restore(&weaviate, &archive, &Target::Live).await.unwrap_err());
            assert!(err.contains("holds nothing of dry, which has 30 objects now"), "{version}: {err}");
            assert_eq!(server.objects("Sample", Some("dry")).await.len(), 30);
            let rest = Target::custom("include", ["Document", "Protocol"]);
            restore(&weaviate, &archive, &rest).await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn classes_that_a_dead_restore_has_brought_whole_to_an_empty_server_stay() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    let before = server.contents().await;
    let direct = component(&server, &server.url(), BackendSetting::Filesystem);
    let (archive, _) = backup(&direct).await.unwrap();
    server.wipe().await;
    let died = Arc::new(Notify::new());
    let dies = died.clone();
    let line = BadLine::before(&server.address(), move |asked| {
        if asked.method == "GET" && asked.target.ends_with("/restore") {
            dies.notify_one();
            return Line::BlackHole;
        }
        Line::Good
    })
    .await;
    let dying = component(&server, &line.url(), BackendSetting::Filesystem);
    tokio::select! {
        ended = restore(&dying, &archive, &Target::Live) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
    assert!(eventually(async || server.classes().await.len() == 3).await);
    let due = direct.due().await.unwrap().unwrap();
    assert!(due.contains("REMOVES the others"), "{due}");
    let said = direct.recover().await.unwrap().join("; ");
    assert!(said.contains("classes Document, Protocol, Sample are restored"), "{said}");
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn a_restore_of_nothing_is_none_and_a_suspect_backup_is_named() {
    let server = Start::version(NEWEST).server().await;
    server.fill().await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", server.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display());
    let made = || lab.json(&["backup", "weaviate"])["backup_id"].as_str().unwrap().to_owned();
    let full = made();
    for class in ["Document", "Sample"] {
        server.ask(Method::DELETE, &format!("/v1/schema/{class}"), None).await;
    }
    let small = made();
    let (_, out, _) = lab.run(&["list"]);
    assert_eq!(out.matches("(much smaller than the one before)").count(), 1, "{out}");
    let plan = lab.json(&["restore", "weaviate", "--dry-run"]);
    assert_eq!((&plan["backup_id"], &plan["passed_over"][0]["backup_id"]), (&json!(full), &json!(small)));
    let plan = lab.json(&["restore", "weaviate", &small, "--dry-run"]);
    assert!(plan["warnings"].to_string().contains(&format!("restore {full}")), "{plan}");
    server.wipe().await;
    let empty = made();
    for more in ["--dry-run", "--yes"] {
        let (code, _, err) = lab.run(&["restore", "weaviate", &empty, more]);
        assert!(code == 1 && err.contains("the backup holds no classes"), "{err}");
    }
    let plan = lab.json(&["restore", "weaviate", &full, "--dry-run"]);
    assert!(plan["replaces"].as_str().unwrap().ends_with("; new: Document, Protocol, Sample"), "{plan}");
    lab.json(&["restore", "weaviate", &full, "--yes"]);
    assert_eq!(server.classes().await.len(), 3);
}

#[tokio::test]
async fn a_class_of_a_name_that_the_server_cannot_replace_is_refused_or_copied_object_by_object() {
    let server = Start::version(NEWEST).server().await;
    let name = format!("L{}", "o".repeat(229));
    server.make(json!({"class": name, "vectorizer": "none", "properties": []})).await;
    server.put(vec![json!({"class": name, "id": id(9, 1), "vector": vector(1)})]).await;
    let before = server.contents().await;
    let native = component(&server, &server.url(), BackendSetting::Filesystem);
    let (archive, _) = backup(&native).await.unwrap();
    let err = chain(&restore(&native, &archive, &Target::Live).await.unwrap_err());
    assert!(err.contains("BACKUP_WEAVIATE_BACKEND=export"), "{err}");
    assert!(server.contents().await == before);
    let export = component(&server, &server.url(), BackendSetting::Export);
    let (archive, _) = backup(&export).await.unwrap();
    restore(&component(&server, &server.url(), BackendSetting::Auto), &archive, &Target::Live).await.unwrap();
    assert!(server.contents().await == before);
}
