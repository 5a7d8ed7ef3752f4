//! Signed orders (messages that delete or overwrite data): each signature is accepted once.
//!
//! An attacker who can write to the broker can resend a signed message, mark it as a retry, and delete
//! the stored result that would show the repeat. So the use of a signature is noted on this machine's own disk, in a
//! file named after the signature. From the acceptance of an order until its result is stored, a further delivery is
//! accepted however old it is, because a crash may cause one; from then on it is refused. On another machine, without
//! these notes, only the age of a signature counts.

use crate::base::access::explained;
use crate::base::chain;
use crate::base::durable::{self, blocking};
use crate::celery::message::Message;
use crate::celery::publish::Outgoing;
use crate::domain::signature::{self, Order, Signature, SignatureError};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// The time that a carried-out order is noted: far longer than a signature is fresh, and an older one is refused as
/// stale.
const SPENT_KEPT: Duration = Duration::from_hours(1);
/// The time that an accepted order is noted: longer than any order is under way.
const ACCEPTED_KEPT: Duration = Duration::from_hours(30 * 24);

/// The text of the note on an order that was carried out. The note on an accepted order is empty.
const SPENT: &str = "carried out\n";

/// The orders of one machine.
#[derive(Debug)]
pub(super) struct Orders {
    key: Option<SecretString>,
    notes: OrderNotes,
}

impl Orders {
    /// Creates the orders that are signed with `key`, if there is one, and noted in `dir`.
    pub(super) fn new(key: Option<SecretString>, dir: PathBuf) -> Self {
        Self { key, notes: OrderNotes { dir } }
    }

    /// Accepts an order. Without a key, every order is accepted and none is noted.
    pub(super) async fn accept(&self, message: &Message, now: Timestamp) -> Result<(), SignatureError> {
        let Some(signature) = self.signature(message)? else { return Ok(()) };
        let notes = self.notes.clone();
        let accepted = blocking(move || notes.accept(&signature, now)).await;
        accepted.unwrap_or_else(|err| {
            tracing::error!(error = %chain(&explained(&self.notes.dir, err)), "cannot note a signed order");
            Err(SignatureError::Unnoted)
        })
    }

    /// Notes that an order was carried out. Call this method when the order's result is stored: further deliveries
    /// are refused from now on.
    pub(super) async fn carried_out(&self, message: &Message) {
        let Ok(Some(signature)) = self.signature(message) else { return };
        // An order without a note was never accepted, because its kind need not be signed.
        if let Err(err) = self.notes.update(signature, SPENT).await {
            tracing::error!(error = %chain(&err), "cannot note that a signed order was carried out");
        }
    }

    /// Signs the retry of an accepted order, which is due at `eta`. The retry gets a new signature, because that of
    /// the first try is used up.
    pub(super) async fn renew(&self, message: &Message, again: Outgoing, eta: Timestamp) -> Outgoing {
        let (Some(key), Ok(Some(signature))) = (&self.key, self.signature(message)) else { return again };
        let header = signature::sign(key.expose_secret(), &order(message), signature.another(eta));
        let renewed = signature::verify(key.expose_secret(), Some(&header), &order(message));
        let notes = self.notes.clone();
        let note = move || {
            let is_noted = notes.path(&signature).exists();
            // If the note cannot be written, the retry is judged by its age.
            if let (true, Ok(renewed)) = (is_noted, renewed) {
                let _ = notes.write(&renewed, "");
            }
            Ok(is_noted)
        };
        if blocking(note).await.unwrap_or(false) { again.header(signature::HEADER, header) } else { again }
    }

    /// Verifies and returns the signature of a message; `None` if no key is set.
    fn signature(&self, message: &Message) -> Result<Option<Signature>, SignatureError> {
        let Some(key) = &self.key else { return Ok(None) };
        let header = message.header(signature::HEADER);
        let header = header.as_ref().and_then(Value::as_str);
        signature::verify(key.expose_secret(), header, &order(message)).map(Some)
    }
}

/// The folder of the notes, one file a signature. Everything but [`update`](Self::update) waits for the disk.
#[derive(Debug, Clone)]
struct OrderNotes {
    dir: PathBuf,
}

impl OrderNotes {
    fn path(&self, signature: &Signature) -> PathBuf {
        self.dir.join(signature.name())
    }

    fn write(&self, signature: &Signature, words: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        durable::write(&self.path(signature), words.as_bytes())
    }

    /// Writes other words into a note, if there is one.
    async fn update(&self, signature: Signature, words: &'static str) -> io::Result<()> {
        let notes = self.clone();
        let update = move || {
            if notes.path(&signature).exists() { notes.write(&signature, words) } else { Ok(()) }
        };
        blocking(update).await
    }

    /// Accepts a signature, and notes it if it is accepted for the first time.
    fn accept(&self, signature: &Signature, now: Timestamp) -> io::Result<Result<(), SignatureError>> {
        match fs::read_to_string(self.path(signature)) {
            Ok(said) if said == SPENT => Ok(Err(SignatureError::Used)),
            Ok(_) => Ok(Ok(())), // the order was under way when its worker died
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            Err(_) if !signature.is_fresh(now) => Ok(Err(SignatureError::Stale)),
            Err(_) => {
                self.forget_old();
                self.write(signature, "").map(Ok)
            }
        }
    }

    /// Removes notes that are so old that they no longer affect an acceptance.
    fn forget_old(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let kept = if meta.len() == 0 { ACCEPTED_KEPT } else { SPENT_KEPT };
            let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > kept) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn order(message: &Message) -> Order<'_> {
    Order { task_id: &message.id, task: &message.task, body: &message.body }
}
