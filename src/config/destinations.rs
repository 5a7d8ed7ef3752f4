//! The settings of the destinations, and of the keys that open archives.

use crate::base::chain;
use crate::config::env::Env;
use crate::store::s3::{Keys, MAX_PARTS, S3Config};
use crate::stream::crypt::Encryption;
use std::path::{Path, PathBuf};

/// The use of the two destinations.
#[derive(Debug, Clone)]
pub struct Destinations {
    /// `BACKUP_LOCAL`: whether new backups go to `BACKUP_ROOT`.
    pub local: bool,
    /// `BACKUP_CLEANUP_LOCAL`: whether they stay there once the copy in the bucket is proven.
    pub cleanup_local: bool,
    /// The bucket, if there is one.
    pub bucket: Option<S3Config>,
}

/// Reads the destinations, and the keys of encrypted archives. `root` is `BACKUP_ROOT`, unless it cannot be read.
pub(super) fn read(env: &mut Env, root: Option<&Path>) -> (Destinations, Encryption) {
    let bucket = read_bucket(env, root);
    let local = env.flag("BACKUP_LOCAL", true);
    let cleanup_local = env.flag("BACKUP_CLEANUP_LOCAL", false);
    if bucket.is_none() && !local {
        env.note("BACKUP_LOCAL", "is off and AWS_BACKUP_BUCKET is not set: backups would go nowhere");
    }
    if bucket.is_none() && cleanup_local {
        env.warn("BACKUP_CLEANUP_LOCAL", "does nothing as long as AWS_BACKUP_BUCKET is not set");
    }
    let cleanup_local = cleanup_local && local && bucket.is_some();
    (Destinations { local, cleanup_local, bucket }, read_encryption(env))
}

fn read_bucket(env: &mut Env, root: Option<&Path>) -> Option<S3Config> {
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
    Some(config)
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

/// Reads the keys of encrypted archives; the file is read once, now.
fn read_encryption(env: &mut Env) -> Encryption {
    let recipients = env.optional("BACKUP_AGE_RECIPIENTS");
    let identities = env.optional::<PathBuf>("BACKUP_AGE_IDENTITY_FILE").and_then(|path| {
        let name = "BACKUP_AGE_IDENTITY_FILE";
        let text =
            std::fs::read_to_string(&path).map_err(|err| env.note_unreadable(name, &path, &err)).ok()?;
        text.parse().map_err(|err| env.note(name, chain(&err))).ok()
    });
    Encryption { recipients, identities }
}
