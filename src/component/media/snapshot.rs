//! The snapshot of a backup: its look at every file, by which the next one knows the files that have not changed since.
//!
//! A file of our own beside the backups, never in them: a line of JSON, then a record for each regular file
//! in the order of the walk, in one zstd frame with its checksum. It may be deleted at any time: the next
//! backup is a full one then. Names of files stand in it, also where backups are encrypted.

use crate::base::durable;
use crate::component::media::file_stat::FileStat;
use crate::domain::id::BackupId;
use crate::stream::tar::AttributeKinds;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The snapshot of the last backup that exists.
const LAST: &str = "snapshot";
/// The one that is being written.
const NEXT: &str = "snapshot.next";

/// The head of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Version of this format.
    pub(super) format: u32,
    /// The backup that saw this.
    pub(super) backup: BackupId,
    /// The media folder.
    pub(super) root: PathBuf,
    /// The protection of its archives.
    #[serde(rename = "terms")]
    pub(super) recipients: String,
    /// The time at which the full backup began that this one goes back to.
    pub(super) full_at: Timestamp,
    /// The backups whose archives records name by their place here; the last is this one.
    pub(super) archives: Vec<BackupId>,
}

impl Head {
    /// 2 since archives hold attributes and holes: what refers to earlier ones would come back without.
    pub(super) const FORMAT: u32 = 2;
}

/// The attributes of a file in an archive, for the counts of later backups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extras {
    pub(super) kinds: AttributeKinds,
    /// Bytes of the content that are stored as holes.
    pub(super) holes: u64,
}

/// One file.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    path: Vec<u8>,
    file_stat: FileStat,
    extras: Extras,
    /// The index of the archive that holds the file.
    archive: u32,
}

impl Record {
    /// `None` at the end.
    fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        /// No path is longer.
        const MOST: u32 = 1 << 16;
        let mut length = [0; 4];
        match from.read(&mut length[..1])? {
            0 => return Ok(None),
            _ => from.read_exact(&mut length[1..])?,
        }
        let length = Some(u32::from_le_bytes(length)).filter(|length| *length <= MOST);
        let mut path = vec![0; length.ok_or(io::ErrorKind::InvalidData)? as usize];
        from.read_exact(&mut path)?;
        let mut rest = [0; 4 + 1 + 7 * 8];
        from.read_exact(&mut rest)?;
        let ([archive @ .., kinds], numbers) = rest.split_first_chunk::<5>().expect("it is longer");
        let (numbers, _) = numbers.as_chunks::<8>();
        let [holes, numbers @ ..]: [u64; 7] = std::array::from_fn(|at| u64::from_le_bytes(numbers[at]));
        let (file_stat, archive) = (FileStat::from_numbers(numbers), u32::from_le_bytes(*archive));
        Ok(Some(Self { path, file_stat, extras: Extras { kinds: AttributeKinds(*kinds), holes }, archive }))
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.path.len()).map_err(io::Error::other)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&self.path)?;
        to.write_all(&self.archive.to_le_bytes())?;
        to.write_all(&[self.extras.kinds.0])?;
        to.write_all(&self.extras.holes.to_le_bytes())?;
        self.file_stat.numbers().iter().try_for_each(|number| to.write_all(&number.to_le_bytes()))
    }
}

/// The last snapshot, read along the walk.
pub(super) struct Snapshot {
    pub(super) head: Head,
    /// The archives that hold files of it.
    pub(super) used: Vec<bool>,
    records: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    /// The first record that the walk has not passed.
    next: Option<Record>,
}

impl Snapshot {
    /// The last one, if there is one. It is read to its end once, to see that it is whole.
    pub(super) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let mut first = match Self::begin(folder) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            begun => begun?,
        };
        while let Some(record) = first.next {
            *first.used.get_mut(record.archive as usize).ok_or(io::ErrorKind::InvalidData)? = true;
            first.next = Record::read(&mut first.records)?;
        }
        Ok(Some(Self { used: first.used, ..Self::begin(folder)? }))
    }

    fn begin(folder: &Path) -> io::Result<Self> {
        let mut records = BufReader::new(zstd::Decoder::new(File::open(folder.join(LAST))?)?);
        let head = read_head(&mut records)?;
        let next = Record::read(&mut records)?;
        Ok(Self { used: vec![false; head.archives.len()], head, records, next })
    }

    /// The look at a file, the attributes stored of it, and the archive that holds it; paths come in the order of the walk.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<Option<(FileStat, Extras, u32)>> {
        while let Some(record) = self.next.take() {
            if !in_order(&record.path).lt(in_order(path)) {
                let found =
                    (record.path == path).then_some((record.file_stat, record.extras, record.archive));
                self.next = Some(record);
                return Ok(found);
            }
            self.next = Record::read(&mut self.records)?;
        }
        Ok(None)
    }
}

/// As the walk goes: what is in a folder comes before whatever else begins with the name of the folder.
fn in_order(path: &[u8]) -> impl Iterator<Item = u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
}

fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    let mut line = Vec::new();
    from.take(1 << 20).read_until(b'\n', &mut line)?;
    let head: Head = serde_json::from_slice(&line)?;
    if head.format == Head::FORMAT { Ok(head) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The snapshot that is being written.
pub(super) struct Writing {
    to: BufWriter<zstd::Encoder<'static, File>>,
    /// The place of the archive that is being written.
    own: u32,
    file: Unfinished,
}

/// A file that goes unless somebody says that it is whole.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = self.0.take().map(fs::remove_file);
    }
}

impl Writing {
    pub(super) fn begin(folder: &Path, head: &Head) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(NEXT);
        let _ = fs::remove_file(&path); // of a run that died
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let file = Unfinished(Some(path));
        let mut to = zstd::Encoder::new(open, 1)?;
        to.include_checksum(true)?;
        let mut to = BufWriter::new(to);
        serde_json::to_writer(&mut to, head)?;
        to.write_all(b"\n")?;
        let own = head.archives.len().checked_sub(1).and_then(|own| u32::try_from(own).ok());
        Ok(Self { to, own: own.ok_or(io::ErrorKind::InvalidInput)?, file })
    }

    /// Notes a file, and the archive that holds it; `None`: the one that is being written.
    pub(super) fn note(
        &mut self,
        path: &[u8],
        file_stat: FileStat,
        extras: Extras,
        archive: Option<u32>,
    ) -> io::Result<()> {
        let archive = archive.unwrap_or(self.own);
        Record { path: path.to_vec(), file_stat, extras, archive }.write(&mut self.to)
    }

    /// Ends it. What is not written to its end is not left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        self.file.0 = None;
        Ok(())
    }
}

/// The backup exists: what it saw is what the next one goes by.
pub(super) fn keep(folder: &Path, backup: &BackupId) -> io::Result<()> {
    let next = folder.join(NEXT);
    let head = match File::open(&next) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => read_head(&mut BufReader::new(zstd::Decoder::new(file?)?))?,
    };
    if head.backup == *backup {
        durable::rename(&File::open(&next)?, &next, &folder.join(LAST))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_stat(number: u64) -> FileStat {
        FileStat::from_numbers([number; 6])
    }

    fn extras(number: u64) -> Extras {
        Extras { kinds: AttributeKinds(u8::try_from(number % 256).unwrap()), holes: number }
    }

    fn head(backup: &BackupId) -> Head {
        Head {
            format: Head::FORMAT,
            backup: backup.clone(),
            root: "/media".into(),
            recipients: String::new(),
            full_at: backup.created(),
            archives: vec!["media_backup_20261101_040000".parse().unwrap(), backup.clone()],
        }
    }

    #[test]
    fn what_was_noted_is_found_along_the_walk() {
        let folder = tempfile::tempdir().unwrap();
        let backup: BackupId = "media_backup_20261122_040000".parse().unwrap();
        assert!(Snapshot::open(folder.path()).unwrap().is_none());
        let mut writing = Writing::begin(folder.path(), &head(&backup)).unwrap();
        // In the order of a walk: a folder's contents before its longer neighbours.
        let paths: [&[u8]; 5] = [b"a", b"b/c", b"b/\xFF", b"b-", b"b."];
        for (number, path) in paths.iter().enumerate() {
            let (seen, number) = (number as u64, number);
            writing.note(path, file_stat(seen), extras(seen), Some(0).filter(|_| number > 2)).unwrap();
        }
        writing.finish().unwrap();
        assert!(Snapshot::open(folder.path()).unwrap().is_none(), "the backup does not exist yet");
        keep(folder.path(), &"media_backup_20261122_050000".parse().unwrap()).unwrap();
        assert!(Snapshot::open(folder.path()).unwrap().is_none(), "another backup exists");
        keep(folder.path(), &backup).unwrap();

        let mut snapshot = Snapshot::open(folder.path()).unwrap().unwrap();
        assert_eq!(snapshot.head, head(&backup));
        assert_eq!(snapshot.used, [true, true]);
        assert_eq!(snapshot.find(b"a").unwrap(), Some((file_stat(0), extras(0), 1)));
        assert_eq!(snapshot.find(b"a/new").unwrap(), None);
        for _ in 0..2 {
            assert_eq!(snapshot.find(b"b/\xFF").unwrap(), Some((file_stat(2), extras(2), 1)));
        }
        assert_eq!(snapshot.find(b"b.").unwrap(), Some((file_stat(4), extras(4), 0)));
        assert_eq!(snapshot.find(b"z").unwrap(), None);
    }

    #[test]
    fn a_damaged_snapshot_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let backup: BackupId = "media_backup_20261122_040000".parse().unwrap();
        let mut writing = Writing::begin(folder.path(), &head(&backup)).unwrap();
        (0..1000_u64)
            .try_for_each(|n| writing.note(format!("{n:04}").as_bytes(), file_stat(n), extras(n), None))
            .unwrap();
        writing.finish().unwrap();
        keep(folder.path(), &backup).unwrap();
        let path = folder.path().join(LAST);
        let whole = fs::read(&path).unwrap();
        assert!(Snapshot::open(folder.path()).unwrap().is_some());
        for at in [whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(Snapshot::open(folder.path()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(Snapshot::open(folder.path()).is_err(), "cut at {at}");
        }
    }
}
