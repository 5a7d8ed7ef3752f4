//! The command line: the same work by hand, without broker or Django.
//!
//! Data goes to standard output, everything else to standard error.

#![expect(clippy::doc_markdown, reason = "doc comments here are help texts, for terminals")]

mod backup;
mod catalog;
mod check;
mod healthcheck;
mod list;
mod output;
mod pin;
mod prune;
mod restore;
mod show;
mod verify;
mod worker;

use crate::app::{App, BuildError};
use crate::base::chain;
use crate::catalog::CatalogError;
use crate::component::ComponentError;
use crate::config::Config;
use crate::engine::EngineError;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::process::ExitCode;

/// Backs up the PostgreSQL database, the Weaviate classes and the media folder of a Django app.
///
/// `worker` does it for Celery; the other commands do the same work by hand, without broker or
/// Django, because on a bad day both may be down.
///
/// Settings are environment variables, under the names that the web app has in its .env:
/// DATABASE_URL, WEAVIATE_URL, MEDIA_ROOT, REDIS_URL, BACKUP_ROOT and so on. `rna-backup check` looks whether
/// they and what they point to are in order.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
On a bad day:
  rna-backup check                    what is out of order, and what to do about it
  rna-backup list                     which backups there are
  rna-backup verify all               whether the newest ones are whole
  rna-backup show latest              the newest one, and the commands that open it with plain tools

With the settings in a file:
  set -a; . /srv/app/.env; set +a; rna-backup check

Exit status:
  0  done
  1  failed: the last lines on standard error say why
  2  the command line or a setting is wrong; nothing was touched
  3  there is no such backup
  4  a backup is not whole: a new one was not kept, an old one was marked
  5  another process works on that component; try again later";

#[derive(Debug, Subcommand)]
enum Command {
    /// Take backup tasks from the Celery broker until told to stop.
    ///
    /// Consumes the queues of BACKUP_QUEUES on the Redis of REDIS_URL, and serves /metrics, /livez
    /// and /readyz on BACKUP_METRICS_ADDR. Tasks of other workers are left where they are.
    ///
    /// At SIGTERM or Ctrl-C it takes no new work and lets running tasks finish for
    /// BACKUP_SHUTDOWN_GRACE; what is not done then is stopped cleanly and given back to the queue.
    Worker(worker::WorkerArgs),
    /// Back up one component, or all that are configured.
    ///
    /// A backup exists only once its archive has been decoded to its end, found to hold what was
    /// read from the source, and read back from the disk unchanged. Whatever goes wrong before, or Ctrl-C, leaves nothing behind.
    /// After it, older backups go as retention says (see `prune`).
    #[command(after_help = backup::EXAMPLES)]
    Backup(backup::BackupArgs),
    /// List the backups, newest first.
    ///
    /// Those of the app's old tasks are among them, as far as their files lie in BACKUP_ROOT.
    ///
    /// VERIFIED says how far a backup was proven, when it was made or by `verify` since: `decode` means
    /// decoded to its end and counted, `none` that nobody has looked or that it did not hold. STATE is
    /// of now: `ok`, `failed` (the file has another length than it should, or `verify` found it damaged)
    /// or `missing`.
    List(list::ListArgs),
    /// Show everything about one backup, and how to open it with plain tools.
    ///
    /// The commands that it prints need nothing of rna-backup: copy them to any machine that has
    /// the archive.
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowArgs),
    /// Read backups again, to their end, and compare them with what is known of them.
    ///
    /// In every destination: bytes and hash, then the archive is decoded and what is in it is counted,
    /// as when it was made. The live data is not touched. One that is not whole is marked: `latest` and
    /// retention count on it no more, and `list` shows it as failed, until a verification that goes as far
    /// finds it whole.
    ///
    /// Files of the app's old tasks are read to their end; nothing was noted to compare them with.
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Keep a backup for good: retention leaves it alone until `unpin`.
    Pin(pin::OneBackupArgs),
    /// Leave a pinned backup to retention again.
    Unpin(pin::OneBackupArgs),
    /// Say of a backup that is much smaller than the one before that it is as it should be.
    ///
    /// A backup whose bytes, files, tables or rows fall by more than half against the last one is kept,
    /// and flagged: perhaps somebody has just lost data, and older backups have it. As long as the
    /// newest one is flagged, retention deletes nothing of that component; `accept` or `pin` ends that.
    Accept(pin::OneBackupArgs),
    /// Delete the backups that retention no longer keeps.
    ///
    /// This also happens after each backup; but nothing goes while the newest one is much smaller than
    /// before (see `accept`). Kept are those younger than BACKUP_RETENTION_DAYS, the
    /// pinned ones, the newest verified ones (BACKUP_KEEP_LAST, always at least what is set there),
    /// those of BACKUP_KEEP_WEEKLY and BACKUP_KEEP_MONTHLY, and every file that rna-backup did not
    /// make itself.
    #[command(after_help = prune::EXAMPLES)]
    Prune(prune::PruneArgs),
    /// Make the catalogue anew from the destinations alone.
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Look at every dependency and say what to do about those that are not fit.
    ///
    /// Nothing is changed, but that BACKUP_ROOT is made if it is missing. Ends with 1 when something
    /// is not fit.
    Check(JsonFlag),
    /// Restore a component from a backup, after a question.
    ///
    /// The archive is checked, restored beside the live data and compared with its manifest; only then it
    /// takes the place of the live data, in one instant. Whatever goes wrong before leaves the live data
    /// as it was. What was replaced is kept until the next backup succeeds, for `undo`.
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::RestoreArgs),
    /// Put back what the last restore replaced.
    Undo(restore::UndoArgs),
    /// Ask the worker on this machine whether it is alive; for container health checks.
    ///
    /// Asks /livez on BACKUP_METRICS_ADDR. A worker that waits for a broker that is down is alive:
    /// restarting it would not help. /readyz says whether it has its broker and can store backups.
    Healthcheck(JsonFlag),
    /// Print a script that completes this command line in a shell.
    ///
    /// For bash: rna-backup completions bash >/etc/bash_completion.d/rna-backup
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// The flag of every command that prints data.
#[derive(Debug, Clone, Copy, Args)]
struct JsonFlag {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// The exit status of a command. The numbers are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line or the settings are wrong.
    Usage = 2,
    /// There is no such backup.
    NotFound = 3,
    /// Something did not stand its proof.
    Unverified = 4,
    /// Another process has the component.
    Busy = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The reason that a command failed, and its exit status.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    why: String,
    /// The remedy, where the reason does not tell it.
    hint: Option<&'static str>,
}

impl Failure {
    fn new(exit: Exit, why: impl Into<String>) -> Self {
        Self { exit, why: why.into(), hint: None }
    }

    /// Prints the failure on standard error, and returns the exit status.
    fn tell(&self) -> Exit {
        output::note(format_args!("error: {}", self.why));
        if let Some(hint) = self.hint {
            output::note(format_args!("hint: {hint}"));
        }
        self.exit
    }
}

impl From<BuildError> for Failure {
    fn from(err: BuildError) -> Self {
        Self::new(Exit::Usage, chain(&err))
    }
}

impl From<EngineError> for Failure {
    fn from(err: EngineError) -> Self {
        const LIST: &str =
            "`rna-backup list` shows which backups there are, and whether their manifests can be read";
        let (exit, hint) = match &err {
            EngineError::NotConfigured { .. }
            | EngineError::LeftOut { .. }
            | EngineError::NotOurs { .. }
            | EngineError::Locked { .. } => (Exit::Usage, None),
            EngineError::Copy { .. } => (
                Exit::Failed,
                Some("it counts, and can be restored; `rna-backup check` says what that destination wants"),
            ),
            EngineError::Busy { .. } => (
                Exit::Busy,
                Some(
                    "try again when that has ended; with `--wait`, `backup`, `verify`, `restore`, `pin` and `accept` wait for it",
                ),
            ),
            // Such an error names the holder, and what to do.
            EngineError::Component { source: ComponentError::Taken { .. }, .. } => (Exit::Busy, None),
            EngineError::Verify { .. } => {
                (Exit::Unverified, Some("the archive was not kept; earlier backups are as they were"))
            }
            EngineError::Damaged { .. } => (
                Exit::Unverified,
                Some("the live data was not touched; try another backup, `rna-backup list` shows them"),
            ),
            EngineError::Cancelled => (Exit::Failed, Some("nothing of it was kept")),
            EngineError::Catalog(CatalogError::NotFound { .. }) => (Exit::NotFound, Some(LIST)),
            EngineError::Catalog(CatalogError::Refused { .. }) => (Exit::Usage, Some(LIST)),
            // Such an error says itself what to do.
            EngineError::Component { source: ComponentError::Unusable { .. }, .. } => (Exit::Failed, None),
            EngineError::Component { .. } => {
                (Exit::Failed, Some("`rna-backup check` looks at everything that a backup needs"))
            }
            _ => (Exit::Failed, None),
        };
        Self { hint, ..Self::new(exit, chain(&err)) }
    }
}

/// The parts, for commands that only look at backups: they make no folder where there is none, since
/// that may be a disk that is not mounted. With another destination there is somewhere else to look.
async fn open(config: Config) -> Result<App, Failure> {
    // A folder that may not be looked at is not a missing one: opening it says what is wrong.
    if config.destinations.len() > 1 || config.root.try_exists().unwrap_or(true) {
        return Ok(App::build(config).await?);
    }
    let why = format!("there are no backups: {} (BACKUP_ROOT) does not exist", config.root.display());
    let hint = Some("mount it or correct the setting; the first backup makes the folder");
    Err(Failure { hint, ..Failure::new(Exit::NotFound, why) })
}

/// Waits for the work of a command, and then for the background work of the app's parts.
async fn settled<T>(app: &App, work: impl Future<Output = T>) -> T {
    let done = work.await;
    app.wait_for_background().await;
    done
}

impl Cli {
    /// True if the command connects to the broker.
    pub fn needs_broker(&self) -> bool {
        matches!(self.command, Command::Worker(_) | Command::Check(_))
    }

    /// Returns the output that needs no settings: the script of `completions`, where that is the command.
    pub fn script(&self) -> Option<Vec<u8>> {
        let Command::Completions { shell } = self.command else { return None };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Self::command(), "rna-backup", &mut script);
        Some(script)
    }

    /// The log filter when `RUST_LOG` is not set: a worker logs its work, and a command prints its result, so that a
    /// command logs only what is out of order.
    pub fn log_filter(&self) -> &'static str {
        if matches!(self.command, Command::Worker(_)) { "info" } else { "warn" }
    }
}

/// Runs one command to its end.
pub async fn run(cli: Cli, config: Config) -> Exit {
    let ended = match cli.command {
        Command::Worker(args) => Box::pin(worker::run(config, &args)).await,
        Command::Backup(args) => backup::run(config, args).await,
        Command::List(args) => list::run(config, args).await,
        Command::Show(args) => show::run(config, args).await,
        Command::Verify(args) => verify::run(config, args).await,
        Command::Pin(args) => pin::run(config, args, true).await,
        Command::Unpin(args) => pin::run(config, args, false).await,
        Command::Accept(args) => pin::accept(config, args).await,
        Command::Prune(args) => prune::run(config, args).await,
        Command::Restore(args) => Box::pin(restore::run(config, args)).await,
        Command::Undo(args) => Box::pin(restore::undo(config, args)).await,
        Command::Catalog(command) => Box::pin(catalog::run(config, command)).await,
        Command::Check(flag) => check::run(config, flag).await,
        Command::Healthcheck(flag) => healthcheck::run(&config, flag).await,
        Command::Completions { .. } => unreachable!("it is printed without settings"),
    };
    ended.unwrap_or_else(|failure| failure.tell())
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}
