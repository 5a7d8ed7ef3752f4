//! The meaning of Weaviate's answers: which are final, which pass by themselves, and which of our settings helps.
//! The one place that decides so, from route, status and words. Pure.
//!
//! Facts are from Weaviate's source and from real servers 1.26.1 to 1.39.2: errors come as
//! `{"error":[{"message"}]}` from its handlers, as `{"code","message"}` from its framework, and as anything at all
//! from a proxy in front of it.

use crate::component::ComponentError;
use reqwest::StatusCode;
use serde_json::Value;

/// The reason why a request did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The key is wrong or missing, or has no right to this.
    #[error("{status}: {message}")]
    Denied { status: StatusCode, message: String, help: &'static str },
    /// The server says no, in words.
    #[error("{status}: {message}")]
    Refused { status: StatusCode, message: String },
    /// There was no answer, or one of a proxy's. The request may have had its effect.
    #[error("no answer of Weaviate's")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The error that the server listens and does not know its classes yet. The request had no effect.
#[derive(Debug, thiserror::Error)]
#[error("Weaviate is starting and not ready")]
pub(super) struct NotReady;

/// The error that the server has a class in its schema and has not loaded the class itself.
#[derive(Debug, thiserror::Error)]
#[error("class {0} is in the schema, and the server answers as if it were not")]
pub(super) struct ClassNotLoaded(pub(super) String);

/// The error that the server cannot reach its backup backend. The request had no effect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BackendUnavailable(String);

impl Fault {
    /// Returns whether the request had no effect since the server's backup backend could not be reached.
    pub(super) fn is_backend_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(err) if err.is::<BackendUnavailable>())
    }

    /// Returns whether the server refused the request with these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains(words))
    }

    pub(super) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Refused { status, .. } | Self::Denied { status, .. } if status.as_u16() == code)
    }

    /// Returns whether the request had no effect since the server was starting.
    pub(super) fn is_not_ready(&self) -> bool {
        matches!(self, Self::Unavailable(err) if err.is::<NotReady>())
    }

    /// Returns whether the same request may be answered later: the server does not answer or cannot serve it.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Denied { .. } => false,
        }
    }

    /// Returns whether the server has a class in its schema and cannot load it: a file of it is torn, or memory or open
    /// files are short. A server that is starting says the same for a while.
    pub(super) fn is_unloaded_class(&self) -> bool {
        // Up to 1.26 in the words of a shard, later by GraphQL alone in those of an index.
        const WORDS: [&str; 2] = ["Unable to load shard", "tried to browse non-existing index"];
        match self {
            Self::Unavailable(err) if err.is::<ClassNotLoaded>() => true,
            Self::Unavailable(err) => WORDS.iter().any(|words| err.to_string().contains(words)),
            Self::Refused { message, .. } => WORDS.iter().any(|words| message.contains(words)),
            Self::Denied { .. } => false,
        }
    }

    /// The error of somebody who wanted `what`.
    pub(super) fn of(self, what: impl Into<String>) -> ComponentError {
        let mut what = what.into();
        if self.is_unloaded_class() {
            what.push_str(
                ": Weaviate cannot load a class that its schema has: look into its log and restart it; if that does not \
                 help, delete the class (DELETE /v1/schema/CLASS) and restore it",
            );
        }
        match self {
            Self::Denied { help, .. } => {
                ComponentError::Denied { what: format!("{what}: {help}"), source: Some(self.into()) }
            }
            fault if fault.passes() => ComponentError::Unavailable { what, source: Some(fault.into()) },
            fault => ComponentError::Unusable { what, source: Some(fault.into()) },
        }
    }
}

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The class whose objects were asked for by `path`, where the answer is the one that is given when the class is
    /// not loaded, as well as when there is no such class.
    pub(super) fn class_not_found<'a>(&self, path: &'a str) -> Option<&'a str> {
        let query = path.strip_prefix("/v1/objects?class=")?;
        let is_it = self.status == StatusCode::NOT_FOUND && self.body.is_empty();
        is_it.then(|| query.split('&').next().unwrap_or(query))
    }

    /// Returns whether a server that is starting answers so, to a request that it would obey when it is ready.
    pub(super) fn may_be_of_a_start(&self, path: &str) -> bool {
        const WORDS: [&str; 5] = [
            "leader not found",
            "no graphql provider present",
            "tried to browse non-existing index",
            "no available classes",
            "doesn't exist",
        ];
        let is_graphql = path.starts_with("/v1/graphql");
        if self.status.is_success() && !is_graphql {
            return false;
        }
        if self.status == StatusCode::NOT_FOUND {
            return self.class_not_found(path).is_some();
        }
        let message = if self.status.is_success() { self.graphql_error() } else { message(&self.body) };
        WORDS.iter().any(|words| message.contains(words))
    }

    /// The error of a GraphQL query, which stands beside a status of 200.
    fn graphql_error(&self) -> String {
        // Answers with counts only are long and hold no errors.
        const FIELD: &[u8] = b"\"errors\":";
        if !self.body.windows(FIELD.len()).any(|word| word == FIELD) {
            return String::new();
        }
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The body of a good answer, or why there is none.
    pub(super) fn checked(self, path: &str, has_key: bool) -> Result<Vec<u8>, Fault> {
        let status = self.status;
        let said = || message(&self.body);
        match status.as_u16() {
            200..=299 => Ok(self.body),
            429 | 502..=504 => Err(Fault::Unavailable(format!("{status}: {}", said()).into())),
            422 if is_bucket_away(path, &said()) => {
                Err(Fault::Unavailable(BackendUnavailable(format!("{status}: {}", said())).into()))
            }
            // Any node says so while the cluster has no leader, at a start or after one has died.
            403 if said().contains("leader not found") => Err(Fault::Unavailable(NotReady.into())),
            401 | 403 => {
                let message = said();
                let help = help(status, &message, has_key);
                Err(Fault::Denied { status, message, help })
            }
            _ => Err(Fault::Refused { status, message: said() }),
        }
    }
}

/// Returns whether Weaviate could not ask its bucket, as opposed to a refusal by the bucket.
fn is_bucket_away(path: &str, message: &str) -> bool {
    const REFUSALS: [&str; 4] = ["JSON", "Access Denied", "does not exist", "signature"];
    path.starts_with("/v1/backups/s3")
        && (message.contains("check if backup") || message.contains("find backup"))
        && !REFUSALS.iter().any(|words| message.contains(words))
}

/// Our setting that helps somebody who was not let in.
fn help(status: StatusCode, message: &str, has_key: bool) -> &'static str {
    match (status, has_key) {
        (StatusCode::UNAUTHORIZED, true) if message.contains("configured") => {
            "remove WEAVIATE_API_KEY, since this Weaviate has no keys"
        }
        (StatusCode::UNAUTHORIZED, true) => "correct WEAVIATE_API_KEY",
        // The server names the verb, and takes one name alone for the right in a role.
        (_, true) if message.contains("_backups") => {
            "give the user of WEAVIATE_API_KEY the right manage_backups, of which Weaviate names a part"
        }
        (_, true) => "give the user of WEAVIATE_API_KEY the right that Weaviate names",
        (_, false) => "set WEAVIATE_API_KEY to a key that has the right",
    }
}

/// The message of an error, in one line and no longer than anybody reads.
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

#[cfg(test)]
mod tests {
    use super::*;

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

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), body: body.into() }
    }

    #[test]
    fn a_server_that_starts_is_told_from_one_that_refuses() {
        const BACKUPS: &str = "/v1/backups/filesystem";
        const INDEX: &str = r#"{"errors":[{"message":"tried to browse non-existing index for Document"}]}"#;
        for (path, status, body, may_be) in [
            ("/v1/schema", 403, "leader not found", true),
            ("/v1/schema", 403, "forbidden", false),
            ("/v1/objects?class=Document", 404, "", true),
            ("/v1/schema/Document", 404, "", false),
            (BACKUPS, 422, "class Document doesn't exist", true),
            (BACKUPS, 422, "no available classes to backup, there's nothing to do here", true),
            (BACKUPS, 422, "already in progress", false),
            ("/v1/graphql", 422, "no graphql provider present", true),
            ("/v1/graphql", 200, INDEX, true),
            ("/v1/graphql", 200, r#"{"data":{"Aggregate":{}}}"#, false),
            ("/v1/objects", 200, INDEX, false),
        ] {
            assert_eq!(answer(status, body).may_be_of_a_start(path), may_be, "{path} {status} {body}");
        }
    }

    #[test]
    fn a_bucket_that_is_away_comes_back_and_one_that_refuses_does_not() {
        let checked = |path, message| answer(422, message).checked(path, false).unwrap_err().passes();
        let away = r#"check if backup "a" exists at "s3://b": dial tcp 127.0.0.1:9: connection refused"#;
        assert!(checked("/v1/backups/s3", away));
        assert!(checked("/v1/backups/s3/a/restore", "find backup s3://b/a: context deadline exceeded"));
        assert!(!checked("/v1/backups/filesystem", away));
        assert!(!checked("/v1/backups/s3", "check if backup exists: Access Denied."));
        assert!(!checked("/v1/backups/s3/a/restore", "find backup s3://b/a: unexpected end of JSON input"));
    }

    #[test]
    fn whoever_is_not_let_in_learns_which_setting_helps() {
        let no_keys = "no authentication scheme is configured (API Key or OIDC), but an 'Authorization' header was provided";
        for (status, message, has_key, words) in [
            (401, "unauthorized: invalid api key", true, "correct WEAVIATE_API_KEY"),
            (401, "anonymous access not enabled", false, "set WEAVIATE_API_KEY"),
            (401, no_keys, true, "remove WEAVIATE_API_KEY"),
            (403, "forbidden action", true, "give the user of WEAVIATE_API_KEY the right"),
        ] {
            let fault = answer(status, message).checked("/v1/meta", has_key).unwrap_err();
            let said = fault.of("ask").to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
