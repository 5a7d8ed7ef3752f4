//! Keys with part of the rights, wrong keys and none, on real Weaviate servers: nothing is left out in silence.

use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, restore};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::time::Duration;

/// The component, by way of an export, with the key of a new user that has these permissions and no others.
async fn user(server: &WeaviateServer, name: &str, permissions: Value) -> Weaviate {
    user_by(BackendSetting::Export, server, name, permissions).await
}

/// The same by another way.
async fn user_by(
    backend: BackendSetting,
    server: &WeaviateServer,
    name: &str,
    permissions: Value,
) -> Weaviate {
    let key = key_of(server, name, permissions).await;
    with_key(&server.url(), server, backend, &key)
}

/// The component that comes with this key over this address.
fn with_key(url: &str, server: &WeaviateServer, backend: BackendSetting, key: &str) -> Weaviate {
    let api_key = Some(key.to_owned().into());
    Weaviate::new(WeaviateConfig { server: url.parse().unwrap(), api_key, backend, ..server.config() }, None)
}

/// The key of a new user that has these permissions and no others.
async fn key_of(server: &WeaviateServer, name: &str, permissions: Value) -> String {
    for path in [format!("/v1/users/db/{name}"), format!("/v1/authz/roles/{name}")] {
        server.answer(Method::DELETE, &path, None).await;
    }
    let role = json!({"name": name, "permissions": permissions});
    server.ask(Method::POST, "/v1/authz/roles", Some(role)).await;
    let user = server.ask(Method::POST, &format!("/v1/users/db/{name}"), None).await;
    let roles = json!({"roles": [name], "userType": "db"});
    server.ask(Method::POST, &format!("/v1/authz/users/{name}/assign"), Some(roles)).await;
    user["apikey"].as_str().unwrap().to_owned()
}

/// A line to a server that tells no key its roles, as versions before roles do.
async fn telling_no_roles(server: &WeaviateServer) -> BadLine {
    let rule = |asked: &Asked| {
        let is_it = asked.target == "/v1/users/own-info";
        if is_it { Line::Say(404, String::new()) } else { Line::Good }
    };
    BadLine::before(&server.address(), rule).await
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
        let limited = user_by(BackendSetting::Filesystem, &server, "limited", json!(rights)).await;
        let err = backup(&limited).await.unwrap_err();
        let said = chain(&err);
        assert!(matches!(err, ComponentError::Denied { .. }) && !err.is_transient(), "{said}");
        assert!(said.contains("give the user of WEAVIATE_API_KEY the right"), "{said}");
        limited.recover().await.unwrap();
        assert_eq!(crate::weaviate::left(&server), [""; 0], "{said}");
    }
    let rights = [reads.to_vec(), vec![backs_up("*")]].concat();
    let maker = user_by(BackendSetting::Filesystem, &server, "maker", json!(rights)).await;
    let (_, facts) = backup(&maker).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("filesystem"));
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn a_key_for_one_class_restores_that_class_and_learns_of_hidden_ones() {
    let server = Start::version(NEWEST).key("root-key").server().await;
    server.fill().await;
    let before = server.contents().await;
    let root = Weaviate::new(WeaviateConfig { backend: BackendSetting::Export, ..server.config() }, None);
    let (archive, facts) = backup(&root).await.unwrap();
    server.spoil().await;
    let of = ["create", "read", "update", "delete"];
    let rights = |class: &str| {
        let on_classes = of.map(|verb| collections(&format!("{verb}_collections"), class));
        on_classes.into_iter().chain(of.map(|verb| data(&format!("{verb}_data"), class))).collect::<Vec<_>>()
    };
    let only = |class: &str| Target::custom("include", [class]);
    let ours = [rights("Protocol_rna_trial_*"), rights("RnaBackupMark_*")].concat();
    let as_spoiled = server.contents().await;
    let line = telling_no_roles(&server).await;
    for (url, tells) in [(server.url(), true), (line.url(), false)] {
        let refused = async |name: &str, permissions: Vec<Value>| {
            let key = key_of(&server, name, json!(permissions)).await;
            let limited = with_key(&url, &server, BackendSetting::Export, &key);
            let err = chain(&restore(&limited, &archive, &only("Protocol")).await.unwrap_err());
            assert!(server.contents().await == as_spoiled, "{name}: {err}");
            assert_eq!(limited.due().await.unwrap(), None, "{name}");
            let planned = limited.plan(&only("Protocol"), Some(&facts)).await;
            // A dry run names the missing rights as well, where the server tells the roles of a key.
            assert!(!tells || chain(&planned.unwrap_err()) == err, "{name}: {err}");
            err
        };
        // Nothing is deleted where the trial of the class would not be allowed.
        let err = refused("narrow", [rights("Protocol"), rights("RnaBackupMark_*")].concat()).await;
        let right = if tells { "the right create_collections on" } else { "every right on the classes" };
        assert!(err.contains(&format!("{right} Protocol_rna_trial_*")), "{err}");
        // Nor where a class could be deleted and not made again, or filled again.
        for lacking in ["create_collections", "create_data", "update_data"] {
            let some = rights("Protocol").into_iter().filter(|right| right["action"] != lacking);
            let err = refused("eraser", some.chain(ours.clone()).collect()).await;
            assert!(err.contains(&format!("the right {lacking} on Protocol")), "{err}");
        }
        // Nor where other machines could not know of the restore, or this one of theirs.
        let both = [rights("Protocol"), rights("Protocol_rna_trial_*")].concat();
        let err = refused("blind", both).await;
        assert!(err.contains("delete_collections on RnaBackupMark_*"), "{err}");
        // A class that may not be deleted is not touched, and nothing is due.
        let keeps = rights("Protocol").into_iter().filter(|right| right["action"] != "delete_collections");
        let err = refused("keeper", keeps.chain(ours.clone()).collect()).await;
        let words = if tells {
            "the right delete_collections on Protocol"
        } else {
            "delete class Protocol: give the user of WEAVIATE_API_KEY the right"
        };
        assert!(err.contains(words) && (tells || err.contains("as they were before")), "{err}");
    }
    let owner = user(&server, "owner", json!([rights("Protocol"), ours].concat())).await;
    restore(&owner, &archive, &only("Protocol")).await.unwrap();
    assert!(server.contents().await["Protocol"] == before["Protocol"]);
    let spoiled = server.contents().await;
    let err = chain(&restore(&owner, &archive, &only("Document")).await.unwrap_err());
    assert!(err.contains("the right read_collections on Document"), "{err}");
    let planned = owner.plan(&only("Document"), Some(&facts)).await.unwrap_err();
    assert!(chain(&planned).contains("the right read_collections on Document"), "{planned:?}");
    assert!(server.contents().await == spoiled);
}

/// The reason for which `check` has not tried that step.
const UNTOLD: &str = "this Weaviate does not tell a key its roles; a dry run of a restore tries what it can";

#[tokio::test]
async fn a_dry_run_and_check_ask_for_the_rights_that_a_restore_by_the_server_itself_needs() {
    const STEP: &str = "ask whether the key has the rights that a restore needs";
    let server = Start::version(NEWEST).key("root-key").server().await;
    server.fill().await;
    let before = server.contents().await;
    let on_all = |right: &str, kind: &str, more: Value| {
        let mut of = json!({"collection": "*"});
        of.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"action": right, kind: of})
    };
    let backs_up = vec![
        collections("read_collections", "*"),
        data("read_data", "*"),
        on_all("read_tenants", "tenants", json!({"tenant": "*"})),
        on_all("read_nodes", "nodes", json!({"verbosity": "verbose"})),
        on_all("manage_backups", "backups", json!({})),
    ];
    let maker = key_of(&server, "maker", json!(backs_up)).await;
    let of = |url: &str, key: &str| with_key(url, &server, BackendSetting::Filesystem, key);
    let (archive, facts) = backup(&of(&server.url(), &maker)).await.unwrap();
    let line = BadLine::before(&server.address(), |_| Line::Good).await;
    let limited = of(&line.url(), &maker);
    let planned = chain(&limited.plan(&Target::Live, Some(&facts)).await.unwrap_err());
    let checked = limited.check().await.unwrap();
    for words in [
        "give the user of WEAVIATE_API_KEY the right create_collections on RnaBackupMark_*",
        "the right delete_collections on RnaBackupMark_*, Document, Protocol, Sample",
    ] {
        assert!(planned.contains(words), "{planned}");
        assert!(checked.contains("; a restore would not begin: ") && checked.contains(words), "{checked}");
    }
    let silent = telling_no_roles(&server).await;
    let untold = of(&silent.url(), &maker);
    assert_eq!(untold.plan(&Target::Live, Some(&facts)).await.unwrap().not_tried, [STEP]);
    let checked = untold.check().await.unwrap();
    let not_tried = format!("; not tried: {STEP}: {UNTOLD}");
    assert!(checked.ends_with(&not_tried), "{checked}");

    // With those rights a restore succeeds.
    let more = ["create", "update", "delete"]
        .map(|verb| collections(&format!("{verb}_collections"), "RnaBackupMark_*"));
    let deletes = collections("delete_collections", "*");
    let restorer = json!([backs_up, more.to_vec(), vec![deletes]].concat());
    let restorer = of(&line.url(), &key_of(&server, "restorer", restorer).await);
    assert_eq!(restorer.plan(&Target::Live, Some(&facts)).await.unwrap().not_tried, [""; 0]);
    let checked = restorer.check().await.unwrap();
    assert!(checked.ends_with("by way of filesystem"), "{checked}");
    for line in [&line, &silent] {
        let asks = |asked: &Asked| asked.method == "GET" || asked.target == "/v1/graphql";
        assert!(line.asked().iter().all(asks), "{:?}", line.asked());
    }
    server.spoil().await;
    restore(&restorer, &archive, &Target::Live).await.unwrap();
    let mut found = server.contents().await;
    found.remove("Later");
    assert!(found == before);

    // A version without roles tells nothing.
    let old = Start::version(OLDEST).key("root-key").server().await;
    old.fill().await;
    for backend in [BackendSetting::Filesystem, BackendSetting::Export] {
        let checked = with_key(&old.url(), &old, backend, "root-key").check().await.unwrap();
        assert!(checked.ends_with(&not_tried), "{checked}");
    }
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
    let plan = native.plan(&Target::custom("with-access", [""; 0]), Some(&facts)).await.unwrap();
    assert!(plan.warnings.concat().contains("the key of WEAVIATE_API_KEY must be one of them"), "{plan:?}");
    restore(&native, &archive, &Target::custom("with-access", [""; 0])).await.unwrap();
    assert_eq!(there().await, (200, 200, "Protocol".to_owned()));
    assert!(server.contents().await == before);
    native.undo(None, &Meter::default()).await.unwrap();
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
    let weaviate = Weaviate::new(WeaviateConfig { backend: BackendSetting::Export, ..server.config() }, None);
    let (archive, _) = backup(&weaviate).await.unwrap();
    server.ask(Method::PUT, "/v1/aliases/People", Some(json!({"class": "Paper"}))).await;
    server.ask(Method::DELETE, "/v1/schema/Author", None).await;
    let meter = Meter::default();
    let author = Target::custom("include", ["Author"]);
    weaviate
        .stage(&mut &*archive, &RestoreOrder::new(&author, None), &meter)
        .await
        .unwrap()
        .swap()
        .await
        .unwrap();
    let said = meter.take_warnings();
    assert_eq!(said, ["Alias People was that of class Author, is that of Paper now, and stays so."]);
}

#[tokio::test]
async fn users_and_roles_that_a_backup_does_not_hold_are_refused_before_anything_is_touched() {
    for (start, backend, words) in [
        (Start::version(NEWEST), BackendSetting::Export, "the backup is an export, which holds none"),
        (Start::version(OLDEST), BackendSetting::Filesystem, "backups of Weaviate 1.26.1 hold none"),
        (Start::version(NEWEST), BackendSetting::Filesystem, "the server that made it had neither roles"),
    ] {
        let server = start.server().await;
        server.fill().await;
        let before = server.contents().await;
        let weaviate = Weaviate::new(WeaviateConfig { backend, ..server.config() }, None);
        let (archive, facts) = backup(&weaviate).await.unwrap();
        let err =
            chain(&restore(&weaviate, &archive, &Target::custom("with-access", [""; 0])).await.unwrap_err());
        assert!(err.contains(words), "{err}");
        if !words.contains("the server that made it") {
            let err = chain(
                &weaviate.plan(&Target::custom("with-access", [""; 0]), Some(&facts)).await.unwrap_err(),
            );
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
