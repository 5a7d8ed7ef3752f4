//! Reading a server object by object, for those that cannot back themselves up.
//!
//! Classes are read one after the other through the cursor (`after`, in the order of ids), so a page that
//! was lost is asked for again, and what is written meanwhile may be in it or not (`pages`).

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::index::{BackupBackend, Index, head, padding};
use crate::component::weaviate::ndjson::{Pieces, encoder};
use crate::component::weaviate::pages::{Page, Pages};
use crate::component::weaviate::server::Server;
use crate::domain::{facts::Facts, progress::Meter};
use crate::stream::{Content, Output};
use bytes::Bytes;
use memchr::memchr2_iter;
use serde::Deserialize;
use serde_json::json;
use std::{borrow::Cow, collections::BTreeMap, io::Write as _, iter};
use zstd::stream::write::Encoder;

/// Bytes of a part before it is packed.
const PART: usize = 4 << 20;

/// Everything of a server that an export cannot hold, for people.
pub(super) const NOT_KEPT: &str = "an export brings objects back with new creation and update times, and holds no users, \
                                   roles and keys: Weaviate's own backups keep them (BACKUP_WEAVIATE_BACKEND)";

/// The warning of a plan to restore an export.
pub(super) fn not_kept(facts: &Facts) -> Option<String> {
    let is_export = facts.backend.as_deref() == Some(BackupBackend::Export.as_str());
    is_export.then(|| format!("The backup is an export: {NOT_KEPT}."))
}

/// Writes the objects of all classes, as entries of the archive, and tells how many there were of each.
///
/// # Errors
///
/// When a page cannot be read, or the output refuses the bytes.
pub(super) async fn export(
    server: &Server,
    classes: &Classes,
    out: &mut dyn Output,
    meter: &Meter,
) -> Result<BTreeMap<String, u64>, ComponentError> {
    let mut counts = BTreeMap::new();
    let mut most = Pages::MOST;
    for (number, (name, class)) in classes.iter().enumerate() {
        let mut parts = PartWriter {
            folder: Index::folder(number, name),
            number: 0,
            packed: encoder().map_err(ComponentError::Output)?,
            bytes: 0,
            out,
        };
        let mut count = 0;
        for tenant in tenants(class) {
            let mut pages = Pages::new(server, name, tenant, most);
            while let Some(page) = pages.next().await? {
                count += page.count() as u64;
                meter.add(page.bytes() as u64);
                parts.add_all(page, tenant).await?;
            }
            most = pages.most();
        }
        parts.flush().await?;
        counts.insert(name.clone(), count);
    }
    Ok(counts)
}

/// The tenants to read; one nobody for a class without tenants.
fn tenants(class: &Class) -> Vec<Option<&str>> {
    if !class::has_tenants(&class.definition) {
        return vec![None];
    }
    class
        .tenants
        .iter()
        .filter(|tenant| tenant.is_active())
        .map(|tenant| Some(tenant.name.as_str()))
        .collect()
}

/// An object of a list, of which nothing but the tenant is looked at.
#[derive(Deserialize)]
struct ListedObject<'a> {
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
}

/// The entries of one class.
struct PartWriter<'a> {
    folder: String,
    number: u32,
    /// The part under way, and its bytes before they were packed.
    packed: Encoder<'static, Pieces>,
    bytes: usize,
    out: &'a mut dyn Output,
}

impl PartWriter<'_> {
    /// Writes the objects of a page of a class, or of one of its tenants.
    async fn add_all(&mut self, page: Page, tenant: Option<&str>) -> Result<(), ComponentError> {
        for object in page.objects() {
            let is_said =
                || serde_json::from_str::<ListedObject>(object).is_ok_and(|listed| listed.tenant.is_some());
            // No server of today says of which tenant a listed object is.
            let unsaid = tenant.filter(|_| !is_said());
            self.add(object, unsaid).await?;
        }
        // Memory is not to hold a long page, and a part that is as long, while the next page comes.
        drop(page);
        if self.bytes >= PART {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes an object as a line. `tenant` is set before its fields.
    async fn add(&mut self, object: &str, tenant: Option<&str>) -> Result<(), ComponentError> {
        // An object that makes a part too long gets one of its own.
        if self.bytes + object.len() > PART {
            self.flush().await?;
        }
        let rest = match tenant {
            None => object,
            Some(tenant) => {
                let (brace, rest) = object.split_at(1);
                self.write(format!("{brace}\"tenant\":{},", json!(tenant)).as_bytes())?;
                rest
            }
        };
        // Line ends between the tokens of an object say nothing; those in texts are escaped.
        let mut from = 0;
        for end in memchr2_iter(b'\n', b'\r', rest.as_bytes()) {
            self.write(&rest.as_bytes()[from..end])?;
            from = end + 1;
        }
        self.write(&rest.as_bytes()[from..])?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ComponentError> {
        self.bytes += bytes.len();
        self.packed.write_all(bytes).map_err(ComponentError::Output)
    }

    async fn flush(&mut self) -> Result<(), ComponentError> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.number += 1;
        self.bytes = 0;
        let packed = std::mem::replace(&mut self.packed, encoder().map_err(ComponentError::Output)?)
            .finish()
            .map_err(ComponentError::Output)?;
        let head = head(&format!("{}/{:06}.ndjson.zst", self.folder, self.number), packed.length());
        let padding = padding(packed.length());
        self.out.content(Content::Incompressible);
        let entry = iter::once(Bytes::from(head)).chain(packed.into_pieces()).chain([padding.into()]);
        for piece in entry {
            self.out.write(piece).await.map_err(ComponentError::Output)?;
        }
        Ok(())
    }
}
