//! `pg_restore` into a database.

use crate::component::postgres::{
    clients::Client,
    config::PostgresConfig,
    entries,
    language::Language,
    libpq,
    refusal::{self, Refusal, Refusals},
    rights::OwnershipMode,
    server_messages::{PASSING, StderrFilter},
    single_database_extensions,
    toc::ListFile,
};
use crate::component::process::{Finished, Program};
use crate::component::{ComponentError, Feed, scratch::Scratch};
use crate::domain::{facts::Facts, progress::Meter, rights::Rights};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Since this version `pg_restore` sets `transaction_timeout` first of all, which servers before it do not
/// know.
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

/// Since this version a role may say how long a session may do nothing, as ours does while an archive comes slowly.
const KNOWS_IDLE_SESSIONS: u32 = 14;

/// Since this version a superuser may keep event triggers from firing in a session.
const SWITCHES_EVENT_TRIGGERS: u32 = 17;

/// The setting under which event triggers of the database do not fire in a session of ours: what a restore does is none
/// of their business. Superusers alone may set it, and they alone can make event triggers. `rights` tells whether a backup
/// has any.
pub fn quiet(is_superuser: bool, server: u32, rights: Option<&Rights>) -> Option<&'static str> {
    let has_any = rights.is_none_or(|rights| rights.kinds.contains_key("event trigger"));
    if server >= SWITCHES_EVENT_TRIGGERS {
        return is_superuser.then_some("-c event_triggers=off");
    }
    // Ordinary triggers do not fire then, either; an archive makes them when all rows are there.
    (is_superuser && has_any).then_some("-c session_replication_role=replica")
}

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
    pub rights: &'a OwnershipMode,
    /// Major version of the server.
    pub server: u32,
    /// The settings of the session.
    pub options: &'a str,
    /// Names of objects that may be missing afterwards.
    pub without: &'a [String],
    /// True if objects go to the tablespaces that the archive names.
    pub in_tablespaces: bool,
    /// The language of the server's words.
    pub language: &'a Language,
    /// The schemas of the archive that are there already.
    pub schemas: &'a [&'a str],
}

impl Load<'_> {
    /// Restores what comes, in its order, and tells the entries that the server has refused.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive cannot be read or something follows it,
    /// [`ComponentError::Failed`] when the server refuses what others need.
    pub async fn stream(&self, feed: Feed<'_>, meter: &Meter) -> Result<Vec<Refusal>, ComponentError> {
        let (program, refusals) = self.listening(self.program()?);
        match program.pass(feed, meter, |_| Ok(())).await {
            Ok(finished) if finished.unread => Err(ComponentError::Corrupt {
                what: "bytes follow the end of the archive".into(),
                source: None,
            }),
            outcome => self.refused_entries(outcome, &refusals),
        }
    }

    /// Restores a file with several sessions at once.
    ///
    /// # Errors
    ///
    /// As for [`Load::stream`]; bytes that follow the archive are not seen.
    pub async fn parallel(&self, file: &Scratch, jobs: usize) -> Result<Vec<Refusal>, ComponentError> {
        let (program, refusals) = self.listening(self.program()?.args([format!("--jobs={jobs}")]));
        let outcome = program.args([Scratch::AS_STDIN]).stdin(file.handle()?).run().await;
        self.refused_entries(outcome, &refusals)
    }

    /// Replaces what is in the database by the entries of a file that `list` names, in one transaction.
    ///
    /// # Errors
    ///
    /// As for [`Load::parallel`]; then the database is as it was. [`ComponentError::Refused`] when the server refuses
    /// an object that no rows need.
    pub async fn in_place(&self, file: &Scratch, list: &ListFile) -> Result<(), ComponentError> {
        if self.is_trapped() {
            return Err(ComponentError::Unusable {
                what: format!(
                    "pg_restore {} cannot restore into PostgreSQL {} in one transaction: install postgresql-client-{}",
                    self.client.version, self.server, self.server
                ),
                source: None,
            });
        }
        let once = ["--clean", "--if-exists", "--single-transaction", "--exit-on-error"];
        let (program, refusals) = self.listening(self.program()?.args(once));
        let program = program
            .args([std::ffi::OsStr::new("--use-list"), list.path().as_os_str()])
            .args([Scratch::AS_STDIN]);
        let Err(err) = program.stdin(file.handle()?).run().await else { return Ok(()) };
        let mut refused = std::mem::take(&mut *refusals.lock().expect("nobody panics while reading a line"));
        refused.finish();
        match refused.found.into_iter().next() {
            Some(refusal) if self.may_go_on(&refusal) => Err(refusal::error(&[refusal])),
            _ => Err(classify_failure(err, self.language)),
        }
    }

    /// Makes the program report each entry, and reads these reports.
    fn listening(&self, program: Program) -> (Program, Arc<Mutex<Refusals>>) {
        let refusals = Arc::new(Mutex::new(Refusals::default()));
        let reader = Arc::clone(&refusals);
        let policy = RefusalPolicy::of(self);
        let mut filters: HashMap<_, StderrFilter> = HashMap::new();
        let program = program.args(["--verbose"]).listened_to(move |process, line| {
            let mut reading = reader.lock().expect("nobody panics while reading a line");
            let action = reading.read(process, line, |refusal| policy.may_go_on(refusal));
            (action, filters.entry(process).or_default().line(line).unwrap_or_default())
        });
        (program, refusals)
    }

    fn may_go_on(&self, refusal: &Refusal) -> bool {
        RefusalPolicy::of(self).may_go_on(refusal)
    }

    fn program(&self) -> Result<Program, ComponentError> {
        let program = Program::new("pg_restore", &self.client.dir.join("pg_restore"));
        let program = libpq::with_connection(program, self.config)?
            // A subscription in a copy shares the slot of the live one, and no copy that has one can be dropped.
            .args(["--no-subscriptions"])
            .args((!self.in_tablespaces).then_some("--no-tablespaces"))
            .env("PGOPTIONS", self.options);
        let program = match self.rights {
            OwnershipMode::AsTheyWere(role) => {
                program.args(role.as_ref().map(|role| format!("--role={role}")))
            }
            OwnershipMode::OfTheOwner(_) => program
                .args(["--no-owner", "--no-privileges"])
                .args(self.role.map(|role| format!("--role={role}"))),
        };
        Ok(program)
    }

    /// Tests whether this client begins with a setting that the server does not know.
    const fn is_trapped(&self) -> bool {
        self.client.major >= SETS_TRANSACTION_TIMEOUT && self.server < SETS_TRANSACTION_TIMEOUT
    }

    /// The refused entries of a run that has gone on past them to its end; any other failure is one.
    fn refused_entries(
        &self,
        outcome: Result<Finished, ComponentError>,
        refusals: &Mutex<Refusals>,
    ) -> Result<Vec<Refusal>, ComponentError> {
        let mut refusals = std::mem::take(&mut *refusals.lock().expect("nobody panics while reading a line"));
        refusals.finish();
        let Err(err) = outcome else { return Ok(Vec::new()) };
        let is_known = refusals.is_at_end
            && !refusals.is_broken
            && (refusals.timeouts == 0 || self.is_trapped())
            && refusals.found.iter().all(|refusal| self.may_go_on(refusal));
        match err {
            ComponentError::Failed { transient: false, .. } if is_known => {
                let policy = RefusalPolicy::of(self);
                refusals.found.retain(|refusal| !policy.is_there_already(refusal));
                Ok(refusals.found)
            }
            err => Err(classify_failure(err, self.language)),
        }
    }
}

/// Settings by which a server reads the text of an archive otherwise than the server has written that text. `pg_restore`
/// sets others itself.
const READ_AS_WRITTEN: &str =
    "-c array_nulls=on -c transform_null_equals=off -c IntervalStyle=postgres -c DateStyle=ISO,MDY";

/// The settings of a session of `pg_restore`, which outrank what the role has set. What is not yet on disk when the copy
/// is whole is there before the swap is: the log is one. `lc_monetary` is the locale in which the archive has `money`.
pub fn options(language: &Language, quiet: Option<&str>, server: u32, lc_monetary: Option<&str>) -> String {
    let mut options = format!(
        "-c role=none -c default_transaction_read_only=off -c synchronous_commit=off {READ_AS_WRITTEN}"
    );
    if let Some(locale) = lc_monetary {
        // libpq splits options at spaces that no backslash stands before.
        let escaped: String = locale
            .chars()
            .flat_map(|c| [' ', '\\'].contains(&c).then_some('\\').into_iter().chain([c]))
            .collect();
        options.push_str(&format!(" -c lc_monetary={escaped}"));
    }
    if server >= KNOWS_IDLE_SESSIONS {
        options.push_str(" -c idle_session_timeout=0");
    }
    for option in language.option.iter().chain(&quiet) {
        options.push(' ');
        options.push_str(option);
    }
    options
}

/// The rule by which a restore goes on past a refused entry, asked for each while the program runs.
struct RefusalPolicy {
    without: Vec<String>,
    schemas: Vec<String>,
    is_english: bool,
}

impl RefusalPolicy {
    fn of(load: &Load<'_>) -> Self {
        Self {
            without: load.without.to_vec(),
            schemas: load.schemas.iter().map(|&schema| schema.to_owned()).collect(),
            is_english: load.language.is_english(),
        }
    }

    /// Returns whether an entry is a schema that was made before, for an extension.
    fn is_there_already(&self, refusal: &Refusal) -> bool {
        let is_made = || self.schemas.contains(&refusal.tag);
        refusal.kind == "SCHEMA"
            && (refusal.said.ends_with("already exists") || !self.is_english && is_made())
    }

    /// Returns whether the rest of an archive makes sense without an entry: without what no rows need, without the rows of
    /// one table, and without what somebody has named. Words in another language may be those of a fault that passes.
    fn may_go_on(&self, refusal: &Refusal) -> bool {
        let passes = |words: &&str| refusal.said.contains(words);
        let holds_none = match refusal.kind.as_str() {
            _ if self.is_there_already(refusal) => true,
            _ if !self.is_english => false,
            // Others need it: to go on would only hide the cause.
            "EXTENSION" => refusal.said.contains(single_database_extensions::REFUSED),
            entries::ROWS | "SEQUENCE SET" => true,
            _ => refusal.is_derived(),
        };
        !PASSING.iter().chain(&[FULL]).any(passes) && (holds_none || refusal.is_named_by(&self.without))
    }
}

/// The server's word for a full disk.
const FULL: &str = "No space left on device";

/// Sorts a failure of `pg_restore`, by the words of its own and of a server that speaks English.
fn classify_failure(err: ComponentError, language: &Language) -> ComponentError {
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
    language.sorted(program, status, stderr, transient)
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
