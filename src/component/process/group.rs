//! The process group of a child, so that the child's own children end with it.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// The group of a child and its own children, which `kill_on_drop` does not reach: `pg_restore --jobs` forks.
#[derive(Debug)]
pub struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads.
    pub fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Lets the group go once its leader was waited for: the process id may be somebody else's by now.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
