//! Uploads that a process which died has left in a bucket, by the notes on its own disk.

use crate::catalog_rebuild::with_bucket;
use crate::support::lab::{Lab, eventually, files};
use crate::support::s3::{Bucket, S3Server};
use crate::support::s3_proxy::{BadLine, Line};
use std::{fs, process::Stdio};

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_a_dead_process_are_given_up_on_a_store_that_does_not_list_them() {
    let mut config = S3Server::shared().bucket().await;
    let bucket = Bucket::of(&config);
    let refusal = "<Error><Code>NotImplemented</Code><Message>not here</Message></Error>";
    let _line = BadLine::to(&mut config, move |asked| {
        if asked.is_part() {
            Line::BlackHole
        } else if asked.method == "GET" && asked.target.contains("uploads") {
            Line::Say(501, refusal.to_owned())
        } else {
            Line::Good
        }
    })
    .await;
    let lab = with_bucket(Lab::new(), &config).set("BACKUP_COMPRESSION", "none");
    fs::write(lab.media().join("large"), vec![7; 20 << 20]).unwrap();
    let mut backup = lab.program(&["backup", "media"]);
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let notes = || files(&lab.backups().join(".uploads")).len();
    assert!(eventually(async || bucket.uploads().await.len() == 1 && notes() == 1).await);
    // The upload of a living process stays; its component is busy.
    assert_eq!(lab.run(&["prune"]).0, 1);
    assert_eq!((bucket.uploads().await.len(), notes()), (1, 1));

    backup.kill().unwrap();
    backup.wait().unwrap();
    lab.json(&["prune"]);
    assert_eq!(bucket.uploads().await, [""; 0]);
    assert_eq!(notes(), 0);
}
