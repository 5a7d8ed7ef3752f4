//! The numbers of entries that came back without something, and the counts that a copy without it must have.

use crate::component::media::{
    attributes::UnsetAttributes, extended::Refused, fs_capabilities::FsCapabilities,
};
use crate::domain::{
    facts::{AttributeCounts, Counts},
    metadata::{ChangedMetadata, MetadataCounts},
    progress::Meter,
};
use crate::stream::tar::AttributeKind;
use rustix::process::geteuid;

/// The numbers of entries that came back without an attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MissingAttributes {
    /// Entries without their owner.
    owner: u64,
    /// Entries without a setuid, setgid or sticky bit.
    bits: u64,
    /// Entries without their time of modification, which the file system cannot hold.
    times: u64,
    /// Attributes that the file system does not hold.
    unsupported: AttributeCounts,
    /// Attributes that this process may not set.
    denied: AttributeCounts,
    /// Attributes of either sort, of any entry.
    refused: Refused,
    changed: ChangedMetadata,
}

impl MissingAttributes {
    pub(super) fn note(&mut self, unset: UnsetAttributes) {
        let Refused { unsupported, denied } = unset.extended;
        self.owner += u64::from(unset.owner);
        self.bits += u64::from(unset.bits);
        self.times += u64::from(unset.time);
        unsupported.count(&mut self.unsupported);
        denied.count(&mut self.denied);
        self.refused.unsupported.0 |= unsupported.0;
        self.refused.denied.0 |= denied.0;
        if let Some([told, kept]) = unset.kept {
            self.changed.add(told, kept);
        }
    }

    /// Notes the files of which the holes are none in the copy.
    pub(super) const fn note_holes(&mut self, files: u64) {
        self.unsupported.sparse = files;
    }

    /// The kinds of attributes that some entry could not be given.
    pub(super) fn unset(&self) -> UnsetAttributes {
        let (owner, bits, time) = (self.owner > 0, self.bits > 0, self.times > 0);
        UnsetAttributes { owner, bits, time, extended: self.refused, kept: None }
    }

    /// Warns of all that could not be brought back, with numbers.
    pub(super) fn warn(&self, capabilities: FsCapabilities, meter: &Meter) {
        let user = format!("user {}, who runs this", geteuid().as_raw());
        // Of a file system that gives nothing to others, all entries are told of.
        if self.owner > 0 && capabilities.owners {
            let owner = self.owner;
            meter
                .warn(format!("{owner} files, folders and links belong to {user}, and not to their owners."));
        }
        if self.bits > 0 && capabilities.modes {
            let bits = self.bits;
            meter.warn(format!("{bits} files and folders came back without a setuid, setgid or sticky bit."));
        }
        if self.times > 0 && capabilities.times {
            let times = self.times;
            meter.warn(format!(
                "{times} files and folders have another time: the file system cannot hold theirs."
            ));
        }
        for (counts, why) in [
            (self.unsupported, "the file system cannot hold them".to_owned()),
            (self.denied, format!("{user}, may not set them")),
        ] {
            let words = counts.describe();
            if !words.is_empty() {
                meter.warn(format!("Of the files and folders, these came back without: {words}: {why}."));
            }
        }
    }

    /// The counts of a copy of what is promised, without what could not be brought back.
    pub(super) fn expected(&self, promised: Counts, capabilities: FsCapabilities) -> Counts {
        let attributes = promised.attributes.map(|mut counts| {
            for missing in [self.unsupported, self.denied] {
                for kind in AttributeKind::ALL {
                    let count = kind.count_in(&mut counts);
                    *count = count.saturating_sub(*kind.count_in(&mut { missing }));
                }
            }
            counts
        });
        let metadata = promised.metadata.map(|counts| {
            let MetadataCounts { owners, modes, times } = counts.with(&self.changed);
            MetadataCounts {
                owners: owners.filter(|_| capabilities.owners && self.owner == 0),
                modes: modes.filter(|_| capabilities.modes),
                times: times.filter(|_| capabilities.times),
            }
        });
        Counts { attributes, metadata, ..promised }
    }
}
