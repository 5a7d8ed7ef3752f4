//! rna-backup
fn main() {}
