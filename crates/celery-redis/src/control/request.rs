//! Control requests as they come over the channel.

use super::super::json::{self, Object};
use super::super::message::{Limits, plain_body};
use super::arguments::truthy;
use super::pattern;
use super::reply::Address;
use serde_json::{Map, Value};

/// Maximum length of a request, in bytes. The longest that Celery sends is a `hello` with 50,000 revoked ids.
pub(super) const LONGEST: usize = 6 << 20;

const LIMITS: Limits = Limits { message_bytes: LONGEST, depth: 64, body_bytes: 4 << 20, values: 200_000 };

/// A request or a reply without its envelope.
#[derive(Debug)]
pub(super) struct ControlBody {
    /// The sender's logical clock; 0 if the message has none.
    pub(super) clock: u64,
    pub(super) body: Map<String, Value>,
}

impl ControlBody {
    pub(super) fn open(raw: &[u8]) -> Option<Self> {
        if raw.len() > LIMITS.message_bytes {
            return None;
        }
        let text = shallow(raw)?;
        let outer = Object::parse(&text)?;
        if outer.read::<String>("content-type")? != "application/json" {
            return None;
        }
        let body = plain_body(&outer, &LIMITS).ok()?;
        let body = serde_json::from_str(&shallow(&body)?).ok()?;
        Some(Self { clock: outer.object("headers").read("clock").unwrap_or_default(), body })
    }
}

/// A control request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    method: String,
    arguments: Map<String, Value>,
    audience: Audience,
    reply_to: Option<Address>,
    clock: u64,
}

/// The workers that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Audience {
    All,
    Nodes(Vec<String>),
    Matching { pattern: String, matcher: String },
}

impl Request {
    /// Parses a request; `None` if the bytes are not one.
    ///
    /// Never panics, whatever the bytes are: at most 6 MiB, nested at most 64 deep.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let ControlBody { clock, mut body } = ControlBody::open(raw)?;
        let reply_to = match body.remove("reply_to").filter(truthy) {
            Some(reply_to) => Some(Address::parse(&reply_to, body.remove("ticket").unwrap_or_default())?),
            None => None,
        };
        let arguments = match body.remove("arguments").filter(truthy) {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return None,
            None => Map::new(),
        };
        Some(Self {
            method: text_of(body.remove("method"))?,
            arguments,
            audience: Audience::parse(&mut body)?,
            reply_to,
            clock,
        })
    }

    /// The name of the command.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The arguments of the command.
    pub(super) fn arguments(&self) -> &Map<String, Value> {
        &self.arguments
    }

    /// Returns `true` if the request is for the worker of this name.
    pub fn is_for(&self, node: &str) -> bool {
        match &self.audience {
            Audience::All => true,
            Audience::Nodes(nodes) => nodes.iter().any(|name| name == node),
            Audience::Matching { pattern, matcher } => pattern::matches(node, pattern, matcher),
        }
    }

    /// The address of the reply; `None` if no client waits for one.
    pub(super) fn reply_to(&self) -> Option<&Address> {
        self.reply_to.as_ref()
    }

    /// The sender's logical clock; 0 if the message has none.
    pub(super) fn clock(&self) -> u64 {
        self.clock
    }
}

impl Audience {
    /// Reads the recipients. Names take precedence over a pattern, and a pattern without a matcher is ignored:
    /// `Node.handle_message` in `kombu/pidbox.py`.
    fn parse(body: &mut Map<String, Value>) -> Option<Self> {
        if let Some(destination) = body.remove("destination").filter(truthy) {
            return match destination {
                Value::String(name) => Some(Self::Nodes(vec![name])),
                Value::Array(names) => {
                    Some(Self::Nodes(names.into_iter().filter_map(|name| text_of(Some(name))).collect()))
                }
                _ => None,
            };
        }
        let mut given = |key| body.remove(key).filter(truthy);
        match (given("pattern"), given("matcher")) {
            (Some(pattern), Some(matcher)) => {
                Some(Self::Matching { pattern: text_of(Some(pattern))?, matcher: text_of(Some(matcher))? })
            }
            _ => Some(Self::All),
        }
    }
}

fn text_of(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the bytes as strict JSON whose depth is bounded, so that a recursive parser is safe.
fn shallow(bytes: &[u8]) -> Option<String> {
    let strict = json::to_strict(bytes).ok()?;
    (strict.depth <= LIMITS.depth && strict.values <= LIMITS.values).then(|| strict.text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::super::publish::transient;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sent(body: &Value) -> Option<Request> {
        Request::parse(transient(body, &json!({"clock": 7}), "celery.pidbox", "").as_bytes())
    }

    #[test]
    fn whom_a_request_is_for_is_decided_as_kombu_does() {
        let cases = [
            (json!({"destination": null}), true),
            (json!({"destination": []}), true),
            (json!({"destination": ["b@x", "a@x"]}), true),
            (json!({"destination": ["b@x", 1]}), false),
            (json!({"destination": "a@x"}), true),
            (json!({"destination": ["b@x"], "pattern": "*", "matcher": "glob"}), false),
            (json!({"pattern": "a@*", "matcher": "glob"}), true),
            (json!({"pattern": "b@*", "matcher": "glob"}), false),
            (json!({"pattern": "b@*", "matcher": null}), true),
            (json!({"pattern": "a@", "matcher": "pcre"}), true),
        ];
        for (mut body, expected) in cases {
            body["method"] = "ping".into();
            assert_eq!(sent(&body).unwrap().is_for("a@x"), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        let address = json!({"exchange": "reply.celery.pidbox", "routing_key": "o"});
        let cases = [
            json!([]),
            json!({}),
            json!({"method": 1}),
            json!({"method": "ping", "arguments": [1]}),
            json!({"method": "ping", "destination": 1}),
            json!({"method": "ping", "pattern": 1, "matcher": "glob"}),
            json!({"method": "ping", "reply_to": "o"}),
            json!({"method": "ping", "reply_to": {"exchange": "mine", "routing_key": "o"}}),
            json!({"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": 1}}),
        ];
        for body in cases {
            assert_eq!(sent(&body), None, "{body}");
        }
        let whole = sent(&json!({"method": "ping", "arguments": null, "reply_to": address})).unwrap();
        assert_eq!((whole.method(), whole.clock(), whole.reply_to().is_some()), ("ping", 7, true));
        let nested = |depth| {
            let nest = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            json!({"method": "ping", "arguments": {"x": serde_json::from_str::<Value>(&nest).unwrap()}})
        };
        assert!(sent(&nested(62)).is_some() && sent(&nested(63)).is_none());
        let deep = "[".repeat(1 << 20);
        for raw in [r#"{"body": "e30="}"#, "", "null", r#"{"content-type": "application/json"}"#, &deep] {
            assert_eq!(Request::parse(raw.as_bytes()), None, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
        }
    }
}
