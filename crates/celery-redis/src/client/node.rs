//! The address of a Redis server and the login.

use super::super::CeleryError;
use percent_encoding::percent_decode_str;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates,
};
use std::{borrow::Cow, fmt, fs, path::PathBuf, time::Duration};
use url::{ParseError, Url};

/// The TCP keepalive time: an idle connection is probed after this time, and dropped after the same time without an
/// answer to the probes.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The address of a Redis server and the login. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) user: Option<String>,
    password: Option<String>,
    pub(super) db: i64,
    /// The name and version of the software, which `CLIENT LIST` shows for a connection.
    pub(super) library: (String, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, tls: Tls },
    Unix(PathBuf),
}

/// The `ssl_…` parameters of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    any_certificate: bool,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

const NO_SCHEME: &str = "redis url: begins with none of redis://, rediss://, unix://, sentinel://";

impl Node {
    /// Parses one URL. A `sentinel://` URL holds the sentinel's address and the master's login and database.
    pub(super) fn parse(url: &str) -> Result<Self, CeleryError> {
        // A URL without a host means localhost or a socket, but the URL parser needs a host after a password.
        let with_host = url.replacen("@/", "@localhost/", 1);
        let parsed = Url::parse(&with_host).map_err(|source| match source {
            // A name without a scheme, such as `django-db` of a result backend that is no Redis.
            ParseError::RelativeUrlWithoutBase => wrong(NO_SCHEME),
            source => wrong(format!("redis url: {source}")),
        })?;
        let (address, path_db) = match parsed.scheme() {
            "redis" => (Address::tcp(&parsed, 6379)?, true),
            "rediss" => (Address::tls(&parsed, 6379)?, true),
            "sentinel" if parsed.query_pairs().any(|(name, _)| name.starts_with("ssl_")) => {
                (Address::tls(&parsed, 26379)?, true)
            }
            "sentinel" => (Address::tcp(&parsed, 26379)?, true),
            "unix" | "redis+unix" | "redis+socket" | "socket" => (Address::unix(&parsed)?, false),
            _ => return Err(wrong(NO_SCHEME)),
        };
        let in_path = parsed.path().trim_start_matches('/');
        let in_query = query(&parsed, "virtual_host").or_else(|| query(&parsed, "db"));
        let db = match in_query {
            Some(value) => database(value.trim_start_matches('/'))?,
            None if path_db => database(&decoded(in_path)?)?,
            None => 0,
        };
        let given = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            address,
            user: given(decoded(parsed.username())?),
            password: given(decoded(parsed.password().unwrap_or_default())?),
            db,
            library: ("celery-redis".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        })
    }

    /// Returns a server at this address with the same login, database and certificates.
    pub(super) fn moved(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        let address = match &self.address {
            Address::Tls { tls, .. } => Address::Tls { host, port, tls: tls.clone() },
            Address::Tcp { .. } | Address::Unix(_) => Address::Tcp { host, port },
        };
        Self { address, ..self.clone() }
    }

    /// Returns the sentinel at this address. A sentinel has no databases, and by default no password and no TLS.
    pub(super) fn sentinel(&self, with_login: bool) -> Self {
        let (host, port) = self.place();
        let login = self.clone();
        let (user, password) = if with_login { (login.user, login.password) } else { (None, None) };
        Self {
            address: Address::Tcp { host: host.to_owned(), port: port.unwrap_or_default() },
            user,
            password,
            db: 0,
            library: login.library,
        }
    }

    /// The host and port, or the path of a socket.
    pub(super) fn place(&self) -> (&str, Option<u16>) {
        match &self.address {
            Address::Tcp { host, port } | Address::Tls { host, port, .. } => (host, Some(*port)),
            Address::Unix(path) => (path.to_str().unwrap_or_default(), None),
        }
    }

    /// Opens a client of the `redis` library for this server; reads the certificate files.
    pub(super) fn open(&self, resp3: bool) -> Result<redis::Client, CeleryError> {
        let mut login = RedisConnectionInfo::default()
            .set_db(self.db)
            .set_lib_name(&self.library.0, &self.library.1)
            .set_protocol(if resp3 { redis::ProtocolVersion::RESP3 } else { redis::ProtocolVersion::RESP2 });
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(probes).set_user_timeout(KEEPALIVE * 2);
        let info = match self.address.for_library().into_connection_info() {
            Ok(info) => info.set_redis_settings(login).set_tcp_settings(tcp),
            Err(source) => return Err(CeleryError::Refused { op: "open redis client", source }),
        };
        self.address.client(info)
    }
}

impl Address {
    fn host_and_port(url: &Url, default: u16) -> Result<(String, u16), CeleryError> {
        let host = match url.host() {
            None => "localhost".to_owned(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => decoded(&host.to_string())?,
        };
        Ok((host, url.port().unwrap_or(default)))
    }

    fn tcp(url: &Url, port: u16) -> Result<Self, CeleryError> {
        let (host, port) = Self::host_and_port(url, port)?;
        Ok(Self::Tcp { host, port })
    }

    fn tls(url: &Url, port: u16) -> Result<Self, CeleryError> {
        let (host, port) = Self::host_and_port(url, port)?;
        let asked = query(url, "ssl_cert_reqs").unwrap_or_default().to_ascii_lowercase();
        let any_certificate = match asked.trim_start_matches("cert_") {
            "" | "required" | "optional" => false,
            "none" => true,
            _ => return Err(wrong("redis url: ssl_cert_reqs is one of required, optional, none")),
        };
        let file = |name| query(url, name).filter(|path| !path.is_empty()).map(|path| PathBuf::from(&*path));
        let tls = Tls {
            any_certificate,
            ca: file("ssl_ca_certs"),
            cert: file("ssl_certfile"),
            key: file("ssl_keyfile"),
        };
        if tls.cert.is_some() != tls.key.is_some() {
            return Err(wrong("redis url: ssl_certfile and ssl_keyfile go together"));
        }
        Ok(Self::Tls { host, port, tls })
    }

    fn unix(url: &Url) -> Result<Self, CeleryError> {
        let path = decoded(url.path())?;
        if path.trim_matches('/').is_empty() {
            return Err(wrong("redis url: the path of the socket is missing"));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }

    fn for_library(&self) -> ConnectionAddr {
        match self {
            Self::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
            Self::Tls { host, port, tls } => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: tls.any_certificate,
                tls_params: None,
            },
            Self::Unix(path) => ConnectionAddr::Unix(path.clone()),
        }
    }

    fn client(&self, info: ConnectionInfo) -> Result<redis::Client, CeleryError> {
        let refused = |source| CeleryError::Refused { op: "open redis client", source };
        let Self::Tls { tls, .. } = self else { return redis::Client::open(info).map_err(refused) };
        let read = |path: &PathBuf| {
            fs::read(path)
                .map_err(|source| wrong(format!("read certificate file {}: {source}", path.display())))
        };
        let client_tls = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
            }
            _ => None,
        };
        let root_cert = tls.ca.as_ref().map(read).transpose()?;
        redis::Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(refused)
    }
}

pub(super) fn wrong(what: impl Into<String>) -> CeleryError {
    CeleryError::Config { what: what.into() }
}

fn query<'a>(url: &'a Url, name: &str) -> Option<Cow<'a, str>> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Percent-decodes one part of a URL; a `+` stays a `+`, as in Python's `unquote`.
fn decoded(text: &str) -> Result<String, CeleryError> {
    let decoded = percent_decode_str(text).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| wrong("redis url: a percent-encoded part is not utf-8"))
}

fn database(text: &str) -> Result<i64, CeleryError> {
    match text {
        "" => Ok(0),
        digits => digits.parse().map_err(|_| wrong("redis url: the database is not a number")),
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } => write!(f, "redis://{host}:{port}/{}", self.db),
            Address::Tls { host, port, .. } => write!(f, "rediss://{host}:{port}/{}", self.db),
            Address::Unix(path) => write!(f, "unix://{}?db={}", path.display(), self.db),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("Node")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("password", &password)
            .field("db", &self.db)
            .field("library", &self.library)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_percent_decoded_and_never_shown() {
        let node = Node::parse("redis://us%2Fer:s%40cret+1@h/1").unwrap();
        assert_eq!(node.user.as_deref(), Some("us/er"));
        assert_eq!(node.password.as_deref(), Some("s@cret+1"));
        assert!(!format!("{node:?} {node}").contains("cret"));
        assert_eq!(Node::parse("redis://:pw@h").unwrap().user, None);
    }

    #[test]
    fn a_sentinel_is_asked_without_what_is_meant_for_its_master() {
        let node = Node::parse("sentinel://us:pw@s1/3?ssl_cert_reqs=none").unwrap();
        let sentinel = node.sentinel(false);
        assert_eq!(sentinel.to_string(), "redis://s1:26379/0");
        assert_eq!((sentinel.user, sentinel.password), (None, None));
        assert_eq!(node.sentinel(true).password.as_deref(), Some("pw"));
        let master = node.moved("10.0.0.1", 6379);
        assert_eq!(master.to_string(), "rediss://10.0.0.1:6379/3");
        assert_eq!(master.password.as_deref(), Some("pw"));
    }
}
