//! The files and folders that may not be read, told at once.

use crate::base::access;

/// The files and folders that the process may not read: all counted, the first few by name.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    names: Vec<String>,
    pub(super) count: u64,
}

impl Unreadable {
    const NAMED: usize = 5;

    pub(super) fn note(&mut self, name: String) {
        self.count += 1;
        if self.names.len() < Self::NAMED {
            self.names.push(name);
        }
    }

    pub(super) fn describe(&self) -> String {
        let more = self.count - self.names.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(
            "read {} files or folders without the right to: {}{more}; \
             {}: give them to that user, or run it as theirs",
            self.count,
            self.names.join(", "),
            access::process()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_files_are_all_counted_and_the_first_named() {
        let mut unreadable = Unreadable::default();
        for n in 0..7 {
            unreadable.note(format!("\"{n}.jpg\""));
        }
        let text = unreadable.describe();
        assert!(
            text.starts_with("read 7 files or folders without the right to: \"0.jpg\", \"1.jpg\""),
            "{text}"
        );
        assert!(text.contains("\"4.jpg\" and 2 more;"), "{text}");
    }
}
