//! Who a worker process is, and whether another one is still alive.

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};
use std::{fs, os::unix::fs::MetadataExt};
use uuid::Uuid;

/// One run of one worker process, with what others need to see whether it is still alive.
#[derive(Debug, Clone)]
pub struct Instance {
    id: String,
    record: Record,
}

/// What a worker tells about itself in Redis.
///
/// Where `/proc` does not tell, fields are empty; then only the record's end shows that a worker is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Celery node name.
    pub node: String,
    /// Name of the machine.
    pub host: String,
    /// Identity of the machine's last start; containers share it.
    pub boot_id: Option<String>,
    /// Process ids are unique within this namespace; the inode of `/proc/self/ns/pid`.
    pub pid_ns: Option<u64>,
    /// Process id.
    pub pid: u32,
    /// Start of the process in clock ticks since boot, so that a used-again id is seen.
    pub started: Option<u64>,
}

impl Instance {
    /// This process, under its Celery node name.
    pub fn here(node: &str) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let pid = std::process::id();
        let record = Record {
            node: node.to_owned(),
            host: hostname(),
            boot_id: boot_id.map(|id| id.trim().to_owned()),
            pid_ns: fs::metadata("/proc/self/ns/pid").ok().map(|ns| ns.ino()),
            pid,
            started: start_of(pid),
        };
        Self::new(record)
    }

    /// An instance with a record of one's own making, for tests.
    pub fn new(record: Record) -> Self {
        Self { id: Uuid::new_v4().to_string(), record }
    }

    /// A UUID, new for every run.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What this process tells about itself.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether the process of `other` is certainly gone: it ran where this one can see, and does so no more.
    pub(super) fn sees_the_end_of(&self, other: &Record) -> bool {
        let place =
            |record: &Record| Some((record.boot_id.clone()?, record.pid_ns?, record.started.map(drop)?));
        place(other).is_some() && place(other) == place(&self.record) && has_ended(other.pid, other.started)
    }
}

/// Whether a process that began at `started` is certainly gone.
fn has_ended(pid: u32, started: Option<u64>) -> bool {
    if fs::metadata(format!("/proc/{pid}/stat")).is_ok() {
        return start_of(pid) != started;
    }
    // `/proc` may hide the processes of other users (hidepid), a signal does not.
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// When a process started; `None` if it has ended.
///
/// Field 22 of `/proc/<pid>/stat`, counted behind the name, which may hold anything but ends in the
/// last `)`: see proc(5).
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let behind = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = behind.split_ascii_whitespace();
    // A zombie has ended, only its parent has not looked yet.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

/// The machine's name, as in `origin` and node names.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_end_of_a_process_is_seen_only_where_it_ran() {
        let here = Instance::here("a@b");
        assert!(!here.sees_the_end_of(here.record()), "this process runs");

        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let gone = Record { pid, ..here.record().clone() };
        assert!(here.sees_the_end_of(&gone));
        assert!(!here.sees_the_end_of(&Record { boot_id: Some("other".to_owned()), ..gone.clone() }));
        assert!(!here.sees_the_end_of(&Record { pid_ns: Some(1), ..gone.clone() }));
        assert!(!here.sees_the_end_of(&Record { started: None, ..gone }));
        let used_again = Record { started: Some(1), ..here.record().clone() };
        assert!(here.sees_the_end_of(&used_again), "the id is another process's by now");
    }
}
