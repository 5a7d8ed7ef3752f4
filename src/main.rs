//! The program, to come.

fn main() {}
