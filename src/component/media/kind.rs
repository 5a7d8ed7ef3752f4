//! The files that are not worth compressing, by their names.

/// Kinds of files whose contents are compressed already, by extension in lower case.
///
/// Measured with zstd at level 3, these lose less than about 3 %. Not among them, since they often lose
/// a fifth or more: PDF, TIFF, PostScript, Parquet, HDF5, microscope formats.
const COMPRESSED: &[&str] = &[
    // Pictures
    "avif", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl", "png", "webp", //
    // Film and sound
    "3gp", "aac", "avi", "flac", "flv", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "oga", "ogg",
    "ogv", "opus", "webm", "wma", "wmv", //
    // Archives and packages
    "7z", "apk", "br", "bz2", "cab", "deb", "gz", "jar", "lz", "lz4", "lzma", "rar", "rpm", "tbz2", "tgz",
    "txz", "tzst", "war", "whl", "xz", "zip", "zst", //
    // Documents that are zip files inside, fonts
    "docx", "epub", "odp", "ods", "odt", "pptx", "woff", "woff2", "xlsm", "xlsx", //
    // Sequencing data: BGZF inside, or entropy-coded
    "bam", "bcf", "bgz", "cram", "sra",
];

/// Tests whether a file of that name is compressed already. A wrong guess costs space or time, never content.
pub(super) fn is_compressed(name: &[u8]) -> bool {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else { return false };
    let extension = &name[dot + 1..];
    COMPRESSED.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_decides_in_any_case() {
        for name in ["a.jpg", "GEL.JPEG", "reads.fastq.gz", "x.y.z.Zip", ".png"] {
            assert!(is_compressed(name.as_bytes()), "{name}");
        }
        for name in ["", "jpg", "a.txt", "a.jpg.csv", "report.pdf", "a.", "a.jp", "zip/notes"] {
            assert!(!is_compressed(name.as_bytes()), "{name}");
        }
    }
}
