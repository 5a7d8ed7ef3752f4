use super::*;
use std::{fs, num::NonZeroUsize, os::unix::ffi::OsStringExt as _};

fn env<const N: usize>(vars: [(&str, &str); N]) -> Env {
    let mut env = Env::new(vars);
    env.know(&[open("BACKUP_LOCAL"), open("BACKUP_MIN_FREE")]);
    env
}

fn names(err: &ConfigError) -> Vec<&str> {
    err.problems.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn values_are_read_and_defaults_stand_in() {
    let mut env = env([
        ("BACKUP_CONCURRENCY", " 4 "),
        ("BACKUP_RETRY_DELAY", "90s"),
        ("BACKUP_MIN_FREE", "2GiB"),
        ("BACKUP_QUEUES", "backups, urgent,,"),
        ("BACKUP_ROOT", ""),
    ]);
    assert_eq!(env.or("BACKUP_CONCURRENCY", 2), 4);
    assert_eq!(env.or("BACKUP_MAX_RETRIES", 3), 3);
    assert_eq!(env.duration("BACKUP_RETRY_DELAY", Duration::ZERO), Duration::from_secs(90));
    assert_eq!(env.duration("BACKUP_SHUTDOWN_GRACE", Duration::from_secs(30)), Duration::from_secs(30));
    assert_eq!(env.bytes("BACKUP_MIN_FREE", 0), 2 << 30);
    assert_eq!(env.list::<String>("BACKUP_QUEUES").unwrap(), ["backups", "urgent"]);
    assert_eq!(env.list::<String>("BACKUP_COMPONENTS"), None);
    assert_eq!(env.optional::<String>("BACKUP_ROOT"), None, "empty means unset");
    assert!(!env.is_set("BACKUP_ROOT") && env.is_set("BACKUP_QUEUES"));
    assert_eq!(env.finish(Some(7)), Ok((7, vec![])));
}

#[test]
fn a_flag_is_what_django_people_write() {
    for (text, is) in [("True", true), ("1", true), ("YES", true), ("on", true)].into_iter().chain([
        ("False", false),
        ("0", false),
        ("no", false),
        ("Off", false),
    ]) {
        assert_eq!(env([("BACKUP_LOCAL", text)]).flag("BACKUP_LOCAL", !is), is, "{text}");
    }
    assert!(env([("BACKUP_LOCAL", "")]).flag("BACKUP_LOCAL", true));
    let mut env = env([("BACKUP_LOCAL", "maybe")]);
    assert!(env.flag("BACKUP_LOCAL", true));
    assert_eq!(names(&env.finish(Some(())).unwrap_err()), ["BACKUP_LOCAL"]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_reading() {
    let mut env = env([("BACKUP_CONCURRENCY", "0"), ("BACKUP_RETRY_DELAY", "soon"), ("BACKUP_QUEUES", "b")]);
    env.or("BACKUP_CONCURRENCY", NonZeroUsize::MIN);
    env.duration("BACKUP_RETRY_DELAY", Duration::ZERO);
    env.duration("BACKUP_RETRY_DELAY", Duration::ZERO);
    env.list::<u32>("BACKUP_QUEUES");
    let err = env.finish(Some(())).unwrap_err();
    assert_eq!(
        err.to_string(),
        "3 settings need attention\
         \n  BACKUP_CONCURRENCY: number would be zero for non-zero type\
         \n  BACKUP_RETRY_DELAY: is not a duration such as 30s, 5m, 1h or 7d\
         \n  BACKUP_QUEUES: item 1: invalid digit found in string"
    );
}

#[test]
fn an_unknown_name_of_ours_is_a_warning_with_the_nearest_known_one() {
    let env = env([
        ("BACKUP_QEUES", "x"),
        ("BACKUP_RETENTION_DAY", "x"),
        ("BACKUP_COLOUR", "x"),
        ("BACKUP_RESTORE_KEY_FILE", "x"),
        ("BACKUP_AGE_IDENTITY_FILE", "x"),
        ("POSTGRES_DBB", "x"),
        ("BACKUP_USER", "1000:1000"), // of the compose file
        ("PATH", "x"),
    ]);
    let ((), warnings) = env.finish(Some(())).unwrap();
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "BACKUP_COLOUR: is not a known setting",
            "BACKUP_QEUES: is not a known setting: did you mean BACKUP_QUEUES?",
            "BACKUP_RETENTION_DAY: is not a known setting: did you mean BACKUP_RETENTION_DAYS?",
        ]
    );
}

#[test]
fn a_secret_comes_from_the_variable_or_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let read = |value: &str, path: &str| {
        let mut env = env([("POSTGRES_PASSWORD", value), ("POSTGRES_PASSWORD_FILE", path)]);
        let secret = env.secret("POSTGRES_PASSWORD").map(|s| s.expose_secret().to_owned());
        let problems = env.finish(Some(())).err().map(|err| err.to_string());
        (secret, problems)
    };
    let some = |text: &str| (Some(text.to_owned()), None);
    assert_eq!(read("", ""), (None, None));
    assert_eq!(read(" s3cret ", ""), some(" s3cret "), "a secret is taken as it is");
    assert_eq!(read("", &file("lf", b"a b\n")), some("a b"));
    assert_eq!(read("", &file("crlf", b"a b \r\n")), some("a b "));
    assert_eq!(read("", &file("bare", b"a\nb")), some("a\nb"));
    for (value, path, name) in [
        ("x", file("both", b"y"), "POSTGRES_PASSWORD: is set, and POSTGRES_PASSWORD_FILE as well"),
        ("", "/nowhere/at/all".to_owned(), "POSTGRES_PASSWORD_FILE: names a file that cannot be read"),
        ("", dir.path().to_str().unwrap().to_owned(), "POSTGRES_PASSWORD_FILE: names a file that cannot"),
        ("", file("empty", b"\n"), "POSTGRES_PASSWORD_FILE: names an empty file: /"),
        ("", file("latin", b"caf\xe9"), "POSTGRES_PASSWORD_FILE: names a file that is not UTF-8"),
        ("", file("large", &vec![b'x'; 70_000]), "POSTGRES_PASSWORD_FILE: names a file of more than 64 KiB"),
    ] {
        let (secret, problems) = read(value, &path);
        assert!(secret.is_none() && problems.as_ref().unwrap().contains(name), "{problems:?}");
    }
}

#[test]
fn the_file_of_a_secret_that_cannot_be_read_is_named_unless_it_may_be_the_secret() {
    let why = |path: &str| {
        let mut env = env([("POSTGRES_PASSWORD_FILE", path)]);
        assert!(env.secret("POSTGRES_PASSWORD").is_none());
        env.finish(Some(())).unwrap_err().to_string()
    };
    let missing = why("/run/secrets/not-there");
    assert!(missing.contains("/run/secrets/not-there does not exist; this process is "), "{missing}");
    let folder = why("/proc/self");
    assert!(
        folder.contains("/proc/self is a folder; this process is ") && folder.contains("mount a file there")
    );
    for pasted in ["hunter2-value", "/hunter2-value", "/ab/hunter2+value==", "x/hunter2-value"] {
        assert!(!why(pasted).contains("hunter2"), "{}", why(pasted));
    }
}

#[test]
fn a_value_in_quotation_marks_is_a_warning_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    fs::write(&file, "'hunter2'\n").unwrap();
    let mut env = env([
        ("POSTGRES_PASSWORD", "\"hunter2\""),
        ("MEDIA_ROOT", "'/media'"),
        ("WEAVIATE_API_KEY", "hunter\"2\""),
        ("BACKUP_RESTORE_KEY_FILE", file.to_str().unwrap()),
        ("ELSE", "'x'"),
        ("REDIS_URL", "'"),
    ]);
    assert_eq!(
        env.secret("BACKUP_RESTORE_KEY").unwrap().expose_secret(),
        "'hunter2'",
        "it is taken as it is"
    );
    let ((), warnings) = env.finish(Some(())).unwrap();
    let names: Vec<_> = warnings.iter().map(|warning| warning.name.as_str()).collect();
    assert_eq!(names, ["MEDIA_ROOT", "POSTGRES_PASSWORD", "BACKUP_RESTORE_KEY_FILE"]);
    assert!(warnings.iter().all(|warning| warning.why.contains("a quotation mark")), "{warnings:?}");
    assert!(!format!("{warnings:?}").contains("hunter2"), "{warnings:?}");
}

#[test]
fn a_setting_that_is_not_utf8_is_a_problem_and_anything_else_is_left_out() {
    let bad = || OsString::from_vec(vec![0xff]);
    let env = Env::from_os([
        ("MEDIA_ROOT".into(), bad()),
        ("ELSE".into(), bad()),
        (bad(), "x".into()),
        ("BACKUP_ROOT".into(), "/b".into()),
    ]);
    assert!(env.is_set("BACKUP_ROOT"));
    assert_eq!(names(&env.finish(Some(())).unwrap_err()), ["MEDIA_ROOT"]);
}

#[test]
fn no_value_is_ever_shown() {
    /// An error that quotes what it was given, as those of many crates do.
    struct Quoting;
    impl FromStr for Quoting {
        type Err = String;
        fn from_str(text: &str) -> Result<Self, String> {
            Err(format!("cannot parse {text:?}"))
        }
    }
    const VALUE: &str = "hunter2-value";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, [VALUE.as_bytes(), b"\xff"].concat()).unwrap();
    let unknown = [("BACKUP_PASSWROD".to_owned(), VALUE.to_owned())];
    let known = KNOWN.iter().map(|s| (s.name.to_owned(), VALUE.to_owned()));
    let files = [("POSTGRES_PASSWORD_FILE".to_owned(), file.to_str().unwrap().to_owned())];
    let mut env = Env::new(known.chain(unknown).chain(files));
    let mut shown = vec![format!("{env:?}")];
    for setting in KNOWN {
        if setting.secret {
            shown.push(format!("{:?}", env.secret(setting.name)));
        } else {
            let name = setting.name;
            assert!(env.optional::<Quoting>(name).is_none() && env.list::<Quoting>(name).is_none());
            env.flag(name, true);
            env.duration(name, Duration::ZERO);
            env.bytes(name, 0);
            env.or(name, 0u16);
        }
        env.note(setting.name, format_args!("of {VALUE} is bad"));
        env.warn(setting.name, format_args!("of {VALUE} is odd"));
    }
    env.vars.remove("POSTGRES_PASSWORD");
    assert!(env.secret("POSTGRES_PASSWORD").is_none());
    shown.push(format!("{:?} {env:?}", env.warnings));
    let err = env.finish(Some(())).unwrap_err();
    shown.push(format!("{err} {err:?}"));
    assert!(err.problems.len() > KNOWN.len());
    assert!(shown.iter().all(|text| !text.contains("hunter2")), "{shown:#?}");
}

#[test]
fn no_setting_is_listed_twice() {
    let mut seen = std::collections::BTreeSet::new();
    assert!(KNOWN.iter().all(|setting| seen.insert(setting.name)));
}
