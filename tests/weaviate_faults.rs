//! `component::weaviate` when the server or the line fails: a failure is told and never taken for a backup.

use crate::support::disk::Tmpfs;
use crate::support::lab::eventually;
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_server::{MARK, NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, each, left, restore, weaviate};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, Target};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

/// The app's version and the newest: between them a server's answers differ most.
pub const BOTH: [&str; 2] = [OLDEST, NEWEST];

/// A unit of the component's waits that leaves a server time to start again.
pub const LONG_SECOND: Duration = Duration::from_millis(250);

/// A filled server.
pub async fn filled(start: Start) -> WeaviateServer {
    let server = start.server().await;
    server.fill().await;
    server
}

/// A filled server with other data since its backup, the archive, and what is in that.
pub async fn spoiled(start: Start) -> (WeaviateServer, Vec<u8>, BTreeMap<String, Value>) {
    let server = filled(start).await;
    let backed_up = server.contents().await;
    let (archive, _) = backup(&weaviate(server.config())).await.unwrap();
    server.spoil().await;
    (server, archive, backed_up)
}

/// The component behind a line to the server on which `rule` says what happens to each request.
pub async fn over(
    server: &WeaviateServer,
    rule: impl FnMut(&Asked) -> Line + Send + 'static,
) -> (BadLine, Weaviate) {
    let line = BadLine::before(&server.address(), rule).await;
    let weaviate = weaviate(WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() });
    (line, weaviate)
}

/// A rule that treats the first requests of a kind like this, and all others well.
pub fn first(
    times: usize,
    kind: impl Fn(&Asked) -> bool + Send,
    line: Line,
) -> impl FnMut(&Asked) -> Line + Send {
    let mut left = times;
    move |asked| {
        if left == 0 || !kind(asked) {
            return Line::Good;
        }
        left -= 1;
        line.clone()
    }
}

/// Requests with this method whose path ends like this.
pub fn to(method: &'static str, tail: &'static str) -> impl Fn(&Asked) -> bool + Copy + Send {
    move |asked| {
        let path = asked.target.split('?').next().unwrap();
        asked.method == method && path.ends_with(tail)
    }
}

/// Returns whether a request asks for the state of a backup.
pub fn is_status(asked: &Asked) -> bool {
    asked.method == "GET"
        && asked.target.starts_with("/v1/backups/filesystem/rna-")
        && !asked.target.ends_with("/restore")
}

/// Returns whether a request is about a class that a restore makes to try it.
pub fn is_of_a_trial(asked: &Asked) -> bool {
    asked.target.contains("_rna_trial_")
}

/// Returns whether a request deletes a class of the app.
pub fn deletes_a_class(asked: &Asked) -> bool {
    let is_of_the_app = !is_of_a_trial(asked) && !asked.target.contains(MARK);
    asked.method == "DELETE" && asked.target.starts_with("/v1/schema/") && is_of_the_app
}

/// Kills a server as a machine that loses power would.
pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Orders of backups, and of restores.
const BACKUP: &str = "/v1/backups/filesystem";
pub const RESTORE: &str = "/restore";

async fn gives_up(weaviate: &Weaviate, words: &str) -> ComponentError {
    let err = backup(weaviate).await.unwrap_err();
    assert!(chain(&err).contains(words), "{}", chain(&err));
    err
}

/// Waits until no backup in the server's folder is under way, and no restore of one.
pub async fn all_have_ended(server: &WeaviateServer) {
    these_have_ended(server, "filesystem", left(server)).await;
}

/// Waits until none of these backups is under way, and no restore of one.
pub async fn these_have_ended(server: &WeaviateServer, backend: &str, ids: impl IntoIterator<Item = String>) {
    for path in ids.into_iter().flat_map(|id| [id.clone(), format!("{id}/restore")]) {
        let ended = eventually(async || {
            let (status, found) =
                server.answer(Method::GET, &format!("/v1/backups/{backend}/{path}"), None).await;
            let word = found["status"].as_str().unwrap_or_default();
            ["SUCCESS", "FAILED", "CANCELED"].contains(&word) || (status == 404 && path.ends_with("/restore"))
        });
        assert!(ended.await, "backup {path} does not end");
    }
}

#[tokio::test]
async fn a_backup_that_never_ends_is_a_failure_and_never_a_success() {
    let server = filled(Start::version(OLDEST)).await;
    let started = json!({"backend": "filesystem", "status": "STARTED"}).to_string();
    let line =
        move |asked: &Asked| if is_status(asked) { Line::Say(200, started.clone()) } else { Line::Good };
    let line = BadLine::before(&server.address(), line).await;
    let timeout = Duration::from_secs(3);
    let config = WeaviateConfig { timeout, server: line.url().parse().unwrap(), ..server.config() };
    let err = gives_up(&weaviate(config), "raise BACKUP_WEAVIATE_TIMEOUT").await;
    assert!(!err.is_transient(), "another hour of the same helps nobody");
    all_have_ended(&server).await;
}

#[tokio::test]
async fn a_slow_backup_is_waited_for_whatever_its_states_are_called() {
    let server = filled(Start::version(OLDEST)).await;
    let odd = json!({"backend": "filesystem", "status": "SOMETHING_NEW"}).to_string();
    let (line, weaviate) = over(&server, first(100, is_status, Line::Say(200, odd))).await;
    backup(&weaviate).await.unwrap();
    assert!(line.count(is_status) > 100);
    assert_eq!(left(&server), [""; 0], "it was made once");
}

#[tokio::test]
async fn what_the_server_says_of_its_failure_is_told_and_what_is_left_is_removed() {
    // The newer server does not compress, and each of its shards has a file of 4 MiB.
    for (version, size) in [(OLDEST, "12m"), (NEWEST, "40m")] {
        let Some(disk) = Tmpfs::mount(size) else { return println!("skipped: mounting is not allowed here") };
        let leftovers = || fs::read_dir(disk.path()).unwrap().count();
        let mut server = filled(Start::version(version).folder(disk.path())).await;
        // Gzip makes half of it.
        let random = (0..100_000).fold(String::new(), |mut text, _| {
            write!(text, "{}", uuid::Uuid::new_v4().simple()).unwrap();
            text
        });
        let text = json!([{"name": "text", "dataType": ["text"], "indexSearchable": false, "indexFilterable": false}]);
        server.make(json!({"class": "Big", "vectorizer": "none", "properties": text})).await;
        for _ in 0..30 {
            server.put(vec![json!({"class": "Big", "properties": {"text": random}})]).await;
        }
        let config = WeaviateConfig { dir: Some(disk.path().to_owned()), ..server.config() };
        let weaviate = weaviate(config);
        let err = gives_up(&weaviate, "FAILED").await;
        assert!(err.is_transient(), "{err:?}");
        assert_eq!(leftovers(), 1);
        let done = weaviate.recover().await.unwrap();
        assert!(done[0].contains("removed backup rna-"), "{done:?}");
        assert_eq!(leftovers(), 0);
        server.ask(Method::DELETE, "/v1/schema/Big", None).await;
        // The server holds on to the files of a backup that failed, for longer after each further attempt.
        server.kill();
        server.start_again();
        server.is_ready().await;
        backup(&weaviate).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_backup_makes_another_one() {
    each(BOTH, async |version| {
        let mut server = filled(Start::version(version)).await;
        let line = BadLine::before(&server.address(), |_| Line::Good).await;
        let config =
            WeaviateConfig { server: line.url().parse().unwrap(), second: LONG_SECOND, ..server.config() };
        let component = Weaviate::new(config, None);
        let starting = async {
            assert!(eventually(async || line.count(is_status) > 0).await);
            server.kill();
            server.start_again();
        };
        let (made, ()) = tokio::join!(backup(&component), starting);
        let (archive, facts) = made.unwrap_or_else(|err| panic!("{version}: {}", chain(&err)));
        assert_eq!(crate::weaviate::decode(&component, &archive).await.unwrap(), facts.counts);
        // Further orders ask whether the server is at work.
        assert!(line.count(to("POST", BACKUP)) >= 2, "{version}");
        // The first says STARTED for ever, and the server has made another since: nobody is at the first any more.
        component.recover().await.unwrap();
        assert_eq!(left(&server), [""; 0], "{version}");
    })
    .await;
}

#[tokio::test]
async fn a_backup_whose_run_and_server_both_died_goes_once_the_server_has_made_another() {
    each(BOTH, async |version| {
        let mut server = filled(Start::version(version)).await;
        let line = BadLine::before(&server.address(), |_| Line::Good).await;
        let dying = weaviate(WeaviateConfig { server: line.url().parse().unwrap(), ..server.config() });
        tokio::select! {
            made = backup(&dying) => panic!("{version}: {made:?}"),
            ordered = eventually(async || line.count(is_status) > 0) => assert!(ordered),
        }
        server.kill();
        server.start_again();
        server.is_ready().await;
        let next = weaviate(server.config());
        let of_the_dead = left(&server);
        assert_eq!(of_the_dead.len(), 1, "{version}: {of_the_dead:?}");
        let status = format!("{BACKUP}/{}", of_the_dead[0]);
        // This is also what the server says while it is at work on a backup.
        assert_eq!(server.ask(Method::GET, &status, None).await["status"], "STARTED", "{version}");
        assert_eq!(next.recover().await.unwrap(), [""; 0], "{version}");
        assert_eq!(left(&server), of_the_dead, "{version}");
        backup(&next).await.unwrap();
        next.recover().await.unwrap();
        assert_eq!(left(&server), [""; 0], "{version}");
    })
    .await;
}

#[tokio::test]
async fn a_short_silence_does_not_begin_a_second_backup() {
    let server = filled(Start::version(NEWEST)).await;
    let mut looks = 0;
    let (line, weaviate) = over(&server, move |asked| {
        looks += usize::from(is_status(asked));
        match looks {
            1..=3 if is_status(asked) => Line::CutRequest(0),
            4..=6 if is_status(asked) => Line::Say(404, "{}".to_owned()),
            _ => Line::Good,
        }
    })
    .await;
    backup(&weaviate).await.unwrap();
    assert!(line.count(to("POST", BACKUP)) <= 2, "one, and one question whether it is still at it");
    assert_eq!(left(&server), [""; 0]);
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_found_again() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version)).await;
        let (line, weaviate) = over(&server, first(1, to("POST", BACKUP), Line::LoseAnswer)).await;
        let (archive, _) = backup(&weaviate).await.unwrap();
        // Further orders prove that the server is at work: it takes one at a time.
        assert!(line.count(to("POST", BACKUP)) >= 1, "{version}");
        assert_eq!(left(&server), [""; 0], "{version}");
        // One that never came through is given again, under another id, and again while the server holds the slot.
        let (line, weaviate) = over(&server, first(1, to("POST", BACKUP), Line::CutRequest(0))).await;
        backup(&weaviate).await.unwrap();
        assert!(line.count(to("POST", BACKUP)) >= 2, "{version}");

        let protocols = server.objects("Protocol", None).await;
        server.spoil().await;
        let (line, weaviate) = over(&server, first(1, to("POST", RESTORE), Line::LoseAnswer)).await;
        restore(&weaviate, &archive, &Target::custom("include", ["Protocol"])).await.unwrap();
        assert!(line.count(to("POST", RESTORE)) >= 1, "{version}");
        assert!(server.objects("Protocol", None).await == protocols, "{version}");
    })
    .await;
}

#[tokio::test]
async fn an_id_that_the_server_knows_already_is_followed_and_no_second_one_ordered() {
    let server = filled(Start::version(OLDEST)).await;
    let body = r#"{"error":[{"message":"backup \"rna-x\" already exists at \"/backups/rna-x\""}]}"#;
    let (line, _) = over(&server, first(1, to("POST", BACKUP), Line::Say(422, body.to_owned()))).await;
    let second = Duration::from_millis(10);
    let config = WeaviateConfig { server: line.url().parse().unwrap(), second, ..server.config() };
    // It is nowhere, and that is no backup.
    gives_up(&Weaviate::new(config, None), "follow a backup by Weaviate").await;
    assert_eq!(line.count(to("POST", BACKUP)), 1);
}

#[tokio::test]
async fn bad_answers_of_every_kind_are_errors_or_passed_over_and_never_a_backup() {
    const PAGE: &str = "<html><body>Bad Gateway</body></html>";
    let server = filled(Start::version(NEWEST)).await;
    // What passes is waited for: here twice each, on what is asked first.
    let passing = [
        Line::Busy,
        Line::Say(502, PAGE.to_owned()),
        Line::Say(504, String::new()),
        Line::CutAnswer(9),
        Line::Say(200, String::new()),
    ];
    for (turn, line) in passing.into_iter().enumerate() {
        let is_read = move |asked: &Asked| ["/v1/meta", "/v1/schema"][turn % 2] == asked.target;
        let (_line, weaviate) = over(&server, first(2, is_read, line.clone())).await;
        let made = backup(&weaviate).await;
        made.unwrap_or_else(|err| panic!("{line:?}: {}", chain(&err)));
    }
    for (method, path, status, body, words) in [
        ("POST", BACKUP, 405, "", "405"),
        ("POST", BACKUP, 422, "", "422"),
        ("POST", BACKUP, 500, "", "500"),
        ("GET", "/v1/schema", 200, PAGE, "read Weaviate's schema"),
    ] {
        let rule = first(usize::MAX, to(method, path), Line::Say(status, body.to_owned()));
        let (_line, weaviate) = over(&server, rule).await;
        gives_up(&weaviate, words).await;
        assert_eq!(left(&server), [""; 0]);
    }
}

#[tokio::test]
async fn a_backup_of_somebody_else_is_waited_for_and_never_touched() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version)).await;
        let weaviate = weaviate(server.config());
        server.ask(Method::POST, "/v1/backups/filesystem", Some(json!({"id": "somebody-else"}))).await;
        backup(&weaviate).await.unwrap();
        weaviate.recover().await.unwrap();
        assert_eq!(left(&server), ["somebody-else"]);
    })
    .await;
}

#[tokio::test]
async fn the_key_is_sent_when_there_is_one_and_a_wrong_one_is_no_passing_fault() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version).key("s3same")).await;
        let (line, _) = over(&server, |_| Line::Good).await;
        let with = |key: Option<&str>| {
            let api_key = key.map(|key| key.to_owned().into());
            weaviate(WeaviateConfig { api_key, server: line.url().parse().unwrap(), ..server.config() })
        };
        backup(&with(Some("s3same"))).await.unwrap();
        for (key, words) in [(None, "anonymous access not enabled"), (Some("wrong"), "invalid api key")] {
            let err = gives_up(&with(key), words).await;
            assert!(matches!(err, ComponentError::Denied { .. }) && !err.is_transient(), "{err:?}");
        }
        assert!(line.count(|asked| asked.head.contains("authorization: bearer s3same")) > 0);
        assert_eq!(line.count(|asked| asked.target.contains("s3same")), 0, "a key is in no address");
        // A server that knows no keys refuses whoever brings one.
        let open = Start::version(version).server().await;
        let keyed = weaviate(WeaviateConfig { api_key: Some("any".to_owned().into()), ..open.config() });
        let err = backup(&keyed).await.unwrap_err();
        assert!(matches!(err, ComponentError::Denied { .. }), "{}", chain(&err));
    })
    .await;
}

#[tokio::test]
async fn a_key_that_may_only_read_backs_nothing_up() {
    let server = Start::version(OLDEST)
        .key("s3same")
        .set("AUTHENTICATION_APIKEY_ALLOWED_KEYS", "s3same,reader")
        .set("AUTHENTICATION_APIKEY_USERS", "admin,reader")
        .set("AUTHORIZATION_ADMINLIST_READONLY_USERS", "reader");
    let server = filled(server).await;
    let reader = weaviate(WeaviateConfig { api_key: Some("reader".to_owned().into()), ..server.config() });
    let err = gives_up(&reader, "forbidden").await;
    assert!(matches!(err, ComponentError::Denied { .. }) && !err.is_transient(), "{err:?}");
}
