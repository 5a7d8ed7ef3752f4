//! TCP ports for servers of tests.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that is free, and stays so until a server takes it: the kernel gives none of these to connections, and no other
/// caller in this process gets it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    // Two processes that test at the same time begin at places of their own.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        AtomicU16::new(
            (std::process::id() * 701 % u32::from(COUNT)).try_into().expect("it is less than COUNT"),
        )
    });
    let mut ports = std::iter::repeat_with(|| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("the iterator has no end")
}
