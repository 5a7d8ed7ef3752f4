//! `component::postgres`: rights of many objects are read by as many statements as those of few.

use crate::postgres::backup;
use crate::postgres_restore::{drill, with_own_clients};
use crate::support::postgres::PostgresServer;
use std::{collections::BTreeSet, fs};

/// The number of statements of our own sessions so far, but for those that look each second for locks that are waited for, and
/// those of `pg_dump` and `pg_restore`, which have a statement or two for each object.
fn statements(server: &PostgresServer) -> usize {
    const OTHERS: [&str; 3] = ["held by pid", "PREPARE dumpFunc", "CREATE FUNCTION"];
    let log = fs::read_to_string(server.socket_dir().join("log")).unwrap();
    let process = |entry: &&str| entry.split(' ').next().unwrap_or_default().to_owned();
    let entries = || log.split("\nby rna-backup in ").skip(1);
    let is_others = |entry: &&str| OTHERS.iter().any(|words| entry.contains(words));
    let looking: BTreeSet<_> = entries().filter(is_others).map(|entry| process(&entry)).collect();
    entries().filter(|entry| !looking.contains(&process(entry))).count()
}

/// Functions with owners and privileges of their own, a few of them with many grants.
fn with_functions(server: &PostgresServer, name: &str, number: u32) {
    server.database(name, "");
    let make = format!(
        "DO $$ BEGIN FOR n IN 1..{number} LOOP
           EXECUTE format('CREATE FUNCTION f%s() RETURNS int LANGUAGE sql AS ''SELECT 1''; ALTER FUNCTION f%1$s() OWNER TO many_%s;
                           REVOKE EXECUTE ON FUNCTION f%1$s() FROM PUBLIC; GRANT EXECUTE ON FUNCTION f%1$s() TO many_%s', n, n % 10, (n + 1) % 10);
         END LOOP; FOR n IN 0..9 LOOP EXECUTE format('GRANT SELECT ON t TO many_%s; GRANT CONNECT ON DATABASE %I TO many_%1$s WITH GRANT OPTION', n, current_database());
         END LOOP; END $$"
    );
    server.psql(name, &format!("CREATE TABLE t (id int); {make}"));
}

async fn rights_of_many_objects(server: &PostgresServer) {
    for set in ["log_line_prefix = 'by %a in %p '", "log_statement = 'all'"] {
        server.psql("postgres", &format!("ALTER SYSTEM SET {set}"));
    }
    for n in 0..10 {
        server.psql("postgres", &format!("CREATE ROLE many_{n}"));
    }
    server.psql("postgres", "SELECT pg_reload_conf()");
    let mut counts = Vec::new();
    for (name, number) in [("few", 10), ("many", 1000)] {
        with_functions(server, name, number);
        let config = with_own_clients(server, name);
        let before = statements(server);
        let (archive, facts) = backup(config.clone()).await.unwrap();
        assert_eq!(drill(&config, &archive, &facts).await, (Vec::new(), Vec::new()));
        let functions = &facts.rights.as_ref().unwrap().kinds["function"];
        assert_eq!(functions.objects, u64::from(number));
        counts.push(statements(server) - before);
    }
    assert!(counts[0] > 30, "{counts:?}");
    // A session that looks for locks may end before it has asked, and counts with its settings then.
    assert!(counts[1] < counts[0] + 50, "{counts:?}");
}

#[tokio::test]
async fn owners_and_privileges_of_many_objects_take_as_many_statements_as_those_of_few() {
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        rights_of_many_objects(&server).await;
    }
}
