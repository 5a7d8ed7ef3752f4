//! The choice of the `pg_dump` for a server: not older than the server, and of the newer ones the oldest.

use crate::component::ComponentError;
use crate::component::process::Program;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folders in which packages of several majors put their programs: Debian's and PGDG's.
const VERSIONED: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// A folder with `pg_dump` and `pg_restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The folder.
    pub dir: PathBuf,
    /// As it says itself: `15.18`, `18beta1`.
    pub version: String,
    /// The major version.
    pub major: u32,
}

/// The client for a server of version `server`: the same major, else the smallest newer one.
///
/// A dump made by a newer client may need a newer server to restore it, so newer is second best;
/// older ones refuse to dump at all.
///
/// # Errors
///
/// The advice, as a sentence.
pub fn choose<'a>(server: u32, found: &'a [Client], set: Option<&Path>) -> Result<&'a Client, String> {
    if let Some(fits) = found.iter().filter(|client| client.major >= server).min_by_key(|c| c.major) {
        return Ok(fits);
    }
    let install = format!("install postgresql-client-{server}");
    let newest = found.iter().map(|client| client.major).max();
    Err(match (newest, set) {
        (Some(newest), None) => format!(
            "server is PostgreSQL {server}, newest pg_dump found is {newest}: {install} or set BACKUP_PG_BIN_DIR"
        ),
        (Some(newest), Some(dir)) => format!(
            "server is PostgreSQL {server}, pg_dump in {} is {newest}: {install} and correct BACKUP_PG_BIN_DIR",
            dir.display()
        ),
        (None, set) => missing(set),
    })
}

/// The error text where there is no client at all, with the advice.
pub fn missing(set: Option<&Path>) -> String {
    set.map_or("find pg_dump: install postgresql-client or set BACKUP_PG_BIN_DIR".to_owned(), |dir| {
        format!("find pg_dump and pg_restore in {}: correct BACKUP_PG_BIN_DIR", dir.display())
    })
}

/// The client with the highest version, to read archives with: it reads those of all before it.
pub fn newest(found: &[Client]) -> Option<&Client> {
    found.iter().max_by_key(|client| client.major)
}

/// Every client there is: in `set` alone when given, else along `PATH` and in the usual folders.
///
/// # Errors
///
/// When a program in `set` does not run; elsewhere such a one is passed over.
pub async fn search(set: Option<&Path>) -> Result<Vec<Client>, ComponentError> {
    if let Some(dir) = set {
        return Ok(if is_client(dir) { vec![ask(dir).await?] } else { Vec::new() });
    }
    let mut found = Vec::new();
    for dir in usual_folders() {
        if is_client(&dir)
            && let Ok(client) = ask(&dir).await
        {
            found.push(client);
        }
    }
    Ok(found)
}

fn is_client(dir: &Path) -> bool {
    // Debian's /usr/bin/pg_dump is a script that guesses a version anew at each call.
    let wrapped = fs::canonicalize(dir.join("pg_dump")).is_ok_and(|path| path.ends_with("pg_wrapper"));
    !wrapped && ["pg_dump", "pg_restore"].iter().all(|program| dir.join(program).is_file())
}

fn usual_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    for (parent, prefix) in VERSIONED {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let named = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        dirs.extend(named.map(|entry| entry.path().join("bin")));
    }
    let mut seen = std::collections::HashSet::new();
    dirs.retain(|dir| seen.insert(dir.clone()));
    dirs
}

async fn ask(dir: &Path) -> Result<Client, ComponentError> {
    let said = Program::new("pg_dump", &dir.join("pg_dump")).args(["--version"]).text().await?;
    let (version, major) = parse(&said).ok_or_else(|| ComponentError::Read {
        what: format!("read version of {}", dir.join("pg_dump").display()),
        source: io::ErrorKind::InvalidData.into(),
    })?;
    Ok(Client { dir: dir.to_owned(), version, major })
}

/// Reads `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse(said: &str) -> Option<(String, u32)> {
    let version = said.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((version.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(majors: &[u32]) -> Vec<Client> {
        let client =
            |major: &u32| Client { dir: major.to_string().into(), version: String::new(), major: *major };
        majors.iter().map(client).collect()
    }

    #[test]
    fn the_client_of_the_server_is_best_then_the_smallest_newer_one() {
        let choice = |server, majors: &[u32], set: Option<&str>| {
            choose(server, &clients(majors), set.map(Path::new)).map(|client| client.major)
        };
        let set = Some("/opt/pg/bin");
        assert_eq!(choice(15, &[14, 15, 16], None), Ok(15));
        assert_eq!(choice(15, &[18, 14, 17], None), Ok(17));
        assert_eq!(choice(15, &[15], set), Ok(15));
        assert_eq!(choice(15, &[16], set), Ok(16));
        let refusals: [(&[u32], _, _); 4] = [
            (
                &[13, 15],
                None,
                "server is PostgreSQL 18, newest pg_dump found is 15: install postgresql-client-18 or set BACKUP_PG_BIN_DIR",
            ),
            (
                &[15],
                set,
                "server is PostgreSQL 18, pg_dump in /opt/pg/bin is 15: install postgresql-client-18 and correct BACKUP_PG_BIN_DIR",
            ),
            (&[], None, "find pg_dump: install postgresql-client or set BACKUP_PG_BIN_DIR"),
            (&[], set, "find pg_dump and pg_restore in /opt/pg/bin: correct BACKUP_PG_BIN_DIR"),
        ];
        for (majors, set, words) in refusals {
            assert_eq!(choice(18, majors, set), Err(words.to_owned()));
        }
    }

    #[test]
    fn versions_are_read_from_what_pg_dump_says() {
        let cases = [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(("15.18", 15))),
            ("pg_dump (PostgreSQL) 19beta1", Some(("19beta1", 19))),
            ("pg_dump (PostgreSQL) 18devel", Some(("18devel", 18))),
            ("something else", None),
        ];
        for (said, want) in cases {
            let want = want.map(|(version, major)| (version.to_owned(), major));
            assert_eq!(parse(said), want, "{said}");
        }
    }
}
