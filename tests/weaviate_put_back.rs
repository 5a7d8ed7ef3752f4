//! What a restore that failed or died has left to do on a real Weaviate: the next run puts it back, or a restore
//! brings it, and nothing else goes meanwhile.

use crate::support::lab::eventually;
use crate::support::s3_proxy::Line;
use crate::support::weaviate_contents::id;
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::support::weaviate_start::versions;
use crate::weaviate::{MODULES, each, restore, weaviate};
use crate::weaviate_faults::{RESTORE, all_have_ended, deletes_a_class, over, spoiled, to};
use crate::weaviate_restores::{Contents, nothing_is_lost};
use reqwest::Method;
use rna_backup::component::weaviate::WeaviateConfig;
use rna_backup::component::{Restorable, Source, Target, Undo};
use rna_backup::domain::progress::Meter;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};

/// Servers of either version that make backups of their own, and such that do not.
const KINDS: [(&str, &str); 4] =
    [(OLDEST, MODULES[0]), (OLDEST, MODULES[1]), (NEWEST, MODULES[0]), (NEWEST, MODULES[1])];

/// A server on which a restore has died as the first class was gone, and what was there before it and in the backup.
async fn dead_restore(start: Start) -> (WeaviateServer, Contents, Contents) {
    let (server, archive, backed_up) = spoiled(start).await;
    let before = server.contents().await;
    let mut is_deleted = false;
    let (line, component) = over(&server, move |asked| {
        is_deleted |= deletes_a_class(asked);
        // The server does what it is told, and the one who asked is dead by then.
        if is_deleted && asked.method == "POST" && asked.target != "/v1/graphql" {
            Line::LoseAnswer
        } else {
            Line::Good
        }
    })
    .await;
    let has_died = async || {
        let asked = line.asked();
        let deleted = asked.iter().position(deletes_a_class);
        deleted.is_some_and(|at| {
            asked[at..].iter().any(|asked| asked.method == "POST" && asked.target != "/v1/graphql")
        })
    };
    tokio::select! {
        ended = restore(&component, &archive, &Target::Live) => panic!("{ended:?}"),
        has_died = eventually(has_died) => assert!(has_died),
    }
    // The server may still be doing what it was told to.
    line.is_idle().await;
    (server, before, backed_up)
}

#[tokio::test]
async fn a_run_that_dies_in_the_middle_is_rolled_back_by_the_next() {
    each(KINDS, async |(version, modules)| {
        let start = Start::version(version).modules(modules);
        let (server, before, backed_up) = dead_restore(start).await;
        // Another process, which knows nothing but what is written down.
        let next = weaviate(server.config());
        assert_ne!(next.recover().await.unwrap(), [""; 0]);
        nothing_is_lost(&server, &before, &backed_up).await;
    })
    .await;
}

/// Cuts the files of the objects of a class in the middle, as a server leaves them that dies while it brings the class.
fn tear(data: &Path, class: &str) -> usize {
    let shards = fs::read_dir(data.join(class.to_lowercase())).unwrap().map(|shard| shard.unwrap().path());
    let objects = shards.filter_map(|shard| fs::read_dir(shard.join("lsm/objects")).ok()).flatten();
    let files = objects
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "db"));
    files
        .map(|path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        })
        .count()
}

#[tokio::test]
async fn a_class_that_the_server_cannot_load_is_put_back_at_once_and_kept_when_it_may_be_of_others() {
    each(versions(), async |version| {
        let plain = || Start::version(version);
        let without = || plain().set("DISABLE_GRAPHQL", true);
        for (is_late, start) in [(false, plain()), (true, plain()), (false, without()), (true, without())] {
            let what = format!("{start:?}, {is_late}");
            let (mut server, before, backed_up) = dead_restore(start).await;
            all_have_ended(&server).await;
            server.kill();
            assert!(tear(&server.folder().with_file_name("data"), "Document") > 0);
            server.start_again();
            server.is_ready().await;
            let next = weaviate(WeaviateConfig { second: Duration::from_millis(50), ..server.config() });
            if is_late {
                age(&server);
                let said = next.recover().await.unwrap().join("; ");
                assert!(said.contains("DELETE /v1/schema/CLASS"), "{said}");
                server.ask(Method::DELETE, "/v1/schema/Document", None).await;
            }
            let said = next.recover().await.unwrap().join("; ");
            assert!(said.contains("classes Document are as before it"), "{what}: {said}");
            nothing_is_lost(&server, &before, &backed_up).await;
        }
    })
    .await;
}

/// Makes what is noted of a dead restore look as if that had happened long ago.
fn age(server: &WeaviateServer) {
    let path = server.state().join("journal.json");
    let mut journal: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    journal["replacing"]["began"] = json!("2026-01-01T00:00:00Z");
    fs::write(path, journal.to_string()).unwrap();
}

#[tokio::test]
async fn what_came_long_after_a_restore_died_is_set_aside_before_it_is_taken_back() {
    each(KINDS, async |(version, modules)| {
        let start = Start::version(version).modules(modules);
        let (server, before, backed_up) = dead_restore(start).await;
        // Somebody has repaired it meanwhile, by hand or from another machine.
        all_have_ended(&server).await;
        server.ask(Method::DELETE, "/v1/schema/Document", None).await;
        let properties = json!([{"name": "title", "dataType": ["text"]}]);
        server.make(json!({"class": "Document", "vectorizer": "none", "properties": properties})).await;
        server
            .put(vec![json!({"class": "Document", "id": id(9, 1), "properties": {"title": "of days"}})])
            .await;
        let since = server.contents().await;
        age(&server);

        let next = weaviate(server.config());
        next.recover().await.unwrap();
        nothing_is_lost(&server, &before, &backed_up).await;
        // As after a backup of the very run that has put back.
        next.delete_undo_data().await.unwrap();
        next.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await["Document"] == since["Document"]);
    })
    .await;
}

/// The copies that a dead restore needs, moved away or back.
fn move_copies(server: &WeaviateServer, away: bool) {
    let places = [(server.folder(), "rna-"), (server.state(), "rna-")];
    for (folder, begin) in places {
        let aside = folder.with_extension("aside");
        fs::create_dir_all(&aside).unwrap();
        let [from, to] = if away { [&folder, &aside] } else { [&aside, &folder] };
        let entries = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name());
        for name in entries.filter(|name| name.to_str().unwrap().starts_with(begin)) {
            let is_copy = Path::new(&name).extension().is_none_or(|extension| extension == "tar");
            if is_copy {
                fs::rename(from.join(&name), to.join(&name)).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_deleted_where_what_would_be_put_back_is_gone() {
    each(KINDS, async |(version, modules)| {
        let start = Start::version(version).modules(modules);
        let (server, before, backed_up) = dead_restore(start).await;
        all_have_ended(&server).await;
        move_copies(&server, true);
        let (line, next) = over(&server, |_| Line::Good).await;
        let said = next.recover().await.unwrap().join("; ");
        assert!(said.contains("could not be put back") && said.contains("nothing was changed"), "{said}");
        assert_eq!(line.count(deletes_a_class), 0, "{said}");
        assert!(next.check().await.unwrap().contains("are missing or not proven"));
        move_copies(&server, false);
        next.recover().await.unwrap();
        nothing_is_lost(&server, &before, &backed_up).await;
    })
    .await;
}

#[tokio::test]
async fn a_restore_brings_a_class_that_is_still_due_and_undo_what_it_was_before_it_was_deleted() {
    each(KINDS, async |(version, modules)| {
        let (server, archive, backed_up) = spoiled(Start::version(version).modules(modules)).await;
        let before = server.contents().await;
        // From the first deletion on, no class can be made again.
        let mut is_deleted = false;
        let (_line, component) = over(&server, move |asked| {
            is_deleted |= deletes_a_class(asked);
            let brings = to("POST", RESTORE)(asked) || to("POST", "/v1/schema")(asked);
            if is_deleted && brings { Line::Say(422, "{}".to_owned()) } else { Line::Good }
        })
        .await;
        restore(&component, &archive, &Target::Live).await.unwrap_err();
        let due = server.contents().await;
        let missing = before.keys().find(|class| !due.contains_key(*class)).expect("a class is missing");
        let next = weaviate(server.config());
        let said = next.check().await.unwrap();
        assert!(said.contains(&format!("classes {missing} are missing or not proven")), "{said}");

        restore(&next, &archive, &Target::Live).await.unwrap();
        let found = server.contents().await;
        assert!(backed_up.iter().all(|(class, contents)| found[class] == *contents), "{version} {modules}");
        next.undo(None, &Meter::default()).await.unwrap();
        assert!(server.contents().await == before, "{version} {modules}");
    })
    .await;
}
