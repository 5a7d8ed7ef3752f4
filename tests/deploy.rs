//! The image and the compose file: what they promise to whoever runs them.

use crate::support::{lab::Lab, python::Python};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// An app's own compose file: its names are those that everybody takes.
const APP: &str = r#"
services:
  app: {image: "app:1", volumes: ["media:/app/media"]}
  beat: {image: "app:1"}
  redis: {image: "redis:6", volumes: ["redis:/data"]}
  postgres: {image: "postgres:15"}
  weaviate: {image: "weaviate:1", volumes: ["weaviate:/data"]}
  prometheus: {image: "prometheus:2"}
  grafana: {image: "grafana:9"}
volumes: {media: {}, redis: {}, weaviate: {}}
"#;

/// What compose makes of our file, beside an app's `.env`.
fn compose(profile: &[&str]) -> Value {
    composed(&[&root().join("compose.yaml")], profile)
}

/// What compose makes of files. It answers in YAML, which nobody here reads but Python.
fn composed(files: &[&Path], profile: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".env"), "REDIS_URL=redis://broker:6379/0\n").unwrap();
    fs::write(dir.path().join("docker-compose.yml"), APP).unwrap();
    let config = Command::new("docker-compose")
        .args(["--project-directory"])
        .arg(dir.path())
        .args(files.iter().flat_map(|file| [Path::new("--file"), file]))
        .args(profile)
        .arg("config")
        .current_dir(dir.path())
        .output()
        .expect("these tests need `docker-compose` on PATH");
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
    let worker = &compose(&[])["services"]["backup"];
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
    let mounted: Vec<_> =
        worker["volumes"].as_array().unwrap().iter().map(|volume| volume.as_str().unwrap()).collect();
    for (setting, folder) in
        [("MEDIA_ROOT", "/media"), ("BACKUP_ROOT", "/backups"), ("BACKUP_WEAVIATE_DIR", "/weaviate-backups")]
    {
        assert_eq!(worker["environment"][setting], folder);
        assert!(mounted.iter().any(|volume| volume.ends_with(&format!(":{folder}:rw"))), "{mounted:?}");
    }
}

#[test]
fn beside_an_app_nothing_of_the_app_is_changed() {
    let (app, ours) = (Path::new("docker-compose.yml"), root().join("compose.yaml"));
    let (before, with) = (composed(&[app], &[]), composed(&[app, &ours], &[]));
    for (name, service) in before["services"].as_object().unwrap() {
        assert_eq!(&with["services"][name], service, "{name}");
    }
    assert!(!with["services"]["backup"].is_null());
}

#[test]
fn the_demo_has_everything_and_starts_what_needs_something_after_it() {
    let services = &compose(&["--profile", "demo"])["services"];
    let all: Vec<_> = services.as_object().unwrap().keys().map(String::as_str).collect();
    for name in ["app", "beat", "redis", "postgres", "weaviate", "minio", "prometheus", "grafana"] {
        let name = format!("demo-{name}");
        assert!(all.contains(&name.as_str()), "{name} is not among {all:?}");
        let image = &services[&name]["image"];
        assert!(image.is_null() || image == "rna-backup" || image.as_str().unwrap().contains(':'), "{image}");
    }
    assert_eq!(services["demo-weaviate"]["environment"]["CLUSTER_HOSTNAME"], "node1");
    assert_eq!(services["demo-weaviate"]["image"], "cr.weaviate.io/semitechnologies/weaviate:1.26.1");
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
    for needed in ["backup", "demo-redis", "demo-postgres", "demo-weaviate"] {
        assert_eq!(services["demo-beat"]["depends_on"][needed]["condition"], "service_healthy", "{needed}");
    }
}

#[tokio::test]
async fn the_health_check_that_the_app_has_today_finds_the_worker_by_its_name() {
    let compose = compose(&["--profile", "demo"]);
    let services = &compose["services"];
    let name = services["backup"]["environment"]["BACKUP_WORKER_NAME"].as_str().unwrap();
    let check = services["demo-beat"]["healthcheck"]["test"].as_array().unwrap();
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
fn the_image_is_found_in_order_and_holds_what_the_program_calls() {
    let hadolint = root().join("target/venv/hadolint/bin/hadolint");
    let found = Command::new(&hadolint)
        .args(["Dockerfile", "tests/webapp/Dockerfile"])
        .current_dir(root())
        .output()
        .unwrap_or_else(|err| panic!("{}: {err}: run `make test` once", hadolint.display()));
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));

    let dockerfile = read("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().unwrap();
    for part in [
        "postgresql-client-${major}",
        "zstd",
        "tar",
        "ca-certificates",
        "USER 10001:10001",
        "STOPSIGNAL SIGTERM",
        r#"HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["rna-backup", "healthcheck"]"#,
        "org.opencontainers.image.licenses",
    ] {
        assert!(last.contains(part), "{part}");
    }
    let builds = dockerfile.matches("cargo build").count();
    assert_eq!(dockerfile.matches("cargo build --locked --release").count(), builds);
    // What the sources include lies in folders that the image is built from.
    for folder in ["src", "schemas", ".cargo"] {
        assert!(dockerfile.contains(&format!("COPY {folder} {folder}")), "{folder}");
        assert!(read(".dockerignore").contains(&format!("\n!{folder}\n")), "{folder}");
    }
    assert!(read(".dockerignore").lines().any(|line| line == "*"), "what is not named stays out");
}
