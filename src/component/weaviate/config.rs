//! The configuration of the vector database: its address, its credentials, and the backend of its backups.

use secrecy::SecretString;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};
use url::Url;

/// One Weaviate server and the ways into it. `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct WeaviateConfig {
    /// The server's address.
    pub server: Address,
    /// The API key of the server; `None`: no header is sent, since a server without keys refuses any.
    pub api_key: Option<SecretString>,
    /// The certificates that prove who we are and who the server is.
    pub tls: Tls,
    /// The backend of backups, by `BACKUP_WEAVIATE_BACKEND`.
    pub backend: BackendSetting,
    /// The folder where this process sees the server's `BACKUP_FILESYSTEM_PATH`.
    pub dir: Option<PathBuf>,
    /// The longest time for one backup or restore on the server.
    pub timeout: Duration,
    /// A second server, to try restores on.
    pub drill: Option<Address>,
    /// A folder of ours for this server: the journal of restores lies there, and what they set aside. Beside it lie those
    /// of other servers, each under the address.
    pub state: PathBuf,
    /// The length of a second of the server's life: tests have shorter ones.
    pub second: Duration,
}

/// The address of a server, without anything secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// The URL of a path below it; `path` begins with a slash.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }

    /// The address of the same server by TLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        // A scheme of the same kind is always accepted.
        let _ = self.0.set_scheme("https");
        self
    }
}

/// `host:port`, for logs and manifests.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{host}:{}", self.0.port_or_known_default().unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no address of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// No URL of this kind.
    #[error("is not a URL such as http://weaviate:8080")]
    Url,
    /// A key belongs into its own setting.
    #[error("holds a user or a password: set WEAVIATE_API_KEY instead")]
    Credentials,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let url: Url = text.trim().parse().map_err(|_| InvalidAddress::Url)?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() || url.query().is_some() {
            return Err(InvalidAddress::Url);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidAddress::Credentials);
        }
        Ok(Self(url))
    }
}

/// Certificates of the connection, PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that has signed the server's certificate; none: the public ones.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for servers that want one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The setting of the backend of backups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendSetting {
    /// By the backup module that the server has enabled, else object by object.
    #[default]
    Auto,
    /// The server writes into its folder, which we see too.
    Filesystem,
    /// The server writes into the bucket.
    S3,
    /// We read object by object.
    Export,
}

impl FromStr for BackendSetting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "filesystem" => Ok(Self::Filesystem),
            "s3" => Ok(Self::S3),
            "export" => Ok(Self::Export),
            _ => Err("must be auto, filesystem, s3 or export"),
        }
    }
}

#[test]
fn an_address_is_a_plain_url_and_shows_nothing_else() {
    let shown = |text: &str| text.parse::<Address>().map(|address| address.to_string());
    assert_eq!(shown("http://weaviate:8080/"), Ok("weaviate:8080".into()));
    assert_eq!(shown("https://db.lab"), Ok("db.lab:443".into()));
    assert_eq!(shown("http://me:secret@db"), Err(InvalidAddress::Credentials));
    for text in ["weaviate:8080", "ftp://db", "http://", "http://db?key=1", ""] {
        assert_eq!(shown(text), Err(InvalidAddress::Url), "{text}");
    }
    let address: Address = "http://weaviate:8080/".parse().unwrap();
    assert_eq!(address.join("/v1/meta"), "http://weaviate:8080/v1/meta");
    assert_eq!(address.with_tls().join("/v1/meta"), "https://weaviate:8080/v1/meta");
}
