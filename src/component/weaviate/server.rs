//! Weaviate's API as far as backups need it, in its own words.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Tenant};
use crate::component::weaviate::client::{Client, Fault, RetryProfile, is_too_long};
use crate::component::weaviate::version::Version;
use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use url::form_urlencoded;

/// A server that has said who it is.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) version: Version,
    /// The modules that are enabled, by name, each with what it says of itself.
    pub(super) modules: serde_json::Map<String, Value>,
}

impl Server {
    /// Asks a server who it is.
    ///
    /// # Errors
    ///
    /// When it gives no answer, refuses us, or is no Weaviate.
    pub(super) async fn connect(client: Client) -> Result<Self, ComponentError> {
        let what = || format!("ask Weaviate at {} who it is", client.address());
        let meta = client.probe("/v1/meta").await.map_err(|fault| {
            let help = connection_help(&client, &fault).map_or_else(String::new, |help| format!(": {help}"));
            fault.of(what() + &help)
        })?;
        let version = meta["version"].as_str().and_then(|text| text.parse().ok());
        let Some(version) = version else {
            let what = format!("{}: its answer names no version, correct {}", what(), client.setting());
            return Err(ComponentError::Unusable { what, source: None });
        };
        let modules = meta["modules"].as_object().cloned().unwrap_or_default();
        Ok(Self { client, version, modules })
    }

    /// A copy of the server for the time in which classes are missing: requests are retried for ten minutes, not for one.
    pub(super) fn while_classes_are_missing(&self) -> Self {
        Self { client: self.client.with(RetryProfile::ClassesAreMissing), ..self.clone() }
    }

    /// The names of its nodes, which stand in every backup.
    pub(super) async fn nodes(&self) -> Result<Vec<String>, Fault> {
        let found = self.client.get("/v1/nodes?output=verbose").await?;
        let nodes = found["nodes"].as_array().into_iter().flatten();
        Ok(nodes.filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect())
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

    /// Changes what can be changed of a class.
    pub(super) async fn update_class(&self, class: &str, definition: &Value) -> Result<(), Fault> {
        let path = format!("/v1/schema/{class}");
        self.client.again(Method::PUT, &path, Some(definition)).await.map(drop)
    }

    /// The class of each alias; none where the version has no aliases.
    pub(super) async fn aliases(&self) -> Result<BTreeMap<String, String>, Fault> {
        if !self.version.has_aliases() {
            return Ok(BTreeMap::new());
        }
        let found = self.client.get("/v1/aliases").await?;
        let aliases = found["aliases"].as_array().into_iter().flatten();
        let named =
            |alias: &Value| Some((alias["alias"].as_str()?.to_owned(), alias["class"].as_str()?.to_owned()));
        Ok(aliases.filter_map(named).collect())
    }

    /// Makes an alias; an alias of that name that is there already is an error.
    pub(super) async fn create_alias(&self, alias: &str, class: &str) -> Result<(), Fault> {
        let body = json!({"alias": alias, "class": class});
        self.client.ask(Method::POST, "/v1/aliases", Some(&body)).await.map(drop)
    }

    /// One object with its properties.
    pub(super) async fn object(&self, class: &str, id: &str, tenant: Option<&str>) -> Result<Value, Fault> {
        let tenant = tenant.map_or(String::new(), |tenant| {
            form_urlencoded::Serializer::for_suffix("?".to_owned(), 1).append_pair("tenant", tenant).finish()
        });
        self.client.get(&format!("/v1/objects/{class}/{id}{tenant}")).await
    }

    /// Stores `count` objects, new or not, whose request is `body`, and tells of each that is refused why. An object
    /// that is stored again replaces the one before.
    pub(super) async fn put_objects(&self, body: &Bytes, count: usize) -> Result<Vec<String>, Fault> {
        let items: Vec<Item> = self.client.post_again("/v1/batch/objects", body, &["result"]).await?;
        refusals(&items, count)
    }

    /// Adds references, and tells of each that is refused why. The server adds a reference a second time when it is
    /// asked a second time, so this request is sent once.
    pub(super) async fn add_references(&self, references: &[Value]) -> Result<Vec<String>, Fault> {
        let body = json!(references);
        let answer = self.client.ask(Method::POST, "/v1/batch/references", Some(&body)).await?;
        let items: Option<Vec<Item>> =
            serde_json::from_value(answer).map_err(|err| Fault::Unavailable(err.into()))?;
        refusals(&items.unwrap_or_default(), references.len())
    }

    /// Reads an object of a class, or of its first active tenant: a class whose shards are lost is there, too.
    pub(super) async fn read_one(&self, name: &str, class: &Class) -> Result<(), Fault> {
        /// Bytes that are read of an object, which may be as long as memory: errors are shorter.
        const BEGINNING: usize = 1 << 20;
        let tenant = match class.tenants.iter().find(|tenant| tenant.is_active()) {
            _ if !class::has_tenants(&class.definition) => String::new(),
            Some(tenant) => form_urlencoded::Serializer::for_suffix("&".to_owned(), 1)
                .append_pair("tenant", &tenant.name)
                .finish(),
            None => return Ok(()),
        };
        match self.client.get_text(&format!("/v1/objects?class={name}&limit=1{tenant}"), BEGINNING).await {
            Err(Fault::Unavailable(err)) if is_too_long(&*err) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Begins a backup of exactly these classes. The answer's classes are those that it will hold.
    pub(super) async fn begin_backup(
        &self,
        backend: &str,
        id: &str,
        classes: &[&String],
        compression: Option<&str>,
    ) -> Result<BTreeSet<String>, Fault> {
        let mut body = json!({"id": id, "include": classes});
        if let Some(level) = compression {
            body["config"] = json!({"CompressionLevel": level});
        }
        let answer = self.client.ask(Method::POST, &format!("/v1/backups/{backend}"), Some(&body)).await?;
        let taken = answer["classes"].as_array().into_iter().flatten();
        Ok(taken.filter_map(|class| Some(class.as_str()?.to_owned())).collect())
    }

    /// Begins to restore exactly these classes, from nodes of other names if there are any.
    pub(super) async fn begin_restore(
        &self,
        backend: &str,
        id: &str,
        classes: &[&String],
        nodes: &BTreeMap<String, String>,
        access: Access,
    ) -> Result<(), Fault> {
        let mut body = json!({"include": classes});
        if access != Access::Stays && self.version.overwrites_aliases() {
            body["overwriteAlias"] = json!(true);
        }
        if access == Access::All {
            body["config"] = json!({"rolesOptions": "all", "usersOptions": "all"});
        }
        if !nodes.is_empty() {
            body["node_mapping"] = json!(nodes);
        }
        let path = format!("/v1/backups/{backend}/{id}/restore");
        self.client.ask(Method::POST, &path, Some(&body)).await.map(drop)
    }

    /// Asks a backup to stop.
    pub(super) async fn cancel_backup(&self, backend: &str, id: &str) -> Result<(), Fault> {
        self.client.ask(Method::DELETE, &format!("/v1/backups/{backend}/{id}"), None).await.map(drop)
    }

    /// The [`status`](Self::status) of a job, asked for again while there is no answer.
    pub(super) async fn status_again(&self, backend: &str, id: &str, of: Work) -> Result<Status, Fault> {
        let mut retries = self.client.retries();
        loop {
            match self.status(backend, id, of).await {
                Err(fault @ Fault::Unavailable(_)) if retries.wait(&fault).await => {}
                answer => return answer,
            }
        }
    }

    /// The state of a backup, or of the last restore of it.
    pub(super) async fn status(&self, backend: &str, id: &str, of: Work) -> Result<Status, Fault> {
        let tail = if of == Work::Restore { "/restore" } else { "" };
        let path = format!("/v1/backups/{backend}/{id}{tail}");
        let answer = self.client.ask_now(Method::GET, &path, None).await?;
        let why = || answer["error"].as_str().unwrap_or("no word why").to_owned();
        Ok(match answer["status"].as_str() {
            Some("SUCCESS") => Status::Done,
            Some(word @ ("FAILED" | "CANCELED")) => Status::Failed { word: word.to_owned(), why: why() },
            // Whatever later versions call it: it is under way.
            Some(_) => Status::Running,
            None => return Err(Fault::Unavailable("the answer names no status".into())),
        })
    }
}

/// Our setting that helps where nobody answers, or somebody who is no Weaviate.
fn connection_help(client: &Client, fault: &Fault) -> Option<String> {
    let said = chain(fault);
    Some(match fault {
        Fault::Denied { .. } => return None,
        fault if fault.is_not_ready() => return None,
        Fault::Unavailable(_) if said.contains("received fatal alert") => {
            "correct WEAVIATE_CLIENT_CERT and WEAVIATE_CLIENT_KEY".to_owned()
        }
        Fault::Unavailable(_) if said.contains("certificate") => "correct WEAVIATE_CA_CERT".to_owned(),
        Fault::Unavailable(_) => format!("start it, or correct {}", client.setting()),
        Fault::Refused { .. } => format!("correct {}", client.setting()),
    })
}

/// Users, roles and aliases that a restore brings beside classes, in the place of those on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing; an alias that is missing comes with its class.
    Stays,
    /// The aliases of the classes.
    Aliases,
    /// These, and all users and roles of the backup.
    All,
}

/// A kind of work that the server does in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Backup,
    Restore,
}

/// The state of such work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Done,
    Failed { word: String, why: String },
}

/// The result of one item of a batch; whatever else an item repeats of the request is not kept.
#[derive(Debug, Default, Deserialize)]
struct Item {
    #[serde(default)]
    result: ImportResult,
}

#[derive(Debug, Default, Deserialize)]
struct ImportResult {
    status: Option<String>,
    #[serde(default)]
    errors: Value,
}

impl ImportResult {
    /// The reason why the item was refused; `None` if the server took the item.
    fn refusal(&self) -> Option<String> {
        let errors = self.errors["error"].as_array().filter(|errors| !errors.is_empty());
        if errors.is_none() && self.status.as_ref().is_none_or(|status| status == "SUCCESS") {
            return None;
        }
        let why = errors.and_then(|errors| errors[0]["message"].as_str()).unwrap_or("no word why");
        Some(why.chars().take(300).collect())
    }
}

/// The reasons of the items that were refused. The answer is 200 also when nothing was taken: each of the `count`
/// items has a result of its own.
fn refusals(items: &[Item], count: usize) -> Result<Vec<String>, Fault> {
    if items.len() != count {
        let why = format!("the answer has results of {} items, and {count} were sent", items.len());
        return Err(Fault::Unavailable(why.into()));
    }
    Ok(items.iter().filter_map(|item| item.result.refusal()).collect())
}

#[test]
fn a_list_of_results_that_is_shorter_than_the_batch_is_no_success() {
    let items = |text: &str| serde_json::from_str::<Vec<Item>>(text).unwrap();
    let good = r#"{"id":"1","result":{"status":"SUCCESS"}}"#;
    let bad = r#"{"result":{"status":"FAILED","errors":{"error":[{"message":"invalid"}]}}}"#;
    assert_eq!(refusals(&items(&format!("[{good},{bad}]")), 2).unwrap(), ["invalid"]);
    for short in [format!("[{good}]"), "[]".to_owned()] {
        assert!(matches!(refusals(&items(&short), 2), Err(Fault::Unavailable(_))), "{short}");
    }
}
