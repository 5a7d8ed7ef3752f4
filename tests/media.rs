//! Media folders, packed and read back by GNU tar and by ourselves.

use crate::support::dense::endless;
use crate::support::tree;
use async_trait::async_trait;
use bytes::Bytes;
use rna_backup::{
    component::{
        ComponentError, Source,
        media::{Media, MediaConfig},
    },
    domain::{
        facts::{Counts, Facts, FileCounts},
        progress::Meter,
    },
    stream::{
        Content::{self, Compressible, Incompressible},
        Output,
        pack::{Compression, Packer},
        unpack::unpack,
    },
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    thread,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

pub const MIB: usize = 1 << 20;

pub fn media(root: &Path) -> Media {
    Media::new(MediaConfig::full(root.to_owned()))
}

/// Takes the tar stream as it is, and may do something when the first bytes arrive: then the root is
/// listed, and no more than a few MiB are read ahead.
struct Collect<F> {
    tar: Vec<u8>,
    kinds: Vec<Content>,
    first: Option<F>,
}

#[async_trait]
impl<F: FnOnce() + Send> Output for Collect<F> {
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if let Some(first) = self.first.take() {
            first();
        }
        self.tar.extend_from_slice(&chunk);
        Ok(())
    }

    fn content(&mut self, kind: Content) {
        self.kinds.push(kind);
    }
}

pub async fn tar_of(root: &Path, first: impl FnOnce() + Send) -> (Vec<u8>, Facts) {
    let mut out = Collect { tar: Vec::new(), kinds: Vec::new(), first: Some(first) };
    let facts = media(root).back_up(None, &mut out, &Meter::default()).await.unwrap();
    (out.tar, facts)
}

pub async fn decode(tar: &[u8]) -> Result<Counts, ComponentError> {
    media(Path::new("/")).decode(&mut &tar[..], &Meter::default()).await
}

/// Whatever `first` does in the middle, the archive must hold what the facts say, for us and for GNU tar.
pub async fn whatever_happens(root: &Path, first: impl FnOnce() + Send) -> (TempDir, Facts) {
    let (tar, facts) = tar_of(root, first).await;
    assert_eq!(decode(&tar).await.unwrap(), facts.counts);
    (extract("tar", &tar), facts)
}

/// Unpacks with the tools that people have, which must not find a word to say.
fn extract(kind: &str, archive: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("archive"), archive).unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    let read = if kind == "tar" { "cat" } else { "zstd -dc" };
    let unpack = "tar -xpf tar --numeric-owner --warning=no-timestamp -C tree";
    let output = Command::new("sh")
        .args(["-ec", &format!("{read} < archive > tar; {unpack}")])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", output.stderr.escape_ascii());
    dir
}

#[tokio::test]
async fn a_tree_of_everything_comes_back_by_plain_tar() {
    let dir = tempfile::tempdir().unwrap();
    tree::fill(dir.path());

    let (sink, mut pieces) = mpsc::channel(2);
    let mut packer = Packer::start(Compression::default(), None, sink);
    let (meter, media) = (Meter::default(), media(dir.path()));
    let pack = async {
        let facts = media.back_up(None, &mut packer, &meter).await.unwrap();
        (facts, packer.finish().await.unwrap())
    };
    let collect = async {
        let mut archive = Vec::new();
        while let Some(piece) = pieces.recv().await {
            archive.extend_from_slice(&piece);
        }
        archive
    };
    let ((facts, packed), archive) = tokio::join!(pack, collect);
    assert_eq!(packed.bytes, archive.len() as u64);

    let back = extract("tar.zst", &archive);
    let (before, after) = (tree::look(dir.path()), tree::look(&back.path().join("tree")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        assert!(*seen == after[path], "{} differs", path.display());
    }

    let counts = facts.counts.files.unwrap();
    let FileCounts { files, directories, symlinks, hard_links, bytes } = counts;
    assert_eq!((files, directories, symlinks, hard_links), (16, 9, 5, 3));
    assert_eq!((facts.source_bytes, facts.warning_count), (bytes, 0), "{:?}", facts.warnings);
    assert_eq!(meter.read().0, bytes);

    let meter = Meter::default();
    let mut feed = unpack(Compression::default(), archive.as_slice());
    assert_eq!(media.decode(&mut feed, &meter).await.unwrap(), facts.counts);
    assert_eq!(meter.read().0, packed.source_bytes);
}

#[tokio::test]
async fn the_same_tree_gives_the_same_archive() {
    let dir = tempfile::tempdir().unwrap();
    tree::fill(dir.path());
    assert!(tar_of(dir.path(), || ()).await.0 == tar_of(dir.path(), || ()).await.0);
}

#[tokio::test]
async fn an_empty_folder_is_an_archive_of_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let (back, facts) = whatever_happens(dir.path(), || ()).await;
    assert_eq!(facts.counts.files, Some(FileCounts::default()));
    assert_eq!(tree::look(&back.path().join("tree")).len(), 1);
}

#[tokio::test]
async fn long_runs_of_compressed_files_are_announced() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, size: usize| {
        fs::write(dir.path().join(name), vec![0; size]).unwrap();
    };
    write("a.txt", 3 * MIB);
    write("b.JPG", 30 * MIB);
    write("c.txt", 10);
    write("d.mp4", 3 * MIB);
    write("e.txt", 2 * MIB);
    write("f.mp4", 3 * MIB);
    write("g.txt", 2 * MIB);
    for n in 0..1_500 {
        write(&format!("thumb{n}.webp"), 20_000);
    }
    let mut out = Collect { tar: Vec::new(), kinds: Vec::new(), first: Some(|| ()) };
    media(dir.path()).back_up(None, &mut out, &Meter::default()).await.unwrap();
    assert_eq!(out.kinds, [Incompressible, Compressible, Incompressible]);
}

#[tokio::test]
async fn sockets_pipes_and_devices_are_skipped_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("z"), b"data").unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _listener = UnixListener::bind(root.join("socket")).unwrap();
    let (_, facts) = whatever_happens(root, || ()).await;
    assert_eq!(facts.counts.files.unwrap().files, 1);
    assert_eq!(facts.warning_count, 2);
    assert_eq!(facts.warnings[0], "\"pipe\" is a socket, pipe or device, skipped");
}

/// A tree whose first file is larger than everything that may be read ahead.
fn tree_with_a_long_beginning() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.bin"), vec![b'a'; 16 * MIB]).unwrap();
    dir
}

#[tokio::test]
async fn a_file_that_shrinks_is_filled_up_and_counted() {
    let dir = tree_with_a_long_beginning();
    let file = OpenOptions::new().write(true).open(dir.path().join("a.bin")).unwrap();
    let (back, facts) = whatever_happens(dir.path(), || file.set_len(10 * MIB as u64 + 3).unwrap()).await;
    let mut expected = vec![b'a'; 10 * MIB + 3];
    expected.resize(16 * MIB, 0);
    assert!(fs::read(back.path().join("tree/a.bin")).unwrap() == expected);
    assert_eq!(facts.warnings, ["\"a.bin\" shrank while it was read, filled up with zeros"]);
    assert_eq!(facts.source_bytes, 10 * MIB as u64 + 3);
    assert_eq!(facts.counts.files.unwrap().bytes, 16 * MIB as u64);
}

#[tokio::test]
async fn a_file_that_grows_is_packed_up_to_its_first_length() {
    let dir = tree_with_a_long_beginning();
    let mut file = OpenOptions::new().append(true).open(dir.path().join("a.bin")).unwrap();
    let (back, facts) = whatever_happens(dir.path(), || file.write_all(&[b'b'; 5000]).unwrap()).await;
    assert!(fs::read(back.path().join("tree/a.bin")).unwrap() == vec![b'a'; 16 * MIB]);
    assert_eq!(facts.warnings, ["\"a.bin\" grew while it was read, packed up to its first length"]);
}

#[tokio::test]
async fn a_file_that_changes_in_place_is_counted() {
    let dir = tree_with_a_long_beginning();
    let path = dir.path().join("a.bin");
    tree::touch(&path, 1, 0);
    let (_, facts) = whatever_happens(dir.path(), || tree::touch(&path, 2, 0)).await;
    assert_eq!(facts.warnings, ["\"a.bin\" changed while it was read"]);
}

#[tokio::test]
async fn what_vanishes_or_is_exchanged_after_the_listing_does_no_harm() {
    let dir = tree_with_a_long_beginning();
    let root = dir.path();
    for name in ["file", "file to link", "file to pipe", "file to folder"] {
        fs::write(root.join(name), b"old").unwrap();
    }
    for name in ["folder", "folder to file", "folder to link"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("inside"), b"inside").unwrap();
    }
    symlink("file", root.join("link to file")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("inside"), b"secret").unwrap();

    let (back, facts) = whatever_happens(root, || {
        for name in ["file", "file to link", "file to pipe", "file to folder", "link to file"] {
            fs::remove_file(root.join(name)).unwrap();
        }
        for name in ["folder", "folder to file", "folder to link"] {
            fs::remove_dir_all(root.join(name)).unwrap();
        }
        symlink(outside.path().join("inside"), root.join("file to link")).unwrap();
        symlink(outside.path(), root.join("folder to link")).unwrap();
        mknodat(CWD, root.join("file to pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir(root.join("file to folder")).unwrap();
        fs::write(root.join("folder to file"), b"new").unwrap();
        fs::write(root.join("link to file"), b"new").unwrap();
    })
    .await;
    let tree = back.path().join("tree");
    assert_eq!(fs::read_link(tree.join("file to link")).unwrap(), outside.path().join("inside"));
    assert_eq!(fs::read_link(tree.join("folder to link")).unwrap(), outside.path());
    assert!(tree.join("file to folder").is_dir());
    assert_eq!(fs::read(tree.join("folder to file")).unwrap(), b"new");
    assert_eq!(fs::read(tree.join("link to file")).unwrap(), b"new");
    assert_eq!(
        facts.warnings,
        [
            "\"file\" vanished before it was read",
            "\"file to pipe\" is a socket, pipe or device, skipped",
            "\"folder\" vanished before it was read",
        ]
    );
}

#[tokio::test]
async fn a_tree_under_constant_change_still_gives_a_whole_archive() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    for n in 0..300 {
        fs::create_dir_all(root.join(format!("d{}", n % 10))).unwrap();
        fs::write(root.join(format!("d{}/f{n}", n % 10)), vec![b'x'; 3000 * (n % 40)]).unwrap();
    }
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = thread::spawn(move || {
        let mut turn = 0_usize;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            turn += 1;
            let path = root.join(format!("d{}/f{}", turn % 10, turn * 7 % 400));
            match turn % 5 {
                0 => drop(fs::remove_file(&path)),
                1 => drop(fs::rename(&path, root.join("moved"))),
                2 => drop(fs::create_dir_all(root.join(format!("d{}/new{}/deep", turn % 10, turn % 3)))),
                3 => drop(fs::remove_dir_all(root.join(format!("d{}/new{}", turn % 10, turn % 3)))),
                _ => drop(fs::write(&path, vec![b'y'; turn * 31 % 200_000])),
            }
        }
    });
    for _ in 0..20 {
        whatever_happens(dir.path(), || ()).await;
    }
    drop(stop);
    writer.join().unwrap();
}

#[test]
fn what_may_not_be_read_fails_the_backup_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    fs::write(root.join("a"), b"fine").unwrap();
    fs::write(root.join("b"), b"closed").unwrap();
    fs::create_dir(root.join("c")).unwrap();
    fs::write(root.join("d"), b"fine").unwrap();
    for name in ["b", "c"] {
        fs::set_permissions(root.join(name), Permissions::from_mode(0o000)).unwrap();
    }
    // Root reads everything, so the thread, and those that it starts, give that up.
    let err = thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut out = Collect { tar: Vec::new(), kinds: Vec::new(), first: Some(|| ()) };
        runtime.block_on(async {
            media(&root).check().await.unwrap();
            media(&root).back_up(None, &mut out, &Meter::default()).await.unwrap_err()
        })
    })
    .join()
    .unwrap();
    assert!(matches!(err, ComponentError::Unreadable { .. }) && !err.is_transient(), "{err:?}");
    assert!(
        err.to_string().starts_with("read 2 files or folders without the right to: \"b\", \"c\";"),
        "{err}"
    );
}

#[tokio::test]
async fn a_root_that_is_no_folder_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("file")).unwrap();
    for (name, why) in [("missing", "create or mount the folder"), ("file", "is not a folder")] {
        let err = media(&dir.path().join(name)).check().await.unwrap_err();
        let words = rna_backup::base::chain(&err);
        assert!(matches!(err, ComponentError::Unusable { .. }) && words.contains(why), "{words}");
    }
    let found = media(dir.path()).check().await.unwrap();
    let way = "; a restore is made beside it and swapped in by exchange of folders";
    assert!(found.ends_with(&format!("is readable, 1 entries at its top{way}")), "{found}");
}

/// Says that it gets something, and forgets it.
struct Discard(Option<tokio::sync::oneshot::Sender<()>>);
#[async_trait]
impl Output for Discard {
    async fn write(&mut self, _: Bytes) -> io::Result<()> {
        drop(self.0.take());
        Ok(())
    }
    fn content(&mut self, _: Content) {}
}

#[test]
fn a_dropped_backup_stops_reading() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody lives to see the end of this one.
    endless(&dir.path().join("endless"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (begun, wait) = tokio::sync::oneshot::channel();
        let (media, meter, mut out) = (media(dir.path()), Meter::default(), Discard(Some(begun)));
        tokio::select! {
            _ = media.back_up(None, &mut out, &meter) => unreachable!("it has no end"),
            _ = wait => {}
        }
    });
    drop(runtime); // waits for its threads
}

#[tokio::test]
async fn progress_learns_the_total_while_it_packs() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::write(dir.path().join("b/c"), vec![1; 1000]).unwrap();
    endless(&dir.path().join("endless"));
    let meter = Meter::default();
    let known = async {
        while meter.read().1 == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (media, mut out) = (media(dir.path()), Discard(None));
    tokio::select! {
        _ = media.back_up(None, &mut out, &meter) => unreachable!("nobody lives to see the end of this one"),
        () = known => {}
    }
    assert_eq!((meter.read().1, &*meter.read().2), ((1 << 40) + 1000, "pack"));
}
