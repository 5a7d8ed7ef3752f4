//! The faults of S3 servers and of the network, sorted.

use crate::{ObjectKey, StoreError};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use rna_backup_base::chain;
use std::{error::Error, fmt, time::Duration};

/// The longest message of a server that is repeated, in characters.
const MESSAGE_CHARS: usize = 240;

/// One request that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The server's own word, such as `AccessDenied`; empty when it gave none.
    pub(super) code: String,
    /// True if the server has not answered at all.
    pub(super) is_silence: bool,
    /// The description of the fault, for people.
    text: String,
}

/// The kinds of faults, by the remedy that a caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// No such object or upload.
    Missing,
    /// A condition does not hold: the key is taken, or the object is another one.
    Condition,
    /// The range lies beyond the end.
    Range,
    /// The server does not know the operation.
    Unknown,
    /// Refused for good.
    Denied,
    /// Refused until a lock on the object ends.
    Locked,
    /// No more room in the bucket.
    Full,
    /// May pass: the server is busy or broken, the network is down, the bytes were damaged on the way.
    Passing,
}

impl Fault {
    /// Sorts an error of the SDK.
    pub(super) fn of<E>(err: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = err.raw_response().map(|response| response.status().as_u16());
        if let SdkError::ServiceError(answer) = err {
            let meta = answer.err().meta();
            let code = meta.code().unwrap_or_default();
            return Self::answered(status.unwrap_or(0), code, meta.message().unwrap_or_default());
        }
        let text = chain(err);
        let (kind, advice) = match err {
            // The request never left: the settings make none.
            SdkError::ConstructionFailure(_) => (FaultKind::Denied, ""),
            SdkError::DispatchFailure(failure) => sort_dispatch(failure.as_connector_error(), &text),
            _ => (FaultKind::Passing, ""),
        };
        let text = if advice.is_empty() { shown(&text) } else { format!("{}; {advice}", shown(&text)) };
        let is_silence = matches!(err, SdkError::TimeoutError(_))
            || matches!(err, SdkError::DispatchFailure(failure) if failure.is_timeout());
        Self { kind, code: String::new(), is_silence, text }
    }

    /// Sorts an answer by its code, or by its status where there is none: an answer to HEAD has no body.
    fn answered(status: u16, code: &str, message: &str) -> Self {
        let (kind, advice) = match sort(status, code) {
            (FaultKind::Denied, _) if speaks_of_a_lock(code, message) => {
                (FaultKind::Locked, "it can be deleted when its lock ends")
            }
            sorted => sorted,
        };
        let name = if code.is_empty() { "no reason given" } else { code };
        let mut text = format!("{} (status {status})", shown(name));
        for more in [&*shown(message), advice] {
            if !more.is_empty() && *more != *name {
                text = format!("{text}; {more}");
            }
        }
        Self { kind, code: shown(code), is_silence: false, text }
    }

    /// The server did nothing for so long.
    pub(super) fn stalled(patience: Duration) -> Self {
        Self { is_silence: true, ..Self::passing(format!("the server did nothing for {patience:?}")) }
    }

    /// Something that may pass.
    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self { kind: FaultKind::Passing, code: String::new(), is_silence: false, text: text.into() }
    }

    /// The fault of a store that answers otherwise than S3 does, so that nothing may be concluded from the answer.
    pub(super) fn unable(text: &str) -> Self {
        Self { kind: FaultKind::Unknown, code: String::new(), is_silence: false, text: text.to_owned() }
    }

    /// The fault of an object that is shorter than its answer said.
    pub(super) fn too_short(text: String) -> Self {
        Self { kind: FaultKind::Range, code: String::new(), is_silence: false, text }
    }

    /// One refusal among the answers to a request for many objects; `None` when it is none.
    pub(super) fn refused(code: &str, message: &str) -> Option<Self> {
        let fault = Self::answered(400, code, message);
        (fault.kind != FaultKind::Missing).then_some(fault)
    }

    /// True if the same request will fail again.
    pub(super) fn is_final(&self) -> bool {
        self.kind != FaultKind::Passing
    }

    /// As the error of the store.
    pub(super) fn on(self, bucket: &str, op: &'static str, key: &ObjectKey) -> StoreError {
        let key = key.clone();
        match self.kind {
            FaultKind::Missing if self.code != "NoSuchUpload" => StoreError::NotFound { op, key },
            FaultKind::Denied | FaultKind::Unknown => {
                StoreError::Denied { op, key, source: self.in_bucket(bucket).into() }
            }
            FaultKind::Locked => StoreError::Locked { op, key, source: self.in_bucket(bucket).into() },
            FaultKind::Full => StoreError::OverQuota { op, key, source: self.in_bucket(bucket).into() },
            FaultKind::Missing | FaultKind::Condition | FaultKind::Range | FaultKind::Passing => {
                StoreError::Unavailable { op, key, source: self.in_bucket(bucket).into() }
            }
        }
    }

    fn in_bucket(self, bucket: &str) -> InBucket {
        InBucket { bucket: bucket.to_owned(), fault: self }
    }

    /// The label of the metric.
    pub(super) fn result(&self) -> &'static str {
        match self.kind {
            FaultKind::Passing => "failed",
            _ => "refused",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A fault with the bucket in which it happened.
#[derive(Debug, thiserror::Error)]
#[error("bucket {bucket}: {fault}")]
struct InBucket {
    bucket: String,
    fault: Fault,
}

/// Codes of [S3](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), and those that
/// Ceph, MinIO and others have of their own.
fn sort(status: u16, code: &str) -> (FaultKind, &'static str) {
    match code {
        "NoSuchBucket" | "InvalidBucketName" => {
            (FaultKind::Denied, "create the bucket, or correct AWS_BACKUP_BUCKET")
        }
        "NoSuchKey" | "NotFound" | "NoSuchUpload" | "NoSuchVersion" => (FaultKind::Missing, ""),
        "PreconditionFailed" => (FaultKind::Condition, ""),
        "InvalidRange" => (FaultKind::Range, ""),
        "NotImplemented" | "MethodNotAllowed" => (FaultKind::Unknown, "this store cannot do what was asked"),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" => {
            (FaultKind::Denied, "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        }
        "RequestTimeTooSkewed" => (FaultKind::Denied, "set this machine's clock right"),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            (FaultKind::Denied, "correct AWS_REGION or AWS_S3_ENDPOINT")
        }
        "InvalidStorageClass" => (FaultKind::Denied, "correct BACKUP_S3_STORAGE_CLASS"),
        "InvalidObjectState" => (FaultKind::Denied, "bring the object back from its archive class first"),
        "QuotaExceeded"
        | "XMinioAdminBucketQuotaExceeded"
        | "XMinioStorageFull"
        | "InsufficientStorage"
        | "StorageQuotaExceeded" => (FaultKind::Full, "make room in the bucket, or raise its quota"),
        // The bytes were damaged on the way here or there; what is sent again may be whole.
        "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "InvalidDigest"
        | "IncompleteBody"
        | "RequestTimeout"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "SlowDown"
        | "TooManyRequests"
        | "InternalError"
        | "ServiceUnavailable" => (FaultKind::Passing, ""),
        _ => match status {
            // A server that is no S3 server, or a proxy in between, answers with these as well.
            404 => (FaultKind::Missing, ""),
            412 => (FaultKind::Condition, ""),
            416 => (FaultKind::Range, ""),
            501 => (FaultKind::Unknown, "this store cannot do what was asked"),
            507 => (FaultKind::Full, "make room in the bucket, or raise its quota"),
            301 | 307 | 308 => (FaultKind::Denied, "correct AWS_REGION or AWS_S3_ENDPOINT"),
            // An answer to HEAD does not say which.
            401 | 403 if code.is_empty() => (
                FaultKind::Denied,
                "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or let these keys list, read, write and \
                 delete in the bucket",
            ),
            401 | 403 => (FaultKind::Denied, "let these keys list, read, write and delete in the bucket"),
            // 200: an error was found where the answer should be.
            200..=299 | 408 | 409 | 425 | 429 | 500.. => (FaultKind::Passing, ""),
            _ => (FaultKind::Denied, ""),
        },
    }
}

/// True if a refusal is that of
/// an [object lock](https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html), which has no code of its
/// own: AWS says `AccessDenied` with a message about object lock, Ceph one about `object retention`,
/// MinIO `InvalidRequest` and `WORM`, Google `RetentionPolicyNotMet`.
fn speaks_of_a_lock(code: &str, message: &str) -> bool {
    let said = format!("{code} {message}").to_ascii_lowercase();
    ["worm", "object lock", "objectlock", "retention", "legal hold"].iter().any(|word| said.contains(word))
}

/// A request that did not reach the server. The SDK asks for credentials on the way there, and calls
/// that dispatch as well.
fn sort_dispatch(err: Option<&ConnectorError>, text: &str) -> (FaultKind, &'static str) {
    let on_the_line = err.is_none_or(|err| err.is_io() || err.is_timeout());
    if text.contains("invalid peer certificate") {
        (
            FaultKind::Denied,
            "name the file of the authority that signed the server's certificate in AWS_CA_BUNDLE",
        )
    } else if !on_the_line && text.contains("credential") {
        (FaultKind::Denied, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    } else {
        (FaultKind::Passing, "")
    }
}

/// Returns as much of a text that others wrote as may be shown: short, on one line, and nothing that looks signed.
fn shown(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if ["signature=", "credential=", "x-amz-security-token"].iter().any(|mark| lower.contains(mark)) {
        return "(not shown: it repeats the signed request)".to_owned();
    }
    text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        for (status, code, kind) in [
            (404, "NoSuchKey", FaultKind::Missing),
            (404, "", FaultKind::Missing),
            (404, "NoSuchBucket", FaultKind::Denied),
            (403, "AccessDenied", FaultKind::Denied),
            (403, "", FaultKind::Denied),
            (403, "QuotaExceeded", FaultKind::Full),
            (400, "XAmzContentSHA256Mismatch", FaultKind::Passing),
            (400, "InvalidArgument", FaultKind::Denied),
            (412, "PreconditionFailed", FaultKind::Condition),
            (416, "", FaultKind::Range),
            (501, "NotImplemented", FaultKind::Unknown),
            (403, "RetentionPolicyNotMet", FaultKind::Locked),
            (503, "SlowDown", FaultKind::Passing),
            (502, "", FaultKind::Passing),
            (599, "Whatever", FaultKind::Passing),
        ] {
            assert_eq!(Fault::answered(status, code, "").kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn a_lock_is_told_from_missing_rights() {
        for (status, code, message, kind) in [
            (
                403,
                "AccessDenied",
                "Access Denied because object protected by object lock.",
                FaultKind::Locked,
            ),
            (400, "InvalidRequest", "Object is WORM protected and cannot be overwritten", FaultKind::Locked),
            (403, "AccessDenied", "forbidden by object retention", FaultKind::Locked),
            (403, "AccessDenied", "User is not authorized to perform: s3:DeleteObject", FaultKind::Denied),
            (503, "SlowDown", "worm", FaultKind::Passing),
        ] {
            assert_eq!(Fault::answered(status, code, message).kind, kind, "{message}");
        }
    }

    #[test]
    fn a_message_names_bucket_code_and_advice_and_nothing_signed() {
        let key: ObjectKey = "media/a".parse().unwrap();
        let fault = Fault::answered(404, "NoSuchBucket", "The bucket\r\ndoes not exist");
        let err = fault.on("lab", "put", &key);
        let text = chain(err.source().unwrap());
        assert_eq!(
            text,
            "bucket lab: NoSuchBucket (status 404); The bucketdoes not exist; \
             create the bucket, or correct AWS_BACKUP_BUCKET"
        );
        let echo = "got Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=f00d";
        let shown = Fault::answered(403, "AccessDenied", echo).to_string();
        assert!(!shown.contains("f00d") && !shown.contains("AKIA"), "{shown}");
        assert!(Fault::answered(400, "X", &"é".repeat(9000)).to_string().len() < 600);
    }
}
