//! Two machines, each with a `BACKUP_ROOT` of its own, that restore into one real Weaviate: neither undoes what the other
//! has restored, and both know of each other.

use crate::copies::Bench;
use crate::support::lab::eventually;
use crate::support::s3_proxy::{Asked, BadLine, Line};
use crate::support::weaviate_contents::{id, vector};
use crate::support::weaviate_server::{MARK, NEWEST, OLDEST, Start, WeaviateServer};
use crate::weaviate::{SECOND, backup, each, restore};
use crate::weaviate_faults::{all_have_ended, deletes_a_class, to};
use crate::weaviate_undo::ends_with;
use reqwest::Method;
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::progress::Meter;
use rna_backup::domain::{command::Backup, component::ComponentName};
use rna_backup::engine::{Engine, EngineError, RestoreRequest, Run};
use rna_backup::store::{Store, local::LocalStore};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

const KINDS: [(&str, BackendSetting); 4] = [
    (OLDEST, BackendSetting::Filesystem),
    (OLDEST, BackendSetting::Export),
    (NEWEST, BackendSetting::Filesystem),
    (NEWEST, BackendSetting::Export),
];

/// The folder of what a machine notes.
fn root(server: &WeaviateServer, name: &str) -> PathBuf {
    server.state().join(name).join("of-this-server")
}

/// The component as a machine has it.
pub fn config(server: &WeaviateServer, url: &str, name: &str, backend: BackendSetting) -> WeaviateConfig {
    let (state, second) = (root(server, name), SECOND);
    WeaviateConfig { server: url.parse().unwrap(), backend, second, state, ..server.config() }
}

fn machine(server: &WeaviateServer, name: &str, backend: BackendSetting) -> Weaviate {
    Weaviate::new(config(server, &server.url(), name, backend), None)
}

/// The marks that are on the server.
pub async fn marks(server: &WeaviateServer) -> Vec<String> {
    server.schema().await.into_keys().filter(|class| class.starts_with(MARK)).collect()
}

/// A restore by machine `a` that dies when it has deleted a class.
pub async fn dies(
    server: &WeaviateServer,
    backend: BackendSetting,
    bucket_folder: Option<Arc<dyn BucketFolder>>,
    archive: &[u8],
    class: &'static str,
) {
    let (line, died) = ends_with(server, class).await;
    let dying = Weaviate::new(config(server, &line.url(), "a", backend), bucket_folder);
    tokio::select! {
        ended = restore(&dying, archive, &Target::Live) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
    line.is_idle().await;
}

#[tokio::test]
async fn a_machine_that_comes_back_leaves_alone_what_another_has_restored_meanwhile() {
    each(KINDS, async |(version, backend)| {
        let what = format!("{version} {backend:?}");
        let server = Start::version(version).server().await;
        server.fill().await;
        let [a, b] = ["a", "b"].map(|name| machine(&server, name, backend));
        let (archive, _) = backup(&b).await.unwrap();
        server.spoil().await;
        dies(&server, backend, None, &archive, "Protocol").await;
        assert_eq!(marks(&server).await, ["RnaBackupMark_1"], "{what}");
        restore(&b, &archive, &Target::Live).await.unwrap();
        server.put(vec![json!({"class": "Protocol", "id": id(1, 777), "vector": vector(3), "properties": {"title": "work"}})])
            .await;
        let wanted = server.contents().await;

        let said = a.recover().await.unwrap().join("; ");
        assert!(server.contents().await == wanted, "{what}: {said}");
        assert!(said.contains("is superseded: classes Protocol stay as they are"), "{what}: {said}");
        let b_root = &*root(&server, "b").display().to_string();
        assert!(said.contains(b_root), "{what}: {said}");
        assert_eq!(a.due().await.unwrap(), None, "{what}");
        let copies = || fs::read_dir(root(&server, "a")).unwrap().map(|entry| entry.unwrap().path());
        let copy = copies().find(|path| path.extension().is_some_and(|end| end == "json") && !path.ends_with("journal.json"));
        let copy = copy.expect("the copy is kept");
        assert!(said.contains(copy.file_stem().unwrap().to_str().unwrap()), "{what}: {said}");
        // Its next backup changes nothing either, and holds no mark.
        let (_, facts) = backup(&a).await.unwrap();
        assert_eq!(facts.counts.classes.keys().collect::<Vec<_>>(), ["Document", "Later", "Protocol", "Sample"]);
        assert_eq!(facts.warnings.iter().filter(|warning| warning.contains(MARK)).count(), 0, "{facts:?}");
        // What it had restored itself it can take back, and is told who came after it.
        let meter = Meter::default();
        a.undo(None, &meter).await.unwrap();
        let said = meter.take_warnings().concat();
        assert!(said.contains("Classes Document were restored by") && said.contains(b_root), "{what}: {said}");
        a.undo(None, &Meter::default()).await.unwrap();
        for weaviate in [&a, &a, &b, &a] {
            weaviate.recover().await.unwrap();
            weaviate.delete_undo_data().await.unwrap();
        }
        assert!(server.contents().await == wanted, "{what}");
        assert_eq!(marks(&server).await, [""; 0], "{what}: nothing needs them");
        all_have_ended(&server).await;
    })
    .await;
}

#[tokio::test]
async fn a_class_that_a_dead_machine_has_deleted_and_the_next_does_not_restore_is_named_and_comes_back_with_the_first()
 {
    each(
        [(OLDEST, BackendSetting::Export), (NEWEST, BackendSetting::Filesystem)],
        async |(version, backend)| {
            let server = Start::version(version).server().await;
            server.fill().await;
            let [a, b] = ["a", "b"].map(|name| machine(&server, name, backend));
            let (archive, _) = backup(&b).await.unwrap();
            server.spoil().await;
            let spoiled = server.contents().await;
            dies(&server, backend, None, &archive, "Protocol").await;
            let meter = Meter::default();
            let only = Target::custom("include", ["Sample"]);
            b.stage(&mut &*archive, &RestoreOrder::new(&only, None), &meter)
                .await
                .unwrap()
                .swap()
                .await
                .unwrap();
            let said = meter.take_warnings().concat();
            assert!(said.contains("classes Protocol are missing"), "{version}: {said}");
            assert!(said.contains(&root(&server, "a").display().to_string()), "{version}: {said}");
            let sample = server.contents().await["Sample"].clone();
            let said = a.recover().await.unwrap().join("; ");
            let found = server.contents().await;
            assert!(found["Protocol"] == spoiled["Protocol"], "{version}: {said}");
            assert!(found["Sample"] == sample, "{version}");
        },
    )
    .await;
}

/// A rule that lets a restore go on as far as it has deleted a class, and then not before `is_over`.
fn takes_long(
    class: &'static str,
    began: Arc<Notify>,
    is_over: Arc<AtomicBool>,
) -> impl FnMut(&Asked) -> Line + Send + 'static {
    let mut is_gone = false;
    move |asked| {
        is_gone |= deletes_a_class(asked) && asked.target.ends_with(class);
        if !is_gone || is_over.load(Ordering::SeqCst) {
            return Line::Good;
        }
        if asked.method == "GET" && asked.target.ends_with("/restore") {
            began.notify_one();
            return Line::Say(200, json!({"status": "STARTED"}).to_string());
        }
        if to("POST", "/v1/batch/objects")(asked) {
            began.notify_one();
            return Line::Busy;
        }
        Line::Good
    }
}

#[tokio::test]
async fn a_machine_begins_no_restore_while_another_is_at_it_and_says_whose_it_is() {
    each(KINDS, async |(version, backend)| {
        let server = Start::version(version).server().await;
        server.fill().await;
        let b = machine(&server, "b", backend);
        let (archive, _) = backup(&b).await.unwrap();
        let before = server.contents().await;
        server.spoil().await;
        let (began, is_over) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let line =
            BadLine::before(&server.address(), takes_long("Protocol", began.clone(), is_over.clone())).await;
        let a = Weaviate::new(config(&server, &line.url(), "a", backend), None);
        let second = async {
            began.notified().await;
            let err = restore(&b, &archive, &Target::Live).await.unwrap_err();
            is_over.store(true, Ordering::SeqCst);
            err
        };
        let (first, err) = tokio::join!(restore(&a, &archive, &Target::Live), second);
        let said = chain(&err);
        assert!(
            said.contains("wait for the end of that restore, or stop it there"),
            "{version} {backend:?}: {said}"
        );
        assert!(said.contains(&root(&server, "a").display().to_string()), "{said}");
        assert!(err.is_transient(), "{said}");
        first.unwrap_or_else(|err| panic!("{version} {backend:?}: {}", chain(&err)));
        let mut found = server.contents().await;
        found.remove("Later");
        assert!(found == before, "{version} {backend:?}");
        assert_eq!(b.due().await.unwrap(), None);
        restore(&b, &archive, &Target::Live).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_was_cut_off_stops_where_it_is_when_another_has_taken_over() {
    each(KINDS, async |(version, backend)| {
        let what = format!("{version} {backend:?}");
        let server = Start::version(version).server().await;
        server.fill().await;
        let b = machine(&server, "b", backend);
        let (archive, _) = backup(&b).await.unwrap();
        server.spoil().await;
        let (cut, is_back) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (cuts, back, mut is_cut) = (cut.clone(), is_back.clone(), false);
        let line = BadLine::before(&server.address(), move |asked| {
            // Cut off when a class is deleted: the answer is lost, and the request is sent again when the line is back.
            is_cut |= deletes_a_class(asked) && asked.target.ends_with("Protocol");
            if !is_cut || back.load(Ordering::SeqCst) {
                return Line::Good;
            }
            cuts.notify_one();
            Line::CutRequest(0)
        })
        .await;
        let a = Weaviate::new(config(&server, &line.url(), "a", backend), None);
        let second = async {
            cut.notified().await;
            assert!(eventually(async || !server.classes().await.contains_key("Protocol")).await);
            restore(&b, &archive, &Target::Live).await.unwrap();
            server
                .put(vec![
                    json!({"class": "Protocol", "id": id(1, 777), "vector": vector(3), "properties": {}}),
                ])
                .await;
            let wanted = server.contents().await;
            is_back.store(true, Ordering::SeqCst);
            wanted
        };
        let (first, wanted) = tokio::join!(restore(&a, &archive, &Target::Live), second);
        let said = chain(&first.unwrap_err());
        assert!(
            said.contains("has taken over") && said.contains("nothing was rolled back"),
            "{what}: {said}"
        );
        assert!(server.contents().await == wanted, "{what}: {said}");
        let said = machine(&server, "a", backend).recover().await.unwrap().join("; ");
        assert!(said.contains("is superseded"), "{what}: {said}");
        assert!(server.contents().await == wanted, "{what}: {said}");
    })
    .await;
}

#[tokio::test]
async fn a_restore_that_is_told_to_stop_rolls_nothing_back_and_notes_what_is_due() {
    each(KINDS, async |(version, backend)| {
        let what = format!("{version} {backend:?}");
        let server = Start::version(version).server().await;
        server.fill().await;
        let backed_up = server.contents().await;
        let b = machine(&server, "b", backend);
        let (archive, _) = backup(&b).await.unwrap();
        server.spoil().await;
        let spoiled = server.contents().await;
        let (began, is_over) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let line =
            BadLine::before(&server.address(), takes_long("Protocol", began.clone(), is_over.clone())).await;
        let a = Weaviate::new(config(&server, &line.url(), "a", backend), None);
        let meter = Meter::default();
        let staged = a.stage(&mut &*archive, &RestoreOrder::new(&Target::Live, None), &meter).await.unwrap();
        let stops = async {
            began.notified().await;
            meter.stop();
        };
        let (swapped, ()) = tokio::join!(staged.swap(), stops);
        let said = chain(&swapped.unwrap_err());
        assert!(said.contains("nothing was rolled back"), "{what}: {said}");
        assert!(
            a.due().await.unwrap().unwrap().contains("classes Protocol are missing or not proven"),
            "{what}"
        );
        is_over.store(true, Ordering::SeqCst);
        a.recover().await.unwrap();
        let found = server.contents().await;
        assert!(found["Document"] == backed_up["Document"], "{what}: what was proven stays");
        let is_whole = [&backed_up, &spoiled].iter().any(|allowed| allowed["Protocol"] == found["Protocol"]);
        assert!(is_whole && found["Sample"] == spoiled["Sample"], "{what}");
    })
    .await;
}

#[tokio::test]
async fn a_mark_that_cannot_be_read_decides_nothing() {
    each([OLDEST, NEWEST], async |version| {
        let server = Start::version(version).server().await;
        server.fill().await;
        let [a, b] = ["a", "b"].map(|name| machine(&server, name, BackendSetting::Export));
        let (archive, _) = backup(&b).await.unwrap();
        server.spoil().await;
        dies(&server, BackendSetting::Export, None, &archive, "Protocol").await;
        let before = server.contents().await;
        server
            .make(json!({"class": "RnaBackupMark_9", "vectorizer": "none", "description": "notes of mine"}))
            .await;
        let errors =
            [a.recover().await.unwrap_err(), restore(&b, &archive, &Target::Live).await.unwrap_err()];
        for said in errors.map(|err| chain(&err)) {
            assert!(
                said.contains("read class RnaBackupMark_9") && said.contains("delete that class"),
                "{said}"
            );
        }
        assert!(server.contents().await == before, "{version}");
        assert!(a.due().await.unwrap().unwrap().contains("Protocol"));
        server.ask(Method::DELETE, "/v1/schema/RnaBackupMark_9", None).await;
        a.recover().await.unwrap();
        assert_eq!(a.due().await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_restore_that_is_cancelled_while_it_replaces_classes_ends_at_once_and_leaves_each_class_whole() {
    each(
        [(OLDEST, BackendSetting::Export), (NEWEST, BackendSetting::Filesystem)],
        async |(version, backend)| {
            let server = Start::version(version).server().await;
            server.fill().await;
            let backed_up = server.contents().await;
            let (began, is_over) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
            let line =
                BadLine::before(&server.address(), takes_long("Protocol", began.clone(), is_over.clone()))
                    .await;
            let bench = Bench::new();
            let store: Arc<dyn Store> = Arc::new(LocalStore::open(bench.path("near"), 0).unwrap());
            let a = Weaviate::new(config(&server, &line.url(), "a", backend), None);
            let engine = crate::copies::engine(&bench.path("media"), &bench.path("near/.locks"), vec![store]);
            let engine = Engine { components: vec![a.into()], ..engine };
            let component = ComponentName::WEAVIATE;
            let order = Backup { component, label: None, pin: false, set_id: None };
            let reference = engine.backup(&order, &Run::default()).await.unwrap().backup_id.to_string();
            server.spoil().await;
            let spoiled = server.contents().await;
            let request = RestoreRequest {
                component,
                reference,
                target: Target::Live,
                without_rights: false,
                without: Vec::new(),
            };
            let run = Run::default();
            let cancels = async {
                began.notified().await;
                run.cancel.cancel();
                is_over.store(true, Ordering::SeqCst);
            };
            let (ended, ()) = tokio::join!(engine.restore(&request, &run), cancels);
            assert!(matches!(ended, Err(EngineError::Cancelled)), "{version}: {ended:?}");
            let found = server.contents().await;
            assert!(found["Document"] == backed_up["Document"], "{version}: what was proven stays");
            let is_whole =
                [&backed_up, &spoiled].iter().any(|allowed| allowed["Protocol"] == found["Protocol"]);
            assert!(is_whole && found["Sample"] == spoiled["Sample"], "{version}");
            assert_eq!(engine.due(None).await, [""; 0], "{version}");
        },
    )
    .await;
}
