//! The objects of a class, page by page in the order of their ids. Several pages are asked for at once: any id can be the
//! beginning of a page, whether there is an object of that id or not, so the beginnings of further pages are guessed from
//! the distances of ids. A wrong guess costs time and no object: of pages that overlap, each object is given once, and a gap
//! between two pages is read before what lies behind it.

use crate::component::ComponentError;
use crate::component::weaviate::client::{Client, Fault, is_too_long};
use crate::component::weaviate::ndjson::LONGEST_PART;
use crate::component::weaviate::server::Server;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::VecDeque, ops::Range};
use tokio_util::task::AbortOnDropHandle;
use url::form_urlencoded;
use uuid::Uuid;

/// The size of a page in bytes, about.
const PAGE: usize = 2 << 20;
/// Longer pages are not held beside others.
const LONG: usize = 4 * PAGE;
/// The most pages that are held beside the one that the caller has.
const AHEAD: usize = 3;
/// The fewest objects of a page from which the beginning of the next one is guessed.
const FEWEST: usize = 100;
/// The objects of the first page, which tells how long they are.
const FIRST: usize = 25;

/// A server's words when it gives fewer objects at once than it was asked for (`QUERY_MAXIMUM_RESULTS`).
pub(super) const TOO_MANY: &str = "query maximum results exceeded";

type Wrong = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
struct ObjectList<'a> {
    #[serde(borrow, default)]
    objects: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// A page that is whole.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    /// The places of its objects in the text.
    objects: Vec<Range<usize>>,
    /// The ids of the first and the last object; `None` on an empty page.
    ends: Option<(Uuid, Uuid)>,
}

impl Page {
    fn parse(text: Vec<u8>) -> Result<Self, Wrong> {
        let text = String::from_utf8(text)?;
        let found = serde_json::from_str::<ObjectList>(&text)?.objects.unwrap_or_default();
        let ends = match (found.first(), found.last()) {
            (Some(first), Some(last)) => Some((id(first.get())?, id(last.get())?)),
            _ => None,
        };
        let place = |object: &&RawValue| {
            let start = object.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + object.get().len()
        };
        let objects = found.iter().map(place).collect();
        Ok(Self { text, objects, ends })
    }

    /// The objects, each as the server has written it.
    pub(super) fn objects(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|place| &self.text[place.clone()])
    }

    /// The number of objects.
    pub(super) const fn count(&self) -> usize {
        self.objects.len()
    }

    /// The bytes of the objects.
    pub(super) fn bytes(&self) -> usize {
        self.objects.iter().map(Range::len).sum()
    }

    /// Leaves out the objects up to an id.
    fn begin_behind(&mut self, given: Uuid) -> Result<(), Wrong> {
        let (mut least, mut most) = (0, self.objects.len());
        while least < most {
            let middle = usize::midpoint(least, most);
            if id(&self.text[self.objects[middle].clone()])? <= given {
                least = middle + 1;
            } else {
                most = middle;
            }
        }
        self.objects.drain(..least);
        Ok(())
    }
}

fn id(object: &str) -> Result<Uuid, Wrong> {
    Ok(Uuid::try_parse(&serde_json::from_str::<Named>(object)?.id)?)
}

/// A class, or one of its tenants, to ask for objects.
#[derive(Debug, Clone)]
struct Part {
    client: Client,
    class: String,
    tenant: Option<String>,
}

impl Part {
    /// Reads a page by a single request.
    async fn page(&self, after: Option<Uuid>, limit: usize, longest: usize) -> Result<Page, Fault> {
        let after = after.map(|after| after.to_string());
        let path = path(&self.class, self.tenant.as_deref(), after.as_deref(), limit);
        let text = self.client.ask_text(Method::GET, &path, None, longest).await?;
        Page::parse(text).map_err(Fault::Unavailable)
    }
}

/// A page that is under way.
struct Ahead {
    after: Option<Uuid>,
    limit: usize,
    page: AbortOnDropHandle<Result<Page, Fault>>,
}

/// The objects of a class, or of one of its tenants. Memory holds `AHEAD` pages, or one object that is longer than a page.
pub(super) struct Pages {
    part: Part,
    /// The id up to which all objects were given.
    given: Option<Uuid>,
    /// Pages that lie one behind the other, with overlaps and gaps.
    ahead: VecDeque<Ahead>,
    /// The number of objects that make a page of the right size.
    limit: usize,
    /// The most objects that the server gives at once.
    most: usize,
    /// The distance of two ids, about.
    distance: u128,
    /// True if objects are so many and so short that the beginnings of pages can be guessed.
    is_dense: bool,
}

impl Pages {
    /// The most objects that servers give at once, but for those with another `QUERY_MAXIMUM_RESULTS`.
    pub(super) const MOST: usize = 10_000;

    pub(super) fn new(server: &Server, class: &str, tenant: Option<&str>, most: usize) -> Self {
        let part = Part {
            client: server.client.clone(),
            class: class.to_owned(),
            tenant: tenant.map(ToOwned::to_owned),
        };
        Self { part, given: None, ahead: VecDeque::new(), limit: FIRST, most, distance: 0, is_dense: false }
    }

    /// The most objects that the server has been found to give at once.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// The next page; `None` behind the last object.
    ///
    /// # Errors
    ///
    /// When a page cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, ComponentError> {
        let page = self.next_page().await;
        page.map_err(|fault| fault.of(format!("read the objects of class {}", self.part.class)))
    }

    async fn next_page(&mut self) -> Result<Option<Page>, Fault> {
        loop {
            let (mut page, limit) = match self.ahead.pop_front_if(|ahead| ahead.after <= self.given) {
                Some(Ahead { page, limit, .. }) => {
                    let Ok(Ok(page)) = page.await else {
                        // The page is asked for again by itself, as often as it needs; no other page is held meanwhile.
                        self.ahead.clear();
                        continue;
                    };
                    (page, limit)
                }
                None => (self.ask().await?, self.limit),
            };
            let Some((_, last)) = page.ends else { return Ok(None) };
            self.adapt(&page, limit);
            if let Some(given) = self.given {
                page.begin_behind(given).map_err(Fault::Unavailable)?;
            }
            self.given = self.given.max(Some(last));
            if page.text.len() <= LONG {
                self.ask_ahead();
            }
            if page.count() > 0 {
                return Ok(Some(page));
            }
        }
    }

    /// The page behind what was given, asked for again where it was cut, and with fewer objects when it would be too long or
    /// the server gives fewer at once.
    async fn ask(&mut self) -> Result<Page, Fault> {
        let mut retries = self.part.client.retries();
        loop {
            self.limit = self.limit.min(self.most);
            // The length of one object is the server's business, as long as an import can read it.
            let longest = if self.limit == 1 { LONGEST_PART } else { LONG };
            match self.part.page(self.given, self.limit, longest).await {
                Err(Fault::Unavailable(err)) if is_too_long(&*err) && self.limit > 1 => {
                    self.limit = (self.limit / 4).max(1);
                }
                Err(fault) if fault.says(TOO_MANY) && self.limit > 1 => self.most = self.limit / 2,
                Err(fault) if fault.passes() && retries.wait(&fault).await => {}
                page => return page,
            }
        }
    }

    /// Learns the lengths and distances of objects from a page for which `limit` objects were asked.
    fn adapt(&mut self, page: &Page, limit: usize) {
        let (Some((first, last)), count) = (page.ends, page.objects.len()) else { return };
        self.limit = (PAGE / (page.text.len() / count).max(1)).clamp(1, self.most);
        if count >= FIRST {
            let distance = last.as_u128().saturating_sub(first.as_u128()) / (count as u128 - 1);
            // One wide hole says little of what comes behind it.
            self.distance = match self.distance {
                0 => distance,
                known => (known / 2 + distance / 2).min(known.saturating_mul(2)),
            };
        }
        // A page that is not full is the last one.
        self.is_dense = count >= limit && self.limit >= FEWEST && self.distance > 0;
    }

    /// Asks for the page behind what was given, and for further ones, whose beginnings are guessed.
    fn ask_ahead(&mut self) {
        let gap = match self.ahead.front() {
            Some(front) if front.after <= self.given => None,
            Some(front) => Some(self.objects_until(front.after)),
            None => Some(self.limit),
        };
        if let Some(limit) = gap {
            let page = self.begin(self.given, limit);
            self.ahead.push_front(page);
        }
        while self.is_dense && self.ahead.len() < AHEAD {
            let end = self.ahead.back().and_then(|back| {
                let length = self.distance.checked_mul(back.limit as u128)?;
                back.after?.as_u128().checked_add(length)
            });
            let Some(end) = end else { break };
            let page = self.begin(Some(Uuid::from_u128(end)), self.limit);
            self.ahead.push_back(page);
        }
    }

    /// The number of objects from what was given to an id: somewhat more than can be expected.
    fn objects_until(&self, id: Option<Uuid>) -> usize {
        let number = |id: Option<Uuid>| id.unwrap_or_default().as_u128();
        let expected = number(id).saturating_sub(number(self.given)) / self.distance.max(1);
        usize::try_from(expected + expected / 4 + 8).unwrap_or(usize::MAX).min(self.limit)
    }

    fn begin(&self, after: Option<Uuid>, limit: usize) -> Ahead {
        let part = self.part.clone();
        let asked = async move { part.page(after, limit, LONG).await };
        Ahead { after, limit, page: AbortOnDropHandle::new(tokio::spawn(asked)) }
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
