//! A part of an export: objects, one a line, in a zstd frame with its checksum.

use crate::component::weaviate::class::{self, Class};
use crate::component::weaviate::field_filter::FieldFilter;
use bytes::Bytes;
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::{self, Write},
};
use zstd::stream::{raw::Decoder, write::Encoder, zio::Writer};

/// No part is longer: it ends with the object that makes it long, and no server takes one of this length.
pub(super) const LONGEST_PART: usize = 256 << 20;

/// Takes the bytes of one part, counts the objects in it, and proves of each what a restore needs.
pub(super) struct Lines<'a>(Writer<Counting<'a>, Decoder<'static>>);

/// The class and tenants that the objects of a part may belong to.
#[derive(Debug)]
pub(super) struct ObjectOwner<'a> {
    class: &'a str,
    /// `None` for a class without tenants.
    tenants: Option<BTreeSet<&'a str>>,
}

impl<'a> ObjectOwner<'a> {
    pub(super) fn new(name: &'a str, class: &'a Class) -> Self {
        let tenants = || class.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        Self { class: name, tenants: class::has_tenants(&class.definition).then(tenants) }
    }

    /// Tests whether a restore can tell whose an object is.
    fn check(&self, object: &ExportedObject<'_>) -> Result<(), String> {
        let id = &object.id;
        if object.class != self.class {
            return Err(format!("object {id} is of class {}", object.class));
        }
        match (&self.tenants, &object.tenant) {
            (None, _) => Ok(()),
            (Some(tenants), Some(tenant)) if tenants.contains(&**tenant) => Ok(()),
            (Some(_), Some(tenant)) => {
                Err(format!("object {id} is of tenant {tenant}, which the class does not have"))
            }
            (Some(_), None) => Err(format!(
                "the archive does not say of which tenant object {id} is, since an earlier rna-backup exported it; \
                 this class cannot be restored from the archive, restore the other classes by --include, and \
                 read the objects of this one by `zstd -dc ARCHIVE | tar -xO --wildcards 'export/*-{}/*' | zstd -dc`",
                self.class
            )),
        }
    }
}

impl<'a> Lines<'a> {
    /// Without an owner the objects are counted only.
    pub(super) fn new(owner: Option<ObjectOwner<'a>>) -> io::Result<Self> {
        Ok(Self(Writer::new(Counting { owner, ..Counting::default() }, Decoder::new()?)))
    }

    /// The next bytes.
    ///
    /// # Errors
    ///
    /// When they are damaged, or a line is no object that a restore can bring back.
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
        let (Counting { objects, line, long_line, .. }, _) = self.0.into_inner();
        let is_whole = line.is_empty() && long_line.is_none();
        is_whole.then_some(objects).ok_or_else(|| invalid("the last line is cut"))
    }
}

#[derive(Debug, Default)]
struct Counting<'a> {
    owner: Option<ObjectOwner<'a>>,
    objects: u64,
    bytes: usize,
    /// The line under way.
    line: Vec<u8>,
    /// The line under way, if it is too long to be held.
    long_line: Option<FieldFilter>,
}

/// The fields that every object must have.
#[derive(Deserialize)]
struct ExportedObject<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    class: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
}

impl Counting<'_> {
    /// A longer line is not held: the fields that are looked at are kept, and of the others nothing but brackets and the ends of
    /// strings is proven.
    const LONG: usize = 1 << 20;

    /// Appends to the line under way.
    fn append(&mut self, bytes: &[u8]) {
        if let Some(filter) = &mut self.long_line {
            filter.take(bytes);
            return;
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > Self::LONG {
            let filter = self.long_line.insert(FieldFilter::of_object(&["id", "class", "tenant"]));
            filter.take(&self.line);
            self.line = Vec::new();
        }
    }

    /// Ends the line under way.
    fn end_line(&mut self) -> io::Result<()> {
        if let Some(filter) = self.long_line.take() {
            self.line = filter.into_kept();
        }
        let object = serde_json::from_slice(&self.line).map_err(invalid)?;
        self.owner.as_ref().map_or(Ok(()), |owner| owner.check(&object)).map_err(invalid)?;
        self.objects += 1;
        self.line.clear();
        Ok(())
    }
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len();
        if self.bytes > LONGEST_PART {
            return Err(invalid("a part too long to be true"));
        }
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.append(&rest[..end]);
            self.end_line()?;
            rest = &rest[end + 1..];
        }
        self.append(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Packed bytes, in pieces that never move.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    const PIECE: usize = 1 << 20;

    pub(super) fn length(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    pub(super) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.0.into_iter().map(Bytes::from)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.last_mut() {
            Some(piece) if piece.len() + bytes.len() <= Self::PIECE => piece.extend_from_slice(bytes),
            _ => self.0.push(bytes.to_vec()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An encoder of lines as [`Lines`] reads them.
///
/// # Errors
///
/// When there is no memory.
pub(super) fn encoder() -> io::Result<Encoder<'static, Pieces>> {
    /// Vectors written as numbers, the most of an export, become smaller at level 1 than at 3, in half the time.
    const LEVEL: i32 = 1;
    let mut encoder = Encoder::new(Pieces::default(), LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

#[cfg(test)]
pub(super) fn pack(lines: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = encoder()?;
    encoder.write_all(lines)?;
    Ok(encoder.finish()?.0.concat())
}

#[test]
fn objects_are_counted_and_every_cut_and_flip_is_seen() {
    let count = |packed: &[u8]| {
        let mut lines = Lines::new(Some(ObjectOwner { class: "A", tenants: None }))?;
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
    let long = |class: &str| {
        format!("{{\"text\":\"{}\",\"class\":\"{class}\",\"id\":\"1\"}}\n", "x".repeat(3 << 20))
    };
    let objects = [long("A"), object(1), long("A")].concat();
    assert_eq!(count(&pack(objects.as_bytes()).unwrap()).unwrap(), 3);
    for bad in [&long("B"), long("A").trim_end(), &long("A").replace("\"id\"", "\"no\"")] {
        assert!(count(&pack(bad.as_bytes()).unwrap()).is_err());
    }
    let of_another = "{\"class\":\"B\",\"id\":\"1\"}\n";
    for bad in ["{\"class\":\"A\"}\n", "not JSON\n", "{\"class\":\"A\",\"id\":\"1\"}", of_another] {
        assert!(count(&pack(bad.as_bytes()).unwrap()).is_err(), "{bad}");
    }
}

#[test]
fn an_object_of_a_class_with_tenants_names_one_of_them() {
    let owner = || ObjectOwner { class: "A", tenants: Some(["wet", "dry"].into()) };
    let said = |text: &str| {
        let mut lines = Lines::new(Some(owner())).unwrap();
        lines
            .take(&pack(text.as_bytes()).unwrap())
            .and_then(|()| lines.finish())
            .map_err(|err| err.to_string())
    };
    let object = |tenant: &str| format!("{{{tenant}\"class\":\"A\",\"id\":\"1\"}}\n");
    assert_eq!(said(&object("\"tenant\":\"wet\",")), Ok(1));
    assert!(said(&object("\"tenant\":\"old\",")).unwrap_err().contains("tenant old"));
    let unsaid = said(&object("")).unwrap_err();
    assert!(unsaid.contains("--include") && unsaid.contains("export/*-A/*"), "{unsaid}");
}
