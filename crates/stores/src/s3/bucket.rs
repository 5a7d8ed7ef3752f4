//! One bucket and the way to it: every request goes through here, is watched, sorted, counted and, when a retry may
//! help, sent again.

use crate::s3::{
    S3OpenError,
    config::S3Config,
    connect::http_client,
    fault::{Fault, FaultKind},
    part::{ActivityTimer, Part},
};
use crate::{ObjectKey, Observer, Request, StoreError};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat, SdkBody};
use jiff::Timestamp;
use rna_backup_base::backoff::Backoff;
use secrecy::ExposeSecret as _;
use std::{
    error::Error,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

/// A request is sent so often before its failure is believed.
pub(super) const ATTEMPTS: u32 = 5;

/// The parts of the patience with which a server that says nothing is waited for, attempt by attempt. At the usual
/// patience of a minute the first word comes after 15 seconds, and the end before two minutes.
const SILENCE: [(u32, u32); 3] = [(1, 4), (1, 2), (1, 1)];

/// The one attempt at a server that has said nothing to all attempts of a request half a minute ago or less.
const SILENT: [(u32, u32); 1] = [(1, 12)];

/// The longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// No server needs longer to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// One bucket.
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) config: S3Config,
    observer: Option<Observer>,
    skew: Arc<Skew>,
    /// The end of a request that got no answer in any of its attempts; `None` after an answer.
    silent_since: Mutex<Option<Instant>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.config).finish()
    }
}

impl Bucket {
    pub(super) async fn open(mut config: S3Config, observer: Option<Observer>) -> Result<Self, S3OpenError> {
        let http = http_client(&config)?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(config.region.clone()));
        if let Some(keys) = &config.keys {
            let token = keys.token.as_ref().map(|token| token.expose_secret().to_owned());
            let (id, secret) = (keys.id.expose_secret(), keys.secret.expose_secret());
            loader = loader.credentials_provider(Credentials::new(id, secret, token, None, "settings"));
        }
        let sdk = Box::pin(loader.load()).await; // the SDK's futures are large
        // The SDK finds one in its environment and profile as well (`AWS_ENDPOINT_URL`).
        config.endpoint = config.endpoint.or_else(|| sdk.endpoint_url().map(str::to_owned));
        let skew = Arc::new(Skew::default());
        let mut settings = aws_sdk_s3::config::Builder::from(&sdk)
            // Attempts are ours: they are counted, and one that moves is not cut off.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT.min(config.patience)).build())
            .interceptor(Dates(skew.clone()));
        if let Some(endpoint) = &config.endpoint {
            // Other stores refuse checksum trailers, or keep them as part of the object.
            settings = settings
                .endpoint_url(endpoint)
                .force_path_style(true)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        Ok(Self {
            client: Client::from_conf(settings.build()),
            config,
            observer,
            skew,
            silent_since: Mutex::default(),
        })
    }

    /// True if this program hashes the parts, for the server to compare: AWS gets a checksum from its SDK.
    pub(super) fn hashes(&self) -> bool {
        self.config.endpoint.is_some()
    }

    /// The key in the bucket of an object of the store.
    pub(super) fn full(&self, key: &ObjectKey) -> String {
        match &self.config.prefix {
            Some(prefix) => format!("{prefix}/{key}"),
            None => key.to_string(),
        }
    }

    /// The key in the store of an object in the bucket.
    pub(super) fn key_of(&self, full: &str) -> Option<ObjectKey> {
        match &self.config.prefix {
            Some(prefix) => full.strip_prefix(prefix.as_str())?.strip_prefix('/')?.parse().ok(),
            None => full.parse().ok(),
        }
    }

    /// By how much the server's clock is ahead of ours, seconds, as of its last answer.
    pub(super) fn skew(&self) -> Option<i64> {
        Some(self.skew.0.load(Ordering::Relaxed)).filter(|skew| *skew != NO_ANSWER)
    }

    /// A fault as the error of the store.
    pub(super) fn error(&self, fault: Fault, op: &'static str, key: &ObjectKey) -> StoreError {
        fault.on(&self.config.bucket, op, key)
    }

    /// The attempts of a request without a body.
    pub(super) fn attempts(&self, op: &'static str) -> RequestAttempts<'_> {
        let since = *self.silence();
        let is_silent = since.is_some_and(|since| since.elapsed() < self.config.patience / 2);
        let all: &[_] = if is_silent { &SILENT } else { &SILENCE };
        let wait = Backoff::new(self.config.wait, LONGEST_WAIT);
        RequestAttempts { bucket: self, op, made: 0, all, silences: all, wait }
    }

    /// Sends a request without a body until the answer is final.
    pub(super) async fn ask<T, E, F>(&self, op: &'static str, mut send: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let mut attempts = self.attempts(op);
        loop {
            let patience = attempts.patience();
            let answer = tokio::time::timeout(patience, Box::pin(send())).await;
            let answer = answer.map_or_else(
                |_| Err(Fault::stalled(patience)),
                |answer| answer.map_err(|err| Fault::of(&err)),
            );
            self.count(op, &answer, attempts.is_retry());
            match answer {
                Err(fault) => attempts.again(fault).await?,
                done => return done,
            }
        }
    }

    /// Sends a request with a body until the answer is final. An attempt ends when nothing moves for `patience`: the
    /// body touches the timer as it goes out. An attempt that takes more than the usual patience is waited for twice.
    pub(super) async fn send<T, E, F>(
        &self,
        op: &'static str,
        patience: Duration,
        mut send: impl FnMut(&ActivityTimer) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + Error + 'static,
    {
        let all = &[(1, 1); ATTEMPTS as usize];
        let mut attempts = RequestAttempts { all, silences: all, ..self.attempts(op) };
        loop {
            let activity = ActivityTimer::new();
            let answer = match watched(Box::pin(send(&activity)), &activity, patience).await {
                Some(answer) => answer.map_err(|err| Fault::of(&err)),
                None if patience > self.config.patience && attempts.is_retry() => {
                    return Err(Fault::stalled(patience));
                }
                None => Err(Fault::stalled(patience)),
            };
            self.count(op, &answer, attempts.is_retry());
            match answer {
                Err(fault) => attempts.again(fault).await?,
                done => return done,
            }
        }
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the request to the observer.
    pub(super) fn count<T>(&self, op: &'static str, answer: &Result<T, Fault>, retry: bool) {
        if !matches!(answer, Err(fault) if fault.is_silence) {
            *self.silence() = None;
        }
        if let Some(observer) = &self.observer {
            let result = answer.as_ref().map_or_else(Fault::result, |_| "ok");
            observer(Request { op, result, retry });
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct RequestAttempts<'a> {
    bucket: &'a Bucket,
    op: &'static str,
    made: u32,
    /// The parts of the patience, for the attempts that a server which says nothing gets, and for those that are left.
    all: &'a [(u32, u32)],
    silences: &'a [(u32, u32)],
    wait: Backoff,
}

impl RequestAttempts<'_> {
    pub(super) fn is_retry(&self) -> bool {
        self.made > 0
    }

    /// Begins to count again: the last attempt was not in vain.
    pub(super) fn reset(&mut self) {
        self.made = 0;
        self.silences = self.all;
        self.wait.reset();
    }

    /// The time that a server which says nothing has for this attempt.
    pub(super) fn patience(&self) -> Duration {
        let (part, of) = self.silences.first().copied().unwrap_or((1, 1));
        self.bucket.config.patience * part / of
    }

    /// Waits before the next attempt, or gives the fault back when there is no use in one.
    pub(super) async fn again(&mut self, fault: Fault) -> Result<(), Fault> {
        self.made += 1;
        if fault.is_silence {
            self.silences = self.silences.get(1..).unwrap_or_default();
        }
        // The SDK corrects its clock by the answer.
        let skewed = fault.code == "RequestTimeTooSkewed" && self.made == 1;
        let is_over = self.made >= ATTEMPTS || self.silences.is_empty();
        if is_over || !(fault.kind == FaultKind::Passing || skewed) {
            if fault.is_silence {
                *self.bucket.silence() = Some(Instant::now());
            }
            return Err(fault);
        }
        if fault.is_silence {
            let (bucket, left) = (&self.bucket.config.bucket, self.silences.len());
            tracing::warn!(
                bucket,
                request = self.op,
                "no answer: {fault}; asking again, {left} more times at most"
            );
        }
        // Many workers must not come back as one: between half of the wait and the whole.
        let wait = self.wait.step();
        let chance = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
        tokio::time::sleep(wait.mul_f64(0.5 + chance / 2.0)).await;
        Ok(())
    }
}

/// Returns the answer to the request, or `None` if the request makes no progress for `patience`.
async fn watched<T>(work: impl Future<Output = T>, timer: &ActivityTimer, patience: Duration) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let until = timer.last() + patience;
        tokio::select! {
            biased;
            answer = &mut work => return Some(answer),
            () = tokio::time::sleep_until(until) => {
                if timer.last() + patience <= Instant::now() {
                    return None;
                }
            }
        }
    }
}

impl Part {
    /// The part as the body of a request.
    pub(super) fn stream(&self, activity: &ActivityTimer) -> ByteStream {
        ByteStream::new(SdkBody::from_body_1_x(self.body(activity)))
    }

    /// Signs the part's hash with the request, so that the server refuses bytes that were damaged on
    /// the way. The SDK does so only with bodies that lie in one piece.
    pub(super) async fn signed(&self) -> Signed {
        Signed(self.sha256().await)
    }
}

/// See [`Part::signed`].
#[derive(Debug, Clone)]
pub(super) struct Signed(Option<String>);

impl Intercept for Signed {
    fn name(&self) -> &'static str {
        "Signed"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(sha256) = &self.0 {
            cfg.interceptor_state().store_put(PayloadSigningOverride::Precomputed(sha256.clone()));
        }
        Ok(())
    }
}

const NO_ANSWER: i64 = i64::MIN;

/// The server's clock less ours, seconds.
#[derive(Debug)]
struct Skew(AtomicI64);

impl Default for Skew {
    fn default() -> Self {
        Self(AtomicI64::new(NO_ANSWER))
    }
}

/// Reads the clock of the server from its answers.
#[derive(Debug)]
struct Dates(Arc<Skew>);

impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok()) {
            self.0.0.store(date.secs() - Timestamp::now().as_second(), Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_moves_is_waited_for_and_what_does_not_is_not() {
        let (activity, patience) = (ActivityTimer::new(), Duration::from_millis(500));
        let moving = async {
            for _ in 0..12 {
                tokio::time::sleep(patience / 10).await;
                activity.touch();
            }
        };
        assert_eq!(watched(moving, &activity, patience).await, Some(()));
        assert_eq!(watched(std::future::pending::<()>(), &activity, patience).await, None);
    }
}
