//! `component::postgres`: rows come back whatever depends on them, and what does not is named with cause and cure.

use crate::postgres::backup;
use crate::postgres_restore::{component, databases, in_parallel, with_own_clients};
use crate::support::{
    lab::Lab,
    postgres::{PASSWORD, PostgresServer},
};
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Staged, Target, Undo};
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;

/// A materialized view whose query is a text, and views over one that was emptied.
const VIEWS: &str = "
    CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'a b'), (2, 'c');
    CREATE MATERIALIZED VIEW first AS SELECT count(*) AS n FROM docs;
    CREATE MATERIALIZED VIEW second AS SELECT n FROM first; CREATE MATERIALIZED VIEW third AS SELECT n FROM second;
    CREATE MATERIALIZED VIEW never AS SELECT 1 AS n WITH NO DATA;
    REFRESH MATERIALIZED VIEW first WITH NO DATA";

const UNQUALIFIED_VIEW: &str = "
    CREATE MATERIALIZED VIEW words AS SELECT word, ndoc FROM ts_stat('select to_tsvector(body) from docs');
    CREATE UNIQUE INDEX ON words (word); GRANT SELECT ON words TO PUBLIC";

/// Functions that find each other by `search_path` alone, where rows, an index and a constraint need them.
const UNQUALIFIED: &str = "
    CREATE FUNCTION inner_one(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN lower(t); END';
    CREATE FUNCTION outer_one(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_one(t); END';
    CREATE TABLE plain (id int PRIMARY KEY, body text);
    CREATE INDEX plain_idx ON plain (outer_one(body)); COMMENT ON INDEX plain_idx IS 'slow';
    INSERT INTO plain SELECT n, 'X' || n FROM generate_series(1, 50) n;
    CREATE TABLE derived (a text, b text GENERATED ALWAYS AS (outer_one(a)) STORED); INSERT INTO derived VALUES ('Y');";

async fn stage(
    config: &PostgresConfig,
    archive: &[u8],
    facts: &Facts,
    without: &[&str],
    target: &Target,
) -> Result<(Box<dyn Staged>, Vec<String>), ComponentError> {
    let (meter, mut feed) = (Meter::default(), archive);
    let without: Vec<_> = without.iter().map(|name| (*name).to_owned()).collect();
    let staged = component(config)
        .stage(&mut feed, &RestoreOrder { target, without: &without, facts: Some(facts) }, &meter)
        .await?;
    Ok((staged, meter.take_warnings()))
}

const POPULATED: &str =
    "SELECT string_agg(relname || relispopulated, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm'";

/// Backs up and restores by one session and by several.
async fn views_come_back(server: &PostgresServer, more: &str) {
    let name = server.database("views", "");
    server.psql(&name, &format!("{VIEWS};{more}"));
    let see = || server.psql(&name, &format!("{POPULATED}; SELECT n FROM third"));
    let (config, _scratch) = in_parallel(with_own_clients(server, &name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let before = see();
    assert!(
        before.contains("firstfalse neverfalse secondtrue thirdtrue") && before.ends_with("\n2"),
        "{before}"
    );
    for jobs in [1, 2] {
        let config = PostgresConfig { jobs, ..config.clone() };
        let (drill, _) = stage(&config, &archive, &facts, &[], &Target::Scratch).await.unwrap();
        assert_eq!(drill.differences(&mut &*archive, &Meter::default()).await.unwrap(), [""; 0]);
        drill.discard().await.unwrap();
        let (staged, warnings) = stage(&config, &archive, &facts, &[], &Target::Live).await.unwrap();
        let said = warnings.join("; ");
        assert!(
            said.contains("public.second, public.third") && said.contains("by way of public.first"),
            "{said}"
        );
        staged.swap().await.unwrap();
        assert_eq!(see(), before);
        component(&config).delete_undo_data().await.unwrap();
    }
}

#[tokio::test]
async fn a_view_whose_query_is_a_text_and_views_over_an_emptied_one_are_filled() {
    let server = PostgresServer::start();
    views_come_back(&server, UNQUALIFIED_VIEW).await;
    let (_, facts) = backup(with_own_clients(&server, "views")).await.unwrap();
    let said = facts.warnings.join("; ");
    assert!(
        said.contains("The materialized view public.words cannot be filled by pg_restore")
            && said.contains("\"docs\""),
        "{said}"
    );
    assert_eq!(facts.warning_count, 1, "{said}");
}

#[tokio::test]
async fn views_over_an_emptied_one_are_filled_on_18() {
    // Since 17 nobody can fill a materialized view whose query needs a search_path: there is none in any database.
    views_come_back(&PostgresServer::of(18), "").await;
}

async fn rows_are_no_hostages(server: &PostgresServer) {
    let name = server.database("hostage", "");
    server.psql(&name, UNQUALIFIED);
    let (config, _scratch) = in_parallel(with_own_clients(server, &name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let said = facts.warnings.join("; ");
    for words in [
        "The generated column public.derived cannot be restored",
        "The index public.plain_idx cannot be restored",
    ] {
        assert!(said.contains(words) && said.contains("ALTER FUNCTION"), "{words}: {said}");
    }
    server.psql(&name, "DELETE FROM plain");
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.advice.join("; ").contains("index public.plain_idx"), "{plan:?}");
    assert_eq!(plan.refuses, ["public.derived", "public.plain_idx"]);
    for jobs in [1, 2] {
        let config = PostgresConfig { jobs, ..config.clone() };
        for target in [Target::Scratch, Target::Live] {
            let err = stage(&config, &archive, &facts, &[], &target).await.unwrap_err();
            let said = chain(&err);
            let ComponentError::Refused { names, .. } = err else { panic!("{said}") };
            assert_eq!(names, ["public.derived", "public.plain_idx"]);
            for words in [
                "index public.plain_idx (function inner_one(text) does not exist",
                "table data public.derived",
                "SET search_path",
            ] {
                assert!(said.contains(words), "{words}: {said}");
            }
            assert_eq!(databases(server, &name), std::slice::from_ref(&name));
        }
        let part = stage(&config, &archive, &facts, &["public.plain_idx"], &Target::Live).await.unwrap_err();
        assert!(
            matches!(&part, ComponentError::Refused { names, .. } if *names == ["public.derived"]),
            "{part}"
        );
        let (staged, warnings) =
            stage(&config, &archive, &facts, &["public.plain_idx", "derived"], &Target::Live).await.unwrap();
        assert!(warnings.join("; ").contains("Restored without index public.plain_idx"), "{warnings:?}");
        assert_eq!(staged.expected(&facts.counts), *staged.counts());
        staged.swap().await.unwrap();
        assert_eq!(server.psql(&name, "SELECT count(*) FROM plain; SELECT count(*) FROM derived"), "50\n0");
        component(&config).delete_undo_data().await.unwrap();
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_made_holds_no_rows_hostage() {
    rows_are_no_hostages(&PostgresServer::start()).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_made_holds_no_rows_hostage_on_18() {
    rows_are_no_hostages(&PostgresServer::of(18)).await;
}

#[tokio::test]
async fn in_place_an_object_that_cannot_be_made_is_named_with_the_way_on_and_views_are_filled() {
    let server = PostgresServer::start();
    server.psql("postgres", &format!("CREATE ROLE poor LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")));
    let name = server.database("poor", "OWNER poor");
    server.psql(&name, &format!("SET ROLE poor; {VIEWS}; {UNQUALIFIED_VIEW}; {UNQUALIFIED}"));
    let config = PostgresConfig { user: "poor".into(), ..with_own_clients(&server, &name) };
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let before = server.psql(&name, POPULATED);
    server.psql(&name, "DELETE FROM plain WHERE id > 3");
    let (staged, _) = stage(&config, &archive, &facts, &[], &Target::Live).await.unwrap();
    let err = staged.swap().await.unwrap_err();
    assert!(
        matches!(&err, ComponentError::Refused { names, .. } if *names == ["public.derived"]),
        "{}",
        chain(&err)
    );
    assert_eq!(server.psql(&name, "SELECT count(*) FROM plain"), "3", "nothing was touched");
    let (staged, _) =
        stage(&config, &archive, &facts, &["public.derived", "public.plain_idx"], &Target::Live)
            .await
            .unwrap();
    staged.swap().await.unwrap();
    assert_eq!(server.psql(&name, "SELECT count(*) FROM plain; SELECT count(*) FROM derived"), "50\n0");
    assert_eq!(server.psql(&name, POPULATED), before);
    assert_eq!(server.psql(&name, "SELECT count(*) FROM words"), "2");
}

/// A trigger that notes every command, beside views that are filled last.
const NOTED: &str = "
    CREATE TABLE noted (tag text);
    CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.noted VALUES (tg_tag); END';
    CREATE MATERIALIZED VIEW a AS SELECT 1 AS n; CREATE MATERIALIZED VIEW b AS SELECT n FROM a;
    CREATE EVENT TRIGGER noting ON ddl_command_end EXECUTE FUNCTION note()";

async fn event_triggers_do_not_fire(server: &PostgresServer, more: &str) {
    let name = server.database("noted", "");
    server.psql(&name, &format!("{NOTED};{more}"));
    let (config, _scratch) = in_parallel(with_own_clients(server, &name));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let see = || {
        server.psql(
            &name,
            "SELECT count(*) FROM noted; SELECT evtname, evtenabled FROM pg_event_trigger ORDER BY 1",
        )
    };
    for jobs in [1, 2] {
        let config = PostgresConfig { jobs, ..config.clone() };
        for target in [Target::Scratch, Target::Live] {
            let (staged, warnings) = stage(&config, &archive, &facts, &[], &target).await.unwrap();
            assert_eq!(warnings, [""; 0]);
            assert_eq!(staged.counts(), &facts.counts, "{jobs} {target:?}");
            if target == Target::Scratch {
                staged.discard().await.unwrap();
            } else {
                staged.swap().await.unwrap();
                component(&config).delete_undo_data().await.unwrap();
            }
        }
    }
    assert!(see().contains("noting|O"), "{}", see());
}

#[tokio::test]
async fn event_triggers_do_not_fire_while_they_are_restored() {
    event_triggers_do_not_fire(&PostgresServer::start(), "").await;
}

#[tokio::test]
async fn event_triggers_do_not_fire_while_they_are_restored_on_18() {
    // One that fires always, and one that fires when a session begins.
    let more = "
        ALTER EVENT TRIGGER noting ENABLE ALWAYS;
        CREATE EVENT TRIGGER entering ON login EXECUTE FUNCTION note(); ALTER EVENT TRIGGER entering ENABLE ALWAYS;
        ALTER EVENT TRIGGER noting ENABLE";
    event_triggers_do_not_fire(&PostgresServer::of(18), more).await;
}

#[test]
fn by_hand_the_dry_run_and_the_refusal_print_the_line_that_goes_on_without_the_object() {
    let server = PostgresServer::shared();
    let name = server.database("line it's", "");
    server.psql(&name, UNQUALIFIED);
    let lab = Lab::new().database(server, &name).set("BACKUP_COMPONENTS", "postgres");
    let (code, _, err) = lab.run(&["backup", "postgres"]);
    assert_eq!(code, 0, "{err}");
    server.psql(&name, "DELETE FROM plain");
    let line = |text: &str| {
        let (_, rest) = text.split_once("`rna-backup ").unwrap_or_else(|| panic!("no line in {text}"));
        rest.split_once('`').unwrap().0.to_owned()
    };
    let (code, planned, err) = lab.run(&["restore", "postgres", "--dry-run"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, refused) = lab.run(&["restore", "postgres", "--yes"]);
    assert_ne!(code, 0, "{refused}");
    assert!(refused.contains("Nothing was touched"), "{refused}");
    assert_eq!(line(&planned), line(&refused));
    assert!(
        line(&refused).ends_with(" --without 'public.derived' --without 'public.plain_idx'"),
        "{refused}"
    );
    assert_eq!(server.psql(&name, "SELECT count(*) FROM plain"), "0");
    let line = line(&refused).replace('\'', "");
    let args: Vec<_> = line.split(' ').chain(["--yes"]).collect();
    let (code, done, err) = lab.run(&args);
    assert_eq!(code, 0, "{err}");
    assert!(done.contains("Restored without index public.plain_idx"), "{done}");
    assert_eq!(server.psql(&name, "SELECT count(*) FROM plain"), "50");
}
