//! Looks at every dependency before it is needed: one line each, with what to do.

mod destinations;
mod queues;

use crate::app;
use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::client::{Client, ConnectOptions};
use crate::component::{Component, ComponentError};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::worker::Options;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No look takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is fit.
    pub ok: bool,
    /// What was found, in one line.
    pub detail: String,
    /// What to do about it; empty when it is fit.
    pub fix: String,
}

impl Check {
    fn new(name: &str, found: Result<String, String>, fix: &str) -> Self {
        let (ok, detail) = match found {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Self { name: name.to_owned(), ok, detail, fix: if ok { String::new() } else { fix.to_owned() } }
    }
}

/// Looks at everything that the settings name. Changes nothing, but that the backup folder is made; what it
/// writes into a destination to try it out is removed.
pub async fn run(config: &Config) -> Vec<Check> {
    let bucket = match &config.destinations.bucket {
        Some(bucket) => Some(destinations::s3(bucket).await),
        None => None,
    };
    // One that does not answer is not asked again.
    let is_up = bucket.as_ref().is_some_and(|check| check.ok);
    let mut checks = vec![destinations::local(config, is_up).await];
    checks.extend(bucket);
    checks.extend(destinations::encryption(&config.encryption));
    let Options { broker, backend, .. } = &config.worker;
    let answers = redis("broker", broker, "REDIS_URL (or CELERY_BROKER_URL)").await;
    let is_up = answers.ok;
    checks.push(answers);
    if is_up {
        checks.extend(queues::look(&config.worker).await);
    }
    if backend != broker {
        checks.push(redis("result backend", backend, "CELERY_RESULT_BACKEND").await);
    }
    let components = app::components(config, app::shelf(config).await);
    for component in &components {
        checks.push(source(component.as_ref()).await);
    }
    if components.is_empty() {
        let nothing = Err("no component is configured, so nothing would be backed up".to_owned());
        checks.push(Check::new(
            "components",
            nothing,
            "set DATABASE_URL (or POSTGRES_DB), WEAVIATE_URL or MEDIA_ROOT",
        ));
    }
    checks
}

/// What `look` finds, or an error and what to do about it, within [`PATIENCE`].
async fn in_time<T, E>(look: impl Future<Output = Result<T, E>>) -> Result<Result<T, E>, String> {
    let answer = tokio::time::timeout(PATIENCE, look).await;
    answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))
}

async fn redis(name: &str, options: &ConnectOptions, setting: &str) -> Check {
    let start = format!("start Redis, or correct the host in {setting}");
    let answer = in_time(async { Client::new(options.clone())?.ping().await });
    match answer.await {
        Ok(Ok(())) => Check::new(name, Ok(format!("{options} answers")), ""),
        Ok(Err(err)) => {
            let fix = match err {
                CeleryError::Refused { .. } => format!("correct the user, password or database in {setting}"),
                CeleryError::Config { .. } => format!("correct {setting}"),
                _ => start,
            };
            Check::new(name, Err(format!("{options}: {}", chain(&err))), &fix)
        }
        Err(late) => Check::new(name, Err(format!("{options}: {late}")), &start),
    }
}

/// The source of a component: its server or folder.
async fn source(component: &dyn Component) -> Check {
    let name = component.name();
    let (setting, kind) = match name {
        ComponentName::Postgres => ("DATABASE_URL (or POSTGRES_HOST, POSTGRES_PORT)", "PostgreSQL"),
        ComponentName::Weaviate => ("WEAVIATE_URL", "Weaviate"),
        ComponentName::Media => ("MEDIA_ROOT", "the folder's file system"),
    };
    let start = format!("start {kind}, or correct {setting}");
    let (found, fix) = match in_time(component.check()).await {
        Ok(Ok(found)) => (Ok(found), String::new()),
        Ok(Err(err)) => {
            let fix = match &err {
                ComponentError::Denied { .. } if name == ComponentName::Weaviate => {
                    "correct WEAVIATE_API_KEY, or leave it empty where the server knows no keys".to_owned()
                }
                ComponentError::Denied { .. } => {
                    "correct user and password in DATABASE_URL (or POSTGRES_USER, POSTGRES_PASSWORD)"
                        .to_owned()
                }
                ComponentError::Unavailable { .. } => start,
                _ => format!("correct {}, or what it points to", name.setting()),
            };
            (Err(chain(&err)), fix)
        }
        Err(late) => (Err(late), start),
    };
    Check::new(name.as_str(), found, &fix)
}
