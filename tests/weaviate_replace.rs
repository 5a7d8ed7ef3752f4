//! Restores into a real Weaviate, class by class: deaths, writers and faults in the midst leave each class as it was
//! or as it was to be.

use crate::support::s3_proxy::{BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, restore};
use reqwest::Method;
use rna_backup::component::weaviate::{Way, Weaviate, WeaviateConfig};
use rna_backup::component::{Component, Target};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

/// The contents of a server, by class.
type Contents = BTreeMap<String, Value>;

/// The component, with its requests through this address.
fn through(server: &WeaviateServer, url: &str, way: Way) -> Weaviate {
    Weaviate::new(WeaviateConfig { server: url.parse().unwrap(), way, ..server.config() }, None)
}

/// Makes the server hold again what it held when the archive was spoiled.
async fn again(server: &WeaviateServer) -> Contents {
    for class in server.classes().await.keys() {
        server.ask(Method::DELETE, &format!("/v1/schema/{class}"), None).await;
    }
    server.fill().await;
    server.spoil().await;
    server.contents().await
}

/// Each class is as in the backup or as before the restore, whole; the names of those as in the backup.
fn restored(found: &Contents, wanted: &Contents, before: &Contents, what: &str) -> Vec<String> {
    assert_eq!(found.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{what}");
    let changed = found.iter().filter(|(class, contents)| before[*class] != **contents);
    let restored: Vec<_> = changed.map(|(class, _)| class.clone()).collect();
    for class in &restored {
        assert!(found[class] == wanted[class], "{what}: {class} is neither as before nor as in the backup");
    }
    restored
}

/// The requests of a restore at which this run lets the program die: all, or one of so many.
#[expect(clippy::disallowed_methods, reason = "how much is tried is no setting of the program")]
fn stride() -> usize {
    std::env::var("WEAVIATE_KILL_STRIDE").map_or(9, |stride| stride.parse().unwrap())
}

/// Restores an archive through a proxy at whose n-th request the program dies, for one n after the other, until a
/// restore comes to its end; the next start of the program finds each class as it was or as it was to be.
async fn die_at_each_request(server: &WeaviateServer, way: Way, effect: bool) -> usize {
    server.fill().await;
    let direct = through(server, &server.url(), way);
    let wanted = server.contents().await;
    let (archive, _) = backup(&direct).await.unwrap();
    let archive = Arc::new(archive);
    let mut points = 0;
    for deadly in (1..).step_by(stride()) {
        let before = again(server).await;
        let (seen, died) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let line = BadLine::before(&server.address(), {
            let (seen, died) = (seen.clone(), died.clone());
            move |_| match seen.fetch_add(1, Ordering::SeqCst) + 1 {
                number if number < deadly => Line::Good,
                number if number == deadly && effect => {
                    died.notify_one();
                    Line::LoseAnswer
                }
                number => {
                    if number == deadly {
                        died.notify_one();
                    }
                    Line::BlackHole
                }
            }
        })
        .await;
        let (dying, archive) = (through(server, &line.url(), way), archive.clone());
        let run = tokio::spawn(async move { restore(&dying, &archive, &Target::Live).await.map(drop) });
        let abort = run.abort_handle();
        let ended = tokio::select! {
            ended = run => { ended.unwrap().unwrap(); true }
            () = died.notified() => { abort.abort(); false }
        };
        let what = format!("{way:?}, dead at request {deadly}, effect {effect}");
        if !ended {
            points += 1;
            if effect {
                line.is_idle().await; // the server has done what it was asked to
            }
        }
        let next = through(server, &server.url(), way);
        let done = next.recover().await.unwrap_or_else(|err| panic!("{what}: {err:?}"));
        let back = restored(&server.contents().await, &wanted, &before, &what);
        println!("{what}: restored {back:?}; {done:?}");
        if ended {
            assert_eq!(back.len(), 2, "{what}");
            return points;
        }
    }
    unreachable!("a restore has an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_at_any_request_of_a_restore_leaves_each_class_whole() {
    let oldest = Start::version(OLDEST).server().await;
    let newest = Start::version(NEWEST).server().await;
    for (server, way, effect) in [(&oldest, Way::Filesystem, true), (&newest, Way::Export, false)] {
        let points = die_at_each_request(server, way, effect).await;
        println!("{points} points by {way:?}");
        assert!(points > 2);
    }
}

#[tokio::test]
async fn what_an_app_adds_after_a_class_came_back_is_not_taken_away_by_the_next_run() {
    let server = Start::version(OLDEST).server().await;
    server.fill().await;
    let weaviate = through(&server, &server.url(), Way::Filesystem);
    let (archive, _) = backup(&weaviate).await.unwrap();
    server.spoil().await;
    // The program dies while it counts what it has brought.
    let counts = Arc::new(AtomicUsize::new(0));
    let (seen, died) = (counts.clone(), Arc::new(Notify::new()));
    let dies = died.clone();
    let line = BadLine::before(&server.address(), move |asked| {
        let brought = asked.method == "POST" && asked.target.ends_with("/restore");
        match seen.load(Ordering::SeqCst) {
            0 if brought => drop(seen.fetch_add(1, Ordering::SeqCst)),
            1 if asked.target == "/v1/schema" => {
                dies.notify_one();
                return Line::BlackHole;
            }
            _ => {}
        }
        Line::Good
    })
    .await;
    let dying = through(&server, &line.url(), Way::Filesystem);
    tokio::select! {
        ended = restore(&dying, &archive, &Target::Live) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
    let class = ["Document", "Protocol", "Sample"][0];
    let later = |number| {
        json!({"class": class, "id": id(9, number), "vector": vector(number),
        "properties": {"title": "written by the app since then"}})
    };
    server.put((0..50).map(later).collect()).await;
    let before = server.objects(class, None).await;
    weaviate.recover().await.unwrap();
    assert!(server.objects(class, None).await == before, "the app's objects are there");
    let kept = weaviate.kept().await.unwrap().expect("what was there before is kept");
    assert!(kept.place.contains("rna-"), "{}", kept.place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_somebody_makes_again_meanwhile_is_named_and_no_other_class_is_missing() {
    let server = Start::version(NEWEST).set("AUTOSCHEMA_ENABLED", "true").server().await;
    server.fill().await;
    let weaviate = through(&server, &server.url(), Way::Export);
    let (archive, _) = backup(&weaviate).await.unwrap();
    let wanted = server.contents().await;
    server.spoil().await;
    let before = server.contents().await;
    let object =
        json!({"class": "Protocol", "id": id(8, 1), "properties": {"title": "from the app", "steps": 1}});
    // An app that writes as soon as the class is gone makes it again.
    let http = reqwest::Client::new();
    let (url, objects) = (server.url(), json!({"objects": [object]}));
    let writing = Arc::new(AtomicUsize::new(0));
    let wrote = writing.clone();
    let line = BadLine::before(&server.address(), move |asked| {
        if asked.method == "POST" && asked.target == "/v1/schema" && wrote.fetch_add(1, Ordering::SeqCst) == 1
        {
            let (http, url, objects) = (http.clone(), url.clone(), objects.clone());
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let answer =
                        http.post(format!("{url}/v1/batch/objects")).json(&objects).send().await.unwrap();
                    assert!(answer.status().is_success());
                });
            });
        }
        Line::Good
    })
    .await;
    let err =
        restore(&through(&server, &line.url(), Way::Export), &archive, &Target::Live).await.unwrap_err();
    let words = rna_backup::base::chain(&err);
    assert!(words.contains("class Protocol: ") && words.contains("restored: Document"), "{words}");
    let found = server.contents().await;
    assert_eq!(restored(&found, &wanted, &before, "made again"), ["Document"]);
    // What stood in its place is kept as well.
    assert!(std::fs::read_dir(server.state()).unwrap().count() > 2);
}
