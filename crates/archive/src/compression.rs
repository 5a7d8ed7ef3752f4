//! The compression of archives, as settings, manifests and file names name it.

use std::{fmt, str::FromStr};

/// The compression of an archive: `zstd[:level]`, `gzip[:level]` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard in several threads, with checksum.
    Zstd {
        /// 1 to 19; 3 unless said otherwise. About 60 MiB of memory at 3; from 10 on, 50 to 100 MiB for
        /// each of at most four threads.
        level: i32,
    },
    /// gzip, in one thread: for places where zstd is not installed.
    Gzip {
        /// 1 to 9; 6 unless said otherwise.
        level: i32,
    },
    /// Bytes as they are.
    None,
}

impl Compression {
    /// The extension of file names after that of the archive itself: `.zst`, `.gz` or nothing.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Zstd { .. } => ".zst",
            Self::Gzip { .. } => ".gz",
            Self::None => "",
        }
    }

    /// The memory that a decoder needs for the archive's window, in bytes. For zstd these are the windows of its
    /// levels (`lib/compress/clevels.h`), for gzip that of RFC 1951, and one block where there is no compression.
    pub const fn window(self) -> u64 {
        match self {
            Self::Zstd { level: ..=8 } => 2 << 20,
            Self::Zstd { level: 9..=16 } => 4 << 20,
            Self::Zstd { level: 17.. } => 8 << 20,
            Self::Gzip { .. } | Self::None => 32 << 10,
        }
    }

    /// The compression of an archive with these first bytes: zstd begins with a frame or a skippable one (RFC 8878),
    /// gzip with RFC 1952's two bytes. The level, which no reader needs, is the default.
    pub fn of_bytes(head: &[u8]) -> Self {
        match head {
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Self::default(),
            [0x1F, 0x8B, ..] => Self::Gzip { level: 6 },
            _ => Self::None,
        }
    }

    /// The compression of an archive with this file name; the level, which no reader needs, is the default.
    pub fn of_file(name: &str) -> Self {
        match name.strip_suffix(".age").unwrap_or(name).rsplit('.').next() {
            Some("zst") => Self::default(),
            Some("gz") => Self::Gzip { level: 6 },
            _ => Self::None,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: 3 }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, InvalidCompression> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        let level = |default, best| {
            let level = level.map_or(Some(default), |text| text.parse().ok());
            level.filter(|level| (1..=best).contains(level))
        };
        match name {
            "zstd" => Ok(Self::Zstd { level: level(3, 19).ok_or(InvalidCompression::ZstdLevel)? }),
            "gzip" => Ok(Self::Gzip { level: level(6, 9).ok_or(InvalidCompression::GzipLevel)? }),
            "none" if level(1, 1).is_some() && text == name => Ok(Self::None),
            _ => Err(InvalidCompression::Kind),
        }
    }
}

/// The text is not a compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCompression {
    /// No such kind.
    #[error("is not one of zstd, zstd:LEVEL, gzip, gzip:LEVEL, none")]
    Kind,
    /// No such level of zstd.
    #[error("has a level that is not one of zstd's: 1 (fast) to 19 (small)")]
    ZstdLevel,
    /// No such level of gzip.
    #[error("has a level that is not one of gzip's: 1 (fast) to 9 (small)")]
    GzipLevel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_reads_as_it_is_written() {
        for (text, full, extension) in [
            ("zstd", "zstd:3", ".zst"),
            ("zstd:19", "zstd:19", ".zst"),
            ("gzip", "gzip:6", ".gz"),
            ("gzip:1", "gzip:1", ".gz"),
            ("none", "none", ""),
        ] {
            let parsed: Compression = text.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.extension()), (full, extension));
            assert_eq!(full.parse(), Ok(parsed));
        }
        assert_eq!(Compression::default(), "zstd".parse().unwrap());
    }

    #[test]
    fn what_is_wrong_with_a_compression_is_said() {
        use InvalidCompression::{GzipLevel, Kind, ZstdLevel};
        for (text, why) in [
            ("", Kind),
            ("lz4", Kind),
            ("none:1", Kind),
            ("ZSTD", Kind),
            ("zstd:", ZstdLevel),
            ("zstd:0", ZstdLevel),
            ("zstd:20", ZstdLevel),
            ("zstd:fast", ZstdLevel),
            ("gzip:0", GzipLevel),
            ("gzip:10", GzipLevel),
        ] {
            assert_eq!(text.parse::<Compression>(), Err(why), "{text}");
        }
    }
}
