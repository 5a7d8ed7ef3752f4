//! Damaged archives: what `decode` finds, and what only the checksums of the pipeline can.

use crate::postgres::{backup, decode};
use crate::support::postgres::PostgresServer;
use rna_backup::component::postgres::{Postgres, PostgresConfig};
use rna_backup::component::{ComponentError, Source};
use rna_backup::domain::progress::Meter;
use std::io;

async fn archive(name: &str) -> Vec<u8> {
    let server = PostgresServer::shared();
    let database = server.database(name, "");
    server.psql(
        &database,
        "CREATE TABLE first AS SELECT g, repeat('first', 20) AS x FROM generate_series(1, 20000) g; \
         CREATE TABLE second AS SELECT g, repeat('second', 20) AS x FROM generate_series(1, 20000) g",
    );
    backup(server.config(&database)).await.unwrap().0
}

#[tokio::test]
async fn a_damaged_archive_is_corrupt_wherever_it_ends() {
    let whole = archive("cut").await;
    assert!(decode(&whole).await.is_ok());
    let len = whole.len();
    let zeros = vec![0; 100_000];
    let cases: [(&str, &[u8], &[u8]); 10] = [
        ("empty", b"", b""),
        ("cut at 70 %", &whole[..len * 7 / 10], b""),
        ("cut by the last 64 KB", &whole[..len - 65_536], b""),
        ("cut by one byte", &whole[..len - 1], b""),
        ("cut within the definitions", &whole[..3000], b""),
        ("cut within the header", &whole[..20], b""),
        ("something else", b"-- PostgreSQL database dump\n", b""),
        ("one byte follows", &whole, b"\0"),
        ("a little follows", &whole, b"\0\0\0\0\0and more"),
        ("much follows", &whole, &zeros),
    ];
    for (what, kept, added) in cases {
        let err = decode(&[kept, added].concat()).await.expect_err(what);
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{what}: {err:?}");
        assert!(!err.is_transient(), "{what}");
    }
    let err = decode(&whole[..len * 7 / 10]).await.unwrap_err();
    assert!(
        err.to_string().contains("pg_restore: error: could not read from input file: end of file"),
        "{err}"
    );
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_the_frame_of_an_archive_but_not_in_a_letter() {
    let whole = archive("flipped").await;
    let good = decode(&whole).await.unwrap();
    let row = memchr::memmem::find(&whole, b"\tsecondsecond").unwrap();
    let flipped = |at: usize, bit: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        bytes
    };
    // Before each row's number stands its length, four bytes and a sign.
    let start = whole[..row].iter().rposition(|byte| !byte.is_ascii_digit()).unwrap();
    let err = decode(&flipped(start, 0x10)).await.expect_err("length of a row");
    assert!(matches!(err, ComponentError::Corrupt { .. }), "{err:?}");
    // A lost line end joins two rows: the counts differ.
    let end = row + memchr::memchr(b'\n', &whole[row..]).unwrap();
    let counts = decode(&flipped(end, 0x01)).await.unwrap();
    assert_eq!(good.differences(&counts), ["table public.second: expected 20000 rows, found 19999"]);
    // What only the checksums of the pipeline find.
    assert_eq!(decode(&flipped(row + 1, 0x01)).await.unwrap(), good);
}

#[tokio::test]
async fn an_archive_of_a_newer_version_is_not_called_damaged() {
    let mut newer = archive("newer").await;
    newer[6] = 99; // "PGDMP", major, minor version of the format
    let err = decode(&newer).await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    assert!(err.to_string().contains("install its postgresql-client"), "{err}");
}

/// Yields some bytes, then an error.
struct Broken(io::ErrorKind);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(self.0.into()))
    }
}

#[tokio::test]
async fn the_error_of_a_feed_is_told_from_damage() {
    for (kind, damaged) in [(io::ErrorKind::InvalidData, true), (io::ErrorKind::ConnectionReset, false)] {
        let postgres = Postgres::new(PostgresConfig::default(), Vec::new());
        let err = postgres.decode(&mut Broken(kind), &Meter::default()).await.unwrap_err();
        assert_eq!(matches!(err, ComponentError::Corrupt { .. }), damaged, "{err:?}");
        assert_eq!(err.is_transient(), !damaged, "{err:?}");
    }
}
