//! Versions of Weaviate, and what differs between them. Pure.
//!
//! From Weaviate's source at its release tags; numbers in comments are its issues.

use std::{fmt, str::FromStr};

/// A release, without what may follow its third number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Releases of several lines brought a change. Returns whether this version has it: whether it is at least the release of
    /// its own line if that is among them, else of the last.
    fn since(self, lines: &[Self]) -> bool {
        let own = lines.iter().find(|line| (line.0, line.1) == (self.0, self.1));
        match own {
            Some(line) => self >= *line,
            None => lines.last().is_some_and(|last| self >= *last),
        }
    }

    /// Returns whether a running backup can be called off.
    pub(super) fn can_cancel(self) -> bool {
        self.since(&[Self(1, 24, 25), Self(1, 25, 17), Self(1, 26, 5)])
    }

    /// Returns whether backups hold the data of inactive tenants.
    pub(super) fn keeps_inactive_tenants(self) -> bool {
        self.since(&[Self(1, 35, 17), Self(1, 36, 10), Self(1, 37, 0)])
    }

    /// Returns whether backups hold users and roles, and a restore brings them back where that is asked for.
    pub(super) fn restores_access(self) -> bool {
        self.since(&[Self(1, 30, 9), Self(1, 31, 2), Self(1, 32, 0)])
    }

    /// Returns whether a restore can replace aliases that there are.
    pub(super) fn overwrites_aliases(self) -> bool {
        self >= Self(1, 32, 5)
    }

    /// Returns whether the server restores a class of a name of that length in the place of one that it has deleted: later
    /// versions give the folder of a deleted class a longer name, which no file system takes from some length on (seen
    /// with 1.37.14 and 1.39.2, and not with 1.26.1).
    pub(super) fn replaces_name_of(self, length: usize) -> bool {
        /// A name of a file has at most 255 bytes, and `.<19 digits>.<8 digits>.deleteme` is appended.
        const LONGEST: usize = 217;
        length <= LONGEST || self < Self(1, 27, 0)
    }

    /// Returns whether classes can have aliases.
    pub(super) fn has_aliases(self) -> bool {
        self >= Self(1, 32, 0)
    }

    /// The level of compression for a backup, by its name in an order; `None` where the server knows no levels. An
    /// archive is compressed anyway when it is packed, so the server need not do that too.
    pub(super) fn compression(self, is_plain: bool) -> Option<&'static str> {
        let has_more = self.since(&[Self(1, 32, 18), Self(1, 33, 6), Self(1, 34, 1), Self(1, 35, 0)]);
        match (has_more, is_plain) {
            (true, true) => Some("NoCompression"),
            (true, false) => Some("ZstdBestSpeed"),
            (false, _) => (self >= Self(1, 24, 0)).then_some("BestSpeed"),
        }
    }

    /// Returns whether a backup can be restored onto a node of another name. Earlier versions take the order and say
    /// SUCCESS, and no class can be read then (seen with 1.26.1).
    pub(super) fn maps_nodes(self) -> bool {
        self >= Self(1, 37, 14)
    }

    /// The reason why a server of this version does not restore a backup of a server of version `made_by`; `Ok` if it does.
    pub(super) fn restores(self, made_by: Self) -> Result<(), String> {
        if made_by > self {
            return Err(format!(
                "it was made by Weaviate {made_by}, which is newer than this one, {self}: restore it on \
                 {made_by} or later"
            ));
        }
        let old = made_by < Self(1, 23, 0);
        // #4455: such a restore says SUCCESS and leaves empty classes.
        let empties = (Self(1, 23, 0)..=Self(1, 23, 12)).contains(&self)
            || (Self(1, 24, 0)..=Self(1, 24, 2)).contains(&self);
        if old && empties {
            return Err(format!(
                "Weaviate {self} restores backups of {made_by} as empty classes: upgrade it to 1.23.13, 1.24.3 \
                 or later first"
            ));
        }
        if old && self.since(&[Self(1, 38, 8), Self(1, 39, 0)]) {
            return Err(format!(
                "Weaviate {self} restores nothing from before 1.23: restore it on a version between, and back \
                 it up there"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version of Weaviate's")]
pub(super) struct Unknown;

impl FromStr for Version {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let plain = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = plain.split('.').map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(Unknown);
        Ok(Self(next()?, next()?, next()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn what_follows_the_third_number_does_not_count() {
        assert_eq!(version("1.26.1"), Version(1, 26, 1));
        assert_eq!(version("1.39.0-rc.1+ab"), Version(1, 39, 0));
        for text in ["", "1.26", "v1.26.1", "1.x.1"] {
            assert_eq!(text.parse::<Version>(), Err(Unknown), "{text}");
        }
    }

    #[test]
    fn what_came_in_several_lines_is_known_in_each() {
        for (text, can) in [
            ("1.22.4", false),
            ("1.24.24", false),
            ("1.24.25", true),
            ("1.25.16", false),
            ("1.26.1", false),
            ("1.26.5", true),
            ("1.27.0", true),
        ] {
            assert_eq!(version(text).can_cancel(), can, "{text}");
        }
        for (text, keeps) in [("1.26.1", false), ("1.35.17", true), ("1.36.9", false), ("1.39.0", true)] {
            assert_eq!(version(text).keeps_inactive_tenants(), keeps, "{text}");
        }
    }

    #[test]
    fn a_level_of_compression_is_named_where_the_server_knows_it() {
        for (text, packed, stays) in [
            ("1.22.4", None, None),
            ("1.26.1", Some("BestSpeed"), Some("BestSpeed")),
            ("1.32.17", Some("BestSpeed"), Some("BestSpeed")),
            ("1.32.18", Some("NoCompression"), Some("ZstdBestSpeed")),
            ("1.34.0", Some("BestSpeed"), Some("BestSpeed")),
            ("1.39.2", Some("NoCompression"), Some("ZstdBestSpeed")),
        ] {
            assert_eq!(version(text).compression(true), packed, "{text}");
            assert_eq!(version(text).compression(false), stays, "{text}");
        }
    }

    #[test]
    fn a_backup_goes_forward_and_never_back() {
        for (server, made_by, fits) in [
            ("1.26.1", "1.26.1", true),
            ("1.26.1", "1.22.4", true),
            ("1.22.4", "1.26.1", false),
            ("1.26.1", "1.39.0", false),
            ("1.23.12", "1.22.4", false),
            ("1.23.13", "1.22.4", true),
            ("1.24.2", "1.22.4", false),
            ("1.24.2", "1.23.5", true),
            ("1.38.7", "1.22.4", true),
            ("1.38.8", "1.22.4", false),
            ("1.39.0", "1.22.4", false),
            ("1.39.0", "1.23.0", true),
        ] {
            let found = version(server).restores(version(made_by));
            assert_eq!(found.is_ok(), fits, "{made_by} on {server}: {found:?}");
        }
    }
}
