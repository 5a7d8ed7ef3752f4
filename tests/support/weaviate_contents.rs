//! What a real Weaviate server holds: the lab's classes for tests, and everything that a restore must bring back.

use crate::support::weaviate_server::{MARK, OLDEST, WeaviateServer};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl WeaviateServer {
    /// The definitions of the app's classes, by name.
    pub async fn classes(&self) -> BTreeMap<String, Value> {
        let mut classes = self.schema().await;
        classes.retain(|class, _| !class.starts_with(MARK));
        classes
    }

    /// The definitions of all classes, with the marks of restores.
    pub async fn schema(&self) -> BTreeMap<String, Value> {
        let found = self.ask(Method::GET, "/v1/schema", None).await;
        let classes = found["classes"].as_array().unwrap().iter();
        classes.map(|class| (class["class"].as_str().unwrap().to_owned(), class.clone())).collect()
    }

    /// The objects of a class, or of one of its tenants, in the order of their ids, without the times that a
    /// server notes.
    pub async fn objects(&self, class: &str, tenant: Option<&str>) -> Vec<Value> {
        let (mut objects, mut after) = (Vec::<Value>::new(), String::new());
        let tenant = tenant.map_or(String::new(), |tenant| format!("&tenant={tenant}"));
        loop {
            let path = format!("/v1/objects?class={class}&limit=1000&include=vector{after}{tenant}");
            let page = self.ask(Method::GET, &path, None).await;
            let Some(page) = page["objects"].as_array().filter(|page| !page.is_empty()) else {
                return objects;
            };
            after = format!("&after={}", page.last().unwrap()["id"].as_str().unwrap());
            for object in page {
                let mut object = object.clone();
                let fields = object.as_object_mut().unwrap();
                fields.retain(|name, _| !["creationTimeUnix", "lastUpdateTimeUnix"].contains(&name.as_str()));
                objects.push(object);
            }
        }
    }

    /// Everything that a restore must bring back: of each class the definition, and the objects of each tenant with
    /// the tenant's state.
    pub async fn contents(&self) -> BTreeMap<String, Value> {
        let mut contents = BTreeMap::new();
        for (class, definition) in self.classes().await {
            let mut parts = Vec::new();
            if definition["multiTenancyConfig"]["enabled"] == true {
                let tenants = self.ask(Method::GET, &format!("/v1/schema/{class}/tenants"), None).await;
                for tenant in tenants.as_array().unwrap() {
                    let name = tenant["name"].as_str().unwrap();
                    let is_active = ["HOT", "ACTIVE"].contains(&tenant["activityStatus"].as_str().unwrap());
                    let objects =
                        if is_active { json!(self.objects(&class, Some(name)).await) } else { Value::Null };
                    parts.push(json!({"tenant": tenant, "objects": objects}));
                }
                parts.sort_by_key(|part| part["tenant"]["name"].as_str().unwrap().to_owned());
            } else {
                parts.push(json!({"objects": self.objects(&class, None).await}));
            }
            contents.insert(class, json!({"definition": definition, "parts": parts}));
        }
        contents
    }

    /// Fills the server with the lab's classes: papers that refer to protocols, and samples of two tenants.
    pub async fn fill(&self) {
        let property = |name: &str, kind: &str| json!({"name": name, "dataType": [kind]});
        self.make(json!({"class": "Sample", "vectorizer": "none", "multiTenancyConfig": {"enabled": true},
            "properties": [property("name", "text"), property("weight", "number")]}))
            .await;
        self.make(json!({"class": "Protocol", "vectorizer": "none",
            "properties": [property("title", "text"), property("steps", "int")]}))
            .await;
        self.make(json!({"class": "Document", "vectorizer": "none",
            "properties": [property("title", "text"), property("page", "int"), property("follows", "Protocol")]}))
            .await;
        let tenants = json!([{"name": "wet"}, {"name": "dry"}]);
        self.ask(Method::POST, "/v1/schema/Sample/tenants", Some(tenants)).await;
        let mut objects = Vec::new();
        for number in 0..30 {
            let properties =
                json!({"title": format!("Protokoll {number}: \"RNA\"\n\u{1f9ec}"), "steps": number});
            objects.push(json!({"class": "Protocol", "id": id(1, number), "vector": vector(number), "properties": properties}));
            for tenant in ["wet", "dry"] {
                // The same ids in both: only the tenant tells them apart.
                objects.push(json!({"class": "Sample", "id": id(2, number), "tenant": tenant,
                    "vector": vector(number + 7),
                    "properties": {"name": format!("{tenant} {number}"), "weight": f64::from(number) / 3.0}}));
            }
        }
        for number in 0..300 {
            objects.push(json!({"class": "Document", "id": id(4, number), "vector": vector(number + 99),
                "properties": {"title": format!("paper {number}"), "page": number}}));
        }
        self.put(objects).await;
        let link = |number| {
            json!({"from": format!("weaviate://localhost/Document/{}/follows", id(4, number)),
                "to": format!("weaviate://localhost/Protocol/{}", id(1, number % 30))})
        };
        self.link((0..300).map(link).collect()).await;
    }

    /// Deletes every class, and the aliases of a server that has some.
    pub async fn wipe(&self) {
        if self.version() != OLDEST {
            for alias in self.ask(Method::GET, "/v1/aliases", None).await["aliases"].as_array().unwrap() {
                let path = format!("/v1/aliases/{}", alias["alias"].as_str().unwrap());
                self.ask(Method::DELETE, &path, None).await;
            }
        }
        for class in self.schema().await.keys() {
            self.ask(Method::DELETE, &format!("/v1/schema/{class}"), None).await;
        }
    }

    /// Changes what [`fill`](Self::fill) has made: an object less, one more, a class more.
    pub async fn spoil(&self) {
        self.ask(Method::DELETE, &format!("/v1/objects/Document/{}", id(4, 5)), None).await;
        self.put(vec![json!({"class": "Protocol", "id": id(1, 999), "vector": vector(1), "properties": {"title": "later"}})])
            .await;
        self.make(json!({"class": "Later", "vectorizer": "none", "properties": []})).await;
    }
}

/// The vector of an object.
pub fn vector(seed: u32) -> Vec<f64> {
    (0..8).map(|at| f64::from(seed * 31 + at) / 1000.0).collect()
}

/// The id of an object.
pub fn id(kind: u32, number: u32) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}
