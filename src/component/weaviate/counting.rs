//! Counting the objects of classes on a server: by one question for many classes and tenants where the server
//! answers that, else by the nodes' own numbers, or object by object where the number must be exact.

use crate::component::weaviate::class::{self, Class, Classes};
use crate::component::weaviate::client::{Fault, is_too_long};
use crate::component::weaviate::count::Count;
use crate::component::weaviate::ndjson::LONGEST_PART;
use crate::component::weaviate::server::Server;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _};
use url::form_urlencoded;

/// A class, and which of its tenants.
type Part<'a> = (&'a str, Option<&'a str>);

/// The classes and tenants of one question.
const AT_ONCE: usize = 100;

impl Server {
    /// The number of objects of each class, those of active tenants if a class has tenants.
    pub(super) async fn counts(&self, classes: &Classes) -> Result<BTreeMap<String, Count>, Fault> {
        let all: Vec<_> = classes.iter().flat_map(|(name, class)| parts(name, class)).collect();
        match self.aggregates(&all).await? {
            Some(exact) => {
                let mut counts: BTreeMap<_, _> =
                    classes.keys().map(|name| (name.clone(), Count::Exact(0))).collect();
                for ((class, _), count) in all.iter().zip(exact) {
                    let sum = counts.entry((*class).to_owned()).or_default();
                    *sum = *sum + Count::Exact(count);
                }
                Ok(counts)
            }
            None => self.estimates(classes).await,
        }
    }

    /// The exact number of objects of a class, those of its active tenants if it has tenants.
    pub(super) async fn count_exactly(&self, name: &str, class: &Class) -> Result<u64, Fault> {
        let parts = parts(name, class);
        if let Some(counts) = self.aggregates(&parts).await? {
            return Ok(counts.iter().sum());
        }
        self.count_by_reading(name, class).await
    }

    /// The number of objects of a class or of its active tenants, each of which is read.
    pub(super) async fn count_by_reading(&self, name: &str, class: &Class) -> Result<u64, Fault> {
        let mut sum = 0;
        for (class, tenant) in parts(name, class) {
            sum += self.walk(class, tenant).await?;
        }
        Ok(sum)
    }

    /// The exact number of objects of each part; `None` where the server or the key has no right to GraphQL.
    async fn aggregates(&self, parts: &[Part<'_>]) -> Result<Option<Vec<u64>>, Fault> {
        let mut counts = Vec::new();
        for parts in parts.chunks(AT_ONCE) {
            let Some(answer) = self.graphql(&query(parts)).await? else { return Ok(None) };
            let count = |at| answer["data"]["Aggregate"][format!("c{at}")][0]["meta"]["count"].as_u64();
            let Some(found) = (0..parts.len()).map(count).collect::<Option<Vec<_>>>() else {
                let said = answer["errors"][0]["message"].as_str().unwrap_or("no count in the answer");
                return Err(Fault::Unavailable(said.into()));
            };
            counts.extend(found);
        }
        Ok(Some(counts))
    }

    /// The answer to a GraphQL query, with data, errors or both; `None` where the server or the key has no right to
    /// GraphQL.
    pub(super) async fn graphql(&self, query: &str) -> Result<Option<Value>, Fault> {
        let answer =
            match self.client.again(Method::POST, "/v1/graphql", Some(&json!({"query": query}))).await {
                // A server without GraphQL says so with one of several statuses.
                Err(fault @ Fault::Denied { .. }) if !fault.is(403) => return Err(fault),
                Err(Fault::Refused { .. } | Fault::Denied { .. }) => return Ok(None),
                answer => answer?,
            };
        let said = answer["errors"][0]["message"].as_str().unwrap_or_default();
        Ok((answer["data"].is_object() || !said.contains("disabled")).then_some(answer))
    }

    /// The nodes' own numbers.
    async fn estimates(&self, classes: &Classes) -> Result<BTreeMap<String, Count>, Fault> {
        let found = match self.client.get("/v1/nodes?output=verbose").await {
            // Counts are for people here, and what a key may not count it may still back up.
            Err(fault) if fault.is(403) => Value::Null,
            found => found?,
        };
        let nodes = found["nodes"].as_array().into_iter().flatten();
        let shards = nodes.flat_map(|node| node["shards"].as_array().into_iter().flatten());
        // A shard lies on several nodes when it has replicas.
        let mut largest = BTreeMap::new();
        for shard in shards {
            if let (Some(class), Some(count)) = (shard["class"].as_str(), shard["objectCount"].as_u64()) {
                let largest: &mut u64 = largest.entry((class, shard["name"].as_str())).or_default();
                *largest = count.max(*largest);
            }
        }
        let mut counts: BTreeMap<_, _> = classes.keys().map(|name| (name.clone(), Count::Unknown)).collect();
        for ((class, shard), count) in largest {
            let Some(known) = classes.get(class) else { continue };
            if parts(class, known).iter().any(|(_, tenant)| tenant.is_none() || *tenant == shard) {
                let sum = counts.entry(class.to_owned()).or_default();
                *sum = Count::Estimate(sum.number() + count);
            }
        }
        Ok(counts)
    }

    /// The id of some object of a class, or of one of its tenants.
    pub(super) async fn some_id(&self, class: &str, tenant: Option<&str>) -> Result<Option<String>, Fault> {
        let text = self.client.get_text(&path((class, tenant), None, 1), LONGEST_PART).await?;
        let page: IdPage = serde_json::from_slice(&text).map_err(|err| Fault::Unavailable(err.into()))?;
        Ok(page.objects.unwrap_or_default().pop().map(|object| object.id))
    }

    /// The number of objects of one part, counted in the list of its objects.
    async fn walk(&self, class: &str, tenant: Option<&str>) -> Result<u64, Fault> {
        /// Servers refuse more than 10,000.
        const MOST: usize = 5000;
        /// Bytes of a page: memory holds one.
        const PAGE: usize = 8 << 20;
        let (mut count, mut limit, mut after) = (0, 100, None::<String>);
        let mut retries = self.client.retries();
        loop {
            let path = path((class, tenant), after.as_deref(), limit);
            let longest = if limit == 1 { LONGEST_PART } else { PAGE };
            let answer = self.client.ask_text(Method::GET, &path, None, longest).await;
            let page = answer.and_then(|text| {
                let page: IdPage =
                    serde_json::from_slice(&text).map_err(|err| Fault::Unavailable(err.into()))?;
                Ok((page.objects.unwrap_or_default(), text.len()))
            });
            match page {
                Ok((mut page, bytes)) => {
                    count += page.len() as u64;
                    let objects = page.len().max(1);
                    let is_last = page.len() < limit;
                    let Some(last) = page.pop().filter(|_| !is_last) else { return Ok(count) };
                    (after, retries) = (Some(last.id), self.client.retries());
                    limit = (PAGE / 2 / (bytes / objects).max(1)).clamp(1, MOST.min(limit * 4));
                }
                Err(Fault::Unavailable(err)) if is_too_long(&*err) && limit > 1 => limit = (limit / 4).max(1),
                Err(fault) if fault.says("query maximum results exceeded") && limit > 1 => limit /= 2,
                Err(fault @ Fault::Unavailable(_)) if retries.wait(&fault).await => {}
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Objects of a list, of which nothing but the ids is kept.
#[derive(Deserialize)]
struct IdPage {
    #[serde(default)]
    objects: Option<Vec<Id>>,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

/// The parts of a class that are counted: the class itself, or its active tenants.
fn parts<'a>(name: &'a str, class: &'a Class) -> Vec<Part<'a>> {
    if !class::has_tenants(&class.definition) {
        return vec![(name, None)];
    }
    let active = class.tenants.iter().filter(|tenant| tenant.is_active());
    active.map(|tenant| (name, Some(tenant.name.as_str()))).collect()
}

/// One question for all parts, each under a name of its own.
fn query(parts: &[Part<'_>]) -> String {
    let mut query = "{Aggregate{".to_owned();
    for (at, (class, tenant)) in parts.iter().enumerate() {
        let of = tenant.map_or_else(String::new, |tenant| format!("(tenant:{})", json!(tenant)));
        let _ = write!(query, "c{at}:{class}{of}{{meta{{count}}}} ");
    }
    query + "}}"
}

fn path((class, tenant): Part<'_>, after: Option<&str>, limit: usize) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("/v1/objects?".to_owned(), "/v1/objects?".len());
    query.append_pair("class", class).append_pair("limit", &limit.to_string());
    for (name, value) in [("after", after), ("tenant", tenant)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}
