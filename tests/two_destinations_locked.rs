//! A bucket that does not let objects go: retention says so, deletes the rest, and what stays is a backup.

use crate::{
    catalog_rebuild::with_bucket,
    support::{
        lab::{Lab, files},
        s3::{Bucket, S3Server},
        s3_proxy::{Asked, BadLine, Line},
    },
    two_destinations::{key, path},
};
use rna_backup::domain::command::task as tasks;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

/// What MinIO says of a locked object.
const LOCKED: &str =
    "<Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be overwritten</Message>";

/// What a line does from now on.
type Rule = Box<dyn FnMut(&Asked) -> Line + Send>;

/// A lab with three backups in both destinations, and the line to its bucket.
struct Bench {
    lab: Lab,
    bucket: Bucket,
    made: Vec<Value>,
    rule: Arc<Mutex<Rule>>,
    line: BadLine,
}

impl Bench {
    async fn new() -> Self {
        let mut config = S3Server::shared().bucket().await;
        let bucket = Bucket::of(&config);
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_| Line::Good)));
        let now = rule.clone();
        let line = BadLine::to(&mut config, move |asked| (now.lock().unwrap())(asked)).await;
        let lab = with_bucket(Lab::new(), &config);
        let made = (0..3).map(|_| lab.json(&["backup", "media"])).collect();
        Self { lab, bucket, made, rule, line }
    }

    fn id(&self, n: usize) -> &str {
        self.made[n]["backup_id"].as_str().unwrap()
    }

    /// The key of an archive in the bucket.
    fn archive(&self, n: usize) -> String {
        key(&self.bucket, &self.made[n]["s3_uri"])
    }

    fn set(&self, rule: impl FnMut(&Asked) -> Line + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Every backup, the oldest first, with the states of its copies.
    fn listed(&self) -> Vec<(String, String)> {
        let listed = self.lab.json(&["list"])["backups"].as_array().unwrap().clone();
        let states = listed.iter().rev().map(|backup| {
            let copies = backup["destinations"].as_array().unwrap().iter();
            let copies =
                copies.map(|copy| format!("{} {}", text(&copy["destination"]), text(&copy["state"])));
            (text(&backup["backup_id"]).to_owned(), copies.collect::<Vec<_>>().join(", "))
        });
        states.collect()
    }

    fn restores(&self, n: usize) {
        let gel = self.lab.media().join("figures/gel.txt");
        let before = fs::read(&gel).unwrap();
        fs::write(&gel, "gone").unwrap();
        let report = self.lab.json(&["restore", "media", self.id(n), "--yes"]);
        assert_eq!(report["path"], self.made[n]["s3_uri"], "{report}");
        assert!(fs::read(&gel).unwrap() == before);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn is_many(asked: &Asked) -> bool {
    asked.method == "POST" && asked.target.ends_with("?delete")
}

/// What a report says under `locked` or `problems`: of which backup, and in which words.
fn told(report: &Value, what: &str) -> Vec<(String, String)> {
    let told = report[what].as_array().unwrap().iter();
    let parts = told.map(|problem| text(problem).split_once(": ").unwrap());
    parts.map(|(id, words)| (id.to_owned(), words.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reports_archives_that_are_locked_and_they_stay_backups() {
    let bench = Bench::new().await;
    // The manifests go; then the answer names both archives.
    let refused = [0, 1].map(|n| format!("<Error><Key>{}</Key>{LOCKED}</Error>", bench.archive(n)));
    let answer = Line::Say(200, format!("<DeleteResult>{}</DeleteResult>", refused.concat()));
    let mut times = 0;
    bench.set(move |asked| {
        times += usize::from(is_many(asked));
        if times == 2 && is_many(asked) { answer.clone() } else { Line::Good }
    });
    let worker = bench.lab.worker();
    let id = bench.lab.order(tasks::CLEANUP, json!({"retention_days": 0})).await;
    let result = bench.lab.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    let report = &result["result"];
    assert_eq!(report["deleted"], json!([bench.id(0), bench.id(1)]), "from the local disk: {report}");
    let found = told(report, "locked");
    assert_eq!((found.len(), &report["problems"]), (2, &json!([])), "{report}");
    for (n, (of, words)) in found.iter().enumerate() {
        let parts = ["delete archive", "keeps it locked", "WORM", "when its lock ends", &bench.archive(n)];
        assert!(of == bench.id(n) && parts.iter().all(|part| words.contains(part)), "{words}");
    }
    let (_, metrics) = worker.http("/metrics").await.unwrap();
    assert!(metrics.contains("rna_backup_retention_refused_total{reason=\"locked\"} 2\n"), "{metrics}");
    assert_eq!(worker.log().matches("retention cannot delete a backup").count(), 2, "{}", worker.log());
    assert_eq!(bench.line.count(is_many), 2, "all manifests at once, then all archives");

    let listed = [(0, "s3 ok"), (1, "s3 ok"), (2, "local ok, s3 ok")]
        .map(|(n, copies)| (bench.id(n).to_owned(), copies.to_owned()));
    assert_eq!(bench.listed(), listed);
    assert!(!path(&bench.made[0]).exists());
    bench.restores(0);
    bench.set(|_| Line::Good);
    let pruned = bench.lab.json(&["prune", "--retention-days", "0"]);
    assert_eq!(pruned["deleted"], json!([bench.id(0), bench.id(1)]), "{pruned}");
    assert_eq!(bench.bucket.objects().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_locked_keeps_no_other() {
    let bench = Bench::new().await;
    let locked = bench.archive(0);
    // A server that has no request for many objects says each by itself.
    bench.set(move |asked| match asked.method.as_str() {
        _ if is_many(asked) => Line::Say(501, "<Error><Code>NotImplemented</Code></Error>".to_owned()),
        "DELETE" if asked.target.contains(&locked) => Line::Say(400, format!("<Error>{LOCKED}</Error>")),
        _ => Line::Good,
    });
    let (code, out, err) = bench.lab.run(&["prune", "--retention-days", "0", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, told(&report, "locked").len(), &report["problems"]), (0, 1, &json!([])), "{report}");
    assert!(err.contains(&format!("locked: {}: delete archive", bench.id(0))), "{err}");
    let listed =
        [(0, "s3 ok"), (2, "local ok, s3 ok")].map(|(n, copies)| (bench.id(n).to_owned(), copies.to_owned()));
    assert_eq!(bench.listed(), listed);
    bench.restores(0);
    assert_eq!(bench.bucket.objects().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_may_delete_nothing_leave_the_bucket_as_it_is_and_the_local_disk_is_cleared() {
    let bench = Bench::new().await;
    let denied = "<Error><Code>AccessDenied</Code><Message>not authorized: s3:DeleteObject</Message></Error>";
    bench.set(move |asked| {
        let deletes = is_many(asked) || asked.method == "DELETE";
        if deletes { Line::Say(403, denied.to_owned()) } else { Line::Good }
    });
    let before = bench.bucket.objects().await;
    for round in 0..2 {
        let (code, out, _) = bench.lab.run(&["prune", "--retention-days", "0", "--json"]);
        let report: Value = serde_json::from_str(&out).unwrap();
        let found = told(&report, "problems");
        assert_eq!((code, found.len()), (1, 2), "{round}: {report}");
        assert!(found.iter().all(|(_, words)| words.contains("let these keys list, read, write and delete")));
        assert_eq!(report["deleted"].as_array().unwrap().len(), if round == 0 { 2 } else { 0 }, "{report}");
        let listed = [(0, "s3 ok"), (1, "s3 ok"), (2, "local ok, s3 ok")]
            .map(|(n, copies)| (bench.id(n).to_owned(), copies.to_owned()));
        assert_eq!(bench.listed(), listed, "{round}");
        assert_eq!(bench.bucket.objects().await, before, "{round}");
        assert_eq!(files(Path::new(&bench.lab.backups().join("media"))).len(), 1);
    }
}
