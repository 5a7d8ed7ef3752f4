//! Core dumps are forbidden: the memory of this process and of its children holds passwords and what is backed up.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use std::io;

/// Too little for a file, and the one value at which the kernel starts no program that a dump would be piped
/// to either: at 0 it does (`fs/coredump.c` of Linux).
const NONE_AT_ALL: u64 = 1;

/// Forbids core dumps of this process and of its children, for good. Others of the same user can then read
/// neither its memory nor its environment.
///
/// # Errors
///
/// When the system refuses, as a sandbox may. All else works without this protection.
pub fn forbid() -> io::Result<()> {
    // Only root may raise a limit that is at 0 already.
    let limit = getrlimit(Resource::Core).maximum.map_or(NONE_AT_ALL, |limit| limit.min(NONE_AT_ALL));
    setrlimit(Resource::Core, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
