//! The objects in a segment of Weaviate's store, read while the segment passes, to learn whether they have vectors.
//!
//! A segment begins with its level, version, number of secondary keys and strategy, two bytes each, and eight bytes
//! with the place of its index. Then comes each object: a byte that is 1 for a deletion, eight bytes with the length
//! of the value, the value, and the keys, each behind four bytes with its length. (Weaviate's source,
//! `lsmkv/segment_serialization.go` and `storobj/storage_object.go`.)

/// The kinds of vectors that objects have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vectors {
    /// The one vector without a name.
    pub(super) plain: bool,
    /// Vectors with names.
    pub(super) named: bool,
}

impl Vectors {
    const fn is_any(self) -> bool {
        self.plain || self.named
    }
}

/// A reader of one segment. What is no segment of objects has no vectors.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) found: Vectors,
    step: ParseState,
    /// The bytes of this step so far, and how many are needed.
    bytes: Vec<u8>,
    needed: usize,
    /// The bytes before this step, and where the objects end.
    passed: u64,
    end: u64,
    secondary_keys: u16,
}

#[derive(Debug, Clone, Copy)]
enum ParseState {
    Head,
    Object,
    Value { is_deletion: bool, length: usize },
    KeyLength { left: u16 },
    Key { left: u16 },
    Over,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            found: Vectors::default(),
            step: ParseState::Head,
            bytes: Vec::new(),
            needed: Self::HEAD,
            passed: 0,
            end: 0,
            secondary_keys: 0,
        }
    }
}

impl Segment {
    const HEAD: usize = 16;
    const OBJECT: usize = 9;
    /// The key of an object is its UUID.
    const UUID: usize = 16;
    /// No object is longer.
    const LONGEST: u64 = 64 << 20;

    /// Takes the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !matches!(self.step, ParseState::Over) {
            let (part, rest) = bytes.split_at(bytes.len().min(self.needed - self.bytes.len()));
            self.bytes.extend_from_slice(part);
            bytes = rest;
            if self.bytes.len() < self.needed {
                return;
            }
            self.passed += self.needed as u64;
            let text = std::mem::take(&mut self.bytes);
            (self.step, self.needed) = self.next(&text).unwrap_or((ParseState::Over, 0));
        }
    }

    /// Returns the step behind these bytes, and how many bytes that one needs.
    fn next(&mut self, bytes: &[u8]) -> Option<(ParseState, usize)> {
        let key = |left| {
            if left == 0 { (ParseState::Object, Self::OBJECT) } else { (ParseState::KeyLength { left }, 4) }
        };
        Some(match self.step {
            ParseState::Head => {
                let (_, mut rest) = bytes.split_at_checked(4)?;
                self.secondary_keys = u16::from_le_bytes(*take(&mut rest)?);
                let strategy = u16::from_le_bytes(*take(&mut rest)?);
                self.end = u64::from_le_bytes(*take(&mut rest)?);
                (strategy == 0).then_some((ParseState::Object, Self::OBJECT))?
            }
            ParseState::Object if self.passed > self.end || self.found.is_any() => return None,
            ParseState::Object => {
                let (is_deletion, mut rest) = (bytes[0] == 1, &bytes[1..]);
                let length = u64::from_le_bytes(*take(&mut rest)?);
                let length = usize::try_from(length).ok().filter(|_| length < Self::LONGEST)?;
                (ParseState::Value { is_deletion, length }, length + 4 + Self::UUID)
            }
            ParseState::Value { is_deletion, length } => {
                let (value, mut rest) = bytes.split_at(length);
                let key_length = u32::from_le_bytes(*take(&mut rest)?);
                // A value without the UUID of its key is no object that this reader understands.
                if key_length as usize != Self::UUID || !is_deletion && value.get(10..26) != Some(rest) {
                    return None;
                }
                if !is_deletion {
                    self.found = vectors(value)?;
                }
                key(self.secondary_keys)
            }
            ParseState::KeyLength { left } => {
                let length = u32::from_le_bytes(bytes.try_into().ok()?);
                let length = usize::try_from(length).ok().filter(|length| *length < 1024)?;
                if length == 0 { key(left - 1) } else { (ParseState::Key { left }, length) }
            }
            ParseState::Key { left } => key(left - 1),
            ParseState::Over => return None,
        })
    }
}

/// Takes the next bytes from `rest`.
fn take<'a, const COUNT: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; COUNT]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(first)
}

/// Returns what vectors an object has: behind 42 bytes comes the vector without a name, then the class and three
/// texts, then the places of the vectors with names.
fn vectors(object: &[u8]) -> Option<Vectors> {
    const HEAD: usize = 42;
    let mut rest = object.get(HEAD..).filter(|_| object[0] == 1)?;
    let dimensions = u16::from_le_bytes(*take(&mut rest)?);
    rest = rest.get(usize::from(dimensions) * 4..)?;
    let class = u16::from_le_bytes(*take(&mut rest)?);
    rest = rest.get(usize::from(class)..)?;
    for _ in ["properties", "meta data", "weights"] {
        let length = u32::from_le_bytes(*take(&mut rest)?);
        rest = rest.get(length as usize..)?;
    }
    // Versions before vectors with names end here.
    let places = take(&mut rest).map_or(0, |length| u32::from_le_bytes(*length));
    Some(Vectors { plain: dimensions > 0, named: places > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(number: u8, dimensions: u16, places: u32) -> Vec<u8> {
        let mut value = vec![1];
        value.extend([0; 9]);
        value.extend([number; 16]);
        value.extend([0; 16]);
        value.extend(dimensions.to_le_bytes());
        value.extend(vec![9; usize::from(dimensions) * 4]);
        value.extend([1, 0, b'C']);
        for text in ["{}", "null", "null"] {
            value.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
            value.extend(text.bytes());
        }
        value.extend(places.to_le_bytes());
        value.extend(vec![7; places as usize]);
        entry(0, &value, number)
    }

    fn entry(deletion: u8, value: &[u8], number: u8) -> Vec<u8> {
        let mut entry = vec![deletion];
        entry.extend((value.len() as u64).to_le_bytes());
        entry.extend(value);
        entry.extend(16u32.to_le_bytes());
        entry.extend([number; 16]);
        // Two secondary keys, the second of them empty.
        entry.extend([3, 0, 0, 0, b'k', b'e', b'y', 0, 0, 0, 0]);
        entry
    }

    fn found(objects: &[Vec<u8>], piece: usize) -> Vectors {
        let objects = objects.concat();
        let mut file = vec![0, 0, 0, 0, 2, 0, 0, 0];
        file.extend((16 + objects.len() as u64).to_le_bytes());
        file.extend(objects);
        // The index, which holds keys and no objects, then what fills up the last block.
        file.extend(object(9, 8, 8));
        file.extend([0; 300]);
        let mut segment = Segment::default();
        file.chunks(piece).for_each(|part| segment.take(part));
        segment.found
    }

    #[test]
    fn the_vectors_of_any_object_are_seen_and_nothing_else_is_taken_for_one() {
        let (none, plain, named) = (Vectors::default(), object(3, 8, 0), object(4, 0, 5));
        for piece in [1, 7, 4096] {
            let without = [object(1, 0, 0), entry(1, b"", 5), object(2, 0, 0)];
            assert_eq!(found(&without, piece), none);
            assert_eq!(
                found(&[&without[..], std::slice::from_ref(&plain)].concat(), piece),
                Vectors { plain: true, ..none }
            );
            assert_eq!(
                found(&[&without[..], std::slice::from_ref(&named)].concat(), piece),
                Vectors { named: true, ..none }
            );
        }
        let mut another = plain;
        another[9 + 12] ^= 1; // of the UUID
        assert_eq!(found(&[another], 512), none);
        let mut segment = Segment::default();
        segment.take(&[255; 4096]);
        assert_eq!(segment.found, none);
    }
}
