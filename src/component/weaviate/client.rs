//! Requests to Weaviate and what its answers mean for the caller.
//!
//! Facts about answers are from Weaviate's source at 1.22.4, 1.26.1 and later tags: errors come as
//! `{"error":[{"message"}]}` from its handlers, as `{"code","message"}` from its framework, and as
//! anything at all from a proxy in front of it.

use crate::base::backoff::Backoff;
use crate::component::ComponentError;
use crate::component::weaviate::config::{Address, Tls, WeaviateConfig};
use reqwest::{Certificate, Identity, Method, StatusCode, header::CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{fs, io, path::Path, time::Duration};

/// One server. Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    server: Address,
    key: Option<SecretString>,
    second: Duration,
}

/// Why a request did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The key is wrong or missing, or has no right to this.
    #[error("{status}: {message}")]
    Denied { status: StatusCode, message: String },
    /// The server says no, in words.
    #[error("{status}: {message}")]
    Refused { status: StatusCode, message: String },
    /// There was no answer, or one of a proxy's. The request may have had its effect.
    #[error("no answer of Weaviate's")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Fault {
    /// Whether it was refused with these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains(words))
    }

    pub(super) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if status.as_u16() == code)
    }

    /// The error of somebody who wanted `what`.
    pub(super) fn of(self, what: impl Into<String>) -> ComponentError {
        let what = what.into();
        match self {
            Self::Denied { .. } => ComponentError::Denied { what, source: Some(self.into()) },
            Self::Away(_) => ComponentError::Unavailable { what, source: Some(self.into()) },
            Self::Refused { status, .. } if status.is_server_error() => {
                ComponentError::Unavailable { what, source: Some(self.into()) }
            }
            Self::Refused { .. } => ComponentError::Unusable { what, source: Some(self.into()) },
        }
    }
}

impl Client {
    /// Answers of a kind that cannot be longer: statuses, schemas, pages of objects.
    pub(super) const LONGEST: usize = 64 << 20;
    /// How long the server may take for one answer.
    const PATIENCE: u32 = 60;

    /// A client of the server at `server`; nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when a certificate cannot be used.
    pub(super) fn new(config: &WeaviateConfig, server: &Address) -> Result<Self, ComponentError> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        let builder = with_certificates(builder, &config.tls)?;
        let http = builder.build().map_err(|err| unusable("prepare TLS to Weaviate", err))?;
        Ok(Self { http, server: server.clone(), key: config.api_key.clone(), second: config.second })
    }

    /// Where the server is, for people.
    pub(super) fn place(&self) -> &Address {
        &self.server
    }

    /// As long as the server takes for so many seconds.
    pub(super) fn seconds(&self, count: u32) -> Duration {
        self.second * count
    }

    /// Lets time pass.
    pub(super) async fn wait(&self, seconds: u32) {
        tokio::time::sleep(self.seconds(seconds)).await;
    }

    /// Asks once.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        // Some orders are obeyed without a word; a question is answered.
        let is_order = method != Method::GET;
        let text = self.ask_text(method, path, body, Self::LONGEST).await?;
        if text.is_empty() && is_order {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|err| Fault::Away(err.into()))
    }

    /// Asks once, for the bytes of the answer; more than `longest` are an error.
    pub(super) async fn ask_text(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        longest: usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut request = self.http.request(method, self.server.join(path));
        // At least so long in real time: tests shorten the server's seconds, not the machine's.
        request = request.timeout(self.seconds(Self::PATIENCE).max(Duration::from_secs(20)));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let mut answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(away)? {
            if text.len() + chunk.len() > longest {
                return Err(Fault::Away(io::Error::from(io::ErrorKind::FileTooLarge).into()));
            }
            text.extend_from_slice(&chunk);
        }
        match status.as_u16() {
            200..=299 => Ok(text),
            401 | 403 => Err(Fault::Denied { status, message: message(&text) }),
            429 | 502..=504 => Err(Fault::Away(format!("{status}: {}", message(&text)).into())),
            _ => Err(Fault::Refused { status, message: message(&text) }),
        }
    }

    /// Asks for what has no effect, or the same each time, again and again for about a minute while there is no
    /// answer.
    pub(super) async fn again(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        self.in_turns(self.turns(), method, path, body).await
    }

    /// Asks who is there: for some seconds only, since whoever wants that can come again.
    pub(super) async fn knock(&self, path: &str) -> Result<Value, Fault> {
        const TIMES: u32 = 3;
        self.in_turns(Turns { left: TIMES, ..self.turns() }, Method::GET, path, None).await
    }

    async fn in_turns(
        &self,
        mut turns: Turns,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        loop {
            match self.ask(method.clone(), path, body).await {
                Err(Fault::Away(err)) if turns.another(&*err).await => {}
                answer => return answer,
            }
        }
    }

    /// The same, of what is only read.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.again(Method::GET, path, None).await
    }

    /// How often something is asked that gets no answer.
    pub(super) fn turns(&self) -> Turns {
        const TIMES: u32 = 7;
        Turns { left: TIMES, backoff: Backoff::new(self.seconds(1), self.seconds(16)) }
    }
}

/// Attempts, with a longer wait before each.
#[derive(Debug)]
pub(super) struct Turns {
    left: u32,
    backoff: Backoff,
}

impl Turns {
    /// Waits for the next attempt; false when there is none.
    pub(super) async fn another(&mut self, err: &(dyn std::error::Error + Send + Sync)) -> bool {
        self.left -= 1;
        if self.left == 0 {
            return false;
        }
        tracing::debug!(error = %err, "Weaviate gives no answer, asking again");
        tokio::time::sleep(self.backoff.step()).await;
        true
    }
}

/// Errors of the library hold the URL, which is known and noise.
fn away(err: reqwest::Error) -> Fault {
    Fault::Away(err.without_url().into())
}

/// What an error says, in one line and no longer than anybody reads.
fn message(body: &[u8]) -> String {
    const LONGEST: usize = 400;
    let text = String::from_utf8_lossy(body);
    let said = serde_json::from_str::<Value>(&text).ok().and_then(|body| {
        let one = body.get("message").or_else(|| body.get("error")?.get(0)?.get("message"));
        Some(one?.as_str()?.to_owned())
    });
    let said = said.unwrap_or_else(|| match text.trim() {
        "" => "no word why".to_owned(),
        text if text.starts_with('<') => "a page that is not Weaviate's".to_owned(),
        text => text.to_owned(),
    });
    said.replace(['\n', '\r'], " ").chars().take(LONGEST).collect()
}

fn with_certificates(
    mut builder: reqwest::ClientBuilder,
    tls: &Tls,
) -> Result<reqwest::ClientBuilder, ComponentError> {
    if let Some(file) = &tls.ca {
        let what = || format!("read WEAVIATE_CA_CERT {}", file.display());
        let trusted = Certificate::from_pem_bundle(&read(file, &what())?);
        for certificate in trusted.map_err(|err| unusable(what(), err))? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    if let Some((certificate, key)) = &tls.client {
        let what = "read WEAVIATE_CLIENT_CERT and WEAVIATE_CLIENT_KEY";
        let pem = [read(certificate, what)?, b"\n".to_vec(), read(key, what)?].concat();
        builder = builder.identity(Identity::from_pem(&pem).map_err(|err| unusable(what, err))?);
    }
    Ok(builder)
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, ComponentError> {
    fs::read(file).map_err(|err| unusable(what, err))
}

pub(super) fn unusable(
    what: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ComponentError {
    ComponentError::Unusable { what: what.into(), source: Some(source.into()) }
}

#[test]
fn what_an_error_says_is_found_in_every_shape() {
    for (body, words) in [
        (r#"{"error":[{"message":"no backup backend"}]}"#, "no backup backend"),
        (r#"{"code":404,"message":"path was not found"}"#, "path was not found"),
        ("<html>\n<h1>502</h1>", "a page that is not Weaviate's"),
        ("", "no word why"),
        ("plain\nwords", "plain words"),
        (r#"{"error":"odd"}"#, r#"{"error":"odd"}"#),
    ] {
        assert_eq!(message(body.as_bytes()), words);
    }
    assert_eq!(message("ä".repeat(999).as_bytes()).chars().count(), 400);
}
