//! Reading a server object by object, for those that cannot back themselves up.
//!
//! Classes are read one after the other through the cursor (`after`, in the order of ids), so a page that
//! was lost is asked for again, and what is written meanwhile may be in it or not.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::client::{Client, Fault};
use crate::component::weaviate::index::{Index, entry};
use crate::component::weaviate::lines::pack;
use crate::component::weaviate::server::Server;
use crate::domain::progress::Meter;
use crate::stream::{Content, Output};
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, io};
use url::form_urlencoded;

/// Lines of a part before they are packed: memory holds a page and a part.
const PART: usize = 4 << 20;
/// How large a page should be.
const PAGE: usize = 2 << 20;
/// The most objects of a page; servers refuse more than 10,000.
const MOST: usize = 1000;

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
    for (number, (name, class)) in classes.iter().enumerate() {
        let mut parts = Parts { folder: Index::folder(number, name), number: 0, lines: Vec::new(), out };
        let mut count = 0;
        for tenant in tenants(class) {
            count += read_all(server, name, tenant, &mut parts, meter).await?;
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
struct Page {
    #[serde(default)]
    objects: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

async fn read_all(
    server: &Server,
    class: &str,
    tenant: Option<&str>,
    parts: &mut Parts<'_>,
    meter: &Meter,
) -> Result<u64, ComponentError> {
    let what = || format!("read the objects of class {class}");
    let (mut after, mut limit, mut count) = (None::<String>, 25, 0);
    loop {
        let (page, bytes) = read_page(server, class, tenant, after.as_deref(), &mut limit)
            .await
            .map_err(|fault| fault.of(what()))?;
        let Some(last) = page.last() else { return Ok(count) };
        let Id { id } = serde_json::from_str(last.get()).map_err(|err| Fault::Away(err.into()).of(what()))?;
        count += page.len() as u64;
        meter.add(bytes as u64);
        for object in &page {
            parts.add(object.get()).await?;
        }
        after = Some(id);
        // As many as make a page of the right size.
        limit = (PAGE / (bytes / page.len()).max(1)).clamp(1, MOST);
    }
}

/// One page; of fewer objects when it would be too long.
async fn read_page(
    server: &Server,
    class: &str,
    tenant: Option<&str>,
    after: Option<&str>,
    limit: &mut usize,
) -> Result<(Vec<Box<RawValue>>, usize), Fault> {
    let mut turns = server.client.turns();
    loop {
        let path = path(class, tenant, after, *limit);
        let longest = if *limit == 1 { Client::LONGEST } else { 4 * PAGE };
        let answer = server.client.ask_text(Method::GET, &path, None, longest).await;
        // A page that was cut is no JSON, and is asked for again.
        let page = answer.and_then(|text| {
            let page: Page = serde_json::from_slice(&text).map_err(|err| Fault::Away(err.into()))?;
            Ok((page.objects.unwrap_or_default(), text.len()))
        });
        match page {
            Err(Fault::Away(err)) if is_too_long(&*err) && *limit > 1 => *limit = (*limit / 4).max(1),
            Err(Fault::Away(err)) if turns.another(&*err).await => {}
            page => return page,
        }
    }
}

fn path(class: &str, tenant: Option<&str>, after: Option<&str>, limit: usize) -> String {
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

fn is_too_long(err: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::FileTooLarge)
}

/// The entries of one class.
struct Parts<'a> {
    folder: String,
    number: u32,
    lines: Vec<u8>,
    out: &'a mut dyn Output,
}

impl Parts<'_> {
    async fn add(&mut self, object: &str) -> Result<(), ComponentError> {
        // Line ends between the tokens of an object say nothing; those in texts are escaped.
        self.lines.extend(object.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        self.lines.push(b'\n');
        if self.lines.len() >= PART { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ComponentError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.number += 1;
        let packed = pack(&self.lines).map_err(ComponentError::Output)?;
        self.lines.clear();
        let entry = entry(&format!("{}/{:06}.ndjson.zst", self.folder, self.number), &packed);
        self.out.content(Content::Incompressible);
        self.out.write(Bytes::from(entry)).await.map_err(ComponentError::Output)
    }
}
