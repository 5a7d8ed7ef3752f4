//! One run of a child process with pipes: `pg_dump`, `pg_restore`.
//!
//! Every run has this in common: the environment is cleared down to the variables that are named, secrets travel in
//! the environment and never in an argument, standard error is read all the time (its tail is kept, secrets blotted
//! out), the exit status is asked for before anything counts as done, and dropping the future kills the child.

mod group;
mod stderr;

use crate::component::{ComponentError, Feed};
use crate::domain::progress::Meter;
use crate::stream::Output;
use bytes::BytesMut;
use group::Group;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Pid;
use secrecy::{ExposeSecret, SecretString};
use std::{
    ffi::OsStr,
    fs::File,
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
};
use stderr::{Stderr, tail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::{Child, ChildStdout, Command},
};

/// Bytes handed on at once: large enough that per-chunk work does not show, small beside 128 MiB.
const CHUNK: usize = 256 * 1024;

/// The capacity of a pipe in bytes: the default limit of Linux for users without privileges
/// (`/proc/sys/fs/pipe-max-size`). The usual 64 KiB wakes both ends four times as often.
const PIPE: usize = 1024 * 1024;

/// The bytes that a child that reads through C's `stdio` may take from a pipe beyond its needs:
/// one buffer, and `st_blksize` of a pipe is 4096.
const READ_AHEAD: usize = 4096;

/// A program about to be run once.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    command: Command,
    secrets: Vec<SecretString>,
    listener: Option<Listener>,
}

/// The use of one line of a program's standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineAction {
    /// The line stays in the text that errors show.
    Keep,
    /// The line is no part of that text.
    Skip,
    /// The line stays, and the program is ended.
    Stop,
}

/// A function that hears each line of a program's standard error.
struct Listener(Box<Listen>);

/// Hears a line and which process of the program has written it, and returns the line as it may be kept.
type Listen = dyn FnMut(Option<Pid>, &str) -> (LineAction, String) + Send + Sync;

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// The outcome of a child process that ended well.
#[derive(Debug, Default)]
pub struct Finished {
    /// Bytes of the child's standard output.
    pub bytes: u64,
    /// The last 4 KiB of the child's standard error.
    pub stderr: String,
    /// True if the child ended before it had read everything that it was given.
    pub unread: bool,
}

impl Program {
    /// The program at `path`, called `name` in errors, with an environment of `PATH` and
    /// `LD_LIBRARY_PATH` alone.
    pub fn new(name: &'static str, path: &Path) -> Self {
        let mut command = Command::new(path);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        // A group of its own: Ctrl-C on a terminal is for us, who give running work its time to end.
        command.kill_on_drop(true).process_group(0);
        for inherited in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        Self { name, command, secrets: Vec::new(), listener: None }
    }

    /// Adds arguments. Everybody on the machine can read them: no secrets here.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the child's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets a variable to a secret, which will be blotted out of whatever the child says.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &SecretString) -> Self {
        self.command.env(name, value.expose_secret());
        self.secrets.push(value.clone());
        self
    }

    /// Passes each line of the program's standard error to `listener`, without secrets and with the process that has
    /// written the line, as soon as the line is there. The listener returns the line as it may be kept, too.
    #[must_use]
    pub fn listened_to(
        mut self,
        listener: impl FnMut(Option<Pid>, &str) -> (LineAction, String) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Listener(Box::new(listener)));
        self
    }

    /// Runs the program and returns its standard output, in full.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when it is not there or no program, [`ComponentError::Failed`]
    /// when it says so. The same goes for the other ways to run it.
    pub async fn text(mut self) -> Result<String, ComponentError> {
        let out = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .await
            .map_err(self.unstartable())?;
        self.judge(out.status, &String::from_utf8_lossy(&out.stderr))?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Gives the program a file as its standard input.
    #[must_use]
    pub fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Runs the program for its effects.
    ///
    /// # Errors
    ///
    /// As for [`Program::text`].
    pub async fn run(mut self) -> Result<Finished, ComponentError> {
        let (mut child, stderr) = self.spawn()?;
        let group = Group::of(&child);
        let listener = self.listener.take();
        let stderr = self.tail(stderr, listener).await?;
        let status = self.wait(&mut child).await?;
        group.release();
        self.judge(status, &stderr)?;
        Ok(Finished { stderr, ..Finished::default() })
    }

    /// Runs the program and writes its standard output into `out`, counting it on `meter`.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Output`] when `out` refuses, [`ComponentError::Failed`] when the program
    /// does not end with status 0; what was written until then is worthless.
    pub async fn write_into(
        mut self,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Finished, ComponentError> {
        self.command.stdout(Stdio::piped());
        let (mut child, stderr) = self.spawn()?;
        let stdout = output(&mut child);
        let drain = drain(stdout, out, meter);
        let listener = self.listener.take();
        let (bytes, stderr) = tokio::try_join!(drain, self.tail(stderr, listener))?;
        self.judge(self.wait(&mut child).await?, &stderr)?;
        Ok(Finished { bytes, stderr, unread: false })
    }

    /// Runs the program on `feed`, counting what it is given on `meter`, and shows its standard
    /// output to `seen` chunk by chunk.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Failed`] when the program does not end with status 0, which outranks a
    /// feed that it did not read to the end; the error of the feed, or of `seen`, when that one
    /// comes first.
    pub async fn pass(
        mut self,
        feed: Feed<'_>,
        meter: &Meter,
        mut seen: impl FnMut(&[u8]) -> Result<(), ComponentError> + Send,
    ) -> Result<Finished, ComponentError> {
        let (stdin, writer) = io::pipe().map_err(self.broken())?;
        // Our own handle on the reading end: tells how much the child left in the pipe.
        let left = stdin.try_clone().map_err(self.broken())?;
        self.command.stdin(stdin).stdout(Stdio::piped());
        let (mut child, stderr) = self.spawn()?;
        self.command.stdin(Stdio::null()); // gives up the copy of the reading end
        let writer = pipe::Sender::from_owned_fd(OwnedFd::from(writer)).map_err(self.broken())?;
        widen(&writer);
        let mut stdout = output(&mut child);
        let listener = self.listener.take();

        let give = async {
            tokio::select! {
                biased;
                copied = copy_to_stdin(feed, writer, meter) => copied.map(|()| true),
                // With a reading end of our own there is no broken pipe: the end of the child is.
                ended = child.wait() => ended.map(|_| false).map_err(self.broken()),
            }
        };
        let take = async {
            let (mut chunk, mut bytes) = (BytesMut::with_capacity(CHUNK), 0);
            while stdout.read_buf(&mut chunk).await.map_err(self.broken())? > 0 {
                bytes += chunk.len() as u64;
                seen(&chunk)?;
                chunk.clear();
            }
            Ok(bytes)
        };
        let (all_given, bytes, stderr) = tokio::try_join!(give, take, self.tail(stderr, listener))?;
        self.judge(self.wait(&mut child).await?, &stderr)?;
        let unread = !all_given || rustix::io::ioctl_fionread(&left).is_ok_and(|bytes| bytes > 0);
        Ok(Finished { bytes, stderr, unread })
    }

    fn spawn(&mut self) -> Result<(Child, Stderr), ComponentError> {
        let (stderr, theirs) = Stderr::pair().map_err(self.unstartable())?;
        let child = self.command.stderr(theirs).spawn().map_err(self.unstartable());
        self.command.stderr(Stdio::null()); // gives up the copy of the child's end
        Ok((child?, stderr))
    }

    fn tail(
        &self,
        stderr: Stderr,
        listener: Option<Listener>,
    ) -> impl Future<Output = Result<String, ComponentError>> {
        tail(self.name, stderr, &self.secrets, listener)
    }

    async fn wait(&self, child: &mut Child) -> Result<ExitStatus, ComponentError> {
        child.wait().await.map_err(self.broken())
    }

    /// Succeeds if the child's exit status is 0; the exit status alone decides.
    fn judge(&self, status: ExitStatus, stderr: &str) -> Result<(), ComponentError> {
        if status.success() {
            return Ok(());
        }
        // Somebody's or the kernel's decision, not a fault of the data: SIGHUP, SIGINT, SIGKILL,
        // SIGTERM. A crash (SIGSEGV, SIGABRT) will only repeat itself.
        let transient = matches!(status.signal(), Some(1 | 2 | 9 | 15));
        let (program, stderr) = (self.name, stderr.trim().to_owned());
        Err(ComponentError::Failed { program, status: status.to_string(), stderr, transient })
    }

    fn unstartable(&self) -> impl FnOnce(io::Error) -> ComponentError + use<> {
        let what = format!("start {}", self.name);
        |err| match err.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                ComponentError::Unusable { what, source: Some(err.into()) }
            }
            // Out of processes, memory or file descriptors.
            _ => ComponentError::Unavailable { what, source: Some(err.into()) },
        }
    }

    fn broken(&self) -> impl FnOnce(io::Error) -> ComponentError + use<> {
        let what = format!("exchange bytes with {}", self.name);
        |source| ComponentError::Read { what, source }
    }
}

fn output(child: &mut Child) -> ChildStdout {
    let stdout = child.stdout.take().expect("stdout is piped by every caller");
    widen(&stdout);
    stdout
}

async fn drain(mut stdout: ChildStdout, out: &mut dyn Output, meter: &Meter) -> Result<u64, ComponentError> {
    let broken = |source| ComponentError::Read { what: "read output of a program".into(), source };
    let (mut chunk, mut total) = (BytesMut::new(), 0);
    loop {
        chunk.reserve(CHUNK);
        while chunk.len() < CHUNK && stdout.read_buf(&mut chunk).await.map_err(broken)? > 0 {}
        if chunk.is_empty() {
            return Ok(total);
        }
        let bytes = chunk.len() as u64;
        out.write(chunk.split().freeze()).await.map_err(ComponentError::Output)?;
        meter.add(bytes);
        total += bytes;
    }
}

/// Gives the child everything, the last bytes one by one: so it can take no more of them than
/// it wants, and what it did not want stays in the pipe to be seen.
async fn copy_to_stdin(
    feed: Feed<'_>,
    mut writer: pipe::Sender,
    meter: &Meter,
) -> Result<(), ComponentError> {
    let broken = |source| ComponentError::Read { what: "feed a program".into(), source };
    let mut held = BytesMut::new();
    loop {
        held.reserve(CHUNK);
        let read = feed.read_buf(&mut held).await.map_err(refused)?;
        if read == 0 {
            break;
        }
        meter.add(read as u64);
        let ready = held.len().saturating_sub(READ_AHEAD);
        writer.write_all(&held.split_to(ready)).await.map_err(broken)?;
    }
    // "Packet" mode of a pipe: each read returns what one write wrote. See O_DIRECT in pipe(2).
    let packets = fcntl_getfl(&writer).and_then(|flags| fcntl_setfl(&writer, flags | OFlags::DIRECT));
    let step = if packets.is_ok() { 1 } else { READ_AHEAD };
    for packet in held.chunks(step) {
        writer.write_all(packet).await.map_err(broken)?;
    }
    Ok(())
}

/// Sorts the error of a feed: a stream that does not decompress is damaged, the rest may pass.
pub fn refused(source: io::Error) -> ComponentError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ComponentError::Corrupt {
            what: "archive does not decompress".into(),
            source: Some(source.into()),
        },
        _ => ComponentError::Read { what: "read archive".into(), source },
    }
}

/// Makes a pipe larger. Only speed depends on it, so a refusal is none of our concern.
fn widen(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
}

#[cfg(test)]
mod tests;
