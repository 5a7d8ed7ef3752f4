//! Words of advice for faults that many dependencies share: names that no network knows, and refused passwords.

use crate::access::is_in_container;

/// The words with which the system's resolver begins its error about an unknown name.
const UNRESOLVED: &str = "failed to lookup address information";

/// Returns the remedy where `why` reports that a host is not known; `None` for any other error. `places` is the
/// address or the list of addresses that was tried, `setting` the setting that holds it.
///
/// A bare name is that of a service in a compose file, which is known on the networks of that service alone.
pub fn unknown_host(why: &str, places: &str, setting: &str) -> Option<String> {
    if !why.contains(UNRESOLVED) {
        return None;
    }
    let is_service = hosts(places).any(|host| !host.contains('.'));
    Some(if is_service || is_in_container() {
        format!(
            "the name is not known on the networks of this container: if the app's services are on a network of \
             their own, add that to the service rna-backup (`networks: [default, monitoring, NAME]` in a compose file \
             of the app's; docs/compose.md), else correct the host in {setting}"
        )
    } else {
        format!("correct the host in {setting}, or DNS")
    })
}

/// The hosts in an address such as `redis://a:6379/0`, `b:8080`, or in a list of them.
fn hosts(places: &str) -> impl Iterator<Item = &str> {
    // The name of a master behind sentinels is no host.
    let places = places.split_once(" of ").map_or(places, |(_, sentinels)| sentinels);
    let addresses = places.split([',', ';', ' ']).filter(|address| !address.is_empty());
    let after_schemes = addresses.map(|address| address.split_once("://").map_or(address, |(_, rest)| rest));
    let hosts = after_schemes.map(|address| address.split(['/', ':']).next().unwrap_or_default());
    hosts.filter(|host| !host.is_empty())
}

/// A reason for a refused password that nobody sees: compose has taken a part of it for a variable. `setting` is the
/// name of the secret.
pub fn with_dollar(fix: &str, setting: &str) -> String {
    format!(
        "{fix}; compose reads a `$` in an env file as a variable: write the value in single quotes, or give it by \
         {setting}_FILE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses_and_lists_of_them() {
        let found = |places| hosts(places).collect::<Vec<_>>();
        assert_eq!(found("redis://redis:6379/0"), ["redis"]);
        assert_eq!(found("lab of sentinel://s1:26379,s2.lab:26379/0"), ["s1", "s2.lab"]);
        assert_eq!(found("https://s3.example.org/x"), ["s3.example.org"]);
        assert_eq!(found("db:5432/rna"), ["db"]);
    }

    #[test]
    fn a_name_with_a_dot_is_a_matter_of_dns_outside_a_container() {
        let why = "connect: failed to lookup address information: Name or service not known";
        let bare = unknown_host(why, "redis://redis:6379/0", "REDIS_URL").unwrap();
        assert!(
            bare.contains("networks: [default, monitoring, NAME]") && bare.ends_with("REDIS_URL"),
            "{bare}"
        );
        let dotted = unknown_host(why, "db.lab:5432", "DATABASE_URL").unwrap();
        assert_eq!(dotted.ends_with("or DNS"), !is_in_container(), "{dotted}");
        assert_eq!(unknown_host("Connection refused", "redis:6379", "REDIS_URL"), None);
    }
}
