//! `pg_restore` into a database.

use crate::component::postgres::{PASSING, clients::Client, config::PostgresConfig, libpq, rights::Way};
use crate::component::process::Program;
use crate::component::{ComponentError, Feed, scratch::Scratch};
use crate::domain::{facts::Facts, progress::Meter};

/// Since this version `pg_restore` sets `transaction_timeout` first of all, which servers before it do not
/// know.
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

/// Since this version a role may say how long a session may do nothing, as ours does while an archive comes slowly.
const KNOWS_IDLE_SESSIONS: u32 = 14;

/// A run of `pg_restore` to come.
#[derive(Debug)]
pub struct Load<'a> {
    /// The program.
    pub client: &'a Client,
    /// The way into the database to fill.
    pub config: &'a PostgresConfig,
    /// The role that is to own everything where rights are not restored, unless it is the one that logs in.
    pub role: Option<&'a str>,
    /// Owners and privileges of the objects after the restore.
    pub rights: &'a Way,
    /// Major version of the server.
    pub server: u32,
}

impl Load<'_> {
    /// Restores what comes, in its order.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive cannot be read or something follows it,
    /// [`ComponentError::Failed`] when the server refuses it.
    pub async fn stream(&self, feed: Feed<'_>, meter: &Meter) -> Result<(), ComponentError> {
        let program = self.program()?.args(self.strictness());
        match program.pass(feed, meter, |_| Ok(())).await {
            Ok(finished) if finished.unread => Err(ComponentError::Corrupt {
                what: "bytes follow the end of the archive".into(),
                source: None,
            }),
            Ok(_) => Ok(()),
            Err(err) => self.judge(err, 1),
        }
    }

    /// Restores a file with several sessions at once.
    ///
    /// # Errors
    ///
    /// As for [`Load::stream`]; bytes that follow the archive are not seen.
    pub async fn parallel(&self, file: &Scratch, jobs: usize) -> Result<(), ComponentError> {
        // Before the workers begin and after they have ended; what they were refused at once is not counted.
        const SESSIONS: usize = 2;
        let program = self.program()?.args(self.strictness()).args([format!("--jobs={jobs}")]);
        let program = program.args([Scratch::AS_STDIN]).stdin(file.handle()?);
        program.run().await.map_or_else(|err| self.judge(err, SESSIONS), |_| Ok(()))
    }

    /// Replaces what is in the database by what is in a file, in one transaction.
    ///
    /// # Errors
    ///
    /// As for [`Load::parallel`]; then the database is as it was.
    pub async fn in_place(&self, file: &Scratch) -> Result<(), ComponentError> {
        if self.is_trapped() {
            return Err(ComponentError::Unusable {
                what: format!(
                    "pg_restore {} cannot restore into PostgreSQL {} in one transaction: install postgresql-client-{}",
                    self.client.version, self.server, self.server
                ),
                source: None,
            });
        }
        let once = ["--clean", "--if-exists", "--single-transaction", "--exit-on-error", Scratch::AS_STDIN];
        let program = self.program()?.args(once).stdin(file.handle()?);
        program.run().await.map_or_else(|err| Err(blame(err)), |_| Ok(()))
    }

    fn program(&self) -> Result<Program, ComponentError> {
        let program = Program::new("pg_restore", &self.client.dir.join("pg_restore"));
        // Options outrank what the role has set. What is not yet on disk when the copy is whole is there
        // before the swap is: the log is one.
        let mut options = "-c default_transaction_read_only=off -c synchronous_commit=off".to_owned();
        if self.server >= KNOWS_IDLE_SESSIONS {
            options.push_str(" -c idle_session_timeout=0");
        }
        let program = libpq::reach(program, self.config)?
            // A subscription in a copy shares the slot of the live one, and no copy that has one can be dropped.
            .args(["--no-subscriptions"])
            .env("PGOPTIONS", options);
        let program = match self.rights {
            Way::AsTheyWere(role) => program.args(role.as_ref().map(|role| format!("--role={role}"))),
            Way::OfTheOwner(_) => program
                .args(["--no-owner", "--no-privileges"])
                .args(self.role.map(|role| format!("--role={role}"))),
        };
        Ok(program)
    }

    /// Whether this client begins with a setting that the server does not know.
    const fn is_trapped(&self) -> bool {
        self.client.major >= SETS_TRANSACTION_TIMEOUT && self.server < SETS_TRANSACTION_TIMEOUT
    }

    fn strictness(&self) -> Option<&'static str> {
        (!self.is_trapped()).then_some("--exit-on-error")
    }

    /// What a failure means when `pg_restore` itself, without workers, begins so many sessions.
    fn judge(&self, err: ComponentError, sessions: usize) -> Result<(), ComponentError> {
        match &err {
            ComponentError::Failed { stderr, transient: false, .. }
                if self.is_trapped() && only_the_timeout_was_refused(stderr, sessions) =>
            {
                Ok(())
            }
            _ => Err(blame(err)),
        }
    }
}

/// Whether all that the server refused is `pg_restore`'s own setting of `transaction_timeout`, once in each
/// session. The count tells of errors whose words were too many to keep.
fn only_the_timeout_was_refused(stderr: &str, sessions: usize) -> bool {
    let counted = stderr.lines().rev().find_map(|line| line.split_once("errors ignored on restore: "));
    let counted = counted.and_then(|(_, number)| number.trim().parse().ok());
    let mut refused = stderr.lines().filter_map(|line| line.strip_prefix("Command was: "));
    counted == Some(sessions) && refused.all(|command| command == "SET transaction_timeout = 0;")
}

/// Sorts a failure of `pg_restore`, by the words of its own and of a server that speaks English.
fn blame(err: ComponentError) -> ComponentError {
    const DAMAGED: [&str; 13] = [
        "could not read from input file",
        "does not appear to be a valid archive",
        "input file is too short",
        "could not find block ID",
        "unexpected block ID",
        "unexpected end of",
        "did not find magic string",
        "could not uncompress data",
        "unrecognized data block type",
        "sanity check on integer size",
        "unexpected data offset flag",
        "entry ID",
        "could not find header for file", // it takes an archive of media for a dump in tar format
    ];
    const FULL: &str = "No space left on device";
    // It says so of every worker that ended with an error, after that error: alone, it was killed.
    const KILLED: &str = "a worker process died unexpectedly";
    let ComponentError::Failed { program, status, stderr, transient } = err else { return err };
    let says = |words: &[&str]| words.iter().any(|words| stderr.contains(words));
    if stderr.contains("unsupported version") {
        let what = format!("{stderr}: a newer pg_dump made the archive: install its postgresql-client");
        return ComponentError::Unusable { what, source: None };
    }
    if stderr.contains("permission denied to create extension") || stderr.contains("extension control file") {
        let what = format!(
            "{stderr}: the extension must be installed on the server, and either be trusted (in its control file) or \
             the owner of the database a superuser, who then owns what is restored"
        );
        return ComponentError::Unusable { what, source: None };
    }
    if !transient && says(&DAMAGED) {
        return ComponentError::Corrupt { what: format!("archive cannot be read: {stderr}"), source: None };
    }
    let alone = stderr.lines().filter(|line| line.contains("error: ")).count() == 1;
    let transient = transient || says(&PASSING) || says(&[FULL]) || alone && says(&[KILLED]);
    ComponentError::Failed { program, status, stderr, transient }
}

/// The client to restore with: one that can read the archive, and of those the server's own, else the
/// smallest newer one, else the newest.
pub fn choose<'a>(server: u32, facts: Option<&Facts>, found: &'a [Client]) -> Option<&'a Client> {
    let dumped = facts.and_then(|facts| major(facts.versions.get("pg_dump")?)).unwrap_or(0);
    let distance = |client: &&Client| (client.major < server, client.major.abs_diff(server));
    found.iter().filter(|client| client.major >= dumped).min_by_key(distance)
}

/// The major of `15.18` or `18beta1`.
pub fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_trap_is_forgiven() {
        let trap = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter\n\
                    Command was: SET transaction_timeout = 0;\n";
        let other = "pg_restore: error: could not execute query: ERROR:  syntax error\nCommand was: SELECT\n";
        let ignored = |errors: usize| format!("pg_restore: warning: errors ignored on restore: {errors}");
        let cases = [
            (format!("{trap}{}", ignored(1)), 1, true),
            (format!("{trap}{trap}{trap}{trap}{}", ignored(2)), 2, true),
            (format!("{trap}{}", ignored(3)), 2, false),
            (format!("{trap}{trap}{}", ignored(2)), 1, false),
            (format!("{trap}{other}{}", ignored(2)), 2, false),
            (format!("{trap}pg_restore: error: could not read from input file"), 1, false),
            (String::new(), 1, false),
        ];
        for (stderr, sessions, forgiven) in cases {
            assert_eq!(only_the_timeout_was_refused(&stderr, sessions), forgiven, "{stderr}");
        }
    }

    #[test]
    fn the_client_can_read_the_archive_and_fits_the_server_best() {
        let clients: Vec<_> = [13, 15, 16, 18]
            .map(|major| Client { dir: major.to_string().into(), version: String::new(), major })
            .into();
        let cases = [
            (15, "15.18", Some(15)),
            (15, "16.2", Some(16)),
            (14, "13", Some(15)),
            (19, "16", Some(18)),
            (15, "19beta1", None),
        ];
        for (server, dumped, want) in cases {
            let facts = Facts { versions: [("pg_dump".into(), dumped.into())].into(), ..Facts::default() };
            assert_eq!(choose(server, Some(&facts), &clients).map(|c| c.major), want, "{server} {dumped}");
        }
        assert_eq!(choose(15, None, &clients).map(|c| c.major), Some(15));
    }
}
