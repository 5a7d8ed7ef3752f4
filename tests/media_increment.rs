//! Media that hardly change: what has not is stored once, and every backup comes back whole all the same.

use crate::catalog_rebuild::with_bucket;
use crate::media_restore::{Tree, look, same};
use crate::support::{
    lab::{Lab, eventually},
    s3::S3Server,
    tree,
};
use rustix::fs::removexattr;
use serde_json::Value;
use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// A megabyte that no compressor makes smaller.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..1 << 17).flat_map(|_| next()).collect()
}

/// A lab with all kinds of entries and attributes, and one large file.
async fn lab() -> Lab {
    let lab = Lab::new().set("BACKUP_MEDIA_FULL_EVERY", "7d");
    tree::fill(&lab.media());
    tree::adorn(&lab.media());
    fs::write(lab.media().join("figures/large.bin"), noise(1)).unwrap();
    settled(&lab.media()).await;
    lab
}

/// Waits until nothing is so new that a change in the same instant could not be seen.
pub async fn settled(media: &Path) {
    fn newest(path: &Path) -> f64 {
        let metadata = fs::symlink_metadata(path).unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a tenth of a second is enough")]
        let own = metadata.ctime() as f64 + metadata.ctime_nsec() as f64 / 1e9;
        let below = if metadata.is_dir() { fs::read_dir(path).ok() } else { None };
        below.into_iter().flatten().map(|entry| newest(&entry.unwrap().path())).fold(own, f64::max)
    }
    let changed = newest(media);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(eventually(async || now() > changed + 0.2).await);
}

fn backup(lab: &Lab) -> String {
    lab.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned()
}

fn manifest(lab: &Lab, id: &str) -> Value {
    let path = lab.backups().join(format!("manifests/media/{id}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn builds_on(lab: &Lab, id: &str) -> Vec<String> {
    let found = manifest(lab, id)["facts"]["builds_on"].as_array().cloned().unwrap_or_default();
    found.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn archive(lab: &Lab, id: &str) -> PathBuf {
    lab.backups().join(manifest(lab, id)["objects"][0]["key"].as_str().unwrap())
}

/// What must be there after a restore of a tree.
fn shown(media: &Path) -> Tree {
    let mut seen = look(media);
    seen.retain(|name, _| name != "socket" && name != "pipe");
    seen
}

/// Changes of every kind.
fn change(media: &Path) {
    fs::write(media.join("figures/gel.txt"), "lane 2: RNA\n").unwrap();
    fs::write(media.join("figures/new.txt"), "since yesterday").unwrap();
    fs::remove_file(media.join("figures/été.bin")).unwrap();
    fs::create_dir(media.join("figures/été.bin")).unwrap();
    fs::write(media.join("figures/été.bin/now a folder"), "x").unwrap();
    fs::create_dir(media.join("moved")).unwrap();
    fs::rename(media.join("figures"), media.join("moved/figures")).unwrap();
    symlink("moved/figures", media.join("figures")).unwrap();
    fs::hard_link(media.join("moved/figures/gel.txt"), media.join("gel again.txt")).unwrap();
    // Attributes alone: of a file, of one with several names, and of folders.
    tree::set_extended(&media.join("a.txt"), "user.empty", b"no longer");
    tree::set_extended(&media.join("empty.dat"), tree::ACCESS, &tree::acl(&[(2, 6, 4321)], 0));
    tree::set_extended(&media.join("photos/same.csv"), "user.large", b"small");
    tree::set_extended(&media.join("photos"), tree::DEFAULT, &tree::acl(&[(2, 0, 4321)], 0));
    removexattr(media.join("sticky"), tree::DEFAULT).unwrap();
}

#[tokio::test]
async fn what_has_not_changed_is_stored_once_and_every_backup_comes_back_whole() {
    let lab = lab().await;
    let media = lab.media();
    let mut trees = Vec::new();
    let mut keep = |id: String| trees.push((id, shown(&media)));
    let full = backup(&lab);
    keep(full.clone());
    assert_eq!((manifest(&lab, &full)["format"].clone(), builds_on(&lab, &full)), (1.into(), vec![]));

    let unchanged = backup(&lab);
    keep(unchanged.clone());
    assert_eq!(manifest(&lab, &unchanged)["format"], 3);
    assert_eq!(builds_on(&lab, &unchanged), [full.as_str()]);
    assert_eq!(manifest(&lab, &unchanged)["facts"]["counts"], manifest(&lab, &full)["facts"]["counts"]);
    let (large, small) = (archive(&lab, &full), archive(&lab, &unchanged));
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&small) * 100 < size(&large), "{} of {}", size(&small), size(&large));

    // A folder that has moved is stored once more: it lies elsewhere.
    change(&media);
    settled(&media).await;
    let changed = backup(&lab);
    keep(changed.clone());
    assert_eq!(builds_on(&lab, &changed), [full.as_str()]);
    fs::write(media.join("moved/figures/new.txt"), "today").unwrap();
    fs::remove_file(media.join("gel again.txt")).unwrap();
    settled(&media).await;
    let last = backup(&lab);
    keep(last.clone());
    assert_eq!(builds_on(&lab, &last), [full, changed], "and none of the one that nothing lies in");

    let plan = lab.json(&["restore", "media", "--dry-run"]);
    assert_eq!(plan["also_reads"].as_array().unwrap().len(), 2, "{plan}");
    let results = lab.json(&["verify", "media", "all", "--drill"])["results"].clone();
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), trees.len());
    assert!(results.iter().all(|found| found["ok"] == true && found["level"] == "drill"), "{results:?}");
    for (id, tree) in &trees {
        let (ours, by_hand) = (lab.path(&format!("ours {id}")), lab.path(&format!("by hand {id}")));
        lab.json(&["restore", "media", id, "--yes", "--into", ours.to_str().unwrap()]);
        same(&shown(&ours), tree);
        fs::create_dir(&by_hand).unwrap();
        for command in lab.json(&["show", id])["open_with"].as_array().unwrap() {
            let shell =
                Command::new("sh").args(["-ec", command.as_str().unwrap()]).current_dir(&by_hand).output();
            let shell = shell.unwrap();
            let said = [shell.stdout, shell.stderr].concat();
            assert!(shell.status.success(), "{command}: {}", said.escape_ascii());
        }
        same(&shown(&by_hand.join("restored")), tree);
    }
    lab.json(&["restore", "media", &trees[1].0, "--yes"]);
    same(&shown(&media), &trees[1].1);
    lab.json(&["undo", "media", "--yes"]);
    same(&shown(&media), &trees[3].1);
}

/// What a command takes of memory at most, in KiB, and its exit status must be 0.
pub fn peak(lab: &Lab, args: &[&str]) -> u64 {
    const LOOK: &str = "import resource, subprocess, sys\n\
        subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)\n\
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let program = lab.program(args);
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", LOOK]).arg(program.get_program()).args(program.get_args());
    python.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = python.current_dir(lab.media()).output().unwrap();
    assert!(out.status.success(), "{}", out.stderr.escape_ascii());
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
}

/// Of every archive less is read ahead the more there are, as otherwise sixteen of them in a bucket would take 16 MiB each.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_many_archives_takes_little_more_memory_than_one() {
    const FILE: u64 = 10 << 20;
    let config = S3Server::shared().bucket().await;
    let lab = with_bucket(Lab::new().set("RUST_LOG", ""), &config)
        .set("BACKUP_LOCAL", "False")
        .set("BACKUP_MEDIA_FULL_EVERY", "7d");
    let write = |name: &str| {
        let noise = File::open("/dev/urandom").unwrap();
        io::copy(&mut noise.take(FILE), &mut File::create(lab.media().join(name)).unwrap()).unwrap();
    };
    let names: Vec<_> = (0..16).map(|number| format!("{number:02}.bin")).collect();
    for name in &names {
        write(name);
    }
    settled(&lab.media()).await;
    let full = backup(&lab);
    let mut last = String::new();
    for name in &names[..15] {
        write(name);
        settled(&lab.media()).await;
        last = backup(&lab);
    }
    let tree = shown(&lab.media());
    let plan = lab.json(&["restore", "media", &last, "--dry-run"]);
    assert_eq!(plan["also_reads"].as_array().unwrap().len(), 15, "{plan}");
    let (one, all) = (lab.path("one"), lab.path("all"));
    let one = peak(&lab, &["restore", "media", &full, "--yes", "--into", one.to_str().unwrap()]);
    let sixteen = peak(&lab, &["restore", "media", &last, "--yes", "--into", all.to_str().unwrap()]);
    println!("{one} KiB with one archive, {sixteen} KiB with sixteen");
    same(&shown(&all), &tree);
    assert!(sixteen < one + (80 << 10), "{one} KiB with one archive, {sixteen} KiB with sixteen");

    let next = backup(&lab);
    assert!(
        lab.json(&["restore", "media", &next, "--dry-run"]).get("also_reads").is_none(),
        "it is a full one"
    );
}

#[tokio::test]
async fn a_change_that_hides_behind_the_old_size_and_time_is_seen() {
    let lab = lab().await;
    let file = lab.media().join("figures/large.bin");
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    backup(&lab);
    fs::write(&file, noise(2)).unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
    settled(&lab.media()).await;
    let second = backup(&lab);
    assert!(fs::metadata(archive(&lab, &second)).unwrap().len() > 1 << 20);
    let into = lab.path("restored");
    lab.json(&["restore", "media", "--yes", "--into", into.to_str().unwrap()]);
    assert_eq!(fs::read(into.join("figures/large.bin")).unwrap(), noise(2));
    // So is one of its mode alone.
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    settled(&lab.media()).await;
    lab.json(&["restore", "media", &backup(&lab), "--yes", "--into", lab.path("again").to_str().unwrap()]);
    let mode = fs::metadata(lab.path("again/figures/large.bin")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_backup_is_full_when_it_is_time_and_when_there_is_nothing_sound_to_build_on() {
    let mut lab = lab().await;
    let first = backup(&lab);
    assert_eq!(builds_on(&lab, &backup(&lab)), [first.as_str()]);
    let is_full = |lab: &Lab| builds_on(lab, &backup(lab)).is_empty();

    lab = lab.set("BACKUP_MEDIA_FULL_EVERY", "0");
    assert!(is_full(&lab));
    lab = lab.set("BACKUP_MEDIA_FULL_EVERY", "1s");
    assert!(eventually(async || is_full(&lab)).await, "a second has passed");
    lab = lab.set("BACKUP_MEDIA_FULL_EVERY", "7d");
    assert!(!is_full(&lab));

    let snapshot = lab.backups().join(".media/snapshot");
    let whole = fs::read(&snapshot).unwrap();
    fs::write(&snapshot, &whole[..whole.len() / 2]).unwrap();
    assert!(is_full(&lab), "what was seen is lost");
    let base = builds_on(&lab, &backup(&lab)).remove(0);
    fs::remove_file(archive(&lab, &base)).unwrap();
    assert!(is_full(&lab), "the archive that was built on is gone");
    let key = |n: usize| AGE[n].to_owned();
    lab = lab.set("BACKUP_AGE_RECIPIENTS", key(0));
    assert!(is_full(&lab), "the ones before are not encrypted");
    assert!(!is_full(&lab));
    lab = lab.set("BACKUP_AGE_RECIPIENTS", format!("{},{}", key(0), key(1)));
    assert!(is_full(&lab), "the new owner of a key could not open the ones before");
    lab = lab.set("BACKUP_AGE_RECIPIENTS", format!("{},{}", key(1), key(0)));
    assert!(!is_full(&lab), "they are the same");
    let elsewhere = lab.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    lab = lab.set("MEDIA_ROOT", elsewhere.display());
    assert!(is_full(&lab), "it is another folder");
}

/// Public keys, whose secret ones nobody has.
const AGE: [&str; 2] = [
    "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
    "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
];

#[tokio::test]
async fn retention_keeps_what_later_backups_build_on() {
    let lab = lab().await.set("BACKUP_RETENTION_DAYS", "0");
    let full = backup(&lab);
    let second = backup(&lab);
    fs::write(lab.media().join("figures/new.txt"), "since").unwrap();
    settled(&lab.media()).await;
    let third = backup(&lab);
    assert_eq!(builds_on(&lab, &third), [full.as_str()]);
    assert!(!archive_exists(&lab, &second), "it is older than zero days, and nothing builds on it");
    let pruned = lab.json(&["prune", "--dry-run"]);
    let kept: Vec<_> =
        pruned["kept"].as_array().unwrap().iter().map(|kept| (&kept["backup_id"], &kept["why"])).collect();
    let (newest, base) = (Value::from(third), Value::from(full.clone()));
    let why = Value::from("a later backup builds on it");
    assert_eq!(kept, [(&newest, &Value::from("newest verified")), (&base, &why)]);
    lab.json(&["verify", "media", "all", "--drill"]);

    let lab = lab.set("BACKUP_MEDIA_FULL_EVERY", "0");
    backup(&lab);
    assert_eq!(lab.manifests("media").len(), 1, "nothing builds on the others any more");
    assert!(!archive_exists(&lab, &full));
}

fn archive_exists(lab: &Lab, id: &str) -> bool {
    lab.backups().join(format!("media/{id}.tar.zst")).exists()
}

#[tokio::test]
async fn a_backup_is_worth_no_more_than_what_it_builds_on() {
    let lab = lab().await;
    let full = backup(&lab);
    let second = backup(&lab);
    let before = shown(&lab.media());
    let state = || {
        let listed = lab.json(&["list", "media"])["backups"].clone();
        let of = |id: &str| {
            listed.as_array().unwrap().iter().find(|one| one["backup_id"] == id).unwrap()["state"].clone()
        };
        (of(&full), of(&second))
    };
    let path = archive(&lab, &full);
    let whole = fs::read(&path).unwrap();

    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&path, damaged).unwrap();
    let (code, _, err) = lab.run(&["restore", "media", &second, "--yes"]);
    assert!(
        code == 4 && err.contains(&format!("{second} builds on {full}")) && err.contains("hash"),
        "{code} {err}"
    );
    let (code, out, err) = lab.run(&["verify", "media", &second]);
    assert!(code == 4 && [out, err].concat().contains("which it builds on: its hash is not"), "{code}");
    assert_eq!(state(), ("failed".into(), "failed".into()), "what it builds on is looked at as well");
    assert!(builds_on(&lab, &backup(&lab)).is_empty(), "nothing builds on it any more");
    let (code, _, err) = lab.run(&["restore", "media", &second, "--yes"]);
    assert!(code == 4 && err.contains("one that it builds on is not"), "{code} {err}");

    fs::remove_file(&path).unwrap();
    assert_eq!(state(), ("missing".into(), "missing".into()));
    let (code, _, err) = lab.run(&["restore", "media", &second, "--yes"]);
    assert!(code == 1 && err.contains("is not there"), "{code} {err}");
    same(&shown(&lab.media()), &before);

    fs::write(&path, whole).unwrap();
    lab.json(&["verify", "media", "all", "--drill"]);
    assert_eq!(state(), ("ok".into(), "ok".into()));
}

#[tokio::test]
async fn a_catalogue_made_from_archives_alone_knows_what_builds_on_what() {
    let lab = lab().await;
    let full = backup(&lab);
    fs::write(lab.media().join("figures/new.txt"), "since").unwrap();
    settled(&lab.media()).await;
    let second = backup(&lab);
    let tree = shown(&lab.media());
    fs::remove_dir_all(lab.backups().join("manifests")).unwrap();
    lab.json(&["catalog", "rebuild"]);
    assert_eq!((manifest(&lab, &second)["format"].clone(), builds_on(&lab, &second)), (3.into(), vec![full]));
    fs::remove_dir_all(lab.media()).unwrap();
    lab.json(&["restore", "media", &second, "--yes"]);
    same(&shown(&lab.media()), &tree);
}
