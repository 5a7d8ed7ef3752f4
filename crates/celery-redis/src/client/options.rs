//! The addresses of Redis servers and the login, from the URL forms that Celery accepts.

use super::super::CeleryError;
use super::node::{Address, Node, wrong};
use redis::AsyncConnectionConfig;
use std::fmt;
use std::time::Duration;

/// The default time limit of connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The default time limit of an answer; after that the connection is dropped.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The addresses of Redis servers and the login. `Debug` and `Display` never show the password.
///
/// The least rights of a worker's user, as an ACL of Redis 7, for the queue `QUEUE` and the keys of `NAMESPACE` (see
/// [`Keys`](crate::keys::Keys)) in database 0 without a key prefix. `QUEUE*` ends in `*` because the priority
/// steps of a queue are keys of their own. Queues that callbacks go to need a `~` rule of their own. `select` is
/// for another database than 0, `role` for sentinels and lists, `mget` and the second `celery-…` for chords,
/// `brpop` for mingling. From Redis 7.2 on `+client|setinfo` avoids entries in the ACL log. `scan` is for the
/// search of lists that this worker does not read, which passes over those that this user may not read.
///
/// ```text
/// resetkeys resetchannels -@all
/// ~QUEUE* ~unacked* ~_kombu.binding.* ~NAMESPACE:* ~*.reply.celery.pidbox* ~celery-task-meta-*
/// ~celery-taskset-meta-*
/// &/0.celery.pidbox &/0.celeryev/* &celery-task-meta-*
/// +select +ping +time +role +client|tracking +evalsha +script|load +multi +exec
/// +get +mget +set +setex +del +exists +expire +incr +type +publish +subscribe
/// +scan +llen +lindex +lset +lrem +ltrim +lpush +rpush +rpop +brpop
/// +hget +hgetall +hset +hdel +hexists +hstrlen
/// +zadd +zrem +zscore +zrevrangebyscore +sadd +srem +scard +sismember +smembers
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    pub(super) servers: Servers,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// The servers to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Servers {
    /// A list of servers: the first one that answers is used, and must be a master if there are several.
    Listed(Vec<Node>),
    /// The server that sentinels name as the master. Login and database are those of the first URL, and are the
    /// master's; a sentinel is asked without a login, unless the sentinel requires a password. Source:
    /// `SentinelChannel._sentinel_managed_pool` in `kombu/transport/redis.py` and
    /// `SentinelBackend._params_from_url` in `celery/backends/redis.py`.
    Watched { sentinels: Vec<Node>, master: String },
}

/// The address of a Redis server without its password, for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The host, or the path of the socket. With several servers, that of the first.
    pub host: &'a str,
    /// The port; `None` for a socket.
    pub port: Option<u16>,
    /// True if the connection uses TLS.
    pub tls: bool,
    /// The user to log in as.
    pub user: Option<&'a str>,
}

impl ConnectOptions {
    /// Parses a URL: `redis://`, `rediss://` (with `ssl_cert_reqs`, `ssl_ca_certs`, `ssl_certfile`,
    /// `ssl_keyfile`), `unix://`, `redis+socket://`, `socket://` (with `virtual_host`); or a list of
    /// URLs separated by `;`, whose servers are tried in turn.
    ///
    /// User, password and database are percent-decoded; the database is 0 when not given.
    /// Without `ssl_cert_reqs` certificates are checked. Source of the forms:
    /// `kombu/transport/redis.py` and `celery/backends/redis.py`.
    ///
    /// # Errors
    ///
    /// [`CeleryError::Config`] with the reason, but without the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, CeleryError> {
        Self::parse_with(url, None)
    }

    /// Parses a URL as [`parse`](Self::parse) does, or a list of `sentinel://` URLs, which need the name
    /// of their `master` (`master_name` of Celery's transport options).
    ///
    /// With `ssl_…` parameters the connection to the master uses TLS.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_with(url: &str, master: Option<&str>) -> Result<Self, CeleryError> {
        let urls: Vec<_> = url.split(';').map(str::trim).filter(|url| !url.is_empty()).collect();
        let nodes = urls.iter().map(|url| Node::parse(url)).collect::<Result<Vec<_>, _>>()?;
        let watched = urls.iter().filter(|url| Self::needs_master(url)).count();
        let servers = match master {
            _ if nodes.is_empty() => return Err(wrong("redis url: is empty")),
            _ if watched == 0 => {
                if nodes.iter().any(|node| node.db != nodes[0].db) {
                    return Err(wrong("redis url: the urls of a list name different databases"));
                }
                Servers::Listed(nodes)
            }
            _ if watched < nodes.len() => {
                return Err(wrong("redis url: sentinel:// does not go together with other urls"));
            }
            Some(master) => Servers::Watched { sentinels: nodes, master: master.to_owned() },
            None => return Err(wrong("redis url: sentinel:// needs the name of the master")),
        };
        Ok(Self { servers, connect_timeout: CONNECT_TIMEOUT, response_timeout: RESPONSE_TIMEOUT })
    }

    /// Returns `true` if a URL needs the name of a master, that is, begins with `sentinel://`.
    pub fn needs_master(url: &str) -> bool {
        url.starts_with("sentinel://")
    }

    /// Sets the time limits of connecting (2 s by default) and of an answer (10 s). After a limit the
    /// connection is dropped, and the next command connects again.
    #[must_use]
    pub fn with_timeouts(mut self, connect: Duration, response: Duration) -> Self {
        (self.connect_timeout, self.response_timeout) = (connect, response);
        self
    }

    /// Sets the name and version of the software that `CLIENT LIST` shows for each connection, `celery-redis` by
    /// default. Source: `CLIENT SETINFO` of Redis 7.2.
    #[must_use]
    pub fn with_library(mut self, name: &str, version: &str) -> Self {
        let (Servers::Listed(nodes) | Servers::Watched { sentinels: nodes, .. }) = &mut self.servers;
        for node in nodes {
            node.library = (name.to_owned(), version.to_owned());
        }
        self
    }

    /// The database number.
    pub fn db(&self) -> i64 {
        self.first().db
    }

    /// True if sentinels name the master.
    pub fn by_sentinel(&self) -> bool {
        matches!(self.servers, Servers::Watched { .. })
    }

    /// The address of the server, without the password. With several servers, that of the first.
    pub fn endpoint(&self) -> Endpoint<'_> {
        let node = self.first();
        let (host, port) = node.place();
        Endpoint { host, port, tls: matches!(node.address, Address::Tls { .. }), user: node.user.as_deref() }
    }

    fn first(&self) -> &Node {
        match &self.servers {
            Servers::Listed(nodes) | Servers::Watched { sentinels: nodes, .. } => &nodes[0],
        }
    }

    pub(super) fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
    }
}

impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.servers {
            Servers::Listed(nodes) => {
                for (at, node) in nodes.iter().enumerate() {
                    write!(f, "{}{node}", if at == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            Servers::Watched { sentinels, master } => {
                write!(f, "{master} of sentinel://")?;
                for (at, node) in sentinels.iter().enumerate() {
                    let (host, port) = node.place();
                    write!(f, "{}{host}:{}", if at == 0 { "" } else { "," }, port.unwrap_or_default())?;
                }
                write!(f, "/{}", self.db())
            }
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectOptions").field(&self.servers).finish()
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
    fn several_servers_are_a_list_or_sentinels() {
        let list = ConnectOptions::parse("redis://:pw@a/1; redis://b:7000/1;").unwrap();
        assert_eq!(list.to_string(), "redis://a:6379/1;redis://b:7000/1");
        let watched = ConnectOptions::parse_with("sentinel://:pw@s1/2;sentinel://s2:26380", Some("lab"));
        let watched = watched.unwrap();
        assert_eq!(watched.to_string(), "lab of sentinel://s1:26379,s2:26380/2");
        assert!(watched.by_sentinel() && watched.db() == 2);
        assert!(!format!("{watched:?} {list:?}").contains("pw"));
        for url in ["", ";", "redis://a/1;redis://b/2", "sentinel://s1;redis://b"] {
            assert!(ConnectOptions::parse_with(url, Some("lab")).is_err(), "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        let cases = [
            "sentinel://:secret@s1:26379/0",
            "redis://:secret@h/x",
            "http://:secret@h/",
            "redis://:secret@h;redis://:secret@i/1",
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
