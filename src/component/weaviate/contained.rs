//! Exports compared object by object: whether one holds nothing of a class that another does not hold too.

use crate::component::ComponentError;
use crate::component::weaviate::index::corrupt;
use crate::component::weaviate::parts::PartReader;
use crate::component::weaviate::source::Source;
use crate::component::weaviate::trial::is_same;
use serde_json::Value;
use tokio::fs::File;

/// Returns whether `whole` has every object of a class that `part` has, with the same properties and vectors. Both are
/// exports, whose objects lie in the order of tenants and ids; where the order of one is another, the answer is `false`.
pub(super) async fn is_contained(part: &Source, whole: &Source, class: &str) -> Result<bool, ComponentError> {
    let (mut part, mut whole) = (Objects::of(part, class).await?, Objects::of(whole, class).await?);
    while let Some(object) = part.next().await? {
        let other = loop {
            match whole.next().await? {
                Some(other) if place(&other) < place(&object) => {}
                other => break other,
            }
        };
        let Some(other) = other.filter(|other| place(other) == place(&object)) else { return Ok(false) };
        if !is_same(&object, &other) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The place of an object in the order of its class.
fn place(object: &Value) -> (Option<&str>, Option<&str>) {
    (object["tenant"].as_str(), object["id"].as_str())
}

/// The objects of one class of an export.
struct Objects<'a> {
    source: &'a Source,
    class: &'a str,
    parts: PartReader<File>,
    is_within: bool,
    line: Vec<u8>,
}

impl<'a> Objects<'a> {
    async fn of(source: &'a Source, class: &'a str) -> Result<Self, ComponentError> {
        let parts = PartReader::new(source.open().await?);
        Ok(Self { source, class, parts, is_within: false, line: Vec::new() })
    }

    /// The next object, without the times that a server sets anew when an object is stored again.
    async fn next(&mut self) -> Result<Option<Value>, ComponentError> {
        loop {
            self.line.clear();
            if self.is_within && self.parts.line(&mut self.line).await? {
                let mut object: Value = serde_json::from_slice(&self.line).map_err(corrupt)?;
                if let Some(fields) = object.as_object_mut() {
                    fields.retain(|name, _| {
                        !matches!(name.as_str(), "creationTimeUnix" | "lastUpdateTimeUnix")
                    });
                }
                return Ok(Some(object));
            }
            let Some(path) = self.parts.next().await? else { return Ok(None) };
            self.is_within = self.source.index.class_of(&path).is_some_and(|name| name == self.class);
        }
    }
}
