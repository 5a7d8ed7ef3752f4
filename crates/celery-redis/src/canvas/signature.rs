//! Signatures: tasks to be sent later, and the groups, chains and chords that they make.

use super::super::json::{self, Object, quoted};
use super::super::result::Child;
use serde_json::value::RawValue;
use std::collections::HashSet;
use uuid::Uuid;

/// Maximum nesting of a signature's JSON; a message has a similar limit.
const DEEPEST: usize = 128;

/// Maximum number of options of a signature, including stamps.
const MOST_OPTIONS: usize = 1000;

/// The kind of a signature; `subtask_type` in its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A single task, also one that a Python worker expands into several, such as `celery.chunks`.
    Task,
    /// Tasks that run in parallel.
    Group,
    /// Tasks that run one after the other.
    Chain,
    /// Tasks that run in parallel (the header), and a task that gets all their results (the body).
    Chord,
}

/// A task to be sent later, or a group, chain or chord of such tasks. Celery's JSON is kept whole, also the parts
/// that this program does not understand.
///
/// Source: `Signature` and its subclasses in `celery/canvas.py`.
#[derive(Debug, Clone)]
pub struct Signature {
    object: Object<'static>,
    pub(super) options: Object<'static>,
    task: String,
    kind: Kind,
    immutable: bool,
}

impl Signature {
    /// Parses a signature; `None` if the text is not one. Safe on any text.
    pub fn parse(text: &str) -> Option<Self> {
        if json::to_strict(text.as_bytes()).ok()?.depth > DEEPEST {
            return None;
        }
        let object = Object::parse(text)?.into_owned();
        let options = object.object("options").into_owned();
        if options.iter().count() > MOST_OPTIONS {
            return None;
        }
        let subtask: Option<String> = object.read("subtask_type");
        let kind = match subtask.as_deref() {
            Some("group") => Kind::Group,
            Some("chain") => Kind::Chain,
            Some("chord") => Kind::Chord,
            _ => Kind::Task,
        };
        // Tasks of these types take the items that are mapped, so a result is never added to their arguments.
        let maps = matches!(subtask.as_deref(), Some("xmap" | "xstarmap" | "chunks"));
        Some(Self {
            task: object.read("task")?,
            kind,
            immutable: maps || object.get("immutable") == Some("true"),
            options,
            object,
        })
    }

    /// Reads a list of signatures, or a single one; anything that is no signature is left out.
    pub fn list(json: Option<&RawValue>) -> Vec<Self> {
        let text = json.map_or("null", RawValue::get);
        match json::items(text) {
            Some(items) => items.into_iter().filter_map(Self::parse).collect(),
            None => Self::parse(text).into_iter().collect(),
        }
    }

    /// Creates a chord of this header and body, as a chain does of a group before another step.
    pub(super) fn chord(header: &Self, body: &Self) -> Self {
        let kwargs = format!(r#"{{"kwargs": {{}}, "header": {header}, "body": {body}}}"#);
        Self::new(Kind::Chord, "chord", &kwargs)
    }

    /// Creates a group of these members.
    pub(super) fn group(members: &[Self]) -> Self {
        Self::new(Kind::Group, "group", &format!(r#"{{"tasks": {}}}"#, list_text(members)))
    }

    fn new(kind: Kind, name: &str, kwargs: &str) -> Self {
        let task = format!("celery.{name}");
        let text = format!(
            r#"{{"task": "{task}", "args": [], "kwargs": {kwargs}, "options": {{}}, "subtask_type": "{name}", "immutable": false}}"#
        );
        let object = Object::parse(&text).expect("made of texts that are json").into_owned();
        Self { object, options: Object::default(), task, kind, immutable: false }
    }

    /// The name of the task; `celery.group` and the like for those of several.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The kind of the signature.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The id of the signature's task or group, if the signature has one already.
    pub fn task_id(&self) -> Option<String> {
        self.options.read("task_id").filter(|id: &String| !id.is_empty())
    }

    /// The JSON texts of the positional arguments: `first`, unless the signature is immutable, then the signature's
    /// own.
    pub(super) fn args(&self, first: &[String]) -> Vec<String> {
        let first = if self.immutable { &[] } else { first };
        let own = self.object.list("args").into_iter().map(ToOwned::to_owned);
        first.iter().cloned().chain(own).collect()
    }

    /// The JSON text of the keyword arguments.
    pub(super) fn kwargs(&self) -> String {
        self.object.object("kwargs").to_string()
    }

    /// Puts `first` before the positional arguments, unless the signature is immutable.
    pub(super) fn prepend(&mut self, first: &[String]) {
        let args = self.args(first);
        self.object.set("args", format!("[{}]", args.join(", ")));
    }

    /// Makes the signature immutable: results are not added to its arguments.
    pub(super) fn immutable(mut self) -> Self {
        self.object.set("immutable", "true");
        self.immutable = true;
        self
    }

    /// The members of a group or chain, or of a chord's header.
    pub(super) fn members(&self) -> Vec<Self> {
        let kwargs = self.object.object("kwargs");
        match self.kind {
            Kind::Task => Vec::new(),
            Kind::Group | Kind::Chain => parse_all(&kwargs.list("tasks")),
            Kind::Chord => match kwargs.get("header").and_then(Self::parse) {
                Some(header) if header.kind == Kind::Group => header.members(),
                Some(header) => vec![header],
                None => parse_all(&kwargs.list("header")),
            },
        }
    }

    /// Sets the members of a group or chain.
    pub(super) fn set_members(&mut self, members: &[Self]) {
        let mut kwargs = self.object.object("kwargs").into_owned();
        kwargs.set("tasks", list_text(members));
        self.object.set("kwargs", kwargs.to_string());
    }

    /// Returns a chord's header as a group.
    pub(super) fn header(&self) -> Self {
        let kwargs = self.object.object("kwargs");
        let header = kwargs.get("header").and_then(Self::parse).filter(|header| header.kind == Kind::Group);
        header.unwrap_or_else(|| {
            let mut group = Self::group(&self.members());
            if let Some(id) = self.options.some("task_id") {
                group.options.set("task_id", id);
            }
            group
        })
    }

    /// A chord's body.
    pub(super) fn body(&self) -> Option<Self> {
        self.object.object("kwargs").get("body").and_then(Self::parse)
    }

    /// Sets a chord's body.
    pub(super) fn set_body(&mut self, body: &Self) {
        let mut kwargs = self.object.object("kwargs").into_owned();
        kwargs.set("body", body.to_string());
        self.object.set("kwargs", kwargs.to_string());
    }

    /// Adds signatures to the option `link` or `link_error`, once each.
    pub(super) fn add_links(&mut self, option: &str, links: &[&str]) {
        let mut list = self.options.list(option);
        let known: HashSet<_> = list.iter().copied().collect();
        list.extend(links.iter().filter(|link| !known.contains(**link)));
        if !list.is_empty() {
            let list = format!("[{}]", list.join(", "));
            self.options.set(option, list);
        }
    }

    /// The number of results that the signature adds to the chord that contains it: `_chord._descend`.
    pub(super) fn size(&self) -> usize {
        match self.kind {
            Kind::Task => 1,
            Kind::Group => self.members().iter().map(Self::size).sum(),
            Kind::Chain => self.members().iter().rev().map(Self::size).find(|size| *size > 0).unwrap_or(0),
            Kind::Chord => self.body().map_or(0, |body| body.size()),
        }
    }

    /// Gives ids, derived from `seed`, to all tasks without one, and puts the last task into `place`. Returns the
    /// result tuple that the signature will have.
    pub(super) fn freeze(&mut self, seed: &Seed, place: &ChordPosition<'_>) -> Child {
        match self.kind {
            Kind::Task => {
                place.mark(&mut self.options);
                Child::Task(self.named(seed))
            }
            Kind::Group => {
                let mut members = flat(self.members(), Nested::Backwards);
                let frozen = members.iter_mut().enumerate().map(|(index, member)| {
                    member.freeze(&seed.at(index), &ChordPosition { index: Some(index), ..*place })
                });
                let results = frozen.collect();
                self.set_members(&members);
                Child::Group(self.named(seed), results)
            }
            Kind::Chain => {
                let mut steps = self.members();
                let Some(last) = steps.last_mut() else { return Child::Task(self.named(seed)) };
                let result = last.freeze(seed, place);
                self.set_members(&steps);
                self.options.set("task_id", quoted(result.id()));
                result
            }
            Kind::Chord => {
                let Some(mut body) = self.body() else { return Child::Task(self.named(seed)) };
                let result = body.freeze(&seed.then("body"), place);
                self.set_body(&body);
                result
            }
        }
    }

    /// Returns the signature's id; derives one from `seed` first if the signature has none.
    pub(super) fn named(&mut self, seed: &Seed) -> String {
        self.task_id().unwrap_or_else(|| {
            let id = seed.id();
            self.options.set("task_id", quoted(&id));
            id
        })
    }
}

/// The JSON text.
impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut object = self.object.clone();
        object.set("options", self.options.to_string());
        object.fmt(f)
    }
}

fn parse_all(texts: &[&str]) -> Vec<Signature> {
    texts.iter().filter_map(|text| Signature::parse(text)).collect()
}

/// The text of a list of signatures.
pub(super) fn list_text(signatures: &[Signature]) -> String {
    let texts: Vec<_> = signatures.iter().map(ToString::to_string).collect();
    format!("[{}]", texts.join(", "))
}

/// The order of the members of a nested group: Celery reverses them when it gives ids, and not when it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nested {
    /// The order of the JSON.
    InOrder,
    /// The last member first, as in `group._freeze_unroll`.
    Backwards,
}

/// Flattens members: a nested group is replaced by its own members, and empty chains are dropped.
pub(super) fn flat(members: Vec<Signature>, nested: Nested) -> Vec<Signature> {
    let mut flattened = Vec::with_capacity(members.len());
    for member in members {
        match member.kind {
            Kind::Group => {
                let mut inner = member.members();
                if nested == Nested::Backwards {
                    inner.reverse();
                }
                flattened.extend(flat(inner, nested));
            }
            Kind::Chain if member.members().is_empty() => {}
            _ => flattened.push(member),
        }
    }
    flattened
}

/// The group that the last task of a signature belongs to, and that task's part in a chord's header.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ChordPosition<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) index: Option<usize>,
    /// JSON text of the chord's body.
    pub(super) chord: Option<&'a str>,
}

impl ChordPosition<'_> {
    fn mark(&self, options: &mut Object<'static>) {
        if let (Some(group), None) = (self.group, options.some("group_id")) {
            options.set("group_id", quoted(group));
        }
        if let Some(chord) = self.chord {
            options.set("chord", chord);
        }
        if let Some(index) = self.index {
            options.set("group_index", index.to_string());
        }
    }
}

/// A seed from which ids are derived, so that the same message makes the same ids however often it is run.
#[derive(Debug, Clone)]
pub(super) struct Seed(Uuid);

impl Seed {
    pub(super) fn new(text: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
    }

    pub(super) fn then(&self, name: &str) -> Self {
        Self(Uuid::new_v5(&self.0, name.as_bytes()))
    }

    pub(super) fn at(&self, index: usize) -> Self {
        self.then(&index.to_string())
    }

    pub(super) fn id(&self) -> String {
        self.0.to_string()
    }
}
