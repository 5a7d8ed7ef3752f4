//! A line to Redis that stops at a word.
//!
//! ```ignore
//! let line = HeldLine::to(&lab.redis.url());
//! let lab = lab.set("REDIS_URL", line.url());
//! line.catch("\"SUCCESS\"");        // the first message with that word never arrives, and after it nothing does
//! line.has_caught();               // waits for that message
//! line.clear();                    // new connections pass again
//! ```

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};
use tempfile::TempDir;

/// A line on a socket of its own.
pub struct HeldLine {
    dir: TempDir,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    word: Option<&'static str>,
    is_held: bool,
}

impl HeldLine {
    /// A line to the server of a URL `unix://PATH`.
    pub fn to(url: &str) -> Self {
        let far = PathBuf::from(url.strip_prefix("unix://").unwrap());
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("line.sock")).unwrap();
        let gate = Arc::<Gate>::default();
        let gates = Arc::clone(&gate);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = UnixStream::connect(&far) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to, gate) =
                        (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&gates));
                    std::thread::spawn(move || gate.carry(from, to));
                }
            }
        });
        Self { dir, gate }
    }

    /// The URL for those whose messages are to be caught.
    pub fn url(&self) -> String {
        format!("unix://{}/line.sock", self.dir.path().display())
    }

    /// Stops at the first message with this word.
    pub fn catch(&self, word: &'static str) {
        self.gate.state.lock().unwrap().word = Some(word);
    }

    /// Waits until the message has come.
    pub fn has_caught(&self) {
        let state = self.gate.state.lock().unwrap();
        let patience = Duration::from_mins(2);
        let (state, _) =
            self.gate.changed.wait_timeout_while(state, patience, |state| !state.is_held).unwrap();
        assert!(state.is_held, "no message with {:?} came", state.word);
    }

    /// Lets everything pass again but the message that was caught.
    pub fn clear(&self) {
        self.gate.state.lock().unwrap().is_held = false;
        self.gate.changed.notify_all();
    }
}

impl Gate {
    fn carry(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if !self.passes(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Waits while the line is held; false for the message at which it stops.
    fn passes(&self, message: &[u8]) -> bool {
        let mut state = self.state.lock().unwrap();
        let has = |word: &str| message.windows(word.len()).any(|part| part == word.as_bytes());
        if state.word.is_some_and(has) {
            *state = State { word: None, is_held: true };
            self.changed.notify_all();
            return false;
        }
        drop(self.changed.wait_while(state, |state| state.is_held).unwrap());
        true
    }
}
