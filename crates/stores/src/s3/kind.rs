//! The bucket as a destination: its settings, and what is wrong with it.

use crate::s3::{Keys, MAX_PARTS, Probe, S3Config, S3OpenError, S3Store};
use crate::{Destination, Diagnosis, ObjectKey, Observer, OpenError, Store, StoreError, StoreKind};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rna_backup_base::env::{self, Env};
use rna_backup_base::{advice, chain};
use std::{error::Error, path::Path, sync::Arc, time::Duration};

/// The kind of stores that are buckets.
pub static KIND: StoreKind = StoreKind {
    name: "s3",
    check: "s3",
    counts_requests: true,
    settings: &[
        env::open("AWS_BACKUP_BUCKET"),
        env::secret("AWS_ACCESS_KEY_ID"),
        env::secret("AWS_SECRET_ACCESS_KEY"),
        env::secret("AWS_SESSION_TOKEN"),
        env::open("AWS_S3_ENDPOINT"),
        env::open("AWS_REGION"),
        env::open("BACKUP_S3_PREFIX"),
        env::open("BACKUP_S3_SSE"),
        env::open("BACKUP_S3_STORAGE_CLASS"),
        env::open("BACKUP_S3_MAX_PARTS"),
        env::open("AWS_CA_BUNDLE"),
    ],
    read,
};

const REACH: &str = "start the server, or correct AWS_S3_ENDPOINT, HTTPS_PROXY or what lies between";
const CORRECT: &str = "correct AWS_BACKUP_BUCKET, AWS_S3_ENDPOINT, AWS_REGION, the keys, or what they may do";

fn read(env: &mut Env, root: Option<&Path>, _: &[Arc<dyn Destination>]) -> Option<Arc<dyn Destination>> {
    let keys = read_keys(env);
    let endpoint = env.optional("AWS_S3_ENDPOINT").map(with_slash);
    let (region, ca_bundle) = (env.or("AWS_REGION", "us-east-1".to_owned()), env.optional("AWS_CA_BUNDLE"));
    let (prefix, sse): (Option<String>, _) =
        (env.optional("BACKUP_S3_PREFIX"), env.optional("BACKUP_S3_SSE"));
    let storage_class = env.optional("BACKUP_S3_STORAGE_CLASS");
    let max_parts = env.of_kind("BACKUP_S3_MAX_PARTS", "a whole number up to 10000", MAX_PARTS);
    if !(1..=MAX_PARTS).contains(&max_parts) {
        env.note("BACKUP_S3_MAX_PARTS", "must be 1 to 10000");
    }
    if endpoint.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        env.note("AWS_S3_ENDPOINT", "must be a URL that begins with https:// or http://");
    }
    let prefix = prefix.and_then(|prefix| match S3Config::parse_prefix(&prefix) {
        Ok(prefix) => prefix,
        Err(why) => {
            env.note("BACKUP_S3_PREFIX", why);
            None
        }
    });
    let bucket: String = env.optional("AWS_BACKUP_BUCKET")?;
    let config = S3Config {
        endpoint,
        region,
        keys,
        prefix,
        sse,
        storage_class,
        max_parts,
        ca_bundle,
        uploads: root.map(|root| root.join(".uploads")),
        ..S3Config::new(bucket)
    };
    Some(Arc::new(config))
}

/// An endpoint with a path, as one vendor prints it, with a slash at its end: the name of the bucket is put behind it.
fn with_slash(endpoint: String) -> String {
    let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    if path.is_some_and(|(_, path)| !path.is_empty() && !path.ends_with('/')) {
        return endpoint + "/";
    }
    endpoint
}

fn read_keys(env: &mut Env) -> Option<Keys> {
    let token = env.secret("AWS_SESSION_TOKEN");
    match (env.secret("AWS_ACCESS_KEY_ID"), env.secret("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Some(Keys { id, secret, token }),
        (None, None) => None,
        (Some(_), None) => {
            env.note("AWS_SECRET_ACCESS_KEY", "is required beside AWS_ACCESS_KEY_ID");
            None
        }
        (None, Some(_)) => {
            env.note("AWS_ACCESS_KEY_ID", "is required beside AWS_SECRET_ACCESS_KEY");
            None
        }
    }
}

impl From<S3OpenError> for OpenError {
    fn from(err: S3OpenError) -> Self {
        Self { setting: "AWS_BACKUP_BUCKET", source: err.into() }
    }
}

#[async_trait]
impl Destination for S3Config {
    fn kind(&self) -> &'static StoreKind {
        &KIND
    }

    fn place(&self) -> String {
        format!("bucket {}", self.bucket)
    }

    async fn open(&self, observer: Option<Observer>) -> Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(S3Store::open(self.clone(), observer).await?))
    }

    /// Tests whether the bucket does all that a backup asks of it.
    async fn diagnose(
        &self,
        _: &[ObjectKey],
        _: BoxFuture<'_, Option<u64>>,
        patience: Duration,
    ) -> Result<String, Diagnosis> {
        let store = Box::pin(S3Store::open(self.clone(), None)).await;
        let store = store.map_err(|err| Diagnosis::new(chain(&err), "correct AWS_CA_BUNDLE"))?;
        let probe = Box::pin(store.probe()); // the SDK's futures are large
        let Ok(found) = tokio::time::timeout(patience, probe).await else {
            let late = format!("{}: no answer within {} s", self.place(), patience.as_secs());
            return Err(Diagnosis::new(late, REACH));
        };
        Ok(describe(self, found.map_err(|err| self.explain(&err))?))
    }

    fn explain(&self, err: &(dyn Error + 'static)) -> Diagnosis {
        let why = chain(err);
        let fix = match StoreError::within(err) {
            Some(StoreError::Unavailable { .. }) => {
                let endpoint = self.endpoint.as_deref().unwrap_or("s3.amazonaws.com");
                advice::unknown_host(&why, endpoint, "AWS_S3_ENDPOINT").unwrap_or_else(|| REACH.to_owned())
            }
            _ if why.contains("AWS_SECRET_ACCESS_KEY") => {
                advice::with_dollar(CORRECT, "AWS_SECRET_ACCESS_KEY")
            }
            _ => CORRECT.to_owned(),
        };
        Diagnosis::new(format!("{}: {why}", self.place()), fix)
    }
}

fn describe(bucket: &S3Config, found: Probe) -> String {
    /// The difference between clocks, in seconds, that people should look into; requests are refused from 15 minutes
    /// on.
    const SKEW: i64 = 60;
    let mut words = format!("bucket {} can be written, read, listed and deleted from", bucket.bucket);
    if let Some(skew) = found.clock_skew.filter(|skew| skew.abs() >= SKEW) {
        words.push_str(&format!("; its clock is {skew} s ahead of this one"));
    }
    if !found.never_replaces {
        words.push_str("; it cannot refuse to replace an object, so let one machine alone back up at a time");
    }
    if !found.lists_uploads {
        words.push_str(
            "; it does not list unfinished uploads, so of runs that died those alone are removed that are noted in \
             BACKUP_ROOT: let a rule of the bucket remove the others (AbortIncompleteMultipartUpload)",
        );
    }
    words
}
