//! `sslmode` as libpq means it, for our own connection and for that of `pg_dump`.

use crate::postgres::Gated;
use crate::support::postgres::PostgresServer;
use rna_backup::component::postgres::{Postgres, PostgresConfig, SslMode};
use rna_backup::component::{ComponentError, Source};
use rna_backup::domain::progress::Meter;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// Gives the server a certificate for `localhost` with `extensions`, signed by an authority of its
/// own, and TLS. Returns a folder with `ca.crt`, a stranger's `other.crt`, and `self.crt`, which is
/// for `localhost` and has signed itself.
fn switch_tls_on(server: &PostgresServer, extensions: &str) -> TempDir {
    // The server's own user makes the files, in its data folder. A program that ends without having read
    // what it is given is an error to the server, whenever it ends first.
    let shell = |line: &str| {
        let line = line.replace('\'', "''");
        server.psql(
            "postgres",
            &format!("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; ({line}) > /dev/null 2>&1'"),
        );
    };
    let new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2";
    shell(&format!("{new} -subj /CN=authority -keyout ca.key -out ca.crt"));
    shell(&format!("{new} -subj /CN=stranger -keyout other.key -out other.crt"));
    shell(&format!(
        "{new} -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout self.key -out self.crt"
    ));
    shell("openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    shell(&format!("echo {extensions} > extensions"));
    shell(
        "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.crt",
    );
    set(server, "ssl", "on");
    let folder = tempfile::tempdir().unwrap();
    for name in ["ca.crt", "other.crt", "self.crt"] {
        let pem = server.psql("postgres", &format!("SELECT pg_read_file('{name}')"));
        fs::write(folder.path().join(name), pem + "\n").unwrap();
    }
    folder
}

/// Changes a setting of the running server.
fn set(server: &PostgresServer, name: &str, value: &str) {
    server.psql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
    server.psql("postgres", "SELECT pg_reload_conf()");
    while server.psql("postgres", &format!("SHOW {name}")) != value {}
}

/// Backs up and says of the sessions, two or more with one that looks for locks, whether they were encrypted.
async fn sessions(server: &PostgresServer, config: PostgresConfig) -> Result<String, ComponentError> {
    const SESSIONS: &str = "SELECT string_agg(DISTINCT ssl::text, ' ') || CASE WHEN count(*) < 2 THEN ' alone' ELSE '' END \
                            FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rna-backup'";
    const LIVING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rna-backup'";
    // The server takes a moment to see that the sessions of the backup before have ended.
    while server.psql("postgres", LIVING) != "0" {
        // Nor have we, before what holds our end of it had its turn.
        tokio::task::yield_now().await;
    }
    let postgres = Postgres::new(config, Vec::new());
    let (mut out, at_gate, open) = Gated::new();
    let meter = Meter::default();
    let look = async {
        if at_gate.await.is_err() {
            return String::new(); // it failed before
        }
        let seen = server.psql("postgres", SESSIONS);
        open.send(()).await.unwrap();
        seen
    };
    let dump = async {
        let result = postgres.back_up(None, &mut out, &meter).await;
        drop(out);
        result
    };
    let (result, seen) = tokio::join!(dump, look);
    result.map(|_| seen)
}

#[tokio::test]
async fn each_sslmode_checks_as_much_as_in_libpq() {
    let server = PostgresServer::start();
    let database = server.database("large", "");
    server.psql(
        &database,
        "CREATE TABLE t AS SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 10000) g",
    );
    let plain = server.config(&database);
    let mode = |mode, host: &str, root: Option<PathBuf>| PostgresConfig {
        host: host.into(),
        sslmode: mode,
        sslrootcert: root,
        ..plain.clone()
    };
    let err = sessions(&server, mode(SslMode::Require, "localhost", None)).await.unwrap_err();
    assert!(
        matches!(&err, ComponentError::Unusable { what, .. } if what.contains("TLS is not possible")),
        "{err:?}"
    );
    assert_eq!(sessions(&server, mode(SslMode::Prefer, "localhost", None)).await.unwrap(), "false");

    // Without extensions openssl makes a certificate of version 1.
    let folder = switch_tls_on(&server, "");
    let v1 = Some(folder.path().join("ca.crt"));
    assert_eq!(sessions(&server, mode(SslMode::Require, "localhost", None)).await.unwrap(), "true");
    assert!(sessions(&server, mode(SslMode::VerifyCa, "localhost", v1)).await.is_err());

    let folder = switch_tls_on(&server, "subjectAltName=DNS:localhost");
    let file = |name: &str| Some(folder.path().join(name));
    let (on, off) = ("true", "false");
    let good = [
        (SslMode::Disable, "localhost", None, off),
        (SslMode::Prefer, "localhost", None, on),
        (SslMode::Require, "127.0.0.1", None, on),
        (SslMode::Require, "127.0.0.1", file("ca.crt"), on),
        (SslMode::VerifyCa, "127.0.0.1", file("ca.crt"), on),
        (SslMode::VerifyFull, "localhost", file("ca.crt"), on),
    ];
    for (sslmode, host, root, want) in good {
        let what = format!("{sslmode:?} {host} {root:?}");
        let seen = sessions(&server, mode(sslmode, host, root)).await;
        assert_eq!(seen.unwrap_or_else(|err| panic!("{what}: {err:?}")), want, "{what}");
    }
    let bad = [
        (SslMode::Require, "localhost", file("other.crt"), "certificate is not trusted"),
        (SslMode::VerifyCa, "localhost", file("other.crt"), "certificate is not trusted"),
        (SslMode::VerifyFull, "127.0.0.1", file("ca.crt"), "certificate is not trusted"),
        (SslMode::VerifyFull, "localhost", None, "set POSTGRES_SSLROOTCERT"),
        (SslMode::VerifyFull, "localhost", file("absent"), "read root certificates in /"),
    ];
    for (sslmode, host, root, words) in bad {
        let what = format!("{sslmode:?} {host} {root:?}");
        let err = sessions(&server, mode(sslmode, host, root)).await.expect_err(&what);
        assert!(matches!(err, ComponentError::Unusable { .. }), "{what}: {err:?}");
        assert!(err.to_string().contains(words), "{what}: {err}");
    }

    // openssl makes such certificates ones of an authority, which rustls alone would refuse.
    set(&server, "ssl_key_file", "self.key");
    set(&server, "ssl_cert_file", "self.crt");
    let seen = sessions(&server, mode(SslMode::VerifyFull, "localhost", file("self.crt"))).await;
    assert_eq!(seen.unwrap(), on);
    let err = sessions(&server, mode(SslMode::VerifyFull, "127.0.0.1", file("self.crt"))).await.unwrap_err();
    assert!(err.to_string().contains("certificate is not trusted"), "{err}");
}
