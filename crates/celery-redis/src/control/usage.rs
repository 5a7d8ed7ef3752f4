//! The resource usage of this process, from `/proc`; see proc(5).

use serde_json::{Value, json};
use std::fs;

/// Returns the fields of Python's `resource.getrusage` that `/proc` holds; the other fields are 0, as on Linux
/// anyway.
///
/// The context switches are those of the main thread.
pub(super) fn rusage() -> Value {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Field 2, the name, may contain spaces and parentheses, so fields are counted after the last `)`, from field 3
    // on.
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    json!({
        "utime": seconds(field(14)),
        "stime": seconds(field(15)),
        "maxrss": status("VmHWM:").unwrap_or_default(),
        "ixrss": 0,
        "idrss": 0,
        "isrss": 0,
        "minflt": field(10),
        "majflt": field(12),
        "nswap": 0,
        "inblock": 0,
        "oublock": 0,
        "msgsnd": 0,
        "msgrcv": 0,
        "nsignals": 0,
        "nvcsw": status("voluntary_ctxt_switches:").unwrap_or_default(),
        "nivcsw": status("nonvoluntary_ctxt_switches:").unwrap_or_default(),
    })
}

/// The resident memory as text for people; `None` if `/proc` does not hold it.
pub(super) fn memory() -> Option<String> {
    status("VmRSS:").map(|kib| format!("{:.2}MB", kib as f64 / 1024.0))
}

fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn what_is_used_is_more_than_nothing() {
    let usage = rusage();
    assert!(usage["maxrss"].as_u64() > Some(1024) && usage["minflt"].as_u64() > Some(0), "{usage}");
    assert!(memory().is_some_and(|memory| memory != "0.00MB" && memory.ends_with("MB")));
}
