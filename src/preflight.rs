//! Looks at every dependency before it is needed: one line each, with what to do.

use crate::app;
use crate::base::chain;
use crate::base::units::ByteSize;
use crate::celery::CeleryError;
use crate::celery::client::{Client, ConnectOptions};
use crate::component::{Component, ComponentError};
use crate::config::{BucketConfig, Config};
use crate::domain::component::ComponentName;
use crate::store::local::LocalStore;
use crate::store::{Store, StoreError};
use crate::worker::Options;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::{Builder, tls};
use secrecy::ExposeSecret;
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

/// Looks at everything that the settings name. Changes nothing, but that the backup folder is made.
pub async fn run(config: &Config) -> Vec<Check> {
    let mut checks = vec![destination(config).await];
    let Options { broker, backend, .. } = &config.worker;
    checks.push(redis("broker", broker, "REDIS_URL (or CELERY_BROKER_URL)").await);
    if backend != broker {
        checks.push(redis("result backend", backend, "CELERY_RESULT_BACKEND").await);
    }
    let components = app::components(config);
    for component in &components {
        checks.push(source(component.as_ref()).await);
    }
    let not_yet = config.not_yet();
    if let Some(url) = config.weaviate.as_ref().filter(|_| !not_yet.is_empty()) {
        checks.push(weaviate(url.expose_secret()).await);
    }
    if components.is_empty() && not_yet.is_empty() {
        let nothing = Err("no component is configured, so nothing would be backed up".to_owned());
        checks.push(Check::new("components", nothing, "set DATABASE_URL (or POSTGRES_DB) or MEDIA_ROOT"));
    }
    if let Some(bucket) = &config.bucket {
        checks.push(s3(bucket).await);
    }
    checks
}

/// What `look` finds, or an error and what to do about it, within [`PATIENCE`].
async fn in_time<T, E>(look: impl Future<Output = Result<T, E>>) -> Result<Result<T, E>, String> {
    let answer = tokio::time::timeout(PATIENCE, look).await;
    answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))
}

async fn destination(config: &Config) -> Check {
    let name = "local destination";
    let full = "make room, choose another BACKUP_ROOT, or lower BACKUP_MIN_FREE";
    let denied = "let the user of this process write to BACKUP_ROOT, or choose another one";
    let store = match LocalStore::open(&config.root, config.min_free) {
        Ok(store) => store,
        Err(err) => return Check::new(name, Err(chain(&err)), denied),
    };
    let found = async {
        store.probe().await?;
        store.free_bytes().await
    };
    match found.await {
        Ok(Some(0)) => {
            let keep = ByteSize(config.min_free);
            let nothing = format!("{} has no room beside the {keep} to be kept free", config.root.display());
            Check::new(name, Err(nothing), full)
        }
        Ok(room) => {
            let room = ByteSize(room.unwrap_or(u64::MAX));
            Check::new(name, Ok(format!("{} has room for {room}", config.root.display())), "")
        }
        Err(err) => {
            let fix = if matches!(err, StoreError::NoSpace { .. }) { full } else { denied };
            Check::new(name, Err(format!("{}: {}", config.root.display(), chain(&err))), fix)
        }
    }
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

/// Whether the server is there; backups of it come with a later version.
async fn weaviate(url: &str) -> Check {
    let found = in_time(async {
        let meta = format!("{}/v1/meta", url.trim_end_matches('/'));
        let client =
            reqwest::Client::builder().timeout(PATIENCE).build().map_err(|err| chain(&err.without_url()))?;
        let answer = client.get(meta).send().await.and_then(reqwest::Response::error_for_status);
        let meta: serde_json::Value =
            async { answer?.json().await }.await.map_err(|err| chain(&err.without_url()))?;
        let version = meta.get("version").and_then(|version| version.as_str()).unwrap_or("unknown");
        Err(format!("Weaviate {version} answers, but this version of rna-backup cannot back it up yet"))
    });
    Check::new(
        "weaviate",
        found.await.unwrap_or_else(Err),
        "back it up by other means until rna-backup can, and name the other components in BACKUP_COMPONENTS",
    )
}

/// Whether the bucket is there; copies into it come with a later version.
async fn s3(bucket: &BucketConfig) -> Check {
    let look = Box::pin(head_bucket(bucket)); // the SDK's futures are large
    let found = match in_time(look).await {
        Ok(Ok(())) => "answers, but this version of rna-backup cannot write to it yet".to_owned(),
        Ok(Err(why)) | Err(why) => why,
    };
    Check::new(
        "s3",
        Err(format!("bucket {}: {found}", bucket.name)),
        "nothing is lost: backups are kept in BACKUP_ROOT; unset AWS_BACKUP_BUCKET to silence this",
    )
}

async fn head_bucket(bucket: &BucketConfig) -> Result<(), String> {
    let http = Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(bucket.region.clone()));
    if let Some((id, secret)) = &bucket.keys {
        let keys = Credentials::new(id.expose_secret(), secret.expose_secret(), None, None, "settings");
        loader = loader.credentials_provider(keys);
    }
    let mut config = aws_sdk_s3::config::Builder::from(&loader.load().await);
    if let Some(endpoint) = &bucket.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(true);
    }
    let client = aws_sdk_s3::Client::from_conf(config.build());
    client.head_bucket().bucket(&bucket.name).send().await.map(drop).map_err(|err| chain(&err))
}
