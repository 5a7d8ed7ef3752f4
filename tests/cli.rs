//! The commands as a person at a terminal meets them: the real program, its two streams, its exit status.

use crate::{
    schemas::validates,
    support::{
        lab::{Lab, files, unfinished},
        postgres::{PASSWORD, PostgresServer},
        tree,
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The lab with a database of its own on the shared server.
fn with_postgres(database: &str) -> (Lab, String) {
    let server = PostgresServer::shared();
    let database = server.database(database, "");
    server.psql(&database, "CREATE TABLE paper (id int); INSERT INTO paper SELECT generate_series(1, 300)");
    let config = server.config(&database);
    let lab = Lab::new().set("POSTGRES_HOST", &config.host).set("POSTGRES_PORT", config.port);
    (lab.set("POSTGRES_DB", &database).set("POSTGRES_PASSWORD", PASSWORD), database)
}

/// Runs shell commands one after the other; they must succeed.
pub fn shell(dir: &Path, commands: &Value, envs: &[(&str, &str)]) -> String {
    let lines: Vec<&str> = commands.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let mut path = PostgresServer::bin_dir().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let out = Command::new("sh")
        .args(["-ec", &lines.join("\n")])
        .current_dir(dir)
        .env("PATH", path)
        .envs(envs.iter().copied())
        .output()
        .unwrap();
    assert!(out.status.success(), "{lines:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn a_backup_by_hand_says_in_two_lines_what_it_made_and_nothing_else() {
    let lab = Lab::new().set("RUST_LOG", "");
    let (code, out, err) = lab.run(&["backup", "media", "--label", "before upgrade", "--pin"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    let manifest = &lab.manifests("media")[0];
    let id = manifest["backup_id"].as_str().unwrap();
    assert!(lines[0].starts_with(&format!("{id}: ")) && lines[0].contains(" of data, stored "), "{out}");
    assert!(Path::new(lines[1].trim()).is_file(), "{out}");
    assert_eq!((&manifest["label"], &manifest["pinned"]), (&json!("before upgrade"), &json!(true)));
    assert_eq!(manifest["task_id"], Value::Null);

    let report = lab.json(&["backup", "media"]);
    validates("result-backup", &report);
    assert!(unfinished(&lab.backups()).is_empty());
}

#[tokio::test]
async fn the_list_shows_what_there_is_newest_first() {
    let lab = Lab::new().set("RUST_LOG", "");
    let place = lab.backups();
    let place = place.display();
    for command in [&["list"][..], &["show", "latest"], &["prune"]] {
        let (code, out, err) = lab.run(command);
        assert_eq!((code, out.as_str()), (3, ""), "{command:?}");
        assert!(err.contains(&format!("{place} (BACKUP_ROOT) does not exist\nhint: mount it")), "{err}");
        assert!(!lab.backups().exists(), "looking makes no folder");
    }
    fs::create_dir(lab.backups()).unwrap();
    let (code, out, err) = lab.run(&["list"]);
    assert_eq!((code, out.as_str()), (0, ""));
    let empty = format!("there are no backups in {place} (BACKUP_ROOT)\n");
    assert_eq!(err, empty, "whoever looks in the wrong folder sees that they do");
    assert_eq!(lab.json(&["list"]), json!({"backups": []}));

    lab.json(&["backup", "media", "--label", "first", "--pin"]);
    let second = lab.json(&["backup", "media"]);
    let listed = lab.json(&["list", "media"]);
    validates("list", &listed);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2);
    assert_eq!(listed["backups"][0]["backup_id"], second["backup_id"]);
    assert_eq!(lab.json(&["list", "postgres"]), json!({"backups": []}));

    let (code, out, err) = lab.run(&["list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("BACKUP ") && lines[0].ends_with("LABEL"), "{out}");
    assert!(lines[1].starts_with(second["backup_id"].as_str().unwrap()), "{out}");
    assert!(lines[2].ends_with("ok     local  first (pinned)"), "{out}");
    let column = lines[0].find("VERIFIED").unwrap();
    assert!(lines[1..].iter().all(|line| line[column..].starts_with("decode")), "{out}");
}

#[tokio::test]
async fn all_backs_up_every_configured_component_as_one_set() {
    let (lab, database) = with_postgres("cli all");
    let report = lab.json(&["backup", "all", "--label", "weekly"]);
    validates("backup-all", &report);
    for component in ["postgres", "media"] {
        let result = &report["results"][component];
        validates("result-backup", result);
        assert_eq!((&result["set_id"], &result["label"]), (&report["set_id"], &json!("weekly")));
    }
    assert_eq!(report["results"]["postgres"]["database"], json!(database));
    let (code, out, _) = lab.run(&["backup", "all"]);
    assert_eq!((code, out.lines().count()), (0, 4), "{out}");
}

#[tokio::test]
async fn one_failing_component_does_not_keep_the_others_from_being_saved() {
    // Nobody listens on port 1.
    let lab = Lab::new().set("POSTGRES_HOST", "127.0.0.1").set("POSTGRES_PORT", 1);
    let lab = lab.set("WEAVIATE_URL", "http://127.0.0.1:1").set("RUST_LOG", "");
    let (code, out, err) = lab.run(&["backup", "all", "--json"]);
    assert_eq!(code, 1, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    validates("backup-all", &report);
    validates("result-backup", &report["results"]["media"]);
    assert_eq!(report["results"]["postgres"]["status"], "failed");
    assert_eq!(err.lines().filter(|line| line.starts_with("error: ")).count(), 2, "{err}");
    assert!(
        err.contains("connect to PostgreSQL 127.0.0.1:1/")
            && err.contains("ask Weaviate at 127.0.0.1:1 who it is")
    );
    assert_eq!((lab.manifests("media").len(), lab.manifests("postgres").len()), (1, 0));
}

#[tokio::test]
async fn show_tells_all_and_its_commands_open_the_archives_without_us() {
    let (lab, database) = with_postgres("cli show");
    let server = PostgresServer::shared();
    server.psql(&database, "CREATE ROLE \"o'wner\" LOGIN; ALTER TABLE paper OWNER TO \"o'wner\"");
    lab.json(&["backup", "all", "--label", "it's mine"]);

    let shown = lab.json(&["show", "latest", "--component", "media"]);
    validates("show", &shown);
    validates("list", &json!({"backups": [shown["backup"]]}));
    validates("manifest", &shown["manifest"]);
    let dir = lab.path("a 'new' machine");
    fs::create_dir(&dir).unwrap();
    shell(&dir, &shown["open_with"], &[]);
    assert_eq!(tree::look(&dir.join("restored")), tree::look(&lab.media()));

    let shown = lab.json(&["show", "postgres"]);
    validates("show", &shown);
    // As on a new machine, the role is not there any more.
    server.psql("postgres", "ALTER ROLE \"o'wner\" RENAME TO \"former o'wner\"");
    let port = server.config(&database).port.to_string();
    let envs = [("PGHOST", server.socket_dir().to_str().unwrap()), ("PGPORT", &port), ("PGUSER", "postgres")];
    let listing = shell(&dir, &shown["open_with"], &envs);
    assert!(listing.contains("TABLE DATA public paper"), "{listing}");
    assert_eq!(server.psql("restored", "SELECT count(*) FROM paper"), "300");
    assert_eq!(
        server.psql("restored", "SELECT relowner::regrole FROM pg_class WHERE relname = 'paper'"),
        "\"o'wner\""
    );

    // By every name that it has, and for people.
    let (id, path) = (&shown["backup"]["backup_id"], &shown["backup"]["destinations"][0]["location"]);
    let path = path.as_str().unwrap();
    for name in [id.as_str().unwrap(), path, Path::new(path).file_name().unwrap().to_str().unwrap()] {
        let (code, out, err) = lab.run(&["show", name]);
        assert_eq!(code, 0, "{name}: {err}");
        for part in [
            "label      it's mine",
            "tables     1, with 300 rows in all",
            " special owners or privileges\n",
            " | pg_restore --list\n",
        ] {
            assert!(out.contains(part), "{part:?} is not in\n{out}");
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_or_must_not_be_looked_at_is_told_apart() {
    let lab = Lab::new();
    fs::create_dir(lab.backups()).unwrap();
    for (name, status) in [
        ("latest", 3),
        ("media", 3),
        ("media_backup_20200101_000000", 3),
        ("nonsense", 3),
        ("/etc/passwd", 2),
        ("../../etc/passwd", 2),
        ("s3://bucket/media/x", 2),
        ("", 2),
    ] {
        let (code, out, err) = lab.run(&["show", name]);
        assert_eq!((code, out.as_str()), (status, ""), "{name}: {err}");
        assert!(err.starts_with("error: find backup ") && err.contains("`rna-backup list`"), "{err}");
    }
}

#[tokio::test]
async fn the_files_of_the_apps_old_tasks_are_listed_and_opened() {
    let (lab, database) = with_postgres("cli legacy");
    let root = lab.backups();
    for folder in ["postgres", "media", "weaviate/weaviate_backup_20240101_030000/node1"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let server = PostgresServer::shared();
    let dump = server.run("pg_dump", &database, &["-Fc"], b"").stdout;
    fs::write(root.join("postgres/pg_backup_20240101_020000.sql"), dump).unwrap();
    let archive = root.join("media/media_backup_20240101_040000.tar.gz");
    let mut tar = Command::new("tar");
    assert!(tar.arg("-czf").arg(&archive).arg("-C").arg(lab.media()).arg(".").status().unwrap().success());
    fs::write(root.join("weaviate/weaviate_backup_20240101_030000/node1/a"), "x").unwrap();

    let listed = lab.json(&["list"]);
    validates("list", &listed);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 3);
    for (name, wanted) in [
        ("pg_backup_20240101_020000", "TABLE DATA public paper"),
        ("media_backup_20240101_040000", "figures/gel.txt"),
        ("weaviate_backup_20240101_030000", "node1"),
    ] {
        let shown = lab.json(&["show", name]);
        validates("show", &shown);
        let listing = shell(&root, &json!([shown["open_with"][0]]), &[]);
        assert!(listing.contains(wanted), "{name}: {listing}");
    }
    let pruned = lab.json(&["prune", "--retention-days", "0"]);
    assert_eq!(pruned["deleted"], json!([]), "what rna-backup did not make is not its to delete");
    let (_, out, _) = lab.run(&["show", "pg_backup_20240101_020000"]);
    assert!(out.contains("made by    the app's old tasks"), "{out}");
}

#[tokio::test]
async fn prune_does_what_its_dry_run_says() {
    let lab = Lab::new().set("RUST_LOG", "");
    let pinned = lab.json(&["backup", "media", "--pin"]);
    let old = lab.json(&["backup", "media"]);
    let newest = lab.json(&["backup", "media"]);
    let id = |report: &Value| report["backup_id"].as_str().unwrap().to_owned();
    let prune = ["prune", "--component", "media", "--retention-days", "0"];
    let (code, out, err) = lab.run(&[&prune[..], &["--dry-run"]].concat());
    let plan = format!(
        "would delete {}\nwould keep {} (newest verified)\nwould keep {} (pinned)\n",
        id(&old),
        id(&newest),
        id(&pinned)
    );
    assert_eq!((code, out, err.as_str()), (0, plan.clone(), ""));
    assert_eq!(lab.manifests("media").len(), 3);
    let report = lab.json(&[&prune[..], &["--dry-run"]].concat());
    validates("result-prune", &report);
    let (code, out, _) = lab.run(&prune);
    assert_eq!((code, out), (0, plan.replace("would delete", "deleted").replace("would keep", "kept")));
    assert_eq!(files(&lab.backups().join("media")).len(), 2);
}

#[tokio::test]
async fn a_reader_that_has_read_enough_is_no_failure() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    for (args, log) in [(&["list"][..], ""), (&["list", "--json"], ""), (&["backup", "media"], "debug")] {
        // Both streams go to a pipe that nobody reads any more.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = lab.program(args);
        command.env("RUST_LOG", log).stdout(writer.try_clone().unwrap()).stderr(writer);
        assert_eq!(command.status().unwrap().code(), Some(0), "{args:?}");
    }
    assert_eq!(lab.manifests("media").len(), 2, "the backup was made all the same");

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let out = lab.program(&["list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "a full disk is");
    assert!(String::from_utf8(out.stderr).unwrap().starts_with("error: write to standard output: "));
}

#[tokio::test]
async fn a_progress_bar_is_for_terminals_alone() {
    let lab = Lab::new().set("RUST_LOG", "");
    let program = env!("CARGO_BIN_EXE_rna-backup");
    let mut on_terminal = Command::new("script");
    on_terminal.args(["-qec", &format!("{program} backup media"), "/dev/null"]);
    let ours = lab.program(&[]);
    let settings = ours.get_envs().filter_map(|(name, value)| Some((name, value?)));
    on_terminal.env_clear().envs(settings).env("TERM", "xterm").stdin(Stdio::null());
    let shown = String::from_utf8(on_terminal.output().unwrap().stdout).unwrap();
    assert!(shown.contains("media") && shown.contains('░') && shown.contains("\x1b["), "{shown:?}");
    let (code, out, err) = lab.run(&["backup", "media"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!out.contains('\x1b') && !out.contains('░'));
}

#[tokio::test]
async fn every_command_explains_itself() {
    let lab = Lab::new();
    let (code, help, _) = lab.run(&["--help"]);
    assert_eq!(code, 0);
    for part in ["Exit status:", "On a bad day:", "rna-backup check"] {
        assert!(help.contains(part), "{help}");
    }
    for command in ["worker", "backup", "list", "show", "prune", "check", "healthcheck"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let (code, help, _) = lab.run(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(help.contains(&format!("Usage: rna-backup {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[tokio::test]
async fn a_cut_or_lost_archive_is_said_where_people_look() {
    let lab = Lab::new();
    let (cut, gone) = (lab.json(&["backup", "media"]), lab.json(&["backup", "media"]));
    let of = |report: &Value, key: &str| report[key].as_str().unwrap().to_owned();
    fs::File::options().write(true).open(of(&cut, "path")).unwrap().set_len(100).unwrap();
    fs::remove_file(of(&gone, "path")).unwrap();
    let listed = lab.json(&["list"]);
    assert_eq!(
        (&listed["backups"][0]["state"], &listed["backups"][1]["state"]),
        (&json!("missing"), &json!("failed"))
    );
    let (_, out, _) = lab.run(&["show", &of(&cut, "backup_id")]);
    assert!(out.contains("warning    the archive is longer or shorter than it was"), "{out}");
    let (_, out, _) = lab.run(&["show", &of(&gone, "backup_id")]);
    assert!(out.contains("it cannot be opened: its archive is gone") && !out.contains("tar -xp"), "{out}");
    assert_eq!(lab.json(&["show", &of(&gone, "backup_id")])["open_with"], json!([]));
    assert_eq!(lab.run(&["show", "latest"]).0, 3, "neither will do for a restore");
}

#[test]
fn a_shell_learns_the_commands_without_any_settings() {
    let script = std::process::Command::new(env!("CARGO_BIN_EXE_rna-backup"))
        .args(["completions", "bash"])
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8(script.stdout).unwrap();
    assert!(script.status.success() && text.contains("restore") && text.contains("--dry-run"), "{text}");
}
