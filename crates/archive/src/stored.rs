//! Standard zstd frames whose blocks are stored as they are: for bytes that would not shrink.
//!
//! Frames concatenate (RFC 8878, section 3), so that an archive may go over from a compressed frame
//! to a stored one and back, and every `zstd -d` reads it.

use std::io::{self, Write};
use xxhash_rust::xxh64::Xxh64;

/// Little-endian, RFC 8878 section 3.1.1.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Frame header descriptor: no content size, not a single segment, checksum at the end (section 3.1.1.1.1).
const DESCRIPTOR: u8 = 0b0000_0100;
/// Window descriptor of 128 KiB: exponent 7 over 1 KiB, mantissa 0 (section 3.1.1.1.2).
const WINDOW: u8 = 7 << 3;
/// The most one block may hold with that window (section 3.1.1.2.4).
const BLOCK: usize = 128 * 1024;

/// One frame of raw blocks under way. Dropped without [`end`](Self::end), what was written is cut short.
pub(super) struct StoredFrame {
    checksum: Xxh64,
}

impl StoredFrame {
    /// Writes the head of a frame.
    pub(super) fn begin(to: &mut impl Write) -> io::Result<Self> {
        to.write_all(&MAGIC)?;
        to.write_all(&[DESCRIPTOR, WINDOW])?;
        Ok(Self { checksum: Xxh64::new(0) })
    }

    /// Writes bytes as raw blocks, none of them the last one.
    pub(super) fn write(&mut self, bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
        self.checksum.update(bytes);
        for block in bytes.chunks(BLOCK) {
            to.write_all(&head(block.len(), false))?;
            to.write_all(block)?;
        }
        Ok(())
    }

    /// Ends the frame with an empty last block, since nobody knew before that it would be the last.
    pub(super) fn end(self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&head(0, true))?;
        // The low 32 bits of XXH64 with seed 0, little-endian (section 3.1.1).
        let digest = self.checksum.digest().to_le_bytes();
        to.write_all(&digest[..4])
    }
}

/// A block header: last flag, type 0 (raw) in two bits, size in 21 (section 3.1.1.2).
fn head(size: usize, last: bool) -> [u8; 3] {
    let word = u32::try_from(size).expect("a block is at most 128 KiB") << 3 | u32::from(last);
    let [a, b, c, _] = word.to_le_bytes();
    [a, b, c]
}
