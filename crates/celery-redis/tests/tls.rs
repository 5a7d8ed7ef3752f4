//! `rediss://` against a real server with certificates of its own.

use celery_redis::client::{Client, ConnectOptions};
use std::net::TcpListener;
use test_support::celery_lab::within;
use test_support::certificate::certificate;
use test_support::redis::Redis;

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
