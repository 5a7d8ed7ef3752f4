//! The configuration of the database: its address, credentials and TLS.

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::PathBuf, str::FromStr, time::Duration};

/// One PostgreSQL database and the way into it. `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Host name, address, or (beginning with `/`) the folder of the server's Unix socket.
    pub host: String,
    /// Port, also part of the name of the socket.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// The password of the role; `None` where the server trusts it or asks for none.
    pub password: Option<SecretString>,
    /// Name of the database, any characters but NUL.
    pub database: String,
    /// The use of TLS, and the checks of the server's certificate.
    pub sslmode: SslMode,
    /// Certificates to trust, PEM; `system` for those of the machine.
    pub sslrootcert: Option<PathBuf>,
    /// The folder of `pg_dump` and `pg_restore`; none: search.
    pub bin_dir: Option<PathBuf>,
    /// The timeout of a connection, until it is ready.
    pub connect_timeout: Duration,
    /// A folder for the whole archive, uncompressed, while it is restored from: only so can several jobs
    /// work on it. None: the archive is restored as it comes, in one job.
    pub scratch: Option<PathBuf>,
    /// Sessions that restore at once, at least 1.
    pub jobs: usize,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5432,
            user: "postgres".into(),
            password: None,
            database: "rna_db".into(),
            sslmode: SslMode::default(),
            sslrootcert: None,
            bin_dir: None,
            connect_timeout: Duration::from_secs(10),
            scratch: None,
            jobs: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
        }
    }
}

/// Shows where it is, never how to get in: `host:5432/name`.
impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// The meanings of libpq's `sslmode`, without the `~/.postgresql` files: see the [table].
///
/// [table]: https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS when the server has it, whoever the server is. Also what `allow` is read as.
    #[default]
    Prefer,
    /// TLS, whoever the server is; with a root certificate the same as `verify-ca`, as in libpq.
    Require,
    /// TLS to a server whose certificate a trusted root has signed.
    VerifyCa,
    /// The same, and the certificate is for this host.
    VerifyFull,
}

impl SslMode {
    /// The word of libpq.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        let all = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];
        let known = all.into_iter().find(|mode| mode.as_str() == text);
        known.or_else(|| (text == "allow").then_some(Self::Prefer)).ok_or(InvalidSetting(
            "has an sslmode that is none of disable, prefer, require, verify-ca, verify-full",
        ))
    }
}

/// The fault of a setting. Never holds the value, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSetting(&'static str);

/// The schemes that `dj-database-url` and `django-environ` take for PostgreSQL.
const SCHEMES: [&str; 7] =
    ["postgres", "postgresql", "psql", "postgis", "pgsql", "timescale", "timescalegis"];

const BAD_ESCAPE: InvalidSetting =
    InvalidSetting("has a % that is not followed by two hex digits, or holds no UTF-8");

impl PostgresConfig {
    /// Reads `postgres://user:p%40ss@host:5432/name?sslmode=require`.
    ///
    /// Takes the forms of libpq and of `dj-database-url`: a socket folder as `?host=/run/postgresql`
    /// or percent-encoded as the host, IPv6 in brackets, the schemes of Django's variants. Of the
    /// parameters, those of libpq that are fields here count; others belong to the app and are
    /// ignored. What the URL leaves out is as in [`PostgresConfig::default`].
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`], whose text follows the name of the setting: `has no database name`.
    pub fn from_url(url: &str) -> Result<Self, InvalidSetting> {
        let (scheme, rest) = url.split_once("://").ok_or(InvalidSetting("is not a URL"))?;
        if !SCHEMES.contains(&scheme) {
            return Err(InvalidSetting("is not a postgres:// URL"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, place) = authority.rsplit_once('@').unwrap_or(("", authority));

        let mut config = Self::default();
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        config.set("user", &decode(user)?)?;
        config.set("password", &decode(password)?)?;
        let (host, port) = split_port(place)?;
        config.set("host", &decode(host)?)?;
        config.set("port", port)?;
        let database = decode(path)?;
        config.database.clone_from(&database);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            config.set(name, &decode(value)?)?;
        }
        if config.database.is_empty() {
            return Err(InvalidSetting("has no database name"));
        }
        Ok(config)
    }

    /// Sets one field by libpq's name of it; an empty value leaves it as it is.
    fn set(&mut self, name: &str, value: &str) -> Result<(), InvalidSetting> {
        if value.contains('\0') {
            return Err(InvalidSetting("holds a NUL character"));
        }
        let number = || value.parse().ok();
        match name {
            _ if value.is_empty() => {}
            "host" => value.clone_into(&mut self.host),
            "port" => {
                self.port = value.parse().map_err(|_| {
                    InvalidSetting("has a port that is not a number (characters like # or / in a password must be percent-encoded)")
                })?;
            }
            "user" => value.clone_into(&mut self.user),
            "password" => self.password = Some(SecretString::from(value)),
            "dbname" => value.clone_into(&mut self.database),
            "sslmode" => self.sslmode = value.parse()?,
            "sslrootcert" => self.sslrootcert = Some(OsStr::from_bytes(value.as_bytes()).into()),
            // libpq: 0 is for ever, and less than 2 s is not possible.
            "connect_timeout" => match number() {
                Some(seconds @ 1..) => self.connect_timeout = Duration::from_secs(seconds.max(2)),
                Some(0) => self.connect_timeout = Duration::from_hours(1),
                None => return Err(InvalidSetting("has a connect_timeout that is not a number of seconds")),
            },
            _ => {}
        }
        Ok(())
    }
}

/// `host:port`, with `[` `]` around an IPv6 address.
fn split_port(place: &str) -> Result<(&str, &str), InvalidSetting> {
    if let Some(rest) = place.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(InvalidSetting("has a [ without a ]"))?;
        return Ok((address, rest.strip_prefix(':').unwrap_or("")));
    }
    if place.contains(',') {
        return Err(InvalidSetting("names several hosts: give the one to back up"));
    }
    Ok(place.split_once(':').unwrap_or((place, "")))
}

fn decode(text: &str) -> Result<String, InvalidSetting> {
    let is_escape = |rest: &str| rest.len() > 1 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| BAD_ESCAPE)?;
    if text.split('%').skip(1).all(is_escape) { Ok(decoded.into_owned()) } else { Err(BAD_ESCAPE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn urls_are_read_as_libpq_and_django_read_them() {
        // URL → user, password, host, port, database, sslmode
        let cases = [
            ("postgres://u:p%40ss@db.example:6543/app", "u", "p@ss", "db.example", 6543, "app", "prefer"),
            ("psql://u:p@h/app", "u", "p", "h", 5432, "app", "prefer"),
            ("postgresql://u@h/app?sslmode=verify-full", "u", "", "h", 5432, "app", "verify-full"),
            ("postgis://u:a:b@h/app?sslmode=allow", "u", "a:b", "h", 5432, "app", "prefer"),
            (
                "postgres:///app?host=/run/postgresql&port=5433",
                "postgres",
                "",
                "/run/postgresql",
                5433,
                "app",
                "prefer",
            ),
            ("postgres://u:p@/app?host=/run/pg", "u", "p", "/run/pg", 5432, "app", "prefer"),
            ("postgres://%2Frun%2Fpg/app", "postgres", "", "/run/pg", 5432, "app", "prefer"),
            (
                "postgres://u:p@[::1]:5/app?conn_max_age=600&options=-c%20x",
                "u",
                "p",
                "::1",
                5,
                "app",
                "prefer",
            ),
            ("postgres://%C3%BC:p@s@h/Na%20m%22%27e%3D%2Fx", "ü", "p@s", "h", 5432, "Na m\"'e=/x", "prefer"),
        ];
        for (url, user, password, host, port, database, sslmode) in cases {
            let config = PostgresConfig::from_url(url).unwrap_or_else(|err| panic!("{url}: {err}"));
            let found =
                (&*config.user, &*config.host, config.port, &*config.database, config.sslmode.as_str());
            assert_eq!(found, (user, host, port, database, sslmode), "{url}");
            assert_eq!(
                config.password.map_or(String::new(), |p| p.expose_secret().into()),
                password,
                "{url}"
            );
        }
    }

    #[test]
    fn a_url_that_makes_no_sense_is_refused_without_showing_it() {
        let cases = [
            ("/run/postgresql", "is not a URL"),
            ("mysql://u:hunter2@h/app", "is not a postgres:// URL"),
            ("postgres://u:hunter2@h:x/app", "has a port that is not a number"),
            ("postgres://u:hun/ter2@h/app", "has a port that is not a number"),
            ("postgres://u:hunter2@h/", "has no database name"),
            ("postgres://u:hunter2%4@h/app", "has a % that"),
            ("postgres://u:hunter2@h/app?sslmode=maybe", "has an sslmode that is none of"),
            ("postgres://u:hunter2@a,b/app", "names several hosts"),
            ("postgres://u:hunter2%00@h/app", "holds a NUL"),
        ];
        for (url, why) in cases {
            let text = PostgresConfig::from_url(url).unwrap_err().to_string();
            assert!(text.starts_with(why) && !text.contains("hunter2"), "{url}: {text}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let config = PostgresConfig::from_url("postgres://u:hunter2@h/app").unwrap();
        assert!(!format!("{config:?} {config}").contains("hunter2"));
    }
}
