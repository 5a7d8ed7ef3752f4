//! Searches by vector in a class that was restored: a class can be whole, with every vector, and its index can be missing.

use crate::component::weaviate::class::{self, Class};
use crate::component::weaviate::client::Fault;
use crate::component::weaviate::server::Server;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// The tenants of a class that are tried, and the objects of each that are read to find one with a vector.
const TENANTS: usize = 3;
const OBJECTS: usize = 10;

/// The warning where a search by vector cannot be tried.
pub(super) const NOT_TRIED: &str = "Whether objects are found by their vectors was not tried: Weaviate's GraphQL is \
                                    disabled, or the key has no right to it.";

impl Server {
    /// The vectors by which nothing is found in a class that has objects with such vectors, in words; `None` where the
    /// server or the key has no right to GraphQL, so that it cannot be asked.
    ///
    /// # Errors
    ///
    /// When the server gives no answer.
    pub(super) async fn not_found_by_vector(
        &self,
        name: &str,
        class: &Class,
    ) -> Result<Option<Vec<String>>, Fault> {
        /// Seconds until an index must answer that is loaded when it is first asked.
        const PATIENCE: u32 = 20;
        let mut words = Vec::new();
        for tenant in tenants(class) {
            let Some(vectors) = self.vectors(name, class, tenant).await? else { return Ok(None) };
            for (vector, values) in vectors {
                let of = tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
                let (query, begun) = (query(name, tenant, vector.as_deref(), &values), Instant::now());
                loop {
                    match self.graphql(&query).await? {
                        None => return Ok(None),
                        Some(answer) if answer["data"]["Get"][name][0].is_object() => break,
                        Some(_) if begun.elapsed() < self.client.seconds(PATIENCE) => {
                            self.client.wait(1).await;
                        }
                        Some(answer) => {
                            let said = answer["errors"][0]["message"].as_str().unwrap_or("no error");
                            let vector = vector.map_or_else(String::new, |vector| format!(" {vector}"));
                            words.push(format!(
                                "A search by vector{vector} finds nothing in class {name}{of} ({said}): its vector index \
                                 is missing. Back the class up by BACKUP_WEAVIATE_BACKEND=export and restore that, which \
                                 builds the index anew."
                            ));
                            break;
                        }
                    }
                }
            }
        }
        Ok(Some(words))
    }

    /// A vector of each kind that some object has and that is indexed, by name, where the vector without a name has
    /// none; `None` where GraphQL cannot be asked.
    async fn vectors(
        &self,
        name: &str,
        class: &Class,
        tenant: Option<&str>,
    ) -> Result<Option<BTreeMap<Option<String>, Value>>, Fault> {
        // A list of objects with their vectors alone: the objects themselves may be too long for memory.
        let Some(found) = self.graphql(&listing(name, tenant, &class.definition)).await? else {
            return Ok(None);
        };
        let Some(objects) = found["data"]["Get"][name].as_array() else {
            let message =
                found["errors"][0]["message"].as_str().unwrap_or("a list without objects").to_owned();
            return Err(Fault::Refused { status: StatusCode::OK, message });
        };
        let mut vectors = BTreeMap::new();
        for object in objects.iter().map(|object| &object["_additional"]) {
            let named = object["vectors"].as_object().into_iter().flatten();
            let named = named.map(|(vector, values)| (Some(vector.clone()), values));
            for (vector, values) in named.chain([(None, &object["vector"])]) {
                if is_plain(values) && is_indexed(&class.definition, vector.as_deref()) {
                    vectors.entry(vector).or_insert_with(|| values.clone());
                }
            }
        }
        Ok(Some(vectors))
    }
}

/// The tenants to try; one nobody for a class without tenants.
fn tenants(class: &Class) -> Vec<Option<&str>> {
    if !class::has_tenants(&class.definition) {
        return vec![None];
    }
    let active = class.tenants.iter().filter(|tenant| tenant.is_active());
    active.take(TENANTS).map(|tenant| Some(tenant.name.as_str())).collect()
}

/// Returns whether the values are those of one vector; an object may have several under one name.
fn is_plain(values: &Value) -> bool {
    values.as_array().is_some_and(|values| values.first().is_some_and(Value::is_number))
}

fn is_indexed(definition: &Value, vector: Option<&str>) -> bool {
    let of = vector.map_or(definition, |vector| &definition["vectorConfig"][vector]);
    of["vectorIndexConfig"]["skip"] != true
}

/// A question for the vectors of some objects. Servers that know no named vectors are not asked for them.
fn listing(class: &str, tenant: Option<&str>, definition: &Value) -> String {
    let of = tenant.map_or_else(String::new, |tenant| format!(",tenant:{}", json!(tenant)));
    let named = definition["vectorConfig"].as_object().filter(|named| !named.is_empty());
    let named = named.map_or_else(String::new, |named| {
        let names: Vec<_> = named.keys().map(String::as_str).collect();
        format!(" vectors{{{}}}", names.join(" "))
    });
    format!("{{Get{{{class}(limit:{OBJECTS}{of}){{_additional{{vector{named}}}}}}}}}")
}

fn query(class: &str, tenant: Option<&str>, vector: Option<&str>, values: &Value) -> String {
    let of = tenant.map_or_else(String::new, |tenant| format!(",tenant:{}", json!(tenant)));
    let target = vector.map_or_else(String::new, |vector| format!(",targetVectors:{}", json!([vector])));
    format!("{{Get{{{class}(limit:1{of},nearVector:{{vector:{values}{target}}}){{_additional{{id}}}}}}}}")
}

#[test]
fn a_search_names_class_tenant_and_vector() {
    let values = json!([0.5, -1]);
    let all = "{Get{Paper(limit:1,tenant:\"a \\\"b\\\"\",nearVector:{vector:[0.5,-1],targetVectors:[\"late\"]}){_additional{id}}}}";
    assert_eq!(query("Paper", Some("a \"b\""), Some("late"), &values), all);
    assert_eq!(
        query("Paper", None, None, &values),
        "{Get{Paper(limit:1,nearVector:{vector:[0.5,-1]}){_additional{id}}}}"
    );
    let named = json!({"vectorConfig": {"early": {}, "late": {}}});
    assert_eq!(
        listing("Paper", Some("a"), &named),
        "{Get{Paper(limit:10,tenant:\"a\"){_additional{vector vectors{early late}}}}}"
    );
    assert_eq!(listing("Paper", None, &json!({})), "{Get{Paper(limit:10){_additional{vector}}}}");
    assert!(
        is_plain(&values) && !is_plain(&json!([[1.0]])) && !is_plain(&json!([])) && !is_plain(&Value::Null)
    );
}
