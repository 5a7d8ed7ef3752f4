//! The identity of a worker process, and a check whether another worker process is still alive.

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};
use std::{fs, os::unix::fs::MetadataExt};
use uuid::Uuid;

/// A run of a worker process, with the record by which other workers see whether the process is alive.
#[derive(Debug, Clone)]
pub struct Instance {
    id: String,
    record: Record,
}

/// The record of a worker in Redis.
///
/// If `/proc` does not hold a value, its field is empty; then only the expiry of the record shows that the worker
/// is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The Celery node name.
    pub node: String,
    /// The name of the machine.
    pub host: String,
    /// The id of the machine's current boot; all containers of a machine share it.
    pub boot_id: Option<String>,
    /// The process id namespace, within which process ids are unique: the inode of `/proc/self/ns/pid`.
    pub pid_ns: Option<u64>,
    /// The process id.
    pub pid: u32,
    /// The start of the process in clock ticks since boot, which shows if the process id was reused.
    pub started: Option<u64>,
}

impl Instance {
    /// Returns the identity of this process under its Celery node name.
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

    /// Creates an instance with any record, for tests.
    pub fn new(record: Record) -> Self {
        Self { id: Uuid::new_v4().to_string(), record }
    }

    /// The id of the run: a UUID, new for every run.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The record of this process in Redis.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns `true` if the process of `other` has certainly ended: a process of the same boot and process id
    /// namespace that no longer exists.
    pub(super) fn sees_the_end_of(&self, other: &Record) -> bool {
        let place =
            |record: &Record| Some((record.boot_id.clone()?, record.pid_ns?, record.started.map(drop)?));
        place(other).is_some() && place(other) == place(&self.record) && has_ended(other.pid, other.started)
    }
}

/// Returns `true` if the process that began at `started` has certainly ended.
fn has_ended(pid: u32, started: Option<u64>) -> bool {
    if fs::metadata(format!("/proc/{pid}/stat")).is_ok() {
        return start_of(pid) != started;
    }
    // `/proc` may hide the processes of other users (hidepid), but kill(2) does not.
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Returns the start of a process in clock ticks since boot; `None` if the process has ended.
///
/// The start is field 22 of `/proc/<pid>/stat`. Fields are counted after the name, which may contain any characters
/// but ends at the last `)`: see proc(5).
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let behind = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = behind.split_ascii_whitespace();
    // A zombie has ended; only its parent has not waited for it yet.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

/// Returns the machine's name, as in `origin` and node names.
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
