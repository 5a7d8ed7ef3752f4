//! Tar streams read back: whole ones counted, all others refused.

use crate::media::{MIB, decode, media, tar_of};
use crate::support::tree;
use async_tar::{EntryType, Header};
use bytes::Bytes;
use rna_backup::{
    component::{ComponentError, Source},
    domain::progress::Meter,
};
use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

#[tokio::test]
async fn every_cut_of_the_stream_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/file"), vec![1; 1500]).unwrap();
    fs::write(dir.path().join("x".repeat(150)), b"long name").unwrap();
    let (tar, _) = tar_of(dir.path(), || ()).await;
    for cut in 0..tar.len() {
        let err = decode(&tar[..cut]).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "at {cut}: {err:?}");
    }
    let longer = [&tar[..], &[0; 9000]].concat();
    decode(&longer).await.unwrap();
    decode(&[&longer[..], b"x"].concat()).await.unwrap_err();
}

#[tokio::test]
async fn a_damaged_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"content").unwrap();
    let (tar, _) = tar_of(dir.path(), || ()).await;
    let head = tar.windows(5).position(|bytes| bytes == b"file\0").unwrap();
    for at in [0, 100, 110, 124, 136, 156, 257, 300] {
        let mut broken = tar.clone();
        broken[head + at] ^= 0x01;
        let err = decode(&broken).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "at {at}: {err:?}");
    }
}

#[tokio::test]
async fn a_failing_feed_is_no_corrupt_archive() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"content").unwrap();
    let (tar, _) = tar_of(dir.path(), || ()).await;
    let lost = tokio_util::io::StreamReader::new(futures_util::stream::iter([
        Ok(Bytes::from(tar[..1000].to_vec())),
        Err(io::Error::from(io::ErrorKind::ConnectionReset)),
    ]));
    let err = media(Path::new("/")).decode(&mut Box::pin(lost), &Meter::default()).await.unwrap_err();
    assert!(matches!(err, ComponentError::Read { .. }) && err.is_transient(), "{err:?}");
}

#[tokio::test]
async fn hostile_archives_are_refused_before_they_fill_memory() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut feed = tokio::io::AsyncReadExt::chain(&header.as_bytes()[..], tokio::io::repeat(b'a'));
        let meter = Meter::default();
        let err = media(Path::new("/")).decode(&mut feed, &meter).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{err:?}");
        assert!(meter.read().0 < 8 * MIB as u64, "{kind:?}: read {} bytes", meter.read().0);
    }
    for kind in [EntryType::Block, EntryType::Fifo] {
        let mut header = Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        let err = decode(&[&header.as_bytes()[..], &[0; 1024]].concat()).await.unwrap_err();
        assert!(matches!(err, ComponentError::Corrupt { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn archives_of_gnu_tar_in_its_formats_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    tree::fill(dir.path());
    let expected = tar_of(dir.path(), || ()).await.1.counts;
    for format in ["gnu", "posix", "oldgnu"] {
        let output = Command::new("tar")
            .args(["--format", format, "-C", dir.path().to_str().unwrap(), "-cSf", "-", "."])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(decode(&output.stdout).await.unwrap(), expected, "{format}");
    }
}
