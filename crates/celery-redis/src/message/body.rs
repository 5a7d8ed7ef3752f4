//! Decodes the body of a message to the bytes that the sender serialized.

use super::super::json::Object;
use super::super::result::Exception;
use super::Limits;
use async_compression::{
    codecs::zstd::params::DParameter,
    tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZlibDecoder, ZstdDecoder},
};
use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The standard alphabet of base64; senders in other languages may leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Maximum memory that an xz stream may ask for. Python's default preset needs 9 MiB.
const XZ_MEMORY: u64 = 32 << 20;

/// Maximum zstd window, as a power of two: 8 MiB, the longest body.
const ZSTD_WINDOW: u32 = 23;

/// Builds the exception that Python would raise for a body that cannot be read.
pub(super) fn decode_error(why: impl Into<String>) -> Exception {
    Exception::kombu("DecodeError", why)
}

/// Returns the body as sent: without base64, still compressed.
pub(super) fn sent(outer: &Object) -> Result<Vec<u8>, Exception> {
    let text: String = outer.read("body").ok_or_else(|| decode_error("the message has no body text"))?;
    let encoding: Option<String> = outer.object("properties").read("body_encoding");
    match encoding.as_deref() {
        Some("base64") => {
            BASE64.decode(text).map_err(|source| decode_error(format!("body is not base64: {source}")))
        }
        None => Ok(text.into_bytes()),
        Some(other) => Err(decode_error(format!("body encoding {other} is not known"))),
    }
}

/// Returns the body without base64 and compression.
pub(in super::super) fn plain(outer: &Object, limits: &Limits) -> Result<Vec<u8>, Exception> {
    let sent = sent(outer)?;
    match outer.object("headers").read::<String>("compression") {
        Some(method) => decompress(&sent, &method, limits.body_bytes),
        None => Ok(sent),
    }
}

/// Undoes the compression that a `compression` header names, up to `limit` bytes.
///
/// Names and their codecs are those of `kombu/compression.py`. Its `gzip` is a zlib stream under the
/// type of gzip files; real gzip is accepted as well.
pub(in super::super) fn decompress(packed: &[u8], method: &str, limit: usize) -> Result<Vec<u8>, Exception> {
    let unpacked = match method {
        "application/x-gzip" | "gzip" | "zlib" if packed.starts_with(&[0x1f, 0x8b]) => {
            read(GzipDecoder::new(packed), limit)
        }
        "application/x-gzip" | "gzip" | "zlib" => read(ZlibDecoder::new(packed), limit),
        "application/x-bz2" | "bzip2" | "bzip" => read(BzDecoder::new(packed), limit),
        "application/x-lzma" | "lzma" | "xz" => read(XzDecoder::with_mem_limit(packed, XZ_MEMORY), limit),
        "application/zstd" | "zstd" | "zstandard" => {
            read(ZstdDecoder::with_params(packed, &[DParameter::window_log_max(ZSTD_WINDOW)]), limit)
        }
        other => return Err(decode_error(format!("compression {other} is not supported"))),
    };
    match unpacked {
        Ok(bytes) if bytes.len() <= limit => Ok(bytes),
        Ok(_) => Err(decode_error(format!("body is larger than {limit} bytes when decompressed"))),
        Err(why) => Err(decode_error(format!("body is not valid {method}: {why}"))),
    }
}

/// Reads at most one byte more than `limit`, so that a decompression bomb does not fill the memory.
fn read(decoder: impl AsyncRead + Unpin, limit: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let result = decoder.take(limit as u64 + 1).read_to_end(&mut out).now_or_never();
    result.expect("a decoder over bytes in memory never waits").map_err(|source| source.to_string())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_compression::tokio::bufread::{GzipEncoder, XzEncoder, ZstdEncoder};

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 1 << 20];
        let bombs = [
            ("application/x-gzip", read(GzipEncoder::new(&zeros[..]), usize::MAX - 1).unwrap()),
            ("application/x-lzma", read(XzEncoder::new(&zeros[..]), usize::MAX - 1).unwrap()),
            ("application/zstd", read(ZstdEncoder::new(&zeros[..]), usize::MAX - 1).unwrap()),
        ];
        for (method, bomb) in bombs {
            assert_eq!(decompress(&bomb, method, zeros.len()).unwrap(), zeros, "{method}");
            let refused = decompress(&bomb, method, zeros.len() - 1).unwrap_err();
            assert!(refused.message().contains("larger than"), "{refused:?}");
            let cut = decompress(&bomb[..bomb.len() / 2], method, zeros.len()).unwrap_err();
            assert!(cut.message().contains("not valid"), "{cut:?}");
        }
    }

    #[test]
    fn a_window_or_dictionary_of_gigabytes_is_refused() {
        // Frame header that asks for a window of 2 GiB, then an empty last block.
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(decompress(&zstd, "zstd", 100).unwrap_err().message().contains("not valid"));
    }
}
