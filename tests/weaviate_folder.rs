//! The folder that Weaviate and the worker share as two users of the operating system: what the one writes the
//! other reads and removes, or nothing is begun.

use crate::support::{
    lab::Lab,
    s3_proxy::{Asked, BadLine, Line},
    weaviate_server::{NEWEST, OLDEST, Start, WeaviateServer},
};
use crate::weaviate_faults::{all_have_ended, deletes_a_class, filled};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

/// The worker of the image.
const WORKER: User = User { uid: 10001, gid: 10001 };
const ROOT: User = User { uid: 0, gid: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
}

/// A server, and a worker that is another user and has no capability of root's.
struct Pair {
    server: WeaviateServer,
    /// The way from the worker to the server.
    line: BadLine,
    lab: Lab,
    worker: User,
    /// A further group of the worker.
    group: Option<u32>,
}

/// Both with this folder between them, and the lab's classes on the server.
async fn pair(start: Start, worker: User, folder: (User, u32)) -> Pair {
    pair_over(start, worker, folder, |_| Line::Good).await
}

/// The same, with a rule of what happens to each request of the worker.
async fn pair_over(start: Start, worker: User, folder: (User, u32), rule: fn(&Asked) -> Line) -> Pair {
    assert!(rustix::process::geteuid().is_root(), "this test works as several users: run it as root");
    let server = filled(start).await;
    let line = BadLine::before(&server.address(), rule).await;
    let lab = Lab::new()
        .set("BACKUP_COMPONENTS", "weaviate")
        .set("WEAVIATE_URL", line.url())
        .set("BACKUP_WEAVIATE_DIR", server.folder().display())
        .set("RUST_LOG", "warn");
    let socket = PathBuf::from(lab.redis.url().trim_start_matches("unix://"));
    set(&socket, ROOT, 0o666);
    for closed in [socket.parent().unwrap(), server.folder().parent().unwrap()] {
        set(closed, ROOT, 0o755);
    }
    set(&lab.path(""), worker, 0o700);
    set(&server.folder(), folder.0, folder.1);
    Pair { server, line, lab, worker, group: None }
}

fn set(path: &Path, owner: User, mode: u32) {
    chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

impl Pair {
    /// Runs a command as the worker: exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let program = self.lab.program(args);
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.worker.uid)).arg(format!("--regid={}", self.worker.gid));
        command.arg(self.group.map_or("--clear-groups".to_owned(), |group| format!("--groups={group}")));
        command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]);
        command.arg(program.get_program()).args(program.get_args()).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let out = command.current_dir(self.lab.path("")).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
    }

    fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run(&[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    /// The error of a command that must fail.
    fn refused(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_ne!(code, 0, "{args:?}: {out}");
        format!("{out} {err}")
    }

    /// The files in the folder between the two.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.server.folder()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Backs up by way of the folder, without a warning.
    fn backup(&self) -> Value {
        let report = self.json(&["backup", "weaviate"]);
        assert_eq!((&report["backend"], &report["warnings"]), (&json!("filesystem"), &json!([])), "{report}");
        report
    }

    /// Restores the newest backup after the data was changed, and takes that back.
    async fn restore_and_undo(&self) {
        let before = self.server.contents().await;
        self.server.spoil().await;
        let spoiled = self.server.contents().await;
        self.json(&["restore", "weaviate", "--yes"]);
        let mut found = self.server.contents().await;
        found.remove("Later");
        assert!(found == before);
        self.json(&["undo", "weaviate", "--yes"]);
        assert!(self.server.contents().await == spoiled);
    }

    /// The number of backups and restores that were ordered of the server.
    fn orders(&self) -> usize {
        self.line.count(|asked| asked.method == "POST" && asked.target.starts_with("/v1/backups/"))
    }
}

/// Unpacks the archive of a backup by hand, as root.
fn unpack_by_hand(report: &Value, into: &Path) {
    let archive = report["path"].as_str().unwrap();
    let shell = r#"mkdir -p "$2" && zstd -dc "$1" | tar -x --exclude=weaviate.json --no-same-owner -C "$2""#;
    let status = Command::new("sh").args(["-c", shell, "sh", archive]).arg(into).status().unwrap();
    assert!(status.success());
}

/// The id that the backup of an archive has on the server.
fn id_of(report: &Value) -> String {
    let shell = r#"zstd -dc "$1" | tar -xO weaviate.json"#;
    let archive = report["path"].as_str().unwrap();
    let index = Command::new("sh").args(["-c", shell, "sh", archive]).output().unwrap().stdout;
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_root_leaves_nothing_in_a_folder_of_the_workers() {
    for version in [OLDEST, NEWEST] {
        let pair = pair(Start::version(version), WORKER, (WORKER, 0o755)).await;
        pair.backup();
        assert_eq!(pair.left(), [""; 0]);
        pair.restore_and_undo().await;
        // The next backup removes what the restore had set aside.
        pair.backup();
        assert_eq!(pair.left(), [""; 0]);
        let found = pair.json(&["check"]);
        assert!(found.to_string().contains("by way of filesystem\""), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_the_worker_may_not_write_to_is_no_way_and_the_cure_is_named() {
    let mut pair = pair(Start::version(OLDEST), WORKER, (ROOT, 0o755)).await;
    let folder = pair.server.folder().display().to_string();
    let words = [
        format!("make and remove folders in BACKUP_WEAVIATE_DIR {folder} (owner 0:0, mode 0755)"),
        format!("rna-backup runs as 10001:10001: run `chown 10001:10001 {folder}` in Weaviate's container"),
        "`user: \"10001:10001\"` in Weaviate's compose service or by BACKUP_USER of rna-backup".to_owned(),
    ];
    let says = |text: &str| {
        let text = text.replace("\\\"", "\"");
        for words in &words {
            assert!(text.contains(words), "{words}: {text}");
        }
    };
    let report = pair.json(&["backup", "weaviate"]);
    assert_eq!(report["backend"], "export");
    says(&report["warnings"].to_string());
    says(&pair.lab.manifests("weaviate")[0]["facts"]["warnings"].to_string());
    let (code, out, _) = pair.run(&["check"]);
    assert_eq!(code, 0, "{out}");
    says(&out);

    set(&pair.server.folder(), WORKER, 0o755);
    pair.backup();
    set(&pair.server.folder(), ROOT, 0o755);
    let orders = pair.orders();
    let before = pair.server.contents().await;
    for args in [&["restore", "weaviate", "--dry-run"][..], &["restore", "weaviate", "--yes"]] {
        says(&pair.refused(args));
    }
    pair.lab = pair.lab.set("BACKUP_WEAVIATE_BACKEND", "filesystem");
    for args in [&["backup", "weaviate"][..], &["check"]] {
        says(&pair.refused(args));
    }
    assert_eq!(pair.orders(), orders);
    assert!(pair.server.contents().await == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_same_group_writes_into_what_the_worker_unpacks() {
    let start = Start::version(OLDEST).user(2000, 3000, "002");
    let mut pair = pair(start, User { uid: 1000, gid: 1000 }, (User { uid: 2000, gid: 3000 }, 0o2775)).await;
    pair.group = Some(3000);
    pair.backup();
    pair.restore_and_undo().await;
    pair.backup();
    assert_eq!(pair.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_write_into_the_workers_folders_is_found_out_before_classes_are_deleted() {
    // The server owns the folder and is not of its group; as long as the folder is everybody's that does no harm.
    let start = Start::version(OLDEST).user(2000, 2000, "022");
    let owner = User { uid: 2000, gid: 3000 };
    let mut pair = pair(start, User { uid: 1000, gid: 3000 }, (owner, 0o2777)).await;
    pair.backup();
    assert_eq!(pair.left(), [""; 0]);
    set(&pair.server.folder(), owner, 0o2775);
    let before = pair.server.contents().await;
    let words = "let Weaviate write into folders that rna-backup makes in BACKUP_WEAVIATE_DIR";
    let said = pair.refused(&["restore", "weaviate", "--yes"]);
    assert!(said.contains(words) && said.contains("BACKUP_USER"), "{said}");
    assert!(pair.server.contents().await == before);
    assert_eq!(pair.line.count(deletes_a_class), 0);

    let report = pair.json(&["backup", "weaviate"]);
    assert_eq!(report["backend"], "export");
    assert!(report["warnings"][0].as_str().unwrap().contains(words), "{report}");
    assert_eq!(pair.left(), [""; 0]);
    let (code, out, _) = pair.run(&["check"]);
    assert!(code == 0 && out.contains(words), "{out}");
    // A restore of an export, object by object, needs nothing of the folder.
    pair.restore_and_undo().await;
    pair.lab = pair.lab.set("BACKUP_WEAVIATE_BACKEND", "filesystem");
    assert!(pair.refused(&["backup", "weaviate"]).contains(words));
    pair.json(&["restore", "weaviate", "--yes"]);
    let mut found = pair.server.contents().await;
    found.remove("Later");
    assert!(found == before);

    set(&pair.server.folder(), owner, 0o2777);
    pair.backup();
    let (_, out, _) = pair.run(&["check"]);
    assert!(!out.contains(words), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_left_counts_and_the_next_one_is_an_export() {
    // Nobody tells the name of the node, so the server makes the folders below that name itself.
    let rule = |asked: &Asked| {
        if asked.target.starts_with("/v1/nodes?") { Line::Say(403, String::new()) } else { Line::Good }
    };
    let mut pair = pair_over(Start::version(OLDEST), WORKER, (WORKER, 0o755), rule).await;
    // A backup of vectors that were written a moment ago may be made again, and then two are left.
    for class in pair.server.classes().await.keys() {
        pair.server.ask(Method::DELETE, &format!("/v1/schema/{class}"), None).await;
    }
    pair.server.make(json!({"class": "Empty", "vectorizer": "none"})).await;
    let report = pair.json(&["backup", "weaviate"]);
    assert_eq!(report["backend"], "filesystem", "{report}");
    let [left] = &pair.left()[..] else { panic!("{:?}", pair.left()) };
    let folder = pair.server.folder().display().to_string();
    let words = format!("run `rm -r {folder}/{left}` in Weaviate's container");
    for warnings in [&report["warnings"], &pair.lab.manifests("weaviate")[0]["facts"]["warnings"]] {
        assert!(warnings.to_string().contains(&words), "{warnings}");
    }
    let report = pair.json(&["backup", "weaviate"]);
    assert_eq!((&report["backend"], pair.left().len()), (&json!("export"), 1));
    assert!(report["warnings"].to_string().contains(&words), "{report}");
    let (_, out, _) = pair.run(&["check"]);
    let stuck = format!("at {folder}/{left}/node1 (owner 0:0, mode 0755)");
    assert!(out.contains(&words) && out.contains(&stuck), "{out}");
    let orders = pair.orders();
    pair.lab = pair.lab.set("BACKUP_WEAVIATE_BACKEND", "filesystem");
    assert!(pair.refused(&["backup", "weaviate"]).contains(&words));
    assert_eq!(pair.orders(), orders);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_older_backups_have_left_stops_nothing_and_is_named() {
    let pair = pair(Start::version(OLDEST), WORKER, (WORKER, 0o755)).await;
    // As an earlier version of the worker has left them, and noted that they are to go.
    let ids = ["rna-20261101t030000z-00000001", "rna-20261102t030000z-00000002"];
    for id in ids {
        pair.server.ask(Method::POST, "/v1/backups/filesystem", Some(json!({"id": id}))).await;
        all_have_ended(&pair.server).await;
    }
    pair.backup();
    let loose: Vec<_> = ids.iter().map(|id| json!({"made": "filesystem", "id": id})).collect();
    let of_servers = fs::read_dir(pair.lab.backups().join(".weaviate")).unwrap();
    let [of_server] = &of_servers.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!()
    };
    let notes = of_server.join("journal.json");
    fs::write(&notes, json!({"loose": loose}).to_string()).unwrap();
    pair.restore_and_undo().await;
    pair.backup();
    assert_eq!(pair.left(), ids);
    let (code, out, _) = pair.run(&["check"]);
    let folder = pair.server.folder().display().to_string();
    let words = format!(
        "backups in Weaviate's folder that user 10001:10001 may not remove: 2; run `rm -r {folder}/{} {folder}/{}`",
        ids[0], ids[1]
    );
    assert!(code == 0 && out.contains(&words), "{words}: {out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_of_the_backup_that_is_restored_makes_room_or_is_used_or_keeps_the_classes_as_they_are() {
    let pair = pair(Start::version(OLDEST), WORKER, (WORKER, 0o755)).await;
    let report = pair.backup();
    let id = id_of(&report);
    let leftover = pair.server.folder().join(&id);
    let before = pair.server.contents().await;
    let restored = async || {
        pair.server.spoil().await;
        pair.json(&["restore", "weaviate", "--yes"]);
        let mut found = pair.server.contents().await;
        found.remove("Later");
        pair.server.ask(Method::DELETE, "/v1/schema/Later", None).await;
        assert!(found == before);
    };
    // Where it can be neither removed nor used, it gets another name.
    unpack_by_hand(&report, &leftover);
    fs::write(leftover.join("backup_config.json"), "{").unwrap();
    restored().await;
    assert!(!leftover.exists());
    let is_aside = |name: &String| name.starts_with(&format!("{id}-"));
    assert_eq!(pair.left().iter().filter(|name| is_aside(name)).count(), 1, "{:?}", pair.left());

    // In a folder where only owners give names, the same bytes are as good.
    unpack_by_hand(&report, &leftover);
    set(&pair.server.folder(), ROOT, 0o1777);
    let inode = fs::metadata(&leftover).unwrap().ino();
    restored().await;
    assert_eq!(fs::metadata(&leftover).unwrap().ino(), inode);

    // They are not where the server may not write beside them.
    let closed = User { uid: 3000, gid: 3000 };
    for path in [leftover.clone(), leftover.join("backup_config.json")] {
        chown(path, Some(closed.uid), Some(closed.gid)).unwrap();
    }
    let said = pair.refused(&["restore", "weaviate", "--yes"]);
    let words =
        format!("let Weaviate write into the backup that BACKUP_WEAVIATE_DIR has at {}", leftover.display());
    assert!(said.contains(&words), "{said}");
    assert!(pair.server.contents().await == before);

    let chunk = leftover.join("node1/Protocol/chunk-1");
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[20] ^= 4;
    fs::write(&chunk, bytes).unwrap();
    pair.server.spoil().await;
    let spoiled = pair.server.contents().await;
    let said = pair.refused(&["restore", "weaviate", "--yes"]);
    let words =
        format!("in the place of the other files that BACKUP_WEAVIATE_DIR has at {}", leftover.display());
    assert!(said.contains(&words) && said.contains("run `rm -r "), "{said}");
    assert!(pair.server.contents().await == spoiled);
}
