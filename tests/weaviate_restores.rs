//! `component::weaviate` when a restore fails, is refused, or dies in the middle: what was there is there again.

use crate::support::lab::eventually;
use crate::support::weaviate::{Start, Weaviate as Server, id};
use crate::weaviate::{VERSIONS, backup, left, restore, weaviate};
use crate::weaviate_faults::{filled, next, spoiled};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Way, Weaviate, WeaviateConfig};
use rna_backup::component::{Component, ComponentError, Target};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, time::Duration};

/// A restore that fails after the deletion leaves what was there before.
async fn comes_to_nothing(server: &Server, weaviate: &Weaviate, archive: &[u8], words: &str) {
    let before = server.fingerprint().await;
    let err = restore(weaviate, archive, &Target::Live).await.unwrap_err();
    let said = chain(&err);
    assert!(said.contains(words) && said.contains("again as they were before"), "{said}");
    assert_eq!(server.fingerprint().await, before, "{said}");
    assert_eq!(weaviate.recover().await.unwrap(), [""; 0]);
    assert_eq!((left(server), weaviate.kept().await.unwrap()), (Vec::new(), None));
}

#[tokio::test]
async fn a_restore_that_fails_puts_back_what_was_there() {
    for version in VERSIONS {
        let (server, weaviate, archive) = spoiled(version).await;
        for (script, words) in [
            (json!({"fail": "it would not go"}), "it would not go"),
            (json!({"empty_class": "Document"}), "class Document: 0 objects are there and should be 300"),
            (json!({"lose": {"Protocol": 3}}), "class Protocol: 27 objects are there and should be 30"),
        ] {
            println!("{version} {script}");
            next(&server, "restore", script).await;
            comes_to_nothing(&server, &weaviate, &archive, words).await;
        }
        restore(&weaviate, &archive, &Target::Live).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_there_is_put_back_once_more_where_that_fails_and_kept_where_it_fails_for_good() {
    let (server, weaviate, archive) = spoiled("1.26.1").await;
    let before = server.fingerprint().await;
    let fail = async |times| {
        for _ in 0..times {
            next(&server, "restore", json!({"fail": "it would not go"})).await;
        }
    };
    // The restore itself, and twice what puts back.
    fail(3).await;
    comes_to_nothing(&server, &weaviate, &archive, "it would not go").await;
    fail(4).await;
    let said = chain(&restore(&weaviate, &archive, &Target::Live).await.unwrap_err());
    let kept = journal(&server)["replacing"]["safety"]["id"].as_str().unwrap().to_owned();
    assert!(said.contains("could not be put back") && said.contains(&kept), "{said}");
    assert_ne!(server.fingerprint().await, before);
    let done = weaviate.recover().await.unwrap();
    assert!(done[0].contains("rolled back"), "{done:?}");
    assert_eq!(server.fingerprint().await, before);
}

#[tokio::test]
async fn an_import_that_is_refused_puts_back_what_was_there() {
    for version in VERSIONS {
        let server = Start::version(version).modules("").start();
        server.fill().await;
        let weaviate = weaviate(server.config());
        let (archive, _) = backup(&weaviate).await.unwrap();
        server.spoil().await;
        for (path, times) in [("/v1/batch/objects$", 1), ("/v1/batch/references$", 1), ("/v1/schema$", 1)] {
            server.fault(json!({"method": "POST", "path": path, "times": times, "kind": "status", "status": 422, "body": "{}"})).await;
            comes_to_nothing(&server, &weaviate, &archive, "422").await;
        }
        // What passes is waited for.
        server
            .fault(
                json!({"method": "POST", "path": "/v1/batch/", "times": 3, "kind": "status", "status": 503}),
            )
            .await;
        server.fault(json!({"method": "GET", "path": "/v1/objects", "times": 3, "kind": "truncated"})).await;
        restore(&weaviate, &archive, &Target::Live).await.unwrap();
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_restore_puts_back_what_was_there() {
    for version in VERSIONS {
        let (server, weaviate, archive) = spoiled(version).await;
        let before = server.fingerprint().await;
        server.direct("hold", json!({"operation": "restore"})).await;
        let restarting = async {
            server.held("restore").await;
            server
                .direct("restart", json!({"down_seconds": 5, "unready_seconds": 5, "release": "restore"}))
                .await;
        };
        let (restored, ()) = tokio::join!(restore(&weaviate, &archive, &Target::Live), restarting);
        let found = server.fingerprint().await;
        match restored {
            Err(err) => assert_eq!(found, before, "{version}: {}", chain(&err)),
            // Where the order could be given once more, it was.
            Ok(_) => assert_ne!(found["Document"], before["Document"]),
        }
    }
}

/// Two ways of a server to keep what is set aside: in its own folder, and in ours.
const WAYS: [&str; 2] = ["backup-filesystem", ""];

/// A server on which a restore has died in the middle, and what was there before it.
async fn dead_restore(modules: &str) -> (Server, BTreeMap<String, Value>) {
    let server = Start::version("1.26.1").modules(modules).start();
    server.fill().await;
    let weaviate = weaviate(server.config());
    let (archive, _) = backup(&weaviate).await.unwrap();
    server.spoil().await;
    let before = server.fingerprint().await;
    if modules.is_empty() {
        server.fault(json!({"method": "POST", "path": "/v1/batch/objects$", "times": null, "kind": "slow_headers", "seconds": 60})).await;
    } else {
        server.direct("hold", json!({"operation": "restore"})).await;
    }
    let batches =
        async || server.asked().await.iter().filter(|(_, path)| path == "/v1/batch/objects").count();
    let filled = batches().await;
    let died = async {
        // The classes are gone by then.
        if modules.is_empty() {
            assert!(eventually(async || batches().await > filled).await);
        } else {
            server.held("restore").await;
        }
    };
    tokio::select! {
        ended = restore(&weaviate, &archive, &Target::Live) => panic!("{ended:?}"),
        () = died => {}
    }
    assert_ne!(server.fingerprint().await, before);
    server.ask(Method::DELETE, "/_double/faults", None).await;
    server.direct("release", json!({"operation": "restore"})).await;
    (server, before)
}

fn journal(server: &Server) -> Value {
    serde_json::from_slice(&fs::read(server.state().join("journal.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn what_came_long_after_a_restore_died_is_set_aside_before_it_is_taken_back() {
    for modules in WAYS {
        let (server, before) = dead_restore(modules).await;
        // Somebody has repaired it meanwhile, by hand or from another machine.
        if !modules.is_empty() {
            let ended = eventually(async || server.fingerprint().await.contains_key("Document"));
            assert!(ended.await, "the server goes on with what the dead one has ordered");
        }
        server.ask(Method::DELETE, "/v1/schema/Document", None).await;
        let document = json!({"class": "Document", "vectorizer": "none", "properties": [{"name": "title", "dataType": ["text"]}]});
        server.ask(Method::POST, "/v1/schema", Some(document)).await;
        server
            .put(vec![json!({"class": "Document", "id": id(9, 1), "properties": {"title": "of days"}})])
            .await;
        let since = server.fingerprint().await;
        let mut journal = journal(&server);
        journal["replacing"]["began"] = json!("2026-01-01T00:00:00Z");
        fs::write(server.state().join("journal.json"), journal.to_string()).unwrap();

        let next = Weaviate::new(server.config(), None);
        next.recover().await.unwrap();
        assert_eq!(server.fingerprint().await, before);
        next.undo().await.unwrap();
        assert_eq!(server.fingerprint().await["Document"], since["Document"]);
    }
}

#[tokio::test]
async fn nothing_is_deleted_where_what_would_be_put_back_is_gone() {
    for modules in WAYS {
        let (server, before) = dead_restore(modules).await;
        let id = journal(&server)["replacing"]["safety"]["id"].as_str().unwrap().to_owned();
        let copy = if modules.is_empty() {
            server.state().join(format!("{id}.tar"))
        } else {
            server.folder().join(id)
        };
        let away = copy.with_file_name("away");
        fs::rename(&copy, &away).unwrap();
        let next = Weaviate::new(server.config(), None);
        let asked = server.asked().await.len();
        let err = next.recover().await.unwrap_err();
        assert!(!err.is_transient() && err.to_string().contains("nothing was changed"), "{err:?}");
        let since = server.asked().await.split_off(asked);
        assert!(since.iter().all(|(method, _)| method != "DELETE"), "{since:?}");
        fs::rename(&away, &copy).unwrap();
        next.recover().await.unwrap();
        assert_eq!(server.fingerprint().await, before);
    }
}

#[tokio::test]
async fn a_run_that_dies_in_the_middle_is_rolled_back_by_the_next() {
    for modules in WAYS {
        let (server, before) = dead_restore(modules).await;
        // Another process, which knows nothing but what is written down.
        let next = Weaviate::new(server.config(), None);
        let done = next.recover().await.unwrap();
        assert!(done[0].contains("rolled back"), "{done:?}");
        assert_eq!(server.fingerprint().await, before);
        assert_eq!(next.recover().await.unwrap(), [""; 0]);
        assert_eq!(left(&server), [""; 0]);
    }
}

#[tokio::test]
async fn a_backup_or_a_drill_that_dies_leaves_nothing_after_the_next_start() {
    let (server, _) = filled("1.26.18").await;
    let second = Start::version("1.26.18").folder_of(&server).start();
    let config = WeaviateConfig { drill: Some(second.url().parse().unwrap()), ..server.config() };
    let weaviate = weaviate(config);
    let (archive, _) = backup(&weaviate).await.unwrap();

    server.direct("hold", json!({"operation": "backup"})).await;
    tokio::select! {
        made = backup(&weaviate) => panic!("{made:?}"),
        () = server.held("backup") => {}
    }
    server.direct("release", json!({"operation": "backup"})).await;
    let cleared = crate::support::lab::eventually(async || {
        weaviate.recover().await.unwrap();
        left(&server).is_empty()
    });
    assert!(cleared.await, "{:?}", left(&server));

    second.direct("hold", json!({"operation": "restore"})).await;
    let drill = async {
        let staged = weaviate.stage(&mut &*archive, &Target::Scratch, None, &Meter::default()).await;
        panic!("{staged:?}");
    };
    tokio::select! {
        () = drill => {}
        () = second.held("restore") => {}
    }
    second.direct("release", json!({"operation": "restore"})).await;
    let restored = crate::support::lab::eventually(async || second.fingerprint().await.len() == 3);
    assert!(restored.await);
    let done = weaviate.recover().await.unwrap();
    assert!(done.iter().any(|line| line.contains("dead drill")), "{done:?}");
    assert_eq!((second.fingerprint().await.len(), left(&server)), (0, Vec::new()));
}

#[tokio::test]
async fn what_would_be_lost_or_could_not_be_made_is_refused_with_nothing_touched() {
    let refused = async |server: &Server, weaviate: &Weaviate, archive: &[u8], words: &str| {
        let before = server.fingerprint().await;
        let err = restore(weaviate, archive, &Target::Live).await.unwrap_err();
        assert!(chain(&err).contains(words), "{}", chain(&err));
        assert_eq!((server.fingerprint().await, left(server)), (before, Vec::new()));
    };
    let (server, weaviate, archive) = spoiled("1.26.1").await;
    let cold = json!([{"name": "dry", "activityStatus": "COLD"}]);
    server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(cold)).await;
    refused(&server, &weaviate, &archive, "activate them first").await;
    let (_, facts) = backup(&weaviate).await.unwrap();
    assert!(
        facts.warnings.iter().any(|warning| warning.contains("inactive tenants of class Sample")),
        "{facts:?}"
    );

    let older = Start::version("1.22.4").start();
    older.fill().await;
    refused(&older, &crate::weaviate::weaviate(older.config()), &archive, "newer than this one").await;
    let renamed = Start::version("1.26.1").arg("--node", "node2").start();
    refused(
        &renamed,
        &crate::weaviate::weaviate(renamed.config()),
        &archive,
        "set CLUSTER_HOSTNAME of Weaviate to node1",
    )
    .await;
    let bare = Start::version("1.26.1").modules("").start();
    refused(
        &bare,
        &crate::weaviate::weaviate(bare.config()),
        &archive,
        "set ENABLE_MODULES=backup-filesystem",
    )
    .await;

    // An export needs no module of backups, but those of its classes.
    let (server, _) = filled("1.26.1").await;
    let vectorised = json!({"class": "Figure", "vectorizer": "text2vec-openai", "properties": []});
    server.ask(Method::POST, "/v1/schema", Some(vectorised)).await;
    let export = crate::weaviate::weaviate(WeaviateConfig { way: Way::Export, ..server.config() });
    let (archive, _) = backup(&export).await.unwrap();
    refused(&bare, &crate::weaviate::weaviate(bare.config()), &archive, "add that to ENABLE_MODULES").await;
}

#[tokio::test]
async fn a_damaged_archive_is_seen_by_decoding_and_refused_by_a_restore() {
    for modules in ["backup-filesystem", ""] {
        let server = Start::version("1.26.1").modules(modules).start();
        server.fill().await;
        let weaviate = weaviate(server.config());
        let (archive, _) = backup(&weaviate).await.unwrap();
        let before = server.fingerprint().await;
        let cut = [70, 30, 2].map(|part| archive[..archive.len() * part / 100].to_vec());
        // Some bytes into what Weaviate, or we, have packed.
        let magic: &[u8] = if modules.is_empty() { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[0x1f, 0x8b, 0x08] };
        let packed = archive.windows(magic.len()).position(|bytes| bytes == magic).unwrap();
        let mut flipped = archive.clone();
        flipped[packed + 40] ^= 4;
        for damaged in [vec![Vec::new(), flipped], cut.to_vec()].concat() {
            let found = crate::weaviate::decode(&weaviate, &damaged).await;
            assert!(matches!(found, Err(ComponentError::Corrupt { .. })), "{found:?}");
        }
        for damaged in cut {
            restore(&weaviate, &damaged, &Target::Live).await.unwrap_err();
            weaviate.recover().await.unwrap();
            assert_eq!((server.fingerprint().await, left(&server)), (before.clone(), Vec::new()));
        }
    }
}

#[tokio::test]
async fn a_count_is_taken_from_the_nodes_where_there_is_no_graphql() {
    let (server, weaviate) = filled("1.26.1").await;
    server.direct("graphql", json!({"disabled": true})).await;
    server.direct("lag", json!({"nodes": 2})).await;
    let before = server.fingerprint().await;
    let (archive, _) = backup(&weaviate).await.unwrap();
    restore(&weaviate, &archive, &Target::Live).await.unwrap();
    assert_eq!(server.fingerprint().await, before);
    next(&server, "restore", json!({"empty_class": "Document"})).await;
    comes_back(&server, &weaviate, &archive).await;
}

#[tokio::test]
async fn a_restore_waits_for_a_count_that_comes_late() {
    let (server, _) = filled("1.26.1").await;
    server.direct("graphql", json!({"disabled": true})).await;
    let patient = WeaviateConfig { second: Duration::from_millis(250), ..server.config() };
    let weaviate = weaviate(patient);
    let (archive, _) = backup(&weaviate).await.unwrap();
    let before = server.fingerprint().await;
    server.direct("lag", json!({"nodes": 2})).await;
    // As long as the nodes have not been asked for what has come, they know less of it.
    let catch_up = async {
        let has_asked = eventually(async || {
            let asked = server.asked().await;
            let came =
                asked.iter().rposition(|(method, path)| method == "POST" && path.ends_with("/restore"));
            came.is_some_and(|at| asked[at..].iter().any(|(_, path)| path.starts_with("/v1/nodes/")))
        });
        assert!(has_asked.await);
        server.direct("lag", json!({"nodes": 0})).await;
    };
    let (restored, ()) = tokio::join!(restore(&weaviate, &archive, &Target::Live), catch_up);
    restored.unwrap();
    assert_eq!(server.fingerprint().await, before);
}

/// The same as [`comes_to_nothing`], where something was set aside before.
async fn comes_back(server: &Server, weaviate: &Weaviate, archive: &[u8]) {
    let before = server.fingerprint().await;
    assert!(restore(weaviate, archive, &Target::Live).await.is_err());
    assert_eq!(server.fingerprint().await, before);
}
