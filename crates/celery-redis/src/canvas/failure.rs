//! Propagates a failure to the tasks that will never run, to the chords of those tasks, and to errbacks.

use super::super::result::State;
use super::chord::Part;
use super::signature::{Kind, Signature};
use std::collections::VecDeque;

/// A task that will never run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnreachableTask {
    pub(super) id: String,
    pub(super) group: Option<String>,
}

/// Returns the tasks of `signatures`, none of which will ever run, and the parts that these tasks have in chords.
/// `exception` is the JSON text of the exception that these tasks fail with.
///
/// Source: `_fail_chain` in `celery/backends/base.py` of 5.7. Unlike there, the members of a group fail as well:
/// a client that waits for a group waits for its members.
pub(super) fn lost(signatures: Vec<Signature>, exception: &str) -> (Vec<UnreachableTask>, Vec<Part>) {
    let (mut lost, mut parts, mut todo) = (Vec::new(), Vec::new(), VecDeque::from(signatures));
    while let Some(signature) = todo.pop_front() {
        match signature.kind() {
            Kind::Task => {}
            Kind::Group | Kind::Chain => todo.extend(signature.members()),
            Kind::Chord => todo.extend(signature.body()),
        }
        let Some(id) = signature.task_id() else { continue };
        let options = &signature.options;
        let group: Option<String> = options.read("group_id");
        let body = options.some("chord").and_then(Signature::parse);
        // Only a single task is a chord part here: a group counts by its members, and a chain or chord by its last
        // task.
        if let (Kind::Task, Some(group), Some(body)) = (signature.kind(), group.clone(), body) {
            let (state, result) = (State::Failure, exception.to_owned());
            parts.push(Part {
                id: id.clone(),
                group,
                index: options.read("group_index"),
                state,
                result,
                body,
            });
        }
        if options.get("ignore_result") != Some("true") {
            lost.push(UnreachableTask { id, group });
        }
    }
    (lost, parts)
}

/// Returns the errbacks of a chord's body, each list with the id of the task that failed.
pub(super) fn errbacks(body: &Signature) -> Vec<(String, Vec<Signature>)> {
    let of = |signature: &Signature| {
        let list = signature.options.list("link_error");
        list.into_iter().filter_map(Signature::parse).collect::<Vec<_>>()
    };
    let mut calls = Vec::new();
    if body.kind() == Kind::Group {
        for member in body.members() {
            let mut errbacks = of(&member);
            errbacks.extend(of(body));
            calls.extend(member.task_id().map(|id| (id, errbacks)));
        }
    } else {
        calls.extend(body.task_id().map(|id| (id, of(body))));
    }
    calls.retain(|(_, errbacks)| !errbacks.is_empty());
    calls
}
