//! The names of areas, which tell their role and their time.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// The role of an area, by its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The copy of a restore under way.
    Restore,
    /// The tree that a restore has set aside.
    Before,
}

/// The time, number and role in the name of an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) at: Timestamp,
    /// The area's number among those of the same second, from 1.
    pub(super) number: u32,
    pub(super) role: Role,
}

impl Label {
    const TIME: &str = "%Y%m%d_%H%M%S";

    /// The first label of this second.
    pub(super) fn now(role: Role) -> Self {
        let at = Timestamp::now();
        // Names hold whole seconds.
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        Self { at, number: 1, role }
    }

    pub(super) fn name(self) -> String {
        let role = if self.role == Role::Restore { "restore" } else { "before" };
        let number = if self.number > 1 { format!("_{}", self.number) } else { String::new() };
        format!("rna-{role}-{}{number}", self.at.strftime(Self::TIME))
    }

    /// The second and the number, by which areas are ordered.
    pub(super) fn second(self) -> (i64, u32) {
        (self.at.as_second(), self.number)
    }

    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let text = str::from_utf8(name).ok()?;
        let (role, rest) = match text.strip_prefix("rna-restore-") {
            Some(rest) => (Role::Restore, rest),
            None => (Role::Before, text.strip_prefix("rna-before-")?),
        };
        let (time, number) = rest.split_at_checked(15)?;
        let number = if number.is_empty() { 1 } else { number.strip_prefix('_')?.parse().ok()? };
        let at = DateTime::strptime(Self::TIME, time).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let label = Self { at, number, role };
        (label.name() == text).then_some(label)
    }
}

/// Tests whether an entry at the top of a media folder has the name of an area.
pub(super) fn is_name(name: &[u8]) -> bool {
    name.strip_prefix(b".").is_some_and(|name| Label::parse(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        for name in [".rna-restore-20261122_040000", ".rna-before-20261122_040000_2"] {
            assert!(is_name(name.as_bytes()), "{name}");
            assert_eq!(format!(".{}", Label::parse(&name.as_bytes()[1..]).unwrap().name()), name);
        }
        for name in [
            "rna-restore-20261122_040000",
            ".rna-restore-20261122_040000_1",
            ".rna-restore-20261122_040000_02",
            ".rna-restore-20261122_040000x",
            ".rna-restore-20261322_040000",
            ".rna-restore-",
            ".rna-backup-20261122_040000",
            ".media.rna-before-20261122_040000",
        ] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }
}
