//! A bucket and the settings that lead to it: what is wrong with them is told, and what they say is done.

use crate::catalog_rebuild::with_bucket;
use crate::store_contract::{key, upload};
use crate::store_s3::{
    MIB, SOON, assert_nothing_left, begin, behind, behind_for, content, says, store_at, upload_parts,
};
use crate::support::lab::Lab;
use crate::support::s3::{Bucket, KEY_ID, S3Server, SECRET};
use crate::support::s3_proxy::{Asked, BadLine, Line};
use rna_backup::base::chain;
use rna_backup::store::s3::Sse;
use rna_backup::store::{S3Config, S3Store, Store as _, StoreError};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};
use test_support::certificate::certificate;
use tokio::io::AsyncReadExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_are_told_apart_and_say_what_to_do() {
    let there = S3Server::shared().bucket().await;
    let mut wrong_secret = there.clone();
    wrong_secret.keys.as_mut().unwrap().secret = "hunter2-hunter2".into();
    let mut wrong_id = there.clone();
    wrong_id.keys.as_mut().unwrap().id = "nobody".into();
    let cases = [
        (S3Server::shared().no_bucket(), "NoSuchBucket", "AWS_BACKUP_BUCKET"),
        (wrong_secret, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (wrong_id, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
    ];
    for (config, code, setting) in cases {
        let name = config.bucket.clone();
        let store = store_at(config).await;
        let mut errors = vec![
            upload_parts(&store).await.unwrap_err(),
            store.put(&key("media/a"), content(3)).await.unwrap_err(),
            store.list(&key("media")).await.unwrap_err(),
            store.probe().await.unwrap_err(),
        ];
        errors.extend(store.open(&key("media/a"), None).await.err());
        assert_eq!(errors.len(), 5);
        for err in errors {
            assert!(matches!(err, StoreError::Denied { .. }), "{err:?}");
            says(&err, &[code, setting, &name]);
            assert!(!format!("{} {err:?}", chain(&err)).contains("hunter2"));
        }
        let shown = format!("{store:?}");
        assert!(![SECRET, "hunter2", KEY_ID].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_or_silent_is_unavailable_and_no_hang() {
    let (silent, _, _line) = behind_for(SOON, |_| Line::BlackHole).await;
    let mut nobody = S3Server::shared().no_bucket();
    nobody.endpoint = Some("http://127.0.0.1:1".into());
    let gone = store_at(nobody).await;
    let look = |store: S3Store, words| async move {
        let err = store.head(&key("media/a")).await.unwrap_err();
        assert!(matches!(err, StoreError::Unavailable { .. }), "{err:?}");
        says(&err, &["head media/a", words]);
    };
    tokio::join!(look(silent, "did nothing for 400ms"), look(gone, "refused"));
}

/// A server with a certificate, which has nothing. Its port, and what keeps it alive.
fn tls_server(dir: &Path) -> (u16, Stopped) {
    const SCRIPT: &str = "import http.server as h, ssl
class Empty(h.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()
server = h.HTTPServer(('127.0.0.1', 0), Empty)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.pem', 'server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT]).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Stopped(python.spawn().unwrap());
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    (port.trim().parse().unwrap(), server)
}

/// Ends a child of a test whatever happens.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_checked_against_the_authorities_of_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    for (name, by) in [("ca", None), ("stranger", None), ("server", Some("ca"))] {
        certificate(dir.path(), name, by);
    }
    let (port, _server) = tls_server(dir.path());
    for (bundle, trusted) in [(Some("ca.pem"), true), (Some("stranger.pem"), false), (None, false)] {
        let mut config = S3Server::shared().no_bucket();
        config.endpoint = Some(format!("https://localhost:{port}"));
        config.ca_bundle = bundle.map(|name| dir.path().join(name));
        let err = store_at(config).await.head(&key("media/a")).await.unwrap_err();
        if trusted {
            assert!(matches!(err, StoreError::NotFound { .. }), "{err:?}");
        } else {
            assert!(matches!(err, StoreError::Denied { .. }), "{err:?}");
            says(&err, &["AWS_CA_BUNDLE"]);
        }
    }
    for bundle in ["none.pem", "server.key"] {
        let mut config = S3Server::shared().no_bucket();
        config.ca_bundle = Some(dir.path().join(bundle));
        let err = S3Store::open(config, None).await.unwrap_err();
        assert!(chain(&err).contains(bundle), "{}", chain(&err));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_hides_its_neighbours() {
    let mut config = S3Server::shared().bucket().await;
    config.prefix = S3Config::parse_prefix("lab").unwrap();
    let bucket = Bucket::of(&config);
    let name = config.bucket.clone();
    let store = store_at(config).await;
    for other in
        ["media/x", "lab2/media/x", "lab/media/.hidden", "lab/.secret/media", "labmedia/x", "lab/media2/x"]
    {
        bucket.put(other, content(1)).await;
    }
    upload(&store, &key("media/a"), &content(9)).await.unwrap();
    let listed: Vec<_> = store.list(&key("media")).await.unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(listed, [key("media/a")]);
    assert_eq!(store.location(&key("media/a")), format!("s3://{name}/lab/media/a"));
    assert_eq!(store.key_at(&format!("s3://{name}/lab/media/a")), Some(key("media/a")));
    for outside in [
        format!("s3://{name}/media/a"),
        format!("s3://{name}/lab2/media/a"),
        format!("s3://{name}/lab/../media/a"),
        format!("s3://{name}/lab/"),
        format!("s3://{name}"),
        format!("s3://{name}2/lab/media/a"),
        "s3://other/lab/media/a".to_owned(),
        "media/a".to_owned(),
    ] {
        assert_eq!(store.key_at(&outside), None, "{outside}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_tries_all_that_a_backup_needs_and_leaves_nothing() {
    let (store, bucket, line) = behind(|_| Line::Good).await;
    let found = store.probe().await.unwrap();
    assert!(found.clock_skew.unwrap().abs() <= 2 && found.lists_uploads, "{found:?}");
    let did: [fn(&Asked) -> bool; 5] =
        [Asked::is_put, Asked::is_get, Asked::is_create, Asked::is_complete, |asked| {
            asked.method == "DELETE"
        }];
    assert!(did.iter().all(|did| line.count(did) > 0));
    assert_nothing_left(&store, &bucket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_are_encrypted_and_classed_as_the_settings_say_and_manifests_encrypted() {
    let mut config = S3Server::shared().bucket().await;
    config.sse = Some(Sse::Kms(Some("lab-key".to_owned())));
    config.storage_class = Some("STANDARD_IA".to_owned());
    // Another server, which says yes to all: that is about what is asked.
    let yes = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let line = BadLine::to(&mut config, |_| Line::Say(200, yes.to_owned())).await;
    let store = store_at(config).await;
    store.put(&key("manifests/a"), content(3)).await.unwrap();
    begin(&store, 6 * MIB).await.1.unwrap();
    assert!(line.count(Asked::is_create) == 1 && line.count(Asked::is_put) == 1);
    let kms = "x-amz-server-side-encryption: aws:kms\r\n";
    let key_id = "x-amz-server-side-encryption-aws-kms-key-id: lab-key\r\n";
    let class = "x-amz-storage-class: standard_ia\r\n";
    for asked in line.asked().iter().filter(|asked| asked.is_put() || asked.is_create()) {
        assert!(asked.head.contains(kms) && asked.head.contains(key_id), "{}", asked.head);
        assert_eq!(asked.head.contains(class), asked.is_create());
    }
}

/// What a program says and what the bucket behind the line is asked, with these settings beside those of the bucket.
async fn asked(settings: &[(&str, String)], path: &str) -> (String, Vec<Asked>) {
    let mut config = S3Server::shared().bucket().await;
    let line = BadLine::to(&mut config, |_| Line::Say(404, String::new())).await;
    let lab = with_bucket(Lab::new(), &config).set("AWS_S3_ENDPOINT", format!("{}{path}", line.url()));
    let lab = settings.iter().fold(lab, |lab, (name, value)| lab.set(name, value));
    let (code, out, err) = tokio::task::spawn_blocking(move || lab.run(&["check"])).await.unwrap();
    assert_eq!(code, 1, "{out}{err}");
    (format!("{out}{err}"), line.asked())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_a_path_needs_no_slash_at_its_end() {
    for path in ["/storage/v1/s3", "/storage/v1/s3/"] {
        let (said, asked) = asked(&[], path).await;
        assert!(!asked.is_empty(), "{said}");
        for asked in asked {
            assert!(asked.target.starts_with("/storage/v1/s3/lab-"), "{asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_of_the_environment_is_used_except_where_no_proxy_says_otherwise() {
    let proxy = BadLine::before("127.0.0.1:1", |_| Line::Say(404, String::new())).await;
    for (exception, direct) in [("", false), ("127.0.0.1", true)] {
        let before = proxy.asked().len();
        let settings = [("HTTP_PROXY", proxy.url()), ("NO_PROXY", exception.to_owned())];
        let (said, asked) = asked(&settings, "").await;
        assert_eq!((asked.is_empty(), proxy.asked().len() > before), (!direct, !direct), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_a_range_beyond_the_end_is_read_all_the_same() {
    let refuse = |asked: &Asked| {
        let is_long = asked.head.contains(&format!("range: bytes=0-{}\r", 8 * MIB - 1));
        let said = "<Error><Code>InvalidArgument</Code><Message>range</Message></Error>".to_owned();
        if asked.is_get() && is_long { Line::Say(400, said) } else { Line::Good }
    };
    let (store, _, line) = behind(refuse).await;
    store.put(&key("media/a"), content(1000)).await.unwrap();
    let mut read = Vec::new();
    store.open(&key("media/a"), None).await.unwrap().read_to_end(&mut read).await.unwrap();
    assert!(read == content(1000), "{} bytes", read.len());
    assert_eq!(line.count(Asked::is_get), 2);
    let err = store.open(&key("media/b"), None).await.err().unwrap();
    assert!(!matches!(err, StoreError::NotFound { .. }), "nothing is concluded from the refusal: {err:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_asked_three_times_and_once_by_each_request_after_that() {
    let (store, _, line) = behind_for(3 * SOON, |_| Line::BlackHole).await;
    let err = store.list(&key("media")).await.unwrap_err();
    assert!(matches!(err, StoreError::Unavailable { .. }), "{err:?}");
    assert_eq!(line.asked().len(), 3);
    store.head(&key("media/a")).await.unwrap_err();
    assert_eq!(line.asked().len(), 4);
}
