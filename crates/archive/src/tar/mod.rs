//! The tar format, written and read as a stream, whoever's files are in it.
//!
//! Headers are `async-tar`'s; its reader and writer cost more for a small file than all else together.

mod acl;
mod attribute;
mod blocking;
mod dumpdir;
mod entry;
mod fields;
mod join;
mod members;
mod pax;
mod read;
mod reference;
mod sparse;
mod write;

pub use acl::Acl;
pub use attribute::{AttributeKind, AttributeKinds, ExtendedAttributes};
pub use blocking::{BlockingFeed, run_blocking};
pub use entry::{DUMPDIR, Entry};
pub use join::join;
pub use read::{Visit, decode, walk};
pub use reference::Reference;
pub use sparse::Segment;
pub use write::{Chunk, ConsumerGone, TarWriter};
