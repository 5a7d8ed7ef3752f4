//! Connections of every kind that Celery knows, rights no wider than need be, and peers that fall silent.

use celery_redis::CeleryError;
use celery_redis::client::{Client, ConnectOptions};
use celery_redis::consumer::Consumer;
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use redis::AsyncCommands;
use std::time::Duration;
use test_support::celery_lab::{content, judge, message, until, within};
use test_support::ports::free_port;
use test_support::redis::Redis;
use test_support::rights::{documented_rules, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn rights_that_are_missing_are_an_error_and_not_a_wait() {
    let redis = Redis::start();
    let rules: Vec<_> =
        documented_rules("reports", "celery-redis").into_iter().filter(|rule| rule != "+rpop").collect();
    user(&redis, &rules).await;
    let url = redis.url().replace("unix://", "unix://worker:p%40ss%2Fword@");
    let client = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap();
    let leases = Leases::new(client, Keys::default(), Instance::here("test@lab"));
    let consumer = Consumer::new(leases, &["reports".to_owned()]).unwrap();
    let _: usize = redis.connect().await.lpush("reports", message("ours", "1")).await.unwrap();
    let error = within(consumer.next(&judge, &CancellationToken::new())).await.unwrap_err();
    assert!(matches!(error, CeleryError::Refused { .. }), "{error:?}");
    assert_eq!(redis.connect().await.llen::<_, u32>("reports").await.unwrap(), 1, "it is still there");
}

/// A worker asks again on such news: were every failure news, it would connect thousands of times a second for as long as
/// Redis is away.
#[tokio::test]
async fn that_redis_is_still_away_is_no_news() {
    let url = format!("redis://127.0.0.1:{}/0", free_port());
    let client = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap();
    let connected = client.connected();
    for _ in 0..2 {
        client.ping().await.unwrap_err();
        assert!(!connected.has_changed().unwrap());
    }
}

#[tokio::test]
async fn host_password_and_database_of_a_url_are_what_is_connected_to() {
    let port = free_port().to_string();
    let redis = Redis::start_with(&["--port", &port, "--bind", "127.0.0.1", "--requirepass", "p@ss"]);
    let socket = redis.url().replace("unix://", "");
    for (db, url) in [
        (3, format!("redis://:p%40ss@127.0.0.1:{port}/3")),
        (4, format!("redis://default:p%40ss@localhost:{port}/4")),
        (5, format!("redis+socket://:p%40ss@{socket}?virtual_host=5")),
        (6, format!("unix://:p%40ss@{socket}?db=6")),
        (7, format!("redis://:p%40ss@127.0.0.1:{}/7;redis://:p%40ss@127.0.0.1:{port}/7", free_port())),
    ] {
        let client = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap();
        let mut set = redis::cmd("SET");
        set.arg("in").arg(db);
        client.command::<()>("write", &set).await.unwrap();
        let plain = redis::Client::open(format!("redis://:p%40ss@127.0.0.1:{port}/{db}")).unwrap();
        let mut link = plain.get_multiplexed_async_connection().await.unwrap();
        assert_eq!(link.get::<_, i64>("in").await.unwrap(), db, "{db}");
    }
    for url in [format!("redis://:wrong@127.0.0.1:{port}"), format!("redis://127.0.0.1:{port}")] {
        let error = Client::new(ConnectOptions::parse(&url).unwrap()).unwrap().ping().await.unwrap_err();
        assert!(
            matches!(error, CeleryError::Refused { .. }) && !format!("{error:?}").contains("wrong@"),
            "{error:?}"
        );
    }
}

/// Carries bytes between a port and a server, but not while it is to be silent. It never closes.
struct Proxy {
    port: u16,
    silent: watch::Sender<bool>,
}

impl Proxy {
    async fn before(redis_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silent, watched) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", redis_port)).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, watched.clone()));
                tokio::spawn(carry(far_read, near_write, watched.clone()));
            }
        });
        Self { port, silent }
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut silent: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if silent.wait_for(|silent| !silent).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_and_forgotten_and_connected_to_anew() {
    let redis_port = free_port();
    let redis = Redis::start_with(&["--port", &redis_port.to_string(), "--bind", "127.0.0.1"]);
    let proxy = Proxy::before(redis_port).await;
    let options = ConnectOptions::parse(&format!("redis://127.0.0.1:{}/0", proxy.port)).unwrap();
    let soon = Duration::from_millis(300);
    let client = Client::new(options.with_timeouts(soon, soon)).unwrap();
    let leases = Leases::new(client.clone(), Keys::default(), Instance::here("test@lab"));
    let consumer = Consumer::new(leases, &["q".to_owned()]).unwrap().with_safety_poll(soon);
    let stop = CancellationToken::new();
    let mut link = redis.connect().await;
    let _: usize = link.lpush("q", message("ours", "1")).await.unwrap();
    let first = within(consumer.next(&judge, &stop)).await.unwrap().unwrap();

    client.ping().await.unwrap();
    proxy.silent.send_replace(true);
    let _: usize = link.lpush("q", message("ours", "2")).await.unwrap();
    let (mut connected, began) = (client.connected(), std::time::Instant::now());
    let talk = async {
        within(connected.wait_for(|connected| !connected)).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "noticed after {:?}", began.elapsed());
        proxy.silent.send_replace(false);
    };
    let acked = first.lease.ack(&stop);
    let (acked, next, ()) = tokio::join!(acked, within(consumer.next(&judge, &stop)), talk);
    acked.unwrap();
    let second = next.unwrap().unwrap();
    assert_eq!(content(&second).id, "2");
    within(second.lease.ack(&stop)).await.unwrap();
    assert!(client.reconnects() > 0);
    until(async || link.hlen::<_, u32>("unacked").await.unwrap() == 0).await;
}
