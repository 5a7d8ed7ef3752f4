//! Catalogues that others share, that are away, damaged or full: what is not seen is not taken for gone.

use crate::catalog_rebuild::with_bucket;
use crate::support::{
    disk::Tmpfs,
    lab::{Lab, files},
    s3::S3Server,
    tree,
};
use serde_json::{Value, json};
use std::{fs, io::Write};

fn backed_up(lab: &Lab) -> String {
    lab.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned()
}

/// Id, places and whether it is pinned, of every backup that is listed.
fn listed(lab: &Lab) -> Vec<(String, Vec<String>, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let place = |copy: &Value| format!("{} {}", text(&copy["destination"]), text(&copy["state"]));
    let one = |backup: &Value| {
        let places = backup["destinations"].as_array().unwrap().iter().map(place).collect();
        (text(&backup["backup_id"]), places, backup["pinned"] == true)
    };
    lab.json(&["list"])["backups"].as_array().unwrap().iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_share_a_bucket_and_no_folder_leave_each_other_what_they_have() {
    let config = S3Server::shared().bucket().await;
    let machine =
        || with_bucket(Lab::new().set("BACKUP_KEEP_LAST", 1).set("BACKUP_MEDIA_FULL_EVERY", 0), &config);
    let (one, other) = (machine(), machine());
    let (first, second, third) = (backed_up(&one), backed_up(&one), backed_up(&one));
    let in_s3 = |id: &String| (id.clone(), vec!["s3 ok".to_owned()], false);
    assert_eq!(listed(&other), [&third, &second, &first].map(in_s3));
    let verified = other.json(&["verify", "media", "all"]);
    assert!(verified["results"].as_array().unwrap().iter().all(|found| found["ok"] == true), "{verified}");

    // What the other one pins is pinned for both.
    other.json(&["pin", &first]);
    let both = ["local ok", "s3 ok"].map(str::to_owned).to_vec();
    assert!(listed(&one).contains(&(first.clone(), both.clone(), true)), "{:?}", listed(&one));
    let deleted = one.json(&["prune", "--retention-days", "0"])["deleted"].clone();
    assert_eq!(deleted, json!([second]));

    // And what it deletes from the bucket stays where it cannot look, and leaves no word of it here.
    other.json(&["unpin", &first]);
    one.json(&["unpin", &first]);
    assert_eq!(other.json(&["prune", "--retention-days", "0"])["deleted"], json!([first]));
    assert_eq!(listed(&other), [in_s3(&third)]);
    assert!(!other.backups().join("manifests").exists());
    let here = vec!["local ok".to_owned()];
    assert_eq!(listed(&one), [(third.clone(), both, false), (first, here, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_back_up_in_the_same_second_into_one_bucket_leave_each_other_what_they_have() {
    for server in [S3Server::shared(), S3Server::versity()] {
        let config = server.bucket().await;
        let machines = [(); 3].map(|()| with_bucket(Lab::new(), &config));
        for round in 1..=3 {
            let made: Vec<_> = std::thread::scope(|scope| {
                let runs: Vec<_> = machines
                    .iter()
                    .map(|machine| scope.spawn(|| machine.run(&["backup", "media", "--json"])))
                    .collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            for (code, out, err) in made {
                assert_eq!(code, 0, "{out}{err}");
            }
            let found = listed(&with_bucket(Lab::new(), &config));
            assert_eq!(found.len(), 3 * round, "{found:?}");
        }
        let verified = machines[0].json(&["verify", "media", "all"]);
        let results = verified["results"].as_array().unwrap();
        assert!(results.len() == 9 && results.iter().all(|found| found["ok"] == true), "{verified}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_says_from_where_it_deletes_a_backup_that_stays_elsewhere() {
    let config = S3Server::shared().bucket().await;
    let lab = Lab::new().set("BACKUP_MEDIA_FULL_EVERY", 0).set("RUST_LOG", "");
    let lab = with_bucket(lab, &config);
    let in_both = backed_up(&lab);
    let lab = lab.set("AWS_BACKUP_BUCKET", "");
    let here = backed_up(&lab);
    let lab = with_bucket(lab, &config);
    let (code, out, err) = lab.run(&["prune", "--retention-days", "0"]);
    assert_eq!(code, 0, "{out}{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], format!("deleted {in_both} from local"), "{out}");
    assert!(lines.iter().any(|line| line.starts_with(&format!("kept {in_both} elsewhere ("))), "{out}");
    assert!(lines.iter().any(|line| line.starts_with(&format!("kept {here} ("))), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_long_as_a_bucket_is_away_nothing_is_said_to_be_missing() {
    let config = S3Server::shared().bucket().await;
    let lab = with_bucket(Lab::new().set("BACKUP_LOCAL", "False"), &config);
    backed_up(&lab);
    let away = lab.set("AWS_S3_ENDPOINT", "http://127.0.0.1:1");
    for command in [&["restore", "media", "--yes"][..], &["verify", "media"], &["verify", "media", "all"]] {
        let (code, _, err) = away.run(command);
        assert!(code == 1 && !err.contains("no such backup"), "{command:?}: {code} {err}");
    }
}

#[tokio::test]
async fn nothing_is_deleted_that_a_backup_may_need_whose_manifest_cannot_be_read() {
    let lab = Lab::new().set("BACKUP_KEEP_LAST", 1);
    let made = [backed_up(&lab), backed_up(&lab), backed_up(&lab)];
    let manifest = lab.backups().join(format!("manifests/media/{}.json", made[1]));
    let words = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    let (code, out, err) = lab.run(&["prune", "--retention-days", "0"]);
    assert!(code == 1 && err.contains("nothing is deleted while a manifest cannot be read"), "{out}{err}");
    assert_eq!(files(&lab.backups().join("media")).len(), 3);
    fs::write(&manifest, words).unwrap();
    lab.json(&["prune", "--retention-days", "0"]);
}

#[tokio::test]
async fn backups_are_found_again_whatever_way_the_root_is_written() {
    let lab = Lab::new();
    let before = tree::look(&lab.media());
    let root = lab.media().join("../backups").display().to_string();
    let lab = lab.set("BACKUP_ROOT", root);
    let made = lab.json(&["backup", "media"]);
    fs::remove_file(lab.media().join("figures/gel.txt")).unwrap();
    lab.json(&["restore", "media", made["path"].as_str().unwrap(), "--yes"]);
    assert_eq!(tree::look(&lab.media()), before);
    let (code, _, err) = lab.run(&["restore", "media", "../../etc/passwd", "--yes"]);
    assert!(code != 0 && !err.contains("etc/passwd/"), "{err}");
}

/// The one command that makes room must not need any.
#[tokio::test]
async fn a_full_disk_can_be_pruned() {
    let Some(disk) = Tmpfs::mount("16m") else { return println!("skipped: mounting is not allowed here") };
    let root = disk.path().join("backups");
    let lab =
        Lab::new().set("BACKUP_ROOT", root.display()).set("BACKUP_MIN_FREE", 0).set("BACKUP_KEEP_LAST", 1);
    let lab = lab.set("BACKUP_MEDIA_FULL_EVERY", 0);
    let old = backed_up(&lab);
    backed_up(&lab);
    let mut ballast = fs::File::create(disk.path().join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    assert_eq!(lab.json(&["prune", "--retention-days", "0"])["deleted"], json!([old]));
}
