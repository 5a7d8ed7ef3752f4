//! A part of an export: objects, one a line, in a zstd frame with its checksum.

use serde::Deserialize;
use std::io::{self, Write};
use zstd::stream::{raw::Decoder, zio::Writer};

/// No part is longer: it ends with the object that makes it long, and no server takes one of this length.
pub(super) const LONGEST_PART: usize = 256 << 20;

/// Takes the bytes of one part, and counts the objects in it.
pub(super) struct Lines(Writer<Counting, Decoder<'static>>);

impl Lines {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Writer::new(Counting::default(), Decoder::new()?)))
    }

    /// The next bytes.
    ///
    /// # Errors
    ///
    /// When they are damaged, or a line is no object with an id.
    pub(super) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The end, and how many objects there were.
    ///
    /// # Errors
    ///
    /// When it is cut short.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.0.finish()?;
        let (Counting { objects, line, .. }, _) = self.0.into_inner();
        if line.is_empty() { Ok(objects) } else { Err(odd("the last line is cut")) }
    }
}

#[derive(Debug, Default)]
struct Counting {
    objects: u64,
    bytes: usize,
    line: Vec<u8>,
}

/// What every object must have.
#[derive(Deserialize)]
struct Object {
    #[serde(rename = "id")]
    _id: String,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len();
        if self.bytes > LONGEST_PART {
            return Err(odd("a part too long to be true"));
        }
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.line.extend_from_slice(&rest[..end]);
            serde_json::from_slice::<Object>(&self.line).map_err(odd)?;
            self.objects += 1;
            self.line.clear();
            rest = &rest[end + 1..];
        }
        self.line.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn odd(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Packs lines as [`Lines`] reads them.
///
/// # Errors
///
/// When there is no memory.
pub(super) fn pack(lines: &[u8]) -> io::Result<Vec<u8>> {
    /// As archives have it by default.
    const LEVEL: i32 = 3;
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(lines)?;
    encoder.finish()
}

#[test]
fn objects_are_counted_and_every_cut_and_flip_is_seen() {
    let count = |packed: &[u8]| {
        let mut lines = Lines::new()?;
        packed.chunks(5).try_for_each(|part| lines.take(part))?;
        lines.finish()
    };
    let object =
        |number: u32| format!("{{\"class\":\"A\",\"id\":\"{number}\",\"properties\":{{\"n\":{number}}}}}\n");
    let text: String = (0..50).map(object).collect();
    let packed = pack(text.as_bytes()).unwrap();
    assert_eq!(count(&packed).unwrap(), 50);
    for cut in 1..packed.len() {
        assert!(count(&packed[..cut]).is_err(), "{cut}");
    }
    let mut flipped = packed.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(count(&flipped).is_err());
    for bad in ["{\"class\":\"A\"}\n", "not JSON\n", "{\"id\":\"1\"}"] {
        assert!(count(&pack(bad.as_bytes()).unwrap()).is_err(), "{bad}");
    }
}
