//! Requests to Weaviate: sent when the server is ready, and asked again while it is away.

use crate::base::{backoff::Backoff, chain};
use crate::component::ComponentError;
use crate::component::weaviate::answer::{Answer, ClassNotLoaded, NotReady};
use crate::component::weaviate::body::Expected;
use crate::component::weaviate::config::{Address, Tls, WeaviateConfig};
use bytes::Bytes;
use reqwest::{Certificate, Identity, Method, StatusCode, header::CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

pub(super) use crate::component::weaviate::answer::Fault;

/// One server. Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    server: Address,
    setting: &'static str,
    key: Option<SecretString>,
    second: Duration,
    profile: RetryProfile,
    /// True if the server has said that it is ready, and has not been away since.
    is_ready: Arc<AtomicBool>,
    /// The number of requests that got no answer of the server's.
    outages: Arc<AtomicU32>,
}

/// The retries of a request to which the server gives no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryProfile {
    /// About a minute: whoever wants something can come again.
    Usual,
    /// About ten minutes: classes are missing until the server answers, and nobody else brings them back.
    ClassesAreMissing,
}

impl Client {
    /// Answers of a kind that cannot be longer: statuses, schemas, pages of objects.
    pub(super) const LONGEST: usize = 64 << 20;
    /// The longest time for one answer of the server, in seconds.
    const LONGEST_ANSWER: u32 = 60;

    /// The path of Weaviate's readiness probe.
    const READY: &str = "/v1/.well-known/ready";

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
        let is_drill = config.drill.as_ref() == Some(server);
        Ok(Self {
            http,
            server: server.clone(),
            setting: if is_drill { "BACKUP_WEAVIATE_DRILL_URL" } else { "WEAVIATE_URL" },
            key: config.api_key.clone(),
            second: config.second,
            profile: RetryProfile::Usual,
            is_ready: Arc::default(),
            outages: Arc::default(),
        })
    }

    /// The number of requests of this client and its clones that got no answer of the server's.
    pub(super) fn outages(&self) -> u32 {
        self.outages.load(Relaxed)
    }

    fn was_away(&self) {
        self.is_ready.store(false, Relaxed);
        self.outages.fetch_add(1, Relaxed);
    }

    /// The address of the server, for people.
    pub(super) fn address(&self) -> &Address {
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

    /// A copy of the client with other retries.
    pub(super) fn with(&self, profile: RetryProfile) -> Self {
        Self { profile, ..self.clone() }
    }

    /// The name of our setting that has led here.
    pub(super) const fn setting(&self) -> &'static str {
        self.setting
    }

    /// Returns whether a key is sent, so that the server may have rights that differ by key.
    pub(super) const fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Asks once, as soon as the server is ready. The request is not sent before, so what may not be repeated is
    /// asked so.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        let mut retries = self.retries();
        loop {
            let answer = match self.look_ready().await {
                Ok(()) => self.ask_now(method.clone(), path, body).await,
                Err(fault) => {
                    if retries.wait(&fault).await {
                        continue;
                    }
                    return Err(fault);
                }
            };
            match answer {
                Err(fault) if fault.is_not_ready() && retries.wait(&fault).await => {}
                answer => return answer,
            }
        }
    }

    /// Asks once, without waiting for the server.
    pub(super) async fn ask_now(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        // Some orders are obeyed without a word; a question is answered.
        let is_order = method != Method::GET;
        let text = self.ask_text(method, path, body, Self::LONGEST).await?;
        if text.is_empty() && is_order {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|err| Fault::Unavailable(err.into()))
    }

    /// Asks once, without waiting for the server, for the bytes of the answer; more than `longest` are an error.
    pub(super) async fn ask_text(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        longest: usize,
    ) -> Result<Vec<u8>, Fault> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.ask_bytes(method, path, body, Expected::text(longest)).await
    }

    async fn ask_bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        expected: Expected,
    ) -> Result<Vec<u8>, Fault> {
        self.look_ready().await?;
        let mut answer = self.send(method.clone(), path, body.clone(), expected).await?;
        if answer.may_be_of_a_start(path) {
            // A server that has been restarted since the last look: nothing was done, and the answer is another
            // one as soon as the server is ready.
            self.is_ready.store(false, Relaxed);
            self.look_ready().await?;
            answer = self.send(method, path, body, expected).await?;
        }
        if let Some(class) = answer.class_not_found(path) {
            // One question by which to tell a class that is not loaded from one that is not there.
            let path = format!("/v1/schema/{class}");
            if self.send(Method::GET, &path, None, Expected::text(Self::LONGEST)).await?.status.is_success() {
                return Err(Fault::Unavailable(ClassNotLoaded(class.to_owned()).into()));
            }
        }
        let judged = answer.checked(path, self.has_key());
        if matches!(judged, Err(Fault::Unavailable(_))) {
            self.was_away();
        }
        judged
    }

    /// Tests whether the server is ready, unless it was when it last answered.
    async fn look_ready(&self) -> Result<(), Fault> {
        if self.is_ready.load(Relaxed) {
            return Ok(());
        }
        let answer = self.send(Method::GET, Self::READY, None, Expected::text(Self::LONGEST)).await?;
        // A proxy may keep this path to itself: nothing but Weaviate's own word is believed.
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Fault::Unavailable(NotReady.into()));
        }
        self.is_ready.store(true, Relaxed);
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        expected: Expected,
    ) -> Result<Answer, Fault> {
        let mut request = self.http.request(method, self.server.join(path));
        // Whoever waits at a terminal hears within 15 seconds that a server says nothing.
        let seconds = if path == Self::READY { 15 } else { Self::LONGEST_ANSWER };
        // At least so long in real time: tests shorten the server's seconds, not the machine's.
        request = request.timeout(self.seconds(seconds).max(Duration::from_secs(15)));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let away = |err: reqwest::Error| {
            self.was_away();
            // Errors of the library hold the URL, which is known and noise.
            Fault::Unavailable(err.without_url().into())
        };
        let mut answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let mut body = expected.body_of(status);
        while let Some(chunk) = answer.chunk().await.map_err(away)? {
            body.take(&chunk)?;
        }
        Ok(Answer { status, body: body.into_text() })
    }

    /// Asks for what has no effect, or the same each time, again and again for as long as this client's retries
    /// last, while there is no answer or the server cannot serve it.
    pub(super) async fn again(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Fault> {
        let mut retries = self.retries();
        loop {
            match self.ask_now(method.clone(), path, body).await {
                Err(fault) if fault.passes() && retries.wait(&fault).await => {}
                answer => return answer,
            }
        }
    }

    /// The bytes of an answer of what is only read, asked for again as [`again`](Self::again) does, but for an answer
    /// that is longer than `longest`: the next one would be as long.
    pub(super) async fn get_text(&self, path: &str, longest: usize) -> Result<Vec<u8>, Fault> {
        let mut retries = self.retries();
        loop {
            match self.ask_text(Method::GET, path, None, longest).await {
                Err(Fault::Unavailable(err)) if is_too_long(&*err) => return Err(Fault::Unavailable(err)),
                Err(fault) if fault.passes() && retries.wait(&fault).await => {}
                answer => return answer,
            }
        }
    }

    /// Posts a text of JSON whose effect is the same however often it is posted, again and again while there is
    /// no answer. The answer is a list, of whose objects these fields alone are read: it repeats what was posted. An
    /// answer without a body is the default of `T`.
    pub(super) async fn post_again<T: DeserializeOwned + Default>(
        &self,
        path: &str,
        body: &Bytes,
        fields: &'static [&'static str],
    ) -> Result<T, Fault> {
        let mut retries = self.retries();
        let expected = Expected { longest: Self::LONGEST + 2 * body.len(), fields: Some(fields) };
        loop {
            let answer = self.ask_bytes(Method::POST, path, Some(body.clone()), expected).await;
            let answer = answer.and_then(|text| match &*text {
                [] => Ok(T::default()),
                text => serde_json::from_slice(text).map_err(|err| Fault::Unavailable(err.into())),
            });
            match answer {
                Err(fault) if fault.passes() && retries.wait(&fault).await => {}
                answer => return answer,
            }
        }
    }

    /// Asks who is there: for some seconds only, since whoever wants that can come again; longer when the server
    /// is starting.
    pub(super) async fn probe(&self, path: &str) -> Result<Value, Fault> {
        const TIMES: u32 = 3;
        let (mut few, mut many) = (Retries { left: TIMES, ..self.retries() }, self.retries());
        loop {
            let fault = match self.ask_now(Method::GET, path, None).await {
                Err(fault @ Fault::Unavailable(_)) => fault,
                answer => return answer,
            };
            let retries = if fault.is_not_ready() { &mut many } else { &mut few };
            if !retries.wait(&fault).await {
                return Err(fault);
            }
        }
    }

    /// The same, of what is only read.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.again(Method::GET, path, None).await
    }

    /// The attempts of a request that gets no answer.
    pub(super) fn retries(&self) -> Retries {
        let left = match self.profile {
            RetryProfile::Usual => Retries::USUAL,
            RetryProfile::ClassesAreMissing => 42,
        };
        Retries { left, backoff: Backoff::new(self.seconds(1), self.seconds(16)) }
    }
}

/// The retries that are left of a request, with a longer wait before each.
#[derive(Debug)]
pub(super) struct Retries {
    left: u32,
    backoff: Backoff,
}

impl Retries {
    /// About a minute.
    const USUAL: u32 = 7;

    /// Waits for the next attempt; false when there is none.
    pub(super) async fn wait(&mut self, err: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
        if err.downcast_ref::<Fault>().is_some_and(Fault::is_unloaded_class) {
            // A class that a server has not loaded in the first minute is not loaded later either.
            self.left = self.left.min(Self::USUAL);
        }
        self.left -= 1;
        if self.left == 0 {
            return false;
        }
        tracing::warn!(
            error = chain(err),
            "Weaviate does not do what it is asked: asking again, {} more times at most",
            self.left
        );
        tokio::time::sleep(self.backoff.step()).await;
        true
    }
}

/// Returns whether an answer was longer than the caller allows.
pub(super) fn is_too_long(err: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::FileTooLarge)
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
