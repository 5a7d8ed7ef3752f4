//! Everything that reads what others wrote into Redis, with what must hold of any input.
//!
//! Each reader returns a short word on what it made of the input: the same word for the same input,
//! another one for another way through the code.

use bytes::Bytes;
use rna_backup::celery::canvas::Canvas;
use rna_backup::celery::client::{Client, ConnectOptions};
use rna_backup::celery::control::{Panel, Request};
use rna_backup::celery::events::Events;
use rna_backup::celery::keys::Keys;
use rna_backup::celery::message::{Envelope, Limits, Message, Peeked, redelivered};
use rna_backup::celery::node::{About, Node};
use rna_backup::celery::result::{Backend, StoredResult};
use rna_backup::celery::tasks::Tasks;
use rna_backup::domain::command::Command;
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Bytes of a message that is too long that its reader is shown; of `crates/celery-redis/src/consumer/judge.rs`.
const TAIL: usize = 64 << 10;

/// A broker that is never asked.
static NOWHERE: LazyLock<Client> =
    LazyLock::new(|| Client::new(ConnectOptions::parse("redis://localhost:1").unwrap()).unwrap());

/// All of them, on one input.
pub fn read(input: &[u8]) -> String {
    [tail(input), queue_entry(input), stored_result(input), control_request(input)].join("; ")
}

fn tail(input: &[u8]) -> String {
    kind(&Envelope::peek_at_tail(&input[input.len().saturating_sub(TAIL)..]))
}

fn kind(look: &Peeked) -> String {
    match look {
        Peeked::Task(envelope) => {
            assert!(envelope.priority <= 9);
            assert_ne!(envelope.id.as_deref(), Some(""), "an empty id is none");
            format!("task {} {}", envelope.id.is_some(), envelope.delivery_tag.is_some())
        }
        Peeked::Foreign => "foreign".to_owned(),
        Peeked::Unreadable(why) => (*why).to_owned(),
    }
}

fn queue_entry(input: &[u8]) -> String {
    let look = Envelope::peek(input, &Limits::default());
    let Peeked::Task(envelope) = &look else { return kind(&look) };
    marked_as_redelivered(input, envelope);
    let word = match parse(input, envelope) {
        Ok(message) => run(&message, envelope),
        Err(why) => why,
    };
    format!("{} {word}", kind(&look))
}

fn parse(raw: &[u8], envelope: &Envelope) -> Result<Message, String> {
    Message::parse(&Bytes::copy_from_slice(raw), envelope, "backups", &Limits::default()).map_err(|refusal| {
        assert_eq!(refusal.id, envelope.id.clone().unwrap_or_default());
        assert_eq!(refusal.task, envelope.task);
        assert!(
            refusal.exception.message().len() < raw.len() + 500,
            "a refusal repeats what was sent at most"
        );
        // Without positions and numbers, or every input were a way of its own.
        let words = refusal.exception.message().split(' ').take(8).collect::<Vec<_>>().join(" ");
        words.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
    })
}

/// What goes back into the queue is the same message, marked.
fn marked_as_redelivered(input: &[u8], envelope: &Envelope) {
    let Some(text) = redelivered(input) else { return };
    let marked = Envelope::peek(text.as_bytes(), &Limits::default());
    assert_eq!(
        marked,
        Peeked::Task(Envelope { redelivered: true, ..envelope.clone() }),
        "given back as {text:.400}"
    );
    assert_eq!(redelivered(text.as_bytes()).as_deref(), Some(&*text), "marked once and for all");
}

fn run(message: &Message, envelope: &Envelope) -> String {
    assert_eq!((&message.task, Some(&message.id)), (&envelope.task, envelope.id.as_ref()));
    tried_again(message, envelope);
    let follows = followed(message);
    let has = [
        message.callbacks.is_some(),
        message.errbacks.is_some(),
        message.chain.is_some(),
        message.chord.is_some(),
        message.eta.is_some(),
        message.expires.is_some(),
        message.hard_limit.is_some(),
        message.soft_limit.is_some(),
        message.group.is_some(),
        message.stamps.is_empty(),
        message.redelivered,
    ];
    let has: String = has.iter().map(|has| if *has { '1' } else { '0' }).collect();
    let command = match Command::parse(&message.task, &message.args, &message.kwargs) {
        Ok(command) => format!("{command:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
        Err(why) => format!("{why:?}").split('(').next().unwrap_or_default().to_owned(),
    };
    format!("{has} {follows} {command}")
}

/// A retry is the same call once more.
fn tried_again(message: &Message, envelope: &Envelope) {
    let text = message.retry(None).text();
    let look = Envelope::peek(text.as_bytes(), &Limits::default());
    let Peeked::Task(again) = look else { panic!("a retry is {look:?}") };
    assert_eq!((&again.task, &again.id), (&envelope.task, &envelope.id));
    assert!(!again.redelivered && again.delivery_tag != envelope.delivery_tag, "a retry is a new delivery");
    let again = match parse(text.as_bytes(), &again) {
        Ok(again) => again,
        // One that was within the limits by a hair can be beyond them: it says a little more.
        Err(why) => {
            return assert!(why.contains("larger than") || why.contains("nested"), "{why}: {text:.400}");
        }
    };
    // Whoever counted to the end of a u32 begins anew; there is no such limit of retries.
    assert_eq!(again.retries, message.retries.checked_add(1).unwrap_or(0));
    assert_eq!((&again.args, &again.kwargs), (&message.args, &message.kwargs));
    assert_eq!((&again.group, again.group_index), (&message.group, message.group_index));
    assert_eq!((again.hard_limit, again.soft_limit), (message.hard_limit, message.soft_limit));
    assert_eq!((again.expires, again.eta), (message.expires, None));
    assert_eq!((&again.root_id, again.parent_id.as_ref()), (&message.root_id, Some(&message.id)));
    let parts = |message: &Message| {
        [&message.callbacks, &message.errbacks, &message.chain, &message.chord]
            .map(|part| part.as_ref().map(|raw| raw.get().to_owned()))
    };
    assert_eq!(parts(&again), parts(message));
}

/// What follows from its success: messages that can be read.
fn followed(message: &Message) -> usize {
    let backend = Backend::new(NOWHERE.clone(), "", Duration::ZERO);
    let canvas = Canvas::new(NOWHERE.clone(), Keys::default(), backend).with_own(Command::is_ours);
    let follows = canvas.plan_success(message, &Value::from("pong"));
    for one in follows.iter().take(20) {
        let text = one.text();
        let look = Envelope::peek(text.as_bytes(), &Limits::default());
        assert!(
            matches!(&look, Peeked::Task(envelope) if envelope.id.is_some()),
            "{look:?} is sent: {text:.400}"
        );
    }
    follows.len().min(20)
}

fn stored_result(input: &[u8]) -> String {
    match StoredResult::parse(input) {
        Some(stored) => format!("result {}", stored.status.len().min(10)),
        None => "no result".to_owned(),
    }
}

fn control_request(input: &[u8]) -> String {
    let Some(request) = Request::parse(input) else { return "no request".to_owned() };
    assert_eq!(Request::parse(input), Some(request.clone()));
    let for_us = request.is_for("backup@lab");
    // A worker of its own for each: what one request changes, the next would find changed.
    let (events, _publisher) = Events::new("backup@lab", NOWHERE.clone(), &Keys::default(), false);
    let tasks = Tasks::new(Command::registered(), None);
    let node = Node::new("backup@lab", About::default(), events, tasks, &["backups".to_owned()], 2);
    let answer = match Panel::new(Arc::new(node), &NOWHERE).answer(&request) {
        Some(Value::Object(answer)) => answer.keys().take(2).map(|key| &key[..key.len().min(8)]).collect(),
        Some(_) => "another".to_owned(),
        None => "no".to_owned(),
    };
    let method: String = request.method().chars().take(30).collect();
    format!("request {method} {for_us} {answer}")
}
