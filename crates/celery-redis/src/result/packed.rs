//! Results that Celery from 5.7 on stores compressed, where the app sets `result_compression`.
//!
//! Source: `compress_payload` and `decompress_payload` in `celery/backends/base.py`.

use super::super::message::{Limits, decompress};
use std::borrow::Cow;

/// The start of a compressed text. The name of the compression, a zero byte and the compressed text follow.
const MAGIC: &[u8] = b"\0celery-compressed\0";

/// Maximum length, in bytes, of all texts that one reader unpacks: the results of one chord, for instance. Texts that
/// are not compressed are not counted.
const MOST: usize = 64 << 20;

/// Unpacks texts, up to a limit on their common length: a few kilobytes may unpack to gigabytes.
#[derive(Debug)]
pub(in super::super) struct Unpacker {
    left: usize,
}

impl Unpacker {
    pub(in super::super) const fn new() -> Self {
        Self { left: MOST }
    }

    /// Returns the text as it was before its compression, and a text that is not compressed unchanged.
    ///
    /// # Errors
    ///
    /// The reason that the text cannot be unpacked, in words.
    pub(in super::super) fn unpack<'a>(&mut self, text: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let Some(rest) = text.strip_prefix(MAGIC) else { return Ok(text.into()) };
        let Some(end) = rest.iter().position(|byte| *byte == 0) else {
            return Err("a compressed result does not name its compression".to_owned());
        };
        let method = String::from_utf8_lossy(&rest[..end]);
        let limit = Limits::default().body_bytes.min(self.left);
        let plain = decompress(&rest[end + 1..], &method, limit).map_err(|err| err.message().to_owned())?;
        self.left -= plain.len();
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_compression::tokio::bufread::ZlibEncoder;
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut packed = [MAGIC, b"application/x-gzip\0"].concat();
        ZlibEncoder::new(text).read_to_end(&mut packed).now_or_never().unwrap().unwrap();
        packed
    }

    #[test]
    fn what_is_not_packed_is_left_and_what_cannot_be_unpacked_says_why() {
        let mut unpacker = Unpacker::new();
        for text in [&b""[..], b"{}", b"\0celery-compressed"] {
            assert_eq!(unpacker.unpack(text).unwrap(), text);
        }
        assert_eq!(&*unpacker.unpack(&zlib(b"{\"a\": 1}")).unwrap(), b"{\"a\": 1}");
        let broken = [
            (MAGIC.to_vec(), "does not name"),
            ([MAGIC, b"application/x-brotli\0x"].concat(), "application/x-brotli is not supported"),
            ([MAGIC, b"application/zstd\0x"].concat(), "is not valid"),
        ];
        for (text, why) in broken {
            let err = unpacker.unpack(&text).unwrap_err();
            assert!(err.contains(why), "{err}");
        }
    }

    #[test]
    fn bombs_are_refused_each_and_together() {
        let bomb = zlib(&vec![b' '; (8 << 20) + 1]);
        assert!(Unpacker::new().unpack(&bomb).unwrap_err().contains("larger than"));
        let (mut unpacker, part) = (Unpacker::new(), zlib(&vec![b' '; 8 << 20]));
        let unpacked = (0..9).take_while(|_| unpacker.unpack(&part).is_ok()).count();
        assert_eq!(unpacked, 8);
    }
}
