//! The settings of the bucket: its address, its credentials, and the storage of its objects.

use crate::ObjectKey;
use secrecy::SecretString;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// Parts that one object may have: [S3's own limit](https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
/// Some stores have fewer: Scaleway takes 1,000.
pub const MAX_PARTS: u32 = 10_000;

/// The usual first wait. With five attempts they are about four seconds together, for a whole task is tried again
/// later.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The settings of one bucket. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// `AWS_BACKUP_BUCKET`.
    pub bucket: String,
    /// `AWS_S3_ENDPOINT`, a URL; unset: AWS itself. A custom one means path style and no checksum trailers.
    pub endpoint: Option<String>,
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID` and the settings that belong to it; unset: the SDK's own chain (environment, profile,
    /// instance role).
    pub keys: Option<Keys>,
    /// `BACKUP_S3_PREFIX`: the folder in the bucket that is the store; unset: the whole bucket.
    pub prefix: Option<ObjectKey>,
    /// `BACKUP_S3_SSE`: how the server encrypts; unset: as the bucket says.
    pub sse: Option<Sse>,
    /// `BACKUP_S3_STORAGE_CLASS` of archives; manifests are read often and stay in the bucket's own.
    pub storage_class: Option<String>,
    /// `BACKUP_S3_MAX_PARTS`, from 1.
    pub max_parts: u32,
    /// `AWS_CA_BUNDLE`: a PEM file of authorities that are trusted beside the machine's own.
    pub ca_bundle: Option<PathBuf>,
    /// The folder on this machine for notes on uploads in parts; unset: none are made.
    pub uploads: Option<PathBuf>,
    /// The time without any activity of the server after which it is taken for dead. No setting: tests shorten it.
    pub patience: Duration,
    /// The longest first wait between attempts; each wait is twice the one before. No setting either.
    pub wait: Duration,
}

/// The keys of one account.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: SecretString,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: SecretString,
    /// `AWS_SESSION_TOKEN`, for keys that expire.
    pub token: Option<SecretString>,
}

impl S3Config {
    /// A bucket at AWS in `us-east-1`, with the SDK's own chain of credentials.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            keys: None,
            prefix: None,
            sse: None,
            storage_class: None,
            max_parts: MAX_PARTS,
            ca_bundle: None,
            uploads: None,
            patience: Duration::from_mins(1),
            wait: FIRST_WAIT,
        }
    }

    /// Reads `BACKUP_S3_PREFIX` as people write it: slashes around it mean nothing, and nothing is
    /// left of `/`.
    ///
    /// # Errors
    ///
    /// The fault of the text, without repeating it.
    pub fn parse_prefix(text: &str) -> Result<Option<ObjectKey>, &'static str> {
        match text.trim_matches('/') {
            "" => Ok(None),
            inner => inner.parse().map(Some).map_err(|_| "is not a folder such as backups/lab"),
        }
    }
}

/// The encryption at rest by the server: `AES256`, `aws:kms` (the account's own key) or `aws:kms:KEYID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// Encryption with keys of the store.
    Aes256,
    /// Encryption with the key management service, and with this key of the service.
    Kms(Option<String>),
}

/// Text that names no way to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not one of AES256, aws:kms and aws:kms:KEYID")]
pub struct InvalidSse;

impl FromStr for Sse {
    type Err = InvalidSse;

    fn from_str(text: &str) -> Result<Self, InvalidSse> {
        match text {
            "AES256" => Ok(Self::Aes256),
            "aws:kms" => Ok(Self::Kms(None)),
            _ => {
                let key = text.strip_prefix("aws:kms:").filter(|key| is_word(key)).ok_or(InvalidSse)?;
                Ok(Self::Kms(Some(key.to_owned())))
            }
        }
    }
}

/// True if the text can stand in a header.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

impl fmt::Display for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aes256 => f.write_str("AES256"),
            Self::Kms(None) => f.write_str("aws:kms"),
            Self::Kms(Some(key)) => write!(f, "aws:kms:{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_encrypt_are_read_as_they_are_written() {
        for text in ["AES256", "aws:kms", "aws:kms:alias/backup", "aws:kms:arn:aws:kms:eu-1:1:key/a-b"] {
            assert_eq!(text.parse::<Sse>().unwrap().to_string(), text);
        }
        for text in ["", "aes256", "aws:kms:", "aws:kms:a b", "aws:kms:a\r\nx-evil:1", "SSE-C"] {
            assert_eq!(text.parse::<Sse>(), Err(InvalidSse), "{text:?}");
        }
    }

    #[test]
    fn slashes_around_a_prefix_mean_nothing() {
        let read = |text| S3Config::parse_prefix(text).map(|key| key.map(|key| key.to_string()));
        assert_eq!(read("/"), Ok(None));
        for text in ["backups/lab", "/backups/lab/", "backups/lab/"] {
            assert_eq!(read(text), Ok(Some("backups/lab".to_owned())));
        }
        assert!(read("a//b").is_err() && read("../a").is_err());
    }

    #[test]
    fn nobody_sees_the_keys() {
        let secret = || SecretString::from("hunter2");
        let mut config = S3Config::new("lab");
        config.keys = Some(Keys { id: secret(), secret: secret(), token: Some(secret()) });
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
