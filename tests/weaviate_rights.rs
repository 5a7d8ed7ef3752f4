//! Keys with part of the rights, wrong keys and none, on real Weaviate servers: nothing is left out in silence.

use crate::support::s3_proxy::{BadLine, Line};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, restore};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Way, Weaviate, WeaviateConfig};
use rna_backup::component::{Component, ComponentError, Target};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::time::Duration;

/// The component, by way of an export, with the key of a new user that has these permissions and no others.
async fn user(server: &WeaviateServer, name: &str, permissions: Value) -> Weaviate {
    user_by(Way::Export, server, name, permissions).await
}

/// The same by another way.
async fn user_by(way: Way, server: &WeaviateServer, name: &str, permissions: Value) -> Weaviate {
    for path in [format!("/v1/users/db/{name}"), format!("/v1/authz/roles/{name}")] {
        server.answer(Method::DELETE, &path, None).await;
    }
    let role = json!({"name": name, "permissions": permissions});
    server.ask(Method::POST, "/v1/authz/roles", Some(role)).await;
    let user = server.ask(Method::POST, &format!("/v1/users/db/{name}"), None).await;
    let roles = json!({"roles": [name], "userType": "db"});
    server.ask(Method::POST, &format!("/v1/authz/users/{name}/assign"), Some(roles)).await;
    let key = user["apikey"].as_str().unwrap().to_owned();
    let config = server.config();
    Weaviate::new(WeaviateConfig { api_key: Some(key.into()), way, ..config }, None)
}

fn collections(action: &str, collection: &str) -> Value {
    json!({"action": action, "collections": {"collection": collection}})
}

fn data(action: &str, collection: &str) -> Value {
    json!({"action": action, "data": {"collection": collection}})
}

#[tokio::test]
async fn a_key_that_may_not_read_everything_is_refused_by_check_and_backup() {
    let server = Start::version(NEWEST).key("root-key").server().await;
    let nobody = user(&server, "nobody", json!([{"action": "read_cluster"}])).await;
    let right = "the right read_collections on *";
    for empty in [true, false] {
        if !empty {
            server.fill().await;
        }
        let limited = user(
            &server,
            "limited",
            json!([collections("read_collections", "Document"), data("read_data", "*")]),
        )
        .await;
        for weaviate in [&nobody, &limited] {
            let err = chain(&weaviate.check().await.unwrap_err());
            assert!(err.contains("give the user of WEAVIATE_API_KEY") && err.contains(right), "{err}");
            let err = chain(&backup(weaviate).await.unwrap_err());
            assert!(err.contains(right), "{err}");
        }
    }
    let all = json!([collections("read_collections", "*"), data("read_data", "*")]);
    let blind = user(&server, "blind", all).await;
    let err = chain(&backup(&blind).await.unwrap_err());
    assert!(err.contains("the right read_tenants on all tenants of Sample"), "{err}");
    let all = json!([collections("read_collections", "*"), data("read_data", "*"),
        {"action": "read_tenants", "tenants": {"collection": "*", "tenant": "*"}}]);
    let reader = user(&server, "reader", all).await;
    let (_, facts) = backup(&reader).await.unwrap();
    let objects = [("Document", 300), ("Protocol", 30), ("Sample", 60)];
    assert_eq!(facts.counts.classes, objects.map(|(class, count)| (class.to_owned(), count)).into());
}

#[tokio::test]
async fn a_key_that_may_not_make_backups_of_every_class_is_told_of_the_right() {
    let server = Start::version(NEWEST).key("root-key").server().await;
    server.fill().await;
    let before = server.contents().await;
    let reads = [
        collections("read_collections", "*"),
        data("read_data", "*"),
        json!({"action": "read_tenants", "tenants": {"collection": "*", "tenant": "*"}}),
    ];
    let backs_up = |class: &str| json!({"action": "manage_backups", "backups": {"collection": class}});
    for more in [vec![], vec![backs_up("Document")]] {
        let rights = [reads.to_vec(), more].concat();
        let limited = user_by(Way::Filesystem, &server, "limited", json!(rights)).await;
        let err = backup(&limited).await.unwrap_err();
        let said = chain(&err);
        assert!(matches!(err, ComponentError::Denied { .. }) && !err.is_transient(), "{said}");
        assert!(said.contains("give the user of WEAVIATE_API_KEY the right"), "{said}");
        limited.recover().await.unwrap();
        assert_eq!(crate::weaviate::left(&server), [""; 0], "{said}");
    }
    let rights = [reads.to_vec(), vec![backs_up("*")]].concat();
    let maker = user_by(Way::Filesystem, &server, "maker", json!(rights)).await;
    let (_, facts) = backup(&maker).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("filesystem"));
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn a_key_for_one_class_restores_that_class_and_learns_of_hidden_ones() {
    let server = Start::version(NEWEST).key("root-key").server().await;
    server.fill().await;
    let before = server.contents().await;
    let root = Weaviate::new(WeaviateConfig { way: Way::Export, ..server.config() }, None);
    let (archive, facts) = backup(&root).await.unwrap();
    server.spoil().await;
    let of = ["create", "read", "update", "delete"];
    let rights = |class: &str| {
        let on_classes = of.map(|verb| collections(&format!("{verb}_collections"), class));
        on_classes.into_iter().chain(of.map(|verb| data(&format!("{verb}_data"), class))).collect::<Vec<_>>()
    };
    let only = |class: &str| Target::Classes(vec![class.to_owned()]);
    // Nothing is deleted where the trial of the class would not be allowed.
    let narrow =
        user(&server, "narrow", json!([rights("Protocol"), rights("RnaBackupMark_*")].concat())).await;
    let as_spoiled = server.contents().await;
    let err = chain(&restore(&narrow, &archive, &only("Protocol")).await.unwrap_err());
    assert!(err.contains("every right on the classes Protocol_rna_trial_*"), "{err}");
    assert!(server.contents().await == as_spoiled);
    // Nor where a class could be deleted and not made again, or filled again.
    let ours = [rights("Protocol_rna_trial_*"), rights("RnaBackupMark_*")].concat();
    for lacking in ["create_collections", "create_data"] {
        let some = rights("Protocol").into_iter().filter(|right| right["action"] != lacking);
        let some: Vec<_> = some.chain(ours.clone()).collect();
        let eraser = user(&server, "eraser", json!(some)).await;
        let err = chain(&restore(&eraser, &archive, &only("Protocol")).await.unwrap_err());
        assert!(err.contains(&format!("the right {lacking} on Protocol")), "{err}");
        assert!(server.contents().await == as_spoiled, "{lacking}");
    }
    // Nor where other machines could not know of the restore, or this one of theirs.
    let both = [rights("Protocol"), rights("Protocol_rna_trial_*")].concat();
    let blind = user(&server, "blind", json!(both)).await;
    let err = chain(&restore(&blind, &archive, &only("Protocol")).await.unwrap_err());
    assert!(err.contains("delete_collections on RnaBackupMark_*"), "{err}");
    assert!(server.contents().await == as_spoiled);
    let owner = user(&server, "owner", json!([rights("Protocol"), ours.clone()].concat())).await;
    restore(&owner, &archive, &only("Protocol")).await.unwrap();
    assert!(server.contents().await["Protocol"] == before["Protocol"]);
    let spoiled = server.contents().await;
    let err = chain(&restore(&owner, &archive, &only("Document")).await.unwrap_err());
    assert!(err.contains("the right read_collections on Document"), "{err}");
    let planned = owner.plan(&only("Document"), Some(&facts)).await.unwrap_err();
    assert!(chain(&planned).contains("the right read_collections on Document"), "{planned:?}");
    assert!(server.contents().await == spoiled);

    // A class that may not be deleted is not touched, and nothing is due.
    let keeps = rights("Protocol").into_iter().filter(|right| right["action"] != "delete_collections");
    let keeps: Vec<_> = keeps.chain(ours).collect();
    let keeper = user(&server, "keeper", json!(keeps)).await;
    let err = chain(&restore(&keeper, &archive, &only("Protocol")).await.unwrap_err());
    assert!(err.contains("delete class Protocol") && err.contains("as they were before"), "{err}");
    assert_eq!(keeper.due().await.unwrap(), None);
    assert!(server.contents().await == spoiled);
}

#[tokio::test]
async fn users_roles_and_aliases_come_back_where_that_is_asked_for() {
    let server = Start::version(NEWEST).key("root-key").server().await;
    server.fill().await;
    let alias = async |class: &str| {
        let (status, _) = server.answer(Method::DELETE, "/v1/aliases/Steps", None).await;
        assert!([204, 404].contains(&status));
        server.ask(Method::POST, "/v1/aliases", Some(json!({"alias": "Steps", "class": class}))).await;
    };
    let there = async || {
        let role = server.answer(Method::GET, "/v1/authz/roles/student", None).await.0;
        let user = server.answer(Method::GET, "/v1/users/db/student", None).await.0;
        let aliases = server.ask(Method::GET, "/v1/aliases", None).await;
        (role, user, aliases["aliases"][0]["class"].as_str().unwrap_or_default().to_owned())
    };
    user(&server, "student", json!([collections("read_collections", "*")])).await;
    alias("Protocol").await;
    let native = Weaviate::new(server.config(), None);
    let before = server.contents().await;
    let (archive, facts) = backup(&native).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("filesystem"));
    for path in ["/v1/users/db/student", "/v1/authz/roles/student"] {
        server.ask(Method::DELETE, path, None).await;
    }
    alias("Document").await;
    restore(&native, &archive, &Target::Live).await.unwrap();
    assert_eq!((there().await.0, there().await.1), (404, 404), "nobody asked for them");
    alias("Document").await;
    let plan = native.plan(&Target::LiveWithAccess, Some(&facts)).await.unwrap();
    assert!(plan.warnings.concat().contains("the key of WEAVIATE_API_KEY must be one of them"), "{plan:?}");
    restore(&native, &archive, &Target::LiveWithAccess).await.unwrap();
    assert_eq!(there().await, (200, 200, "Protocol".to_owned()));
    assert!(server.contents().await == before);
    native.undo(&Meter::default()).await.unwrap();
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn an_alias_that_is_that_of_another_class_now_stays_so_and_is_told() {
    let server = Start::version(NEWEST).server().await;
    for class in ["Author", "Paper"] {
        server.make(json!({"class": class, "vectorizer": "none", "properties": []})).await;
    }
    server.put(vec![json!({"class": "Author", "id": "00000000-0000-4000-8000-000000000001"})]).await;
    server.ask(Method::POST, "/v1/aliases", Some(json!({"alias": "People", "class": "Author"}))).await;
    let weaviate = Weaviate::new(WeaviateConfig { way: Way::Export, ..server.config() }, None);
    let (archive, _) = backup(&weaviate).await.unwrap();
    server.ask(Method::PUT, "/v1/aliases/People", Some(json!({"class": "Paper"}))).await;
    server.ask(Method::DELETE, "/v1/schema/Author", None).await;
    let meter = Meter::default();
    let author = Target::Classes(vec!["Author".to_owned()]);
    weaviate.stage(&mut &*archive, &author, None, &meter).await.unwrap().swap().await.unwrap();
    let said = meter.take_warnings();
    assert_eq!(said, ["Alias People was that of class Author, is that of Paper now, and stays so."]);
}

#[tokio::test]
async fn users_and_roles_that_a_backup_does_not_hold_are_refused_before_anything_is_touched() {
    for (start, way, words) in [
        (Start::version(NEWEST), Way::Export, "the backup is an export, which holds none"),
        (Start::version(OLDEST), Way::Filesystem, "backups of Weaviate 1.26.1 hold none"),
        (Start::version(NEWEST), Way::Filesystem, "the server that made it had neither roles"),
    ] {
        let server = start.server().await;
        server.fill().await;
        let before = server.contents().await;
        let weaviate = Weaviate::new(WeaviateConfig { way, ..server.config() }, None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let err = chain(&restore(&weaviate, &archive, &Target::LiveWithAccess).await.unwrap_err());
        assert!(err.contains(words), "{err}");
        if !words.contains("the server that made it") {
            let err = chain(&weaviate.plan(&Target::LiveWithAccess, Some(&facts)).await.unwrap_err());
            assert!(err.contains(words), "{err}");
        }
        assert!(server.contents().await == before);
        assert_eq!(crate::weaviate::left(&server), [""; 0]);
    }
}

#[tokio::test]
async fn a_wrong_key_is_named_by_its_setting() {
    for version in [OLDEST, NEWEST] {
        let closed = Start::version(version).key("root-key").server().await;
        let open = Start::version(version).server().await;
        for (server, key, help) in [
            (&closed, Some("wrong"), ": correct WEAVIATE_API_KEY"),
            (&closed, None, ": set WEAVIATE_API_KEY"),
            (&open, Some("useless"), ": remove WEAVIATE_API_KEY"),
        ] {
            let api_key = key.map(|key| key.to_owned().into());
            let weaviate = Weaviate::new(WeaviateConfig { api_key, ..server.config() }, None);
            let err = chain(&weaviate.check().await.unwrap_err());
            assert!(err.contains(help), "{version} {key:?}: {err}");
        }
    }
}

#[tokio::test]
async fn an_address_where_no_weaviate_is_is_named_by_its_setting() {
    let server = Start::version(NEWEST).server().await;
    let nowhere = format!("127.0.0.1:{}", crate::support::lab::free_port());
    let page = BadLine::before(&server.address(), |_| Line::Say(404, "<html>".to_owned())).await;
    for (url, help) in [
        (format!("http://{nowhere}"), ": start it, or correct WEAVIATE_URL"),
        (page.url(), ": correct WEAVIATE_URL"),
        (format!("https://{}", server.address()), ": start it, or correct WEAVIATE_URL"),
    ] {
        let second = Duration::from_millis(10);
        let config = WeaviateConfig { server: url.parse().unwrap(), second, ..server.config() };
        let err = chain(&Weaviate::new(config, None).check().await.unwrap_err());
        assert!(err.contains(help), "{url}: {err}");
    }
}
