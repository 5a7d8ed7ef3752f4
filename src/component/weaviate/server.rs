//! Weaviate's API as far as backups need it, in its own words.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Bracket, Class, Classes, Tenant};
use crate::component::weaviate::client::{Client, Fault};
use crate::component::weaviate::version::Version;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A server that has said who it is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) version: Version,
    /// What is enabled, by name, each with what it says of itself.
    pub(super) modules: serde_json::Map<String, Value>,
}

impl Server {
    /// Asks a server who it is.
    ///
    /// # Errors
    ///
    /// When it gives no answer, refuses us, or is no Weaviate.
    pub(super) async fn meet(client: Client) -> Result<Self, ComponentError> {
        let what = || format!("ask Weaviate at {} who it is", client.place());
        let meta = client.knock("/v1/meta").await.map_err(|fault| fault.of(what()))?;
        let version = meta["version"].as_str().and_then(|text| text.parse().ok());
        let Some(version) = version else {
            let what = format!("{}: its answer names no version, correct WEAVIATE_URL", what());
            return Err(ComponentError::Unusable { what, source: None });
        };
        let modules = meta["modules"].as_object().cloned().unwrap_or_default();
        Ok(Self { client, version, modules })
    }

    /// The names of its nodes, which stand in every backup.
    pub(super) async fn nodes(&self) -> Result<Vec<String>, Fault> {
        let found = self.client.get("/v1/nodes?output=verbose").await?;
        let nodes = found["nodes"].as_array().into_iter().flatten();
        Ok(nodes.filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect())
    }

    /// The definitions of all classes, by name.
    pub(super) async fn definitions(&self) -> Result<BTreeMap<String, Value>, Fault> {
        let found = self.client.get("/v1/schema").await?;
        let classes = found["classes"].as_array().into_iter().flatten();
        let named = |definition: &Value| Some((definition["class"].as_str()?.to_owned(), definition.clone()));
        Ok(classes.filter_map(named).filter(|(name, _)| class::is_name(name)).collect())
    }

    /// The classes of these names, or all, with their tenants and how many objects they have now.
    ///
    /// # Errors
    ///
    /// When something of it cannot be found out.
    pub(super) async fn classes(&self, only: Option<&BTreeSet<String>>) -> Result<Classes, ComponentError> {
        let definitions = self.definitions().await.map_err(|fault| fault.of("read Weaviate's schema"))?;
        let mut classes = Classes::new();
        for (name, definition) in definitions {
            if only.is_some_and(|only| !only.contains(&name)) {
                continue;
            }
            let what = format!("count the objects of class {name}");
            let tenants = if class::has_tenants(&definition) {
                self.tenants(&name).await.map_err(|fault| fault.of(&what))?
            } else {
                Vec::new()
            };
            let mut found = Class { definition, tenants, objects: Bracket::default() };
            let (count, exact) = self.count(&name, &found).await.map_err(|fault| fault.of(what))?;
            found.objects = Bracket { before: count, after: count, exact };
            classes.insert(name, found);
        }
        Ok(classes)
    }

    /// The tenants of a class.
    pub(super) async fn tenants(&self, class: &str) -> Result<Vec<Tenant>, Fault> {
        let found = self.client.get(&format!("/v1/schema/{class}/tenants")).await?;
        let mut tenants: Vec<Tenant> =
            serde_json::from_value(found).map_err(|err| Fault::Away(err.into()))?;
        tenants.sort();
        Ok(tenants)
    }

    /// How many objects a class has, of its active tenants if it has tenants, and whether that is exact.
    pub(super) async fn count(&self, name: &str, class: &Class) -> Result<(u64, bool), Fault> {
        if !class::has_tenants(&class.definition) {
            return self.count_of(name, None).await;
        }
        let (mut sum, mut exact) = (0, true);
        for tenant in class.tenants.iter().filter(|tenant| tenant.is_active()) {
            let (count, is_exact) = self.count_of(name, Some(&tenant.name)).await?;
            (sum, exact) = (sum + count, exact && is_exact);
        }
        Ok((sum, exact))
    }

    async fn count_of(&self, class: &str, tenant: Option<&str>) -> Result<(u64, bool), Fault> {
        let of = tenant.map_or(String::new(), |tenant| format!("(tenant:{})", json!(tenant)));
        let query = json!({"query": format!("{{Aggregate{{{class}{of}{{meta{{count}}}}}}}}")});
        let answer = self.client.again(Method::POST, "/v1/graphql", Some(&query)).await;
        // A server without GraphQL says so with one of several statuses.
        let answer = match answer {
            Err(Fault::Refused { .. }) => return self.count_by_nodes(class, tenant).await,
            answer => answer?,
        };
        if let Some(count) = answer["data"]["Aggregate"][class][0]["meta"]["count"].as_u64() {
            return Ok((count, true));
        }
        let said = answer["errors"][0]["message"].as_str().unwrap_or("no count in the answer").to_owned();
        if said.contains("disabled") {
            return self.count_by_nodes(class, tenant).await;
        }
        Err(Fault::Away(said.into()))
    }

    /// What the nodes say: from about 1.24 on without what is still in memory.
    async fn count_by_nodes(&self, class: &str, tenant: Option<&str>) -> Result<(u64, bool), Fault> {
        let found = self.client.get(&format!("/v1/nodes/{class}?output=verbose")).await?;
        let nodes = found["nodes"].as_array().into_iter().flatten();
        let shards = nodes.flat_map(|node| node["shards"].as_array().into_iter().flatten());
        let of_it =
            shards.filter(|shard| shard["class"] == class && tenant.is_none_or(|name| shard["name"] == name));
        Ok((of_it.filter_map(|shard| shard["objectCount"].as_u64()).sum(), false))
    }

    /// Deletes a class with all that is in it; one that is not there is deleted already.
    pub(super) async fn delete_class(&self, class: &str) -> Result<(), Fault> {
        self.client.again(Method::DELETE, &format!("/v1/schema/{class}"), None).await.map(drop)
    }

    /// Makes a class; one that is there already is an error.
    pub(super) async fn create_class(&self, definition: &Value) -> Result<(), Fault> {
        self.client.ask(Method::POST, "/v1/schema", Some(definition)).await.map(drop)
    }

    /// Adds a property to a class.
    pub(super) async fn add_property(&self, class: &str, property: &Value) -> Result<(), Fault> {
        let path = format!("/v1/schema/{class}/properties");
        self.client.ask(Method::POST, &path, Some(property)).await.map(drop)
    }

    /// Adds tenants to a class, as active as they were.
    pub(super) async fn add_tenants(&self, class: &str, tenants: &[Tenant]) -> Result<(), Fault> {
        // Names that every version knows; what was offloaded elsewhere cannot be made so.
        let status = |tenant: &Tenant| if tenant.is_active() { "HOT" } else { "COLD" };
        let named = |tenant: &Tenant| json!({"name": tenant.name, "activityStatus": status(tenant)});
        let tenants: Vec<_> = tenants.iter().map(named).collect();
        let path = format!("/v1/schema/{class}/tenants");
        self.client.ask(Method::POST, &path, Some(&json!(tenants))).await.map(drop)
    }

    /// Stores objects, new or not, and tells of each that is refused why.
    pub(super) async fn put_objects(&self, objects: &Value) -> Result<Vec<String>, Fault> {
        self.batch("/v1/batch/objects", objects).await
    }

    /// Adds references, and tells of each that is refused why.
    pub(super) async fn put_references(&self, references: &Value) -> Result<Vec<String>, Fault> {
        self.batch("/v1/batch/references", references).await
    }

    /// The answer is 200 also when nothing of it was taken: each item has a result of its own.
    async fn batch(&self, path: &str, body: &Value) -> Result<Vec<String>, Fault> {
        let answer = self.client.again(Method::POST, path, Some(body)).await?;
        let results = answer.as_array().into_iter().flatten().map(|one| &one["result"]);
        let refused = results.filter(|result| {
            result["status"].as_str().is_some_and(|status| status != "SUCCESS")
                || result["errors"]["error"].as_array().is_some_and(|errors| !errors.is_empty())
        });
        let why = |result: &Value| {
            result["errors"]["error"][0]["message"]
                .as_str()
                .unwrap_or("no word why")
                .chars()
                .take(300)
                .collect()
        };
        Ok(refused.map(why).collect())
    }

    /// Begins a backup of exactly these classes. The answer's classes are those that it will hold.
    pub(super) async fn begin_backup(
        &self,
        backend: &str,
        id: &str,
        classes: &[&String],
    ) -> Result<BTreeSet<String>, Fault> {
        let body = json!({"id": id, "include": classes});
        let answer = self.client.ask(Method::POST, &format!("/v1/backups/{backend}"), Some(&body)).await?;
        let taken = answer["classes"].as_array().into_iter().flatten();
        Ok(taken.filter_map(|class| Some(class.as_str()?.to_owned())).collect())
    }

    /// Begins to restore exactly these classes.
    pub(super) async fn begin_restore(
        &self,
        backend: &str,
        id: &str,
        classes: &[&String],
    ) -> Result<(), Fault> {
        let body = json!({"include": classes});
        let path = format!("/v1/backups/{backend}/{id}/restore");
        self.client.ask(Method::POST, &path, Some(&body)).await.map(drop)
    }

    /// Asks a backup to stop.
    pub(super) async fn cancel_backup(&self, backend: &str, id: &str) -> Result<(), Fault> {
        self.client.ask(Method::DELETE, &format!("/v1/backups/{backend}/{id}"), None).await.map(drop)
    }

    /// The same as [`status`](Self::status), asked again while there is no answer.
    pub(super) async fn status_again(&self, backend: &str, id: &str, of: Work) -> Result<Status, Fault> {
        let mut turns = self.client.turns();
        loop {
            match self.status(backend, id, of).await {
                Err(Fault::Away(err)) if turns.another(&*err).await => {}
                answer => return answer,
            }
        }
    }

    /// How far a backup is, or the last restore of it.
    pub(super) async fn status(&self, backend: &str, id: &str, of: Work) -> Result<Status, Fault> {
        let tail = if of == Work::Restore { "/restore" } else { "" };
        let answer = self.client.ask(Method::GET, &format!("/v1/backups/{backend}/{id}{tail}"), None).await?;
        let why = || answer["error"].as_str().unwrap_or("no word why").to_owned();
        Ok(match answer["status"].as_str() {
            Some("SUCCESS") => Status::Done,
            Some(word @ ("FAILED" | "CANCELED")) => Status::Failed { word: word.to_owned(), why: why() },
            // Whatever later versions call it: it is under way.
            Some(_) => Status::Running,
            None => return Err(Fault::Away("the answer names no status".into())),
        })
    }
}

/// What the server does in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Backup,
    Restore,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Done,
    Failed { word: String, why: String },
}
