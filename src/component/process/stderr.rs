//! The standard error of a child: read all the time, its end kept, secrets blotted out.

use super::{LineAction, Listener};
use crate::component::ComponentError;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt::set_socket_passcred,
};
use rustix::process::Pid;
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
};
use tokio::{io::Interest, net::UnixStream};

/// Standard error that is kept: its last bytes hold the reason.
const KEPT: usize = 4 * 1024;

/// The longest line that a listener hears in one piece.
const LONGEST_LINE: usize = 64 * 1024;

/// The reading end of a child's standard error, which tells what each process of the child has written.
///
/// `pg_restore --jobs` has several processes that write pieces of lines side by side. In a pipe the pieces of two lines
/// end up in one; a socket with `SO_PASSCRED` gives the process of every piece (`unix(7)`).
#[derive(Debug)]
pub(super) struct Stderr(UnixStream);

impl Stderr {
    /// The two ends: ours, and that of the child.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        set_socket_passcred(&ours, true)?;
        ours.set_nonblocking(true)?;
        Ok((Self(UnixStream::from_std(ours)?), theirs.into()))
    }

    /// Reads what one process has written. Without bytes, every process has closed its end.
    async fn read(&self, chunk: &mut [u8]) -> io::Result<(usize, Option<Pid>)> {
        self.0.async_io(Interest::READABLE, || receive(&self.0, chunk)).await
    }
}

fn receive(socket: &UnixStream, chunk: &mut [u8]) -> io::Result<(usize, Option<Pid>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(chunk)], &mut control, RecvFlags::empty())?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    Ok((received.bytes, sender))
}

/// Reads the child's standard error to its end, so that the child never blocks on it, and keeps the end.
///
/// # Errors
///
/// [`ComponentError::Read`]; [`ComponentError::Failed`] when the listener ends the program.
pub(super) async fn tail(
    program: &'static str,
    stderr: Stderr,
    secrets: &[SecretString],
    mut listener: Option<Listener>,
) -> Result<String, ComponentError> {
    let broken = |source| ComponentError::Read { what: format!("exchange bytes with {program}"), source };
    let secrets: Vec<_> = secrets.iter().map(ExposeSecret::expose_secret).collect();
    // A secret that is cut in two by the limit could not be found any more: keep that much more.
    let margin = secrets.iter().map(|secret| secret.len()).max().unwrap_or(0);
    let (mut kept, mut cut) = (Vec::new(), false);
    // The line of each process that no line break has ended yet.
    let mut begun: HashMap<Option<Pid>, Vec<u8>> = HashMap::new();
    let mut chunk = [0; 4096];
    loop {
        let (n, process) = stderr.read(&mut chunk).await.map_err(broken)?;
        let mut stop = false;
        match &mut listener {
            None => kept.extend_from_slice(&chunk[..n]),
            Some(listener) if n > 0 => {
                let line = begun.entry(process).or_default();
                line.extend_from_slice(&chunk[..n]);
                stop = hear(listener, process, line, false, &secrets, &mut kept);
            }
            Some(listener) => {
                for (process, line) in &mut begun {
                    stop |= hear(listener, *process, line, true, &secrets, &mut kept);
                }
            }
        }
        let excess = kept.len().saturating_sub(KEPT + margin);
        cut |= excess > 0;
        kept.drain(..excess);
        if n == 0 || stop {
            let said = blot(kept, &secrets, if cut { margin } else { 0 });
            if !stop {
                return Ok(said);
            }
            let status = "an error after which it was stopped".to_owned();
            return Err(ComponentError::Failed { program, status, stderr: said, transient: false });
        }
    }
}

/// Passes the whole lines in `text`, which one process has written, to the listener, and takes them out. Returns true if
/// the program is to end.
fn hear(
    listener: &mut Listener,
    process: Option<Pid>,
    text: &mut Vec<u8>,
    is_end: bool,
    secrets: &[&str],
    kept: &mut Vec<u8>,
) -> bool {
    let mut heard = 0;
    while let Some(length) = memchr::memchr(b'\n', &text[heard..])
        .map(|at| at + 1)
        .or_else(|| (is_end || text.len() - heard > LONGEST_LINE).then_some(text.len() - heard))
        .filter(|length| *length > 0)
    {
        let line = &text[heard..heard + length];
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        heard += length;
        let line = blotted(line.to_vec(), secrets, 0);
        let (verdict, line) = (listener.0)(process, &line);
        if verdict != LineAction::Skip && !line.is_empty() {
            kept.extend_from_slice(line.as_bytes());
            kept.push(b'\n');
        }
        if verdict == LineAction::Stop {
            return true;
        }
    }
    text.drain(..heard);
    false
}

/// The text without its first `skip` bytes, with `***` for every secret, and without space around.
fn blot(text: Vec<u8>, secrets: &[&str], skip: usize) -> String {
    blotted(text, secrets, skip).trim().to_owned()
}

fn blotted(mut text: Vec<u8>, secrets: &[&str], skip: usize) -> String {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let places: Vec<_> = memchr::memmem::find_iter(&text, secret).collect();
        for at in places {
            text[at..at + secret.len()].fill(0);
        }
    }
    let kept = text.get(skip..).unwrap_or_default();
    let mut blotted = String::with_capacity(kept.len());
    for part in kept.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        if part[0] == 0 {
            blotted.push_str("***");
        } else {
            blotted.push_str(&String::from_utf8_lossy(part));
        }
    }
    blotted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blotted_out_even_where_the_tail_cuts_them() {
        let blotted = |text: &str, skip| blot(text.into(), &["hunter2", ""], skip);
        assert_eq!(blotted("password hunter2 for hunter2hunter2", 0), "password *** for ***");
        assert_eq!(blotted("unter2 is cut, hunter2 is not", 7), "is cut, *** is not");
        assert_eq!(blotted("a hunter2 across the cut", 4), "*** across the cut");
        assert_eq!(blotted("nothing", 0), "nothing");
    }

    /// The reading end of something that has said `text` and ended.
    fn of_text(text: &str) -> Stderr {
        let (stderr, writer) = Stderr::pair().unwrap();
        rustix::io::write(&writer, text.as_bytes()).unwrap();
        stderr
    }

    #[tokio::test]
    async fn a_listener_hears_whole_lines_without_secrets_and_may_end_the_program() {
        let text = "creating a\nerror: hunter2\nlast";
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let listen = |stop: bool| {
            let heard = heard.clone();
            Some(Listener(Box::new(move |_, line: &str| {
                heard.lock().unwrap().push(line.to_owned());
                let heard = match stop {
                    _ if line.starts_with("creating") => LineAction::Skip,
                    true => LineAction::Stop,
                    false => LineAction::Keep,
                };
                (heard, line.replace("last", "LAST"))
            })))
        };
        let secrets = [SecretString::from("hunter2")];
        let said = tail("p", of_text(text), &secrets, listen(false)).await.unwrap();
        assert_eq!(said, "error: ***\nLAST");
        assert_eq!(*heard.lock().unwrap(), ["creating a", "error: ***", "last"]);
        let err = tail("p", of_text(text), &secrets, listen(true)).await.unwrap_err();
        assert!(matches!(err, ComponentError::Failed { stderr, .. } if stderr == "error: ***"));
    }

    #[tokio::test]
    async fn lines_that_processes_write_in_turns_are_told_apart() {
        let (stderr, theirs) = Stderr::pair().unwrap();
        let script = "printf 'one '; (printf 'another '; printf 'process\n'); printf 'line\n'; printf 'end'";
        let mut child =
            std::process::Command::new("/bin/sh").args(["-c", script]).stdout(theirs).spawn().unwrap();
        let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let hears = heard.clone();
        let listener: Box<super::super::Listen> = Box::new(move |process, line| {
            hears.lock().unwrap().push((process.unwrap(), line.to_owned()));
            (LineAction::Keep, line.to_owned())
        });
        let said = tail("sh", stderr, &[], Some(Listener(listener))).await.unwrap();
        child.wait().unwrap();
        assert_eq!(said, "another process\none line\nend");
        let heard = heard.lock().unwrap();
        assert!(heard[0].0 != heard[1].0 && heard[1].0 == heard[2].0, "{heard:?}");
    }
}
