//! The image and the compose file: what they promise to whoever runs them.

use crate::support::{lab::Lab, python::Python};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// An app's own compose file, with the names that everybody takes, `backup` and `backups` among them.
const APP: &str = r#"
services:
  backup: {image: "backup:1", volumes: ["backups:/data"]}
  app: {image: "app:1", volumes: ["media:/app/media"]}
  beat: {image: "app:1"}
  redis: {image: "redis:6", volumes: ["redis:/data"]}
  postgres: {image: "postgres:15"}
  weaviate: {image: "weaviate:1", volumes: ["weaviate:/data"]}
  prometheus: {image: "prometheus:2"}
  grafana: {image: "grafana:9"}
volumes: {media: {}, redis: {}, weaviate: {}, backups: {}}
"#;

/// compose.yaml beside an app's own file.
fn compose() -> Value {
    composed(&[Path::new("docker-compose.yml"), &root().join("compose.yaml")])
}

/// The configuration that compose makes of files in an app's folder.
fn composed(files: &[&Path]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".env"), "REDIS_URL=redis://broker:6379/0\nMEDIA_VOLUME=media\n").unwrap();
    fs::write(dir.path().join("docker-compose.yml"), APP).unwrap();
    composed_in(dir.path(), files)
}

/// The configuration that compose makes of files in a folder. The answer is YAML, which Python reads.
fn composed_in(dir: &Path, files: &[&Path]) -> Value {
    let config = config_in(dir, files);
    assert!(config.status.success(), "{}", String::from_utf8_lossy(&config.stderr));
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), &config.stdout).unwrap();
    serde_json::from_slice(&python.wait_with_output().unwrap().stdout).unwrap()
}

fn config_in(dir: &Path, files: &[&Path]) -> Output {
    Command::new("docker-compose")
        .args(["--project-directory"])
        .arg(dir)
        .args(files.iter().flat_map(|file| [Path::new("--file"), file]))
        .arg("config")
        .current_dir(dir)
        .output()
        .expect("these tests need `docker-compose` on PATH")
}

/// The demo: the app in tests/webapp/ with the worker beside it, by the files that its own `.env` names.
fn demo() -> Value {
    let folder = root().join("tests/webapp");
    let settings = fs::read_to_string(folder.join(".env")).unwrap();
    let files = settings.lines().find_map(|line| line.strip_prefix("COMPOSE_FILE=")).unwrap();
    let files: Vec<_> = files.split(':').map(|file| folder.join(file)).collect();
    composed_in(&folder, &files.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

/// `1m0s` or `60s` in seconds.
fn seconds(value: &Value) -> u64 {
    let (mut total, mut number) = (0, 0);
    for c in value.as_str().unwrap().chars() {
        match c {
            'm' => (total, number) = (total + 60 * number, 0),
            's' => (total, number) = (total + number, 0),
            digit => number = 10 * number + u64::from(digit.to_digit(10).unwrap()),
        }
    }
    total
}

#[test]
fn the_worker_of_the_compose_file_has_what_it_needs_and_no_rights() {
    let worker = &compose()["services"]["rna-backup"];
    assert_eq!(worker["environment"]["REDIS_URL"], "redis://broker:6379/0", "it reads the app's .env");
    for (name, value) in [
        ("read_only", json!(true)),
        ("cap_drop", json!(["ALL"])),
        ("security_opt", json!(["no-new-privileges:true"])),
        ("user", json!("10001:10001")),
        ("init", json!(true)),
    ] {
        assert_eq!(worker[name], value, "{name}");
    }
    assert!(!worker["mem_limit"].is_null() && !worker["pids_limit"].is_null(), "{worker}");
    assert!(worker["ports"].is_null() && worker["privileged"].is_null(), "{worker}");
    let grace = 30 + 10; // BACKUP_SHUTDOWN_GRACE, and the last words
    assert!(seconds(&worker["stop_grace_period"]) > grace, "{worker}");
    let log = &worker["logging"]["options"];
    assert!(!log["max-size"].is_null() && !log["max-file"].is_null(), "logs have an end: {worker}");
    let mounted: Vec<_> =
        worker["volumes"].as_array().unwrap().iter().map(|volume| volume.as_str().unwrap()).collect();
    for (setting, folder) in [
        ("MEDIA_ROOT", "/app-media"),
        ("BACKUP_ROOT", "/backups"),
        ("BACKUP_WEAVIATE_DIR", "/weaviate-backups"),
    ] {
        assert_eq!(worker["environment"][setting], folder);
        assert!(mounted.iter().any(|volume| volume.ends_with(&format!(":{folder}:rw"))), "{mounted:?}");
    }
}

#[test]
fn beside_an_app_nothing_of_the_app_is_changed() {
    let (before, with) = (composed(&[Path::new("docker-compose.yml")]), compose());
    for kind in ["services", "volumes"] {
        for (name, was) in before[kind].as_object().unwrap() {
            assert_eq!(&with[kind][name], was, "{kind}: {name}");
        }
    }
    let shared = "a volume of the app's holds our backups";
    let mounted = with["services"]["rna-backup"]["volumes"].as_array().unwrap();
    assert!(
        !mounted.iter().any(|volume| volume.as_str().unwrap().starts_with("backups:")),
        "{shared}: {mounted:?}"
    );
}

#[test]
fn without_the_volume_of_the_media_compose_says_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".env"), "REDIS_URL=redis://broker:6379/0\n").unwrap();
    let config = config_in(dir.path(), &[&root().join("compose.yaml")]);
    let said = String::from_utf8_lossy(&config.stderr);
    assert!(!config.status.success() && said.contains("MEDIA_VOLUME"), "{said}");
}

#[test]
fn the_demo_has_everything_and_starts_what_needs_something_after_it() {
    let services = &demo()["services"];
    let all: Vec<_> = services.as_object().unwrap().keys().map(String::as_str).collect();
    for name in ["app", "beat", "redis", "postgres", "weaviate", "minio", "prometheus", "grafana"] {
        assert!(all.contains(&name), "{name} is not among {all:?}");
        let image = services[name]["image"].as_str().unwrap();
        assert!(image == "rna-demo-app" || image.contains(':'), "{image}");
    }
    assert_eq!(services["weaviate"]["environment"]["CLUSTER_HOSTNAME"], "node1");
    assert_eq!(services["weaviate"]["image"], "cr.weaviate.io/semitechnologies/weaviate:1.26.1");
    assert_eq!(
        services["weaviate"]["user"], services["rna-backup"]["user"],
        "each can remove the other's files"
    );
    for (name, service) in services.as_object().unwrap() {
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let waits = how["condition"].as_str().unwrap();
            let can = waits != "service_healthy" || !services[other]["healthcheck"].is_null();
            assert!(can, "{name} waits for {other} to get healthy, which nobody looks at");
        }
        // Where the host can be reached from outside, nothing of the demo can.
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
    for needed in ["rna-backup", "redis", "postgres", "weaviate"] {
        assert_eq!(services["beat"]["depends_on"][needed]["condition"], "service_healthy", "{needed}");
    }
}

#[tokio::test]
async fn the_health_check_that_the_app_has_today_finds_the_worker_by_its_name() {
    let demo = demo();
    let services = &demo["services"];
    let name = services["rna-backup"]["environment"]["BACKUP_WORKER_NAME"].as_str().unwrap();
    let check = services["beat"]["healthcheck"]["test"].as_array().unwrap();
    let check: Vec<_> = check.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(check[..2], ["CMD", "celery"]);

    let lab = Lab::new();
    let worker = lab.worker_named(name);
    worker.ready().await;
    let ask = async |name: &str| {
        let words = check[2..].iter().map(|word| if word.starts_with("backup@") { name } else { word });
        let mut celery = Python::celery_5_3().set("REDIS_URL", &lab.celery_url()).command();
        let asked = celery.args(["-m", "celery"]).args(words).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::time::timeout(Duration::from_mins(1), asked.status()).await.unwrap().unwrap().success()
    };
    assert!(check.contains(&name), "{check:?}");
    assert!(ask(name).await, "{}", worker.log());
    assert!(!ask("backup@nobody").await);
}

#[test]
fn the_image_is_found_in_order_and_built_from_what_is_named() {
    let hadolint = root().join("target/venv/hadolint/bin/hadolint");
    let found = Command::new(&hadolint)
        .args(["Dockerfile", "tests/webapp/Dockerfile"])
        .current_dir(root())
        .output()
        .unwrap_or_else(|err| panic!("{}: {err}: run `make test` once", hadolint.display()));
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));

    let dockerfile = read("Dockerfile");
    assert!(!dockerfile.contains("# syntax="), "a syntax line is fetched from a registry");
    let builds = dockerfile.matches("cargo build").count();
    assert_eq!(dockerfile.matches("cargo build --locked --profile \"${PROFILE}\"").count(), builds);
    // What the sources include lies in folders that the image is built from.
    for folder in ["src", "crates", "schemas", ".cargo"] {
        assert!(dockerfile.contains(&format!("COPY {folder} {folder}")), "{folder}");
        assert!(read(".dockerignore").contains(&format!("\n!{folder}\n")), "{folder}");
    }
    assert!(read(".dockerignore").lines().any(|line| line == "*"), "what is not named stays out");
}
