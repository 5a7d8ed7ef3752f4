//! Classes that are tried under another name before a restore deletes any, on real Weaviate servers.

use crate::support::lab::{Lab, Worker, eventually};
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{backup, each, restore, weaviate};
use crate::weaviate_export::{exporter, rewrite};
use crate::weaviate_faults::{deletes_a_class, filled, is_of_a_trial};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Target};
use rna_backup::domain::progress::Meter;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use std::{
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// A restore through a line to the server is refused with these words, and no class is deleted or changed.
async fn is_refused(
    server: &WeaviateServer,
    archive: &[u8],
    backend: BackendSetting,
    rule: impl FnMut(&Asked) -> Line + Send + 'static,
    words: &[&str],
) {
    let before = server.contents().await;
    let line = BadLine::before(&server.address(), rule).await;
    let config = WeaviateConfig { server: line.url().parse().unwrap(), backend, ..server.config() };
    let err = restore(&Weaviate::new(config, None), archive, &Target::Live).await.unwrap_err();
    let said = chain(&err);
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(line.count(deletes_a_class), 0, "{said}");
    assert!(server.contents().await == before, "{said}");
}

#[tokio::test]
async fn objects_that_the_server_refuses_or_changes_are_found_before_a_class_is_deleted() {
    for version in [OLDEST, NEWEST] {
        let server = filled(Start::version(version)).await;
        let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
        // The objects of the last class cannot be stored; those of one tenant of them, where it has tenants.
        for (from, to) in
            [("\"page\":", "\"page\":\"x\",\"was\":"), ("\"name\":\"dry ", "\"name\":1,\"was\":\"")]
        {
            let spoiled = rewrite(&archive, |text| text.replace(from, to));
            is_refused(
                &server,
                &spoiled,
                BackendSetting::Export,
                |_| Line::Good,
                &["before anything is deleted"],
            )
            .await;
        }
        // A server or a proxy that stores something else.
        let other = json!({"objects": [{"id": id(1, 0), "properties": {"title": "another"}}]}).to_string();
        let changes = move |asked: &Asked| {
            if asked.target.contains("class=Protocol_rna_trial_") {
                Line::Say(200, other.clone())
            } else {
                Line::Good
            }
        };
        is_refused(
            &server,
            &archive,
            BackendSetting::Export,
            changes,
            &["of class Protocol was stored and is not as it was"],
        )
        .await;
        assert!(exporter(&server, None).recover().await.unwrap().is_empty(), "the trials are removed");
    }
}

#[tokio::test]
async fn a_copy_that_would_not_come_back_is_found_before_a_class_is_deleted() {
    // The copy is an export where the server can make none of its own.
    let server = filled(Start::version(NEWEST).modules("")).await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    // After the mark, of three classes each is made once for the archive, and once for the copy.
    let makes = |asked: &Asked| asked.method == "POST" && asked.target == "/v1/schema";
    let mut made = 0;
    let rule = move |asked: &Asked| {
        made += usize::from(makes(asked));
        if makes(asked) && made > 4 {
            Line::Say(422, json!({"error": "no room"}).to_string())
        } else {
            Line::Good
        }
    };
    is_refused(&server, &archive, BackendSetting::Export, rule, &["try class Document under another name"])
        .await;
}

#[tokio::test]
async fn a_class_of_many_tenants_is_tried_on_a_server_that_has_no_files_for_them_twice() {
    const TENANTS: u32 = 300;
    // The setting makes it a server of this test alone, whose limit nobody else meets.
    let server = Start::version(NEWEST).set("QUERY_DEFAULTS_LIMIT", 26).server().await;
    let open_files = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    let at_first = open_files();
    let properties = json!([{"name": "title", "dataType": ["text"]}]);
    let tenancy = json!({"enabled": true});
    server
        .make(json!({"class": "Sample", "vectorizer": "none", "properties": properties, "multiTenancyConfig": tenancy}))
        .await;
    let names: Vec<_> = (0..TENANTS).map(|number| json!({"name": format!("t{number:03}")})).collect();
    server.ask(Method::POST, "/v1/schema/Sample/tenants", Some(json!(names))).await;
    let object = |number: u32| {
        let properties = json!({"title": format!("of {number}")});
        let tenant = format!("t{number:03}");
        json!({"class": "Sample", "id": id(1, number), "tenant": tenant, "properties": properties, "vector": vector(number)})
    };
    server.put((0..TENANTS).map(object).collect()).await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    let now = open_files();
    let most = now + (now - at_first) / 2;
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(Pid::from_raw(server.pid()), Resource::Nofile, limit).unwrap();
    restore(&exporter(&server, None), &archive, &Target::Live).await.unwrap();
    for number in [0, TENANTS / 2, TENANTS - 1] {
        let path = format!("/v1/objects/Sample/{}?tenant=t{number:03}", id(1, number));
        let found = server.ask(Method::GET, &path, None).await;
        assert_eq!(found["properties"]["title"], json!(format!("of {number}")));
    }
}

#[tokio::test]
async fn what_a_run_that_dies_in_a_trial_leaves_is_removed_by_the_next_one() {
    let server = filled(Start::version(OLDEST)).await;
    let before = server.contents().await;
    let (archive, _) = backup(&exporter(&server, None)).await.unwrap();
    let died = Arc::new(Notify::new());
    let dies = died.clone();
    let line = BadLine::before(&server.address(), move |asked| {
        if is_of_a_trial(asked) {
            dies.notify_one();
            return Line::BlackHole;
        }
        Line::Good
    })
    .await;
    let dying = exporter(&server, Some(line.url()));
    tokio::select! {
        ended = restore(&dying, &archive, &Target::Live) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
    let trials = async || server.classes().await.keys().filter(|class| class.contains("_rna_trial_")).count();
    assert_eq!(trials().await, 1);
    let done = exporter(&server, None).recover().await.unwrap();
    assert!(done[0].contains("to try them"), "{done:?}");
    assert!(server.contents().await == before);
}

#[tokio::test]
async fn a_class_whose_objects_expire_is_tried_where_the_server_restores_it_itself() {
    let with_schedule =
        Start::version(NEWEST).set("OBJECTS_TTL_DELETE_SCHEDULE", "@every 24h").server().await;
    let brief = json!({"class": "Brief", "vectorizer": "none",
        "objectTtlConfig": {"enabled": true, "defaultTtl": 86400, "deleteOn": "_creationTimeUnix"},
        "invertedIndexConfig": {"indexTimestamps": true}, "properties": []});
    with_schedule.make(brief).await;
    with_schedule.put(vec![json!({"class": "Brief", "id": id(9, 1), "vector": vector(1)})]).await;
    let native = Weaviate::new(with_schedule.config(), None);
    let (archive, facts) = backup(&native).await.unwrap();
    assert_eq!(facts.backend.as_deref(), Some("filesystem"));
    restore(&native, &archive, &Target::Live).await.unwrap();
    let without = Start::version(NEWEST).server().await;
    is_refused(
        &without,
        &archive,
        BackendSetting::Filesystem,
        |_| Line::Good,
        &["class Brief", "before anything is deleted"],
    )
    .await;
    assert!(Weaviate::new(without.config(), None).recover().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_died_while_a_worker_lives_is_put_right_by_the_worker() {
    let server = filled(Start::version(OLDEST)).await;
    let before = server.contents().await;
    // From the deletion of a class on, nothing is answered while a command restores; the worker goes the same way.
    let (is_gone, is_open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (gone, open) = (is_gone.clone(), is_open.clone());
    let line = BadLine::before(&server.address(), move |asked| {
        if deletes_a_class(asked) && !gone.swap(true, Ordering::SeqCst) {
            open.store(false, Ordering::SeqCst);
            return Line::LoseAnswer;
        }
        if open.load(Ordering::SeqCst) { Line::Good } else { Line::BlackHole }
    })
    .await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", line.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display());
    let due = async |worker: &Worker| {
        let scrape = worker.http("/metrics").await.unwrap().1;
        let due = |number: u32| {
            scrape.contains(&format!("rna_backup_restore_due{{component=\"weaviate\"}} {number}\n"))
        };
        (due(0), due(1))
    };
    let worker = lab.worker();
    worker.ready().await;
    assert_eq!(due(&worker).await, (true, false));
    lab.json(&["backup", "weaviate"]);
    let mut command = lab.program(&["restore", "weaviate", "--yes"]);
    let mut dying = command.stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(async || is_gone.load(Ordering::SeqCst)).await);
    let (_, _, err) = lab.run(&["list"]);
    assert!(err.contains("warning: weaviate: classes Document are missing or not proven"), "{err}");
    let (_, _, err) = lab.run(&["show", "latest", "--component", "weaviate"]);
    assert!(err.contains("warning: weaviate: classes Document are missing or not proven"), "{err}");
    dying.kill().unwrap();
    dying.wait().unwrap();
    is_open.store(true, Ordering::SeqCst);
    let settled = eventually(async || !lab.run(&["list"]).2.contains("missing"));
    assert!(settled.await, "{}", worker.log());
    assert!(server.contents().await == before);
    assert!(eventually(async || due(&worker).await == (true, false)).await);
    assert!(
        worker.log().contains("a restore in Weaviate that failed or died was put right"),
        "{}",
        worker.log()
    );
}

/// A rule by which a search by vector finds nothing: as where the index of a class is missing. A search is asked for right
/// after another question to GraphQL, that for the vectors of some objects; the next attempts of the search are as long.
fn finds_nothing() -> impl FnMut(&Asked) -> Line + Send + 'static {
    let (mut questions, mut search) = (0, None);
    move |asked| {
        let asks = asked.target == "/v1/graphql";
        questions = if asks { questions + 1 } else { 0 };
        if questions > 1 {
            search.get_or_insert(asked.bytes);
        }
        if asks && search == Some(asked.bytes) {
            Line::Say(200, json!({"data": {"Get": {}}}).to_string())
        } else {
            Line::Good
        }
    }
}

#[tokio::test]
async fn objects_that_no_search_by_vector_finds_are_told_after_a_restore_and_damage_in_a_drill() {
    each([BackendSetting::Filesystem, BackendSetting::Export], async |backend| {
        let server = filled(Start::version(NEWEST)).await;
        let second = Start::version(NEWEST).folder_of(&server).server().await;
        let config =
            WeaviateConfig { backend, drill: Some(second.url().parse().unwrap()), ..server.config() };
        let direct = weaviate(config.clone());
        let (archive, facts) = backup(&direct).await.unwrap();
        let restored = async |component: &Weaviate, target: &Target| {
            let meter = Meter::default();
            let staged =
                component.stage(&mut &*archive, &RestoreOrder::new(target, Some(&facts)), &meter).await?;
            if *target == Target::Scratch {
                staged.discard().await?;
            } else {
                staged.swap().await?;
            }
            Ok::<_, ComponentError>(meter.take_warnings().join(" "))
        };
        let document = Target::custom("include", ["Document"]);
        for target in [Target::Scratch, document.clone()] {
            assert_eq!(restored(&direct, &target).await.unwrap(), "", "{backend:?}");
        }
        let words = "A search by vector finds nothing in class Document";
        let line = BadLine::before(&server.address(), finds_nothing()).await;
        // In seconds as long as these the mark of the restore does not beat between two questions.
        let lacking = WeaviateConfig { server: line.url().parse().unwrap(), ..config.clone() };
        let lacking = Weaviate::new(lacking, None);
        let said = restored(&lacking, &document).await.unwrap();
        assert!(
            said.contains(words) && said.contains("BACKUP_WEAVIATE_BACKEND=export"),
            "{backend:?}: {said}"
        );
        let line = BadLine::before(&second.address(), finds_nothing()).await;
        let lacking = weaviate(WeaviateConfig { drill: Some(line.url().parse().unwrap()), ..config });
        let err = restored(&lacking, &Target::Scratch).await.unwrap_err();
        assert!(
            matches!(err, ComponentError::Corrupt { .. }) && chain(&err).contains(words),
            "{backend:?}: {err:?}"
        );
        assert!(second.classes().await.is_empty(), "{backend:?}");
    })
    .await;
}
