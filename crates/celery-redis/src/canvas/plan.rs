//! Plans the messages to send, without sending them: Celery's `apply_async` of each kind of signature.
//!
//! Source of all rules here: `celery/canvas.py`. Options are JSON objects, as in Celery, and options given by the
//! caller override those of the signature.

use super::super::json::{Object, quoted};
use super::super::publish::Outgoing;
use super::super::result::Child;
use super::outgoing::outgoing;
use super::signature::{ChordPosition, Kind, Nested, Seed, Signature, flat};
use serde_json::json;
use tracing::warn;

/// Maximum bytes that the end of one task may send. A header of many tasks repeats the body in each.
const MOST_BYTES: usize = 32 << 20;

/// The queues of tasks whose signature names no queue.
#[derive(Debug, Clone)]
pub(super) struct Routes<'a> {
    /// The queue of tasks that other programs run.
    pub(super) default_queue: &'a str,
    /// Returns `true` for the name of a task that stays on the queue of the current message.
    pub(super) own: fn(&str) -> bool,
    /// The queue that the current message came from.
    pub(super) queue: &'a str,
}

impl Routes<'_> {
    fn queue(&self, task: &str) -> &str {
        if (self.own)(task) { self.queue } else { self.default_queue }
    }
}

/// The place of the sending task in the tree of tasks.
#[derive(Debug, Clone)]
pub(super) struct Lineage {
    pub(super) root: String,
    pub(super) parent: String,
}

/// The values that the result backend must store of a chord before the chord's header is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChordStart {
    /// The id of the header's group.
    pub(super) group: String,
    /// The number of results that the chord waits for.
    pub(super) size: usize,
    /// The header's stored result as JSON text, if the header contains groups.
    pub(super) structure: Option<String>,
}

/// The reason why a signature cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The messages are larger than `MOST_BYTES` together.
    #[error("more than {MOST_BYTES} bytes to send")]
    TooMuch,
    /// A chord without a body.
    #[error("chord without a body")]
    NoBody,
}

/// The messages and chords to send, each in order.
#[derive(Debug)]
pub(super) struct PublishPlan<'a> {
    routes: Routes<'a>,
    lineage: Lineage,
    pub(super) messages: Vec<Outgoing>,
    pub(super) chords: Vec<ChordStart>,
    bytes: usize,
}

impl<'a> PublishPlan<'a> {
    /// Creates an empty plan for a sending task with this lineage.
    pub(super) fn new(routes: Routes<'a>, lineage: Lineage) -> Self {
        Self { routes, lineage, messages: Vec::new(), chords: Vec::new(), bytes: 0 }
    }

    /// The place of the sending task in the tree of tasks.
    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Adds the messages of `signature` applied to `args`, and returns the entry for the sender's `children`. A
    /// signature that cannot be sent is left out as a whole, and logged.
    pub(super) fn add(
        &mut self,
        signature: Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Option<Child> {
        let (messages, chords, task) = (self.messages.len(), self.chords.len(), signature.task().to_owned());
        match self.apply(signature, args, options, seed) {
            Ok(child) => Some(child),
            Err(reason) => {
                warn!(parent_id = self.lineage.parent, task, %reason, "signature is not sent");
                self.messages.truncate(messages);
                self.chords.truncate(chords);
                None
            }
        }
    }

    fn apply(
        &mut self,
        signature: Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Result<Child, Refused> {
        match signature.kind() {
            Kind::Task => self.task(signature, args, options, seed),
            Kind::Group => self.group(&signature, args, options, seed),
            Kind::Chain => self.chain(&signature, args, options, seed),
            Kind::Chord => self.chord(&signature, args, options, seed),
        }
    }

    /// `Signature.apply_async`.
    fn task(
        &mut self,
        mut signature: Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Result<Child, Refused> {
        signature.options = merged(&signature.options, options);
        let id = signature.named(seed);
        let args = signature.args(args);
        let args = format!("[{}]", args.join(", "));
        let outgoing = outgoing(&signature, &id, self.routes.queue(signature.task()), &self.lineage)
            .texts(args, signature.kwargs());
        self.bytes += outgoing.len();
        if self.bytes > MOST_BYTES {
            return Err(Refused::TooMuch);
        }
        self.messages.push(outgoing);
        Ok(Child::Task(id))
    }

    /// `group.apply_async`.
    fn group(
        &mut self,
        group: &Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Result<Child, Refused> {
        let args = group.args(args);
        let mut options = merged(&group.options, options);
        let id = options.read("task_id").unwrap_or_else(|| seed.id());
        // Callbacks of a whole group belong to a chord; a plain group has no last task that could call them.
        for key in ["task_id", "link", "link_error", "group_index"] {
            options.remove(key);
        }
        options.set("group_id", quoted(&id));
        let mut results = Vec::new();
        for (index, mut member) in flat(group.members(), Nested::InOrder).into_iter().enumerate() {
            let seed = seed.at(index);
            let place = ChordPosition { group: Some(&id), index: Some(index), chord: None };
            results.push(member.freeze(&seed, &place));
            let mut options = options.clone();
            if let (None, Some(chord)) = (options.some("chord"), member.options.some("chord")) {
                options.set("chord", chord);
            }
            self.apply(member, &args, &options, &seed)?;
        }
        match <[Child; 1]>::try_from(results) {
            Ok([only @ Child::Group(..)]) => Ok(only),
            Ok(only) => Ok(Child::Group(id, only.into())),
            Err(results) => Ok(Child::Group(id, results)),
        }
    }

    /// `_chain.run`: sends the first step, with the other steps as its chain.
    fn chain(
        &mut self,
        chain: &Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Result<Child, Refused> {
        let mut options = overridden(&chain.options, options);
        let group: Option<String> = options.read("group_id");
        let chord = options.some("chord").map(ToOwned::to_owned);
        let place = ChordPosition {
            group: group.as_deref(),
            chord: chord.as_deref(),
            index: options.read("group_index"),
        };
        let (last_id, errbacks) = (options.read::<String>("task_id"), options.list("link_error"));
        let mut steps = steps(chain, last_id.as_deref(), &errbacks, &place, seed)?;
        if let Some(last) = steps.first_mut() {
            link_end(last, "link", &options.list("link"));
        }
        let Some(mut first) = steps.pop() else { return Ok(Child::Group(seed.id(), Vec::new())) };
        let mut following: Vec<_> = options.list("chain").into_iter().map(ToOwned::to_owned).collect();
        following.extend(steps.iter().map(ToString::to_string));
        for key in RUN_OPTIONS {
            options.remove(key);
        }
        options.set("chain", format!("[{}]", following.join(", ")));
        first.prepend(&chain.args(args));
        self.apply(first, &[], &options, seed)
    }

    /// `_chord.apply_async` and `_chord.run`: sends the header, each task with the body.
    fn chord(
        &mut self,
        chord: &Signature,
        args: &[String],
        options: &Object<'_>,
        seed: &Seed,
    ) -> Result<Child, Refused> {
        let mut body = chord.body().ok_or(Refused::NoBody)?;
        let mut header = chord.header();
        let args = chord.args(args);
        let mut options = overridden(&chord.options, options);
        let id: String = header.named(&seed.then("header"));
        link_end(&mut body, "link", &options.list("link"));
        link_end(&mut body, "link_error", &options.list("link_error"));
        for key in ["task_id", "link", "link_error"] {
            options.remove(key);
        }
        let mut of_body = options.clone();
        for key in ["parent_id", "countdown", "eta"] {
            of_body.remove(key);
        }
        body.options.update(&of_body);
        body.freeze(&seed.then("body"), &ChordPosition::default());

        for key in ["chain", "group_id", "group_index"] {
            options.remove(key);
        }
        let mut members = flat(header.members(), Nested::Backwards);
        if members.is_empty() {
            return self.apply(body, &["[]".to_owned()], &Object::default(), seed);
        }
        let place = ChordPosition { group: Some(&id), index: None, chord: None };
        let frozen = members.iter_mut().enumerate().map(|(index, member)| {
            member.freeze(&seed.at(index), &ChordPosition { index: Some(index), ..place })
        });
        let results: Vec<Child> = frozen.collect();
        self.chords.push(ChordStart {
            size: members.iter().map(Signature::size).sum(),
            structure: results
                .iter()
                .any(|result| matches!(result, Child::Group(..)))
                .then(|| json!({"result": Child::Group(id.clone(), results).to_value()}).to_string()),
            group: id,
        });
        header.set_members(&members);
        options.set("chord", body.to_string());
        self.group(&header, &args, &options, seed)
    }
}

/// Options of a chain that are not passed to its first step: they belong to the last step, or the first step gets
/// them from the sender.
const RUN_OPTIONS: [&str; 8] =
    ["group_id", "chord", "task_id", "link", "link_error", "root_id", "parent_id", "group_index"];

/// `Signature._merge`: the given options override the signature's own, except its group and its stamps.
fn merged(own: &Object<'_>, given: &Object<'_>) -> Object<'static> {
    let stamps: Vec<String> = own.read("stamped_headers").unwrap_or_default();
    let stays =
        |key: &str| matches!(key, "group_id" | "stamped_headers") || stamps.iter().any(|stamp| stamp == key);
    let mut all = own.clone().into_owned();
    for (key, text) in given.iter().filter(|(_, text)| *text != "null") {
        if !(stays(key) && own.get(key).is_some()) {
            all.set(key, text);
        }
    }
    all
}

/// Merges options; the given ones override the signature's own.
fn overridden(own: &Object<'_>, given: &Object<'_>) -> Object<'static> {
    let mut all = own.clone().into_owned();
    all.update(given);
    all
}

/// Returns the steps of a chain, the last one first, with ids: `_chain.prepare_steps`.
fn steps(
    chain: &Signature,
    last_id: Option<&str>,
    errbacks: &[&str],
    place: &ChordPosition<'_>,
    seed: &Seed,
) -> Result<Vec<Signature>, Refused> {
    let (mut todo, mut steps, mut count) = (chain.members(), Vec::new(), 0);
    // Each step gets all errbacks.
    let (repeated, mut bytes) = (errbacks.iter().map(|text| text.len()).sum::<usize>(), 0);
    while let Some(mut step) = todo.pop() {
        if step.kind() == Kind::Group {
            let mut members = step.members();
            match members.len() {
                0 if !todo.is_empty() || !steps.is_empty() => continue,
                1 => step = members.remove(0),
                _ => {}
            }
        }
        if step.kind() == Kind::Chain {
            todo.extend(step.members());
            continue;
        }
        bytes += repeated;
        if bytes > MOST_BYTES {
            return Err(Refused::TooMuch);
        }
        let seed = seed.then("step").at(count);
        count += 1;
        if step.kind() == Kind::Group
            && let Some(body) = steps.pop()
        {
            step = Signature::chord(&step, &body);
            // The chord needs no place: its body was the chain's next step, and already has the place, id and links.
            step.freeze(&seed, &ChordPosition::default());
        } else if steps.is_empty() {
            if let (Some(id), None) = (last_id, step.task_id()) {
                step.options.set("task_id", quoted(id));
            }
            step.freeze(&seed, place);
        } else {
            step.freeze(&seed, &ChordPosition::default());
        }
        link_end(&mut step, "link_error", errbacks);
        steps.push(step);
    }
    Ok(steps)
}

/// Adds callbacks to the last task of a signature: those of a chord to its body, and of a group to its members.
///
/// As in `group.link`, only the first member of a group gets a callback, and that callback gets no result.
fn link_end(body: &mut Signature, option: &str, links: &[&str]) {
    if links.is_empty() {
        return;
    }
    match (body.kind(), option) {
        (Kind::Group, "link_error") => {
            let mut members = body.members();
            for member in &mut members {
                member.add_links(option, links);
            }
            body.set_members(&members);
        }
        (Kind::Group, _) => {
            let mut members = body.members();
            let links = links.iter().filter_map(|link| Some(Signature::parse(link)?.immutable().to_string()));
            if let Some(first) = members.first_mut() {
                links.for_each(|link| first.add_links(option, &[&link]));
            }
            body.set_members(&members);
        }
        (Kind::Chord, "link") => {
            if let Some(mut inner) = body.body() {
                link_end(&mut inner, option, links);
                body.set_body(&inner);
            }
        }
        _ => body.add_links(option, links),
    }
}
