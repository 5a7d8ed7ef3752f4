//! What people watch: metrics, the rules over them, the dashboard.

use crate::catalog_rebuild::with_bucket;
use crate::support::{
    lab::{Lab, Worker, eventually},
    prometheus::{Prometheus, monitoring},
    s3::S3Server,
};
use rna_backup::domain::command::task;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

/// Everything that a file of this project says.
fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A worker that has done a bit of everything: a backup to two destinations, a drill, a failure.
async fn experienced() -> (Lab, Worker) {
    let bucket = S3Server::shared().bucket().await;
    let lab = with_bucket(Lab::new(), &bucket).set("BACKUP_MAX_RETRIES", 0);
    let worker = lab.worker();
    for (task, kwargs, status) in [
        (task::BACKUP_MEDIA, json!({}), "SUCCESS"),
        (task::VERIFY, json!({"component": "media", "drill": true}), "SUCCESS"),
        (task::BACKUP_POSTGRES, json!({}), "FAILURE"),
    ] {
        assert_eq!(lab.ended(&lab.order(task, kwargs).await).await["status"], status, "{}", worker.log());
    }
    worker.ready().await;
    (lab, worker)
}

/// The families of a scrape: name, type, labels.
fn families(scrape: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut name = String::new();
    for line in scrape.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (of, kind) = kind.split_once(' ').unwrap();
            of.clone_into(&mut name);
            families.insert(name.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels =
                labels.rsplit_once('}').unwrap().0.split(',').map(|label| label.split_once('=').unwrap().0);
            let own = labels.filter(|label| *label != "le").map(str::to_owned);
            families.get_mut(&name).unwrap().1.extend(own);
        }
    }
    families
}

/// The rows of the tables in the page about metrics, as [`families`].
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
        let (name, kind, labels) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
        let labels = labels
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(|label| label.trim_matches('`').to_owned());
        (name.to_owned(), (kind.to_owned(), labels.collect()))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_metrics_are_those_of_the_page_about_them_and_promtool_finds_no_fault() {
    let (_lab, worker) = experienced().await;
    let (_, scrape) = worker.http("/metrics").await.unwrap();
    let (exported, documented) = (families(&scrape), documented());
    assert_eq!(exported, documented, "docs/metrics.md is not what a worker exports");

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests need `promtool` on PATH");
    promtool.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

#[test]
fn each_rule_fires_on_its_failure_and_none_in_a_healthy_week() {
    let tested = Command::new("promtool")
        .args(["test", "rules", "alerts_test.yml"])
        .current_dir(monitoring())
        .output()
        .expect("these tests need `promtool` on PATH");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
}

/// The anchor that GitHub and others make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[tokio::test]
async fn a_backup_that_breaks_is_seen_in_prometheus_until_it_is_mended() {
    let (lab, worker) = experienced().await;
    let prometheus = Prometheus::of(&worker).await;
    each_rule_is_tested_and_leads_to_its_runbook(&prometheus.rules().await);
    each_panel_shows_something(&prometheus, &worker.http("/metrics").await.unwrap().1).await;

    let of_media = |alerts: Vec<Value>| alerts.iter().any(|alert| alert["labels"]["component"] == "media");
    let fires = async || of_media(prometheus.firing("BackupFailed").await);
    assert!(!fires().await);
    let aside = lab.path("unmounted");
    fs::rename(lab.media(), &aside).unwrap();
    let broken = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(broken["status"], "FAILURE");
    assert!(eventually(fires).await, "nobody is told of a backup that fails");

    fs::rename(&aside, lab.media()).unwrap();
    let mended = lab.ended(&lab.order(task::BACKUP_MEDIA, json!({})).await).await;
    assert_eq!(mended["status"], "SUCCESS", "{mended}");
    assert!(eventually(async || !fires().await).await, "the alert stays");
}

fn each_rule_is_tested_and_leads_to_its_runbook(rules: &[Value]) {
    let (tests, runbooks) = (read("monitoring/alerts_test.yml"), read("docs/alerts.md"));
    let headings =
        runbooks.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchors: BTreeSet<_> = headings.map(anchor).collect();
    assert!(rules.len() > 20, "the rules are loaded");
    for rule in rules {
        let name = rule["name"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n")), "no test sees {name} fire");
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap();
        let place = runbook.strip_prefix("docs/alerts.md#").unwrap();
        assert!(anchors.contains(place), "{name} leads to {runbook}, which is not there");
    }
}

/// The expressions of the panels and annotations of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// What is empty on a good day, or needs more than a minute of history.
const MAY_BE_EMPTY: [&str; 3] = [") > 0", "changes(", "[1d]"];

async fn each_panel_shows_something(prometheus: &Prometheus, scrape: &str) {
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "the dashboard has expressions");
    let exported = families(scrape);
    for expression in found {
        for name in expression
            .split(|c: char| c != '_' && !c.is_alphanumeric())
            .filter(|word| word.contains("rna_backup_"))
        {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let known =
                exported.contains_key(name) || family.is_some_and(|family| exported.contains_key(family));
            assert!(known, "{name}, which no worker exports, in {expression}");
        }
        let concrete = expression.replace("$__rate_interval", "1m");
        if MAY_BE_EMPTY.iter().any(|part| expression.contains(part)) {
            prometheus.query(&concrete).await;
        } else {
            let shown = eventually(async || !prometheus.query(&concrete).await.is_empty());
            assert!(shown.await, "nothing is shown by {expression}");
        }
    }
}

#[tokio::test]
async fn a_restart_neither_clears_nor_makes_what_alerts_look_at() {
    let lab = Lab::new().set("BACKUP_MAX_RETRIES", 0);
    let worker = lab.worker();
    let order = async |task, kwargs| lab.ended(&lab.order(task, kwargs).await).await;
    assert_eq!(order(task::BACKUP_MEDIA, json!({})).await["status"], "SUCCESS");
    assert_eq!(order(task::VERIFY, json!({"drill": true})).await["status"], "SUCCESS");
    fs::rename(lab.media(), lab.path("unmounted")).unwrap();
    assert_eq!(order(task::BACKUP_MEDIA, json!({})).await["status"], "FAILURE");
    worker.ready().await;
    worker
        .shows(r#"rna_backup_catalog_backups{component="media",destination="local",state="verified"} 1"#)
        .await;
    let lasting = async |worker: &Worker| {
        let (_, scrape) = worker.http("/metrics").await.unwrap();
        let lasting = ["_last_", "_anomaly", "_mismatches", "_catalog_", "_destination_up"];
        let is_lasting =
            |line: &&str| lasting.iter().any(|part| line.contains(part)) && !line.contains("_poll_");
        scrape.lines().filter(is_lasting).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = lasting(&worker).await;
    assert!(before.contains(&r#"rna_backup_last_status{component="media"} 0"#.to_owned()), "{before:?}");
    assert_eq!(worker.stop(), Some(0));
    let worker = lab.worker();
    worker.ready().await;
    assert_eq!(lasting(&worker).await, before);

    // That a backup has stood a drill is known also when retention has taken it.
    assert_eq!(worker.stop(), Some(0));
    fs::remove_dir_all(lab.backups().join("manifests")).unwrap();
    let worker = lab.worker();
    worker.ready().await;
    let drilled = before.iter().find(|line| line.contains(r#"level="drill""#)).expect("there was a drill");
    assert!(lasting(&worker).await.contains(drilled), "{drilled}");
}
