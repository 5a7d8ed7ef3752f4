//! Reading a server object by object, for those that cannot back themselves up.
//!
//! Classes are read one after the other through the cursor (`after`, in the order of ids), so a page that
//! was lost is asked for again, and what is written meanwhile may be in it or not.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::client::{Fault, is_too_long};
use crate::component::weaviate::index::{Index, Made, head, padding};
use crate::component::weaviate::lines::{LONGEST_PART, Pieces, encoder};
use crate::component::weaviate::server::Server;
use crate::domain::{facts::Facts, progress::Meter};
use crate::stream::{Content, Output};
use bytes::Bytes;
use memchr::memchr2_iter;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap, io::Write as _, iter, ops::Range};
use url::form_urlencoded;
use zstd::stream::write::Encoder;

/// Bytes of a part before it is packed.
const PART: usize = 4 << 20;
/// The size of a page in bytes, about: memory holds two pages and a packed part.
const PAGE: usize = 2 << 20;

/// A server's words when it gives fewer objects at once than it was asked for (`QUERY_MAXIMUM_RESULTS`).
pub(super) const TOO_MANY: &str = "query maximum results exceeded";

/// Everything of a server that an export cannot hold, for people.
pub(super) const NOT_KEPT: &str = "an export brings objects back with new creation and update times, and holds no users, \
                                   roles and keys: Weaviate's own backups keep them (BACKUP_WEAVIATE_BACKEND)";

/// The warning of a plan to restore an export.
pub(super) fn not_kept(facts: &Facts) -> Option<String> {
    let is_export = facts.backend.as_deref() == Some(Made::Export.as_str());
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
    let mut reader = Reader { server, meter, most: Reader::MOST };
    for (number, (name, class)) in classes.iter().enumerate() {
        let mut parts = Parts {
            folder: Index::folder(number, name),
            number: 0,
            packed: encoder().map_err(ComponentError::Output)?,
            bytes: 0,
            out,
        };
        let mut count = 0;
        for tenant in tenants(class) {
            count += reader.read_all(name, tenant, &mut parts).await?;
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

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    objects: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
}

/// A page that is whole.
#[derive(Default)]
struct PageText {
    text: String,
    /// The places of its objects in the text.
    objects: Vec<Range<usize>>,
    /// The id of the last object; `None` on an empty page.
    last: Option<String>,
}

impl PageText {
    fn parse(text: Vec<u8>) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let text = String::from_utf8(text)?;
        let found = serde_json::from_str::<Page>(&text)?.objects.unwrap_or_default();
        let last = found.last().map(|last| serde_json::from_str::<Listed>(last.get())).transpose()?;
        let last = last.map(|last| last.id.into_owned());
        let place = |object: &&RawValue| {
            let start = object.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + object.get().len()
        };
        let objects = found.iter().map(place).collect();
        Ok(Self { text, objects, last })
    }
}

/// The pages of a server.
struct Reader<'a> {
    server: &'a Server,
    meter: &'a Meter,
    /// The most objects that the server gives at once.
    most: usize,
}

impl Reader<'_> {
    /// Servers refuse more than 10,000, or less by their setting `QUERY_MAXIMUM_RESULTS`.
    const MOST: usize = 1000;

    /// Writes the objects of a class, or of one of its tenants.
    async fn read_all(
        &mut self,
        class: &str,
        tenant: Option<&str>,
        parts: &mut Parts<'_>,
    ) -> Result<u64, ComponentError> {
        let (mut limit, mut count) = (25, 0);
        let mut page = self.next_page(class, tenant, None, &mut limit).await?;
        while let Some(last) = page.last.take() {
            count += page.objects.len() as u64;
            self.meter.add(page.text.len() as u64);
            // As many as make a page of the right size.
            limit = (PAGE / (page.text.len() / page.objects.len()).max(1)).clamp(1, self.most);
            let is_long = page.text.len() > 4 * PAGE;
            if is_long {
                // Memory holds one page of this length.
                parts.add_all(std::mem::take(&mut page), tenant).await?;
                page = self.next_page(class, tenant, Some(&last), &mut limit).await?;
            } else {
                // The server reads the next page while this one is packed.
                let next = self.next_page(class, tenant, Some(&last), &mut limit);
                let (next, packed) = tokio::join!(next, parts.add_all(page, tenant));
                packed?;
                page = next?;
            }
        }
        Ok(count)
    }

    /// The next page, asked for again where it was cut and is no JSON.
    async fn next_page(
        &mut self,
        class: &str,
        tenant: Option<&str>,
        after: Option<&str>,
        limit: &mut usize,
    ) -> Result<PageText, ComponentError> {
        let what = || format!("read the objects of class {class}");
        let mut turns = self.server.client.turns();
        loop {
            let text = self.read_page(class, tenant, after, limit).await.map_err(|fault| fault.of(what()))?;
            match PageText::parse(text) {
                Ok(page) => return Ok(page),
                Err(err) if turns.another(&*err).await => {}
                Err(err) => return Err(Fault::Away(err).of(what())),
            }
        }
    }

    /// The text of one page; of fewer objects when it would be too long, or the server gives fewer at once.
    async fn read_page(
        &mut self,
        class: &str,
        tenant: Option<&str>,
        after: Option<&str>,
        limit: &mut usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut turns = self.server.client.turns();
        loop {
            *limit = (*limit).min(self.most);
            let path = path(class, tenant, after, *limit);
            // The length of one object is the server's business, as long as an import can read it.
            let longest = if *limit == 1 { LONGEST_PART } else { 4 * PAGE };
            match self.server.client.ask_text(Method::GET, &path, None, longest).await {
                Err(Fault::Away(err)) if is_too_long(&*err) && *limit > 1 => *limit = (*limit / 4).max(1),
                Err(fault) if fault.says(TOO_MANY) && *limit > 1 => self.most = *limit / 2,
                Err(fault) if fault.passes() && turns.another(&fault).await => {}
                page => return page,
            }
        }
    }
}

/// The path of a page of a class's objects, or of one of its tenants, with their vectors.
pub(super) fn path(class: &str, tenant: Option<&str>, after: Option<&str>, limit: usize) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("/v1/objects?".to_owned(), "/v1/objects?".len());
    query.append_pair("class", class).append_pair("limit", &limit.to_string());
    query.append_pair("include", "vector");
    for (name, value) in [("after", after), ("tenant", tenant)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// The entries of one class.
struct Parts<'a> {
    folder: String,
    number: u32,
    /// The part under way, and its bytes before they were packed.
    packed: Encoder<'static, Pieces>,
    bytes: usize,
    out: &'a mut dyn Output,
}

impl Parts<'_> {
    /// Writes the objects of a page of a class, or of one of its tenants.
    async fn add_all(&mut self, page: PageText, tenant: Option<&str>) -> Result<(), ComponentError> {
        for place in page.objects {
            let object = &page.text[place];
            let is_said =
                || serde_json::from_str::<Listed>(object).is_ok_and(|listed| listed.tenant.is_some());
            // No server of today says of which tenant a listed object is.
            let unsaid = tenant.filter(|_| !is_said());
            self.add(object, unsaid).await?;
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
