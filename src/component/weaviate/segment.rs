//! The objects in a segment of Weaviate's store, read while the segment passes, to learn whether they have vectors.
//!
//! A segment begins with its level, version, number of secondary keys and strategy, two bytes each, and eight bytes
//! with the place of its index. Then comes each object: a byte that is 1 for a deletion, eight bytes with the length
//! of the value, the value, and the keys, each behind four bytes with its length. The value begins with its version (1),
//! eight bytes, its kind, the UUID, two times, and the vector without a name behind two bytes with its length; then come the
//! class and three texts, each behind its length, and the places of the vectors with names. (Weaviate's source,
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
    /// The bytes to pass over before this step: memory holds no object.
    skipped: u64,
    /// The bytes of this step so far, and how many are needed.
    bytes: Vec<u8>,
    needed: usize,
    /// The bytes before this step, and where the objects end.
    passed: u64,
    end: u64,
    secondary_keys: u16,
    /// The object under way.
    object: Object,
}

/// The state of an object that is read.
#[derive(Debug, Default)]
struct Object {
    /// The bytes of the value that are not read yet.
    left: u64,
    /// The UUID within the value; `None` of a deletion.
    uuid: Option<[u8; Segment::UUID]>,
    vectors: Vectors,
}

#[derive(Debug, Clone, Copy)]
enum ParseState {
    Head,
    Object,
    /// The beginning of a value, to the length of the vector without a name.
    ValueHead,
    /// The length of the class's name, behind that vector.
    ClassLength,
    /// The length of a text: the properties, the meta data, the weights.
    TextLength {
        behind: u8,
    },
    /// The places of the vectors with names; versions before these vectors end here.
    Places,
    /// The key of the object, behind its length.
    Uuid,
    KeyLength {
        left: u16,
    },
    Key {
        left: u16,
    },
    Over,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            found: Vectors::default(),
            step: ParseState::Head,
            skipped: 0,
            bytes: Vec::new(),
            needed: Self::HEAD,
            passed: 0,
            end: 0,
            secondary_keys: 0,
            object: Object::default(),
        }
    }
}

impl Segment {
    const HEAD: usize = 16;
    const OBJECT: usize = 9;
    const VALUE_HEAD: usize = 44;
    /// The key of an object is its UUID.
    const UUID: usize = 16;

    /// Takes the next bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !matches!(self.step, ParseState::Over) {
            let skipped = usize::try_from(self.skipped).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.skipped -= skipped as u64;
            self.passed += skipped as u64;
            bytes = &bytes[skipped..];
            if self.skipped > 0 {
                return;
            }
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
    fn next(&mut self, mut bytes: &[u8]) -> Option<(ParseState, usize)> {
        let bytes = &mut bytes;
        let key = |left| {
            if left == 0 { (ParseState::Object, Self::OBJECT) } else { (ParseState::KeyLength { left }, 4) }
        };
        Some(match self.step {
            ParseState::Head => {
                take::<4>(bytes)?;
                self.secondary_keys = u16::from_le_bytes(*take(bytes)?);
                let strategy = u16::from_le_bytes(*take(bytes)?);
                self.end = u64::from_le_bytes(*take(bytes)?);
                (strategy == 0).then_some((ParseState::Object, Self::OBJECT))?
            }
            ParseState::Object if self.passed > self.end || self.found.is_any() => return None,
            ParseState::Object => {
                let [kind] = *take(bytes)?;
                self.object = Object { left: u64::from_le_bytes(*take(bytes)?), ..Object::default() };
                if kind == 1 {
                    self.value_ends()
                } else {
                    self.value(ParseState::ValueHead, Self::VALUE_HEAD)?
                }
            }
            ParseState::ValueHead => self.value_head(bytes)?,
            ParseState::ClassLength => {
                self.skip(u16::from_le_bytes(*take(bytes)?).into())?;
                self.value(ParseState::TextLength { behind: 2 }, 4)?
            }
            ParseState::TextLength { behind } => {
                self.skip(u32::from_le_bytes(*take(bytes)?).into())?;
                match behind {
                    0 if self.object.left < 4 => self.value_ends(),
                    0 => self.value(ParseState::Places, 4)?,
                    _ => self.value(ParseState::TextLength { behind: behind - 1 }, 4)?,
                }
            }
            ParseState::Places => {
                self.object.vectors.named = u32::from_le_bytes(*take(bytes)?) > 0;
                self.value_ends()
            }
            ParseState::Uuid => {
                let (length, uuid) = (u32::from_le_bytes(*take(bytes)?), *take(bytes)?);
                // A value without the UUID of its key is no object that this reader understands.
                if length as usize != Self::UUID || self.object.uuid.is_some_and(|within| within != uuid) {
                    return None;
                }
                self.found = self.object.vectors;
                key(self.secondary_keys)
            }
            ParseState::KeyLength { left } => {
                let length = u32::from_le_bytes(*take(bytes)?);
                let length = usize::try_from(length).ok().filter(|length| *length < 1024)?;
                if length == 0 { key(left - 1) } else { (ParseState::Key { left }, length) }
            }
            ParseState::Key { left } => key(left - 1),
            ParseState::Over => return None,
        })
    }

    /// Reads the beginning of a value.
    fn value_head(&mut self, bytes: &mut &[u8]) -> Option<(ParseState, usize)> {
        let ([1], _, uuid) = (*take(bytes)?, take::<9>(bytes)?, take(bytes)?) else { return None };
        self.object.uuid = Some(*uuid);
        let (_, dimensions) = (take::<16>(bytes)?, u16::from_le_bytes(*take(bytes)?));
        self.object.vectors.plain = dimensions > 0;
        self.skip(u64::from(dimensions) * 4)?;
        self.value(ParseState::ClassLength, 2)
    }

    /// Goes to a step within the value, which must have so many bytes more.
    fn value(&mut self, step: ParseState, needed: usize) -> Option<(ParseState, usize)> {
        self.object.left = self.object.left.checked_sub(needed as u64)?;
        Some((step, needed))
    }

    /// Passes over bytes of the value.
    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.object.left = self.object.left.checked_sub(bytes)?;
        self.skipped = bytes;
        Some(())
    }

    /// Passes over the rest of the value. What is wanted of it is known.
    fn value_ends(&mut self) -> (ParseState, usize) {
        self.skipped += self.object.left;
        (ParseState::Uuid, 4 + Self::UUID)
    }
}

/// Takes the next bytes from `rest`.
fn take<'a, const COUNT: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; COUNT]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(first)
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
