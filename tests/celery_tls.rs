//! `rediss://` against a real server with certificates of its own.

use crate::celery_lab::within;
use crate::support::redis::Redis;
use rna_backup::celery::client::{Client, ConnectOptions};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Makes `<name>.pem` and `<name>.key`, signed by `ca` or by itself.
pub fn certificate(dir: &Path, name: &str, ca: Option<&str>) {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    command.args([
        "-subj",
        "/CN=localhost",
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.pem"),
    ]);
    if let Some(ca) = ca {
        command.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
        command.args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
    }
    let made = command.output().expect("this test needs `openssl` on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn certificates_are_checked_unless_the_url_says_otherwise() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "ca", None);
    certificate(dir.path(), "stranger", None);
    certificate(dir.path(), "server", Some("ca"));
    certificate(dir.path(), "client", Some("ca"));
    let path = |name: &str| dir.path().join(name).display().to_string();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--requirepass",
        "s@cret",
    ]);

    let own = format!("ssl_certfile={}&ssl_keyfile={}", path("client.pem"), path("client.key"));
    let cases = [
        (format!("ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}&{own}"), true),
        (format!("ssl_ca_certs={ca}&{own}"), true),
        (format!("ssl_cert_reqs=none&{own}"), true),
        (format!("ssl_cert_reqs=required&ssl_ca_certs={}&{own}", path("stranger.pem")), false),
        (format!("ssl_cert_reqs=required&{own}"), false),
        (format!("ssl_cert_reqs=required&ssl_ca_certs={ca}"), false),
    ];
    for (query, works) in cases {
        let url = format!("rediss://:s%40cret@localhost:{port}/3?{query}");
        let client = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap();
        let answer = within(client.ping()).await;
        assert_eq!(answer.is_ok(), works, "{query}: {answer:?}");
    }
    let missing = format!("rediss://localhost:{port}/?ssl_ca_certs={}", path("none.pem"));
    let error = Client::new(ConnectOptions::parse(&missing).unwrap()).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
}
