//! Where a Redis is and how to log in, from the URL forms that Celery knows.

use super::CeleryError;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates,
};
use std::{borrow::Cow, fmt, fs, path::PathBuf, time::Duration};
use url::Url;

/// After this long without an answer to its probes the kernel gives a peer up.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where a Redis is and how to log in. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    address: Address,
    user: Option<String>,
    password: Option<String>,
    db: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, tls: Tls },
    Unix(PathBuf),
}

/// Where a Redis is, as others may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The host, or the path of the socket.
    pub host: &'a str,
    /// The port; a socket has none.
    pub port: Option<u16>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The user to log in as.
    pub user: Option<&'a str>,
}

/// The `ssl_…` parameters of a `rediss://` URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tls {
    any_certificate: bool,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl ConnectOptions {
    /// Reads a URL: `redis://`, `rediss://` (with `ssl_cert_reqs`, `ssl_ca_certs`, `ssl_certfile`,
    /// `ssl_keyfile`), `unix://`, `redis+socket://`, `socket://` (with `virtual_host`).
    ///
    /// User, password and database are percent-decoded; the database is 0 when not given.
    /// Without `ssl_cert_reqs` certificates are checked. Source of the forms:
    /// `kombu/transport/redis.py` and `celery/backends/redis.py`.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] says what is wrong, without the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, CeleryError> {
        if url.starts_with("sentinel://") {
            return Err(wrong("redis url: sentinel:// is not supported yet, use redis:// or rediss://"));
        }
        if url.contains(';') {
            return Err(wrong("redis url: lists of several urls are not supported, give one"));
        }
        // Without a host it is localhost, or a socket; the parser wants one behind a password.
        let with_host = url.replacen("@/", "@localhost/", 1);
        let parsed = Url::parse(&with_host).map_err(|source| wrong(format!("redis url: {source}")))?;
        let (address, path_db) = match parsed.scheme() {
            "redis" => (Address::tcp(&parsed)?, true),
            "rediss" => (Address::tls(&parsed)?, true),
            "unix" | "redis+unix" | "redis+socket" | "socket" => (Address::unix(&parsed)?, false),
            _ => return Err(wrong("redis url: begins with none of redis://, rediss://, unix://")),
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
        })
    }

    /// The database number.
    pub fn db(&self) -> i64 {
        self.db
    }

    /// Where it connects to, without the password.
    pub fn endpoint(&self) -> Endpoint<'_> {
        let (host, port, tls) = match &self.address {
            Address::Tcp { host, port } => (&**host, Some(*port), false),
            Address::Tls { host, port, .. } => (&**host, Some(*port), true),
            Address::Unix(path) => (path.to_str().unwrap_or_default(), None, false),
        };
        Endpoint { host, port, tls, user: self.user.as_deref() }
    }

    /// A client of the library for these options; reads the certificate files.
    pub(super) fn open(&self, resp3: bool) -> Result<redis::Client, CeleryError> {
        let mut login = RedisConnectionInfo::default()
            .set_db(self.db)
            .set_lib_name("rna-backup", env!("CARGO_PKG_VERSION"))
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
    fn host_and_port(url: &Url) -> Result<(String, u16), CeleryError> {
        let host = match url.host() {
            None => "localhost".to_owned(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            Some(host) => decoded(&host.to_string())?,
        };
        Ok((host, url.port().unwrap_or(6379)))
    }

    fn tcp(url: &Url) -> Result<Self, CeleryError> {
        let (host, port) = Self::host_and_port(url)?;
        Ok(Self::Tcp { host, port })
    }

    fn tls(url: &Url) -> Result<Self, CeleryError> {
        let (host, port) = Self::host_and_port(url)?;
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

fn wrong(what: impl Into<String>) -> CeleryError {
    CeleryError::Config { what: what.into() }
}

fn query<'a>(url: &'a Url, name: &str) -> Option<Cow<'a, str>> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Percent-decodes one part of a URL; a `+` stays a `+`, as in Python's `unquote`.
fn decoded(text: &str) -> Result<String, CeleryError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.first_chunk::<2>().and_then(|pair| std::str::from_utf8(pair).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = &tail[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).map_err(|_| wrong("redis url: a percent-encoded part is not utf-8"))
}

fn database(text: &str) -> Result<i64, CeleryError> {
    match text {
        "" => Ok(0),
        digits => digits.parse().map_err(|_| wrong("redis url: the database is not a number")),
    }
}

impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } => write!(f, "redis://{host}:{port}/{}", self.db),
            Address::Tls { host, port, .. } => write!(f, "rediss://{host}:{port}/{}", self.db),
            Address::Unix(path) => write!(f, "unix://{}?db={}", path.display(), self.db),
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("ConnectOptions")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("password", &password)
            .field("db", &self.db)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_celery_are_understood() {
        let cases = [
            ("redis://", "redis://localhost:6379/0"),
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://localhost:6380/3", "redis://localhost:6380/3"),
            ("redis://[::1]:6380/3", "redis://::1:6380/3"),
            ("rediss://h/1?ssl_cert_reqs=CERT_NONE", "rediss://h:6379/1"),
            ("redis+socket:///run/r.sock?virtual_host=2", "unix:///run/r.sock?db=2"),
            ("socket:///run/r%20s.sock?virtual_host=/2", "unix:///run/r s.sock?db=2"),
            ("unix://:pw@/run/r.sock", "unix:///run/r.sock?db=0"),
            ("redis://:pw@/1", "redis://localhost:6379/1"),
            ("unix:///run/r.sock?db=4", "unix:///run/r.sock?db=4"),
        ];
        for (url, shown) in cases {
            assert_eq!(ConnectOptions::parse(url).unwrap().to_string(), shown, "{url}");
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded_and_never_shown() {
        let options = ConnectOptions::parse("redis://us%2Fer:s%40cret+1@h/1").unwrap();
        assert_eq!(options.user.as_deref(), Some("us/er"));
        assert_eq!(options.password.as_deref(), Some("s@cret+1"));
        assert!(!format!("{options:?} {options}").contains("cret"));
        assert_eq!(ConnectOptions::parse("redis://:pw@h").unwrap().user, None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        let cases = [
            "sentinel://:secret@s1:26379/0",
            "redis://:secret@h/x",
            "http://:secret@h/",
            "redis://:secret@h;redis://:secret@i",
            "rediss://:secret@h/?ssl_cert_reqs=maybe",
            "rediss://:secret@h/?ssl_certfile=/a",
            "redis+socket://",
            "secret",
        ];
        for url in cases {
            let error = ConnectOptions::parse(url).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
        }
    }
}
