use super::*;
use serde_json::json;

fn parse(name: &str, args: &Value, kwargs: &Value) -> Result<Command, InvalidCommand> {
    Command::parse(name, args.as_array().unwrap(), kwargs.as_object().unwrap())
}

#[test]
fn arguments_bind_by_place_and_by_name() {
    let wanted = Command::Backup(Backup {
        component: ComponentName::MEDIA,
        label: Some("before upgrade".into()),
        pin: true,
        set_id: None,
    });
    for (args, kwargs) in [
        (json!(["before upgrade", true]), json!({})),
        (json!(["before upgrade"]), json!({"pin": true, "set_id": null})),
        (json!([]), json!({"pin": true, "label": "before upgrade"})),
    ] {
        assert_eq!(parse(task::BACKUP_MEDIA, &args, &kwargs), Ok(wanted.clone()));
    }
}

#[test]
fn a_call_that_does_not_fit_fails_in_pythons_words() {
    let cases = [
        (
            json!([1, 2, 3, 4]),
            json!({}),
            "backup_media_files() takes at most 3 positional arguments but 4 were given",
        ),
        (
            json!([]),
            json!({"compress": 1}),
            "backup_media_files() got an unexpected keyword argument 'compress'",
        ),
        (
            json!(["a"]),
            json!({"label": "b"}),
            "backup_media_files() got multiple values for argument 'label'",
        ),
        (json!([7]), json!({}), "backup_media_files() argument 'label' must be a string or None"),
        (json!([]), json!({"pin": "yes"}), "backup_media_files() argument 'pin' must be True or False"),
    ];
    for (args, kwargs, words) in cases {
        assert_eq!(
            parse(task::BACKUP_MEDIA, &args, &kwargs),
            Err(InvalidCommand::Signature(words.to_owned()))
        );
    }
    let long = parse(task::FULL_BACKUP, &json!(["x".repeat(65)]), &json!({}));
    assert_eq!(long, Err(InvalidCommand::Value("label is longer than 64 characters".into())));
}

#[test]
fn every_promised_task_is_known_and_others_of_our_part_are_not_registered() {
    for name in Command::registered() {
        let args = match name {
            task::UNDO => json!(["media"]),
            task::RESTORE_MEDIA
            | task::RESTORE_POSTGRES
            | task::RESTORE_WEAVIATE
            | task::PIN
            | task::ACCEPT => {
                json!(["latest"])
            }
            _ => json!([]),
        };
        assert!(parse(name, &args, &json!({})).is_ok(), "{name}");
        assert!(Command::is_ours(name), "{name}");
    }
    let unknown = parse("api.backup.tasks.backup_redis", &json!([]), &json!({}));
    assert_eq!(unknown, Err(InvalidCommand::NotRegistered("api.backup.tasks.backup_redis".into())));
    assert!(!Command::is_ours("api.search.tasks.reindex"));
}

#[test]
fn a_restore_of_weaviate_takes_a_name_or_a_path_and_a_part_of_the_classes() {
    let name = task::RESTORE_WEAVIATE;
    let restore = |backup: &str, classes: Option<&[&str]>| {
        let option = classes.map(|classes| TargetOption::new("include", classes));
        let all = Restore::new(ComponentName::WEAVIATE, backup.to_owned());
        Ok(Command::Restore(Restore { option, ..all }))
    };
    for (args, kwargs, wanted) in [
        (json!(["latest"]), json!({}), restore("latest", None)),
        (json!(["x", "s3://lab/weaviate/x"]), json!({}), restore("s3://lab/weaviate/x", None)),
        (json!(["x"]), json!({"include": ["Document"]}), restore("x", Some(&["Document"]))),
        (json!(["x"]), json!({"include": null}), restore("x", None)),
    ] {
        assert_eq!(parse(name, &args, &kwargs), wanted, "{args} {kwargs}");
    }
    let told = Restore::new(ComponentName::POSTGRES, "x".to_owned());
    let told = Ok(Command::Restore(Restore { without_rights: true, ..told }));
    assert_eq!(parse(task::RESTORE_POSTGRES, &json!(["x"]), &json!({"without_rights": true})), told);
    let all = Restore::new(ComponentName::WEAVIATE, "x".to_owned());
    let option = Some(TargetOption::new("with-access", [""; 0]));
    let with_access = Ok(Command::Restore(Restore { option, ..all }));
    assert_eq!(parse(name, &json!(["x"]), &json!({"with_access": true})), with_access);
    let both = parse(name, &json!(["x"]), &json!({"include": ["Document"], "with_access": true}));
    assert!(matches!(both, Err(InvalidCommand::Value(_))), "{both:?}");
    for bad in [json!([]), json!("Document"), json!([1])] {
        let found = parse(name, &json!(["x"]), &json!({"include": bad}));
        assert!(matches!(found, Err(InvalidCommand::Signature(_))), "{found:?}");
    }
}

#[test]
fn a_restore_of_postgres_may_go_on_without_some_objects() {
    let name = task::RESTORE_POSTGRES;
    let without = vec!["public.words".to_owned()];
    let wanted = Restore { without, ..Restore::new(ComponentName::POSTGRES, "x".to_owned()) };
    for (args, kwargs) in [
        (json!(["x"]), json!({"without": ["public.words"]})),
        (json!(["x", null, ["public.words"]]), json!({})),
    ] {
        assert_eq!(parse(name, &args, &kwargs), Ok(Command::Restore(wanted.clone())));
    }
    for bad in [json!([]), json!("words"), json!([1]), json!([""])] {
        let found = parse(name, &json!(["x"]), &json!({"without": bad}));
        assert!(matches!(found, Err(InvalidCommand::Signature(_))), "{found:?}");
    }
}

#[test]
fn a_verification_is_of_the_latest_of_all_and_no_drill_unless_said() {
    let verify = |component, backup: &str, drill| Command::Verify { component, backup: backup.into(), drill };
    for (args, kwargs, wanted) in [
        (json!([]), json!({}), verify(None, "latest", false)),
        (json!(["media"]), json!({"drill": true}), verify(Some(ComponentName::MEDIA), "latest", true)),
        (json!(["all", "all", true]), json!({}), verify(None, "all", true)),
    ] {
        assert_eq!(parse(task::VERIFY, &args, &kwargs), Ok(wanted));
    }
}

#[test]
fn a_backup_is_pinned_unless_it_is_to_be_unpinned() {
    let pin = |pinned| Ok(Command::Amend { backup: "latest".into(), amendment: Amendment::Pin(pinned) });
    for (args, kwargs, wanted) in [
        (json!(["latest"]), json!({}), pin(true)),
        (json!([]), json!({"backup": "latest", "pinned": null}), pin(true)),
        (json!(["latest", false]), json!({}), pin(false)),
    ] {
        assert_eq!(parse(task::PIN, &args, &kwargs), wanted);
    }
    let words = "pin_backup() missing 1 required positional argument: 'backup'";
    assert_eq!(parse(task::PIN, &json!([]), &json!({})), Err(InvalidCommand::Signature(words.to_owned())));
}

#[test]
fn what_deletes_overwrites_or_lets_retention_delete_must_be_signed() {
    for (name, args, signed) in [
        (task::BACKUP_MEDIA, json!([]), false),
        (task::VERIFY, json!([]), false),
        (task::CLEANUP, json!([null, null, true]), false),
        (task::CLEANUP, json!([]), true),
        (task::RESTORE_MEDIA, json!(["latest"]), true),
        (task::UNDO, json!(["media"]), true),
        (task::PIN, json!(["latest"]), true),
        (task::PIN, json!(["latest", false]), true),
        (task::ACCEPT, json!(["latest"]), true),
    ] {
        assert_eq!(parse(name, &args, &json!({})).unwrap().must_be_signed(), signed, "{name} {args}");
    }
}

#[test]
fn cleanup_takes_a_component_a_number_of_days_and_a_dry_run() {
    assert_eq!(
        parse(task::CLEANUP, &json!(["postgres", 0]), &json!({"dry_run": true})),
        Ok(Command::CleanUp {
            component: Some(ComponentName::POSTGRES),
            retention_days: Some(0),
            dry_run: true
        })
    );
    assert!(matches!(parse(task::CLEANUP, &json!(["redis"]), &json!({})), Err(InvalidCommand::Value(_))));
    assert!(matches!(
        parse(task::CLEANUP, &json!([null, -1]), &json!({})),
        Err(InvalidCommand::Signature(_))
    ));
}
