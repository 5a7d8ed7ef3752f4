//! Locks that the whole fleet sees.
