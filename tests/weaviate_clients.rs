//! The double of a Weaviate server is honest: the official Python clients can work with it, and its own tests
//! hold.

use crate::support::weaviate::{Start, Weaviate};
use serde_json::Value;
use std::{path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Creates, fills, backs up, deletes and restores a class by a client; what it saw.
fn drive(environment: &str, server: &Weaviate) -> Value {
    let python = root().join(format!("target/venv/{environment}/bin/python"));
    let out = Command::new(python)
        .arg(root().join("tests/support/weaviate_client.py"))
        .args(["--url", &server.url(), "--id", "lab-1"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("the environment is made by `make test`");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn the_apps_own_client_drives_it_through_a_backup_and_a_restore() {
    for version in ["1.22.4", "1.26.1"] {
        let seen = drive("weaviate-3", &Start::version(version).start());
        assert_eq!(seen["count_after"], seen["count_before"], "{version}: {seen}");
    }
}

#[test]
fn the_newest_client_does_so_with_newer_servers() {
    for version in ["1.31.5", "1.39.0"] {
        let seen = drive("weaviate-newest", &Start::version(version).start());
        assert_eq!(seen["count_after"], seen["count_before"], "{version}: {seen}");
    }
}

#[test]
fn each_promise_of_the_double_is_kept() {
    let out = Command::new("/usr/bin/python3")
        .arg(root().join("tests/support/weaviate/selftest.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("Ran 0 tests"), "{said}");
}
