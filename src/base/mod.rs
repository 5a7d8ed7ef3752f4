//! Floor 0: no I/O beyond reading what it is given, and no imports of ours.

pub mod backoff;
pub mod clock;
pub mod env;
pub mod units;
