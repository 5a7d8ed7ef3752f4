//! What a store in a folder promises beyond the contract of every store.

#![allow(clippy::print_stdout)] // a skipped test says so

use crate::store_contract::{content, key, read, upload};
use crate::support::disk::{ThinDisk, Tmpfs};
use rna_backup::store::{LocalStore, Store as _, StoreError, local::Swept};
use std::{
    error::Error as _,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::tempdir;
use tokio::io::AsyncReadExt as _;

/// Set for the process that a test starts to do something in its stead: the folder to do it in.
const CHILD: &str = "RNA_BACKUP_TEST_STORE";

fn store_in(dir: &Path) -> LocalStore {
    LocalStore::open(dir, 0).unwrap()
}

fn partial_files(dir: &Path) -> usize {
    fs::read_dir(dir.join(".partial")).map_or(0, Iterator::count)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// This very binary, told to run one test alone, in another process.
fn again(test: &str, root: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    let me = std::env::current_exe().unwrap();
    command.args(["-c", &format!("{shell} exec \"$0\" \"$@\"")]).arg(me);
    command.args(["--exact", test, "--nocapture"]).env(CHILD, root).stdin(Stdio::null());
    command.env("LLVM_PROFILE_FILE", "/dev/null"); // half a file, of one that may write no more, would end `make coverage`
    command
}

/// Ends a child of a test whatever happens.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_upload_leaves_nothing_visible_and_is_swept_while_a_live_one_stays() {
    if let Some(root) = std::env::var_os(CHILD) {
        let store = store_in(Path::new(&root));
        let mut upload = store.begin(&key("media/killed"), None).await.unwrap();
        upload.write(content(3_000_000)).await.unwrap();
        drop(upload.read_back().await.unwrap());
        println!("\nready");
        return std::future::pending().await;
    }
    let dir = tempdir().unwrap();
    let test = "store_local::a_killed_upload_leaves_nothing_visible_and_is_swept_while_a_live_one_stays";
    let mut child = Kill(again(test, dir.path(), "").stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "the child ended too early");

    let store = store_in(dir.path());
    let mut live = store.begin(&key("media/live"), None).await.unwrap();
    live.write(content(10)).await.unwrap();
    assert_eq!(store.sweep_partial().await.unwrap(), Swept::default(), "both are alive");
    assert_eq!(partial_files(dir.path()), 2);

    drop(child);
    assert_eq!(store.list(&key("media")).await.unwrap(), []);
    assert_eq!(store.sweep_partial().await.unwrap(), Swept { files: 1, bytes: 3_000_000 });
    live.commit().await.unwrap();
    assert_eq!(read(&store, &key("media/live")).await, content(10));
    assert_eq!(partial_files(dir.path()), 0);
}

#[tokio::test]
async fn an_upload_that_died_is_given_up_by_whoever_lives_and_a_live_one_stays() {
    let dir = tempdir().unwrap();
    let store = store_in(dir.path());
    let mut live = store.begin(&key("media/live"), None).await.unwrap();
    live.write(content(10)).await.unwrap();
    fs::write(dir.path().join(".partial/1-dead"), "half").unwrap();
    store.abort_uploads(&key("media/dead")).await.unwrap();
    assert_eq!(partial_files(dir.path()), 1);
    live.commit().await.unwrap();
    assert_eq!(read(&store, &key("media/live")).await, content(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_never_takes_the_file_of_a_writer_that_has_just_begun() {
    let dir = tempdir().unwrap();
    let store = store_in(dir.path());
    let sweeper = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                store.sweep_partial().await.unwrap();
            }
        }
    });
    for n in 0..500 {
        store.put(&key(&format!("manifests/{n}")), content(10)).await.unwrap();
        upload(&store, &key(&format!("media/{n}")), &content(10)).await.unwrap();
    }
    sweeper.abort();
    assert_eq!(store.list(&key("manifests")).await.unwrap().len(), 500);
    assert_eq!(store.list(&key("media")).await.unwrap().len(), 500);
}

/// Uploads until the store refuses, and checks how.
async fn fill(dir: &Path, store: &LocalStore, at_most: usize) {
    let mut upload = store.begin(&key("media/large"), None).await.unwrap();
    let chunk = content(1 << 20);
    let mut refused = None;
    for _ in 0..at_most {
        refused = upload.write(chunk.clone()).await.err();
        if refused.is_some() {
            break;
        }
    }
    // The last batch is still under way after the last write.
    let refused = match refused {
        None => upload.read_back().await.err().expect("the store is full"),
        Some(err) => err,
    };
    assert!(matches!(refused, StoreError::NoSpace { .. }) && refused.is_transient(), "{refused:?}");
    upload.abort().await;
    assert_eq!(partial_files(dir), 0);
    assert_eq!(store.list(&key("media")).await.unwrap(), []);
    store.put(&key("manifests/small"), content(10)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_leaves_no_partial_file() {
    let Some(disk) = Tmpfs::mount("4m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    fill(disk.path(), &store_in(disk.path()), 6).await;
}

#[tokio::test]
async fn a_file_size_limit_is_no_space_and_leaves_no_partial_file() {
    if let Some(root) = std::env::var_os(CHILD) {
        return fill(Path::new(&root), &store_in(Path::new(&root)), 6).await;
    }
    let dir = tempdir().unwrap();
    let test = "store_local::a_file_size_limit_is_no_space_and_leaves_no_partial_file";
    // Two mebibytes, in the blocks of 512 bytes that POSIX has. The signal would kill.
    let output = again(test, dir.path(), "trap '' XFSZ; ulimit -f 4096;").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(dir.path().join("manifests/small").exists(), "the child ran no test");
}

#[tokio::test]
async fn what_must_stay_free_stays_free() {
    let dir = tempdir().unwrap();
    let store = LocalStore::open(dir.path(), u64::MAX).unwrap();
    let refused = store.begin(&key("media/a"), None).await.err().unwrap();
    assert!(matches!(refused, StoreError::NoSpace { keep_free: u64::MAX, free: 1.., .. }), "{refused:?}");
    assert!(store.probe().await.is_err());
    assert_eq!(store.free_bytes().await.unwrap(), Some(0));
    assert_eq!(partial_files(dir.path()), 0);
    // A manifest is no upload: the run that it closes is done.
    store.put(&key("manifests/a"), content(10)).await.unwrap();

    let Some(disk) = Tmpfs::mount("160m") else {
        return println!("skipped in part: mounting a tmpfs is not allowed here");
    };
    let store = LocalStore::open(disk.path(), 80 << 20).unwrap();
    fill(disk.path(), &store, 150).await;
}

#[tokio::test]
async fn files_are_readable_by_their_owner_alone() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("made/for/backups");
    let store = store_in(&root);
    upload(&store, &key("media/deep/a"), &content(1)).await.unwrap();
    store.put(&key("manifests/a.json"), content(1)).await.unwrap();
    for file in ["media/deep/a", "manifests/a.json"] {
        assert_eq!(mode(&root.join(file)), 0o600, "{file}");
    }
    for folder in ["", "media", "media/deep", "manifests", ".partial"] {
        assert_eq!(mode(&root.join(folder)), 0o700, "{folder}");
    }
}

#[tokio::test]
async fn nothing_follows_a_link_below_the_root() {
    let dir = tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    let store = store_in(&root);
    fs::create_dir_all(root.join("media")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(outside.join("secret"), root.join("media/file")).unwrap();
    symlink(&outside, root.join("media/folder")).unwrap();
    symlink(&outside, root.join("weaviate")).unwrap();

    assert_eq!(store.list(&key("media")).await.unwrap(), []);
    let denied = |err: Option<StoreError>| {
        let err = err.expect("it leads out of the root");
        let why = err.source().map(ToString::to_string).unwrap_or_default();
        assert!(matches!(err, StoreError::Denied { .. }) && why.contains("is a symbolic link"), "{err:?}");
    };
    denied(store.list(&key("weaviate")).await.err());
    for way in ["media/file", "media/folder/secret", "weaviate/secret"] {
        denied(store.open(&key(way), None).await.err());
        denied(store.head(&key(way)).await.err());
    }
    for way in ["media/folder/new", "weaviate/new"] {
        denied(store.put(&key(way), content(1)).await.err());
        denied(upload(&store, &key(way), &content(1)).await.err());
        denied(store.delete(&key(way)).await.err());
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(partial_files(&root), 0);
}

#[tokio::test]
async fn what_is_no_object_is_neither_listed_nor_opened() {
    let dir = tempdir().unwrap();
    let store = store_in(dir.path());
    upload(&store, &key("media/a"), &content(1)).await.unwrap();
    let media = dir.path().join("media");
    fs::write(media.join(".hidden"), "x").unwrap();
    fs::create_dir_all(media.join(".locks")).unwrap();
    fs::write(media.join(".locks/x"), "x").unwrap();
    fs::create_dir(media.join("empty")).unwrap();
    fs::write(media.join(OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    assert!(Command::new("mkfifo").arg(media.join("pipe")).status().unwrap().success());

    let listed: Vec<_> = store.list(&key("media")).await.unwrap().into_iter().map(|m| m.key).collect();
    assert_eq!(listed, [key("media/a")]);
    for name in ["media/.hidden", "media/.locks/x", "media/empty", "media/pipe", ".partial/x", "media"] {
        let opened = store.open(&key(name), None).await.err();
        assert!(matches!(opened, Some(StoreError::NotFound { .. })), "{name}: {opened:?}");
        assert!(matches!(store.head(&key(name)).await, Err(StoreError::NotFound { .. })), "{name}");
    }
    assert_eq!(store.list(&key(".partial")).await.unwrap(), []);
    for name in [".partial/x", "media/.hidden"] {
        assert!(matches!(store.put(&key(name), content(1)).await, Err(StoreError::Denied { .. })));
        assert!(matches!(store.delete(&key(name)).await, Err(StoreError::Denied { .. })));
        assert!(matches!(store.begin(&key(name), None).await.err(), Some(StoreError::Denied { .. })));
    }
    assert!(media.join(".hidden").exists());
}

#[tokio::test]
async fn a_folder_in_the_way_is_refused_and_kept() {
    let dir = tempdir().unwrap();
    let store = store_in(dir.path());
    upload(&store, &key("media/folder/file"), &content(1)).await.unwrap();
    let refused = store.delete(&key("media/folder")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    let refused = upload(&store, &key("media/folder/file/below"), &content(1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused:?}");
    assert_eq!(read(&store, &key("media/folder/file")).await, content(1));
    assert_eq!(partial_files(dir.path()), 0);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_is_an_error_and_no_end() {
    let dir = tempdir().unwrap();
    let store = store_in(dir.path());
    upload(&store, &key("media/a"), &content(20_000_000)).await.unwrap();
    let mut body = store.open(&key("media/a"), None).await.unwrap();
    body.read_u8().await.unwrap();
    fs::File::options().write(true).open(dir.path().join("media/a")).unwrap().set_len(10_000_000).unwrap();
    let err = body.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_root_that_cannot_be_one_is_refused() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for root in [dir.path().join("file"), dir.path().join("file/below"), "/proc/nothing/here".into()] {
        let err = LocalStore::open(&root, 0).unwrap_err();
        assert_eq!(err.to_string(), format!("open backup folder {}", root.display()));
        assert!(err.source().is_some());
    }
}

#[tokio::test]
async fn a_root_that_went_away_is_unavailable_and_not_empty() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    let store = store_in(&root);
    store.probe().await.unwrap();
    assert_eq!(partial_files(&root), 0);
    fs::remove_dir_all(&root).unwrap();
    for err in [
        store.list(&key("media")).await.map(|_| ()).unwrap_err(),
        store.delete(&key("media/a")).await.unwrap_err(),
        store.open(&key("media/a"), None).await.map(|_| ()).unwrap_err(),
        store.probe().await.unwrap_err(),
    ] {
        assert!(matches!(err, StoreError::Unavailable { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn a_key_is_found_however_its_path_is_written() {
    let dir = tempdir().unwrap();
    let real = dir.path().join("real");
    fs::create_dir_all(real.join("media")).unwrap();
    symlink(&real, dir.path().join("link")).unwrap();
    symlink(&real, dir.path().join("other-link")).unwrap();
    let store = store_in(&dir.path().join("link"));
    for way in ["link/media/a", "real/media/a", "other-link/media/a", "link/./media//a"] {
        let way = dir.path().join(way).display().to_string();
        assert_eq!(store.key_at(&way), Some(key("media/a")), "{way}");
    }
    assert_eq!(store.key_at("media/a"), Some(key("media/a")));
    assert_eq!(store.key_at("./media/a"), Some(key("media/a")));
    for way in ["link/media/../a", "real", "realm/a", "link/../x"] {
        let way = dir.path().join(way).display().to_string();
        assert_eq!(store.key_at(&way), None, "{way}");
    }
    assert_eq!(store.location(&key("media/a")), dir.path().join("link/media/a").display().to_string());
}

#[tokio::test]
async fn a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written() {
    let Some(disk) = Tmpfs::mount("4m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let store = store_in(disk.path());
    upload(&store, &key("media/a"), &content(10)).await.unwrap();
    let remount = ["-o", "remount,ro"];
    assert!(Command::new("mount").args(remount).arg(disk.path()).status().unwrap().success());

    let store = store_in(disk.path());
    assert_eq!(read(&store, &key("media/a")).await, content(10));
    for refused in [store.probe().await, store.put(&key("media/b"), content(1)).await] {
        let refused = refused.unwrap_err();
        let why = refused.source().unwrap().to_string();
        assert!(
            matches!(refused, StoreError::Denied { .. }) && why.contains("is mounted read-only"),
            "{refused:?}"
        );
    }
}

/// The kernel tells an error of writing back once. Here it does so in the middle of an upload, and by its end all is well
/// again, but for what never came to the disk.
#[tokio::test]
async fn an_error_that_the_disk_told_while_more_came_in_is_not_forgotten() {
    let Some(disk) = ThinDisk::mount("48m") else {
        return println!("skipped: mounting a file system on a file is not allowed here");
    };
    let store = store_in(disk.path());
    let mut upload = store.begin(&key("media/lost"), None).await.unwrap();
    // The disk begins to write after 64 MiB, and is asked what came of it after as much again.
    let chunk = content(1 << 20);
    for _ in 0..65 {
        upload.write(chunk.clone()).await.unwrap();
    }
    let partial = fs::read_dir(disk.path().join(".partial")).unwrap().next().unwrap().unwrap().path();
    let file = fs::File::open(partial).unwrap();
    while file.sync_data().is_err() {}
    disk.grow("400m");

    let mut done = Ok(());
    for _ in 0..65 {
        if done.is_ok() {
            done = upload.write(chunk.clone()).await;
        }
    }
    if done.is_ok() {
        done = upload.commit().await;
    }
    assert!(done.is_err(), "bytes are lost, and nobody said so");
    assert!(!disk.path().join("media/lost").exists());
}
