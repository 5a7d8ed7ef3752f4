//! `component::weaviate` when a restore fails, is refused, or dies in the middle: what was there is there again.

use crate::support::lab::eventually;
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::id;
use crate::support::weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{MODULES, backup, decode, each, left, restore, weaviate};
use crate::weaviate_faults::{
    BOTH, LONG_SECOND, RESTORE, deletes_a_class, filled, first, kill, over, spoiled, to,
};
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Source, Target, Undo};
use rna_backup::domain::{facts::Facts, progress::Meter};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::Path,
};

/// The contents of a server, by class.
pub type Contents = BTreeMap<String, Value>;

/// Checks that each class is as it was before a restore or as the backup has it, and that nothing is left to do.
pub async fn nothing_is_lost(server: &WeaviateServer, before: &Contents, backed_up: &Contents) {
    let found = server.contents().await;
    for class in before.keys().chain(backed_up.keys()) {
        let is = found.get(class);
        assert!(is == before.get(class) || (is.is_some() && is == backed_up.get(class)), "class {class}");
    }
    let weaviate = weaviate(server.config());
    assert_eq!(weaviate.recover().await.unwrap(), [""; 0]);
    // What stood in the place of a class that was put back stays until a newer backup is proven.
    if weaviate.undo_point().await.unwrap().is_none() {
        // One backup is outlived by what stood where a class was put back.
        for _ in 0..2 {
            weaviate.delete_undo_data().await.unwrap();
        }
        assert_eq!(left(server), [""; 0]);
    }
}

/// A function that damages a server's folder of data, or the backup that it is about to restore.
type Damage = fn(data: &Path, backup: &Path);

#[tokio::test]
async fn a_restore_that_fails_puts_back_what_was_there() {
    let damages: [(&str, Damage); 3] = [
        ("the descriptor of the node vanishes", |_, backup| {
            fs::remove_file(backup.join("node1/backup.json")).unwrap();
        }),
        ("a chunk is torn", |_, backup| {
            let chunk = OpenOptions::new().write(true).open(backup.join("node1/Document/chunk-1")).unwrap();
            chunk.set_len(chunk.metadata().unwrap().len() / 2).unwrap();
        }),
        // Then the server says SUCCESS, and the class is empty.
        ("a folder of the deleted class is left", |data, _| {
            fs::create_dir_all(data.join("document")).unwrap();
        }),
    ];
    each(BOTH, async |version| {
        let (server, archive, backed_up) = spoiled(Start::version(version)).await;
        let before = server.contents().await;
        let folder = server.folder();
        for (name, damage) in damages {
            println!("{version}: {name}");
            let (folder, mut is_done) = (folder.clone(), false);
            let (_line, component) = over(&server, move |asked| {
                if to("POST", RESTORE)(asked) && !is_done {
                    is_done = true;
                    let id = asked.target.split('/').rev().nth(1).unwrap();
                    damage(&folder.with_file_name("data"), &folder.join(id));
                }
                Line::Good
            })
            .await;
            let err = restore(&component, &archive, &Target::Live).await.unwrap_err();
            println!("{}", chain(&err));
            nothing_is_lost(&server, &before, &backed_up).await;
            assert!(server.contents().await["Document"] == before["Document"], "{}", chain(&err));
        }
        restore(&weaviate(server.config()), &archive, &Target::Live).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_was_there_is_put_back_once_more_where_that_fails_and_kept_where_it_fails_for_good() {
    each(BOTH, async |version| {
        let (server, archive, backed_up) = spoiled(Start::version(version)).await;
        let before = server.contents().await;
        // The restore itself, and twice the restore of what was set aside.
        let refusal = Line::Say(500, String::new());
        let (_line, component) = over(&server, first(3, to("POST", RESTORE), refusal.clone())).await;
        let _ = restore(&component, &archive, &Target::Live).await;
        nothing_is_lost(&server, &before, &backed_up).await;

        let (_line, component) = over(&server, first(usize::MAX, to("POST", RESTORE), refusal)).await;
        let said = chain(&restore(&component, &archive, &Target::Live).await.unwrap_err());
        assert!(said.contains("rna-"), "the copy is named: {said}");
        assert!(server.contents().await != before);
        assert_ne!(weaviate(server.config()).recover().await.unwrap(), [""; 0]);
        nothing_is_lost(&server, &before, &backed_up).await;
    })
    .await;
}

#[tokio::test]
async fn attempts_to_put_a_class_back_do_not_each_keep_a_copy_of_what_they_have_brought_themselves() {
    each(BOTH, async |version| {
        let server = filled(Start::version(version).modules("")).await;
        // More than one request takes.
        let more = (300..700).map(|number| json!({"class": "Document", "id": id(4, number)}));
        server.put(more.collect()).await;
        let backed_up = server.contents().await;
        let (archive, _) = backup(&weaviate(server.config())).await.unwrap();
        server.spoil().await;
        let before = server.contents().await;
        // Of the two batches of a class one is stored, and the other is not.
        let (mut is_deleted, mut batches) = (false, 0);
        let (_line, broken) = over(&server, move |asked| {
            let stores = to("POST", "/v1/batch/objects")(asked);
            is_deleted |= deletes_a_class(asked);
            batches = if deletes_a_class(asked) { 0 } else { batches + u32::from(is_deleted && stores) };
            if stores && batches > 1 { Line::Say(422, String::new()) } else { Line::Good }
        })
        .await;
        restore(&broken, &archive, &Target::Live).await.unwrap_err();
        for _ in 0..2 {
            assert!(
                broken.recover().await.unwrap().join("; ").contains("could not be put back"),
                "{version}"
            );
        }
        let files = fs::read_dir(server.state()).unwrap().map(|entry| entry.unwrap().path());
        let copies = files.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
        // What was there before, and what the restore itself had brought so far.
        assert_eq!(copies.count(), 2, "{version}");
        weaviate(server.config()).recover().await.unwrap();
        nothing_is_lost(&server, &before, &backed_up).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_killed_just_after_it_has_made_the_class_has_restored_the_class() {
    let (server, archive, backed_up) = spoiled(Start::version(OLDEST)).await;
    let mut server = server;
    let line = BadLine::before(&server.address(), |_| Line::Good).await;
    let config =
        WeaviateConfig { server: line.url().parse().unwrap(), second: LONG_SECOND, ..server.config() };
    let component = Weaviate::new(config, None);
    let target = Target::custom("include", ["Protocol"]);
    let killing = async {
        // The server itself looks only after two seconds, and notes until then that it is at work.
        assert!(eventually(async || line.count(to("POST", RESTORE)) > 0).await);
        assert!(eventually(async || server.classes().await.contains_key("Protocol")).await);
        server.kill();
        server.start_again();
    };
    let (restored, ()) = tokio::join!(restore(&component, &archive, &target), killing);
    restored.unwrap_or_else(|err| panic!("{}", chain(&err)));
    assert_eq!(line.count(to("POST", RESTORE)), 2);
    server.is_ready().await;
    assert!(server.contents().await["Protocol"] == backed_up["Protocol"]);
}

#[tokio::test]
async fn an_import_that_is_refused_puts_back_what_was_there() {
    each(BOTH, async |version| {
        let (server, archive, backed_up) = spoiled(Start::version(version).modules("")).await;
        let before = server.contents().await;
        for path in ["/v1/batch/objects", "/v1/batch/references", "/v1/schema"] {
            // The first class that a restore makes is its mark.
            let mut refuse = first(1, to("POST", path), Line::Say(422, "{}".to_owned()));
            let mut made = 0;
            let rule = move |asked: &Asked| {
                made += u32::from(to("POST", "/v1/schema")(asked));
                if made > 1 || path != "/v1/schema" { refuse(asked) } else { Line::Good }
            };
            let (_line, component) = over(&server, rule).await;
            let err = restore(&component, &archive, &Target::Live).await.unwrap_err();
            assert!(chain(&err).contains("422"), "{}", chain(&err));
            nothing_is_lost(&server, &before, &backed_up).await;
        }
        // What passes is waited for.
        let mut busy = first(3, to("POST", "/v1/batch/objects"), Line::Busy);
        let mut torn = first(3, to("GET", "/v1/objects"), Line::CutAnswer(9));
        let rule = move |asked: &Asked| if asked.method == "GET" { torn(asked) } else { busy(asked) };
        let (_line, component) = over(&server, rule).await;
        restore(&component, &archive, &Target::Live).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_restore_loses_nothing() {
    // Before it has taken the order, and after.
    each([(OLDEST, "GET"), (NEWEST, "POST")], async |(version, method)| {
        let (mut server, archive, backed_up) = spoiled(Start::version(version)).await;
        let before = server.contents().await;
        let (pid, mut is_dead) = (server.pid(), false);
        let line = BadLine::before(&server.address(), move |asked| {
            if !is_dead && to(method, RESTORE)(asked) {
                is_dead = true;
                kill(pid);
            }
            Line::Good
        })
        .await;
        let config =
            WeaviateConfig { server: line.url().parse().unwrap(), second: LONG_SECOND, ..server.config() };
        let component = Weaviate::new(config, None);
        let starting = async {
            assert!(eventually(async || line.count(to(method, RESTORE)) > 0).await);
            server.start_again();
        };
        let (restored, ()) = tokio::join!(restore(&component, &archive, &Target::Live), starting);
        println!("{version}: {:?}", restored.as_ref().map_err(|err| chain(err)));
        let is_done = restored.is_ok();
        component.recover().await.unwrap();
        nothing_is_lost(&server, &before, &backed_up).await;
        assert!(!is_done || server.contents().await["Document"] == backed_up["Document"], "{version}");
    })
    .await;
}

#[tokio::test]
async fn a_backup_or_a_drill_that_dies_leaves_nothing_after_the_next_start() {
    let server = filled(Start::version(OLDEST)).await;
    let second = Start::version(OLDEST).folder_of(&server).server().await;
    let drill_line = BadLine::before(&second.address(), |_| Line::Good).await;
    let line = BadLine::before(&server.address(), |_| Line::Good).await;
    let drill = Some(drill_line.url().parse().unwrap());
    let weaviate = weaviate(WeaviateConfig { server: line.url().parse().unwrap(), drill, ..server.config() });
    let (archive, _) = backup(&weaviate).await.unwrap();

    let is_order = to("POST", "/v1/backups/filesystem");
    let orders = line.count(is_order);
    tokio::select! {
        made = backup(&weaviate) => panic!("{made:?}"),
        is_ordered = eventually(async || line.count(is_order) > orders) => assert!(is_ordered),
    }
    let cleared = eventually(async || {
        weaviate.recover().await.unwrap();
        left(&server).is_empty()
    });
    assert!(cleared.await, "{:?}", left(&server));

    let drill = async {
        let staged = weaviate
            .stage(&mut &*archive, &RestoreOrder::new(&Target::Scratch, None), &Meter::default())
            .await;
        panic!("{staged:?}")
    };
    tokio::select! {
        () = drill => {}
        is_ordered = eventually(async || drill_line.count(to("POST", RESTORE)) > 0) => assert!(is_ordered),
    }
    assert!(eventually(async || second.classes().await.len() == 3).await);
    let done = weaviate.recover().await.unwrap();
    assert!(done.iter().any(|line| line.contains("dead drill")), "{done:?}");
    assert_eq!((second.classes().await.len(), left(&server)), (0, Vec::new()));
}

/// Checks that a dry run and a restore refuse a backup for the same reason, and that neither touches anything.
async fn refused(server: &WeaviateServer, (archive, facts): &(Vec<u8>, Facts), words: &str) {
    let before = server.contents().await;
    let (line, dry) = over(server, |_| Line::Good).await;
    let planned = chain(&dry.plan(&Target::Live, Some(facts)).await.unwrap_err());
    let asks = |asked: &Asked| asked.method == "GET" || asked.target == "/v1/graphql";
    assert!(line.asked().iter().all(asks), "{:?}", line.asked());
    let (line, component) = over(server, |_| Line::Good).await;
    let said = chain(&restore(&component, archive, &Target::Live).await.unwrap_err());
    assert!(planned.contains(words) && said.contains(words), "dry run: {planned}; restore: {said}");
    assert_eq!(line.count(deletes_a_class), 0, "{said}");
    assert!(server.contents().await == before);
    assert_eq!(left(server), [""; 0]);
}

#[tokio::test]
async fn what_would_be_lost_or_could_not_be_made_is_refused_with_nothing_touched() {
    let server = filled(Start::version(OLDEST)).await;
    let made = backup(&weaviate(server.config())).await.unwrap();
    server.spoil().await;
    let cold = json!([{"name": "dry", "activityStatus": "COLD"}]);
    server.ask(Method::PUT, "/v1/schema/Sample/tenants", Some(cold)).await;
    let words = "replace class Sample: 1 of its tenants are inactive, dry among them, so what they have could not be set \
                 aside and would be lost: activate them first";
    refused(&server, &made, words).await;
    let checked = weaviate(server.config()).check().await.unwrap();
    assert!(checked.ends_with(&format!("; a restore would not begin: {words}")), "{checked}");
    let (_, facts) = backup(&weaviate(server.config())).await.unwrap();
    let said = facts.warnings.join("\n");
    assert!(said.contains("inactive tenants of class Sample"), "{said}");

    let renamed = filled(Start::version(OLDEST).set("CLUSTER_HOSTNAME", "node2")).await;
    let words =
        "the backup is of node node1, and the server's is node2: set CLUSTER_HOSTNAME of Weaviate to node1";
    refused(&renamed, &made, words).await;
    let bare = filled(Start::version(OLDEST).modules("")).await;
    refused(&bare, &made, "add backup-filesystem to ENABLE_MODULES of Weaviate").await;
    let newer = filled(Start::version(NEWEST)).await;
    let made = backup(&weaviate(newer.config())).await.unwrap();
    refused(&filled(Start::version(OLDEST)).await, &made, "newer than this one").await;

    // An export needs no module of backups, but those of its classes.
    let server = Start::version(OLDEST).modules("text2vec-openai").server().await;
    server.make(json!({"class": "Figure", "vectorizer": "text2vec-openai", "properties": []})).await;
    let export = WeaviateConfig { backend: BackendSetting::Export, ..server.config() };
    let made = backup(&weaviate(export)).await.unwrap();
    let words = " needs the module text2vec-openai: add that to ENABLE_MODULES of Weaviate";
    refused(&bare, &made, words).await;
}

#[tokio::test]
async fn a_damaged_archive_is_seen_by_decoding_and_refused_by_a_restore() {
    each(MODULES, async |modules| {
        // A newer server does not compress, so that the hash of the archive alone tells of a flipped bit.
        let server = filled(Start::version(OLDEST).modules(modules)).await;
        let weaviate = weaviate(server.config());
        let (archive, _) = backup(&weaviate).await.unwrap();
        let before = server.contents().await;
        let cut = [70, 30, 2].map(|part| archive[..archive.len() * part / 100].to_vec());
        // Some bytes into what Weaviate, or we, have packed.
        let magic: &[u8] = if modules.is_empty() { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[0x1f, 0x8b, 0x08] };
        let packed = archive.windows(magic.len()).position(|bytes| bytes == magic).unwrap();
        let mut flipped = archive.clone();
        flipped[packed + 40] ^= 4;
        for damaged in [vec![Vec::new(), flipped], cut.to_vec()].concat() {
            let found = decode(&weaviate, &damaged).await;
            assert!(matches!(found, Err(ComponentError::Corrupt { .. })), "{found:?}");
        }
        for damaged in cut {
            restore(&weaviate, &damaged, &Target::Live).await.unwrap_err();
            weaviate.recover().await.unwrap();
            assert!(server.contents().await == before);
            assert_eq!(left(&server), [""; 0]);
        }
    })
    .await;
}
