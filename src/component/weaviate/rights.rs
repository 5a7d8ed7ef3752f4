//! Rights on a class that a restore deletes and makes again, tried while the class is still there: each request asks for
//! what exists already, which a server refuses, and refuses in other words where the key has no right to ask.

use crate::component::ComponentError;
use crate::component::weaviate::class;
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::server::Server;
use reqwest::Method;
use serde_json::{Value, json};

impl Server {
    /// Makes sure that the key may make a class of this name, its tenants and its objects. The class is there.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Denied`], which names the right that is missing.
    pub(super) async fn may_make_again(&self, class: &str, definition: &Value) -> Result<(), ComponentError> {
        if !self.client.has_key() {
            return Ok(()); // without keys there are no roles
        }
        let again = self.create_class(&json!({"class": class, "vectorizer": "none"})).await;
        allowed(again, class, "create_collections")?;
        let mut tenant = None;
        if class::has_tenants(definition) {
            let tenants = self.tenants(class).await;
            let tenants = tenants.map_err(|fault| fault.of(format!("list the tenants of class {class}")))?;
            if let Some(first) = tenants.first() {
                allowed(self.add_tenants(class, std::slice::from_ref(first)).await, class, "create_tenants")?;
            }
            tenant = tenants.into_iter().find(class::Tenant::is_active).map(|tenant| tenant.name);
            if tenant.is_none() {
                return Ok(()); // an object of a tenant that is not active cannot be asked for
            }
        }
        let id = self.some_id(class, tenant.as_deref()).await;
        if let Some(id) = id.map_err(|fault| fault.of(format!("read an object of class {class}")))? {
            let mut object = json!({"class": class, "id": id});
            if let Some(tenant) = tenant {
                object["tenant"] = tenant.into();
            }
            let again = self.client.ask(Method::POST, "/v1/objects", Some(&object)).await;
            allowed(again.map(drop), class, "create_data")?;
        }
        Ok(())
    }
}

/// Passes over what a server says of that which exists already; a missing right is an error.
fn allowed(answer: Result<(), Fault>, class: &str, right: &str) -> Result<(), ComponentError> {
    match answer {
        Err(fault) if fault.is(403) => {
            let what = format!(
                "restore class {class}, which is deleted and made again: give the user of WEAVIATE_API_KEY the right \
                 {right} on {class}"
            );
            Err(ComponentError::Denied { what, source: Some(fault.into()) })
        }
        Ok(()) | Err(Fault::Refused { .. } | Fault::Denied { .. }) => Ok(()),
        Err(fault) => Err(fault.of(format!("ask for rights on class {class}"))),
    }
}
