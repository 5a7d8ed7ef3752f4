//! Packing and unpacking, beside the tools that people open archives with.

use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use rna_backup::stream::{
    Content::{self, Compressible, Incompressible},
    Output,
    pack::{Compression, Packed, Packer},
    unpack::{HashingReader, unpack},
};
use std::{
    io::{self, Write},
    pin::Pin,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    sync::mpsc,
};

const ALL: [&str; 5] = ["zstd", "zstd:10", "gzip", "gzip:1", "none"];

type Chunks = Vec<(Content, Vec<u8>)>;

async fn pack(compression: &str, chunks: &Chunks) -> (Vec<u8>, Packed) {
    let (sink, mut pieces) = mpsc::channel(2);
    let mut packer = Packer::start(compression.parse().unwrap(), None, sink);
    let collect = async {
        let mut archive = Vec::new();
        while let Some(piece) = pieces.recv().await {
            assert!(piece.len() <= 1 << 20, "a piece of {} bytes", piece.len());
            archive.extend_from_slice(&piece);
        }
        archive
    };
    let feed = async {
        for (content, bytes) in chunks {
            packer.content(*content);
            packer.write(bytes.clone().into()).await.unwrap();
        }
        packer.finish().await.unwrap()
    };
    tokio::join!(collect, feed)
}

async fn unpacked(compression: &str, archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    unpack(compression.parse().unwrap(), archive).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn content(chunks: &Chunks) -> Vec<u8> {
    chunks.iter().flat_map(|(_, bytes)| bytes).copied().collect()
}

/// Bytes that look random and are the same in each run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

fn prose(len: usize) -> Vec<u8> {
    (0..).flat_map(|n| format!("sample {n}: RNA integrity {}\n", n % 11).into_bytes()).take(len).collect()
}

/// Text and pictures in turn, of sizes around blocks, windows and jobs.
fn mixed() -> Chunks {
    vec![
        (Compressible, prose(300_000)),
        (Incompressible, noise(700_000)),
        (Incompressible, noise(131_072)),
        (Incompressible, noise(131_073)),
        (Compressible, prose(1)),
        (Compressible, Vec::new()),
        (Incompressible, noise(1)),
        (Incompressible, Vec::new()),
        (Compressible, prose(5_000_000)),
        (Incompressible, noise(3_000_000)),
    ]
}

/// The window that the first frame of an archive asks of its readers (RFC 8878, section 3.1.1.1.2).
fn window_of(archive: &[u8]) -> u64 {
    assert_eq!(archive[4] & 0x20, 0, "a frame of one segment");
    let (exponent, mantissa) = (archive[5] >> 3, archive[5] & 7);
    let base = 1 << (10 + exponent);
    base + base / 8 * u64::from(mantissa)
}

#[tokio::test]
async fn no_level_of_zstd_asks_more_memory_of_readers_than_it_says() {
    let long = vec![(Compressible, prose(1 << 20)); 9]; // more than one job of any level
    for level in [1, 2, 8, 9, 16, 17, 19] {
        let level = format!("zstd:{level}");
        let (archive, _) = pack(&level, &long).await;
        let said = level.parse::<Compression>().unwrap().window();
        assert!(window_of(&archive) <= said, "{level}: {} of {said}", window_of(&archive));
    }
    let (stored, _) = pack("zstd:1", &vec![(Incompressible, noise(1 << 20)); 20]).await;
    assert!(window_of(&stored) <= Compression::default().window());
}

/// What a tool makes of an archive on its standard input.
fn tool(name: &str, arguments: &[&str], archive: &[u8]) -> Vec<u8> {
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("these tests need `{name}` on PATH: {err}"));
    let (mut stdin, archive) = (child.stdin.take().unwrap(), archive.to_vec());
    let feed = std::thread::spawn(move || stdin.write_all(&archive));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap().unwrap();
    assert!(output.status.success(), "{name} {arguments:?} ended with {}", output.status);
    output.stdout
}

#[tokio::test]
async fn plain_tools_open_what_is_packed() {
    for chunks in [mixed(), vec![], vec![(Incompressible, noise(10))], vec![(Compressible, prose(10))]] {
        let expected = content(&chunks);
        for (compression, name) in [("zstd:3", "zstd"), ("zstd:12", "zstd"), ("gzip:6", "gzip")] {
            let (archive, _) = pack(compression, &chunks).await;
            tool(name, &["-t"], &archive);
            assert!(tool(name, &["-dc"], &archive) == expected, "{compression}: other content");
        }
    }
}

#[tokio::test]
async fn length_and_hash_are_those_of_the_archive() {
    let chunks = mixed();
    for compression in ALL {
        let (archive, packed) = pack(compression, &chunks).await;
        let sum = tool("sha256sum", &[], &archive);
        assert_eq!(packed.sha256.as_bytes(), &sum[..64]);
        assert_eq!(packed.xxh3, xxhash_rust::xxh3::xxh3_128(&archive));
        assert_eq!(
            (packed.bytes, packed.source_bytes),
            (archive.len() as u64, content(&chunks).len() as u64)
        );

        // One reading gives all three: the data, its length and its hash.
        let mut reader = HashingReader::new(archive.as_slice());
        let mut bytes = Vec::new();
        unpack(compression.parse().unwrap(), &mut reader).read_to_end(&mut bytes).await.unwrap();
        assert!(bytes == content(&chunks));
        assert_eq!(reader.finish(), (packed.bytes, packed.sha256));
    }
}

#[tokio::test]
async fn what_is_compressed_already_is_stored_and_what_is_not_shrinks() {
    let (stored, _) = pack("zstd", &vec![(Incompressible, prose(1 << 20))]).await;
    assert_eq!(stored.len(), (1 << 20) + 6 + 8 * 3 + 3 + 4, "frame head, eight blocks, last block, checksum");
    let (small, _) = pack("zstd", &vec![(Compressible, prose(1 << 20))]).await;
    assert!(small.len() < 1 << 18);
    let (gzip, _) = pack("gzip", &vec![(Incompressible, prose(1 << 20))]).await;
    assert!(gzip.len() > 1 << 20);
}

#[tokio::test]
async fn every_cut_of_an_archive_is_an_error() {
    for compression in ["zstd", "gzip"] {
        let chunks =
            vec![(Compressible, prose(2_000)), (Incompressible, noise(300)), (Compressible, prose(9))];
        let (archive, packed) = pack(compression, &chunks).await;
        let mut ends = 0;
        for cut in 0..archive.len() {
            let mut reader = HashingReader::new(&archive[..cut]);
            let read = unpack(compression.parse().unwrap(), &mut reader).read_to_end(&mut Vec::new()).await;
            if let Err(err) = read {
                assert_eq!(err.kind(), io::ErrorKind::InvalidData, "at {cut}");
            } else {
                // Between two frames only the promised length tells.
                ends += 1;
                assert_ne!(reader.finish(), (packed.bytes, packed.sha256.clone()));
            }
        }
        assert_eq!(ends, 2, "{compression}: three frames touch in two places");
    }
}

/// A reader that gives a byte at a time.
struct Slow<'a>(&'a [u8]);

impl AsyncRead for Slow<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((first, rest)) = self.0.split_first() {
            into.put_slice(&[*first]);
            self.0 = rest;
        }
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn every_flipped_bit_is_an_error_or_harmless() {
    let chunks = vec![(Compressible, prose(900)), (Incompressible, noise(200)), (Compressible, prose(9))];
    let expected = content(&chunks);
    for compression in ["zstd", "gzip"] {
        let (archive, packed) = pack(compression, &chunks).await;
        let mut unseen = Vec::new();
        for bit in 0..archive.len() * 8 {
            let mut broken = archive.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let mut reader = HashingReader::new(Slow(&broken));
            let mut bytes = Vec::new();
            if unpack(compression.parse().unwrap(), &mut reader).read_to_end(&mut bytes).await.is_ok() {
                unseen.push((bit, bytes == expected));
            }
            assert_ne!(reader.finish().1, packed.sha256);
        }
        // The head of a frame has bits that change nothing: window size, time stamp, name of the system.
        assert!(unseen.iter().all(|(_, equal)| *equal), "{compression}: {unseen:?}");
    }
}

#[tokio::test]
async fn bytes_behind_the_archive_are_an_error() {
    for compression in ["zstd", "gzip"] {
        let (archive, _) = pack(compression, &mixed()).await;
        for tail in [&b"x"[..], b"\0", b"garbage behind the end", &[0x28, 0xB5], &[0x1F, 0x8B]] {
            let broken = [&archive, tail].concat();
            let err = unpacked(compression, &broken).await.unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{compression} and {tail:?}");
        }
    }
}

#[tokio::test]
async fn the_errors_of_a_failing_store_stay_what_they_were() {
    const EIO: i32 = 5;
    struct Failing<'a>(&'a [u8]);
    impl AsyncRead for Failing<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(EIO)));
            }
            Pin::new(&mut self.0).poll_read(cx, into)
        }
    }
    for compression in ALL {
        let (archive, _) = pack(compression, &vec![(Compressible, prose(1000))]).await;
        for cut in [0, 5, archive.len() / 2, archive.len()] {
            let mut reader = unpack(compression.parse().unwrap(), Failing(&archive[..cut]));
            let err = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(err.raw_os_error(), Some(EIO), "{compression} at {cut}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_ends_the_packing() {
    for compression in ALL {
        let (sink, pieces) = mpsc::channel(1);
        drop(pieces);
        let mut packer = Packer::start(compression.parse().unwrap(), None, sink);
        packer.content(Incompressible);
        let mut wrote = Ok(());
        while wrote.is_ok() {
            wrote = packer.write(noise(1 << 20).into()).await;
        }
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{compression}");
    }
}

#[tokio::test]
async fn a_packer_that_is_dropped_ends_its_archive_unfinished() {
    let (sink, mut pieces) = mpsc::channel(1);
    let mut packer = Packer::start(Compression::None, None, sink);
    packer.write(vec![1; 10].into()).await.unwrap();
    drop(packer);
    assert_eq!(pieces.recv().await, None, "the thread is gone, and nothing looks like an end");
}

#[tokio::test]
async fn what_is_under_way_is_bounded_however_much_goes_in() {
    const IN_ALL: u64 = 256 << 20;
    const UNDER_WAY: u64 = 80 << 20;
    // Longer than any window: it does not shrink.
    let chunks: Vec<_> = noise(16 << 20).chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    for content in [Compressible, Incompressible] {
        let (sink, mut pieces) = mpsc::channel(1);
        let mut packer = Packer::start(Compression::default(), None, sink);
        packer.content(content);
        let (taken, mut given) = (AtomicU64::new(0), 0);
        let feed = async {
            for chunk in chunks.iter().cycle() {
                packer.write(chunk.clone()).await.unwrap();
                if taken.fetch_add(chunk.len() as u64, Relaxed) >= IN_ALL {
                    break;
                }
            }
            packer.finish().await.unwrap()
        };
        let check = async {
            while let Some(piece) = pieces.recv().await {
                given += piece.len() as u64;
                assert!(taken.load(Relaxed) < given + UNDER_WAY, "{content:?}");
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(feed, check);
    }
}

#[test]
fn any_chunks_of_any_kind_come_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chunk = (any::<bool>(), any::<u8>(), 0..300_000_usize, any::<bool>()).prop_map(
        |(kind, seed, len, random)| {
            let mut bytes = if random { noise(len) } else { prose(len) };
            bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= seed);
            (if kind { Compressible } else { Incompressible }, bytes)
        },
    );
    let cases = (0..ALL.len(), prop::collection::vec(chunk, 0..12));
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&cases, |(which, chunks)| {
            runtime.block_on(async {
                let (archive, packed) = pack(ALL[which], &chunks).await;
                prop_assert_eq!(packed.source_bytes, content(&chunks).len() as u64);
                prop_assert!(unpacked(ALL[which], &archive).await.unwrap() == content(&chunks));
                Ok(())
            })
        })
        .unwrap();
}
