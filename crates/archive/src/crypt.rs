//! Encryption of archives, in the age format (<https://age-encryption.org/v1>): plain `age -d` opens them.

use crate::hashing::{Hashes, HashingWriter};
use crate::unpack::{Sorted, Source, Unpacked};
use age::stream::StreamWriter;
use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, Encryptor};
use std::{
    fmt,
    io::{self, Write},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// The keys of encrypted archives.
#[derive(Debug, Clone, Default)]
pub struct Encryption {
    /// The recipients of new archives; `None`: new archives are not encrypted.
    pub recipients: Option<Recipients>,
    /// The secret keys that open archives; `None`: encrypted archives can be made, and not read.
    pub identities: Option<Identities>,
}

/// The recipients of archives: public keys, any of whose owners can open them. The machine that encrypts cannot.
#[derive(Clone)]
pub struct Recipients(Arc<[Recipient]>);

/// The text is no list of public keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be public keys of age (age1…), with commas between them; number {0} is none")]
pub struct InvalidRecipients(usize);

impl Recipients {
    /// The name of the encryption in manifests.
    pub const NAME: &str = "age";
    /// The extension of file names after all others.
    pub const EXTENSION: &str = ".age";

    /// Returns these recipients and one more, whose secret key exists only as long as the returned value: so the run
    /// that writes an archive can open and prove it, and never again afterwards.
    pub fn with_witness(&self) -> (Self, Identities) {
        let witness = Identity::generate();
        let all = self.0.iter().cloned().chain([witness.to_public()]).collect();
        (Self(all), Identities([witness].into()))
    }

    /// Tests whether the first bytes of a file are those of an encrypted one (<https://age-encryption.org/v1>, "Header").
    pub fn is_encrypted(head: &[u8]) -> bool {
        head.starts_with(b"age-encryption.org/v1\n")
    }

    /// The public keys in one line, sorted.
    pub fn names(&self) -> String {
        let mut names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        names.join(",")
    }

    fn encrypt(&self, to: HashingWriter) -> io::Result<StreamWriter<HashingWriter>> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(to)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

impl FromStr for Recipients {
    type Err = InvalidRecipients;

    fn from_str(text: &str) -> Result<Self, InvalidRecipients> {
        let keys = text.split([',', ' ', '\n']).filter(|key| !key.is_empty()).enumerate();
        let parsed = keys.map(|(n, key)| key.parse().map_err(|_| InvalidRecipients(n + 1)));
        let recipients: Vec<Recipient> = parsed.collect::<Result<_, _>>()?;
        if recipients.is_empty() { Err(InvalidRecipients(1)) } else { Ok(Self(recipients.into())) }
    }
}

/// Secret keys, which open archives.
#[derive(Clone)]
pub struct Identities(Arc<[Identity]>);

/// The text is not the output of `age-keygen`. It is not shown: it may be a secret all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must hold secret keys as age-keygen writes them (AGE-SECRET-KEY-1…, one a line); line {0} is none")]
pub struct InvalidIdentities(usize);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({} keys)", self.0.len())
    }
}

impl FromStr for Identities {
    type Err = InvalidIdentities;

    /// Reads the text of an identity file: a key a line, and comments.
    fn from_str(text: &str) -> Result<Self, InvalidIdentities> {
        let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let parsed = keys.map(|(n, line)| line.parse().map_err(|_| InvalidIdentities(n)));
        let identities: Vec<Identity> = parsed.collect::<Result<_, _>>()?;
        if identities.is_empty() { Err(InvalidIdentities(1)) } else { Ok(Self(identities.into())) }
    }
}

/// The reason that an encrypted archive cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The archive is encrypted to others.
    #[error("none of the secret keys opens it")]
    WrongKey,
    /// The archive's encryption is damaged, or there is none.
    #[error("its encryption is damaged")]
    Damaged(#[source] DecryptError),
    /// The archive could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

/// Opens an encrypted archive.
///
/// Reads fail with `InvalidData` where it is damaged or cut short; any other error is the one of `archive`.
///
/// # Errors
///
/// [`OpenError`], when not even its head can be read.
pub async fn decrypt<'a>(
    archive: impl AsyncRead + Send + Unpin + 'a,
    identities: &Identities,
) -> Result<Unpacked<'a>, OpenError> {
    let decryptor = Decryptor::new_async(Source(archive).compat()).await.map_err(sorted)?;
    let keys = identities.0.iter().map(|identity| identity as &dyn age::Identity);
    let opened = decryptor.decrypt_async(keys).map_err(sorted)?;
    Ok(Box::new(Sorted(opened.compat())))
}

fn sorted(err: DecryptError) -> OpenError {
    match err {
        DecryptError::NoMatchingKeys => OpenError::WrongKey,
        DecryptError::Io(err) if err.kind() != io::ErrorKind::UnexpectedEof => OpenError::Read(err),
        damage => OpenError::Damaged(damage),
    }
}

/// A writer that encrypts the archive, or hands it on as it is. Always ready, as [`HashingWriter`] is.
pub(super) enum ArchiveWriter {
    Plain(HashingWriter),
    Age(Box<StreamWriter<HashingWriter>>),
}

impl ArchiveWriter {
    pub(super) fn new(recipients: Option<&Recipients>, to: HashingWriter) -> io::Result<Self> {
        Ok(match recipients {
            Some(recipients) => Self::Age(Box::new(recipients.encrypt(to)?)),
            None => Self::Plain(to),
        })
    }

    /// Ends the archive: returns the length and the hashes of the bytes that were handed on.
    pub(super) fn finish(self) -> io::Result<(u64, Hashes)> {
        match self {
            Self::Plain(writer) => writer.finish(),
            Self::Age(writer) => writer.finish()?.finish(),
        }
    }
}

impl Write for ArchiveWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => Write::write(writer, bytes),
            Self::Age(writer) => Write::write(writer, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for ArchiveWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Write::write(&mut *self, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    // A frame has ended, the archive goes on.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
