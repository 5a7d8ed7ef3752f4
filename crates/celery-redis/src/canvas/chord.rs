//! The part that a header task has in its chord, in the layouts of Celery 5.3 and 5.7 at once.
//!
//! Source: `on_chord_part_return` in `celery/backends/redis.py` of both versions. 5.7 adds the keys `.d` and `.c`,
//! which 5.3 ignores.

use super::super::CeleryError;
use super::super::json;
use super::super::keys::group_key;
use super::super::repr;
use super::super::result::{Backend, Child, State, Unpacker};
use super::plan::ChordStart;
use super::signature::{Seed, Signature};
use redis::Script;
use serde_json::Value;
use std::sync::LazyLock;
use tokio_util::sync::CancellationToken;

static START: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/chord_start.lua")));
static PART: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/chord_part.lua")));
static END: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lua/chord_end.lua")));

/// The end of one header task.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) index: Option<i64>,
    pub(super) state: State,
    /// The task's result or exception, as JSON text.
    pub(super) result: String,
    pub(super) body: Signature,
}

impl Part {
    fn entry(&self) -> String {
        format!("[1, {}, \"{}\", {}]", json::quoted(&self.id), self.state.as_str(), self.result)
    }

    fn score(&self) -> String {
        self.index.map_or("+inf".to_owned(), |index| index.to_string())
    }
}

/// The reason why a chord's body cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChordError {
    /// The message of the `ChordError`.
    pub(super) message: String,
    /// The exception of the header task, in Celery's form.
    pub(super) cause: Option<Value>,
}

impl ChordError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: None }
    }
}

/// The results of a header as stored in Redis: the entries, and the header's result tuple if the header is nested.
type Header = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// A chord that this process has claimed, so that no other process sends the chord's body or makes the body fail.
#[derive(Debug)]
pub(super) struct Claimed<'a> {
    backend: &'a Backend,
    group: &'a str,
    claim: String,
    header: Header,
}

/// Stores the number of results that a chord waits for. Must run before the header of the chord is sent.
pub(super) async fn start(
    backend: &Backend,
    chord: &ChordStart,
    seed: &Seed,
    stop: &CancellationToken,
) -> Result<(), CeleryError> {
    let mut call = START.prepare_invoke();
    call.key(backend.own_key(&format!("chord:{}", seed.then(&chord.group).id())));
    for end in [".s", ".c", ""] {
        call.key(group_key(backend.prefix(), &chord.group, end));
    }
    call.arg(chord.size).arg(backend.expires().as_secs()).arg(chord.structure.as_deref().unwrap_or_default());
    backend.client().script_retrying("start chord", stop, &call).await
}

/// Counts a part. Returns the chord, claimed by the caller, if that part was the last one.
pub(super) async fn count<'a>(
    backend: &'a Backend,
    part: &'a Part,
    stop: &CancellationToken,
) -> Result<Option<Claimed<'a>>, CeleryError> {
    // The claim is derived from the task's id, so that the same task claims the chord again after a crash.
    let claim = Seed::new(&part.id).id();
    let mut call = PART.prepare_invoke();
    for end in [".j", ".t", ".s", ".d", ".c", ""] {
        call.key(group_key(backend.prefix(), &part.group, end));
    }
    call.arg(format!("{}:{}", part.id, part.score())).arg(part.entry()).arg(part.score());
    call.arg(backend.expires().as_secs()).arg(&claim);
    let header: Option<Header> = backend.client().script_retrying("count part of chord", stop, &call).await?;
    Ok(header.map(|header| Claimed { backend, group: &part.group, claim, header }))
}

impl Claimed<'_> {
    /// Returns the results of the header tasks, in the order of the header, as the JSON text of one list.
    pub(super) async fn results(
        &self,
        stop: &CancellationToken,
    ) -> Result<Result<String, ChordError>, CeleryError> {
        let (entries, structure) = &self.header;
        let Some(structure) = structure else { return Ok(listed(entries)) };
        let mut unpacker = Unpacker::new();
        let structure = unpacker.unpack(structure).unwrap_or_default();
        let tuple = serde_json::from_slice::<Value>(&structure).ok();
        let Some(tree) = tuple.and_then(|meta| Child::from_value(meta.get("result")?)) else {
            return Ok(Err(ChordError::new("Join error: the header's result cannot be read")));
        };
        let ids = leaves(&tree);
        let mut get = redis::cmd("MGET");
        for id in &ids {
            get.arg(self.backend.key_of(id));
        }
        let read = |mut link| {
            let get = get.clone();
            async move { get.query_async(&mut link).await }
        };
        let metas: Vec<Option<Vec<u8>>> =
            self.backend.client().retrying("read results of chord", stop, read).await?;
        let results =
            metas.into_iter().map(|meta| stored(meta, &mut unpacker)).collect::<Result<Vec<_>, _>>();
        Ok(results.map(|results| nested(&tree, &mut results.into_iter())))
    }

    /// Ends the chord: deletes its keys, or after a failure keeps the results, as Celery 5.7 does. Call this method
    /// after the body is sent or its failure is stored.
    pub(super) async fn end(self, failed: bool, stop: &CancellationToken) -> Result<(), CeleryError> {
        let mut call = END.prepare_invoke();
        for end in [".j", ".t", ".s", ".d", ".c"] {
            call.key(group_key(self.backend.prefix(), self.group, end));
        }
        call.arg(&self.claim).arg(u8::from(failed));
        self.backend.client().script_retrying("end chord", stop, &call).await
    }
}

/// Returns the results of the entries as one JSON list. Each entry is `[1, id, state, result]`; the text of a result
/// is copied unchanged.
fn listed(entries: &[Vec<u8>]) -> Result<String, ChordError> {
    let mut results = Vec::with_capacity(entries.len());
    let mut unpacker = Unpacker::new();
    for entry in entries {
        let entry = unpacker.unpack(entry).map_err(|why| unreadable(&why))?;
        let items = std::str::from_utf8(&entry).ok().and_then(json::items).unwrap_or_default();
        let [_, id, state, result] = items[..] else {
            return Err(ChordError::new("Join error: a result cannot be read"));
        };
        if matches!(state, "\"FAILURE\"" | "\"REVOKED\"") {
            let id: String = serde_json::from_str(id).unwrap_or_default();
            let cause = exception(result);
            let message = format!("Dependency {id} raised {}", raised(&cause));
            return Err(ChordError { message, cause: Some(cause) });
        }
        results.push(result.to_owned());
    }
    Ok(format!("[{}]", results.join(", ")))
}

fn unreadable(why: &str) -> ChordError {
    ChordError::new(format!("Join error: a result cannot be read: {why}"))
}

fn exception(text: &str) -> Value {
    let strict = json::to_strict(text.as_bytes()).ok();
    strict.and_then(|strict| serde_json::from_str(&strict.text).ok()).unwrap_or_default()
}

/// Formats an exception as Python's `repr` does: `ValueError('boom', 42)`.
fn raised(exception: &Value) -> String {
    let name = exception["exc_type"].as_str().unwrap_or("Exception");
    let name = name.rsplit('.').next().unwrap_or(name);
    let args = match &exception["exc_message"] {
        Value::Array(args) => args.iter().map(repr::value).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        one => repr::value(one),
    };
    format!("{name}({args})")
}

/// The ids of the tasks in a result, in order.
fn leaves(tree: &Child) -> Vec<&str> {
    match tree {
        Child::Task(id) => vec![id],
        Child::Group(_, members) => members.iter().flat_map(leaves).collect(),
    }
}

/// Returns the result in the stored JSON of one task, or the failure of the chord if that task did not succeed.
fn stored(meta: Option<Vec<u8>>, unpacker: &mut Unpacker) -> Result<String, ChordError> {
    let meta = meta.unwrap_or_default();
    let text = unpacker.unpack(&meta).map_err(|why| unreadable(&why))?;
    let text = std::str::from_utf8(&text).unwrap_or_default();
    let result = json::field(text, "result").unwrap_or("null");
    match json::field(text, "status") {
        Some("\"SUCCESS\"") => Ok(result.to_owned()),
        Some("\"FAILURE\"" | "\"REVOKED\"") => {
            let cause = exception(result);
            Err(ChordError { message: format!("Join error: {}", raised(&cause)), cause: Some(cause) })
        }
        // A task stores its result before its part is counted, so a task without a stored result stores none at all.
        _ => Err(ChordError::new("Join error: TimeoutError('The operation timed out.')")),
    }
}

/// Formats results, one for each leaf of the tree, as nested JSON lists of the same shape.
fn nested(tree: &Child, results: &mut impl Iterator<Item = String>) -> String {
    match tree {
        Child::Task(_) => results.next().unwrap_or("null".to_owned()),
        Child::Group(_, members) => {
            let members: Vec<_> = members.iter().map(|member| nested(member, results)).collect();
            format!("[{}]", members.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn results_are_passed_on_as_they_are_written() {
        let done = entries(&[
            r#"[1, "a", "SUCCESS", 12345678901234567890.10]"#,
            r#"[1, "b", "SUCCESS", {"x": [NaN, "\\ud83d, ]"]}]"#,
        ]);
        let expected = r#"[12345678901234567890.10, {"x": [NaN, "\\ud83d, ]"]}]"#;
        assert_eq!(listed(&done).unwrap(), expected);
        for wrong in ["", "[1]", "{}", "\u{80}", r#"[1, "a", "SUCCESS", }{]"#] {
            assert!(listed(&entries(&[wrong])).unwrap_err().message.starts_with("Join error"), "{wrong}");
        }
    }

    #[test]
    fn the_first_failure_is_named_as_python_names_it() {
        let failed = entries(&[
            r#"[1, "a", "SUCCESS", 1]"#,
            r#"[1, "b", "FAILURE", {"exc_type": "ValueError", "exc_message": ["ch", 42], "exc_module": "builtins"}]"#,
            r#"[1, "c", "REVOKED", {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}]"#,
        ]);
        assert_eq!(listed(&failed).unwrap_err().message, "Dependency b raised ValueError('ch', 42)");
    }

    #[test]
    fn nested_results_get_the_shape_of_their_header() {
        let leaf = |id: &str| Child::Task(id.to_owned());
        let inner = Child::Group("g2".to_owned(), vec![leaf("b"), leaf("c")]);
        let tree = Child::Group("g".to_owned(), vec![leaf("a"), inner, leaf("d")]);
        assert_eq!(leaves(&tree), ["a", "b", "c", "d"]);
        let mut results = ["1", "NaN", "[2]", "3"].map(str::to_owned).into_iter();
        assert_eq!(nested(&tree, &mut results), "[1, [NaN, [2]], 3]");
        assert_eq!(Child::from_value(&tree.to_value()), Some(tree));
    }
}
