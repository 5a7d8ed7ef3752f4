//! `component::weaviate` when the server or the line fails: a failure is told and never taken for a backup.

use crate::support::weaviate::{SECOND, Start, Weaviate as Server};
use crate::weaviate::{VERSIONS, backup, left, restore, weaviate};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Weaviate, WeaviateConfig};
use rna_backup::component::{Component, ComponentError, Target};
use serde_json::{Value, json};

/// A filled server of this version.
pub async fn filled(version: &str) -> (Server, Weaviate) {
    let server = Start::version(version).start();
    server.fill().await;
    let weaviate = weaviate(server.config());
    (server, weaviate)
}

/// A server with a backup of it, and other data since.
pub async fn spoiled(version: &str) -> (Server, Weaviate, Vec<u8>) {
    let (server, weaviate) = filled(version).await;
    let (archive, _) = backup(&weaviate).await.unwrap();
    server.spoil().await;
    (server, weaviate, archive)
}

pub async fn next(server: &Server, operation: &str, script: Value) {
    let mut script = script;
    script["operation"] = json!(operation);
    server.direct("next", script).await;
}

/// How many orders of this kind the server has seen.
async fn orders(server: &Server, tail: &str) -> usize {
    let is_one = |(method, path): &(String, String)| method == "POST" && path.ends_with(tail);
    server.asked().await.iter().filter(|one| is_one(one)).count()
}

async fn gives_up(weaviate: &Weaviate, words: &str) -> ComponentError {
    let err = backup(weaviate).await.unwrap_err();
    assert!(chain(&err).contains(words), "{}", chain(&err));
    err
}

#[tokio::test]
async fn a_backup_that_never_ends_is_a_failure_and_never_a_success() {
    for version in VERSIONS {
        let (server, _) = filled(version).await;
        let weaviate = weaviate(WeaviateConfig { timeout: SECOND * 60, ..server.config() });
        next(&server, "backup", json!({"never": true})).await;
        let err = gives_up(&weaviate, "raise BACKUP_WEAVIATE_TIMEOUT").await;
        assert!(!err.is_transient(), "another hour of the same helps nobody");
    }
}

#[tokio::test]
async fn a_slow_backup_is_waited_for_whatever_its_states_are_called() {
    for version in VERSIONS {
        let (server, weaviate) = filled(version).await;
        next(&server, "backup", json!({"seconds": 100, "status_word": "SOMETHING_NEW", "looks": 5})).await;
        backup(&weaviate).await.unwrap();
        assert_eq!(orders(&server, "/filesystem").await, 1);
    }
}

#[tokio::test]
async fn what_the_server_says_of_its_failure_is_told_and_what_is_left_is_removed() {
    let scripts = [
        (json!({"fail": "stat: no such file or directory"}), "no such file or directory"),
        (json!({"disk_full_after": 100}), "no space left"),
    ];
    for (version, (script, words)) in
        VERSIONS.iter().flat_map(|version| scripts.iter().map(move |one| (version, one)))
    {
        let (server, weaviate) = filled(version).await;
        next(&server, "backup", script.clone()).await;
        let err = gives_up(&weaviate, words).await;
        assert!(err.is_transient() && chain(&err).contains("FAILED"), "{err:?}");
        assert_eq!(left(&server).len(), 1);
        let done = weaviate.recover().await.unwrap();
        assert!(done[0].contains("removed backup rna-"), "{done:?}");
        assert_eq!(left(&server), [""; 0]);
        backup(&weaviate).await.unwrap();
    }
    let (server, weaviate) = filled("1.39.0").await;
    next(&server, "backup", json!({"cancelled": "by hand"})).await;
    gives_up(&weaviate, "CANCELED: by hand").await;
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_backup_is_seen_and_another_one_begun() {
    for version in ["1.22.4", "1.26.1", "1.26.18"] {
        let (server, weaviate) = filled(version).await;
        server.direct("hold", json!({"operation": "backup"})).await;
        let restarting = async {
            server.held("backup").await;
            server
                .direct("restart", json!({"down_seconds": 20, "unready_seconds": 20, "release": "backup"}))
                .await;
        };
        let (made, ()) = tokio::join!(backup(&weaviate), restarting);
        made.unwrap_or_else(|err| panic!("{version}: {}", chain(&err)));
        assert_eq!(orders(&server, "/filesystem").await, 2, "{version}");
        // The first says STARTED for ever, so it stays until nobody can be at it any more.
        assert_eq!(left(&server).len(), 1);
        let later = Weaviate::new(WeaviateConfig { timeout: SECOND, ..server.config() }, None);
        let cleared = crate::support::lab::eventually(async || {
            later.recover().await.unwrap();
            left(&server).is_empty()
        });
        assert!(cleared.await, "{:?}", left(&server));
    }
    // Later versions say CANCELED in the end, by which time another one may have begun.
    for version in ["1.31.5", "1.39.0"] {
        let (server, weaviate) = filled(version).await;
        server.direct("hold", json!({"operation": "backup"})).await;
        let restarting = async {
            server.held("backup").await;
            server
                .direct("restart", json!({"down_seconds": 5, "unready_seconds": 5, "release": "backup"}))
                .await;
        };
        let (made, ()) = tokio::join!(backup(&weaviate), restarting);
        if let Err(err) = made {
            assert!(chain(&err).contains("CANCELED") && err.is_transient(), "{}", chain(&err));
        }
    }
}

#[tokio::test]
async fn a_short_silence_does_not_begin_a_second_backup() {
    for version in VERSIONS {
        let (server, weaviate) = filled(version).await;
        next(&server, "backup", json!({"seconds": 60})).await;
        let status = r"^/v1/backups/filesystem/rna-[^/]+$";
        server.fault(json!({"method": "GET", "path": status, "times": 3, "kind": "reset_before"})).await;
        server
            .fault(json!({"method": "GET", "path": status, "times": 3, "kind": "status", "status": 404}))
            .await;
        backup(&weaviate).await.unwrap();
        assert!(orders(&server, "/filesystem").await <= 2, "one, and one question whether it is still at it");
        assert_eq!(left(&server), [""; 0]);
    }
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_found_again() {
    for version in VERSIONS {
        for kind in ["reset_after", "late"] {
            let (server, weaviate) = filled(version).await;
            server.fault(json!({"method": "POST", "path": "/v1/backups/filesystem$", "times": 1, "kind": kind, "seconds": 1})).await;
            backup(&weaviate).await.unwrap();
            assert_eq!(orders(&server, "/filesystem").await, 1, "{kind}");
        }
        // One that never came through is given again, under another id.
        let (server, weaviate) = filled(version).await;
        server
            .fault(
                json!({"method": "POST", "path": "/v1/backups/filesystem$", "times": 1, "kind": "reset_before"}),
            )
            .await;
        backup(&weaviate).await.unwrap();

        let (server, weaviate, archive) = spoiled(version).await;
        server.fault(json!({"method": "POST", "path": "/restore$", "times": 1, "kind": "reset_after"})).await;
        restore(&weaviate, &archive, &Target::Live).await.unwrap();
        assert_eq!(orders(&server, "/restore").await, 1);
    }
}

#[tokio::test]
async fn an_id_that_the_server_knows_already_is_followed_and_no_second_one_ordered() {
    for version in VERSIONS {
        let (server, weaviate) = filled(version).await;
        let body = r#"{"error":[{"message":"backup \"rna-x\" already exists at \"/backups/rna-x\""}]}"#;
        let path = "/v1/backups/filesystem$";
        server.fault(json!({"method": "POST", "path": path, "times": 1, "kind": "status", "status": 422, "body": body})).await;
        // It is nowhere, and that is no backup.
        gives_up(&weaviate, "follow a backup by Weaviate").await;
        assert_eq!(orders(&server, "/filesystem").await, 1);
    }
}

#[tokio::test]
async fn bad_answers_of_every_kind_are_errors_or_passed_over_and_never_a_backup() {
    for version in VERSIONS {
        let (server, weaviate) = filled(version).await;
        // What passes is waited for: here twice each, on everything that is asked.
        for (kind, status) in
            [("status", 503), ("html", 502), ("status", 504), ("truncated", 200), ("empty", 200)]
        {
            server.fault(json!({"method": "GET", "path": "/v1/(meta|schema)$", "times": 2, "kind": kind, "status": status})).await;
            let made = backup(&weaviate).await;
            made.unwrap_or_else(|err| panic!("{kind} {status}: {}", chain(&err)));
        }
        for (path, kind, status, words) in [
            ("/v1/backups/filesystem$", "status", 405, "405"),
            ("/v1/backups/filesystem$", "status", 422, "422"),
            ("/v1/backups/filesystem$", "status", 500, "500"),
            ("/v1/graphql$", "html", 503, "not Weaviate's"),
            ("/v1/schema$", "html", 200, "read Weaviate's schema"),
        ] {
            server
                .fault(json!({"method": "*", "path": path, "times": null, "kind": kind, "status": status}))
                .await;
            gives_up(&weaviate, words).await;
            server.ask(Method::DELETE, "/_double/faults", None).await;
        }
        assert_eq!(left(&server), [""; 0]);
    }
}

#[tokio::test]
async fn a_backup_of_somebody_else_is_waited_out_by_coming_again() {
    for version in VERSIONS {
        let (server, weaviate) = filled(version).await;
        server.direct("hold", json!({"operation": "backup"})).await;
        server.ask(Method::POST, "/v1/backups/filesystem", Some(json!({"id": "somebody-else"}))).await;
        let err = gives_up(&weaviate, "already in progress").await;
        assert!(err.is_transient());
        server.held("backup").await;
        server.direct("release", json!({"operation": "backup"})).await;
        let done = crate::support::lab::eventually(async || {
            server.ask(Method::GET, "/v1/backups/filesystem/somebody-else", None).await["status"] == "SUCCESS"
        });
        assert!(done.await);
        backup(&weaviate).await.unwrap();
        weaviate.recover().await.unwrap();
        assert_eq!(left(&server), ["somebody-else"], "what is not ours is never touched");
    }
}

#[tokio::test]
async fn the_key_is_sent_when_there_is_one_and_a_wrong_one_is_no_passing_fault() {
    for version in VERSIONS {
        let server = Start::version(version).key("s3same").arg("--read-only-key", "reader").start();
        server.fill().await;
        let with = |key: Option<&str>| {
            weaviate(WeaviateConfig { api_key: key.map(|key| key.to_owned().into()), ..server.config() })
        };
        backup(&with(Some("s3same"))).await.unwrap();
        for (key, words) in [
            (None, "anonymous access not enabled"),
            (Some("wrong"), "invalid api key"),
            (Some("reader"), "forbidden"),
        ] {
            let err = gives_up(&with(key), words).await;
            assert!(matches!(err, ComponentError::Denied { .. }) && !err.is_transient(), "{err:?}");
        }
        let requests = server.ask(Method::GET, "/_double/requests", None).await;
        for request in requests.as_array().unwrap() {
            assert!(
                !request["body"].to_string().contains("s3same")
                    && !request["path"].to_string().contains("s3same")
            );
        }
        // A server that knows no keys refuses whoever brings one.
        let open = Start::version(version).start();
        open.fill().await;
        backup(&weaviate(open.config())).await.unwrap();
        let keyed = weaviate(WeaviateConfig { api_key: Some("any".to_owned().into()), ..open.config() });
        gives_up(&keyed, "oidc auth is not configured").await;
    }
}

#[tokio::test]
async fn classes_that_are_left_out_in_silence_are_missed() {
    let server = Start::version("1.39.0").key("all").arg("--limited-key", "some:Document").start();
    server.fill().await;
    let some = weaviate(WeaviateConfig { api_key: Some("some".to_owned().into()), ..server.config() });
    let err = backup(&some).await.unwrap_err();
    assert!(matches!(err, ComponentError::Denied { .. }), "{}", chain(&err));
}
