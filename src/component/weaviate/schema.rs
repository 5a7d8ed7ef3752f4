//! Weaviate's classes and tenants as a key sees them, and whether that is all of them.
//!
//! A server with roles hides from its lists what a key may not read, with a status of 200. Asked for one class or
//! tenant by name it says 403, also for a name that nothing has; so one such question tells whether a list is whole.

use crate::component::ComponentError;
use crate::component::weaviate::class::{self, Class, Classes, Tenant};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::count::CountRange;
use crate::component::weaviate::mark::is_mark;
use crate::component::weaviate::server::Server;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

type Definitions = BTreeMap<String, Value>;

impl Server {
    /// The definitions of the classes that the key may read, by name.
    pub(super) async fn definitions(&self) -> Result<Definitions, Fault> {
        let mut found = self.schema().await?;
        found.retain(|name, _| class::is_name(name));
        Ok(found)
    }

    /// The definitions of all classes, for a backup that leaves none out.
    ///
    /// # Errors
    ///
    /// When the key may not read every class, or a class has a name that cannot be backed up.
    pub(super) async fn whole_schema(&self) -> Result<Definitions, ComponentError> {
        let found = self.schema().await.map_err(|fault| fault.of(SCHEMA))?;
        if let Some(name) = found.keys().find(|name| !class::is_name(name)) {
            let what = format!(
                "back up class {name:?}: names of this kind, as in a namespace, are not supported, and the backup \
                 would leave the class out: remove the class, or back it up by other means"
            );
            return Err(ComponentError::Unusable { what, source: None });
        }
        if self.reads_every_class().await? {
            return Ok(found);
        }
        Err(self
            .hidden("read all classes of Weaviate: those that the key may not read", "read_collections on *"))
    }

    /// All classes, with their tenants and how many objects they have now.
    ///
    /// # Errors
    ///
    /// When something of it is hidden, or cannot be found out.
    pub(super) async fn all_classes(&self) -> Result<Classes, ComponentError> {
        let definitions = self.whole_schema().await?;
        self.counted(definitions).await
    }

    /// The classes of these names, or all that the key may read, with their tenants and how many objects they have
    /// now.
    ///
    /// # Errors
    ///
    /// When one of these names or some tenants of them are hidden, or something cannot be found out.
    pub(super) async fn classes(&self, only: Option<&BTreeSet<String>>) -> Result<Classes, ComponentError> {
        let mut definitions = self.definitions().await.map_err(|fault| fault.of(SCHEMA))?;
        if let Some(only) = only {
            definitions.retain(|name, _| only.contains(name));
            let absent: Vec<_> = only.iter().filter(|name| !definitions.contains_key(*name)).collect();
            if !absent.is_empty() && !self.reads_every_class().await? {
                for name in absent {
                    if !self.may_read(&format!("/v1/schema/{name}")).await? {
                        let what = format!("look for class {name}: classes that the key may not read");
                        return Err(self.hidden(&what, &format!("read_collections on {name}")));
                    }
                }
            }
        }
        self.counted(definitions).await
    }

    async fn counted(&self, definitions: Definitions) -> Result<Classes, ComponentError> {
        let mut classes = Classes::new();
        for (name, definition) in definitions {
            let tenants =
                if class::has_tenants(&definition) { self.all_tenants(&name).await? } else { Vec::new() };
            classes.insert(name, Class { definition, tenants, objects: CountRange::default() });
        }
        let counts = self.counts(&classes).await;
        let counts = counts.map_err(|fault| fault.of("count the objects of all classes"))?;
        for (name, count) in counts {
            if let Some(class) = classes.get_mut(&name) {
                class.objects = CountRange { before: count, after: count };
            }
        }
        Ok(classes)
    }

    /// All tenants of a class.
    async fn all_tenants(&self, class: &str) -> Result<Vec<Tenant>, ComponentError> {
        let what = || format!("list the tenants of class {class}");
        let tenants = self.tenants(class).await.map_err(|fault| fault.of(what()))?;
        // Without a key there are no roles, and without roles nothing is hidden.
        let path = format!("/v1/schema/{class}/tenants/{}", unknown());
        if !self.client.has_key() || self.may_read(&path).await? {
            return Ok(tenants);
        }
        let what = format!("{}: those that the key may not read", what());
        Err(self.hidden(&what, &format!("read_tenants on all tenants of {class}")))
    }

    /// The tenants of a class that the key may read.
    pub(super) async fn tenants(&self, class: &str) -> Result<Vec<Tenant>, Fault> {
        let found = self.client.get(&format!("/v1/schema/{class}/tenants")).await?;
        let mut tenants: Vec<Tenant> =
            serde_json::from_value(found).map_err(|err| Fault::Unavailable(err.into()))?;
        tenants.sort();
        Ok(tenants)
    }

    /// Makes sure that classes of these names can be made: no alias bears one of them. Where the key may not read
    /// aliases, the server itself refuses such a class.
    pub(super) async fn no_alias_bears(
        &self,
        mut names: impl Iterator<Item = &String>,
    ) -> Result<(), ComponentError> {
        let aliases = self.aliases().await.unwrap_or_default();
        let Some((alias, class)) = names.find_map(|name| aliases.get_key_value(name)) else { return Ok(()) };
        let what = format!(
            "restore class {alias}: {alias} is an alias of class {class} now: delete that alias first"
        );
        Err(ComponentError::Unusable { what, source: None })
    }

    /// The definitions of the app's classes.
    async fn schema(&self) -> Result<Definitions, Fault> {
        let mut found = self.schema_with_marks().await?;
        found.retain(|name, _| !is_mark(name));
        Ok(found)
    }

    pub(super) async fn schema_with_marks(&self) -> Result<Definitions, Fault> {
        let found = self.client.get("/v1/schema").await?;
        let classes = found["classes"].as_array();
        let classes =
            classes.ok_or_else(|| Fault::Unavailable("the answer holds no list of classes".into()))?;
        let name = |definition: &Value| definition["class"].as_str().unwrap_or_default().to_owned();
        Ok(classes.iter().map(|definition| (name(definition), definition.clone())).collect())
    }

    async fn reads_every_class(&self) -> Result<bool, ComponentError> {
        self.may_read(&format!("/v1/schema/{}", unknown())).await
    }

    /// Returns whether the key may read what is at `path`, which need not be there.
    pub(super) async fn may_read(&self, path: &str) -> Result<bool, ComponentError> {
        match self.client.get(path).await {
            Err(fault) if fault.is(403) => Ok(false),
            // Up to 1.27 there is no such question about tenants (405), and no role that hides them.
            Ok(_) | Err(Fault::Refused { .. }) => Ok(true),
            Err(fault) => Err(fault.of("ask for the rights of WEAVIATE_API_KEY")),
        }
    }

    fn hidden(&self, what: &str, right: &str) -> ComponentError {
        let help = if self.client.has_key() { "give the user of" } else { "set" };
        let what = format!(
            "{what} are hidden, so they would be left out: {help} WEAVIATE_API_KEY the right {right}"
        );
        ComponentError::Denied { what, source: None }
    }
}

const SCHEMA: &str = "read Weaviate's schema";

/// A name that no class and no tenant has.
fn unknown() -> String {
    format!("Rna_{}", Uuid::new_v4().simple())
}
